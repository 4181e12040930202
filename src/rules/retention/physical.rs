//! Which base backups and which of the log may go.
//!
//! The laws:
//!
//! - Every moment of the window (`now - keep` to now) that can be reached stays reachable, on the newest
//!   timeline and on each other that something was stored of in the window: so along each of them the newest base
//!   backup that ended before the window stays, every later one, and the log from the start of the
//!   oldest that stays.
//! - The newest base backup of all stays at any age, and so does what is dated in the future.
//! - The newest base backup that is verified stays at any age, with the log from its start: what came later may
//!   turn out to be damaged.
//! - Where the newest timeline has no base backup that ended before the window, or the history of one that
//!   is looked at is not stored, nothing goes.
//! - What an incremental base backup that stays builds on stays too, without the log behind it. One that builds
//!   on what is gone reaches nothing, and stands in for no other; nor does one that lacks the log that it needs itself.
//! - What stays does not change when the plan was carried out, wholly or in part.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::rules::chain;
use crate::rules::drill::Checked;
use crate::rules::layout::SnapshotId;
use crate::rules::physical::{PieceName, Segment};
use crate::rules::recovery::{Base, Log, is_doubted, missing};

/// What of the physical side goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PhysicalPlan {
    /// Base backups.
    pub bases: Vec<SnapshotId>,
    /// Pieces of the log, in the order of their names.
    pub pieces: Vec<PieceName>,
}

/// Decides it; `stored_at` says when something was last stored of each timeline's log.
pub fn physical<'a>(
    bases: &[Base],
    pieces: impl IntoIterator<Item = &'a PieceName>,
    log: &Log,
    stored_at: &BTreeMap<u32, DateTime<Utc>>,
    keep: TimeDelta,
    now: DateTime<Utc>,
) -> PhysicalPlan {
    let begins = now - keep;
    let newest = log.newest_timeline().into_iter().chain(bases.iter().map(|base| base.timeline)).max();
    let is_lived_on =
        |timeline: &u32| Some(*timeline) == newest || stored_at.get(timeline).is_some_and(|at| *at > begins);
    let mut timelines = log.timelines();
    timelines.extend(newest);
    let verified = newest_verified(bases);
    let is_left = |base: &&Base| !newest.is_some_and(|newest| log.descends(newest, base));
    let on_its_own = verified.filter(is_left).map(|base| Need::of_verified(base, log));
    let mut needs: Vec<Need> = on_its_own.into_iter().collect();
    needs.extend(
        timelines
            .into_iter()
            .filter(is_lived_on)
            .map(|timeline| Need::of(timeline, bases, log, begins).with(verified, log)),
    );
    // The last is that of the newest timeline.
    let is_known = needs.iter().all(|need| log.is_known(need.timeline));
    if !is_known || !needs.last().is_some_and(|need| need.has_anchor) {
        return PhysicalPlan::default();
    }
    let newest_base = bases.iter().max_by_key(|base| (base.ended_at, &base.id)).map(|base| &base.id);
    let is_going = |base: &&Base| {
        base.ended_at <= begins
            && Some(&base.id) != newest_base
            && needs.iter().all(|need| !need.bases.contains(&base.id))
    };
    let mut going: BTreeSet<&SnapshotId> = bases.iter().filter(is_going).map(|base| &base.id).collect();
    let staying: Vec<&Base> = bases.iter().filter(|base| !going.contains(&base.id)).collect();
    for id in needed_by(bases, &staying) {
        going.remove(&id);
    }
    let is_free = |piece: &&PieceName| match piece {
        PieceName::Segment(name) | PieceName::Part { segment: name, .. } => {
            Segment::of_name(name, log.segment_bytes())
                .is_some_and(|segment| needs.iter().all(|need| !need.needs(segment, log)))
        }
        PieceName::History(_) => false,
    };
    let mut pieces: Vec<PieceName> = pieces.into_iter().filter(is_free).cloned().collect();
    pieces.sort();
    PhysicalPlan { bases: going.into_iter().cloned().collect(), pieces }
}

/// What the moments of one timeline need.
struct Need<'a> {
    timeline: u32,
    has_anchor: bool,
    bases: BTreeSet<&'a SnapshotId>,
    /// The number of the first segment.
    first: u64,
}

impl<'a> Need<'a> {
    fn of(timeline: u32, bases: &'a [Base], log: &Log, begins: DateTime<Utc>) -> Self {
        let along = || bases.iter().filter(|base| log.descends(timeline, base));
        let is_whole = |base: &&Base| missing(bases, base).is_none();
        let before = || along().filter(|base| base.ended_at <= begins).filter(is_whole);
        let is_usable = |base: &&Base| log.reach(timeline, base) >= base.stop;
        let place_of = |base: &&'a Base| (base.stop, &base.id);
        let anchor = before().filter(is_usable).max_by_key(place_of);
        // Where none is of any use, nothing is reached, and the newest may still get its log.
        let anchor = anchor.or_else(|| before().max_by_key(place_of));
        let is_needed = |base: &&Base| {
            base.ended_at > begins || anchor.is_none_or(|a| (base.stop, &base.id) >= (a.stop, &a.id))
        };
        let first = along().filter(is_needed).map(|base| base.start.0 / log.segment_bytes()).min();
        Self {
            timeline,
            has_anchor: anchor.is_some(),
            bases: along().filter(is_needed).map(|base| &base.id).collect(),
            // Without a base backup nobody knows what the first one will need.
            first: first.unwrap_or(0),
        }
    }

    /// What `base` needs on its own timeline.
    fn of_verified(base: &'a Base, log: &Log) -> Self {
        Self {
            timeline: base.timeline,
            has_anchor: true,
            bases: BTreeSet::from([&base.id]),
            first: base.start.0 / log.segment_bytes(),
        }
    }

    /// The moments are to be reached from `base` too, if the timeline goes on from it.
    fn with(mut self, base: Option<&'a Base>, log: &Log) -> Self {
        if let Some(base) = base.filter(|base| log.descends(self.timeline, base)) {
            self.bases.insert(&base.id);
            self.first = self.first.min(base.start.0 / log.segment_bytes());
        }
        self
    }

    fn needs(&self, segment: Segment, log: &Log) -> bool {
        let counts = || log.counting(self.timeline, segment.number);
        segment.number >= self.first && counts().iter().any(|(timeline, _)| *timeline == segment.timeline)
    }
}

/// The newest base backup that is verified, and builds on none whose verification failed, or that is missing.
pub fn newest_verified(bases: &[Base]) -> Option<&Base> {
    let is_verified = |base: &&Base| {
        base.checked == Checked::Sound && !is_doubted(bases, base) && missing(bases, base).is_none()
    };
    bases.iter().filter(is_verified).max_by_key(|base| (base.ended_at, &base.id))
}

/// What `staying` build on.
fn needed_by(bases: &[Base], staying: &[&Base]) -> BTreeSet<SnapshotId> {
    let parent_of =
        |id: &SnapshotId| bases.iter().find(|base| base.id == *id).map(|base| base.parent.clone());
    staying.iter().filter_map(|base| chain::ancestors(&base.id, parent_of).ok()).flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::physical::Switch;
    use crate::rules::recovery::windows;
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
        let checked = Checked::Never;
        Base { id, parent: None, timeline: 1, start, stop: Lsn(start.0 + 100), ended_at, checked }
    }

    fn on(parent: &Base, hour: u64) -> Base {
        Base { parent: Some(parent.id.clone()), ..base(hour) }
    }

    fn segments(numbers: impl IntoIterator<Item = u64>) -> Vec<PieceName> {
        let name = |number| Segment { timeline: 1, number, bytes: SEGMENT }.to_string();
        numbers.into_iter().map(|number| PieceName::Segment(name(number))).collect()
    }

    fn plan(bases: &[Base], pieces: &[PieceName], keep: i64, now: i64) -> PhysicalPlan {
        let log = Log::new(SEGMENT, pieces, BTreeMap::new());
        physical(bases, pieces, &log, &BTreeMap::new(), TimeDelta::hours(keep), at(now))
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
    fn a_base_that_lacks_the_log_that_it_needs_stands_in_for_no_other() {
        let over_two = Base { stop: Lsn(6 * SEGMENT + 100), ..base(5) };
        let bases = [base(1), base(3), over_two];
        let without = |lost| segments((0..12).filter(|number| *number != lost));
        let plan_without = |lost| plan(&bases, &without(lost), 4, 10);
        assert_eq!(plan_without(6).bases, [bases[0].id.clone()], "hour 5 needs hour 3");
        assert_eq!(plan_without(6).pieces, segments(0..3));
        assert_eq!(plan_without(7).bases, [bases[0].id.clone(), bases[1].id.clone()]);
        let none_is_of_use = plan(&bases, &segments(8..12), 4, 10);
        assert_eq!(none_is_of_use.bases, [bases[0].id.clone(), bases[1].id.clone()]);
    }

    #[test]
    fn the_newest_verified_base_stays_with_its_log_until_a_newer_one_is() {
        let sound = |hour| Base { checked: Checked::Sound, ..base(hour) };
        let failed = |hour| Base { checked: Checked::Failed, ..base(hour) };
        let of = |bases: &[Base]| {
            let plan = plan(bases, &segments(0..12), 1, 11);
            (plan.bases, plan.pieces)
        };
        let bases = [base(1), sound(2), sound(4), base(6), failed(7), base(9)];
        let gone = [0, 1, 3, 4].map(|at| bases[at].id.clone()).to_vec();
        assert_eq!(of(&bases), (gone, segments(0..4)), "it is of hour 4");
        let bases = [sound(2), base(6), sound(9)];
        assert_eq!(of(&bases).1, segments(0..9), "the newer one is verified");
        // One that builds on what failed proves nothing.
        let parent = failed(5);
        let child = Base { checked: Checked::Sound, ..on(&parent, 7) };
        let bases = [sound(2), parent, child, base(9)];
        assert_eq!(of(&bases).1, segments(0..2));
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
        reaches(bases, &log, 1, hour, u64::try_from(hour).unwrap())
    }

    fn reaches(bases: &[Base], log: &Log, timeline: u32, hour: i64, number: u64) -> bool {
        let place = Lsn(number * SEGMENT + 500);
        windows(bases, log, timeline)
            .iter()
            .any(|window| window.base.ended_at <= at(hour) && window.is_usable() && window.end >= place)
    }

    /// In hour `LEFT` timeline 1 is left for good, and timeline 2 goes on from segment `FORK`.
    const LEFT: u64 = 30;
    const FORK: u64 = 20;

    fn switched() -> BTreeMap<u32, Vec<Switch>> {
        BTreeMap::from([(2, vec![Switch { parent: 1, at: Lsn(FORK * SEGMENT + 700) }])])
    }

    fn base_over_switch(hour: u64) -> Base {
        let (timeline, number) = if hour < LEFT { (1, hour) } else { (2, hour - LEFT + FORK + 1) };
        let ended_at = at(i64::try_from(hour).unwrap());
        let start = Lsn(number * SEGMENT + 40);
        Base {
            id: SnapshotId::new(ended_at, 0),
            timeline,
            start,
            stop: Lsn(start.0 + 100),
            ended_at,
            parent: None,
            checked: Checked::Never,
        }
    }

    fn pieces_over_switch(hours: u64) -> Vec<PieceName> {
        let name = |timeline, number| Segment { timeline, number, bytes: SEGMENT }.to_string();
        let of_first = (0..LEFT.min(hours)).map(|number| name(1, number));
        let of_second = (LEFT..hours).map(|hour| name(2, hour - LEFT + FORK));
        of_first.chain(of_second).map(PieceName::Segment).collect()
    }

    #[test]
    fn a_timeline_that_was_left_before_the_window_goes() {
        let bases = [base_over_switch(15), base_over_switch(25), base_over_switch(40), base_over_switch(45)];
        let pieces = pieces_over_switch(50);
        let log = Log::new(SEGMENT, &pieces, switched());
        let stored_at = BTreeMap::from([(1, at(30)), (2, at(50))]);
        let keeping = |hours| physical(&bases, &pieces, &log, &stored_at, TimeDelta::hours(hours), at(50));
        // Hour 25 is on the part of timeline 1 that was given up, with a place in the log that is later than all
        // of timeline 2.
        assert_eq!(keeping(25).bases, [], "hour 28 needs hour 25");
        let plan = keeping(8);
        assert_eq!(plan.bases, [bases[0].id.clone(), bases[1].id.clone()]);
        assert!(plan.pieces.iter().filter(|piece| piece.timeline() == 1).count() == 30, "{plan:?}");
        assert_eq!(keeping(15).bases, [bases[1].id.clone()], "hour 35 needs hour 15");
    }

    #[test]
    fn nothing_goes_while_a_history_is_not_stored() {
        let bases = [base_over_switch(15), base_over_switch(40), base_over_switch(45)];
        let pieces = pieces_over_switch(50);
        let log = Log::new(SEGMENT, &pieces, BTreeMap::new());
        let stored_at = BTreeMap::from([(1, at(30)), (2, at(50))]);
        let plan = physical(&bases, &pieces, &log, &stored_at, TimeDelta::hours(1), at(50));
        assert_eq!(plan, PhysicalPlan::default());
    }

    proptest! {
        #[test]
        fn what_the_window_needs_stays(
            hours in proptest::collection::btree_set(0u64..60, 0..8),
            missing in proptest::collection::btree_set(0u64..60, 0..4),
            parents in proptest::collection::vec(0usize..8, 8),
            checked in proptest::collection::vec(0u8..3, 8),
            lost in 0usize..12,
            keep in 0i64..60,
            more in 0i64..60,
            now in 0i64..60,
        ) {
            let mut bases: Vec<Base> = hours.iter().map(|hour| base(*hour)).collect();
            for (base, checked) in bases.iter_mut().zip(checked) {
                base.checked = [Checked::Never, Checked::Sound, Checked::Failed][usize::from(checked)];
            }
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
            if let Some(verified) = newest_verified(&bases) {
                prop_assert_eq!(newest_verified(&left_bases), Some(verified));
                let end = |pieces: &[PieceName]| Log::new(SEGMENT, pieces, BTreeMap::new()).reach(1, verified);
                prop_assert_eq!(end(&left_pieces), end(&pieces), "its log stays");
            }
            prop_assert_eq!(plan_of(&left_bases, &left_pieces, keep), PhysicalPlan::default());
            let longer = plan_of(&bases, &pieces, keep + more);
            prop_assert!(longer.bases.iter().all(|id| first.bases.contains(id)));
            prop_assert!(longer.pieces.iter().all(|piece| first.pieces.contains(piece)));
        }

        #[test]
        fn what_the_window_needs_stays_on_every_timeline(
            hours in proptest::collection::btree_set(0u64..60, 0..8),
            missing in proptest::collection::btree_set(0usize..60, 0..4),
            keep in 0i64..60,
            now in 30i64..60,
        ) {
            let hours_now = u64::try_from(now).unwrap();
            let bases: Vec<Base> =
                hours.iter().filter(|hour| **hour <= hours_now).map(|hour| base_over_switch(*hour)).collect();
            let pieces: Vec<PieceName> = pieces_over_switch(hours_now + 1)
                .into_iter().enumerate().filter(|(at, _)| !missing.contains(at)).map(|(_, piece)| piece).collect();
            let stored_at = BTreeMap::from([(1, at(i64::try_from(LEFT).unwrap())), (2, at(now))]);
            let log = Log::new(SEGMENT, &pieces, switched());
            let plan_of = |bases: &[Base], pieces: &[PieceName]| {
                let log = Log::new(SEGMENT, pieces, switched());
                physical(bases, pieces, &log, &stored_at, TimeDelta::hours(keep), at(now))
            };
            let first = plan_of(&bases, &pieces);
            let (left_bases, left_pieces) = after(&bases, &pieces, &first);
            let left_log = Log::new(SEGMENT, &left_pieces, switched());
            for hour in (now - keep).max(0)..=now {
                let hours = u64::try_from(hour).unwrap();
                let (timeline, number) =
                    if hours < LEFT { (1, hours) } else { (2, hours - LEFT + FORK) };
                for timeline in timeline..=2 {
                    let before = reaches(&bases, &log, timeline, hour, number);
                    prop_assert_eq!(before, reaches(&left_bases, &left_log, timeline, hour, number), "hour {}", hour);
                }
            }
            prop_assert_eq!(plan_of(&left_bases, &left_pieces), PhysicalPlan::default());
        }
    }
}
