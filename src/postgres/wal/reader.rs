//! Two ways to the records of the log: `pg_waldump` on the server's host, else `pg_walinspect`.
//!
//! Comes in: a range of positions that the server has on disk. Goes out: its commits. Both ways
//! give the same lines to [`Scan`], one at a time.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::process::Command;

use super::super::session::{self, MAINTENANCE_DATABASE, column, rows};
use super::super::tools::{RunningTool, Streams, Tools};
use super::super::{PostgresError, describe};
use super::Evidence;
use crate::rules::sql;
use crate::rules::wal::scan::{Scan, UnknownRecord};
use crate::rules::wal::{Lsn, Window};
use crate::settings::Connection;

/// The resource managers whose records say what is committed.
const MANAGERS: [&str; 4] = ["Heap", "Heap2", "Sequence", "Transaction"];
/// From here on pg_waldump takes several resource managers, and the server has pg_walinspect.
const SELECTIVE_MAJOR: u32 = 15;
/// Bytes of pg_waldump's lines held at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A way to read the log, found once and used for as many windows as wanted.
#[derive(Debug, Clone)]
pub struct WalReader(Way);

#[derive(Debug, Clone)]
enum Way {
    /// `pg_waldump` reads the server's own files.
    Files { pg_waldump: PathBuf, directory: PathBuf, is_selective: bool },
    /// The server reads them for us, in the session's database or in another.
    Server { schema: String, elsewhere: Option<Connection> },
    /// There is none.
    None { why: String },
}

/// What is to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range<'a> {
    /// A window is made of each.
    pub(super) database_oids: &'a [u32],
    pub(super) timeline: u32,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
}

impl WalReader {
    /// Finds a way to read the log of the server that `session` was opened to by `connection`.
    ///
    /// `bin_directory` and `path` are as for [`Tools::find_server`]; `pg_waldump` is of no use
    /// unless it is of the server's own major.
    ///
    /// # Errors
    /// As [`PostgresError::of_query`] sorts them. That there is no way is told by
    /// [`WalReader::why_not`], and by every window as [`Evidence::Unreadable`].
    pub async fn find(
        connection: &Connection,
        session: &mut PgConnection,
        bin_directory: Option<&Path>,
        path: &str,
        server_major: u32,
    ) -> Result<Self, PostgresError> {
        let no_files = match find_files(connection, session).await? {
            Ok(directory) => match Tools::find_server(bin_directory, path, server_major).await {
                Ok(programs) if programs.join("pg_waldump").exists() => {
                    let pg_waldump = programs.join("pg_waldump");
                    let is_selective = server_major >= SELECTIVE_MAJOR;
                    return Ok(Self(Way::Files { pg_waldump, directory, is_selective }));
                }
                Ok(programs) => format!("there is no pg_waldump in {}", programs.display()),
                Err(missing) => missing.to_string(),
            },
            Err(why) => why,
        };
        Ok(Self(match find_inspector(connection, session, server_major).await? {
            Ok(way) => way,
            Err(why) => Way::None { why: format!("{no_files}; {why}") },
        }))
    }

    /// Finds a way through the server alone, by its extension `pg_walinspect`.
    ///
    /// # Errors
    /// As [`WalReader::find`].
    pub async fn through_server(
        connection: &Connection,
        session: &mut PgConnection,
        server_major: u32,
    ) -> Result<Self, PostgresError> {
        let found = find_inspector(connection, session, server_major).await?;
        Ok(Self(found.unwrap_or_else(|why| Way::None { why })))
    }

    /// Why the log cannot be read, in words; `None` when it can.
    pub fn why_not(&self) -> Option<&str> {
        match &self.0 {
            Way::None { why } => Some(why),
            Way::Files { .. } | Way::Server { .. } => None,
        }
    }

    pub(super) async fn read(
        &self,
        session: &mut PgConnection,
        range: Range<'_>,
    ) -> Result<Evidence<Vec<Window>>, PostgresError> {
        match &self.0 {
            Way::Files { pg_waldump, directory, is_selective } => {
                dump(command(pg_waldump, directory, *is_selective, range), scans(range)).await
            }
            Way::Server { schema, elsewhere: None } => inspect(session, schema, range).await,
            Way::Server { schema, elsewhere: Some(connection) } => {
                inspect(&mut session::connect(connection).await?, schema, range).await
            }
            Way::None { why } => Ok(Evidence::Unreadable { why: why.clone() }),
        }
    }
}

/// The directory of the server's log, if it is on this host and we may read it; else why not.
async fn find_files(
    connection: &Connection,
    session: &mut PgConnection,
) -> Result<Result<PathBuf, String>, PostgresError> {
    if !connection.is_local() {
        return Ok(Err("the server is on another host".into()));
    }
    // The view leaves out what the role may not read.
    let sql = "SELECT setting AS v FROM pg_catalog.pg_settings WHERE name = 'data_directory'";
    let found = rows(session, "read data_directory", sql).await?;
    let Some(data) = found.first().map(|row| column::<String>(row, "v")).transpose()? else {
        return Ok(Err("the role may not read data_directory (pg_read_all_settings lets it)".into()));
    };
    let data = PathBuf::from(data);
    // Behind a tunnel there may be another cluster at the same path.
    let identifier = match system_identifier_in(&data) {
        Ok(identifier) => identifier,
        Err(error) => return Ok(Err(format!("read {}: {error}", data.join(CONTROL_FILE).display()))),
    };
    if describe::identity(session).await?.1 != Some(identifier.to_string()) {
        return Ok(Err(format!("{} is not known to be of this server", data.display())));
    }
    let directory = data.join("pg_wal");
    Ok(match std::fs::read_dir(&directory) {
        Ok(_) => Ok(directory),
        Err(error) => Err(format!("read {}: {error}", directory.display())),
    })
}

const CONTROL_FILE: &str = "global/pg_control";

/// The system identifier that a cluster's control file begins with, by its data directory.
///
/// # Errors
/// What the system says.
pub fn system_identifier_in(data: &Path) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open(data.join(CONTROL_FILE))?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// A session's database in which the role may use `pg_walinspect`; else why there is none.
async fn find_inspector(
    connection: &Connection,
    session: &mut PgConnection,
    server_major: u32,
) -> Result<Result<Way, String>, PostgresError> {
    if server_major < SELECTIVE_MAJOR {
        return Ok(Err(format!("PostgreSQL {server_major} has no pg_walinspect")));
    }
    if let Some(schema) = inspector_in(session).await? {
        return Ok(Ok(Way::Server { schema, elsewhere: None }));
    }
    let maintenance = connection.with_database(MAINTENANCE_DATABASE);
    let schema = match session::connect(&maintenance).await {
        Ok(mut session) => inspector_in(&mut session).await?,
        Err(error) => return Ok(Err(error.to_string())),
    };
    Ok(schema.map(|schema| Way::Server { schema, elsewhere: Some(maintenance) }).ok_or_else(|| {
        format!(
            "there is no extension pg_walinspect that the role may use, neither in {} nor in {MAINTENANCE_DATABASE}",
            connection.database
        )
    }))
}

/// The schema of the extension, if it is there and the role may use it.
async fn inspector_in(session: &mut PgConnection) -> Result<Option<String>, PostgresError> {
    let sql = "SELECT n.nspname AS schema FROM pg_catalog.pg_extension e \
        JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
        JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = 'pg_get_wal_records_info' \
        WHERE e.extname = 'pg_walinspect' AND has_function_privilege(p.oid, 'execute') \
          AND has_schema_privilege(n.oid, 'usage')";
    let found = rows(session, "look for pg_walinspect", sql).await?;
    found.first().map(|row| column(row, "schema")).transpose()
}

fn command(pg_waldump: &Path, directory: &Path, is_selective: bool, range: Range<'_>) -> Command {
    let mut command = Command::new(pg_waldump);
    command.arg("--path").arg(directory).arg("--timeline").arg(range.timeline.to_string());
    command.arg("--start").arg(range.from.to_string()).arg("--end").arg(range.to.to_string());
    if is_selective {
        command.args(MANAGERS.map(|manager| format!("--rmgr={manager}")));
    }
    // What it says of files is read below, and its times are of this zone.
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Runs `pg_waldump` to its end.
async fn dump(command: Command, scans: Vec<Scan>) -> Result<Evidence<Vec<Window>>, PostgresError> {
    let mut tool = RunningTool::start(command, Streams::Out)?;
    let lines = tool.stdout()?;
    let folded = tokio::task::spawn_blocking(move || fold(lines, scans)).await;
    let folded = folded.map_err(|panicked| tool.pump_error(std::io::Error::other(panicked)))?;
    let scans = match folded {
        Ok(Ok(scans)) => scans,
        Ok(Err(unknown)) => return Ok(unreadable(&unknown)),
        Err(source) => return Err(tool.pump_error(source)),
    };
    match tool.reap().await {
        Ok(_) => Ok(Evidence::Read(scans.into_iter().map(Scan::finish).collect())),
        Err(PostgresError::ToolFailed { messages, .. }) if is_removed(&messages) => Ok(Evidence::Gone),
        Err(failed @ PostgresError::ToolFailed { .. }) => Ok(unreadable(&failed)),
        Err(error) => Err(error),
    }
}

fn scans(range: Range<'_>) -> Vec<Scan> {
    range.database_oids.iter().copied().map(Scan::new).collect()
}

/// Hands a line to each.
fn take(scans: &mut [Scan], line: &str) -> Result<(), UnknownRecord> {
    scans.iter_mut().try_for_each(|scan| scan.line(line))
}

fn unreadable(why: &impl ToString) -> Evidence<Vec<Window>> {
    Evidence::Unreadable { why: why.to_string() }
}

/// A segment is missing, or was renamed and written over while it was read.
fn is_removed(messages: &str) -> bool {
    ["could not find file", "unexpected pageaddr"].iter().any(|words| messages.contains(words))
}

fn fold(lines: File, mut scans: Vec<Scan>) -> std::io::Result<Result<Vec<Scan>, UnknownRecord>> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, lines);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(Ok(scans));
        }
        if let Err(unknown) = take(&mut scans, String::from_utf8_lossy(&line).trim_end_matches('\n')) {
            return Ok(Err(unknown));
        }
    }
}

/// Has the server read its log, and write each record as `pg_waldump` does.
async fn inspect(
    session: &mut PgConnection,
    schema: &str,
    range: Range<'_>,
) -> Result<Evidence<Vec<Window>>, PostgresError> {
    let statement = format!(
        "SELECT pg_catalog.format('rmgr: %s tx: %s, lsn: %s, desc: %s %s', resource_manager, xid, start_lsn, \
         record_type, description || coalesce(', ' || nullif(block_ref, ''), '')) AS line \
         FROM {}.pg_get_wal_records_info('{}', '{}') WHERE resource_manager IN ({})",
        sql::quoted(schema),
        range.from,
        range.to,
        MANAGERS.map(sql::literal).join(", ")
    );
    let mut lines = sqlx::query(AssertSqlSafe(statement)).persistent(false).fetch(session);
    let mut scans = scans(range);
    loop {
        match lines.try_next().await {
            Ok(Some(row)) => {
                if let Err(unknown) = take(&mut scans, &column::<String>(&row, "line")?) {
                    return Ok(unreadable(&unknown));
                }
            }
            Ok(None) => return Ok(Evidence::Read(scans.into_iter().map(Scan::finish).collect())),
            Err(error) => return what_it_refused(error),
        }
    }
}

/// The server can be asked, but not for this part of its log.
fn what_it_refused(error: sqlx::Error) -> Result<Evidence<Vec<Window>>, PostgresError> {
    let Some(said) = error.as_database_error() else {
        return Err(PostgresError::of_query("read the log by pg_walinspect", error));
    };
    // undefined_file: the segment has been removed.
    if said.code().as_deref() == Some("58P01") {
        return Ok(Evidence::Gone);
    }
    Ok(Evidence::Unreadable { why: format!("pg_walinspect: {}", said.message()) })
}
