//! A restore point in the log right before the command, where points in time are kept.
//!
//! It names the moment before the migration for whoever wants it later. Where writers were not kept out
//! before the snapshot, it is also what is put back: the snapshot lacks what was committed since, the log
//! does not. That this cannot be had is a note of the run, and stops it only where nothing else would do.

use std::time::Duration;

use super::JobError;
use super::facts::{MadePoint, Origin};
use super::run::Run;
use super::walk::Walk;
use crate::jobs::receive_wal::waiting::{KeptLog, until_handed_over, until_received};
use crate::jobs::recover::{self, Choice, Stock};
use crate::postgres::{PostgresError, wal};
use crate::rules::causes::in_a_sentence;
use crate::rules::layout::SnapshotId;
use crate::rules::manifest;
use crate::rules::physical::{BaseManifest, PieceName};
use crate::rules::recovery::{Target, Wanted};
use crate::rules::restore_point::{self, AboutToMigrate, RestorePoint};

/// How long the log up to the point may take to be stored.
const SHIP_TIMEOUT: Duration = Duration::from_secs(60);

impl Walk<'_> {
    /// Makes the restore point of the run, once, and waits until the log up to there is stored.
    pub(super) async fn make_restore_point(&mut self) -> Result<(), JobError> {
        let Some(log) = self.run.means.log.filter(|_| self.run.facts.restore_point.is_none()) else {
            return Ok(());
        };
        let name = restore_point::name_of(&self.run.request.id);
        let mut session = self.run.maintenance_session().await?;
        let made = match wal::make_restore_point(&mut session, &name).await {
            Ok(lsn) => {
                MadePoint { name, timeline: wal::timeline(&mut session).await?, lsn, out_of_reach: None }
            }
            Err(PostgresError::Query { source, .. }) if source.as_database_error().is_none() => {
                return Err(PostgresError::of_query("make a restore point", source).into());
            }
            Err(error) => {
                let why = in_a_sentence(&error);
                self.run.facts.notes.push(format!("there is no restore point before the migration: {why}"));
                return Ok(());
            }
        };
        let recorded = self.record_point(&made).await;
        let out_of_reach = match recorded {
            Err(error) => Some(in_a_sentence(&error)),
            Ok(()) => self.run.why_out_of_reach(log, &made).await,
        };
        if let Some(why) = &out_of_reach {
            let name = &made.name;
            self.run.facts.notes.push(format!("restore point {name} cannot be reached yet: {why}"));
        }
        self.run.facts.restore_point = Some(MadePoint { out_of_reach, ..made });
        Ok(())
    }

    async fn record_point(&self, made: &MadePoint) -> Result<(), JobError> {
        let means = self.run.means;
        let about = self.members.iter().map(|member| AboutToMigrate {
            database: member.name().to_owned(),
            revisions: member
                .facts
                .armed
                .as_ref()
                .map(|armed| armed.before.revisions.clone())
                .unwrap_or_default(),
            pending: member.facts.pending.iter().map(|pending| pending.id.clone()).collect(),
        });
        let identity = self.members.first().and_then(|member| member.facts.identity.as_ref());
        let point = RestorePoint {
            format: manifest::FORMAT,
            repository: means.catalog.record().repository.clone(),
            cluster: means.catalog.cluster().into(),
            system_identifier: identity.and_then(|identity| identity.system_identifier.clone()),
            run: self.run.request.id.parse::<SnapshotId>().map_err(|error| JobError::Refused {
                action: "record a restore point".into(),
                reasons: vec![error.to_string()],
            })?,
            name: made.name.clone(),
            timeline: made.timeline,
            lsn: made.lsn,
            made_at: (self.run.clock)(),
            databases: about.collect(),
        };
        Ok(means.catalog.record_point(&point, means.signing).await?)
    }

    /// Recovers the cluster as it was at the run's restore point, if that is what is put back.
    pub(super) async fn recover_point(&mut self) -> Result<(), JobError> {
        let (Origin::RestorePoint, Some(point)) =
            (self.run.facts.origin, self.run.facts.restore_point.clone())
        else {
            return Ok(());
        };
        let means = self.run.means;
        let opener = means.opener.ok_or(JobError::NoIdentity { action: "open the base backup" })?;
        let recovery = recover::Means {
            catalog: means.catalog,
            opener,
            bin_directory: means.bin_directory,
            path: means.path,
            scratch_directory: means.scratch_directory,
            progress: means.progress,
        };
        let stock = Stock::read(means.catalog, Some(opener), None).await?;
        let wanted = Wanted::Target(Target::Name(point.name.clone()));
        let choice = Choice { timeline: Some(point.timeline), ..Choice::default() };
        let (plan, base) = stock.plan(means.catalog, &wanted, choice).await?;
        let databases: Vec<_> = self.failed().map(|member| member.settings).collect();
        let work = recover::databases_at(&recovery, &stock, &plan, &base, &databases, self.run.clock);
        let moment = Box::pin(work).await?;
        for member in self.run_and_failed().1 {
            member.entry_at_point = Some(moment.entry(member.name()).await?);
        }
        self.run.facts.notes.push(format!(
            "put back as of restore point {}, from base backup {} and {} segments of the log: the snapshot lacks what was committed after it",
            point.name, moment.recovered.base, moment.recovered.segments
        ));
        self.run.moment = Some(moment);
        Ok(())
    }
}

impl Run<'_> {
    /// Whether what is stored reaches the restore point of the run.
    pub(super) fn has_restore_point(&self) -> bool {
        self.facts.restore_point.as_ref().is_some_and(|point| point.out_of_reach.is_none())
    }

    /// Waits until the log is stored up to the point; why it cannot be recovered, if that is so.
    async fn why_out_of_reach(&self, log: KeptLog<'_>, point: &MadePoint) -> Option<String> {
        if !log.is_received {
            return self.why_not_handed_over(point).await;
        }
        self.means.progress.enter("waiting until the log is stored");
        let shipped = match until_received(log.state, point.timeline, point.lsn, SHIP_TIMEOUT).await {
            Ok(shipped) => shipped,
            Err(why) => return Some(why.to_string()),
        };
        let bases = match self.means.catalog.bases().await {
            Ok(found) => found.bases,
            Err(error) => return Some(in_a_sentence(&error)),
        };
        let is_behind = |base: &&BaseManifest| {
            base.timeline == point.timeline
                && base.stop_lsn <= point.lsn
                && base.began_at >= shipped.unbroken_since
        };
        let Some(base) = bases.iter().rev().find(is_behind) else {
            return Some("there is no base backup with all of the log behind it".into());
        };
        if self.means.opener.is_none() {
            return Some("there is no identity on this host to open the base backup with".into());
        }
        recover::why_not_unpacked(self.means.scratch_directory, &bases, base)
    }

    /// Has the server hand over the segment with the point, and waits for that; why the point cannot be
    /// recovered, if that is so.
    async fn why_not_handed_over(&self, point: &MadePoint) -> Option<String> {
        self.means.progress.enter("waiting until the log is stored");
        match self.wait_until_handed_over(point).await {
            Ok(why) => why,
            Err(error) => Some(in_a_sentence(&error)),
        }
    }

    async fn wait_until_handed_over(&self, point: &MadePoint) -> Result<Option<String>, JobError> {
        let catalog = self.means.catalog;
        let segment = wal::end_segment(&mut self.maintenance_session().await?, point.lsn).await?;
        let piece = PieceName::Segment(segment);
        if !until_handed_over(catalog, &piece, SHIP_TIMEOUT).await? {
            let seconds = SHIP_TIMEOUT.as_secs();
            return Ok(Some(format!("the server did not hand over {piece} within {seconds} seconds")));
        }
        let Some(opener) = self.means.opener else {
            return Ok(Some("there is no identity on this host to open the base backup with".into()));
        };
        let stock = Stock::read(catalog, Some(opener), None).await?;
        let wanted = Wanted::Target(Target::Lsn(point.lsn));
        let choice = Choice { timeline: Some(point.timeline), ..Choice::default() };
        let (_, base) = stock.plan(catalog, &wanted, choice).await?;
        Ok(recover::why_not_unpacked(self.means.scratch_directory, &stock.bases, &base))
    }
}
