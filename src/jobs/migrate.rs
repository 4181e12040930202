//! Runs somebody else's migration behind a verified snapshot, and undoes it when it fails.
//!
//! Comes in: a command, one or several databases of a cluster, a stop signal. Goes out: a run in the ledger that tells phase
//! by phase what happened and how it ended. What is decided is decided in `rules::gate` and
//! `rules::classify`; here the phases are carried out, one at a time, each written down before its
//! act. A run whose process died is walked on by the next one ([`resume`]): what had not begun is
//! undone, and what may have begun is settled and judged, never begun again.

mod before;
mod close;
mod during;
mod environment;
pub mod facts;
pub mod fingerprint;
mod hold;
mod judge;
mod loss;
mod member;
mod point;
mod preflight;
mod rehearse;
mod run;
pub mod runner;
mod sessions;
mod stray;
mod undo;
mod walk;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

use self::facts::{Facts, FailedRelease, Loss, Rehearsal, RunFacts};
use self::runner::Runner;
use self::walk::Walk;
use super::receive_wal::waiting::KeptLog;
use super::{JobError, Progress, Stopwatch};
use crate::catalog::Catalog;
use crate::keys::ChunkKey;
use crate::ledger::{GateRun, Ledger, NewRun};
use crate::rules::api::Scripts;
use crate::rules::gate::{self, Decision, Order, Phase, Position, Verdict};
use crate::seal::{Opener, Sealer};
use crate::settings::{Consistency, DatabaseSettings, GateSettings};

pub use self::environment::{application_name, connection_of};
pub use self::undo::pin_reason;

/// What a run is made with.
pub struct Means<'a> {
    /// Where snapshots lie.
    pub catalog: &'a Catalog,
    /// To whom they are sealed.
    pub sealer: &'a Sealer,
    /// Who signs them.
    pub signing: &'a SigningKey,
    /// Names their chunks.
    pub chunk_key: &'a ChunkKey,
    /// What opens them; without, nothing can be verified by a restore, nor put back.
    pub opener: Option<&'a Opener>,
    /// Where the run is written down.
    pub ledger: &'a Ledger,
    /// The databases, in the order given; at least one. The first is the one that a command works on
    /// which knows of one only, and its role is the one that fences, ends sessions and renames.
    pub databases: &'a [DatabaseSettings],
    /// How migrations are fenced and judged.
    pub gate: &'a GateSettings,
    /// Who runs the command.
    pub runner: Runner<'a>,
    /// The log that is kept of the cluster; `None` where points in time are not kept.
    pub log: Option<KeptLog<'a>>,
    /// Where PostgreSQL's programs are looked for first.
    pub bin_directory: Option<&'a Path>,
    /// The search path for programs.
    pub path: &'a str,
    /// A 0700 directory for scratch clusters and spools.
    pub scratch_directory: &'a Path,
    /// Objects read, or tables loaded, at once by a verification.
    pub verify_jobs: usize,
    /// Told as things move.
    pub progress: &'a Arc<Progress>,
    /// Told when a phase begins.
    pub on_phase: &'a (dyn Fn(Phase) + Sync),
    /// Gets what the command writes, as it comes.
    pub on_output: &'a (dyn Fn(&[u8]) + Sync),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The run's name; see [`crate::rules::layout::SnapshotId`] for its form.
    pub id: String,
    /// The command's words.
    pub words: Vec<String>,
    /// Where it runs; of a command that runs elsewhere, where the commands of checks run.
    pub directory: PathBuf,
    /// Whether it is tried on a scratch copy first.
    pub rehearsal: Rehearsal,
    /// Whether revisions that say they break something are let through.
    pub allows_breaking: bool,
    /// libpq options of the caller's environment, which the command keeps.
    pub own_options: Option<String>,
    /// The migration scripts.
    pub scripts: ScriptsOf,
}

/// Where the migration scripts of a command are.
#[derive(Debug, Clone)]
pub enum ScriptsOf {
    /// In the directory of the command; with `ALEMBIC_CONFIG` of the caller's environment.
    Directory {
        /// It.
        alembic_config: Option<String>,
    },
    /// On the machine of the runner, which read them.
    Runner(Scripts),
}

impl<'a> Means<'a> {
    /// The database that a command works on which knows of one only.
    pub(super) fn first(&self) -> &'a DatabaseSettings {
        self.databases.first().expect("a run has a database")
    }
}

/// Told when the run is to stop: with [`Verdict::Interrupted`] or [`Verdict::Terminated`].
pub type Stop = watch::Receiver<Option<Verdict>>;

/// What an operator says about a held run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// What is to be done.
    pub decision: Decision,
    /// What becomes of a fence that cannot be released.
    pub failed_release: FailedRelease,
    /// What a restore may lose.
    pub loss: Loss,
}

/// Whether a run came to its end.
#[derive(Debug)]
pub enum Walked {
    /// It is done, or held.
    Ended(Position),
    /// The server cannot be reached; the next command that uses this database walks on.
    Suspended(JobError),
}

/// Runs a migration behind the gate; what happened is in the ledger under the request's id.
///
/// The caller holds the locks of the databases and shares that of the repository.
///
/// # Errors
/// What the ledger says. That the migration failed is no error, see [`Walked::Ended`].
pub async fn migrate(
    means: &Means<'_>,
    request: Request,
    stop: Stop,
    clock: fn() -> DateTime<Utc>,
) -> Result<Walked, JobError> {
    let addresses = environment::addresses(means);
    let command = during::mask_of(&addresses, &request.words).apply_words(&request.words);
    let databases: Vec<String> =
        means.databases.iter().map(|database| database.connection.database.clone()).collect();
    let run = NewRun { id: &request.id, databases: &databases, command: &command, started_at: clock() };
    means.ledger.begin_run(&run).await?;
    let run = RunFacts {
        directory: request.directory.clone(),
        rehearsal: request.rehearsal,
        order: order_of(means.gate.consistency, request.rehearsal),
        ..RunFacts::default()
    };
    let position = Position { phase: Phase::Requested, verdict: None };
    let facts = Facts { run, databases: Vec::new() };
    Walk::new(means, request, facts, position, stop, clock).walk_to_the_end().await
}

/// Walks a run on whose process died.
///
/// # Errors
/// As [`migrate`]; [`JobError::Refused`] when its facts cannot be read.
pub async fn resume(
    means: &Means<'_>,
    run: &GateRun,
    clock: fn() -> DateTime<Utc>,
) -> Result<Walked, JobError> {
    walk_on(means, run, read_facts(run)?, gate::resume(run.position, means.runner.place()), clock).await
}

/// Carries out what an operator decides about a held run.
///
/// # Errors
/// As [`resume`].
pub async fn resolve(
    means: &Means<'_>,
    run: &GateRun,
    resolution: Resolution,
    clock: fn() -> DateTime<Utc>,
) -> Result<Walked, JobError> {
    let (phase, verdict) = match resolution.decision {
        Decision::Restore(verdict) => (Phase::Restoring, verdict),
        Decision::Release(verdict) => (Phase::Releasing, verdict),
        Decision::Check | Decision::Hold(_) => return Ok(Walked::Ended(run.position)),
    };
    let mut facts = read_facts(run)?;
    (facts.run.failed_release, facts.run.loss) = (resolution.failed_release, resolution.loss);
    walk_on(means, run, facts, Position { phase, verdict: Some(verdict) }, clock).await
}

fn read_facts(run: &GateRun) -> Result<Facts, JobError> {
    serde_json::from_str(&run.facts).map_err(|error| JobError::Refused {
        action: format!("go on with run {}", run.id),
        reasons: vec![format!("the ledger's facts of it are unreadable: {error}")],
    })
}

async fn walk_on(
    means: &Means<'_>,
    run: &GateRun,
    facts: Facts,
    position: Position,
    clock: fn() -> DateTime<Utc>,
) -> Result<Walked, JobError> {
    let request = Request {
        id: run.id.clone(),
        words: run.command.clone(),
        directory: facts.run.directory.clone(),
        rehearsal: facts.run.rehearsal,
        allows_breaking: true,
        own_options: None,
        scripts: ScriptsOf::Directory { alembic_config: None },
    };
    let stop = match means.runner {
        Runner::Here => watch::channel(None).1,
        Runner::Elsewhere(runner) => runner.stop(),
    };
    Walk::new(means, request, facts, position, stop, clock).walk_to_the_end().await
}

/// Which order of phases is meant; `None` where nobody is kept out.
fn order_of(consistency: Consistency, rehearsal: Rehearsal) -> Option<Order> {
    match (consistency, rehearsal) {
        (_, Rehearsal::Only) | (Consistency::Unfenced, _) => None,
        (Consistency::Fenced, _) => Some(Order::FenceFirst),
        (Consistency::Checked, _) => Some(Order::SnapshotFirst),
    }
}
