//! `belay verify --physical`: reads base backups and the write-ahead log again, and recovers a moment.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{DepthArg, VerifyArgs, ending};
use crate::cli::base_backup::cluster_of;
use crate::cli::host::Host;
use crate::cli::progress::shown;
use crate::cli::report::{ExitCode, Failure, Report, bytes_text, duration_text, print_notice, time_text};
use crate::cli::{Global, audit, clock, wal};
use crate::jobs::recover;
use crate::jobs::verify_physical::{self, Means, Verified, Wanted, Wish};
use crate::jobs::{JobError, Progress};
use crate::ledger::lock::{LockName, StateLock};
use crate::ledger::{JobKind, Ledger};
use crate::rules::drill::{BaseVerification, Drill};
use crate::rules::layout::SnapshotId;
use crate::seal::Opener;

const TITLE: &str = "verify --physical";
/// How long nothing may be read: a store may make its client wait.
const STALL_TIMEOUT: Duration = Duration::from_secs(1800);

/// Verifies what the arguments name.
///
/// # Errors
/// [`Failure`] when it could not be verified; damage is a report with [`ExitCode::Problem`].
pub(super) async fn run(
    global: &Global,
    args: &VerifyArgs,
    host: &Host,
    ledger: &Ledger,
    opener: Option<&Opener>,
) -> Result<Report, Failure> {
    let settings = &host.settings.verify;
    let wanted = Wanted {
        base: args.base.as_ref(),
        depth: args.depth.map_or(Ok(settings.physical_depth), DepthArg::of_physical)?,
        moment: args.at.map_or_else(|| Wish::Drawn(args.seed.unwrap_or_else(rand::random)), Wish::At),
    };
    let verified = verify_wanted(global, host, ledger, &wanted, opener).await?;
    Ok(report(verified))
}

/// Verifies under the repository's lock, and records that in the ledger.
///
/// # Errors
/// [`Failure`] when it could not be verified; with [`ExitCode::Busy`] while a sweep runs.
pub async fn verify_wanted(
    global: &Global,
    host: &Host,
    ledger: &Ledger,
    wanted: &Wanted<'_>,
    opener: Option<&Opener>,
) -> Result<Verified, Failure> {
    let state = &host.settings.state.directory;
    let opener = opener.ok_or(JobError::NoIdentity { action: "open base backups and log" });
    let opener = opener.map_err(Failure::of(TITLE))?;
    // Retention must not take what is read; whoever stores something holds no lock against this.
    let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(TITLE))?;
    audit::note(ledger, audit::KEY_USE, (None, None), "to verify base backups and log").await?;
    let (progress, scratch_directory) = (Arc::new(Progress::default()), host.scratch_directory());
    let live = cluster_of(host).ok();
    let means = Means {
        recovery: recover::Means {
            catalog: &host.catalog,
            opener,
            bin_directory: host.settings.cluster.bin_directory.as_deref(),
            path: &host.path,
            scratch_directory: &scratch_directory,
            progress: &progress,
        },
        signing: host.keys.signing.as_ref(),
        jobs: host.settings.verify.jobs,
        stall_timeout: STALL_TIMEOUT,
        live: live.as_ref(),
    };
    let subject = |verified: &Verified| {
        let newest = verified.records.last().map(|record| &record.id);
        let of_drill = verified.drill().map(|(id, _)| id);
        of_drill.or(newest).map(SnapshotId::to_string).unwrap_or_default()
    };
    super::super::recorded(ledger, JobKind::VerifyPhysical, None, TITLE, subject, async {
        let work = Box::pin(verify_physical::verify(&means, wal::shipped(state), wanted, clock::now));
        shown(global, TITLE, &progress, work).await.map_err(Failure::of(TITLE))
    })
    .await
}

fn report(verified: Verified) -> Report {
    let is_ok = verified.is_ok();
    let mut text: String = verified.records.iter().map(line).collect();
    text.extend(verified.drill().map(|(id, drill)| drill_line(id, drill)));
    let body = body(&verified);
    let (code, unrecorded) = ending(TITLE, is_ok, verified.recording);
    if let (ExitCode::Failed, Some(unrecorded)) = (code, &unrecorded) {
        print_notice(&format!("{TITLE}: {unrecorded}"));
    }
    let problems = verified.not_believed.iter().chain(&verified.differences);
    text.extend(problems.map(|problem| format!("  problem: {problem}\n")));
    let notes: Vec<&String> = verified.notes.iter().chain(&unrecorded).collect();
    text.extend(notes.iter().map(|note| format!("  note: {note}\n")));
    let mut body = body;
    if let Value::Object(fields) = &mut body {
        fields.insert("notes".into(), json!(notes));
        fields.insert("recorded".into(), json!(unrecorded.is_none()));
    }
    Report::new("verify-physical", text, &body).ending(code)
}

fn line(record: &BaseVerification) -> String {
    let read = format!(
        "{} of base backup and {} of log to {} read",
        bytes_text(record.base_bytes),
        bytes_text(record.log_bytes),
        record.until_lsn
    );
    let found = match record.problems.len() {
        0 => "ok".to_owned(),
        count => format!("{count} problem(s)"),
    };
    let mut text = format!("base backup {}  {}: {found}, {read}\n", record.id, record.depth.as_str());
    text.extend(record.problems.iter().map(|problem| format!("  problem: {problem}\n")));
    text
}

fn drill_line(id: &SnapshotId, drill: &Drill) -> String {
    let seed = drill.seed.map(|seed| format!(" (seed {seed})")).unwrap_or_default();
    format!(
        "recovered {}{seed} from base backup {id} in {}: {} of base backup, {} of log replayed; {} databases looked through\n",
        time_text(drill.moment),
        duration_text(drill.recovery_ms),
        bytes_text(drill.base_bytes),
        bytes_text(drill.log_bytes),
        drill.databases_checked
    )
}

fn body(verified: &Verified) -> Value {
    let bases = verified.records.iter().map(|record| {
        json!({
            "id": record.id, "depth": record.depth, "ok": record.is_ok, "problems": record.problems,
            "timeline": record.timeline, "until_lsn": record.until_lsn, "base_bytes": record.base_bytes,
            "log_bytes": record.log_bytes,
        })
    });
    let drill = verified.drill().map(|(id, drill)| {
        json!({
            "base": id, "at": drill.moment, "seed": drill.seed, "reached_end_of_log": drill.reached_end,
            "recovery_ms": drill.recovery_ms, "base_bytes": drill.base_bytes, "log_bytes": drill.log_bytes,
            "databases_checked": drill.databases_checked, "heartbeat": drill.heartbeat,
        })
    });
    let of_records = verified.records.iter().flat_map(|record| &record.problems);
    let problems: Vec<&String> =
        verified.not_believed.iter().chain(of_records).chain(&verified.differences).collect();
    json!({
        "ok": verified.is_ok(), "bases": bases.collect::<Vec<_>>(), "drill": drill, "problems": problems,
        "elapsed_ms": verified.records.iter().map(|record| record.elapsed_ms).max(),
    })
}
