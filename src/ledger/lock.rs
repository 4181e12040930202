//! Locks between the processes of a host, as files in the state directory.
//!
//! The lock is the kernel's (flock(2)) and ends with its process, however that ends. The file's
//! text only tells who holds it: one line for each taker, and one more when it lets go. Lock
//! files are never removed, since a lock on a removed file excludes nobody.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::ProcessMark;
use crate::rules::layout::encode_segment;

/// Why a lock is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another job holds it.
    #[error("lock {name}: another run holds it ({})", holders_text(.holders))]
    Busy {
        /// The lock.
        name: String,
        /// Pids of its holders; empty when they have not written them yet.
        holders: Vec<u32>,
    },
    /// The file system refuses.
    #[error("lock {name}: use {path}")]
    Io {
        /// The lock.
        name: String,
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

fn holders_text(holders: &[u32]) -> String {
    match holders {
        [] => "another process".into(),
        [pid] => format!("process {pid}"),
        pids => format!("processes {}", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// What a lock guards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockName(String);

impl LockName {
    /// The jobs of one database, by its name in the settings.
    pub fn database(database: &str) -> Self {
        Self(format!("database {database}"))
    }

    /// The objects of the repository: shared by what adds to it, exclusive for a sweep.
    pub fn repository() -> Self {
        Self("repository".into())
    }

    /// Base backups of the cluster.
    pub fn base_backup() -> Self {
        Self("base backup".into())
    }

    /// Whoever receives the write-ahead log.
    pub fn wal() -> Self {
        Self("wal".into())
    }

    /// Whoever puts a piece of the write-ahead log into the repository, for as long as that takes.
    pub fn wal_piece() -> Self {
        Self("wal piece".into())
    }

    /// Whoever fetches the write-ahead log ahead of a server that recovers.
    pub fn wal_ahead() -> Self {
        Self("wal ahead".into())
    }

    /// The daemon of a state directory.
    pub fn daemon() -> Self {
        Self("daemon".into())
    }

    fn file_name(&self) -> String {
        format!("{}.lock", encode_segment(&self.0))
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Shared,
    Exclusive,
}

/// A lock that is held until this is dropped or the process ends.
#[derive(Debug)]
#[must_use = "the lock is let go when this is dropped"]
pub struct StateLock {
    file: File,
    holder: ProcessMark,
}

impl StateLock {
    /// Takes the lock together with others that share it; does not wait.
    ///
    /// # Errors
    /// [`LockError::Busy`] while somebody holds it exclusively, [`LockError::Io`].
    pub fn shared(state_directory: &Path, name: &LockName) -> Result<Self, LockError> {
        Self::take(state_directory, name, Mode::Shared)
    }

    /// Takes the lock alone; does not wait.
    ///
    /// # Errors
    /// [`LockError::Busy`] while anybody else holds it, this process included; [`LockError::Io`].
    pub fn exclusive(state_directory: &Path, name: &LockName) -> Result<Self, LockError> {
        Self::take(state_directory, name, Mode::Exclusive)
    }

    fn take(state_directory: &Path, name: &LockName, mode: Mode) -> Result<Self, LockError> {
        let directory = state_directory.join("locks");
        let path = directory.join(name.file_name());
        let io = |source| LockError::Io { name: name.to_string(), path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(io)?;
        // Lines of several holders do not overwrite one another when each is appended whole.
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.open(&path).map_err(io)?;
        let taken = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Busy { name: name.to_string(), holders: holders(file).map_err(io)? });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let holder = ProcessMark::current().map_err(io)?;
        // The text is for people: a full disk must not keep a sweep from making room.
        if matches!(mode, Mode::Exclusive) {
            let _ = file.set_len(0);
        }
        let _ = write_line(&file, "held", &holder);
        Ok(Self { file, holder })
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // Neither can be mended here: the text is for people, and the lock ends with the handle.
        let _ = write_line(&self.file, "left", &self.holder);
        let _ = self.file.unlock();
    }
}

fn write_line(mut file: &File, verb: &str, process: &ProcessMark) -> std::io::Result<()> {
    file.write_all(format!("{verb} {} {}\n", process.pid, process.started).as_bytes())
}

fn holders(mut file: File) -> std::io::Result<Vec<u32>> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(living_holders(&text))
}

/// A process that died holding the lock wrote no second line, so only the living count.
fn living_holders(text: &str) -> Vec<u32> {
    let mut counts: Vec<(ProcessMark, i64)> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(verb), Some(Ok(pid)), Some(started)) =
            (words.next(), words.next().map(str::parse), words.next())
        else {
            continue;
        };
        let change = if verb == "held" { 1 } else { -1 };
        let process = ProcessMark { pid, started: started.into() };
        match counts.iter_mut().find(|(known, _)| *known == process) {
            Some((_, count)) => *count += change,
            None => counts.push((process, change)),
        }
    }
    counts.retain(|(process, count)| *count > 0 && process.is_alive());
    counts.into_iter().map(|(process, _)| process.pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Command, Stdio};
    use tempfile::TempDir;

    fn busy_holders(result: Result<StateLock, LockError>) -> Vec<u32> {
        match result {
            Err(LockError::Busy { holders, .. }) => holders,
            other => panic!("expected a busy lock, got {other:?}"),
        }
    }

    #[test]
    fn a_held_lock_names_its_holder() {
        let state = TempDir::new().unwrap();
        let name = LockName::database("app");
        let held = StateLock::exclusive(state.path(), &name).unwrap();
        let error = StateLock::exclusive(state.path(), &name).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("lock database app: another run holds it (process {})", std::process::id())
        );
        drop(held);
        let _again = StateLock::exclusive(state.path(), &name).unwrap();
    }

    #[test]
    fn snapshots_share_the_repository_and_exclude_a_sweep() {
        let state = TempDir::new().unwrap();
        let name = LockName::repository();
        let first = StateLock::shared(state.path(), &name).unwrap();
        let second = StateLock::shared(state.path(), &name).unwrap();
        assert_eq!(busy_holders(StateLock::exclusive(state.path(), &name)), [std::process::id()]);
        drop(first);
        assert_eq!(busy_holders(StateLock::exclusive(state.path(), &name)), [std::process::id()]);
        drop(second);
        let sweep = StateLock::exclusive(state.path(), &name).unwrap();
        assert_eq!(busy_holders(StateLock::shared(state.path(), &name)), [std::process::id()]);
        drop(sweep);
        let _snapshot = StateLock::shared(state.path(), &name).unwrap();
    }

    #[test]
    fn any_database_name_has_a_lock_of_its_own() {
        let state = TempDir::new().unwrap();
        let names = ["app", "APP", "a/../b", "..", "x\ny", "repository", "数据", &"é".repeat(31)];
        let held: Vec<StateLock> = names
            .iter()
            .map(|name| StateLock::exclusive(state.path(), &LockName::database(name)).unwrap())
            .collect();
        let _repository = StateLock::exclusive(state.path(), &LockName::repository()).unwrap();
        let files = std::fs::read_dir(state.path().join("locks")).unwrap().count();
        assert_eq!(files, held.len() + 1);
    }

    #[test]
    fn lock_files_are_private() {
        let state = TempDir::new().unwrap();
        let _lock = StateLock::shared(state.path(), &LockName::repository()).unwrap();
        let mode = |path: &str| std::fs::metadata(state.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode("locks") & 0o777, 0o700);
        assert_eq!(mode("locks/repository.lock") & 0o777, 0o600);
    }

    #[test]
    fn a_lock_of_a_killed_process_is_free() {
        let state = TempDir::new().unwrap();
        drop(StateLock::exclusive(state.path(), &LockName::repository()).unwrap());
        let file = state.path().join("locks/repository.lock");
        let mut holder = Command::new("flock")
            .args(["--no-fork", "--exclusive"])
            .arg(&file)
            .args(["sh", "-c", "echo taken; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut taken = [0; 6];
        holder.stdout.as_mut().unwrap().read_exact(&mut taken).unwrap();
        assert!(busy_holders(StateLock::shared(state.path(), &LockName::repository())).is_empty());
        holder.kill().unwrap();
        holder.wait().unwrap();
        let _free = StateLock::shared(state.path(), &LockName::repository()).unwrap();
    }

    #[test]
    fn the_dead_and_those_that_left_hold_nothing() {
        let own = ProcessMark::current().unwrap();
        let (pid, started) = (own.pid, &own.started);
        let dead = format!("held {pid} an-earlier-boot/1\n");
        assert!(living_holders(&dead).is_empty());
        assert!(living_holders(&format!("held {pid} {started}\nleft {pid} {started}\n")).is_empty());
        assert_eq!(living_holders(&format!("{dead}half a li\nheld {pid} {started}\n")), [pid]);
    }
}
