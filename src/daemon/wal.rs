//! Receives the write-ahead log while the daemon runs, where the settings want points in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::host::Host;
use crate::cli::wal;

/// Between two tries: at first, and at the most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How long what was received has to be stored once the daemon is told to stop.
const LAST_SHIPMENT: Duration = Duration::from_secs(20);

/// The task that receives it.
pub struct WalTask {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl WalTask {
    /// Starts it; `hosts` tells of new settings.
    pub fn start(hosts: watch::Receiver<Arc<Host>>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(receive_on(hosts, stop.clone()));
        Self { stop, task }
    }

    /// Has it store what it has, and end.
    pub async fn end(self) {
        self.stop.cancel();
        let cut = self.task.abort_handle();
        if tokio::time::timeout(LAST_SHIPMENT, self.task).await.is_err() {
            cut.abort();
        }
    }
}

async fn receive_on(mut hosts: watch::Receiver<Arc<Host>>, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let host = Arc::clone(&hosts.borrow_and_update());
        if !host.settings.cluster.point_in_time || !host.settings.wal.receive {
            tokio::select! {
                changed = hosts.changed() => if changed.is_err() { return },
                () = stop.cancelled() => {}
            }
            continue;
        }
        let round = stop.child_token();
        let changing = async {
            // What is received goes on with the new settings.
            if hosts.changed().await.is_ok() {
                round.cancel();
            }
            std::future::pending::<()>().await;
        };
        let has_stored = AtomicBool::new(false);
        let receiving = wal::receive(&host, &round, |_| has_stored.store(true, Ordering::Relaxed));
        let done = tokio::select! {
            done = receiving => done,
            () = changing => unreachable!("it waits for ever"),
        };
        match done {
            Ok(()) => pause = FIRST_PAUSE,
            Err(failure) => {
                if has_stored.load(Ordering::Relaxed) {
                    pause = FIRST_PAUSE;
                }
                tracing::error!(
                    error = failure.chain(),
                    "the write-ahead log is not received; it is tried again"
                );
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
