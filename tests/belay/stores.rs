//! Stores: the doubles that other tests use, and one conformance suite for every store.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

pub mod faulty;
pub mod memory;

mod conformance;
mod doubles;
mod local;
mod s3;

use belay::rules::layout::ObjectKey;
use belay::store::{Parts, Store, StoreError};
use futures::TryStreamExt as _;

/// The key that `text` is.
pub fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Stores `bytes` under `text`.
pub async fn put(store: &dyn Store, text: &str, bytes: impl AsRef<[u8]>) -> Result<u64, StoreError> {
    store.put(&key(text), Parts::whole(bytes.as_ref().to_vec())).await
}

/// Reads the whole object `text`.
pub async fn get(store: &dyn Store, text: &str) -> Result<Vec<u8>, StoreError> {
    let pieces: Vec<_> = store.get(&key(text)).await?.try_collect().await?;
    Ok(pieces.concat())
}

/// The keys that begin with `prefix`, as the store lists them.
pub async fn listed(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|object| object.key.to_string()).collect()
}
