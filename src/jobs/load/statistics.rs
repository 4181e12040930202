//! Gathers the planner's statistics of what was loaded. Nobody has to wait for them but whoever uses
//! the database: what proves it reads it meanwhile.

use std::sync::{Mutex, PoisonError};

use super::{Target, heartbeat};
use crate::jobs::JobError;
use crate::postgres::{PostgresError, session};
use crate::rules::manifest::{Inventory, TableRecord};
use crate::rules::sql::qualified;

/// Gathers statistics, the largest tables first; returns what was not gathered, and why.
///
/// Statistics are no data: a table that cannot be analysed (a foreign table below it, a broken
/// function in an index) is reported, and the restore stands.
///
/// # Errors
/// A session that cannot be opened, or is lost.
pub async fn gather(inventory: &Inventory, target: &Target<'_>) -> Result<Vec<String>, JobError> {
    let mut tables: Vec<&TableRecord> = inventory.tables.iter().collect();
    tables.sort_by_key(|table| table.tally.rows);
    let queue = Mutex::new(tables);
    let missed = Mutex::new(Vec::new());
    let workers = (0..target.jobs).map(|_| async {
        let mut session = session::connect(target.connection).await?;
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(table) = next else { return Ok::<_, JobError>(()) };
            let name = qualified(&table.schema, &table.name);
            match session::run(&mut session, "gather statistics", format!("ANALYZE {name}")).await {
                Err(PostgresError::Query { source, .. }) if source.as_database_error().is_some() => {
                    let note = format!("statistics of {name} were not gathered: {source}");
                    missed.lock().unwrap_or_else(PoisonError::into_inner).push(note);
                }
                other => other?,
            }
        }
    });
    heartbeat(target.progress, futures::future::try_join_all(workers)).await?;
    Ok(missed.into_inner().unwrap_or_else(PoisonError::into_inner))
}
