//! Decides what a gated migration does next: phases as a total function of phase and outcome.
//!
//! Comes in: where a run stands and how that phase ended. Goes out: where it goes, and how it
//! ends for those who called it. Which evidence leads to which decision is `classify`'s business.
//!
//! Two laws hold whatever happens. Once the command may have started, it is never started again.
//! And a database is put back only after the run was settled and classified.

mod verdict;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::verdict::Verdict;

/// A step of a gated migration, written down before its act begins.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The locks are taken.
    Requested,
    /// Everything that could stop the run or a restore is looked at.
    Preflight,
    /// Writers are kept out.
    Fencing,
    /// A snapshot is taken, or a fresh one found.
    Snapshotting,
    /// The snapshot is verified.
    Verifying,
    /// The command runs against a scratch copy, if that is wanted.
    Rehearsing,
    /// The state before is written down; nothing foreign since the snapshot.
    Armed,
    /// The command runs, or may have run.
    Migrating,
    /// The command and its sessions are ended.
    Settling,
    /// What the run did is found out.
    Classifying,
    /// Whether what was reached is what was wanted.
    Checking,
    /// The snapshot is loaded beside and proven.
    Restoring,
    /// The restored database takes the name.
    Swapping,
    /// Writers are let in again.
    Releasing,
    /// It is over.
    Done,
    /// An operator decides.
    Held,
}

impl Phase {
    /// Every phase, in the order of a run.
    pub const ALL: [Self; 16] = [
        Self::Requested,
        Self::Preflight,
        Self::Fencing,
        Self::Snapshotting,
        Self::Verifying,
        Self::Rehearsing,
        Self::Armed,
        Self::Migrating,
        Self::Settling,
        Self::Classifying,
        Self::Checking,
        Self::Restoring,
        Self::Swapping,
        Self::Releasing,
        Self::Done,
        Self::Held,
    ];

    /// The phase as ledger and reports have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Preflight => "preflight",
            Self::Fencing => "fencing",
            Self::Snapshotting => "snapshotting",
            Self::Verifying => "verifying",
            Self::Rehearsing => "rehearsing",
            Self::Armed => "armed",
            Self::Migrating => "migrating",
            Self::Settling => "settling",
            Self::Classifying => "classifying",
            Self::Checking => "checking",
            Self::Restoring => "restoring",
            Self::Swapping => "swapping",
            Self::Releasing => "releasing",
            Self::Done => "done",
            Self::Held => "held",
        }
    }

    /// Whether a run in this phase does nothing by itself any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Held)
    }

    /// Whether the command certainly was not started yet.
    pub fn is_before_start(self) -> bool {
        self < Self::Migrating
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names nothing that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no {1}")]
pub struct Unknown(String, &'static str);

impl FromStr for Phase {
    type Err = Unknown;
    fn from_str(text: &str) -> Result<Self, Unknown> {
        let found = Self::ALL.into_iter().find(|phase| phase.as_str() == text);
        found.ok_or_else(|| Unknown(text.into(), "phase"))
    }
}

/// What is to be done after the evidence was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Look whether what was reached is what was wanted.
    Check,
    /// Let the writers in; the run ends so.
    Release(Verdict),
    /// Put the database back; the run ends so.
    Restore(Verdict),
    /// An operator decides; the run stands so.
    Hold(Verdict),
}

/// How a phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did what it is for.
    Passed,
    /// What it stands on is no longer so: something was committed since the snapshot, or what was
    /// loaded beside is gone. It is made anew.
    Stale,
    /// It cannot go on; the run ends so.
    Refused(Verdict),
    /// What is to be done.
    Decided(Decision),
}

/// When the snapshot is taken, and when writers are kept out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Writers are kept out before the snapshot is taken.
    FenceFirst,
    /// The snapshot is taken and verified first, and taken again if something was written since.
    SnapshotFirst,
}

/// Where a run stands, and how it ends if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The phase that is next.
    pub phase: Phase,
    /// How the run ends.
    pub verdict: Option<Verdict>,
}

impl Position {
    /// How the run ended, or is held; none while it is on its way, even if that is known by then.
    pub fn ended(self) -> Option<Verdict> {
        self.verdict.filter(|_| self.phase.is_terminal())
    }
}

/// Decides where a run goes after `position` ended with `outcome`.
///
/// Total: a pair that makes no sense holds the run, so that a person looks at it.
pub fn next(order: Order, position: Position, outcome: Outcome) -> Position {
    let Position { phase, verdict } = position;
    let go = |phase| Position { phase, verdict };
    let end = |phase, verdict| Position { phase, verdict: Some(verdict) };
    match (phase, outcome) {
        (Phase::Done | Phase::Held, _) => position,
        (Phase::Requested | Phase::Preflight, Outcome::Refused(verdict)) => end(Phase::Done, verdict),
        (Phase::Migrating, _) => go(Phase::Settling),
        (Phase::Armed, Outcome::Stale) => go(Phase::Snapshotting),
        (Phase::Swapping, Outcome::Stale) => go(Phase::Restoring),
        (Phase::Settling, Outcome::Refused(verdict)) => end(Phase::Held, verdict),
        (Phase::Restoring | Phase::Swapping | Phase::Releasing, Outcome::Refused(verdict)) => {
            end(Phase::Held, verdict)
        }
        (Phase::Rehearsing, Outcome::Decided(Decision::Release(verdict))) => end(Phase::Releasing, verdict),
        (Phase::Rehearsing, Outcome::Decided(Decision::Hold(verdict))) => end(Phase::Held, verdict),
        (phase, Outcome::Refused(verdict)) if phase.is_before_start() => end(Phase::Releasing, verdict),
        (Phase::Classifying, Outcome::Decided(Decision::Check)) => go(Phase::Checking),
        (Phase::Classifying | Phase::Checking, Outcome::Decided(decision)) => decided(decision),
        (phase, Outcome::Passed) => match after(order, phase) {
            Some(phase) => go(phase),
            None => end(Phase::Held, Verdict::Unknown),
        },
        _ => end(Phase::Held, Verdict::Unknown),
    }
}

fn decided(decision: Decision) -> Position {
    let (phase, verdict) = match decision {
        Decision::Release(verdict) => (Phase::Releasing, verdict),
        Decision::Restore(verdict) => (Phase::Restoring, verdict),
        Decision::Hold(verdict) => (Phase::Held, verdict),
        // Only classifying leads to checks.
        Decision::Check => (Phase::Held, Verdict::Unknown),
    };
    Position { phase, verdict: Some(verdict) }
}

/// The phase after one that did what it is for; none where a decision is needed.
fn after(order: Order, phase: Phase) -> Option<Phase> {
    let fence_first = order == Order::FenceFirst;
    Some(match phase {
        Phase::Requested => Phase::Preflight,
        Phase::Preflight if fence_first => Phase::Fencing,
        Phase::Preflight => Phase::Snapshotting,
        Phase::Fencing if fence_first => Phase::Snapshotting,
        Phase::Fencing => Phase::Armed,
        Phase::Snapshotting => Phase::Verifying,
        Phase::Verifying => Phase::Rehearsing,
        Phase::Rehearsing if fence_first => Phase::Armed,
        Phase::Rehearsing => Phase::Fencing,
        Phase::Armed => Phase::Migrating,
        Phase::Migrating => Phase::Settling,
        Phase::Settling => Phase::Classifying,
        Phase::Restoring => Phase::Swapping,
        Phase::Swapping => Phase::Releasing,
        Phase::Releasing => Phase::Done,
        Phase::Classifying | Phase::Checking | Phase::Done | Phase::Held => return None,
    })
}

/// Where the command of a run runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Beside us: it does not outlive us.
    Here,
    /// On another machine, which tells how it ended.
    Elsewhere,
}

/// Decides where a run goes on whose process died in `position`.
///
/// What had not begun is not begun: nobody waits for its end any more. What may have begun is
/// never begun again, but settled and classified; where it runs elsewhere, its end is waited for
/// first. A restore is made anew, and whether a swap happened is asked of the cluster's catalog in
/// its own phase.
pub fn resume(position: Position, place: Place) -> Position {
    let Position { phase, verdict } = position;
    let end = |phase| Position { phase, verdict: verdict.or(Some(Verdict::Abandoned)) };
    match phase {
        Phase::Requested | Phase::Preflight => end(Phase::Done),
        phase if phase.is_before_start() => end(Phase::Releasing),
        Phase::Migrating if place == Place::Here => Position { phase: Phase::Settling, verdict },
        _ => position,
    }
}

#[cfg(test)]
mod tests;
