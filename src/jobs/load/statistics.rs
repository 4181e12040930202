//! Gathers the planner's statistics of what was loaded. Nobody has to wait for them but whoever uses
//! the database: what proves it reads it meanwhile.

use std::sync::{Mutex, PoisonError};

use sqlx::postgres::PgConnection;

use super::{Loaded, Target, heartbeat};
use crate::jobs::JobError;
use crate::postgres::{PostgresError, describe, session};
use crate::rules::manifest::{Inventory, TableRecord};
use crate::rules::sql::qualified;

/// Gathers what was not gathered while tables were loaded, the largest first; returns what could not
/// be, and why.
///
/// Statistics are no data: a table that cannot be analysed (a foreign table below it, a broken
/// function in an index) is reported, and the restore stands.
///
/// # Errors
/// A session that cannot be opened, or is lost.
pub async fn gather(
    inventory: &Inventory,
    target: &Target<'_>,
    loaded: &Loaded,
) -> Result<Vec<String>, JobError> {
    let mut first = session::connect(target.connection).await?;
    let again = describe::tables_with_more_statistics(&mut first).await?;
    session::close(first).await?;
    let is_done = |table: &TableRecord| {
        let name = (table.schema.clone(), table.name.clone());
        loaded.analyzed.contains(&name) && !again.contains(&name)
    };
    let mut tables: Vec<&TableRecord> = inventory.tables.iter().filter(|table| !is_done(table)).collect();
    tables.sort_by_key(|table| table.tally.rows);
    let queue = Mutex::new(tables);
    let missed = Mutex::new(Vec::new());
    let workers = (0..target.jobs).map(|_| async {
        let mut session = session::connect(target.connection).await?;
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(table) = next else { return Ok::<_, JobError>(()) };
            let note = gather_of(table, &mut session).await?;
            missed.lock().unwrap_or_else(PoisonError::into_inner).extend(note);
        }
    });
    heartbeat(target.progress, futures::future::try_join_all(workers)).await?;
    Ok(missed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Gathers the statistics of one table; returns why they could not be.
pub(super) async fn gather_of(
    table: &TableRecord,
    session: &mut PgConnection,
) -> Result<Option<String>, JobError> {
    let name = qualified(&table.schema, &table.name);
    match session::run(session, "gather statistics", format!("ANALYZE {name}")).await {
        Err(PostgresError::Query { source, .. }) if source.as_database_error().is_some() => {
            Ok(Some(format!("statistics of {name} were not gathered: {source}")))
        }
        other => Ok(other.map(|()| None)?),
    }
}
