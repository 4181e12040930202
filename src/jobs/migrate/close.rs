//! Closing failed databases before they are put back, and what speaks against putting them back.

use super::JobError;
use super::before::{GateUndo, undo_text};
use super::member::Member;
use super::run::Run;
use super::walk::Walk;
use super::window::Committed;
use crate::postgres::{describe, session, wal};
use crate::rules::sql::{literal, quoted};
use crate::rules::wal::attribution::{self, Attributed};
use crate::settings::Consistency;

impl Walk<'_> {
    /// Closes the failed databases, and says what others committed before that; nothing to do where
    /// an earlier attempt has done it and nobody was let in since.
    pub(super) async fn close_for_good(&mut self) -> Result<Vec<String>, JobError> {
        let mut is_closed = true;
        for member in self.failed() {
            is_closed &= member.facts.is_closed && !self.run.lets_in(member.name()).await?;
        }
        if is_closed {
            return Ok(Vec::new());
        }
        self.reopen_if_closed().await?;
        let by_operator = self.run.is_restored_by_operator();
        let (run, mut failed) = self.run_and_failed();
        let mut reasons = Vec::new();
        for member in &mut failed {
            member.close_database(run).await?;
        }
        let closed: Vec<&Member<'_>> = failed.iter().map(|member| &**member).collect();
        let mut late = Vec::new();
        if by_operator {
            for member in &closed {
                late.push(member.unaccepted_loss(run).await?);
            }
        } else {
            late = run.committed_late(&closed).await?;
        }
        for (member, late) in closed.iter().zip(late) {
            reasons.extend(late.map(|late| member.says(late)));
        }
        for member in failed {
            member.facts.is_closed = reasons.is_empty();
        }
        self.run.let_go_of_log().await;
        self.note_facts().await?;
        Ok(reasons)
    }

    /// Undoes [`Member::close_database`] of each, whatever it is called now: operators look into a
    /// failed one.
    pub(super) async fn reopen_if_closed(&mut self) -> Result<(), JobError> {
        for fence in self.run.means.ledger.standing_fences(&self.run.request.id).await? {
            if let Ok(undo @ GateUndo::Connections(_)) = serde_json::from_str(&fence.undo) {
                self.run.undo(&undo).await?;
                let now = (self.run.clock)();
                self.run.means.ledger.fence_released(&self.run.request.id, fence.ordinal, now).await?;
            }
        }
        for member in &mut self.members {
            member.relations = None;
            member.facts.is_closed = false;
        }
        Ok(())
    }
}

impl Run<'_> {
    async fn lets_in(&self, database: &str) -> Result<bool, JobError> {
        let name = literal(database);
        let sql =
            format!("SELECT datallowconn AS lets_in FROM pg_catalog.pg_database WHERE datname = {name}");
        let found = session::rows(&mut self.maintenance_session().await?, "look who is let in", sql).await?;
        Ok(found.first().map(|row| session::column(row, "lets_in")).transpose()?.unwrap_or(true))
    }

    /// What others have committed to each of `closed` since the moment before the command, now that
    /// nobody can any more.
    async fn committed_late(&mut self, closed: &[&Member<'_>]) -> Result<Vec<Option<String>>, JobError> {
        let now = self.lsn().await?;
        let all = self.committed_while_running(closed, now).await?;
        Ok(closed.iter().zip(all).map(|(member, committed)| member.foreign_in(committed)).collect())
    }
}

impl Member<'_> {
    /// Why the database is not the one that the run began with.
    pub(super) async fn what_has_changed(&self, run: &Run<'_>) -> Result<Vec<String>, JobError> {
        let Some(before) = &self.facts.identity else {
            return Ok(vec!["the database was never looked at".into()]);
        };
        // Of the maintenance database: the database itself may let nobody in.
        let mut session = run.maintenance_session().await?;
        let (_, system_identifier) = describe::identity(&mut session).await?;
        let name = self.name();
        let Some(oid) = describe::database_oid(&mut session, name).await? else {
            return Ok(vec![format!("there is no database {name} any more")]);
        };
        let mut reasons = Vec::new();
        if oid != before.oid {
            reasons.push(format!("the database has OID {oid}, it had {} when the run began", before.oid));
        }
        if system_identifier != before.system_identifier {
            reasons.push("the cluster is another one than when the run began".into());
        }
        let timeline = wal::timeline(&mut session).await?;
        if timeline != before.timeline {
            reasons.push(format!(
                "the cluster is on timeline {timeline}, it was on {} when the run began",
                before.timeline
            ));
        }
        Ok(reasons)
    }

    /// What a restore would lose, or may lose.
    pub(super) fn what_would_be_lost(&self, run: &Run<'_>) -> Vec<String> {
        let mut reasons = Vec::new();
        if run.means.gate.consistency == Consistency::Unfenced && !run.has_restore_point() {
            reasons.push(
                "writers were not kept out (consistency = \"unfenced\"), and what they wrote would be lost"
                    .into(),
            );
        }
        if let Some(foreign) = &self.facts.foreign {
            reasons.push(format!("{foreign} were committed by others while the migration ran"));
        }
        if let Some(why) = &self.facts.foreign_unknown {
            reasons.push(format!("what others committed is not known: {why}"));
        }
        reasons
    }

    /// Lets nobody into the database, superusers included, and ends who is in it; how that is undone
    /// is written down before.
    pub(super) async fn close_database(&mut self, run: &Run<'_>) -> Result<(), JobError> {
        let Some(identity) = self.facts.identity.clone() else { return Ok(()) };
        // What a relfilenode belongs to can be asked only while somebody is let in.
        self.relations = Some(self.read_relations().await?);
        let undo = undo_text(&GateUndo::Connections(identity.oid));
        run.means.ledger.record_fence(&run.request.id, &undo).await?;
        let name = self.name();
        let mut session = run.maintenance_session().await?;
        set_connections(&mut session, name, "false").await?;
        let end = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = {}",
            literal(name)
        );
        session::rows(&mut session, "end the sessions of the database", end).await?;
        Ok(())
    }

    /// What others committed of this, as a sentence.
    fn foreign_in(&self, committed: Committed) -> Option<String> {
        let (commits, straddlers) = match committed {
            Committed::Unknown(why) => return Some(format!("what others committed is not known: {why}")),
            Committed::Known { commits, straddlers } => (commits, straddlers),
        };
        let has_own_mark = self.facts.armed.as_ref().is_some_and(|armed| armed.has_own_mark);
        let foreign = match attribution::divide(commits, has_own_mark) {
            Attributed::Told { foreign, .. } | Attributed::Untold(foreign) => foreign,
        };
        let foreign = Committed::Known { commits: foreign, straddlers };
        foreign.in_words().map(|what| format!("{what} were committed by others after the snapshot"))
    }
}

/// Says of a database whether it lets sessions in.
pub(super) async fn set_connections(
    session: &mut sqlx::PgConnection,
    name: &str,
    allow: &str,
) -> Result<(), JobError> {
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", quoted(name));
    Ok(session::run(session, "set who may connect", sql).await?)
}
