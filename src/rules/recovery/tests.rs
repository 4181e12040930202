use proptest::prelude::*;

use super::plan::in_full;
use super::*;
use crate::rules::physical::{PieceName, Segment, Switch};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
const SEGMENT: u64 = 16 * MIB;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000 + second, 0).unwrap()
}

/// A base backup in the segment `number`, that ended at that second.
fn base(timeline: u32, number: u64) -> Base {
    let second = i64::try_from(number).unwrap();
    let start = number * SEGMENT + 40;
    Base {
        id: SnapshotId::new(at(second), 0),
        parent: None,
        timeline,
        start: Lsn(start),
        stop: Lsn(start + 300),
        ended_at: at(second),
        checked: Checked::Never,
    }
}

fn failed(number: u64) -> Base {
    Base { checked: Checked::Failed, ..base(1, number) }
}

fn whole(timeline: u32, numbers: impl IntoIterator<Item = u64>) -> Vec<PieceName> {
    let name = |number| Segment { timeline, number, bytes: SEGMENT }.to_string();
    numbers.into_iter().map(|number| PieceName::Segment(name(number))).collect()
}

fn part(timeline: u32, number: u64, from: u32, to: u32) -> PieceName {
    PieceName::Part { segment: Segment { timeline, number, bytes: SEGMENT }.to_string(), from, to }
}

fn log(pieces: &[PieceName]) -> Log {
    Log::new(SEGMENT, pieces, BTreeMap::new())
}

/// The log of second `n` is segment `n`.
fn ends(window: &Window) -> Option<DateTime<Utc>> {
    Some(at(i64::try_from(window.end.0 / SEGMENT).unwrap()))
}

#[test]
fn a_base_backup_that_builds_on_what_is_missing_is_no_use() {
    let (full, other) = (base(1, 1), base(1, 2));
    let child = Base { parent: Some(full.id.clone()), ..base(1, 3) };
    let grandchild = Base { parent: Some(child.id.clone()), ..base(1, 4) };
    let log = log(&whole(1, 1..6));
    let all = [full.clone(), other.clone(), child.clone(), grandchild.clone()];
    assert_eq!(planned(&Target::Latest, &all, &log).unwrap().window.base, grandchild);
    let without = [other.clone(), child, grandchild];
    let found = windows(&without, &log, 1);
    let missing: Vec<_> = found.iter().map(|window| window.missing.clone()).collect();
    assert_eq!(missing, [None, Some(full.id.clone()), Some(full.id)]);
    assert_eq!(planned(&Target::Latest, &without, &log).unwrap().window.base, other);
}

fn planned(target: &Target, bases: &[Base], log: &Log) -> Result<Plan, Unreachable> {
    let timeline = log.newest_timeline().unwrap();
    plan(target, timeline, &windows(bases, log, timeline), ends, None, BaseChoice::Any)
}

#[test]
fn targets_are_read_as_operators_write_them() {
    let noon: DateTime<Utc> = "2026-11-20T13:03:07Z".parse().unwrap();
    for text in [
        "2026-11-20 14:03:07+01",
        "2026-11-20 14:03:07+01:00",
        "2026-11-20T13:03:07Z",
        "2026-11-20 13:03:07 UTC",
        "2026-11-20 13:03:07.0Z",
    ] {
        assert_eq!(text.parse(), Ok(Target::Time(noon)), "{text}");
    }
    assert_eq!("16/B374D848".parse(), Ok(Target::Lsn("16/B374D848".parse().unwrap())));
    assert_eq!("name:belay:r1".parse(), Ok(Target::Name("belay:r1".into())));
    assert_eq!("latest".parse(), Ok(Target::Latest));
    for text in ["", "yesterday", "2026-11-20 14:03:07", "name:", "16/"] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
}

#[test]
fn the_newest_base_backup_before_the_moment_is_taken() {
    let log = log(&whole(1, 3..20));
    let bases = [base(1, 3), base(1, 8), base(1, 12)];
    let of = |target| planned(&target, &bases, &log).unwrap();
    assert_eq!(of(Target::Time(at(9))).window.base, bases[1]);
    assert_eq!(of(Target::Time(at(9))).stop_at, Some(Target::Time(at(9))));
    assert_eq!(of(Target::Lsn(bases[2].stop)).window.base, bases[2]);
    assert_eq!(of(Target::Lsn(Lsn(bases[2].stop.0 - 1))).window.base, bases[1]);
    assert_eq!(of(Target::Latest).window.base, bases[2]);
    assert_eq!(of(Target::Latest).stop_at, None);
}

#[test]
fn a_time_is_reached_until_everything_committed_is_stored() {
    let log = log(&whole(1, 3..20));
    let plan = planned(&Target::Time(at(20)), &[base(1, 3)], &log).unwrap();
    assert_eq!(plan.stop_at, Some(Target::Time(at(20))));
    let late = planned(&Target::Time(at(21)), &[base(1, 3)], &log).unwrap_err();
    assert!(matches!(late, Unreachable::TooLate { .. }), "{late}");
}

#[test]
fn what_cannot_be_reached_is_refused_with_the_nearest() {
    let log = log(&[whole(1, 3..6), whole(1, 8..12)].concat());
    let bases = [base(1, 3), base(1, 9)];
    let refused = |target| planned(&target, &bases, &log).unwrap_err().to_string();
    assert!(refused(Target::Time(at(2))).contains("before the end of the first"));
    assert!(
        refused(Target::Lsn(Lsn(SEGMENT))).contains("0/3000154"),
        "{}",
        refused(Target::Lsn(Lsn(SEGMENT)))
    );
    let in_gap = refused(Target::Time(at(7)));
    assert!(in_gap.contains(&in_full(at(6))) && in_gap.contains(&in_full(at(9))), "{in_gap}");
    assert!(refused(Target::Lsn(Lsn(7 * SEGMENT))).contains("log is missing there"));
    assert!(refused(Target::Time(at(100))).contains("after the end"));
}

#[test]
fn a_base_backup_without_the_log_up_to_its_end_is_no_use() {
    let log = log(&[part(1, 3, 0, 100)]);
    let refused = planned(&Target::Latest, &[base(1, 3)], &log).unwrap_err();
    let Unreachable::NoBase { timeline: 1, why } = refused else { panic!("{refused}") };
    assert!(why.contains("its log is stored to 0/3000064, and it is of no use before 0/3000154"), "{why}");
}

#[test]
fn parts_count_as_far_as_they_follow_each_other() {
    let mut pieces = whole(1, 3..5);
    pieces.extend([part(1, 5, 0, 8192), part(1, 5, 8192, 16384), part(1, 5, 24576, 32768)]);
    assert_eq!(log(&pieces).reach(1, &base(1, 3)), Lsn(5 * SEGMENT + 16384));
    pieces.push(part(1, 5, 8192, 28672));
    assert_eq!(log(&pieces).reach(1, &base(1, 3)), Lsn(5 * SEGMENT + 32768));
}

#[test]
fn another_timeline_goes_on_from_where_it_left_the_first() {
    let switched = Lsn(6 * SEGMENT + 1000);
    let histories = BTreeMap::from([(2, vec![Switch { parent: 1, at: switched }])]);
    let pieces = [whole(1, 3..9), whole(2, 6..8)].concat();
    let log = Log::new(SEGMENT, &pieces, histories);
    let (early, late) = (base(1, 3), base(1, 7));
    assert_eq!(log.reach(2, &early), Lsn(8 * SEGMENT));
    let bases = [early.clone(), late.clone(), base(2, 7)];
    let of = |timeline| windows(&bases, &log, timeline);
    assert_eq!(of(2).iter().map(|window| window.base.timeline).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(of(1).last().unwrap().end, Lsn(9 * SEGMENT));
}

/// Timeline 2 left the first within segment 6, and timeline 3 left that within segment 8.
fn two_switches() -> BTreeMap<u32, Vec<Switch>> {
    let first = Switch { parent: 1, at: Lsn(6 * SEGMENT + 1000) };
    let second = Switch { parent: 2, at: Lsn(8 * SEGMENT + 2000) };
    BTreeMap::from([(2, vec![first]), (3, vec![first, second])])
}

#[test]
fn the_parents_log_counts_up_to_the_fork_where_the_new_segment_is_not_stored() {
    let pieces = [whole(1, 3..9), whole(2, 7..8)].concat();
    let log = Log::new(SEGMENT, &pieces, two_switches());
    let base = base(1, 3);
    assert_eq!(log.reach(2, &base), Lsn(6 * SEGMENT + 1000));
    assert_eq!(log.resumes_after(2, Lsn(6 * SEGMENT + 1000)), Some(Lsn(7 * SEGMENT)));
    let assembly = log.assembly(2, 6).unwrap();
    assert_eq!((assembly.pieces, assembly.until), (whole(1, [6]), 1000), "and not what was given up");
    assert_eq!(log.assembly(1, 6).unwrap().until, SEGMENT);
    // What says until when it is complete lies before the fork.
    let end = log.reach(2, &base);
    assert_eq!(log.before(2, &base, end).collect::<Vec<_>>(), whole(1, [5, 4, 3]));
}

#[test]
fn the_longest_of_what_counts_is_taken() {
    let parts = [part(1, 6, 0, 1500), part(2, 6, 0, 800)];
    let log = Log::new(SEGMENT, &[whole(1, 3..6), parts.to_vec()].concat(), two_switches());
    assert_eq!(log.reach(2, &base(1, 3)), Lsn(6 * SEGMENT + 1000));
    assert_eq!(log.reach(1, &base(1, 3)), Lsn(6 * SEGMENT + 1500));
    let more = [whole(1, 3..6), parts.to_vec(), vec![part(2, 6, 800, 1200)]].concat();
    let log = Log::new(SEGMENT, &more, two_switches());
    assert_eq!(log.reach(2, &base(1, 3)), Lsn(6 * SEGMENT + 1200));
    assert_eq!(log.reach(3, &base(1, 3)), Lsn(6 * SEGMENT + 1200));
}

#[test]
fn a_line_of_timelines_is_followed_from_the_first() {
    let pieces = [whole(1, 3..7), whole(2, 6..9), whole(3, 8..11)].concat();
    let log = Log::new(SEGMENT, &pieces, two_switches());
    assert_eq!(log.reach(3, &base(1, 3)), Lsn(11 * SEGMENT));
    let path: Vec<u32> = (3..11).map(|number| log.segment(3, number).timeline).collect();
    assert_eq!(path, [1, 1, 1, 2, 2, 3, 3, 3]);
}

#[test]
fn a_timeline_without_its_history_is_not_followed() {
    let log = Log::new(SEGMENT, &whole(2, 6..9), BTreeMap::new());
    assert_eq!(windows(&[base(2, 6)], &log, 2), []);
}

#[test]
fn windows_are_told_of_every_timeline_that_has_moments_of_its_own() {
    let told = |pieces: &[PieceName]| -> Vec<(u32, Lsn)> {
        let log = Log::new(SEGMENT, pieces, BTreeMap::from([(2, two_switches()[&2].clone())]));
        windows_of_all(&[base(1, 3)], &log).iter().map(|window| (window.timeline, window.end)).collect()
    };
    let both = [whole(1, 3..9), whole(2, 6..8)].concat();
    assert_eq!(told(&both), [(1, Lsn(9 * SEGMENT)), (2, Lsn(8 * SEGMENT))]);
    let gone_on = [whole(1, 3..6), vec![part(1, 6, 0, 1000)], whole(2, 6..8)].concat();
    assert_eq!(told(&gone_on), [(2, Lsn(8 * SEGMENT))], "nothing was given up");
}

proptest! {
    /// Whatever is stored: a plan never begins after its moment, and its log has no hole.
    #[test]
    fn a_plan_keeps_its_promise(
        numbers in proptest::collection::btree_set(0u64..40, 0..40),
        starts in proptest::collection::btree_set(0u64..40, 0..6),
        wanted in 0i64..45,
    ) {
        let log = log(&whole(1, numbers.iter().copied()));
        let bases: Vec<Base> = starts.iter().map(|number| base(1, *number)).collect();
        let windows = windows(&bases, &log, 1);
        if let Ok(plan) = plan(&Target::Time(at(wanted)), 1, &windows, ends, None, BaseChoice::Any) {
            let window = plan.window;
            prop_assert!(window.base.ended_at <= at(wanted));
            let needed = window.base.start.0 / SEGMENT..window.end.0 / SEGMENT;
            prop_assert!(needed.into_iter().all(|number| numbers.contains(&number)));
            prop_assert!(ends(&window).unwrap() >= at(wanted));
        }
    }
}

#[test]
fn the_latest_moment_is_not_the_one_before_a_gap() {
    let log = log(&[whole(1, 1..=4), whole(1, 6..=9)].concat());
    let bases = [base(1, 2)];
    let refused = planned(&Target::Latest, &bases, &log).unwrap_err().to_string();
    assert!(refused.contains("log is missing from 0/5000000 to 0/6000000"), "{refused}");
    for later in [Target::Time(at(8)), Target::Lsn(Lsn(8 * SEGMENT))] {
        let refused = planned(&later, &bases, &log).unwrap_err();
        assert!(matches!(refused, Unreachable::Broken { .. }), "{refused}");
    }
    assert!(planned(&Target::Time(at(4)), &bases, &log).is_ok());
    assert!(planned(&Target::Latest, &[base(1, 2), base(1, 7)], &log).is_ok());
}

#[test]
fn the_segments_of_a_window_tell_where_their_timelines_began() {
    let switch = |parent, number: u64| Switch { parent, at: Lsn(number * SEGMENT + 100) };
    let histories = BTreeMap::from([(2, vec![switch(1, 3)]), (3, vec![switch(1, 3), switch(2, 5)])]);
    let pieces = [whole(1, 1..=3), whole(2, 3..=5), whole(3, 5..=5), vec![part(3, 6, 0, 500)]].concat();
    let log = Log::new(SEGMENT, &pieces, histories);
    let windows = windows(&[base(1, 1)], &log, 3);
    let found: Vec<_> =
        log.segments(&windows[0]).map(|(segment, began)| (segment.timeline, segment.number, began)).collect();
    let (second, third) = (Some(switch(1, 3).at), Some(switch(2, 5).at));
    let expected = [(1, 1, None), (1, 2, None), (2, 3, second), (2, 4, second), (3, 5, third), (3, 6, third)];
    assert_eq!(found, expected);
    assert_eq!(log.ends_in(&windows[0]).number, 6);
    // A window that ends with a segment: the next one is the first to be missing.
    let log = Log::new(SEGMENT, &pieces[..pieces.len() - 1], BTreeMap::new());
    let on_first = super::windows(&[base(1, 1)], &log, 1);
    assert_eq!(log.segments(&on_first[0]).count(), 3);
    assert_eq!(log.ends_in(&on_first[0]).number, 4);
}

#[test]
fn a_base_backup_whose_verification_failed_is_passed_over_where_an_older_one_does() {
    let log = log(&whole(1, 1..20));
    let bases = [base(1, 2), base(1, 5), failed(8), failed(12)];
    let id = |at: usize| bases[at].id.clone();
    for target in [Target::Latest, Target::Time(at(15)), Target::Lsn(Lsn(15 * SEGMENT))] {
        let plan = planned(&target, &bases, &log).unwrap();
        assert_eq!(plan.window.base.id, id(1), "{target}");
        assert_eq!(plan.passed_over, [id(2), id(3)], "{target}");
        assert_eq!(plan.others, [id(0), id(3), id(2)], "{target}");
    }
    let named = planned(&Target::Name("x".into()), &bases, &log).unwrap();
    assert_eq!((&named.window.base.id, named.passed_over), (&id(1), vec![id(2), id(3)]));
    let older: Vec<_> = named.older.iter().map(|window| window.base.id.clone()).collect();
    assert_eq!(older, [id(0), id(3), id(2)]);
    let before = planned(&Target::Time(at(6)), &bases, &log).unwrap();
    assert_eq!((before.window.base.id, before.passed_over), (id(1), vec![]), "it lies before them");
}

#[test]
fn one_that_builds_on_a_base_backup_whose_verification_failed_is_passed_over_too() {
    let full = failed(4);
    let child = Base { parent: Some(full.id.clone()), ..base(1, 6) };
    let bases = [base(1, 2), full, child];
    let plan = planned(&Target::Latest, &bases, &log(&whole(1, 1..10))).unwrap();
    assert_eq!(plan.window.base, bases[0]);
    assert_eq!(plan.passed_over, [bases[1].id.clone(), bases[2].id.clone()]);
}

#[test]
fn a_base_backup_whose_verification_failed_is_taken_where_no_other_reaches_the_moment() {
    // The log behind the older one is broken before the newer one.
    let log = log(&[whole(1, 1..4), whole(1, 5..10)].concat());
    let bases = [base(1, 2), failed(6)];
    for target in [Target::Latest, Target::Time(at(8))] {
        let plan = planned(&target, &bases, &log).unwrap();
        assert_eq!((plan.window.base.id, plan.passed_over), (bases[1].id.clone(), vec![]), "{target}");
    }
}

#[test]
fn a_base_backup_that_is_named_is_taken_or_refused_with_what_it_reaches() {
    let log = log(&[whole(1, 1..6), whole(1, 8..12)].concat());
    let bases = [base(1, 2), base(1, 4), base(1, 9), Base { timeline: 2, ..base(1, 10) }];
    let windows = windows(&bases, &log, 1);
    let from =
        |target: Target, at: usize| plan(&target, 1, &windows, ends, None, BaseChoice::Only(&bases[at].id));
    assert_eq!(from(Target::Time(at(5)), 0).unwrap().window.base, bases[0]);
    assert_eq!(from(Target::Time(at(5)), 1).unwrap().window.base, bases[1]);
    let refused = |target, at: usize| from(target, at).unwrap_err();
    let instead = |error: &Unreachable| match error {
        Unreachable::NotFrom { instead, .. } => instead.clone(),
        other => panic!("{other}"),
    };
    let early = refused(Target::Time(at(3)), 1);
    assert_eq!(instead(&early), Some(bases[0].id.clone()));
    assert!(
        early.to_string().contains(&format!("reaches {} to {}", in_full(at(4)), in_full(at(6)))),
        "{early}"
    );
    assert_eq!(instead(&refused(Target::Time(at(10)), 0)), Some(bases[2].id.clone()));
    assert_eq!(instead(&refused(Target::Time(at(7)), 0)), None, "nothing reaches that");
    let elsewhere = refused(Target::Latest, 3);
    assert!(elsewhere.to_string().contains("timeline 1 does not go on from it"), "{elsewhere}");
    let latest = refused(Target::Latest, 0);
    assert_eq!(instead(&latest), Some(bases[2].id.clone()), "{latest}");
}

proptest! {
    /// Whatever failed: what is reached at all is reached, by one that has not failed if there is one.
    #[test]
    fn a_failed_verification_takes_no_moment_away(
        numbers in proptest::collection::btree_set(0u64..40, 20..40),
        starts in proptest::collection::btree_map(0u64..40, any::<bool>(), 0..6),
        wanted in 0i64..45,
    ) {
        let log = log(&whole(1, numbers.iter().copied()));
        let of = |(number, has_failed): (&u64, &bool)| if *has_failed { failed(*number) } else { base(1, *number) };
        let bases: Vec<Base> = starts.iter().map(of).collect();
        let sound: Vec<Base> = bases.iter().filter(|base| base.checked != Checked::Failed).cloned().collect();
        let all_sound: Vec<Base> = starts.keys().map(|number| base(1, *number)).collect();
        let planned = |bases: &[Base]| {
            plan(&Target::Time(at(wanted)), 1, &windows(bases, &log, 1), ends, None, BaseChoice::Any)
        };
        let (with_failed, without) = (planned(&bases), planned(&sound));
        prop_assert_eq!(with_failed.is_ok(), planned(&all_sound).is_ok());
        if let Ok(plan) = with_failed {
            let is_failed = plan.window.base.checked == Checked::Failed;
            prop_assert_eq!(is_failed, without.is_err());
            prop_assert!(plan.passed_over.iter().all(|id| *id > plan.window.base.id));
            let choice = BaseChoice::Only(&plan.window.base.id);
            let forced = super::plan(&Target::Time(at(wanted)), 1, &windows(&bases, &log, 1), ends, None, choice);
            prop_assert_eq!(forced.unwrap().window, plan.window);
        }
    }
}
