//! `belay wal`: receives the write-ahead log, or takes it from the server and gives it back, file by file.

pub mod fetch;
pub mod push;

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::base_backup::cluster_of;
use super::host::Host;
use super::privileges::Inputs;
use super::report::{Failure, Report};
use super::{Global, clock};
use crate::jobs::migrate::Stop;
use crate::jobs::receive_wal::{self, Means, Shipped, noted};
use crate::ledger::lock::{LockName, StateLock};

pub use crate::jobs::receive_wal::noted::{Trouble, Way, shipped, trouble};

/// How long the store may take before it is told that it takes long.
const LONG_WAIT: Duration = Duration::from_secs(20);

/// What is done with the log.
#[derive(Debug, Subcommand)]
pub enum WalVerb {
    /// Receive it from the server and store it, until told to stop
    Receive(ReceiveArgs),
    /// Store one file of it: PostgreSQL's archive_command, instead of receiving
    Push(push::PushArgs),
    /// Fetch one file of it: PostgreSQL's restore_command
    Fetch(fetch::FetchArgs),
    /// Fetch what follows a segment, before it is asked for
    #[command(hide = true)]
    FetchAhead(fetch::FetchAheadArgs),
}

/// Options of `belay wal receive`.
#[derive(Debug, Args)]
pub struct ReceiveArgs {}

/// Carries it out; `stop` is for what goes on until then.
///
/// # Errors
/// [`Failure`]; nothing is lost by beginning again.
pub async fn run(global: &Global, verb: WalVerb, inputs: Inputs, stop: Stop) -> Result<Report, Failure> {
    match verb {
        WalVerb::Receive(args) => Box::pin(run_receiver(global, args, stop)).await,
        WalVerb::Push(args) => Box::pin(push::run(&global.config, args, &inputs.directory)).await,
        WalVerb::Fetch(args) => Box::pin(fetch::run(&global.config, args, &inputs.directory)).await,
        WalVerb::FetchAhead(args) => Box::pin(fetch::run_ahead(&global.config, args)).await,
    }
}

async fn run_receiver(
    global: &Global,
    ReceiveArgs {}: ReceiveArgs,
    mut stop: Stop,
) -> Result<Report, Failure> {
    const TITLE: &str = "wal receive";
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
        state,
        spool: &spool,
        slot: &slot,
        ship_every: settings.wal.ship_every,
        wanted: &|| noted::wanted(state),
        spool_bytes: settings.wal.spool_bytes,
        keep_bytes: settings.wal.keep_bytes,
        on_wait: &|waited| {
            if waited >= LONG_WAIT {
                let text = format!("{TITLE}: the store has been waited for for {} s", waited.as_secs());
                note_trouble(state, Way::Received, text);
            }
        },
        noted: shipped(state),
    };
    let note = |shipped: Option<Shipped>| {
        if let Err(error) = noted::note(state, shipped) {
            tracing::warn!(%error, "how far the log is stored cannot be noted");
        }
        if shipped.is_some() {
            note_success(state, Way::Received);
        }
        shipped.into_iter().for_each(&on_shipped);
    };
    let done = receive_wal::receive(&means, &to, stop, clock::now, note).await.map_err(Failure::of(TITLE));
    if let Err(failure) = &done {
        note_trouble(state, Way::Received, failure.chain());
    }
    done
}

/// Notes for `belay status` why the log is not stored.
fn note_trouble(state: &Path, way: Way, error: String) {
    if let Err(error) = noted::note_trouble(state, way, error, clock::now()) {
        tracing::warn!(%error, "why the log is not stored cannot be noted");
    }
}

fn note_success(state: &Path, way: Way) {
    match noted::note_success(state, way) {
        Ok(Some(before)) => tracing::info!(since = %before.since, "the write-ahead log is stored again"),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "that the log is stored again cannot be noted"),
    }
}

/// Whether a process of this host receives the log now, or a lock cannot tell.
pub fn is_received(state: &Path) -> bool {
    noted::is_received(state).unwrap_or(true)
}
