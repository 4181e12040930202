//! `belay restore`: brings a snapshot back, beside what is there or in its place.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::Utc;
use clap::{ArgGroup, Args, ValueEnum};
use serde_json::json;

use super::host::Host;
use super::privileges::Inputs;
use super::progress::shown;
use super::report::{ExitCode, Failure, Report, bytes_text, duration_text};
use super::{Global, opener_of, selector};
use crate::catalog::Selector;
use crate::jobs::Progress;
use crate::jobs::load::{RestoreErrors, Source};
use crate::jobs::prove::Proof;
use crate::jobs::restore::plan::{self, RestorePlan};
use crate::jobs::restore::{self, Destination, Means, Request, Restored, recover};
use crate::ledger::JobKind;
use crate::ledger::lock::{LockName, StateLock};
use crate::settings::DatabaseSettings;

/// Options of `belay restore`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("destination").args(["into", "swap"]).required(true)))]
pub struct RestoreArgs {
    /// The database whose snapshot is restored, by the name of its section
    #[arg(value_name = "DB")]
    pub database: String,
    /// Which snapshot: an id, latest, latest-verified or before:REVISION
    #[arg(long, value_name = "ID", default_value = "latest", value_parser = selector::parse)]
    pub from: Selector,
    /// Restore into a new database of this name
    #[arg(long, value_name = "NAME")]
    pub into: Option<String>,
    /// Take the place of the live database, which is kept under another name
    #[arg(long)]
    pub swap: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// How the result is proven before it gets its name
    #[arg(long, value_enum, default_value = "sent")]
    pub prove: ProofArg,
    /// Go on after errors of pg_restore, and report them
    #[arg(long)]
    pub accept_errors: bool,
    /// Open with this identity instead of the host's
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// A proof on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProofArg {
    /// Digests of what was sent, row counts, the schema
    Sent,
    /// The same, and every table read back
    Full,
}

/// Restores, or says what would be done.
///
/// # Errors
/// [`Failure`]; then the database that had the name has it still.
pub async fn run(global: &Global, args: RestoreArgs, inputs: Inputs) -> Result<Report, Failure> {
    let title = format!("restore {}", args.database);
    let host = Host::open(&global.config).await?;
    let database = host.database(&args.database)?;
    let opener = opener_of(&inputs)?.or_else(|| host.opener());
    let opener = opener
        .ok_or(crate::jobs::JobError::NoIdentity { action: "open the snapshot" })
        .map_err(Failure::of(&title))?;
    let listing = host.catalog.list().await.map_err(Failure::of(&title))?;
    let entry =
        listing.select(Some(&database.connection.database), &args.from).map_err(Failure::of(&title))?;
    let request = request(&args, &host, &database, entry);
    if args.plan {
        let source = Source { catalog: &host.catalog, entry, opener: &opener };
        let inventory = source.inventory().await.map_err(Failure::of(&title))?;
        let plan = plan::plan(&request, &inventory).await.map_err(Failure::of(&title))?;
        return Ok(plan_report(&plan));
    }
    let state = &host.settings.state.directory;
    let _database = StateLock::exclusive(state, &LockName::database(request.destination.name()))
        .map_err(Failure::of(&title))?;
    let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(&title))?;
    let ledger = host.ledger().await?;
    recover::settle(&ledger, request.connection).await.map_err(Failure::of(&title))?;
    let (progress, scratch_directory) = (Arc::new(Progress::default()), host.scratch_directory());
    let means = Means {
        catalog: &host.catalog,
        opener: &opener,
        ledger: &ledger,
        bin_directory: host.settings.cluster.bin_directory.as_deref(),
        path: &host.path,
        scratch_directory: &scratch_directory,
        progress: &progress,
    };
    let name = database.connection.database.clone();
    let id = entry.manifest.id.to_string();
    let restored =
        super::recorded(&ledger, JobKind::Restore, Some(&name), &title, |_: &Restored| id.clone(), async {
            let work = restore::restore(&means, &request, Utc::now);
            shown(global, &title, &progress, work).await.map_err(Failure::of(&title))
        })
        .await?;
    Ok(report(&restored, &id))
}

fn request<'a>(
    args: &RestoreArgs,
    host: &Host,
    database: &'a DatabaseSettings,
    entry: &'a crate::catalog::Entry,
) -> Request<'a> {
    Request {
        entry,
        destination: match &args.into {
            Some(name) => Destination::Into(name.clone()),
            None => Destination::Swap(database.connection.database.clone()),
        },
        connection: &database.connection,
        jobs: database.jobs,
        proof: match args.prove {
            ProofArg::Sent => Proof::Sent,
            ProofArg::Full => Proof::Full,
        },
        errors: if args.accept_errors { RestoreErrors::Accept } else { RestoreErrors::Refuse },
        keep_replaced: host.settings.retention.keep_replaced,
        stall_timeout: database.stall_timeout,
    }
}

fn report(restored: &Restored, from: &str) -> Report {
    let mut text = format!(
        "restored {from} into {}: {} tables, {} rows, proven, in {}\n",
        restored.database,
        restored.tables,
        restored.rows,
        duration_text(restored.elapsed_ms)
    );
    if let Some(kept) = &restored.previous_kept_as {
        text.push_str(&format!("the database that was there is kept as {kept}\n"));
    }
    text.extend(restored.notes.iter().map(|note| format!("  note: {note}\n")));
    let body = json!({
        "database": restored.database, "from": from, "into": restored.database,
        "previous_kept_as": restored.previous_kept_as, "rows": restored.rows, "tables": restored.tables,
        "notes": restored.notes, "elapsed_ms": restored.elapsed_ms,
    });
    Report::new("restore", text, &body)
}

fn plan_report(plan: &RestorePlan) -> Report {
    let mut text = format!(
        "would restore {} into {}{}\n  {} tables, {} rows; {} to read, about {} needed on disk{}\n",
        plan.from,
        plan.into,
        if plan.replaces { ", which is kept under another name" } else { "" },
        plan.tables,
        plan.rows,
        bytes_text(plan.stored_bytes),
        bytes_text(plan.needed_bytes),
        plan.free_bytes.map(|free| format!(", {} free", bytes_text(free))).unwrap_or_default(),
    );
    if let Some(estimate) = plan.estimate_ms {
        text.push_str(&format!(
            "  its last restore into a scratch cluster took {}\n",
            duration_text(estimate)
        ));
    }
    if !plan.missing_roles.is_empty() {
        text.push_str(&format!("  would make the roles {}\n", plan.missing_roles.join(", ")));
    }
    text.extend(plan.warnings.iter().map(|warning| format!("  warning: {warning}\n")));
    text.extend(plan.refusals.iter().map(|refusal| format!("  refused: {refusal}\n")));
    let report = Report::new("restore-plan", text, plan);
    if plan.refusals.is_empty() { report } else { report.ending(ExitCode::Refused) }
}
