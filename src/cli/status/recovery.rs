//! What `belay status` tells of points in time: which can be had, what is proven of them, and how long it
//! takes.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::cli::host::Host;
use crate::cli::report::{Failure, age_text, bytes_text, duration_text};
use crate::cli::windows::{Gap, Moments, Reached, Window, gaps};
use crate::rules::drill::{self, PhysicalDepth};
use crate::rules::layout::SnapshotId;
use crate::rules::plain;

/// What is known of base backups and log.
#[derive(Serialize)]
pub struct RecoveryStatus {
    /// What each base backup reaches.
    pub(super) windows: Vec<Window>,
    /// The same, in a row.
    moments: Vec<Moments>,
    /// Moments in between that cannot be had.
    pub(super) unreachable: Vec<Gap>,
    pub(super) newest_base: Option<NewestBase>,
    /// The last verification that found no problem.
    pub(super) verified: Option<Verified>,
    /// Whether two moments of its schedule have passed without one.
    pub(super) is_overdue: bool,
    pub(super) failed: Vec<Failed>,
    /// The last recovery that was measured.
    pub(super) measured: Option<Measured>,
    /// How long a recovery of the newest moment would take: the measured time for as many bytes. An
    /// estimate.
    pub(super) estimate_ms: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct NewestBase {
    id: SnapshotId,
    pub(super) ended_at: DateTime<Utc>,
}

#[derive(Serialize)]
pub(super) struct Verified {
    base: SnapshotId,
    depth: PhysicalDepth,
    pub(super) at: DateTime<Utc>,
}

#[derive(Serialize)]
pub(super) struct Failed {
    base: SnapshotId,
    depth: PhysicalDepth,
    at: DateTime<Utc>,
    problems: Vec<String>,
    /// Whether a newer base backup is verified.
    pub(super) overcome: bool,
}

#[derive(Serialize)]
pub(super) struct Measured {
    base: SnapshotId,
    at: DateTime<Utc>,
    moment: DateTime<Utc>,
    pub(super) recovery_ms: u64,
    base_bytes: u64,
    log_bytes: u64,
}

/// Looks at base backups, log, and what is proven of them; `None` where there are none and none are wanted.
///
/// # Errors
/// [`Failure`] when the repository cannot be read.
pub async fn recovery(host: &Host, now: DateTime<Utc>) -> Result<Option<RecoveryStatus>, Failure> {
    let is_wanted = host.settings.cluster.point_in_time;
    // The log has many more objects than the base backups.
    if !is_wanted && has_no_bases(host).await? {
        return Ok(None);
    }
    let Reached { stock, windows } = Reached::read_of(host).await?;
    if stock.bases.is_empty() && !is_wanted {
        return Ok(None);
    }
    let records = host.catalog.base_verifications().await;
    let records = records.map_err(Failure::of("read what is proven of the base backups"))?;
    let standing = drill::standing(&records);
    let newest_usable = windows.iter().rev().find(|window| window.until.is_some());
    let estimate_ms = standing
        .measured
        .zip(newest_usable)
        .map(|((_, drill), window)| drill.estimate_ms(window.base_bytes, window.log_bytes));
    let verified_at = standing.verified.map(|record| record.at);
    let schedule = host.settings.verify.physical_schedule.as_ref();
    let is_overdue = schedule
        .zip(stock.bases.first())
        .is_some_and(|(schedule, oldest)| drill::is_overdue(schedule, verified_at, oldest.ended_at, now));
    Ok(Some(RecoveryStatus {
        unreachable: gaps(&windows),
        moments: Moments::of(&windows),
        newest_base: stock
            .bases
            .last()
            .map(|base| NewestBase { id: base.id.clone(), ended_at: base.ended_at }),
        verified: standing.verified.map(|record| Verified {
            base: record.id.clone(),
            depth: record.depth,
            at: record.at,
        }),
        is_overdue,
        failed: standing
            .failed
            .iter()
            .map(|(record, overcome)| Failed {
                base: record.id.clone(),
                depth: record.depth,
                at: record.at,
                problems: record.problems.clone(),
                overcome: *overcome,
            })
            .collect(),
        measured: standing.measured.map(|(record, drill)| Measured {
            base: record.id.clone(),
            at: record.at,
            moment: drill.moment,
            recovery_ms: drill.recovery_ms,
            base_bytes: drill.base_bytes,
            log_bytes: drill.log_bytes,
        }),
        estimate_ms,
        windows,
    }))
}

async fn has_no_bases(host: &Host) -> Result<bool, Failure> {
    let found = host.catalog.bases().await.map_err(Failure::of("read the base backups"))?;
    Ok(found.bases.is_empty() && found.rejected.is_empty())
}

impl RecoveryStatus {
    /// Whether log was lost that no base backup is behind yet.
    pub(super) fn is_broken(&self) -> bool {
        self.unreachable.iter().any(|gap| gap.until.is_none())
    }

    /// Lines for people.
    pub fn text(&self, now: DateTime<Utc>) -> String {
        let age = |at: DateTime<Utc>| age_text(now - at);
        let mut text = match &self.newest_base {
            Some(base) => format!("base backup   the newest is {} old\n", age(base.ended_at)),
            None => "base backup   there is none: no moment can be had\n".into(),
        };
        text.push_str(&Moments::lines(&self.moments));
        match &self.verified {
            Some(verified) => {
                let (depth, age) = (verified.depth.as_str(), age(verified.at));
                let overdue = if self.is_overdue { "; the schedule wants it more often" } else { "" };
                text.push_str(&format!("verified      base backups and log, {depth}, {age} ago{overdue}\n"));
            }
            None if self.newest_base.is_some() => {
                text.push_str("verified      base backups and log never were\n");
            }
            None => {}
        }
        text.extend(self.failed.iter().map(|failed| {
            let since = if failed.overcome { ", a newer one is verified" } else { "" };
            let first = failed.problems.first().map(|problem| plain::line(problem)).unwrap_or_default();
            let (base, depth, age) = (&failed.base, failed.depth.as_str(), age(failed.at));
            format!("failed        verify base backup {base}, {depth}, {age} ago{since}: {first}\n")
        }));
        if let Some(measured) = &self.measured {
            let took = duration_text(measured.recovery_ms);
            let bytes = bytes_text(measured.base_bytes + measured.log_bytes);
            let estimate = self.estimate_ms.map(duration_text).unwrap_or_else(|| "unknown".into());
            text.push_str(&format!(
                "recovery      took {took} for {bytes} when measured, {} ago; of the newest moment, by estimate, {estimate}\n",
                age(measured.at)
            ));
        }
        text.extend(self.unreachable.iter().map(|gap| format!("unreachable   {}", gap.line())));
        text
    }
}
