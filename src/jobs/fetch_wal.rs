//! Fetches one file of the log for a server that asks for it, and what comes next ahead of that.
//!
//! Comes in: the name of a file, where the server wants it. Goes out: the file, checked; or that there is
//! none. To a server these are the two answers: what cannot be read, and what is missing before more that is
//! stored, is neither, and must stop its recovery rather than end it.
//!
//! Only whole segments are fetched ahead, into a directory of their own: those never change.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::recover::segment::{Source, histories};
use super::{JobError, disk};
use crate::rules::layout;
use crate::rules::physical::file_name::WalFile;
use crate::rules::physical::{PieceName, Segment, Switch};
use crate::rules::recovery::Log;

/// Segments that are fetched ahead at the most, and their bytes.
const AHEAD: u64 = 8;
const AHEAD_BYTES: u64 = 128 << 20;

/// Whether a file was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It lies where it was wanted.
    Placed,
    /// There is no such file.
    Missing,
}

/// Puts the file called `name` at `path`, by a rename of a checked one.
///
/// # Errors
/// [`JobError::Refused`] for what is no file of a log, and for log that is missing before more that is
/// stored; [`JobError::Object`] for what is damaged; what store and disk say.
pub async fn fetch(source: &Source<'_>, name: &str, path: &Path) -> Result<Fetched, JobError> {
    let piece = match WalFile::of_name(name) {
        Some(WalFile::Kept(piece)) => piece,
        Some(WalFile::Partial | WalFile::BackupHistory) => return Ok(Fetched::Missing),
        None => return Err(refused(name, "that is no name of a file of the log")),
    };
    let new = beside(path);
    let fetched = match &piece {
        PieceName::History(timeline) => {
            if source.catalog.piece(&piece).await?.is_none() {
                return Ok(Fetched::Missing);
            }
            source.put_history(*timeline, &new).await.map(|()| Fetched::Placed)
        }
        _ => fetch_segment(source, name, &piece, &new).await,
    };
    match fetched {
        Ok(Fetched::Placed) => {
            std::fs::rename(&new, path).map_err(|error| disk("write", path, error))?;
            Ok(Fetched::Placed)
        }
        other => {
            let _ = std::fs::remove_file(&new);
            other
        }
    }
}

/// The path that a file has until it is complete.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".belay");
    path.with_file_name(name)
}

async fn fetch_segment(
    source: &Source<'_>,
    name: &str,
    whole: &PieceName,
    to: &Path,
) -> Result<Fetched, JobError> {
    if let Some(record) = source.catalog.piece(whole).await? {
        let segment_bytes = record.object.plain_bytes;
        let log = Log::new(segment_bytes, [whole], BTreeMap::new());
        let found = Segment::of_name(name, segment_bytes)
            .and_then(|segment| log.assembly(segment.timeline, segment.number));
        let assembly = found.ok_or_else(|| refused(name, "its length does not fit to its name"))?;
        source.put_segment(&assembly, segment_bytes, to).await?;
        return Ok(Fetched::Placed);
    }
    let timeline = whole.timeline();
    let mut pieces = stored_of(source, name).await?;
    let histories = histories(source.catalog, Some(source.opener), &[PieceName::History(timeline)]).await?;
    if pieces.is_empty() && histories.is_empty() {
        return missing(source, name, &BTreeMap::new()).await;
    }
    let segment = Segment::of_name(name, segment_bytes(source, name).await?);
    let segment = segment.ok_or_else(|| refused(name, "it is no name of a segment of this cluster"))?;
    for switch in histories.get(&timeline).into_iter().flatten() {
        let parents = Segment { timeline: switch.parent, ..segment };
        if switch.at > segment.start() && switch.at < segment.end() {
            pieces.extend(stored_of(source, &parents.to_string()).await?);
        }
    }
    let log = Log::new(segment.bytes, &pieces, histories.clone());
    match log.assembly(timeline, segment.number) {
        Some(assembly) if log.segment(timeline, segment.number) == segment => {
            source.put_segment(&assembly, segment.bytes, to).await?;
            Ok(Fetched::Placed)
        }
        _ => missing(source, name, &histories).await,
    }
}

/// What is stored of a segment.
async fn stored_of(source: &Source<'_>, segment: &str) -> Result<Vec<PieceName>, JobError> {
    let catalog = source.catalog;
    let timeline = PieceName::Segment(segment.into()).timeline();
    let prefix = layout::wal_key(catalog.cluster(), timeline, segment);
    let objects = catalog.store().list(prefix.as_str()).await?;
    Ok(objects.iter().filter_map(|object| PieceName::of_record_key(&object.key)).collect())
}

/// Bytes of a segment, as the newest base backup says.
async fn segment_bytes(source: &Source<'_>, name: &str) -> Result<u64, JobError> {
    let bases = source.catalog.bases().await?.bases;
    let newest = bases.last().ok_or_else(|| refused(name, "no base backup says how long a segment is"))?;
    Ok(newest.segment_bytes)
}

/// The answer for a segment of which nothing is stored.
///
/// # Errors
/// [`JobError::Refused`] when the next one is stored: then this one is missing, and is not the end.
async fn missing(
    source: &Source<'_>,
    name: &str,
    histories: &BTreeMap<u32, Vec<Switch>>,
) -> Result<Fetched, JobError> {
    // The number of the next segment depends on their length, unless it stays within the last two digits.
    let (Some(front), Some(Ok(number))) =
        (name.get(..16), name.get(16..).map(|digits| u32::from_str_radix(digits, 16)))
    else {
        return Ok(Fetched::Missing);
    };
    let next = PieceName::Segment(format!("{front}{:08X}", number + 1));
    let Some(record) = source.catalog.piece(&next).await? else { return Ok(Fetched::Missing) };
    // A timeline has none from before its fork.
    let bytes = record.object.plain_bytes;
    let segment = Segment::of_name(name, bytes);
    let fork = histories.values().flatten().map(|switch| switch.at.0 / bytes.max(1)).max();
    match (segment, fork) {
        (Some(segment), Some(fork)) if segment.number < fork => Ok(Fetched::Missing),
        (Some(segment), None) if segment.timeline > 1 => Ok(Fetched::Missing),
        _ => Err(refused(name, &format!("it is missing, though {next} is stored"))),
    }
}

/// A directory of segments that were fetched ahead.
pub struct Ahead(PathBuf);

impl Ahead {
    /// The one in the state directory, for a cluster of a repository.
    pub fn of(state: &Path, repository: &str, cluster: &str) -> Self {
        let key = blake3::hash(format!("{repository}\n{cluster}").as_bytes()).to_hex();
        Self(state.join("wal-ahead").join(key.get(..16).unwrap_or_default()))
    }

    /// Puts a segment that was fetched ahead at `path`; it is there no longer then.
    ///
    /// # Errors
    /// What the disk says.
    pub fn take(&self, name: &str, path: &Path) -> Result<Fetched, JobError> {
        if !matches!(WalFile::of_name(name), Some(WalFile::Kept(PieceName::Segment(_)))) {
            return Ok(Fetched::Missing);
        }
        let (ready, new) = (self.0.join(name), beside(path));
        match std::fs::copy(&ready, &new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Fetched::Missing),
            copied => copied.map_err(|error| disk("write", &new, error))?,
        };
        std::fs::rename(&new, path).map_err(|error| disk("write", path, error))?;
        let _ = std::fs::remove_file(&ready);
        Ok(Fetched::Placed)
    }

    /// Whether something ahead of the segment `name` is there already.
    pub fn has_next(&self, name: &str) -> bool {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().as_ref() > name).count() >= 2
    }

    /// Fetches the whole segments that follow `name`, up to the first that is not there, and removes what
    /// is not among them.
    ///
    /// # Errors
    /// As [`fetch`]; the server meets the same when it asks for that segment.
    pub async fn fill(&self, source: &Source<'_>, name: &str, segment_bytes: u64) -> Result<(), JobError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|error| disk("make", &self.0, error))?;
        let Some(first) = Segment::of_name(name, segment_bytes) else { return Ok(()) };
        let count = (AHEAD_BYTES / segment_bytes.max(1)).clamp(1, AHEAD);
        let wanted: Vec<Segment> =
            (1..=count).map(|more| Segment { number: first.number + more, ..first }).collect();
        let names: Vec<String> = wanted.iter().map(Segment::to_string).collect();
        for entry in std::fs::read_dir(&self.0).map_err(|error| disk("list", &self.0, error))?.flatten() {
            if !names.contains(&entry.file_name().to_string_lossy().into_owned()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        for (segment, name) in wanted.iter().zip(&names) {
            let ready = self.0.join(name);
            if ready.exists() {
                continue;
            }
            let whole = PieceName::Segment(name.clone());
            if source.catalog.piece(&whole).await?.is_none() {
                return Ok(());
            }
            let log = Log::new(segment_bytes, [&whole], BTreeMap::new());
            let Some(assembly) = log.assembly(segment.timeline, segment.number) else { return Ok(()) };
            let new = beside(&ready);
            source.put_segment(&assembly, segment_bytes, &new).await?;
            std::fs::rename(&new, &ready).map_err(|error| disk("write", &ready, error))?;
        }
        Ok(())
    }
}

fn refused(name: &str, reason: &str) -> JobError {
    JobError::Refused { action: format!("fetch {name} of the write-ahead log"), reasons: vec![reason.into()] }
}
