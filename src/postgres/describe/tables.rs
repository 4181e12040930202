//! Tables with data: what they are made of, and how their rows are read and written.

use sqlx::postgres::{PgConnection, PgRow};

use super::{OWN_SCHEMAS, unsigned};
use crate::postgres::PostgresError;
use crate::postgres::session::{column, rows};
use crate::rules::sql::{qualified, quoted};

/// A table with data, as the catalogs describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Columns that COPY writes, in order.
    pub columns: Vec<String>,
    /// Their types as a column definition writes them, with collations that are not the types' own.
    pub types: Vec<String>,
    /// Pages of its main fork.
    pub heap_pages: u64,
    /// Bytes of its rows and of their TOAST, without maps: those come and go with VACUUM.
    pub disk_bytes: u64,
    /// For an extension's configuration table, which rows are dumped (`WHERE …` or empty).
    pub condition: Option<String>,
    /// Whether ctid ranges may divide it: an ordinary heap, no member of an extension.
    pub layout: TableLayout,
}

/// How a table's rows may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableLayout {
    /// Ordinary heap: ranges of pages are meaningful.
    Heap,
    /// Anything else: only whole.
    Whole,
}

impl Table {
    /// `"schema"."name"`
    pub fn qualified(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    /// The SELECT that reads its rows as COPY should write them, without a range.
    pub fn select(&self) -> String {
        select_rows(&self.schema, &self.name, &self.columns, self.condition.as_deref())
    }
}

/// The SELECT that reads the rows of one table, without those of its children.
pub fn select_rows(schema: &str, name: &str, columns: &[String], condition: Option<&str>) -> String {
    let columns: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
    format!(
        "SELECT {} FROM ONLY {} {}",
        columns.join(", "),
        qualified(schema, name),
        condition.unwrap_or_default()
    )
}

/// `COPY "schema"."name" (columns)`, or without the list for a table without columns.
pub fn copy_target(schema: &str, name: &str, columns: &[String]) -> String {
    let columns: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
    if columns.is_empty() {
        qualified(schema, name)
    } else {
        format!("{} ({})", qualified(schema, name), columns.join(", "))
    }
}

/// Lists every table whose rows pg_dump writes.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn tables(session: &mut PgConnection) -> Result<Vec<Table>, PostgresError> {
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.relname::text AS name, am.amname = 'heap' AS is_heap, \
            ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
                  AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum) AS columns, \
            ARRAY(SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) || coalesce(( \
                      SELECT format(' COLLATE %I.%I', cn.nspname, co.collname) FROM pg_catalog.pg_collation co \
                      JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace JOIN pg_catalog.pg_type ty ON ty.oid = a.atttypid \
                      WHERE co.oid = a.attcollation AND a.attcollation <> ty.typcollation), '') \
                  FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
                  AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum) AS types, \
            pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int AS heap_pages, \
            pg_catalog.pg_relation_size(c.oid) + CASE WHEN c.reltoastrelid = 0 THEN 0 \
                ELSE pg_catalog.pg_relation_size(c.reltoastrelid) END AS disk_bytes, \
            CASE WHEN e.oid IS NULL THEN NULL ELSE e.extcondition[array_position(e.extconfig, c.oid)] END AS condition \
         FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam \
         LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid \
              AND d.objsubid = 0 AND d.deptype = 'e' \
         LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid \
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {OWN_SCHEMAS} \
           AND (e.oid IS NULL OR c.oid = ANY (e.extconfig)) \
         ORDER BY 1, 2"
    );
    rows(session, "list tables", sql).await?.iter().map(table).collect()
}

fn table(row: &PgRow) -> Result<Table, PostgresError> {
    let condition: Option<String> = column(row, "condition")?;
    let is_heap: Option<bool> = column(row, "is_heap")?;
    let is_divisible = is_heap == Some(true) && condition.is_none();
    Ok(Table {
        schema: column(row, "schema")?,
        name: column(row, "name")?,
        columns: column(row, "columns")?,
        types: column(row, "types")?,
        heap_pages: unsigned(column(row, "heap_pages")?),
        disk_bytes: unsigned(column(row, "disk_bytes")?),
        condition,
        layout: if is_divisible { TableLayout::Heap } else { TableLayout::Whole },
    })
}
