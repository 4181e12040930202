//! Decides which snapshots, chunks and leftovers may go, and says why.
//!
//! Comes in: what the store holds, the policy, the time. Goes out: a verdict on each. Nothing is
//! removed here.
//!
//! The laws, each database by itself:
//!
//! - Age is `now - taken_at`; a snapshot exactly `keep` old stays.
//! - Age counts only where a newer verified snapshot exists, so a stalled or failing schedule
//!   cannot empty the store.
//! - What was verified gives way only to a newer snapshot that was verified at least as deeply. So
//!   the newest of the deepest depth that any snapshot of the database was verified to stays at
//!   any age: bytes that are whole are no proof that they restore.
//! - The newest verified snapshot stays at any age, and so do the `min_verified` newest.
//! - A snapshot that failed its verification never counts as verified.
//! - What is pinned stays, and so does what is dated in the future, which never counts as newer.
//! - What stays does not change when the plan was carried out, wholly or in part.

mod physical;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::layout::{MANIFEST, ObjectKey, SnapshotHome, SnapshotId};
use super::manifest::Depth;

pub use physical::{PhysicalPlan, newest_verified, physical};

/// A snapshot of the catalog, as far as retention looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The snapshot.
    pub id: SnapshotId,
    /// Name of its database.
    pub database: String,
    /// When it was taken.
    pub taken_at: DateTime<Utc>,
    /// The deepest verification that it passed, and when.
    pub verified: Option<(Depth, DateTime<Utc>)>,
    /// Whether something is known to be wrong with it.
    pub has_failed: bool,
    /// Whether an operator keeps it.
    pub is_pinned: bool,
}

impl Candidate {
    /// Whether it was proven good, and not found bad since.
    pub fn is_verified(&self) -> bool {
        self.verified.is_some() && !self.has_failed
    }

    fn verified_depth(&self) -> Option<Depth> {
        self.verified.map(|(depth, _)| depth)
    }

    /// Its place in the order of snapshots; the id decides between two of one moment.
    pub fn order(&self) -> (DateTime<Utc>, &SnapshotId) {
        (self.taken_at, &self.id)
    }
}

/// How long snapshots stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Age up to which every snapshot stays, inclusive.
    pub keep: TimeDelta,
    /// How many verified snapshots of each database stay at any age; one always does.
    pub min_verified: usize,
}

/// What becomes of each snapshot, ordered by database and then by age, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionPlan {
    /// One for each candidate.
    pub verdicts: Vec<Verdict>,
}

impl RetentionPlan {
    /// The verdicts of what goes, the oldest of each database first.
    pub fn removals(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| matches!(verdict.decision, Decision::Remove(_)))
    }
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The snapshot.
    pub id: SnapshotId,
    /// Name of its database.
    pub database: String,
    /// Whether it stays or goes, and why.
    pub decision: Decision,
}

/// Whether a snapshot stays or goes, and why; as text, only the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It stays.
    Keep(KeepReason),
    /// It may go.
    Remove(RemoveReason),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(reason) => reason.fmt(f),
            Self::Remove(reason) => reason.fmt(f),
        }
    }
}

/// Why a snapshot stays; where several reasons hold, the first of this order is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepReason {
    /// An operator pinned it.
    Pinned,
    /// It is dated after now: a clock was or is wrong, and a person should look.
    DatedInFuture,
    /// It is the newest verified snapshot of its database.
    NewestVerified,
    /// It is the newest of its database that was verified to this depth, or a deeper one.
    NewestOfDepth(Depth),
    /// It is among the newest verified ones, of which the policy keeps this many.
    VerifiedFloor(usize),
    /// It is not older than the policy's `keep`.
    Young(TimeDelta),
    /// It is old, and no newer verified snapshot of its database exists.
    NoNewerVerified,
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned"),
            Self::DatedInFuture => f.write_str("dated in the future"),
            Self::NewestVerified => f.write_str("newest verified"),
            Self::NewestOfDepth(depth) => write!(f, "newest verified to depth {}", depth.as_str()),
            Self::VerifiedFloor(count) => write!(f, "one of the {count} newest verified"),
            Self::Young(keep) => write!(f, "younger than {}", Span(*keep)),
            Self::NoNewerVerified => f.write_str("no newer verified snapshot exists"),
        }
    }
}

/// Why a snapshot may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoveReason {
    /// It is older than the policy's `keep`, and a newer one was verified at least as deeply.
    OlderThan {
        /// The policy's `keep`.
        keep: TimeDelta,
        /// The newest snapshot of the database that was.
        newest_verified: SnapshotId,
    },
}

impl fmt::Display for RemoveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::OlderThan { keep, newest_verified } = self;
        write!(f, "older than {}, {newest_verified} is newer and verified", Span(*keep))
    }
}

/// Decides for each of `candidates` whether it stays.
///
/// The order of `candidates` does not matter. Give every snapshot of the catalog: one that is
/// missing here cannot protect the others.
pub fn plan(candidates: &[Candidate], policy: &Policy, now: DateTime<Utc>) -> RetentionPlan {
    let mut databases: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        databases.entry(&candidate.database).or_default().push(candidate);
    }
    let mut verdicts = Vec::with_capacity(candidates.len());
    for snapshots in databases.values_mut() {
        snapshots.sort_by(|a, b| a.order().cmp(&b.order()));
        let verified: Vec<_> =
            snapshots.iter().rev().copied().filter(|s| s.is_verified() && s.taken_at <= now).collect();
        verdicts.extend(snapshots.iter().map(|snapshot| Verdict {
            id: snapshot.id.clone(),
            database: snapshot.database.clone(),
            decision: decide(snapshot, &verified, policy, now),
        }));
    }
    RetentionPlan { verdicts }
}

/// Decides on one snapshot; `verified` are those of its database, the newest first.
fn decide(snapshot: &Candidate, verified: &[&Candidate], policy: &Policy, now: DateTime<Utc>) -> Decision {
    let depth = if snapshot.is_verified() { snapshot.verified_depth() } else { None };
    let rank = verified.iter().position(|other| other.id == snapshot.id);
    let as_deep = verified.iter().find(|other| other.verified_depth() >= depth);
    let newer = as_deep.filter(|newest| newest.order() > snapshot.order());
    let reason = if snapshot.is_pinned {
        KeepReason::Pinned
    } else if snapshot.taken_at > now {
        KeepReason::DatedInFuture
    } else if rank == Some(0) {
        KeepReason::NewestVerified
    } else if let (None, Some(depth)) = (newer, depth) {
        KeepReason::NewestOfDepth(depth)
    } else if rank.is_some_and(|rank| rank < policy.min_verified) {
        KeepReason::VerifiedFloor(policy.min_verified)
    } else if now - snapshot.taken_at <= policy.keep {
        KeepReason::Young(policy.keep)
    } else if let Some(newer) = newer {
        let newest_verified = newer.id.clone();
        return Decision::Remove(RemoveReason::OlderThan { keep: policy.keep, newest_verified });
    } else {
        KeepReason::NoNewerVerified
    };
    Decision::Keep(reason)
}

/// Says for each candidate from when on it may go; one that stays at any age is not named.
///
/// As things stand at `now`: a later verification, pin or failure changes the answer.
pub fn expiries(
    candidates: &[Candidate],
    policy: &Policy,
    now: DateTime<Utc>,
) -> BTreeMap<SnapshotId, DateTime<Utc>> {
    let taken_at: BTreeMap<_, _> =
        candidates.iter().map(|candidate| (&candidate.id, candidate.taken_at)).collect();
    // Under a policy by which everything is old, what still stays does not stay for its age.
    let no_age = Policy { keep: TimeDelta::seconds(-1), ..*policy };
    plan(candidates, &no_age, now)
        .removals()
        .filter_map(|verdict| {
            let expires_at = taken_at.get(&verdict.id)?.checked_add_signed(policy.keep)?;
            Some((verdict.id.clone(), expires_at))
        })
        .collect()
}

/// A chunk object in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredChunk<'a> {
    /// Its name, as manifests have it.
    pub name: &'a str,
    /// When it became visible, by the store's clock.
    pub modified_at: DateTime<Utc>,
}

/// Names the chunks that may go: in no manifest, and older than `grace`.
///
/// `referenced` are the names in *all* manifests that stay. Where one of them cannot be read this
/// must not be asked. The grace spares chunks of a snapshot whose manifest is yet to be written.
pub fn unreferenced_chunks<'a>(
    stored: &[StoredChunk<'a>],
    referenced: &BTreeSet<&str>,
    grace: TimeDelta,
    now: DateTime<Utc>,
) -> Vec<&'a str> {
    stored
        .iter()
        .filter(|chunk| !referenced.contains(chunk.name) && now - chunk.modified_at > grace)
        .map(|chunk| chunk.name)
        .collect()
}

/// An object in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredObject<'a> {
    /// Its key.
    pub key: &'a ObjectKey,
    /// When it became visible, by the store's clock.
    pub modified_at: DateTime<Utc>,
}

/// Names the objects of snapshot folders without a manifest whose newest object is older than
/// `grace`, in the order given.
///
/// A folder goes as a whole or not at all, since its first objects may be old while its last are
/// still being written. What does not lie in a snapshot folder is not ours to remove.
pub fn litter<'a>(stored: &[StoredObject<'a>], grace: TimeDelta, now: DateTime<Utc>) -> Vec<&'a ObjectKey> {
    let homes: Vec<_> = stored.iter().map(|object| SnapshotHome::of_key(object.key)).collect();
    let mut kept = BTreeSet::new();
    for (object, home) in stored.iter().zip(&homes) {
        if let Some((home, file)) = home
            && (*file == MANIFEST || now - object.modified_at <= grace)
        {
            kept.insert(home);
        }
    }
    let is_litter =
        |home: &Option<(SnapshotHome, &str)>| home.as_ref().is_some_and(|(home, _)| !kept.contains(home));
    stored.iter().zip(&homes).filter(|(_, home)| is_litter(home)).map(|(object, _)| object.key).collect()
}

/// A time span as people write it in settings: `30 days`, `36 hours`, `90 seconds`.
struct Span(TimeDelta);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.num_seconds();
        let units = [("day", 86_400), ("hour", 3_600), ("minute", 60)];
        let (unit, length) = units
            .into_iter()
            .find(|(_, length)| seconds != 0 && seconds % length == 0)
            .unwrap_or(("second", 1));
        let count = seconds / length;
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests;
