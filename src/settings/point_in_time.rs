//! `[base_backup]` and `[wal]`: how the physical side is kept where `point_in_time` is on.

use std::time::Duration;

use chrono::TimeDelta;
use chrono_tz::Tz;

use super::schedule::When;
use super::table::Table;
use super::{SettingsError, units};
use crate::rules::schedule::Schedule;

/// `[base_backup]`
#[derive(Debug, Clone)]
pub struct BaseBackupSettings {
    /// When one is made; `None` for never.
    pub schedule: Option<Schedule>,
    /// KiB a second that the server sends at most.
    pub max_rate_kib: Option<u64>,
    /// How old the full one may become that incremental ones build on; `None` for full ones only.
    pub full_every: Option<TimeDelta>,
    /// Threads that compress it.
    pub jobs: usize,
}

/// `[wal]`
#[derive(Debug, Clone)]
pub struct WalSettings {
    /// Whether it is received by a replication slot; else the server hands it over, by `belay wal push`.
    pub receive: bool,
    /// How old the newest stored byte may become while there is log to store.
    pub ship_every: Duration,
    /// Bytes of received segments that may wait for the store.
    pub spool_bytes: u64,
    /// Bytes of log that the server may have to keep for us.
    pub keep_bytes: u64,
    /// Name of the replication slot; `None` for `belay_` and the cluster's name.
    pub slot: Option<String>,
    /// Whether a row is written into the database `postgres` every minute, by which a recovery is told to
    /// have come to its moment.
    pub heartbeat: bool,
}

impl BaseBackupSettings {
    pub(super) fn read(mut table: Table, zone: Tz) -> Result<Self, SettingsError> {
        let settings = Self {
            schedule: When::of("0 1 * * 0", zone).read(&mut table)?.schedule,
            // The limits of pg_basebackup.
            max_rate_kib: table
                .parsed("max_rate", |text| units::bytes_within(text, "32KiB", "1GiB"))?
                .map(|bytes| bytes >> 10),
            full_every: table
                .parsed("full_every", |text| units::timeout_within(text, "1h", "366d"))?
                .and_then(|age| TimeDelta::from_std(age).ok()),
            jobs: table.integer("jobs", 1..=64)?.unwrap_or(2),
        };
        table.finish()?;
        Ok(settings)
    }
}

impl WalSettings {
    pub(super) fn read(mut table: Table) -> Result<Self, SettingsError> {
        let ship_every = table.parsed("ship_every", |text| units::timeout_within(text, "1s", "1h"))?;
        let spool_bytes = table.parsed("spool", |text| units::bytes_within(text, "64MiB", "1TiB"))?;
        let keep = table.parsed("keep", |text| units::bytes_within(text, "64MiB", "1TiB"))?;
        let slot = table.parsed("slot", slot_name)?;
        let receive = table.boolean("receive")?.unwrap_or(true);
        let heartbeat = table.boolean("heartbeat")?.unwrap_or(false);
        table.finish()?;
        Ok(Self {
            receive,
            ship_every: ship_every.unwrap_or(Duration::from_secs(10)),
            spool_bytes: spool_bytes.unwrap_or(1 << 30),
            keep_bytes: keep.unwrap_or(16 << 30),
            slot,
            heartbeat,
        })
    }

    /// The slot's name, for the cluster of this name.
    pub fn slot_of(&self, cluster: &str) -> String {
        let of_cluster = || format!("belay_{}", cluster.replace('-', "_"));
        self.slot.clone().unwrap_or_else(of_cluster).chars().take(63).collect()
    }
}

/// Accepts what PostgreSQL accepts for a slot.
fn slot_name(text: &str) -> Result<String, String> {
    let is_right = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=63).contains(&text.len()) && text.bytes().all(is_right) {
        Ok(text.into())
    } else {
        Err(format!("must be 1 to 63 lower-case letters, digits and `_`, not {text:?}"))
    }
}
