//! Reads what a database holds from its catalogs: tables, sequences, structures, properties.
//!
//! Works on servers from 12 on. Within a snapshot every answer but that about sequences is of
//! that snapshot.

mod revisions;
mod surroundings;
mod tables;

use sqlx::postgres::{PgConnection, PgRow};

pub use self::revisions::{VersionTable, revisions, version_tables};
pub use self::surroundings::{Digests, differences, property_digests, role_digests};
pub use self::tables::{Table, TableLayout, copy_target, select_rows, tables};
use super::PostgresError;
use super::session::{column, rows};
use crate::rules::manifest::{DatabaseProperties, Extension, Grant, SequenceState};
use crate::rules::sql::{literal, qualified, quoted};

/// Schemas whose contents are no business of a dump.
const OWN_SCHEMAS: &str =
    "n.nspname !~ '^pg_(toast|temp)' AND n.nspname NOT IN ('pg_catalog', 'information_schema')";

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// A sequence and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its state at the moment of reading, whatever the snapshot.
    pub state: SequenceState,
}

/// Reads every sequence that pg_dump writes.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn sequences(session: &mut PgConnection) -> Result<Vec<Sequence>, PostgresError> {
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.relname::text AS name \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {OWN_SCHEMAS} AND NOT EXISTS ( \
             SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
             AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2"
    );
    let mut found = Vec::new();
    let listed = rows(session, "list sequences", sql).await?;
    for some in listed.chunks(200) {
        let mut selects = Vec::new();
        for row in some {
            let (schema, name): (String, String) = (column(row, "schema")?, column(row, "name")?);
            selects.push(format!(
                "SELECT {}::text AS schema, {}::text AS name, last_value, is_called FROM {}",
                literal(&schema),
                literal(&name),
                qualified(&schema, &name)
            ));
        }
        for row in rows(session, "read sequences", selects.join(" UNION ALL ")).await? {
            let state = SequenceState {
                last_value: column(&row, "last_value")?,
                is_called: column(&row, "is_called")?,
            };
            found.push(Sequence { schema: column(&row, "schema")?, name: column(&row, "name")?, state });
        }
    }
    found.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    Ok(found)
}

/// Lists indexes and constraints by name and validity, those of extensions left out.
///
/// NOT NULL constraints are columns' business and have names only from 18 on: left out too. So are
/// the copies of a foreign key that partitions on either side have, whose names differ from 18 on.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn structures(session: &mut PgConnection) -> Result<Vec<String>, PostgresError> {
    let sql = format!(
        "SELECT format('index %I.%I', n.nspname, c.relname) || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END AS structure \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE {OWN_SCHEMAS} AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e' \
             AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid IN (i.indexrelid, i.indrelid)) \
         UNION ALL \
         SELECT format('constraint %I.%I %I', n.nspname, t.relname, k.conname) || CASE WHEN k.convalidated THEN '' ELSE ' (not valid)' END \
         FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class t ON t.oid = k.conrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
         WHERE {OWN_SCHEMAS} AND k.contype IN ('p', 'u', 'f', 'c', 'x') AND (k.contype <> 'f' OR k.conparentid = 0) AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
             WHERE d.deptype = 'e' AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = t.oid) \
         ORDER BY 1"
    );
    rows(session, "list indexes and constraints", sql)
        .await?
        .iter()
        .map(|row| column(row, "structure"))
        .collect()
}

/// Lists the extensions of the database.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn extensions(session: &mut PgConnection) -> Result<Vec<Extension>, PostgresError> {
    let sql = "SELECT e.extname::text AS name, e.extversion AS version, n.nspname::text AS schema \
        FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY 1";
    let read = |row: &PgRow| {
        Ok(Extension {
            name: column(row, "name")?,
            version: column(row, "version")?,
            schema: column(row, "schema")?,
        })
    };
    rows(session, "list extensions", sql).await?.iter().map(read).collect()
}

/// Lists the roles that the database and what is in it name: owners, grantees, settings.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn roles(session: &mut PgConnection) -> Result<Vec<String>, PostgresError> {
    // The bootstrap superuser (OID 10) is pinned and never stands in pg_shdepend.
    let sql = "SELECT r.rolname::text AS name FROM pg_catalog.pg_roles r WHERE r.oid = 10 OR r.oid IN ( \
            SELECT s.refobjid FROM pg_catalog.pg_shdepend s, pg_catalog.pg_database d \
            WHERE d.datname = current_database() AND s.refclassid = 'pg_catalog.pg_authid'::regclass \
              AND (s.dbid = d.oid OR (s.classid = 'pg_catalog.pg_database'::regclass AND s.objid = d.oid)) \
            UNION SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = current_database() \
            UNION SELECT x.setrole FROM pg_catalog.pg_db_role_setting x, pg_catalog.pg_database d \
            WHERE d.datname = current_database() AND x.setdatabase = d.oid) ORDER BY 1";
    rows(session, "list roles", sql).await?.iter().map(|row| column(row, "name")).collect()
}

/// The name of the cluster's bootstrap superuser.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn bootstrap_superuser(session: &mut PgConnection) -> Result<String, PostgresError> {
    let sql = "SELECT rolname::text AS name FROM pg_catalog.pg_roles WHERE oid = 10";
    let found = rows(session, "read the bootstrap superuser", sql).await?;
    found.first().map_or(Ok("postgres".into()), |row| column(row, "name"))
}

/// Lists the tablespaces that the database and what is in it lie in, the default ones left out.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn tablespaces(session: &mut PgConnection) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT s.spcname::text AS name FROM pg_catalog.pg_tablespace s WHERE s.spcname !~ '^pg_' AND s.oid IN ( \
            SELECT reltablespace FROM pg_catalog.pg_class UNION \
            SELECT dattablespace FROM pg_catalog.pg_database WHERE datname = current_database()) ORDER BY 1";
    rows(session, "list tablespaces", sql).await?.iter().map(|row| column(row, "name")).collect()
}

/// Reads the tables whose statistics are not only of their own columns, but of expressions in an index
/// or of several columns together.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn tables_with_more_statistics(
    session: &mut PgConnection,
) -> Result<Vec<(String, String)>, PostgresError> {
    let sql = "SELECT n.nspname::text AS schema, c.relname::text AS name \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.oid IN (SELECT indrelid FROM pg_catalog.pg_index WHERE indexprs IS NOT NULL \
                        UNION ALL SELECT stxrelid FROM pg_catalog.pg_statistic_ext)";
    let listed = rows(session, "list tables with more statistics", sql).await?;
    listed.iter().map(|row| Ok((column(row, "schema")?, column(row, "name")?))).collect()
}

/// Lists the unlogged tables by schema and name.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn unlogged_tables(session: &mut PgConnection) -> Result<Vec<(String, String)>, PostgresError> {
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND {OWN_SCHEMAS} ORDER BY 1, 2"
    );
    let read = |row: &PgRow| Ok((column(row, "schema")?, column(row, "name")?));
    rows(session, "list unlogged tables", sql).await?.iter().map(read).collect()
}

/// The encoding of the session's database.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn encoding(session: &mut PgConnection) -> Result<String, PostgresError> {
    let sql = "SELECT pg_catalog.current_setting('server_encoding') AS encoding";
    let found = rows(session, "read the database's encoding", sql).await?;
    found.first().map_or(Ok("UTF8".into()), |row| column(row, "encoding"))
}

/// The OID of the session's database and the identifier of its cluster.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn identity(session: &mut PgConnection) -> Result<(u32, Option<String>), PostgresError> {
    let sql = "SELECT oid::bigint AS oid, has_function_privilege('pg_catalog.pg_control_system()', 'execute') AS readable \
        FROM pg_catalog.pg_database WHERE datname = current_database()";
    let found = rows(session, "read the database's identity", sql).await?;
    let Some(row) = found.first() else {
        return Err(PostgresError::of_query("read the database's identity", sqlx::Error::RowNotFound));
    };
    let oid: i64 = column(row, "oid")?;
    let mut system_identifier = None;
    if column::<bool>(row, "readable")? {
        let sql = "SELECT system_identifier::text AS id FROM pg_catalog.pg_control_system()";
        system_identifier = rows(session, "read the cluster's identity", sql)
            .await?
            .first()
            .map(|row| column(row, "id"))
            .transpose()?;
    }
    Ok((u32::try_from(oid).unwrap_or_default(), system_identifier))
}

/// Reads what must be made anew with a restored database.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn properties(
    session: &mut PgConnection,
    version_num: u32,
) -> Result<DatabaseProperties, PostgresError> {
    let provider = match version_num {
        150_000.. => "CASE d.datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END",
        _ => "'libc'::text",
    };
    let locale = match version_num {
        170_000.. => "d.datlocale::text",
        150_000.. => "d.daticulocale::text",
        _ => "NULL::text",
    };
    let icu_rules = if version_num >= 160_000 { "d.daticurules::text" } else { "NULL::text" };
    let sql = format!(
        "SELECT pg_catalog.pg_get_userbyid(d.datdba)::text AS owner, pg_catalog.pg_encoding_to_char(d.encoding)::text AS encoding, \
            {provider} AS provider, d.datcollate::text AS \"collate\", d.datctype::text AS ctype, {locale} AS locale, \
            {icu_rules} AS icu_rules, t.spcname::text AS tablespace, d.datconnlimit, d.datistemplate, d.datallowconn, \
            d.datacl IS NOT NULL AS has_acl, pg_catalog.shobj_description(d.oid, 'pg_database') AS comment, \
            pg_catalog.pg_database_size(d.oid) AS disk_bytes \
         FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace \
         WHERE d.datname = current_database()"
    );
    let found = rows(session, "read the database's properties", sql).await?;
    let Some(row) = found.first() else {
        return Err(PostgresError::of_query("read the database's properties", sqlx::Error::RowNotFound));
    };
    Ok(DatabaseProperties {
        owner: column(row, "owner")?,
        encoding: column(row, "encoding")?,
        locale_provider: column(row, "provider")?,
        collate: column(row, "collate")?,
        ctype: column(row, "ctype")?,
        locale: column(row, "locale")?,
        icu_rules: column(row, "icu_rules")?,
        tablespace: column(row, "tablespace")?,
        connection_limit: column(row, "datconnlimit")?,
        is_template: column(row, "datistemplate")?,
        allows_connections: column(row, "datallowconn")?,
        acl: if column(row, "has_acl")? { Some(grants(session).await?) } else { None },
        comment: column(row, "comment")?,
        disk_bytes: unsigned(column(row, "disk_bytes")?),
        security_labels: security_labels(session).await?,
        settings: settings(session).await?,
    })
}

async fn grants(session: &mut PgConnection) -> Result<Vec<Grant>, PostgresError> {
    let sql = "SELECT r.rolname::text AS grantee, a.privilege_type AS privilege, a.is_grantable \
        FROM pg_catalog.pg_database d, LATERAL pg_catalog.aclexplode(d.datacl) a \
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee WHERE d.datname = current_database() ORDER BY 1 NULLS FIRST, 2";
    let read = |row: &PgRow| {
        Ok(Grant {
            grantee: column(row, "grantee")?,
            privilege: column(row, "privilege")?,
            is_grantable: column(row, "is_grantable")?,
        })
    };
    rows(session, "read the database's rights", sql).await?.iter().map(read).collect()
}

async fn security_labels(session: &mut PgConnection) -> Result<Vec<(String, String)>, PostgresError> {
    let sql = "SELECT l.provider, l.label FROM pg_catalog.pg_shseclabel l JOIN pg_catalog.pg_database d ON d.oid = l.objoid \
        WHERE l.classoid = 'pg_catalog.pg_database'::regclass AND d.datname = current_database() ORDER BY 1";
    let read = |row: &PgRow| Ok((column(row, "provider")?, column(row, "label")?));
    rows(session, "read security labels", sql).await?.iter().map(read).collect()
}

async fn settings(session: &mut PgConnection) -> Result<Vec<(Option<String>, String)>, PostgresError> {
    let sql = "SELECT r.rolname::text AS role, c.setting FROM pg_catalog.pg_db_role_setting s \
        JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, \
        LATERAL unnest(s.setconfig) WITH ORDINALITY c(setting, ordinal) \
        WHERE d.datname = current_database() ORDER BY 1 NULLS FIRST, c.ordinal";
    let read = |row: &PgRow| Ok((column(row, "role")?, column(row, "setting")?));
    rows(session, "read the database's settings", sql).await?.iter().map(read).collect()
}

/// The SELECT whose rows stand for the contents of every large object, in pieces of 64 MiB;
/// `None` when the role may not read `pg_largeobject`.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn select_large_objects(session: &mut PgConnection) -> Result<Option<String>, PostgresError> {
    let sql = "SELECT has_table_privilege('pg_catalog.pg_largeobject', 'select') AS readable";
    let found = rows(session, "look for large objects", sql).await?;
    let is_readable: bool = found.first().map(|row| column(row, "readable")).transpose()?.unwrap_or_default();
    Ok(is_readable.then(|| {
        // A page holds 2048 bytes; pages that were never written read as zeros and are restored as such.
        "SELECT m.oid, i, pg_catalog.sha256(pg_catalog.lo_get(m.oid, i * 67108864, 67108864)) \
         FROM pg_catalog.pg_largeobject_metadata m, \
              LATERAL (SELECT coalesce(max(pageno), 0) AS last_page FROM pg_catalog.pg_largeobject l WHERE l.loid = m.oid) p, \
              LATERAL generate_series(0::bigint, p.last_page / 32768) i"
            .into()
    }))
}

/// Lists every role of the cluster.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn all_roles(session: &mut PgConnection) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT rolname::text AS name FROM pg_catalog.pg_roles ORDER BY 1";
    rows(session, "list roles", sql).await?.iter().map(|row| column(row, "name")).collect()
}

/// The OID of the database called `name`.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn database_oid(session: &mut PgConnection, name: &str) -> Result<Option<u32>, PostgresError> {
    let sql =
        format!("SELECT oid::bigint AS oid FROM pg_catalog.pg_database WHERE datname = {}", literal(name));
    let found = rows(session, "look for a database", sql).await?;
    let oid: Option<i64> = found.first().map(|row| column(row, "oid")).transpose()?;
    Ok(oid.and_then(|oid| u32::try_from(oid).ok()))
}

/// The name of the database with this OID.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn database_name(session: &mut PgConnection, oid: u32) -> Result<Option<String>, PostgresError> {
    let sql = format!("SELECT datname::text AS name FROM pg_catalog.pg_database WHERE oid = {oid}");
    rows(session, "look for a database", sql).await?.first().map(|row| column(row, "name")).transpose()
}

/// Drops a database, ending its sessions.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn drop_database(session: &mut PgConnection, name: &str) -> Result<(), PostgresError> {
    let refuse = format!("ALTER DATABASE {} IS_TEMPLATE false ALLOW_CONNECTIONS false", quoted(name));
    super::session::run(session, "keep sessions out", refuse).await?;
    let end = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = {}",
        literal(name)
    );
    rows(session, "end the sessions of the database", end).await?;
    super::session::run(session, "drop the database", format!("DROP DATABASE {}", quoted(name))).await
}
