//! The host's own record, a small SQLite file: which jobs ran, which databases a restore set
//! aside, which are still loading, each gated migration, phase by phase, and who has a token.
//!
//! Comes in: facts, times as parameters. Goes out: the same facts after a crash. Every call is
//! durable when it returns. Several processes may hold the ledger open. It never holds a secret,
//! and a damaged file is reported, never removed.

mod audit;
mod databases;
mod jobs;
mod leases;
pub mod lock;
mod process;
mod runs;
#[cfg(test)]
mod tests;
mod tokens;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Row as _};

use crate::rules::audit::Actor;

pub use audit::{CI_VARIABLES, Happening, OnBehalf};
pub use databases::{Loading, LoadingDatabase, ReplacedDatabase, Replacement, ReplacementState};
pub use jobs::{EndedAs, JobEnd, JobKind, JobOutcome, JobRun, JobRunId};
pub use leases::LeaseRecord;
pub use process::ProcessMark;
pub use runs::{GateRun, JournalEntry, NewRun, RaisedFence};
pub use tokens::Token;

/// How long a writer waits for another process to end its own write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Brings a ledger from version `index` to `index + 1`; each sets `user_version` itself. Only
/// ever added to: ledgers of every version are out there.
const MIGRATIONS: [&str; 5] = [
    include_str!("ledger/schema-1.sql"),
    include_str!("ledger/schema-2.sql"),
    include_str!("ledger/schema-3.sql"),
    include_str!("ledger/schema-4.sql"),
    include_str!("ledger/schema-5.sql"),
];

/// Why the ledger does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be made or opened.
    #[error("open ledger {path}")]
    Open {
        /// The ledger's file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is damaged, or is no SQLite file at all. It is left as it is.
    #[error("read ledger {path}: the file is damaged ({detail})")]
    Corrupt {
        /// The ledger's file.
        path: PathBuf,
        /// What SQLite found first.
        detail: String,
    },
    /// A later release of Belay wrote the ledger.
    #[error("open ledger {path}: it has version {found}, this release knows versions up to {known}")]
    Newer {
        /// The ledger's file.
        path: PathBuf,
        /// Version of the file.
        found: i64,
        /// Newest version that this release reads.
        known: i64,
    },
    /// SQLite refuses a statement.
    #[error("{action} in ledger {path}")]
    Query {
        /// What the statement was for.
        action: &'static str,
        /// The ledger's file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds a value that no release writes.
    #[error("read ledger {path}: column {column} holds {value:?}")]
    Value {
        /// The ledger's file.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// The value as it stands.
        value: String,
    },
    /// The job to be ended has ended already, or never began.
    #[error("end job {id} in ledger {path}: it is not running")]
    NotRunning {
        /// The job.
        id: JobRunId,
        /// The ledger's file.
        path: PathBuf,
    },
    /// There is no record of this marker.
    #[error("{action} {marker} in ledger {path}: no such record")]
    NoSuchMarker {
        /// What was to be done with it.
        action: &'static str,
        /// The marker.
        marker: String,
        /// The ledger's file.
        path: PathBuf,
    },
    /// A token that is not revoked has this name already.
    #[error("add token {name} to ledger {path}: there is one of this name")]
    NameTaken {
        /// The name.
        name: String,
        /// The ledger's file.
        path: PathBuf,
    },
    /// The system does not say which process this is.
    #[error("identify this process")]
    Process(#[source] std::io::Error),
}

/// An open ledger. Clones share its connection.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: SqlitePool,
    path: PathBuf,
    process: ProcessMark,
    actor: Actor,
}

impl Ledger {
    /// Opens the ledger at `path`, creates it (mode 0600) when it is not there, and brings an
    /// older one up to date. The directory must be there.
    ///
    /// # Errors
    /// [`LedgerError::Open`], [`LedgerError::Corrupt`], [`LedgerError::Newer`],
    /// [`LedgerError::Query`], [`LedgerError::Process`].
    pub async fn open(path: &Path) -> Result<Self, LedgerError> {
        create_if_missing(path).map_err(|source| LedgerError::Open { path: path.into(), source })?;
        let process = ProcessMark::current().map_err(LedgerError::Process)?;
        let ledger =
            Self { pool: connect(path).await?, path: path.into(), process, actor: audit::actor_of_process() };
        ledger.check().await?;
        ledger.migrate().await?;
        Ok(ledger)
    }

    /// This process, as rows name it.
    pub fn process(&self) -> &ProcessMark {
        &self.process
    }

    /// Closes the connection; what was recorded is durable without it.
    pub async fn close(self) {
        self.pool.close().await;
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let found: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&self.pool)
            .await
            .map_err(self.failed("check integrity"))?;
        if found == "ok" {
            Ok(())
        } else {
            Err(LedgerError::Corrupt { path: self.path.clone(), detail: found })
        }
    }

    async fn migrate(&self) -> Result<(), LedgerError> {
        let known = MIGRATIONS.len() as i64;
        let failed = || self.failed("update schema");
        // The write lock comes first: two processes may start at once.
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        let found: i64 =
            sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *transaction).await.map_err(failed())?;
        let done = usize::try_from(found).unwrap_or(usize::MAX);
        let Some(pending) = MIGRATIONS.get(done..) else {
            return Err(LedgerError::Newer { path: self.path.clone(), found, known });
        };
        for migration in pending {
            sqlx::raw_sql(*migration).execute(&mut *transaction).await.map_err(failed())?;
        }
        transaction.commit().await.map_err(failed())
    }

    /// Makes the error of a statement; a damaged file gets its own.
    fn failed(&self, action: &'static str) -> impl FnOnce(sqlx::Error) -> LedgerError + '_ {
        move |source| query_error(action, &self.path, source)
    }

    fn bad_value(&self, column: &'static str, value: impl ToString) -> LedgerError {
        LedgerError::Value { path: self.path.clone(), column, value: value.to_string() }
    }

    fn column<T>(&self, row: &SqliteRow, column: &'static str) -> Result<T, LedgerError>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        row.try_get(column).map_err(self.failed("read a row"))
    }

    fn time(&self, row: &SqliteRow, column: &'static str) -> Result<DateTime<Utc>, LedgerError> {
        let text: String = self.column(row, column)?;
        match DateTime::parse_from_rfc3339(&text) {
            Ok(time) => Ok(time.to_utc()),
            Err(_) => Err(self.bad_value(column, text)),
        }
    }

    fn process_of(&self, row: &SqliteRow) -> Result<ProcessMark, LedgerError> {
        let pid: i64 = self.column(row, "pid")?;
        let pid = u32::try_from(pid).map_err(|_| self.bad_value("pid", pid))?;
        Ok(ProcessMark { pid, started: self.column(row, "process")? })
    }
}

/// Times stand to the millisecond.
fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// SQLite would create the file with the mode that the umask leaves. The empty file gets its name
/// after it is closed: closing any handle of a database drops the locks that this process has on it.
fn create_if_missing(path: &Path) -> std::io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let empty = tempfile::Builder::new().prefix(".new-ledger-").tempfile_in(directory)?.into_temp_path();
    match empty.persist_noclobber(path) {
        Err(e) if e.error.kind() != ErrorKind::AlreadyExists => Err(e.error),
        _ => Ok(()),
    }
}

async fn connect(path: &Path) -> Result<SqlitePool, LedgerError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    // One connection: SQLite has one writer, and a second one here would only wait for the first.
    let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let started = Instant::now();
    loop {
        match pool.clone().connect_with(options.clone()).await {
            Ok(pool) => return Ok(pool),
            // The change to WAL does not honour the busy timeout when two processes try it at once.
            Err(e) if is_busy(&e) && started.elapsed() < BUSY_TIMEOUT => tokio::time::sleep(BUSY_PAUSE).await,
            Err(e) => return Err(query_error("connect", path, e)),
        }
    }
}

const SQLITE_BUSY: i64 = 5;
const SQLITE_CORRUPT: i64 = 11;
const SQLITE_NOTADB: i64 = 26;

/// The primary result code; the extended one has more bits above it.
fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

fn is_busy(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_BUSY)
}

fn query_error(action: &'static str, path: &Path, source: sqlx::Error) -> LedgerError {
    let path = path.to_path_buf();
    match (primary_code(&source), source.as_database_error()) {
        (Some(SQLITE_CORRUPT | SQLITE_NOTADB), Some(said)) => {
            LedgerError::Corrupt { path, detail: said.message().to_owned() }
        }
        _ => LedgerError::Query { action, path, source },
    }
}
