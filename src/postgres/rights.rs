//! Whether the role may read what a snapshot needs.

use sqlx::postgres::PgConnection;

use super::PostgresError;
use super::session::{column, rows, server_version_num};

/// What the role may not do, beyond the locks on tables, which are tried for real.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissingRights {
    /// Tables of which row security hides rows from the role; pg_dump refuses those.
    pub filtered_tables: Vec<String>,
    /// Sequences whose state the role may not read.
    pub closed_sequences: Vec<String>,
    /// Schemas that the role may not look into.
    pub closed_schemas: Vec<String>,
    /// Large objects that the role may not read.
    pub closed_large_objects: Option<ClosedLargeObjects>,
    /// What pg_dump leaves out without an error.
    pub left_out: LeftOut,
    /// Roles come without their passwords.
    pub role_passwords: bool,
    /// The cluster's own identifier, which tells it from its copies.
    pub system_identifier: bool,
}

/// Large objects, of which there may be very many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedLargeObjects {
    /// How many.
    pub count: u64,
    /// The OID of one of them.
    pub first: u32,
}

/// What pg_dump leaves out without an error, since only a superuser may read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Subscriptions of the database.
    pub subscriptions: Vec<String>,
    /// User mappings, as `role for server name`, that come without their options.
    pub user_mappings: Vec<String>,
}

impl LeftOut {
    /// Each kind as a sentence about snapshots.
    pub fn sentences(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.subscriptions.is_empty() {
            let names = self.subscriptions.join(", ");
            all.push(format!("subscriptions are left out, since the role is no superuser: {names}"));
        }
        if !self.user_mappings.is_empty() {
            let names = self.user_mappings.join(", ");
            all.push(format!("user mappings are without their options, which the role may not see: {names}"));
        }
        all
    }
}

/// The names that `sql` finds; it has a column `name`.
async fn names(session: &mut PgConnection, sql: String) -> Result<Vec<String>, PostgresError> {
    rows(session, "read the role's rights", sql).await?.iter().map(|row| column(row, "name")).collect()
}

/// Asks the catalogs what the session's role may not do in its database.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn missing_rights(session: &mut PgConnection) -> Result<MissingRights, PostgresError> {
    let own = "n.nspname !~ '^pg_(toast|temp)' AND n.nspname NOT IN ('pg_catalog', 'information_schema')";
    let relations = "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
    let of_relations = |condition: &str| {
        format!(
            "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM {relations} WHERE {own} AND {condition} ORDER BY 1"
        )
    };
    // CASE, since the planner may ask about a sequence's rights first, which fails on other kinds.
    let filtered = of_relations(
        "c.relpersistence <> 't' AND CASE WHEN c.relkind IN ('r', 'p') THEN pg_catalog.row_security_active(c.oid) END",
    );
    let sequences = of_relations(
        "c.relpersistence <> 't' AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'select') END",
    );
    let schemas = format!(
        "SELECT quote_ident(n.nspname) AS name FROM pg_catalog.pg_namespace n \
         WHERE {own} AND NOT has_schema_privilege(n.oid, 'usage') ORDER BY 1"
    );
    let cluster = "SELECT has_table_privilege('pg_catalog.pg_authid', 'select') AS roles, \
        has_function_privilege('pg_catalog.pg_control_system()', 'execute') AS identifier";
    let found = rows(session, "read the role's rights", cluster).await?;
    let may = |name: &str| found.first().map(|row| column::<bool>(row, name)).transpose();
    Ok(MissingRights {
        filtered_tables: names(session, filtered).await?,
        closed_sequences: names(session, sequences).await?,
        closed_schemas: names(session, schemas).await?,
        closed_large_objects: closed_large_objects(session).await?,
        left_out: left_out(session).await?,
        role_passwords: !may("roles")?.unwrap_or_default(),
        system_identifier: !may("identifier")?.unwrap_or_default(),
    })
}

const IS_SUPERUSER: &str = "(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)";

/// As the server decides when one is opened; `lo_compat_privileges` lets everybody.
const MAY_READ_LARGE_OBJECT: &str = "pg_catalog.pg_has_role(m.lomowner, 'USAGE') \
    OR EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' \
        AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))";
/// What asks the server itself is there from here on.
const ASKS_FOR_LARGE_OBJECTS_SINCE: u32 = 180_000;

async fn closed_large_objects(
    session: &mut PgConnection,
) -> Result<Option<ClosedLargeObjects>, PostgresError> {
    let may_read = match server_version_num(session).await? {
        ASKS_FOR_LARGE_OBJECTS_SINCE.. => "has_largeobject_privilege(m.oid, 'SELECT')",
        _ => MAY_READ_LARGE_OBJECT,
    };
    let sql = format!(
        "SELECT count(*) AS count, coalesce(min(m.oid::bigint), 0) AS first \
         FROM pg_catalog.pg_largeobject_metadata m WHERE NOT ({IS_SUPERUSER} OR {may_read} \
             OR current_setting('lo_compat_privileges')::bool)"
    );
    let found = rows(session, "read the role's rights", sql).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let count = u64::try_from(column::<i64>(row, "count")?).unwrap_or_default();
    let first = u32::try_from(column::<i64>(row, "first")?).unwrap_or_default();
    Ok((count > 0).then_some(ClosedLargeObjects { count, first }))
}

/// Asks the catalogs what pg_dump leaves out without an error when the session's role runs it.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn left_out(session: &mut PgConnection) -> Result<LeftOut, PostgresError> {
    let subscriptions = format!(
        "SELECT quote_ident(s.subname) AS name FROM pg_catalog.pg_subscription s \
         JOIN pg_catalog.pg_database d ON d.oid = s.subdbid \
         WHERE d.datname = current_database() AND NOT {IS_SUPERUSER} ORDER BY 1"
    );
    let readable = "SELECT has_table_privilege('pg_catalog.pg_user_mapping', 'select') AS readable";
    let found = rows(session, "read the role's rights", readable).await?;
    // Where the options themselves may not be looked at, there may be some.
    let has_options = match found.first().map(|row| column(row, "readable")).transpose()? {
        Some(true) => {
            "EXISTS (SELECT FROM pg_catalog.pg_user_mapping u WHERE u.oid = m.umid AND u.umoptions IS NOT NULL)"
        }
        _ => "true",
    };
    // What pg_dump reads is the view pg_user_mappings; this is its condition.
    let user_mappings = format!(
        "SELECT format('%s for server %I', CASE m.umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(m.usename) END, m.srvname) AS name \
         FROM pg_catalog.pg_user_mappings m JOIN pg_catalog.pg_foreign_server s ON s.oid = m.srvid \
         WHERE m.umoptions IS NULL AND {has_options} AND NOT ({IS_SUPERUSER} \
             OR (m.umuser = 0 AND pg_catalog.pg_has_role(s.srvowner, 'USAGE')) \
             OR (m.usename = current_user AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE') \
                 OR has_server_privilege(s.oid, 'USAGE')))) ORDER BY 1"
    );
    Ok(LeftOut {
        subscriptions: names(session, subscriptions).await?,
        user_mappings: names(session, user_mappings).await?,
    })
}
