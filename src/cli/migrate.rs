//! `belay migrate`: runs a migration behind a verified snapshot, and undoes it when it fails.

pub mod ci;
pub mod report;

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use self::report::RunReport;
use super::gate::{Ground, RunLocks, resume_open_runs};
use super::host::Host;
use super::privileges::Inputs;
use super::progress::shown_in_lines;
use super::remote::{self, ServerArgs};
use super::report::{ExitCode, Failure, Report, print_notice};
use super::{Global, audit, clock};
use crate::jobs::JobError;
use crate::jobs::migrate::facts::Rehearsal;
use crate::jobs::migrate::{self, Request, ScriptsOf, Stop, Walked};
use crate::jobs::restore::recover;
use crate::ledger::Ledger;
use crate::rules::gate::Phase;
use crate::rules::layout::SnapshotId;
use crate::settings;

/// Options of `belay migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The database, by the name of its section; may be left out where the settings have one only.
    /// Given several times, all of them are migrated by the one command, or none is
    #[arg(long = "db", value_name = "DB")]
    pub databases: Vec<String>,
    /// Run the command on a scratch copy of the snapshot first
    #[arg(long, conflicts_with = "rehearse_only")]
    pub rehearse: bool,
    /// Run the command on a scratch copy only, and leave the database alone
    #[arg(long)]
    pub rehearse_only: bool,
    /// Let revisions through whose docstring says BREAKING CHANGE:
    #[arg(long)]
    pub allow_breaking: bool,
    /// Write a report of the phases and checks in JUnit's form
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// A daemon that holds the gate for a command that runs here.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Runs the migration and tells how it went.
///
/// # Errors
/// [`Failure`] when the run could not even begin; how it ended is a report with its exit code.
pub async fn run(global: &Global, args: MigrateArgs, inputs: Inputs, stop: Stop) -> Result<Report, Failure> {
    if args.server.server.is_some() {
        let told = remote::migrate::run(global, &args, stop).await?;
        return Ok(made_known(&args, &told));
    }
    let host = Host::open(&global.config).await?;
    let ledger = host.ledger().await?;
    let databases = databases(&args, &host, &ledger).await?;
    resume_open_runs(global, &host, &ledger).await?;
    let keys: Vec<&str> = databases.iter().map(|database| database.key.as_str()).collect();
    let title = format!("migrate {}", keys.join(", "));
    let names = databases.iter().map(|database| &database.connection.database);
    let _locks = RunLocks::take(&host, names).map_err(Failure::of(&title))?;
    // They are all of one cluster, or the run is refused.
    if let Some(first) = databases.first() {
        recover::settle(&ledger, &first.connection).await.map_err(Failure::of(&title))?;
    }
    let request = request(&args, &inputs, &host);
    let id = request.id.clone();
    let quiet = global.quiet;
    let tell = |phase: Phase| {
        if !quiet && !phase.is_terminal() {
            print_notice(&format!("{title}: {phase}"));
        }
    };
    let pass_on = |bytes: &[u8]| _ = std::io::stderr().lock().write_all(bytes);
    let ground = Ground::new(&host, &ledger, databases)?;
    let means = ground.means(&tell, &pass_on)?;
    let work = Box::pin(migrate::migrate(&means, request, stop, clock::now));
    let cut_off = |error, what: &str| {
        let failure = Failure { code: ExitCode::Unknown, ..Failure::of(&title)(error) };
        failure.with_hint(format!(
            "{what} in the middle of run {id}: fences may be up, the next belay command that uses the database goes on with it"
        ))
    };
    match shown_in_lines(global, &title, &ground.progress, work).await {
        Ok(Walked::Ended(_)) => {}
        Ok(Walked::Suspended(error)) => return Err(cut_off(error, "the server is away")),
        Err(error @ JobError::Ledger(_)) => return Err(cut_off(error, "the ledger cannot be written")),
        Err(error) => return Err(Failure::of(&title)(error)),
    }
    let told = RunReport::read(&ledger, &id).await?;
    // How it ended is to be told in any case.
    if let Err(failure) = audit::note_run(&ledger, "migrate", &told.run).await {
        print_notice(&format!("{}: {}", failure.action, failure.chain()));
    }
    Ok(made_known(&args, &told))
}

/// Tells how a run went to whoever is to know, and returns its report.
fn made_known(args: &MigrateArgs, told: &RunReport) -> Report {
    if let Some(path) = &args.junit {
        ci::write_junit(path, told);
    }
    ci::tell_github(told);
    told.report("migrate")
}

/// The databases that are named, in that order; none twice.
async fn databases(
    args: &MigrateArgs,
    host: &Host,
    ledger: &Ledger,
) -> Result<Vec<settings::DatabaseSettings>, Failure> {
    if args.databases.is_empty() {
        return Ok(vec![only_database(host, ledger).await?]);
    }
    let mut all: Vec<settings::DatabaseSettings> = Vec::new();
    for name in &args.databases {
        let database = host.database(name)?;
        if all.iter().any(|known| known.connection.database == database.connection.database) {
            let text = format!("--db {name} names a database that was named before");
            return Err(Failure::new("migrate", ExitCode::Usage, text));
        }
        all.push(database);
    }
    Ok(all)
}

async fn only_database(host: &Host, ledger: &Ledger) -> Result<settings::DatabaseSettings, Failure> {
    let mut all = host.databases(ledger).await?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(Failure::new(
            "migrate",
            ExitCode::Usage,
            "the settings have several databases: name one with --db",
        )),
    }
}

fn request(args: &MigrateArgs, inputs: &Inputs, host: &Host) -> Request {
    let rehearsal = match (args.rehearse_only, args.rehearse || host.settings.gate.rehearse) {
        (true, _) => Rehearsal::Only,
        (false, true) => Rehearsal::First,
        (false, false) => Rehearsal::Not,
    };
    Request {
        id: SnapshotId::new(clock::now(), rand::random()).to_string(),
        words: args.command.clone(),
        directory: inputs.directory.clone(),
        rehearsal,
        allows_breaking: args.allow_breaking,
        own_options: settings::variable("PGOPTIONS"),
        scripts: ScriptsOf::Directory { alembic_config: settings::variable("ALEMBIC_CONFIG") },
    }
}
