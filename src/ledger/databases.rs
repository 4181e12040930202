//! Databases that a restore made or set aside: what is written here before the act lets the next
//! run tell ours from others' after a crash.

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;

use super::{Ledger, LedgerError, ProcessMark, time_text};

/// A swap: the database that gives up its name, and what it is called afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// Unique text that also stands in the comment of the database set aside.
    pub marker: String,
    /// The cluster, as PostgreSQL identifies it.
    pub system_identifier: String,
    /// The OID of the database set aside; a rename does not change it.
    pub oid: u32,
    /// Its name from then on.
    pub kept_name: String,
    /// Its name before.
    pub original_name: String,
    /// When it gives up its name.
    pub replaced_at: DateTime<Utc>,
    /// When it may be dropped.
    pub expires_at: DateTime<Utc>,
}

/// How far a swap is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplacementState {
    /// Recorded before the swap; after a crash, only the cluster knows whether it happened.
    Planned,
    /// The swap is known to have been committed.
    Confirmed,
}

/// A [`Replacement`] in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacedDatabase {
    /// The swap.
    pub replacement: Replacement,
    /// How far it came.
    pub state: ReplacementState,
}

/// A database that is being loaded under a temporary name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loading {
    /// Unique text that also stands in the comment of the database.
    pub marker: String,
    /// The cluster, as PostgreSQL identifies it.
    pub system_identifier: String,
    /// The OID of the database, once it is known.
    pub oid: Option<u32>,
    /// Its name while it is loading.
    pub temp_name: String,
    /// When the restore began.
    pub started_at: DateTime<Utc>,
}

/// A [`Loading`] in the ledger, with the process that loads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadingDatabase {
    /// The database.
    pub loading: Loading,
    /// Who loads it; what a dead process left may be dropped.
    pub process: ProcessMark,
}

impl Ledger {
    /// Records a swap that is about to happen, as [`ReplacementState::Planned`].
    ///
    /// # Errors
    /// [`LedgerError::Query`], also for a marker that is there already; [`LedgerError::Corrupt`].
    pub async fn record_replaced(&self, replacement: &Replacement) -> Result<(), LedgerError> {
        let insert = "INSERT INTO replaced_databases (marker, system_identifier, oid, kept_name, \
                      original_name, replaced_at, expires_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, 'planned')";
        sqlx::query(insert)
            .bind(replacement.marker.as_str())
            .bind(replacement.system_identifier.as_str())
            .bind(i64::from(replacement.oid))
            .bind(replacement.kept_name.as_str())
            .bind(replacement.original_name.as_str())
            .bind(time_text(replacement.replaced_at))
            .bind(time_text(replacement.expires_at))
            .execute(&self.pool)
            .await
            .map_err(self.failed("record a replaced database"))?;
        Ok(())
    }

    /// Records that the swap of `marker` was committed; may be called again.
    ///
    /// # Errors
    /// [`LedgerError::NoSuchMarker`], [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn confirm_replaced(&self, marker: &str) -> Result<(), LedgerError> {
        let action = "confirm replaced database";
        let result = sqlx::query("UPDATE replaced_databases SET state = 'confirmed' WHERE marker = ?")
            .bind(marker)
            .execute(&self.pool)
            .await
            .map_err(self.failed(action))?;
        self.found(result.rows_affected(), action, marker)
    }

    /// Lists every replaced database, the one set aside first first.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn replaced(&self) -> Result<Vec<ReplacedDatabase>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM replaced_databases ORDER BY replaced_at, marker")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list replaced databases"))?;
        rows.iter().map(|row| self.replaced_database(row)).collect()
    }

    /// Removes the record of `marker`; a missing one is no error.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn forget_replaced(&self, marker: &str) -> Result<(), LedgerError> {
        sqlx::query("DELETE FROM replaced_databases WHERE marker = ?")
            .bind(marker)
            .execute(&self.pool)
            .await
            .map_err(self.failed("forget a replaced database"))?;
        Ok(())
    }

    /// Records a database that this process is about to create and load.
    ///
    /// # Errors
    /// [`LedgerError::Query`], also for a marker that is there already; [`LedgerError::Corrupt`].
    pub async fn record_loading(&self, loading: &Loading) -> Result<(), LedgerError> {
        let insert = "INSERT INTO restores_in_flight (marker, system_identifier, oid, temp_name, \
                      started_at, pid, process) VALUES (?, ?, ?, ?, ?, ?, ?)";
        sqlx::query(insert)
            .bind(loading.marker.as_str())
            .bind(loading.system_identifier.as_str())
            .bind(loading.oid.map(i64::from))
            .bind(loading.temp_name.as_str())
            .bind(time_text(loading.started_at))
            .bind(i64::from(self.process.pid))
            .bind(self.process.started.as_str())
            .execute(&self.pool)
            .await
            .map_err(self.failed("record a loading database"))?;
        Ok(())
    }

    /// Records the OID that the database of `marker` got when it was created.
    ///
    /// # Errors
    /// [`LedgerError::NoSuchMarker`], [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn note_loading_oid(&self, marker: &str, oid: u32) -> Result<(), LedgerError> {
        let action = "note the OID of loading database";
        let result = sqlx::query("UPDATE restores_in_flight SET oid = ? WHERE marker = ?")
            .bind(i64::from(oid))
            .bind(marker)
            .execute(&self.pool)
            .await
            .map_err(self.failed(action))?;
        self.found(result.rows_affected(), action, marker)
    }

    /// Lists every loading database, the one begun first first; those of living processes too.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn loading(&self) -> Result<Vec<LoadingDatabase>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM restores_in_flight ORDER BY started_at, marker")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list loading databases"))?;
        rows.iter().map(|row| self.loading_database(row)).collect()
    }

    /// Removes the record of `marker`; a missing one is no error.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn forget_loading(&self, marker: &str) -> Result<(), LedgerError> {
        sqlx::query("DELETE FROM restores_in_flight WHERE marker = ?")
            .bind(marker)
            .execute(&self.pool)
            .await
            .map_err(self.failed("forget a loading database"))?;
        Ok(())
    }

    fn found(&self, rows: u64, action: &'static str, marker: &str) -> Result<(), LedgerError> {
        if rows == 1 {
            return Ok(());
        }
        Err(LedgerError::NoSuchMarker { action, marker: marker.into(), path: self.path.clone() })
    }

    fn replaced_database(&self, row: &SqliteRow) -> Result<ReplacedDatabase, LedgerError> {
        let state: String = self.column(row, "state")?;
        let state = match state.as_str() {
            "planned" => ReplacementState::Planned,
            "confirmed" => ReplacementState::Confirmed,
            _ => return Err(self.bad_value("state", state)),
        };
        let replacement = Replacement {
            marker: self.column(row, "marker")?,
            system_identifier: self.column(row, "system_identifier")?,
            oid: self.oid(self.column(row, "oid")?)?,
            kept_name: self.column(row, "kept_name")?,
            original_name: self.column(row, "original_name")?,
            replaced_at: self.time(row, "replaced_at")?,
            expires_at: self.time(row, "expires_at")?,
        };
        Ok(ReplacedDatabase { replacement, state })
    }

    fn loading_database(&self, row: &SqliteRow) -> Result<LoadingDatabase, LedgerError> {
        let oid: Option<i64> = self.column(row, "oid")?;
        let loading = Loading {
            marker: self.column(row, "marker")?,
            system_identifier: self.column(row, "system_identifier")?,
            oid: oid.map(|oid| self.oid(oid)).transpose()?,
            temp_name: self.column(row, "temp_name")?,
            started_at: self.time(row, "started_at")?,
        };
        Ok(LoadingDatabase { loading, process: self.process_of(row)? })
    }

    fn oid(&self, stored: i64) -> Result<u32, LedgerError> {
        u32::try_from(stored).map_err(|_| self.bad_value("oid", stored))
    }
}
