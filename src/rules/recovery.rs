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
//!   timeline left it after that backup's end. What was written on an ancestor behind that place is
//!   reached by naming the ancestor.
//! - But for the first, a timeline can be followed only with its history file.
//! - A base backup whose verification failed, or that builds on such a one, is passed over where an older
//!   one reaches the moment too. Where none does, it is taken all the same: what is damaged may be what nobody wants.

mod log;
mod plan;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};

use super::chain;
use super::drill::Checked;
use super::layout::SnapshotId;
use super::wal::Lsn;

pub use self::log::{Assembly, Log};
pub use self::plan::{BaseChoice, Plan, Unreachable, plan};

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
    /// What its own verifications come to.
    pub checked: Checked,
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
    /// Whether the verification of the base backup failed, or that of one that it builds on.
    pub is_doubted: bool,
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
        .filter(|base| log.is_known(timeline) && log.descends(timeline, base))
        .map(|base| {
            let end = log.reach(timeline, base);
            let resumes = log.resumes_after(timeline, end);
            let (missing, is_doubted) = (missing(bases, base), is_doubted(bases, base));
            Window { base: base.clone(), timeline, end, resumes, missing, is_doubted }
        })
        .collect();
    windows.sort_by(|a, b| (a.base.stop, &a.base.id).cmp(&(b.base.stop, &b.base.id)));
    windows
}

/// What can be reached on any timeline, the oldest timeline first: of all but the newest without what
/// is of no use, and without what a later timeline reaches too.
pub fn windows_of_all(bases: &[Base], log: &Log) -> Vec<Window> {
    let mut timelines = log.timelines();
    timelines.extend(bases.iter().map(|base| base.timeline));
    let newest = timelines.last().copied();
    let all: Vec<Window> = timelines.iter().flat_map(|timeline| windows(bases, log, *timeline)).collect();
    let is_told = |window: &&Window| {
        let goes_on = |later: &Window| {
            later.base.id == window.base.id
                && log.left(later.timeline, window.timeline).is_some_and(|at| at >= window.end)
        };
        Some(window.timeline) == newest || (window.is_usable() && !all.iter().any(goes_on))
    };
    all.iter().filter(is_told).cloned().collect()
}

/// What `base` builds on and is not among `bases`.
pub fn missing(bases: &[Base], base: &Base) -> Option<SnapshotId> {
    ancestors(bases, base).err().map(|broken| broken.missing)
}

/// Whether the verification of `base` failed, or that of one of `bases` that it builds on.
pub fn is_doubted(bases: &[Base], base: &Base) -> bool {
    let has_failed = |other: &Base| other.checked == Checked::Failed;
    let ancestors = ancestors(bases, base).unwrap_or_default();
    has_failed(base) || bases.iter().any(|other| has_failed(other) && ancestors.contains(&other.id))
}

fn ancestors(bases: &[Base], base: &Base) -> Result<Vec<SnapshotId>, chain::Broken> {
    let parent_of = |id: &SnapshotId| {
        let found = if *id == base.id { Some(base) } else { bases.iter().find(|other| other.id == *id) };
        found.map(|found| found.parent.clone())
    };
    chain::ancestors(&base.id, parent_of)
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
    "must be a time with its zone (2026-11-20 14:03:07+01), a place in the log (16/B374D848), name:RESTORE_POINT, before-migration:REVISION or latest, not {0:?}"
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

/// The moment that is wanted, as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// By what the log knows.
    Target(Target),
    /// The moment before the migration to a revision, or before the run of that name.
    BeforeMigration(String),
}

impl FromStr for Wanted {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        match text.strip_prefix("before-migration:") {
            Some(revision) if !revision.is_empty() => Ok(Self::BeforeMigration(revision.into())),
            Some(_) => Err(InvalidTarget(text.into())),
            None => text.parse().map(Self::Target),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(target) => target.fmt(f),
            Self::BeforeMigration(revision) => write!(f, "before-migration:{revision}"),
        }
    }
}

#[cfg(test)]
mod tests;
