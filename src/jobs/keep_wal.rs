//! Puts pieces of the write-ahead log into the store, each once, whoever has them first.
//!
//! The piece goes first and its record last, by one process at a time: between the two somebody else
//! would take the piece for what an interrupted run left.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;

use super::sealing::seal_into_store;
use super::{JobError, blocking, disk};
use crate::catalog::Catalog;
use crate::ledger::lock::{LockError, LockName, StateLock};
use crate::rules::digest::Digest256;
use crate::rules::manifest;
use crate::rules::physical::{self, PieceName, PieceRecord, Switch};
use crate::rules::wal::segment::Ends;
use crate::seal::Sealer;
use crate::store::StoreError;

const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// No history file is longer: a line for each timeline.
const HISTORY_MAX_BYTES: u64 = 1 << 20;

/// Where pieces go, and as whose.
#[derive(Clone, Copy)]
pub struct Keeper<'a> {
    /// Where they go.
    pub catalog: &'a Catalog,
    /// To whom they are sealed.
    pub sealer: &'a Sealer,
    /// Who signs them.
    pub signing: &'a SigningKey,
    /// Where the locks of this host lie.
    pub state: &'a Path,
    /// PostgreSQL's own number of their cluster.
    pub system_identifier: &'a str,
    /// The host's clock.
    pub clock: fn() -> DateTime<Utc>,
}

/// Bytes of a file.
#[derive(Debug, Clone)]
pub struct Plain {
    /// The file.
    pub path: PathBuf,
    /// Where they begin.
    pub from: u64,
    /// How many they are.
    pub bytes: u64,
}

impl Plain {
    fn open(&self) -> io::Result<impl Read + Send + 'static + use<>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        Ok(file.take(self.bytes))
    }

    fn unreadable(&self) -> impl Fn(io::Error) -> JobError + Send + 'static + use<> {
        let path = self.path.clone();
        move |source| disk("read", &path, source)
    }
}

/// Until when everything that was committed is stored with a piece.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// As the server said, or not known.
    Told(Option<DateTime<Utc>>),
    /// As the transactions in it say, which ended in it: it is a whole segment.
    Within,
}

impl Keeper<'_> {
    /// Stores a piece, unless it is stored already.
    ///
    /// # Errors
    /// [`JobError::Refused`] when a stored piece of this name holds something else.
    pub async fn store(&self, name: PieceName, plain: Plain, until: Until) -> Result<(), JobError> {
        let _one_at_a_time = self.lock().await?;
        if let Some(known) = self.catalog.piece(&name).await? {
            return self.compare(&known, plain).await;
        }
        let history = self.history_in(&name, &plain)?;
        let key = name.sealed_key(self.catalog.cluster());
        let sealed = match self.seal(&name, &plain).await {
            Err(JobError::Store(StoreError::Exists { .. })) => {
                // Without a record it is what an interrupted run left.
                self.catalog.store().delete(&key).await?;
                self.seal(&name, &plain).await?
            }
            other => other?,
        };
        let (object, ends) = sealed;
        let record = PieceRecord {
            format: manifest::FORMAT,
            repository: self.catalog.record().repository.clone(),
            cluster: self.catalog.cluster().into(),
            system_identifier: self.system_identifier.into(),
            name,
            object,
            stored_at: (self.clock)(),
            complete_until: match until {
                Until::Told(until) => until,
                Until::Within => ends.complete_until(),
            },
            history,
        };
        Ok(self.catalog.record_piece(&record, self.signing).await?)
    }

    async fn seal(
        &self,
        name: &PieceName,
        plain: &Plain,
    ) -> Result<(manifest::ObjectRecord, Ends), JobError> {
        let key = name.sealed_key(self.catalog.cluster());
        let from = plain.open().map_err(plain.unreadable())?;
        let also = Noted::default();
        let (object, Noted(ends)) =
            seal_into_store(&self.sealer.fast(1), self.catalog.store(), &key, from, also, plain.unreadable())
                .await?;
        Ok((object, ends))
    }

    async fn lock(&self) -> Result<StateLock, JobError> {
        loop {
            match StateLock::exclusive(self.state, &LockName::wal_piece()) {
                Err(LockError::Busy { .. }) => tokio::time::sleep(LOCK_PAUSE).await,
                other => return Ok(other?),
            }
        }
    }

    async fn compare(&self, known: &PieceRecord, plain: Plain) -> Result<(), JobError> {
        let found = blocking(move || digest(&plain).map_err(plain.unreadable())).await?;
        if known.object.plain_blake3 == found {
            return Ok(());
        }
        Err(JobError::Refused {
            action: format!("store {} of the write-ahead log", known.name),
            reasons: vec!["another one of this name is stored, and what it holds differs".into()],
        })
    }

    fn history_in(&self, name: &PieceName, plain: &Plain) -> Result<Option<Vec<Switch>>, JobError> {
        if !matches!(name, PieceName::History(_)) {
            return Ok(None);
        }
        let mut text = String::new();
        let read = plain.open().and_then(|file| file.take(HISTORY_MAX_BYTES).read_to_string(&mut text));
        read.map_err(plain.unreadable())?;
        Ok(Some(physical::history(&text)))
    }

    /// Refuses a cluster whose log would be mixed with that of another.
    ///
    /// # Errors
    /// [`JobError::OtherCluster`] when the newest base backup, or the newest of the log, is of another.
    pub async fn check_cluster(&self, pieces: &[PieceName]) -> Result<(), JobError> {
        check_cluster(self.catalog, self.system_identifier, pieces).await
    }
}

/// As [`Keeper::check_cluster`].
///
/// # Errors
/// [`JobError::OtherCluster`]; what the store says.
pub async fn check_cluster(
    catalog: &Catalog,
    system_identifier: &str,
    pieces: &[PieceName],
) -> Result<(), JobError> {
    let base = catalog.bases().await?.bases.pop().map(|base| base.system_identifier);
    let newest = match pieces.iter().rev().find(|piece| !matches!(piece, PieceName::History(_))) {
        Some(name) => catalog.piece(name).await?.map(|record| record.system_identifier),
        None => None,
    };
    let Some(other) = newest.into_iter().chain(base).find(|known| known != system_identifier) else {
        return Ok(());
    };
    Err(JobError::OtherCluster {
        cluster: catalog.cluster().into(),
        stored: other,
        found: system_identifier.into(),
    })
}

fn digest(plain: &Plain) -> io::Result<Digest256> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut plain.open()?, &mut hasher)?;
    Ok(hasher.finalize().into())
}

/// Reads what passes.
#[derive(Default)]
pub(super) struct Noted(pub(super) Ends);

impl Write for Noted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
