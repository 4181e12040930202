//! Makes a base backup of the cluster: a copy of its data directory, from which any later moment is
//! reached with the log.
//!
//! Comes in: a connection, keys, an opened catalog. Goes out: a published manifest. Until that is
//! written, the last of all, nothing of this exists for anybody.

mod behind;
mod copy;
mod parent;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ed25519_dalek::SigningKey;

pub use self::behind::wait_until_usable;
use self::copy::{Copied, Copy};
use self::parent::Parent;
use super::keep_wal::check_cluster;
use super::{JobError, Progress, Stopwatch, until_stalled};
use crate::catalog::Catalog;
use crate::postgres::replication::{self, ClusterFacts};
use crate::postgres::tools::Tools;
use crate::postgres::{PostgresError, session};
use crate::rules::layout::SnapshotId;
use crate::rules::manifest;
use crate::rules::physical::BaseManifest;
use crate::seal::{Opener, Sealer};
use crate::settings::Connection;

/// How often it is begun when tablespaces are made or dropped meanwhile, or when `pg_basebackup` was faster than
/// our pipes: on a busy machine one time in many.
const ATTEMPTS: u32 = 8;

/// What a base backup is made with.
pub struct Means<'a> {
    /// Where it goes.
    pub catalog: &'a Catalog,
    /// To whom it is sealed.
    pub sealer: &'a Sealer,
    /// What opens the list of files of the one that it builds on; without it, it is full.
    pub opener: Option<&'a Opener>,
    /// Who signs it.
    pub signing: &'a SigningKey,
    /// Where PostgreSQL's programs are looked for first.
    pub bin_directory: Option<&'a Path>,
    /// The search path for programs.
    pub path: &'a str,
    /// A directory for pipes and lists of files, made if it is missing.
    pub scratch_directory: &'a Path,
    /// Told as bytes pass.
    pub progress: &'a Arc<Progress>,
}

/// How a base backup is made.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// KiB a second that the server sends at the most.
    pub max_rate_kib: Option<u64>,
    /// How old the full one may become that others build on; `None` for full ones only.
    pub full_every: Option<TimeDelta>,
    /// How long nothing may come.
    pub stall_timeout: Duration,
}

/// A base backup that was made.
#[derive(Debug)]
pub struct Made {
    /// Its manifest, as published.
    pub manifest: BaseManifest,
    /// Why it is full where that was not wanted.
    pub notes: Vec<String>,
    /// Why it cannot be used yet, as far as [`wait_until_usable`] found out.
    pub unusable: Option<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// Makes a base backup of the cluster that `to` leads to; `noise` makes its id unique.
///
/// # Errors
/// Everything that PostgreSQL, its programs, and the store can say; then nothing is listed.
pub async fn make(
    means: &Means<'_>,
    to: &Connection,
    manner: Manner,
    noise: u32,
    clock: fn() -> DateTime<Utc>,
) -> Result<Made, JobError> {
    let work = Box::pin(make_steadily(means, to, manner, noise, clock));
    until_stalled(means.progress, manner.stall_timeout, "make the base backup", work).await
}

async fn make_steadily(
    means: &Means<'_>,
    to: &Connection,
    manner: Manner,
    noise: u32,
    clock: fn() -> DateTime<Utc>,
) -> Result<Made, JobError> {
    let watch = Stopwatch::start();
    means.catalog.check_writer(means.signing)?;
    means.progress.enter("waiting for a checkpoint");
    let maintenance = to.with_database(session::MAINTENANCE_DATABASE);
    let mut facts = facts(&maintenance).await?;
    check_cluster(means.catalog, &facts.system_identifier, &means.catalog.pieces().await?).await?;
    let tools = Tools::find(means.bin_directory, means.path, facts.version_num / 10_000).await?;
    let mut parent = Parent::choose(means, &facts, manner.full_every, clock()).await?;
    let mut attempt = 1;
    let (began, copied) = loop {
        let began_at = clock();
        let id = SnapshotId::new(began_at, noise.wrapping_add(attempt));
        means.progress.enter("copying the data directory");
        let list_of_files = parent.list_of_files();
        means.progress.expect(if list_of_files.is_some() { 0 } else { facts.disk_bytes });
        let copy = Copy {
            tools: &tools,
            to,
            id: &id,
            max_rate_kib: manner.max_rate_kib,
            tablespaces: &facts.tablespaces,
            parent_manifest: list_of_files.as_deref(),
        };
        let copied = match facts.tablespaces.is_empty() && !parent.is_for_children() {
            true => copy.to_one_object(means).await,
            false => Box::pin(copy.to_objects(means, means.scratch_directory)).await,
        };
        match copied {
            Ok(copied) => break ((id, began_at), copied),
            Err(error) if list_of_files.is_some() && copy::is_without_summaries(&error) => {
                parent.give_up(&error);
            }
            Err(error) if attempt < ATTEMPTS && copy::is_of_another_moment(&error) => {
                tracing::debug!(attempt, %error, "what pg_basebackup wanted to write was not there to be written; it is begun again");
                facts = self::facts(&maintenance).await?;
            }
            Err(error) => return Err(error),
        }
        attempt += 1;
    };

    means.progress.enter("finishing");
    let manifest = describe(means, &maintenance, (facts, &tools), began, copied, &parent, clock).await?;
    means.catalog.publish_base(&manifest, means.signing).await?;
    Ok(Made { manifest, notes: parent.notes, unusable: None, elapsed_ms: watch.elapsed_ms() })
}

/// What is written down of a copy that has ended.
async fn describe(
    means: &Means<'_>,
    maintenance: &Connection,
    (facts, tools): (ClusterFacts, &Tools),
    (id, began_at): (SnapshotId, DateTime<Utc>),
    copied: Copied,
    parent: &Parent,
    clock: fn() -> DateTime<Utc>,
) -> Result<BaseManifest, JobError> {
    let incomplete = || PostgresError::Incomplete { tool: "pg_basebackup", messages: copied.messages };
    let (timeline, start_lsn) = replication::start_in(&copied.head).ok_or_else(incomplete)?;
    let mut session = session::connect(maintenance).await?;
    let stop_lsn = replication::flushed(&mut session).await?;
    session::close(session).await?;
    Ok(BaseManifest {
        format: manifest::FORMAT,
        repository: means.catalog.record().repository.clone(),
        cluster: means.catalog.cluster().into(),
        id,
        system_identifier: facts.system_identifier,
        bootstrap_superuser: facts.bootstrap_superuser,
        server_version_num: facts.version_num,
        pg_basebackup_version: tools.version.clone(),
        timeline,
        start_lsn,
        stop_lsn,
        segment_bytes: facts.segment_bytes,
        began_at,
        ended_at: clock(),
        plain_bytes: copied.objects.values().map(|record| record.plain_bytes).sum(),
        stored_bytes: copied.objects.values().map(|record| record.stored_bytes).sum(),
        objects: copied.objects,
        tablespaces: facts.tablespaces,
        parent: parent.id(),
        recipients: means.sealer.recipients(),
        belay_version: env!("CARGO_PKG_VERSION").into(),
    })
}

/// Looks at the cluster, and refuses one that this cannot copy.
async fn facts(to: &Connection) -> Result<ClusterFacts, JobError> {
    let mut session = session::connect(to).await?;
    let refused =
        |reason: String| JobError::Refused { action: "make a base backup".into(), reasons: vec![reason] };
    if session::is_standby(&mut session).await? {
        return Err(refused("the server is a standby: the log is kept at its primary".into()));
    }
    let facts = replication::facts(&mut session).await?;
    session::close(session).await?;
    if facts.system_identifier.is_empty() {
        return Err(refused("the role may not execute pg_control_system()".into()));
    }
    Ok(facts)
}
