//! The table of phases, pair by pair.

use super::*;

const PLACES: [Place; 2] = [Place::Here, Place::Elsewhere];

fn outcomes() -> Vec<Outcome> {
    let mut all = vec![Outcome::Passed, Outcome::Stale, Outcome::Decided(Decision::Check)];
    for verdict in Verdict::ALL {
        all.push(Outcome::Refused(verdict));
        let decisions = [Decision::Release(verdict), Decision::Restore(verdict), Decision::Hold(verdict)];
        all.extend(decisions.map(Outcome::Decided));
    }
    all
}

fn positions() -> impl Iterator<Item = Position> {
    let verdicts = || std::iter::once(None).chain(Verdict::ALL.into_iter().map(Some));
    Phase::ALL.into_iter().flat_map(move |phase| verdicts().map(move |verdict| Position { phase, verdict }))
}

/// Every pair, with where it leads.
fn all_steps() -> Vec<(Order, Position, Outcome, Position)> {
    let mut all = Vec::new();
    for order in [Order::FenceFirst, Order::SnapshotFirst] {
        for position in positions() {
            for outcome in outcomes() {
                all.push((order, position, outcome, next(order, position, outcome)));
            }
        }
    }
    all
}

fn walk(order: Order) -> Vec<Phase> {
    let mut position = Position { phase: Phase::Requested, verdict: None };
    let mut walked = vec![position.phase];
    while !position.phase.is_terminal() {
        let outcome = match position.phase {
            Phase::Classifying => Outcome::Decided(Decision::Check),
            Phase::Checking => Outcome::Decided(Decision::Release(Verdict::Migrated)),
            _ => Outcome::Passed,
        };
        position = next(order, position, outcome);
        walked.push(position.phase);
    }
    walked
}

#[test]
fn a_good_run_fences_before_it_snapshots_unless_told_otherwise() {
    use Phase::*;
    let tail = [Migrating, Settling, Classifying, Checking, Releasing, Done];
    let fence_first = [Requested, Preflight, Fencing, Snapshotting, Verifying, Rehearsing, Armed];
    let snapshot_first = [Requested, Preflight, Snapshotting, Verifying, Rehearsing, Fencing, Armed];
    assert_eq!(walk(Order::FenceFirst), [fence_first.as_slice(), &tail].concat());
    assert_eq!(walk(Order::SnapshotFirst), [snapshot_first.as_slice(), &tail].concat());
}

#[test]
fn the_command_is_started_only_from_armed_and_never_again() {
    for (_, from, _, to) in all_steps() {
        if to.phase == Phase::Migrating {
            assert_eq!(from.phase, Phase::Armed);
        }
        if !from.phase.is_before_start() {
            assert!(!to.phase.is_before_start() && to.phase != Phase::Migrating, "{from:?} {to:?}");
        }
    }
    for position in positions() {
        assert_ne!(resume(position, Place::Here).phase, Phase::Migrating);
        for place in PLACES {
            assert!(position.phase.is_before_start() || !resume(position, place).phase.is_before_start());
        }
    }
}

#[test]
fn the_end_of_a_command_elsewhere_is_waited_for() {
    for position in positions() {
        let resumed = resume(position, Place::Elsewhere);
        assert_eq!(resumed.phase == Phase::Migrating, position.phase == Phase::Migrating);
        if position.phase != Phase::Migrating {
            assert_eq!(resumed, resume(position, Place::Here));
        }
    }
}

#[test]
fn a_restore_begins_only_after_a_classification() {
    for (_, from, _, to) in all_steps() {
        if to.phase == Phase::Restoring && from.phase != Phase::Restoring {
            assert!(matches!(from.phase, Phase::Classifying | Phase::Checking | Phase::Swapping), "{from:?}");
        }
        if to.phase == Phase::Swapping && from.phase != Phase::Swapping {
            assert_eq!(from.phase, Phase::Restoring);
        }
    }
}

#[test]
fn what_may_have_a_fence_ends_only_after_it_is_released_or_held() {
    for (_, from, _, to) in all_steps() {
        if to.phase == Phase::Done && from.phase > Phase::Preflight && from.phase != Phase::Done {
            assert_eq!(from.phase, Phase::Releasing);
        }
    }
    for position in positions().filter(|position| position.phase > Phase::Preflight) {
        for place in PLACES {
            let resumed = resume(position, place);
            assert!(position.phase == Phase::Done || resumed.phase != Phase::Done, "{position:?}");
        }
    }
}

#[test]
fn every_end_has_a_verdict() {
    for (_, from, outcome, to) in all_steps() {
        if to.phase == Phase::Held && from.phase != Phase::Held {
            assert!(to.verdict.is_some(), "{from:?} {outcome:?}");
        }
    }
    for position in positions().filter(|position| position.phase.is_before_start()) {
        assert!(PLACES.into_iter().all(|place| resume(position, place).verdict.is_some()));
    }
}

#[test]
fn a_pair_that_makes_no_sense_holds_the_run() {
    let checking = Position { phase: Phase::Checking, verdict: None };
    let held = Position { phase: Phase::Held, verdict: Some(Verdict::Unknown) };
    assert_eq!(next(Order::FenceFirst, checking, Outcome::Stale), held);
    assert_eq!(next(Order::FenceFirst, checking, Outcome::Decided(Decision::Check)), held);
}

#[test]
fn every_phase_and_verdict_reads_back() {
    for phase in Phase::ALL {
        assert_eq!(phase.as_str().parse(), Ok(phase));
    }
    for verdict in Verdict::ALL {
        assert_eq!(verdict.as_str().parse(), Ok(verdict));
    }
    assert!("sleeping".parse::<Phase>().is_err());
}
