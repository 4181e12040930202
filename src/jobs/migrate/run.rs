//! What a run knows and holds beside its databases: the server, the command, the facts.

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use sqlx::postgres::PgConnection;

use super::environment::{self, Address};
use super::facts::RunFacts;
use super::hold::LogHold;
use super::{JobError, Means, Request, Stop};
use crate::command::CommandLine;
use crate::fence::Context;
use crate::jobs::recover::Moment;
use crate::postgres::tools::Tools;
use crate::postgres::wal::{self, WalReader};
use crate::postgres::{PostgresError, session};
use crate::rules::classify::Policy;
use crate::rules::gate::{Order, Position, Verdict};
use crate::rules::wal::Lsn;
use crate::settings::{Connection, OnFailure, Stamped};

/// A run, without its databases.
pub(super) struct Run<'a> {
    pub(super) means: &'a Means<'a>,
    pub(super) request: Request,
    pub(super) facts: RunFacts,
    pub(super) position: Position,
    pub(super) stop: Stop,
    pub(super) clock: fn() -> DateTime<Utc>,
    /// Holds the run's advisory locks.
    pub(super) lock: Option<PgConnection>,
    /// Keeps the server's log from the moment before the command on.
    pub(super) hold: LogHold,
    pub(super) server: Option<Server>,
    pub(super) snapshots_taken: u32,
    /// The databases as they were at the restore point, while they are put back from there.
    pub(super) moment: Option<Moment>,
}

/// What is known of the server, once it was asked.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) version_num: u32,
    pub(super) tools: Tools,
    pub(super) wal: WalReader,
}

impl<'a> Run<'a> {
    /// How the cluster is reached for what is not of one database.
    pub(super) fn connection(&self) -> &'a Connection {
        &self.means.first().connection
    }

    pub(super) async fn maintenance_session(&self) -> Result<PgConnection, PostgresError> {
        session::connect(&self.connection().with_database(session::MAINTENANCE_DATABASE)).await
    }

    /// Where the server's log stands now.
    pub(super) async fn lsn(&self) -> Result<Lsn, JobError> {
        Ok(wal::position(&mut self.maintenance_session().await?).await?)
    }

    /// The server's version, programs and log, asked once.
    pub(super) async fn server(&mut self) -> Result<Server, JobError> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        let mut session = self.maintenance_session().await?;
        let version_num = session::server_version_num(&mut session).await?;
        let (bin_directory, path, major) = (self.means.bin_directory, self.means.path, version_num / 10_000);
        let tools = Tools::find(bin_directory, path, major).await?;
        let wal = WalReader::find(self.connection(), &mut session, bin_directory, path, major).await?;
        let server = Server { version_num, tools, wal };
        self.server = Some(server.clone());
        Ok(server)
    }

    pub(super) async fn with_fence_context<T>(
        &mut self,
        database: &str,
        work: impl AsyncFnOnce(&Context<'_>) -> T,
    ) -> Result<T, JobError> {
        let server = self.server().await?;
        let context = Context {
            connection: self.connection(),
            database,
            tools: &server.tools,
            search_path: self.means.path,
            fence_timeout: self.means.gate.fence_timeout,
        };
        Ok(work(&context).await)
    }

    /// Whether writers are meant to be kept out by now; without a fence, nobody was seen a moment ago.
    pub(super) fn is_fenced(&self) -> bool {
        match self.facts.order {
            Some(Order::FenceFirst) => true,
            Some(Order::SnapshotFirst) => self.snapshots_taken > 1,
            None => false,
        }
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            accepts_stamped: self.means.gate.stamped == Stamped::Accept,
            restores: self.means.gate.on_failure == OnFailure::Restore,
        }
    }

    /// Whether an operator had the databases put back.
    pub(super) fn is_restored_by_operator(&self) -> bool {
        self.position.verdict == Some(Verdict::RestoredByOperator)
    }

    pub(super) fn environment(
        &self,
        addresses: &[Address<'_>],
        version_num: u32,
    ) -> Vec<(String, SecretString)> {
        let own_options = self.request.own_options.as_deref();
        environment::variables(&self.request.id, addresses, self.means.gate, version_num, own_options)
    }

    /// The command, to be run with `environment`.
    pub(super) fn command_line<'s>(&'s self, environment: &'s [(String, SecretString)]) -> CommandLine<'s> {
        CommandLine {
            words: &self.request.words,
            directory: &self.request.directory,
            environment,
            mark: &self.request.id,
            path: self.means.path,
            timeout: self.means.gate.timeout,
        }
    }

    /// Another command of the same run, such as the way down of a rehearsal or a check.
    pub(super) fn other_command<'s>(
        &'s self,
        words: &'s [String],
        environment: &'s [(String, SecretString)],
    ) -> CommandLine<'s> {
        CommandLine { words, ..self.command_line(environment) }
    }
}
