//! What a local store does on disk; everything here blocks.
//!
//! Comes in: keys, files. Goes out: plain `io` results. `AlreadyExists` from [`Directory::begin`]
//! and [`Directory::publish`] means that there is an object of this key.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use nix::fcntl::OFlag;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use tempfile::{Builder, NamedTempFile};

use super::super::ObjectInfo;
use crate::rules::layout::ObjectKey;

/// The folder of objects that are being written, on the same file system as their place.
pub(super) const UNFINISHED: &str = ".unfinished";

/// How often a folder may vanish under a writer, each time by a delete of its last object.
const PUBLISH_ATTEMPTS: u32 = 100;

/// The root of a local store.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    /// Folders that are known to be on disk. Held while folders are made or removed, so that no
    /// writer relies on a folder that another has made but not yet forced to disk.
    settled: Mutex<HashSet<PathBuf>>,
}

impl Directory {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into(), settled: Mutex::default() }
    }

    /// Makes the directory of a store, or takes an existing one.
    pub(super) fn create(root: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        if fs::read_dir(root)?.next().is_none() {
            fs::set_permissions(root, Permissions::from_mode(0o700))?;
        }
        make_folder(&root.join(UNFINISHED))?;
        sync_folder(root)?;
        match root.parent().filter(|parent| !parent.as_os_str().is_empty()).map(sync_folder) {
            // The parent may be somebody else's, to pass through and not to read.
            Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the file that an object is written to; dropped, it is removed.
    pub(super) fn begin(&self, key: &ObjectKey) -> io::Result<NamedTempFile> {
        if is_reserved(key) {
            let text = format!("keys in {UNFINISHED}/ are reserved");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if self.look_up(key)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let folder = self.root.join(UNFINISHED);
        make_folder(&folder)?;
        Builder::new().prefix("put-").rand_bytes(12).tempfile_in(folder)
    }

    /// Forces `unfinished` to disk and gives it its name, durably; removed on every error.
    pub(super) fn publish(&self, mut unfinished: NamedTempFile, key: &ObjectKey) -> io::Result<()> {
        futimens(unfinished.as_file(), &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW)?;
        unfinished.as_file().sync_all()?;
        let path = self.root.join(key.as_str());
        let folder = path.parent().unwrap_or(&self.root);
        for _ in 0..PUBLISH_ATTEMPTS {
            // Opened before: a folder that lost its last object cannot be opened afterwards.
            let opened = self.settle(folder);
            let error = match opened {
                Ok(opened) => match unfinished.persist_noclobber(&path) {
                    Ok(_) => return sync(&opened).inspect_err(|_| drop(fs::remove_file(&path))),
                    Err(refused) => {
                        unfinished = refused.file;
                        refused.error
                    }
                },
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::NotFound if unfinished.path().exists() => self.unsettle(folder),
                io::ErrorKind::NotFound => {
                    return Err(io::Error::other("the unfinished file was swept away while it was written"));
                }
                io::ErrorKind::AlreadyExists if !is_file(&path)? => {
                    return Err(io::Error::new(io::ErrorKind::IsADirectory, error));
                }
                _ => return Err(error),
            }
        }
        Err(io::Error::other(format!("{} vanished {PUBLISH_ATTEMPTS} times", folder.display())))
    }

    /// Opens an object for reading.
    pub(super) fn open(&self, key: &ObjectKey) -> io::Result<Option<File>> {
        match self.path_of(key)? {
            Some(path) if is_file(&path)? => {
                found(OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path))
            }
            _ => Ok(None),
        }
    }

    /// Looks up what an object is.
    pub(super) fn look_up(&self, key: &ObjectKey) -> io::Result<Option<ObjectInfo>> {
        let Some(path) = self.path_of(key)? else { return Ok(None) };
        let metadata = found(fs::symlink_metadata(path))?.filter(fs::Metadata::is_file);
        metadata.map(|metadata| info(key.clone(), &metadata)).transpose()
    }

    /// Finds every object whose key begins with `prefix`, sorted.
    pub(super) fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        let mut folders = Vec::new();
        match prefix.rsplit_once('/') {
            None => folders.push((String::new(), self.present_root()?.to_owned())),
            Some((folder, _)) => {
                let path = ObjectKey::new(folder).ok().map(|key| self.path_of(&key)).transpose()?.flatten();
                if let Some(path) = path
                    && is_folder(&path)?
                {
                    folders.push((format!("{folder}/"), path));
                }
            }
        }
        while let Some((parent, path)) = folders.pop() {
            for entry in found(fs::read_dir(path))?.into_iter().flatten() {
                let entry = entry?;
                let key = entry.file_name().to_str().map(|name| ObjectKey::new(format!("{parent}{name}")));
                let Some(Ok(key)) = key else { continue };
                if is_reserved(&key) || !key.as_str().starts_with(prefix) {
                    continue;
                }
                // Another process may have removed it since the folder was read.
                let Some(metadata) = found(entry.metadata())? else { continue };
                if metadata.is_dir() {
                    folders.push((format!("{key}/"), entry.path()));
                } else if metadata.is_file() {
                    objects.push(info(key, &metadata)?);
                }
            }
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Removes an object, and its folders as far as they are empty.
    pub(super) fn delete(&self, key: &ObjectKey) -> io::Result<()> {
        let Some(path) = self.path_of(key)? else { return Ok(()) };
        if is_file(&path)? {
            found(fs::remove_file(&path))?;
        }
        let mut folder = path.parent().unwrap_or(&self.root);
        let mut settled = self.settled();
        // A folder that is not empty ends this, as does one that may not be removed: it does no harm.
        while folder != self.root && found(fs::remove_dir(folder)).is_ok() {
            settled.remove(folder);
            folder = folder.parent().unwrap_or(&self.root);
        }
        drop(settled);
        // What was removed must stay removed: a manifest that comes back would list a snapshot
        // whose other objects are gone.
        while found(sync_folder(folder))?.is_none() && folder != self.root {
            folder = folder.parent().unwrap_or(&self.root);
        }
        Ok(())
    }

    /// Removes unfinished files that nobody has written to since `before`.
    pub(super) fn sweep(&self, before: DateTime<Utc>) -> io::Result<u64> {
        let folder = self.present_root()?.join(UNFINISHED);
        let mut swept = 0;
        for entry in found(fs::read_dir(folder))?.into_iter().flatten() {
            let entry = entry?;
            let Some(metadata) = found(entry.metadata())? else { continue };
            if metadata.is_file() && DateTime::<Utc>::from(metadata.modified()?) < before {
                swept += u64::from(found(fs::remove_file(entry.path()))?.is_some());
            }
        }
        Ok(swept)
    }

    /// The path of `key`, or `None` when no plain folder could hold it.
    fn path_of(&self, key: &ObjectKey) -> io::Result<Option<PathBuf>> {
        let mut path = self.present_root()?.to_owned();
        let mut segments = key.as_str().split('/').peekable();
        while let Some(segment) = segments.next() {
            path.push(segment);
            if segments.peek().is_some() && !is_folder(&path)? {
                return Ok(None);
            }
        }
        Ok((!is_reserved(key)).then_some(path))
    }

    /// The root, if it is there: a store that went away must not pass for an empty one.
    fn present_root(&self) -> io::Result<&Path> {
        fs::metadata(&self.root).map(|_| self.root.as_path())
    }

    /// Makes `folder` with its parents, forces each to disk, and opens it.
    fn settle(&self, folder: &Path) -> io::Result<File> {
        let mut settled = self.settled();
        let mut ancestors: Vec<_> = folder.ancestors().take_while(|path| *path != self.root).collect();
        ancestors.reverse();
        for path in ancestors {
            if !settled.contains(path) {
                make_folder(path)?;
                sync_folder(path.parent().unwrap_or(&self.root))?;
                settled.insert(path.to_owned());
            }
        }
        File::open(folder)
    }

    /// Forgets that `folder` and its parents were there.
    fn unsettle(&self, folder: &Path) {
        let mut settled = self.settled();
        for path in folder.ancestors() {
            settled.remove(path);
        }
    }

    fn settled(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_reserved(key: &ObjectKey) -> bool {
    key.as_str().split('/').next() == Some(UNFINISHED)
}

fn is_file(path: &Path) -> io::Result<bool> {
    Ok(found(fs::symlink_metadata(path))?.is_some_and(|metadata| metadata.is_file()))
}

fn is_folder(path: &Path) -> io::Result<bool> {
    Ok(found(fs::symlink_metadata(path))?.is_some_and(|metadata| metadata.is_dir()))
}

fn info(key: ObjectKey, metadata: &fs::Metadata) -> io::Result<ObjectInfo> {
    Ok(ObjectInfo { key, stored_bytes: metadata.len(), modified_at: metadata.modified()?.into() })
}

/// Turns "there is no such file" into `None`.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Gone again is for the caller to see when it opens the folder.
            let metadata = found(fs::symlink_metadata(path))?;
            if metadata.is_none_or(|metadata| metadata.is_dir()) {
                Ok(())
            } else {
                Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is in the way", path.display())))
            }
        }
        result => result,
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)
}

fn sync(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        // Some network file systems know no fsync of a folder and keep it durable themselves.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}
