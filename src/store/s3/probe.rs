//! Finds out what a store does of all that Belay asks of S3, by asking it.

use bytes::Bytes;
use serde::Serialize;

use super::cutter::Cutter;
use super::failure::is_not_implemented;
use super::upload::Write;
use super::{Bucket, S3Store};
use crate::rules::layout::ObjectKey;
use crate::store::{Parts, Store as _, StoreError, read_small};

/// The smallest part that S3 takes before another.
const SMALLEST_PART_BYTES: usize = 5 << 20;

/// What a store was seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// What it makes of `If-None-Match: *`.
    pub conditional_put: ConditionalPut,
    /// Whether a listing has an object as soon as it is stored.
    pub lists_at_once: bool,
    /// Whether it lists multipart uploads that were begun and not completed.
    pub lists_unfinished: bool,
    /// Whether an object was locked; `None` when the settings ask for no lock.
    pub locks: Option<bool>,
}

/// What a store makes of a write on the condition that there is no such object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConditionalPut {
    /// It refuses the second one.
    Honoured,
    /// It replaces the object.
    Ignored,
    /// It takes no request with a condition.
    Refused,
}

impl S3Store {
    /// Writes, reads, lists and removes two objects, `key` and another beside it, one of them in two
    /// parts of together 5 MiB. They are locked for no more than a minute.
    ///
    /// # Errors
    /// What the store says; [`StoreError::Io`] when it returns other bytes than were written.
    pub async fn probe(&self, key: &ObjectKey) -> Result<Profile, StoreError> {
        let in_parts = ObjectKey::new(format!("{key}-parts")).unwrap_or_else(|_| key.clone());
        let seen = Box::pin(self.try_all(key, &in_parts)).await;
        for written in [key, &in_parts] {
            let removed = self.delete(written).await;
            if seen.is_ok() {
                removed?;
            }
        }
        seen
    }

    async fn try_all(&self, key: &ObjectKey, in_parts: &ObjectKey) -> Result<Profile, StoreError> {
        let bucket = &self.0;
        let conditional_put = write_twice(bucket, key).await?;
        let lists_at_once = self.list(key.as_str()).await?.iter().any(|object| object.key == *key);
        let expected: &[u8] = if conditional_put == ConditionalPut::Honoured { FIRST } else { SECOND };
        if read_small(self, key, expected.len().max(FIRST.len())).await? != expected {
            return Err(bucket
                .act("read", key.as_str())
                .other("the store returned other bytes than were written"));
        }
        let first = Bytes::from(vec![b'a'; SMALLEST_PART_BYTES]);
        let stored_bytes =
            Write::to_try(bucket, in_parts).in_parts(first, Cutter::new(Parts::whole(FIRST))).await?;
        if self.head(in_parts).await?.map(|object| object.stored_bytes) != Some(stored_bytes) {
            return Err(bucket
                .act("read", in_parts.as_str())
                .other("two parts did not make one object of their length"));
        }
        Ok(Profile {
            conditional_put,
            lists_at_once,
            lists_unfinished: bucket.uploads().await?.is_some(),
            locks: match bucket.settings.object_lock {
                Some(_) => Some(is_locked(bucket, in_parts).await?),
                None => None,
            },
        })
    }
}

const FIRST: &[u8] = b"first";
const SECOND: &[u8] = b"second";

async fn write_twice(bucket: &std::sync::Arc<Bucket>, key: &ObjectKey) -> Result<ConditionalPut, StoreError> {
    let first = Write::to_try(bucket, key);
    match first.put_object(Bytes::from_static(FIRST)).await {
        Err(error) if is_not_implemented(&error) => {
            bucket.takes_conditions.store(false, std::sync::atomic::Ordering::Relaxed);
            let written = first.put_object(Bytes::from_static(SECOND)).await;
            return written.map(|()| ConditionalPut::Refused).map_err(|error| first.failed(error));
        }
        written => written.map_err(|error| first.failed(error))?,
    }
    let second = Write::to_try(bucket, key);
    match second.put_object(Bytes::from_static(SECOND)).await.map_err(|error| second.failed(error)) {
        Ok(()) => Ok(ConditionalPut::Ignored),
        Err(StoreError::Exists { .. }) => Ok(ConditionalPut::Honoured),
        Err(error) => Err(error),
    }
}

async fn is_locked(bucket: &Bucket, key: &ObjectKey) -> Result<bool, StoreError> {
    let found = bucket.head(key, "read").await?;
    Ok(found.is_some_and(|found| found.object_lock_mode().is_some()))
}
