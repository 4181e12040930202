//! What whoever receives the log tells others on this host, and what they tell it, by small files in the
//! state directory.

use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Shipped;
use crate::ledger::lock::{LockError, LockName, StateLock};
use crate::rules::wal::Lsn;

fn shipped_file(state: &Path) -> PathBuf {
    state.join("wal-shipped.json")
}

fn wanted_file(state: &Path) -> PathBuf {
    state.join("wal-wanted")
}

/// How the log comes to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is received from the server.
    Received,
    /// The server hands it over.
    Pushed,
}

impl Way {
    fn file(self, state: &Path) -> PathBuf {
        state.join(match self {
            Self::Received => "wal-receive-trouble.json",
            Self::Pushed => "wal-push-trouble.json",
        })
    }
}

/// Why the log is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// When it failed first, with no success since.
    pub since: DateTime<Utc>,
    /// When it failed last.
    pub at: DateTime<Utc>,
    /// How it failed last.
    pub error: String,
}

/// Notes that the log could not be stored at `at`.
///
/// # Errors
/// What the system says.
pub fn note_trouble(state: &Path, way: Way, error: String, at: DateTime<Utc>) -> io::Result<()> {
    let since = trouble(state, way).map_or(at, |before| before.since);
    replace(&way.file(state), &serde_json::to_vec(&Trouble { since, at, error })?)
}

/// Notes that the log is stored again; returns why it was not until now.
///
/// # Errors
/// What the system says.
pub fn note_success(state: &Path, way: Way) -> io::Result<Option<Trouble>> {
    let before = trouble(state, way);
    match std::fs::remove_file(way.file(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(before),
    }
}

/// Why the log is not stored, if that was so when it was tried last.
pub fn trouble(state: &Path, way: Way) -> Option<Trouble> {
    serde_json::from_slice(&std::fs::read(way.file(state)).ok()?).ok()
}

/// Writes a file so that whoever reads it sees the whole of it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(new, path)
}

/// Notes how far the log is stored; `None` when what was noted before counts no more.
///
/// # Errors
/// What the system says.
pub fn note(state: &Path, shipped: Option<Shipped>) -> io::Result<()> {
    replace(&shipped_file(state), &serde_json::to_vec(&shipped)?)
}

/// How far the log is stored, as was noted last.
pub fn shipped(state: &Path) -> Option<Shipped> {
    serde_json::from_slice::<Option<Shipped>>(&std::fs::read(shipped_file(state)).ok()?).ok()?
}

/// Whether a process of this host receives the log now: it holds the lock.
///
/// # Errors
/// What the lock's file says, but that it is held.
pub fn is_received(state: &Path) -> Result<bool, LockError> {
    match StateLock::exclusive(state, &LockName::wal()) {
        Ok(_) => Ok(false),
        Err(LockError::Busy { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Asks that the log be stored up to `lsn` without waiting for the time to do so.
///
/// # Errors
/// What the system says.
pub fn want(state: &Path, lsn: Lsn) -> io::Result<()> {
    replace(&wanted_file(state), lsn.to_string().as_bytes())
}

/// Up to where somebody wants the log stored now.
pub fn wanted(state: &Path) -> Option<Lsn> {
    std::fs::read_to_string(wanted_file(state)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_until_it_counts_no_more() {
        let state = tempfile::TempDir::new().unwrap();
        let state = state.path();
        assert_eq!((shipped(state), wanted(state)), (None, None));
        let now = chrono::DateTime::UNIX_EPOCH;
        let until = Lsn(7);
        let told = Shipped { timeline: 1, until, complete_until: now, kept_bytes: 0, unbroken_since: now };
        note(state, Some(told)).unwrap();
        want(state, Lsn(9)).unwrap();
        assert_eq!((shipped(state), wanted(state)), (Some(told), Some(Lsn(9))));
        note(state, None).unwrap();
        assert_eq!(shipped(state), None);
    }

    #[test]
    fn a_trouble_lasts_from_its_first_failure_until_a_success() {
        let state = tempfile::TempDir::new().unwrap();
        let (state, way) = (state.path(), Way::Received);
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        assert_eq!(trouble(state, way), None);
        note_trouble(state, way, "a".into(), at(1)).unwrap();
        note_trouble(state, way, "b".into(), at(5)).unwrap();
        assert_eq!(trouble(state, way), Some(Trouble { since: at(1), at: at(5), error: "b".into() }));
        assert_eq!(trouble(state, Way::Pushed), None);
        note_success(state, Way::Pushed).unwrap();
        assert!(note_success(state, way).unwrap().is_some());
        assert_eq!(trouble(state, way), None);
        assert_eq!(note_success(state, way).unwrap(), None);
    }
}
