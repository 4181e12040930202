//! Opens an object of the store as a stream, checked on both sides while it passes.

use std::io::{self, Read, Write};

use futures::TryStreamExt as _;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::load::StoredCheck;
use super::{JobError, blocking};
use crate::rules::digest::Digest256;
use crate::rules::layout::ObjectKey;
use crate::rules::manifest::ObjectRecord;
use crate::seal::{Opener, SealError};
use crate::store::{Store, read_small};

/// Objects of so many plain bytes are opened in memory, which is twice as fast.
const IN_MEMORY_BYTES: u64 = 16 << 20;
/// Sealing adds little to what does not compress.
const SEALED_EXTRA_BYTES: usize = 1 << 20;

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
    let of_object = |source| JobError::Object { key: key.to_string(), source };
    let (opener, record) = (opener.clone(), record.clone());
    let opened = if record.plain_bytes <= IN_MEMORY_BYTES {
        let longest = usize::try_from(IN_MEMORY_BYTES).unwrap_or(usize::MAX) + SEALED_EXTRA_BYTES;
        let sealed = read_small(store, key, longest).await?;
        blocking(move || {
            let plain = opener.open_checked(&sealed, &record);
            let written = plain.and_then(|plain| to.write_all(&plain).map_err(SealError::Damaged));
            Ok::<_, JobError>(written.map(|()| to))
        })
        .await?
    } else {
        let pieces = store.get(key).await?;
        let sealed = SyncIoBridge::new(StreamReader::new(pieces.map_err(io::Error::other)));
        blocking(move || Ok::<_, JobError>(copy(sealed, &opener, &record, &mut to).map(|()| to))).await?
    };
    opened.map_err(of_object)
}

fn copy(
    sealed: impl Read,
    opener: &Opener,
    record: &ObjectRecord,
    to: &mut impl Write,
) -> Result<(), SealError> {
    let mut stored = Counted { from: sealed, check: StoredCheck::default() };
    let mut plain = Digesting { to, digest: blake3::Hasher::new(), bytes: 0 };
    let mut opened = opener.open(&mut stored)?;
    io::copy(&mut opened, &mut plain).map_err(SealError::Damaged)?;
    drop(opened);
    let found: Digest256 = plain.digest.finalize().into();
    if plain.bytes != record.plain_bytes || found != record.plain_blake3 {
        return Err(SealError::Damaged(io::Error::other("its contents are not those of its record")));
    }
    io::copy(&mut stored, &mut io::sink()).map_err(SealError::Damaged)?;
    stored.check.finish(record.stored_bytes, record.stored_sha256).map_err(SealError::Damaged)
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

/// Digests plain bytes as they are written.
struct Digesting<'a, W> {
    to: &'a mut W,
    digest: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Digesting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
