//! `belay wal`: receives the write-ahead log.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::base_backup::cluster_of;
use super::host::Host;
use super::report::{Failure, Report};
use super::{Global, clock};
use crate::jobs::migrate::Stop;
use crate::jobs::receive_wal::{self, Means, Shipped};
use crate::ledger::lock::{LockName, StateLock};

/// What is done with the log.
#[derive(Debug, Subcommand)]
pub enum WalVerb {
    /// Receive it from the server and store it, until told to stop
    Receive(ReceiveArgs),
}

/// Options of `belay wal receive`.
#[derive(Debug, Args)]
pub struct ReceiveArgs {}

/// Receives until `stop` comes.
///
/// # Errors
/// [`Failure`]; nothing is lost by beginning again.
pub async fn run(global: &Global, verb: WalVerb, mut stop: Stop) -> Result<Report, Failure> {
    const TITLE: &str = "wal receive";
    let WalVerb::Receive(ReceiveArgs {}) = verb;
    let host = Host::open(&global.config).await?;
    let stopped = CancellationToken::new();
    let last = std::sync::Mutex::new(None);
    let receiving = receive(&host, &stopped, |shipped| {
        *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(shipped);
    });
    tokio::pin!(receiving);
    tokio::select! {
        done = &mut receiving => done,
        _ = stop.wait_for(Option::is_some) => {
            stopped.cancel();
            receiving.as_mut().await
        }
    }
    .map_err(|failure| Failure { action: TITLE.into(), ..failure })?;
    let shipped: Option<Shipped> = *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = shipped.map_or("nothing was received\n".into(), |shipped| {
        format!("the log is stored up to {} of timeline {}\n", shipped.until, shipped.timeline)
    });
    let body = json!({
        "timeline": shipped.map(|shipped| shipped.timeline),
        "until": shipped.map(|shipped| shipped.until),
        "complete_until": shipped.map(|shipped| shipped.complete_until),
    });
    Ok(Report::new("wal-receive", text, &body))
}

/// Receives the log of the host's cluster until `stop` comes; one process at a time does.
///
/// # Errors
/// [`Failure`], with [`ExitCode::Busy`](super::report::ExitCode::Busy) when another one does.
pub async fn receive(
    host: &Host,
    stop: &CancellationToken,
    on_shipped: impl Fn(Shipped),
) -> Result<(), Failure> {
    const TITLE: &str = "receive the write-ahead log";
    let (settings, to) = (&host.settings, cluster_of(host)?);
    let state = &settings.state.directory;
    let _wal = StateLock::exclusive(state, &LockName::wal()).map_err(Failure::of(TITLE))?;
    let (sealer, spool) = (host.sealer()?, state.join("wal"));
    let slot = settings.wal.slot_of(&settings.cluster.name);
    let means = Means {
        catalog: &host.catalog,
        sealer: &sealer,
        signing: host.signing(TITLE)?,
        bin_directory: settings.cluster.bin_directory.as_deref(),
        path: &host.path,
        spool: &spool,
        slot: &slot,
        ship_every: settings.wal.ship_every,
        spool_bytes: settings.wal.spool_bytes,
        keep_bytes: settings.wal.keep_bytes,
        unbroken_since: shipped(state).map(|shipped| shipped.unbroken_since),
    };
    let note = |shipped: Option<Shipped>| {
        let (path, new) = (shipped_file(state), state.join("wal-shipped.new"));
        let bytes = serde_json::to_vec(&shipped).unwrap_or_default();
        if std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, path)).is_err() {
            tracing::warn!("how far the log is stored cannot be noted");
        }
        shipped.into_iter().for_each(&on_shipped);
    };
    receive_wal::receive(&means, &to, stop, clock::now, note).await.map_err(Failure::of(TITLE))
}

fn shipped_file(state: &Path) -> PathBuf {
    state.join("wal-shipped.json")
}

/// Whether a process of this host receives the log now.
pub fn is_received(state: &Path) -> bool {
    StateLock::exclusive(state, &LockName::wal()).is_err()
}

/// How far the log is stored, as whoever receives it noted last.
pub fn shipped(state: &Path) -> Option<Shipped> {
    serde_json::from_slice::<Option<Shipped>>(&std::fs::read(shipped_file(state)).ok()?).ok()?
}
