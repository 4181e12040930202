//! Walks a run from phase to phase: each written down before its act, its outcome after it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use sqlx::postgres::PgConnection;

use super::facts::Facts;
use super::fingerprint::Look;
use super::hold::LogHold;
use super::{JobError, Means, Request, Stop, Walked, environment, window};
use crate::catalog::Entry;
use crate::jobs::restore::Prepared;
use crate::jobs::verify::ScratchCopy;
use crate::postgres::tools::Tools;
use crate::postgres::wal::WalReader;
use crate::postgres::{PostgresError, session};
use crate::rules::causes::in_a_sentence;
use crate::rules::classify::Policy;
use crate::rules::gate::{self, Decision, Order, Outcome, Phase, Position, Verdict};
use crate::settings::{Connection, OnFailure, Stamped};

/// How often a phase is tried again after the server was lost and came back.
const ATTEMPTS: u32 = 3;
/// Between two looks whether the server is back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// A run, and what this process holds for it.
pub(super) struct Walk<'a> {
    pub(super) means: &'a Means<'a>,
    pub(super) request: Request,
    pub(super) facts: Facts,
    pub(super) position: Position,
    pub(super) stop: Stop,
    pub(super) clock: fn() -> DateTime<Utc>,
    /// Holds the run's advisory lock.
    pub(super) lock: Option<PgConnection>,
    pub(super) entry: Option<Entry>,
    pub(super) copy: Option<ScratchCopy>,
    pub(super) prepared: Option<Prepared>,
    /// A copy that the server made before the command ran.
    pub(super) local_copy: Option<Prepared>,
    /// Keeps the server's log from the moment before the command on.
    pub(super) hold: LogHold,
    pub(super) server: Option<Server>,
    pub(super) snapshots_taken: u32,
    /// What was known of the database's relations before it was closed.
    pub(super) relations: Option<window::Relations>,
}

/// What is known of the server, once it was asked.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) version_num: u32,
    pub(super) tools: Tools,
    pub(super) wal: WalReader,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
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
            hold: LogHold::default(),
            server: None,
            snapshots_taken: 0,
            relations: None,
        }
    }

    pub(super) async fn walk_to_the_end(mut self) -> Result<Walked, JobError> {
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

    pub(super) async fn note_facts(&self) -> Result<(), JobError> {
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
        // On the heap, each by itself: the future of a run would hold room for all of them.
        match self.position.phase {
            Phase::Requested => Box::pin(self.request_lock()).await,
            Phase::Preflight => Box::pin(self.preflight()).await,
            Phase::Fencing => Box::pin(self.raise_fences()).await,
            Phase::Snapshotting => Box::pin(self.take_snapshot()).await,
            Phase::Verifying => Box::pin(self.verify_snapshot()).await,
            Phase::Rehearsing => Box::pin(self.rehearse()).await,
            Phase::Armed => Box::pin(self.arm()).await,
            Phase::Migrating => Box::pin(self.run_command()).await,
            Phase::Settling => Box::pin(self.settle()).await,
            Phase::Classifying => Box::pin(self.classify()).await,
            Phase::Checking => Box::pin(self.check()).await,
            Phase::Restoring => Box::pin(self.prepare_restore()).await,
            Phase::Swapping => Box::pin(self.swap()).await,
            Phase::Releasing => Box::pin(self.release()).await,
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

    pub(super) async fn maintenance_session(&self) -> Result<PgConnection, PostgresError> {
        session::connect(&self.means.database.connection.with_database(session::MAINTENANCE_DATABASE)).await
    }

    /// The server's version, programs and log, asked once.
    pub(super) async fn server(&mut self) -> Result<Server, JobError> {
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

    pub(super) fn look<'s>(&'s self, tools: &'s Tools) -> Look<'s> {
        Look {
            connection: &self.means.database.connection,
            tools,
            version_table: &self.means.gate.version_table,
            version_column: &self.means.gate.version_column,
            progress: self.means.progress,
        }
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            accepts_stamped: self.means.gate.stamped == Stamped::Accept,
            restores: self.means.gate.on_failure == OnFailure::Restore,
        }
    }

    pub(super) fn environment(&self, to: &Connection, version_num: u32) -> Vec<(String, SecretString)> {
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

    pub(super) async fn drop_copy(&mut self) {
        if let Some(copy) = self.copy.take() {
            // What is left of a scratch cluster is swept by the next run.
            let _ = copy.remove().await;
        }
    }
}

/// Waits for a stop, for ever if none comes.
pub(super) async fn stopped(stop: &mut Stop) -> Verdict {
    let told = stop.wait_for(Option::is_some).await.map(|verdict| verdict.unwrap_or(Verdict::Interrupted));
    match told {
        Ok(verdict) => verdict,
        Err(_) => std::future::pending().await,
    }
}

/// Whether an error says that the server is gone, for the moment or for long.
fn is_lost(error: &JobError) -> bool {
    let JobError::Postgres(error) = error else { return false };
    is_lost_session(error)
}

/// As [`is_lost`], of PostgreSQL's own errors.
pub(super) fn is_lost_session(error: &PostgresError) -> bool {
    if let PostgresError::ToolFailed { messages, .. } = error {
        return ["server closed the connection", "the database system is", "terminating connection"]
            .iter()
            .any(|said| messages.contains(said));
    }
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

fn in_words(phase: Phase, outcome: Outcome, facts: &Facts) -> String {
    match (phase, outcome) {
        (Phase::Migrating, _) => {
            facts.exit.as_ref().map_or_else(|| "it is not known how it ended".into(), ToString::to_string)
        }
        (Phase::Releasing, Outcome::Passed) if !facts.declared_down.is_empty() => {
            format!("passed; declared down by an operator: {}", facts.declared_down.join("; "))
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
