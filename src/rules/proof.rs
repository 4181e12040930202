//! Decides what the verifications of a snapshot prove of it.
//!
//! Comes in: the records of one snapshot. Goes out: whether something is known to be wrong with
//! it, and how deeply it was proven good. A fault found at one depth stands until a later
//! verification of the same depth, or a deeper one, finds nothing: what looks less closely
//! disproves nothing.

use chrono::{DateTime, Utc};

use super::manifest::{Depth, Verification};

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

/// The newest fault that nothing has overcome.
pub fn standing_fault(records: &[Verification]) -> Option<Fault> {
    let is_overcome = |fault: &Fault| {
        records.iter().any(|record| record.is_ok && record.at > fault.at && record.depth >= fault.depth)
    };
    faults(records).filter(|fault| !is_overcome(fault)).max_by_key(|fault| fault.at)
}

/// The deepest, then newest, verification that found nothing; none while a fault stands, and of
/// those before the last fault none counts any more.
pub fn proven(records: &[Verification]) -> Option<&Verification> {
    if standing_fault(records).is_some() {
        return None;
    }
    let last_fault = faults(records).map(|fault| fault.at).max();
    records
        .iter()
        .filter(|record| record.is_ok && last_fault.is_none_or(|fault_at| record.at > fault_at))
        .max_by_key(|record| (record.depth, record.at))
}

fn faults(records: &[Verification]) -> impl Iterator<Item = Fault> {
    records.iter().filter(|record| !record.is_ok).map(|record| Fault {
        depth: record.depth,
        at: record.at,
        problems: record.problems.clone(),
    })
}

#[cfg(test)]
mod tests;
