//! `belay recover`: the whole cluster as it was at a moment.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::host::Host;
use super::privileges::Inputs;
use super::progress::shown;
use super::report::{Failure, Report, duration_text};
use super::{Global, audit, opener_of, wal};
use crate::jobs::recover::{self, Means, Recovered, Stock};
use crate::jobs::{JobError, Progress};
use crate::ledger::JobKind;
use crate::ledger::lock::{LockName, StateLock};
use crate::rules::recovery::Target;
use crate::rules::tablespaces::Mapping;

const TITLE: &str = "recover";
const MAPPING: &str = "--tablespace-mapping OLD=NEW (once for each) puts a tablespace into another directory";

/// Options of `belay recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The directory that becomes the data directory: a new one, or an empty one
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// The moment: a time with its zone ('2026-11-20 14:03:07+01'), a place in the log (16/B374D848),
    /// name:RESTORE_POINT, or latest
    #[arg(long, value_name = "MOMENT", default_value = "latest")]
    pub at: Target,
    /// Put the tablespace that was at the directory OLD at NEW (once for each); it goes where it was
    /// unless told otherwise, if nothing is there
    #[arg(long, value_name = "OLD=NEW")]
    pub tablespace_mapping: Vec<Mapping>,
    /// The timeline to follow; the newest unless told otherwise
    #[arg(long, value_name = "N")]
    pub timeline: Option<u32>,
    /// Open with this identity instead of the host's
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// Recovers.
///
/// # Errors
/// [`Failure`]; what was made in the directory stays there.
pub async fn run(global: &Global, args: RecoverArgs, inputs: Inputs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let ledger = host.ledger().await?;
    let no_identity = || Failure::of(TITLE)(JobError::NoIdentity { action: "open the base backup" });
    let opener = opener_of(&inputs)?.or_else(|| host.opener()).ok_or_else(no_identity)?;
    let (progress, scratch_directory) = (Arc::new(Progress::default()), host.scratch_directory());
    let means = Means {
        catalog: &host.catalog,
        opener: &opener,
        bin_directory: host.settings.cluster.bin_directory.as_deref(),
        path: &host.path,
        scratch_directory: &scratch_directory,
        progress: &progress,
    };
    let state = &host.settings.state.directory;
    // Retention must not take what is about to be read.
    let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(TITLE))?;
    let mut stock = Stock::read(&host.catalog, Some(&opener)).await.map_err(Failure::of(TITLE))?;
    stock.shipped = wal::shipped(&host.settings.state.directory);
    let planned = stock.plan(&host.catalog, &args.at, args.timeline).await;
    let (plan, base) = planned.map_err(Failure::of(TITLE))?;
    let placed = recover::places(&base, &args.tablespace_mapping, &args.into);
    let placed = placed.map_err(|error| Failure::of(TITLE)(error).with_hint(MAPPING))?;
    audit::note(&ledger, audit::KEY_USE, (None, Some(base.id.as_str())), "to recover").await?;
    let subject = |recovered: &Recovered| recovered.base.to_string();
    let recovered = super::recorded(&ledger, JobKind::Recover, None, TITLE, subject, async {
        let work = Box::pin(recover::recover_into(&means, &stock, &plan, &base, &args.into, &placed));
        shown(global, TITLE, &progress, work).await.map_err(Failure::of(TITLE))
    })
    .await?;
    let mut text = format!(
        "recovered {} into {} from base backup {} and {} segments of the log, in {}\n",
        args.at,
        args.into.display(),
        recovered.base,
        recovered.segments,
        duration_text(recovered.elapsed_ms)
    );
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
        "reached_end_of_log": recovered.reached_end, "notes": recovered.notes, "elapsed_ms": recovered.elapsed_ms,
    });
    Ok(Report::new("recover", text, &body))
}
