//! Gives a proven database its name, in one transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;

use super::{Beside, KEPT, LOADING, Request};
use crate::jobs::JobError;
use crate::ledger::{Ledger, Replacement};
use crate::postgres::PostgresError;
use crate::postgres::describe;
use crate::postgres::session::{self, rows};
use crate::rules::manifest::Inventory;
use crate::rules::sql::{database_properties, literal, quoted};
use crate::settings::Connection;

/// How often a rename is tried; PostgreSQL waits 5 seconds for sessions to end in each.
const RENAME_ATTEMPTS: u32 = 6;
/// The pause between two rounds of ending sessions.
const END_PAUSE: Duration = Duration::from_millis(50);

/// Renames the loaded database to a name that nobody has, with the snapshot's properties.
pub async fn take_free_name(
    session: &mut PgConnection,
    connection: &Connection,
    beside: &Beside,
    name: &str,
    inventory: &Inventory,
) -> Result<(), JobError> {
    let statements = renamed(beside, name, inventory);
    rename(session, connection, "give the restored database its name", &[&beside.name], statements).await
}

/// Renames the live database away and the loaded one into its place.
///
/// One transaction, so that whatever happens to us, one database has the name and lets sessions in.
/// What is written down before it is settled by [`super::recover`] if we die in between.
pub async fn take_over(
    ledger: &Ledger,
    session: &mut PgConnection,
    request: &Request<'_>,
    beside: &Beside,
    name: &str,
    inventory: &Inventory,
    now: DateTime<Utc>,
) -> Result<String, JobError> {
    let Some(oid) = describe::database_oid(session, name).await? else {
        return Err(JobError::Refused { action: format!("swap {name}"), reasons: vec!["it is gone".into()] });
    };
    let kept_name = kept_name(session, name, request.kept_for, now).await?;
    let replaced = Replacement {
        system_identifier: describe::identity(session).await?.1.unwrap_or_default(),
        oid,
        kept_name: kept_name.clone(),
        original_name: name.to_owned(),
        marker: beside.marker.replacen(LOADING, KEPT, 1),
        replaced_at: now,
        expires_at: now + request.keep_replaced,
    };
    // Written down first, so that a crash leaves no kept database that nobody knows of.
    ledger.record_replaced(&replaced).await?;
    let kept = quoted(&kept_name);
    let mut statements = vec![
        format!("ALTER DATABASE {} RENAME TO {kept}", quoted(name)),
        format!("COMMENT ON DATABASE {kept} IS {}", literal(&replaced.marker)),
    ];
    statements.extend(renamed(beside, name, inventory));
    let swapped =
        rename(session, request.connection, "swap the databases", &[name, &beside.name], statements).await;
    if let Err(error) = swapped {
        // The connection may have died in the COMMIT: the cluster knows how that ended.
        if described_name(request.connection, oid).await? == Some(replaced.original_name) {
            ledger.forget_replaced(&replaced.marker).await?;
        }
        return Err(error);
    }
    ledger.confirm_replaced(&replaced.marker).await?;
    Ok(kept_name)
}

async fn described_name(connection: &Connection, oid: u32) -> Result<Option<String>, JobError> {
    let mut session = session::connect(&connection.with_database(session::MAINTENANCE_DATABASE)).await?;
    Ok(describe::database_name(&mut session, oid).await?)
}

fn renamed(beside: &Beside, name: &str, inventory: &Inventory) -> Vec<String> {
    let mut statements = vec![format!("ALTER DATABASE {} RENAME TO {}", quoted(&beside.name), quoted(name))];
    statements.extend(database_properties(&quoted(name), &inventory.properties));
    statements
}

/// Runs statements that rename `databases` in one transaction, ending their sessions meanwhile.
///
/// RENAME locks the database's name first, so that new sessions queue, and then waits for those
/// that are there to end (`RenameDatabase` and `InitPostgres` in PostgreSQL's sources). Ended from a second
/// session at that moment, none comes back before the new name is committed.
async fn rename(
    session: &mut PgConnection,
    connection: &Connection,
    action: &str,
    databases: &[&str],
    statements: Vec<String>,
) -> Result<(), JobError> {
    let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
    let mut ender = session::connect(&connection.with_database(session::MAINTENANCE_DATABASE)).await?;
    for attempt in 1.. {
        let (renamed, refused) = try_rename(session, &mut ender, action, databases, sql.clone()).await;
        let Err(error) = renamed else { return Ok(()) };
        // The session stands in an aborted transaction.
        session::run(session, "give up the transaction", "ROLLBACK".into()).await?;
        if attempt >= RENAME_ATTEMPTS || refused.is_some() || !is_in_use(&error) {
            return Err(refused.filter(|_| is_in_use(&error)).unwrap_or(error).into());
        }
    }
    unreachable!("the loop returns at its last attempt")
}

async fn try_rename(
    session: &mut PgConnection,
    ender: &mut PgConnection,
    action: &str,
    databases: &[&str],
    sql: String,
) -> (Result<(), PostgresError>, Option<PostgresError>) {
    let mut renaming = std::pin::pin!(session::run(session, action, sql));
    tokio::select! {
        renamed = &mut renaming => (renamed, None),
        // Without the right to end sessions they may still end by themselves; and what was sent to
        // the server may succeed whether we wait or not.
        refused = end_sessions(ender, databases) => (renaming.await, Some(refused)),
    }
}

fn is_in_use(error: &PostgresError) -> bool {
    let code = |source: &sqlx::Error| {
        source.as_database_error().and_then(|error| error.code()).map(|code| code == "55006")
    };
    matches!(error, PostgresError::Query { source, .. } if code(source) == Some(true))
}

/// Ends the sessions of databases again and again; returns only with an error.
async fn end_sessions(session: &mut PgConnection, databases: &[&str]) -> PostgresError {
    let names: Vec<_> = databases.iter().map(|name| literal(name)).collect();
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname IN ({})",
        names.join(", ")
    );
    loop {
        // The rename goes first: sessions that are ended before it has its lock only come back.
        tokio::time::sleep(END_PAUSE).await;
        if let Err(error) = rows(session, "end the sessions of the database", sql.clone()).await {
            return error;
        }
    }
}

/// `<name>_<kept for>_<time>`, cut to what PostgreSQL takes, and free.
async fn kept_name(
    session: &mut PgConnection,
    name: &str,
    kept_for: &str,
    now: DateTime<Utc>,
) -> Result<String, JobError> {
    const NAME_BYTES: usize = 63;
    for attempt in 0.. {
        let suffix = match attempt {
            0 => format!("_{kept_for}_{}", now.format("%Y%m%dt%H%M%S")),
            n => format!("_{kept_for}_{}_{n}", now.format("%Y%m%dt%H%M%S")),
        };
        let mut stem = name.to_owned();
        while stem.len() + suffix.len() > NAME_BYTES {
            stem.pop();
        }
        let candidate = format!("{stem}{suffix}");
        if describe::database_oid(session, &candidate).await?.is_none() {
            return Ok(candidate);
        }
    }
    unreachable!("some number is free")
}
