//! What the daemon does besides waiting, each as a task of its own.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gates::{self, Gates};
use crate::catalog::{Listing, Selector};
use crate::cli::gate::resume_open_runs;
use crate::cli::host::Host;
use crate::cli::report::{ExitCode, Failure};
use crate::cli::verify::{Wanted, physical, verify_wanted};
use crate::cli::{Global, audit, base_backup, retain, snapshot, wal};
use crate::http::Task;
use crate::jobs::due::Work;
use crate::jobs::recover::Stock;
use crate::jobs::verify_physical::{self, Wish};
use crate::ledger::{JobKind, Ledger, OnBehalf};
use crate::rules::manifest::Depth;
use crate::rules::wal::Lsn;
use crate::settings::DatabaseSettings;

/// What every errand is done with.
pub struct Ground {
    /// The options of the daemon's own command line.
    pub global: Global,
    /// The opened installation.
    pub host: Arc<Host>,
    /// Its ledger.
    pub ledger: Ledger,
    /// Gates for runners elsewhere.
    pub gates: Arc<Gates>,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Errand {
    /// Asks catalog and cluster what there is; `change` counts what may have changed it before.
    Survey { change: u64 },
    /// Goes on with gated migrations whose process died.
    Resume,
    /// Walks a run whose command runs elsewhere, from its opening or from where a daemon stopped.
    Gate(String),
    /// Opens the installation anew, by the settings as they are now.
    Reload,
    /// Does scheduled work.
    Work(Work),
    /// Does what was asked for over HTTP.
    Ordered(Ordered),
}

/// Work that somebody wants now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ordered {
    /// The work.
    pub work: Work,
    /// More of it.
    pub task: Task,
    /// Who wants it.
    pub by: OnBehalf,
}

impl Errand {
    /// The work, if it is scheduled or ordered work.
    pub fn work(&self) -> Option<&Work> {
        match self {
            Self::Work(work) | Self::Ordered(Ordered { work, .. }) => Some(work),
            _ => None,
        }
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Survey { .. } => f.write_str("reading the catalog"),
            Self::Resume => f.write_str("resuming migrations"),
            Self::Gate(run) => write!(f, "run {run}"),
            Self::Reload => f.write_str("reading the settings"),
            Self::Ordered(Ordered { work, by, .. }) => write!(f, "{} for {by}", Self::Work(work.clone())),
            Self::Work(Work { kind, database: Some(database) }) => write!(f, "{} {database}", kind.as_str()),
            Self::Work(Work { kind, database: None }) => f.write_str(kind.as_str()),
        }
    }
}

/// What catalog and cluster have.
pub struct Survey {
    /// As in [`Errand::Survey`].
    pub change: u64,
    /// When it was made.
    pub at: Instant,
    /// The databases that the settings mean.
    pub databases: Vec<DatabaseSettings>,
    /// The snapshots.
    pub listing: Listing,
    /// From where to where log was lost behind the newest base backup.
    pub lost: Option<(Lsn, Lsn)>,
}

/// What an errand brought.
pub enum Outcome {
    /// What there is.
    Surveyed(Survey),
    /// The installation by new settings.
    Reloaded(Box<Host>),
    /// Nothing but its traces in ledger and repository.
    Finished,
}

/// How an errand ended.
pub type Done = Result<Outcome, Failure>;

/// Does an errand, or drops it where it is when it is cut short.
pub async fn run_until_cut(ground: Arc<Ground>, errand: Errand, cut: CancellationToken) -> Done {
    let action = errand.to_string();
    match cut.run_until_cancelled(run(ground, errand)).await {
        Some(done) => done,
        None => Err(Failure::new(action, ExitCode::Terminated, "cut short; nothing half-done is listed")),
    }
}

async fn run(ground: Arc<Ground>, errand: Errand) -> Done {
    // On the heap, each by itself: together they are too much for a stack.
    match errand {
        Errand::Survey { change } => Box::pin(survey(&ground, change)).await.map(Outcome::Surveyed),
        Errand::Resume => {
            Box::pin(resume_open_runs(&ground.global, &ground.host, &ground.ledger)).await?;
            Ok(Outcome::Finished)
        }
        Errand::Gate(run) => {
            Box::pin(gates::walk(&ground, &run)).await?;
            Ok(Outcome::Finished)
        }
        Errand::Reload => {
            let host = Box::pin(Host::open(&ground.global.config)).await?;
            audit::note_settings(&ground.ledger, &ground.global.config).await?;
            Ok(Outcome::Reloaded(Box::new(host)))
        }
        Errand::Work(work) => {
            Box::pin(work_on(&ground, &work)).await?;
            Ok(Outcome::Finished)
        }
        Errand::Ordered(ordered) => {
            let ledger = ground.ledger.clone().on_behalf_of(&ordered.by);
            let (global, host) = (ground.global.clone(), Arc::clone(&ground.host));
            let gates = Arc::clone(&ground.gates);
            Box::pin(carry_out(&Ground { global, host, ledger, gates }, &ordered)).await?;
            Ok(Outcome::Finished)
        }
    }
}

async fn survey(ground: &Ground, change: u64) -> Result<Survey, Failure> {
    let Ground { host, ledger, .. } = ground;
    host.settle_cluster(ledger).await?;
    let databases = host.databases(ledger).await?;
    let listing = host.catalog.list().await.map_err(Failure::of("read the catalog"))?;
    for rejected in &listing.rejected {
        tracing::warn!(snapshot = %rejected.home.id, reason = rejected.reason(), "a snapshot is not believed");
    }
    let lost = lost(host).await;
    Ok(Survey { change, at: Instant::now(), databases, listing, lost })
}

/// What of the log was lost behind the newest base backup. That it cannot be told keeps nothing else from being
/// done.
async fn lost(host: &Host) -> Option<(Lsn, Lsn)> {
    if !host.settings.cluster.point_in_time {
        return None;
    }
    let (opener, shipped) = (host.opener(), wal::shipped(&host.settings.state.directory));
    let stock = Stock::read_settled(&host.catalog, opener.as_ref(), shipped).await;
    let stock = stock.inspect_err(|error| tracing::warn!(%error, "base backups and log cannot be read"));
    let (from, until) = stock.ok()?.lost_behind_newest()?;
    tracing::warn!(%from, %until, "log was lost behind the newest base backup: another one is due");
    Some((from, until))
}

async fn work_on(ground: &Ground, work: &Work) -> Result<(), Failure> {
    let Ground { global, host, ledger, .. } = ground;
    match (work.kind, &work.database) {
        (JobKind::Snapshot, Some(name)) => take_snapshot(ground, name).await?,
        (JobKind::Verify, Some(name)) => {
            verify(ground, name, &Selector::Latest, host.settings.verify.depth).await?;
        }
        (JobKind::BaseBackup, _) => {
            let made = base_backup::make_one(global, host, ledger).await?;
            let manifest = &made.manifest;
            for note in &made.notes {
                tracing::info!(job = "base-backup", backup_id = %manifest.id, note, "it is not as it was wanted");
            }
            if let Some(why) = &made.unusable {
                tracing::warn!(job = "base-backup", backup_id = %manifest.id, why, "it is of no use yet");
            }
            tracing::info!(
                job = "base-backup",
                backup_id = %manifest.id,
                kind = manifest.kind(),
                plain_bytes = manifest.plain_bytes,
                stored_bytes = manifest.stored_bytes,
                elapsed_ms = made.elapsed_ms,
                "made"
            );
        }
        (JobKind::VerifyPhysical, _) => verify_physical(ground).await?,
        (JobKind::Retain, _) => {
            let retained = retain::carry_out(global, host, ledger).await?;
            tracing::info!(
                job = "retain",
                removed = retained.removed.len(),
                freed_bytes = retained.freed_bytes,
                "done"
            );
        }
        _ => {}
    }
    Ok(())
}

async fn carry_out(ground: &Ground, ordered: &Ordered) -> Result<(), Failure> {
    let Some(name) = &ordered.work.database else { return Ok(()) };
    let done = match &ordered.task {
        Task::Snapshot => take_snapshot(ground, name).await,
        Task::Verify { snapshot, depth } => {
            verify(ground, name, &Selector::Id(snapshot.clone()), *depth).await
        }
    };
    if let Err(failure) = &done
        && failure.code == ExitCode::Busy
    {
        // It did not get as far as to be recorded as a job.
        let action = ordered.work.kind.as_str();
        audit::note(&ground.ledger, action, (Some(name), None), &failure.chain()).await?;
    }
    done
}

async fn take_snapshot(ground: &Ground, name: &str) -> Result<(), Failure> {
    let Ground { global, host, ledger, .. } = ground;
    let taken = snapshot::take_one(global, host, ledger, &host.database(name)?).await?;
    let manifest = &taken.manifest;
    tracing::info!(
        job = "snapshot",
        database = %name,
        backup_id = %manifest.id,
        rows = manifest.rows,
        new_stored_bytes = taken.new_stored_bytes,
        elapsed_ms = taken.elapsed_ms,
        "taken"
    );
    taken.notes.iter().for_each(|note| tracing::warn!(database = %name, note, "left out"));
    Ok(())
}

async fn verify_physical(ground: &Ground) -> Result<(), Failure> {
    let Ground { global, host, ledger, .. } = ground;
    let (depth, moment) = (host.settings.verify.physical_depth, Wish::Drawn(rand::random()));
    let wanted = verify_physical::Wanted { base: None, depth, moment };
    let opener = host.opener();
    let verified = physical::verify_wanted(global, host, ledger, &wanted, opener.as_ref()).await?;
    if let Some((base, drill)) = verified.drill() {
        tracing::info!(
            job = "verify-physical",
            backup_id = %base,
            moment = %drill.moment,
            seed = drill.seed,
            recovery_ms = drill.recovery_ms,
            "recovered"
        );
    }
    verified.notes.iter().for_each(|note| tracing::info!(job = "verify-physical", note, "not proven"));
    for problem in verified.not_believed.iter().chain(&verified.differences) {
        tracing::error!(job = "verify-physical", problem, "not as it should be");
    }
    for record in &verified.records {
        let (depth, elapsed_ms) = (record.depth.as_str(), record.elapsed_ms);
        for problem in &record.problems {
            tracing::error!(job = "verify-physical", backup_id = %record.id, depth, problem, "not as it should be");
        }
        if record.is_ok {
            tracing::info!(job = "verify-physical", backup_id = %record.id, depth, elapsed_ms, "verified");
        }
    }
    Ok(())
}

async fn verify(ground: &Ground, name: &str, snapshot: &Selector, depth: Depth) -> Result<(), Failure> {
    let Ground { global, host, ledger, .. } = ground;
    let opener = host.opener();
    let wanted = Wanted { database: Some(name), snapshot, depth, opener: opener.as_ref() };
    let verified = verify_wanted(global, host, ledger, &wanted).await?;
    let record = &verified.record;
    let (depth, elapsed_ms) = (record.depth.as_str(), record.elapsed_ms);
    if record.is_ok {
        tracing::info!(job = "verify", database = %name, backup_id = %record.id, depth, elapsed_ms, "verified");
        return Ok(());
    }
    for problem in record.problems.iter().chain(&verified.differences) {
        tracing::error!(job = "verify", database = %name, backup_id = %record.id, depth, problem, "not as it should be");
    }
    Ok(())
}
