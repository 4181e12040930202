//! Walks a run from phase to phase: each written down before its act, its outcome after it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::environment::Address;
use super::facts::{DatabaseFacts, Facts, RunFacts};
use super::hold::LogHold;
use super::member::Member;
use super::run::Run;
use super::{JobError, Means, Request, Stop, Walked};
use crate::postgres::PostgresError;
use crate::rules::causes::in_a_sentence;
use crate::rules::gate::{self, Decision, Order, Outcome, Phase, Position, Verdict};

/// How often a phase is tried again after the server was lost and came back.
const ATTEMPTS: u32 = 3;
/// Between two looks whether the server is back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// A run and its databases.
pub(super) struct Walk<'a> {
    pub(super) run: Run<'a>,
    /// In the order given; at least one.
    pub(super) members: Vec<Member<'a>>,
}

/// As [`Facts`], where they are.
#[derive(Serialize)]
struct FactsOf<'a> {
    run: &'a RunFacts,
    databases: Vec<&'a DatabaseFacts>,
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
        let Facts { run: facts, databases } = facts;
        let members = Member::all(means.databases, databases);
        let run = Run {
            means,
            request,
            facts,
            position,
            stop,
            clock,
            lock: None,
            hold: LogHold::default(),
            server: None,
            snapshots_taken: 0,
            moment: None,
        };
        Self { run, members }
    }

    pub(super) async fn walk_to_the_end(mut self) -> Result<Walked, JobError> {
        let order = self.run.facts.order.unwrap_or(Order::FenceFirst);
        while !self.run.position.phase.is_terminal() {
            self.enter().await?;
            let outcome = match self.act_until_stopped().await {
                Ok(outcome) => outcome,
                Err(error) if self.is_suspended_by(&error) => {
                    self.leave(&format!("suspended: {}", in_a_sentence(&error))).await?;
                    return Ok(Walked::Suspended(error));
                }
                Err(error) => self.outcome_of(&error),
            };
            let next = gate::next(order, self.run.position, outcome);
            self.leave(&in_words(self.run.position.phase, outcome, &self.run.facts)).await?;
            self.run.position = next;
        }
        self.drop_copies().await;
        if self.run.position.phase == Phase::Held {
            self.make_ready_for_an_operator().await;
        }
        self.enter().await?;
        Ok(Walked::Ended(self.run.position))
    }

    async fn enter(&self) -> Result<(), JobError> {
        (self.run.means.on_phase)(self.run.position.phase);
        tracing::info!(run = self.run.request.id, phase = self.run.position.phase.as_str(), "phase begins");
        let facts = self.facts_text();
        Ok(self
            .run
            .means
            .ledger
            .enter_phase(&self.run.request.id, self.run.position, &facts, (self.run.clock)())
            .await?)
    }

    async fn leave(&self, outcome: &str) -> Result<(), JobError> {
        self.note_facts().await?;
        Ok(self.run.means.ledger.leave_phase(&self.run.request.id, outcome, (self.run.clock)()).await?)
    }

    pub(super) async fn note_facts(&self) -> Result<(), JobError> {
        Ok(self.run.means.ledger.note_facts(&self.run.request.id, &self.facts_text()).await?)
    }

    fn facts_text(&self) -> String {
        let databases = self.members.iter().map(|member| &member.facts).collect();
        let facts = FactsOf { run: &self.run.facts, databases };
        serde_json::to_string(&facts).expect("facts are maps with text keys, lists and numbers")
    }

    /// Acts in the current phase. Before the command starts, a stop cuts the act short; from then
    /// on the run goes to its end.
    async fn act_until_stopped(&mut self) -> Result<Outcome, JobError> {
        if !self.run.position.phase.is_before_start() {
            return self.act_again().await;
        }
        let mut stop = self.run.stop.clone();
        tokio::select! {
            done = self.act() => done,
            verdict = stopped(&mut stop) => {
                self.run.facts.reasons.extend(self.run.means.runner.why_stopped().await);
                Ok(Outcome::Refused(verdict))
            }
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
        match self.run.position.phase {
            Phase::Requested => Box::pin(self.request_locks()).await,
            Phase::Preflight => Box::pin(self.preflight()).await,
            Phase::Fencing => Box::pin(self.raise_fences()).await,
            Phase::Snapshotting => Box::pin(self.take_snapshots()).await,
            Phase::Verifying => Box::pin(self.verify_snapshots()).await,
            Phase::Rehearsing => Box::pin(self.rehearse()).await,
            Phase::Armed => Box::pin(self.arm()).await,
            Phase::Migrating => Box::pin(self.run_command()).await,
            Phase::Settling => Box::pin(self.settle()).await,
            Phase::Classifying => Box::pin(self.classify()).await,
            Phase::Checking => Box::pin(self.check()).await,
            Phase::Restoring => Box::pin(self.prepare_restores()).await,
            Phase::Swapping => Box::pin(self.swap()).await,
            Phase::Releasing => Box::pin(self.release()).await,
            Phase::Done | Phase::Held => Ok(Outcome::Passed),
        }
    }

    async fn is_reachable_again(&self) -> bool {
        let deadline = tokio::time::Instant::now() + self.run.means.gate.settle_timeout;
        while tokio::time::Instant::now() < deadline {
            if self.run.maintenance_session().await.is_ok() {
                return true;
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        false
    }

    /// Whether the run stands still until a later command walks on: the command may have started,
    /// and the server cannot be asked, or the command runs elsewhere and we are to end.
    fn is_suspended_by(&self, error: &JobError) -> bool {
        let is_elsewhere = matches!(error, JobError::RunsElsewhere { .. });
        !self.run.position.phase.is_before_start() && (is_lost(error) || is_elsewhere)
    }

    /// What an error of a phase means for the run.
    fn outcome_of(&mut self, error: &JobError) -> Outcome {
        let reasons = match error {
            JobError::Refused { reasons, .. } => reasons.clone(),
            other => vec![in_a_sentence(other)],
        };
        let is_refusal = matches!(error, JobError::Refused { .. });
        self.run.facts.reasons.extend(reasons);
        match self.run.position.phase {
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
                Outcome::Refused(self.run.position.verdict.unwrap_or(Verdict::Unknown))
            }
        }
    }

    /// Where the command finds the databases.
    pub(super) fn addresses(&self) -> Vec<Address<'a>> {
        self.members.iter().map(|member| member.address(&self.run)).collect()
    }

    /// Lets operators look into databases whose run is held, and keeps their snapshots. What cannot
    /// be done is told with the run: that it is held must be told in any case.
    async fn make_ready_for_an_operator(&mut self) {
        let mut done = vec![self.reopen_if_closed().await];
        for member in &self.members {
            done.push(member.pin_snapshot(&self.run).await);
        }
        done.push(self.drop_local_copies().await);
        let errors = done.into_iter().filter_map(Result::err);
        self.run.facts.notes.extend(errors.map(|error| in_a_sentence(&error)));
    }

    pub(super) async fn drop_copies(&mut self) {
        for member in &mut self.members {
            member.drop_copy().await;
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

fn in_words(phase: Phase, outcome: Outcome, facts: &RunFacts) -> String {
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
