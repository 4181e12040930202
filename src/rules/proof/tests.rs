use chrono::TimeDelta;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::rules::layout::SnapshotId;
use crate::rules::manifest::FORMAT;

const DEPTHS: [Depth; 3] = [Depth::Stored, Depth::Readable, Depth::Restored];

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap() + TimeDelta::minutes(minutes)
}

fn record(minutes: i64, depth: Depth, is_ok: bool) -> Verification {
    Verification {
        format: FORMAT,
        id: SnapshotId::new(at(0), 0),
        repository: "r".into(),
        depth,
        at: at(minutes),
        is_ok,
        problems: if is_ok { Vec::new() } else { vec![format!("found at {minutes}")] },
        damaged_chunks: Vec::new(),
        tables_compared: 0,
        rows_compared: 0,
        restore_ms: None,
        elapsed_ms: 0,
    }
}

fn depth_proven(records: &[Verification]) -> Option<Depth> {
    proven(records, &[]).map(|record| record.depth)
}

#[test]
fn a_shallower_verification_does_not_overcome_a_deeper_failure() {
    let records = [
        record(0, Depth::Restored, true),
        record(1, Depth::Restored, false),
        record(2, Depth::Stored, true),
        record(3, Depth::Readable, true),
    ];
    assert_eq!(standing_fault(&records, &[]).map(|fault| fault.problems), Some(vec!["found at 1".into()]));
    assert_eq!(depth_proven(&records), None);
}

#[test]
fn the_same_depth_or_a_deeper_one_overcomes_a_failure() {
    for (failed, later) in [(Depth::Stored, Depth::Stored), (Depth::Stored, Depth::Restored)] {
        let records = [record(0, failed, false), record(1, later, true)];
        assert_eq!((standing_fault(&records, &[]), depth_proven(&records)), (None, Some(later)));
    }
}

#[test]
fn what_was_proven_before_a_failure_does_not_count_after_it() {
    let records =
        [record(0, Depth::Restored, true), record(1, Depth::Stored, false), record(2, Depth::Stored, true)];
    assert_eq!(depth_proven(&records), Some(Depth::Stored));
}

#[test]
fn the_deepest_of_several_proofs_counts() {
    let records = [record(0, Depth::Restored, true), record(1, Depth::Stored, true)];
    assert_eq!(proven(&records, &[]).map(|record| record.at), Some(at(0)));
    assert_eq!(depth_proven(&[]), None);
}

#[test]
fn damage_in_a_shared_chunk_counts_until_this_snapshot_is_verified_as_deeply() {
    let shared = [Fault { depth: Depth::Readable, at: at(5), problems: vec!["a chunk".into()] }];
    let mut records = vec![record(0, Depth::Restored, true)];
    assert_eq!(standing_fault(&records, &shared), Some(shared[0].clone()));
    assert_eq!(proven(&records, &shared), None);
    records.push(record(6, Depth::Stored, true));
    assert_eq!(proven(&records, &shared), None);
    records.push(record(7, Depth::Readable, true));
    assert_eq!(proven(&records, &shared).map(|record| record.at), Some(at(7)));
}

fn some_records() -> impl Strategy<Value = Vec<Verification>> {
    vec((0i64..12, prop::sample::select(DEPTHS.to_vec()), any::<bool>()), 0..8)
        .prop_map(|all| all.into_iter().map(|(at, depth, is_ok)| record(at, depth, is_ok)).collect())
}

proptest! {
    #[test]
    fn a_snapshot_is_never_both_proven_and_at_fault(records in some_records()) {
        prop_assert!(proven(&records, &[]).is_none() || standing_fault(&records, &[]).is_none());
    }

    #[test]
    fn a_failure_stands_until_a_later_success_as_deep(
        before in some_records(), depth in prop::sample::select(DEPTHS.to_vec()),
        after in prop::sample::select(DEPTHS.to_vec()),
    ) {
        let mut records = before;
        records.extend([record(20, depth, false), record(21, after, true)]);
        let last_stands = standing_fault(&records, &[]).is_some_and(|fault| fault.at == at(20));
        prop_assert_eq!(last_stands, after < depth);
    }

    #[test]
    fn a_success_to_the_deepest_depth_overcomes_everything_before(before in some_records()) {
        let mut records = before;
        records.push(record(20, Depth::Restored, true));
        prop_assert_eq!(depth_proven(&records), Some(Depth::Restored));
    }
}
