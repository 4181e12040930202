//! Whether the role may read what a snapshot needs.

use sqlx::postgres::PgConnection;

use super::PostgresError;
use super::session::{column, rows};

/// What the role may not do, beyond the locks on tables, which are tried for real.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissingRights {
    /// Tables of which row security hides rows from the role; pg_dump refuses those.
    pub filtered_tables: Vec<String>,
    /// Sequences whose state the role may not read.
    pub closed_sequences: Vec<String>,
    /// Schemas that the role may not look into.
    pub closed_schemas: Vec<String>,
    /// Roles come without their passwords.
    pub role_passwords: bool,
    /// The cluster's own identifier, which tells it from its copies.
    pub system_identifier: bool,
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
        role_passwords: !may("roles")?.unwrap_or_default(),
        system_identifier: !may("identifier")?.unwrap_or_default(),
    })
}
