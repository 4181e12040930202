//! Tells the commits of a run from those of others, in the window in which it ran.

use super::summary::CommitSummary;

/// Commits of a window, by whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attributed {
    /// The mark of the run tells: these are its own, and these are of others.
    Told {
        /// Of the run.
        own: Vec<CommitSummary>,
        /// Of others.
        foreign: Vec<CommitSummary>,
    },
    /// Something was committed, and nothing tells by whom.
    Untold(Vec<CommitSummary>),
}

/// Divides `commits` by the mark of the run; `has_own_mark` says that nobody else's sessions have it.
///
/// A commit without the mark is never taken for the run's, whoever else was seen or not: a session
/// may come and go between two looks. Where no commit has the mark, the run's driver may not take
/// it from its environment, or the run committed nothing: then an unmarked commit is anybody's.
pub fn divide(commits: Vec<CommitSummary>, has_own_mark: bool) -> Attributed {
    let is_told = has_own_mark && commits.iter().any(|commit| commit.is_marked);
    if commits.is_empty() || is_told {
        let (own, foreign) = commits.into_iter().partition(|commit| commit.is_marked);
        return Attributed::Told { own, foreign };
    }
    Attributed::Untold(commits)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::rules::wal::Lsn;

    fn commits(marks: &[bool]) -> Vec<CommitSummary> {
        let commit = |(is_marked, xid): (&bool, u32)| CommitSummary {
            xid,
            lsn: Lsn(0),
            committed_at: None,
            is_marked: *is_marked,
            rows: BTreeMap::from([("public.users".to_owned(), 1)]),
            has_catalog_writes: false,
            sequences: BTreeSet::new(),
        };
        marks.iter().zip(1..).map(commit).collect()
    }

    fn counted(marks: &[bool], has_own_mark: bool) -> Option<(usize, usize)> {
        match divide(commits(marks), has_own_mark) {
            Attributed::Told { own, foreign } => Some((own.len(), foreign.len())),
            Attributed::Untold(_) => None,
        }
    }

    #[test]
    fn the_mark_tells_whose_a_commit_is() {
        assert_eq!(counted(&[true, false, true], true), Some((2, 1)));
        assert_eq!(counted(&[true, true], true), Some((2, 0)));
        assert_eq!(counted(&[], true), Some((0, 0)));
    }

    #[test]
    fn without_any_mark_nothing_is_the_runs() {
        assert_eq!(counted(&[false, false], true), None);
    }

    #[test]
    fn a_mark_that_others_have_too_tells_nothing() {
        assert_eq!(counted(&[true, false], false), None);
        assert_eq!(counted(&[], false), Some((0, 0)));
    }
}
