//! Looks through the indexes and tables of a server of ours with `amcheck`.
//!
//! `pg_amcheck` (14 and later) does both; where it is not installed, `bt_index_check` is asked of each
//! B-tree. The extension is made where it is missing: the server is a copy, and is thrown away.

use std::io::Read as _;
use std::path::Path;

use sqlx::postgres::PgConnection;
use tokio::process::Command;

use super::PostgresError;
use super::session::{self, column, rows};
use super::tools::{PINNED_OPTIONS, RunningTool, Streams};
use crate::rules::causes::in_a_sentence;
use crate::rules::sql::quoted;
use crate::settings::Connection;

/// From here on there is pg_amcheck, and the extension has what it asks for.
const PROGRAM_MAJOR: u32 = 14;
/// How much of what is found is kept.
const SAID_BYTES: u64 = 64 << 10;
/// SQLSTATE classes that say something of the server and nothing of the data: connection, resources,
/// intervention.
const OF_THE_SERVER: [&str; 3] = ["08", "53", "57"];

/// What was looked through, and what was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Databases that were looked through.
    pub databases: u64,
    /// Each fault as a sentence, with the database and the relation.
    pub faults: Vec<String>,
    /// What could not be looked through, and why.
    pub notes: Vec<String>,
}

/// Looks through every database of the server of `major` behind `to`, as its superuser; `programs` is the
/// directory of the server's programs, and `before_each` hears of every database.
///
/// # Errors
/// What keeps the server from being asked; a fault in the data is none.
pub async fn check(
    programs: &Path,
    major: u32,
    to: &Connection,
    jobs: usize,
    before_each: impl Fn(),
) -> Result<Checked, PostgresError> {
    let mut maintenance = session::connect(to).await?;
    let databases = session::databases(&mut maintenance).await?;
    session::close(maintenance).await?;
    let program = programs.join("pg_amcheck");
    let mut checked = Checked::default();
    for name in databases {
        before_each();
        let to = to.with_database(&name);
        let mut session = session::connect(&to).await?;
        let schema = match extension(&mut session).await? {
            Ok(schema) => schema,
            Err(why) => {
                checked.notes.push(format!("the indexes of {name} are not looked through: {why}"));
                continue;
            }
        };
        let faults = if major >= PROGRAM_MAJOR && program.exists() {
            session::close(session).await?;
            by_program(&program, &to, jobs).await?
        } else {
            by_server(&mut session, &schema, &before_each).await?
        };
        checked.faults.extend(faults.into_iter().map(|fault| format!("database {name}: {fault}")));
        checked.databases += 1;
    }
    Ok(checked)
}

/// The schema of the extension, which is made if it can be; else why it cannot.
async fn extension(session: &mut PgConnection) -> Result<Result<String, String>, PostgresError> {
    let find = "SELECT quote_ident(n.nspname) AS schema FROM pg_catalog.pg_extension e \
        JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'";
    let found = rows(session, "look for amcheck", find).await?;
    if let Some(row) = found.first() {
        return column(row, "schema").map(Ok);
    }
    let available = "SELECT name::text FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'";
    if rows(session, "look for amcheck", available).await?.is_empty() {
        return Ok(Err("the server's installation has no extension amcheck".into()));
    }
    // Triggers on commands are part of what was recovered, and are not to run here.
    let make = "SET session_replication_role = replica; CREATE EXTENSION amcheck WITH SCHEMA pg_catalog; \
        RESET session_replication_role";
    match session::run(session, "make the extension amcheck", make.into()).await {
        Ok(()) => Ok(Ok(quoted("pg_catalog"))),
        Err(error) => Ok(Err(in_a_sentence(&error))),
    }
}

async fn by_program(program: &Path, to: &Connection, jobs: usize) -> Result<Vec<String>, PostgresError> {
    let mut command = Command::new(program);
    command.args(["--no-password", "--heapallindexed"]).arg(format!("--jobs={jobs}"));
    command.arg(format!("--host={}", to.host)).arg(format!("--port={}", to.port));
    command.arg(format!("--username={}", to.user));
    command.arg(format!("dbname='{}'", to.database.replace('\\', "\\\\").replace('\'', "\\'")));
    for name in ["PGDATABASE", "PGSERVICE", "PGHOSTADDR", "PGCLIENTENCODING", "PGPASSWORD"] {
        command.env_remove(name);
    }
    command.env("PGOPTIONS", PINNED_OPTIONS).env("LC_ALL", "C");
    let mut tool = RunningTool::start(command, Streams::Out)?;
    let stdout = tool.stdout()?;
    let read = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        let mut stdout = stdout;
        (&mut stdout).take(SAID_BYTES).read_to_end(&mut said)?;
        std::io::copy(&mut stdout, &mut std::io::sink())?;
        Ok::<_, std::io::Error>(said)
    });
    let said = read.await.map_err(|panicked| tool.pump_error(std::io::Error::other(panicked)))?;
    let said = said.map_err(|source| tool.pump_error(source))?;
    match tool.reap().await {
        Ok(_) => Ok(Vec::new()),
        // What it found stands on its standard output; without a word it could not look.
        Err(PostgresError::ToolFailed { .. }) if !said.is_empty() => {
            Ok(in_sentences(&String::from_utf8_lossy(&said)))
        }
        Err(error) => Err(error),
    }
}

/// Each fault takes a line, and more that begin with spaces.
fn in_sentences(said: &str) -> Vec<String> {
    let mut faults: Vec<String> = Vec::new();
    for line in said.lines() {
        match faults.last_mut() {
            Some(fault) if line.starts_with(' ') => {
                fault.push(' ');
                fault.push_str(line.trim());
            }
            _ => faults.push(line.trim().to_owned()),
        }
    }
    faults.retain(|fault| !fault.is_empty());
    faults
}

async fn by_server(
    session: &mut PgConnection,
    schema: &str,
    before_each: &impl Fn(),
) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT c.oid::bigint AS oid, format('%I.%I', n.nspname, c.relname) AS name \
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am a ON a.oid = c.relam \
        WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' AND i.indisready AND i.indisvalid \
        ORDER BY c.oid";
    let mut faults = Vec::new();
    for row in rows(session, "list the indexes", sql).await? {
        let (oid, name): (i64, String) = (column(&row, "oid")?, column(&row, "name")?);
        before_each();
        let sql = format!("SELECT {schema}.bt_index_check({oid}::oid::regclass, true)");
        match session::run(session, "look through an index", sql).await {
            Err(PostgresError::Query { source, .. }) if is_of_data(&source) => {
                let said = source.as_database_error().map(|error| error.message().to_owned());
                faults.push(format!("btree index {name}: {}", said.unwrap_or_default()));
            }
            other => other?,
        }
    }
    Ok(faults)
}

fn is_of_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| OF_THE_SERVER.iter().all(|class| !code.starts_with(class)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_amcheck_says_of_a_relation_is_one_sentence() {
        let said = "btree index \"app.public.t_pkey\":\n    ERROR:  item order invariant violated\n    DETAIL:  Lower index tid=(1,2)\n\
            heap table \"app.public.t\", block 0, offset 1, attribute 2:\n    too long\n";
        let faults = in_sentences(said);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(
            faults[0].ends_with("item order invariant violated DETAIL:  Lower index tid=(1,2)"),
            "{faults:?}"
        );
    }
}
