//! `belay pin` and `belay unpin`: keeps a snapshot from retention, and lets retention have it again.

use clap::Args;
use serde_json::json;

use super::host::Host;
use super::report::{Failure, Report};
use super::{Global, audit, clock, selector};
use crate::catalog::{Entry, Pin, Selector};
use crate::ledger::lock::{LockName, StateLock};

/// Options of `belay pin`.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// Which snapshot: an id, latest, latest-verified or before:REVISION
    #[arg(value_name = "ID", value_parser = selector::parse)]
    pub snapshot: Selector,
    /// Look only among the snapshots of this database
    #[arg(long, value_name = "DB")]
    pub database: Option<String>,
    /// Why, for whoever finds it later
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// Options of `belay unpin`.
#[derive(Debug, Args)]
pub struct UnpinArgs {
    /// Which snapshot: an id, latest, latest-verified or before:REVISION
    #[arg(value_name = "ID", value_parser = selector::parse)]
    pub snapshot: Selector,
    /// Look only among the snapshots of this database
    #[arg(long, value_name = "DB")]
    pub database: Option<String>,
}

/// Pins one snapshot; one that is pinned keeps its first pin.
///
/// # Errors
/// [`Failure`]
pub async fn pin(global: &Global, args: PinArgs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let _repository = keep_from_retention(&host, "pin")?;
    let listing = host.catalog.list().await.map_err(Failure::of("pin"))?;
    let database = args.database.as_deref().map(|name| host.database_name(name));
    let entry = listing.select(database.as_deref(), &args.snapshot).map_err(Failure::of("pin"))?;
    let id = &entry.manifest.id;
    let pin = entry.pin.clone().unwrap_or(Pin { at: clock::now(), reason: args.reason });
    let text =
        if entry.pin.is_some() { format!("{id} was pinned already\n") } else { format!("pinned {id}\n") };
    host.catalog.pin(&entry.home, &pin).await.map_err(Failure::of("pin"))?;
    note(&host, "pin", entry, &pin.reason).await?;
    Ok(Report::new("pin", text, &json!({ "id": id, "pinned": true, "at": pin.at, "reason": pin.reason })))
}

/// Lets retention have a snapshot again.
///
/// # Errors
/// [`Failure`]
pub async fn unpin(global: &Global, args: UnpinArgs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let _repository = keep_from_retention(&host, "unpin")?;
    let listing = host.catalog.list().await.map_err(Failure::of("unpin"))?;
    let database = args.database.as_deref().map(|name| host.database_name(name));
    let entry = listing.select(database.as_deref(), &args.snapshot).map_err(Failure::of("unpin"))?;
    let id = &entry.manifest.id;
    let text =
        if entry.pin.is_some() { format!("unpinned {id}\n") } else { format!("{id} was not pinned\n") };
    host.catalog.unpin(&entry.home).await.map_err(Failure::of("unpin"))?;
    note(&host, "unpin", entry, "done").await?;
    Ok(Report::new("unpin", text, &json!({ "id": id, "pinned": false })))
}

async fn note(host: &Host, action: &str, entry: &Entry, outcome: &str) -> Result<(), Failure> {
    let about = (Some(entry.manifest.database.as_str()), Some(entry.manifest.id.as_str()));
    audit::note(&host.ledger().await?, action, about, outcome).await.map(drop)
}

/// A sweep that has begun has judged already, and would remove what is pinned now.
fn keep_from_retention(host: &Host, title: &str) -> Result<StateLock, Failure> {
    StateLock::shared(&host.settings.state.directory, &LockName::repository()).map_err(Failure::of(title))
}
