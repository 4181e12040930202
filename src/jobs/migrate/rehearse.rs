//! The command against a scratch copy of the snapshot: up, or up, down and up again.
//!
//! While it runs, the database itself lets nobody in where writers are kept out anyway: a command
//! that takes its connection from elsewhere than its environment fails, instead of migrating what
//! was not to be touched. Where writers are not kept out, the database is looked at before and after.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use rand::distr::Alphanumeric;
use secrecy::SecretString;

use super::during::{Recorded, mask_of};
use super::facts::{Rehearsal, RehearsalFacts};
use super::fingerprint::{Look, why_ambiguous};
use super::sessions::Watch;
use super::stray::Strayed;
use super::walk::Walk;
use super::{JobError, Stopwatch, connection_of};
use crate::postgres::session::{self, column, rows};
use crate::rules::classify::{Exit, Expected};
use crate::rules::gate::{Decision, Outcome, Verdict};
use crate::rules::sql::{literal, quoted};
use crate::settings::{Connection, RehearsalCycle};

/// Between two looks for locks.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

impl Walk<'_> {
    /// Rehearses, if that was asked for.
    pub(super) async fn rehearse(&mut self) -> Result<Outcome, JobError> {
        if self.facts.rehearsal == Rehearsal::Not || self.facts.rehearsed.is_some() {
            return Ok(Outcome::Passed);
        }
        let Some(copy) = self.copy.take() else {
            self.facts.reasons.push("there is no scratch copy to rehearse on".into());
            return Ok(Outcome::Refused(Verdict::RehearsalFailed));
        };
        if self.is_fenced() {
            self.close_database().await?;
        }
        let production = self.production_before().await?;
        let watch = Watch::of(self);
        let rehearsed = tokio::select! {
            rehearsed = self.rehearse_on(&copy.connection) => rehearsed,
            () = watch.keep_on() => unreachable!("the watch goes on until it is dropped"),
        };
        self.reopen_if_closed().await?;
        copy.remove().await?;
        let strayed = match &production {
            Some(before) => self.strayed(before).await?,
            None => Strayed::No,
        };
        if let Strayed::Surely(why) = &strayed {
            // The database was migrated past every guard: that is for a person to look at.
            self.facts.reasons.push(format!("rehearsal: {why}"));
            return Ok(Outcome::Decided(Decision::Hold(Verdict::Unknown)));
        }
        let mut problems = rehearsed?;
        if let Strayed::Perhaps(why) = strayed {
            problems.push(why);
        }
        let (has_strayed, _) = watch.into_seen(&self.means.database.connection.user);
        if has_strayed {
            problems.push("the command connected to the database itself: it takes its address from elsewhere than its environment".into());
        }
        if !problems.is_empty() {
            self.facts.reasons.extend(problems.into_iter().map(|problem| format!("rehearsal: {problem}")));
            return Ok(Outcome::Refused(Verdict::RehearsalFailed));
        }
        Ok(match self.facts.rehearsal {
            Rehearsal::Only => Outcome::Decided(Decision::Release(Verdict::Rehearsed)),
            Rehearsal::Not | Rehearsal::First => Outcome::Passed,
        })
    }

    /// Runs the cycle on the copy; returns what went wrong.
    async fn rehearse_on(&mut self, copy: &Connection) -> Result<Vec<String>, JobError> {
        let to = self.as_the_migrations_role(copy).await?;
        let server = self.server().await?;
        let mut facts = RehearsalFacts::default();
        let locks = LockWatch::new(copy);
        let up = ("up", self.request.words.clone());
        let steps = match &self.means.gate.rehearse_cycle {
            RehearsalCycle::Up => vec![up],
            RehearsalCycle::UpDownUp { down } => vec![up.clone(), ("down", down.clone()), ("up again", up.1)],
        };
        let mut problems = Vec::new();
        for (name, words) in steps {
            let (exit, elapsed_ms) = tokio::select! {
                ran = self.run_step(&words, &to, server.version_num) => ran?,
                () = locks.keep_on() => unreachable!("the watch goes on until it is dropped"),
            };
            facts.steps.push((name.into(), exit.to_string(), elapsed_ms));
            if !exit.is_success() {
                problems.push(format!("{name}: {exit}"));
                break;
            }
        }
        let reached = Look { connection: copy, ..self.look(&server.tools) }.take().await?;
        if let Some(why) = why_ambiguous(&reached.version_schemas) {
            self.facts.expected = Some(Expected::Unknown(why));
        }
        if let (true, Some(Expected::Revisions(expected))) = (problems.is_empty(), &self.facts.expected)
            && *expected != reached.revisions
        {
            problems.push(format!(
                "it reached {}, not {}",
                reached.revisions.join(", "),
                expected.join(", ")
            ));
        }
        facts.locks = locks.into_seen();
        (facts.revisions, facts.schema_bag) = (reached.revisions, reached.schema_bag);
        if problems.is_empty()
            && matches!(self.facts.expected, Some(Expected::Unknown(_)))
            && !facts.revisions.is_empty()
        {
            self.facts.expected = Some(Expected::Revisions(facts.revisions.clone()));
        }
        self.facts.rehearsed = Some(facts);
        Ok(problems)
    }

    /// The copy, as the role that migrates the database: what it makes belongs to the same owner.
    async fn as_the_migrations_role(&self, copy: &Connection) -> Result<Connection, JobError> {
        let user = connection_of(self.means.database, self.means.gate).user;
        if user == copy.user {
            return Ok(copy.clone());
        }
        let password: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
        let mut session = session::connect(copy).await?;
        let sql = format!("ALTER ROLE {} LOGIN PASSWORD {}", quoted(&user), literal(&password));
        session::run(&mut session, "let the migration's role into the scratch copy", sql).await?;
        Ok(Connection { user, password: Some(SecretString::from(password)), ..copy.clone() })
    }

    async fn run_step(
        &self,
        words: &[String],
        to: &Connection,
        version_num: u32,
    ) -> Result<(Exit, u64), JobError> {
        let environment = self.environment(to, version_num);
        let mask = mask_of(to, &self.means.database.connection);
        let recorded = Recorded::new(mask, self.means.on_output);
        let stopwatch = Stopwatch::start();
        let take = |bytes: &[u8]| recorded.take(bytes);
        let exit = self.other_command(words, &environment).run(&take, std::future::pending()).await?;
        self.means.ledger.keep_output(&self.request.id, &recorded.text()).await?;
        Ok((exit, stopwatch.elapsed_ms()))
    }
}

/// Sees which strong locks a rehearsal takes: what would keep an application waiting.
struct LockWatch<'a> {
    connection: &'a Connection,
    seen: Mutex<BTreeSet<String>>,
}

impl<'a> LockWatch<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self { connection, seen: Mutex::default() }
    }

    async fn keep_on(&self) {
        loop {
            // A look that fails sees nothing; the rehearsal does not depend on it.
            let _ = self.look_on().await;
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    async fn look_on(&self) -> Result<(), JobError> {
        let sql = "SELECT l.mode || ' on ' || c.oid::regclass::text AS lock FROM pg_catalog.pg_locks l \
            JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE l.granted AND l.pid <> pg_catalog.pg_backend_pid() AND c.relkind IN ('r', 'p', 'm') \
              AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema') \
              AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";
        let mut session = session::connect(self.connection).await?;
        loop {
            for row in rows(&mut session, "look at locks", sql).await? {
                let lock: String = column(&row, "lock")?;
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(lock);
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    fn into_seen(self) -> Vec<String> {
        self.seen.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
    }
}
