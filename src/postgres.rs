//! What we ask of PostgreSQL: sessions, COPY both ways, its own programs, a scratch cluster.
//!
//! Comes in: a [`Connection`](crate::settings::Connection). Goes out: descriptions, COPY text,
//! archives. Decides nothing about snapshots or restores.

pub mod amcheck;
pub mod archives;
pub mod copy;
pub mod describe;
pub mod heartbeat;
pub mod limited;
pub mod pipes;
pub mod recovering;
pub mod replication;
pub mod rights;
pub mod scratch;
pub mod session;
pub mod tools;
pub mod wal;

use std::path::PathBuf;
use std::time::Duration;

/// Why PostgreSQL or one of its programs did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The server did not let us in, or is not there.
    #[error("connect to database {database} at {host}")]
    Connect {
        /// Database asked for.
        database: String,
        /// Host name or socket directory.
        host: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// There is no database of this name.
    #[error("connect to database {database} at {host}: there is no such database")]
    NoDatabase {
        /// Database asked for.
        database: String,
        /// Host name or socket directory.
        host: String,
    },
    /// The role lacks a right.
    #[error("{action}: {message}")]
    Denied {
        /// What we were doing.
        action: String,
        /// PostgreSQL's own sentence.
        message: String,
    },
    /// A lock was not to be had within its timeout.
    #[error("{action}: another session holds a lock on {} for longer than the lock timeout", named(tables))]
    LockTimeout {
        /// What we were doing.
        action: String,
        /// The tables that were locked then, as far as that was seen.
        tables: Vec<String>,
    },
    /// The server's disk is full.
    #[error("{action}: the server has no space left")]
    NoSpace {
        /// What we were doing.
        action: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// What names, comments and settings say cannot be passed on as UTF-8.
    #[error("{action}: database {database} has names, comments or settings that are not UTF-8")]
    NotUtf8 {
        /// What we were doing.
        action: String,
        /// The database.
        database: Box<str>,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// A statement failed.
    #[error("{action}")]
    Query {
        /// What we were doing.
        action: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// One of PostgreSQL's programs is not on this machine.
    #[error("find {tool} of version {wanted} or newer: {found}")]
    ToolMissing {
        /// Its name.
        tool: &'static str,
        /// Major version wanted.
        wanted: u32,
        /// What was found instead, in words.
        found: String,
    },
    /// The server's programs of one major version are not on this machine.
    #[error("find initdb and postgres of version {major}: {found}")]
    ServerMissing {
        /// Major version wanted.
        major: u32,
        /// What was found instead, in words.
        found: String,
    },
    /// One of PostgreSQL's programs could not be started.
    #[error("start {}", program.display())]
    ToolStart {
        /// Its path.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// One of PostgreSQL's programs failed.
    #[error("{tool} {status}{}", said(messages))]
    ToolFailed {
        /// Its name.
        tool: String,
        /// How it ended: `exited with status 1`, `was ended by signal 9`.
        status: String,
        /// The end of what it wrote to standard error.
        messages: String,
    },
    /// A program exited with status 0, but what it wrote is not whole.
    #[error("{tool} exited with status 0, but what it wrote is not whole{}", said(messages))]
    Incomplete {
        /// Its name.
        tool: &'static str,
        /// What is missing, in words; may be empty.
        messages: String,
    },
    /// What a program wrote could not be passed on.
    #[error("pass on what {tool} writes")]
    Pump {
        /// Its name.
        tool: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A query was not answered in time.
    #[error("{action}: no answer within {}", humantime::format_duration(*waited))]
    Unanswered {
        /// What we were doing.
        action: String,
        /// How long we waited.
        waited: Duration,
    },
    /// Nothing moved for too long.
    #[error("{action}: nothing moved for {}", humantime::format_duration(*waited))]
    Stalled {
        /// What we were doing.
        action: String,
        /// How long we waited.
        waited: Duration,
    },
}

fn named(tables: &[String]) -> String {
    if tables.is_empty() { "it".into() } else { tables.join(", ") }
}

fn said(messages: &str) -> String {
    if messages.is_empty() { String::new() } else { format!(": {messages}") }
}

impl PostgresError {
    /// Sorts a driver's error by what its reader can do about it.
    pub fn of_query(action: impl Into<String>, source: sqlx::Error) -> Self {
        let action = action.into();
        let database_error = source.as_database_error();
        let code = database_error.and_then(|error| error.code());
        match code.as_deref() {
            Some("42501") => {
                let message = database_error.map(|error| error.message().to_owned()).unwrap_or_default();
                Self::Denied { action, message }
            }
            Some("55P03") => Self::LockTimeout { action, tables: Vec::new() },
            Some("53100") => Self::NoSpace { action, source },
            _ => Self::Query { action, source },
        }
    }

    /// The same error of a question to the catalogs of `database`: their text may lie there in an
    /// encoding that nobody told the server.
    #[must_use]
    pub fn of_catalogs(self, database: &str) -> Self {
        match self {
            Self::Query { action, source } if is_about_encoding(&source) => {
                Self::NotUtf8 { action, database: database.into(), source }
            }
            other => other,
        }
    }
}

/// Invalid in the encoding (22021), or without a counterpart in UTF-8 (22P05).
fn is_about_encoding(source: &sqlx::Error) -> bool {
    let code = source.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("22021" | "22P05"))
}
