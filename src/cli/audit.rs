//! `belay audit`: what happened and at whose hand, in a log that cannot be edited unnoticed.

use std::path::Path;

use chrono::TimeDelta;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::host::Host;
use super::report::{ExitCode, Failure, Report, time_text};
use super::table::{Align, table};
use super::{Global, clock};
use crate::ledger::{GateRun, Happening, Ledger, LedgerError};
use crate::rules::audit::{Event, Head, Inspection, Row};
use crate::rules::digest::Digest256;
use crate::settings;

/// The daemon and retention store a head when the newest one is as old.
const HEAD_AGE: TimeDelta = TimeDelta::hours(23);
/// Rows read at once.
const PAGE: u32 = 1000;
/// The action of the event that says that a head was stored.
const HEAD_STORED: &str = "audit_head";
/// The action of an event that says what an identity was used for.
pub const KEY_USE: &str = "key_use";
/// The action of the event that says which settings are in force.
const SETTINGS: &str = "settings";

/// What is done with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// Show the newest events
    List(ListArgs),
    /// Look whether a row was edited, removed or moved, and whether the log fits the heads in the repository
    Verify(VerifyArgs),
    /// Write every event as a line of JSON, the oldest first
    Export(ExportArgs),
}

/// Options of `belay audit list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// How many
    #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
}

/// Options of `belay audit verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {}

/// Options of `belay audit export`.
#[derive(Debug, Args)]
pub struct ExportArgs {}

/// Carries out one of them.
///
/// # Errors
/// [`Failure`]; a log that does not fit is a report with [`ExitCode::Problem`].
pub async fn run(global: &Global, verb: AuditVerb) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let ledger = host.ledger().await?;
    match verb {
        AuditVerb::List(args) => list(&ledger, args.count).await,
        AuditVerb::Verify(VerifyArgs {}) => verify(&host, &ledger).await,
        AuditVerb::Export(ExportArgs {}) => export(&ledger).await,
    }
}

async fn list(ledger: &Ledger, count: u32) -> Result<Report, Failure> {
    let rows = ledger.last_audit_rows(count).await.map_err(Failure::of("audit list"))?;
    let cells: Vec<_> = rows.iter().rev().map(cells_of).collect();
    let left = Align::Left;
    let head = [
        ("row", Align::Right),
        ("time", left),
        ("who", left),
        ("what", left),
        ("about", left),
        ("outcome", left),
    ];
    let events: Vec<Value> = rows.iter().rev().map(json_of).collect();
    Ok(Report::new("audit-list", table(head, &cells), &json!({ "events": events })))
}

fn cells_of(row: &Row) -> [String; 6] {
    let Ok(event) = serde_json::from_str::<Event>(&row.event) else {
        let unreadable = ["-", "-", "-", "-", "not an event"].map(str::to_owned);
        let [time, who, what, about, outcome] = unreadable;
        return [row.number.to_string(), time, who, what, about, outcome];
    };
    let actor = &event.actor;
    let caller =
        actor.sudo_user.as_ref().or(actor.ci.get("GITHUB_ACTOR")).or(actor.ci.get("GITLAB_USER_LOGIN"));
    let who = match (&actor.token, actor.peer_uid, caller) {
        _ if actor.is_daemon => "daemon".into(),
        (Some(token), ..) => format!("token {token}"),
        (None, Some(uid), _) => format!("user {uid} over the socket"),
        (None, None, Some(caller)) => format!("{caller} as {}", actor.user),
        (None, None, None) => actor.user.clone(),
    };
    let about: Vec<String> = event.database.into_iter().chain(event.subject).collect();
    [row.number.to_string(), time_text(event.at), who, event.action, about.join(" "), event.outcome]
}

fn json_of(row: &Row) -> Value {
    let event = serde_json::from_str(&row.event).unwrap_or(Value::String(row.event.clone()));
    json!({ "number": row.number, "event": event, "previous": row.previous, "hash": row.hash })
}

async fn export(ledger: &Ledger) -> Result<Report, Failure> {
    let (mut lines, mut last) = (String::new(), 0);
    let export = |row: Row| {
        last = row.number;
        lines.push_str(&format!("{}\n", json_of(&row)));
    };
    each_row(ledger, export).await.map_err(Failure::of("audit export"))?;
    Ok(Report::new("audit-export", lines, &json!({ "rows": last })))
}

/// Hands over every row, in order; no more than a page of them is in memory.
async fn each_row(ledger: &Ledger, mut take: impl FnMut(Row)) -> Result<(), LedgerError> {
    let mut after = 0;
    loop {
        let page = ledger.audit_rows_after(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.number;
        page.into_iter().for_each(&mut take);
    }
}

async fn verify(host: &Host, ledger: &Ledger) -> Result<Report, Failure> {
    const ACTION: &str = "audit verify";
    let failed = || Failure::of(ACTION);
    let (heads, others) = match &host.keys.signing {
        Some(key) => host.catalog.heads(key).await.map_err(Failure::of(ACTION))?,
        None => (Vec::new(), Vec::new()),
    };
    let known = heads.len();
    let (mut inspection, mut rows) = (Inspection::new(heads), 0_u64);
    let inspect = |row| {
        rows += 1;
        inspection.take(row);
    };
    each_row(ledger, inspect).await.map_err(failed())?;
    let faults = inspection.finish(ledger.audit_numbered().await.map_err(failed())?);
    let problems: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let mut text: String = problems.iter().map(|problem| format!("problem: {problem}\n")).collect();
    if problems.is_empty() {
        text = format!("ok, {rows} rows follow one another and fit {known} heads in the repository\n");
    }
    if !others.is_empty() {
        text.push_str(&format!(
            "note: {} heads were signed by another host and are not looked at\n",
            others.len()
        ));
    }
    let body = json!({ "ok": problems.is_empty(), "rows": rows, "heads": known, "problems": problems });
    let code = if problems.is_empty() { ExitCode::Done } else { ExitCode::Problem };
    Ok(Report::new("audit-verify", text, &body).ending(code))
}

/// Adds an event about one thing, and returns its row.
///
/// # Errors
/// What the ledger says.
pub async fn note(
    ledger: &Ledger,
    action: &str,
    (database, subject): (Option<&str>, Option<&str>),
    outcome: &str,
) -> Result<Row, Failure> {
    let happening = Happening { action, database, subject, outcome, detail: Map::new() };
    ledger.note_happening(happening, clock::now()).await.map_err(Failure::of("note for the audit log"))
}

/// Adds an event about how a gated migration stands, for each of its databases.
///
/// # Errors
/// What the ledger says.
pub async fn note_run(ledger: &Ledger, action: &str, run: &GateRun) -> Result<(), Failure> {
    let verdict = run.position.verdict.map(|verdict| format!(", {verdict}")).unwrap_or_default();
    let outcome = format!("{}{verdict}", run.position.phase);
    for database in &run.databases {
        note(ledger, action, (Some(database), Some(&run.id)), &outcome).await?;
    }
    Ok(())
}

/// Adds an event when the settings files are others than at the last one, so that it can be told
/// by which settings something was done.
///
/// # Errors
/// What the ledger says; settings that cannot be read any more are left to whoever needs them.
pub async fn note_settings(ledger: &Ledger, config: &Path) -> Result<(), Failure> {
    let Ok(files) = settings::files(config) else { return Ok(()) };
    let digests: Map<String, Value> = files
        .iter()
        .filter_map(|file| Some((file.display().to_string(), Digest256::sha256(&std::fs::read(file).ok()?))))
        .map(|(file, digest)| (file, digest.to_string().into()))
        .collect();
    let failed = || Failure::of("note for the audit log");
    let last = ledger.last_audit_event(SETTINGS).await.map_err(failed())?;
    if last.is_some_and(|event| event.detail == digests) {
        return Ok(());
    }
    let happening =
        Happening { action: SETTINGS, outcome: "in force", detail: digests, ..Happening::default() };
    ledger.note_happening(happening, clock::now()).await.map_err(failed()).map(drop)
}

/// Stores a signed head with the repository unless the newest one is of today.
///
/// # Errors
/// What ledger and store say.
pub async fn store_head_daily(host: &Host, ledger: &Ledger) -> Result<(), Failure> {
    const ACTION: &str = "store a head of the audit log";
    let failed = || Failure::of(ACTION);
    let last = ledger.last_audit_event(HEAD_STORED).await.map_err(failed())?;
    let is_recent = |event: Event| (clock::now() - event.at).abs() < HEAD_AGE;
    let (false, Some(key)) = (last.is_some_and(is_recent), &host.keys.signing) else { return Ok(()) };
    // The event comes first: the head covers it.
    let newest = note(ledger, HEAD_STORED, (None, None), "done").await?;
    let Some(first) = ledger.audit_rows_after(0, 1).await.map_err(failed())?.pop() else { return Ok(()) };
    let head = Head {
        cluster: host.catalog.cluster().into(),
        chain: first.hash,
        number: newest.number,
        hash: newest.hash,
        at: clock::now(),
    };
    host.catalog.store_head(&head, key).await.map_err(Failure::of(ACTION))
}
