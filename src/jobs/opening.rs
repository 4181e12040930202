//! Opens an object of the store as a stream, checked on both sides while it passes.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt as _;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::load::StoredCheck;
use super::{JobError, blocking};
use crate::postgres::tools::pump;
use crate::rules::digest::Digest256;
use crate::rules::layout::ObjectKey;
use crate::rules::manifest::ObjectRecord;
use crate::seal::{Opener, SealError};
use crate::store::{Store, StoreError};

/// Writes what the object `key` holds into `to`. What was written counts only when this returns `Ok`.
///
/// # Errors
/// What the store says; [`JobError::Object`] when it is not what `record` says.
pub(super) async fn open_into<W: Write + Send + 'static>(
    store: &dyn Store,
    opener: &Opener,
    key: &ObjectKey,
    record: &ObjectRecord,
    mut to: W,
) -> Result<W, JobError> {
    let take = move |plain: &mut dyn Read| pump(plain, &mut to, |_| {}).map(|_| to);
    open_through(store, opener, key, record, |_| {}, take).await
}

/// Opens an object from its first byte to its last, hands the plain bytes to `take`, which need not read
/// all of them, and compares both digests; `on_bytes` hears of plain bytes that pass.
///
/// # Errors
/// What the store says; [`JobError::Object`] when it is not what `record` says, also after `take` had it.
pub(super) async fn open_through<T: Send + 'static>(
    store: &dyn Store,
    opener: &Opener,
    key: &ObjectKey,
    record: &ObjectRecord,
    on_bytes: impl Fn(usize) + Send + 'static,
    take: impl FnOnce(&mut dyn Read) -> io::Result<T> + Send + 'static,
) -> Result<T, JobError> {
    let pieces = store.get(key).await?;
    // What the store says says nothing of the object.
    let lost = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&lost);
    let pieces = pieces.map_err(move |error: StoreError| {
        let said = io::Error::other(error.to_string());
        *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        said
    });
    let sealed = SyncIoBridge::new(StreamReader::new(pieces));
    let (opener, record) = (opener.clone(), record.clone());
    let opened =
        blocking(move || Ok::<_, JobError>(take_from(sealed, &opener, &record, on_bytes, take))).await?;
    let lost = lost.lock().unwrap_or_else(PoisonError::into_inner).take();
    opened.map_err(|source| match lost {
        Some(error) => error.into(),
        None => JobError::Object { key: key.to_string(), source },
    })
}

fn take_from<T>(
    sealed: impl Read,
    opener: &Opener,
    record: &ObjectRecord,
    on_bytes: impl Fn(usize),
    take: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> Result<T, SealError> {
    let mut stored = Counted { from: sealed, check: StoredCheck::default() };
    let opened = opener.open(&mut stored)?;
    let mut plain = Digested { from: opened, digest: blake3::Hasher::new(), bytes: 0, on_bytes };
    let taken = take(&mut plain).map_err(SealError::Damaged)?;
    // What was not taken, as what follows the end of an archive, belongs to the object too.
    io::copy(&mut plain, &mut io::sink()).map_err(SealError::Damaged)?;
    let found: Digest256 = plain.digest.finalize().into();
    if plain.bytes != record.plain_bytes || found != record.plain_blake3 {
        return Err(SealError::Damaged(io::Error::other("its contents are not those of the manifest")));
    }
    drop(plain);
    io::copy(&mut stored, &mut io::sink()).map_err(SealError::Damaged)?;
    stored.check.finish(record.stored_bytes, record.stored_sha256).map_err(SealError::Damaged)?;
    Ok(taken)
}

/// Checks stored bytes as they are read.
struct Counted<R> {
    from: R,
    check: StoredCheck,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.check.update(into.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Digests plain bytes as they are read.
struct Digested<R, F> {
    from: R,
    digest: blake3::Hasher,
    bytes: u64,
    on_bytes: F,
}

impl<R: Read, F: Fn(usize)> Read for Digested<R, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.digest.update(into.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        (self.on_bytes)(read);
        Ok(read)
    }
}
