//! `belay wal push`: PostgreSQL's `archive_command`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Way, note_success, note_trouble};
use crate::cli::clock;
use crate::cli::host::{self, Host};
use crate::cli::report::{Failure, Report};
use crate::jobs::push_wal::{self, Means, Pushed};

/// Options of `belay wal push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The file: %p of PostgreSQL's archive_command
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Stores the file; `directory` is where the caller stands, the data directory for PostgreSQL.
///
/// # Errors
/// [`Failure`]; then PostgreSQL keeps the file, and tries again.
pub async fn run(config: &Path, args: PushArgs, directory: &Path) -> Result<Report, Failure> {
    let settings = host::load_settings(config)?;
    let state = &settings.state.directory;
    let title = format!("wal push {}", args.file.display());
    let pushed = push(config, &title, &directory.join(&args.file)).await;
    match &pushed {
        Ok(_) => note_success(state, Way::Pushed),
        Err(failure) => note_trouble(state, Way::Pushed, format!("{title}: {}", failure.chain())),
    }
    let (stored, reason) = match pushed? {
        Pushed::Stored(piece) => (Some(piece), None),
        Pushed::NotNeeded(reason) => (None, Some(reason)),
    };
    // PostgreSQL's log has a line for each file as it is.
    Ok(Report::new("wal-push", "", &json!({ "file": args.file, "stored": stored, "not_needed": reason })))
}

async fn push(config: &Path, title: &str, file: &Path) -> Result<Pushed, Failure> {
    let host = Host::open(config).await?;
    let sealer = host.sealer()?;
    let means = Means {
        catalog: &host.catalog,
        sealer: &sealer,
        signing: host.signing(title)?,
        state: &host.settings.state.directory,
        clock: clock::now,
    };
    push_wal::push(&means, file).await.map_err(Failure::of(title))
}
