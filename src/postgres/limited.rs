//! Asks an operator's query within a time that it cannot overrun.
//!
//! The server is told the limit; and because a query may lift it, or the server be silent, we wait
//! not much longer ourselves.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::PostgresError;
use super::session::{self, MAINTENANCE_DATABASE, column, rows};
use crate::settings::Connection;

/// How much longer than the server we wait, and how long for it to end a session.
const PATIENCE: Duration = Duration::from_secs(2);

/// As [`session::answer`], in a session of its own that lives for `limit` at most.
///
/// # Errors
/// [`PostgresError::Unanswered`]; as [`session::connect`] and [`session::answer`].
pub async fn answer_within(
    to: &Connection,
    name: &str,
    sql: &str,
    limit: Duration,
) -> Result<String, PostgresError> {
    let unanswered = || PostgresError::Unanswered { action: format!("ask check {name}"), waited: limit };
    let (asked_at, pid) = (Instant::now(), AtomicI32::new(0));
    match timeout(limit + PATIENCE, ask(to, name, sql, limit, &pid)).await {
        Ok(Err(error)) if is_canceled(&error) && asked_at.elapsed() >= limit => Err(unanswered()),
        Ok(answered) => answered,
        Err(_) => {
            // The query may live on without us; whether it could be ended changes nothing here.
            let _ = timeout(PATIENCE, end(to, pid.into_inner())).await;
            Err(unanswered())
        }
    }
}

async fn ask(
    to: &Connection,
    name: &str,
    sql: &str,
    limit: Duration,
    pid: &AtomicI32,
) -> Result<String, PostgresError> {
    let mut session = session::connect(to).await?;
    let found = rows(&mut session, "prepare a session", "SELECT pg_catalog.pg_backend_pid() AS pid").await?;
    let own = found.first().map(|row| column(row, "pid")).transpose()?.unwrap_or_default();
    pid.store(own, Ordering::Relaxed);
    let set = format!("SET statement_timeout = {}", limit.as_millis());
    session::run(&mut session, "prepare a session", set).await?;
    session::answer(&mut session, name, sql).await
}

async fn end(to: &Connection, pid: i32) -> Result<(), PostgresError> {
    let mut session = session::connect(&to.with_database(MAINTENANCE_DATABASE)).await?;
    let sql = format!("SELECT pg_catalog.pg_terminate_backend({pid})");
    session::run(&mut session, "end a session", sql).await
}

/// Whether the server gave a statement up (`query_canceled`).
fn is_canceled(error: &PostgresError) -> bool {
    let PostgresError::Query { source, .. } = error else { return false };
    source.as_database_error().and_then(|error| error.code()).as_deref() == Some("57014")
}
