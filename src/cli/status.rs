//! `belay status`: what is fresh, verified, running and failing, on one screen.

mod attention;
mod metrics;
mod recovery;
mod scheduled;
mod wal;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde::Serialize;

use self::attention::{
    FailedSnapshot, JOBS_LOOKED_AT, Kept, LastFailure, Running, databases_kept, failed_lines,
    failed_snapshots, last_failure, running,
};
pub use self::metrics::Format;
use self::recovery::{RecoveryStatus, recovery};
pub use self::scheduled::is_daemon_running;
use self::scheduled::{Scheduled, scheduled};
use self::wal::WalStatus;
use super::host::{Host, clusters_of, key_paths, ledger_of, load_settings};
use super::list::notice_rejected;
use super::report::{ExitCode, Failure, Report, age_text, bytes_text, duration_text, print_notice};
use super::retain::policy;
use super::table::{Align, table};
use super::{Global, clock};
use crate::catalog::{Entry, Listing};
use crate::keys::HostKeys;
use crate::ledger::{GateRun, Ledger};
use crate::rules::freshness::freshness;
use crate::rules::gate::Phase;
use crate::rules::layout::SnapshotId;
use crate::rules::manifest::Depth;
use crate::rules::plain;
use crate::rules::retention;
use crate::settings::{DatabaseSettings, Settings};

/// How long the repository has to answer; Prometheus waits for 10 seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// How far back in the ledger an unfinished migration is looked for.
const RUNS_LOOKED_AT: u32 = 100;

/// Options of `belay status`.
#[derive(Debug, Args)]
pub struct StatusArgs {}

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// All that is known.
    Everything,
    /// What is about this database, by its name in PostgreSQL; of the host nothing.
    Database(&'a str),
}

impl Scope<'_> {
    fn covers(self, database: Option<&str>) -> bool {
        match self {
            Self::Everything => true,
            Self::Database(own) => database == Some(own),
        }
    }
}

#[derive(Serialize)]
struct Status {
    databases: Vec<DatabaseStatus>,
    repository: Option<String>,
    /// Why it is not reached; then nothing is told of what is in it.
    repository_error: Option<String>,
    repository_free_bytes: Option<u64>,
    identity_on_host: bool,
    not_believed: usize,
    wal: Option<WalStatus>,
    recovery: Option<RecoveryStatus>,
    databases_kept: Vec<Kept>,
    running: Vec<Running>,
    unfinished_runs: Vec<UnfinishedRun>,
    scheduled: Vec<Scheduled>,
    daemon_running: bool,
}

/// A gated migration that is not over: it runs, its process died, or it waits for an operator.
#[derive(Serialize)]
struct UnfinishedRun {
    run: String,
    database: String,
    databases: Vec<String>,
    phase: &'static str,
    began_at: DateTime<Utc>,
    process_alive: bool,
}

#[derive(Serialize)]
struct DatabaseStatus {
    database: String,
    snapshots: usize,
    removable: usize,
    newest: Option<Newest>,
    newest_verified: Option<Newest>,
    last_failure: Option<LastFailure>,
    failed_snapshots: Vec<FailedSnapshot>,
    restore_estimate_ms: Option<u64>,
}

#[derive(Serialize)]
struct Newest {
    id: SnapshotId,
    taken_at: DateTime<Utc>,
    depth: Option<Depth>,
    #[serde(skip)]
    plain_bytes: u64,
    /// What it needs in the repository, shared with others or not.
    #[serde(skip)]
    stored_bytes: u64,
    #[serde(skip)]
    took: TimeDelta,
}

impl Newest {
    fn of(entry: &Entry) -> Self {
        let manifest = &entry.manifest;
        Self {
            id: manifest.id.clone(),
            taken_at: manifest.taken_at,
            depth: entry.verified().map(|verification| verification.depth),
            plain_bytes: manifest.plain_bytes,
            stored_bytes: manifest.stored_bytes,
            took: manifest.finished_at - manifest.taken_at,
        }
    }
}

/// Looks at catalog, ledger and disk, and at clusters where a database was set aside; changes nothing.
///
/// A repository that is not reached is a report too, with [`ExitCode::Failed`].
///
/// # Errors
/// [`Failure`]
pub async fn run(global: &Global, _args: StatusArgs) -> Result<Report, Failure> {
    let settings = load_settings(&global.config)?;
    let keys = HostKeys::load(&key_paths(&settings)).map_err(Failure::of("open the keys"))?;
    match within_patience(Host::open(&global.config)).await {
        Ok(host) => report(&host, &host.ledger().await?, Scope::Everything).await,
        Err(failure) if matches!(failure.code, ExitCode::Failed | ExitCode::NotFound) => {
            let ledger = ledger_of(&settings).await?;
            let (all, has_identity) = (Scope::Everything, !keys.identities.is_empty());
            let now = clock::now();
            let status = look_here(&settings, has_identity, &ledger, all, &failure, now).await?;
            Ok(told(&status, now))
        }
        Err(failure) => Err(failure),
    }
}

async fn within_patience<T>(asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
        let text = format!("it does not answer within {} s", PATIENCE.as_secs());
        Err(Failure::new("open the repository", ExitCode::Failed, text))
    })
}

fn told(status: &Status, now: DateTime<Utc>) -> Report {
    let report = Report::new("status", text(status, now), status);
    if status.repository_error.is_some() { report.ending(ExitCode::Failed) } else { report }
}

/// How everything within `scope` is; changes nothing.
///
/// # Errors
/// [`Failure`]
pub async fn report(host: &Host, ledger: &Ledger, scope: Scope<'_>) -> Result<Report, Failure> {
    let now = clock::now();
    Ok(told(&look(host, ledger, scope, now).await?, now))
}

/// The same as metrics; changes nothing.
///
/// # Errors
/// [`Failure`]
pub async fn metrics(
    host: &Host,
    ledger: &Ledger,
    scope: Scope<'_>,
    format: Format,
) -> Result<String, Failure> {
    let now = clock::now();
    let status = look(host, ledger, scope, now).await?;
    Ok(metrics::text(&status, now, format))
}

async fn look(host: &Host, ledger: &Ledger, scope: Scope<'_>, now: DateTime<Utc>) -> Result<Status, Failure> {
    let reached = async { host.catalog.check_reached().await.map_err(Failure::of("open the repository")) };
    if let Err(failure) = within_patience(reached).await {
        let has_identity = !host.keys.identities.is_empty();
        return look_here(&host.settings, has_identity, ledger, scope, &failure, now).await;
    }
    let listing = host.catalog.list().await.map_err(Failure::of("status"))?;
    notice_rejected(&listing);
    let mut databases = Vec::new();
    let meant = meant(host, ledger).await;
    for name in names(&meant, &listing).iter().filter(|name| scope.covers(Some(name))) {
        let mut of_database = status_of(name, host, &listing, ledger, now).await?;
        if scope != Scope::Everything {
            of_database.last_failure = of_database.last_failure.map(LastFailure::without_error);
        }
        databases.push(of_database);
    }
    let is_of_host = scope == Scope::Everything;
    let recovery = if is_of_host { recovery(host, now).await? } else { None };
    let is_broken = recovery.as_ref().is_some_and(RecoveryStatus::is_broken);
    let mut scheduled = scheduled(&host.settings, &meant, &listing, ledger, is_broken, now).await?;
    scheduled.retain(|scheduled| scope.covers(scheduled.database()));
    Ok(Status {
        databases,
        repository_free_bytes: host.repository_free_bytes().filter(|_| is_of_host),
        not_believed: if is_of_host { listing.rejected.len() } else { 0 },
        wal: WalStatus::of(&host.settings, recovery.as_ref(), now).filter(|_| is_of_host),
        recovery,
        scheduled,
        ..of_host(&host.settings, !host.keys.identities.is_empty(), ledger, scope).await?
    })
}

/// What is known without the repository, which is not reached for `failure`.
async fn look_here(
    settings: &Settings,
    has_identity: bool,
    ledger: &Ledger,
    scope: Scope<'_>,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<Status, Failure> {
    let is_of_host = scope == Scope::Everything;
    let error = if is_of_host { failure.chain() } else { "the daemon's log on the host says why".into() };
    Ok(Status {
        repository_error: Some(error),
        wal: WalStatus::of(settings, None, now).filter(|_| is_of_host),
        ..of_host(settings, has_identity, ledger, scope).await?
    })
}

/// What settings, ledger and clusters tell.
async fn of_host(
    settings: &Settings,
    identity_on_host: bool,
    ledger: &Ledger,
    scope: Scope<'_>,
) -> Result<Status, Failure> {
    let is_of_host = scope == Scope::Everything;
    let runs = ledger.recent_runs(None, RUNS_LOOKED_AT).await.map_err(Failure::of("status"))?;
    let of_scope = |run: &GateRun| run.databases.iter().all(|name| scope.covers(Some(name)));
    let mut kept = databases_kept(ledger, &clusters_of(settings)).await?;
    kept.retain(|kept| scope.covers(Some(kept.of())));
    let mut running = running(ledger).await?;
    running.retain(|job| scope.covers(job.database()));
    Ok(Status {
        databases: Vec::new(),
        repository: is_of_host.then(|| settings.repository.url.to_string()),
        repository_error: None,
        repository_free_bytes: None,
        identity_on_host,
        not_believed: 0,
        wal: None,
        recovery: None,
        databases_kept: kept,
        running,
        unfinished_runs: runs
            .into_iter()
            .filter(|run| is_unfinished(run) && of_scope(run))
            .map(unfinished)
            .collect(),
        scheduled: Vec::new(),
        daemon_running: is_daemon_running(settings),
    })
}

fn is_unfinished(run: &GateRun) -> bool {
    run.ended_at.is_none() || run.position.phase == Phase::Held
}

fn unfinished(run: GateRun) -> UnfinishedRun {
    UnfinishedRun {
        phase: run.position.phase.as_str(),
        process_alive: run.ended_at.is_none() && run.process.is_alive(),
        began_at: run.started_at,
        database: run.named_databases(),
        databases: run.databases,
        run: run.id,
    }
}

/// The databases that the settings mean; those they name, when the cluster does not answer.
async fn meant(host: &Host, ledger: &Ledger) -> Vec<DatabaseSettings> {
    match host.databases(ledger).await {
        Ok(databases) => databases,
        Err(failure) => {
            print_notice(&format!("{}: {}", failure.action, failure.chain()));
            host.settings.databases.values().cloned().collect()
        }
    }
}

/// Those databases, and those that have snapshots.
fn names(meant: &[DatabaseSettings], listing: &Listing) -> BTreeSet<String> {
    let in_catalog = listing.entries.iter().map(|entry| entry.manifest.database.clone());
    meant.iter().map(|database| database.connection.database.clone()).chain(in_catalog).collect()
}

async fn status_of(
    name: &str,
    host: &Host,
    listing: &Listing,
    ledger: &Ledger,
    now: DateTime<Utc>,
) -> Result<DatabaseStatus, Failure> {
    let entries: Vec<&Entry> =
        listing.entries.iter().filter(|entry| entry.manifest.database == name).collect();
    let candidates: Vec<_> = entries.iter().map(|entry| entry.candidate()).collect();
    let seen = freshness(&candidates, TimeDelta::MAX, now);
    let newest = |id: &SnapshotId| {
        entries.iter().find(|entry| entry.manifest.id == *id).map(|entry| Newest::of(entry))
    };
    let jobs = ledger.recent_jobs(Some(name), JOBS_LOOKED_AT).await.map_err(Failure::of("status"))?;
    Ok(DatabaseStatus {
        database: name.into(),
        snapshots: entries.len(),
        removable: retention::plan(&candidates, &policy(host), now).removals().count(),
        newest: seen.newest.and_then(|aged| newest(&aged.id)),
        newest_verified: seen.newest_verified.and_then(|aged| newest(&aged.id)),
        last_failure: last_failure(&jobs),
        failed_snapshots: failed_snapshots(listing, name),
        restore_estimate_ms: entries.iter().rev().find_map(|entry| entry.restore_ms()),
    })
}

fn text(status: &Status, now: DateTime<Utc>) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let head = [
        ("database", left),
        ("newest", right),
        ("verified", right),
        ("depth", left),
        ("snapshots", right),
        ("may go", right),
        ("restore takes", right),
    ];
    let rows: Vec<_> = status.databases.iter().map(|database| row(database, now)).collect();
    let mut text = if status.repository_error.is_some() { String::new() } else { table(head, &rows) };
    for database in &status.databases {
        text.extend(database.last_failure.iter().map(|failure| failure.line(&database.database, now)));
        text.push_str(&failed_lines(&database.failed_snapshots, &database.database, now));
    }
    let free =
        status.repository_free_bytes.map(|bytes| format!(", {} free", bytes_text(bytes))).unwrap_or_default();
    text.extend(status.repository.iter().map(|url| format!("repository    {url}{free}\n")));
    text.extend(status.repository_error.iter().map(|error| {
        format!("not reached   what is in the repository is not known: {}\n", plain::line(error))
    }));
    if status.not_believed > 0 {
        text.push_str(&format!("not believed  {} snapshots; `belay list` says why\n", status.not_believed));
    }
    let identity =
        if status.identity_on_host { "on this host" } else { "not on this host: nothing can be opened here" };
    text.push_str(&format!("identity      {identity}\n"));
    text.extend(status.wal.iter().map(|wal| wal.text(now)));
    text.extend(status.recovery.iter().map(|recovery| recovery.text(now)));
    text.extend(status.running.iter().map(|job| job.line(now)));
    for run in &status.unfinished_runs {
        let what = match (run.phase, run.process_alive) {
            ("held", _) => format!("is held: belay runs resolve {}", run.run),
            (phase, true) => format!("is {phase}"),
            (phase, false) => {
                format!("died while {phase}: the next command that uses the database goes on with it")
            }
        };
        text.push_str(&format!("migration     run {} of {} {what}\n", run.run, run.database));
    }
    text.extend(status.databases_kept.iter().map(Kept::line));
    if status.repository_error.is_none() {
        text.push_str(&scheduled::text(&status.scheduled, status.daemon_running, now));
    }
    text
}

fn row(status: &DatabaseStatus, now: DateTime<Utc>) -> [String; 7] {
    let age = |newest: &Option<Newest>| {
        newest.as_ref().map_or_else(|| "never".into(), |newest| age_text(now - newest.taken_at))
    };
    let depth = status.newest_verified.as_ref().and_then(|newest| newest.depth);
    [
        status.database.clone(),
        age(&status.newest),
        age(&status.newest_verified),
        depth.map_or("-", Depth::as_str).into(),
        status.snapshots.to_string(),
        status.removable.to_string(),
        status.restore_estimate_ms.map_or_else(|| "-".into(), duration_text),
    ]
}
