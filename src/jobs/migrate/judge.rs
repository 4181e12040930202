//! After the command: what it did, and whether that is what was wanted.

use std::collections::BTreeSet;

use super::facts::{Armed, CheckResult};
use super::fingerprint::{Fingerprint, why_ambiguous};
use super::walk::{Walk, is_lost_session};
use super::window::Committed;
use super::{JobError, connection_of};
use crate::command::CommandLine;
use crate::postgres::PostgresError;
use crate::postgres::session::{column, rows};
use crate::rules::causes::in_a_sentence;
use crate::rules::classify::{self, Asked, Evidence, Exit, Expected, Rehearsed, Schema, Writes};
use crate::rules::gate::{Decision, Outcome, Verdict};
use crate::rules::sql::literal;
use crate::rules::wal::attribution::{self, Attributed};
use crate::rules::wal::summary::{self, CommitSummary};
use crate::settings::{CheckKind, CheckSettings};

impl Walk<'_> {
    /// Gathers the evidence, and says what the run did and what is to be done about it.
    pub(super) async fn classify(&mut self) -> Result<Outcome, JobError> {
        let (Some(armed), Some(settled_lsn)) = (self.facts.armed.clone(), self.facts.settled_lsn) else {
            self.facts.reasons.push("the state before the command was not written down".into());
            return Ok(Outcome::Decided(Decision::Hold(Verdict::Unknown)));
        };
        if let Some(held) = self.what_cannot_be_judged().await? {
            return Ok(held);
        }
        let server = self.server().await?;
        let after = self.look(&server.tools).take().await?;
        let committed = self.committed_while_running(&armed, settled_lsn).await?;
        let mut writes = self.divide(committed, armed.has_own_mark);
        for table in armed.before.changed_unlogged(&after) {
            writes = Writes::Some(format!("rows of unlogged table {table}"));
        }
        if writes == Writes::None
            && let Some(sequence) = armed.before.sequences_set_back(&after).first()
        {
            // Sequences do not go back with a transaction.
            writes = Writes::Some(format!("nothing, but sequence {sequence} was set back"));
        }
        if let (Writes::None | Writes::VersionOnly | Writes::Unknown(_), Some(change)) =
            (&writes, armed.before.changed_properties(&after).first())
        {
            // They stand in catalogs of the whole cluster, whose log names no database.
            writes = Writes::Some(format!("a change of the database's properties: {change}"));
        }
        let evidence = Evidence {
            exit: self.facts.exit.clone().unwrap_or(Exit::Unseen),
            revisions_before: armed.before.revisions.clone(),
            revisions_after: after.revisions.clone(),
            expected: self.expected(&armed, &after),
            asked: self.asked(),
            schema: if after.schema == armed.before.schema { Schema::Same } else { Schema::Changed },
            rehearsed: self.rehearsed_as(&after.schema_bag),
            writes,
        };
        let classified = classify::classify(&evidence);
        let decision = classify::decide(classified.class, self.policy());
        let is_held_by_settings = decision == Decision::Hold(Verdict::RestoreRefused);
        self.facts.changes = armed.before.changes(&after);
        let of_roles = armed.before.changed_roles(&after).into_iter();
        self.facts.notes.extend(
            of_roles.map(|what| format!("{what}: roles are the whole cluster's, and are not put back")),
        );
        self.facts.after = Some(after);
        self.facts.reasons.extend(classified.reasons.iter().cloned());
        self.facts.classified = Some(classified);
        if is_held_by_settings {
            self.facts.reasons.push("an operator is to decide (on_failure = \"hold\")".into());
        }
        Ok(Outcome::Decided(decision))
    }

    /// What stops a judgement: another database of this name, and transactions that were prepared,
    /// which may yet be committed and hold the locks of what would be looked at.
    async fn what_cannot_be_judged(&mut self) -> Result<Option<Outcome>, JobError> {
        let mut reasons = self.what_has_changed().await?;
        let prepared = self.prepared_transactions().await?;
        reasons.extend(prepared.iter().map(|gid| {
            format!("transaction {gid} is prepared: COMMIT or ROLLBACK PREPARED it, then resolve the run")
        }));
        if reasons.is_empty() {
            return Ok(None);
        }
        self.facts.reasons.extend(reasons);
        Ok(Some(Outcome::Decided(Decision::Hold(Verdict::Unknown))))
    }

    /// Which revisions were to be reached. A tool that succeeded and left no version where it is
    /// looked for keeps it elsewhere.
    fn expected(&self, armed: &Armed, after: &Fingerprint) -> Expected {
        let is_elsewhere = self.facts.exit.as_ref().is_some_and(Exit::is_success)
            && armed.before.revisions.is_empty()
            && after.revisions.is_empty()
            && after.schema != armed.before.schema;
        if is_elsewhere {
            return Expected::Unknown("the version table that the settings name is not there".into());
        }
        if let (Some(why), None) = (why_ambiguous(&after.version_schemas), &self.facts.rehearsed) {
            return Expected::Unknown(why);
        }
        self.facts.expected.clone().unwrap_or(Expected::Unknown("it was not looked at".into()))
    }

    fn asked(&self) -> Asked {
        let pending = &self.facts.pending;
        let is_idle = !pending.is_empty() && pending.iter().all(|pending| pending.does_nothing);
        if is_idle { Asked::Nothing } else { Asked::Something }
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
        let (commits, straddlers) = match committed {
            Committed::Known { commits, straddlers } => (commits, straddlers),
            Committed::Unknown(why) => {
                self.facts.foreign_unknown = Some(why.clone());
                return Writes::Unknown(why);
            }
        };
        if straddlers > 0 {
            let what = Committed::Known { commits: Vec::new(), straddlers };
            self.facts.foreign = what.in_words();
        }
        match attribution::divide(commits, has_own_mark) {
            Attributed::Told { own, foreign } => {
                if !foreign.is_empty() {
                    let both = Committed::Known { commits: foreign, straddlers };
                    self.facts.foreign = both.in_words();
                }
                if own.is_empty() && !self.could_tell_sessions() {
                    return Writes::Unknown(
                        "sessions of the command cannot be told from others', and may live on".into(),
                    );
                }
                self.in_words(&own)
            }
            Attributed::Untold(commits) => {
                let what = summary::in_words(&commits);
                self.facts.foreign_unknown = Some(format!("{what} bear no mark of the run"));
                Writes::Unknown(format!("{what} were committed, by the run or by others"))
            }
        }
    }

    /// Whether the end of the run's sessions could be seen to: all were ended, or they are known.
    fn could_tell_sessions(&self) -> bool {
        self.facts.order.is_some() || self.facts.has_named_sessions || self.means.gate.role.is_some()
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
        let before = self.facts.armed.as_ref().map(|armed| armed.answers.clone()).unwrap_or_default();
        let mut results = Vec::new();
        for check in &self.means.gate.checks {
            let result = match &check.kind {
                CheckKind::Sql { sql, expect } => {
                    let was = before.get(&check.name).cloned().unwrap_or_default();
                    let (name, expected) = (check.name.clone(), expect.to_string());
                    match self.ask(&check.name, sql).await? {
                        Ok(is) => {
                            let is_ok = expect.holds(&was, &is);
                            CheckResult { name, expected, before: Some(was), after: is, is_ok }
                        }
                        Err(why) => CheckResult { name, expected, before: None, after: why, is_ok: false },
                    }
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

    /// Asks a check of the migrated database; what the server does not answer is no good answer.
    async fn ask(&self, name: &str, sql: &str) -> Result<Result<String, String>, JobError> {
        use PostgresError::{Denied, Query, Unanswered};
        match self.answer(name, sql).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(error @ (Query { .. } | Denied { .. } | Unanswered { .. })) if !is_lost_session(&error) => {
                let why = in_a_sentence(&error);
                Ok(Err(why.strip_prefix(&format!("ask check {name}: ")).unwrap_or(&why).to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Indexes that the run left invalid.
    fn left_overs(&mut self) -> Vec<String> {
        let (Some(armed), Some(after)) = (&self.facts.armed, &self.facts.after) else { return Vec::new() };
        let before = armed.before.invalid_indexes();
        let new: BTreeSet<&str> = after.invalid_indexes().difference(&before).copied().collect();
        let not_valid = after.structures.difference(&armed.before.structures);
        let noted = not_valid.filter(|structure| structure.ends_with(" (not valid)"));
        self.facts.notes.extend(noted.map(|structure| format!("{structure} is yet to be validated")));
        new.into_iter().map(|index| format!("{index} is invalid")).collect()
    }

    async fn run_check(&self, check: &CheckSettings, words: &[String]) -> Result<CheckResult, JobError> {
        let version_num = self.server.as_ref().map_or(0, |server| server.version_num);
        let to = connection_of(self.means.database, self.means.gate);
        let environment = self.environment(&to, version_num);
        let mask = super::during::mask_of(&to, &self.means.database.connection);
        let recorded = super::during::Recorded::new(mask, self.means.on_output);
        let take = |bytes: &[u8]| recorded.take(bytes);
        let timeout = self.means.gate.check_timeout;
        let line = CommandLine { timeout, ..self.other_command(words, &environment) };
        let ended = line.run(&take, std::future::pending()).await?;
        let said = recorded.text();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let after = if ended.is_success() { "passed".to_owned() } else { format!("{ended}: {last}") };
        let (name, is_ok) = (check.name.clone(), ended.is_success());
        Ok(CheckResult { name, expected: "exit status 0".into(), before: None, after, is_ok })
    }
}
