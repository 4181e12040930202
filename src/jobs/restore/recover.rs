//! Puts in order what an interrupted restore left in a cluster; every run begins with it.

use super::beside::{KEPT, LOADING};
use crate::jobs::JobError;
use crate::ledger::{Ledger, LoadingDatabase, ReplacementState};
use crate::postgres::describe;
use crate::postgres::session::{self, column, rows};
use crate::settings::Connection;

/// What was put in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Half-loaded databases that were dropped.
    pub dropped: Vec<String>,
    /// Databases whose swap had happened, though nobody was told.
    pub confirmed: Vec<String>,
}

/// Drops half-loaded databases and settles unfinished swaps in the cluster behind `connection`.
///
/// The cluster's catalog decides: a planned swap happened if the database of that OID bears the
/// kept name. Nothing is dropped but what bears both a name and a comment of ours.
///
/// # Errors
/// What PostgreSQL or the ledger say; then the next run tries again.
pub async fn settle(ledger: &Ledger, connection: &Connection) -> Result<Recovered, JobError> {
    settle_abandoned(ledger, connection, |loading| !loading.process.is_alive()).await
}

/// As [`settle`], and takes the restores of this process for interrupted ones too: for a caller
/// that makes none at the moment.
///
/// # Errors
/// As [`settle`].
pub async fn settle_own(ledger: &Ledger, connection: &Connection) -> Result<Recovered, JobError> {
    let is_over =
        |loading: &LoadingDatabase| loading.process == *ledger.process() || !loading.process.is_alive();
    settle_abandoned(ledger, connection, is_over).await
}

async fn settle_abandoned(
    ledger: &Ledger,
    connection: &Connection,
    abandoned: impl Fn(&LoadingDatabase) -> bool + Copy,
) -> Result<Recovered, JobError> {
    let mut recovered = settle_swaps(ledger, connection, abandoned).await?;
    recovered.dropped = drop_loading(ledger, connection, abandoned).await?;
    Ok(recovered)
}

async fn settle_swaps(
    ledger: &Ledger,
    connection: &Connection,
    abandoned: impl Fn(&LoadingDatabase) -> bool,
) -> Result<Recovered, JobError> {
    let mut recovered = Recovered::default();
    let planned: Vec<_> = ledger
        .replaced()
        .await?
        .into_iter()
        .filter(|database| database.state == ReplacementState::Planned)
        .collect();
    if planned.is_empty() {
        return Ok(recovered);
    }
    // Looked up after the swaps: a restore that lives is forgotten only when its swap is confirmed.
    let living: Vec<_> = ledger.loading().await?.into_iter().filter(|loading| !abandoned(loading)).collect();
    let mut session = session::connect(&connection.with_database(session::MAINTENANCE_DATABASE)).await?;
    let here = describe::identity(&mut session).await?.1.unwrap_or_default();
    for database in planned
        .into_iter()
        .map(|planned| planned.replacement)
        .filter(|planned| planned.system_identifier == here)
    {
        let restore = database.marker.replacen(KEPT, LOADING, 1);
        if living.iter().any(|loading| loading.loading.marker == restore) {
            continue;
        }
        session::outlive(&mut session, &restore).await?;
        let name = describe::database_name(&mut session, database.oid).await?;
        if name.as_deref() == Some(database.kept_name.as_str()) {
            ledger.confirm_replaced(&database.marker).await?;
            recovered.confirmed.push(database.kept_name);
            continue;
        }
        ledger.forget_replaced(&database.marker).await?;
    }
    Ok(recovered)
}

/// Drops those of the databases being loaded that are `abandoned`.
///
/// # Errors
/// What PostgreSQL or the ledger say.
pub async fn drop_loading(
    ledger: &Ledger,
    connection: &Connection,
    abandoned: impl Fn(&LoadingDatabase) -> bool,
) -> Result<Vec<String>, JobError> {
    let mut dropped = Vec::new();
    let loading: Vec<_> =
        ledger.loading().await?.into_iter().filter(abandoned).map(|database| database.loading).collect();
    if loading.is_empty() {
        return Ok(dropped);
    }
    let mut session = session::connect(&connection.with_database(session::MAINTENANCE_DATABASE)).await?;
    let here = describe::identity(&mut session).await?.1.unwrap_or_default();
    for database in loading.into_iter().filter(|database| database.system_identifier == here) {
        session::outlive(&mut session, &database.marker).await?;
        let sql = format!(
            "SELECT pg_catalog.shobj_description(oid, 'pg_database') AS comment FROM pg_catalog.pg_database WHERE datname = {}",
            crate::rules::sql::literal(&database.temp_name)
        );
        let found = rows(&mut session, "look for a half-loaded database", sql).await?;
        let comment: Option<Option<String>> = found.first().map(|row| column(row, "comment")).transpose()?;
        // Without a comment it died between CREATE DATABASE and COMMENT; its name is ours and random.
        if let Some(comment) = comment
            && comment.as_deref().is_none_or(|text| text == database.marker)
        {
            describe::drop_database(&mut session, &database.temp_name).await?;
            dropped.push(database.temp_name);
        }
        ledger.forget_loading(&database.marker).await?;
    }
    Ok(dropped)
}
