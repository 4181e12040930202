//! Decides from which base backup a moment is recovered, and says why where it cannot be.

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Target, Window};
use crate::rules::layout::SnapshotId;
use crate::rules::wal::Lsn;

/// How a moment is recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// From what.
    pub window: Window,
    /// Where the server is told to stop; `None` for the end of the log.
    pub stop_at: Option<Target>,
    /// From what else, in this order, where the moment is not behind the first.
    pub older: Vec<Window>,
    /// Newer base backups that reach the moment too, and are not taken because their verification failed.
    pub passed_over: Vec<SnapshotId>,
    /// Other base backups that reach the moment, as far as is known, the best first.
    pub others: Vec<SnapshotId>,
}

impl Plan {
    /// From `window` alone.
    pub fn of(window: &Window, stop_at: Option<Target>) -> Self {
        let (older, passed_over, others) = (Vec::new(), Vec::new(), Vec::new());
        Self { window: window.clone(), stop_at, older, passed_over, others }
    }
}

/// Why a moment cannot be reached, and what can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// There is no base backup that its log makes consistent.
    #[error("there is no base backup on timeline {timeline} with the log that makes it consistent: {why}")]
    NoBase {
        /// The timeline.
        timeline: u32,
        /// What the newest one lacks, in words.
        why: String,
    },
    /// Every base backup is later.
    #[error("it lies before the end of the first base backup; the earliest moment is {earliest}")]
    TooEarly {
        /// The first moment that can be reached, as a time or a place.
        earliest: String,
    },
    /// The log ends before.
    #[error(
        "it lies after the end of what is stored; the latest moment is {latest} (--at latest takes all that is stored)"
    )]
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
    /// Log is missing there, and no base backup leads behind that.
    #[error(
        "log is missing from {from} to {until}, and no base backup is behind that yet; the latest moment before is {latest}"
    )]
    Broken {
        /// Where the log ends.
        from: Lsn,
        /// Where it goes on.
        until: Lsn,
        /// The last moment before, as a time or a place.
        latest: String,
    },
    /// The base backup that was asked for does not lead there.
    #[error("base backup {base} does not lead there: {why}")]
    NotFrom {
        /// The base backup.
        base: SnapshotId,
        /// What it reaches, in words.
        why: String,
        /// The one that is taken where none is asked for, if one leads there.
        instead: Option<SnapshotId>,
    },
}

/// Which base backups are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseChoice<'a> {
    /// All; the newest that reaches the moment is taken, unless its verification failed.
    Any,
    /// This one.
    Only(&'a SnapshotId),
}

/// Picks the base backup, and says where the server is to stop.
///
/// `windows` are those of the wanted timeline, as [`windows`](super::windows) gives them; `complete_until`
/// tells until when everything that was committed is in one. A restore point is looked for by the server, from
/// where the log begins: `named_at` says where it lies, if that is known, else it is looked for behind the first
/// base backup that is chosen, and then behind those of [`Plan::older`].
///
/// # Errors
/// [`Unreachable`]
pub fn plan(
    target: &Target,
    timeline: u32,
    windows: &[Window],
    complete_until: impl Fn(&Window) -> Option<DateTime<Utc>>,
    named_at: Option<Lsn>,
    choice: BaseChoice<'_>,
) -> Result<Plan, Unreachable> {
    let any = Reach { timeline, windows, complete_until: &complete_until };
    let BaseChoice::Only(id) = choice else { return any.plan(target, named_at) };
    let only: Vec<Window> = windows.iter().filter(|window| window.base.id == *id).cloned().collect();
    let alone = Reach { timeline, windows: &only, complete_until: &complete_until };
    alone.plan(target, named_at).map_err(|_| Unreachable::NotFrom {
        base: id.clone(),
        why: alone.in_words(),
        instead: any.plan(target, named_at).ok().map(|plan| plan.window.base.id),
    })
}

/// What is looked at to reach a moment.
struct Reach<'a, C> {
    timeline: u32,
    windows: &'a [Window],
    complete_until: &'a C,
}

impl<C: Fn(&Window) -> Option<DateTime<Utc>>> Reach<'_, C> {
    fn plan(&self, target: &Target, named_at: Option<Lsn>) -> Result<Plan, Unreachable> {
        let usable: Vec<&Window> = self.windows.iter().filter(|window| window.is_usable()).collect();
        let (Some(first), Some(last)) = (usable.first(), usable.last()) else {
            return Err(self.no_base());
        };
        match (target, named_at) {
            // What is behind the gap is later, and who asks for the latest means that.
            (Target::Latest, _) if last.resumes.is_some() => Err(behind(last, in_full(self.latest(last)))),
            (Target::Latest, _) => {
                let at_end = usable.iter().filter(|window| window.end >= last.end).copied();
                Ok(choose(at_end, None).unwrap_or_else(|| Plan::of(last, None)))
            }
            (Target::Name(_), Some(lsn)) => {
                let there = self.at_lsn(lsn, &usable, first)?;
                Ok(Plan { stop_at: Some(target.clone()), ..there })
            }
            (Target::Name(_), None) => {
                let mut plan = choose(usable.iter().copied(), Some(target.clone()))
                    .unwrap_or_else(|| Plan::of(last, Some(target.clone())));
                let of_id =
                    |id: &SnapshotId| usable.iter().find(|window| window.base.id == *id).copied().cloned();
                plan.older = plan.others.iter().filter_map(of_id).collect();
                Ok(plan)
            }
            (Target::Lsn(lsn), _) => self.at_lsn(*lsn, &usable, first),
            (Target::Time(time), _) => self.at_time(*time, &usable, first),
        }
    }

    fn at_lsn(&self, lsn: Lsn, usable: &[&Window], first: &Window) -> Result<Plan, Unreachable> {
        let before = || usable.iter().copied().filter(|window| window.base.stop <= lsn);
        let Some(newest) = before().next_back() else {
            return Err(Unreachable::TooEarly { earliest: first.base.stop.to_string() });
        };
        if let Some(plan) = choose(before().filter(|window| lsn <= window.end), Some(Target::Lsn(lsn))) {
            return Ok(plan);
        }
        let next = usable.iter().find(|later| later.base.stop > lsn);
        Err(match next {
            Some(next) => {
                Unreachable::InGap { before: newest.end.to_string(), after: next.base.stop.to_string() }
            }
            None => behind(newest, newest.end.to_string()),
        })
    }

    fn at_time(&self, time: DateTime<Utc>, usable: &[&Window], first: &Window) -> Result<Plan, Unreachable> {
        let before = || usable.iter().copied().filter(|window| window.base.ended_at <= time);
        let Some(newest) = before().next_back() else {
            return Err(Unreachable::TooEarly { earliest: in_full(first.base.ended_at) });
        };
        let reaching = before().filter(|window| time <= self.latest(window));
        if let Some(plan) = choose(reaching, Some(Target::Time(time))) {
            return Ok(plan);
        }
        let latest = in_full(self.latest(newest));
        let next = usable.iter().find(|later| later.base.ended_at > time);
        Err(match next {
            Some(next) => Unreachable::InGap { before: latest, after: in_full(next.base.ended_at) },
            None => behind(newest, latest),
        })
    }

    /// The last moment of a window.
    fn latest(&self, window: &Window) -> DateTime<Utc> {
        (self.complete_until)(window).unwrap_or(window.base.ended_at)
    }

    fn no_base(&self) -> Unreachable {
        let lacks = |window: &Window| {
            Some(format!("{} is the newest one, and {}", window.base.id, why_of_no_use(window)?))
        };
        let why = self.windows.last().and_then(lacks);
        let why = why.unwrap_or_else(|| "no base backup leads there".into());
        Unreachable::NoBase { timeline: self.timeline, why }
    }

    /// What the one window that is looked at reaches.
    fn in_words(&self) -> String {
        let Some(window) = self.windows.first() else {
            return format!("timeline {} does not go on from it", self.timeline);
        };
        why_of_no_use(window).unwrap_or_else(|| {
            format!(
                "it reaches {} to {} ({} to {})",
                in_full(window.base.ended_at),
                in_full(self.latest(window)),
                window.base.stop,
                window.end
            )
        })
    }
}

/// Why the base backup of a window cannot be made consistent, in words about it; `None` when it can.
fn why_of_no_use(window: &Window) -> Option<String> {
    match &window.missing {
        Some(missing) => Some(format!("{missing}, which it builds on, is missing or not believed")),
        None if window.is_usable() => None,
        None => Some(format!(
            "its log is stored to {}, and it is of no use before {}",
            window.end, window.base.stop
        )),
    }
}

/// The newest of `reaching`, which are in their order, whose verification has not failed; the newest of all
/// where all have.
fn choose<'a>(reaching: impl Iterator<Item = &'a Window>, stop_at: Option<Target>) -> Option<Plan> {
    let reaching: Vec<&Window> = reaching.collect();
    let sound = reaching.iter().rposition(|window| !window.is_doubted);
    let at = sound.or(reaching.len().checked_sub(1))?;
    let (before, from) = reaching.split_at(at);
    let (chosen, newer) = from.split_first()?;
    let id = |window: &&Window| window.base.id.clone();
    let (doubted, others): (Vec<&Window>, Vec<&Window>) =
        newer.iter().rev().chain(before.iter().rev()).partition(|window| window.is_doubted);
    Some(Plan {
        passed_over: newer.iter().map(id).collect(),
        others: others.iter().chain(&doubted).map(id).collect(),
        ..Plan::of(chosen, stop_at)
    })
}

fn behind(window: &Window, latest: String) -> Unreachable {
    match window.resumes {
        Some(until) => Unreachable::Broken { from: window.end, until, latest },
        None => Unreachable::TooLate { latest },
    }
}

pub(super) fn in_full(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
