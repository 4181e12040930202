//! What whoever receives the log tells others on this host, and what they tell it, by small files in the
//! state directory.

use std::io;
use std::path::{Path, PathBuf};

use super::Shipped;
use crate::ledger::lock::{LockError, LockName, StateLock};
use crate::rules::wal::Lsn;

fn shipped_file(state: &Path) -> PathBuf {
    state.join("wal-shipped.json")
}

fn wanted_file(state: &Path) -> PathBuf {
    state.join("wal-wanted")
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
}
