//! What the settings schedule, and which of it is due.
//!
//! Comes in: settings, the databases they mean, catalog and ledger. Goes out: for each piece of
//! scheduled work when it last succeeded and when it is to begin. Begins nothing.

use chrono::{DateTime, Utc};

use super::receive_wal::Shipped;
use crate::catalog::{Entry, Listing};
use crate::ledger::{EndedAs, JobKind, JobOutcome, JobRun, Ledger, LedgerError};
use crate::rules::schedule::{self, Due, Failure, Schedule};
use crate::settings::{DatabaseSettings, Settings};

/// How many of the jobs of one kind and database are looked at; more than are tried between two
/// moments of a schedule.
const JOBS_LOOKED_AT: u32 = 300;

/// A piece of scheduled work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Work {
    /// What is done.
    pub kind: JobKind,
    /// To which database, by its name in PostgreSQL; `None` for the whole repository.
    pub database: Option<String>,
}

/// Where a piece of scheduled work stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The work.
    pub work: Work,
    /// When it is done.
    pub schedule: Schedule,
    /// When it last succeeded, by when that began.
    pub last: Option<DateTime<Utc>>,
    /// Whether it is to begin.
    pub due: Due,
}

impl Standing {
    /// The first moment after its last success, however many came since; `None`, which is before all
    /// others, when it never succeeded.
    pub fn waits_since(&self) -> Option<DateTime<Utc>> {
        self.last.and_then(|last| self.schedule.next_after(last))
    }
}

/// What is known of the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogStanding<'a> {
    /// How far it is stored, as whoever receives it noted.
    pub shipped: Option<&'a Shipped>,
    /// Whether some of it was lost behind the newest base backup: none that was made is of use for what came
    /// later.
    pub is_broken: bool,
}

/// Looks where everything stands that is scheduled for `databases`, snapshots first.
///
/// A verification of a database without snapshots is not scheduled; nor is a base backup while no log is
/// received, which `log` says: one from before is of no use, and another is due at once, as it is where log was lost since; nor a
/// verification of base backups while the log that makes one of any use is not stored. Where the server
/// hands its log over nobody says it, and the schedule alone counts.
///
/// # Errors
/// What the ledger says.
pub async fn standings(
    settings: &Settings,
    databases: &[DatabaseSettings],
    listing: &Listing,
    ledger: &Ledger,
    log: LogStanding<'_>,
    now: DateTime<Utc>,
) -> Result<Vec<Standing>, LedgerError> {
    let look = Look { settings, ledger, now };
    let mut all = Vec::new();
    for database in databases {
        let name = &database.connection.database;
        let entries: Vec<&Entry> = listing.entries.iter().filter(|e| e.manifest.database == *name).collect();
        let taken = entries.iter().map(|entry| entry.manifest.taken_at).collect();
        all.extend(look.at(JobKind::Snapshot, Some(name), database.schedule.as_ref(), taken).await?);
        if !entries.is_empty() {
            let verified = look.verified(name, &entries).await?;
            all.extend(
                look.at(JobKind::Verify, Some(name), settings.verify.schedule.as_ref(), verified).await?,
            );
        }
    }
    let shipped = log.shipped.filter(|_| settings.wal.receive);
    if settings.cluster.point_in_time && (shipped.is_some() || !settings.wal.receive) {
        let mut made = look.done(JobKind::BaseBackup, None).await?;
        let is_since =
            |began_at: &DateTime<Utc>| shipped.is_none_or(|shipped| *began_at >= shipped.unbroken_since);
        made.retain(|began_at| !log.is_broken && is_since(began_at));
        all.extend(look.at(JobKind::BaseBackup, None, settings.base_backup.schedule.as_ref(), made).await?);
        if look.has_usable_base(shipped).await? {
            let (kind, schedule) = (JobKind::VerifyPhysical, settings.verify.physical_schedule.as_ref());
            all.extend(look.at(kind, None, schedule, look.done(kind, None).await?).await?);
        }
    }
    let retained = look.done(JobKind::Retain, None).await?;
    all.extend(look.at(JobKind::Retain, None, settings.retention.schedule.as_ref(), retained).await?);
    all.sort_by(|a, b| a.work.cmp(&b.work));
    Ok(all)
}

struct Look<'a> {
    settings: &'a Settings,
    ledger: &'a Ledger,
    now: DateTime<Utc>,
}

impl Look<'_> {
    async fn at(
        &self,
        kind: JobKind,
        database: Option<&str>,
        schedule: Option<&Schedule>,
        successes: Vec<DateTime<Utc>>,
    ) -> Result<Option<Standing>, LedgerError> {
        let Some(schedule) = schedule else { return Ok(None) };
        let jobs = self.ledger.jobs_of(kind, database, JOBS_LOOKED_AT).await?;
        let failures: Vec<Failure> = jobs.iter().filter_map(failure_of).collect();
        let retry = &self.settings.daemon.retry;
        Ok(Some(Standing {
            work: Work { kind, database: database.map(str::to_owned) },
            due: schedule::due(schedule, &successes, &failures, retry, self.now),
            schedule: schedule.clone(),
            last: successes.into_iter().filter(|at| *at <= self.now).max(),
        }))
    }

    /// Whether a base backup was made whose log is stored as far as it needs it.
    async fn has_usable_base(&self, shipped: Option<&Shipped>) -> Result<bool, LedgerError> {
        let made = self.ledger.jobs_of(JobKind::BaseBackup, None, JOBS_LOOKED_AT).await?;
        let ends = made.iter().filter_map(|job| job.end.as_ref());
        let mut ends = ends.filter(|end| end.outcome == JobOutcome::Done);
        Ok(ends.any(|end| shipped.is_none_or(|shipped| end.at < shipped.complete_until)))
    }

    async fn done(&self, kind: JobKind, database: Option<&str>) -> Result<Vec<DateTime<Utc>>, LedgerError> {
        let last = self.ledger.last_job(kind, database, Some(EndedAs::Done)).await?;
        Ok(last.iter().map(|job| job.started_at).collect())
    }

    /// When the database's snapshots were verified as deep as the settings want it: by the schedule,
    /// by hand, or by the gate. One that found a problem was a verification too.
    async fn verified(&self, database: &str, entries: &[&Entry]) -> Result<Vec<DateTime<Utc>>, LedgerError> {
        let depth = self.settings.verify.depth;
        let recorded = entries.iter().flat_map(|entry| &entry.verifications);
        let mut at: Vec<_> =
            recorded.filter(|record| record.depth >= depth).map(|record| record.at).collect();
        at.extend(self.done(JobKind::Verify, Some(database)).await?);
        Ok(at)
    }
}

/// A job that was told to stop or whose process died counts too: what brings the daemon down must
/// not be begun again at once, for ever.
fn failure_of(job: &JobRun) -> Option<Failure> {
    let end = job.end.as_ref()?;
    let has_failed = !matches!(end.outcome, JobOutcome::Done);
    has_failed.then_some(Failure { began_at: job.started_at, ended_at: end.at })
}
