//! `belay recover`: the whole cluster as it was at a moment.

pub mod plan;

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;

use self::plan::RecoveryPlan;
use super::host::Host;
use super::privileges::Inputs;
use super::progress::shown;
use super::report::{Failure, Report, duration_text};
use super::standalone::{Standalone, StandaloneArgs};
use super::{Global, audit, opener_of, selector, wal};
use crate::catalog::Catalog;
use crate::jobs::recover::{self, Choice, Means, Recovered, Stock};
use crate::jobs::{JobError, Progress};
use crate::ledger::lock::{LockName, StateLock};
use crate::ledger::{JobKind, Ledger};
use crate::rules::layout::SnapshotId;
use crate::rules::recovery::Wanted;
use crate::rules::tablespaces::{Mapping, Place};
use crate::seal::Opener;

const TITLE: &str = "recover";
const MAPPING: &str = "--tablespace-mapping OLD=NEW (once for each) puts a tablespace into another directory";

/// Options of `belay recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The directory that becomes the data directory: a new one, or an empty one
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// The moment: a time with its zone ('2026-11-20 14:03:07+01'), a place in the log (16/B374D848),
    /// name:RESTORE_POINT, before-migration:REVISION, or latest
    #[arg(long, value_name = "MOMENT", default_value = "latest")]
    pub at: Wanted,
    /// Put the tablespace that was at the directory OLD at NEW (once for each); it goes where it was
    /// unless told otherwise, if nothing is there
    #[arg(long, value_name = "OLD=NEW")]
    pub tablespace_mapping: Vec<Mapping>,
    /// The timeline to follow; the newest unless told otherwise
    #[arg(long, value_name = "N")]
    pub timeline: Option<u32>,
    /// Begin with this base backup; the newest before the moment whose verification has not failed, unless
    /// told otherwise
    #[arg(long, value_name = "ID", value_parser = selector::base)]
    pub base: Option<SnapshotId>,
    /// Say what would be read, how long it would take and what room it needs, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Open with this identity instead of the host's
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Without a settings file.
    #[command(flatten)]
    pub standalone: StandaloneArgs,
}

/// What a recovery stands on: the host's settings and state, or the command line alone.
struct Ground {
    catalog: Catalog,
    opener: Opener,
    bin_directory: Option<PathBuf>,
    path: String,
    state_directory: PathBuf,
    ledger: Ledger,
    note: Option<String>,
    /// Removes the state directory at the end.
    _standalone: Option<Standalone>,
}

impl Ground {
    async fn open(global: &Global, args: &RecoverArgs, inputs: &Inputs) -> Result<Self, Failure> {
        let no_identity = || Failure::of(TITLE)(JobError::NoIdentity { action: "open the base backup" });
        let given = opener_of(inputs)?;
        if args.standalone.standalone {
            let standalone = Standalone::open(&args.standalone).await?;
            return Ok(Self {
                catalog: standalone.catalog.clone(),
                opener: given.ok_or_else(no_identity)?,
                bin_directory: None,
                path: standalone.path.clone(),
                state_directory: standalone.state_directory().to_owned(),
                ledger: standalone.ledger().await?,
                note: standalone.note.clone(),
                _standalone: Some(standalone),
            });
        }
        let host = Host::open_trusting(&global.config, &args.standalone.trust_signer).await?;
        Ok(Self {
            opener: given.or_else(|| host.opener()).ok_or_else(no_identity)?,
            ledger: host.ledger().await?,
            bin_directory: host.settings.cluster.bin_directory.clone(),
            state_directory: host.settings.state.directory.clone(),
            path: host.path,
            catalog: host.catalog,
            note: None,
            _standalone: None,
        })
    }
}

/// Recovers.
///
/// # Errors
/// [`Failure`]; the directory is empty again then.
pub async fn run(global: &Global, args: RecoverArgs, inputs: Inputs) -> Result<Report, Failure> {
    let ground = Ground::open(global, &args, &inputs).await?;
    let (catalog, state) = (&ground.catalog, &ground.state_directory);
    let (progress, scratch_directory) = (Arc::new(Progress::default()), state.join("scratch"));
    let means = Means {
        catalog,
        opener: &ground.opener,
        bin_directory: ground.bin_directory.as_deref(),
        path: &ground.path,
        scratch_directory: &scratch_directory,
        progress: &progress,
    };
    // Retention must not take what is about to be read.
    let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(TITLE))?;
    let stock = Stock::read_settled(catalog, Some(&ground.opener), wal::shipped(state))
        .await
        .map_err(Failure::of(TITLE))?;
    let choice = Choice { timeline: args.timeline, base: args.base.as_ref(), ..Choice::default() };
    let planned = stock.plan(catalog, &args.at, choice).await;
    let (plan, base) = planned.map_err(Failure::of(TITLE))?;
    if args.plan {
        let planned = RecoveryPlan::of(catalog, &plan, &base, &args.at, &args.into).await?;
        return Ok(planned.report(&format!("into {}", args.into.display())));
    }
    let placed = recover::places(&base, &args.tablespace_mapping, &args.into);
    let placed = placed.map_err(|error| Failure::of(TITLE)(error).with_hint(MAPPING))?;
    audit::note(&ground.ledger, audit::KEY_USE, (None, Some(base.id.as_str())), "to recover").await?;
    let subject = |recovered: &Recovered| recovered.base.to_string();
    let mut recovered = super::recorded(&ground.ledger, JobKind::Recover, None, TITLE, subject, async {
        let work = Box::pin(recover::recover_into(&means, &stock, &plan, &base, &args.into, &placed));
        shown(global, TITLE, &progress, work).await.map_err(Failure::of(TITLE))
    })
    .await?;
    recovered.notes.extend(ground.note.clone());
    Ok(report(&args, &recovered, &placed))
}

/// Where a recovery really ended, in words; the time is as `--at` takes it.
pub fn reached_text(recovered: &Recovered) -> String {
    let at = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S%.6f UTC");
    let last = match recovered.reached.last_commit {
        Some(time) => format!("the last transaction in it ended at {}", at(time)),
        None => "no transaction ended behind the base backup".to_owned(),
    };
    let end =
        if recovered.reached_end { "; the log ends there, and nothing was committed later" } else { "" };
    format!("{} of the log: {last}{end}", recovered.reached.lsn)
}

fn report(args: &RecoverArgs, recovered: &Recovered, placed: &[Place]) -> Report {
    let mut text = format!(
        "recovered {} into {} from base backup {} and {} segments of the log, in {}\n",
        args.at,
        args.into.display(),
        recovered.base,
        recovered.segments,
        duration_text(recovered.elapsed_ms)
    );
    text.push_str(&format!("  reached {}\n", reached_text(recovered)));
    for place in placed.iter().filter(|place| !place.is_original()) {
        text.push_str(&format!("  tablespace {} at {}\n", place.tablespace.name, place.directory.display()));
    }
    text.extend(recovered.notes.iter().map(|note| format!("  note: {note}\n")));
    text.push_str(&format!(
        "start it with PostgreSQL {}: pg_ctl -D {} start\n",
        recovered.major,
        args.into.display()
    ));
    let body = json!({
        "into": args.into, "at": args.at.to_string(), "base": recovered.base, "segments": recovered.segments,
        "reached_lsn": recovered.reached.lsn, "last_commit_at": recovered.reached.last_commit,
        "reached_end_of_log": recovered.reached_end, "notes": recovered.notes, "elapsed_ms": recovered.elapsed_ms,
    });
    Report::new("recover", text, &body)
}
