//! Restores single tables into a schema of an existing database: their columns and their rows.
//!
//! Comes in: a snapshot, names of tables, a database. Goes out: tables that nobody saw before all
//! of them were compared with the inventory. What exists is never touched; constraints, defaults,
//! indexes and generated columns are not made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::{Means, table_rows};
use crate::catalog::Entry;
use crate::jobs::load::Source;
use crate::jobs::{JobError, Stopwatch, WorkDirectory, until_stalled};
use crate::postgres::PostgresError;
use crate::postgres::session::{self, column, rows};
use crate::postgres::tools::Tools;
use crate::rules::layout::SnapshotId;
use crate::rules::manifest::{Inventory, TableRecord};
use crate::rules::sql::{literal, quoted};
use crate::rules::table_name::{self, TableName};
use crate::settings::Connection;

/// Which tables are restored, and where to.
pub struct Request<'a> {
    /// The snapshot.
    pub entry: &'a Entry,
    /// The tables; one named twice is restored once.
    pub tables: &'a [TableName],
    /// The database that gets them.
    pub connection: &'a Connection,
    /// The schema that gets them; made if it is missing.
    pub schema: &'a str,
    /// Sessions at once.
    pub jobs: usize,
    /// How long nothing may move.
    pub stall_timeout: std::time::Duration,
}

/// One table of a restore.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RestoredTable {
    /// Its schema and name in the snapshot.
    pub table: String,
    /// Its rows.
    pub rows: u64,
}

/// What a restore of tables would do.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TablesPlan {
    /// The database that would get them.
    pub database: String,
    /// The snapshot.
    pub from: SnapshotId,
    /// The schema that would get them.
    pub schema: String,
    /// Whether that schema would be made.
    pub makes_schema: bool,
    /// The tables.
    pub tables: Vec<RestoredTable>,
    /// Why it would be refused.
    pub refusals: Vec<String>,
}

/// Tables that were restored.
#[derive(Debug)]
pub struct RestoredTables {
    /// The database that has them.
    pub database: String,
    /// The schema that has them.
    pub schema: String,
    /// The tables.
    pub tables: Vec<RestoredTable>,
    /// What is to be known of them.
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// Looks at the database and says what `request` would do. Reads only.
///
/// # Errors
/// [`JobError::NoTable`]; what PostgreSQL says when asked. A reason to refuse is in the plan.
pub async fn plan(request: &Request<'_>, inventory: &Inventory) -> Result<TablesPlan, JobError> {
    let chosen = choose(request, inventory)?;
    let mut session = session::connect(request.connection).await?;
    let schema_exists =
        exists(&mut session, &format!("pg_namespace WHERE nspname = {}", literal(request.schema))).await?;
    let mut refusals = clashes(&chosen);
    refusals.extend(super::plan::standby(&mut session).await?);
    for table in &chosen {
        if table.types.len() != table.columns.len() {
            refusals.push(format!(
                "the snapshot does not tell the types of {}: it was taken by an older version, restore it --into a new database",
                shown(table)
            ));
        }
        let here = format!(
            "pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
            literal(request.schema),
            literal(&table.name)
        );
        if exists(&mut session, &here).await? {
            refusals.push(format!(
                "{} exists already, and a restore never overwrites",
                table_name::shown(request.schema, &table.name)
            ));
        }
    }
    refusals.extend(missing_types(&mut session, &chosen).await?);
    refusals.extend(missing_rights(&mut session, request.schema, schema_exists).await?);
    Ok(TablesPlan {
        database: request.connection.database.clone(),
        from: request.entry.manifest.id.clone(),
        schema: request.schema.into(),
        makes_schema: !schema_exists,
        tables: chosen
            .iter()
            .map(|table| RestoredTable { table: shown(table), rows: table.tally.rows })
            .collect(),
        refusals,
    })
}

fn shown(table: &TableRecord) -> String {
    table_name::shown(&table.schema, &table.name)
}

fn choose<'a>(request: &Request<'_>, inventory: &'a Inventory) -> Result<Vec<&'a TableRecord>, JobError> {
    let mut chosen: Vec<&TableRecord> = Vec::new();
    for wanted in request.tables {
        let table = table_name::find(wanted, &inventory.tables)?;
        if !chosen.iter().any(|other| std::ptr::eq(*other, table)) {
            chosen.push(table);
        }
    }
    Ok(chosen)
}

fn clashes(chosen: &[&TableRecord]) -> Vec<String> {
    let mut seen: BTreeMap<&str, &TableRecord> = BTreeMap::new();
    let mut found = Vec::new();
    for table in chosen {
        if let Some(other) = seen.insert(&table.name, table) {
            let (a, b) = (shown(other), shown(table));
            found.push(format!(
                "{a} and {b} would have the same name in one schema: restore them one after the other"
            ));
        }
    }
    found
}

async fn exists(session: &mut PgConnection, from: &str) -> Result<bool, PostgresError> {
    let sql = format!("SELECT EXISTS (SELECT FROM pg_catalog.{from}) AS found");
    let found = rows(session, "look for what exists already", sql).await?;
    Ok(found.first().map(|row| column(row, "found")).transpose()?.unwrap_or_default())
}

/// Types and collations of the tables that the database lacks.
async fn missing_types(session: &mut PgConnection, chosen: &[&TableRecord]) -> Result<Vec<String>, JobError> {
    let types: BTreeSet<&String> = chosen.iter().flat_map(|table| &table.types).collect();
    let mut missing = Vec::new();
    for name in types {
        // No row, so that a domain does not get to refuse the NULL.
        match session::run(session, "look for a type", format!("SELECT (NULL::{name}) IS NULL WHERE false"))
            .await
        {
            Ok(()) => {}
            Err(PostgresError::Query { source, .. }) if is_undefined(&source) => {
                let said =
                    source.as_database_error().map(|error| error.message().to_owned()).unwrap_or_default();
                missing
                    .push(format!("{said} in the database: make it first, or restore --into a new database"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(missing)
}

fn is_undefined(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42704" | "3F000"))
}

async fn missing_rights(
    session: &mut PgConnection,
    schema: &str,
    schema_exists: bool,
) -> Result<Option<String>, JobError> {
    let (sql, reason) = if schema_exists {
        let sql =
            format!("SELECT pg_catalog.has_schema_privilege({}, 'CREATE, USAGE') AS may", literal(schema));
        (sql, format!("the role may not make tables in schema {schema}"))
    } else {
        let sql = "SELECT pg_catalog.has_database_privilege(current_database(), 'CREATE') AS may".to_owned();
        (sql, "the role may not make schemas in the database".to_owned())
    };
    let found = rows(session, "look at the role's rights", sql).await?;
    let may: bool = found.first().map(|row| column(row, "may")).transpose()?.unwrap_or_default();
    Ok((!may).then_some(reason))
}

/// Restores the tables.
///
/// # Errors
/// [`JobError::NoTable`], and [`JobError::Refused`] with every reason, before anything is touched;
/// [`JobError::NotProven`] when a table is not what the inventory says. After any error nothing of
/// what was made is left.
pub async fn restore(means: &Means<'_>, request: &Request<'_>) -> Result<RestoredTables, JobError> {
    let watch = Stopwatch::start();
    let source = Source { catalog: means.catalog, entry: request.entry, opener: means.opener };
    let inventory = source.inventory().await?;
    let plan = plan(request, &inventory).await?;
    if !plan.refusals.is_empty() {
        let action = format!("restore tables into {} of {}", quoted(&plan.schema), plan.database);
        return Err(JobError::Refused { action, reasons: plan.refusals });
    }
    let made = Mutex::new(Vec::new());
    let work = restore_as_planned(means, request, &source, &inventory, &plan, &made);
    let restored = until_stalled(means.progress, request.stall_timeout, "restore tables", work).await;
    if let Err(error) = restored {
        // The error that stopped the restore is the one to hear of.
        let _ =
            undo(request, plan.makes_schema, made.into_inner().unwrap_or_else(PoisonError::into_inner)).await;
        return Err(error);
    }
    let mut notes = vec![
        "columns and rows only: no constraints, defaults, indexes, rights, or generated columns".to_owned(),
    ];
    let parts = choose(request, &inventory)?.into_iter().filter(|table| table.condition.is_some());
    notes.extend(parts.map(|table| {
        format!("{} belongs to an extension: only the rows that pg_dump keeps of it", shown(table))
    }));
    Ok(RestoredTables {
        database: plan.database,
        schema: plan.schema,
        tables: plan.tables,
        notes,
        elapsed_ms: watch.elapsed_ms(),
    })
}

/// Every table is loaded and compared in an open transaction; then all are committed.
async fn restore_as_planned(
    means: &Means<'_>,
    request: &Request<'_>,
    source: &Source<'_>,
    inventory: &Inventory,
    plan: &TablesPlan,
    made: &Mutex<Vec<(u32, String)>>,
) -> Result<(), JobError> {
    let mut session = session::connect(request.connection).await?;
    let server_major = session::server_version_num(&mut session).await? / 10_000;
    let dumped_by =
        request.entry.manifest.pg_dump_version.split('.').next().and_then(|major| major.parse().ok());
    let tools =
        Tools::find(means.bin_directory, means.path, server_major.max(dumped_by.unwrap_or_default())).await?;
    if plan.makes_schema {
        session::run(&mut session, "make the schema", format!("CREATE SCHEMA {}", quoted(&plan.schema)))
            .await?;
    }
    let work = WorkDirectory::create(means.scratch_directory)?;
    let target = table_rows::Target {
        connection: request.connection,
        schema: request.schema,
        encoding: &inventory.copy_encoding,
        archive_encoding: &inventory.properties.encoding,
        tools: &tools,
        work_directory: work.path(),
        progress: means.progress,
        made,
    };
    let (chunked, small): (Vec<_>, Vec<_>) =
        choose(request, inventory)?.into_iter().partition(|table| table.chunks.is_some());
    means.progress.enter("loading tables");
    means.progress.expect(
        chunked.iter().filter_map(|table| table.chunks.as_ref()).flatten().map(|part| part.plain_bytes).sum(),
    );
    let queue = Arc::new(Mutex::new(chunked));
    let workers = request.jobs.min(queue.lock().unwrap_or_else(PoisonError::into_inner).len());
    let workers = futures::future::try_join_all(
        (0..workers).map(|_| table_rows::load_chunked(source, &target, &queue)),
    );
    let (loaded, small) = futures::try_join!(workers, table_rows::load_small(source, &target, &small))?;
    means.progress.enter("making the tables visible");
    for mut session in loaded.into_iter().chain(small) {
        session::run(&mut session, "make the tables visible", "COMMIT".into()).await?;
        session.close().await.map_err(|error| PostgresError::of_query("make the tables visible", error))?;
    }
    Ok(())
}

/// Drops what was committed before something went wrong, known by OID, and the schema if it is ours.
async fn undo(request: &Request<'_>, made_schema: bool, made: Vec<(u32, String)>) -> Result<(), JobError> {
    let mut session = session::connect(request.connection).await?;
    for (oid, name) in made {
        let sql = format!(
            "pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = {oid} AND n.nspname = {} AND c.relname = {}",
            literal(request.schema),
            literal(&name)
        );
        if exists(&mut session, &sql).await? {
            let drop = format!("DROP TABLE {}", crate::rules::sql::qualified(request.schema, &name));
            session::run(&mut session, "drop a table of the failed restore", drop).await?;
        }
    }
    if made_schema {
        session::run(
            &mut session,
            "drop the schema of the failed restore",
            format!("DROP SCHEMA {}", quoted(request.schema)),
        )
        .await?;
    }
    Ok(())
}
