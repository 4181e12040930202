//! Unpacks the objects of a base backup into directories, checked against its manifest as they pass.

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt as _;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{LIST_OF_FILES, Means, disk};
use crate::jobs::load::StoredCheck;
use crate::jobs::{JobError, Progress, blocking};
use crate::rules::digest::Digest256;
use crate::rules::layout::{self, ObjectKey};
use crate::rules::manifest::ObjectRecord;
use crate::rules::physical::BaseManifest;
use crate::seal::{Opener, SealError};
use crate::store::{StoreError, read_small};

/// A list of files has some 200 bytes for each.
const LIST_MAX_BYTES: usize = 1 << 30;

/// Unpacks the archive `object` of `base` into `directory`.
pub(super) async fn archive(
    means: &Means<'_>,
    base: &BaseManifest,
    object: &str,
    directory: &Path,
) -> Result<(), JobError> {
    let key = layout::base_key(means.catalog.cluster(), &base.id, object);
    let record = base.objects.get(object).ok_or_else(|| unnamed(&key))?;
    let to = directory.to_owned();
    open_through(means, &key, record, move |plain| {
        let mut archive = tar::Archive::new(plain);
        archive.set_preserve_permissions(true);
        archive.set_preserve_mtime(false);
        archive.unpack(to)
    })
    .await
}

fn unnamed(key: &ObjectKey) -> JobError {
    let source = SealError::Damaged(io::Error::other("the manifest does not name it"));
    JobError::Object { key: key.to_string(), source }
}

/// Opens an object from its first byte to its last, hands the plain bytes to `take`, which need not read
/// all of them, and compares both digests.
///
/// # Errors
/// [`JobError::Object`] when it is not what `record` says, also after `take` had it.
pub(in crate::jobs) async fn open_through(
    means: &Means<'_>,
    key: &ObjectKey,
    record: &ObjectRecord,
    take: impl FnOnce(&mut dyn Read) -> io::Result<()> + Send + 'static,
) -> Result<(), JobError> {
    let pieces = means.catalog.store().get(key).await?;
    // What the store says says nothing of the object.
    let lost = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&lost);
    let pieces = pieces.map_err(move |error: StoreError| {
        let said = io::Error::other(error.to_string());
        *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        said
    });
    let sealed = SyncIoBridge::new(StreamReader::new(pieces));
    let (opener, record, progress) = (means.opener.clone(), record.clone(), Arc::clone(means.progress));
    let opened =
        blocking(move || Ok::<_, JobError>(take_from(sealed, &opener, &record, &progress, take))).await?;
    let lost = lost.lock().unwrap_or_else(PoisonError::into_inner).take();
    opened.map_err(|source| match lost {
        Some(error) => error.into(),
        None => JobError::Object { key: key.to_string(), source },
    })
}

/// Removes what is in `directory`.
pub(super) fn empty(directory: &Path) -> Result<(), JobError> {
    let failed = |source| disk("empty", directory, source);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        let path = entry.path();
        let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|source| disk("remove", &path, source))?;
    }
    Ok(())
}

/// Puts the list of files of `base` into `directory`, where it is an object of its own.
pub(super) async fn list_of_files(
    means: &Means<'_>,
    base: &BaseManifest,
    directory: &Path,
) -> Result<(), JobError> {
    let Some(record) = base.objects.get(layout::BACKUP_MANIFEST).cloned() else { return Ok(()) };
    let key = layout::base_key(means.catalog.cluster(), &base.id, layout::BACKUP_MANIFEST);
    let sealed = read_small(means.catalog.store().as_ref(), &key, LIST_MAX_BYTES).await?;
    let opener = means.opener.clone();
    let opened = blocking(move || Ok::<_, JobError>(opener.open_checked(&sealed, &record))).await?;
    let plain = opened.map_err(|source| JobError::Object { key: key.to_string(), source })?;
    let path = directory.join(LIST_OF_FILES);
    std::fs::write(&path, plain).map_err(|source| disk("write", &path, source))
}

fn take_from(
    sealed: impl Read,
    opener: &Opener,
    record: &ObjectRecord,
    progress: &Progress,
    take: impl FnOnce(&mut dyn Read) -> io::Result<()>,
) -> Result<(), SealError> {
    let mut stored = Counted { from: sealed, check: StoredCheck::default() };
    {
        let opened = opener.open(&mut stored)?;
        let mut plain = Digested { from: opened, digest: blake3::Hasher::new(), bytes: 0, progress };
        take(&mut plain).map_err(SealError::Damaged)?;
        // What was not taken, as what follows the end of an archive, belongs to the object too.
        io::copy(&mut plain, &mut io::sink()).map_err(SealError::Damaged)?;
        let found: Digest256 = plain.digest.finalize().into();
        if plain.bytes != record.plain_bytes || found != record.plain_blake3 {
            return Err(SealError::Damaged(io::Error::other("its contents are not those of the manifest")));
        }
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

/// Digests plain bytes as they are read.
struct Digested<'a, R> {
    from: R,
    digest: blake3::Hasher,
    bytes: u64,
    progress: &'a Progress,
}

impl<R: Read> Read for Digested<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.digest.update(into.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        self.progress.advance(read);
        Ok(read)
    }
}
