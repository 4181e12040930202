//! The directory that a receiver writes the log into, file by file.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::Shipped;
use crate::jobs::keep_wal::Noted;
use crate::jobs::{JobError, blocking, disk};
use crate::rules::physical::{PieceName, Segment};
use crate::rules::wal::Lsn;
use crate::rules::wal::page::LONG_HEADER_BYTES;
use crate::rules::wal::segment::Header;

/// A page of the log; what is written of one may still be written over.
pub(super) const PAGE_BYTES: u64 = 8 << 10;
const PARTIAL_SUFFIX: &str = ".partial";
/// So much of a file is read at a time to see where the log in it ends.
const SLICE_BYTES: u64 = 1 << 20;

/// Whose log the spool has.
pub(super) struct Origin {
    /// PostgreSQL's own number of the cluster.
    pub(super) system_identifier: String,
    /// Bytes of a segment.
    pub(super) segment_bytes: u64,
    /// The timeline that is written.
    pub(super) timeline: u32,
}

impl Origin {
    /// As the newest segment in `spool` says; `None` where it has none.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn of_spool(spool: &Path) -> Result<Option<Self>, JobError> {
        let newest = names(spool)?.into_iter().rev().find_map(|name| {
            let header = header_of(&spool.join(&name)).ok().flatten()?;
            let segment = sort(&name, header.segment_bytes.into())?.segment().copied()?;
            Some((header, segment))
        });
        Ok(newest.map(|(header, Segment { timeline, bytes, .. })| Self {
            system_identifier: header.system_identifier.to_string(),
            segment_bytes: bytes,
            timeline,
        }))
    }
}

/// What the beginning of a segment says; `None` for what is no segment.
///
/// # Errors
/// What the disk says.
pub(super) fn header_of(path: &Path) -> io::Result<Option<Header>> {
    let mut head = [0; LONG_HEADER_BYTES];
    File::open(path)?.read_exact_at(&mut head, 0)?;
    Ok(Header::of(&head))
}

/// A file of the spool.
pub(super) enum Spooled {
    /// A segment.
    Whole(Segment),
    /// The one that is being written.
    Open(Segment),
    /// The history of a timeline.
    History(u32),
}

impl Spooled {
    /// The segment that it is, or begins.
    pub(super) fn segment(&self) -> Option<&Segment> {
        match self {
            Self::Whole(segment) | Self::Open(segment) => Some(segment),
            Self::History(_) => None,
        }
    }

    /// Where it lies.
    pub(super) fn path_in(&self, spool: &Path) -> PathBuf {
        spool.join(match self {
            Self::Whole(segment) => segment.to_string(),
            Self::Open(segment) => format!("{segment}{PARTIAL_SUFFIX}"),
            Self::History(timeline) => PieceName::History(*timeline).to_string(),
        })
    }
}

/// What `spool` has, in the order of the log.
///
/// # Errors
/// What the disk says.
pub(super) fn spooled(spool: &Path, segment_bytes: u64) -> Result<Vec<Spooled>, JobError> {
    Ok(names(spool)?.iter().filter_map(|name| sort(name, segment_bytes)).collect())
}

fn names(spool: &Path) -> Result<Vec<String>, JobError> {
    let failed = |source| disk("list", spool, source);
    let mut names = Vec::new();
    match std::fs::read_dir(spool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        read => {
            for entry in read.map_err(failed)? {
                names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

fn sort(name: &str, segment_bytes: u64) -> Option<Spooled> {
    if let Some(open) = name.strip_suffix(PARTIAL_SUFFIX) {
        return Segment::of_name(open, segment_bytes).map(Spooled::Open);
    }
    if let Ok(PieceName::History(timeline)) = name.parse() {
        return Some(Spooled::History(timeline));
    }
    Segment::of_name(name, segment_bytes).map(Spooled::Whole)
}

/// Bytes of whole segments that wait in the spool.
///
/// # Errors
/// What the disk says.
pub(super) fn waiting_bytes(spool: &Path, segment_bytes: u64) -> Result<u64, JobError> {
    let spooled = spooled(spool, segment_bytes)?;
    let whole = spooled.iter().filter(|spooled| matches!(spooled, Spooled::Whole(_))).count();
    Ok(whole as u64 * segment_bytes)
}

/// Whether the log in `spool` goes on behind what is stored.
///
/// # Errors
/// What the disk says.
pub(super) fn is_behind(spool: &Path, segment_bytes: u64, stored: Shipped) -> Result<bool, JobError> {
    for spooled in spooled(spool, segment_bytes)? {
        let Spooled::Open(segment) = spooled else { return Ok(true) };
        let path = spooled.path_in(spool);
        let written = written_until(&path, 0).map_err(|source| disk("read", &path, source))?;
        let end = Lsn(segment.start().0 + written);
        if written > 0 && (segment.timeline, end) > (stored.timeline, stored.until) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How far an open segment is written, from `from` on: the file has its full size from the beginning, and
/// nothing but zeros behind the log.
pub(super) fn written_until(path: &Path, from: u64) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut end = file.metadata()?.len();
    let mut slice = Vec::new();
    while end > from {
        let begin = end.saturating_sub(SLICE_BYTES).max(from);
        slice.resize(usize::try_from(end - begin).map_err(io::Error::other)?, 0);
        file.read_exact_at(&mut slice, begin)?;
        if let Some(last) = slice.iter().rposition(|byte| *byte != 0) {
            return Ok(begin + last as u64 + 1);
        }
        end = begin;
    }
    Ok(from)
}

/// Until when everything that was committed is in the first `to` bytes of a segment, as its transactions say.
pub(super) async fn ended_before(path: PathBuf, to: u64) -> Result<Option<DateTime<Utc>>, JobError> {
    let read = move || {
        let mut ends = Noted::default();
        // The zeros that a record ends with are taken for those behind the log.
        let with_zeros = to.next_multiple_of(PAGE_BYTES);
        let copied = File::open(&path).and_then(|file| io::copy(&mut file.take(with_zeros), &mut ends));
        copied.map_err(|source| disk("read", &path, source))?;
        Ok::<_, JobError>(ends.0.complete_until())
    };
    blocking(read).await
}

/// Removes a file, if it is there.
///
/// # Errors
/// What the disk says.
pub(super) fn remove(path: &Path) -> Result<(), JobError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(disk("remove", path, source)),
        _ => Ok(()),
    }
}
