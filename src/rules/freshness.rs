//! Decides whether a database has a verified snapshot that is young enough.

use chrono::{DateTime, TimeDelta, Utc};

use super::layout::SnapshotId;
use super::retention::Candidate;

/// A snapshot and how old it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aged {
    /// The snapshot.
    pub id: SnapshotId,
    /// `now - taken_at`, never negative.
    pub age: TimeDelta,
}

/// How well a database is covered now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// The newest snapshot, verified or not.
    pub newest: Option<Aged>,
    /// The newest snapshot that was proven good; its age is what counts.
    pub newest_verified: Option<Aged>,
    /// Whether `newest_verified` is at most the asked age old.
    pub is_fresh: bool,
}

/// Judges the snapshots of one database; one exactly `max_age` old is fresh.
///
/// Snapshots dated after `now` do not count: one made under a wrong clock would look fresh for
/// as long as it lies ahead.
pub fn freshness(snapshots: &[Candidate], max_age: TimeDelta, now: DateTime<Utc>) -> Freshness {
    let newest_of = |filter: fn(&Candidate) -> bool| {
        snapshots
            .iter()
            .filter(|snapshot| snapshot.taken_at <= now && filter(snapshot))
            .max_by(|a, b| a.order().cmp(&b.order()))
            .map(|snapshot| Aged { id: snapshot.id.clone(), age: now - snapshot.taken_at })
    };
    let newest_verified = newest_of(Candidate::is_verified);
    let is_fresh = newest_verified.as_ref().is_some_and(|snapshot| snapshot.age <= max_age);
    Freshness { newest: newest_of(|_| true), newest_verified, is_fresh }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::manifest::Depth;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap()
    }

    fn taken(hours_ago: i64, verified: Option<Depth>) -> Candidate {
        let taken_at = now() - TimeDelta::hours(hours_ago);
        Candidate {
            id: SnapshotId::new(taken_at, 0),
            database: "app".into(),
            taken_at,
            verified: verified.map(|depth| (depth, now())),
            has_failed: false,
            is_pinned: false,
        }
    }

    #[test]
    fn nothing_is_not_fresh() {
        let nothing = Freshness { newest: None, newest_verified: None, is_fresh: false };
        assert_eq!(freshness(&[], TimeDelta::MAX, now()), nothing);
    }

    #[test]
    fn only_a_verified_snapshot_makes_fresh() {
        let snapshots = [taken(30, Some(Depth::Stored)), taken(1, None)];
        let seen = freshness(&snapshots, TimeDelta::hours(24), now());
        assert_eq!(seen.newest, Some(Aged { id: snapshots[1].id.clone(), age: TimeDelta::hours(1) }));
        assert_eq!(
            seen.newest_verified,
            Some(Aged { id: snapshots[0].id.clone(), age: TimeDelta::hours(30) })
        );
        assert!(!seen.is_fresh);
    }

    #[test]
    fn a_snapshot_exactly_of_the_age_is_fresh() {
        let snapshots = [taken(24, Some(Depth::Readable))];
        assert!(freshness(&snapshots, TimeDelta::hours(24), now()).is_fresh);
        assert!(!freshness(&snapshots, TimeDelta::hours(24), now() + TimeDelta::seconds(1)).is_fresh);
    }

    #[test]
    fn a_failed_verification_and_a_wrong_clock_do_not_make_fresh() {
        let failed = Candidate { has_failed: true, ..taken(1, Some(Depth::Restored)) };
        let ahead = taken(-5, Some(Depth::Restored));
        let seen = freshness(&[failed.clone(), ahead], TimeDelta::hours(24), now());
        assert_eq!(seen.newest.map(|newest| newest.id), Some(failed.id));
        assert_eq!((seen.newest_verified, seen.is_fresh), (None, false));
    }
}
