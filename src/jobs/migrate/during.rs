//! The command itself, and the end of all that it started.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnection;

use super::environment::{self, Address};
use super::run::Run;
use super::runner::{RemoteRunner, Runner};
use super::sessions::{Watch, keep_all_on};
use super::walk::{Walk, stopped};
use super::{JobError, Stopwatch};
use crate::command;
use crate::postgres::session::{self, rows};
use crate::rules::api::Go;
use crate::rules::causes::in_a_sentence;
use crate::rules::classify::Exit;
use crate::rules::gate::{Outcome, Verdict};
use crate::rules::lease;
use crate::rules::mask::{CapturedOutput, Mask, MaskedLines, secrets_in};
use crate::rules::sql::literal;

/// How long the processes of a run may take to end.
const PROCESS_PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks for sessions of the run.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// So many looks in a row must find nobody: a backend may be on its way to the next statement.
const QUIET_LOOKS: u32 = 3;
/// What a shell says of a program that it cannot start.
const NOT_STARTED: i32 = 127;

/// What a command wrote: passed on as it comes, and kept.
pub(super) struct Recorded<'a> {
    mask: Mask,
    pass_on: &'a (dyn Fn(&[u8]) + Sync),
    both: Mutex<(CapturedOutput, MaskedLines)>,
}

impl<'a> Recorded<'a> {
    pub(super) fn new(mask: Mask, pass_on: &'a (dyn Fn(&[u8]) + Sync)) -> Self {
        let both = Mutex::new((CapturedOutput::default(), MaskedLines::new(mask.clone())));
        Self { mask, pass_on, both }
    }

    pub(super) fn take(&self, bytes: &[u8]) {
        let mut both = self.both.lock().unwrap_or_else(PoisonError::into_inner);
        both.0.push(bytes);
        (self.pass_on)(&both.1.push(bytes));
    }

    /// All of it, cut to a bound, without secrets.
    pub(super) fn text(self) -> String {
        let (captured, lines) = self.both.into_inner().unwrap_or_else(PoisonError::into_inner);
        (self.pass_on)(&lines.finish());
        self.mask.apply(&captured.text())
    }
}

/// What must not be shown of an environment, and of the words of a command.
pub(super) fn mask_of(addresses: &[Address<'_>], words: &[String]) -> Mask {
    let secret = |password: &SecretString| password.expose_secret().to_owned();
    let passwords =
        addresses.iter().flat_map(|it| it.to.password.iter().chain(&it.settings.connection.password));
    Mask::new(passwords.map(secret).chain(secrets_in(words)))
}

impl Walk<'_> {
    /// Runs the command, or waits for whoever runs it. From here on it may have started, whatever
    /// becomes of us.
    pub(super) async fn run_command(&mut self) -> Result<Outcome, JobError> {
        let watches: Vec<_> = self.members.iter().map(|member| Watch::of(&self.run, member)).collect();
        let ran = match self.run.means.runner {
            Runner::Here => self.run_here(&watches).await?,
            Runner::Elsewhere(runner) => self.run_elsewhere(runner, &watches).await?,
        };
        for (member, watch) in self.members.iter_mut().zip(watches) {
            let role = member.address(&self.run).to.user;
            let (named, foreign) = watch.into_seen(&role);
            member.facts.has_named_sessions |= named;
            self.run.facts.foreign_sessions.extend(member.say_all(foreign));
        }
        self.run.facts.reasons.extend(ran.why_not_started);
        self.run.facts.command_ms = ran.elapsed_ms;
        self.run.facts.exit = Some(ran.exit);
        Ok(Outcome::Passed)
    }

    async fn run_here(&mut self, watches: &[Watch<'_>]) -> Result<Ran, JobError> {
        let server = self.run.server().await?;
        let addresses = self.addresses();
        let environment = self.run.environment(&addresses, server.version_num);
        let mask = mask_of(&addresses, &self.run.request.words);
        let recorded = Recorded::new(mask, self.run.means.on_output);
        let stopwatch = Stopwatch::start();
        let mut stop = self.run.stop.clone();
        let take = |bytes: &[u8]| recorded.take(bytes);
        let line = self.run.command_line(&environment);
        let running = line.run(&take, async { _ = stopped(&mut stop).await });
        let ended = self.run.while_watching(watches, running).await;
        let elapsed_ms = stopwatch.elapsed_ms();
        self.run.means.ledger.keep_output(&self.run.request.id, &recorded.text()).await?;
        let why_not_started = ended.as_ref().err().map(|error| in_a_sentence(error));
        Ok(Ran { exit: ended.unwrap_or(Exit::Status(NOT_STARTED)), elapsed_ms, why_not_started })
    }

    /// Waits for the end of a command that runs on another machine; after a restart of the daemon,
    /// of one that runs already.
    async fn run_elsewhere(&mut self, runner: &RemoteRunner, watches: &[Watch<'_>]) -> Result<Ran, JobError> {
        let server = self.run.server().await?;
        self.hold_again().await?;
        let gate = self.run.means.gate;
        let go = Go {
            environment: environment::marks(&self.run.request.id, gate, server.version_num, None).into(),
            timeout_seconds: gate.timeout.as_secs(),
            lease_seconds: runner.length().as_secs(),
        };
        let mask = mask_of(&self.addresses(), &self.run.request.words);
        let waiting = runner.run_command(go, mask, gate.timeout);
        let exit = self.run.while_watching(watches, waiting).await?;
        Ok(Ran { exit, elapsed_ms: runner.elapsed_ms().await, why_not_started: None })
    }

    /// Holds again what a daemon that died held for a run whose command goes on: the locks of its
    /// databases' gates, and the server's log. What cannot be had is a note of the run.
    async fn hold_again(&mut self) -> Result<(), JobError> {
        if self.run.lock.is_some() {
            return Ok(());
        }
        // The server may not have noticed yet that the daemon before us is gone.
        let deadline = tokio::time::Instant::now() + PROCESS_PATIENCE;
        let (mut session, mut taken) = self.lock_gates().await?;
        while taken.is_some() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(SETTLE_PAUSE).await;
            drop(session);
            (session, taken) = self.lock_gates().await?;
        }
        if let Some(name) = taken {
            self.run.facts.notes.push(format!("while no daemon ran, another host locked the gate of {name}"));
        }
        self.run.lock = Some(session);
        self.run.hold_log().await
    }

    /// Ends every process and every session of the run, and looks again: a statement goes on when
    /// its client is gone, and may commit afterwards.
    pub(super) async fn settle(&mut self) -> Result<Outcome, JobError> {
        let living = command::end_processes(&self.run.request.id, PROCESS_PATIENCE).await;
        if living > 0 {
            self.run.facts.reasons.push(format!("{living} processes of the command do not end"));
            return Ok(Outcome::Refused(Verdict::Unknown));
        }
        let names: Vec<&str> = self.members.iter().map(|member| member.name()).collect();
        let mut session = self.run.maintenance_session().await?;
        if self.run.facts.exit == Some(Exit::Lost) {
            self.run.see_off(&mut session, &names).await?;
        }
        // No process of the run lives: whoever comes from now on is somebody else.
        let last_moment: String =
            session::answer(&mut session, "the time", "SELECT clock_timestamp()").await?;
        let deadline = tokio::time::Instant::now() + self.run.means.gate.settle_timeout;
        let mut quiet_looks = 0;
        while quiet_looks < QUIET_LOOKS {
            let told = self.run.end_own_sessions(&mut session, &names, &last_moment).await?;
            quiet_looks = if told == 0 { quiet_looks + 1 } else { 0 };
            if told > 0 && tokio::time::Instant::now() >= deadline {
                self.run.facts.reasons.push(format!("{told} sessions of the run do not end"));
                return Ok(Outcome::Refused(Verdict::Unknown));
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
        self.run.facts.settled_lsn = Some(self.run.lsn().await?);
        Ok(Outcome::Passed)
    }
}

/// How a command ended, wherever it ran.
struct Ran {
    exit: Exit,
    elapsed_ms: u64,
    why_not_started: Option<String>,
}

impl Run<'_> {
    /// Does `work`, and looks meanwhile who is in the databases, and whether the disk fills.
    async fn while_watching<T>(&self, watches: &[Watch<'_>], work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            () = keep_all_on(watches) => unreachable!("the watch goes on until it is dropped"),
            () = self.hold.guard_disk() => unreachable!("the guard goes on until it is dropped"),
        }
    }

    /// Ends sessions of the run for as long as the command of a lost runner may live and come back.
    async fn see_off(&self, session: &mut PgConnection, databases: &[&str]) -> Result<(), JobError> {
        let deadline = tokio::time::Instant::now() + lease::END_PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let now: String = session::answer(session, "the time", "SELECT clock_timestamp()").await?;
            self.end_own_sessions(session, databases, &now).await?;
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
        Ok(())
    }

    /// Ends the sessions in `databases` that are or may be the run's: where writers are kept out,
    /// all that began until `last_moment`; among those of an application that lives, the ones that
    /// are known.
    async fn end_own_sessions(
        &self,
        session: &mut PgConnection,
        databases: &[&str],
        last_moment: &str,
    ) -> Result<usize, JobError> {
        let application = literal(&super::application_name(&self.request.id));
        let is_of_run = match (self.facts.order, &self.means.gate.role) {
            (Some(_), _) => "true".to_owned(),
            (None, None) => format!("application_name = {application}"),
            (None, Some(role)) => {
                format!("(application_name = {application} OR usename = {})", literal(&role.name))
            }
        };
        let names: Vec<String> = databases.iter().map(|name| literal(name)).collect();
        let sql = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
             WHERE datname IN ({}) AND (backend_type = 'client backend' OR backend_type IS NULL AND usesysid IS NOT NULL) \
               AND coalesce(application_name, '') <> 'belay' AND pid <> pg_catalog.pg_backend_pid() \
               AND (backend_start IS NULL OR backend_start <= {}) AND {is_of_run}",
            names.join(", "),
            literal(last_moment)
        );
        Ok(rows(session, "end the sessions of the run", sql).await?.len())
    }
}
