//! `belay key`: who can open what, and the drill that proves it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::host::Host;
use super::list::notice_rejected;
use super::privileges::Inputs;
use super::report::{ExitCode, Failure, Report};
use super::table::{Align, table};
use super::{Global, audit, opener_of};
use crate::catalog::{Entry, Listing};
use crate::jobs::JobError;
use crate::jobs::load::Source;
use crate::rules::layout::SnapshotId;
use crate::seal::Opener;

/// What `belay key` does.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// List recipients and signers, and what the newest snapshots are sealed to
    List,
    /// Prove that an identity opens the newest snapshot of every database
    Drill(DrillArgs),
}

/// Options of `belay key drill`.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// Open with this identity instead of the host's, such as the offline one
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// Lists keys, or carries out the drill.
///
/// # Errors
/// [`Failure`]; a snapshot that does not open is a report with [`ExitCode::Problem`].
pub async fn run(global: &Global, verb: KeyVerb, inputs: Inputs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let listing = host.catalog.list().await.map_err(Failure::of("key"))?;
    notice_rejected(&listing);
    match verb {
        KeyVerb::List => Ok(list(&host, &listing)),
        KeyVerb::Drill(_) => drill(&host, &listing, &inputs).await,
    }
}

/// The newest snapshot of every database.
fn newest(listing: &Listing) -> BTreeMap<&str, &Entry> {
    listing.entries.iter().map(|entry| (entry.manifest.database.as_str(), entry)).collect()
}

#[derive(Serialize)]
struct RecipientRow {
    recipient: String,
    identity_on_host: bool,
    in_settings: bool,
    in_repository: bool,
    /// Databases whose newest snapshot is sealed to it.
    newest_of: Vec<String>,
}

fn list(host: &Host, listing: &Listing) -> Report {
    let rows = recipients(host, listing);
    let yes = |is: bool| if is { "yes" } else { "-" }.to_owned();
    let of = |names: &[String]| if names.is_empty() { "-".into() } else { names.join(", ") };
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.recipient.clone(),
                yes(row.identity_on_host),
                yes(row.in_settings),
                yes(row.in_repository),
                of(&row.newest_of),
            ]
        })
        .collect();
    let left = Align::Left;
    let head = [
        ("recipient", left),
        ("opens here", left),
        ("settings", left),
        ("repository", left),
        ("newest snapshot of", left),
    ];
    let (signer, own) = (&host.catalog.record().signer, host.keys.signer());
    let whose = match &own {
        Some(own) if own == signer => "this host",
        Some(_) => "another host; this one only reads here",
        None => "another host; this one has no signing key",
    };
    let mut text = format!("{}\nsigner  {} ({whose})\n", table(head, &cells), signer.as_str());
    let others = host.keys.trusted_signers.iter().filter(|key| *key != signer && Some(*key) != own.as_ref());
    text.extend(
        others.chain(&host.catalog.record().former_signers).map(|key| format!("trusted {}\n", key.as_str())),
    );
    let body = json!({
        "recipients": rows, "signer": signer, "host_signer": own,
        "trusted_signers": host.keys.trusted_signers, "former_signers": host.catalog.record().former_signers,
    });
    Report::new("key-list", text, &body)
}

fn recipients(host: &Host, listing: &Listing) -> Vec<RecipientRow> {
    let on_host: BTreeSet<String> = host.keys.recipients().iter().map(ToString::to_string).collect();
    let (in_settings, in_repository) = (&host.settings.keys.recipients, &host.catalog.record().recipients);
    let newest = newest(listing);
    let sealed_to = newest.values().flat_map(|entry| &entry.manifest.recipients);
    let mut all: Vec<&String> = Vec::new();
    for recipient in on_host.iter().chain(in_settings).chain(in_repository).chain(sealed_to) {
        if !all.contains(&recipient) {
            all.push(recipient);
        }
    }
    let row = |recipient: &String| RecipientRow {
        recipient: recipient.clone(),
        identity_on_host: on_host.contains(recipient),
        in_settings: in_settings.contains(recipient),
        in_repository: in_repository.contains(recipient),
        newest_of: newest
            .iter()
            .filter(|(_, entry)| entry.manifest.recipients.contains(recipient))
            .map(|(database, _)| (*database).to_owned())
            .collect(),
    };
    all.into_iter().map(row).collect()
}

#[derive(Serialize)]
struct Drilled {
    database: String,
    id: SnapshotId,
    opens: bool,
    /// The chunk that was opened too, where there is one.
    chunk: Option<String>,
    error: Option<String>,
}

async fn drill(host: &Host, listing: &Listing, inputs: &Inputs) -> Result<Report, Failure> {
    let opener = opener_of(inputs)?.or_else(|| host.opener());
    let opener = opener
        .ok_or(JobError::NoIdentity { action: "open the newest snapshots" })
        .map_err(Failure::of("key drill"))?;
    let (ledger, mut drilled) = (host.ledger().await?, Vec::new());
    for (database, entry) in newest(listing) {
        audit::note(
            &ledger,
            audit::KEY_USE,
            (Some(database), Some(entry.manifest.id.as_str())),
            "in a drill",
        )
        .await?;
        drilled.push(open_one(host, database, entry, &opener).await);
    }
    if drilled.is_empty() {
        let failure =
            Failure::new("key drill", ExitCode::NotFound, "there is no snapshot that could be opened");
        return Err(failure.with_hint("take one with `belay snapshot`"));
    }
    let line = |it: &Drilled| match &it.error {
        None => {
            let chunk = it.chunk.as_ref().map(|name| format!(", and so does chunk {name}"));
            format!("ok       {}  {}: opens{}\n", it.id, it.database, chunk.unwrap_or_default())
        }
        Some(error) => format!("problem  {}  {}: {error}\n", it.id, it.database),
    };
    let text: String = drilled.iter().map(line).collect();
    let ok = drilled.iter().all(|it| it.opens);
    let report = Report::new("key-drill", text, &json!({ "ok": ok, "snapshots": drilled }));
    Ok(if ok { report } else { report.ending(ExitCode::Problem) })
}

async fn open_one(host: &Host, database: &str, entry: &Entry, opener: &Opener) -> Drilled {
    let id = entry.manifest.id.clone();
    let opened = open_inventory_and_chunk(&Source { catalog: &host.catalog, entry, opener }).await;
    let (chunk, error) = match opened {
        Ok(chunk) => (chunk, None),
        Err(error) => (None, Some(error)),
    };
    Drilled { database: database.into(), id, opens: error.is_none(), chunk, error }
}

/// Opens the inventory and the first chunk that it names, if it names any; returns the chunk's name.
///
/// Chunks are shared with earlier snapshots: that the inventory opens says nothing of them.
async fn open_inventory_and_chunk(source: &Source<'_>) -> Result<Option<String>, String> {
    let in_words = |error| Failure::of("key drill")(error).chain();
    let inventory = source.inventory().await.map_err(in_words)?;
    if inventory.id != source.entry.manifest.id {
        return Err(format!("its inventory is that of {}", inventory.id));
    }
    let Some(part) = inventory.tables.iter().flat_map(|table| &table.chunks).flatten().next() else {
        return Ok(None);
    };
    source.chunk_text(part, Vec::new()).await.map_err(in_words)?;
    Ok(Some(part.name.clone()))
}
