//! Makes single tables and fills them from chunks or from `data.dump`, each compared with the
//! inventory in the transaction that made it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::BufReader;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::PgConnection;
use tokio::sync::mpsc;

use super::extract::{NativeName, Piece, UntilClosed, extract};
use crate::jobs::load::Source;
use crate::jobs::prove::tally_select;
use crate::jobs::{JobError, Progress, blocking};
use crate::postgres::PostgresError;
use crate::postgres::copy::CopyIn;
use crate::postgres::describe::{copy_target, select_rows};
use crate::postgres::session::{self, column, rows};
use crate::postgres::tools::{RunningTool, Streams, Tools};
use crate::rules::digest::RowTally;
use crate::rules::layout;
use crate::rules::manifest::{ChunkPart, TableRecord};
use crate::rules::sql::{literal, qualified, quoted};
use crate::rules::table_name::shown;
use crate::settings::Connection;

/// Chunks, or pieces of text, that wait to be sent.
const AHEAD: usize = 2;

/// Where tables are made.
pub struct Target<'a> {
    /// The database.
    pub connection: &'a Connection,
    /// The schema, which exists.
    pub schema: &'a str,
    /// The encoding of chunks and of digests.
    pub encoding: &'a str,
    /// The encoding of the archives.
    pub archive_encoding: &'a str,
    /// PostgreSQL's programs.
    pub tools: &'a Tools,
    /// A 0700 directory for the sealed archive.
    pub work_directory: &'a Path,
    /// Told as bytes pass.
    pub progress: &'a Arc<Progress>,
    /// OID and name of every table made, committed or not.
    pub made: &'a Mutex<Vec<(u32, String)>>,
}

async fn begin(target: &Target<'_>) -> Result<PgConnection, JobError> {
    let mut session = session::connect(target.connection).await?;
    session::run(&mut session, "begin to restore tables", "BEGIN".into()).await?;
    Ok(session)
}

async fn make_table(
    session: &mut PgConnection,
    target: &Target<'_>,
    table: &TableRecord,
) -> Result<(), JobError> {
    let columns: Vec<String> = table
        .columns
        .iter()
        .zip(&table.types)
        .map(|(name, its_type)| format!("{} {its_type}", quoted(name)))
        .collect();
    let name = qualified(target.schema, &table.name);
    session::run(
        session,
        &format!("make table {name}"),
        format!("CREATE TABLE {name} ({})", columns.join(", ")),
    )
    .await?;
    let sql = format!("SELECT {}::regclass::oid::bigint AS oid", literal(&name));
    let found = rows(session, "look for the table just made", sql).await?;
    let oid: Option<i64> = found.first().map(|row| column(row, "oid")).transpose()?;
    if let Some(oid) = oid.and_then(|oid| u32::try_from(oid).ok()) {
        target.made.lock().unwrap_or_else(PoisonError::into_inner).push((oid, table.name.clone()));
    }
    Ok(())
}

fn differs(table: &TableRecord, found_rows: u64) -> JobError {
    let wanted = table.tally.rows;
    let problem = if found_rows == wanted {
        format!("it has the {wanted} rows of the snapshot, but other contents")
    } else {
        format!("it has {found_rows} rows, the snapshot has {wanted}")
    };
    JobError::NotProven {
        action: format!("restore table {}", shown(&table.schema, &table.name)),
        problems: vec![problem],
    }
}

/// Loads tables from `queue` until it is empty; the transaction of the session returned is open.
///
/// # Errors
/// [`JobError::Object`] for a damaged chunk, [`JobError::NotProven`], what PostgreSQL says.
pub async fn load_chunked(
    source: &Source<'_>,
    target: &Target<'_>,
    queue: &Mutex<Vec<&TableRecord>>,
) -> Result<PgConnection, JobError> {
    let mut session = begin(target).await?;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(table) = next else { return Ok(session) };
        make_table(&mut session, target, table).await?;
        let parts: &[ChunkPart] = table.chunks.as_deref().unwrap_or_default();
        let mut sent = RowTally::default();
        parts.iter().for_each(|part| sent.add(part.tally));
        // The bytes of each chunk are compared on their way, the table is read back in the end.
        if sent != table.tally {
            return Err(differs(table, sent.rows));
        }
        let action = format!("load table {}", qualified(target.schema, &table.name));
        let columns = copy_target(target.schema, &table.name, &table.columns);
        let statement =
            format!("COPY {columns} FROM STDIN WITH (FREEZE, ENCODING {})", literal(target.encoding));
        let mut copy = CopyIn::start(&mut session, &statement, &action).await?;
        let mut texts =
            futures::stream::iter(parts).map(|part| source.chunk_text(part, Vec::new())).buffered(AHEAD);
        while let Some(text) = texts.try_next().await? {
            copy.send(&text, |bytes| target.progress.advance(bytes)).await?;
        }
        let taken = copy.finish().await?;
        if taken != table.tally.rows {
            return Err(differs(table, taken));
        }
    }
}

/// Loads the tables whose rows lie in `data.dump`, and reads them back; the transaction of the
/// session returned is open.
///
/// # Errors
/// [`JobError::Object`] for a damaged archive, [`JobError::NotProven`], what PostgreSQL and
/// pg_restore say.
pub async fn load_small(
    source: &Source<'_>,
    target: &Target<'_>,
    tables: &[&TableRecord],
) -> Result<Option<PgConnection>, JobError> {
    if tables.is_empty() {
        return Ok(None);
    }
    let mut session = begin(target).await?;
    for table in tables {
        make_table(&mut session, target, table).await?;
    }
    let record = &source.entry.manifest.objects.data;
    let sealed = source.spool_sealed(layout::DATA, record, target.work_directory, target.progress).await?;
    let names = native_names(&mut session, target.archive_encoding, tables).await?;
    let mut tool = RunningTool::start(pg_restore(target, &names), Streams::InOut)?;
    let (stdin, stdout) =
        (UntilClosed::new(tool.stdin()?), BufReader::with_capacity(1 << 20, tool.stdout()?));
    let wanted: BTreeSet<_> = names.iter().cloned().collect();
    let (sender, pieces) = mpsc::channel(AHEAD);
    let reading = blocking(move || {
        let gone = |_| std::io::Error::other("nobody takes the rows");
        extract(stdout, &wanted, |piece| sender.blocking_send(piece).map_err(gone))
            .map_err(|source| PostgresError::Pump { tool: "pg_restore".into(), source })
    });
    let writing = async {
        let opened = source.pump_opened(&sealed, record, stdin, target.progress).await?;
        let key = source.entry.home.key(layout::DATA).to_string();
        opened.map_err(|source| JobError::Object { key, source })
    };
    let filling = fill(target, &mut session, &names, tables, pieces);
    let (written, read, filled, ended) = tokio::join!(writing, reading, filling, tool.reap());
    // What the server said of the rows explains why the others were cut off; then the archive.
    filled?;
    written?;
    ended?;
    read?;
    for table in tables {
        let select = select_rows(target.schema, &table.name, &table.columns, None);
        let found = tally_select(&mut session, &select, target.encoding, target.progress).await?;
        if found != table.tally {
            return Err(differs(table, found.rows));
        }
    }
    Ok(Some(session))
}

/// The names of `tables` as an archive in `encoding` has them.
async fn native_names(
    session: &mut PgConnection,
    encoding: &str,
    tables: &[&TableRecord],
) -> Result<Vec<NativeName>, JobError> {
    let mut names = Vec::new();
    let encoding = literal(encoding);
    for table in tables {
        let native = |name| format!("pg_catalog.convert_to({}, {encoding})", literal(name));
        let sql = format!("SELECT {} AS schema, {} AS name", native(&table.schema), native(&table.name));
        for row in rows(session, "write names in the encoding of the snapshot", sql).await? {
            names.push((column(&row, "schema")?, column(&row, "name")?));
        }
    }
    Ok(names)
}

fn pg_restore(target: &Target<'_>, names: &[NativeName]) -> tokio::process::Command {
    let mut command = target.tools.command("pg_restore", target.connection);
    // Tables of these names in any of these schemas; which ones are wanted is decided as they come.
    command.args(["--section=data", "--file=-"]).env_remove("PGDATABASE");
    let option = |option: &str, name: &[u8]| OsString::from_vec([option.as_bytes(), name].concat());
    command.args(names.iter().map(|(schema, _)| option("--schema=", schema)));
    command.args(names.iter().map(|(_, name)| option("--table=", name)));
    command
}

async fn fill(
    target: &Target<'_>,
    session: &mut PgConnection,
    names: &[NativeName],
    tables: &[&TableRecord],
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(), JobError> {
    let mut encoding = String::from("UTF8");
    while let Some(piece) = pieces.recv().await {
        let name = match piece {
            Piece::Encoding(named) => {
                encoding = named;
                continue;
            }
            Piece::Table(name) => name,
            // Without a table before them there are none.
            Piece::Rows(_) | Piece::End => continue,
        };
        let found = names.iter().zip(tables).find(|(native, _)| **native == name);
        let Some((_, table)) = found else { continue };
        let columns = copy_target(target.schema, &table.name, &table.columns);
        let statement = format!("COPY {columns} FROM STDIN WITH (FREEZE, ENCODING {})", literal(&encoding));
        let action = format!("load table {}", qualified(target.schema, &table.name));
        let mut copy = CopyIn::start(session, &statement, &action).await?;
        while let Some(Piece::Rows(text)) = pieces.recv().await {
            copy.send(&text, |bytes| target.progress.advance(bytes)).await?;
        }
        copy.finish().await?;
    }
    Ok(())
}
