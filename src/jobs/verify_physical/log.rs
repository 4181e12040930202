//! Reads the log: every segment once, whichever base backups need it.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};

use super::{Means, as_problem};
use crate::jobs::recover::{Source, Stock};
use crate::jobs::{JobError, blocking};
use crate::rules::layout::ObjectKey;
use crate::rules::pages::{self, Place};
use crate::rules::physical::{BaseManifest, PieceName, Segment};
use crate::rules::recovery::Window;
use crate::rules::wal::Lsn;
use crate::store::StoreError;

/// Plain bytes of segments that are held at a time.
const HELD_BYTES: u64 = 64 << 20;

/// What was found of each segment.
pub(super) struct LogRead(BTreeMap<Segment, SegmentRead>);

/// What was found of one.
#[derive(Default)]
struct SegmentRead {
    problems: Vec<String>,
    /// The mark of its pages, where they were looked at.
    mark: Option<u16>,
    bytes: u64,
}

impl LogRead {
    /// Reads the segments of all windows, in their order.
    pub(super) async fn of<'w>(
        means: &Means<'_>,
        stock: &Stock,
        windows: impl Iterator<Item = (&'w BaseManifest, &'w Window)>,
    ) -> Result<Self, JobError> {
        let mut wanted: BTreeMap<Segment, Place> = BTreeMap::new();
        for (base, window) in windows {
            let system_identifier = base.system_identifier.parse().unwrap_or_default();
            for (segment, began_at) in stock.log.segments(window) {
                wanted.entry(segment).or_insert(Place { segment, began_at, system_identifier });
            }
        }
        let segment_bytes = stock.log.segment_bytes();
        means.recovery.progress.expect(wanted.len() as u64 * segment_bytes);
        let held = usize::try_from(HELD_BYTES / segment_bytes.max(1)).unwrap_or(1).clamp(1, means.jobs);
        let reads =
            futures::stream::iter(wanted)
                .map(|(segment, place)| async move {
                    Ok::<_, JobError>((segment, read(means, stock, place).await?))
                })
                .buffered(held);
        Ok(Self(reads.try_collect().await?))
    }

    /// The problems of the log of a window, and how many bytes of it were read.
    pub(super) fn of_window(&self, stock: &Stock, window: &Window) -> (Vec<String>, u64) {
        let (mut problems, mut bytes) = (Vec::new(), 0);
        let mut mark = None;
        for (segment, _) in stock.log.segments(window) {
            let Some(read) = self.0.get(&segment) else { continue };
            problems.extend(read.problems.iter().cloned());
            bytes += read.bytes;
            if let (Some(before), Some(own)) = (mark, read.mark)
                && before != own
            {
                problems.push(format!(
                    "segment {segment} is of another version of PostgreSQL than the one before: its pages have the mark {own:04X}, those {before:04X}"
                ));
            }
            mark = read.mark.or(mark);
        }
        (problems, bytes)
    }
}

/// Reads what is stored of a segment, and looks at its pages.
async fn read(means: &Means<'_>, stock: &Stock, place: Place) -> Result<SegmentRead, JobError> {
    let pieces = stock.log.pieces_of(place.segment);
    let whole = PieceName::Segment(place.segment.to_string());
    if pieces.contains(&whole) {
        return read_pieces(means, place, &pieces).await;
    }
    match read_pieces(means, place, &pieces).await {
        // It was completed since it was listed, and its parts are gone.
        Ok(read) if !read.problems.is_empty() && is_there(means, &whole).await? => {
            read_pieces(means, place, &[whole]).await
        }
        other => other,
    }
}

async fn is_there(means: &Means<'_>, piece: &PieceName) -> Result<bool, JobError> {
    Ok(means.recovery.catalog.piece(piece).await?.is_some())
}

async fn read_pieces(means: &Means<'_>, place: Place, pieces: &[PieceName]) -> Result<SegmentRead, JobError> {
    let mut read = SegmentRead::default();
    let mut plain: Vec<u8> = Vec::new();
    for piece in pieces {
        match open(means, piece, place).await? {
            Ok(bytes) => {
                read.bytes += bytes.len() as u64;
                join(&mut plain, piece, &bytes);
            }
            Err(problem) => read.problems.push(problem),
        }
    }
    if !read.problems.is_empty() {
        return Ok(read);
    }
    let checked = blocking(move || Ok::<_, JobError>(pages::check(&plain, &place))).await?;
    match checked {
        Ok(mark) => read.mark = Some(mark),
        Err(fault) => {
            let key = at_fault(means, place, pieces, fault.at);
            read.problems.push(format!("{}: {fault}", key.as_ref().map_or("the log", ObjectKey::as_str)));
        }
    }
    Ok(read)
}

/// Reads a piece, and compares it with its record; the inner error is what is wrong with it.
async fn open(
    means: &Means<'_>,
    piece: &PieceName,
    place: Place,
) -> Result<Result<Vec<u8>, String>, JobError> {
    let catalog = means.recovery.catalog;
    let record_key = piece.record_key(catalog.cluster());
    let record = match catalog.piece(piece).await {
        Ok(Some(record)) => record,
        Ok(None) => {
            return Ok(Err(format!("{record_key}: it is gone, or it is the record of another piece")));
        }
        Err(error) => return as_problem(error.into()).map(Err),
    };
    if record.system_identifier != place.system_identifier.to_string() {
        return Ok(Err(format!("{record_key}: it is of cluster {}", record.system_identifier)));
    }
    let source = Source { catalog, opener: means.recovery.opener, system_identifier: None };
    let bytes = match source.open_piece(piece, (Vec::new(), None)).await {
        Ok(bytes) => bytes,
        Err(JobError::Store(StoreError::Missing { .. })) => {
            return Ok(Err(format!("{}: it is missing", piece.sealed_key(catalog.cluster()))));
        }
        Err(error) => return as_problem(error).map(Err),
    };
    means.recovery.progress.advance(bytes.len());
    let expected = match piece {
        PieceName::Part { from, to, .. } => u64::from(to - from),
        _ => place.segment.bytes,
    };
    if bytes.len() as u64 == expected {
        return Ok(Ok(bytes));
    }
    let key = piece.sealed_key(catalog.cluster());
    Ok(Err(format!("{key}: it has {} bytes of log, and its name says {expected}", bytes.len())))
}

/// Puts a piece in its place, as a recovery does: a later part may have more of a page that an earlier one
/// ended in.
fn join(plain: &mut Vec<u8>, piece: &PieceName, bytes: &[u8]) {
    let from = match piece {
        PieceName::Part { from, .. } => usize::try_from(*from).unwrap_or(usize::MAX),
        _ => 0,
    };
    if from <= plain.len() {
        let end = from + bytes.len();
        plain.resize(plain.len().max(end), 0);
        if let Some(place) = plain.get_mut(from..end) {
            place.copy_from_slice(bytes);
        }
    }
}

/// The piece that a page was taken from.
fn at_fault(means: &Means<'_>, place: Place, pieces: &[PieceName], at: Lsn) -> Option<ObjectKey> {
    let offset = at.0.saturating_sub(place.segment.start().0);
    let has_page = |piece: &&PieceName| match piece {
        PieceName::Part { from, to, .. } => (u64::from(*from)..u64::from(*to)).contains(&offset),
        _ => true,
    };
    let piece = pieces.iter().rev().find(has_page)?;
    Some(piece.sealed_key(means.recovery.catalog.cluster()))
}
