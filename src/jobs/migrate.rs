//! Runs somebody else's migration behind a verified snapshot, and undoes it when it fails.
//!
//! Comes in: a command, a database, a stop signal. Goes out: a run in the ledger that tells phase
//! by phase what happened and how it ended. What is decided is decided in `rules::gate` and
//! `rules::classify`; here the phases are carried out, one at a time, each written down before its
//! act. A run whose process died is walked on by the next one ([`resume`]): what had not begun is
//! undone, and what may have begun is settled and judged, never begun again.

mod before;
mod during;
mod environment;
pub mod facts;
pub mod fingerprint;
mod judge;
mod preflight;
mod rehearse;
mod sessions;
mod undo;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use secrecy::SecretString;
use sqlx::postgres::PgConnection;
use tokio::sync::watch;

use self::facts::{Facts, Rehearsal};
use self::fingerprint::Look;
use super::restore::Prepared;
use super::verify::ScratchCopy;
use super::{JobError, Progress, Stopwatch};
use crate::catalog::{Catalog, Entry};
use crate::keys::ChunkKey;
use crate::ledger::{GateRun, Ledger, NewRun};
use crate::postgres::tools::Tools;
use crate::postgres::wal::WalReader;
use crate::postgres::{PostgresError, session};
use crate::rules::classify::Policy;
use crate::rules::gate::{self, Decision, Order, Outcome, Phase, Position, Verdict};
use crate::seal::{Opener, Sealer};
use crate::settings::{Consistency, DatabaseSettings, GateSettings, OnFailure, Stamped};

pub use self::environment::{application_name, connection_of};
pub use self::undo::pin_reason;

/// How often a phase is tried again after the server was lost and came back.
const ATTEMPTS: u32 = 3;
/// Between two looks whether the server is back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

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
    /// The database.
    pub database: &'a DatabaseSettings,
    /// How migrations are fenced and judged.
    pub gate: &'a GateSettings,
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
    /// Where it runs.
    pub directory: PathBuf,
    /// Whether it is tried on a scratch copy first.
    pub rehearsal: Rehearsal,
    /// Whether revisions that say they break something are let through.
    pub allows_breaking: bool,
    /// libpq options of the caller's environment, which the command keeps.
    pub own_options: Option<String>,
    /// `ALEMBIC_CONFIG` of the caller's environment.
    pub alembic_config: Option<String>,
}

/// Told when the run is to stop: with [`Verdict::Interrupted`] or [`Verdict::Terminated`].
pub type Stop = watch::Receiver<Option<Verdict>>;

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
/// The caller holds the lock of the database and shares that of the repository.
///
/// # Errors
/// What the ledger says. That the migration failed is no error, see [`Walked::Ended`].
pub async fn migrate(
    means: &Means<'_>,
    request: Request,
    stop: Stop,
    clock: fn() -> DateTime<Utc>,
) -> Result<Walked, JobError> {
    let database = &means.database.connection.database;
    let to = connection_of(means.database, means.gate);
    let mask = during::mask_of(&to, &means.database.connection);
    let command: Vec<String> = request.words.iter().map(|word| mask.apply(word)).collect();
    let started_at = clock();
    means.ledger.begin_run(&NewRun { id: &request.id, database, command: &command, started_at }).await?;
    let facts = Facts {
        section: means.database.key.clone(),
        directory: request.directory.clone(),
        rehearsal: request.rehearsal,
        order: order_of(means.gate.consistency, request.rehearsal),
        ..Facts::default()
    };
    let position = Position { phase: Phase::Requested, verdict: None };
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
    walk_on(means, run, gate::resume(run.position), clock).await
}

/// Carries out what an operator decides about a held run.
///
/// # Errors
/// As [`resume`].
pub async fn resolve(
    means: &Means<'_>,
    run: &GateRun,
    decision: Decision,
    clock: fn() -> DateTime<Utc>,
) -> Result<Walked, JobError> {
    let (phase, verdict) = match decision {
        Decision::Restore(verdict) => (Phase::Restoring, verdict),
        Decision::Release(verdict) => (Phase::Releasing, verdict),
        Decision::Check | Decision::Hold(_) => return Ok(Walked::Ended(run.position)),
    };
    walk_on(means, run, Position { phase, verdict: Some(verdict) }, clock).await
}

async fn walk_on(
    means: &Means<'_>,
    run: &GateRun,
    position: Position,
    clock: fn() -> DateTime<Utc>,
) -> Result<Walked, JobError> {
    let facts: Facts = serde_json::from_str(&run.facts).map_err(|error| JobError::Refused {
        action: format!("go on with run {}", run.id),
        reasons: vec![format!("the ledger's facts of it are unreadable: {error}")],
    })?;
    let request = Request {
        id: run.id.clone(),
        words: run.command.clone(),
        directory: facts.directory.clone(),
        rehearsal: facts.rehearsal,
        allows_breaking: true,
        own_options: None,
        alembic_config: None,
    };
    let (_, stop) = watch::channel(None);
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

/// A run, and what this process holds for it.
struct Walk<'a> {
    means: &'a Means<'a>,
    request: Request,
    facts: Facts,
    position: Position,
    stop: Stop,
    clock: fn() -> DateTime<Utc>,
    /// Holds the run's advisory lock.
    lock: Option<PgConnection>,
    entry: Option<Entry>,
    copy: Option<ScratchCopy>,
    prepared: Option<Prepared>,
    /// A copy that the server made before the command ran.
    local_copy: Option<Prepared>,
    server: Option<Server>,
    snapshots_taken: u32,
    /// What was known of the database's relations before it was closed.
    relations: Option<window::Relations>,
}

/// What is known of the server, once it was asked.
#[derive(Clone)]
struct Server {
    version_num: u32,
    tools: Tools,
    wal: WalReader,
}

impl<'a> Walk<'a> {
    fn new(
        means: &'a Means<'a>,
        request: Request,
        facts: Facts,
        position: Position,
        stop: Stop,
        clock: fn() -> DateTime<Utc>,
    ) -> Self {
        Self {
            means,
            request,
            facts,
            position,
            stop,
            clock,
            lock: None,
            entry: None,
            copy: None,
            prepared: None,
            local_copy: None,
            server: None,
            snapshots_taken: 0,
            relations: None,
        }
    }

    async fn walk_to_the_end(mut self) -> Result<Walked, JobError> {
        let order = self.facts.order.unwrap_or(Order::FenceFirst);
        while !self.position.phase.is_terminal() {
            self.enter().await?;
            let outcome = match self.act_until_stopped().await {
                Ok(outcome) => outcome,
                Err(error) if self.is_suspended_by(&error) => {
                    self.leave(&format!("suspended: {}", in_a_sentence(&error))).await?;
                    return Ok(Walked::Suspended(error));
                }
                Err(error) => self.outcome_of(&error),
            };
            let next = gate::next(order, self.position, outcome);
            self.leave(&in_words(self.position.phase, outcome, &self.facts)).await?;
            self.position = next;
        }
        self.drop_copy().await;
        if self.position.phase == Phase::Held {
            self.make_ready_for_an_operator().await;
        }
        self.enter().await?;
        Ok(Walked::Ended(self.position))
    }

    async fn enter(&self) -> Result<(), JobError> {
        (self.means.on_phase)(self.position.phase);
        tracing::info!(run = self.request.id, phase = self.position.phase.as_str(), "phase begins");
        let facts = self.facts_text();
        Ok(self.means.ledger.enter_phase(&self.request.id, self.position, &facts, (self.clock)()).await?)
    }

    async fn leave(&self, outcome: &str) -> Result<(), JobError> {
        self.note_facts().await?;
        Ok(self.means.ledger.leave_phase(&self.request.id, outcome, (self.clock)()).await?)
    }

    async fn note_facts(&self) -> Result<(), JobError> {
        Ok(self.means.ledger.note_facts(&self.request.id, &self.facts_text()).await?)
    }

    fn facts_text(&self) -> String {
        serde_json::to_string(&self.facts).expect("facts are maps with text keys, lists and numbers")
    }

    /// Acts in the current phase. Before the command starts, a stop cuts the act short; from then
    /// on the run goes to its end.
    async fn act_until_stopped(&mut self) -> Result<Outcome, JobError> {
        if !self.position.phase.is_before_start() {
            return self.act_again().await;
        }
        let mut stop = self.stop.clone();
        tokio::select! {
            done = self.act() => done,
            verdict = stopped(&mut stop) => Ok(Outcome::Refused(verdict)),
        }
    }

    /// Acts, and acts again when the server was lost and came back: every act from the start of
    /// the command on may be repeated.
    async fn act_again(&mut self) -> Result<Outcome, JobError> {
        for _ in 1..ATTEMPTS {
            match self.act().await {
                Err(error) if is_lost(&error) && self.is_reachable_again().await => {}
                done => return done,
            }
        }
        self.act().await
    }

    async fn act(&mut self) -> Result<Outcome, JobError> {
        match self.position.phase {
            Phase::Requested => self.request_lock().await,
            Phase::Preflight => self.preflight().await,
            Phase::Fencing => self.raise_fences().await,
            Phase::Snapshotting => self.take_snapshot().await,
            Phase::Verifying => self.verify_snapshot().await,
            Phase::Rehearsing => self.rehearse().await,
            Phase::Armed => self.arm().await,
            Phase::Migrating => self.run_command().await,
            Phase::Settling => self.settle().await,
            Phase::Classifying => self.classify().await,
            Phase::Checking => self.check().await,
            Phase::Restoring => self.prepare_restore().await,
            Phase::Swapping => self.swap().await,
            Phase::Releasing => self.release().await,
            Phase::Done | Phase::Held => Ok(Outcome::Passed),
        }
    }

    async fn is_reachable_again(&self) -> bool {
        let deadline = tokio::time::Instant::now() + self.means.gate.settle_timeout;
        while tokio::time::Instant::now() < deadline {
            if self.maintenance_session().await.is_ok() {
                return true;
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        false
    }

    /// Whether the run stands still until a later command walks on: the command may have started,
    /// and the server cannot be asked.
    fn is_suspended_by(&self, error: &JobError) -> bool {
        !self.position.phase.is_before_start() && is_lost(error)
    }

    /// What an error of a phase means for the run.
    fn outcome_of(&mut self, error: &JobError) -> Outcome {
        let reasons = match error {
            JobError::Refused { reasons, .. } => reasons.clone(),
            other => vec![in_a_sentence(other)],
        };
        let is_refusal = matches!(error, JobError::Refused { .. });
        self.facts.reasons.extend(reasons);
        match self.position.phase {
            Phase::Requested | Phase::Preflight => Outcome::Refused(Verdict::Refused),
            Phase::Fencing => Outcome::Refused(Verdict::FenceFailed),
            Phase::Snapshotting | Phase::Verifying | Phase::Armed => Outcome::Refused(Verdict::NoSnapshot),
            Phase::Rehearsing => Outcome::Refused(Verdict::RehearsalFailed),
            Phase::Migrating => Outcome::Passed,
            Phase::Classifying | Phase::Checking => Outcome::Decided(Decision::Hold(Verdict::Unknown)),
            Phase::Restoring if is_refusal => Outcome::Refused(Verdict::RestoreRefused),
            Phase::Restoring | Phase::Swapping => Outcome::Refused(Verdict::RestoreFailed),
            Phase::Settling => Outcome::Refused(Verdict::Unknown),
            Phase::Releasing | Phase::Done | Phase::Held => {
                Outcome::Refused(self.position.verdict.unwrap_or(Verdict::Unknown))
            }
        }
    }

    async fn maintenance_session(&self) -> Result<PgConnection, PostgresError> {
        session::connect(&self.means.database.connection.with_database(session::MAINTENANCE_DATABASE)).await
    }

    /// The server's version, programs and log, asked once.
    async fn server(&mut self) -> Result<Server, JobError> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        let mut session = self.maintenance_session().await?;
        let version_num = session::server_version_num(&mut session).await?;
        let (bin_directory, path, major) = (self.means.bin_directory, self.means.path, version_num / 10_000);
        let tools = Tools::find(bin_directory, path, major).await?;
        let connection = &self.means.database.connection;
        let wal = WalReader::find(connection, &mut session, bin_directory, path, major).await?;
        let server = Server { version_num, tools, wal };
        self.server = Some(server.clone());
        Ok(server)
    }

    fn look<'s>(&'s self, tools: &'s Tools) -> Look<'s> {
        Look {
            connection: &self.means.database.connection,
            tools,
            version_table: &self.means.gate.version_table,
            version_column: &self.means.gate.version_column,
            progress: self.means.progress,
        }
    }

    fn policy(&self) -> Policy {
        Policy {
            accepts_stamped: self.means.gate.stamped == Stamped::Accept,
            restores: self.means.gate.on_failure == OnFailure::Restore,
        }
    }

    fn environment(&self, to: &crate::settings::Connection, version_num: u32) -> Vec<(String, SecretString)> {
        environment::variables(
            &self.request.id,
            to,
            self.means.database.env_prefix.as_deref(),
            self.means.gate,
            version_num,
            self.request.own_options.as_deref(),
        )
    }

    /// Lets operators look into a database whose run is held, and keeps its snapshot. What cannot
    /// be done is told with the run: that it is held must be told in any case.
    async fn make_ready_for_an_operator(&mut self) {
        let reopened = self.reopen_if_closed().await;
        let pinned = self.pin_snapshot().await;
        let dropped = self.drop_local_copy().await;
        for error in [reopened, pinned, dropped].into_iter().filter_map(Result::err) {
            self.facts.notes.push(in_a_sentence(&error));
        }
    }

    async fn drop_copy(&mut self) {
        if let Some(copy) = self.copy.take() {
            // What is left of a scratch cluster is swept by the next run.
            let _ = copy.remove().await;
        }
    }
}

/// Waits for a stop, for ever if none comes.
async fn stopped(stop: &mut Stop) -> Verdict {
    match stop.wait_for(Option::is_some).await {
        Ok(verdict) => verdict.unwrap_or(Verdict::Interrupted),
        Err(_) => std::future::pending().await,
    }
}

/// Whether an error says that the server is gone, for the moment or for long.
fn is_lost(error: &JobError) -> bool {
    let JobError::Postgres(error) = error else { return false };
    let source = match error {
        PostgresError::Connect { source, .. } | PostgresError::Query { source, .. } => source,
        _ => return false,
    };
    match source {
        sqlx::Error::Database(said) => {
            // Shutdown, crash, start-up; a session that was ended by somebody.
            said.code().is_some_and(|code| matches!(code.as_ref(), "57P01" | "57P02" | "57P03"))
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// An error with its causes, in one line.
fn in_a_sentence(error: &dyn std::error::Error) -> String {
    super::verify::in_a_sentence(error)
}

fn in_words(phase: Phase, outcome: Outcome, facts: &Facts) -> String {
    match (phase, outcome) {
        (Phase::Migrating, _) => {
            facts.exit.as_ref().map_or_else(|| "it is not known how it ended".into(), ToString::to_string)
        }
        (_, Outcome::Passed) => "passed".into(),
        (_, Outcome::Stale) => "something was committed since the snapshot".into(),
        (_, Outcome::Refused(verdict)) => verdict.sentence().into(),
        (_, Outcome::Decided(Decision::Check)) => "to be checked".into(),
        (_, Outcome::Decided(Decision::Release(verdict))) => format!("release: {}", verdict.sentence()),
        (_, Outcome::Decided(Decision::Restore(_))) => "to be put back".into(),
        (_, Outcome::Decided(Decision::Hold(verdict))) => format!("hold: {}", verdict.sentence()),
    }
}
