//! A directory as a store.
//!
//! An object is written to `.unfinished/`, forced to disk, and only then given its name, in one
//! step that never replaces. Folders are 0700 and files 0600. Symbolic links below the root are
//! never followed, neither to read nor to write: to this store they do not exist.

mod directory;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::task::{JoinHandle, spawn_blocking};

use self::directory::{Directory, UNFINISHED};
use super::{NextPart, ObjectInfo, Parts, Store, StoreError};
use crate::rules::layout::ObjectKey;

/// Bytes of one piece of [`Store::get`]; one piece is read ahead of the reader.
const PIECE_BYTES: usize = 512 * 1024;

/// A directory that cannot be a store.
#[derive(Debug, thiserror::Error)]
pub enum LocalStoreError {
    /// There is nothing at the path.
    #[error("open store {path}: no such directory")]
    Missing {
        /// The store's directory.
        path: PathBuf,
    },
    /// Something else than a directory is at the path.
    #[error("open store {path}: not a directory")]
    NotADirectory {
        /// The store's directory.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{action} store {path}")]
    Io {
        /// `create` or `open`.
        action: &'static str,
        /// The store's directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A store in a directory of this host.
///
/// Clones share what they know of the directory. Several processes may use one directory.
#[derive(Debug, Clone)]
pub struct LocalStore {
    address: Arc<str>,
    directory: Arc<Directory>,
}

impl LocalStore {
    /// Makes `root` (0700, with its parents) and opens it.
    ///
    /// An empty directory that exists is taken and made 0700; one with files in it keeps its
    /// permissions, so that it may be called twice.
    ///
    /// # Errors
    /// [`LocalStoreError::NotADirectory`], or [`LocalStoreError::Io`] with what the system said.
    pub fn create(root: &Path) -> Result<Self, LocalStoreError> {
        match Directory::create(root) {
            // Where something else is in the way, opening says so.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::open(root),
            Err(source) => Err(LocalStoreError::Io { action: "create", path: root.into(), source }),
            Ok(()) => Self::open(root),
        }
    }

    /// Opens the store in `root`, which need not be writable.
    ///
    /// # Errors
    /// [`LocalStoreError::Missing`], [`LocalStoreError::NotADirectory`] or [`LocalStoreError::Io`].
    pub fn open(root: &Path) -> Result<Self, LocalStoreError> {
        match std::fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => Ok(Self {
                address: format!("file://{}", root.display()).into(),
                directory: Arc::new(Directory::new(root)),
            }),
            Ok(_) => Err(LocalStoreError::NotADirectory { path: root.into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LocalStoreError::Missing { path: root.into() })
            }
            Err(source) => Err(LocalStoreError::Io { action: "open", path: root.into(), source }),
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let directory = Arc::clone(&self.directory);
        blocking(move || work(&directory)).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[async_trait]
impl Store for LocalStore {
    fn address(&self) -> &str {
        &self.address
    }

    async fn put(&self, key: &ObjectKey, mut parts: Parts) -> Result<u64, StoreError> {
        let fail = |source| store_error("write", key.as_str(), &self.address, source);
        let wanted = key.clone();
        let mut unfinished = self.on_disk(move |disk| disk.begin(&wanted)).await.map_err(fail)?;
        let mut stored_bytes = 0;
        loop {
            match parts.next().await {
                NextPart::Data(part) => {
                    stored_bytes += part.len() as u64;
                    let write = move || {
                        unfinished.as_file_mut().write_all(&part)?;
                        Ok(unfinished)
                    };
                    unfinished = blocking(write).await.map_err(fail)?;
                }
                NextPart::End => break,
                NextPart::Abandoned => {
                    // Unlinking a large file takes a while; it must not hold up the runtime.
                    blocking(move || unfinished.close()).await.map_err(fail)?;
                    return Err(StoreError::Abandoned {
                        key: key.to_string(),
                        store: self.address.to_string(),
                    });
                }
            }
        }
        let wanted = key.clone();
        self.on_disk(move |disk| disk.publish(unfinished, &wanted)).await.map_err(fail)?;
        Ok(stored_bytes)
    }

    async fn get(
        &self,
        key: &ObjectKey,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let wanted = key.clone();
        let file = self
            .on_disk(move |disk| disk.open(&wanted))
            .await
            .map_err(|source| store_error("read", key.as_str(), &self.address, source))?
            .ok_or_else(|| StoreError::Missing { key: key.to_string(), store: self.address.to_string() })?;
        let (key, address) = (key.clone(), Arc::clone(&self.address));
        let pieces = stream::unfold(Some(read_ahead(file)), next_piece);
        Ok(pieces
            .map(move |piece| piece.map_err(|source| store_error("read", key.as_str(), &address, source)))
            .boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let wanted = key.clone();
        self.on_disk(move |disk| disk.look_up(&wanted))
            .await
            .map_err(|source| store_error("read", key.as_str(), &self.address, source))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let wanted = prefix.to_owned();
        self.on_disk(move |disk| disk.list(&wanted))
            .await
            .map_err(|source| store_error("list", prefix, &self.address, source))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let wanted = key.clone();
        self.on_disk(move |disk| disk.delete(&wanted))
            .await
            .map_err(|source| store_error("delete", key.as_str(), &self.address, source))
    }

    async fn sweep_unfinished(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.on_disk(move |disk| disk.sweep(before))
            .await
            .map_err(|source| store_error("delete", UNFINISHED, &self.address, source))
    }
}

type Reading = JoinHandle<(File, io::Result<Bytes>)>;

fn read_ahead(mut file: File) -> Reading {
    spawn_blocking(move || {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let result = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece);
        (file, result.map(|_| Bytes::from(piece)))
    })
}

async fn next_piece(reading: Option<Reading>) -> Option<(io::Result<Bytes>, Option<Reading>)> {
    match reading?.await {
        Ok((_, Ok(piece))) if piece.is_empty() => None,
        Ok((file, Ok(piece))) => Some((Ok(piece), Some(read_ahead(file)))),
        Ok((_, Err(error))) => Some((Err(error), None)),
        Err(error) => Some((Err(io::Error::other(error)), None)),
    }
}

fn store_error(action: &'static str, key: &str, store: &str, source: io::Error) -> StoreError {
    use io::ErrorKind::{AlreadyExists, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let (key, store) = (key.to_owned(), store.to_owned());
    match source.kind() {
        AlreadyExists if action == "write" => StoreError::Exists { key, store },
        StorageFull | QuotaExceeded if action == "write" => StoreError::Full { key, store },
        PermissionDenied | ReadOnlyFilesystem => StoreError::Denied { action, key, store },
        _ => StoreError::Io { action, key, store, source },
    }
}
