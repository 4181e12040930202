//! Has the server keep its write-ahead log while the command runs: what a long migration committed
//! would be gone with the log otherwise, and a failed one could only be called unknown.
//!
//! The slot is a temporary one of a session of ours: it goes with the session, whatever becomes of
//! us. Production comes before evidence: where the disk fills, the log is let go.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use tokio::sync::Mutex;

use super::JobError;
use super::run::Run;
use crate::postgres::PostgresError;
use crate::postgres::session::{self, column, rows};
use crate::rules::causes::in_a_sentence;
use crate::rules::layout;
use crate::rules::sql::literal;

/// Between two looks at the disk.
const PAUSE: Duration = Duration::from_secs(2);
/// The share of the disk that must stay free, in percent.
const LEAST_FREE_PERCENT: u64 = 10;

/// A log that is held, and where it lies.
#[derive(Default)]
pub(super) struct LogHold {
    session: Mutex<Option<PgConnection>>,
    directory: Option<PathBuf>,
}

impl Run<'_> {
    /// Holds the log from now on, where the server lets us; why not is a note of the run.
    pub(super) async fn hold_log(&mut self) -> Result<(), JobError> {
        self.let_go_of_log().await;
        match self.open_hold().await {
            Ok(hold) => self.hold = hold,
            Err(PostgresError::Query { source, .. }) if source.as_database_error().is_none() => {
                return Err(PostgresError::of_query("hold the write-ahead log", source).into());
            }
            Err(error) => self.facts.notes.push(format!(
                "the server does not keep its log for this run, so that a long migration that fails may end as unknown: {}",
                in_a_sentence(&error)
            )),
        }
        Ok(())
    }

    async fn open_hold(&self) -> Result<LogHold, PostgresError> {
        let mut session = self.maintenance_session().await?;
        let sql = "SELECT (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory') AS directory, \
            coalesce((SELECT setting::int >= 0 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'), false) AS is_limited";
        let found = rows(&mut session, "look where the log lies", sql).await?;
        let directory =
            found.first().map(|row| column::<Option<String>>(row, "directory")).transpose()?.flatten();
        let is_limited =
            found.first().map(|row| column::<bool>(row, "is_limited")).transpose()?.unwrap_or_default();
        let is_local = self.connection().is_local();
        let directory =
            directory.filter(|_| is_local).map(PathBuf::from).filter(|path| free_percent(path).is_some());
        // A disk that we do not see, and that the server does not guard, is not ours to fill.
        if directory.is_some() || is_limited {
            // A session that was let go of may still have one of the run.
            let slot = format!("{}_{}", slot_name(&self.request.id), layout::tail(rand::random()));
            let sql = format!(
                "SELECT pg_catalog.pg_create_physical_replication_slot({}, true, true)::text AS slot",
                literal(&slot)
            );
            rows(&mut session, "hold the write-ahead log", sql).await?;
            return Ok(LogHold { session: Mutex::new(Some(session)), directory });
        }
        Ok(LogHold::default())
    }

    /// Lets go of the log once it was read.
    pub(super) async fn let_go_of_log(&mut self) {
        if let Some(session) = std::mem::take(&mut self.hold).session.into_inner() {
            // The slot goes with the session, however that ends.
            let _ = session::close(session).await;
        }
    }
}

impl LogHold {
    /// Watches the disk until it is nearly full, lets go then, and returns; else never.
    pub(super) async fn guard_disk(&self) {
        if let Some(directory) = &self.directory {
            while free_percent(directory).is_none_or(|free| free >= LEAST_FREE_PERCENT) {
                tokio::time::sleep(PAUSE).await;
            }
            self.session.lock().await.take();
            tracing::warn!(directory = %directory.display(), "log is let go, the disk is nearly full");
        }
        std::future::pending().await
    }
}

fn free_percent(directory: &PathBuf) -> Option<u64> {
    let space = nix::sys::statvfs::statvfs(directory).ok()?;
    (space.blocks_available() * 100).checked_div(space.blocks())
}

/// A slot's name has lower-case letters, digits and `_` only.
fn slot_name(run: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    format!("belay_{}", run.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_called_after_its_run() {
        assert_eq!(slot_name("20261124T204251Z-ipumtf"), "belay_20261124t204251z_ipumtf");
    }
}
