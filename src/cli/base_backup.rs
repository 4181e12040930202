//! `belay base-backup`: makes a base backup of the cluster.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::host::Host;
use super::progress::shown;
use super::report::{ExitCode, Failure, Report, bytes_text, duration_text};
use super::{Global, clock};
use crate::jobs::Progress;
use crate::jobs::base_backup::{self, Made, Manner};
use crate::jobs::receive_wal::waiting::KeptLog;
use crate::ledger::lock::{LockName, StateLock};
use crate::ledger::{JobKind, Ledger};
use crate::rules::physical::Tablespace;
use crate::settings::Connection;

const TITLE: &str = "base-backup";
/// How long nothing may come: the checkpoint before it takes its time.
const STALL_TIMEOUT: Duration = Duration::from_secs(1800);

/// Options of `belay base-backup`.
#[derive(Debug, Args)]
pub struct BaseBackupArgs {}

/// Makes one.
///
/// # Errors
/// [`Failure`]; then nothing is listed.
pub async fn run(global: &Global, BaseBackupArgs {}: BaseBackupArgs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let ledger = host.ledger().await?;
    let made = make_one(global, &host, &ledger).await?;
    let manifest = &made.manifest;
    let mut text = format!(
        "{}  cluster {}: {}, {} plain, {} stored, consistent at {} on timeline {}, in {}\n",
        manifest.id,
        manifest.cluster,
        manifest.kind(),
        bytes_text(manifest.plain_bytes),
        bytes_text(manifest.stored_bytes),
        manifest.stop_lsn,
        manifest.timeline,
        duration_text(made.elapsed_ms)
    );
    if let Some(parent) = &manifest.parent {
        text.push_str(&format!("  builds on {parent}\n"));
    }
    for Tablespace { name, location, .. } in &manifest.tablespaces {
        text.push_str(&format!("  with tablespace {name} at {location}\n"));
    }
    text.extend(made.notes.iter().chain(&made.unusable).map(|note| format!("  note: {note}\n")));
    let body = json!({
        "id": manifest.id, "cluster": manifest.cluster, "began_at": manifest.began_at, "ended_at": manifest.ended_at,
        "timeline": manifest.timeline, "start_lsn": manifest.start_lsn, "stop_lsn": manifest.stop_lsn,
        "plain_bytes": manifest.plain_bytes, "stored_bytes": manifest.stored_bytes, "elapsed_ms": made.elapsed_ms,
        "kind": manifest.kind(), "parent": manifest.parent, "tablespaces": manifest.tablespaces, "notes": made.notes,
        "usable": made.unusable.is_none(), "unusable_because": made.unusable,
    });
    Ok(Report::new(TITLE, text, &body))
}

/// Makes one under its locks, records that in the ledger, and waits for a while until the log behind it is
/// stored.
///
/// # Errors
/// [`Failure`]; with [`ExitCode::Busy`] when another one, or a sweep, runs.
pub async fn make_one(global: &Global, host: &Host, ledger: &Ledger) -> Result<Made, Failure> {
    let state = &host.settings.state.directory;
    let to = cluster_of(host)?;
    let _base = StateLock::exclusive(state, &LockName::base_backup()).map_err(Failure::of(TITLE))?;
    let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(TITLE))?;
    let progress = Arc::new(Progress::default());
    let subject = |made: &Made| made.manifest.id.to_string();
    let mut made = super::recorded(ledger, JobKind::BaseBackup, None, TITLE, subject, async {
        let sealer = host.sealer()?.fast(host.settings.base_backup.jobs);
        let (opener, scratch_directory) = (host.opener(), host.scratch_directory());
        let means = base_backup::Means {
            catalog: &host.catalog,
            sealer: &sealer,
            opener: opener.as_ref(),
            signing: host.signing(TITLE)?,
            bin_directory: host.settings.cluster.bin_directory.as_deref(),
            path: &host.path,
            scratch_directory: &scratch_directory,
            progress: &progress,
        };
        let manner = Manner {
            max_rate_kib: host.settings.base_backup.max_rate_kib,
            full_every: host.settings.base_backup.full_every,
            stall_timeout: STALL_TIMEOUT,
        };
        let work = base_backup::make(&means, &to, manner, rand::random(), clock::now);
        shown(global, TITLE, &progress, work).await.map_err(Failure::of(TITLE))
    })
    .await?;
    // It is made, whatever comes of that.
    let log = KeptLog { state, is_received: host.settings.wal.receive };
    let waiting = base_backup::wait_until_usable(&host.catalog, &progress, &to, log, &mut made);
    shown(global, TITLE, &progress, waiting).await;
    Ok(made)
}

/// How to reach the one cluster that the settings are about.
///
/// # Errors
/// [`Failure`] with [`ExitCode::Usage`] when they name several servers.
pub fn cluster_of(host: &Host) -> Result<Connection, Failure> {
    let mut clusters = host.clusters().into_iter();
    match (clusters.next(), clusters.next()) {
        (Some(one), None) => Ok(one),
        _ => {
            let failure = Failure::new(
                "find the cluster",
                ExitCode::Usage,
                "the databases of the settings are on several servers",
            );
            Err(failure
                .with_hint("points in time are kept of one cluster: give each a settings file of its own"))
        }
    }
}
