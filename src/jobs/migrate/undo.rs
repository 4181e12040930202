//! Putting the databases back, and letting everybody in again.

use super::JobError;
use super::before::GateUndo;
use super::close::set_connections;
use super::facts::{FailedRelease, Loss, Origin};
use super::member::Member;
use super::run::Run;
use super::walk::Walk;
use crate::catalog::{Entry, Pin};
use crate::fence::{self, Context};
use crate::jobs::load::RestoreErrors;
use crate::jobs::prove::Proof;
use crate::jobs::restore::{self, Destination, Prepared, Request, recover};
use crate::postgres::describe;
use crate::rules::causes::in_a_sentence;
use crate::rules::gate::{Outcome, Verdict};
use crate::settings::LocalCopy;

impl<'a> Walk<'a> {
    /// Closes the databases that the run changed, makes sure that nothing of others is in them, and
    /// loads their snapshots beside them: all, or none is put back.
    ///
    /// They stay closed until the swap: what was looked at stays so, and no log of the time of a
    /// long load needs to be kept.
    pub(super) async fn prepare_restores(&mut self) -> Result<Outcome, JobError> {
        let copies: Vec<Option<Prepared>> =
            self.members.iter_mut().map(|member| member.local_copy.take()).collect();
        for member in &mut self.members {
            if member.entry.is_none() {
                member.entry = member.find_entry(&self.run).await?;
            }
            (member.prepared, member.entry_at_point) = (None, None);
        }
        if copies.iter().all(Option::is_none) {
            recover::settle_own(self.run.means.ledger, self.run.connection()).await?;
        }
        let mut reasons = self.why_not_put_back().await?;
        if reasons.is_empty() {
            reasons = self.close_for_good().await?;
        }
        for (member, copy) in self.members.iter_mut().zip(copies) {
            member.local_copy = copy;
        }
        if !reasons.is_empty() {
            self.drop_local_copies().await?;
            let reasons = reasons.into_iter().map(|reason| format!("not put back: {reason}"));
            self.run.facts.reasons.extend(reasons);
            return Ok(Outcome::Refused(Verdict::RestoreRefused));
        }
        if let Err(error) = self.load_all().await {
            self.abandon_prepared().await;
            return Err(error);
        }
        Ok(Outcome::Passed)
    }

    /// Whether the run puts back more than what it changed: an operator may have it put back what is
    /// proven to be unchanged, if there is nothing else.
    fn puts_back_all(&self) -> bool {
        self.run.is_restored_by_operator() && !self.members.iter().any(Member::may_be_changed)
    }

    /// The databases that are to be put back.
    pub(super) fn failed(&self) -> impl Iterator<Item = &Member<'a>> {
        let all = self.puts_back_all();
        self.members.iter().filter(move |member| all || member.may_be_changed())
    }

    /// The run, and [`Walk::failed`] to be worked on.
    pub(super) fn run_and_failed(&mut self) -> (&mut Run<'a>, Vec<&mut Member<'a>>) {
        let all = self.puts_back_all();
        let failed = self.members.iter_mut().filter(|member| all || member.may_be_changed());
        (&mut self.run, failed.collect())
    }

    /// Why none of the databases is put back.
    async fn why_not_put_back(&mut self) -> Result<Vec<String>, JobError> {
        let by_operator = self.run.is_restored_by_operator();
        let (run, failed) = self.run_and_failed();
        let mut reasons = Vec::new();
        for member in failed {
            let changed = member.what_has_changed(run).await?;
            if !by_operator {
                reasons.extend(member.say_all(member.what_would_be_lost(run)));
            } else if changed.is_empty() && !member.facts.is_closed && run.facts.loss == Loss::Refused {
                // Before anybody is kept out for it.
                reasons.extend(member.unaccepted_loss(run).await?.map(|loss| member.says(loss)));
            }
            reasons.extend(member.say_all(changed));
            let is_there = member.entry.is_some() || run.facts.origin == Origin::RestorePoint;
            if !is_there || run.means.opener.is_none() {
                reasons.push(member.says("there is no snapshot, or no identity to open it"));
            }
        }
        Ok(reasons)
    }

    /// Loads the snapshots of the failed databases beside them, but for what the server has copied.
    async fn load_all(&mut self) -> Result<(), JobError> {
        self.recover_point().await?;
        let (run, failed) = self.run_and_failed();
        for member in failed {
            member.prepared = match member.local_copy.take() {
                copied @ Some(_) => copied,
                None => Some(member.load(run).await?),
            };
        }
        Ok(())
    }

    async fn abandon_prepared(&mut self) {
        for member in &mut self.members {
            let prepared = member.prepared.take();
            // The next attempt, or the next run, drops what this leaves.
            let _ = member.abandon(&self.run, prepared).await;
        }
    }

    /// Drops the copies that the server made, as far as they were not needed.
    pub(super) async fn drop_local_copies(&mut self) -> Result<(), JobError> {
        let mut dropped = Ok(());
        for member in &mut self.members {
            let copy = member.local_copy.take();
            dropped = dropped.and(member.abandon(&self.run, copy).await);
        }
        dropped
    }

    /// Gives the restored databases the names, all at once.
    pub(super) async fn swap(&mut self) -> Result<Outcome, JobError> {
        let is_ready = self.failed().all(|member| member.prepared.is_some());
        if !is_ready {
            // Another process had prepared them, or this one lost the server in the act.
            return self.has_swapped().await;
        }
        let prepared: Vec<_> = self.members.iter_mut().map(|member| member.prepared.take()).collect();
        let (mut requests, mut ready) = (Vec::new(), Vec::new());
        for (member, prepared) in self.members.iter().zip(prepared) {
            if let (Some(entry), Some(prepared)) = (member.put_back_from(), prepared) {
                requests.push(member.restore_request(&self.run, entry));
                ready.push(prepared);
            }
        }
        let means = self.run.restore_means()?;
        let all = requests.iter().zip(ready).collect();
        let restored = restore::finish_together(&means, all, self.run.clock).await?;
        for restored in restored {
            for member in self.members.iter_mut().filter(|member| member.name() == restored.database) {
                member.facts.kept_as.clone_from(&restored.previous_kept_as);
                self.run.facts.notes.extend(member.say_all(restored.notes.clone()));
            }
        }
        self.run.moment = None;
        self.reopen_if_closed().await?;
        Ok(Outcome::Passed)
    }

    /// Whether the swap of this run happened: the cluster's catalog knows which OID has each name.
    async fn has_swapped(&mut self) -> Result<Outcome, JobError> {
        recover::settle_own(self.run.means.ledger, self.run.connection()).await?;
        let mut session = self.run.maintenance_session().await?;
        let (mut swapped, mut old) = (Vec::new(), 0_usize);
        for member in self.failed() {
            let before = member.facts.identity.as_ref().map(|identity| identity.oid);
            let now = describe::database_oid(&mut session, member.name()).await?;
            match before.filter(|before| now.is_some_and(|now| now != *before)) {
                Some(before) => {
                    swapped.push((member.name(), describe::database_name(&mut session, before).await?));
                }
                None => old += 1,
            }
        }
        if swapped.is_empty() {
            return Ok(Outcome::Stale);
        }
        for (name, kept_as) in &swapped {
            for member in self.members.iter_mut().filter(|member| member.name() == *name) {
                member.facts.kept_as.clone_from(kept_as);
            }
        }
        if old > 0 {
            // One transaction swaps them: somebody else has renamed databases.
            let reason = "some of the databases are put back, and others were renamed by somebody else";
            self.run.facts.reasons.push(reason.into());
            return Ok(Outcome::Refused(Verdict::Unknown));
        }
        self.reopen_if_closed().await?;
        Ok(Outcome::Passed)
    }

    /// Lets everybody in again: every fence that stands, the last raised first.
    pub(super) async fn release(&mut self) -> Result<Outcome, JobError> {
        self.drop_copies().await;
        self.run.let_go_of_log().await;
        if let Err(error) = self.drop_local_copies().await {
            // The next run drops it; nobody is to be kept out for that.
            self.run.facts.notes.push(in_a_sentence(&error));
        }
        let (ledger, run, clock) = (self.run.means.ledger, self.run.request.id.clone(), self.run.clock);
        let standing = ledger.standing_fences(&run).await?;
        let mut failures = Vec::new();
        for fence in standing {
            let undo: Result<GateUndo, _> = serde_json::from_str(&fence.undo);
            // That a database itself lets nobody in is asked of the server, and of nobody else.
            let may_be_declared = !matches!(undo, Ok(GateUndo::Connections(_)));
            let is_declared = may_be_declared && self.run.facts.failed_release == FailedRelease::CountsAsDown;
            let released = match undo {
                Err(error) => Err(error.to_string()),
                Ok(undo) => self.run.undo(&undo).await.map_err(|error| in_a_sentence(&error)),
            };
            match released {
                Ok(()) => ledger.fence_released(&run, fence.ordinal, clock()).await?,
                Err(why) if is_declared => {
                    self.run.facts.declared_down.push(why);
                    self.note_facts().await?;
                    ledger.fence_released(&run, fence.ordinal, clock()).await?;
                }
                Err(why) if may_be_declared => failures.push(format!(
                    "a fence still stands: {why} (once it is down: `belay runs resolve {run} --keep --fence-is-down`)"
                )),
                Err(why) => failures.push(format!("a database still lets nobody in: {why}")),
            }
        }
        if failures.is_empty() {
            return Ok(Outcome::Passed);
        }
        self.run.facts.reasons.extend(failures);
        Ok(Outcome::Refused(self.run.position.verdict.unwrap_or(Verdict::Unknown)))
    }
}

impl Run<'_> {
    /// With the snapshots of the restore point where that is put back, else with those of the run.
    fn restore_means(&self) -> Result<restore::Means<'_>, JobError> {
        let no_identity = || JobError::NoIdentity { action: "open the snapshot" };
        let (catalog, opener) = match &self.moment {
            Some(moment) => (&moment.catalog, &moment.opener),
            None => (self.means.catalog, self.means.opener.ok_or_else(no_identity)?),
        };
        Ok(restore::Means {
            catalog,
            opener,
            ledger: self.means.ledger,
            bin_directory: self.means.bin_directory,
            path: self.means.path,
            scratch_directory: self.means.scratch_directory,
            progress: self.means.progress,
        })
    }

    pub(super) async fn undo(&mut self, undo: &GateUndo) -> Result<(), JobError> {
        match undo {
            GateUndo::Fence { database, undo } => {
                let work = async |context: &Context<'_>| fence::release(undo, context).await;
                Ok(self.with_fence_context(database, work).await??)
            }
            GateUndo::Connections(oid) => {
                let mut session = self.maintenance_session().await?;
                let Some(name) = describe::database_name(&mut session, *oid).await? else { return Ok(()) };
                set_connections(&mut session, &name, "true").await
            }
        }
    }
}

impl Member<'_> {
    /// Loads its snapshot beside it.
    async fn load(&self, run: &Run<'_>) -> Result<Prepared, JobError> {
        let Some(entry) = self.put_back_from() else {
            return Err(JobError::NoIdentity { action: "open the snapshot" });
        };
        let (means, request) = (run.restore_means()?, self.restore_request(run, entry));
        restore::prepare(&means, &request, run.clock).await.map_err(|error| match error {
            JobError::Refused { action, reasons } => {
                JobError::Refused { action, reasons: self.say_all(reasons) }
            }
            other => other,
        })
    }

    /// Has the server copy the database while nobody writes to it, if the settings ask for it.
    pub(super) async fn make_local_copy(&mut self, run: &Run<'_>) -> Result<(), JobError> {
        if run.means.gate.local_copy == LocalCopy::None || !run.is_fenced() {
            return Ok(());
        }
        let earlier = self.local_copy.take();
        self.abandon(run, earlier).await?;
        let (Some(entry), Some(_)) = (&self.entry, run.means.opener) else { return Ok(()) };
        let (means, request) = (run.restore_means()?, self.restore_request(run, entry));
        self.local_copy = Some(restore::copy_beside(&means, &request, run.clock).await?);
        Ok(())
    }

    /// Drops what was prepared and is not wanted any more.
    async fn abandon(&self, run: &Run<'_>, prepared: Option<Prepared>) -> Result<(), JobError> {
        let (Some(prepared), Some(entry)) = (prepared, self.put_back_from()) else { return Ok(()) };
        restore::abandon(&run.restore_means()?, &self.restore_request(run, entry), prepared).await
    }

    fn restore_request<'s>(&'s self, run: &'s Run<'_>, entry: &'s Entry) -> Request<'s> {
        Request {
            entry,
            destination: Destination::Swap(self.name().to_owned()),
            connection: run.connection(),
            jobs: self.settings.jobs,
            proof: Proof::Sent,
            errors: RestoreErrors::Refuse,
            keep_replaced: run.means.gate.keep_failed,
            kept_for: "failed",
            disposable_slots: &run.means.gate.disposable_slots,
            stall_timeout: self.settings.stall_timeout,
        }
    }

    /// Keeps the snapshot of a held run from retention, until an operator has decided.
    pub(super) async fn pin_snapshot(&self, run: &Run<'_>) -> Result<(), JobError> {
        let Some(entry) = self.find_entry(run).await? else { return Ok(()) };
        let pin = Pin { at: (run.clock)(), reason: pin_reason(&run.request.id) };
        Ok(run.means.catalog.pin(&entry.home, &pin).await?)
    }
}

/// Why the snapshot of a held run is pinned.
pub fn pin_reason(run: &str) -> String {
    format!("run {run} is held")
}
