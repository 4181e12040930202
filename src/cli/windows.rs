//! The moments that can be had again, as `list` and `status` tell them.

use std::collections::BTreeSet;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::host::Host;
use super::report::{Failure, first_moment_text, last_moment_text, moments_text, print_notice, time_text};
use super::wal;
use crate::catalog::Catalog;
use crate::jobs::recover::Stock;
use crate::rules::layout::SnapshotId;
use crate::rules::physical;
use crate::rules::restore_point::RestorePoint;
use crate::rules::wal::Lsn;
use crate::seal::Opener;

/// How many restore points are told on the screen; JSON has all.
const POINTS_TOLD: usize = 10;

/// What one base backup reaches.
#[derive(Debug, Clone, Serialize)]
pub struct Window {
    /// The base backup.
    pub base: SnapshotId,
    /// `full` or `incremental`.
    pub kind: &'static str,
    /// What it builds on.
    pub parent: Option<SnapshotId>,
    /// What it builds on and is missing, or not believed.
    pub missing: Option<SnapshotId>,
    /// Whether its verification failed, or that of one that it builds on.
    pub has_failed: bool,
    /// The timeline.
    pub timeline: u32,
    /// The first moment.
    pub from: DateTime<Utc>,
    /// The last; `None` when its log is not stored.
    pub until: Option<DateTime<Utc>>,
    /// The first place.
    pub from_lsn: Lsn,
    /// The last.
    pub until_lsn: Lsn,
    /// Where the log goes on behind something that is missing.
    pub resumes_lsn: Option<Lsn>,
    /// Plain bytes of the base backup.
    #[serde(skip)]
    pub base_bytes: u64,
    /// Bytes of log from where replaying begins.
    #[serde(skip)]
    pub log_bytes: u64,
}

/// Moments that cannot be had, between others that can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The last moment before.
    pub from: DateTime<Utc>,
    /// The first one after; `None` while no base backup leads behind what is missing.
    pub until: Option<DateTime<Utc>>,
    /// Where the log ends before.
    pub from_lsn: Lsn,
    /// Where it is of use again, or goes on.
    pub until_lsn: Lsn,
}

impl Gap {
    /// A line without a heading.
    pub fn line(&self) -> String {
        let Self { from, until, from_lsn, until_lsn } = self;
        let from = last_moment_text(*from);
        let missing = format!("log is missing from {from_lsn} to {until_lsn}");
        match until {
            Some(until) => format!("from {from} to {}: {missing}\n", first_moment_text(*until)),
            None => format!("from {from} on: {missing}, and no base backup is behind that yet\n"),
        }
    }
}

/// Base backups and log, and what they reach on every timeline.
pub struct Reached {
    /// What the repository has.
    pub stock: Stock,
    /// What each base backup reaches, the oldest timeline first.
    pub windows: Vec<Window>,
}

impl Reached {
    /// Reads that of the host's cluster; a base backup that is not believed is a notice on standard error.
    ///
    /// # Errors
    /// [`Failure`] when the repository cannot be read.
    pub async fn read_of(host: &Host) -> Result<Self, Failure> {
        let reached =
            Self::read(&host.catalog, host.opener().as_ref(), &host.settings.state.directory).await?;
        for (id, reason) in &reached.stock.rejected {
            print_notice(&format!("base backup {id} is not listed: {reason}"));
        }
        Ok(reached)
    }

    async fn read(catalog: &Catalog, opener: Option<&Opener>, state: &Path) -> Result<Self, Failure> {
        let failed = || Failure::of("read the base backups");
        let stock = Stock::read_settled(catalog, opener, wal::shipped(state)).await.map_err(failed())?;
        let mut windows = Vec::new();
        for window in &stock.windows_of_all(catalog).await {
            let until = stock.complete_until(catalog, window).await.map_err(failed())?;
            let base = &window.base;
            let manifest = stock.bases.iter().find(|manifest| manifest.id == base.id);
            windows.push(Window {
                base: base.id.clone(),
                kind: physical::kind(base.parent.as_ref()),
                parent: base.parent.clone(),
                missing: window.missing.clone(),
                has_failed: window.is_doubted,
                timeline: window.timeline,
                from: base.ended_at,
                until: until.filter(|_| window.is_usable()),
                from_lsn: base.stop,
                until_lsn: window.end,
                resumes_lsn: stock.lost_until(window),
                base_bytes: manifest.map_or(0, |manifest| manifest.plain_bytes),
                log_bytes: window.end.0.saturating_sub(base.start.0),
            });
        }
        Ok(Self { stock, windows })
    }
}

/// A line for each, with the timeline where there are several.
pub fn text(windows: &[Window]) -> String {
    let has_several = are_several(windows.iter().map(|window| window.timeline));
    let line = |window: &Window| {
        let reach = match (window.until, &window.missing) {
            (_, Some(missing)) => {
                format!("no moment: base backup {missing}, which it builds on, is missing or not believed")
            }
            (Some(until), None) => {
                let (from, until) = moments_text(window.from, until);
                format!("any moment from {from} to {until}")
            }
            (None, None) => "no moment: its log is not stored".into(),
        };
        let gap =
            window.resumes_lsn.map(|lsn| format!("; log is missing from {} to {lsn}", window.until_lsn));
        let on = if has_several { format!("timeline {}, ", window.timeline) } else { String::new() };
        let failed = if window.has_failed { "; its verification failed" } else { "" };
        format!(
            "{on}base backup {} ({}): {reach}{}{failed}\n",
            window.base,
            window.kind,
            gap.unwrap_or_default()
        )
    };
    windows.iter().map(line).collect()
}

/// A line for each of the newest restore points, the oldest of them first.
pub fn text_of_points(points: &[RestorePoint]) -> String {
    let line = |point: &RestorePoint| {
        let about = point.databases.iter().map(|about| match about.pending.as_slice() {
            [] => about.database.clone(),
            pending => format!("{} to {}", about.database, pending.join(", ")),
        });
        let about = about.collect::<Vec<_>>().join("; ");
        format!(
            "restore point {}: {}, before the migration of {about}\n",
            point.name,
            time_text(point.made_at)
        )
    };
    let left_out = points.len().saturating_sub(POINTS_TOLD);
    let more = (left_out > 0).then(|| format!("and {left_out} older restore points; --json has them all\n"));
    points.iter().skip(left_out).map(line).chain(more).collect()
}

/// Moments in a row that can be had again.
#[derive(Debug, Clone, Serialize)]
pub struct Moments {
    timeline: u32,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Moments {
    /// Those of all windows, the oldest timeline first.
    pub fn of(windows: &[Window]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for window in windows {
            let (Some(until), timeline, from) = (window.until, window.timeline, window.from) else {
                continue;
            };
            match all.last_mut().filter(|last| last.timeline == timeline && last.until >= from) {
                Some(last) => last.until = last.until.max(until),
                None => all.push(Self { timeline, from, until }),
            }
        }
        all
    }

    /// A line for each, with the timeline where there are several.
    pub fn lines(all: &[Self]) -> String {
        let has_several = are_several(all.iter().map(|moments| moments.timeline));
        let line = |moments: &Self| {
            let on = if has_several { format!("timeline {}: ", moments.timeline) } else { String::new() };
            let (from, until) = moments_text(moments.from, moments.until);
            format!("moments       {on}any moment from {from} to {until}\n")
        };
        all.iter().map(line).collect()
    }
}

fn are_several(timelines: impl Iterator<Item = u32>) -> bool {
    timelines.collect::<BTreeSet<u32>>().len() > 1
}

/// What lies between the windows of the newest timeline, and behind the last where log was lost; those that
/// reach nothing leave no trace.
pub fn gaps(windows: &[Window]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut reached: Option<(DateTime<Utc>, Lsn)> = None;
    let mut lost = None;
    let newest = windows.last().map(|window| window.timeline);
    for window in windows.iter().filter(|window| Some(window.timeline) == newest) {
        let Some(until) = window.until else { continue };
        if let Some((from, from_lsn)) = reached.filter(|(before, _)| *before < window.from) {
            gaps.push(Gap { from, until: Some(window.from), from_lsn, until_lsn: window.from_lsn });
        }
        if reached.is_none_or(|before| before <= (until, window.until_lsn)) {
            reached = Some((until, window.until_lsn));
            lost = window.resumes_lsn;
        }
    }
    let behind = reached.zip(lost);
    gaps.extend(behind.map(|((from, from_lsn), until_lsn)| Gap { from, until: None, from_lsn, until_lsn }));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_windows_is_a_gap() {
        let at = |second: i64| DateTime::from_timestamp(1_795_000_000 + second, 0).unwrap();
        let window = |from: i64, until: Option<i64>| Window {
            base: SnapshotId::new(at(from), 0),
            kind: physical::kind(None),
            parent: None,
            missing: None,
            has_failed: false,
            timeline: 1,
            from: at(from),
            until: until.map(at),
            from_lsn: Lsn(from.unsigned_abs()),
            until_lsn: Lsn(until.unwrap_or(from).unsigned_abs()),
            resumes_lsn: None,
            base_bytes: 0,
            log_bytes: 0,
        };
        let windows = [window(0, Some(50)), window(20, Some(50)), window(55, None), window(60, Some(90))];
        let gap = Gap { from: at(50), until: Some(at(60)), from_lsn: Lsn(50), until_lsn: Lsn(60) };
        assert_eq!(gaps(&windows), [gap]);
        assert_eq!(gaps(&windows[..2]), []);
        assert_eq!(gaps(&[]), []);

        let broken = Window { resumes_lsn: Some(Lsn(55)), ..window(20, Some(50)) };
        let behind = Gap { from: at(50), until: None, from_lsn: Lsn(50), until_lsn: Lsn(55) };
        let first = Window { resumes_lsn: Some(Lsn(55)), ..window(0, Some(50)) };
        let unusable = window(58, None);
        assert_eq!(gaps(&[first.clone(), broken.clone(), unusable]), [behind], "at once");
        assert_eq!(gaps(&[first, broken, window(60, Some(90))]).len(), 1, "a newer one leads behind it");
    }
}
