//! Keeps writers out of a database and lets them in again: pods, PgBouncer, roles, any command.
//!
//! Comes in: a fence of the settings. Goes out: an [`Undo`] that says how everything was, to be
//! written down before the fence goes up; then the fence itself; then everything as it was. Never
//! decides whether to migrate, and never puts back what it did not change.

mod command;
mod kubectl;
mod pgbouncer;
mod program;
mod role;
pub mod sessions;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use crate::postgres::tools::Tools;
use crate::postgres::{PostgresError, session};
use crate::settings::{Connection, FenceKind, FenceSettings, SettingsError};
pub use kubectl::Scaled;
pub use sessions::{Ours, SessionLeft, empty, end_sessions, sessions_left};

/// What is needed to put back exactly what was; holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Undo {
    /// Deployments that had pods.
    KubectlScale {
        /// The program: a name on the path, or a path.
        kubectl: String,
        /// kubectl's context; `None` for its current one.
        context: Option<String>,
        /// How many pods each had.
        deployments: Vec<Scaled>,
    },
    /// Databases of PgBouncer that were not paused.
    Pgbouncer {
        /// A host name, an address, or the directory of a socket.
        host: String,
        /// TCP port, or the number in the socket's name.
        port: u16,
        /// One of PgBouncer's `admin_users`.
        user: String,
        /// The file of the password; read anew each time.
        password_file: Option<PathBuf>,
        /// Their names in PgBouncer.
        databases: Vec<String>,
    },
    /// Roles that could log in.
    Role {
        /// Their names.
        roles: Vec<String>,
    },
    /// A program that lets writers in again.
    Command {
        /// The program first.
        release: Vec<String>,
    },
}

/// Where a fence goes up, and how long that may take.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// How to reach the cluster; whichever database it names, the maintenance one is used.
    pub connection: &'a Connection,
    /// The database that writers are kept out of.
    pub database: &'a str,
    /// PostgreSQL's programs.
    pub tools: &'a Tools,
    /// Where programs that are given by name are looked for, as in `PATH`.
    pub search_path: &'a str,
    /// How long each of [`look`], [`raise`], [`release`] (for each deployment) and [`empty`] may
    /// take.
    pub fence_timeout: Duration,
}

/// Why a fence is not up, or not down again.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A program is not on this machine.
    #[error("find {program}: there is no such program on the path")]
    ProgramMissing {
        /// As the settings name it.
        program: String,
    },
    /// A program did not do what it was asked.
    #[error("{action}")]
    Program {
        /// What we were doing.
        action: String,
        /// How the program ended, with the end of what it said.
        #[source]
        source: PostgresError,
    },
    /// A program exited with status 0, and what it wrote cannot be read.
    #[error("{action}: the answer is not what was asked for: {answer:?}")]
    Answer {
        /// What we were doing.
        action: String,
        /// The beginning of what it wrote.
        answer: String,
    },
    /// It took too long.
    #[error("{action}: not done within {}", humantime::format_duration(*waited))]
    TimedOut {
        /// What we were doing, with how far it came where that is known.
        action: String,
        /// How long we waited.
        waited: Duration,
    },
    /// A role that is to be kept out does not exist.
    #[error("keep out role {role}: there is no such role")]
    RoleMissing {
        /// Its name.
        role: String,
    },
    /// A role that is to be kept out is the one that we connect as.
    #[error("keep out role {role}: it is the role that we connect as")]
    OwnRole {
        /// Its name.
        role: String,
    },
    /// PgBouncer has no such database.
    #[error("pause database {database} in PgBouncer at {host}: it has none of that name")]
    NotPooled {
        /// The name that was looked for.
        database: String,
        /// PgBouncer's host name or socket directory.
        host: String,
    },
    /// Sessions are in the database, and the settings do not let us end them.
    #[error("keep sessions out of database {database}: {} left", sessions::in_words(sessions))]
    SessionsLeft {
        /// The database.
        database: String,
        /// Those that were seen last.
        sessions: Vec<SessionLeft>,
    },
    /// Sessions are ended and others come.
    #[error(
        "keep sessions out of database {database}: {} left, though sessions were ended for {}",
        sessions::in_words(sessions), humantime::format_duration(*waited)
    )]
    SessionsReturn {
        /// The database.
        database: String,
        /// Those that were seen last.
        sessions: Vec<SessionLeft>,
        /// How long we ended them.
        waited: Duration,
    },
    /// The undo list that was given belongs to another fence.
    #[error("raise fence {fence}: its undo list is one of another kind of fence")]
    OtherUndo {
        /// The name of the fence.
        fence: String,
    },
    /// A password file cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// PostgreSQL did not do what it was asked.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

/// Reads how everything is that `fence` would change, and changes nothing.
///
/// # Errors
/// Any but those about sessions: what cannot be read could not be put back.
pub async fn look(fence: &FenceSettings, context: &Context<'_>) -> Result<Undo, FenceError> {
    match &fence.kind {
        FenceKind::KubectlScale { deployments, context: cluster, kubectl } => {
            kubectl::look(kubectl, cluster.as_deref(), deployments, context).await
        }
        FenceKind::Pgbouncer { host, port, user, password_file, databases } => {
            let names =
                if databases.is_empty() { vec![context.database.to_owned()] } else { databases.clone() };
            let console =
                pgbouncer::Console { host, port: *port, user, password_file: password_file.as_deref() };
            console.look(&names, context).await
        }
        FenceKind::Role { roles } => role::look(roles, context).await,
        FenceKind::Command { raise, release } => command::look(raise, release, context),
    }
}

/// Keeps writers out; `undo` is what [`look`] returned, and is written down by now.
///
/// After an error it may be up in part: [`release`] puts that back too.
///
/// # Errors
/// [`FenceError::TimedOut`] when writers are not out in time, and what the party says.
pub async fn raise(fence: &FenceSettings, undo: &Undo, context: &Context<'_>) -> Result<(), FenceError> {
    match (&fence.kind, undo) {
        (FenceKind::KubectlScale { .. }, Undo::KubectlScale { kubectl, context: cluster, deployments }) => {
            kubectl::raise(kubectl, cluster.as_deref(), deployments, context).await
        }
        (FenceKind::Pgbouncer { .. }, Undo::Pgbouncer { host, port, user, password_file, databases }) => {
            let console =
                pgbouncer::Console { host, port: *port, user, password_file: password_file.as_deref() };
            console.raise(databases, context).await
        }
        (FenceKind::Role { roles }, Undo::Role { roles: with_login }) => {
            role::raise(roles, with_login, context).await
        }
        (FenceKind::Command { raise, .. }, Undo::Command { .. }) => command::run(raise, context).await,
        _ => Err(FenceError::OtherUndo { fence: fence.name.clone() }),
    }
}

/// Puts back what [`raise`] changed, as far as it is not so already; may be called again, and in
/// another process.
///
/// # Errors
/// The first of what could not be put back; the rest was tried nevertheless.
pub async fn release(undo: &Undo, context: &Context<'_>) -> Result<(), FenceError> {
    match undo {
        Undo::KubectlScale { kubectl, context: cluster, deployments } => {
            kubectl::release(kubectl, cluster.as_deref(), deployments, context).await
        }
        Undo::Pgbouncer { host, port, user, password_file, databases } => {
            let console =
                pgbouncer::Console { host, port: *port, user, password_file: password_file.as_deref() };
            console.release(databases, context).await
        }
        Undo::Role { roles } => role::release(roles, context).await,
        Undo::Command { release } => command::run(release, context).await,
    }
}

impl Context<'_> {
    async fn maintenance_session(&self) -> Result<PgConnection, FenceError> {
        Ok(session::connect(&self.connection.with_database(session::MAINTENANCE_DATABASE)).await?)
    }

    fn deadline(&self) -> Deadline {
        Deadline { at: Instant::now() + self.fence_timeout, whole: self.fence_timeout }
    }
}

/// When a fence has taken too long.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    whole: Duration,
}

impl Deadline {
    fn is_over(&self) -> bool {
        Instant::now() >= self.at
    }

    fn timed_out(&self, action: impl Into<String>) -> FenceError {
        FenceError::TimedOut { action: action.into(), waited: self.whole }
    }
}
