//! The table of classes, over all combinations of evidence.

use super::*;

const RESTORING: Policy = Policy { accepts_stamped: true, restores: true };

fn revisions(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A clean failure of an upgrade from `a` to `b`.
fn evidence() -> Evidence {
    Evidence {
        exit: Exit::Status(1),
        revisions_before: revisions(&["a"]),
        revisions_after: revisions(&["a"]),
        expected: Expected::Revisions(revisions(&["b"])),
        asked: Asked::Something,
        schema: Schema::Same,
        rehearsed: Rehearsed::Not,
        writes: Writes::None,
    }
}

fn class(evidence: Evidence) -> Class {
    classify(&evidence).class
}

fn wrote() -> Writes {
    Writes::Some("1 transaction (2 rows in users)".into())
}

fn unknown() -> Writes {
    Writes::Unknown("the write-ahead log is gone".into())
}

/// Every combination of what evidence can say.
fn all() -> Vec<Evidence> {
    let mut all = Vec::new();
    for exit in [Exit::Status(0), Exit::Status(1), Exit::Signal(9), Exit::TimedOut, Exit::Unseen, Exit::Lost]
    {
        for after in ["a", "b", "c"] {
            for expected in [
                Expected::Revisions(revisions(&["a"])),
                Expected::Revisions(revisions(&["b"])),
                Expected::Unknown("there is no checkout".into()),
            ] {
                for schema in [Schema::Same, Schema::Changed] {
                    for rehearsed in [Rehearsed::Not, Rehearsed::Same, Rehearsed::Differs] {
                        for writes in [Writes::None, Writes::VersionOnly, wrote(), unknown()] {
                            all.push(Evidence {
                                exit: exit.clone(),
                                revisions_after: revisions(&[after]),
                                expected: expected.clone(),
                                schema,
                                rehearsed,
                                writes,
                                ..evidence()
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

#[test]
fn a_failure_that_changed_nothing_is_unchanged() {
    assert_eq!(class(evidence()), Class::Unchanged);
    assert_eq!(class(Evidence { exit: Exit::Signal(9), ..evidence() }), Class::Unchanged);
}

#[test]
fn a_failure_that_changed_something_is_partial() {
    assert_eq!(class(Evidence { writes: wrote(), ..evidence() }), Class::Partial);
    assert_eq!(class(Evidence { schema: Schema::Changed, ..evidence() }), Class::Partial);
    let halfway = Evidence { revisions_after: revisions(&["ab"]), ..evidence() };
    assert_eq!(class(halfway), Class::Partial);
}

#[test]
fn a_failure_that_reached_the_goal_is_applied_with_error() {
    let reached = Evidence {
        revisions_after: revisions(&["b"]),
        schema: Schema::Changed,
        writes: wrote(),
        ..evidence()
    };
    assert_eq!(class(reached.clone()), Class::AppliedWithError);
    assert_eq!(class(Evidence { rehearsed: Rehearsed::Differs, ..reached }), Class::Partial);
}

#[test]
fn success_without_a_commit_is_false_where_something_was_pending() {
    let said = Evidence { exit: Exit::Status(0), ..evidence() };
    assert_eq!(class(said.clone()), Class::FalseSuccess);
    let nothing = Expected::Revisions(revisions(&["a"]));
    assert_eq!(class(Evidence { expected: nothing, ..said.clone() }), Class::NothingPending);
    let any = Expected::Unknown("it is no Alembic command".into());
    assert_eq!(class(Evidence { expected: any, ..said }), Class::NothingPending);
}

#[test]
fn a_version_that_moved_alone_is_stamped() {
    let stamped = Evidence {
        exit: Exit::Status(0),
        revisions_after: revisions(&["b"]),
        writes: Writes::VersionOnly,
        ..evidence()
    };
    assert_eq!(class(stamped.clone()), Class::Stamped);
    assert_eq!(class(Evidence { writes: wrote(), ..stamped }), Class::Success);
    assert_eq!(decide(Class::Stamped, RESTORING), Decision::Check);
    let strict = Policy { accepts_stamped: false, ..RESTORING };
    assert_eq!(decide(Class::Stamped, strict), Decision::Restore(Verdict::ChecksFailed));
}

#[test]
fn success_at_another_revision_is_partial() {
    let elsewhere = Evidence {
        exit: Exit::Status(0),
        revisions_after: revisions(&["c"]),
        schema: Schema::Changed,
        writes: wrote(),
        ..evidence()
    };
    assert_eq!(class(elsewhere), Class::Partial);
}

#[test]
fn without_evidence_nothing_is_called_unchanged() {
    for evidence in all().into_iter().filter(|it| matches!(it.writes, Writes::Unknown(_))) {
        let class = class(evidence.clone());
        assert!(!matches!(class, Class::Unchanged | Class::FalseSuccess), "{evidence:?}");
    }
}

#[test]
fn what_changed_is_never_called_unchanged() {
    for evidence in all() {
        let same = evidence.revisions_after == evidence.revisions_before
            && evidence.schema == Schema::Same
            && evidence.writes == Writes::None;
        let class = class(evidence.clone());
        if matches!(class, Class::Unchanged | Class::FalseSuccess) {
            assert!(same, "{evidence:?}");
        }
        if same {
            assert_ne!(class, Class::Partial, "{evidence:?}");
        }
    }
}

#[test]
fn a_restore_follows_only_what_was_not_wanted() {
    for evidence in all() {
        let class = class(evidence.clone());
        let restores = matches!(decide(class, RESTORING), Decision::Restore(_));
        assert_eq!(restores, class == Class::Partial, "{evidence:?}");
        let holding = Policy { restores: false, ..RESTORING };
        assert!(!matches!(decide(class, holding), Decision::Restore(_)));
        assert!(!matches!(decide_checked(class, true, holding), Decision::Restore(_)));
    }
}

#[test]
fn every_classification_has_reasons() {
    for evidence in all() {
        assert!(classify(&evidence).reasons.len() >= 4);
    }
}

#[test]
fn a_merge_that_moves_only_the_revision_is_done() {
    let moved = Evidence {
        exit: Exit::Status(0),
        revisions_after: revisions(&["b"]),
        writes: Writes::VersionOnly,
        asked: Asked::Nothing,
        ..evidence()
    };
    assert_eq!(class(moved.clone()), Class::Success);
    assert_eq!(class(Evidence { asked: Asked::Something, ..moved.clone() }), Class::Stamped);
    let elsewhere = Evidence { revisions_after: revisions(&["c"]), ..moved.clone() };
    assert_eq!(class(elsewhere), Class::Partial);
    let not_run = Evidence { revisions_after: revisions(&["a"]), writes: Writes::None, ..moved };
    assert_eq!(class(not_run), Class::FalseSuccess);
}
