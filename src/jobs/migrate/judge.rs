//! After the command: what it did, and whether that is what was wanted.

use std::collections::BTreeSet;

use super::JobError;
use super::during::{Recorded, mask_of};
use super::facts::{Armed, CheckResult};
use super::fingerprint::{Fingerprint, why_ambiguous};
use super::member::Member;
use super::run::Run;
use super::walk::{Walk, is_lost_session};
use super::window::Committed;
use crate::command::CommandLine;
use crate::postgres::PostgresError;
use crate::postgres::session::{column, rows};
use crate::rules::causes::in_a_sentence;
use crate::rules::classify::combine::combined;
use crate::rules::classify::{self, Asked, Evidence, Exit, Expected, Rehearsed, Schema, Writes};
use crate::rules::expectation::Expectation;
use crate::rules::gate::{Decision, Outcome, Verdict};
use crate::rules::sql::literal;
use crate::rules::wal::attribution::{self, Attributed};
use crate::rules::wal::summary::{self, CommitSummary};
use crate::settings::{CheckKind, CheckSettings};

impl Walk<'_> {
    /// Gathers the evidence, and says what the run did and what is to be done about it.
    pub(super) async fn classify(&mut self) -> Result<Outcome, JobError> {
        let is_known = self.members.iter().all(|member| member.facts.armed.is_some());
        let Some(settled_lsn) = self.run.facts.settled_lsn.filter(|_| is_known) else {
            self.run.facts.reasons.push("the state before the command was not written down".into());
            return Ok(Outcome::Decided(Decision::Hold(Verdict::Unknown)));
        };
        if let Some(held) = self.what_cannot_be_judged().await? {
            return Ok(held);
        }
        let members: Vec<&Member<'_>> = self.members.iter().collect();
        let committed = self.run.committed_while_running(&members, settled_lsn).await?;
        for (member, committed) in self.members.iter_mut().zip(committed) {
            member.classify(&mut self.run, committed).await?;
        }
        let all: Vec<_> = self.members.iter().filter_map(|member| member.facts.classified.as_ref()).collect();
        let policy = self.run.policy();
        let class = combined(&all, policy);
        for member in &self.members {
            let reasons = member.facts.classified.iter().flat_map(|classified| classified.reasons.clone());
            self.run.facts.reasons.extend(member.say_all(reasons));
        }
        self.run.facts.class = Some(class);
        let decision = classify::decide(class, policy);
        if decision == Decision::Hold(Verdict::RestoreRefused) {
            self.run.facts.reasons.push("an operator is to decide (on_failure = \"hold\")".into());
        }
        Ok(Outcome::Decided(decision))
    }

    /// What stops a judgement: another database of this name, and transactions that were prepared,
    /// which may yet be committed and hold the locks of what would be looked at.
    async fn what_cannot_be_judged(&mut self) -> Result<Option<Outcome>, JobError> {
        let mut reasons = Vec::new();
        for member in &self.members {
            reasons.extend(member.say_all(member.what_has_changed(&self.run).await?));
            let prepared = member.prepared_transactions(&self.run).await?;
            let prepared = prepared.into_iter().map(|gid| {
                format!("transaction {gid} is prepared: COMMIT or ROLLBACK PREPARED it, then resolve the run")
            });
            reasons.extend(member.say_all(prepared));
        }
        if reasons.is_empty() {
            return Ok(None);
        }
        self.run.facts.reasons.extend(reasons);
        Ok(Some(Outcome::Decided(Decision::Hold(Verdict::Unknown))))
    }

    /// Asks every check, and looks at what no migration should leave.
    pub(super) async fn check(&mut self) -> Result<Outcome, JobError> {
        let (mut problems, mut results) = (Vec::new(), Vec::new());
        for member in &self.members {
            problems.extend(member.say_all(member.left_overs()));
            self.run.facts.notes.extend(member.say_all(member.not_yet_valid()));
        }
        for check in &self.run.means.gate.checks {
            match &check.kind {
                CheckKind::Sql { sql, expect } => {
                    for member in self.members.iter().filter(|member| check.is_of(&member.settings.key)) {
                        results.push(member.ask_check(&self.run, &check.name, sql, expect).await?);
                    }
                }
                CheckKind::Command(words) => {
                    if self.members.iter().any(|member| check.is_of(&member.settings.key)) {
                        results.push(self.run_check(check, words).await?);
                    }
                }
            }
        }
        problems.extend(results.iter().filter(|result| !result.is_ok).map(in_a_line));
        self.run.facts.checks = results;
        let has_problems = !problems.is_empty();
        self.run.facts.reasons.extend(problems);
        let class = self.run.facts.class.unwrap_or(classify::Class::Unknown);
        Ok(Outcome::Decided(classify::decide_checked(class, has_problems, self.run.policy())))
    }

    async fn run_check(&self, check: &CheckSettings, words: &[String]) -> Result<CheckResult, JobError> {
        let version_num = self.run.server.as_ref().map_or(0, |server| server.version_num);
        let addresses = self.addresses();
        let environment = self.run.environment(&addresses, version_num);
        let recorded = Recorded::new(mask_of(&addresses, words), self.run.means.on_output);
        let take = |bytes: &[u8]| recorded.take(bytes);
        let timeout = self.run.means.gate.check_timeout;
        let line = CommandLine { timeout, ..self.run.other_command(words, &environment) };
        let ended = line.run(&take, std::future::pending()).await?;
        let said = recorded.text();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let after = if ended.is_success() { "passed".to_owned() } else { format!("{ended}: {last}") };
        let (name, is_ok) = (check.name.clone(), ended.is_success());
        let expected = "exit status 0".into();
        Ok(CheckResult { name, database: None, expected, before: None, after, is_ok })
    }
}

/// A check that failed, in a line.
fn in_a_line(result: &CheckResult) -> String {
    let of = result.database.iter().map(|database| format!("{database}: ")).collect::<String>();
    match &result.before {
        Some(before) => format!(
            "{of}check {}: {} was expected, the answer was {before:?} and is {:?}",
            result.name, result.expected, result.after
        ),
        None => format!("{of}check {}: {}", result.name, result.after),
    }
}

impl Member<'_> {
    /// Gathers the evidence of this database, and says what the run did to it.
    async fn classify(&mut self, run: &mut Run<'_>, committed: Committed) -> Result<(), JobError> {
        let Some(armed) = self.facts.armed.clone() else { return Ok(()) };
        let server = run.server().await?;
        let after = self.look(run, &server.tools).take().await?;
        let mut writes = self.divide(run, committed, armed.has_own_mark);
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
        let exit = run.facts.exit.clone().unwrap_or(Exit::Unseen);
        let evidence = Evidence {
            expected: self.expected(&exit, &armed, &after),
            exit,
            asked: self.asked(),
            revisions_before: armed.before.revisions.clone(),
            revisions_after: after.revisions.clone(),
            schema: if after.schema == armed.before.schema { Schema::Same } else { Schema::Changed },
            rehearsed: self.rehearsed_as(&after.schema_bag),
            writes,
        };
        self.facts.classified = Some(classify::classify(&evidence));
        self.facts.changes = armed.before.changes(&after);
        let of_roles = armed.before.changed_roles(&after).into_iter();
        let of_roles =
            of_roles.map(|what| format!("{what}: roles are the whole cluster's, and are not put back, but for those that a restore needs"));
        for note in of_roles {
            // Every database of the run sees the same roles.
            if !run.facts.notes.contains(&note) {
                run.facts.notes.push(note);
            }
        }
        self.facts.after = Some(after);
        Ok(())
    }

    /// Which revisions were to be reached. A tool that succeeded and left no version where it is
    /// looked for keeps it elsewhere.
    fn expected(&self, exit: &Exit, armed: &Armed, after: &Fingerprint) -> Expected {
        let is_elsewhere = exit.is_success()
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
    async fn prepared_transactions(&self, run: &Run<'_>) -> Result<Vec<String>, JobError> {
        let name = literal(self.name());
        let sql =
            format!("SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = {name} ORDER BY prepared");
        let found = rows(&mut run.maintenance_session().await?, "list prepared transactions", sql).await?;
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
    fn divide(&mut self, run: &Run<'_>, committed: Committed, has_own_mark: bool) -> Writes {
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
                if own.is_empty() && !self.could_tell_sessions(run) {
                    return Writes::Unknown(
                        "sessions of the command cannot be told from others', and may live on".into(),
                    );
                }
                in_words(&own, &run.means.gate.version_table.name)
            }
            Attributed::Untold(commits) => {
                let what = summary::in_words(&commits);
                self.facts.foreign_unknown = Some(format!("{what} bear no mark of the run"));
                Writes::Unknown(format!("{what} were committed, by the run or by others"))
            }
        }
    }

    /// Whether the end of the run's sessions could be seen to: all were ended, or they are known.
    fn could_tell_sessions(&self, run: &Run<'_>) -> bool {
        run.facts.order.is_some() || self.facts.has_named_sessions || run.means.gate.role.is_some()
    }

    /// Asks one check.
    async fn ask_check(
        &self,
        run: &Run<'_>,
        name: &str,
        sql: &str,
        expect: &Expectation,
    ) -> Result<CheckResult, JobError> {
        let was = self.facts.armed.as_ref().and_then(|armed| armed.answers.get(name).cloned());
        let was = was.unwrap_or_default();
        let (before, after, is_ok) = match self.ask(run, name, sql).await? {
            Ok(is) => {
                let is_ok = expect.holds(&was, &is);
                (Some(was), is, is_ok)
            }
            Err(why) => (None, why, false),
        };
        let database = self.has_others.then(|| self.settings.key.clone());
        Ok(CheckResult {
            name: name.to_owned(),
            database,
            expected: expect.to_string(),
            before,
            after,
            is_ok,
        })
    }

    /// Asks a check of the migrated database; what the server does not answer is no good answer.
    async fn ask(&self, run: &Run<'_>, name: &str, sql: &str) -> Result<Result<String, String>, JobError> {
        use PostgresError::{Denied, Query, Unanswered};
        match self.answer(run, name, sql).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(error @ (Query { .. } | Denied { .. } | Unanswered { .. })) if !is_lost_session(&error) => {
                let why = in_a_sentence(&error);
                Ok(Err(why.strip_prefix(&format!("ask check {name}: ")).unwrap_or(&why).to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Indexes that the run left invalid.
    fn left_overs(&self) -> Vec<String> {
        let (Some(armed), Some(after)) = (&self.facts.armed, &self.facts.after) else { return Vec::new() };
        let before = armed.before.invalid_indexes();
        let new: BTreeSet<&str> = after.invalid_indexes().difference(&before).copied().collect();
        new.into_iter().map(|index| format!("{index} is invalid")).collect()
    }

    /// Constraints that the run left to be validated.
    fn not_yet_valid(&self) -> Vec<String> {
        let (Some(armed), Some(after)) = (&self.facts.armed, &self.facts.after) else { return Vec::new() };
        let new = after.structures.difference(&armed.before.structures);
        let not_valid = new.filter(|structure| structure.ends_with(" (not valid)"));
        not_valid.map(|structure| format!("{structure} is yet to be validated")).collect()
    }
}

fn in_words(own: &[CommitSummary], version_table: &str) -> Writes {
    let is_version =
        |table: &String| table.rsplit('.').next().is_some_and(|name| name.trim_matches('"') == version_table);
    let only_version = |commit: &CommitSummary| {
        !commit.has_catalog_writes && commit.sequences.is_empty() && commit.rows.keys().all(is_version)
    };
    match own {
        [] => Writes::None,
        _ if own.iter().all(only_version) => Writes::VersionOnly,
        _ => Writes::Some(summary::in_words(own)),
    }
}
