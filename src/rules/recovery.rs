//! Decides from which base backup, and with how much of the log, a moment is recovered.
//!
//! Comes in: what base backups and pieces of the log are stored, and the moment that is wanted. Goes
//! out: a [`Plan`], or why there is none and which moments there are. Reads nothing.
//!
//! - A base backup reaches back to its own end, and forward as far as the log is whole from its start.
//! - A time is reachable up to the moment until which everything that was committed is known to be
//!   stored. That may be later than the last commit: then the server comes to the end of the log before
//!   it comes to a later commit, and that is the state of the time.
//! - The newest timeline is meant unless another is named; a base backup of an ancestor does, if the
//!   timeline left it after that backup's end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};

use super::chain;
use super::layout::SnapshotId;
use super::physical::{PieceName, Segment, Switch};
use super::wal::Lsn;

/// A base backup, as far as recovery looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its name.
    pub id: SnapshotId,
    /// The one that it builds on, if it is incremental.
    pub parent: Option<SnapshotId>,
    /// Its timeline.
    pub timeline: u32,
    /// Where the log has to begin.
    pub start: Lsn,
    /// Where it is consistent.
    pub stop: Lsn,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
}

/// What of the log is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    segment_bytes: u64,
    /// Bytes of each segment that are stored from its beginning.
    stored: BTreeMap<(u32, u64), u64>,
    histories: BTreeMap<u32, Vec<Switch>>,
}

impl Log {
    /// Sorts `pieces`; `histories` has what the history files say.
    pub fn new<'a>(
        segment_bytes: u64,
        pieces: impl IntoIterator<Item = &'a PieceName>,
        histories: BTreeMap<u32, Vec<Switch>>,
    ) -> Self {
        let mut stored = BTreeMap::new();
        let mut parts: BTreeSet<(u32, u64, u32, u32)> = BTreeSet::new();
        for piece in pieces {
            match piece {
                PieceName::Segment(name) => {
                    if let Some(segment) = Segment::of_name(name, segment_bytes) {
                        stored.insert((segment.timeline, segment.number), segment_bytes);
                    }
                }
                PieceName::Part { segment, from, to } => {
                    if let Some(segment) = Segment::of_name(segment, segment_bytes) {
                        parts.insert((segment.timeline, segment.number, *from, *to));
                    }
                }
                PieceName::History(_) => {}
            }
        }
        for (timeline, number, from, to) in parts {
            let reached = stored.entry((timeline, number)).or_insert(0);
            if u64::from(from) <= *reached {
                *reached = (*reached).max(u64::from(to));
            }
        }
        Self { segment_bytes, stored, histories }
    }

    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The newest timeline that something is known of.
    pub fn newest_timeline(&self) -> Option<u32> {
        let of_log = self.stored.keys().map(|(timeline, _)| *timeline);
        of_log.chain(self.histories.keys().copied()).max()
    }

    /// Where `timeline` left its ancestors, oldest first.
    fn ancestors(&self, timeline: u32) -> &[Switch] {
        self.histories.get(&timeline).map_or(&[], Vec::as_slice)
    }

    /// Where `timeline` ends its use of `of`; `None` when it never left it, or never was on it.
    fn left(&self, timeline: u32, of: u32) -> Option<Lsn> {
        self.ancestors(timeline).iter().find(|switch| switch.parent == of).map(|switch| switch.at)
    }

    /// Whether `timeline` goes on from what `base` holds.
    fn descends(&self, timeline: u32, base: &Base) -> bool {
        base.timeline == timeline || self.left(timeline, base.timeline).is_some_and(|at| at >= base.stop)
    }

    /// The segments from where `base` starts, along `timeline`, without end.
    fn path(&self, timeline: u32, base: &Base) -> impl Iterator<Item = Segment> + '_ {
        let first = base.start.0 / self.segment_bytes.max(1);
        let mut steps: Vec<(u32, u64)> = self
            .ancestors(timeline)
            .iter()
            .map(|switch| (switch.parent, switch.at.0 / self.segment_bytes.max(1)))
            .collect();
        steps.retain(|(_, until)| *until > first);
        // A segment in which a timeline was left is, from then on, the new timeline's own.
        (first..).map(move |number| Segment {
            timeline: steps.iter().find(|(_, until)| number < *until).map_or(timeline, |(parent, _)| *parent),
            number,
            bytes: self.segment_bytes,
        })
    }

    /// How far the log is whole from where `base` starts, along `timeline`.
    pub fn reach(&self, timeline: u32, base: &Base) -> Lsn {
        for segment in self.path(timeline, base) {
            let stored = self.stored.get(&(segment.timeline, segment.number)).copied().unwrap_or(0);
            if stored < self.segment_bytes {
                return Lsn(segment.start().0 + stored);
            }
        }
        Lsn(u64::MAX)
    }

    /// The first segment behind `end` of which something is stored: then something is missing between.
    fn resumes_after(&self, timeline: u32, end: Lsn) -> Option<Segment> {
        let number = end.0 / self.segment_bytes.max(1);
        let found = self.stored.range((timeline, number + 1)..=(timeline, u64::MAX)).next()?;
        Some(Segment { timeline, number: found.0.1, bytes: self.segment_bytes })
    }

    /// The piece that ends where the log of `timeline` does, if `end` is that.
    pub fn last_piece(&self, timeline: u32, end: Lsn) -> Option<Segment> {
        let last = Segment::at(timeline, Lsn(end.0.saturating_sub(1)), self.segment_bytes);
        self.stored.contains_key(&(last.timeline, last.number)).then_some(last)
    }
}

/// What one base backup and the log behind it reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The base backup.
    pub base: Base,
    /// The timeline.
    pub timeline: u32,
    /// Where the log behind it ends.
    pub end: Lsn,
    /// Where the log goes on after something that is missing.
    pub resumes: Option<Lsn>,
    /// What the base backup builds on and is not there.
    pub missing: Option<SnapshotId>,
}

impl Window {
    /// Whether the base backup can be made consistent at all.
    pub fn is_usable(&self) -> bool {
        self.missing.is_none() && self.end >= self.base.stop
    }
}

/// What each base backup reaches on `timeline`, oldest first.
pub fn windows(bases: &[Base], log: &Log, timeline: u32) -> Vec<Window> {
    let mut windows: Vec<Window> = bases
        .iter()
        .filter(|base| log.descends(timeline, base))
        .map(|base| {
            let end = log.reach(timeline, base);
            let resumes = log.resumes_after(timeline, end).map(|segment| segment.start());
            let missing = missing(bases, base);
            Window { base: base.clone(), timeline, end, resumes, missing }
        })
        .collect();
    windows.sort_by(|a, b| (a.base.stop, &a.base.id).cmp(&(b.base.stop, &b.base.id)));
    windows
}

/// What `base` builds on and is not among `bases`.
pub fn missing(bases: &[Base], base: &Base) -> Option<SnapshotId> {
    let parent_of = |id: &SnapshotId| {
        let found = if *id == base.id { Some(base) } else { bases.iter().find(|other| other.id == *id) };
        found.map(|found| found.parent.clone())
    };
    chain::ancestors(&base.id, parent_of).err().map(|broken| broken.missing)
}

/// The moment that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// As late as there is log.
    Latest,
    /// Everything that was committed until then, and nothing that was committed later.
    Time(DateTime<Utc>),
    /// A place in the log.
    Lsn(Lsn),
    /// A restore point (`pg_create_restore_point`).
    Name(String),
}

/// A text that says no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a time with its zone (2026-11-20 14:03:07+01), a place in the log (16/B374D848), name:RESTORE_POINT or latest, not {0:?}"
)]
pub struct InvalidTarget(String);

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(name) = text.strip_prefix("name:")
            && !name.is_empty()
        {
            return Ok(Self::Name(name.into()));
        }
        if let Ok(lsn) = text.parse() {
            return Ok(Self::Lsn(lsn));
        }
        let utc = text.strip_suffix(" UTC").map(|time| format!("{time}Z"));
        let text_of_time = utc.as_deref().unwrap_or(text);
        // A time without a zone would be another one for whoever reads it.
        let formats = ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"];
        let found = formats.iter().find_map(|format| DateTime::parse_from_str(text_of_time, format).ok());
        found.map(|time| Self::Time(time.to_utc())).ok_or_else(|| InvalidTarget(text.into()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Time(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Self::Lsn(lsn) => lsn.fmt(f),
            Self::Name(name) => write!(f, "name:{name}"),
        }
    }
}

/// How a moment is recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// From what.
    pub window: Window,
    /// Where the server is told to stop; `None` for the end of the log.
    pub stop_at: Option<Target>,
}

/// Why a moment cannot be reached, and what can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// There is no base backup that its log makes consistent.
    #[error("there is no base backup on timeline {timeline} with the log that makes it consistent")]
    NoBase {
        /// The timeline.
        timeline: u32,
    },
    /// Every base backup is later.
    #[error("it lies before the end of the first base backup; the earliest moment is {earliest}")]
    TooEarly {
        /// The first moment that can be reached, as a time or a place.
        earliest: String,
    },
    /// The log ends before.
    #[error("it lies after the end of what is stored; the latest moment is {latest}")]
    TooLate {
        /// The last moment that can be reached, as a time or a place.
        latest: String,
    },
    /// Log is missing there.
    #[error("log is missing there; the nearest moments are {before} and {after}")]
    InGap {
        /// The last moment before.
        before: String,
        /// The first moment after.
        after: String,
    },
}

/// Picks the base backup, and says where the server is to stop.
///
/// `windows` are those of the wanted timeline, as [`windows`] gives them; `complete_until` tells until
/// when everything that was committed is in one. A restore point is looked for by the server: the newest base backup may be too late for it,
/// so `begin_before` says when the point was made, if that is known.
///
/// # Errors
/// [`Unreachable`]
pub fn plan(
    target: &Target,
    timeline: u32,
    windows: &[Window],
    complete_until: impl Fn(&Window) -> Option<DateTime<Utc>>,
    begin_before: Option<DateTime<Utc>>,
) -> Result<Plan, Unreachable> {
    let usable: Vec<&Window> = windows.iter().filter(|window| window.is_usable()).collect();
    let (Some(first), Some(last)) = (usable.first(), usable.last()) else {
        return Err(Unreachable::NoBase { timeline });
    };
    let newest = || Plan { window: (*last).clone(), stop_at: None };
    match target {
        Target::Latest => Ok(newest()),
        Target::Name(_) => {
            let fits = |window: &&&Window| begin_before.is_none_or(|at| window.base.ended_at <= at);
            let window = usable.iter().rev().find(fits).unwrap_or(first);
            Ok(Plan { window: (*window).clone(), stop_at: Some(target.clone()) })
        }
        Target::Lsn(lsn) => {
            let Some(window) = usable.iter().rev().find(|window| window.base.stop <= *lsn) else {
                return Err(Unreachable::TooEarly { earliest: first.base.stop.to_string() });
            };
            if *lsn <= window.end {
                return Ok(Plan { window: (*window).clone(), stop_at: Some(target.clone()) });
            }
            let next = usable.iter().find(|later| later.base.stop > *lsn);
            Err(match next {
                Some(next) => {
                    Unreachable::InGap { before: window.end.to_string(), after: next.base.stop.to_string() }
                }
                None => Unreachable::TooLate { latest: window.end.to_string() },
            })
        }
        Target::Time(time) => {
            let Some(window) = usable.iter().rev().find(|window| window.base.ended_at <= *time) else {
                return Err(Unreachable::TooEarly { earliest: in_full(first.base.ended_at) });
            };
            let latest = complete_until(window).unwrap_or(window.base.ended_at);
            if *time <= latest {
                return Ok(Plan { window: (*window).clone(), stop_at: Some(target.clone()) });
            }
            let next = usable.iter().find(|later| later.base.ended_at > *time);
            Err(match next {
                Some(next) => {
                    Unreachable::InGap { before: in_full(latest), after: in_full(next.base.ended_at) }
                }
                None => Unreachable::TooLate { latest: in_full(latest) },
            })
        }
    }
}

fn in_full(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests;
