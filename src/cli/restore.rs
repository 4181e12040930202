//! `belay restore`: brings a snapshot back, beside what is there or in its place.

mod moment;
mod tables;

use std::path::PathBuf;
use std::sync::Arc;

use chrono::TimeDelta;
use clap::builder::TypedValueParser as _;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::gate::resume_open_runs;
use super::host::Host;
use super::privileges::Inputs;
use super::progress::shown;
use super::recover::reached_text;
use super::report::{ExitCode, Failure, Report, bytes_text, duration_text};
use super::standalone::{Standalone, StandaloneArgs};
use super::{Global, audit, clock, opener_of, selector};
use crate::catalog::{Catalog, Entry, Selector};
use crate::jobs::load::{RestoreErrors, Source};
use crate::jobs::prove::Proof;
use crate::jobs::recover::{Moment, Recovered};
use crate::jobs::restore::plan::{self, RestorePlan};
use crate::jobs::restore::{self, Destination, Means, Request, Restored, recover as interrupted};
use crate::jobs::{JobError, Progress};
use crate::ledger::lock::{LockName, StateLock};
use crate::ledger::{JobKind, Ledger};
use crate::rules::layout::SnapshotId;
use crate::rules::recovery::Wanted;
use crate::rules::table_name::TableName;
use crate::seal::Opener;
use crate::settings::DatabaseSettings;

/// Options of `belay restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The database whose snapshot is restored, by the name of its section (its own name with --standalone)
    #[arg(value_name = "DB")]
    pub database: String,
    /// Which snapshot: an id, latest, latest-verified or before:REVISION
    #[arg(long, value_name = "ID", default_value = "latest", value_parser = selector::parse)]
    pub from: Selector,
    /// Not a snapshot but a moment: a time with its zone ('2026-11-20 14:03:07+01'), a place in the log
    /// (16/B374D848), name:RESTORE_POINT, before-migration:REVISION, or latest; from a base backup and the write-ahead log
    #[arg(long, value_name = "MOMENT", conflicts_with_all = ["from", "standalone"])]
    pub at: Option<Wanted>,
    /// With --at: the timeline to follow; the newest unless told otherwise
    #[arg(long, value_name = "N", requires = "at")]
    pub timeline: Option<u32>,
    /// With --at: begin with this base backup; the newest before the moment whose verification has not failed,
    /// unless told otherwise
    #[arg(long, value_name = "ID", value_parser = selector::base, requires = "at")]
    pub base: Option<SnapshotId>,
    /// Restore into a new database of this name; with --table, into this existing one
    #[arg(long, value_name = "NAME", required_unless_present_any = ["swap", "tables"], conflicts_with = "swap", value_parser = database_name)]
    pub into: Option<String>,
    /// Take the place of the live database, which is kept under another name
    #[arg(long)]
    pub swap: bool,
    /// Restore only this table (TABLE, SCHEMA.TABLE or "Odd.Schema"."T"; may be given again) into a schema of the
    /// live database or of --into: columns and rows, without constraints, defaults, indexes or generated columns
    #[arg(long = "table", value_name = "TABLE", conflicts_with = "swap")]
    pub tables: Vec<TableName>,
    /// The schema that gets the tables of --table, made if it is missing (default: restored_TIME)
    #[arg(long, value_name = "NAME", requires = "tables", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub schema: Option<String>,
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
    /// Sessions that load at once, 1 to 64; the default is that of the settings, or 2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64).map(usize::from))]
    pub jobs: Option<usize>,
    /// Without a settings file.
    #[command(flatten)]
    pub standalone: StandaloneArgs,
}

/// Accepts a name that PostgreSQL keeps as it is; longer ones it would cut.
fn database_name(text: &str) -> Result<String, String> {
    const NAME_BYTES: usize = 63;
    if (1..=NAME_BYTES).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("a database's name has 1 to {NAME_BYTES} bytes, this one {}", text.len()))
    }
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
    let mut ground = Ground::open(global, &args, &inputs).await?;
    let moment = match &args.at {
        Some(target) if args.plan => return ground.plan_at(&args, &title, target).await,
        Some(target) => Some(ground.at(global, &title, target, &args).await?),
        None => None,
    };
    let listing = ground.catalog.list().await.map_err(Failure::of(&title))?;
    let name = ground.database.connection.database.clone();
    let entry = listing.select(Some(&name), &args.from).map_err(Failure::of(&title))?;
    let mut newer = ground.note().into_iter().chain(listing.rejected_after(entry)).collect::<Vec<_>>();
    newer.extend(moment.iter().flat_map(notes_of));
    if !args.tables.is_empty() {
        return Box::pin(tables::run(global, &args, &ground, entry, (newer, moment.as_ref()))).await;
    }
    let request = request(&args, &ground, entry);
    if args.plan {
        let source = Source { catalog: &ground.catalog, entry, opener: &ground.opener };
        let inventory = source.inventory().await.map_err(Failure::of(&title))?;
        let mut plan = plan::plan(&request, &inventory).await.map_err(Failure::of(&title))?;
        plan.warnings.extend(newer);
        return Ok(plan_report(&plan));
    }
    let id = entry.manifest.id.to_string();
    let mut restored = ground
        .carry_out(global, &title, request.destination.name(), &id, async |means| {
            Box::pin(restore::restore(means, &request, clock::now)).await
        })
        .await?;
    restored.notes.extend(newer);
    if args.standalone.standalone
        && let Some(kept) = &restored.previous_kept_as
    {
        restored
            .notes
            .push(format!("nothing will remove {kept}: drop it yourself when it is no longer needed"));
    }
    Ok(report(&restored, entry, moment.as_ref()))
}

/// What there is to say of a moment that was restored.
fn notes_of(moment: &Recovered) -> Vec<String> {
    let from =
        format!("recovered from base backup {} and {} segments of the log", moment.base, moment.segments);
    let reached = format!("reached {}", reached_text(moment));
    [from, reached].into_iter().chain(moment.notes.clone()).collect()
}

/// The same as data; `null` for a snapshot of the repository.
fn json_of(moment: Option<&Recovered>) -> serde_json::Value {
    json!(moment.map(|moment| json!({
        "base": moment.base, "segments": moment.segments, "reached_lsn": moment.reached.lsn,
        "last_commit_at": moment.reached.last_commit, "reached_end_of_log": moment.reached_end,
    })))
}

/// A line that tells Alembic's revisions, where there are any.
fn revision_line(revisions: &[String]) -> String {
    if revisions.is_empty() { String::new() } else { format!("  at revision {}\n", revisions.join(", ")) }
}

/// What a restore stands on: the host's settings and state, or the command line alone.
struct Ground {
    catalog: Catalog,
    opener: Opener,
    database: DatabaseSettings,
    path: String,
    bin_directory: Option<PathBuf>,
    state_directory: PathBuf,
    keep_replaced: TimeDelta,
    /// Removes the state directory at the end.
    standalone: Option<Standalone>,
    /// Holds the snapshot of a moment.
    moment: Option<Moment>,
}

impl Ground {
    async fn open(global: &Global, args: &RestoreArgs, inputs: &Inputs) -> Result<Self, Failure> {
        let no_identity =
            || Failure::of("open the snapshot")(JobError::NoIdentity { action: "open the snapshot" });
        let given = opener_of(inputs)?;
        let mut ground = if args.standalone.standalone {
            let standalone = Standalone::open(&args.standalone).await?;
            let no_connection = || Failure::new("restore", ExitCode::Failed, "the environment was not read");
            let mut database = inputs.by_environment.clone().ok_or_else(no_connection)?;
            database.connection = database.connection.with_database(&args.database);
            Self {
                catalog: standalone.catalog.clone(),
                opener: given.ok_or_else(no_identity)?,
                database,
                path: standalone.path.clone(),
                bin_directory: None,
                state_directory: standalone.state_directory().to_owned(),
                keep_replaced: TimeDelta::zero(),
                standalone: Some(standalone),
                moment: None,
            }
        } else {
            let host = Host::open_trusting(&global.config, &args.standalone.trust_signer).await?;
            if !args.plan {
                resume_open_runs(global, &host, &host.ledger().await?).await?;
            }
            Self {
                opener: given.or_else(|| host.opener()).ok_or_else(no_identity)?,
                database: host.database(&args.database)?,
                state_directory: host.settings.state.directory.clone(),
                bin_directory: host.settings.cluster.bin_directory.clone(),
                keep_replaced: host.settings.retention.keep_replaced,
                path: host.path,
                catalog: host.catalog,
                standalone: None,
                moment: None,
            }
        };
        ground.database.jobs = args.jobs.unwrap_or(ground.database.jobs);
        Ok(ground)
    }

    fn note(&self) -> Option<String> {
        self.standalone.as_ref().and_then(|standalone| standalone.note.clone())
    }

    /// Runs `work` on the database `name` under the locks of the host, written down in its ledger.
    async fn carry_out<T>(
        &self,
        global: &Global,
        title: &str,
        name: &str,
        id: &str,
        work: impl AsyncFnOnce(&Means<'_>) -> Result<T, JobError>,
    ) -> Result<T, Failure> {
        let state = &self.state_directory;
        let _database = StateLock::exclusive(state, &LockName::database(name)).map_err(Failure::of(title))?;
        let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(title))?;
        let ledger =
            Ledger::open(&state.join("ledger.sqlite")).await.map_err(Failure::of("open the ledger"))?;
        interrupted::settle(&ledger, &self.database.connection).await.map_err(Failure::of(title))?;
        let (progress, scratch_directory) = (Arc::new(Progress::default()), state.join("scratch"));
        let means = Means {
            catalog: &self.catalog,
            opener: &self.opener,
            ledger: &ledger,
            bin_directory: self.bin_directory.as_deref(),
            path: &self.path,
            scratch_directory: &scratch_directory,
            progress: &progress,
        };
        let database = Some(self.database.connection.database.as_str());
        audit::note(&ledger, audit::KEY_USE, (Some(name), Some(id)), "to restore").await?;
        super::recorded(&ledger, JobKind::Restore, database, title, |_| id.to_owned(), async {
            shown(global, title, &progress, work(&means)).await.map_err(Failure::of(title))
        })
        .await
    }
}

fn destination(args: &RestoreArgs, ground: &Ground) -> Destination {
    match &args.into {
        Some(name) => Destination::Into(name.clone()),
        None => Destination::Swap(ground.database.connection.database.clone()),
    }
}

fn request<'a>(args: &RestoreArgs, ground: &'a Ground, entry: &'a Entry) -> Request<'a> {
    let database = &ground.database;
    Request {
        entry,
        destination: destination(args, ground),
        connection: &database.connection,
        jobs: database.jobs,
        proof: match args.prove {
            ProofArg::Sent => Proof::Sent,
            ProofArg::Full => Proof::Full,
        },
        errors: if args.accept_errors { RestoreErrors::Accept } else { RestoreErrors::Refuse },
        keep_replaced: ground.keep_replaced,
        kept_for: "kept",
        disposable_slots: &[],
        stall_timeout: database.stall_timeout,
    }
}

fn report(restored: &Restored, from: &Entry, moment: Option<&Recovered>) -> Report {
    let (from, revisions) = (&from.manifest.id, &from.manifest.revisions);
    let mut text = format!(
        "restored {from} into {}: {} tables, {} rows, proven, in {}\n",
        restored.database,
        restored.tables,
        restored.rows,
        duration_text(restored.elapsed_ms)
    );
    text.push_str(&revision_line(revisions));
    if let Some(kept) = &restored.previous_kept_as {
        text.push_str(&format!("the database that was there is kept as {kept}\n"));
    }
    text.extend(restored.notes.iter().map(|note| format!("  note: {note}\n")));
    let body = json!({
        "database": restored.database, "from": from, "revision": revisions, "into": restored.database,
        "previous_kept_as": restored.previous_kept_as, "rows": restored.rows, "tables": restored.tables,
        "moment": json_of(moment), "notes": restored.notes, "elapsed_ms": restored.elapsed_ms,
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
    text.push_str(&revision_line(&plan.revisions));
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
