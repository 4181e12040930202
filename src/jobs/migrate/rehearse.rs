//! The command against scratch copies of the snapshots: up, or up, down and up again. Each database
//! has its copy in a cluster of its own, and so its own address in the command's environment.
//!
//! While it runs, the databases themselves let nobody in where writers are kept out anyway: a command
//! that takes its connection from elsewhere than its environment fails, instead of migrating what
//! was not to be touched. Where writers are not kept out, the databases are looked at before and after.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use secrecy::SecretString;

use super::during::{Recorded, mask_of};
use super::environment::Address;
use super::facts::{Reached, Rehearsal, RehearsalFacts};
use super::fingerprint::{Look, why_ambiguous};
use super::member::Member;
use super::run::Run;
use super::sessions::{Watch, keep_all_on};
use super::stray::Strayed;
use super::walk::Walk;
use super::{JobError, Stopwatch, connection_of};
use crate::jobs::verify::ScratchCopy;
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
        if self.run.facts.rehearsal == Rehearsal::Not || self.run.facts.rehearsed.is_some() {
            return Ok(Outcome::Passed);
        }
        let copies: Vec<ScratchCopy> =
            self.members.iter_mut().filter_map(|member| member.copy.take()).collect();
        if copies.len() < self.members.len() {
            self.run.facts.reasons.push("there is no scratch copy to rehearse on".into());
            return Ok(Outcome::Refused(Verdict::RehearsalFailed));
        }
        if self.run.is_fenced() {
            for member in &mut self.members {
                member.close_database(&self.run).await?;
            }
        }
        let mut production = Vec::new();
        for member in &self.members {
            production.push(member.production_before(&mut self.run).await?);
        }
        let watches: Vec<_> = self.members.iter().map(|member| Watch::of(&self.run, member)).collect();
        let rehearsed = tokio::select! {
            rehearsed = self.rehearse_on(&copies) => rehearsed,
            () = keep_all_on(&watches) => unreachable!("the watch goes on until it is dropped"),
        };
        self.reopen_if_closed().await?;
        for copy in copies {
            copy.remove().await?;
        }
        let mut perhaps = Vec::new();
        for (member, before) in self.members.iter().zip(&production) {
            match member.strayed(&mut self.run, before.as_ref()).await? {
                Strayed::No => {}
                Strayed::Perhaps(why) => perhaps.push(member.says(why)),
                Strayed::Surely(why) => {
                    // The database was migrated past every guard: that is for a person to look at.
                    self.run.facts.reasons.push(format!("rehearsal: {}", member.says(why)));
                    return Ok(Outcome::Decided(Decision::Hold(Verdict::Unknown)));
                }
            }
        }
        let mut problems = rehearsed?;
        problems.extend(perhaps);
        for (member, watch) in self.members.iter().zip(watches) {
            let (has_strayed, _) = watch.into_seen(&member.settings.connection.user);
            if has_strayed {
                problems.push(member.says("the command connected to the database itself: it takes its address from elsewhere than its environment"));
            }
        }
        if !problems.is_empty() {
            let problems = problems.into_iter().map(|problem| format!("rehearsal: {problem}"));
            self.run.facts.reasons.extend(problems);
            return Ok(Outcome::Refused(Verdict::RehearsalFailed));
        }
        Ok(match self.run.facts.rehearsal {
            Rehearsal::Only => Outcome::Decided(Decision::Release(Verdict::Rehearsed)),
            Rehearsal::Not | Rehearsal::First => Outcome::Passed,
        })
    }

    /// Runs the cycle on the copies, one for each database; returns what went wrong.
    async fn rehearse_on(&mut self, copies: &[ScratchCopy]) -> Result<Vec<String>, JobError> {
        let server = self.run.server().await?;
        let mut addresses = Vec::new();
        for (member, copy) in self.members.iter().zip(copies) {
            addresses.push(member.as_the_migrations_role(&self.run, &copy.connection).await?);
        }
        let mut facts = RehearsalFacts::default();
        let locks: Vec<_> = copies.iter().map(|copy| LockWatch::new(&copy.connection)).collect();
        let mut problems = Vec::new();
        for (name, words) in self.run.rehearsal_steps() {
            let (exit, elapsed_ms) = tokio::select! {
                ran = self.run.rehearse_step(&words, &addresses, server.version_num) => ran?,
                _ = join_all(locks.iter().map(LockWatch::keep_on)) => unreachable!("the watch goes on until it is dropped"),
            };
            facts.steps.push((name.into(), exit.to_string(), elapsed_ms));
            if !exit.is_success() {
                problems.push(format!("{name}: {exit}"));
                break;
            }
        }
        let is_good = problems.is_empty();
        for ((member, copy), locks) in self.members.iter_mut().zip(copies).zip(locks) {
            let look = Look { connection: &copy.connection, ..member.look(&self.run, &server.tools) };
            let reached = look.take().await?;
            if let Some(why) = why_ambiguous(&reached.version_schemas) {
                member.facts.expected = Some(Expected::Unknown(why));
            }
            let reached = Reached { revisions: reached.revisions, schema_bag: reached.schema_bag };
            problems.extend(member.note_reached(reached, is_good));
            facts.locks.extend(member.say_all(locks.into_seen()));
        }
        self.run.facts.rehearsed = Some(facts);
        Ok(problems)
    }
}

impl Member<'_> {
    /// Writes down what the rehearsal reached; returns why that is not what was to be reached.
    fn note_reached(&mut self, reached: Reached, is_good: bool) -> Option<String> {
        let mut problem = None;
        if is_good {
            match &self.facts.expected {
                Some(Expected::Revisions(expected)) if *expected != reached.revisions => {
                    let (now, wanted) = (reached.revisions.join(", "), expected.join(", "));
                    problem = Some(self.says(format!("it reached {now}, not {wanted}")));
                }
                Some(Expected::Unknown(_)) if !reached.revisions.is_empty() => {
                    self.facts.expected = Some(Expected::Revisions(reached.revisions.clone()));
                }
                _ => {}
            }
        }
        self.facts.rehearsed = Some(reached);
        problem
    }

    /// The copy, as the role that migrates the database: what it makes belongs to the same owner.
    async fn as_the_migrations_role(
        &self,
        run: &Run<'_>,
        copy: &Connection,
    ) -> Result<Address<'_>, JobError> {
        let user = connection_of(self.settings, run.means.gate).user;
        if user == copy.user {
            return Ok(Address { settings: self.settings, to: copy.clone() });
        }
        let password: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
        let mut session = session::connect(copy).await?;
        let sql = format!("ALTER ROLE {} LOGIN PASSWORD {}", quoted(&user), literal(&password));
        session::run(&mut session, "let the migration's role into the scratch copy", sql).await?;
        let to = Connection { user, password: Some(SecretString::from(password)), ..copy.clone() };
        Ok(Address { settings: self.settings, to })
    }
}

impl Run<'_> {
    /// The commands of a rehearsal, by what they are called.
    fn rehearsal_steps(&self) -> Vec<(&'static str, Vec<String>)> {
        let up = ("up", self.request.words.clone());
        match &self.means.gate.rehearse_cycle {
            RehearsalCycle::Up => vec![up],
            RehearsalCycle::UpDownUp { down } => vec![up.clone(), ("down", down.clone()), ("up again", up.1)],
        }
    }

    async fn rehearse_step(
        &self,
        words: &[String],
        addresses: &[Address<'_>],
        version_num: u32,
    ) -> Result<(Exit, u64), JobError> {
        let environment = self.environment(addresses, version_num);
        let recorded = Recorded::new(mask_of(addresses, words), self.means.on_output);
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
