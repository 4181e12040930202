//! After the command: what it did, and whether that is what was wanted.

use std::collections::BTreeSet;

use super::facts::CheckResult;
use super::walk::Walk;
use super::window::Committed;
use super::{JobError, connection_of};
use crate::postgres::session::{column, rows};
use crate::rules::classify::{self, Evidence, Exit, Expected, Rehearsed, Schema, Writes};
use crate::rules::gate::{Decision, Outcome, Verdict};
use crate::rules::sql::literal;
use crate::rules::wal::attribution;
use crate::rules::wal::summary::{self, CommitSummary};
use crate::settings::{CheckKind, CheckSettings};

impl Walk<'_> {
    /// Gathers the evidence, and says what the run did and what is to be done about it.
    pub(super) async fn classify(&mut self) -> Result<Outcome, JobError> {
        let (Some(armed), Some(settled_lsn)) = (self.facts.armed.clone(), self.facts.settled_lsn) else {
            self.facts.reasons.push("the state before the command was not written down".into());
            return Ok(Outcome::Decided(Decision::Hold(Verdict::Unknown)));
        };
        let server = self.server().await?;
        let after = self.look(&server.tools).take().await?;
        let committed = self.committed_between(armed.lsn, settled_lsn).await?;
        self.let_go_of_log().await;
        let mut writes = self.divide(committed, armed.has_own_mark);
        for table in armed.before.changed_unlogged(&after) {
            writes = Writes::Some(format!("rows of unlogged table {table}"));
        }
        self.facts.prepared_transactions = self.prepared_transactions().await?;
        if let Some(gid) = self.facts.prepared_transactions.first() {
            writes = Writes::Some(format!("nothing yet of prepared transaction {gid}"));
        }
        let evidence = Evidence {
            exit: self.facts.exit.clone().unwrap_or(Exit::Unseen),
            revisions_before: armed.before.revisions.clone(),
            revisions_after: after.revisions.clone(),
            expected: self.facts.expected.clone().unwrap_or(Expected::Unknown("it was not looked at".into())),
            schema: if after.schema == armed.before.schema { Schema::Same } else { Schema::Changed },
            rehearsed: self.rehearsed_as(&after.schema_bag),
            writes,
        };
        let classified = classify::classify(&evidence);
        let decision = classify::decide(classified.class, self.policy());
        self.facts.changes = armed.before.changes(&after);
        self.facts.after = Some(after);
        self.facts.reasons.extend(classified.reasons.iter().cloned());
        self.facts.classified = Some(classified);
        Ok(Outcome::Decided(decision))
    }

    /// Transactions that were prepared in the database and are neither committed nor rolled back;
    /// before the run there were none, or nothing can be put back anyway.
    async fn prepared_transactions(&self) -> Result<Vec<String>, JobError> {
        let name = literal(&self.means.database.connection.database);
        let sql =
            format!("SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = {name} ORDER BY prepared");
        let found = rows(&mut self.maintenance_session().await?, "list prepared transactions", sql).await?;
        Ok(found.iter().map(|row| column(row, "gid")).collect::<Result<_, _>>()?)
    }

    fn rehearsed_as(&self, schema_bag: &str) -> Rehearsed {
        match &self.facts.rehearsed {
            None => Rehearsed::Not,
            Some(rehearsal) if rehearsal.schema_bag == schema_bag => Rehearsed::Same,
            Some(_) => Rehearsed::Differs,
        }
    }

    /// Tells what the run committed from what others did; the latter is kept as a reason against
    /// an automatic restore.
    fn divide(&mut self, committed: Committed, has_own_mark: bool) -> Writes {
        let commits = match committed {
            Committed::Known { commits, .. } => commits,
            Committed::Unknown(why) => {
                self.facts.foreign_unknown = Some(why.clone());
                return Writes::Unknown(why);
            }
        };
        let witness = attribution::Witness {
            has_own_mark,
            honours_options: self.facts.has_named_sessions,
            saw_strangers: !self.facts.foreign_sessions.is_empty(),
        };
        let (own, foreign) = attribution::divide(commits, witness);
        if !foreign.is_empty() {
            self.facts.foreign = Some(summary::in_words(&foreign));
        }
        self.in_words(&own)
    }

    fn in_words(&self, own: &[CommitSummary]) -> Writes {
        let version_table = &self.means.gate.version_table.name;
        let is_version = |table: &String| {
            table.rsplit('.').next().is_some_and(|name| name.trim_matches('"') == version_table)
        };
        let only_version = |commit: &CommitSummary| {
            !commit.has_catalog_writes && commit.sequences.is_empty() && commit.rows.keys().all(is_version)
        };
        match own {
            [] => Writes::None,
            _ if own.iter().all(only_version) => Writes::VersionOnly,
            _ => Writes::Some(summary::in_words(own)),
        }
    }

    /// Asks every check, and looks at what no migration should leave.
    pub(super) async fn check(&mut self) -> Result<Outcome, JobError> {
        let mut problems = self.left_overs();
        let answers = self.answers().await?;
        let before = self.facts.armed.as_ref().map(|armed| armed.answers.clone()).unwrap_or_default();
        let mut results = Vec::new();
        for check in &self.means.gate.checks {
            let result = match &check.kind {
                CheckKind::Sql { expect, .. } => {
                    let was = before.get(&check.name).cloned().unwrap_or_default();
                    let is = answers.get(&check.name).cloned().unwrap_or_default();
                    let is_ok = expect.holds(&was, &is);
                    let (name, expected) = (check.name.clone(), expect.to_string());
                    CheckResult { name, expected, before: Some(was), after: is, is_ok }
                }
                CheckKind::Command(words) => self.run_check(check, words).await?,
            };
            results.push(result);
        }
        let failed = results.iter().filter(|result| !result.is_ok);
        problems.extend(failed.map(|result| match &result.before {
            Some(before) => format!(
                "check {}: {} was expected, the answer was {before:?} and is {:?}",
                result.name, result.expected, result.after
            ),
            None => format!("check {}: {}", result.name, result.after),
        }));
        self.facts.checks = results;
        let class = self.facts.classified.as_ref().map(|classified| classified.class);
        let has_problems = !problems.is_empty();
        self.facts.reasons.extend(problems);
        let class = class.unwrap_or(classify::Class::Unknown);
        Ok(Outcome::Decided(classify::decide_checked(class, has_problems, self.policy())))
    }

    /// Indexes that the run left invalid, and transactions that it left open.
    fn left_overs(&mut self) -> Vec<String> {
        let (Some(armed), Some(after)) = (&self.facts.armed, &self.facts.after) else { return Vec::new() };
        let before = armed.before.invalid_indexes();
        let new: BTreeSet<&str> = after.invalid_indexes().difference(&before).copied().collect();
        let not_valid = after.structures.difference(&armed.before.structures);
        let noted = not_valid.filter(|structure| structure.ends_with(" (not valid)"));
        self.facts.notes.extend(noted.map(|structure| format!("{structure} is yet to be validated")));
        let prepared = self.facts.prepared_transactions.iter();
        let prepared = prepared
            .map(|gid| format!("transaction {gid} is prepared, and neither committed nor rolled back"));
        new.into_iter().map(|index| format!("{index} is invalid")).chain(prepared).collect()
    }

    async fn run_check(&self, check: &CheckSettings, words: &[String]) -> Result<CheckResult, JobError> {
        let version_num = self.server.as_ref().map_or(0, |server| server.version_num);
        let to = connection_of(self.means.database, self.means.gate);
        let environment = self.environment(&to, version_num);
        let mask = super::during::mask_of(&to, &self.means.database.connection);
        let recorded = super::during::Recorded::new(mask, self.means.on_output);
        let take = |bytes: &[u8]| recorded.take(bytes);
        let ended = self.other_command(words, &environment).run(&take, std::future::pending()).await?;
        let said = recorded.text();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let after = if ended.is_success() { "passed".to_owned() } else { format!("{ended}: {last}") };
        let (name, is_ok) = (check.name.clone(), ended.is_success());
        Ok(CheckResult { name, expected: "exit status 0".into(), before: None, after, is_ok })
    }
}
