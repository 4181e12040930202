//! Stores chunks of large tables, each once: by this run, by an earlier snapshot, or by another
//! range with the same bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::Means;
use crate::catalog::Catalog;
use crate::jobs::{JobError, blocking};
use crate::keys::ChunkKey;
use crate::rules::digest::{Digest256, RowTally};
use crate::rules::layout;
use crate::rules::manifest::{ChunkPart, ChunkRecord};
use crate::seal::Sealer;
use crate::store::Parts;

/// The chunks that exist, and those that this run uses.
pub struct ChunkShelf {
    catalog: Catalog,
    sealer: Sealer,
    chunk_key: ChunkKey,
    reusable: BTreeMap<String, ChunkRecord>,
    taken_names: HashSet<String>,
    cells: Mutex<HashMap<String, Arc<OnceCell<Placed>>>>,
}

#[derive(Clone)]
struct Placed {
    record: ChunkRecord,
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    New,
    Reused,
}

impl ChunkShelf {
    /// Looks at what the store holds: a chunk is reused when trusted manifests that are sealed to
    /// the same recipients name it, and an object of its name and size is there.
    pub async fn survey(means: &Means<'_>) -> Result<Self, JobError> {
        let mut reusable = means.catalog.list().await?.reusable_chunks(&means.sealer.recipients());
        let stored = means.catalog.store().list(&layout::chunks_prefix(means.catalog.cluster())).await?;
        let sizes: HashMap<&str, u64> = stored
            .iter()
            .filter_map(|object| Some((layout::chunk_name(&object.key)?, object.stored_bytes)))
            .collect();
        reusable.retain(|_, chunk| sizes.get(chunk.name.as_str()) == Some(&chunk.stored_bytes));
        let taken_names = sizes.keys().map(|name| (*name).to_owned()).collect();
        Ok(Self {
            catalog: means.catalog.clone(),
            sealer: means.sealer.clone(),
            chunk_key: means.chunk_key.clone(),
            reusable,
            taken_names,
            cells: Mutex::default(),
        })
    }

    /// Digests `text`, stores it unless it is stored, and says what it is as a part of a table.
    /// Hands the buffer back, emptied.
    pub async fn place(self: &Arc<Self>, text: Vec<u8>) -> Result<(ChunkPart, Vec<u8>), JobError> {
        let (text, tally, plain_blake3) = blocking(move || {
            let mut tally = RowTally::default();
            tally.add_lines(&text);
            let digest = Digest256::blake3(&text);
            Ok::<_, JobError>((text, tally, digest))
        })
        .await?;
        let plain_bytes = text.len() as u64;
        let text = Bytes::from(text);
        let chunk_id = self.chunk_key.chunk_id(&plain_blake3);
        let cell = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cells.entry(chunk_id.clone()).or_default())
        };
        // Two ranges with the same bytes at the same time: the second waits for the first.
        let placed = cell.get_or_try_init(|| self.reuse_or_store(chunk_id, text.clone())).await?;
        let part = ChunkPart { name: placed.record.name.clone(), plain_bytes, plain_blake3, tally };
        let mut buffer = text.try_into_mut().map(Vec::from).unwrap_or_default();
        buffer.clear();
        Ok((part, buffer))
    }

    async fn reuse_or_store(&self, chunk_id: String, text: Bytes) -> Result<Placed, JobError> {
        if let Some(record) = self.reusable.get(&chunk_id) {
            return Ok(Placed { record: record.clone(), origin: Origin::Reused });
        }
        let sealer = self.sealer.clone();
        let (sealed, sums) = blocking(move || sealer.seal(&text)).await?;
        // The name is taken by a damaged chunk, by one that is sealed to others, or by litter of
        // unknown worth.
        let name = if self.taken_names.contains(&chunk_id) {
            format!("{chunk_id}-{}", layout::tail(rand::random()))
        } else {
            chunk_id
        };
        let key = layout::chunk_key(self.catalog.cluster(), &name);
        self.catalog.store().put(&key, Parts::whole(sealed)).await?;
        let record = ChunkRecord { name, stored_bytes: sums.stored_bytes, stored_sha256: sums.stored_sha256 };
        Ok(Placed { record, origin: Origin::New })
    }

    fn placed(&self) -> Vec<Placed> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.values().filter_map(|cell| cell.get().cloned()).collect()
    }

    /// The chunks that this run uses, sorted by name.
    pub fn used(&self) -> Vec<ChunkRecord> {
        let mut used: Vec<_> = self.placed().into_iter().map(|placed| placed.record).collect();
        used.sort();
        used
    }

    /// Chunks stored, chunks reused, and the bytes of those stored.
    pub fn counts(&self) -> (u64, u64, u64) {
        let placed = self.placed();
        let new: Vec<_> = placed.iter().filter(|placed| placed.origin == Origin::New).collect();
        let stored_bytes = new.iter().map(|placed| placed.record.stored_bytes).sum();
        (new.len() as u64, (placed.len() - new.len()) as u64, stored_bytes)
    }
}
