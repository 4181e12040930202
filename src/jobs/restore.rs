//! Restores a snapshot: beside what is there, proven, and only then under its name.
//!
//! Comes in: a snapshot and the name it is to have. Goes out: a database of that name. The
//! snapshot is loaded into a database with a name of ours, compared with the inventory, and
//! renamed in one transaction. A database that had the name is kept under another one.

mod beside;
mod extract;
pub mod own;
pub mod plan;
pub mod recover;
mod swap;
mod table_rows;
pub mod tables;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

pub(crate) use self::beside::Beside;
use self::beside::new_marker;
use self::plan::RestorePlan;
use super::load::{self, RestoreErrors, Source, Target, statistics};
use super::prove::{self, Claim, Proof};
use super::{JobError, Progress, Stopwatch, WorkDirectory, until_stalled};
use crate::catalog::{Catalog, Entry};
use crate::ledger::{Ledger, LoadingDatabase};
use crate::postgres::PostgresError;
use crate::postgres::tools::Tools;
use crate::postgres::{describe, session};
use crate::rules::globals;
use crate::rules::layout;
use crate::rules::manifest::Inventory;
use crate::rules::sql::{copy_database, create_database, quoted};
use crate::seal::Opener;
use crate::settings::Connection;

/// What a restore is made with.
pub struct Means<'a> {
    /// Where the snapshot lies.
    pub catalog: &'a Catalog,
    /// What opens it.
    pub opener: &'a Opener,
    /// Where half-made databases and replaced ones are written down.
    pub ledger: &'a Ledger,
    /// Where PostgreSQL's programs are looked for first.
    pub bin_directory: Option<&'a Path>,
    /// The search path for programs.
    pub path: &'a str,
    /// A 0700 directory for the schema archive.
    pub scratch_directory: &'a Path,
    /// Told as bytes pass.
    pub progress: &'a Arc<Progress>,
}

/// The name that a restored database gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A new one; a database of this name must not exist.
    Into(String),
    /// That of this live database, which is kept under another name.
    Swap(String),
}

impl Destination {
    /// The name.
    pub fn name(&self) -> &str {
        match self {
            Self::Into(name) | Self::Swap(name) => name,
        }
    }
}

/// What is to be restored, and how.
pub struct Request<'a> {
    /// The snapshot.
    pub entry: &'a Entry,
    /// The name it is to have.
    pub destination: Destination,
    /// How to connect to the cluster; the database in it does not matter.
    pub connection: &'a Connection,
    /// Sessions at once.
    pub jobs: usize,
    /// How the result is proven.
    pub proof: Proof,
    /// What an error of pg_restore means.
    pub errors: RestoreErrors,
    /// How long a replaced database is kept.
    pub keep_replaced: TimeDelta,
    /// What a replaced database is called for: `<name>_kept_<time>`.
    pub kept_for: &'static str,
    /// Logical replication slots of a replaced database that need not stop a swap.
    pub disposable_slots: &'a [String],
    /// How long nothing may move.
    pub stall_timeout: std::time::Duration,
}

/// A restore that was made.
#[derive(Debug)]
pub struct Restored {
    /// The database that holds the snapshot now.
    pub database: String,
    /// What the database that had the name is called now.
    pub previous_kept_as: Option<String>,
    /// Rows restored.
    pub rows: u64,
    /// Tables restored.
    pub tables: u64,
    /// What could not be compared, errors that were accepted.
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// Restores a snapshot under its destination's name.
///
/// # Errors
/// As [`prepare`] and [`finish`]. After any error the database that had the name has it still,
/// and what was loaded is dropped.
pub async fn restore(
    means: &Means<'_>,
    request: &Request<'_>,
    clock: fn() -> DateTime<Utc>,
) -> Result<Restored, JobError> {
    let watch = Stopwatch::start();
    let prepared = prepare(means, request, clock).await?;
    let restored = finish(means, request, prepared, clock).await?;
    Ok(Restored { elapsed_ms: watch.elapsed_ms(), ..restored })
}

/// A snapshot that is loaded beside and proven, and has no name yet.
pub struct Prepared {
    session: PgConnection,
    beside: Beside,
    inventory: Inventory,
    rows: u64,
    tables: u64,
    notes: Vec<String>,
}

/// Loads the snapshot beside what is there, and proves it; no name changes hands.
///
/// # Errors
/// [`JobError::Refused`] with every reason, before anything is touched; [`JobError::NotProven`]
/// when what was loaded is not the snapshot. Then what was loaded is dropped.
pub async fn prepare(
    means: &Means<'_>,
    request: &Request<'_>,
    clock: fn() -> DateTime<Utc>,
) -> Result<Prepared, JobError> {
    let source = Source { catalog: means.catalog, entry: request.entry, opener: means.opener };
    let inventory = source.inventory().await?;
    let plan = plan::plan(request, &inventory).await?;
    if !plan.refusals.is_empty() {
        return Err(JobError::Refused {
            action: format!("restore into {}", plan.into),
            reasons: plan.refusals,
        });
    }
    let marker = new_marker();
    let work = Box::pin(prepare_as_planned(means, request, &source, inventory, plan, &marker, clock));
    let prepared = until_stalled(means.progress, request.stall_timeout, "restore the snapshot", work).await;
    or_drop(means, request, &marker, prepared).await
}

/// Has the server copy the live database beside itself, to take its name later without a load.
///
/// Nobody may write to it meanwhile, nor between this and the moment whose state is to be kept: the
/// copy is what the request's snapshot holds then, whose inventory it gets its properties from.
///
/// # Errors
/// What PostgreSQL says, also when sessions are in the database; then the copy is dropped.
pub async fn copy_beside(
    means: &Means<'_>,
    request: &Request<'_>,
    clock: fn() -> DateTime<Utc>,
) -> Result<Prepared, JobError> {
    let marker = new_marker();
    let work = Box::pin(copy_as(means, request, &marker, clock));
    let copied = until_stalled(means.progress, request.stall_timeout, "copy the database", work).await;
    or_drop(means, request, &marker, copied).await
}

async fn copy_as(
    means: &Means<'_>,
    request: &Request<'_>,
    marker: &str,
    clock: fn() -> DateTime<Utc>,
) -> Result<Prepared, JobError> {
    let source = Source { catalog: means.catalog, entry: request.entry, opener: means.opener };
    let inventory = source.inventory().await?;
    let mut session =
        session::connect(&request.connection.with_database(session::MAINTENANCE_DATABASE)).await?;
    let version_num = session::server_version_num(&mut session).await?;
    session::work_under(&mut session, marker).await?;
    let original = quoted(request.destination.name());
    let create = |name: &str| copy_database(name, &original, version_num);
    let making = Beside::create(means.ledger, &mut session, marker, clock(), create);
    let beside = load::heartbeat(means.progress, making).await?;
    let (rows, tables) = (request.entry.manifest.rows, request.entry.manifest.tables);
    Ok(Prepared { session, beside, inventory, rows, tables, notes: Vec::new() })
}

/// Gives what was prepared its name.
///
/// # Errors
/// What PostgreSQL says; then what was loaded is dropped, unless it has got the name.
pub async fn finish(
    means: &Means<'_>,
    request: &Request<'_>,
    prepared: Prepared,
    clock: fn() -> DateTime<Utc>,
) -> Result<Restored, JobError> {
    let marker = prepared.beside.marker.clone();
    let work = Box::pin(take_name(means, request, prepared, clock));
    let restored = until_stalled(means.progress, request.stall_timeout, "restore the snapshot", work).await;
    or_drop(means, request, &marker, restored).await
}

/// Gives everything that was prepared the names of the live databases, in one transaction: either
/// all of them get their names, or none does. All are of one cluster.
///
/// # Errors
/// What PostgreSQL says; then what was loaded is dropped, unless it has got the names.
pub async fn finish_together(
    means: &Means<'_>,
    all: Vec<(&Request<'_>, Prepared)>,
    clock: fn() -> DateTime<Utc>,
) -> Result<Vec<Restored>, JobError> {
    let Some((first, _)) = all.first() else { return Ok(Vec::new()) };
    let first = *first;
    let markers: Vec<String> = all.iter().map(|(_, prepared)| prepared.beside.marker.clone()).collect();
    let work = Box::pin(swap::swap_all(means, all, clock));
    let mut done = until_stalled(means.progress, first.stall_timeout, "restore the snapshots", work).await;
    for marker in &markers {
        done = or_drop(means, first, marker, done).await;
    }
    done
}

/// Drops what an unfinished restore loaded. The error that stopped it is the one to hear of; what
/// this leaves is dropped by the next run.
async fn or_drop<T>(
    means: &Means<'_>,
    request: &Request<'_>,
    marker: &str,
    done: Result<T, JobError>,
) -> Result<T, JobError> {
    if done.is_err() {
        let is_ours = |loading: &LoadingDatabase| loading.loading.marker == marker;
        let _ = recover::drop_loading(means.ledger, request.connection, is_ours).await;
    }
    done
}

/// Drops what was prepared and is not wanted any more.
///
/// # Errors
/// What PostgreSQL or the ledger say; then the next run drops it.
pub async fn abandon(means: &Means<'_>, request: &Request<'_>, prepared: Prepared) -> Result<(), JobError> {
    let Prepared { session, beside, .. } = prepared;
    // The session's lock says that somebody works on it.
    session.close().await.map_err(|error| PostgresError::of_query("give up a restore", error))?;
    let is_ours = |loading: &LoadingDatabase| loading.loading.marker == beside.marker;
    recover::drop_loading(means.ledger, request.connection, is_ours).await.map(drop)
}

async fn prepare_as_planned(
    means: &Means<'_>,
    request: &Request<'_>,
    source: &Source<'_>,
    inventory: Inventory,
    plan: RestorePlan,
    marker: &str,
    clock: fn() -> DateTime<Utc>,
) -> Result<Prepared, JobError> {
    let maintenance = request.connection.with_database(session::MAINTENANCE_DATABASE);
    let mut session = session::connect(&maintenance).await?;
    let version_num = session::server_version_num(&mut session).await?;
    let dumped_by = &request.entry.manifest.pg_dump_version;
    let tools = Tools::find_reading(means.bin_directory, means.path, version_num / 10_000, dumped_by).await?;
    session::work_under(&mut session, marker).await?;
    make_roles(source, &plan, &mut session).await?;
    let create = |name: &str| create_database(name, &inventory.properties, version_num);
    let beside = Beside::create(means.ledger, &mut session, marker, clock(), create).await?;
    let (loaded, proven) = load_and_prove(means, request, source, &inventory, &tools, &beside).await?;
    let (rows, tables) = (proven.rows, proven.tables);
    let mut notes = accepted_or_refused(request, loaded, proven)?;
    notes.extend(plan.warnings);
    Ok(Prepared { session, beside, inventory, rows, tables, notes })
}

/// What is to be known of what was loaded, if it may be taken.
///
/// What an accepted error of pg_restore left out of the schema was accepted with it; rows that
/// differ never are.
fn accepted_or_refused(
    request: &Request<'_>,
    loaded: load::Loaded,
    proven: prove::Proven,
) -> Result<Vec<String>, JobError> {
    let (mut problems, mut notes) = (proven.problems, loaded.accepted);
    let of_schema = if notes.is_empty() { &mut problems } else { &mut notes };
    of_schema.extend(proven.schema_problems);
    if !problems.is_empty() {
        return Err(JobError::NotProven {
            action: format!("restore {}", request.entry.manifest.id),
            problems,
        });
    }
    notes.extend(proven.notes);
    Ok(notes)
}

async fn take_name(
    means: &Means<'_>,
    request: &Request<'_>,
    prepared: Prepared,
    clock: fn() -> DateTime<Utc>,
) -> Result<Restored, JobError> {
    let Destination::Into(name) = &request.destination else {
        let swapped = swap::swap_all(means, vec![(request, prepared)], clock).await?;
        return Ok(swapped.into_iter().next().expect("as many were swapped as were given"));
    };
    let Prepared { mut session, beside, inventory, rows, tables, notes } = prepared;
    means.progress.enter("taking the name");
    swap::take_free_name(&mut session, request.connection, &beside, name, &inventory).await?;
    means.ledger.forget_loading(&beside.marker).await?;
    Ok(Restored { database: name.clone(), previous_kept_as: None, rows, tables, notes, elapsed_ms: 0 })
}

async fn load_and_prove(
    means: &Means<'_>,
    request: &Request<'_>,
    source: &Source<'_>,
    inventory: &Inventory,
    tools: &Tools,
    beside: &Beside,
) -> Result<(load::Loaded, prove::Proven), JobError> {
    let work = WorkDirectory::create(means.scratch_directory)?;
    let connection = request.connection.with_database(&beside.name);
    let target = Target {
        connection: &connection,
        tools,
        jobs: request.jobs,
        work_directory: work.path(),
        errors: request.errors,
        progress: means.progress,
    };
    let loaded = load::load(source, inventory, &target).await?;
    let claim = Claim { manifest: &source.entry.manifest, inventory, loaded: &loaded };
    let (missed, mut proven) = futures::try_join!(
        statistics::gather(inventory, &target, &loaded),
        prove::prove(&claim, &connection, tools, request.proof, request.jobs, means.progress)
    )?;
    proven.notes.extend(missed);
    Ok((loaded, proven))
}

/// Makes the roles that the snapshot needs and the cluster lacks.
async fn make_roles(
    source: &Source<'_>,
    plan: &RestorePlan,
    session: &mut PgConnection,
) -> Result<(), JobError> {
    if plan.missing_roles.is_empty() {
        return Ok(());
    }
    let plain = source.small_object(layout::GLOBALS, &source.entry.manifest.objects.globals).await?;
    let statements = globals::statements(&String::from_utf8_lossy(&plain));
    let missing: BTreeSet<String> = plan.missing_roles.iter().cloned().collect();
    let present: BTreeSet<String> = describe::all_roles(session).await?.into_iter().collect();
    for statement in globals::statements_for_missing(&statements, &missing, &present) {
        session::run(session, "make the roles of the snapshot", statement.sql.clone()).await?;
    }
    Ok(())
}
