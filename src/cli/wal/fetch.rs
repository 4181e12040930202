//! `belay wal fetch`: PostgreSQL's `restore_command`.
//!
//! To PostgreSQL 1 to 125 says that there is no such file, which ends a recovery, and what is higher that recovery
//! must not go on. So whatever goes wrong here is told by a code of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::json;

use crate::cli::host::{self, Host};
use crate::cli::report::{ExitCode, Failure, Report, print_notice};
use crate::jobs::JobError;
use crate::jobs::fetch_wal::{self, Ahead, Fetched};
use crate::jobs::recover::segment::Source;
use crate::ledger::lock::{LockName, StateLock};
use crate::postgres::wal::system_identifier_in;
use crate::tether::OURSELVES;

/// Options of `belay wal fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Its name: %f of PostgreSQL's restore_command
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where it is put: %p of PostgreSQL's restore_command
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// Options of `belay wal fetch-ahead`.
#[derive(Debug, Args)]
pub struct FetchAheadArgs {
    /// The segment that was fetched last
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Bytes of a segment
    #[arg(value_name = "BYTES")]
    pub segment_bytes: u64,
}

/// Puts the file in its place; `directory` is where the caller stands, the data directory for PostgreSQL.
///
/// # Errors
/// [`Failure`] with [`ExitCode::StopRecovery`], whatever is wrong.
pub async fn run(config: &Path, args: FetchArgs, directory: &Path) -> Result<Report, Failure> {
    let title = format!("wal fetch {}", args.name);
    let fetched = fetch(config, &args, directory).await;
    let fetched =
        fetched.map_err(|failure| Failure { action: title, code: ExitCode::StopRecovery, ..failure })?;
    let report =
        Report::new("wal-fetch", "", &json!({ "name": args.name, "found": fetched == Fetched::Placed }));
    Ok(if fetched == Fetched::Placed { report } else { report.ending(ExitCode::NoFile) })
}

async fn fetch(config: &Path, args: &FetchArgs, directory: &Path) -> Result<Fetched, Failure> {
    let failed = || Failure::of("wal fetch");
    let settings = host::load_settings(config)?;
    let path = directory.join(&args.path);
    let ahead = ahead_of(&settings);
    let mut fetched = ahead.take(&args.name, &path).map_err(failed())?;
    if fetched == Fetched::Missing {
        let host = Host::open(config).await?;
        let no_identity = || JobError::NoIdentity { action: "open the write-ahead log" };
        let opener = host.opener().ok_or_else(no_identity).map_err(failed())?;
        let identifier = system_identifier_in(directory).ok().map(|number| number.to_string());
        let source =
            Source { catalog: &host.catalog, opener: &opener, system_identifier: identifier.as_deref() };
        fetched = fetch_wal::fetch(&source, &args.name, &path).await.map_err(failed())?;
    }
    if fetched == Fetched::Placed && !args.name.contains('.') && !ahead.has_next(&args.name) {
        begin_ahead(config, &args.name, &path);
    }
    Ok(fetched)
}

fn ahead_of(settings: &crate::settings::Settings) -> Ahead {
    Ahead::of(&settings.state.directory, &settings.repository.url.to_string(), &settings.cluster.name)
}

/// Has another process fetch what follows, which outlives this one: the server waits for this one's end.
fn begin_ahead(config: &Path, name: &str, path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let mut command = Command::new(OURSELVES);
    command.arg("--config").arg(config).args(["wal", "fetch-ahead", name, &metadata.len().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    use std::os::unix::process::CommandExt as _;
    // What ends the server's own group is not meant for it.
    if let Err(error) = command.process_group(0).current_dir("/").spawn() {
        print_notice(&format!("nothing is fetched ahead: {error}"));
    }
}

/// Fetches what follows a segment; does nothing while another process does.
///
/// # Errors
/// [`Failure`], which nobody reads: the server meets the same when it asks.
pub async fn run_ahead(config: &Path, args: FetchAheadArgs) -> Result<Report, Failure> {
    const TITLE: &str = "fetch the write-ahead log ahead";
    let host = Host::open(config).await?;
    let state = &host.settings.state.directory;
    let report = Report::new("wal-fetch-ahead", "", &json!({ "name": args.name }));
    let Ok(_alone) = StateLock::exclusive(state, &LockName::wal_ahead()) else { return Ok(report) };
    let no_identity = || JobError::NoIdentity { action: "open the write-ahead log" };
    let opener = host.opener().ok_or_else(no_identity).map_err(Failure::of(TITLE))?;
    let source = Source { catalog: &host.catalog, opener: &opener, system_identifier: None };
    let filled = ahead_of(&host.settings).fill(&source, &args.name, args.segment_bytes).await;
    filled.map_err(Failure::of(TITLE))?;
    Ok(report)
}
