//! Tells of a base backup that is damaged, and which other one would do.

use super::Stock;
use crate::jobs::JobError;
use crate::postgres::PostgresError;
use crate::rules::chain;
use crate::rules::layout::{self, ObjectKey, SnapshotId};
use crate::rules::recovery::Plan;
use crate::seal::SealError;
use crate::store::StoreError;

/// What `pg_verifybackup` and a server say when the machine is at fault, and not what they were given.
const OF_THE_MACHINE: [&str; 5] =
    ["No space left", "shared memory", "allocate memory", "create lock file", "bind"];

/// Whether a program of PostgreSQL says that the machine is at fault.
pub fn is_of_the_machine(messages: &str) -> bool {
    OF_THE_MACHINE.iter().any(|words| messages.contains(words))
}

/// Names the base backup whose object `error` is about, which is that of `plan` or one that it builds on, if
/// the object is damaged or missing; hands any other error back.
pub(super) fn named(error: JobError, stock: &Stock, plan: &Plan) -> JobError {
    let key = match &error {
        JobError::Object { source: SealError::WrongIdentity, .. } => None,
        JobError::Object { key, .. } | JobError::Store(StoreError::Missing { key, .. }) => Some(key),
        JobError::Postgres(PostgresError::ToolFailed { tool, .. }) if tool == "pg_combinebackup" => {
            return found_in(&plan.window.base.id, error, stock, plan);
        }
        _ => None,
    };
    let id = key.and_then(|key| ObjectKey::new(key.as_str()).ok()).and_then(|key| {
        let (id, _) = layout::base_of_key(&key)?;
        Some(id)
    });
    match id {
        Some(id) => damaged(id, error, stock, plan),
        None => error,
    }
}

/// That `error`, of a program that looked at what base backup `id` was unpacked to, is one of the base backup,
/// unless the machine is at fault.
pub(super) fn found_in(id: &SnapshotId, error: JobError, stock: &Stock, plan: &Plan) -> JobError {
    match &error {
        JobError::Postgres(PostgresError::ToolFailed { messages, .. }) if !is_of_the_machine(messages) => {
            damaged(id.clone(), error, stock, plan)
        }
        _ => error,
    }
}

fn damaged(base: SnapshotId, error: JobError, stock: &Stock, plan: &Plan) -> JobError {
    let is_without = |other: &&SnapshotId| {
        let found = stock.bases.iter().find(|manifest| manifest.id == **other);
        let chain = found.and_then(|manifest| chain::chain(&stock.bases, manifest).ok());
        chain.is_some_and(|chain| chain.iter().all(|member| member.id != base))
    };
    let instead = plan.others.iter().find(is_without).cloned();
    JobError::DamagedBase { base, instead, source: Box::new(error) }
}
