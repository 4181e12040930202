//! Gated migrations: what a run knows, which phase it is in, which fences stand; written before
//! each act, so that the next process can go on where this one died.
//!
//! Facts and fences are JSON of whoever writes them; the ledger does not look inside.

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;

use super::{Ledger, LedgerError, ProcessMark, time_text};
use crate::rules::gate::{Phase, Position, Verdict};

/// A gated migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateRun {
    /// Its name, which sorts by time.
    pub id: String,
    /// The databases, by their names in PostgreSQL, in the order given; at least one.
    pub databases: Vec<String>,
    /// The command's words, secrets masked.
    pub command: Vec<String>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Who walks it, or walked it last.
    pub process: ProcessMark,
    /// Where it stands.
    pub position: Position,
    /// What is known of it, as JSON.
    pub facts: String,
    /// What the command wrote, cut to a bound and masked.
    pub output: String,
    /// When it was done or held.
    pub ended_at: Option<DateTime<Utc>>,
}

impl GateRun {
    /// Its databases, for a person to read.
    pub fn named_databases(&self) -> String {
        self.databases.join(", ")
    }
}

/// A run that is about to begin.
#[derive(Debug, Clone)]
pub struct NewRun<'a> {
    /// Its name.
    pub id: &'a str,
    /// The databases, by their names in PostgreSQL; at least one.
    pub databases: &'a [String],
    /// The command's words, secrets masked.
    pub command: &'a [String],
    /// When it begins.
    pub started_at: DateTime<Utc>,
}

/// One phase of a run, as it was journalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The phase.
    pub phase: Phase,
    /// When its act was about to begin.
    pub began_at: DateTime<Utc>,
    /// When it had ended; `None` for one that a death cut short.
    pub ended_at: Option<DateTime<Utc>>,
    /// How it ended, in words.
    pub outcome: Option<String>,
}

/// A fence of a run that stands, or may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaisedFence {
    /// Its place; fences are released in reverse.
    pub ordinal: u32,
    /// How it is released, as JSON.
    pub undo: String,
}

impl Ledger {
    /// Records a run in [`Phase::Requested`], walked by this process.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn begin_run(&self, run: &NewRun<'_>) -> Result<(), LedgerError> {
        let list = |texts: &[String]| serde_json::Value::from(texts.to_vec()).to_string();
        sqlx::query(
            "INSERT INTO gate_runs (id, databases, command, started_at, pid, process, phase, facts) \
             VALUES (?, ?, ?, ?, ?, ?, ?, '{}')",
        )
        .bind(run.id)
        .bind(list(run.databases))
        .bind(list(run.command))
        .bind(time_text(run.started_at))
        .bind(i64::from(self.process.pid))
        .bind(self.process.started.as_str())
        .bind(Phase::Requested.as_str())
        .execute(&self.pool)
        .await
        .map_err(self.failed("begin a run"))?;
        Ok(())
    }

    /// Records that `run` is about to act in the phase of `position`, knowing `facts`; by this process.
    ///
    /// A terminal phase ends the run.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn enter_phase(
        &self,
        run: &str,
        position: Position,
        facts: &str,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let failed = || self.failed("enter a phase");
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        sqlx::query(
            "UPDATE gate_runs SET phase = ?, verdict = ?, facts = ?, pid = ?, process = ?, ended_at = ? WHERE id = ?",
        )
        .bind(position.phase.as_str())
        .bind(position.verdict.map(Verdict::as_str))
        .bind(facts)
        .bind(i64::from(self.process.pid))
        .bind(self.process.started.as_str())
        .bind(position.phase.is_terminal().then(|| time_text(now)))
        .bind(run)
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        sqlx::query("INSERT INTO gate_phases (run, phase, began_at) VALUES (?, ?, ?)")
            .bind(run)
            .bind(position.phase.as_str())
            .bind(time_text(now))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    /// Records how the phase that `run` entered last ended, in words.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn leave_phase(&self, run: &str, outcome: &str, now: DateTime<Utc>) -> Result<(), LedgerError> {
        sqlx::query(
            "UPDATE gate_phases SET ended_at = ?1, outcome = ?2 \
             WHERE id = (SELECT max(id) FROM gate_phases WHERE run = ?3) AND ended_at IS NULL",
        )
        .bind(time_text(now))
        .bind(outcome)
        .bind(run)
        .execute(&self.pool)
        .await
        .map_err(self.failed("leave a phase"))?;
        Ok(())
    }

    /// Records what is known of `run` now, within a phase.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn note_facts(&self, run: &str, facts: &str) -> Result<(), LedgerError> {
        self.set_column("note facts of a run", "UPDATE gate_runs SET facts = ? WHERE id = ?", run, facts)
            .await
    }

    /// Keeps what the command of `run` wrote.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn keep_output(&self, run: &str, output: &str) -> Result<(), LedgerError> {
        self.set_column(
            "keep the output of a run",
            "UPDATE gate_runs SET output = ? WHERE id = ?",
            run,
            output,
        )
        .await
    }

    async fn set_column(
        &self,
        action: &'static str,
        update: &'static str,
        run: &str,
        value: &str,
    ) -> Result<(), LedgerError> {
        sqlx::query(update).bind(value).bind(run).execute(&self.pool).await.map_err(self.failed(action))?;
        Ok(())
    }

    /// Records a fence that is about to be raised.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn record_fence(&self, run: &str, undo: &str) -> Result<RaisedFence, LedgerError> {
        let ordinal: i64 = sqlx::query_scalar(
            "INSERT INTO gate_fences (run, ordinal, undo) \
             VALUES (?1, (SELECT count(*) FROM gate_fences WHERE run = ?1), ?2) RETURNING ordinal",
        )
        .bind(run)
        .bind(undo)
        .fetch_one(&self.pool)
        .await
        .map_err(self.failed("record a fence"))?;
        Ok(RaisedFence { ordinal: u32::try_from(ordinal).unwrap_or_default(), undo: undo.into() })
    }

    /// The fences of `run` that are not known to be released, the last raised first.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn standing_fences(&self, run: &str) -> Result<Vec<RaisedFence>, LedgerError> {
        let select = "SELECT ordinal, undo FROM gate_fences WHERE run = ? AND released_at IS NULL ORDER BY ordinal DESC";
        let rows =
            sqlx::query(select).bind(run).fetch_all(&self.pool).await.map_err(self.failed("list fences"))?;
        rows.iter()
            .map(|row| {
                let ordinal: i64 = self.column(row, "ordinal")?;
                Ok(RaisedFence {
                    ordinal: u32::try_from(ordinal).unwrap_or_default(),
                    undo: self.column(row, "undo")?,
                })
            })
            .collect()
    }

    /// Records that a fence of `run` is released.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn fence_released(
        &self,
        run: &str,
        ordinal: u32,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        sqlx::query("UPDATE gate_fences SET released_at = ? WHERE run = ? AND ordinal = ?")
            .bind(time_text(now))
            .bind(run)
            .bind(i64::from(ordinal))
            .execute(&self.pool)
            .await
            .map_err(self.failed("release a fence"))?;
        Ok(())
    }

    /// Lists the runs that are neither done nor held, the one begun first first.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn open_runs(&self) -> Result<Vec<GateRun>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM gate_runs WHERE ended_at IS NULL ORDER BY id")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list open runs"))?;
        rows.iter().map(|row| self.gate_run(row)).collect()
    }

    /// Lists the runs begun last, newest first, of all or of those that `database` has a part in.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn recent_runs(&self, database: Option<&str>, limit: u32) -> Result<Vec<GateRun>, LedgerError> {
        let select = "SELECT * FROM gate_runs \
            WHERE ?1 IS NULL OR EXISTS (SELECT 1 FROM json_each(databases) WHERE value = ?1) ORDER BY id DESC LIMIT ?2";
        let rows = sqlx::query(select)
            .bind(database)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list runs"))?;
        rows.iter().map(|row| self.gate_run(row)).collect()
    }

    /// Names the runs that `database` has a part in and that are held, the one begun first first.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn held_runs(&self, database: &str) -> Result<Vec<String>, LedgerError> {
        let select = "SELECT id FROM gate_runs \
            WHERE EXISTS (SELECT 1 FROM json_each(databases) WHERE value = ?) AND phase = ? ORDER BY id";
        sqlx::query_scalar(select)
            .bind(database)
            .bind(Phase::Held.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list held runs"))
    }

    /// The run called `id`, if there is one.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn run(&self, id: &str) -> Result<Option<GateRun>, LedgerError> {
        let row = sqlx::query("SELECT * FROM gate_runs WHERE id = ?")
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("find a run"))?;
        row.map(|row| self.gate_run(&row)).transpose()
    }

    /// What `run` went through, in order.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn journal(&self, run: &str) -> Result<Vec<JournalEntry>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM gate_phases WHERE run = ? ORDER BY id")
            .bind(run)
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read a journal"))?;
        rows.iter()
            .map(|row| {
                Ok(JournalEntry {
                    phase: self.phase(row)?,
                    began_at: self.time(row, "began_at")?,
                    ended_at: self.optional_time(row, "ended_at")?,
                    outcome: self.column(row, "outcome")?,
                })
            })
            .collect()
    }

    fn phase(&self, row: &SqliteRow) -> Result<Phase, LedgerError> {
        let text: String = self.column(row, "phase")?;
        text.parse().map_err(|_| self.bad_value("phase", text))
    }

    fn optional_time(
        &self,
        row: &SqliteRow,
        column: &'static str,
    ) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let text: Option<String> = self.column(row, column)?;
        text.map(|_| self.time(row, column)).transpose()
    }

    fn gate_run(&self, row: &SqliteRow) -> Result<GateRun, LedgerError> {
        let verdict: Option<String> = self.column(row, "verdict")?;
        let verdict =
            verdict.map(|text| text.parse().map_err(|_| self.bad_value("verdict", text))).transpose()?;
        let list = |name| {
            let text: String = self.column(row, name)?;
            serde_json::from_str(&text).map_err(|_| self.bad_value(name, text))
        };
        Ok(GateRun {
            id: self.column(row, "id")?,
            databases: list("databases")?,
            command: list("command")?,
            started_at: self.time(row, "started_at")?,
            process: self.process_of(row)?,
            position: Position { phase: self.phase(row)?, verdict },
            facts: self.column(row, "facts")?,
            output: self.column(row, "output")?,
            ended_at: self.optional_time(row, "ended_at")?,
        })
    }
}
