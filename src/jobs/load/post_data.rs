//! Builds indexes, constraints and triggers with several sessions, but for what must be done one
//! after the other.
//!
//! When two sessions attach the last partitions of one partitioned index at the same time, neither
//! sees the other's, and the index stays invalid for ever. So the entries of the archive are
//! restored in up to three passes: those before the first attachment, the attachments one by one,
//! and those after the last.

use std::io::Read as _;
use std::path::Path;

use super::{Target, run_pg_restore};
use crate::jobs::{JobError, blocking};
use crate::postgres::tools::{PINNED_OPTIONS, RunningTool, Streams};
use crate::postgres::{PostgresError, session};

/// Memory on the server for each index being built, unless its own setting is higher: its default
/// makes it sort on disk.
const INDEX_MEMORY_BYTES: u64 = 256 << 20;

/// What `pg_restore --list` says of an attachment, between its numbers and its name.
const ATTACHMENT: &str = " INDEX ATTACH ";

/// Restores the section after the data; returns the errors that were accepted.
pub(super) async fn build(target: &Target<'_>, archive: &Path) -> Result<Vec<String>, JobError> {
    let options = session_options(target).await?;
    let list = list(target, archive).await?;
    let passes = passes(&list);
    if passes.len() < 2 {
        return run_pg_restore(target, &["--section=post-data"], archive, target.jobs, &options).await;
    }
    let mut accepted = Vec::new();
    for (number, (pace, entries)) in passes.into_iter().enumerate() {
        let path = target.work_directory.join(format!("post-data-{number}.list"));
        let written = std::fs::write(&path, entries.join("\n"));
        written.map_err(|source| JobError::Disk { action: "write", path: path.clone(), source })?;
        let jobs = if pace == Pace::OneByOne { 1 } else { target.jobs };
        let chosen = format!("--use-list={}", path.display());
        accepted.extend(
            run_pg_restore(target, &["--section=post-data", &chosen], archive, jobs, &options).await?,
        );
    }
    Ok(accepted)
}

async fn session_options(target: &Target<'_>) -> Result<String, JobError> {
    let mut session = session::connect(target.connection).await?;
    let has_more = session::maintenance_memory_bytes(&mut session).await? >= INDEX_MEMORY_BYTES;
    let kilobytes = INDEX_MEMORY_BYTES / 1024;
    let memory = if has_more { String::new() } else { format!(" -c maintenance_work_mem={kilobytes}kB") };
    Ok(format!("{PINNED_OPTIONS}{memory}"))
}

async fn list(target: &Target<'_>, archive: &Path) -> Result<String, JobError> {
    let mut command = target.tools.command("pg_restore", target.connection);
    command.args(["--list", "--section=post-data"]).arg(archive).env_remove("PGDATABASE");
    let mut tool = RunningTool::start(command, Streams::Out)?;
    let mut stdout = tool.stdout()?;
    let read = blocking(move || {
        let mut text = Vec::new();
        let read = stdout.read_to_end(&mut text);
        read.map_err(|source| PostgresError::Pump { tool: "pg_restore".into(), source })?;
        Ok::<_, JobError>(String::from_utf8_lossy(&text).into_owned())
    })
    .await;
    tool.reap().await?;
    read
}

/// How the entries of a pass are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    AtOnce,
    OneByOne,
}

/// Divides a list of entries at its first and last attachment; one pass where there is none.
fn passes(list: &str) -> Vec<(Pace, Vec<&str>)> {
    let entries: Vec<&str> = list.lines().filter(|line| !line.starts_with(';') && !line.is_empty()).collect();
    let is_attachment = |entry: &&str| entry.contains(ATTACHMENT);
    let Some(first) = entries.iter().position(is_attachment) else { return vec![(Pace::AtOnce, entries)] };
    let last = entries.iter().rposition(is_attachment).unwrap_or(first);
    let (before, rest) = entries.split_at(first);
    let (attached, after) = rest.split_at(last + 1 - first);
    let all = [(Pace::AtOnce, before), (Pace::OneByOne, attached), (Pace::AtOnce, after)];
    all.into_iter().filter(|(_, some)| !some.is_empty()).map(|(pace, some)| (pace, some.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_made_one_by_one_between_the_others() {
        let list = ";\n; header\n1; 0 0 INDEX a x o\n2; 0 0 INDEX ATTACH a y o\n3; 0 0 INDEX ATTACH a z o\n4; 0 0 FK CONSTRAINT a f o\n";
        let found: Vec<_> = passes(list).into_iter().map(|(pace, entries)| (pace, entries.len())).collect();
        assert_eq!(found, [(Pace::AtOnce, 1), (Pace::OneByOne, 2), (Pace::AtOnce, 1)]);
    }

    #[test]
    fn one_pass_does_where_nothing_is_attached() {
        assert_eq!(passes("; header\n1; 0 0 INDEX a x o\n").len(), 1);
        assert_eq!(passes("; nothing\n").len(), 1);
    }
}
