//! Streams the archives of pg_dump and pg_dumpall into the store, sealed on the way.
//!
//! An archive becomes visible only after its program has exited with status 0. That it is whole
//! is not taken on trust: pg_restore reads it to its end as it passes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt as _;

use tokio::process::Command;

use super::{Facts, Means};
use crate::jobs::JobError;
use crate::jobs::sealing::Sealing;
use crate::postgres::describe::Table;
use crate::postgres::pipes::{WhileRead, digest_schema_text};
use crate::postgres::tools::{RunningTool, Streams};
use crate::postgres::{PostgresError, session};
use crate::rules::digest::Digest256;
use crate::rules::layout::{self, ObjectKey, SnapshotHome};
use crate::rules::manifest::ObjectRecord;
use crate::settings::DatabaseSettings;

/// What pg_dumpall writes last, and how much of its end is looked at: more lines may follow.
const GLOBALS_END: &[u8] = b"-- PostgreSQL database cluster dump complete";
const GLOBALS_TAIL_BYTES: usize = 4 << 10;

/// What pg_dump and pg_dumpall wrote.
pub struct Archives {
    pub schema: ObjectRecord,
    pub data: ObjectRecord,
    pub globals: ObjectRecord,
    pub schema_digest: Digest256,
}

/// Dumps schema, data and globals, one after the other.
pub async fn dump_all(
    means: &Means<'_>,
    database: &DatabaseSettings,
    snapshot: &str,
    facts: &Facts,
    home: &SnapshotHome,
    large: &[Table],
) -> Result<Archives, JobError> {
    let dump = Dump { means, database, snapshot, facts };
    let (schema, schema_digest) = dump.schema(&home.key(layout::SCHEMA)).await?;
    let data = dump.data(large, &home.key(layout::DATA)).await?;
    let globals = dump.globals(&home.key(layout::GLOBALS)).await?;
    Ok(Archives { schema, data, globals, schema_digest })
}

struct Dump<'a> {
    means: &'a Means<'a>,
    database: &'a DatabaseSettings,
    snapshot: &'a str,
    facts: &'a Facts,
}

impl Dump<'_> {
    fn pg_dump(&self) -> Command {
        let mut command = self.facts.tools.command("pg_dump", &self.database.connection);
        command
            .args(["--format=custom", "--compress=0", "--no-password"])
            .arg(format!("--snapshot={}", self.snapshot))
            .arg(format!("--encoding={}", self.facts.properties.encoding))
            .arg(format!("--lock-wait-timeout={}", self.database.lock_timeout.as_millis()));
        command
    }

    fn data_command(&self, large: &[Table]) -> Command {
        let mut command = self.pg_dump();
        command.arg("--section=data");
        command.args(
            large.iter().map(|table| {
                OsString::from_vec([b"--exclude-table-data=".as_slice(), &table.pattern].concat())
            }),
        );
        command
    }

    async fn globals_command(&self) -> Result<Command, PostgresError> {
        let connection = &self.database.connection;
        let mut command = self.facts.tools.command("pg_dumpall", connection);
        command.args(["--globals-only", "--no-password", "--encoding=UTF8"]);
        command.arg(format!("--lock-wait-timeout={}", self.database.lock_timeout.as_millis()));
        // pg_dumpall connects to the maintenance database unless told otherwise, by option only.
        command.arg(format!("--database={}", crate::jobs::conninfo_of(&connection.database)));
        let mut session = session::connect(connection).await?;
        let sql = "SELECT has_table_privilege('pg_catalog.pg_authid', 'select') AS readable";
        let found = session::rows(&mut session, "look at the role's rights", sql).await?;
        let may_read_passwords: bool =
            found.first().map(|row| session::column(row, "readable")).transpose()?.unwrap_or_default();
        if !may_read_passwords {
            command.arg("--no-role-passwords");
        }
        Ok(command)
    }

    /// Starts a pg_restore that reads an archive to its end and writes it as text to `output`.
    fn archive_reader(&self, output: &str, streams: Streams) -> Result<RunningTool, PostgresError> {
        let mut command = self.facts.tools.command("pg_restore", &self.database.connection);
        command.arg(format!("--file={output}")).env_remove("PGDATABASE");
        RunningTool::start(command, streams)
    }

    /// Stores the schema archive, and digests the text that it stands for.
    async fn schema(&self, key: &ObjectKey) -> Result<(ObjectRecord, Digest256), JobError> {
        let mut command = self.pg_dump();
        command.args(["--section=pre-data", "--section=post-data"]);
        let mut reader = self.archive_reader("-", Streams::InOut)?;
        let stdout = reader.stdout()?;
        let digest = tokio::task::spawn_blocking(move || digest_schema_text(stdout));
        let record = self.archive(command, key, reader).await?;
        let digest = digest.await.map_err(JobError::Panicked)?;
        let digest = digest.map_err(|source| PostgresError::Pump { tool: "pg_restore".into(), source })?;
        Ok((record, digest))
    }

    async fn data(&self, large: &[Table], key: &ObjectKey) -> Result<ObjectRecord, JobError> {
        let reader = self.archive_reader("/dev/null", Streams::In)?;
        self.archive(self.data_command(large), key, reader).await
    }

    /// Stores an archive of pg_dump while `reader` reads it.
    async fn archive(
        &self,
        command: Command,
        key: &ObjectKey,
        mut reader: RunningTool,
    ) -> Result<ObjectRecord, JobError> {
        let (record, stdin) = self.stream(command, key, WhileRead::new(reader.stdin()?)).await?;
        drop(stdin);
        match reader.reap().await {
            Err(PostgresError::ToolFailed { messages, .. }) => {
                Err(PostgresError::Incomplete { tool: "pg_dump", messages }.into())
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(record),
        }
    }

    async fn globals(&self, key: &ObjectKey) -> Result<ObjectRecord, JobError> {
        let (record, Tail(end)) = self.stream(self.globals_command().await?, key, Tail(Vec::new())).await?;
        if memchr::memmem::find(&end, GLOBALS_END).is_none() {
            return Err(PostgresError::Incomplete { tool: "pg_dumpall", messages: String::new() }.into());
        }
        Ok(record)
    }

    /// Seals what `command` writes into the object `key`, and copies it to `also`.
    async fn stream<W: Write + Send + 'static>(
        &self,
        command: Command,
        key: &ObjectKey,
        also: W,
    ) -> Result<(ObjectRecord, W), JobError> {
        let to = Sealing {
            sealer: self.means.sealer,
            store: self.means.catalog.store(),
            progress: self.means.progress,
            on_bytes: |progress, _| progress.beat(),
        };
        let streamed = to.stream(RunningTool::start(command, Streams::Out)?, key, also).await?;
        Ok((streamed.record, streamed.also))
    }
}

/// The end of what was written.
struct Tail(Vec<u8>);

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(GLOBALS_TAIL_BYTES);
        self.0.drain(..surplus);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
