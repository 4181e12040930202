//! What migration tools write down about a database: the rows of their version tables.

use sqlx::postgres::PgConnection;

use super::OWN_SCHEMAS;
use crate::postgres::PostgresError;
use crate::postgres::session::{column, rows};
use crate::rules::sql::{literal, qualified, quoted};
use crate::rules::table_name::TableName;

/// A version table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionTable {
    /// Its schema.
    pub schema: String,
    /// Its rows, sorted.
    pub revisions: Vec<String>,
}

/// Reads the Alembic revisions of the database, from every table `alembic_version`, sorted.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn revisions(session: &mut PgConnection) -> Result<Vec<String>, PostgresError> {
    let table = TableName { schema: None, name: "alembic_version".into() };
    let tables = version_tables(session, &table, "version_num").await?;
    let mut found: Vec<String> = tables.into_iter().flat_map(|table| table.revisions).collect();
    found.sort();
    // Tables of several schemas may stand at the same revision.
    found.dedup();
    Ok(found)
}

/// Reads what a migration tool keeps in `column` of `table`; without a schema, of every table of
/// that name, by schema.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn version_tables(
    session: &mut PgConnection,
    table: &TableName,
    version_column: &str,
) -> Result<Vec<VersionTable>, PostgresError> {
    let of_schema =
        table.schema.as_deref().map_or("true".into(), |schema| format!("n.nspname = {}", literal(schema)));
    let sql = format!(
        "SELECT n.nspname::text AS schema FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = {} AND NOT a.attisdropped \
         WHERE c.relkind = 'r' AND c.relname = {} AND {of_schema} AND {OWN_SCHEMAS} ORDER BY 1",
        literal(version_column),
        literal(&table.name)
    );
    let mut found = Vec::new();
    for row in rows(session, "look for a version table", sql).await? {
        let schema: String = column(&row, "schema")?;
        let (of, version) = (qualified(&schema, &table.name), quoted(version_column));
        let sql = format!("SELECT {version}::text AS version FROM {of} WHERE {version} IS NOT NULL");
        let read = rows(session, "read the revisions", sql).await?;
        let mut revisions: Vec<String> =
            read.iter().map(|row| column(row, "version")).collect::<Result<_, _>>()?;
        revisions.sort();
        found.push(VersionTable { schema, revisions });
    }
    Ok(found)
}
