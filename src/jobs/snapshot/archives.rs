//! Streams the archives of pg_dump and pg_dumpall into the store, sealed on the way.
//!
//! An archive becomes visible only after its program has exited with status 0.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::process::Command;

use super::{Facts, Means};
use crate::jobs::{JobError, Progress, blocking};
use crate::postgres::describe::Table;
use crate::postgres::tools::{RunningTool, Streams, digest_schema_text, pump};
use crate::postgres::{PostgresError, session};
use crate::rules::digest::Digest256;
use crate::rules::layout::{self, ObjectKey, SnapshotHome};
use crate::rules::manifest::ObjectRecord;
use crate::settings::DatabaseSettings;
use crate::store::{PartSender, Parts};

/// Bytes per part on the way to the store; S3 wants no less than 5 MiB.
const PART_BYTES: usize = 8 << 20;

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
    let digester = SchemaDigester::start(dump.restore_to_text())?;
    let (schema, schema_digest) = dump.schema(&home.key(layout::SCHEMA), digester).await?;
    let data = dump.stream(dump.data_command(large), &home.key(layout::DATA)).await?;
    let globals = dump.stream(dump.globals_command().await?, &home.key(layout::GLOBALS)).await?;
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
            .arg(format!("--lock-wait-timeout={}", self.database.lock_timeout.as_millis()));
        command
    }

    fn data_command(&self, large: &[Table]) -> Command {
        let mut command = self.pg_dump();
        command.arg("--section=data");
        command.args(large.iter().map(|table| format!("--exclude-table-data={}", table.qualified())));
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

    fn restore_to_text(&self) -> Command {
        let mut command = self.facts.tools.command("pg_restore", &self.database.connection);
        command.arg("--file=-").env_remove("PGDATABASE");
        command
    }

    /// Stores the schema archive, and has pg_restore write it as text to be digested meanwhile.
    async fn schema(
        &self,
        key: &ObjectKey,
        digester: SchemaDigester,
    ) -> Result<(ObjectRecord, Digest256), JobError> {
        let mut command = self.pg_dump();
        command.args(["--section=pre-data", "--section=post-data"]);
        let SchemaDigester { tool, stdin, digest } = digester;
        let (record, stdin) = self.stream_with(command, key, stdin).await?;
        drop(stdin);
        tool.reap().await?;
        let digest = digest.await.map_err(JobError::Panicked)?;
        let digest = digest.map_err(|source| PostgresError::Pump { tool: "pg_restore".into(), source })?;
        Ok((record, digest))
    }

    async fn stream(&self, command: Command, key: &ObjectKey) -> Result<ObjectRecord, JobError> {
        Ok(self.stream_with(command, key, io::sink()).await?.0)
    }

    /// Seals what `command` writes into the object `key`, and copies it to `also`.
    async fn stream_with<W: Write + Send + 'static>(
        &self,
        command: Command,
        key: &ObjectKey,
        also: W,
    ) -> Result<(ObjectRecord, W), JobError> {
        let mut tool = RunningTool::start(command, Streams::Out)?;
        let stdout = tool.stdout()?;
        let (sender, parts) = Parts::stream();
        let sealer = self.means.sealer.clone();
        let progress = Arc::clone(self.means.progress);
        let store = Arc::clone(self.means.catalog.store());
        let sealing = async {
            let pumped = blocking(move || seal_stream(stdout, &sealer, sender, also, &progress)).await;
            // A child that died explains more than the pipe that it left.
            let reaped = tool.reap().await;
            match (pumped, reaped) {
                (Ok(sealed), Ok(_)) => sealed.publish().await,
                (Err(error @ JobError::Postgres(PostgresError::Pump { .. })), Ok(_)) => Err(error),
                (_, Err(error)) => Err(error.into()),
                (Err(error), Ok(_)) => Err(error),
            }
        };
        let (stored, sealed) = tokio::join!(store.put(key, parts), sealing);
        // The store's own error explains why the pump was cut off, an abandoned put does not.
        match (stored, sealed) {
            (Ok(_), sealed) => sealed,
            (Err(crate::store::StoreError::Abandoned { .. }), Err(error)) => Err(error),
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// A sealed object whose last part is held back until its program is known to have ended well.
struct Sealed<W> {
    record: ObjectRecord,
    last: Bytes,
    sender: PartSender,
    also: W,
}

impl<W: Send + 'static> Sealed<W> {
    async fn publish(self) -> Result<(ObjectRecord, W), JobError> {
        let Self { record, last, sender, also } = self;
        blocking(move || {
            // The store's own error is in the result of its put.
            let _ = sender.blocking_send(last).and_then(|()| sender.blocking_finish());
            Ok::<_, JobError>((record, also))
        })
        .await
    }
}

fn seal_stream<W: Write>(
    stdout: std::fs::File,
    sealer: &crate::seal::Sealer,
    sender: PartSender,
    also: W,
    progress: &Progress,
) -> Result<Sealed<W>, JobError> {
    let failed = |source| JobError::Postgres(PostgresError::Pump { tool: "pg_dump".into(), source });
    let mut tee = Tee { seal: sealer.seal_into(PartWriter { sender, pending: Vec::new() })?, also };
    pump(stdout, &mut tee, |_| progress.beat()).map_err(failed)?;
    let (writer, record) = tee.seal.finish()?;
    Ok(Sealed { record, last: writer.pending.into(), sender: writer.sender, also: tee.also })
}

struct Tee<W: Write> {
    seal: crate::seal::SealWriter<PartWriter>,
    also: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.seal.write_all(bytes)?;
        self.also.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts sealed bytes into parts.
struct PartWriter {
    sender: PartSender,
    pending: Vec<u8>,
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PART_BYTES {
            let part = std::mem::take(&mut self.pending);
            self.sender.blocking_send(part.into()).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pg_restore that turns the schema archive into text, and the digest of that text.
struct SchemaDigester {
    tool: RunningTool,
    stdin: std::fs::File,
    digest: tokio::task::JoinHandle<io::Result<Digest256>>,
}

impl SchemaDigester {
    fn start(command: Command) -> Result<Self, JobError> {
        let mut tool = RunningTool::start(command, Streams::InOut)?;
        let (stdin, stdout) = (tool.stdin()?, tool.stdout()?);
        let digest = tokio::task::spawn_blocking(move || digest_schema_text(stdout));
        Ok(Self { tool, stdin, digest })
    }
}
