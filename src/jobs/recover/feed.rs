//! Gives a recovering server the files of the log that it asks for.
//!
//! Its `restore_command` leaves the name of the file it wants in a directory, and waits until the file
//! is in another; this fetches it, and some that come next.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};

use super::guard::Guard;
use super::segment::Source;
use super::{Means, Stock, disk};
use crate::jobs::JobError;
use crate::rules::physical::{BaseManifest, PieceName, Segment};
use crate::rules::recovery::{Assembly, Log};

/// How often is looked what is wanted.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Segments that are fetched before they are asked for, at the same time; fewer where they are large.
const AHEAD: usize = 4;
/// Of those, so many are opened at the same time.
const AT_ONCE: usize = 2;
const AHEAD_BYTES: u64 = 64 << 20;

/// What the server runs for each file: ends with 1 when there is none, and so that recovery is given up
/// when nobody is there to fetch it.
const SCRIPT: &str = r#"#!/bin/sh
take() {
  : >"$1/took/$3"
  exec mv "$1/got/$3" "$4"
}
[ ! -e "$1/got/$3" ] || take "$@"
: >"$1/want/$3"
while :; do
  [ ! -e "$1/got/$3" ] || take "$@"
  if [ -e "$1/none/$3" ]; then rm -f "$1/none/$3"; exit 1; fi
  kill -0 "$2" 2>/dev/null || exit 255
  sleep 0.01
done
"#;

/// What is fetched, from where, for which cluster.
pub(super) struct Feed<'a> {
    means: &'a Means<'a>,
    log: &'a Log,
    source: Source<'a>,
    /// What the server follows.
    timeline: u32,
    guard: Guard<'a>,
    room: PathBuf,
    /// Segments that were fetched before they were asked for.
    ahead: Mutex<BTreeSet<Segment>>,
    served: AtomicU64,
}

impl<'a> Feed<'a> {
    /// Makes the directories in `room`.
    pub(super) fn open(
        means: &'a Means<'a>,
        stock: &'a Stock,
        (base, timeline): (&'a BaseManifest, u32),
        guard: Guard<'a>,
        room: &Path,
    ) -> Result<Self, JobError> {
        for name in ["want", "got", "took", "none", "fetching"] {
            let directory = room.join(name);
            std::fs::create_dir(&directory).map_err(|source| disk("make", &directory, source))?;
        }
        let script = room.join("restore-command");
        std::fs::write(&script, SCRIPT).map_err(|source| disk("write", &script, source))?;
        let source = Source {
            catalog: means.catalog,
            opener: means.opener,
            system_identifier: Some(&base.system_identifier),
        };
        let (ahead, served) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { means, log: &stock.log, source, timeline, guard, room: room.into(), ahead, served })
    }

    /// The server's `restore_command`.
    pub(super) fn restore_command(&self) -> String {
        // A percent sign means something to the server.
        let room = self.room.to_string_lossy().replace('%', "%%").replace('\'', "'\\''");
        format!("sh '{room}/restore-command' '{room}' {} '%f' '%p'", std::process::id())
    }

    /// Files that the server got.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Serves for ever; returns when a file that is there cannot be had.
    pub(super) async fn serve(&self) -> JobError {
        loop {
            if let Err(error) = self.serve_wanted().await {
                return error;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn serve_wanted(&self) -> Result<(), JobError> {
        for name in self.left_in("want")? {
            // It may have come there since, ahead of being asked for.
            if !self.room.join("got").join(&name).exists() {
                self.fetch(&name).await?;
            }
            self.fetch_ahead(&name).await?;
        }
        for name in self.left_in("took")? {
            self.fetch_ahead(&name).await?;
        }
        Ok(())
    }

    /// Names that the server left in a directory; they are there no longer.
    fn left_in(&self, directory: &str) -> Result<Vec<String>, JobError> {
        let directory = self.room.join(directory);
        let entries = std::fs::read_dir(&directory).map_err(|source| disk("list", &directory, source))?;
        let left = entries.flatten().filter(|entry| std::fs::remove_file(entry.path()).is_ok());
        Ok(left.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    /// Puts what comes after a segment in its place, once, while the server replays.
    async fn fetch_ahead(&self, name: &str) -> Result<(), JobError> {
        let Some(first) = Segment::of_name(name, self.log.segment_bytes()) else { return Ok(()) };
        let new: Vec<String> = (first.number + 1..)
            .take(ahead(first.bytes))
            .map(|number| self.log.segment(self.timeline, number))
            .filter(|segment| self.assembly(*segment).is_some() && self.ahead().insert(*segment))
            .map(|segment| segment.to_string())
            .collect();
        let mut fetches = futures::stream::iter(&new).map(|name| self.fetch(name)).buffer_unordered(AT_ONCE);
        while fetches.try_next().await?.is_some() {}
        Ok(())
    }

    fn ahead(&self) -> MutexGuard<'_, BTreeSet<Segment>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From what a segment is put together, if the server is to have that on its way: a timeline's log
    /// behind the place where it was left is another's.
    fn assembly(&self, segment: Segment) -> Option<Assembly> {
        let is_on_path = self.log.segment(self.timeline, segment.number) == segment;
        is_on_path.then(|| self.log.assembly(self.timeline, segment.number))?
    }

    /// Puts a file of the log in its place, or says that there is none.
    async fn fetch(&self, name: &str) -> Result<(), JobError> {
        let (fetching, got) = (self.room.join("fetching").join(name), self.room.join("got").join(name));
        match name.parse() {
            Ok(PieceName::History(timeline)) if timeline != 1 && self.log.is_known(timeline) => {
                self.source.put_history(timeline, &fetching).await?;
            }
            _ => {
                let segment = Segment::of_name(name, self.log.segment_bytes());
                let Some((segment, assembly)) = segment.and_then(|it| Some((it, self.assembly(it)?))) else {
                    return self.there_is_none(name);
                };
                self.source.put_segment(&assembly, self.log.segment_bytes(), &fetching).await?;
                self.guard.pass(segment, &fetching)?;
                self.means.progress.advance(usize::try_from(assembly.until).unwrap_or(usize::MAX));
            }
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        std::fs::rename(&fetching, &got).map_err(|source| disk("write", &got, source))
    }

    fn there_is_none(&self, name: &str) -> Result<(), JobError> {
        let path = self.room.join("none").join(name);
        std::fs::write(&path, "").map_err(|source| disk("write", &path, source))
    }
}

fn ahead(segment_bytes: u64) -> usize {
    usize::try_from(AHEAD_BYTES / segment_bytes.max(1)).map_or(AHEAD, |segments| segments.clamp(1, AHEAD))
}
