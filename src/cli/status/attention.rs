//! What `belay status` draws attention to: what failed, what runs, what is kept for a while.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::catalog::Listing;
use crate::cli::report::{Failure, age_text, time_text};
use crate::jobs::retain::replaced::{Whereabouts, whereabouts};
use crate::ledger::{JobOutcome, JobRun, Ledger};
use crate::rules::layout::SnapshotId;
use crate::rules::manifest::Depth;
use crate::rules::plain;
use crate::settings::Connection;

/// How far back in the ledger a failure is looked for.
pub(super) const JOBS_LOOKED_AT: u32 = 100;
/// How many snapshots that failed are named for each database.
const FAILED_NAMED: usize = 3;

#[derive(Serialize)]
pub(super) struct LastFailure {
    job: &'static str,
    at: DateTime<Utc>,
    error: String,
    /// Whether a job of this kind has succeeded since.
    overcome: bool,
}

impl LastFailure {
    /// The same failure, without what it says of the host.
    pub(super) fn without_error(self) -> Self {
        Self { error: "the daemon's log on the host says why".into(), ..self }
    }

    pub(super) fn line(&self, database: &str, now: DateTime<Utc>) -> String {
        let since = if self.overcome { ", succeeded since" } else { "" };
        let age = age_text(now - self.at);
        format!("last failure  {} {database}, {age} ago{since}: {}\n", self.job, plain::line(&self.error))
    }
}

/// `jobs` are newest first.
pub(super) fn last_failure(jobs: &[JobRun]) -> Option<LastFailure> {
    let failed = |(position, job): (usize, &JobRun)| {
        let (at, error) = match job.end.as_ref().map(|end| (end.at, &end.outcome)) {
            Some((_, JobOutcome::Done)) => return None,
            Some((at, JobOutcome::Failed { error })) => (at, error.clone()),
            Some((at, JobOutcome::Interrupted)) => (at, "interrupted".into()),
            None if job.process.is_alive() => return None,
            None => (job.started_at, "its process died".into()),
        };
        Some((position, job.kind, at, error))
    };
    let (position, kind, at, error) = jobs.iter().enumerate().find_map(failed)?;
    let is_done = |later: &JobRun| {
        later.kind == kind && later.end.as_ref().is_some_and(|end| end.outcome == JobOutcome::Done)
    };
    let overcome = jobs.iter().take(position).any(is_done);
    Some(LastFailure { job: kind.as_str(), at, error, overcome })
}

/// A snapshot that something is known to be wrong with.
#[derive(Serialize)]
pub(super) struct FailedSnapshot {
    id: SnapshotId,
    depth: Depth,
    at: DateTime<Utc>,
    problems: Vec<String>,
    /// Whether a newer snapshot of the database is verified.
    pub(super) overcome: bool,
}

/// Those of `database`, the newest first.
pub(super) fn failed_snapshots(listing: &Listing, database: &str) -> Vec<FailedSnapshot> {
    let of_database = listing.entries.iter().rev().filter(|entry| entry.manifest.database == database);
    let failed = of_database.filter_map(|entry| {
        let failure = entry.failure()?;
        Some(FailedSnapshot {
            id: entry.manifest.id.clone(),
            depth: failure.depth,
            at: failure.at,
            problems: failure.problems,
            overcome: listing.has_newer_verified(entry),
        })
    });
    failed.collect()
}

pub(super) fn failed_lines(failed: &[FailedSnapshot], database: &str, now: DateTime<Utc>) -> String {
    let line = |snapshot: &FailedSnapshot| {
        let (depth, age) = (snapshot.depth.as_str(), age_text(now - snapshot.at));
        let since = if snapshot.overcome { ", a newer one is verified" } else { "" };
        let first = snapshot.problems.first().map(|problem| plain::line(problem)).unwrap_or_default();
        let more = match snapshot.problems.len() {
            0 | 1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        format!(
            "failed        verify {} of {database}, {depth}, {age} ago{since}: {first}{more}\n",
            snapshot.id
        )
    };
    let mut text: String = failed.iter().take(FAILED_NAMED).map(line).collect();
    if failed.len() > FAILED_NAMED {
        text.push_str(&format!(
            "failed        {} more snapshots of {database}; `belay list` has them\n",
            failed.len() - FAILED_NAMED
        ));
    }
    text
}

/// A job that runs now.
#[derive(Serialize)]
pub(super) struct Running {
    job: &'static str,
    database: Option<String>,
    since: DateTime<Utc>,
    process: u32,
}

impl Running {
    pub(super) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    pub(super) fn line(&self, now: DateTime<Utc>) -> String {
        let database = self.database.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let age = age_text(now - self.since);
        format!("running       {}{database}, since {age}, process {}\n", self.job, self.process)
    }
}

/// The jobs whose processes live, the one begun last first.
pub(super) async fn running(ledger: &Ledger) -> Result<Vec<Running>, Failure> {
    let jobs = ledger.recent_jobs(None, JOBS_LOOKED_AT).await.map_err(Failure::of("status"))?;
    let runs = jobs.into_iter().filter(|job| job.end.is_none() && job.process.is_alive());
    let running = runs.map(|job| Running {
        job: job.kind.as_str(),
        database: job.database,
        since: job.started_at,
        process: job.process.pid,
    });
    Ok(running.collect())
}

/// A database that a swap set aside.
#[derive(Serialize)]
pub(super) struct Kept {
    name: String,
    of: String,
    until: DateTime<Utc>,
    /// What it is called by now, where somebody gave it another name.
    called: Option<String>,
}

impl Kept {
    pub(super) fn of(&self) -> &str {
        &self.of
    }

    pub(super) fn line(&self) -> String {
        let Self { name, of, until, called } = self;
        match called {
            Some(called) => {
                format!(
                    "kept          database {name}, once {of}, is called {called} now: `belay retain` leaves it\n"
                )
            }
            None => format!("kept          database {name}, once {of}, until {}\n", time_text(*until)),
        }
    }
}

/// The databases set aside that are there, or whose cluster does not answer.
pub(super) async fn databases_kept(ledger: &Ledger, clusters: &[Connection]) -> Result<Vec<Kept>, Failure> {
    let mut kept = Vec::new();
    for (replaced, is) in whereabouts(ledger, clusters).await.map_err(Failure::of("status"))? {
        let called = match is {
            Whereabouts::Gone => continue,
            Whereabouts::Unseen | Whereabouts::AsRecorded => None,
            Whereabouts::Renamed(name) => Some(name),
        };
        kept.push(Kept {
            name: replaced.kept_name,
            of: replaced.original_name,
            until: replaced.expires_at,
            called,
        });
    }
    Ok(kept)
}
