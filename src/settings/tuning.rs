//! How databases are snapshotted: what `[cluster]` says for all, and a section for its own.

use std::time::Duration;

use chrono_tz::Tz;

use super::schedule::When;
use super::table::Table;
use super::{Connection, DatabaseSettings, SettingsError, units};

/// How a database is snapshotted: the cluster's defaults, or one section's own.
#[derive(Debug, Clone)]
pub(super) struct Tuning {
    large_table_bytes: u64,
    jobs: usize,
    chunk_bytes: usize,
    lock_timeout: Duration,
    stall_timeout: Duration,
    pub(super) when: When,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            large_table_bytes: 8 << 20,
            jobs: 2,
            chunk_bytes: 16 << 20,
            lock_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(600),
            when: When::of("0 3 * * *", Tz::UTC),
        }
    }
}

impl Tuning {
    pub(super) fn read(table: &mut Table, default: Self) -> Result<Self, SettingsError> {
        let large_table = table.parsed("large_table", units::bytes)?;
        let chunk = table.parsed("chunk", |text| units::bytes_within(text, "4MiB", "256MiB"))?;
        let lock_timeout = table.parsed("lock_timeout", |text| units::timeout_within(text, "1ms", "1h"))?;
        let stall_timeout = table.parsed("stall_timeout", |text| units::timeout_within(text, "1s", "7d"))?;
        Ok(Self {
            large_table_bytes: large_table.unwrap_or(default.large_table_bytes),
            jobs: table.integer("jobs", 1..=64)?.unwrap_or(default.jobs),
            chunk_bytes: chunk.map_or(default.chunk_bytes, |bytes| {
                usize::try_from(bytes).expect("at most 256 MiB, which every usize holds")
            }),
            lock_timeout: lock_timeout.unwrap_or(default.lock_timeout),
            stall_timeout: stall_timeout.unwrap_or(default.stall_timeout),
            when: default.when.read(table)?,
        })
    }

    pub(super) fn database(
        self,
        key: String,
        connection: Connection,
        env_prefix: Option<String>,
    ) -> DatabaseSettings {
        let Self { large_table_bytes, jobs, chunk_bytes, lock_timeout, stall_timeout, when } = self;
        DatabaseSettings {
            key,
            connection,
            env_prefix,
            large_table_bytes,
            jobs,
            chunk_bytes,
            lock_timeout,
            stall_timeout,
            schedule: when.schedule,
        }
    }
}
