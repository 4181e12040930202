//! Tells the commits of a run from those of others, in the window in which it ran.

use super::summary::CommitSummary;

/// What is known of whose commits can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// Commits of the run bear a mark that those of nobody else do.
    pub has_own_mark: bool,
    /// A session of the run was seen that took its options, and so the mark, from its environment.
    pub honours_options: bool,
    /// Sessions were seen that may be somebody else's.
    pub saw_strangers: bool,
}

/// Divides `commits` into those of the run and those that are, or may be, of others.
///
/// Where the mark tells, it decides. A driver that does not take it from its environment leaves
/// every commit unmarked: then all are the run's if nobody else was there, and none can be called
/// the run's if somebody was.
pub fn divide(commits: Vec<CommitSummary>, witness: Witness) -> (Vec<CommitSummary>, Vec<CommitSummary>) {
    let mark_tells =
        witness.has_own_mark && (witness.honours_options || commits.iter().any(|commit| commit.is_marked));
    let is_own = |commit: &CommitSummary| if mark_tells { commit.is_marked } else { !witness.saw_strangers };
    commits.into_iter().partition(is_own)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::rules::wal::Lsn;

    fn commit(xid: u32, is_marked: bool) -> CommitSummary {
        CommitSummary {
            xid,
            lsn: Lsn(0),
            committed_at: None,
            is_marked,
            rows: BTreeMap::from([("public.users".to_owned(), 1)]),
            has_catalog_writes: false,
            sequences: BTreeSet::new(),
        }
    }

    fn divided(marks: &[bool], witness: Witness) -> (usize, usize) {
        let commits = marks.iter().zip(1..).map(|(marked, xid)| commit(xid, *marked)).collect();
        let (own, foreign) = divide(commits, witness);
        (own.len(), foreign.len())
    }

    const MARKED: Witness = Witness { has_own_mark: true, honours_options: true, saw_strangers: false };

    #[test]
    fn where_the_mark_tells_it_decides() {
        assert_eq!(divided(&[true, false, true], MARKED), (2, 1));
        assert_eq!(divided(&[false, false], MARKED), (0, 2));
        let seen = Witness { saw_strangers: true, ..MARKED };
        assert_eq!(divided(&[true, true], seen), (2, 0));
        let by_commits = Witness { honours_options: false, ..MARKED };
        assert_eq!(divided(&[true, false], by_commits), (1, 1));
    }

    #[test]
    fn without_a_mark_all_are_the_runs_unless_somebody_else_was_there() {
        let unmarked = Witness { has_own_mark: true, honours_options: false, saw_strangers: false };
        assert_eq!(divided(&[false, false], unmarked), (2, 0));
        assert_eq!(divided(&[false, false], Witness { saw_strangers: true, ..unmarked }), (0, 2));
    }

    #[test]
    fn a_mark_that_others_have_too_tells_nothing() {
        let shared = Witness { has_own_mark: false, honours_options: true, saw_strangers: true };
        assert_eq!(divided(&[true, true], shared), (0, 2));
        assert_eq!(divided(&[true, true], Witness { saw_strangers: false, ..shared }), (2, 0));
    }
}
