//! Puts files of the stored log into place, each checked before it counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::disk;
use crate::catalog::Catalog;
use crate::jobs::JobError;
use crate::jobs::opening::open_into;
use crate::rules::physical::{self, PieceName, PieceRecord, Switch};
use crate::rules::recovery::Assembly;
use crate::seal::Opener;
use crate::store::StoreError;

/// Where files of the log come from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Where they lie.
    pub catalog: &'a Catalog,
    /// What opens them.
    pub opener: &'a Opener,
    /// The cluster that they must be of, by PostgreSQL's own number; `None` for any.
    pub system_identifier: Option<&'a str>,
}

impl Source<'_> {
    /// Writes a segment of `segment_bytes` to `path`, as far as it is stored and zeros behind.
    ///
    /// # Errors
    /// What store and disk say; [`JobError::Object`] when a piece is not what was stored,
    /// [`JobError::Refused`] when it is of another cluster. What lies at the path is then of no use.
    pub async fn put_segment(
        &self,
        assembly: &Assembly,
        segment_bytes: u64,
        path: &Path,
    ) -> Result<(), JobError> {
        match self.put_pieces(&assembly.pieces, assembly.until, segment_bytes, path).await {
            Err(error) if is_gone(&error) => {
                let Some(PieceName::Part { segment, .. }) = assembly.pieces.first() else {
                    return Err(error);
                };
                // The segment was completed since it was listed.
                let whole = [PieceName::Segment(segment.clone())];
                self.put_pieces(&whole, assembly.counts, segment_bytes, path).await
            }
            other => other,
        }
    }

    async fn put_pieces(
        &self,
        pieces: &[PieceName],
        until: u64,
        segment_bytes: u64,
        path: &Path,
    ) -> Result<(), JobError> {
        let failed = |source| disk("write", path, source);
        let mut file = new_file(path).map_err(failed)?;
        for piece in pieces {
            let from = match piece {
                PieceName::Part { from, .. } => u64::from(*from),
                _ => 0,
            };
            file.seek(SeekFrom::Start(from)).map_err(failed)?;
            file = self.open_piece(piece, (file, Some(path))).await?;
        }
        file.set_len(until).map_err(failed)?;
        file.set_len(segment_bytes).map_err(failed)
    }

    /// Writes a history file to `path`.
    ///
    /// # Errors
    /// As [`Source::put_segment`].
    pub async fn put_history(&self, timeline: u32, path: &Path) -> Result<(), JobError> {
        let file = new_file(path).map_err(|source| disk("write", path, source))?;
        self.open_piece(&PieceName::History(timeline), (file, Some(path))).await.map(drop)
    }

    /// Writes a piece to `to`, a file at that path if it is one; returns that.
    ///
    /// # Errors
    /// As [`Source::put_segment`].
    pub async fn open_piece<W: std::io::Write + Send + 'static>(
        &self,
        name: &PieceName,
        to: (W, Option<&Path>),
    ) -> Result<W, JobError> {
        let catalog = self.catalog;
        let missing = || StoreError::Missing {
            key: name.record_key(catalog.cluster()).to_string(),
            store: catalog.store().address().into(),
        };
        let record = catalog.piece(name).await?.ok_or_else(missing)?;
        self.check_cluster(&record)?;
        let key = name.sealed_key(catalog.cluster());
        open_into(catalog.store().as_ref(), self.opener, &key, &record.object, to).await
    }

    fn check_cluster(&self, record: &PieceRecord) -> Result<(), JobError> {
        if self.system_identifier.is_none_or(|wanted| record.system_identifier == wanted) {
            return Ok(());
        }
        Err(JobError::Refused {
            action: format!("replay {}", record.name),
            reasons: vec![format!(
                "it is of cluster {}, the base backup of another",
                record.system_identifier
            )],
        })
    }
}

/// Reads what the history files among `pieces` say: from their records, or opened where an older program
/// wrote them. Of one that nobody here can open it is only known that it is stored.
///
/// # Errors
/// What the store says; [`JobError::Object`] for one that is not what was stored.
pub async fn histories(
    catalog: &Catalog,
    opener: Option<&Opener>,
    pieces: &[PieceName],
) -> Result<BTreeMap<u32, Vec<Switch>>, JobError> {
    let mut histories = BTreeMap::new();
    for piece in pieces {
        let PieceName::History(timeline) = piece else { continue };
        let Some(record) = catalog.piece(piece).await? else { continue };
        let switches = match (record.history, opener) {
            (Some(switches), _) => switches,
            (None, None) => Vec::new(),
            (None, Some(opener)) => {
                let source = Source { catalog, opener, system_identifier: None };
                let text = source.open_piece(piece, (Vec::new(), None)).await?;
                physical::history(&String::from_utf8_lossy(&text))
            }
        };
        histories.insert(*timeline, switches);
    }
    Ok(histories)
}

fn new_file(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// A piece that was listed and is gone: a whole segment took the place of its parts.
fn is_gone(error: &JobError) -> bool {
    matches!(error, JobError::Store(StoreError::Missing { .. }))
}
