//! The cluster as a whole: a copy of its data directory, its write-ahead log, and the slot that keeps
//! what of the log we do not have yet.
//!
//! Comes in: a connection of a role with REPLICATION. Goes out: commands of `pg_basebackup` and
//! `pg_receivewal`, and facts. The slot is ours and nobody streams from it: it is moved by hand, and
//! only over log that is stored.

use std::io::Read as _;
use std::path::Path;

use sqlx::postgres::PgConnection;
use tokio::process::Command;

use super::session::{self, column, rows};
use super::tools::Tools;
use super::{PostgresError, describe};
use crate::rules::physical::Tablespace;
use crate::rules::sql::literal;
use crate::rules::tablespaces::{MAP_FILE, read_map};
use crate::rules::wal::Lsn;
use crate::settings::Connection;

/// What `pg_basebackup` calls its list of files.
pub const LIST_OF_FILES: &str = "backup_manifest";

/// What is said of a cluster before its files are copied or its log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// PostgreSQL's own number of the cluster.
    pub system_identifier: String,
    /// `server_version_num`
    pub version_num: u32,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// The timeline that is written.
    pub timeline: u32,
    /// Name of the role that was made with the cluster.
    pub bootstrap_superuser: String,
    /// Tablespaces besides PostgreSQL's own.
    pub tablespaces: Vec<Tablespace>,
    /// Whether the server notes which blocks its log changes, which incremental base backups need.
    pub summarizes: bool,
    /// Bytes of all databases, as an estimate.
    pub disk_bytes: u64,
    /// Where the server has its files, on its host; `None` where the role may not know.
    pub data_directory: Option<String>,
}

/// Reads them.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn facts(session: &mut PgConnection) -> Result<ClusterFacts, PostgresError> {
    let action = "read what the cluster is";
    let sql = "SELECT (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size') AS segment_bytes, \
        (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory') AS data_directory, \
        pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) AS file, \
        (SELECT coalesce(sum(pg_catalog.pg_database_size(oid)), 0)::bigint FROM pg_catalog.pg_database \
         WHERE pg_catalog.has_database_privilege(oid, 'connect')) AS disk_bytes, \
        (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'summarize_wal') AS summarize_wal";
    let found = rows(session, action, sql).await?;
    let row = found.first().ok_or_else(|| PostgresError::of_query(action, sqlx::Error::RowNotFound))?;
    let (segment_bytes, disk_bytes): (i64, i64) = (column(row, "segment_bytes")?, column(row, "disk_bytes")?);
    let file: String = column(row, "file")?;
    let timeline = file.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let summarize_wal: Option<String> = column(row, "summarize_wal")?;
    let (_, system_identifier) = describe::identity(session).await?;
    Ok(ClusterFacts {
        system_identifier: system_identifier.unwrap_or_default(),
        version_num: session::server_version_num(session).await?,
        segment_bytes: u64::try_from(segment_bytes).unwrap_or_default(),
        timeline: timeline.unwrap_or(1),
        bootstrap_superuser: describe::bootstrap_superuser(session).await?,
        tablespaces: tablespaces(session).await?,
        summarizes: summarize_wal.as_deref() == Some("on"),
        disk_bytes: u64::try_from(disk_bytes).unwrap_or_default(),
        data_directory: column(row, "data_directory")?,
    })
}

/// The tablespaces besides PostgreSQL's own, by their numbers.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn tablespaces(session: &mut PgConnection) -> Result<Vec<Tablespace>, PostgresError> {
    let sql = "SELECT oid::bigint AS oid, spcname::text AS name, pg_catalog.pg_tablespace_location(oid) AS location \
        FROM pg_catalog.pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1";
    let found = rows(session, "list the tablespaces", sql).await?;
    let tablespace = |row: &_| {
        let oid: i64 = column(row, "oid")?;
        let oid = u32::try_from(oid).unwrap_or_default();
        Ok(Tablespace { oid, name: column(row, "name")?, location: column(row, "location")? })
    };
    found.iter().map(tablespace).collect()
}

/// How the data directory is copied.
#[derive(Debug, Clone, Copy)]
pub struct Copying<'a> {
    /// What the server calls the copy.
    pub label: &'a str,
    /// The directory of the archives; `None` for the one archive of a cluster without tablespaces, which goes
    /// to the standard output.
    pub directory: Option<&'a Path>,
    /// KiB a second at the most.
    pub max_rate_kib: Option<u64>,
    /// The list of files of the copy that this one only has the changes since.
    pub parent_manifest: Option<&'a Path>,
}

/// A command that writes a copy of the data directory, as tar.
pub fn base_backup(tools: &Tools, to: &Connection, copying: Copying<'_>) -> Command {
    let mut command = tools.command("pg_basebackup", to);
    let directory = copying.directory.unwrap_or(Path::new("-"));
    command.arg(format!("--pgdata={}", directory.display()));
    // What goes through pipes cannot be synced, and the store does that.
    command.args(["--format=tar", "--wal-method=none", "--checkpoint=fast", "--no-sync"]);
    command.arg("--no-password").arg(format!("--label={}", copying.label));
    if let Some(rate) = copying.max_rate_kib {
        command.arg(format!("--max-rate={rate}"));
    }
    if let Some(manifest) = copying.parent_manifest {
        command.arg(format!("--incremental={}", manifest.display()));
    }
    of_replication(&mut command);
    command
}

/// A command that writes the log into `directory`, a file for each segment, from where that has it. The
/// server knows it by `name`.
pub fn receive_wal(tools: &Tools, to: &Connection, directory: &Path, name: &str) -> Command {
    let mut command = tools.command("pg_receivewal", to);
    command.env("PGAPPNAME", name);
    command.args(["--no-loop", "--no-password", "--status-interval=1"]);
    command.arg(format!("--directory={}", directory.display()));
    of_replication(&mut command);
    command
}

/// A command that connects for replication, and asks which cluster it is.
pub fn identify(tools: &Tools, to: &Connection) -> Command {
    let mut command = tools.command("psql", to);
    command.args(["-XAt", "--no-password", "--dbname=replication=true", "--command=IDENTIFY_SYSTEM"]);
    of_replication(&mut command);
    command
}

/// A connection for replication has neither a database nor settings of a session.
fn of_replication(command: &mut Command) {
    command.env_remove("PGDATABASE").env_remove("PGOPTIONS");
}

/// Where a copy begins, by the `backup_label` that it begins with: the timeline, and the place from which
/// the log is replayed. `head` is the first of its bytes.
pub fn start_in(head: &[u8]) -> Option<(u32, Lsn)> {
    let label = file_in(head, "backup_label")?;
    let after = |words: &str| label.lines().find_map(|line| line.strip_prefix(words));
    let start = after("START WAL LOCATION: ")?.split_whitespace().next()?;
    Some((after("START TIMELINE: ")?.trim().parse().ok()?, start.parse().ok()?))
}

/// The tablespaces of a copy, as the server found them, by the `tablespace_map` that follows `backup_label`.
pub fn tablespaces_in(head: &[u8]) -> Vec<(u32, String)> {
    file_in(head, MAP_FILE).map(|text| read_map(&text)).unwrap_or_default()
}

fn file_in(head: &[u8], name: &str) -> Option<String> {
    let mut archive = tar::Archive::new(head);
    archive.entries().ok()?.map_while(Result::ok).find_map(|mut entry| {
        let mut text = String::new();
        let is_it = entry.path().is_ok_and(|path| path.as_os_str() == name);
        (is_it && entry.read_to_string(&mut text).is_ok()).then_some(text)
    })
}

/// How far the log is on the server's disk.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn flushed(session: &mut PgConnection) -> Result<Lsn, PostgresError> {
    let action = "ask how far the write-ahead log is";
    let found = rows(session, action, "SELECT pg_catalog.pg_current_wal_flush_lsn()::text AS lsn").await?;
    let row = found.first().ok_or_else(|| PostgresError::of_query(action, sqlx::Error::RowNotFound))?;
    let lsn: String = column(row, "lsn")?;
    lsn.parse().map_err(|_| PostgresError::of_query(action, sqlx::Error::RowNotFound))
}

/// Makes the slot called `name`, by which the server keeps its log from here on; returns from where.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn make_slot(session: &mut PgConnection, name: &str) -> Result<Lsn, PostgresError> {
    let action = "make a replication slot";
    let sql = format!("SELECT pg_catalog.pg_create_physical_replication_slot({}, true)", literal(name));
    session::run(session, action, sql).await?;
    let lost = || PostgresError::of_query(action, sqlx::Error::RowNotFound);
    kept_from(session, name).await?.ok_or_else(lost)
}

/// From where on the server keeps its log by the slot called `name`; `None` when there is no such slot, or
/// the server gave up on it.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn kept_from(session: &mut PgConnection, name: &str) -> Result<Option<Lsn>, PostgresError> {
    let sql = format!(
        "SELECT restart_lsn::text AS lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        literal(name)
    );
    let found = rows(session, "look at the replication slot", sql).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let lsn: Option<String> = column(row, "lsn")?;
    Ok(lsn.and_then(|lsn| lsn.parse().ok()))
}

/// Lets the server have its log up to `lsn`; never goes back.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn advance_slot(session: &mut PgConnection, name: &str, lsn: Lsn) -> Result<(), PostgresError> {
    let (name, lsn) = (literal(name), literal(&lsn.to_string()));
    let sql = format!(
        "SELECT pg_catalog.pg_replication_slot_advance(slot_name, least({lsn}::pg_lsn, pg_catalog.pg_current_wal_flush_lsn())) \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {name} AND restart_lsn < {lsn}::pg_lsn"
    );
    session::run(session, "move the replication slot", sql).await
}

/// Drops the slot called `name`, if there is one.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn drop_slot(session: &mut PgConnection, name: &str) -> Result<(), PostgresError> {
    let name = literal(name);
    let sql = format!(
        "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = {name}"
    );
    session::run(session, "drop the replication slot", sql).await
}

/// A moment of the server, and how far its log is on disk: what was committed until then lies before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// By the server's clock.
    pub at: chrono::DateTime<chrono::Utc>,
    /// The end of the log on its disk.
    pub flushed: Lsn,
    /// Bytes of log that the slot makes it keep.
    pub kept_bytes: u64,
    /// How far the receiver has written the log down, as it told the server last.
    pub received: Option<Lsn>,
}

/// Asks for one; `receiver` is the name that the server knows the receiver by.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn mark(session: &mut PgConnection, slot: &str, receiver: &str) -> Result<Mark, PostgresError> {
    let action = "ask how far the write-ahead log is";
    // In this order: the log is looked at after the clock.
    let sql = format!(
        "WITH clock AS MATERIALIZED (SELECT pg_catalog.clock_timestamp() AS at) \
         SELECT (extract(epoch FROM clock.at) * 1000000)::bigint AS at, f.lsn::text AS lsn, coalesce((SELECT pg_catalog.pg_wal_lsn_diff(f.lsn, restart_lsn) \
           FROM pg_catalog.pg_replication_slots WHERE slot_name = {}), 0)::bigint AS kept, \
         (SELECT write_lsn::text FROM pg_catalog.pg_stat_replication WHERE application_name = {} \
          ORDER BY write_lsn DESC NULLS LAST LIMIT 1) AS received \
         FROM clock, LATERAL (SELECT pg_catalog.pg_current_wal_flush_lsn() AS lsn WHERE clock.at IS NOT NULL) f",
        literal(slot),
        literal(receiver)
    );
    let found = rows(session, action, sql).await?;
    let row = found.first().ok_or_else(|| PostgresError::of_query(action, sqlx::Error::RowNotFound))?;
    let (lsn, kept): (String, i64) = (column(row, "lsn")?, column(row, "kept")?);
    let received: Option<String> = column(row, "received")?;
    let received = received.and_then(|lsn| lsn.parse().ok());
    let flushed = lsn.parse().map_err(|_| PostgresError::of_query(action, sqlx::Error::RowNotFound))?;
    let at = chrono::DateTime::from_timestamp_micros(column(row, "at")?).unwrap_or_default();
    Ok(Mark { at, flushed, kept_bytes: u64::try_from(kept).unwrap_or_default(), received })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_tells_where_it_begins() {
        let label = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
            BACKUP METHOD: streamed\nBACKUP FROM: primary\nLABEL: belay\nSTART TIMELINE: 1\n";
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(label.len() as u64);
        archive.append_data(&mut header, "backup_label", label.as_bytes()).unwrap();
        let head = archive.into_inner().unwrap();
        assert_eq!(start_in(&head), Some((1, Lsn(0x200_0028))));
        assert_eq!(start_in(&head[..600]), None);
        assert_eq!(start_in(b""), None);
        assert_eq!(tablespaces_in(&head), []);
    }

    #[test]
    fn a_copy_tells_its_tablespaces() {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in [("backup_label", "LABEL: belay\n"), (MAP_FILE, "16384 /fast\n")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        let head = archive.into_inner().unwrap();
        assert_eq!(tablespaces_in(&head), [(16_384, "/fast".into())]);
    }
}
