//! Putting the database back, and letting everybody in again.

use super::before::{GateUndo, undo_text};
use super::window::Committed;
use super::{JobError, Walk};
use crate::catalog::Pin;
use crate::fence;
use crate::jobs::load::RestoreErrors;
use crate::jobs::prove::Proof;
use crate::jobs::restore::{self, Destination, Request, recover};
use crate::ledger::RaisedFence;
use crate::postgres::{describe, session, wal};
use crate::rules::gate::{Outcome, Verdict};
use crate::rules::sql::{literal, quoted};
use crate::settings::Consistency;

impl Walk<'_> {
    /// Loads the snapshot beside the failed database, unless something speaks against it.
    pub(super) async fn prepare_restore(&mut self) -> Result<Outcome, JobError> {
        if self.entry.is_none() {
            self.entry = self.find_entry().await?;
        }
        self.prepared = None;
        recover::settle_own(self.means.ledger, &self.means.database.connection).await?;
        let is_by_operator = self.position.verdict == Some(Verdict::RestoredByOperator);
        let mut reasons = self.what_has_changed().await?;
        if !is_by_operator {
            reasons.extend(self.what_would_be_lost());
        }
        let (Some(entry), Some(opener)) = (self.entry.clone(), self.means.opener) else {
            reasons.push("there is no snapshot, or no identity to open it".into());
            return Ok(self.refuse_restore(reasons));
        };
        if !reasons.is_empty() {
            return Ok(self.refuse_restore(reasons));
        }
        let means = self.restore_means(opener);
        self.prepared = Some(restore::prepare(&means, &self.restore_request(&entry), self.clock).await?);
        Ok(Outcome::Passed)
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
    async fn what_has_changed(&self) -> Result<Vec<String>, JobError> {
        let Some(before) = &self.facts.identity else {
            return Ok(vec!["the database was never looked at".into()]);
        };
        let mut own = session::connect(&self.means.database.connection).await?;
        let (oid, system_identifier) = describe::identity(&mut own).await?;
        let mut reasons = Vec::new();
        if oid != before.oid {
            reasons.push(format!("the database has OID {oid}, it had {} when the run began", before.oid));
        }
        if system_identifier != before.system_identifier {
            reasons.push("the cluster is another one than when the run began".into());
        }
        let timeline = wal::timeline(&mut own).await?;
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

    /// Closes the failed database, looks once more for commits of others, and swaps.
    pub(super) async fn swap(&mut self) -> Result<Outcome, JobError> {
        if self.prepared.is_none() {
            // Another process had prepared it, or this one lost the server in the act.
            return Ok(if self.has_swapped().await? { Outcome::Passed } else { Outcome::Stale });
        }
        let closed = self.close_database().await?;
        let swapped = self.swap_closed().await;
        if let (Some(closed), false) = (closed, matches!(swapped, Ok(Outcome::Passed))) {
            self.reopen(closed).await?;
        }
        swapped
    }

    async fn swap_closed(&mut self) -> Result<Outcome, JobError> {
        let (Some(prepared), Some(entry), Some(opener)) =
            (self.prepared.take(), self.entry.clone(), self.means.opener)
        else {
            return Ok(Outcome::Stale);
        };
        let is_by_operator = self.position.verdict == Some(Verdict::RestoredByOperator);
        let late = if is_by_operator { None } else { self.committed_late().await? };
        let means = self.restore_means(opener);
        let request = self.restore_request(&entry);
        if let Some(late) = late {
            restore::abandon(&means, &request, prepared).await?;
            return Ok(self.refuse_restore(vec![late]));
        }
        let restored = restore::finish(&means, &request, prepared, self.clock).await?;
        self.open_kept(restored.previous_kept_as.as_deref()).await?;
        self.facts.kept_as = restored.previous_kept_as;
        self.facts.notes.extend(restored.notes);
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
        let kept_as = describe::database_name(&mut session, before.oid).await?;
        self.open_kept(kept_as.as_deref()).await?;
        self.facts.kept_as = kept_as;
        Ok(true)
    }

    /// Lets nobody into the database, superusers included, and ends who is in it. What it returns
    /// says how that is undone; it is written down before.
    pub(super) async fn close_database(&mut self) -> Result<Option<RaisedFence>, JobError> {
        let Some(identity) = self.facts.identity.clone() else { return Ok(None) };
        // What a relfilenode belongs to can be asked only while somebody is let in.
        self.relations = Some(self.read_relations().await?);
        let undo = undo_text(&GateUndo::Connections(identity.oid));
        let closed = self.means.ledger.record_fence(&self.request.id, &undo).await?;
        let name = &self.means.database.connection.database;
        let mut session = self.maintenance_session().await?;
        set_connections(&mut session, name, "false").await?;
        let end = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = {}",
            literal(name)
        );
        session::rows(&mut session, "end the sessions of the database", end).await?;
        Ok(Some(closed))
    }

    /// Undoes [`Self::close_database`].
    pub(super) async fn reopen(&mut self, closed: RaisedFence) -> Result<(), JobError> {
        if let Some(identity) = self.facts.identity.clone() {
            self.undo(&GateUndo::Connections(identity.oid)).await?;
        }
        let now = (self.clock)();
        Ok(self.means.ledger.fence_released(&self.request.id, closed.ordinal, now).await?)
    }

    /// What was committed between the end of the run and now.
    async fn committed_late(&mut self) -> Result<Option<String>, JobError> {
        let Some(settled_lsn) = self.facts.settled_lsn else {
            return Ok(Some("the run was never settled".into()));
        };
        let now = self.lsn().await?;
        let committed = self.committed_between(settled_lsn, now).await?;
        Ok(match &committed {
            Committed::Unknown(why) => Some(format!("what others committed is not known: {why}")),
            Committed::Known { .. } => {
                committed.in_words().map(|what| format!("{what} were committed after the migration"))
            }
        })
    }

    /// Lets operators look into the failed database.
    async fn open_kept(&self, kept_as: Option<&str>) -> Result<(), JobError> {
        let Some(name) = kept_as else { return Ok(()) };
        set_connections(&mut self.maintenance_session().await?, name, "true").await
    }

    /// Lets everybody in again: every fence that stands, the last raised first.
    pub(super) async fn release(&mut self) -> Result<Outcome, JobError> {
        self.drop_copy().await;
        let (ledger, run, clock) = (self.means.ledger, self.request.id.clone(), self.clock);
        let standing = ledger.standing_fences(&run).await?;
        let mut failures = Vec::new();
        for fence in standing {
            let undo: Result<GateUndo, _> = serde_json::from_str(&fence.undo);
            let released = match undo {
                Err(error) => Err(error.to_string()),
                Ok(undo) => self.undo(&undo).await.map_err(|error| super::in_a_sentence(&error)),
            };
            match released {
                Ok(()) => ledger.fence_released(&run, fence.ordinal, clock()).await?,
                Err(why) => failures.push(format!("a fence still stands: {why}")),
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
    pub(super) async fn pin_snapshot(&self) {
        let Ok(Some(entry)) = self.find_entry().await else { return };
        let pin = Pin { at: (self.clock)(), reason: pin_reason(&self.request.id) };
        // A run that is held is told in every way there is; a store that is full must not hide it.
        if let Err(error) = self.means.catalog.pin(&entry.home, &pin).await {
            tracing::warn!(
                run = self.request.id,
                error = super::in_a_sentence(&error),
                "snapshot is not pinned"
            );
        }
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
