//! Gives a proven database its name, in one transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;

use super::beside::{KEPT, LOADING};
use super::{Beside, Means, Prepared, Request, Restored};
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

/// Gives everything that was prepared the names of the live databases.
pub async fn swap_all(
    means: &Means<'_>,
    all: Vec<(&Request<'_>, Prepared)>,
    clock: fn() -> DateTime<Utc>,
) -> Result<Vec<Restored>, JobError> {
    means.progress.enter("taking the name");
    let mut working: Option<PgConnection> = None;
    let (mut swaps, mut restored) = (Vec::new(), Vec::new());
    for (request, prepared) in all {
        let Prepared { session, beside, inventory, rows, tables, notes } = prepared;
        // The session that renames them all works on each: whoever asks what became of one waits
        // for it.
        match &mut working {
            None => working = Some(session),
            Some(working) => {
                session::close(session).await?;
                session::work_under(working, &beside.marker).await?;
            }
        }
        let database = request.destination.name().to_owned();
        restored.push(Restored { database, previous_kept_as: None, rows, tables, notes, elapsed_ms: 0 });
        swaps.push(Swap { request, beside, inventory });
    }
    let Some(mut session) = working else { return Ok(restored) };
    let kept = take_over(means.ledger, &mut session, &swaps, clock()).await?;
    for ((swap, kept_as), restored) in swaps.iter().zip(kept).zip(&mut restored) {
        means.ledger.forget_loading(&swap.beside.marker).await?;
        restored.previous_kept_as = Some(kept_as);
    }
    Ok(restored)
}

/// A database that is to take the name of a live one.
struct Swap<'a> {
    request: &'a Request<'a>,
    beside: Beside,
    inventory: Inventory,
}

/// Renames live databases away and the loaded ones into their places; returns what the former are
/// called now, in the same order.
///
/// One transaction, so that whatever happens to us, every name belongs to the database of before or
/// every one to what was loaded, and all let sessions in. What is written down before it is settled
/// by [`super::recover`] if we die in between.
async fn take_over(
    ledger: &Ledger,
    session: &mut PgConnection,
    swaps: &[Swap<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<String>, JobError> {
    let Some(connection) = swaps.first().map(|swap| swap.request.connection) else { return Ok(Vec::new()) };
    let mut planned: Vec<Replacement> = Vec::new();
    for swap in swaps {
        let replaced = plan(session, swap, &planned, now).await?;
        planned.push(replaced);
    }
    let (mut names, mut statements) = (Vec::new(), Vec::new());
    for (swap, replaced) in swaps.iter().zip(&planned) {
        // Written down first, so that a crash leaves no kept database that nobody knows of.
        ledger.record_replaced(replaced).await?;
        names.extend([replaced.original_name.as_str(), swap.beside.name.as_str()]);
        let kept = quoted(&replaced.kept_name);
        statements.push(format!("ALTER DATABASE {} RENAME TO {kept}", quoted(&replaced.original_name)));
        statements.push(format!("COMMENT ON DATABASE {kept} IS {}", literal(&replaced.marker)));
        statements.extend(renamed(&swap.beside, &replaced.original_name, &swap.inventory));
    }
    if let Err(error) = rename(session, connection, "swap the databases", &names, statements).await {
        forget_if_not_swapped(ledger, connection, &planned).await?;
        return Err(error);
    }
    for replaced in &planned {
        ledger.confirm_replaced(&replaced.marker).await?;
    }
    Ok(planned.into_iter().map(|replaced| replaced.kept_name).collect())
}

/// What is to be written down of the database that gives up its name.
async fn plan(
    session: &mut PgConnection,
    swap: &Swap<'_>,
    planned: &[Replacement],
    now: DateTime<Utc>,
) -> Result<Replacement, JobError> {
    let name = swap.request.destination.name();
    let Some(oid) = describe::database_oid(session, name).await? else {
        return Err(JobError::Refused { action: format!("swap {name}"), reasons: vec!["it is gone".into()] });
    };
    Ok(Replacement {
        system_identifier: describe::identity(session).await?.1.unwrap_or_default(),
        oid,
        kept_name: kept_name(session, name, swap.request.kept_for, planned, now).await?,
        original_name: name.to_owned(),
        marker: swap.beside.marker.replacen(LOADING, KEPT, 1),
        replaced_at: now,
        expires_at: now + swap.request.keep_replaced,
    })
}

/// The connection may have died in the COMMIT: the cluster knows how that ended.
async fn forget_if_not_swapped(
    ledger: &Ledger,
    connection: &Connection,
    planned: &[Replacement],
) -> Result<(), JobError> {
    for replaced in planned {
        let name = described_name(connection, replaced.oid).await?;
        if name.as_ref() == Some(&replaced.original_name) {
            ledger.forget_replaced(&replaced.marker).await?;
        }
    }
    Ok(())
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
    planned: &[Replacement],
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
        // Long names may be cut to the same one.
        let is_planned = planned.iter().any(|other| other.kept_name == candidate);
        if !is_planned && describe::database_oid(session, &candidate).await?.is_none() {
            return Ok(candidate);
        }
    }
    unreachable!("some number is free")
}
