//! `belay restore --table`: single tables, into a schema of an existing database.

use serde_json::json;

use super::{Ground, RestoreArgs, json_of, revision_line};
use crate::catalog::Entry;
use crate::cli::Global;
use crate::cli::report::{ExitCode, Failure, Report, duration_text};
use crate::jobs::load::Source;
use crate::jobs::recover::Recovered;
use crate::jobs::restore::tables::{self, Request, RestoredTables, TablesPlan};

/// Restores the tables, or says what would be done; `notes` are added to what there is to say, of the
/// moment too if it is one.
///
/// # Errors
/// [`Failure`]; then nothing of what was made is left.
pub async fn run(
    global: &Global,
    args: &RestoreArgs,
    ground: &Ground,
    entry: &Entry,
    (notes, moment): (Vec<String>, Option<&Recovered>),
) -> Result<Report, Failure> {
    let database = &ground.database;
    let title = format!("restore tables of {}", args.database);
    let connection = match &args.into {
        Some(name) => database.connection.with_database(name),
        None => database.connection.clone(),
    };
    let schema = args.schema.clone().unwrap_or_else(default_schema);
    let request = Request {
        entry,
        tables: &args.tables,
        connection: &connection,
        schema: &schema,
        jobs: database.jobs,
        stall_timeout: database.stall_timeout,
    };
    if args.plan {
        let source = Source { catalog: &ground.catalog, entry, opener: &ground.opener };
        let inventory = source.inventory().await.map_err(Failure::of(&title))?;
        let plan = tables::plan(&request, &inventory).await.map_err(Failure::of(&title))?;
        return Ok(plan_report(&plan, &notes));
    }
    let id = entry.manifest.id.to_string();
    let mut restored = ground
        .carry_out(global, &title, &connection.database, &id, async |means| {
            Box::pin(tables::restore(means, &request)).await
        })
        .await?;
    restored.notes.extend(notes);
    Ok(report(&restored, entry, moment))
}

fn default_schema() -> String {
    crate::cli::clock::now().format("restored_%Y%m%dt%H%M%S").to_string()
}

fn report(restored: &RestoredTables, from: &Entry, moment: Option<&Recovered>) -> Report {
    let (from, revisions) = (&from.manifest.id, &from.manifest.revisions);
    let mut text = format!(
        "restored {} table(s) of {from} into schema {} of {}, proven, in {}\n",
        restored.tables.len(),
        restored.schema,
        restored.database,
        duration_text(restored.elapsed_ms)
    );
    text.push_str(&revision_line(revisions));
    text.extend(restored.tables.iter().map(|table| format!("  {}: {} rows\n", table.table, table.rows)));
    text.extend(restored.notes.iter().map(|note| format!("  note: {note}\n")));
    let body = json!({
        "database": restored.database, "from": from, "revision": revisions, "into_schema": restored.schema, "tables": restored.tables,
        "moment": json_of(moment), "notes": restored.notes, "elapsed_ms": restored.elapsed_ms,
    });
    Report::new("restore", text, &body)
}

fn plan_report(plan: &TablesPlan, notes: &[String]) -> Report {
    let mut text = format!(
        "would restore {} table(s) of {} into schema {} of {}{}\n",
        plan.tables.len(),
        plan.from,
        plan.schema,
        plan.database,
        if plan.makes_schema { ", which would be made" } else { "" },
    );
    text.extend(plan.tables.iter().map(|table| format!("  {}: {} rows\n", table.table, table.rows)));
    text.push_str(
        "  columns and rows only: no constraints, defaults, indexes, rights, or generated columns\n",
    );
    text.extend(notes.iter().map(|note| format!("  warning: {note}\n")));
    text.extend(plan.refusals.iter().map(|refusal| format!("  refused: {refusal}\n")));
    let report = Report::new("restore-plan", text, plan);
    if plan.refusals.is_empty() { report } else { report.ending(ExitCode::Refused) }
}
