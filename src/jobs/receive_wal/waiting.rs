//! Waits until the log is stored up to a place, by whoever receives it or hands it over.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::{Shipped, noted};
use crate::catalog::{Catalog, CatalogError};
use crate::rules::causes::in_a_sentence;
use crate::rules::physical::PieceName;
use crate::rules::wal::Lsn;

/// Between two looks whether it is.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The log that is kept of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct KeptLog<'a> {
    /// The state directory, where whoever receives the log notes how far it is stored.
    pub state: &'a Path,
    /// Whether it is received; else the server hands it over.
    pub is_received: bool,
}

/// Why the log is not stored as far as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// No process of this host receives it.
    #[error("nobody receives the log: is the daemon running?")]
    NobodyReceives,
    /// It took too long.
    #[error("the log up to it was not stored within {} seconds", waited.as_secs())]
    TooSlow {
        /// How long was waited.
        waited: Duration,
    },
    /// This host does not know.
    #[error("{0}")]
    Unknown(String),
}

/// Asks whoever receives the log on this host to store it up to `lsn` of `timeline`, and waits for that, for
/// `longest` at the most; returns what was noted then.
///
/// # Errors
/// [`NotStored`]
pub async fn until_received(
    state: &Path,
    timeline: u32,
    lsn: Lsn,
    longest: Duration,
) -> Result<Shipped, NotStored> {
    // Somebody else may want more.
    if noted::wanted(state).is_none_or(|wanted| wanted < lsn) {
        let asked = noted::want(state, lsn);
        asked.map_err(|error| {
            NotStored::Unknown(format!("that the log is wanted cannot be noted: {error}"))
        })?;
    }
    let began = Instant::now();
    loop {
        let reaches = |shipped: &Shipped| shipped.timeline == timeline && shipped.until >= lsn;
        if let Some(shipped) = noted::shipped(state).filter(reaches) {
            return Ok(shipped);
        }
        match noted::is_received(state) {
            Ok(true) => {}
            Ok(false) => return Err(NotStored::NobodyReceives),
            Err(error) => return Err(NotStored::Unknown(in_a_sentence(&error))),
        }
        if began.elapsed() > longest {
            return Err(NotStored::TooSlow { waited: longest });
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Waits until `piece` is in the repository, for `longest` at the most; whether it is.
///
/// # Errors
/// What the store says.
pub async fn until_handed_over(
    catalog: &Catalog,
    piece: &PieceName,
    longest: Duration,
) -> Result<bool, CatalogError> {
    let began = Instant::now();
    while catalog.piece(piece).await?.is_none() {
        if began.elapsed() > longest {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(true)
}
