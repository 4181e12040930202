//! Where sealed objects are kept: one trait, write-once, for a directory or a bucket.
//!
//! Comes in: keys and sealed bytes in parts. Goes out: the same bytes. A store never sees plain
//! data or keys to it, and never replaces an object.

pub mod local;
pub mod s3;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use crate::rules::layout::ObjectKey;

/// What a store says when it cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no object of this key.
    #[error("read {key} in {store}: no such object")]
    Missing {
        /// The key asked for.
        key: String,
        /// Address of the store.
        store: String,
    },
    /// An object of this key exists; objects are write-once.
    #[error("write {key} in {store}: it exists already")]
    Exists {
        /// The key to be written.
        key: String,
        /// Address of the store.
        store: String,
    },
    /// The writer went away before its last part; nothing was stored.
    #[error("write {key} in {store}: the writer gave up before the end")]
    Abandoned {
        /// The key to be written.
        key: String,
        /// Address of the store.
        store: String,
    },
    /// The store has no room left.
    #[error("write {key} in {store}: no space left")]
    Full {
        /// The key to be written.
        key: String,
        /// Address of the store.
        store: String,
    },
    /// The store refuses for want of rights.
    #[error("{action} {key} in {store}: permission denied")]
    Denied {
        /// `read`, `write`, `list` or `delete`.
        action: &'static str,
        /// The key or prefix.
        key: String,
        /// Address of the store.
        store: String,
    },
    /// The store is not reached as the settings say, whatever the key.
    #[error("{action} {key} in {store}: {fault}")]
    Unreached {
        /// `read`, `write`, `list` or `delete`.
        action: &'static str,
        /// The key or prefix.
        key: String,
        /// Address of the store.
        store: String,
        /// What is wrong.
        fault: AccessFault,
    },
    /// Any other failure of the medium.
    #[error("{action} {key} in {store}")]
    Io {
        /// `read`, `write`, `list` or `delete`.
        action: &'static str,
        /// The key or prefix.
        key: String,
        /// Address of the store.
        store: String,
        /// What the medium said.
        #[source]
        source: std::io::Error,
    },
}

/// Why a store at the other end of a network is not reached, or does not know this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessFault {
    /// There is no such bucket.
    #[error("there is no such bucket")]
    NoBucket,
    /// The bucket is elsewhere.
    #[error("the bucket is in another region{}", named.as_ref().map(|region| format!(": {region}")).unwrap_or_default())]
    Region {
        /// The region that the store names.
        named: Option<String>,
    },
    /// No credentials were found on this host.
    #[error("no credentials are found: {0}")]
    NoCredentials(String),
    /// The store does not know the access key.
    #[error("the access key is not known there")]
    UnknownKey,
    /// The secret key does not belong to the access key.
    #[error("the secret key does not fit the access key")]
    WrongSecret,
    /// The credentials were temporary, and their time is over.
    #[error("the credentials have expired")]
    Expired,
    /// The clocks of this host and of the store are too far apart.
    #[error("the clocks of this host and of the store are too far apart")]
    Clock,
    /// The server is not the one that it should be, or speaks no TLS.
    #[error("the server cannot be trusted: {0}")]
    Tls(String),
    /// Nobody answers there.
    #[error("the server is not reached: {0}")]
    Network(String),
}

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: ObjectKey,
    /// Its length in the store.
    pub stored_bytes: u64,
    /// When it became visible, by the store's clock.
    pub modified_at: DateTime<Utc>,
}

/// One message of a writer to [`Store::put`].
#[derive(Debug)]
enum Part {
    Data(Bytes),
    End,
}

/// The writing end of an object: parts in order, then [`PartSender::blocking_finish`].
///
/// Dropped before that, it makes `put` fail with [`StoreError::Abandoned`].
#[derive(Debug)]
pub struct PartSender(mpsc::Sender<Part>);

/// The store took no more parts; its own error comes from `put`.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the store stopped taking parts")]
pub struct StoreHungUp;

impl PartSender {
    /// Hands over the next part, from a thread that may block.
    ///
    /// # Errors
    /// [`StoreHungUp`] when `put` has ended; its result says why.
    pub fn blocking_send(&self, part: Bytes) -> Result<(), StoreHungUp> {
        self.0.blocking_send(Part::Data(part)).map_err(|_| StoreHungUp)
    }

    /// Says that every part was sent, from a thread that may block.
    ///
    /// # Errors
    /// [`StoreHungUp`] when `put` has ended; its result says why.
    pub fn blocking_finish(self) -> Result<(), StoreHungUp> {
        self.0.blocking_send(Part::End).map_err(|_| StoreHungUp)
    }
}

/// The bytes of an object on their way into a store.
#[derive(Debug)]
pub struct Parts(PartsSource);

#[derive(Debug)]
enum PartsSource {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Part>),
}

/// What a store gets when it asks for the next part.
#[derive(Debug)]
pub enum NextPart {
    /// More bytes.
    Data(Bytes),
    /// The object is complete.
    End,
    /// The writer went away; the object must not become visible.
    Abandoned,
}

impl Parts {
    /// An object that is already whole in memory.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(PartsSource::Whole(Some(bytes.into())))
    }

    /// An object that arrives in parts; at most two wait in between.
    pub fn stream() -> (PartSender, Self) {
        let (sender, receiver) = mpsc::channel(2);
        (PartSender(sender), Self(PartsSource::Stream(receiver)))
    }

    /// Waits for the next part.
    pub async fn next(&mut self) -> NextPart {
        match &mut self.0 {
            PartsSource::Whole(bytes) => bytes.take().map_or(NextPart::End, NextPart::Data),
            PartsSource::Stream(receiver) => match receiver.recv().await {
                Some(Part::Data(bytes)) => NextPart::Data(bytes),
                Some(Part::End) => NextPart::End,
                None => NextPart::Abandoned,
            },
        }
    }
}

/// A place for write-once objects.
///
/// Every implementation passes the same conformance suite.
#[async_trait]
pub trait Store: Send + Sync {
    /// The store's address as in the settings, without secrets; for messages.
    fn address(&self) -> &str;

    /// Stores `parts` under `key`; the object is visible and durable when this returns `Ok`,
    /// and was never visible in part. Returns the bytes stored.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Abandoned`], [`StoreError::Full`], … Nothing is
    /// visible after an error.
    async fn put(&self, key: &ObjectKey, parts: Parts) -> Result<u64, StoreError>;

    /// Reads an object from its start, in pieces of the store's choice.
    ///
    /// # Errors
    /// [`StoreError::Missing`] and what the medium says, also within the stream.
    async fn get(&self, key: &ObjectKey)
    -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError>;

    /// Looks an object up without reading it.
    ///
    /// # Errors
    /// What the medium says; a missing object is `None`.
    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError>;

    /// Lists every object whose key begins with `prefix`, sorted by key.
    ///
    /// # Errors
    /// What the medium says. A prefix without objects is an empty list.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError>;

    /// Removes an object; removing a missing one is no error.
    ///
    /// # Errors
    /// What the medium says.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Removes what interrupted writes older than `before` left (temporary files, multipart
    /// uploads), and returns how many there were.
    ///
    /// # Errors
    /// What the medium says.
    async fn sweep_unfinished(&self, before: DateTime<Utc>) -> Result<u64, StoreError>;
}

/// Reads a whole small object.
///
/// # Errors
/// As [`Store::get`]; [`StoreError::Io`] when it is longer than `max_bytes`.
pub async fn read_small(store: &dyn Store, key: &ObjectKey, max_bytes: usize) -> Result<Vec<u8>, StoreError> {
    use futures::TryStreamExt as _;
    let mut stream = store.get(key).await?;
    let mut out = Vec::new();
    while let Some(piece) = stream.try_next().await? {
        if out.len() + piece.len() > max_bytes {
            return Err(StoreError::Io {
                action: "read",
                key: key.to_string(),
                store: store.address().into(),
                source: std::io::Error::other(format!(
                    "longer than the {max_bytes} bytes that such an object may have"
                )),
            });
        }
        out.extend_from_slice(&piece);
    }
    Ok(out)
}
