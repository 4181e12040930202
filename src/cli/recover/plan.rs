//! What a recovery to a moment would read, how long it would take, and what room it needs.

use std::path::Path;

use serde::Serialize;

use crate::catalog::Catalog;
use crate::cli::host::free_bytes;
use crate::cli::report::{ExitCode, Failure, Report, bytes_text, duration_text, time_text};
use crate::rules::drill;
use crate::rules::layout::SnapshotId;
use crate::rules::physical::BaseManifest;
use crate::rules::recovery::{Plan, Target, Wanted};
use crate::rules::wal::Lsn;

/// A recovering server removes log that it is done with from this size on (`max_wal_size`).
const LOG_KEPT_BYTES: u64 = 4 << 30;

const NOT_KNOWN: &str =
    "whether there is such a restore point is not known: the log is looked through for it first";

/// What a recovery would do.
#[derive(Debug, Serialize)]
pub struct RecoveryPlan {
    /// The moment.
    pub at: String,
    /// The base backup that it would begin with.
    pub base: SnapshotId,
    /// Newer base backups that would do but for their verifications, which failed.
    pub passed_over: Vec<SnapshotId>,
    /// When that ended.
    pub base_ended_at: chrono::DateTime<chrono::Utc>,
    /// The timeline that would be followed.
    pub timeline: u32,
    /// Where replaying the log would begin.
    pub from_lsn: Lsn,
    /// Where it would end at the latest.
    pub until_lsn: Lsn,
    /// Plain bytes of the base backup.
    pub base_bytes: u64,
    /// Bytes of the log in between.
    pub log_bytes: u64,
    /// Bytes of the base backup in the store.
    pub stored_bytes: u64,
    /// Bytes that the cluster would need on disk.
    pub needed_bytes: u64,
    /// Bytes that are free where it would lie.
    pub free_bytes: Option<u64>,
    /// How long it would take: the time of the last recovery that was measured, for as many bytes. An
    /// estimate; `None` when none was measured.
    pub estimate_ms: Option<u64>,
    /// What is not known yet, one sentence each.
    pub notes: Vec<String>,
    /// What speaks against it, one sentence each.
    pub refusals: Vec<String>,
}

impl RecoveryPlan {
    /// Works out what `plan` takes, for a cluster that would lie in `place`.
    ///
    /// # Errors
    /// [`Failure`] when the repository cannot be read.
    pub async fn of(
        catalog: &Catalog,
        plan: &Plan,
        base: &BaseManifest,
        at: &Wanted,
        place: &Path,
    ) -> Result<Self, Failure> {
        let records = catalog.base_verifications().await;
        let records = records.map_err(Failure::of("read what is proven of the base backups"))?;
        let (until_lsn, is_known) = match &plan.stop_at {
            Some(Target::Lsn(lsn)) => (*lsn, true),
            Some(Target::Name(name)) => {
                let points =
                    catalog.restore_points().await.map_err(Failure::of("read the restore points"))?;
                let point = points.iter().find(|point| point.name == *name);
                (point.map_or(plan.window.end, |point| point.lsn), point.is_some())
            }
            Some(Target::Time(_) | Target::Latest) | None => (plan.window.end, true),
        };
        let log_bytes = until_lsn.0.saturating_sub(base.start_lsn.0);
        let measured = drill::standing(&records).measured;
        let place = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
        let free_bytes = place.ancestors().find(|path| path.exists()).and_then(free_bytes);
        let needed_bytes = base.plain_bytes + log_bytes.min(LOG_KEPT_BYTES);
        let has_no_room = free_bytes.is_some_and(|free| free < needed_bytes);
        let refusal = || format!("there is no room for it in {}", place.display());
        Ok(Self {
            at: at.to_string(),
            base: base.id.clone(),
            passed_over: plan.passed_over.clone(),
            base_ended_at: base.ended_at,
            timeline: plan.window.timeline,
            from_lsn: base.start_lsn,
            until_lsn,
            base_bytes: base.plain_bytes,
            log_bytes,
            stored_bytes: base.stored_bytes,
            needed_bytes,
            free_bytes,
            estimate_ms: measured.map(|(_, drill)| drill.estimate_ms(base.plain_bytes, log_bytes)),
            notes: (!is_known).then(|| NOT_KNOWN.to_owned()).into_iter().collect(),
            refusals: has_no_room.then(refusal).into_iter().collect(),
        })
    }

    /// The report; `what` would be done with it, in words.
    pub fn report(&self, what: &str) -> Report {
        let free = self.free_bytes.map(|free| format!(", {} free", bytes_text(free))).unwrap_or_default();
        let mut text = format!(
            "would recover {} {what}\n  from base backup {} of {}: {} to unpack, {} in the store\n  at most {} of log to replay, from {} to {} on timeline {}\n  about {} needed on disk{free}\n",
            self.at,
            self.base,
            time_text(self.base_ended_at),
            bytes_text(self.base_bytes),
            bytes_text(self.stored_bytes),
            bytes_text(self.log_bytes),
            self.from_lsn,
            self.until_lsn,
            self.timeline,
            bytes_text(self.needed_bytes),
        );
        text.extend(self.passed_over.iter().map(|id| {
            format!("  base backup {id} is passed over: its verification failed, or that of one that it builds on\n")
        }));
        text.push_str(&match self.estimate_ms {
            Some(estimate) => {
                format!(
                    "  by estimate {}, from the last recovery that was measured\n",
                    duration_text(estimate)
                )
            }
            None => "  no estimate: no recovery was measured yet (belay verify --physical)\n".into(),
        });
        text.extend(self.notes.iter().map(|note| format!("  note: {note}\n")));
        text.extend(self.refusals.iter().map(|refusal| format!("  refused: {refusal}\n")));
        let report = Report::new("recovery-plan", text, self);
        if self.refusals.is_empty() { report } else { report.ending(ExitCode::Refused) }
    }
}
