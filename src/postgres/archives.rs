//! The archives that `pg_basebackup` writes into a directory, one for each tablespace, taken from named
//! pipes in place of files: nothing of them lies on a disk.
//!
//! `pg_basebackup` wants an empty directory, looks at it before the server begins, and makes its files
//! once the server sends. So it is given a link: to an empty directory until it has looked, then to the one
//! with the pipes. Neither can be written to meanwhile. If it was faster than we, or if the server sends a
//! tablespace that there is no pipe for, it cannot make its file and says so; nothing is left out in
//! silence.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use tokio::net::unix::pipe;

use super::replication::LIST_OF_FILES;

/// The data directory's own archive; the server sends it last.
const BASE: &str = "base.tar";
/// How often is looked whether the program still runs.
const LOOK_PAUSE_MS: u16 = 100;
const LOOK_PAUSE: Duration = Duration::from_millis(LOOK_PAUSE_MS as u64);

/// One archive of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ArchiveName {
    /// That of a tablespace, by its number.
    Tablespace(u32),
    /// That of the data directory.
    Base,
}

impl ArchiveName {
    fn file(self) -> String {
        match self {
            Self::Tablespace(oid) => format!("{oid}.tar"),
            Self::Base => BASE.into(),
        }
    }
}

/// The pipes in a directory of ours.
pub struct Archives {
    room: PathBuf,
    waiting: Vec<(ArchiveName, pipe::Receiver)>,
    watch: Arc<Inotify>,
    is_over: Arc<AtomicBool>,
}

/// What of the archives comes next.
pub enum NextArchive {
    /// The program writes this one.
    Begins(ArchiveName, File),
    /// The program has ended, or all have come.
    End,
}

impl Archives {
    /// Makes a pipe for each of the tablespaces `oids`, and for the data directory, in `room`, an empty 0700
    /// directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn make(room: &Path, oids: impl IntoIterator<Item = u32>) -> io::Result<Self> {
        let (empty, pipes) = (room.join("empty"), room.join("pipes"));
        for directory in [&empty, &pipes] {
            std::fs::DirBuilder::new().mode(0o700).create(directory)?;
        }
        let names = oids.into_iter().map(ArchiveName::Tablespace).chain([ArchiveName::Base]);
        let mut waiting = Vec::new();
        for name in names {
            let path = pipes.join(name.file());
            nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            waiting.push((name, pipe::OpenOptions::new().open_receiver(&path)?));
        }
        for directory in [&empty, &pipes] {
            std::fs::set_permissions(directory, Permissions::from_mode(0o500))?;
        }
        let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
        watch.add_watch(&empty, AddWatchFlags::IN_CLOSE_NOWRITE)?;
        symlink("empty", room.join("out"))?;
        Ok(Self { room: room.to_owned(), waiting, watch: Arc::new(watch), is_over: Arc::default() })
    }

    /// The directory that `pg_basebackup` is to be given.
    pub fn directory(&self) -> PathBuf {
        self.room.join("out")
    }

    /// Where the list of files is after the program has ended well.
    pub fn manifest(&self) -> PathBuf {
        self.room.join("pipes").join(LIST_OF_FILES)
    }

    /// Puts the pipes in their place once the program has looked at the empty directory.
    ///
    /// # Errors
    /// What the system says.
    pub async fn let_in(&self, has_ended: impl FnMut() -> bool) -> io::Result<()> {
        let (watch, is_over) = (Arc::clone(&self.watch), Arc::clone(&self.is_over));
        let (next, directory) = (self.room.join("next"), self.directory());
        symlink("pipes", &next)?;
        // On the same thread: there is little time.
        let exchanging = tokio::task::spawn_blocking(move || {
            while !is_over.load(Ordering::Relaxed) {
                let mut events = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
                if poll(&mut events, PollTimeout::from(LOOK_PAUSE_MS))? > 0 {
                    return std::fs::rename(next, directory);
                }
            }
            Ok(())
        });
        let exchanged = until_ended(async { exchanging.await.map_err(io::Error::other)? }, has_ended).await;
        self.is_over.store(true, Ordering::Relaxed);
        exchanged.map(drop)
    }

    /// Waits for the next archive that the program begins to write.
    ///
    /// # Errors
    /// What the system says.
    pub async fn next(&mut self, mut has_ended: impl FnMut() -> bool) -> io::Result<NextArchive> {
        if self.waiting.is_empty() {
            return Ok(NextArchive::End);
        }
        let begun = async {
            let all = self.waiting.iter().map(|(_, pipe)| Box::pin(pipe.readable()));
            let (ready, index, _) = futures::future::select_all(all).await;
            ready.map(|_| index)
        };
        let Some(index) = until_ended(begun, &mut has_ended).await? else { return Ok(NextArchive::End) };
        let (name, pipe) = self.waiting.remove(index);
        if name == ArchiveName::Base {
            // No tablespace comes any more, but the list of files does.
            std::fs::set_permissions(self.room.join("pipes"), Permissions::from_mode(0o700))?;
        }
        Ok(NextArchive::Begins(name, pipe.into_blocking_fd()?.into()))
    }

    /// Files in place of pipes, or beside them: what could not be kept out where modes do not bind us.
    ///
    /// # Errors
    /// What the system says.
    pub fn strangers(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for name in ["empty", "pipes"] {
            for entry in std::fs::read_dir(self.room.join(name))? {
                let entry = entry?;
                let file = entry.file_name().to_string_lossy().into_owned();
                if entry.file_type()?.is_file() && file != LIST_OF_FILES {
                    found.push(file);
                }
            }
        }
        Ok(found)
    }

    /// Those that the program never began.
    pub fn missing(&self) -> Vec<ArchiveName> {
        self.waiting.iter().map(|(name, _)| *name).collect()
    }
}

impl Drop for Archives {
    /// A directory that cannot be written to cannot be emptied.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        open_up(&self.room);
    }
}

/// Lets the directories of a room be emptied, also those of a process that died.
pub(super) fn open_up(room: &Path) {
    for name in ["empty", "pipes"] {
        let _ = std::fs::set_permissions(room.join(name), Permissions::from_mode(0o700));
    }
}

/// Waits for `work`, and gives it up when `has_ended` says so; what is there by then still counts.
async fn until_ended<T>(
    work: impl Future<Output = io::Result<T>>,
    mut has_ended: impl FnMut() -> bool,
) -> io::Result<Option<T>> {
    tokio::pin!(work);
    let mut is_last = false;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done.map(Some),
            () = tokio::time::sleep(LOOK_PAUSE) => {
                if is_last {
                    return Ok(None);
                }
                is_last = has_ended();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// What `pg_basebackup` does with its directory.
    fn write_like_pg_basebackup(directory: &Path, archives: &[(&str, &str)]) -> io::Result<()> {
        let is_empty = std::fs::read_dir(directory)?.next().is_none();
        assert!(is_empty, "it refuses what is not empty");
        // The server makes a checkpoint.
        std::thread::sleep(Duration::from_millis(200));
        for (name, text) in archives {
            let mut file = File::create(directory.join(name))?;
            file.write_all(text.as_bytes())?;
        }
        std::fs::write(directory.join(LIST_OF_FILES), "list")
    }

    async fn received(
        room: &Path,
        archives: &'static [(&'static str, &'static str)],
    ) -> (Vec<(ArchiveName, String)>, io::Result<()>, Archives) {
        let mut pipes = Archives::make(room, [7, 8]).unwrap();
        let directory = pipes.directory();
        let writer = std::thread::spawn(move || write_like_pg_basebackup(&directory, archives));
        pipes.let_in(|| writer.is_finished()).await.unwrap();
        let mut received = Vec::new();
        while let NextArchive::Begins(name, mut file) = pipes.next(|| writer.is_finished()).await.unwrap() {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            received.push((name, text));
        }
        received.sort();
        (received, writer.join().unwrap(), pipes)
    }

    #[tokio::test]
    async fn what_is_written_into_the_directory_comes_through_the_pipes() {
        let room = tempfile::TempDir::new().unwrap();
        let archives = &[("8.tar", "eight"), ("7.tar", "seven"), ("base.tar", "base")];
        let (received, written, pipes) = received(room.path(), archives).await;
        written.unwrap();
        let expected =
            [(7, "seven"), (8, "eight")].map(|(oid, text)| (ArchiveName::Tablespace(oid), text.into()));
        assert_eq!(received[..2], expected);
        assert_eq!(received[2], (ArchiveName::Base, "base".into()));
        assert_eq!(std::fs::read_to_string(pipes.manifest()).unwrap(), "list");
    }

    #[tokio::test]
    async fn a_tablespace_that_does_not_come_is_missing() {
        let room = tempfile::TempDir::new().unwrap();
        let (_, written, pipes) = received(room.path(), &[("8.tar", "eight"), ("base.tar", "base")]).await;
        written.unwrap();
        assert_eq!(pipes.missing(), [ArchiveName::Tablespace(7)]);
    }

    #[tokio::test]
    async fn a_tablespace_without_a_pipe_is_told() {
        let room = tempfile::TempDir::new().unwrap();
        let (_, written, pipes) = received(room.path(), &[("9.tar", "nine"), ("base.tar", "base")]).await;
        let strangers = pipes.strangers().unwrap();
        // Modes do not bind root.
        match written {
            Ok(()) => assert_eq!(strangers, ["9.tar"]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                assert!(strangers.is_empty(), "{strangers:?}");
            }
        }
    }
}
