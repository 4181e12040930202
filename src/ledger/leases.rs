//! Leases: what is known of a runner on another machine that runs the command of a gated migration.
//!
//! A lease is written down with every change, before its runner gets an answer: what was answered
//! once holds after a crash.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;

use super::{Ledger, LedgerError, time_text};
use crate::rules::audit::Actor;
use crate::rules::lease::Lease;

/// The lease of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The run.
    pub run: String,
    /// Whose opening it is, and the key that they gave it; no two have the same.
    pub opening: String,
    /// Who may touch it besides operators.
    pub owner: String,
    /// The same for the audit log.
    pub actor: Actor,
    /// How long the runner may be silent.
    pub length: Duration,
    /// What the runner said.
    pub lease: Lease,
    /// When it was last heard of.
    pub heard_at: DateTime<Utc>,
}

impl Ledger {
    /// Records a new lease. Returns false, and records nothing, when there is one of that opening.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn begin_lease(&self, record: &LeaseRecord) -> Result<bool, LedgerError> {
        let done = sqlx::query(
            "INSERT INTO gate_leases (run, opening, owner, actor, seconds, state, heard_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (opening) DO NOTHING",
        )
        .bind(&record.run)
        .bind(&record.opening)
        .bind(&record.owner)
        .bind(json_of(&record.actor))
        .bind(i64::try_from(record.length.as_secs()).unwrap_or(i64::MAX))
        .bind(json_of(&record.lease))
        .bind(time_text(record.heard_at))
        .execute(&self.pool)
        .await
        .map_err(self.failed("begin a lease"))?;
        Ok(done.rows_affected() == 1)
    }

    /// The lease of `run`, if its command runs elsewhere.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn lease(&self, run: &str) -> Result<Option<LeaseRecord>, LedgerError> {
        self.lease_where("SELECT * FROM gate_leases WHERE run = ?", run).await
    }

    /// The lease of an opening that was asked for before.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn lease_of_opening(&self, opening: &str) -> Result<Option<LeaseRecord>, LedgerError> {
        self.lease_where("SELECT * FROM gate_leases WHERE opening = ?", opening).await
    }

    async fn lease_where(
        &self,
        select: &'static str,
        value: &str,
    ) -> Result<Option<LeaseRecord>, LedgerError> {
        let row = sqlx::query(select)
            .bind(value)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("find a lease"))?;
        row.map(|row| self.lease_record(&row)).transpose()
    }

    /// Records what is known of the lease of `run` now, and that its runner was heard of at `now`.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn note_lease(&self, run: &str, lease: &Lease, now: DateTime<Utc>) -> Result<(), LedgerError> {
        sqlx::query("UPDATE gate_leases SET state = ?, heard_at = ? WHERE run = ?")
            .bind(json_of(lease))
            .bind(time_text(now))
            .bind(run)
            .execute(&self.pool)
            .await
            .map_err(self.failed("note a lease"))?;
        Ok(())
    }

    /// As [`Ledger::note_lease`], together with the output of the command as far as it is known.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn note_lease_and_output(
        &self,
        run: &str,
        lease: &Lease,
        output: &str,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let failed = || self.failed("note a lease");
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        sqlx::query("UPDATE gate_leases SET state = ?, heard_at = ? WHERE run = ?")
            .bind(json_of(lease))
            .bind(time_text(now))
            .bind(run)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        sqlx::query("UPDATE gate_runs SET output = ? WHERE id = ?")
            .bind(output)
            .bind(run)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    fn lease_record(&self, row: &SqliteRow) -> Result<LeaseRecord, LedgerError> {
        let seconds: i64 = self.column(row, "seconds")?;
        let seconds = u64::try_from(seconds).map_err(|_| self.bad_value("seconds", seconds))?;
        let actor: String = self.column(row, "actor")?;
        let state: String = self.column(row, "state")?;
        Ok(LeaseRecord {
            run: self.column(row, "run")?,
            opening: self.column(row, "opening")?,
            owner: self.column(row, "owner")?,
            actor: serde_json::from_str(&actor).map_err(|_| self.bad_value("actor", actor))?,
            length: Duration::from_secs(seconds),
            lease: serde_json::from_str(&state).map_err(|_| self.bad_value("state", state))?,
            heard_at: self.time(row, "heard_at")?,
        })
    }
}

fn json_of(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what a lease holds is maps with text keys, texts and numbers")
}
