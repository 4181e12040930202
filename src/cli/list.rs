//! `belay list`: the snapshots that there are, what is proven of them, and how long they stay.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};

use super::host::Host;
use super::report::{ExitCode, Failure, Report, age_text, bytes_text, print_notice, time_text};
use super::retain::policy;
use super::table::{Align, table};
use super::windows::{self, Reached};
use super::{Global, clock};
use crate::catalog::{Entry, Listing};
use crate::rules::layout::SnapshotId;
use crate::rules::retention::expiries;

/// Options of `belay list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only the snapshots of this database
    #[arg(value_name = "DB")]
    pub database: Option<String>,
}

/// Lists the catalog, oldest first.
///
/// # Errors
/// [`Failure`]; a snapshot that is not believed is a notice on standard error.
pub async fn run(global: &Global, args: ListArgs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let database = args.database.as_deref().map(|name| host.database_name(name));
    report(&host, database.as_deref()).await
}

/// The snapshots of `database`, by its name in PostgreSQL, or of all, oldest first.
///
/// # Errors
/// [`Failure`]
pub async fn report(host: &Host, database: Option<&str>) -> Result<Report, Failure> {
    let now = clock::now();
    let listing = host.catalog.list().await.map_err(Failure::of("list"))?;
    notice_rejected(&listing);
    let expires = expiries_of(host, &listing, now);
    let entries: Vec<&Entry> = listing
        .entries
        .iter()
        .filter(|entry| database.is_none_or(|name| entry.manifest.database == *name))
        .collect();
    if let Some(name) = database.filter(|_| entries.is_empty()) {
        // Known and without a snapshot is an answer; unknown is a mistake.
        host.database(name).map_err(|failure| Failure { code: ExitCode::NotFound, ..failure })?;
    }
    let rows: Vec<_> = entries.iter().map(|entry| row(entry, expires.get(&entry.manifest.id), now)).collect();
    let (left, right) = (Align::Left, Align::Right);
    let head = [
        ("id", left),
        ("database", left),
        ("age", right),
        ("plain", right),
        ("stored", right),
        ("verified", left),
        ("pinned", left),
        ("expires", left),
    ];
    let mut text = if rows.is_empty() { "there are no snapshots\n".into() } else { table(head, &rows) };
    // Base backups are of all databases: who asks for one is not told of them.
    let (windows, points): (Vec<_>, Vec<_>) = match database {
        None => {
            let points = host.catalog.restore_points().await;
            (Reached::read_of(host).await?.windows, points.map_err(Failure::of("read the restore points"))?)
        }
        Some(_) => Default::default(),
    };
    text.push_str(&windows::text(&windows));
    let unreachable = windows::gaps(&windows);
    text.extend(unreachable.iter().map(|gap| format!("unreachable {}", gap.line())));
    text.push_str(&windows::text_of_points(&points));
    let snapshots: Vec<_> =
        entries.iter().map(|entry| json_of(entry, expires.get(&entry.manifest.id))).collect();
    Ok(Report::new(
        "list",
        text,
        &json!({ "snapshots": snapshots, "windows": windows, "unreachable": unreachable, "restore_points": points }),
    ))
}

/// Says on standard error which snapshots are not believed, and why.
pub fn notice_rejected(listing: &Listing) {
    for rejected in &listing.rejected {
        let home = &rejected.home;
        print_notice(&format!(
            "snapshot {} of {} is not listed: {}",
            home.id,
            home.database,
            rejected.reason()
        ));
    }
}

/// When each snapshot may go, as things stand.
pub fn expiries_of(
    host: &Host,
    listing: &Listing,
    now: DateTime<Utc>,
) -> BTreeMap<SnapshotId, DateTime<Utc>> {
    let candidates: Vec<_> = listing.entries.iter().map(Entry::candidate).collect();
    expiries(&candidates, &policy(host), now)
}

/// What is proven of a snapshot, in few words.
pub fn verified_text(entry: &Entry, now: DateTime<Utc>) -> String {
    match (entry.failure(), entry.verified()) {
        (Some(failed), _) => format!("FAILED {}, {} ago", failed.depth.as_str(), age_text(now - failed.at)),
        (None, Some(proven)) => format!("{}, {} ago", proven.depth.as_str(), age_text(now - proven.at)),
        (None, None) => "-".into(),
    }
}

fn row(entry: &Entry, expires_at: Option<&DateTime<Utc>>, now: DateTime<Utc>) -> [String; 8] {
    let manifest = &entry.manifest;
    [
        manifest.id.to_string(),
        manifest.database.clone(),
        age_text(now - manifest.taken_at),
        bytes_text(manifest.plain_bytes),
        bytes_text(manifest.stored_bytes),
        verified_text(entry, now),
        if entry.pin.is_some() { "yes" } else { "-" }.into(),
        expires_at.map_or_else(|| "-".into(), |time| time_text(*time)),
    ]
}

/// A snapshot as `list --json` has it.
pub fn json_of(entry: &Entry, expires_at: Option<&DateTime<Utc>>) -> Value {
    let manifest = &entry.manifest;
    json!({
        "id": manifest.id,
        "database": manifest.database,
        "taken_at": manifest.taken_at,
        "plain_bytes": manifest.plain_bytes,
        "stored_bytes": manifest.stored_bytes,
        "lsn": manifest.lsn,
        "revision": manifest.revisions,
        "verified": entry.verified().map(|proven| json!({ "depth": proven.depth, "at": proven.at })),
        "failed": entry.failure().map(|failed| failed.problems.join("; ")),
        "pinned": entry.pin.is_some(),
        "expires_at": expires_at,
    })
}
