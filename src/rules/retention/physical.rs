//! Which base backups and which of the log may go.
//!
//! The laws:
//!
//! - Every moment of the window (`now - keep` to now) that can be reached stays reachable: so the newest
//!   base backup that ended before the window stays, every later one, and the log from the start of
//!   the oldest that stays.
//! - The newest base backup stays at any age, and so does what is dated in the future.
//! - Where no base backup goes, none of the log does.
//! - What stays does not change when the plan was carried out, wholly or in part.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::rules::layout::SnapshotId;
use crate::rules::physical::{PieceName, Segment};
use crate::rules::recovery::Base;

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
    let anchor = bases.iter().filter(|base| base.ended_at <= begins).max_by_key(|base| (base.stop, &base.id));
    let Some(anchor) = anchor else { return PhysicalPlan::default() };
    let is_older =
        |base: &&Base| (base.stop, &base.id) < (anchor.stop, &anchor.id) && base.ended_at <= begins;
    let going: BTreeSet<&SnapshotId> = bases.iter().filter(is_older).map(|base| &base.id).collect();
    let staying = bases.iter().filter(|base| !going.contains(&base.id));
    let Some(needed) = staying.map(|base| base.start).min() else { return PhysicalPlan::default() };
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
        Base { id: SnapshotId::new(ended_at, 0), timeline: 1, start, stop: Lsn(start.0 + 100), ended_at }
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
            keep in 0i64..60,
            more in 0i64..60,
            now in 0i64..60,
        ) {
            let bases: Vec<Base> = hours.iter().map(|hour| base(*hour)).collect();
            let pieces = segments((0..60).filter(|number| !missing.contains(number)));
            let plan_of = |bases: &[Base], pieces: &[PieceName], keep| plan(bases, pieces, keep, now);
            let first = plan_of(&bases, &pieces, keep);
            let (left_bases, left_pieces) = after(&bases, &pieces, &first);
            for hour in (now - keep).max(0)..=now {
                let before = reached(&bases, &pieces, hour);
                prop_assert_eq!(before, reached(&left_bases, &left_pieces, hour), "hour {}", hour);
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
