//! Writes a heartbeat every minute, where the settings want it: a recovered cluster tells by it how far it
//! came.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::cli::base_backup::cluster_of;
use crate::cli::host::Host;
use crate::cli::report::Failure;
use crate::postgres::heartbeat;

const PAUSE: Duration = Duration::from_secs(60);

/// The task that writes them; it ends when this is dropped.
pub struct HeartbeatTask(AbortHandle);

impl HeartbeatTask {
    /// Starts it; `hosts` tells of new settings.
    pub fn start(hosts: watch::Receiver<Arc<Host>>) -> Self {
        Self(tokio::spawn(beat_on(hosts)).abort_handle())
    }
}

impl Drop for HeartbeatTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn beat_on(mut hosts: watch::Receiver<Arc<Host>>) {
    let mut has_failed = false;
    loop {
        let host = Arc::clone(&hosts.borrow_and_update());
        let is_wanted = host.settings.cluster.point_in_time && host.settings.wal.heartbeat;
        if is_wanted {
            let beaten = beat(&host).await;
            if let Err(failure) = &beaten
                && !has_failed
            {
                // Once: what keeps it from being written keeps on.
                tracing::error!(error = failure.chain(), hint = failure.hint, "no heartbeat is written");
            }
            has_failed = beaten.is_err();
        }
        drop(host);
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            changed = hosts.changed() => if changed.is_err() { return },
        }
    }
}

async fn beat(host: &Host) -> Result<(), Failure> {
    heartbeat::beat(&cluster_of(host)?).await.map_err(Failure::of("write a heartbeat"))
}
