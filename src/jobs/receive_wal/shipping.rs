//! Moves what lies in the spool into the store.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::{Means, Shipped};
use crate::jobs::{JobError, blocking};
use crate::postgres::replication::{ClusterFacts, Mark};
use crate::rules::digest::Digest256;
use crate::rules::manifest;
use crate::rules::physical::{PieceName, PieceRecord, Segment};
use crate::rules::wal::Lsn;
use crate::store::{Parts, StoreError};

const PARTIAL_SUFFIX: &str = ".partial";
/// A page of the log; what is written of one may still be written over.
const PAGE_BYTES: u64 = 8 << 10;

/// The spool, and how far it is stored.
pub(super) struct Shipping<'a> {
    means: &'a Means<'a>,
    facts: &'a ClusterFacts,
    clock: fn() -> DateTime<Utc>,
    /// Parts of segments that are not stored whole yet.
    parts: BTreeSet<PieceName>,
    until: Option<(u32, Lsn)>,
    complete_until: Option<DateTime<Utc>>,
    /// Moments of the server, oldest first; of those that are stored only the last.
    marks: VecDeque<Mark>,
}

/// A file of the spool.
enum Spooled {
    Whole(Segment),
    Open(Segment),
    History(u32),
}

impl Spooled {
    fn segment(&self) -> Option<&Segment> {
        match self {
            Self::Whole(segment) | Self::Open(segment) => Some(segment),
            Self::History(_) => None,
        }
    }
}

impl<'a> Shipping<'a> {
    pub(super) async fn open(
        means: &'a Means<'a>,
        facts: &'a ClusterFacts,
        clock: fn() -> DateTime<Utc>,
    ) -> Result<Self, JobError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(means.spool);
        made.map_err(|source| disk("make", means.spool, source))?;
        let pieces = means.catalog.pieces().await?;
        let parts = pieces.into_iter().filter(|piece| matches!(piece, PieceName::Part { .. })).collect();
        Ok(Self { means, facts, clock, parts, until: None, complete_until: None, marks: VecDeque::new() })
    }

    /// Has the receiver begin with `first`, unless the spool goes on from there.
    ///
    /// An empty file of a segment that is not whole tells the receiver where to begin. What lies in the
    /// spool behind a hole is received again: the server has it still.
    pub(super) fn begin_at(&mut self, first: Segment) -> Result<(), JobError> {
        self.until = Some((first.timeline, first.start()));
        let spooled = self.spooled()?;
        let numbers: BTreeSet<u64> = spooled.iter().filter_map(Spooled::segment).map(|s| s.number).collect();
        let newest = numbers.last().copied().unwrap_or(0);
        if newest >= first.number && (first.number..=newest).all(|number| numbers.contains(&number)) {
            return Ok(());
        }
        // Whole segments from before are still to be stored, though something is missing behind them.
        let is_in_the_way = |spooled: &&Spooled| match spooled {
            Spooled::Open(_) => true,
            Spooled::Whole(segment) => segment.number >= first.number,
            Spooled::History(_) => false,
        };
        for old in spooled.iter().filter(is_in_the_way) {
            remove(&self.path_of(old))?;
        }
        let path = self.path_of(&Spooled::Open(first));
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map(drop).map_err(|source| disk("make", &path, source))
    }

    /// Notes a moment of the server.
    pub(super) fn note(&mut self, mark: Mark) {
        self.marks.push_back(mark);
    }

    /// Stores every whole segment and history file, oldest first; each leaves the spool then.
    pub(super) async fn ship_segments(&mut self) -> Result<(), JobError> {
        for spooled in self.spooled()? {
            let path = self.path_of(&spooled);
            let (name, end) = match &spooled {
                Spooled::Whole(segment) => {
                    (PieceName::Segment(segment.to_string()), Some((segment.timeline, segment.end())))
                }
                Spooled::History(timeline) => (PieceName::History(*timeline), None),
                Spooled::Open(_) => continue,
            };
            let read = path.clone();
            let plain =
                blocking(move || std::fs::read(&read).map_err(|source| disk("read", &read, source))).await?;
            if let Spooled::Whole(segment) = &spooled
                && plain.len() as u64 != segment.bytes
            {
                // It is received again, since the server has it still.
                let aside = path.with_extension("damaged");
                std::fs::rename(&path, &aside).map_err(|source| disk("set aside", &path, source))?;
                let bytes = plain.len();
                let source =
                    io::Error::other(format!("it has {bytes} bytes, and a segment {}", segment.bytes));
                return Err(disk("set aside a received segment", &aside, source));
            }
            let complete_until = end.and_then(|(_, end)| self.complete(end));
            self.store(name, plain, complete_until).await?;
            if let Some((timeline, end)) = end {
                self.reached(timeline, end);
            }
            if let Spooled::Whole(segment) = &spooled {
                self.remove_parts_of(*segment).await?;
            }
            remove(&path)?;
        }
        Ok(())
    }

    /// Stores what is new of the segment that is being written.
    pub(super) async fn ship_open_segment(&mut self) -> Result<(), JobError> {
        let open = self.spooled()?.into_iter().rev().find_map(|spooled| match spooled {
            Spooled::Open(segment) => Some(segment),
            _ => None,
        });
        let Some(segment) = open else { return Ok(()) };
        let path = self.path_of(&Spooled::Open(segment));
        let stored = self.stored_of(segment);
        // What was written of the last page may have been written over since.
        let from = stored - stored % PAGE_BYTES;
        let read = path.clone();
        let mut new =
            blocking(move || written_since(&read, from).map_err(|source| disk("read", &read, source)))
                .await?;
        // Zeros at the end of the log belong to it, where they are known to have been received.
        let received = self.received_of(segment).saturating_sub(from);
        new.resize(new.len().max(usize::try_from(received).unwrap_or(0)), 0);
        let to = from + new.len() as u64;
        if to > stored {
            let offset = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
            let name = PieceName::Part { segment: segment.to_string(), from: offset(from), to: offset(to) };
            let end = Lsn(segment.start().0 + to);
            self.store(name.clone(), new, self.complete(end)).await?;
            self.parts.insert(name);
            self.reached(segment.timeline, end);
        } else {
            self.reached(segment.timeline, Lsn(segment.start().0 + stored));
        }
        Ok(())
    }

    /// Bytes of an open segment that the receiver said it had written down before it was looked at.
    fn received_of(&self, segment: Segment) -> u64 {
        let received = self.marks.back().and_then(|mark| mark.received);
        let into_segment = received.and_then(|lsn| lsn.0.checked_sub(segment.start().0));
        into_segment.filter(|bytes| *bytes < segment.bytes).unwrap_or(0)
    }

    /// How far everything is stored.
    pub(super) fn shipped(&self) -> Option<Shipped> {
        let (timeline, until) = self.until?;
        let complete_until = self.complete_until?;
        let kept_bytes = self.marks.back().map_or(0, |mark| mark.kept_bytes);
        Some(Shipped { timeline, until, complete_until, kept_bytes, unbroken_since: complete_until })
    }

    /// Bytes of whole segments in the spool.
    pub(super) fn waiting_bytes(&self) -> Result<u64, JobError> {
        let whole = self.spooled()?.iter().filter(|spooled| matches!(spooled, Spooled::Whole(_))).count();
        Ok(whole as u64 * self.facts.segment_bytes)
    }

    fn reached(&mut self, timeline: u32, end: Lsn) {
        if self.until.is_none_or(|(known, until)| (known, until) < (timeline, end)) {
            self.until = Some((timeline, end));
        }
        self.complete_until = self.complete_until.max(self.complete(end));
        while self.marks.get(1).is_some_and(|next| next.flushed <= end) {
            self.marks.pop_front();
        }
    }

    /// Until when everything that was committed lies before `end`.
    fn complete(&self, end: Lsn) -> Option<DateTime<Utc>> {
        self.marks.iter().rev().find(|mark| mark.flushed <= end).map(|mark| mark.at)
    }

    fn stored_of(&self, segment: Segment) -> u64 {
        let name_of = segment.to_string();
        let ends = self.parts.iter().filter_map(|part| match part {
            PieceName::Part { segment, to, .. } if *segment == name_of => Some(u64::from(*to)),
            _ => None,
        });
        ends.max().unwrap_or(0)
    }

    async fn remove_parts_of(&mut self, segment: Segment) -> Result<(), JobError> {
        let name_of = segment.to_string();
        let of_segment =
            |part: &&PieceName| matches!(part, PieceName::Part { segment, .. } if *segment == name_of);
        let parts: Vec<PieceName> = self.parts.iter().filter(of_segment).cloned().collect();
        let (store, cluster) = (self.means.catalog.store(), self.means.catalog.cluster());
        for part in parts {
            store.delete(&part.record_key(cluster)).await?;
            store.delete(&part.sealed_key(cluster)).await?;
            self.parts.remove(&part);
        }
        Ok(())
    }

    /// Stores a piece, unless it is stored already.
    ///
    /// # Errors
    /// [`JobError::Refused`] when a stored piece of this name holds something else.
    async fn store(
        &self,
        name: PieceName,
        plain: Vec<u8>,
        complete_until: Option<DateTime<Utc>>,
    ) -> Result<(), JobError> {
        let catalog = self.means.catalog;
        if let Some(known) = catalog.piece(&name).await? {
            if known.object.plain_blake3 == Digest256::blake3(&plain) {
                return Ok(());
            }
            return Err(JobError::Refused {
                action: format!("store {name} of the write-ahead log"),
                reasons: vec!["another one of this name is stored, and what it holds differs".into()],
            });
        }
        let sealer = self.means.sealer.clone();
        let (sealed, object) = blocking(move || sealer.seal(&plain)).await?;
        let key = name.sealed_key(catalog.cluster());
        match catalog.store().put(&key, Parts::whole(sealed.clone())).await {
            Err(StoreError::Exists { .. }) => {
                // Without a record it is what an interrupted run left.
                catalog.store().delete(&key).await?;
                catalog.store().put(&key, Parts::whole(sealed)).await?;
            }
            other => drop(other?),
        }
        let record = PieceRecord {
            format: manifest::FORMAT,
            repository: catalog.record().repository.clone(),
            cluster: catalog.cluster().into(),
            system_identifier: self.facts.system_identifier.clone(),
            name,
            object,
            stored_at: (self.clock)(),
            complete_until,
        };
        Ok(catalog.record_piece(&record, self.means.signing).await?)
    }

    /// What the spool has, in the order of the log.
    fn spooled(&self) -> Result<Vec<Spooled>, JobError> {
        let failed = |source| disk("list", self.means.spool, source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.means.spool).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names.iter().filter_map(|name| self.sort(name)).collect())
    }

    fn sort(&self, name: &str) -> Option<Spooled> {
        let bytes = self.facts.segment_bytes;
        if let Some(open) = name.strip_suffix(PARTIAL_SUFFIX) {
            return Segment::of_name(open, bytes).map(Spooled::Open);
        }
        if let Ok(PieceName::History(timeline)) = name.parse() {
            return Some(Spooled::History(timeline));
        }
        Segment::of_name(name, bytes).map(Spooled::Whole)
    }

    fn path_of(&self, spooled: &Spooled) -> PathBuf {
        self.means.spool.join(match spooled {
            Spooled::Whole(segment) => segment.to_string(),
            Spooled::Open(segment) => format!("{segment}{PARTIAL_SUFFIX}"),
            Spooled::History(timeline) => PieceName::History(*timeline).to_string(),
        })
    }
}

/// What was written of an open segment from `from` on: the file has its full size from the beginning,
/// and nothing but zeros behind the log.
fn written_since(path: &Path, from: u64) -> io::Result<Vec<u8>> {
    let file = match File::open(path) {
        // It was completed since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let length = file.metadata()?.len();
    let rest = usize::try_from(length.saturating_sub(from)).map_err(io::Error::other)?;
    let mut bytes = vec![0; rest];
    file.read_exact_at(&mut bytes, from)?;
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(written);
    Ok(bytes)
}

fn remove(path: &Path) -> Result<(), JobError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(disk("remove", path, source)),
        _ => Ok(()),
    }
}

fn disk(action: &'static str, path: &Path, source: io::Error) -> JobError {
    JobError::Disk { action, path: path.to_owned(), source }
}
