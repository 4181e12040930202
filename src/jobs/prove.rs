//! Compares a loaded database with the inventory of the snapshot it was loaded from.
//!
//! Comes in: a database, an inventory, and what the server said while loading. Goes out: each
//! difference as a sentence. Changes nothing.

mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::postgres::PgConnection;

pub(super) use self::schema::database_lines;
use super::load::Loaded;
use super::{JobError, Progress};
use crate::postgres::copy::CopyOut;
use crate::postgres::describe;
use crate::postgres::session;
use crate::postgres::tools::Tools;
use crate::postgres::{PostgresError, describe::select_rows};
use crate::rules::digest::RowTally;
use crate::rules::manifest::{Inventory, Manifest, TableRecord};
use crate::rules::sql::qualified;
use crate::settings::Connection;

/// How a restored database is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The digests of what was sent (checked while loading), the server's row counts, and the
    /// schema.
    Sent,
    /// The above, and every table read back and digested.
    Full,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Proven {
    /// Each difference in rows, sequences or large objects as a sentence.
    pub problems: Vec<String>,
    /// Each difference in the schema as a sentence; none of either means that the database is the
    /// one of the snapshot.
    pub schema_problems: Vec<String>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
    /// Tables compared.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
}

/// What is compared, and with what.
pub struct Claim<'a> {
    /// The snapshot's manifest.
    pub manifest: &'a Manifest,
    /// Its inventory.
    pub inventory: &'a Inventory,
    /// What the server said while it was loaded.
    pub loaded: &'a Loaded,
}

/// Compares the database behind `connection` with `claim`.
///
/// # Errors
/// When the comparison itself cannot be made; a difference is no error.
pub async fn prove(
    claim: &Claim<'_>,
    connection: &Connection,
    tools: &Tools,
    proof: Proof,
    jobs: usize,
    progress: &Arc<Progress>,
) -> Result<Proven, JobError> {
    progress.enter("comparing with the inventory");
    progress.expect(0);
    let mut proven = Proven::default();
    let mut session = session::connect(connection).await?;
    compare_rows(claim, connection, proof, jobs, progress, &mut proven).await?;
    compare_sequences(claim.inventory, &mut session, &mut proven).await?;
    compare_structures(claim.inventory, &mut session, &mut proven).await?;
    compare_extensions(claim.inventory, &mut session, &mut proven).await?;
    compare_large_objects(claim.inventory, &mut session, progress, &mut proven).await?;
    schema::compare(claim, connection, tools, &mut session, progress, &mut proven).await?;
    Ok(proven)
}

async fn compare_rows(
    claim: &Claim<'_>,
    connection: &Connection,
    proof: Proof,
    jobs: usize,
    progress: &Arc<Progress>,
    proven: &mut Proven,
) -> Result<(), JobError> {
    let queue = Mutex::new(comparable(claim.inventory, claim.loaded, proof));
    let found = Mutex::new(BTreeMap::new());
    let workers = (0..jobs).map(|_| async {
        let mut session = session::connect(connection).await?;
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_last();
            let Some((name, compared)) = next else { return Ok::<_, JobError>(()) };
            let problem =
                compare(&name, &compared, &claim.inventory.copy_encoding, &mut session, progress).await?;
            found.lock().unwrap_or_else(PoisonError::into_inner).insert(name, problem);
        }
    });
    futures::future::try_join_all(workers).await?;
    drop(queue);
    proven
        .problems
        .extend(found.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().flatten());
    proven.tables = claim.inventory.tables.len() as u64;
    proven.rows = claim.inventory.tables.iter().map(|table| table.tally.rows).sum();
    Ok(())
}

/// Tables that are compared as one.
struct Compared<'a> {
    tables: Vec<&'a TableRecord>,
    /// Rows that the server took, where that is compared and no row read back.
    taken: Option<u64>,
}

/// What is compared, by name: each table, but the partitions of one root together.
fn comparable<'a>(inventory: &'a Inventory, loaded: &Loaded, proof: Proof) -> BTreeMap<String, Compared<'a>> {
    let mut all: BTreeMap<String, Compared<'a>> = BTreeMap::new();
    for table in &inventory.tables {
        let name = match &table.loaded_through {
            Some(root) => format!("{} with its partitions", qualified(&root.schema, &root.name)),
            None => qualified(&table.schema, &table.name),
        };
        let compared = all.entry(name).or_insert(Compared { tables: Vec::new(), taken: Some(0) });
        // Rows of small tables went through pg_restore, which says nothing of their number.
        let taken = loaded.rows.get(&(table.schema.clone(), table.name.clone()));
        let taken = taken.filter(|_| proof == Proof::Sent);
        compared.taken = compared.taken.zip(taken).map(|(sum, rows)| sum + rows);
        compared.tables.push(table);
    }
    all
}

async fn compare(
    name: &str,
    compared: &Compared<'_>,
    encoding: &str,
    session: &mut PgConnection,
    progress: &Progress,
) -> Result<Option<String>, JobError> {
    let mut wanted = RowTally::default();
    compared.tables.iter().for_each(|table| wanted.add(table.tally));
    if let Some(rows) = compared.taken {
        let differs = rows != wanted.rows;
        return Ok(differs.then(|| format!("table {name} has {rows} rows, the snapshot has {}", wanted.rows)));
    }
    let mut found = RowTally::default();
    for table in &compared.tables {
        let select = select_rows(&table.schema, &table.name, &table.columns, table.condition.as_deref());
        match tally_select(session, &select, encoding, progress).await {
            Ok(tally) => found.add(tally),
            Err(PostgresError::Query { source, .. }) if is_missing_object(&source) => {
                let name = qualified(&table.schema, &table.name);
                return Ok(Some(format!("table {name} is missing or lacks a column")));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(match found {
        found if found == wanted => None,
        found if found.rows != wanted.rows => {
            Some(format!("table {name} has {} rows, the snapshot has {}", found.rows, wanted.rows))
        }
        found => {
            Some(format!("table {name} has the same number of rows, {}, but other contents", found.rows))
        }
    })
}

fn is_missing_object(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42P01" | "42703" | "3F000"))
}

/// Tallies the rows of a SELECT, as COPY writes them in `encoding`.
pub(super) async fn tally_select(
    session: &mut PgConnection,
    select: &str,
    encoding: &str,
    progress: &Progress,
) -> Result<RowTally, PostgresError> {
    let copy = CopyOut::start(session, select, encoding, "read a table back").await?;
    copy.tally(|bytes| progress.advance(bytes)).await
}

async fn compare_sequences(
    inventory: &Inventory,
    session: &mut PgConnection,
    proven: &mut Proven,
) -> Result<(), JobError> {
    let found = describe::sequences(session).await?;
    for record in &inventory.sequences {
        let name = qualified(&record.schema, &record.name);
        match found.iter().find(|sequence| sequence.schema == record.schema && sequence.name == record.name) {
            None => proven.problems.push(format!("sequence {name} is missing")),
            Some(sequence) if !record.admits(sequence.state) => proven.problems.push(format!(
                "sequence {name} stands at {}, the snapshot has {}",
                sequence.state.last_value, record.before.last_value
            )),
            Some(_) => {}
        }
    }
    Ok(())
}

async fn compare_structures(
    inventory: &Inventory,
    session: &mut PgConnection,
    proven: &mut Proven,
) -> Result<(), JobError> {
    let found: BTreeSet<String> = describe::structures(session).await?.into_iter().collect();
    let wanted: BTreeSet<String> = inventory.structures.iter().cloned().collect();
    // An index that was invalid is rebuilt by a restore, and valid then: better than it was.
    let is_there = |name: &str| {
        found.contains(name) || name.strip_suffix(" (invalid)").is_some_and(|valid| found.contains(valid))
    };
    proven
        .schema_problems
        .extend(wanted.iter().filter(|name| !is_there(name)).map(|name| format!("{name} is missing")));
    Ok(())
}

async fn compare_extensions(
    inventory: &Inventory,
    session: &mut PgConnection,
    proven: &mut Proven,
) -> Result<(), JobError> {
    let found = describe::extensions(session).await?;
    for wanted in &inventory.extensions {
        match found.iter().find(|extension| extension.name == wanted.name) {
            None => proven.schema_problems.push(format!("extension {} is missing", wanted.name)),
            Some(extension) if extension.version != wanted.version => proven.notes.push(format!(
                "extension {} is {} here, {} in the snapshot",
                wanted.name, extension.version, wanted.version
            )),
            Some(_) => {}
        }
    }
    Ok(())
}

async fn compare_large_objects(
    inventory: &Inventory,
    session: &mut PgConnection,
    progress: &Progress,
    proven: &mut Proven,
) -> Result<(), JobError> {
    let Some(wanted) = inventory.large_objects else {
        proven
            .notes
            .push("large objects were not readable when the snapshot was taken, and are not compared".into());
        return Ok(());
    };
    let Some(select) = describe::select_large_objects(session).await? else {
        proven.notes.push("large objects are not readable, and are not compared".into());
        return Ok(());
    };
    if tally_select(session, &select, &inventory.copy_encoding, progress).await? != wanted {
        proven.problems.push("large objects differ".into());
    }
    Ok(())
}
