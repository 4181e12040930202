//! Putting the database back, and letting everybody in again.

use super::JobError;
use super::before::{GateUndo, undo_text};
use super::facts::{FailedRelease, Loss};
use super::walk::Walk;
use super::window::Committed;
use crate::catalog::Pin;
use crate::fence;
use crate::jobs::load::RestoreErrors;
use crate::jobs::prove::Proof;
use crate::jobs::restore::{self, Destination, Prepared, Request, recover};
use crate::postgres::{describe, session, wal};
use crate::rules::causes::in_a_sentence;
use crate::rules::gate::{Outcome, Verdict};
use crate::rules::sql::{literal, quoted};
use crate::rules::wal::attribution::{self, Attributed};
use crate::settings::{Consistency, LocalCopy};

impl Walk<'_> {
    /// Closes the failed database, makes sure that nothing of others is in it, and loads the
    /// snapshot beside it.
    ///
    /// It stays closed until the swap: what was looked at stays so, and no log of the time of a
    /// long load needs to be kept.
    pub(super) async fn prepare_restore(&mut self) -> Result<Outcome, JobError> {
        if self.entry.is_none() {
            self.entry = self.find_entry().await?;
        }
        self.prepared = None;
        if let Some(copy) = self.local_copy.take() {
            return self.prepare_local_copy(copy).await;
        }
        recover::settle_own(self.means.ledger, &self.means.database.connection).await?;
        let is_by_operator = self.position.verdict == Some(Verdict::RestoredByOperator);
        let mut reasons = self.what_has_changed().await?;
        if !is_by_operator {
            reasons.extend(self.what_would_be_lost());
        } else if reasons.is_empty() && !self.facts.is_closed && self.facts.loss == Loss::Refused {
            // Before anybody is kept out for it.
            reasons.extend(self.unaccepted_loss().await?);
        }
        let (Some(entry), Some(opener)) = (self.entry.clone(), self.means.opener) else {
            reasons.push("there is no snapshot, or no identity to open it".into());
            return Ok(self.refuse_restore(reasons));
        };
        if reasons.is_empty() {
            reasons.extend(self.close_for_good(is_by_operator).await?);
        }
        if !reasons.is_empty() {
            return Ok(self.refuse_restore(reasons));
        }
        let means = self.restore_means(opener);
        self.prepared = Some(restore::prepare(&means, &self.restore_request(&entry), self.clock).await?);
        Ok(Outcome::Passed)
    }

    /// Makes ready the copy that the server made before the command ran: nothing is to be loaded.
    async fn prepare_local_copy(&mut self, copy: Prepared) -> Result<Outcome, JobError> {
        let mut reasons = self.what_has_changed().await?;
        reasons.extend(self.what_would_be_lost());
        if reasons.is_empty() {
            reasons.extend(self.close_for_good(false).await?);
        }
        if reasons.is_empty() {
            self.prepared = Some(copy);
            return Ok(Outcome::Passed);
        }
        self.local_copy = Some(copy);
        self.drop_local_copy().await?;
        Ok(self.refuse_restore(reasons))
    }

    /// Has the server copy the database while nobody writes to it, if the settings ask for it.
    pub(super) async fn make_local_copy(&mut self) -> Result<(), JobError> {
        let (Some(entry), Some(opener)) = (self.entry.clone(), self.means.opener) else { return Ok(()) };
        if self.means.gate.local_copy == LocalCopy::None || !self.is_fenced() {
            return Ok(());
        }
        self.drop_local_copy().await?;
        let means = self.restore_means(opener);
        self.local_copy =
            Some(restore::copy_beside(&means, &self.restore_request(&entry), self.clock).await?);
        Ok(())
    }

    /// Drops the copy that the server made, if it was not needed.
    pub(super) async fn drop_local_copy(&mut self) -> Result<(), JobError> {
        let (Some(copy), Some(entry), Some(opener)) =
            (self.local_copy.take(), self.entry.clone(), self.means.opener)
        else {
            return Ok(());
        };
        restore::abandon(&self.restore_means(opener), &self.restore_request(&entry), copy).await
    }

    /// Closes the database, and says what others committed before that; nothing to do where an
    /// earlier attempt has done it and nobody was let in since.
    async fn close_for_good(&mut self, is_by_operator: bool) -> Result<Option<String>, JobError> {
        if self.facts.is_closed && !self.lets_in().await? {
            return Ok(None);
        }
        self.reopen_if_closed().await?;
        self.close_database().await?;
        let late = if is_by_operator { self.unaccepted_loss().await? } else { self.committed_late().await? };
        self.let_go_of_log().await;
        self.facts.is_closed = late.is_none();
        self.note_facts().await?;
        Ok(late)
    }

    async fn lets_in(&self) -> Result<bool, JobError> {
        let name = literal(&self.means.database.connection.database);
        let sql =
            format!("SELECT datallowconn AS lets_in FROM pg_catalog.pg_database WHERE datname = {name}");
        let found = session::rows(&mut self.maintenance_session().await?, "look who is let in", sql).await?;
        Ok(found.first().map(|row| session::column(row, "lets_in")).transpose()?.unwrap_or(true))
    }

    fn refuse_restore(&mut self, reasons: Vec<String>) -> Outcome {
        self.facts.reasons.extend(reasons.into_iter().map(|reason| format!("not put back: {reason}")));
        Outcome::Refused(Verdict::RestoreRefused)
    }

    fn restore_means<'s>(&'s self, opener: &'s crate::seal::Opener) -> restore::Means<'s> {
        restore::Means {
            catalog: self.means.catalog,
            opener,
            ledger: self.means.ledger,
            bin_directory: self.means.bin_directory,
            path: self.means.path,
            scratch_directory: self.means.scratch_directory,
            progress: self.means.progress,
        }
    }

    fn restore_request<'s>(&'s self, entry: &'s crate::catalog::Entry) -> Request<'s> {
        let database = self.means.database;
        Request {
            entry,
            destination: Destination::Swap(database.connection.database.clone()),
            connection: &database.connection,
            jobs: database.jobs,
            proof: Proof::Sent,
            errors: RestoreErrors::Refuse,
            keep_replaced: self.means.gate.keep_failed,
            kept_for: "failed",
            disposable_slots: &self.means.gate.disposable_slots,
            stall_timeout: database.stall_timeout,
        }
    }

    /// Why the database is not the one that the run began with.
    pub(super) async fn what_has_changed(&self) -> Result<Vec<String>, JobError> {
        let Some(before) = &self.facts.identity else {
            return Ok(vec!["the database was never looked at".into()]);
        };
        // Of the maintenance database: the database itself may let nobody in.
        let mut session = self.maintenance_session().await?;
        let (_, system_identifier) = describe::identity(&mut session).await?;
        let name = &self.means.database.connection.database;
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
    fn what_would_be_lost(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.means.gate.consistency == Consistency::Unfenced {
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

    /// Gives the restored database the name.
    pub(super) async fn swap(&mut self) -> Result<Outcome, JobError> {
        let (Some(prepared), Some(entry), Some(opener)) =
            (self.prepared.take(), self.entry.clone(), self.means.opener)
        else {
            // Another process had prepared it, or this one lost the server in the act.
            return Ok(if self.has_swapped().await? { Outcome::Passed } else { Outcome::Stale });
        };
        let means = self.restore_means(opener);
        let restored = restore::finish(&means, &self.restore_request(&entry), prepared, self.clock).await?;
        self.facts.kept_as = restored.previous_kept_as;
        self.facts.notes.extend(restored.notes);
        self.reopen_if_closed().await?;
        Ok(Outcome::Passed)
    }

    /// Whether the swap of this run happened: the cluster's catalog knows which OID has the name.
    async fn has_swapped(&mut self) -> Result<bool, JobError> {
        recover::settle_own(self.means.ledger, &self.means.database.connection).await?;
        let Some(before) = self.facts.identity.clone() else { return Ok(false) };
        let mut session = self.maintenance_session().await?;
        let name = &self.means.database.connection.database;
        let oid = describe::database_oid(&mut session, name).await?;
        if oid.is_none_or(|oid| oid == before.oid) {
            return Ok(false);
        }
        self.facts.kept_as = describe::database_name(&mut session, before.oid).await?;
        self.reopen_if_closed().await?;
        Ok(true)
    }

    /// Lets nobody into the database, superusers included, and ends who is in it; how that is undone
    /// is written down before.
    pub(super) async fn close_database(&mut self) -> Result<(), JobError> {
        let Some(identity) = self.facts.identity.clone() else { return Ok(()) };
        // What a relfilenode belongs to can be asked only while somebody is let in.
        self.relations = Some(self.read_relations().await?);
        let undo = undo_text(&GateUndo::Connections(identity.oid));
        self.means.ledger.record_fence(&self.request.id, &undo).await?;
        let name = &self.means.database.connection.database;
        let mut session = self.maintenance_session().await?;
        set_connections(&mut session, name, "false").await?;
        let end = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = {}",
            literal(name)
        );
        session::rows(&mut session, "end the sessions of the database", end).await?;
        Ok(())
    }

    /// Undoes [`Self::close_database`], whatever the database is called now: operators look into
    /// a failed one.
    pub(super) async fn reopen_if_closed(&mut self) -> Result<(), JobError> {
        for fence in self.means.ledger.standing_fences(&self.request.id).await? {
            if let Ok(undo @ GateUndo::Connections(_)) = serde_json::from_str(&fence.undo) {
                self.undo(&undo).await?;
                let now = (self.clock)();
                self.means.ledger.fence_released(&self.request.id, fence.ordinal, now).await?;
            }
        }
        self.relations = None;
        self.facts.is_closed = false;
        Ok(())
    }

    /// What others have committed since the moment before the command, now that nobody can any more.
    async fn committed_late(&mut self) -> Result<Option<String>, JobError> {
        let Some(armed) = self.facts.armed.clone() else {
            return Ok(Some("the state before the command was not written down".into()));
        };
        let now = self.lsn().await?;
        let (commits, straddlers) = match self.committed_while_running(&armed, now).await? {
            Committed::Unknown(why) => return Ok(Some(format!("what others committed is not known: {why}"))),
            Committed::Known { commits, straddlers } => (commits, straddlers),
        };
        let foreign = match attribution::divide(commits, armed.has_own_mark) {
            Attributed::Told { foreign, .. } | Attributed::Untold(foreign) => foreign,
        };
        let foreign = Committed::Known { commits: foreign, straddlers };
        Ok(foreign.in_words().map(|what| format!("{what} were committed by others after the snapshot")))
    }

    /// Lets everybody in again: every fence that stands, the last raised first.
    pub(super) async fn release(&mut self) -> Result<Outcome, JobError> {
        self.drop_copy().await;
        self.let_go_of_log().await;
        if let Err(error) = self.drop_local_copy().await {
            // The next run drops it; nobody is to be kept out for that.
            self.facts.notes.push(in_a_sentence(&error));
        }
        let (ledger, run, clock) = (self.means.ledger, self.request.id.clone(), self.clock);
        let standing = ledger.standing_fences(&run).await?;
        let mut failures = Vec::new();
        for fence in standing {
            let undo: Result<GateUndo, _> = serde_json::from_str(&fence.undo);
            // That the database itself lets nobody in is asked of the server, and of nobody else.
            let may_be_declared = !matches!(undo, Ok(GateUndo::Connections(_)));
            let released = match undo {
                Err(error) => Err(error.to_string()),
                Ok(undo) => self.undo(&undo).await.map_err(|error| in_a_sentence(&error)),
            };
            match released {
                Ok(()) => ledger.fence_released(&run, fence.ordinal, clock()).await?,
                Err(why) if may_be_declared && self.facts.failed_release == FailedRelease::CountsAsDown => {
                    self.facts.declared_down.push(why);
                    self.note_facts().await?;
                    ledger.fence_released(&run, fence.ordinal, clock()).await?;
                }
                Err(why) if may_be_declared => failures.push(format!(
                    "a fence still stands: {why} (once it is down: `belay runs resolve {run} --keep --fence-is-down`)"
                )),
                Err(why) => failures.push(format!("the database still lets nobody in: {why}")),
            }
        }
        if failures.is_empty() {
            return Ok(Outcome::Passed);
        }
        self.facts.reasons.extend(failures);
        Ok(Outcome::Refused(self.position.verdict.unwrap_or(Verdict::Unknown)))
    }

    async fn undo(&mut self, undo: &GateUndo) -> Result<(), JobError> {
        match undo {
            GateUndo::Fence(undo) => {
                let released =
                    self.with_fence_context(async |context| fence::release(undo, context).await).await?;
                Ok(released?)
            }
            GateUndo::Connections(oid) => {
                let mut session = self.maintenance_session().await?;
                let Some(name) = describe::database_name(&mut session, *oid).await? else { return Ok(()) };
                set_connections(&mut session, &name, "true").await
            }
        }
    }

    /// Keeps the snapshot of a held run from retention, until an operator has decided.
    pub(super) async fn pin_snapshot(&self) -> Result<(), JobError> {
        let Some(entry) = self.find_entry().await? else { return Ok(()) };
        let pin = Pin { at: (self.clock)(), reason: pin_reason(&self.request.id) };
        Ok(self.means.catalog.pin(&entry.home, &pin).await?)
    }
}

/// Why the snapshot of a held run is pinned.
pub fn pin_reason(run: &str) -> String {
    format!("run {run} is held")
}

async fn set_connections(session: &mut sqlx::PgConnection, name: &str, allow: &str) -> Result<(), JobError> {
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", quoted(name));
    Ok(session::run(session, "set who may connect", sql).await?)
}
