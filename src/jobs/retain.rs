//! Removes what no policy keeps: old snapshots, litter, chunks that nobody needs, and databases
//! that a restore set aside long enough.
//!
//! Comes in: the catalog, the policy, the time. Goes out: a report on every snapshot. The caller
//! holds the repository's lock exclusively: a snapshot in flight refers to chunks that no manifest
//! names yet. Interrupted anywhere, what is left is consistent: a manifest goes before its payload.

mod physical;
pub mod replaced;

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt as _;

use super::restore::recover;
use super::{JobError, Progress};
use crate::catalog::{Catalog, Entry, Listing};
use crate::ledger::Ledger;
use crate::rules::causes::in_a_sentence;
use crate::rules::layout::{self, SnapshotId};
use crate::rules::retention::{self, Decision, KeepReason, Policy, StoredChunk, StoredObject, Verdict};
use crate::settings::Connection;
use crate::store::{ObjectInfo, Store};

const DELETES_AT_ONCE: usize = 8;

/// What retention works with.
pub struct Means<'a> {
    /// The catalog.
    pub catalog: &'a Catalog,
    /// Where databases that were set aside are recorded.
    pub ledger: &'a Ledger,
    /// One connection for each cluster that the settings name.
    pub clusters: &'a [Connection],
    /// How long snapshots stay.
    pub policy: Policy,
    /// Age from which payload without a manifest goes.
    pub litter_grace: TimeDelta,
    /// How far it is.
    pub progress: &'a Progress,
}

/// Whether anything is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Remove it.
    CarryOut,
    /// Only say what would be removed.
    DryRun,
}

/// A snapshot and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Judged {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its database.
    pub database: String,
    /// Why it stays or goes, in words.
    pub reason: String,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Retained {
    /// Snapshots that went, the oldest of each database first.
    pub removed: Vec<Judged>,
    /// Snapshots that stay.
    pub kept: Vec<Judged>,
    /// Chunks that no manifest refers to.
    pub chunks_removed: usize,
    /// Pieces of the write-ahead log that no base backup needs.
    pub wal_removed: usize,
    /// Objects of snapshots that were never finished or only half removed.
    pub litter_removed: usize,
    /// Writes that were interrupted; always 0 in a dry run, which cannot see them.
    pub unfinished_removed: u64,
    /// Bytes in the store.
    pub freed_bytes: u64,
    /// Databases set aside by a restore that were dropped.
    pub databases_dropped: Vec<String>,
    /// What was left though it might have gone, and what a person should look at; one sentence each.
    pub left: Vec<String>,
}

/// Carries out the policy, or says what it would do.
///
/// # Errors
/// What the store or the ledger say; what was removed until then stays removed. A cluster that
/// does not answer is in [`Retained::left`]: it must not keep a full repository from being swept.
pub async fn retain(means: &Means<'_>, mode: Mode, now: DateTime<Utc>) -> Result<Retained, JobError> {
    let mut retained = Retained::default();
    if mode == Mode::CarryOut {
        means.progress.enter("settling interrupted restores");
        settle(means, &mut retained).await;
    }
    means.progress.enter("reading the catalog");
    let listing = means.catalog.list().await?;
    judge(means, &listing, now, &mut retained);
    let sweep = Sweep { store: means.catalog.store().as_ref(), mode, progress: means.progress };
    means.progress.enter("removing snapshots");
    sweep.snapshots(&listing, &mut retained).await?;
    means.progress.enter("removing base backups and log");
    sweep.physical(means, now, &mut retained).await?;
    means.progress.enter("sweeping litter");
    sweep.litter(&listing, means.litter_grace, now, &mut retained).await?;
    means.progress.enter("sweeping chunks");
    sweep.chunks(means, &listing, now, &mut retained).await?;
    if mode == Mode::CarryOut {
        retained.unfinished_removed = sweep.store.sweep_unfinished(now - means.litter_grace).await?;
    }
    means.progress.enter("dropping databases set aside");
    replaced::drop_expired(means.ledger, means.clusters, mode, now, &mut retained).await?;
    Ok(retained)
}

async fn settle(means: &Means<'_>, retained: &mut Retained) {
    for cluster in means.clusters {
        if let Err(error) = recover::settle(means.ledger, cluster).await {
            retained.left.push(format!(
                "interrupted restores at {}:{} are not settled: {}",
                cluster.host,
                cluster.port,
                in_a_sentence(&error)
            ));
        }
    }
}

fn judge(means: &Means<'_>, listing: &Listing, now: DateTime<Utc>, retained: &mut Retained) {
    let candidates: Vec<_> = listing.entries.iter().map(Entry::candidate).collect();
    for Verdict { id, database, decision } in retention::plan(&candidates, &means.policy, now).verdicts {
        if decision == Decision::Keep(KeepReason::DatedInFuture) {
            let text = format!(
                "snapshot {id} of {database} is dated in the future and stays: a clock was or is wrong"
            );
            retained.left.push(text);
        }
        let judged = Judged { id, database, reason: decision.to_string() };
        match decision {
            Decision::Keep(_) => retained.kept.push(judged),
            Decision::Remove(_) => retained.removed.push(judged),
        }
    }
    for rejected in &listing.rejected {
        let home = &rejected.home;
        retained.left.push(format!(
            "snapshot {} of {} is not believed and stays: {}",
            home.id,
            home.database,
            rejected.reason()
        ));
    }
    if !listing.rejected.is_empty() {
        let text = "no chunk was swept: a manifest that is not believed may still need some";
        retained.left.push(text.into());
    }
}

/// Removes objects, or only counts them.
struct Sweep<'a> {
    store: &'a dyn Store,
    mode: Mode,
    progress: &'a Progress,
}

impl Sweep<'_> {
    async fn snapshots(&self, listing: &Listing, retained: &mut Retained) -> Result<(), JobError> {
        let going: BTreeSet<SnapshotId> = retained.removed.iter().map(|judged| judged.id.clone()).collect();
        for entry in listing.entries.iter().filter(|entry| going.contains(&entry.manifest.id)) {
            retained.freed_bytes += self.folder(&entry.home.prefix()).await?;
        }
        Ok(())
    }

    /// Removes a snapshot or a base backup; returns how many bytes it had.
    async fn folder(&self, prefix: &str) -> Result<u64, JobError> {
        let objects = self.store.list(prefix).await?;
        let (manifest, payload): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object.key.file_name() == layout::MANIFEST);
        // What is listed is whole: first it stops being listed.
        Ok(self.remove(manifest).await? + self.remove(payload).await?)
    }

    async fn litter(
        &self,
        listing: &Listing,
        grace: TimeDelta,
        now: DateTime<Utc>,
        retained: &mut Retained,
    ) -> Result<(), JobError> {
        let stored: Vec<_> = listing
            .unpublished
            .iter()
            .map(|object| StoredObject { key: &object.key, modified_at: object.modified_at })
            .collect();
        let litter: BTreeSet<_> = retention::litter(&stored, grace, now).into_iter().collect();
        let objects: Vec<_> =
            listing.unpublished.iter().filter(|object| litter.contains(&object.key)).cloned().collect();
        retained.litter_removed += objects.len();
        retained.freed_bytes += self.remove(objects).await?;
        Ok(())
    }

    async fn chunks(
        &self,
        means: &Means<'_>,
        listing: &Listing,
        now: DateTime<Utc>,
        retained: &mut Retained,
    ) -> Result<(), JobError> {
        if !listing.rejected.is_empty() {
            return Ok(());
        }
        let kept: BTreeSet<&SnapshotId> = retained.kept.iter().map(|judged| &judged.id).collect();
        let staying = listing.entries.iter().filter(|entry| kept.contains(&entry.manifest.id));
        let referenced: BTreeSet<&str> =
            staying.flat_map(|entry| &entry.manifest.chunks).map(|chunk| chunk.name.as_str()).collect();
        let objects = self.store.list(&layout::chunks_prefix(means.catalog.cluster())).await?;
        let stored: Vec<_> = objects
            .iter()
            .filter_map(|object| {
                Some(StoredChunk { name: layout::chunk_name(&object.key)?, modified_at: object.modified_at })
            })
            .collect();
        let unreferenced: BTreeSet<_> =
            retention::unreferenced_chunks(&stored, &referenced, means.litter_grace, now)
                .into_iter()
                .collect();
        let is_unreferenced = |object: &&ObjectInfo| {
            layout::chunk_name(&object.key).is_some_and(|name| unreferenced.contains(name))
        };
        let objects: Vec<_> = objects.iter().filter(is_unreferenced).cloned().collect();
        retained.chunks_removed = objects.len();
        retained.freed_bytes += self.remove(objects).await?;
        Ok(())
    }

    /// Removes the objects and returns how many bytes they had.
    async fn remove(&self, objects: Vec<ObjectInfo>) -> Result<u64, JobError> {
        let bytes = objects.iter().map(|object| object.stored_bytes).sum();
        if self.mode == Mode::CarryOut {
            futures::stream::iter(objects.into_iter().map(Ok))
                .try_for_each_concurrent(DELETES_AT_ONCE, |object| async move {
                    self.store.delete(&object.key).await?;
                    self.progress.beat();
                    Ok::<_, JobError>(())
                })
                .await?;
        }
        Ok(bytes)
    }
}
