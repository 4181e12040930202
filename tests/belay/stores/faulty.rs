//! A store that fails, cuts, corrupts or delays the operations that a test names.
//!
//! It also keeps a record of every operation, so that a test can say in which order things
//! were done.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use belay::rules::layout::ObjectKey;
use belay::store::{NextPart, ObjectInfo, Parts, Store, StoreError};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::Semaphore;

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Put,
    Get,
    Head,
    List,
    Delete,
    Sweep,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing is done, and an I/O error comes back.
    Fail,
    /// Nothing is done; the store is full.
    Full,
    /// Nothing is done; the store refuses.
    Denied,
    /// It is done, and an I/O error comes back: the answer was lost.
    FailAfter,
    /// An I/O error after this many bytes of a put or a get.
    FailAt(usize),
    /// Only this many bytes are stored or read, and success comes back.
    CutAt(usize),
    /// One bit of the byte at this offset is turned over, and success comes back.
    FlipAt(usize),
    /// It is done after this time.
    Delay(Duration),
    /// It is done once the test adds a permit.
    Hold(Arc<Semaphore>),
}

struct Planned {
    operation: Operation,
    /// What the key or prefix holds; empty for any.
    part_of_key: String,
    /// Matching operations to let pass before.
    let_pass: usize,
    fault: Fault,
}

/// A store in front of another one.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    planned: Mutex<Vec<Planned>>,
    record: Mutex<Vec<(Operation, String)>>,
}

impl FaultyStore {
    /// A store without faults yet.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, planned: Mutex::default(), record: Mutex::default() }
    }

    /// Plans `fault` for the `nth` operation of its kind from here on; the first is 1.
    pub fn on(self, operation: Operation, nth: usize, fault: Fault) -> Self {
        self.on_key(operation, "", nth, fault)
    }

    /// As [`FaultyStore::on`], where only keys and prefixes that hold `part_of_key` count.
    pub fn on_key(self, operation: Operation, part_of_key: &str, nth: usize, fault: Fault) -> Self {
        let planned = Planned { operation, part_of_key: part_of_key.into(), let_pass: nth - 1, fault };
        self.planned.lock().unwrap().push(planned);
        self
    }

    /// Every operation that was asked for, in order, with its key or prefix.
    pub fn record(&self) -> Vec<(Operation, String)> {
        self.record.lock().unwrap().clone()
    }

    /// Records an operation and takes the fault that is due; waits out a delay.
    async fn begin(&self, operation: Operation, key: &str) -> Result<Option<Fault>, StoreError> {
        self.record.lock().unwrap().push((operation, key.into()));
        match self.due(operation, key) {
            Some(Fault::Fail) => Err(self.broken(key)),
            Some(Fault::Full) => {
                Err(StoreError::Full { key: key.into(), store: self.inner.address().into() })
            }
            Some(Fault::Denied) => {
                let (key, store) = (key.into(), self.inner.address().into());
                Err(StoreError::Denied { action: "use", key, store })
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            Some(Fault::Hold(permits)) => {
                permits.acquire().await.unwrap().forget();
                Ok(None)
            }
            fault => Ok(fault),
        }
    }

    fn due(&self, operation: Operation, key: &str) -> Option<Fault> {
        let mut planned = self.planned.lock().unwrap();
        let mut due = None;
        for (at, plan) in planned.iter_mut().enumerate() {
            if plan.operation == operation && key.contains(&plan.part_of_key) {
                match plan.let_pass.checked_sub(1) {
                    Some(fewer) => plan.let_pass = fewer,
                    None => due = due.or(Some(at)),
                }
            }
        }
        due.map(|at| planned.remove(at).fault)
    }

    fn broken(&self, key: &str) -> StoreError {
        broken(self.inner.address(), key)
    }

    /// Passes on the result, unless the answer is to be lost.
    fn answer<T>(&self, key: &str, fault: Option<Fault>, value: T) -> Result<T, StoreError> {
        match fault {
            Some(Fault::FailAfter) => Err(self.broken(key)),
            None => Ok(value),
            Some(fault) => panic!("{fault:?} means nothing for {key}"),
        }
    }
}

fn broken(store: &str, key: &str) -> StoreError {
    let source = std::io::Error::other("broken by the test");
    StoreError::Io { action: "use", key: key.into(), store: store.into(), source }
}

/// What is left of `bytes`, and whether an error follows.
fn damage(fault: &Fault, mut bytes: Vec<u8>) -> (Vec<u8>, bool) {
    match *fault {
        Fault::FailAt(at) => {
            bytes.truncate(at);
            return (bytes, true);
        }
        Fault::CutAt(at) => bytes.truncate(at),
        Fault::FlipAt(at) => bytes[at] ^= 1,
        _ => {}
    }
    (bytes, matches!(fault, Fault::FailAfter))
}

/// Reads all parts; `None` when the writer gave up.
async fn collect(mut parts: Parts) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        match parts.next().await {
            NextPart::Data(part) => bytes.extend_from_slice(&part),
            NextPart::End => return Some(bytes),
            NextPart::Abandoned => return None,
        }
    }
}

/// Takes parts up to `limit` bytes, as a store does whose medium breaks then.
async fn take_up_to(parts: &mut Parts, limit: usize) {
    let mut taken = 0;
    while taken < limit {
        match parts.next().await {
            NextPart::Data(part) => taken += part.len(),
            NextPart::End | NextPart::Abandoned => return,
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn put(&self, key: &ObjectKey, mut parts: Parts) -> Result<u64, StoreError> {
        let Some(fault) = self.begin(Operation::Put, key.as_str()).await? else {
            return self.inner.put(key, parts).await;
        };
        if let Fault::FailAt(limit) = fault {
            take_up_to(&mut parts, limit).await;
            return Err(self.broken(key.as_str()));
        }
        let Some(bytes) = collect(parts).await else {
            let (sender, abandoned) = Parts::stream();
            drop(sender);
            return self.inner.put(key, abandoned).await;
        };
        let told_bytes = bytes.len() as u64;
        let (bytes, is_lost) = damage(&fault, bytes);
        self.inner.put(key, Parts::whole(bytes)).await?;
        if is_lost { Err(self.broken(key.as_str())) } else { Ok(told_bytes) }
    }

    async fn get(
        &self,
        key: &ObjectKey,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let fault = self.begin(Operation::Get, key.as_str()).await?;
        let mut pieces = self.inner.get(key).await?;
        let Some(fault) = fault else { return Ok(pieces) };
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        let (bytes, is_broken) = damage(&fault, bytes);
        let mut pieces: Vec<_> = bytes.chunks(1_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        pieces.extend(is_broken.then(|| Err(self.broken(key.as_str()))));
        Ok(stream::iter(pieces).boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        let fault = self.begin(Operation::Head, key.as_str()).await?;
        self.answer(key.as_str(), fault, self.inner.head(key).await?)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let fault = self.begin(Operation::List, prefix).await?;
        self.answer(prefix, fault, self.inner.list(prefix).await?)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let fault = self.begin(Operation::Delete, key.as_str()).await?;
        self.inner.delete(key).await?;
        self.answer(key.as_str(), fault, ())
    }

    async fn sweep_unfinished(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let fault = self.begin(Operation::Sweep, "").await?;
        self.answer("", fault, self.inner.sweep_unfinished(before).await?)
    }
}
