//! What `belay status` tells of the log: how far it is stored, and why it is not.

use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::recovery::RecoveryStatus;
use crate::cli::report::{age_text, bytes_text};
use crate::cli::wal::{self, Trouble, Way};
use crate::jobs::receive_wal::Shipped;
use crate::rules::plain;
use crate::rules::wal::Lsn;
use crate::settings::Settings;

/// How the log comes to be stored, and how far it is.
#[derive(Serialize)]
pub(super) struct WalStatus {
    /// `receive` or `push`.
    way: &'static str,
    /// How far it is stored, where that is known.
    #[serde(flatten)]
    pub(super) stored: Option<Stored>,
    /// Whether a process of this host receives the log now; absent where the server hands it over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_received: Option<bool>,
    /// Why it is not stored, unless it was stored since.
    pub(super) last_error: Option<Trouble>,
}

/// How far the log is stored.
#[derive(Serialize)]
pub(super) struct Stored {
    timeline: u32,
    until_lsn: Lsn,
    /// What was committed until then is stored, by the server's clock.
    complete_until: DateTime<Utc>,
    /// What a loss of the host would cost now, in seconds.
    pub(super) behind_seconds: i64,
    /// Bytes of log that the server keeps; absent where it hands its log over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kept_bytes: Option<u64>,
}

impl WalStatus {
    /// That of the host; `None` where no points in time are wanted. Where the server hands its log over, how
    /// far it is stored is known from `recovery` alone.
    pub(super) fn of(
        settings: &Settings,
        recovery: Option<&RecoveryStatus>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let state = &settings.state.directory;
        match (settings.cluster.point_in_time, settings.wal.receive) {
            (false, _) => None,
            (true, true) => Some(Self::received(state, now)),
            (true, false) => Some(Self {
                way: "push",
                stored: recovery.and_then(|recovery| Stored::in_windows(recovery, now)),
                is_received: None,
                last_error: wal::trouble(state, Way::Pushed),
            }),
        }
    }

    fn received(state: &Path, now: DateTime<Utc>) -> Self {
        Self {
            way: "receive",
            stored: wal::shipped(state).map(|shipped| Stored::noted(shipped, now)),
            is_received: Some(wal::is_received(state)),
            last_error: wal::trouble(state, Way::Received),
        }
    }

    /// Lines for people.
    pub(super) fn text(&self, now: DateTime<Utc>) -> String {
        let age = |at: DateTime<Utc>| age_text(now - at);
        let mut text = match &self.stored {
            Some(stored) => {
                let kept = stored.kept_bytes.map(|bytes| format!("; the server keeps {}", bytes_text(bytes)));
                let nobody = if self.is_received == Some(false) { "; nobody receives it now" } else { "" };
                format!(
                    "log           stored until {} ago, to {}{}{nobody}\n",
                    age(stored.complete_until),
                    stored.until_lsn,
                    kept.unwrap_or_default()
                )
            }
            None if self.is_received.is_some() => {
                "log           nothing is known to be stored: does `belay serve` run?\n".into()
            }
            None => "log           nothing of use is known to be stored: is archive_command `belay wal push %p`?\n"
                .into(),
        };
        text.extend(self.last_error.iter().map(|trouble| {
            let (since, last, error) = (age(trouble.since), age(trouble.at), plain::line(&trouble.error));
            format!("log fails     since {since}, the last time {last} ago: {error}\n")
        }));
        text
    }
}

impl Stored {
    fn noted(shipped: Shipped, now: DateTime<Utc>) -> Self {
        Self {
            timeline: shipped.timeline,
            until_lsn: shipped.until,
            complete_until: shipped.complete_until,
            behind_seconds: behind(shipped.complete_until, now),
            kept_bytes: Some(shipped.kept_bytes),
        }
    }

    /// As far as the newest base backup that is of use reaches.
    fn in_windows(recovery: &RecoveryStatus, now: DateTime<Utc>) -> Option<Self> {
        let usable = recovery.windows.iter().rev().filter_map(|window| Some((window, window.until?)));
        let (window, complete_until) = usable.into_iter().next()?;
        Some(Self {
            timeline: window.timeline,
            until_lsn: window.until_lsn,
            complete_until,
            behind_seconds: behind(complete_until, now),
            kept_bytes: None,
        })
    }
}

fn behind(complete_until: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (now - complete_until).num_seconds().max(0)
}
