//! What systemd is told. Outside of systemd nobody listens, and nothing happens.

use sd_notify::{NotifyState, notify};

/// The daemon serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The loop goes round: the watchdog is fed from here, so that one that hangs is noticed.
pub fn is_alive(occupation: &str) {
    tell(&[NotifyState::Watchdog, NotifyState::Status(occupation)]);
}

/// The daemon begins nothing more.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(false, states) {
        tracing::warn!(%error, "systemd does not listen");
    }
}
