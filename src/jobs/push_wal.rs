//! Stores one file of the log that the server hands over, for hosts where it archives its log itself.
//!
//! Comes in: a file of `pg_wal`. Goes out: a piece in the store, published when this returns. The
//! server is asked nothing: a segment says itself of which cluster it is, how long segments are, and when
//! transactions in it ended.
//!
//! A cluster that was recovered writes a timeline whose history its server never hands over, since nothing was
//! archived while it was recovered. So the history is stored with the first segment of a timeline, from beside it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::keep_wal::{Keeper, Plain, Until};
use super::{JobError, disk};
use crate::catalog::Catalog;
use crate::postgres::wal::system_identifier_in;
use crate::rules::physical::file_name::WalFile;
use crate::rules::physical::{PieceName, Segment};
use crate::rules::wal::page::LONG_HEADER_BYTES;
use crate::rules::wal::segment::Header;
use crate::seal::Sealer;

/// What a file is stored with.
pub struct Means<'a> {
    /// Where it goes.
    pub catalog: &'a Catalog,
    /// To whom it is sealed.
    pub sealer: &'a Sealer,
    /// Who signs it.
    pub signing: &'a SigningKey,
    /// The state directory.
    pub state: &'a Path,
    /// The host's clock.
    pub clock: fn() -> DateTime<Utc>,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// It is stored, now or before.
    Stored(PieceName),
    /// It is not needed: why.
    NotNeeded(&'static str),
}

/// Stores the file at `path`.
///
/// # Errors
/// [`JobError::Refused`] for what is no file of a log, or differs from what is stored under its name;
/// [`JobError::OtherCluster`]; what store and disk say. Then the server keeps it.
pub async fn push(means: &Means<'_>, path: &Path) -> Result<Pushed, JobError> {
    means.catalog.check_writer(means.signing)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let refused = |reason: String| JobError::Refused {
        action: format!("store {} of the write-ahead log", path.display()),
        reasons: vec![reason],
    };
    let piece = match WalFile::of_name(&name) {
        Some(WalFile::Kept(piece)) => piece,
        Some(WalFile::Partial) => {
            return Ok(Pushed::NotNeeded("the next timeline's first segment begins with what it has"));
        }
        Some(WalFile::BackupHistory) => {
            return Ok(Pushed::NotNeeded("what it says stands in the base backup's manifest"));
        }
        None => return Err(refused("that is no name of a file of the log".into())),
    };
    let bytes = std::fs::metadata(path).map_err(|source| disk("read", path, source))?.len();
    let system_identifier = match &piece {
        PieceName::Segment(name) => identity_of_segment(path, name, bytes, refused)?,
        _ => identity_beside(path).map_err(|source| disk("read the control file beside", path, source))?,
    };
    let keeper = Keeper {
        catalog: means.catalog,
        sealer: means.sealer,
        signing: means.signing,
        state: means.state,
        system_identifier: &system_identifier,
        clock: means.clock,
    };
    let mut known = Known::of(means, &keeper).await?;
    let timeline = piece.timeline();
    if timeline > 1 && !known.histories.contains(&timeline) && matches!(piece, PieceName::Segment(_)) {
        let history = PieceName::History(timeline);
        let beside = path.with_file_name(history.to_string());
        if let Ok(metadata) = std::fs::metadata(&beside) {
            let plain = Plain { path: beside, from: 0, bytes: metadata.len() };
            keeper.store(history, plain, Until::Told(None)).await?;
            known.histories.push(timeline);
            known.note(means.state)?;
        }
    }
    let until = if matches!(piece, PieceName::Segment(_)) { Until::Within } else { Until::Told(None) };
    keeper.store(piece.clone(), Plain { path: path.into(), from: 0, bytes }, until).await?;
    Ok(Pushed::Stored(piece))
}

/// Of which cluster a segment is, by what its first page says.
fn identity_of_segment(
    path: &Path,
    name: &str,
    bytes: u64,
    refused: impl Fn(String) -> JobError,
) -> Result<String, JobError> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONG_HEADER_BYTES as u64).read_to_end(&mut head));
    read.map_err(|source| disk("read", path, source))?;
    let header = Header::of(&head).ok_or_else(|| refused("it does not begin as a segment does".into()))?;
    let segment_bytes = u64::from(header.segment_bytes);
    if bytes != segment_bytes {
        return Err(refused(format!("it has {bytes} bytes, and a segment of its cluster {segment_bytes}")));
    }
    let start = Segment::of_name(name, segment_bytes).map(|segment| segment.start());
    if start != Some(header.start) {
        return Err(refused(format!("it begins at {}, which is not what its name says", header.start)));
    }
    Ok(header.system_identifier.to_string())
}

/// Of which cluster the data directory is whose `pg_wal` has the file.
fn identity_beside(path: &Path) -> io::Result<String> {
    let data = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    Ok(system_identifier_in(data)?.to_string())
}

/// What was found out once, so that not each file asks for it: of which cluster the repository's log is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    repository: String,
    cluster: String,
    system_identifier: String,
    /// Timelines whose history is stored.
    histories: Vec<u32>,
}

impl Known {
    /// What is noted, or, where that is nothing or of another cluster, what the repository says.
    async fn of(means: &Means<'_>, keeper: &Keeper<'_>) -> Result<Self, JobError> {
        let current = Self {
            repository: means.catalog.record().repository.clone(),
            cluster: means.catalog.cluster().into(),
            system_identifier: keeper.system_identifier.into(),
            histories: Vec::new(),
        };
        let noted = std::fs::read(note_in(means.state)).ok();
        let noted: Option<Self> = noted.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(noted) = noted
            && (Self { histories: Vec::new(), ..noted.clone() }) == current
        {
            return Ok(noted);
        }
        keeper.check_cluster(&means.catalog.pieces().await?).await?;
        current.note(means.state)?;
        Ok(current)
    }

    fn note(&self, state: &Path) -> Result<(), JobError> {
        let (path, new) = (note_in(state), state.join(format!("wal-cluster.{}", std::process::id())));
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let written = std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|source| disk("write", &path, source))
    }
}

fn note_in(state: &Path) -> PathBuf {
    state.join("wal-cluster.json")
}
