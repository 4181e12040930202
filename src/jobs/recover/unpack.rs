//! Unpacks a base backup into a directory, checked against its manifest as it passes.

use std::io::{self, Read};
use std::path::Path;

use futures::TryStreamExt as _;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{Means, disk};
use crate::jobs::load::StoredCheck;
use crate::jobs::{JobError, Progress, blocking};
use crate::rules::digest::Digest256;
use crate::rules::layout;
use crate::rules::manifest::ObjectRecord;
use crate::rules::physical::BaseManifest;
use crate::seal::{Opener, SealError};

/// Unpacks `base` into `directory`, which is made or is empty.
pub(super) async fn unpack(means: &Means<'_>, base: &BaseManifest, directory: &Path) -> Result<(), JobError> {
    make_empty(directory)?;
    check_room(directory, base.plain_bytes)?;
    let key = layout::base_key(means.catalog.cluster(), &base.id, layout::BASE);
    let damaged = |reason: &str| JobError::Object {
        key: key.to_string(),
        source: SealError::Damaged(io::Error::other(reason.to_owned())),
    };
    let record =
        base.objects.get(layout::BASE).ok_or_else(|| damaged("the manifest does not name it"))?.clone();
    let pieces = means.catalog.store().get(&key).await?;
    let sealed = SyncIoBridge::new(StreamReader::new(pieces.map_err(io::Error::other)));
    let (opener, progress) = (means.opener.clone(), std::sync::Arc::clone(means.progress));
    let to = directory.to_owned();
    let unpacked =
        blocking(move || Ok::<_, JobError>(unpack_from(sealed, &opener, &record, &to, &progress))).await?;
    unpacked.map_err(|source| JobError::Object { key: key.to_string(), source })
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

fn unpack_from(
    sealed: impl Read,
    opener: &Opener,
    record: &ObjectRecord,
    to: &Path,
    progress: &Progress,
) -> Result<(), SealError> {
    let mut stored = Counted { from: sealed, check: StoredCheck::default() };
    {
        let opened = opener.open(&mut stored)?;
        let mut plain = Digested { from: opened, digest: blake3::Hasher::new(), bytes: 0, progress };
        let mut archive = tar::Archive::new(&mut plain);
        archive.set_preserve_permissions(true);
        archive.set_preserve_mtime(false);
        archive.unpack(to).map_err(SealError::Damaged)?;
        // What follows the end of the archive belongs to the object too.
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
