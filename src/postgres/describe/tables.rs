//! Tables with data: what they are made of, and how their rows are read and written.

use sqlx::postgres::{PgConnection, PgRow};

use super::{OWN_SCHEMAS, unsigned};
use crate::postgres::PostgresError;
use crate::postgres::session::{column, rows};
use crate::rules::manifest::PartitionRoot;
use crate::rules::sql::{qualified, quoted};

/// A table with data, as the catalogs describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Both, quoted, in the database's own encoding: what pg_dump takes as a pattern.
    pub pattern: Vec<u8>,
    /// Columns that COPY writes, in order: its own, or that of `loaded_through`.
    pub columns: Vec<String>,
    /// Their types as a column definition writes them, with collations that are not the types' own.
    pub types: Vec<String>,
    /// Pages of its main fork.
    pub heap_pages: u64,
    /// Bytes of its rows and of their TOAST, without maps: those come and go with VACUUM.
    pub disk_bytes: u64,
    /// For an extension's configuration table, which rows are dumped (`WHERE …` or empty).
    pub condition: Option<String>,
    /// The table that its rows are loaded through, if not itself.
    pub loaded_through: Option<PartitionRoot>,
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

    /// Whether its rows go into chunks, given that tables of `large_table_bytes` do.
    ///
    /// Those that are loaded through another table always do: what pg_dump writes of them depends
    /// on its version, and names another table than theirs.
    pub fn is_chunked(&self, large_table_bytes: u64) -> bool {
        let is_large = self.layout == TableLayout::Heap && self.disk_bytes >= large_table_bytes;
        self.condition.is_none() && (is_large || self.loaded_through.is_some())
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

/// Whether a table above `c` is partitioned by the hash of what an OID is part of.
///
/// pg_dump's own rule (`getPartitioningInfo` in pg_dump.c) knows `enum_ops` alone; what may hold an
/// enum, or stands for an object, is no safer.
const HASHES_OIDS: &str = "EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) above \
    JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = above.relid \
    JOIN pg_catalog.pg_opclass o ON o.oid = ANY (p.partclass) JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod \
    WHERE m.amname = 'hash' AND o.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace \
      AND o.opcname IN ('enum_ops', 'array_ops', 'record_ops', 'range_ops', 'multirange_ops', 'oid_ops'))";

/// The columns of `c`, in the order of `root` if there is one.
const COLUMNS: &str = "SELECT coalesce(array_agg(a.attname::text ORDER BY l.place), '{}') AS names, \
        coalesce(array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) || l.collation ORDER BY l.place), '{}') AS types \
    FROM pg_catalog.pg_attribute a, LATERAL (SELECT \
        coalesce((SELECT r.attnum FROM pg_catalog.pg_attribute r WHERE r.attrelid = root.oid AND r.attname = a.attname), a.attnum) AS place, \
        coalesce((SELECT format(' COLLATE %I.%I', cn.nspname, co.collname) FROM pg_catalog.pg_collation co \
             JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace JOIN pg_catalog.pg_type ty ON ty.oid = a.atttypid \
             WHERE co.oid = a.attcollation AND a.attcollation <> ty.typcollation), '') AS collation) l \
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''";

/// Lists every table whose rows pg_dump writes.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn tables(session: &mut PgConnection) -> Result<Vec<Table>, PostgresError> {
    let sql = format!(
        "SELECT n.nspname::text AS schema, c.relname::text AS name, am.amname = 'heap' AS is_heap, columns.names, columns.types, \
            pg_catalog.convert_to(format('\"%s\".\"%s\"', replace(n.nspname, '\"', '\"\"'), replace(c.relname, '\"', '\"\"')), \
                pg_catalog.getdatabaseencoding()) AS pattern, \
            rn.nspname::text AS root_schema, root.relname::text AS root_name, \
            pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int AS heap_pages, \
            pg_catalog.pg_relation_size(c.oid) + CASE WHEN c.reltoastrelid = 0 THEN 0 \
                ELSE pg_catalog.pg_relation_size(c.reltoastrelid) END AS disk_bytes, \
            CASE WHEN e.oid IS NULL THEN NULL ELSE e.extcondition[array_position(e.extconfig, c.oid)] END AS condition \
         FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam \
         LEFT JOIN pg_catalog.pg_class root ON c.relispartition AND {HASHES_OIDS} AND root.oid = pg_catalog.pg_partition_root(c.oid) \
         LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = root.relnamespace \
         CROSS JOIN LATERAL ({COLUMNS}) columns \
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
    let (schema, name) = (column(row, "root_schema")?, column::<Option<String>>(row, "root_name")?);
    let schema: Option<String> = schema;
    let is_divisible = is_heap == Some(true) && condition.is_none();
    Ok(Table {
        schema: column(row, "schema")?,
        name: column(row, "name")?,
        pattern: column(row, "pattern")?,
        columns: column(row, "names")?,
        types: column(row, "types")?,
        heap_pages: unsigned(column(row, "heap_pages")?),
        disk_bytes: unsigned(column(row, "disk_bytes")?),
        condition,
        loaded_through: schema.zip(name).map(|(schema, name)| PartitionRoot { schema, name }),
        layout: if is_divisible { TableLayout::Heap } else { TableLayout::Whole },
    })
}
