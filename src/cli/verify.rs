//! `belay verify`: reads a snapshot again, to a depth.

pub mod physical;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::gate::resume_open_runs;
use super::host::Host;
use super::privileges::Inputs;
use super::progress::shown;
use super::report::{ExitCode, Failure, Report, duration_text, print_notice};
use super::{Global, audit, clock, opener_of, selector};
use crate::catalog::{CatalogError, Selector};
use crate::jobs::Progress;
use crate::jobs::verify::{self, Recording, Verified};
use crate::ledger::lock::{LockName, StateLock};
use crate::ledger::{JobKind, Ledger};
use crate::rules::drill::PhysicalDepth;
use crate::rules::layout::SnapshotId;
use crate::rules::manifest::Depth;
use crate::rules::recovery::Target;
use crate::seal::Opener;
use crate::store::StoreError;

/// Options of `belay verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Which snapshot: an id, latest, latest-verified or before:REVISION
    #[arg(value_name = "ID", default_value = "latest", value_parser = selector::parse)]
    pub snapshot: Selector,
    /// Look only among the snapshots of this database
    #[arg(long, value_name = "DB")]
    pub database: Option<String>,
    /// How deep; the default is that of the settings
    #[arg(long, value_enum)]
    pub depth: Option<DepthArg>,
    /// Open with this identity instead of the host's
    #[arg(long, value_name = "FILE")]
    pub identity: Option<std::path::PathBuf>,
    /// Not a snapshot but the base backups, and the write-ahead log behind them
    #[arg(long, conflicts_with_all = ["snapshot", "database"])]
    pub physical: bool,
    /// Only this base backup, and the log behind it
    #[arg(long, value_name = "ID", value_parser = selector::base, requires = "physical")]
    pub base: Option<SnapshotId>,
    /// The moment to recover (a time with its zone), rather than one that is drawn
    #[arg(long, value_name = "TIME", requires = "physical", value_parser = time)]
    pub at: Option<DateTime<Utc>>,
    /// Draw the moment to recover with the seed of an earlier run
    #[arg(long, value_name = "N", requires = "physical", conflicts_with = "at")]
    pub seed: Option<u32>,
}

/// Accepts a time with its zone.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    match text.parse() {
        Ok(Target::Time(time)) => Ok(time),
        _ => Err(format!("must be a time with its zone (2026-11-20 14:03:07+01), not {text:?}")),
    }
}

/// A depth on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DepthArg {
    /// Every byte is read again and has the digest of the manifest
    Stored,
    /// Decrypted, decompressed, archives listed, rows counted and digested
    Readable,
    /// Restored into a scratch cluster, every table compared
    Restored,
    /// With --physical: a cluster recovered to a moment in the scratch directory, and looked through
    Recovered,
}

impl DepthArg {
    fn of_snapshot(self) -> Result<Depth, Failure> {
        match self {
            Self::Stored => Ok(Depth::Stored),
            Self::Readable => Ok(Depth::Readable),
            Self::Restored => Ok(Depth::Restored),
            Self::Recovered => {
                Err(no_such_depth("snapshots are verified to the depths stored, readable and restored"))
            }
        }
    }

    fn of_physical(self) -> Result<PhysicalDepth, Failure> {
        match self {
            Self::Readable => Ok(PhysicalDepth::Readable),
            Self::Recovered => Ok(PhysicalDepth::Recovered),
            Self::Stored | Self::Restored => Err(no_such_depth(
                "base backups and log (--physical) are verified to the depths readable and recovered",
            )),
        }
    }
}

fn no_such_depth(text: &str) -> Failure {
    Failure::new("verify", ExitCode::Usage, text)
}

/// Verifies one snapshot.
///
/// # Errors
/// [`Failure`] when it could not be verified; a damaged snapshot is a report with
/// [`ExitCode::Problem`], and a result that could not be recorded is one with
/// [`ExitCode::Failed`], unless the repository may only be read.
pub async fn run(global: &Global, args: VerifyArgs, inputs: Inputs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let opener = opener_of(&inputs)?.or_else(|| host.opener());
    let ledger = host.ledger().await?;
    resume_open_runs(global, &host, &ledger).await?;
    if args.physical {
        return physical::run(global, &args, &host, &ledger, opener.as_ref()).await;
    }
    let database = args.database.as_deref().map(|name| host.database(name)).transpose()?;
    let wanted = Wanted {
        database: database.as_ref().map(|database| database.connection.database.as_str()),
        snapshot: &args.snapshot,
        depth: args.depth.map_or(Ok(host.settings.verify.depth), DepthArg::of_snapshot)?,
        opener: opener.as_ref(),
    };
    let verified = verify_wanted(global, &host, &ledger, &wanted).await?;
    Ok(report(&title_of(&verified.record.id), verified))
}

/// Which snapshot is verified, how deep, and what opens it.
pub struct Wanted<'a> {
    /// Looked for among the snapshots of this database, or of all.
    pub database: Option<&'a str>,
    /// The snapshot.
    pub snapshot: &'a Selector,
    /// How deep.
    pub depth: Depth,
    /// What opens it; without, only the bytes in the store are read.
    pub opener: Option<&'a Opener>,
}

fn title_of(id: &SnapshotId) -> String {
    format!("verify {id}")
}

/// Verifies one snapshot under its lock, and records that in the ledger.
///
/// # Errors
/// [`Failure`] when it could not be verified; with [`ExitCode::Busy`] while a sweep runs.
pub async fn verify_wanted(
    global: &Global,
    host: &Host,
    ledger: &Ledger,
    wanted: &Wanted<'_>,
) -> Result<Verified, Failure> {
    // What is verified must not be removed meanwhile: it would look damaged.
    let _repository = StateLock::shared(&host.settings.state.directory, &LockName::repository())
        .map_err(Failure::of("verify"))?;
    let listing = host.catalog.list().await.map_err(Failure::of("verify"))?;
    let entry = listing.select(wanted.database, wanted.snapshot).map_err(Failure::of("verify"))?;
    let title = title_of(&entry.manifest.id);
    if wanted.opener.is_some() && wanted.depth != Depth::Stored {
        let about = (Some(entry.manifest.database.as_str()), Some(entry.manifest.id.as_str()));
        audit::note(ledger, audit::KEY_USE, about, "to verify").await?;
    }
    let progress = Arc::new(Progress::default());
    let scratch_directory = host.scratch_directory();
    let means = verify::Means {
        catalog: &host.catalog,
        opener: wanted.opener,
        signing: host.keys.signing.as_ref(),
        bin_directory: host.settings.cluster.bin_directory.as_deref(),
        path: &host.path,
        scratch_directory: &scratch_directory,
        jobs: host.settings.verify.jobs,
        stall_timeout: host.settings.cluster_database(&entry.manifest.database).stall_timeout,
        progress: &progress,
    };
    let name = entry.manifest.database.clone();
    let subject = |verified: &Verified| verified.record.id.to_string();
    super::recorded(ledger, JobKind::Verify, Some(&name), &title, subject, async {
        let work = Box::pin(verify::verify(&means, entry, wanted.depth, clock::now));
        shown(global, &title, &progress, work).await.map_err(Failure::of(&title))
    })
    .await
}

fn report(title: &str, verified: Verified) -> Report {
    let record = &verified.record;
    let (code, unrecorded) = ending(title, record.is_ok, verified.recording);
    if let (ExitCode::Failed, Some(unrecorded)) = (code, &unrecorded) {
        print_notice(&format!("{title}: {unrecorded}"));
    }
    let mut text = format!("{}  {}: ", record.id, record.depth.as_str());
    if record.is_ok {
        text.push_str(&format!(
            "ok, {} tables and {} rows compared in {}\n",
            record.tables_compared,
            record.rows_compared,
            duration_text(record.elapsed_ms)
        ));
    } else {
        text.push_str(&format!(
            "{} problem(s) in {}\n",
            record.problems.len(),
            duration_text(record.elapsed_ms)
        ));
    }
    let problems: Vec<&String> = record.problems.iter().chain(&verified.differences).collect();
    text.extend(problems.iter().map(|problem| format!("  problem: {problem}\n")));
    let notes: Vec<&String> = verified.notes.iter().chain(&unrecorded).collect();
    text.extend(notes.iter().map(|note| format!("  note: {note}\n")));
    let body = json!({
        "id": record.id, "depth": record.depth, "ok": record.is_ok, "tables_compared": record.tables_compared,
        "rows_compared": record.rows_compared, "problems": problems, "notes": notes,
        "recorded": unrecorded.is_none(), "restore_ms": record.restore_ms, "elapsed_ms": record.elapsed_ms,
    });
    Report::new("verify", text, &body).ending(code)
}

/// How the verb ends, and why the result is not recorded, if it is not.
///
/// A repository that may only be read is one on purpose; any other failure to write deserves a look.
fn ending(title: &str, is_ok: bool, recording: Recording) -> (ExitCode, Option<String>) {
    let (code, reason) = match recording {
        Recording::Done => (ExitCode::Done, None),
        Recording::NoKey => (ExitCode::Done, Some("there is no signing key on this host".to_owned())),
        Recording::Failed(error) => {
            let is_denied = matches!(error, CatalogError::Store(StoreError::Denied { .. }));
            let failure = Failure::of(title)(error);
            let hint = failure.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            (if is_denied { ExitCode::Done } else { ExitCode::Failed }, Some(failure.chain() + &hint))
        }
    };
    let code = if is_ok { code } else { ExitCode::Problem };
    (code, reason.map(|reason| format!("this result is not recorded: {reason}")))
}
