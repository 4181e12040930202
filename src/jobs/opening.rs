//! Opens an object of the store as a stream, checked on both sides while it passes.
//!
//! Where what is opened cannot be written, that says nothing of the object: it is an error of our disk.

mod ahead;

use std::error::Error;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt as _;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::load::StoredCheck;
use super::{JobError, blocking, disk};
use crate::postgres::pipes::pump;
use crate::rules::digest::Digest256;
use crate::rules::layout::ObjectKey;
use crate::rules::manifest::ObjectRecord;
use crate::seal::{Opener, SealError};
use crate::store::{Store, StoreError};

/// Writes what the object `key` holds into `to`, a file at `path` if it is one. What was written counts only
/// when this returns `Ok`.
///
/// # Errors
/// What the store says; [`JobError::Object`] when it is not what `record` says; [`JobError::Disk`] when the
/// file cannot be written.
pub(super) async fn open_into<W: Write + Send + 'static>(
    store: &dyn Store,
    opener: &Opener,
    key: &ObjectKey,
    record: &ObjectRecord,
    (mut to, path): (W, Option<&Path>),
) -> Result<W, JobError> {
    let take = move |plain: &mut dyn Read| pump(plain, &mut to, |_| {}).map(|_| to);
    open_through(store, opener, key, record, |_| {}, (take, path)).await
}

/// Why an object did not pass.
enum NotTaken {
    /// It is not what was stored.
    Object(SealError),
    /// Whoever took it could not write it.
    Written(io::Error),
}

impl NotTaken {
    /// The error of the object `key`, or of writing at `path`.
    fn of(self, key: &ObjectKey, path: Option<&Path>) -> JobError {
        match (self, path) {
            (Self::Written(source), Some(path)) => disk("write", path, source),
            (Self::Written(source), None) => {
                JobError::Object { key: key.to_string(), source: SealError::Damaged(source) }
            }
            (Self::Object(source), _) => JobError::Object { key: key.to_string(), source },
        }
    }
}

/// Opens an object from its first byte to its last, hands the plain bytes to `take`, which need not read
/// all of them, and compares both digests; `on_bytes` hears of plain bytes that pass. With `take` comes where
/// that writes, if it does.
///
/// # Errors
/// What the store says; [`JobError::Object`] when it is not what `record` says, also after `take` had it;
/// [`JobError::Disk`] when `take` cannot write.
pub(super) async fn open_through<T: Send + 'static>(
    store: &dyn Store,
    opener: &Opener,
    key: &ObjectKey,
    record: &ObjectRecord,
    on_bytes: impl Fn(usize) + Send + 'static,
    (take, path): (impl FnOnce(&mut dyn Read) -> io::Result<T> + Send + 'static, Option<&Path>),
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
    opened.map_err(|failed| match lost {
        Some(error) => error.into(),
        None => failed.of(key, path),
    })
}

fn take_from<T>(
    sealed: impl Read + Send,
    opener: &Opener,
    record: &ObjectRecord,
    on_bytes: impl Fn(usize) + Send,
    take: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> Result<T, NotTaken> {
    let damaged = |error| NotTaken::Object(SealError::Damaged(error));
    let mut stored = Counted { from: sealed, check: StoredCheck::default() };
    let opened = opener.open(&mut stored).map_err(NotTaken::Object)?;
    let digest = blake3::Hasher::new();
    let most = record.plain_bytes;
    let mut plain = Digested { from: opened, digest, bytes: 0, most, has_failed: false, on_bytes };
    let taken = ahead::of(&mut plain, take);
    let taken = taken.map_err(|error| match plain.has_failed || !is_of_the_system(&error) {
        true => damaged(error),
        false => NotTaken::Written(error),
    })?;
    // What was not taken, as what follows the end of an archive, belongs to the object too.
    io::copy(&mut plain, &mut io::sink()).map_err(damaged)?;
    let found: Digest256 = plain.digest.finalize().into();
    if plain.bytes != record.plain_bytes || found != record.plain_blake3 {
        return Err(damaged(io::Error::other("its contents are not those of the manifest")));
    }
    drop(plain);
    io::copy(&mut stored, &mut io::sink()).map_err(damaged)?;
    stored.check.finish(record.stored_bytes, record.stored_sha256).map_err(damaged)?;
    Ok(taken)
}

/// Whether the system said it, and not whoever found no sense in the bytes.
fn is_of_the_system(error: &io::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some()) {
            return true;
        }
        next = cause.source();
    }
    false
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
    /// More would be another object than the manifest names: it might go on for ever.
    most: u64,
    /// Whether they could not be read.
    has_failed: bool,
    on_bytes: F,
}

impl<R: Read, F: Fn(usize)> Read for Digested<R, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into).inspect_err(|_| self.has_failed = true)?;
        self.digest.update(into.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        if self.bytes > self.most {
            self.has_failed = true;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds more than the manifest says"));
        }
        (self.on_bytes)(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use age::x25519::Identity;

    use super::*;
    use crate::seal::Sealer;

    fn sealed(plain: &[u8]) -> (Vec<u8>, ObjectRecord, Opener) {
        let identity = Identity::generate();
        let (bytes, record) = Sealer::new(vec![identity.to_public()]).unwrap().seal(plain).unwrap();
        (bytes.to_vec(), record, Opener::new(vec![identity]))
    }

    fn an_archive() -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(100_000);
        header.set_mode(0o600);
        archive.append_data(&mut header, "base/1/1259", [7; 100_000].as_slice()).unwrap();
        archive.into_inner().unwrap()
    }

    /// What comes of an object that is unpacked at `path`.
    fn unpacked(bytes: &[u8], record: &ObjectRecord, opener: &Opener, path: &Path) -> Result<(), JobError> {
        let key = ObjectKey::new("prod/base/x/base.tar.gz.age").unwrap();
        let take = |plain: &mut dyn Read| tar::Archive::new(plain).unpack(path);
        take_from(bytes, opener, record, |_| {}, take).map_err(|failed| failed.of(&key, Some(path)))
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_no_damage() {
        let (bytes, record, opener) = sealed(&an_archive());
        let room = tempfile::TempDir::new().unwrap();
        unpacked(&bytes, &record, &opener, room.path()).unwrap();
        assert!(room.path().join("base/1/1259").exists());

        let full = Path::new("/dev/full");
        let copy = |plain: &mut dyn Read| {
            io::copy(plain, &mut std::fs::OpenOptions::new().write(true).open(full)?).map(drop)
        };
        let failed = take_from(bytes.as_slice(), &opener, &record, |_| {}, copy).unwrap_err();
        let key = ObjectKey::new("prod/wal/x").unwrap();
        let error = failed.of(&key, Some(full));
        assert!(
            matches!(&error, JobError::Disk { path, source, .. }
                if path == full && source.kind() == io::ErrorKind::StorageFull),
            "{error:?}"
        );
        // A file lies where a directory has to be made.
        let blocked = tempfile::NamedTempFile::new().unwrap();
        let error = unpacked(&bytes, &record, &opener, &blocked.path().join("data")).unwrap_err();
        assert!(matches!(error, JobError::Disk { .. }), "{error:?}");
    }

    #[test]
    fn damage_is_no_error_of_the_disk() {
        let room = tempfile::TempDir::new().unwrap();
        let (bytes, record, opener) = sealed(&an_archive());
        for at in [bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            let error = unpacked(&flipped, &record, &opener, room.path()).unwrap_err();
            assert!(matches!(error, JobError::Object { .. }), "{at}: {error:?}");
        }
        // What is no archive is not what a manifest of ours names.
        let (bytes, record, opener) = sealed(&[b'x'; 4096]);
        let error = unpacked(&bytes, &record, &opener, room.path()).unwrap_err();
        assert!(matches!(error, JobError::Object { .. }), "{error:?}");
    }
}
