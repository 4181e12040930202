//! Unpacks a base backup into a directory, checked against its manifest as it passes.

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt as _;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{Means, disk};
use crate::jobs::load::StoredCheck;
use crate::jobs::{JobError, Progress, blocking};
use crate::rules::digest::Digest256;
use crate::rules::layout::{self, ObjectKey};
use crate::rules::manifest::ObjectRecord;
use crate::rules::physical::BaseManifest;
use crate::seal::{Opener, SealError};
use crate::store::StoreError;

/// Unpacks `base` into `directory`, which is made or is empty.
pub(super) async fn unpack(means: &Means<'_>, base: &BaseManifest, directory: &Path) -> Result<(), JobError> {
    make_empty(directory)?;
    check_room(directory, base.plain_bytes)?;
    let key = layout::base_key(means.catalog.cluster(), &base.id, layout::BASE);
    let record = base.objects.get(layout::BASE).ok_or_else(|| unnamed(&key))?;
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

/// Makes `directory`, or refuses it when something is in it.
pub(super) fn make_empty(directory: &Path) -> Result<(), JobError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| disk("make", directory, source))?;
    let mut entries = std::fs::read_dir(directory).map_err(|source| disk("list", directory, source))?;
    if entries.next().is_some() {
        return Err(JobError::Refused {
            action: format!("recover into {}", directory.display()),
            reasons: vec!["it is not empty".into()],
        });
    }
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(directory, private).map_err(|source| disk("make private", directory, source))
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

/// Refuses a file system that cannot hold the copy; what the log adds to it is not known.
pub(super) fn check_room(directory: &Path, needed_bytes: u64) -> Result<(), JobError> {
    let Ok(space) = nix::sys::statvfs::statvfs(directory) else { return Ok(()) };
    let free_bytes = space.fragment_size().saturating_mul(space.blocks_available());
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(JobError::Refused {
        action: format!("recover into {}", directory.display()),
        reasons: vec![format!("the base backup has {needed_bytes} bytes, and {free_bytes} are free there")],
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_room_is_refused_before_anything_is_unpacked() {
        let directory = tempfile::TempDir::new().unwrap();
        assert!(check_room(directory.path(), 1).is_ok());
        let refused = check_room(directory.path(), u64::MAX).unwrap_err();
        assert!(refused.to_string().contains("are free there"), "{refused}");
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let directory = tempfile::TempDir::new().unwrap();
        assert!(make_empty(&directory.path().join("new")).is_ok());
        let refused = make_empty(directory.path()).unwrap_err();
        assert!(refused.to_string().contains("it is not empty"), "{refused}");
    }
}
