//! Decides what a run did to its databases as a whole: all of them migrated, or all as before.
//!
//! Comes in: what it did to each. Goes out: one class, of which [`super::decide`] says what is to be
//! done. A run of one database is of that database's class.

use super::{Change, Class, Classified, Policy};

/// Says what a run did to all of its databases.
///
/// One that is where it was to be brought, or had nothing pending, is well. Where something was
/// changed and not all are well, the whole is [`Class::Partial`], whatever became of the others; and
/// where one cannot be told, neither can the whole.
pub fn combined(all: &[&Classified], policy: Policy) -> Class {
    let has = |class| all.iter().any(|it| it.class == class);
    if all.is_empty() || has(Class::Unknown) {
        return Class::Unknown;
    }
    let left = [Class::Unchanged, Class::FalseSuccess, Class::NothingPending];
    if all.iter().all(|it| left.contains(&it.class)) {
        return left.into_iter().find(|class| has(*class)).unwrap_or(Class::Unknown);
    }
    let is_well = all.iter().all(|it| it.is_at_goal);
    let is_refused = has(Class::Stamped) && !policy.accepts_stamped;
    if (!is_well || is_refused) && all.iter().any(|it| is_untold(it)) {
        return Class::Unknown;
    }
    match is_well {
        false => Class::Partial,
        true if is_refused => Class::Stamped,
        true => [Class::AppliedWithError, Class::Success, Class::Stamped]
            .into_iter()
            .find(|class| has(*class))
            .unwrap_or(Class::Unknown),
    }
}

/// Whether it may or may not have to be put back with the others. What is half done is to be put
/// back in any case.
fn is_untold(it: &Classified) -> bool {
    it.change == Change::Unknown && it.class != Class::Partial
}

/// Whether a database is among those that are put back, once the whole is.
pub fn is_to_be_put_back(it: &Classified) -> bool {
    it.change != Change::None
}

#[cfg(test)]
mod tests {
    use super::super::decide;
    use super::*;
    use crate::rules::gate::{Decision, Verdict};

    const ALL: [Class; 8] = [
        Class::Unchanged,
        Class::Partial,
        Class::AppliedWithError,
        Class::Success,
        Class::FalseSuccess,
        Class::Stamped,
        Class::NothingPending,
        Class::Unknown,
    ];
    const POLICY: Policy = Policy { accepts_stamped: true, restores: true };
    const STRICT: Policy = Policy { accepts_stamped: false, ..POLICY };

    fn of(class: Class) -> Classified {
        let (change, is_at_goal) = match class {
            Class::Unchanged | Class::FalseSuccess => (Change::None, false),
            Class::NothingPending => (Change::None, true),
            Class::Partial => (Change::Some, false),
            Class::AppliedWithError | Class::Success | Class::Stamped => (Change::Some, true),
            Class::Unknown => (Change::Unknown, false),
        };
        Classified { class, change, is_at_goal, reasons: Vec::new() }
    }

    fn whole(parts: &[Classified], policy: Policy) -> Class {
        combined(&parts.iter().collect::<Vec<_>>(), policy)
    }

    fn of_classes(classes: &[Class], policy: Policy) -> Class {
        whole(&classes.iter().copied().map(of).collect::<Vec<_>>(), policy)
    }

    /// Every list of one, two and three classes.
    fn lists() -> Vec<Vec<Class>> {
        let one: Vec<Vec<Class>> = ALL.map(|class| vec![class]).to_vec();
        let longer = |lists: &[Vec<Class>]| -> Vec<Vec<Class>> {
            lists.iter().flat_map(|list| ALL.map(|class| [list.as_slice(), &[class]].concat())).collect()
        };
        let two = longer(&one);
        let three = longer(&two);
        [one, two, three].concat()
    }

    #[test]
    fn one_database_decides_for_itself() {
        for class in ALL {
            for policy in [POLICY, STRICT] {
                assert_eq!(of_classes(&[class], policy), class);
            }
        }
        assert_eq!(whole(&[], POLICY), Class::Unknown);
    }

    #[test]
    fn the_order_of_databases_does_not_matter() {
        for list in lists() {
            let mut turned = list.clone();
            turned.reverse();
            assert_eq!(of_classes(&list, STRICT), of_classes(&turned, STRICT), "{list:?}");
        }
    }

    #[test]
    fn a_database_more_of_a_class_that_is_there_changes_nothing() {
        for list in lists() {
            let more = [list.as_slice(), list.get(..1).unwrap_or_default()].concat();
            assert_eq!(of_classes(&list, POLICY), of_classes(&more, POLICY), "{list:?}");
        }
    }

    #[test]
    fn all_are_migrated_or_all_are_as_before_or_an_operator_decides() {
        for list in lists() {
            let parts: Vec<Classified> = list.iter().copied().map(of).collect();
            for policy in [POLICY, STRICT] {
                let decision = decide(whole(&parts, policy), policy);
                let has_changed = parts.iter().any(|it| it.change == Change::Some);
                match decision {
                    Decision::Hold(verdict) => {
                        assert_eq!(verdict, Verdict::Unknown);
                        assert!(list.contains(&Class::Unknown), "{list:?}");
                    }
                    Decision::Check => assert!(parts.iter().all(|it| it.is_at_goal), "{list:?}"),
                    Decision::Release(_) => assert!(!has_changed, "{list:?}"),
                    Decision::Restore(_) => {
                        assert!(has_changed, "{list:?}");
                        for it in &parts {
                            assert_eq!(is_to_be_put_back(it), it.change == Change::Some, "{list:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_told_of_one_cannot_be_told_of_all() {
        for list in lists().into_iter().filter(|list| list.contains(&Class::Unknown)) {
            assert_eq!(of_classes(&list, POLICY), Class::Unknown, "{list:?}");
        }
    }

    #[test]
    fn a_database_with_nothing_pending_is_well() {
        for class in [Class::Success, Class::Stamped, Class::FalseSuccess] {
            assert_eq!(of_classes(&[class, Class::NothingPending], POLICY), class);
        }
        let idle = Classified { is_at_goal: true, ..of(Class::Unchanged) };
        assert_eq!(whole(&[of(Class::AppliedWithError), idle], POLICY), Class::AppliedWithError);
        let behind = of(Class::Unchanged);
        assert_eq!(whole(&[of(Class::AppliedWithError), behind], POLICY), Class::Partial);
    }

    #[test]
    fn a_version_that_moved_alone_is_refused_with_all_that_were_migrated() {
        assert_eq!(of_classes(&[Class::Stamped, Class::Success], POLICY), Class::Success);
        assert_eq!(of_classes(&[Class::Stamped, Class::Success], STRICT), Class::Stamped);
        assert_eq!(of_classes(&[Class::Stamped, Class::Partial], STRICT), Class::Partial);
    }

    #[test]
    fn where_it_is_not_known_whether_one_changed_none_is_put_back() {
        let untold = |class| Classified { change: Change::Unknown, ..of(class) };
        for class in [Class::NothingPending, Class::Success] {
            assert_eq!(whole(&[untold(class)], POLICY), class);
            assert_eq!(whole(&[untold(class), of(Class::Success)], POLICY), Class::Success);
            assert_eq!(whole(&[untold(class), of(Class::Partial)], POLICY), Class::Unknown);
            assert_eq!(whole(&[untold(class), of(Class::Stamped)], STRICT), Class::Unknown);
        }
    }
}
