//! Makes a base backup of the cluster: a copy of its data directory, from which any later moment is
//! reached with the log.
//!
//! Comes in: a connection, keys, an opened catalog. Goes out: a published manifest. Until that is
//! written, the last of all, nothing of this exists for anybody.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;

use super::keep_wal::check_cluster;
use super::sealing::Sealing;
use super::{JobError, Progress, Stopwatch, until_stalled};
use crate::catalog::Catalog;
use crate::postgres::replication::{self, ClusterFacts};
use crate::postgres::tools::{RunningTool, Streams, Tools};
use crate::postgres::{PostgresError, session};
use crate::rules::layout::{self, SnapshotId};
use crate::rules::manifest;
use crate::rules::physical::BaseManifest;
use crate::seal::Sealer;
use crate::settings::Connection;

/// How much of its beginning is looked at: `backup_label` is the first file of every copy.
const HEAD_BYTES: usize = 64 << 10;

/// What a base backup is made with.
pub struct Means<'a> {
    /// Where it goes.
    pub catalog: &'a Catalog,
    /// To whom it is sealed.
    pub sealer: &'a Sealer,
    /// Who signs it.
    pub signing: &'a SigningKey,
    /// Where PostgreSQL's programs are looked for first.
    pub bin_directory: Option<&'a Path>,
    /// The search path for programs.
    pub path: &'a str,
    /// Told as bytes pass.
    pub progress: &'a Arc<Progress>,
}

/// A base backup that was made.
#[derive(Debug)]
pub struct Made {
    /// Its manifest, as published.
    pub manifest: BaseManifest,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// Makes a base backup of the cluster that `to` leads to, at no more than `max_rate_kib` KiB a second;
/// `noise` makes its id unique.
///
/// # Errors
/// Everything that PostgreSQL, its programs, and the store can say; then nothing is listed.
pub async fn make(
    means: &Means<'_>,
    to: &Connection,
    max_rate_kib: Option<u64>,
    stall_timeout: Duration,
    noise: u32,
    clock: fn() -> DateTime<Utc>,
) -> Result<Made, JobError> {
    let work = Box::pin(make_steadily(means, to, max_rate_kib, noise, clock));
    until_stalled(means.progress, stall_timeout, "make the base backup", work).await
}

async fn make_steadily(
    means: &Means<'_>,
    to: &Connection,
    max_rate_kib: Option<u64>,
    noise: u32,
    clock: fn() -> DateTime<Utc>,
) -> Result<Made, JobError> {
    let watch = Stopwatch::start();
    means.catalog.check_writer(means.signing)?;
    means.progress.enter("waiting for a checkpoint");
    let maintenance = to.with_database(session::MAINTENANCE_DATABASE);
    let facts = facts(&maintenance).await?;
    check_cluster(means.catalog, &facts.system_identifier, &means.catalog.pieces().await?).await?;
    let tools = Tools::find(means.bin_directory, means.path, facts.version_num / 10_000).await?;
    let began_at = clock();
    let id = SnapshotId::new(began_at, noise);

    means.progress.enter("copying the data directory");
    means.progress.expect(facts.disk_bytes);
    let command = replication::base_backup(&tools, to, &format!("belay {id}"), max_rate_kib);
    let sealing = Sealing {
        sealer: means.sealer,
        store: means.catalog.store(),
        progress: means.progress,
        on_bytes: Progress::advance,
    };
    let key = layout::base_key(means.catalog.cluster(), &id, layout::BASE);
    let tool = RunningTool::start(command, Streams::Out)?;
    let copied = sealing.stream(tool, &key, Head(Vec::new())).await?;

    means.progress.enter("finishing");
    let Head(head) = copied.also;
    let incomplete = || PostgresError::Incomplete { tool: "pg_basebackup", messages: copied.messages };
    let (timeline, start_lsn) = replication::start_in(&head).ok_or_else(incomplete)?;
    let mut session = session::connect(&maintenance).await?;
    let stop_lsn = replication::flushed(&mut session).await?;
    session::close(session).await?;
    let manifest = BaseManifest {
        format: manifest::FORMAT,
        repository: means.catalog.record().repository.clone(),
        cluster: means.catalog.cluster().into(),
        id,
        system_identifier: facts.system_identifier,
        bootstrap_superuser: facts.bootstrap_superuser,
        server_version_num: facts.version_num,
        pg_basebackup_version: tools.version,
        timeline,
        start_lsn,
        stop_lsn,
        segment_bytes: facts.segment_bytes,
        began_at,
        ended_at: clock(),
        plain_bytes: copied.record.plain_bytes,
        stored_bytes: copied.record.stored_bytes,
        objects: BTreeMap::from([(layout::BASE.to_owned(), copied.record)]),
        recipients: means.sealer.recipients(),
        belay_version: env!("CARGO_PKG_VERSION").into(),
    };
    means.catalog.publish_base(&manifest, means.signing).await?;
    Ok(Made { manifest, elapsed_ms: watch.elapsed_ms() })
}

/// The first bytes of what was written.
struct Head(Vec<u8>);

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = HEAD_BYTES - self.0.len();
        self.0.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
    if !facts.tablespaces.is_empty() {
        // pg_basebackup writes one archive for each, and to its standard output only one.
        let names = facts.tablespaces.join(", ");
        return Err(refused(format!("the cluster has tablespaces ({names}), which cannot be streamed")));
    }
    Ok(facts)
}
