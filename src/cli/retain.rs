//! `belay retain`: removes what the policy does not keep, and says why the rest stays.

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::gate::resume_open_runs;
use super::host::Host;
use super::progress::shown;
use super::report::{ExitCode, Failure, Report, bytes_text};
use super::table::{Align, table};
use super::{Global, audit, clock};
use crate::jobs::Progress;
use crate::jobs::retain::{self, Judged, Means, Mode, Retained};
use crate::ledger::lock::{LockName, StateLock};
use crate::ledger::{JobKind, Ledger};
use crate::rules::retention::Policy;
use crate::settings::Connection;

const TITLE: &str = "retain";

/// Options of `belay retain`.
#[derive(Debug, Args)]
pub struct RetainArgs {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Carries out the retention policy.
///
/// # Errors
/// [`Failure`]; what was removed until then stays removed, and what is left is consistent.
pub async fn run(global: &Global, args: RetainArgs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let ledger = host.ledger().await?;
    if !args.dry_run {
        resume_open_runs(global, &host, &ledger).await?;
        let retained = carry_out(global, &host, &ledger).await?;
        return Ok(report(&retained, Mode::CarryOut));
    }
    let clusters = host.clusters();
    let progress = Arc::new(Progress::default());
    let means = means(&host, &ledger, &clusters, &progress);
    let work = Box::pin(retain::retain(&means, Mode::DryRun, clock::now()));
    let retained = shown(global, TITLE, &progress, work).await.map_err(Failure::of(TITLE))?;
    Ok(report(&retained, Mode::DryRun))
}

/// Carries out the policy under its lock, and records that in the ledger.
///
/// # Errors
/// [`Failure`]; with [`ExitCode::Busy`] while a snapshot or a verification runs.
pub async fn carry_out(global: &Global, host: &Host, ledger: &Ledger) -> Result<Retained, Failure> {
    // A snapshot in flight refers to chunks that no manifest names yet.
    let state = &host.settings.state.directory;
    let _repository = StateLock::exclusive(state, &LockName::repository()).map_err(Failure::of(TITLE))?;
    let signing = host.keys.signing.as_ref();
    let signing = signing
        .ok_or_else(|| Failure::new(TITLE, ExitCode::Usage, "there is no signing key on this host"))?;
    host.catalog.check_writer(signing).map_err(Failure::of(TITLE))?;
    let clusters = host.clusters();
    let progress = Arc::new(Progress::default());
    let means = means(host, ledger, &clusters, &progress);
    let subject = |retained: &Retained| format!("{} removed", retained.removed.len());
    let retained = super::recorded(ledger, JobKind::Retain, None, TITLE, subject, async {
        let work = Box::pin(retain::retain(&means, Mode::CarryOut, clock::now()));
        shown(global, TITLE, &progress, work).await.map_err(Failure::of(TITLE))
    })
    .await?;
    for Judged { id, database, reason } in &retained.removed {
        audit::note(ledger, "remove", (Some(database), Some(id.as_str())), reason).await?;
    }
    for database in &retained.databases_dropped {
        audit::note(ledger, "drop", (Some(database), None), "it was kept long enough").await?;
    }
    audit::store_head_daily(host, ledger).await?;
    Ok(retained)
}

fn means<'a>(
    host: &'a Host,
    ledger: &'a Ledger,
    clusters: &'a [Connection],
    progress: &'a Arc<Progress>,
) -> Means<'a> {
    Means {
        catalog: &host.catalog,
        ledger,
        clusters,
        policy: policy(host),
        litter_grace: host.settings.retention.litter_grace,
        progress,
    }
}

/// The policy of the settings.
pub fn policy(host: &Host) -> Policy {
    Policy { keep: host.settings.retention.keep, min_verified: host.settings.retention.min_verified }
}

fn report(retained: &Retained, mode: Mode) -> Report {
    let row = |verdict: &str, judged: &Judged| {
        [verdict.to_owned(), judged.id.to_string(), judged.database.clone(), judged.reason.clone()]
    };
    let mut rows: Vec<_> = retained.removed.iter().map(|judged| row("remove", judged)).collect();
    rows.extend(retained.kept.iter().map(|judged| row("keep", judged)));
    rows.sort_by(|[_, id, database, _], [_, other_id, other_database, _]| {
        (database, id).cmp(&(other_database, other_id))
    });
    let left = Align::Left;
    let mut text = table([("verdict", left), ("id", left), ("database", left), ("reason", left)], &rows);
    text.extend(
        retained.databases_dropped.iter().map(|name| format!("database {name} was kept long enough\n")),
    );
    text.extend(retained.left.iter().map(|sentence| format!("note: {sentence}\n")));
    text.push_str(&format!(
        "{}: snapshots and base backups {}, pieces of the log {}, unneeded chunks {}, leftovers {}, databases {}; {} in the repository\n",
        if mode == Mode::DryRun { "would remove" } else { "removed" },
        retained.removed.len(),
        retained.wal_removed,
        retained.chunks_removed,
        retained.litter_removed as u64 + retained.unfinished_removed,
        retained.databases_dropped.len(),
        bytes_text(retained.freed_bytes),
    ));
    let mut report = Report::new(TITLE, text, retained);
    if let Some(object) = report.json.as_object_mut() {
        object.insert("dry_run".into(), json!(mode == Mode::DryRun));
    }
    report
}
