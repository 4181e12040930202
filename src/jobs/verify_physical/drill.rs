//! Depth `recovered`: a cluster is recovered to a moment in the scratch directory, and looked through.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgConnection;

use super::{Means, as_problem, in_full};
use crate::jobs::recover::{self, Served, Stock};
use crate::jobs::{JobError, WorkDirectory};
use crate::postgres::heartbeat::{self, Heartbeats};
use crate::postgres::{PostgresError, amcheck, session};
use crate::rules::causes::in_a_sentence;
use crate::rules::drill::Drill;
use crate::rules::physical::BaseManifest;
use crate::rules::recovery::Plan;
use crate::seal::SealError;

/// A heartbeat is dated when it is written, and is there from its commit on.
const COMMIT_TAKES: TimeDelta = TimeDelta::seconds(10);

/// What a drill found.
#[derive(Default)]
pub(super) struct Found {
    /// The recovery, if it came to an end.
    pub(super) drill: Option<Drill>,
    /// Each problem as a sentence that may lie in the open.
    pub(super) problems: Vec<String>,
    /// What is wrong by name.
    pub(super) differences: Vec<String>,
    /// What could not be proven, and why.
    pub(super) notes: Vec<String>,
}

/// Recovers `plan`, which stops at `moment`, looks through the cluster, and removes it.
pub(super) async fn drill(
    means: &Means<'_>,
    stock: &Stock,
    plan: &Plan,
    base: &BaseManifest,
    seed: Option<u32>,
    moment: DateTime<Utc>,
) -> Result<Found, JobError> {
    let mut found = Found::default();
    let work = WorkDirectory::create(means.recovery.scratch_directory)?;
    // A server that outlives us is found by this name when the scratch directory is swept.
    let data = work.path().join("data");
    let recovery = Box::pin(recover::recover(&means.recovery, stock, plan, base, &data, false));
    let served = match recovery.await {
        Ok(served) => served,
        Err(error) => {
            found.problems.push(finding(error)?);
            return Ok(found);
        }
    };
    found.notes.extend(served.recovered.notes.iter().cloned());
    let progress = means.recovery.progress;
    progress.enter("looking where it ended");
    progress.expect(0);
    let mut session = session::connect(&served.server.connection).await?;
    let end = served.recovered.reached;
    check_end(end.last_commit, moment, &mut found);
    let heartbeat = check_heartbeats(means, &mut session, moment, &mut found).await?;
    session::close(session).await?;
    progress.enter("looking through indexes and tables");
    let databases_checked = look_through(means, &served, &mut found).await?;
    found.drill = Some(Drill {
        seed,
        moment,
        reached_end: served.recovered.reached_end,
        recovery_ms: served.recovered.elapsed_ms,
        base_bytes: base.plain_bytes,
        log_bytes: end.lsn.0.saturating_sub(base.start_lsn.0),
        databases_checked,
        heartbeat,
    });
    // Before its directory goes.
    drop(served);
    Ok(found)
}

/// The problem that an error of a recovery is; one of the machine is handed back.
fn finding(error: JobError) -> Result<String, JobError> {
    match &error {
        JobError::Object { source, .. } if !matches!(source, SealError::WrongIdentity) => {}
        JobError::Postgres(PostgresError::ToolFailed { tool, messages, .. })
            if tool == "postgres" && !recover::is_of_the_machine(messages) => {}
        _ => return as_problem(error),
    }
    Ok(in_a_sentence(&error))
}

fn check_end(last_commit: Option<DateTime<Utc>>, moment: DateTime<Utc>, found: &mut Found) {
    match last_commit {
        Some(at) if at > moment => found.problems.push(format!(
            "recovered to {}, the cluster has a commit of {}",
            in_full(moment),
            in_full(at)
        )),
        Some(_) => {}
        None => {
            found.notes.push("no commit was replayed: the moment lies right behind the base backup".into())
        }
    }
}

/// Compares the heartbeats with those of the live cluster; returns the newest.
async fn check_heartbeats(
    means: &Means<'_>,
    session: &mut PgConnection,
    moment: DateTime<Utc>,
    found: &mut Found,
) -> Result<Option<DateTime<Utc>>, JobError> {
    let recovered = heartbeat::around(session, moment).await?;
    if let Some(later) = recovered.and_then(|seen| seen.next) {
        found.problems.push(format!(
            "recovered to {}, the cluster has the heartbeat of {}",
            in_full(moment),
            in_full(later)
        ));
    }
    let newest = recovered.and_then(|seen| seen.newest);
    match expected(means, moment - COMMIT_TAKES).await {
        Ok(Some(expected)) if newest.is_none_or(|newest| newest < expected) => {
            found.problems.push(format!(
                "recovered to {}, the cluster lacks the heartbeat of {}",
                in_full(moment),
                in_full(expected)
            ));
        }
        Ok(Some(_)) => {}
        Ok(None) => found
            .notes
            .push("there is no heartbeat from before the moment to compare with (heartbeat in [wal])".into()),
        Err(error) => found
            .notes
            .push(format!("the live cluster was not asked for its heartbeats: {}", in_a_sentence(&error))),
    }
    Ok(newest)
}

/// The newest heartbeat of the live cluster that must have been committed by then.
async fn expected(means: &Means<'_>, until: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, PostgresError> {
    let Some(to) = means.live else { return Ok(None) };
    let mut session = session::connect(&to.with_database(session::MAINTENANCE_DATABASE)).await?;
    let seen: Option<Heartbeats> = heartbeat::around(&mut session, until).await?;
    session::close(session).await?;
    Ok(seen.and_then(|seen| seen.newest))
}

async fn look_through(means: &Means<'_>, served: &Served, found: &mut Found) -> Result<u64, JobError> {
    let progress = means.recovery.progress;
    let (to, major) = (&served.server.connection, served.recovered.major);
    let checked = amcheck::check(&served.programs, major, to, means.jobs, || progress.beat()).await?;
    if !checked.faults.is_empty() {
        found
            .problems
            .push(format!("amcheck found {} fault(s) in the recovered cluster", checked.faults.len()));
    }
    found.differences.extend(checked.faults);
    found.notes.extend(checked.notes);
    Ok(checked.databases)
}
