//! `belay snapshot`: takes a snapshot of one, several or all databases.

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::gate::resume_open_runs;
use super::host::Host;
use super::progress::shown;
use super::report::{ExitCode, Failure, Report, bytes_text, duration_text};
use super::{Global, clock};
use crate::jobs::snapshot::{self, Taken};
use crate::jobs::{Progress, restore::recover};
use crate::ledger::lock::{LockName, StateLock};
use crate::ledger::{JobKind, Ledger};
use crate::settings::DatabaseSettings;

/// Options of `belay snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// Databases, by the names of their sections; without any, all of the settings
    #[arg(value_name = "DB")]
    pub databases: Vec<String>,
}

/// Takes the snapshots, one after the other; one that fails does not stop the others.
///
/// # Errors
/// The first [`Failure`], after all were tried.
pub async fn run(global: &Global, args: SnapshotArgs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let named = args.databases.iter().map(|name| host.database(name)).collect::<Result<Vec<_>, _>>()?;
    let ledger = host.ledger().await?;
    resume_open_runs(global, &host, &ledger).await?;
    let databases = if named.is_empty() {
        // Before they are listed: what is swept now must not be asked for a moment later.
        host.settle_cluster(&ledger).await?;
        host.databases(&ledger).await?
    } else {
        named
    };
    let (mut text, mut taken, mut failures) = (String::new(), Vec::new(), Vec::new());
    for database in &databases {
        match take_one(global, &host, &ledger, database).await {
            Ok(snapshot) => {
                text.push_str(&line_of(&snapshot));
                text.extend(snapshot.notes.iter().map(|note| format!("  note: {note}\n")));
                taken.push(json_of(&snapshot));
            }
            Err(failure) => failures.push(failure),
        }
    }
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(report(text, taken)) };
    if !text.is_empty() {
        super::report::print_notice(&format!(
            "taken before the failure: {}",
            text.trim().replace('\n', "; ")
        ));
    }
    failures.for_each(|failure| super::report::print_failure(&failure, false));
    Err(first)
}

/// Takes one snapshot under its locks, and records that in the ledger.
///
/// # Errors
/// [`Failure`]; with [`ExitCode::Busy`] when another job of the database, or a sweep, runs.
pub async fn take_one(
    global: &Global,
    host: &Host,
    ledger: &Ledger,
    database: &DatabaseSettings,
) -> Result<Taken, Failure> {
    let title = format!("snapshot {}", database.key);
    let state = &host.settings.state.directory;
    let _database = StateLock::exclusive(state, &LockName::database(&database.connection.database))
        .map_err(Failure::of(&title))?;
    // A sweep of unreferenced chunks must not run while chunks are stored that no manifest names yet.
    let _repository = StateLock::shared(state, &LockName::repository()).map_err(Failure::of(&title))?;
    let name = database.connection.database.clone();
    let subject = |taken: &Taken| taken.manifest.id.to_string();
    super::recorded(ledger, JobKind::Snapshot, Some(&name), &title, subject, async {
        recover::settle(ledger, &database.connection).await.map_err(Failure::of(&title))?;
        let signing = host.keys.signing.as_ref();
        let signing = signing
            .ok_or_else(|| Failure::new(&title, ExitCode::Usage, "there is no signing key on this host"))?;
        let (sealer, progress) = (host.sealer()?, Arc::new(Progress::default()));
        let means = snapshot::Means {
            catalog: &host.catalog,
            sealer: &sealer,
            signing,
            chunk_key: &host.keys.chunk_key,
            bin_directory: host.settings.cluster.bin_directory.as_deref(),
            path: &host.path,
            progress: &progress,
        };
        let work = Box::pin(snapshot::take(&means, database, rand::random(), clock::now));
        shown(global, &title, &progress, work).await.map_err(Failure::of(&title))
    })
    .await
}

fn line_of(taken: &Taken) -> String {
    let manifest = &taken.manifest;
    format!(
        "{}  {}: {} tables, {} rows, {} plain, {} stored ({} new) in {}\n",
        manifest.id,
        manifest.database,
        manifest.tables,
        manifest.rows,
        bytes_text(manifest.plain_bytes),
        bytes_text(manifest.stored_bytes),
        bytes_text(taken.new_stored_bytes),
        duration_text(taken.elapsed_ms)
    )
}

fn json_of(taken: &Taken) -> Value {
    let manifest = &taken.manifest;
    json!({
        "id": manifest.id, "database": manifest.database, "taken_at": manifest.taken_at,
        "plain_bytes": manifest.plain_bytes, "stored_bytes": manifest.stored_bytes, "new_stored_bytes": taken.new_stored_bytes,
        "lsn": manifest.lsn, "revision": manifest.revisions, "tables": manifest.tables, "rows": manifest.rows,
        "chunks_new": taken.chunks_new, "chunks_reused": taken.chunks_reused, "notes": taken.notes, "elapsed_ms": taken.elapsed_ms,
    })
}

/// One snapshot is the object itself; several are a list in it.
fn report(text: String, mut taken: Vec<Value>) -> Report {
    match taken.pop() {
        Some(only) if taken.is_empty() => Report::new("snapshot", text, &only),
        Some(last) => {
            taken.push(last);
            Report::new("snapshot", text, &json!({ "snapshots": taken }))
        }
        None => Report::new("snapshot", text, &json!({ "snapshots": [] })),
    }
}
