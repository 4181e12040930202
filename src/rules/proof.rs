//! Decides what the verifications of a snapshot prove of it.
//!
//! Comes in: the records of one snapshot, and the faults of others in chunks that it shares. Goes
//! out: whether something is known to be wrong with it, and how deeply it was proven good. A fault
//! found at one depth stands until a later verification of this snapshot, of the same depth or a
//! deeper one, finds nothing: what looks less closely disproves nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::layout::SnapshotId;
use super::manifest::{Depth, Manifest, Verification};

/// What a verification found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// How deep the verification went.
    pub depth: Depth,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Each problem as a sentence.
    pub problems: Vec<String>,
}

/// The newest fault that nothing has overcome; `shared` are those of [`shared_fault`].
pub fn standing_fault(records: &[Verification], shared: &[Fault]) -> Option<Fault> {
    let is_overcome = |fault: &Fault| {
        records.iter().any(|record| record.is_ok && record.at > fault.at && record.depth >= fault.depth)
    };
    faults(records, shared).filter(|fault| !is_overcome(fault)).max_by_key(|fault| fault.at)
}

/// The deepest, then newest, verification that found nothing; none while a fault stands, and of
/// those before the last fault none counts any more.
pub fn proven<'r>(records: &'r [Verification], shared: &[Fault]) -> Option<&'r Verification> {
    if standing_fault(records, shared).is_some() {
        return None;
    }
    let last_fault = faults(records, shared).map(|fault| fault.at).max();
    records
        .iter()
        .filter(|record| record.is_ok && last_fault.is_none_or(|fault_at| record.at > fault_at))
        .max_by_key(|record| (record.depth, record.at))
}

/// What a verification of another snapshot found that `manifest` has a share in.
pub fn shared_fault(manifest: &Manifest, of_other: &Verification) -> Option<Fault> {
    let damaged = shared_chunks(manifest, of_other);
    (of_other.id != manifest.id && !damaged.is_empty()).then(|| Fault {
        depth: of_other.depth,
        at: of_other.at,
        problems: damaged.iter().map(|chunk| was_damaged(chunk, &of_other.id)).collect(),
    })
}

/// The record to keep beside the snapshot of `manifest` of what a verification of another found:
/// it outlives the other.
pub fn shared_record(manifest: &Manifest, of_other: &Verification) -> Option<Verification> {
    let fault = shared_fault(manifest, of_other)?;
    Some(Verification {
        id: manifest.id.clone(),
        is_ok: false,
        problems: fault.problems,
        damaged_chunks: shared_chunks(manifest, of_other),
        tables_compared: 0,
        rows_compared: 0,
        restore_ms: None,
        elapsed_ms: 0,
        ..of_other.clone()
    })
}

fn shared_chunks(manifest: &Manifest, of_other: &Verification) -> Vec<String> {
    let damaged: BTreeSet<&String> = of_other.damaged_chunks.iter().collect();
    let names = manifest.chunks.iter().map(|chunk| &chunk.name);
    names.filter(|name| damaged.contains(name)).cloned().collect()
}

fn was_damaged(chunk: &str, verified: &SnapshotId) -> String {
    format!("chunk {chunk} was found damaged when {verified} was verified")
}

fn faults(records: &[Verification], shared: &[Fault]) -> impl Iterator<Item = Fault> {
    let own = records.iter().filter(|record| !record.is_ok).map(|record| Fault {
        depth: record.depth,
        at: record.at,
        problems: record.problems.clone(),
    });
    shared.iter().cloned().chain(own)
}

#[cfg(test)]
mod tests;
