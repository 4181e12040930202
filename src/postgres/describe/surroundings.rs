//! What surrounds a database's contents: its own properties, and the roles of its cluster.
//!
//! Goes out as names with a digest of each value: settings may hold secrets, and to see that one
//! changed its value need not be known.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;

use crate::postgres::PostgresError;
use crate::postgres::session::{column, rows};
use crate::rules::digest::Digest256;
use crate::rules::manifest::DatabaseProperties;

/// What a thing is called, and a digest of what it is.
pub type Digests = BTreeMap<String, String>;

/// What a swap gives to the database that takes the name, but for who may connect.
pub fn property_digests(properties: &DatabaseProperties) -> Digests {
    let mut digests = Digests::new();
    let mut note = |what: String, value: &str| {
        let before = digests.remove(&what).unwrap_or_default();
        digests.insert(what, digest_of(&format!("{before}\n{value}")));
    };
    note("the owner".into(), &properties.owner);
    note("the connection limit".into(), &properties.connection_limit.to_string());
    note("the tablespace".into(), &properties.tablespace);
    note("whether it is a template".into(), &properties.is_template.to_string());
    note("the comment".into(), &format!("{:?}", properties.comment));
    note("the rights".into(), &format!("{:?}", properties.acl));
    for (provider, label) in &properties.security_labels {
        note(format!("the label of {provider}"), label);
    }
    for (role, setting) in &properties.settings {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        let of = role.as_ref().map(|role| format!(" of role {role}")).unwrap_or_default();
        note(format!("setting {name}{of}"), value);
    }
    digests
}

/// The roles of the cluster, their memberships, and settings that hold in every database; no
/// passwords.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn role_digests(session: &mut PgConnection) -> Result<Digests, PostgresError> {
    let sql = "SELECT 'role ' || rolname AS what, \
            (to_jsonb(r) - 'oid' - 'rolpassword' - 'rolconfig')::text AS value FROM pg_catalog.pg_roles r \
        UNION ALL SELECT format('membership of role %s in %s', m.rolname, g.rolname), \
            string_agg((to_jsonb(a) - 'oid')::text, ',' ORDER BY (to_jsonb(a) - 'oid')::text) \
        FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles m ON m.oid = a.member \
        JOIN pg_catalog.pg_roles g ON g.oid = a.roleid GROUP BY 1 \
        UNION ALL SELECT 'setting ' || split_part(c.setting, '=', 1) || coalesce(' of role ' || r.rolname, ' of every role'), c.setting \
        FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, \
        LATERAL unnest(s.setconfig) c(setting) WHERE s.setdatabase = 0";
    let found = rows(session, "read the cluster's roles", sql).await?;
    let digest = |row| Ok((column(row, "what")?, digest_of(column::<&str>(row, "value")?)));
    found.iter().map(digest).collect()
}

/// What differs between two, each as a sentence.
pub fn differences(before: &Digests, after: &Digests) -> Vec<String> {
    let gone = before.keys().filter(|what| !after.contains_key(*what)).map(|what| format!("{what} is gone"));
    let other = after.iter().filter_map(|(what, digest)| match before.get(what) {
        None => Some(format!("{what} is new")),
        Some(was) if was != digest => Some(format!("{what} is another")),
        Some(_) => None,
    });
    gone.chain(other).collect()
}

fn digest_of(text: &str) -> String {
    Digest256::blake3(text.as_bytes()).to_string()
}
