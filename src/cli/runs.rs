//! `belay runs`: gated migrations, those of long ago too; and what an operator decides about one
//! that is held.

use clap::{Args, Subcommand};
use serde_json::json;

use super::gate::{Ground, RunLocks, databases_of, facts_of, resume_open_runs};
use super::host::{Host, database_name, ledger_of, load_settings};
use super::migrate::report::RunReport;
use super::progress::shown_in_lines;
use super::report::{ExitCode, Failure, Report, duration_text, time_text};
use super::table::{Align, table};
use super::{Global, audit, clock};
use crate::catalog::{CatalogError, Entry};
use crate::jobs::migrate::facts::{FailedRelease, Loss};
use crate::jobs::migrate::{self, Resolution, Walked};
use crate::ledger::{GateRun, Ledger};
use crate::rules::gate::{Decision, Phase, Verdict};
use crate::rules::plain;

/// Verbs about runs.
#[derive(Debug, Subcommand)]
pub enum RunsVerb {
    /// List the runs begun last
    List(ListArgs),
    /// Show everything that is known of one run
    Show(ShowArgs),
    /// Decide about a run that is held
    Resolve(ResolveArgs),
}

/// Options of `belay runs list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this database
    #[arg(value_name = "DB")]
    pub database: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value = "20")]
    pub limit: u32,
}

/// Options of `belay runs show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The run, or latest
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,
}

/// Options of `belay runs resolve`.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// The run
    #[arg(value_name = "RUN")]
    pub run: String,
    /// Put what was changed back to the snapshot of before the migration
    #[arg(long, required_unless_present = "keep", conflicts_with = "keep")]
    pub restore: bool,
    /// Let every database be as it is, and let everybody in again
    #[arg(long)]
    pub keep: bool,
    /// Restore though what others committed since the snapshot is lost by it, but kept aside
    #[arg(long, requires = "restore")]
    pub accept_loss: bool,
    /// Count a fence as down that cannot be released: you saw to it that writers are let in
    #[arg(long)]
    pub fence_is_down: bool,
}

/// Carries out a verb about runs.
///
/// # Errors
/// [`Failure`]
pub async fn run(global: &Global, verb: RunsVerb) -> Result<Report, Failure> {
    // What happened is told while the repository is away, too.
    let settings = load_settings(&global.config)?;
    match verb {
        RunsVerb::List(args) => {
            let database = args.database.as_deref().map(|name| database_name(&settings, name));
            list(&ledger_of(&settings).await?, database.as_deref(), args.limit, &|_| true).await
        }
        RunsVerb::Show(args) => Ok(shown(&find(&ledger_of(&settings).await?, &args.run).await?)),
        RunsVerb::Resolve(args) => {
            let host = Host::open(&global.config).await?;
            let ledger = host.ledger().await?;
            resolve(global, &host, &ledger, &args).await
        }
    }
}

/// The runs begun last, of `database` by its name in PostgreSQL, or of all; those alone whose
/// databases `may_be_seen`.
///
/// # Errors
/// What the ledger says.
pub async fn list(
    ledger: &Ledger,
    database: Option<&str>,
    limit: u32,
    may_be_seen: &(dyn Fn(&[&str]) -> bool + Sync),
) -> Result<Report, Failure> {
    let mut runs = ledger.recent_runs(database, limit).await.map_err(Failure::of("list runs"))?;
    runs.retain(|run| may_be_seen(&run.databases.iter().map(String::as_str).collect::<Vec<_>>()));
    let row = |run: &GateRun| {
        let took = run.ended_at.and_then(|at| u64::try_from((at - run.started_at).num_milliseconds()).ok());
        [
            run.id.clone(),
            run.named_databases(),
            time_text(run.started_at),
            took.map_or_else(|| "-".into(), duration_text),
            run.position.phase.to_string(),
            run.position.ended().map_or_else(|| "-".into(), |verdict| verdict.to_string()),
            run.command.join(" "),
        ]
    };
    let left = Align::Left;
    let columns = [
        ("run", left),
        ("database", left),
        ("began", left),
        ("took", Align::Right),
        ("phase", left),
        ("outcome", left),
        ("command", left),
    ];
    let rows: Vec<_> = runs.iter().map(row).collect();
    let objects: Vec<_> = runs
        .into_iter()
        .map(|run| {
            let facts = facts_of(&run);
            RunReport { run, journal: Vec::new(), facts }.json()
        })
        .collect();
    let text = if rows.is_empty() { "there are no runs\n".into() } else { table(columns, &rows) };
    Ok(Report::new("runs-list", text, &json!({ "runs": objects })))
}

/// The run of this ID, or the one begun last for `latest`.
///
/// # Errors
/// [`Failure`] with [`ExitCode::NotFound`], and what the ledger says.
pub async fn find(ledger: &Ledger, run: &str) -> Result<RunReport, Failure> {
    if run != "latest" {
        return RunReport::read(ledger, run).await;
    }
    let newest = ledger.recent_runs(None, 1).await.map_err(Failure::of("find the run"))?;
    let id = newest.into_iter().next().map(|run| run.id).unwrap_or_default();
    RunReport::read(ledger, &id).await
}

/// Everything that is known of a run.
pub fn shown(told: &RunReport) -> Report {
    let mut text = told.text();
    for entry in &told.journal {
        let unended = if entry.phase.is_terminal() { "" } else { "did not end" };
        let outcome = plain::line(entry.outcome.as_deref().unwrap_or(unended));
        text.push_str(&format!(
            "  {}  {:<13} {outcome}\n",
            entry.began_at.format("%H:%M:%S%.3fZ"),
            entry.phase
        ));
    }
    if !told.run.output.is_empty() {
        text.push_str("output of the command:\n");
        text.extend(told.run.output.lines().map(|line| format!("  | {}\n", plain::lines(line))));
    }
    let mut report = Report::new("runs-show", text, &told.json());
    if let Some(object) = report.json.as_object_mut() {
        let journal = told.journal.iter().map(|entry| {
            json!({ "phase": entry.phase.as_str(), "began_at": entry.began_at, "ended_at": entry.ended_at, "outcome": entry.outcome })
        });
        object.insert("journal".into(), journal.collect());
        object.insert("output".into(), told.run.output.clone().into());
    }
    report
}

/// Lets retention have the snapshots of a run again, unless an operator keeps them too.
async fn unpin(host: &Host, told: &RunReport) -> Result<(), CatalogError> {
    let snapshots: Vec<_> = told.facts.databases.iter().filter_map(|of| of.snapshot.as_ref()).collect();
    let reason = migrate::pin_reason(&told.run.id);
    let is_ours = |entry: &&Entry| {
        snapshots.iter().any(|snapshot| entry.manifest.id == snapshot.id)
            && entry.pin.as_ref().is_some_and(|pin| pin.reason == reason)
    };
    for entry in host.catalog.list().await?.entries.iter().filter(is_ours) {
        host.catalog.unpin(&entry.home).await?;
    }
    Ok(())
}

/// How a held run ends whose database an operator lets be as it is: one that stands only because a
/// fence did not come down ends as it would have.
fn kept(verdict: Option<Verdict>) -> Verdict {
    verdict.filter(|verdict| !verdict.is_undecided()).unwrap_or(Verdict::KeptByOperator)
}

async fn resolve(
    global: &Global,
    host: &Host,
    ledger: &Ledger,
    args: &ResolveArgs,
) -> Result<Report, Failure> {
    let title = format!("resolve run {}", args.run);
    resume_open_runs(global, host, ledger).await?;
    let run = RunReport::read(ledger, &args.run).await?.run;
    if run.position.phase != Phase::Held {
        let text = format!("it is not held, but {}", run.position.phase);
        return Err(Failure::new(&title, ExitCode::Refused, text));
    }
    let decision = if args.restore {
        Decision::Restore(Verdict::RestoredByOperator)
    } else {
        Decision::Release(kept(run.position.verdict))
    };
    let failed_release = if args.fence_is_down { FailedRelease::CountsAsDown } else { FailedRelease::Holds };
    let loss = if args.accept_loss { Loss::Accepted } else { Loss::Refused };
    let resolution = Resolution { decision, failed_release, loss };
    let _locks = RunLocks::take(host, &run.databases).map_err(Failure::of(&title))?;
    let ground = Ground::new(host, ledger, databases_of(host, &run)?)?;
    let means = ground.means(&|_| {}, &|_| {})?;
    let work = Box::pin(migrate::resolve(&means, &run, resolution, clock::now));
    let walked = shown_in_lines(global, &title, &ground.progress, work).await.map_err(Failure::of(&title))?;
    if let Walked::Suspended(error) = walked {
        return Err(Failure::of(&title)(error));
    }
    let told = RunReport::read(ledger, &args.run).await?;
    audit::note_run(ledger, "resolve", &told.run).await?;
    if told.run.position.phase == Phase::Done {
        unpin(host, &told).await.map_err(Failure::of(&title))?;
    }
    let report = told.report("runs-resolve");
    // What the run was is told; that it is resolved now is what was asked for.
    Ok(if told.run.position.phase == Phase::Done { report.ending(ExitCode::Done) } else { report })
}
