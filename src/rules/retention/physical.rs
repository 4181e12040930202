//! Which base backups and which of the log may go.
//!
//! The laws:
//!
//! - Every moment of the window (`now - keep` to now) that can be reached stays reachable: so the newest
//!   base backup that ended before the window stays, every later one, and the log from the start of
//!   the oldest that stays.
//! - The newest base backup stays at any age, and so does what is dated in the future.
//! - What an incremental base backup that stays builds on stays too, without the log behind it. One that builds
//!   on what is gone reaches nothing, and stands in for no other.
//! - Where no base backup goes, none of the log does.
//! - What stays does not change when the plan was carried out, wholly or in part.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::rules::chain;
use crate::rules::layout::SnapshotId;
use crate::rules::physical::{PieceName, Segment};
use crate::rules::recovery::{Base, missing};

/// What of the physical side goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PhysicalPlan {
    /// Base backups.
    pub bases: Vec<SnapshotId>,
    /// Pieces of the log, in the order of their names.
    pub pieces: Vec<PieceName>,
}

/// Decides it; `segment_bytes` is that of the cluster.
pub fn physical<'a>(
    bases: &[Base],
    pieces: impl IntoIterator<Item = &'a PieceName>,
    segment_bytes: u64,
    keep: TimeDelta,
    now: DateTime<Utc>,
) -> PhysicalPlan {
    let begins = now - keep;
    let is_whole = |base: &&Base| missing(bases, base).is_none();
    let before = bases.iter().filter(|base| base.ended_at <= begins).filter(is_whole);
    let Some(anchor) = before.max_by_key(|base| (base.stop, &base.id)) else {
        return PhysicalPlan::default();
    };
    let is_older =
        |base: &&Base| (base.stop, &base.id) < (anchor.stop, &anchor.id) && base.ended_at <= begins;
    let mut going: BTreeSet<&SnapshotId> = bases.iter().filter(is_older).map(|base| &base.id).collect();
    let staying: Vec<&Base> = bases.iter().filter(|base| !going.contains(&base.id)).collect();
    let Some(needed) = staying.iter().map(|base| base.start).min() else { return PhysicalPlan::default() };
    for id in needed_by(bases, &staying) {
        going.remove(&id);
    }
    let is_before = |piece: &&PieceName| match piece {
        PieceName::Segment(name) | PieceName::Part { segment: name, .. } => {
            Segment::of_name(name, segment_bytes).is_some_and(|segment| segment.end() <= needed)
        }
        PieceName::History(_) => false,
    };
    let mut pieces: Vec<PieceName> = pieces.into_iter().filter(is_before).cloned().collect();
    pieces.sort();
    PhysicalPlan { bases: going.into_iter().cloned().collect(), pieces }
}

/// What `staying` build on.
fn needed_by(bases: &[Base], staying: &[&Base]) -> BTreeSet<SnapshotId> {
    let parent_of =
        |id: &SnapshotId| bases.iter().find(|base| base.id == *id).map(|base| base.parent.clone());
    staying.iter().filter_map(|base| chain::ancestors(&base.id, parent_of).ok()).flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rules::recovery::{Log, windows};
    use crate::rules::wal::Lsn;

    const SEGMENT: u64 = 1 << 20;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + hour * 3600, 0).unwrap()
    }

    /// In hour `n` segment `n` is written.
    fn base(hour: u64) -> Base {
        let ended_at = at(i64::try_from(hour).unwrap());
        let start = Lsn(hour * SEGMENT + 40);
        let id = SnapshotId::new(ended_at, 0);
        Base { id, parent: None, timeline: 1, start, stop: Lsn(start.0 + 100), ended_at }
    }

    fn on(parent: &Base, hour: u64) -> Base {
        Base { parent: Some(parent.id.clone()), ..base(hour) }
    }

    fn segments(numbers: impl IntoIterator<Item = u64>) -> Vec<PieceName> {
        let name = |number| Segment { timeline: 1, number, bytes: SEGMENT }.to_string();
        numbers.into_iter().map(|number| PieceName::Segment(name(number))).collect()
    }

    fn plan(bases: &[Base], pieces: &[PieceName], keep: i64, now: i64) -> PhysicalPlan {
        physical(bases, pieces, SEGMENT, TimeDelta::hours(keep), at(now))
    }

    #[test]
    fn the_newest_base_before_the_window_stays_with_its_log() {
        let bases = [base(2), base(5), base(9)];
        let plan = plan(&bases, &segments(0..12), 4, 10);
        assert_eq!(plan.bases, [bases[0].id.clone()]);
        assert_eq!(plan.pieces, segments(0..5));
    }

    #[test]
    fn what_a_base_that_stays_builds_on_stays_without_its_log() {
        let full = base(1);
        let first = on(&full, 3);
        let second = on(&first, 5);
        let bases = [full, first, base(4), second];
        let plan = plan(&bases, &segments(0..12), 4, 10);
        assert_eq!(plan.bases, [bases[2].id.clone()]);
        assert_eq!(plan.pieces, segments(0..5));
    }

    #[test]
    fn a_base_that_builds_on_what_is_gone_stands_in_for_no_other() {
        let gone = base(3);
        let bases = [base(1), on(&gone, 5)];
        let plan = plan(&bases, &segments(0..12), 4, 10);
        assert_eq!((plan.bases.len(), plan.pieces), (0, segments(0..1)));
    }

    #[test]
    fn nothing_goes_while_the_window_is_not_full() {
        assert_eq!(plan(&[base(2)], &segments(0..12), 100, 12), PhysicalPlan::default());
        assert_eq!(plan(&[], &segments(0..12), 1, 12), PhysicalPlan::default());
    }

    fn after(bases: &[Base], pieces: &[PieceName], plan: &PhysicalPlan) -> (Vec<Base>, Vec<PieceName>) {
        let bases = bases.iter().filter(|base| !plan.bases.contains(&base.id)).cloned().collect();
        let pieces = pieces.iter().filter(|piece| !plan.pieces.contains(piece)).cloned().collect();
        (bases, pieces)
    }

    fn reached(bases: &[Base], pieces: &[PieceName], hour: i64) -> bool {
        let log = Log::new(SEGMENT, pieces, BTreeMap::new());
        let place = Lsn(u64::try_from(hour).unwrap() * SEGMENT + 500);
        windows(bases, &log, 1)
            .iter()
            .any(|window| window.base.ended_at <= at(hour) && window.is_usable() && window.end >= place)
    }

    proptest! {
        #[test]
        fn what_the_window_needs_stays(
            hours in proptest::collection::btree_set(0u64..60, 0..8),
            missing in proptest::collection::btree_set(0u64..60, 0..4),
            parents in proptest::collection::vec(0usize..8, 8),
            lost in 0usize..12,
            keep in 0i64..60,
            more in 0i64..60,
            now in 0i64..60,
        ) {
            let mut bases: Vec<Base> = hours.iter().map(|hour| base(*hour)).collect();
            for index in 1..bases.len() {
                // One that names itself or a later one is full.
                bases[index].parent = (parents[index] < index).then(|| bases[parents[index]].id.clone());
            }
            if lost + 1 < bases.len() {
                bases.remove(lost);
            }
            let whole = |bases: &[Base]| -> Vec<SnapshotId> {
                let whole = bases.iter().filter(|base| super::missing(bases, base).is_none());
                whole.map(|base| base.id.clone()).collect()
            };
            let pieces = segments((0..60).filter(|number| !missing.contains(number)));
            let plan_of = |bases: &[Base], pieces: &[PieceName], keep| plan(bases, pieces, keep, now);
            let first = plan_of(&bases, &pieces, keep);
            let (left_bases, left_pieces) = after(&bases, &pieces, &first);
            for hour in (now - keep).max(0)..=now {
                let before = reached(&bases, &pieces, hour);
                prop_assert_eq!(before, reached(&left_bases, &left_pieces, hour), "hour {}", hour);
            }
            let whole_before = whole(&bases);
            for id in left_bases.iter().map(|base| &base.id).filter(|id| whole_before.contains(id)) {
                prop_assert!(whole(&left_bases).contains(id), "the chain of {} breaks", id);
            }
            if let Some(newest) = bases.last() {
                prop_assert!(left_bases.contains(newest));
            }
            prop_assert_eq!(plan_of(&left_bases, &left_pieces, keep), PhysicalPlan::default());
            let longer = plan_of(&bases, &pieces, keep + more);
            prop_assert!(longer.bases.iter().all(|id| first.bases.contains(id)));
            prop_assert!(longer.pieces.iter().all(|piece| first.pieces.contains(piece)));
        }
    }
}
