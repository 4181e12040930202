//! Evidence of committed writes: what a cluster's write-ahead log holds between two positions.
//!
//! Comes in: a session opened by [`session::connect`](super::session::connect), outside of a
//! transaction, and two positions. Goes out: an [`Evidence`]. Where the log cannot be read it says
//! so; it never takes silence for "nothing was written".
//!
//! # A window since a snapshot
//!
//! Nothing escapes when the window is begun ([`begin_window`]) *before* the snapshot is taken.
//! Committed and not in the snapshot is then what [`VisibleTransactions::sees`] denies of
//!
//! 1. the window's commits,
//! 2. its [straddlers](Window::straddlers), which wrote before it, and
//! 3. [`committed_since`]: what wrote its commit record before the window, and was still in
//!    progress for the snapshot, as while it waits for the disk or a standby.
//!
//! Begun after the snapshot, the window lacks what was committed between the two.

mod reader;

pub use reader::{WalReader, system_identifier_in};

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;

use super::PostgresError;
use super::session::{column, rows};
use crate::rules::sql::literal;
use crate::rules::wal::summary::{Relation, RelationKind};
use crate::rules::wal::{Lsn, VisibleTransactions, Window, WindowStart};

/// What the log says of a window: of one database, or of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence<T = Window> {
    /// All that was committed in it.
    Read(T),
    /// The server has removed the log of the window, or the first part of it.
    Gone,
    /// The log cannot be read.
    Unreadable {
        /// Why, in words.
        why: String,
    },
}

/// Where the log stands: what has been committed lies before, also when it is not on disk yet.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them; a standby refuses.
pub async fn position(session: &mut PgConnection) -> Result<Lsn, PostgresError> {
    one(session, "read where the log stands", "SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS v")
        .await
}

/// Begins a window, and ends a transaction, so that a snapshot taken later tells every transaction
/// that wrote before the window from those that began in it.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them; a standby refuses.
pub async fn begin_window(session: &mut PgConnection) -> Result<WindowStart, PostgresError> {
    let lsn = position(session).await?;
    let sql = "SELECT pg_catalog.txid_current()::text AS v";
    Ok(WindowStart { lsn, next_transaction: one(session, "number a transaction", sql).await? })
}

/// Makes a restore point called `name`, and sees to it that it is on the server's disk; returns the end of
/// its record.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them; a standby refuses, and so does a server with
/// `wal_level = minimal`.
pub async fn make_restore_point(session: &mut PgConnection, name: &str) -> Result<Lsn, PostgresError> {
    // Only a commit is waited for, and only that of a transaction with a number; standbys are not.
    let sql = format!(
        "SELECT pg_catalog.pg_create_restore_point({})::text AS v, pg_catalog.txid_current(), \
         pg_catalog.set_config('synchronous_commit', 'local', true)",
        literal(name)
    );
    one(session, "make a restore point", &sql).await
}

/// Has the server go on with another segment; returns the name of the file that the log up to `lsn` ends in.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them; a standby refuses.
pub async fn end_segment(session: &mut PgConnection, lsn: Lsn) -> Result<String, PostgresError> {
    let last_byte = Lsn(lsn.0.saturating_sub(1)).to_string();
    let sql = format!(
        "SELECT pg_catalog.pg_walfile_name({}) AS v, pg_catalog.pg_switch_wal()::text AS switched",
        literal(&last_byte)
    );
    text(session, "go on with another segment", &sql).await
}

/// The timeline that the server writes.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them; a standby refuses.
pub async fn timeline(session: &mut PgConnection) -> Result<u32, PostgresError> {
    let action = "read the timeline";
    // Eight hexadecimal digits, as a segment's name begins. pg_control has it a checkpoint late.
    let sql = "SELECT substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) AS v";
    let digits: String = text(session, action, sql).await?;
    u32::from_str_radix(&digits, 16).map_err(|_| malformed(action))
}

/// Those of the transactions in progress at a snapshot that have committed since, with their epoch;
/// of which database, is not known.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn committed_since(
    session: &mut PgConnection,
    visible: &VisibleTransactions,
) -> Result<Vec<u64>, PostgresError> {
    let list: Vec<String> = visible.in_progress().map(|xid| xid.to_string()).collect();
    // No status: so old that the server has forgotten it. That it aborted is not known then.
    let sql = format!(
        "SELECT x::text AS xid FROM unnest('{{{}}}'::bigint[]) x \
         WHERE coalesce(pg_catalog.txid_status(x), 'committed') = 'committed' ORDER BY x",
        list.join(",")
    );
    let action = "read what became of transactions";
    let found = rows(session, action, sql).await?;
    found.iter().map(|row| column::<String>(row, "xid")?.parse().map_err(|_| malformed(action))).collect()
}

const RELATIONS: &str = "SELECT pg_catalog.pg_relation_filenode(c.oid)::bigint AS node, \
    pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, \
    CASE WHEN c.oid IN (SELECT * FROM s) OR t.oid IS NOT NULL THEN 'statistics' \
         WHEN n.nspname = 'pg_toast' THEN 'toast' \
         WHEN c.relkind = 'S' THEN 'sequence' \
         WHEN n.nspname = 'pg_catalog' AND c.relname NOT IN ('pg_largeobject', 'pg_largeobject_metadata') THEN 'catalog' \
         ELSE 'table' END AS kind \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_catalog.pg_class t ON t.reltoastrelid = c.oid AND t.oid IN (SELECT * FROM s) \
    WHERE c.relkind IN ('r', 'm', 'S', 't') AND NOT c.relisshared \
      AND pg_catalog.pg_relation_filenode(c.oid) IS NOT NULL";
/// What ANALYZE writes; the second is there from 12 on.
const STATISTICS: &str = "WITH s AS (SELECT oid FROM pg_catalog.pg_class WHERE oid IN \
    (pg_catalog.to_regclass('pg_catalog.pg_statistic'), pg_catalog.to_regclass('pg_catalog.pg_statistic_ext_data')))";

/// What each relfilenode of the session's database belongs to.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn relations(session: &mut PgConnection) -> Result<BTreeMap<u32, Relation>, PostgresError> {
    let found = rows(session, "list relations", format!("{STATISTICS} {RELATIONS}")).await?;
    let relation = |row| {
        let kind = match column::<String>(row, "kind")?.as_str() {
            "statistics" => RelationKind::Statistics,
            "toast" => RelationKind::Toast,
            "sequence" => RelationKind::Sequence,
            "catalog" => RelationKind::Catalog,
            _ => RelationKind::Table,
        };
        let node = u32::try_from(column::<i64>(row, "node")?).map_err(|_| malformed("list relations"))?;
        Ok((node, Relation { name: column(row, "name")?, kind }))
    };
    found.iter().map(relation).collect()
}

/// Reads what was committed to a database from `from` (inclusive) to `to` (exclusive), both read by
/// [`position`].
///
/// Memory grows with the number of commits, not of rows.
///
/// # Errors
/// When the session fails or `pg_waldump` does not start; that the log tells nothing is no error.
pub async fn commits_between(
    reader: &WalReader,
    session: &mut PgConnection,
    database_oid: u32,
    from: Lsn,
    to: Lsn,
) -> Result<Evidence, PostgresError> {
    Ok(match commits_of_each(reader, session, &[database_oid], from, to).await? {
        Evidence::Read(windows) => Evidence::Read(windows.into_iter().next().unwrap_or_default()),
        Evidence::Gone => Evidence::Gone,
        Evidence::Unreadable { why } => Evidence::Unreadable { why },
    })
}

/// As [`commits_between`], of several databases in one reading: a window for each, in their order.
///
/// # Errors
/// As [`commits_between`].
pub async fn commits_of_each(
    reader: &WalReader,
    session: &mut PgConnection,
    database_oids: &[u32],
    from: Lsn,
    to: Lsn,
) -> Result<Evidence<Vec<Window>>, PostgresError> {
    if to < from {
        let why = format!("the window ends at {to}, before it begins at {from}");
        return Ok(Evidence::Unreadable { why });
    }
    let sql = "SELECT setting AS v FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'";
    let segment_bytes: u64 = one(session, "read wal_segment_size", sql).await?;
    let (from, to) = (from.before_page_header(segment_bytes), to.before_page_header(segment_bytes));
    if from == to {
        return Ok(Evidence::Read(vec![Window::default(); database_oids.len()]));
    }
    if !is_written_to(session, to).await? {
        let why = format!("the server has not written its log to {to}");
        return Ok(Evidence::Unreadable { why });
    }
    let timeline = timeline(session).await?;
    reader.read(session, reader::Range { database_oids, timeline, from, to }).await
}

/// Has the server write its log to disk as far as `to`, if it has not yet.
///
/// Of itself it may leave a part of a page in memory for as long as nobody commits.
async fn is_written_to(session: &mut PgConnection, to: Lsn) -> Result<bool, PostgresError> {
    let action = "read how far the log is on disk";
    let written = "SELECT pg_catalog.pg_current_wal_flush_lsn()::text AS v";
    if one::<Lsn>(session, action, written).await? >= to {
        return Ok(true);
    }
    // A commit that waits for the disk, but for no standby.
    let commit = "SELECT pg_catalog.set_config('synchronous_commit', 'local', true), \
        pg_catalog.pg_logical_emit_message(true, 'belay', 'flush')::text";
    rows(session, "write the log to disk", commit).await?;
    Ok(one::<Lsn>(session, action, written).await? >= to)
}

/// Reads the column `v` of the first row.
async fn text(session: &mut PgConnection, action: &str, sql: &str) -> Result<String, PostgresError> {
    let found = rows(session, action, sql).await?;
    found.first().map(|row| column(row, "v")).transpose()?.ok_or_else(|| malformed(action))
}

async fn one<T: std::str::FromStr>(
    session: &mut PgConnection,
    action: &str,
    sql: &str,
) -> Result<T, PostgresError> {
    text(session, action, sql).await?.parse().map_err(|_| malformed(action))
}

/// The server's answer has another form than asked for.
fn malformed(action: &str) -> PostgresError {
    PostgresError::of_query(action, sqlx::Error::RowNotFound)
}
