//! `belay show`: everything that is known of one snapshot.

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};

use super::host::Host;
use super::list::{expiries_of, json_of, notice_rejected};
use super::report::{Failure, Report, bytes_text, duration_text, print_notice, time_text};
use super::table::{Align, table};
use super::{Global, clock, selector};
use crate::catalog::{Entry, Selector};
use crate::jobs::load::Source;
use crate::rules::layout;
use crate::rules::manifest::{Inventory, Manifest, ObjectRecord, TableRecord};

/// How many tables are shown unless all are asked for.
const TABLES_SHOWN: usize = 10;

/// Options of `belay show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Which snapshot: an id, latest, latest-verified or before:REVISION
    #[arg(value_name = "ID", value_parser = selector::parse)]
    pub snapshot: Selector,
    /// Look only among the snapshots of this database
    #[arg(long, value_name = "DB")]
    pub database: Option<String>,
    /// Show every table, not only the largest
    #[arg(long)]
    pub tables: bool,
}

/// Shows one snapshot; with an identity on this host, also its tables.
///
/// # Errors
/// [`Failure`]; an inventory that does not open is a notice on standard error.
pub async fn run(global: &Global, args: ShowArgs) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let database = args.database.as_deref().map(|name| host.database_name(name));
    let tables = if args.tables { Tables::All } else { Tables::Largest };
    report(&host, database.as_deref(), &args.snapshot, tables).await
}

/// Which tables of a snapshot are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// Every one.
    All,
    /// The largest.
    Largest,
    /// None: the snapshot is not opened.
    Untold,
}

/// One snapshot, looked for among those of `database`, by its name in PostgreSQL, or of all.
///
/// # Errors
/// [`Failure`]; an inventory that does not open is a notice on standard error.
pub async fn report(
    host: &Host,
    database: Option<&str>,
    snapshot: &Selector,
    told: Tables,
) -> Result<Report, Failure> {
    let listing = host.catalog.list().await.map_err(Failure::of("show"))?;
    notice_rejected(&listing);
    let entry = listing.select(database, snapshot).map_err(Failure::of("show"))?;
    let expires_at = expiries_of(host, &listing, clock::now()).remove(&entry.manifest.id);
    let inventory = if told == Tables::Untold { None } else { inventory_of(host, entry).await };
    let mut tables: Vec<&TableRecord> = inventory.iter().flat_map(|inventory| &inventory.tables).collect();
    tables.sort_by_key(|table| std::cmp::Reverse((chunked_bytes(table), table.tally.rows)));
    let mut text = facts(entry, expires_at);
    text.push_str(&objects_text(&entry.manifest));
    text.push_str(&verifications_text(entry));
    if inventory.is_some() {
        let shown = if told == Tables::All { tables.len() } else { TABLES_SHOWN };
        text.push_str(&tables_text(&tables, shown));
    }
    let mut body = json_body(entry, expires_at.as_ref());
    if inventory.is_some()
        && let Some(object) = body.as_object_mut()
    {
        object.insert("table_list".into(), tables.iter().map(|table| table_json(table)).collect());
    }
    Ok(Report::new("show", text, &body))
}

async fn inventory_of(host: &Host, entry: &Entry) -> Option<Inventory> {
    let opener = host.opener()?;
    match (Source { catalog: &host.catalog, entry, opener: &opener }).inventory().await {
        Ok(inventory) => Some(inventory),
        Err(error) => {
            print_notice(&format!("the tables are not shown: {}", Failure::of("show")(error).chain()));
            None
        }
    }
}

fn facts(entry: &Entry, expires_at: Option<DateTime<Utc>>) -> String {
    let manifest = &entry.manifest;
    let server = format!("{}.{}", manifest.server_version_num / 10_000, manifest.server_version_num % 10_000);
    let revisions = if manifest.revisions.is_empty() { "none".into() } else { manifest.revisions.join(", ") };
    let pinned = entry.pin.as_ref().map(|pin| match pin.reason.as_str() {
        "" => format!("since {}", time_text(pin.at)),
        reason => format!("since {}: {reason}", time_text(pin.at)),
    });
    let mut lines = vec![
        ("snapshot", manifest.id.to_string()),
        (
            "database",
            format!("{} (OID {}) of cluster {}", manifest.database, manifest.database_oid, manifest.cluster),
        ),
        (
            "taken at",
            format!(
                "{}, finished {}",
                manifest.taken_at.format("%F %T%.3fZ"),
                manifest.finished_at.format("%F %T%.3fZ")
            ),
        ),
        ("lsn", manifest.lsn.clone()),
        ("revision", revisions),
        ("holds", format!("{} tables, {} rows", manifest.tables, manifest.rows)),
        (
            "size",
            format!(
                "{} plain, {} stored",
                bytes_text(manifest.plain_bytes),
                bytes_text(manifest.stored_bytes)
            ),
        ),
        (
            "written by",
            format!(
                "belay {}, pg_dump {}, server {server}",
                manifest.belay_version, manifest.pg_dump_version
            ),
        ),
        ("pinned", pinned.unwrap_or_else(|| "no".into())),
        ("expires", expires_at.map_or_else(|| "not as things stand".into(), time_text)),
        (
            "restore",
            entry.restore_ms().map_or_else(
                || "never measured".into(),
                |ms| format!("took {} when last measured", duration_text(ms)),
            ),
        ),
    ];
    lines.extend(manifest.recipients.iter().map(|recipient| ("sealed to", recipient.clone())));
    lines.iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect()
}

fn objects(manifest: &Manifest) -> [(&'static str, &ObjectRecord); 4] {
    let objects = &manifest.objects;
    [
        (layout::SCHEMA, &objects.schema),
        (layout::DATA, &objects.data),
        (layout::GLOBALS, &objects.globals),
        (layout::INVENTORY, &objects.inventory),
    ]
}

fn objects_text(manifest: &Manifest) -> String {
    let mut rows: Vec<_> = objects(manifest)
        .iter()
        .map(|(name, record)| {
            [(*name).to_owned(), bytes_text(record.plain_bytes), bytes_text(record.stored_bytes)]
        })
        .collect();
    let in_objects: u64 = objects(manifest).iter().map(|(_, record)| record.plain_bytes).sum();
    let in_chunks: u64 = manifest.chunks.iter().map(|chunk| chunk.stored_bytes).sum();
    let plain = manifest.plain_bytes.saturating_sub(in_objects);
    rows.push([format!("{} chunks", manifest.chunks.len()), bytes_text(plain), bytes_text(in_chunks)]);
    format!(
        "\n{}",
        table([("object", Align::Left), ("plain", Align::Right), ("stored", Align::Right)], &rows)
    )
}

fn verifications_text(entry: &Entry) -> String {
    if entry.verifications.is_empty() {
        return "\nnever verified\n".into();
    }
    let mut text = String::from("\nverifications\n");
    for record in &entry.verifications {
        let verdict = if record.is_ok { "ok" } else { "FAILED" };
        let (depth, took) = (record.depth.as_str(), duration_text(record.elapsed_ms));
        text.push_str(&format!(
            "  {}  {depth}: {verdict}, {} rows in {took}\n",
            time_text(record.at),
            record.rows_compared
        ));
        text.extend(record.problems.iter().map(|problem| format!("    problem: {problem}\n")));
    }
    text
}

/// Bytes of COPY text, known for tables in chunks alone.
fn chunked_bytes(table: &TableRecord) -> Option<u64> {
    table.chunks.as_ref().map(|chunks| chunks.iter().map(|chunk| chunk.plain_bytes).sum())
}

fn tables_text(tables: &[&TableRecord], shown: usize) -> String {
    let row = |record: &&TableRecord| {
        let bytes = chunked_bytes(record).map_or_else(|| "in data.dump".into(), bytes_text);
        [format!("{}.{}", record.schema, record.name), record.tally.rows.to_string(), bytes]
    };
    let rows: Vec<_> = tables.iter().take(shown).map(row).collect();
    let mut text = format!(
        "\n{}",
        table([("table", Align::Left), ("rows", Align::Right), ("plain", Align::Right)], &rows)
    );
    if tables.len() > shown {
        text.push_str(&format!("and {} more; --tables shows all\n", tables.len() - shown));
    }
    text
}

fn table_json(table: &TableRecord) -> Value {
    json!({ "schema": table.schema, "name": table.name, "rows": table.tally.rows, "plain_bytes": chunked_bytes(table) })
}

fn json_body(entry: &Entry, expires_at: Option<&DateTime<Utc>>) -> Value {
    let manifest = &entry.manifest;
    let mut body = json_of(entry, expires_at);
    let sizes = |(name, record): &(&str, &ObjectRecord)| json!({ "name": name, "plain_bytes": record.plain_bytes, "stored_bytes": record.stored_bytes });
    let more = json!({
        "cluster": manifest.cluster, "system_identifier": manifest.system_identifier, "database_oid": manifest.database_oid,
        "finished_at": manifest.finished_at, "server_version_num": manifest.server_version_num,
        "pg_dump_version": manifest.pg_dump_version, "belay_version": manifest.belay_version,
        "tables": manifest.tables, "rows": manifest.rows, "chunks": manifest.chunks.len(),
        "objects": objects(manifest).iter().map(sizes).collect::<Vec<_>>(),
        "recipients": manifest.recipients, "pin": entry.pin, "verifications": entry.verifications,
        "restore_estimate_ms": entry.restore_ms(),
    });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}
