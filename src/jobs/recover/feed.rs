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
use super::{Means, Stock, check_cluster, disk, is_gone};
use crate::catalog::Catalog;
use crate::jobs::{JobError, blocking};
use crate::rules::physical::{BaseManifest, PieceName, Segment};
use crate::seal::Opener;
use crate::store::read_small;

/// How often is looked what is wanted.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Segments that are fetched before they are asked for, at the same time; fewer where they are large.
const AHEAD: usize = 4;
const AHEAD_BYTES: u64 = 64 << 20;
/// No sealed piece is longer: a segment has 1 GiB at most, and sealing adds little.
const PIECE_MAX_BYTES: usize = (1 << 30) + (64 << 20);

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
    stock: &'a Stock,
    base: &'a BaseManifest,
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
        base: &'a BaseManifest,
        guard: Guard<'a>,
        room: &Path,
    ) -> Result<Self, JobError> {
        for name in ["want", "got", "took", "none", "fetching"] {
            let directory = room.join(name);
            std::fs::create_dir(&directory).map_err(|source| disk("make", &directory, source))?;
        }
        let script = room.join("restore-command");
        std::fs::write(&script, SCRIPT).map_err(|source| disk("write", &script, source))?;
        let (ahead, served) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { means, stock, base, guard, room: room.into(), ahead, served })
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
        let Some(first) = Segment::of_name(name, self.base.segment_bytes) else { return Ok(()) };
        let following = std::iter::successors(Some(first.next()), |segment| Some(segment.next()));
        let new: Vec<String> = following
            .take(ahead(first.bytes))
            .filter(|segment| self.is_there(*segment) && self.ahead().insert(*segment))
            .map(|segment| segment.to_string())
            .collect();
        let mut fetches = futures::stream::iter(&new).map(|name| self.fetch(name)).buffer_unordered(AHEAD);
        while fetches.try_next().await?.is_some() {}
        Ok(())
    }

    fn ahead(&self) -> MutexGuard<'_, BTreeSet<Segment>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stock_has(&self, piece: &PieceName) -> bool {
        self.stock.pieces.contains(piece)
    }

    /// Whether something of the segment is stored.
    fn is_there(&self, segment: Segment) -> bool {
        let name = segment.to_string();
        self.stock.pieces.iter().any(|piece| super::is_of(piece, &name))
    }

    /// Puts a file of the log in its place, or says that there is none.
    async fn fetch(&self, name: &str) -> Result<(), JobError> {
        let plain = match name.parse::<PieceName>() {
            Ok(history @ PieceName::History(_)) if self.stock_has(&history) => {
                Some(open_piece(self.means.catalog, self.means.opener, &history).await?)
            }
            _ => match Segment::of_name(name, self.base.segment_bytes) {
                Some(segment) => match self.segment(segment).await? {
                    Some(plain) => Some(self.guard.pass(segment, plain)?),
                    None => None,
                },
                None => None,
            },
        };
        match plain {
            Some(plain) => self.put(name, plain).await,
            None => self.there_is_none(name),
        }
    }

    /// The bytes of a segment, whole or as far as they are stored and zeros behind.
    async fn segment(&self, segment: Segment) -> Result<Option<Vec<u8>>, JobError> {
        let (catalog, opener) = (self.means.catalog, self.means.opener);
        let name = segment.to_string();
        let whole = PieceName::Segment(name.clone());
        if self.stock_has(&whole) {
            return self.checked(&whole).await.map(Some);
        }
        let mut parts: BTreeSet<(u32, u32, &PieceName)> = BTreeSet::new();
        for piece in &self.stock.pieces {
            if let PieceName::Part { segment, from, to } = piece
                && *segment == name
            {
                parts.insert((*from, *to, piece));
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let length = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        let mut plain = vec![0; length];
        let mut reached = 0;
        for (from, to, piece) in parts {
            if from > reached {
                break;
            }
            let bytes = match self.checked(piece).await {
                // The segment was completed since it was listed.
                Err(error) if is_gone(&error) => return open_piece(catalog, opener, &whole).await.map(Some),
                other => other?,
            };
            let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
            if let Some(place) = plain.get_mut(range).filter(|place| place.len() == bytes.len()) {
                place.copy_from_slice(&bytes);
            }
            reached = reached.max(to);
        }
        Ok(Some(plain))
    }

    async fn checked(&self, piece: &PieceName) -> Result<Vec<u8>, JobError> {
        if let Some(record) = self.means.catalog.piece(piece).await? {
            check_cluster(&record, self.base)?;
        }
        open_piece(self.means.catalog, self.means.opener, piece).await
    }

    async fn put(&self, name: &str, plain: Vec<u8>) -> Result<(), JobError> {
        let (fetching, got) = (self.room.join("fetching").join(name), self.room.join("got").join(name));
        self.means.progress.advance(plain.len());
        self.served.fetch_add(1, Ordering::Relaxed);
        blocking(move || {
            std::fs::write(&fetching, &plain).map_err(|source| disk("write", &fetching, source))?;
            std::fs::rename(&fetching, &got).map_err(|source| disk("write", &got, source))
        })
        .await
    }

    fn there_is_none(&self, name: &str) -> Result<(), JobError> {
        let path = self.room.join("none").join(name);
        std::fs::write(&path, "").map_err(|source| disk("write", &path, source))
    }
}

fn ahead(segment_bytes: u64) -> usize {
    usize::try_from(AHEAD_BYTES / segment_bytes.max(1)).map_or(AHEAD, |segments| segments.clamp(1, AHEAD))
}

/// Reads, checks and opens a piece of the log.
///
/// # Errors
/// [`StoreError::Missing`](crate::store::StoreError::Missing) in a [`JobError::Store`] when it is gone;
/// [`JobError::Object`] when it is not what its record says.
pub(super) async fn open_piece(
    catalog: &Catalog,
    opener: &Opener,
    name: &PieceName,
) -> Result<Vec<u8>, JobError> {
    let missing = || crate::store::StoreError::Missing {
        key: name.record_key(catalog.cluster()).to_string(),
        store: catalog.store().address().into(),
    };
    let record = catalog.piece(name).await?.ok_or_else(missing)?;
    let key = name.sealed_key(catalog.cluster());
    let sealed = read_small(catalog.store().as_ref(), &key, PIECE_MAX_BYTES).await?;
    let (opener, object) = (opener.clone(), record.object);
    let opened = blocking(move || Ok::<_, JobError>(opener.open_checked(&sealed, &object))).await?;
    opened.map_err(|source| JobError::Object { key: key.to_string(), source })
}
