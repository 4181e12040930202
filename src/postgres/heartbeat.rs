//! Heartbeats: a row each minute in a table of ours, by which a recovered cluster tells how far it came.
//!
//! They lie in the schema `belay` of the maintenance database, and nowhere else: what is written into a
//! database while it is migrated would be taken for somebody's commit.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;

use super::PostgresError;
use super::session::{self, column, rows};
use crate::settings::Connection;

/// Rows are kept for so long: longer than most repositories reach back.
const KEPT_DAYS: u32 = 40;

/// The newest heartbeat of a cluster, as far as a moment is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heartbeats {
    /// The newest one at the moment or before.
    pub newest: Option<DateTime<Utc>>,
    /// The oldest one after it.
    pub next: Option<DateTime<Utc>>,
}

/// Writes one, into a table that is made if it is missing.
///
/// # Errors
/// [`PostgresError::Denied`] when the role may not; what else the server says.
pub async fn beat(to: &Connection) -> Result<(), PostgresError> {
    let mut session = session::connect(&to.with_database(session::MAINTENANCE_DATABASE)).await?;
    // No standby is waited for, and nobody who holds the table for long.
    let limits = "SET synchronous_commit = local; SET lock_timeout = '10s'; SET statement_timeout = '30s'";
    session::run(&mut session, "prepare a heartbeat", limits.into()).await?;
    if !is_there(&mut session).await? {
        let make = "CREATE SCHEMA IF NOT EXISTS belay; \
            CREATE TABLE IF NOT EXISTS belay.heartbeat (at timestamptz PRIMARY KEY)";
        session::run(&mut session, "make the table belay.heartbeat", make.into()).await?;
    }
    let beat = format!(
        "INSERT INTO belay.heartbeat (at) VALUES (pg_catalog.clock_timestamp()) ON CONFLICT DO NOTHING; \
         DELETE FROM belay.heartbeat WHERE at < pg_catalog.now() - interval '{KEPT_DAYS} days'"
    );
    session::run(&mut session, "write a heartbeat", beat).await?;
    session::close(session).await
}

/// Tries what a heartbeat takes, and leaves nothing behind.
///
/// # Errors
/// As [`beat`].
pub async fn try_beat(session: &mut PgConnection) -> Result<(), PostgresError> {
    let make = if is_there(session).await? {
        ""
    } else {
        "CREATE SCHEMA IF NOT EXISTS belay; CREATE TABLE belay.heartbeat (at timestamptz PRIMARY KEY);"
    };
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '10s'; {make} INSERT INTO belay.heartbeat (at) VALUES (pg_catalog.clock_timestamp()); \
         DELETE FROM belay.heartbeat WHERE at < '-infinity'; ROLLBACK"
    );
    session::run(session, "write a heartbeat", sql).await
}

/// The heartbeats around `moment` in the session's database; `None` when there is no table of them.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn around(
    session: &mut PgConnection,
    moment: DateTime<Utc>,
) -> Result<Option<Heartbeats>, PostgresError> {
    if !is_there(session).await? {
        return Ok(None);
    }
    let moment = format!("'{}'::timestamptz", moment.format("%Y-%m-%d %H:%M:%S%.6f+00"));
    let sql = format!(
        "SELECT (extract(epoch FROM max(at) FILTER (WHERE at <= {moment})) * 1000000)::bigint AS newest, \
         (extract(epoch FROM min(at) FILTER (WHERE at > {moment})) * 1000000)::bigint AS next FROM belay.heartbeat"
    );
    let found = rows(session, "read the heartbeats", sql).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let time = |micros: Option<i64>| micros.and_then(DateTime::from_timestamp_micros);
    Ok(Some(Heartbeats { newest: time(column(row, "newest")?), next: time(column(row, "next")?) }))
}

async fn is_there(session: &mut PgConnection) -> Result<bool, PostgresError> {
    let sql = "SELECT pg_catalog.to_regclass('belay.heartbeat') IS NOT NULL AS is_there";
    let found = rows(session, "look for the table belay.heartbeat", sql).await?;
    Ok(found.first().map(|row| column(row, "is_there")).transpose()?.unwrap_or_default())
}
