//! Gates whose command runs on another machine: walked by the daemon, which holds everything but
//! the command.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Ground, RunLocks, databases_of, resume_open_runs};
use crate::cli::host::Host;
use crate::cli::migrate::report::RunReport;
use crate::cli::report::{ExitCode, Failure};
use crate::cli::status::is_daemon_running;
use crate::cli::{Global, audit, clock};
use crate::jobs::JobError;
use crate::jobs::migrate::facts::Rehearsal;
use crate::jobs::migrate::runner::{RemoteRunner, Runner, Runners};
use crate::jobs::migrate::{self, Request, ScriptsOf, Walked};
use crate::jobs::restore::recover;
use crate::ledger::{GateRun, JournalEntry, LeaseRecord, Ledger};
use crate::rules::api::{OpenGate, OpenedGate, PhaseTold, RunTold};
use crate::rules::audit::Actor;
use crate::rules::gate::Phase;
use crate::rules::layout::SnapshotId;
use crate::rules::lease::{self, Lease};
use crate::settings::DatabaseSettings;

/// What a gate's opening is called in reports of its failure.
const TITLE: &str = "open the gate";

/// A gate that a runner asks for.
pub struct Opening {
    /// What it asks for; within bounds, and allowed.
    pub request: OpenGate,
    /// Who may touch the gate besides operators.
    pub owner: String,
    /// The same for the audit log.
    pub actor: Actor,
    /// Hears whether the gate is open.
    pub answer: oneshot::Sender<Result<OpenedGate, Failure>>,
}

/// A name for a run that begins now.
pub fn new_run() -> String {
    SnapshotId::new(clock::now(), rand::random()).to_string()
}

/// Opens a gate and walks its run to its end, or until the daemon is told to stop.
///
/// # Errors
/// [`Failure`] of a run that had begun; that it did not begin is told to whoever asked.
pub async fn run_for_runner(
    global: &Global,
    host: &Host,
    ledger: &Ledger,
    runners: &Runners,
    (run, opening): (String, Opening),
) -> Result<(), Failure> {
    let Opening { request, owner, actor, answer } = opening;
    let record = LeaseRecord {
        opening: format!("{owner} {}", request.key),
        run: run.clone(),
        owner,
        length: host.settings.gate.lease,
        lease: Lease::default(),
        heard_at: clock::now(),
        actor,
    };
    let (ground, _locks) = match begin(global, host, ledger, (&record, &request.databases)).await {
        Ok(Begun::New(ground, locks)) => (ground, locks),
        Ok(Begun::Known(known)) => {
            let _ = answer.send(Ok(opened(&known, request.databases)));
            return Ok(());
        }
        Err(failure) => {
            let _ = answer.send(Err(failure));
            return Ok(());
        }
    };
    let acting = ledger.clone().acting_as(&record.actor);
    for database in ground.databases() {
        let about = (Some(database.connection.database.as_str()), Some(run.as_str()));
        audit::note(&acting, "gate_open", about, "open").await?;
    }
    let keys = ground.databases().iter().map(|database| database.key.clone()).collect();
    let runner = Arc::new(RemoteRunner::new(ledger, record.clone(), "", clock::now));
    let _present = runners.add(Arc::clone(&runner));
    let _ = answer.send(Ok(opened(&record, keys)));
    let means = ground.means_of(Runner::Elsewhere(&runner), &|_| {}, &|_| {})?;
    let walk =
        Box::pin(migrate::migrate(&means, request_of(run.clone(), request, host), runner.stop(), clock::now));
    told_apart(&acting, &run, &runner, walk).await
}

enum Begun<'a> {
    New(Ground<'a>, RunLocks),
    Known(Box<LeaseRecord>),
}

/// Takes the locks, and records the lease; a gate that was opened before is found again.
async fn begin<'a>(
    global: &Global,
    host: &'a Host,
    ledger: &'a Ledger,
    (record, names): (&LeaseRecord, &[String]),
) -> Result<Begun<'a>, Failure> {
    let known = async || ledger.lease_of_opening(&record.opening).await.map_err(Failure::of(TITLE));
    if let Some(known) = known().await? {
        return Ok(Begun::Known(Box::new(known)));
    }
    refuse_rehearsal(host)?;
    resume_open_runs(global, host, ledger).await?;
    let databases = databases(host, ledger, names).await?;
    let locks = RunLocks::take(host, databases.iter().map(|database| &database.connection.database));
    // The first one of the same opening has the locks.
    if let Some(known) = known().await? {
        return Ok(Begun::Known(Box::new(known)));
    }
    let locks = locks.map_err(Failure::of(TITLE))?;
    if let Some(first) = databases.first() {
        recover::settle(ledger, &first.connection).await.map_err(Failure::of(TITLE))?;
    }
    let ground = Ground::new(host, ledger, databases)?;
    // What the means lack is told before anything is begun.
    ground.means(&|_| {}, &|_| {})?;
    ledger.begin_lease(record).await.map_err(Failure::of(TITLE))?;
    Ok(Begun::New(ground, locks))
}

fn request_of(run: String, asked: OpenGate, host: &Host) -> Request {
    Request {
        id: run,
        words: asked.command,
        // What the settings have beside the command is the host's own.
        directory: host.settings.state.directory.clone(),
        rehearsal: Rehearsal::Not,
        allows_breaking: asked.allow_breaking,
        own_options: None,
        scripts: ScriptsOf::Runner(asked.scripts),
    }
}

/// Waits on for the runner of a run whose daemon ended meanwhile.
///
/// # Errors
/// [`Failure`], that of a lock which is held included.
pub async fn resume_for_runner(
    host: &Host,
    ledger: &Ledger,
    runners: &Runners,
    run: &str,
) -> Result<(), Failure> {
    let title = format!("go on with run {run}");
    let failed = || Failure::of(&title);
    let Some(known) = ledger.run(run).await.map_err(failed())? else { return Ok(()) };
    let Some(record) = ledger.lease(run).await.map_err(failed())? else { return Ok(()) };
    let _locks = RunLocks::take(host, &known.databases).map_err(Failure::of(&title))?;
    let acting = ledger.clone().acting_as(&record.actor);
    let runner = Arc::new(RemoteRunner::new(ledger, record, &known.output, clock::now));
    let _present = runners.add(Arc::clone(&runner));
    tracing::info!(run, phase = known.position.phase.as_str(), "its runner is waited for");
    let ground = Ground::new(host, ledger, databases_of(host, &known)?)?;
    let means = ground.means_of(Runner::Elsewhere(&runner), &|_| {}, &|_| {})?;
    let walk = Box::pin(migrate::resume(&means, &known, clock::now));
    told_apart(&acting, run, &runner, walk).await
}

/// Walks, and notes how it ended for whoever opened the gate.
async fn told_apart(
    ledger: &Ledger,
    run: &str,
    runner: &RemoteRunner,
    walk: impl Future<Output = Result<Walked, JobError>>,
) -> Result<(), Failure> {
    let walked = tokio::select! {
        walked = walk => walked,
        () = runner.watch_before_start() => unreachable!("the watch goes on until it is dropped"),
    };
    let title = format!("migrate, run {run}");
    match walked.map_err(Failure::of(&title))? {
        Walked::Ended(position) => {
            tracing::info!(run, phase = position.phase.as_str(), verdict = ?position.verdict, "gate is closed");
            if let Some(ended) = ledger.run(run).await.map_err(Failure::of(&title))? {
                audit::note_run(ledger, "migrate", &ended).await?;
            }
        }
        Walked::Suspended(error) => tracing::info!(run, reason = %error, "run is suspended"),
    }
    Ok(())
}

fn opened(record: &LeaseRecord, databases: Vec<String>) -> OpenedGate {
    OpenedGate {
        schema: "belay.gate.v1".into(),
        run: record.run.clone(),
        databases,
        lease_seconds: record.length.as_secs(),
    }
}

fn refuse_rehearsal(host: &Host) -> Result<(), Failure> {
    if !host.settings.gate.rehearse {
        return Ok(());
    }
    let text = "rehearse = true in [gate]: a rehearsal needs the command on the database host";
    let hint = "run `belay migrate` on the host, or set rehearse = false and rehearse there by `belay migrate --rehearse-only`";
    Err(Failure::new(TITLE, ExitCode::Refused, text).with_hint(hint))
}

/// The databases of these names; the only one there is, if none is named.
async fn databases(host: &Host, ledger: &Ledger, names: &[String]) -> Result<Vec<DatabaseSettings>, Failure> {
    let all: Vec<DatabaseSettings> = if names.is_empty() {
        host.databases(ledger).await?
    } else {
        names.iter().map(|name| host.database(name)).collect::<Result<_, _>>()?
    };
    let distinct: BTreeSet<&String> = all.iter().map(|database| &database.connection.database).collect();
    if names.is_empty() && all.len() != 1 {
        let text = "the settings have several databases: name one with --db";
        return Err(Failure::new(TITLE, ExitCode::Usage, text));
    }
    if distinct.len() != all.len() {
        return Err(Failure::new(TITLE, ExitCode::Usage, "two of the names are of one database"));
    }
    Ok(all)
}

/// Everything that a report of `run` is made of, but for what is the host's own.
///
/// # Errors
/// [`Failure`] with [`ExitCode::NotFound`], and what the ledger says.
pub async fn told(ledger: &Ledger, run: &str) -> Result<RunTold, Failure> {
    let RunReport { run, journal, mut facts } = RunReport::read(ledger, run).await?;
    facts.run.directory = PathBuf::new();
    let phase_told = |entry: JournalEntry| PhaseTold {
        phase: entry.phase,
        began_at: entry.began_at,
        ended_at: entry.ended_at,
        outcome: entry.outcome,
    };
    Ok(RunTold {
        schema: "belay.gate-run.v1".into(),
        run: run.id,
        databases: run.databases,
        command: run.command,
        started_at: run.started_at,
        ended_at: run.ended_at,
        phase: run.position.phase,
        verdict: run.position.verdict,
        output: run.output,
        facts: serde_json::to_value(&facts).unwrap_or_default(),
        journal: journal.into_iter().map(phase_told).collect(),
    })
}

/// Who goes on with a run whose process died.
pub enum Next {
    /// Whoever finds it; with what is known of its runner, if its command runs elsewhere.
    Anybody(Option<Box<RemoteRunner>>),
    /// The daemon, which waits for its runner.
    Daemon,
    /// Nobody yet: a daemon that comes back may find that its runner is there.
    LaterAt(chrono::DateTime<chrono::Utc>),
}

/// Says who goes on with `run`.
///
/// # Errors
/// What the ledger says.
pub async fn who_goes_on(host: &Host, ledger: &Ledger, run: &GateRun) -> Result<Next, Failure> {
    if run.position.phase != Phase::Migrating {
        return Ok(Next::Anybody(None));
    }
    let found = ledger.lease(&run.id).await.map_err(Failure::of("look for the runner"))?;
    let Some(record) = found else { return Ok(Next::Anybody(None)) };
    if is_daemon_running(&host.settings) {
        return Ok(Next::Daemon);
    }
    if record.lease.exit.is_some() || lease::is_over(record.length, record.heard_at, clock::now()) {
        return Ok(Next::Anybody(Some(Box::new(RemoteRunner::lost(
            ledger,
            record,
            &run.output,
            clock::now,
        )))));
    }
    Ok(Next::LaterAt(record.heard_at + record.length))
}
