//! The command itself, and the end of all that it started.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnection;

use super::sessions::Watch;
use super::walk::{Walk, stopped};
use super::{JobError, Stopwatch, connection_of};
use crate::command::{self, CommandLine};
use crate::postgres::session::{self, rows};
use crate::rules::causes::in_a_sentence;
use crate::rules::classify::Exit;
use crate::rules::gate::{Outcome, Verdict};
use crate::rules::mask::{CapturedOutput, Mask, MaskedLines};
use crate::rules::sql::literal;
use crate::settings::Connection;

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

/// What must not be shown of an environment.
pub(super) fn mask_of(to: &Connection, database: &Connection) -> Mask {
    let secret = |password: &SecretString| password.expose_secret().to_owned();
    Mask::new(to.password.iter().chain(&database.password).map(secret))
}

impl Walk<'_> {
    /// Runs the command. From here on it may have started, whatever becomes of us.
    pub(super) async fn run_command(&mut self) -> Result<Outcome, JobError> {
        let server = self.server().await?;
        let to = connection_of(self.means.database, self.means.gate);
        let environment = self.environment(&to, server.version_num);
        let mask = mask_of(&to, &self.means.database.connection);
        let (watch, recorded) = (Watch::of(self), Recorded::new(mask, self.means.on_output));
        let stopwatch = Stopwatch::start();
        let mut stop = self.stop.clone();
        let take = |bytes: &[u8]| recorded.take(bytes);
        let line = self.command_line(&environment);
        let running = line.run(&take, async { _ = stopped(&mut stop).await });
        let ended = tokio::select! {
            ended = running => ended,
            () = watch.keep_on() => unreachable!("the watch goes on until it is dropped"),
            () = self.hold.guard_disk() => unreachable!("the guard goes on until it is dropped"),
        };
        let elapsed_ms = stopwatch.elapsed_ms();
        let (named, foreign) = watch.into_seen(&to.user);
        self.means.ledger.keep_output(&self.request.id, &recorded.text()).await?;
        self.facts.command_ms = elapsed_ms;
        (self.facts.has_named_sessions, self.facts.foreign_sessions) = (named, foreign);
        self.facts.exit = Some(ended.unwrap_or_else(|error| {
            self.facts.reasons.push(in_a_sentence(&error));
            Exit::Status(NOT_STARTED)
        }));
        Ok(Outcome::Passed)
    }

    /// Ends every process and every session of the run, and looks again: a statement goes on when
    /// its client is gone, and may commit afterwards.
    pub(super) async fn settle(&mut self) -> Result<Outcome, JobError> {
        let living = command::end_processes(&self.request.id, PROCESS_PATIENCE).await;
        if living > 0 {
            self.facts.reasons.push(format!("{living} processes of the command do not end"));
            return Ok(Outcome::Refused(Verdict::Unknown));
        }
        let mut session = self.maintenance_session().await?;
        // No process of the run lives: whoever comes from now on is somebody else.
        let last_moment: String =
            session::answer(&mut session, "the time", "SELECT clock_timestamp()").await?;
        let deadline = tokio::time::Instant::now() + self.means.gate.settle_timeout;
        let mut quiet_looks = 0;
        while quiet_looks < QUIET_LOOKS {
            let told = self.end_own_sessions(&mut session, &last_moment).await?;
            quiet_looks = if told == 0 { quiet_looks + 1 } else { 0 };
            if told > 0 && tokio::time::Instant::now() >= deadline {
                self.facts.reasons.push(format!("{told} sessions of the run do not end"));
                return Ok(Outcome::Refused(Verdict::Unknown));
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
        self.facts.settled_lsn = Some(self.lsn().await?);
        Ok(Outcome::Passed)
    }

    /// Ends the sessions that are or may be the run's: where writers are kept out, all that began
    /// until `last_moment`; among those of an application that lives, the ones that are known.
    async fn end_own_sessions(
        &self,
        session: &mut PgConnection,
        last_moment: &str,
    ) -> Result<usize, JobError> {
        let role = self.means.gate.role.as_ref();
        let is_of_run = match (self.facts.order, role) {
            (Some(_), _) => "true".to_owned(),
            (None, None) => {
                format!("application_name = {}", literal(&super::application_name(&self.request.id)))
            }
            (None, Some(role)) => format!(
                "(application_name = {} OR usename = {})",
                literal(&super::application_name(&self.request.id)),
                literal(&role.name)
            ),
        };
        let sql = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
             WHERE datname = {} AND (backend_type = 'client backend' OR backend_type IS NULL AND usesysid IS NOT NULL) \
               AND coalesce(application_name, '') <> 'belay' AND pid <> pg_catalog.pg_backend_pid() \
               AND (backend_start IS NULL OR backend_start <= {}) AND {is_of_run}",
            literal(&self.means.database.connection.database),
            literal(last_moment)
        );
        Ok(rows(session, "end the sessions of the run", sql).await?.len())
    }

    /// Another command of the same run, such as the way down of a rehearsal or a check.
    pub(super) fn other_command<'s>(
        &'s self,
        words: &'s [String],
        environment: &'s [(String, SecretString)],
    ) -> CommandLine<'s> {
        CommandLine { words, ..self.command_line(environment) }
    }
}
