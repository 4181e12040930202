//! A bucket of S3, or of a store that speaks its language, as a store.
//!
//! An object is one request, or a multipart upload that is completed at its end, so it is never
//! visible in part. Bodies are never streamed: a streamed one is sent in a framing that several
//! stores do not read. `If-None-Match: *` makes an object write-once; a store that passes over it is
//! asked first. What failed is tried again, and what was cut off is read on from where it was cut.

mod client;
mod cutter;
mod download;
mod failure;
mod pace;
mod part_size;
mod probe;
mod upload;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime as S3Time;
use aws_sdk_s3::types::MultipartUpload;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use tokio::sync::Semaphore;

use self::client::ServerClock;
use self::failure::Act;
use self::pace::Pace;
pub use self::probe::{ConditionalPut, Profile};
use super::{ObjectInfo, Parts, Store, StoreError};
use crate::rules::layout::ObjectKey;
use crate::settings::S3Settings;

/// A bucket that cannot be spoken to as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum S3StoreError {
    /// The certificates of `ca_file` cannot be used.
    #[error("read certificates in {path}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls {
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is known of how a store treats `If-None-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// It was seen to refuse a second write: nobody needs to ask first.
    Honoured,
    /// Nothing is known, or it was seen to pass over the condition: every write asks first.
    Unknown,
}

/// A store in a bucket.
///
/// Clones share connections and limits.
#[derive(Debug, Clone)]
pub struct S3Store(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    client: Client,
    clock: ServerClock,
    name: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    address: String,
    settings: S3Settings,
    conditions: Conditions,
    /// A store may refuse a request that has a condition.
    takes_conditions: AtomicBool,
    pace: Pace,
    /// Memory for parts on their way, in units of [`ROOM_BYTES`].
    room: Arc<Semaphore>,
    writing: Writing,
}

const ROOM_BYTES: usize = 1 << 20;

impl S3Store {
    /// Prepares to speak to a bucket; nothing is sent to it yet.
    ///
    /// `prefix` is what every key begins with, without slashes at its ends; it may be empty.
    ///
    /// # Errors
    /// [`S3StoreError`]
    pub async fn open(
        bucket: &str,
        prefix: &str,
        settings: &S3Settings,
        conditions: Conditions,
    ) -> Result<Self, S3StoreError> {
        let (client, clock) = Box::pin(client::client(settings)).await?;
        let slash = if prefix.is_empty() { "" } else { "/" };
        Ok(Self(Arc::new(Bucket {
            client,
            clock,
            name: bucket.into(),
            prefix: format!("{prefix}{slash}"),
            address: format!("s3://{bucket}{}{prefix}", if prefix.is_empty() { "" } else { "/" }),
            conditions,
            takes_conditions: AtomicBool::new(true),
            pace: Pace::new(settings.upload_bytes_per_second),
            room: Arc::new(Semaphore::new(memory_bytes(settings).div_ceil(ROOM_BYTES))),
            writing: Writing::default(),
            settings: settings.clone(),
        })))
    }

    /// The store's clock, by its answer to a request of now; `None` when it told no time.
    ///
    /// # Errors
    /// What the store says.
    pub async fn time(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        Box::pin(self.0.page("", None, 1)).await?;
        Ok(self.0.clock.time())
    }
}

/// What all parts that are on their way may take together.
fn memory_bytes(settings: &S3Settings) -> usize {
    settings.part_bytes * settings.parallel_parts
}

impl Bucket {
    fn act<'a>(&'a self, action: &'static str, key: &'a str) -> Act<'a> {
        Act { action, key, store: &self.address }
    }

    fn full_key(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Whether an object has to be looked for before it is written.
    fn asks_first(&self) -> bool {
        self.conditions == Conditions::Unknown || !self.takes_conditions.load(Ordering::Relaxed)
    }

    async fn head(
        &self,
        key: &ObjectKey,
        action: &'static str,
    ) -> Result<Option<HeadObjectOutput>, StoreError> {
        let asked = self.client.head_object().bucket(&self.name).key(self.full_key(key)).send().await;
        match asked {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(None),
            Err(error) => {
                // An answer without a body has no code: another request is told the reason.
                if error
                    .raw_response()
                    .is_some_and(|answer| answer.status().is_client_error() || answer.status().as_u16() < 400)
                {
                    Box::pin(self.page("", None, 1)).await?;
                }
                Err(self.act(action, key.as_str()).failed(error))
            }
        }
    }

    /// One page of a listing, and where the next one begins.
    async fn page(
        &self,
        prefix: &str,
        from: Option<String>,
        most: i32,
    ) -> Result<(Vec<ObjectInfo>, Option<String>), StoreError> {
        let act = self.act("list", prefix);
        let asked = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(format!("{}{prefix}", self.prefix))
            .set_continuation_token(from)
            .max_keys(most)
            .send();
        let answer = asked.await.map_err(|error| act.failed(error))?;
        let objects = answer.contents().iter().filter_map(|object| self.info(object)).collect();
        let next = answer.next_continuation_token().filter(|_| answer.is_truncated() == Some(true));
        Ok((objects, next.map(str::to_owned)))
    }

    /// What Belay could not have written is not there.
    fn info(&self, object: &aws_sdk_s3::types::Object) -> Option<ObjectInfo> {
        let key = ObjectKey::new(object.key()?.strip_prefix(&self.prefix)?).ok()?;
        Some(ObjectInfo {
            key,
            stored_bytes: u64::try_from(object.size()?).ok()?,
            modified_at: time(object.last_modified()?)?,
        })
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut objects = Vec::new();
        let mut from = None;
        loop {
            let (page, next) = Box::pin(self.page(prefix, from, 1_000)).await?;
            objects.extend(page);
            from = next;
            if from.is_none() {
                // Some stores sort by other rules than bytes.
                objects.sort_by(|a, b| a.key.cmp(&b.key));
                return Ok(objects);
            }
        }
    }

    /// Multipart uploads that were begun below our prefix; `None` when the store cannot tell.
    async fn uploads(&self) -> Result<Option<Vec<MultipartUpload>>, StoreError> {
        let mut uploads = Vec::new();
        let (mut key, mut id) = (None, None);
        loop {
            let asked = self.client.list_multipart_uploads().bucket(&self.name).prefix(&self.prefix);
            let asked = asked.set_key_marker(key).set_upload_id_marker(id).send().await;
            let page = match asked {
                Err(error) if failure::is_not_implemented(&error) => return Ok(None),
                answer => answer.map_err(|error| self.act("list", "unfinished uploads").failed(error))?,
            };
            uploads.extend_from_slice(page.uploads());
            if page.is_truncated() != Some(true) || page.next_key_marker().is_none() {
                return Ok(Some(uploads));
            }
            key = page.next_key_marker().map(str::to_owned);
            id = page.next_upload_id_marker().map(str::to_owned);
        }
    }

    async fn abort(&self, key: &str, id: &str) -> Result<(), StoreError> {
        let asked =
            self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(id).send().await;
        match asked {
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_upload()) => Ok(()),
            answer => answer.map(drop).map_err(|error| self.act("delete", key).failed(error)),
        }
    }
}

/// A time of S3's as ours, to the second: a listing may be more exact than an answer about one object.
fn time(time: &S3Time) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), 0)
}

/// How long to wait before try `failures + 1`: by chance, and longer each time.
fn backoff(settings: &S3Settings, failures: u32) -> Duration {
    let longest = settings.first_retry_after * 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    longest.min(client::LONGEST_BACKOFF).mul_f64(rand::random_range(0.5..1.0))
}

/// Keys that this process is writing: asking whether one exists and writing it must not mix with
/// another's doing so.
#[derive(Debug, Default)]
struct Writing(Mutex<HashMap<ObjectKey, Weak<tokio::sync::Mutex<()>>>>);

impl Writing {
    async fn alone(&self, key: &ObjectKey) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            keys.retain(|_, turn| turn.strong_count() > 0);
            let turn = keys.get(key).and_then(Weak::upgrade).unwrap_or_default();
            keys.insert(key.clone(), Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}

#[async_trait]
impl Store for S3Store {
    fn address(&self) -> &str {
        &self.0.address
    }

    async fn put(&self, key: &ObjectKey, parts: Parts) -> Result<u64, StoreError> {
        upload::put(&self.0, key, parts).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        Box::pin(download::get(&self.0, key)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let act = self.0.act("read", key.as_str());
        let Some(found) = Box::pin(self.0.head(key, "read")).await? else { return Ok(None) };
        let stored_bytes = found.content_length().and_then(|bytes| u64::try_from(bytes).ok());
        let modified_at = found.last_modified().and_then(time);
        match (stored_bytes, modified_at) {
            (Some(stored_bytes), Some(modified_at)) => {
                Ok(Some(ObjectInfo { key: key.clone(), stored_bytes, modified_at }))
            }
            _ => Err(act.other("the store told neither length nor time")),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.0.list(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let asked = self.0.client.delete_object().bucket(&self.0.name).key(self.0.full_key(key));
        let answer =
            Box::pin(asked.send()).await.map_err(|error| self.0.act("delete", key.as_str()).failed(error));
        match answer {
            // Some stores say that there was nothing to remove.
            Ok(_) | Err(StoreError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn sweep_unfinished(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut swept = 0;
        // A store that cannot list them has to sweep them by a rule of its own; `belay check` says so.
        for upload in Box::pin(self.0.uploads()).await?.unwrap_or_default() {
            let is_old = upload.initiated().and_then(time).is_some_and(|at| at < before);
            if let (true, Some(key), Some(id)) = (is_old, upload.key(), upload.upload_id()) {
                Box::pin(self.0.abort(key, id)).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
