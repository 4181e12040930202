//! Which jobs ran, and how they ended.

use std::fmt;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;

use super::{Ledger, LedgerError, ProcessMark, time_text};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobKind {
    /// Takes a snapshot.
    Snapshot,
    /// Verifies one.
    Verify,
    /// Restores one.
    Restore,
    /// Removes what no policy keeps.
    Retain,
    /// Makes a base backup of the cluster.
    BaseBackup,
    /// Recovers the cluster into a directory.
    Recover,
    /// Verifies base backups and the write-ahead log.
    VerifyPhysical,
}

impl JobKind {
    const ALL: [Self; 7] = [
        Self::Snapshot,
        Self::Verify,
        Self::Restore,
        Self::Retain,
        Self::BaseBackup,
        Self::Recover,
        Self::VerifyPhysical,
    ];

    /// The kind as it stands in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Verify => "verify",
            Self::Restore => "restore",
            Self::Retain => "retain",
            Self::BaseBackup => "base-backup",
            Self::Recover => "recover",
            Self::VerifyPhysical => "verify-physical",
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// It did what it was to do.
    Done,
    /// It ended with an error.
    Failed {
        /// The error with its causes, without secrets.
        error: String,
    },
    /// It was told to stop, or its process died.
    Interrupted,
}

impl JobOutcome {
    fn ended_as(&self) -> EndedAs {
        match self {
            Self::Done => EndedAs::Done,
            Self::Failed { .. } => EndedAs::Failed,
            Self::Interrupted => EndedAs::Interrupted,
        }
    }
}

/// An outcome without its details, to look jobs up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedAs {
    /// See [`JobOutcome::Done`].
    Done,
    /// See [`JobOutcome::Failed`].
    Failed,
    /// See [`JobOutcome::Interrupted`].
    Interrupted,
}

impl EndedAs {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The number of a job in the ledger; later jobs have higher ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobRunId(i64);

impl fmt::Display for JobRunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRun {
    /// Its number.
    pub id: JobRunId,
    /// What it does.
    pub kind: JobKind,
    /// The database it is about, when it is about one.
    pub database: Option<String>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// The process that runs or ran it.
    pub process: ProcessMark,
    /// How and when it ended; `None` while it runs.
    pub end: Option<JobEnd>,
}

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEnd {
    /// How it ended.
    pub outcome: JobOutcome,
    /// The id of the snapshot that it made or used.
    pub subject: Option<String>,
    /// When it ended; for a process that died, when that was noticed.
    pub at: DateTime<Utc>,
}

impl Ledger {
    /// Records that this process begins a job; `database` is `None` for a job about all of them.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn begin_job(
        &self,
        kind: JobKind,
        database: Option<&str>,
        started_at: DateTime<Utc>,
    ) -> Result<JobRunId, LedgerError> {
        let insert = "INSERT INTO job_runs (kind, database, started_at, pid, process) VALUES (?, ?, ?, ?, ?)";
        let result = sqlx::query(insert)
            .bind(kind.as_str())
            .bind(database)
            .bind(time_text(started_at))
            .bind(i64::from(self.process.pid))
            .bind(self.process.started.as_str())
            .execute(&self.pool)
            .await
            .map_err(self.failed("begin a job"))?;
        Ok(JobRunId(result.last_insert_rowid()))
    }

    /// Records how a job ended; `subject` is the id of the snapshot it made or used.
    ///
    /// # Errors
    /// [`LedgerError::NotRunning`] when it has ended already, [`LedgerError::Query`],
    /// [`LedgerError::Corrupt`].
    pub async fn end_job(
        &self,
        id: JobRunId,
        outcome: &JobOutcome,
        subject: Option<&str>,
        ended_at: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        if self.end_if_open(id, outcome, subject, ended_at).await? {
            Ok(())
        } else {
            Err(LedgerError::NotRunning { id, path: self.path.clone() })
        }
    }

    /// Marks the jobs of dead processes as interrupted at `now`, and returns how many there were.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn close_abandoned(&self, now: DateTime<Utc>) -> Result<u64, LedgerError> {
        let open = sqlx::query("SELECT * FROM job_runs WHERE outcome IS NULL")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list open jobs"))?;
        let mut closed = 0;
        for row in &open {
            if self.process_of(row)?.is_alive() {
                continue;
            }
            let id = JobRunId(self.column(row, "id")?);
            // Another process may do the same at the same time; each job is counted once.
            closed += u64::from(self.end_if_open(id, &JobOutcome::Interrupted, None, now).await?);
        }
        Ok(closed)
    }

    /// Lists the jobs begun last, newest first, of `database` or of all.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn recent_jobs(&self, database: Option<&str>, limit: u32) -> Result<Vec<JobRun>, LedgerError> {
        let select = "SELECT * FROM job_runs WHERE ?1 IS NULL OR database = ?1 ORDER BY id DESC LIMIT ?2";
        let rows = sqlx::query(select)
            .bind(database)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list jobs"))?;
        rows.iter().map(|row| self.job_run(row)).collect()
    }

    /// Lists the jobs of this kind begun last, newest first; `database` `None` means jobs about all
    /// databases.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn jobs_of(
        &self,
        kind: JobKind,
        database: Option<&str>,
        limit: u32,
    ) -> Result<Vec<JobRun>, LedgerError> {
        let select = "SELECT * FROM job_runs WHERE kind = ? AND database IS ? ORDER BY id DESC LIMIT ?";
        let rows = sqlx::query(select)
            .bind(kind.as_str())
            .bind(database)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list jobs of a kind"))?;
        rows.iter().map(|row| self.job_run(row)).collect()
    }

    /// The job of this kind begun last; `database` `None` means a job about all databases, and
    /// `ended_as` `None` any job, a running one too.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn last_job(
        &self,
        kind: JobKind,
        database: Option<&str>,
        ended_as: Option<EndedAs>,
    ) -> Result<Option<JobRun>, LedgerError> {
        let select = "SELECT * FROM job_runs WHERE kind = ?1 AND database IS ?2 \
                      AND (?3 IS NULL OR outcome = ?3) ORDER BY id DESC LIMIT 1";
        let row = sqlx::query(select)
            .bind(kind.as_str())
            .bind(database)
            .bind(ended_as.map(EndedAs::as_str))
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("find the last job"))?;
        row.map(|row| self.job_run(&row)).transpose()
    }

    async fn end_if_open(
        &self,
        id: JobRunId,
        outcome: &JobOutcome,
        subject: Option<&str>,
        ended_at: DateTime<Utc>,
    ) -> Result<bool, LedgerError> {
        let error = match outcome {
            JobOutcome::Failed { error } => Some(error.as_str()),
            JobOutcome::Done | JobOutcome::Interrupted => None,
        };
        let update = "UPDATE job_runs SET outcome = ?, error = ?, subject = ?, ended_at = ? \
                      WHERE id = ? AND outcome IS NULL";
        let result = sqlx::query(update)
            .bind(outcome.ended_as().as_str())
            .bind(error)
            .bind(subject)
            .bind(time_text(ended_at))
            .bind(id.0)
            .execute(&self.pool)
            .await
            .map_err(self.failed("end a job"))?;
        Ok(result.rows_affected() == 1)
    }

    fn job_run(&self, row: &SqliteRow) -> Result<JobRun, LedgerError> {
        let kind: String = self.column(row, "kind")?;
        let known = JobKind::ALL.into_iter().find(|known| known.as_str() == kind);
        Ok(JobRun {
            id: JobRunId(self.column(row, "id")?),
            kind: known.ok_or_else(|| self.bad_value("kind", kind))?,
            database: self.column(row, "database")?,
            started_at: self.time(row, "started_at")?,
            process: self.process_of(row)?,
            end: self.job_end(row)?,
        })
    }

    fn job_end(&self, row: &SqliteRow) -> Result<Option<JobEnd>, LedgerError> {
        let Some(text) = self.column::<Option<String>>(row, "outcome")? else { return Ok(None) };
        let error: Option<String> = self.column(row, "error")?;
        let outcome = match text.as_str() {
            "done" => JobOutcome::Done,
            "failed" => JobOutcome::Failed { error: error.unwrap_or_default() },
            "interrupted" => JobOutcome::Interrupted,
            _ => return Err(self.bad_value("outcome", text)),
        };
        let at = self.time(row, "ended_at")?;
        Ok(Some(JobEnd { outcome, subject: self.column(row, "subject")?, at }))
    }
}
