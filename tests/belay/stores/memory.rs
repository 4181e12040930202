//! A store in memory, with a clock that the test sets and objects that the test may damage.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use belay::rules::layout::ObjectKey;
use belay::store::{NextPart, ObjectInfo, Parts, Store, StoreError};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

const ADDRESS: &str = "memory://test";
/// So small that an object of a few kilobytes comes in several pieces.
const PIECE_BYTES: usize = 1_000;

/// A store that keeps objects as long as it lives.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<ObjectKey, (Bytes, DateTime<Utc>)>,
    time: DateTime<Utc>,
}

impl MemoryStore {
    /// An empty store whose clock stands at `time`.
    pub fn at(time: DateTime<Utc>) -> Self {
        Self { state: Mutex::new(State { objects: BTreeMap::new(), time }) }
    }

    /// Sets the clock: objects that become visible from now on bear `time`.
    pub fn set_time(&self, time: DateTime<Utc>) {
        self.state().time = time;
    }

    /// Changes the bytes of an object behind the back of the program.
    pub fn tamper(&self, key: &ObjectKey, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let (bytes, _) = state.objects.get_mut(key).unwrap();
        let mut changed = bytes.to_vec();
        change(&mut changed);
        *bytes = changed.into();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn address(&self) -> &str {
        ADDRESS
    }

    async fn put(&self, key: &ObjectKey, mut parts: Parts) -> Result<u64, StoreError> {
        let mut bytes = Vec::new();
        loop {
            match parts.next().await {
                NextPart::Data(part) => bytes.extend_from_slice(&part),
                NextPart::End => break,
                NextPart::Abandoned => {
                    return Err(StoreError::Abandoned { key: key.to_string(), store: ADDRESS.into() });
                }
            }
        }
        let stored_bytes = bytes.len() as u64;
        let mut state = self.state();
        let time = state.time;
        if state.objects.contains_key(key) {
            return Err(StoreError::Exists { key: key.to_string(), store: ADDRESS.into() });
        }
        state.objects.insert(key.clone(), (bytes.into(), time));
        Ok(stored_bytes)
    }

    async fn get(
        &self,
        key: &ObjectKey,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let state = self.state();
        let (bytes, _) = state
            .objects
            .get(key)
            .ok_or_else(|| StoreError::Missing { key: key.to_string(), store: ADDRESS.into() })?;
        let pieces: Vec<_> = bytes.chunks(PIECE_BYTES).map(|piece| Ok(bytes.slice_ref(piece))).collect();
        Ok(stream::iter(pieces).boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.state().objects.get_key_value(key).map(info))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let state = self.state();
        Ok(state.objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix)).map(info).collect())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.state().objects.remove(key);
        Ok(())
    }

    async fn sweep_unfinished(&self, _before: DateTime<Utc>) -> Result<u64, StoreError> {
        Ok(0)
    }
}

fn info((key, (bytes, modified_at)): (&ObjectKey, &(Bytes, DateTime<Utc>))) -> ObjectInfo {
    ObjectInfo { key: key.clone(), stored_bytes: bytes.len() as u64, modified_at: *modified_at }
}
