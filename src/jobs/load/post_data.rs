//! Builds indexes, constraints and triggers with several sessions, but for what must be done one
//! after the other. Keys of a large table are built as soon as that is loaded.
//!
//! When two sessions attach the last partitions of one partitioned index at the same time, neither
//! sees the other's, and the index stays invalid for ever. So the entries of the archive are
//! restored in up to three passes: those before the first attachment, the attachments one by one,
//! and those after the last.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Target, run_pg_restore};
use crate::jobs::{JobError, blocking};
use crate::postgres::tools::{PINNED_OPTIONS, RunningTool, Streams};
use crate::postgres::{PostgresError, session};

/// Memory on the server for each index being built, unless its own setting is higher: its default
/// makes it sort on disk.
const INDEX_MEMORY_BYTES: u64 = 256 << 20;

/// While other sessions load, the processors are theirs.
const ONE_WORKER: &str = " -c max_parallel_maintenance_workers=0";

/// What `pg_restore --list` says of an attachment, between its numbers and its name.
const ATTACHMENT: &str = " INDEX ATTACH ";

/// What `pg_restore --list` says of a constraint that an index keeps, between its numbers and the
/// schema of its table.
const CONSTRAINT: &str = "CONSTRAINT";

/// What of the section after the data is not restored yet.
pub(super) struct PostData<'a> {
    archive: &'a Path,
    options: String,
    /// Lines of `pg_restore --list`.
    entries: Mutex<Vec<String>>,
}

impl<'a> PostData<'a> {
    /// Reads what there is in the schema archive.
    pub(super) async fn read(target: &Target<'_>, archive: &'a Path) -> Result<Self, JobError> {
        let list = list(target, archive).await?;
        let is_entry = |line: &&str| !line.starts_with(';') && !line.is_empty();
        let entries = Mutex::new(list.lines().filter(is_entry).map(str::to_owned).collect());
        Ok(Self { archive, options: session_options(target).await?, entries })
    }

    /// Makes the primary and unique keys of a table that is loaded, and in memory now; returns the
    /// errors that were accepted. `others_load` is whether other sessions are loading meanwhile.
    pub(super) async fn build_keys(
        &self,
        target: &Target<'_>,
        schema: &str,
        table: &str,
        others_load: bool,
    ) -> Result<Vec<String>, JobError> {
        let taken = take_keys(&mut self.lock(), schema, table);
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        let workers = if others_load { ONE_WORKER } else { "" };
        self.restore(target, &taken, 1, &format!("{}{workers}", self.options)).await
    }

    /// Restores the rest; returns the errors that were accepted.
    pub(super) async fn build_rest(self, target: &Target<'_>) -> Result<Vec<String>, JobError> {
        let entries = std::mem::take(&mut *self.lock());
        let mut accepted = Vec::new();
        for (pace, entries) in passes(&entries) {
            let jobs = if pace == Pace::OneByOne { 1 } else { target.jobs };
            accepted.extend(self.restore(target, entries, jobs, &self.options).await?);
        }
        Ok(accepted)
    }

    async fn restore(
        &self,
        target: &Target<'_>,
        entries: &[String],
        jobs: usize,
        options: &str,
    ) -> Result<Vec<String>, JobError> {
        let file = tempfile::Builder::new().prefix("post-data.").tempfile_in(target.work_directory);
        let failed =
            |source| JobError::Disk { action: "write", path: target.work_directory.to_owned(), source };
        let mut file = file.map_err(failed)?;
        file.write_all(entries.join("\n").as_bytes()).map_err(failed)?;
        let chosen = format!("--use-list={}", file.path().display());
        let arguments = ["--section=post-data", &chosen];
        run_pg_restore(target, &arguments, self.archive, jobs, options).await
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the keys of a table out of `entries`.
///
/// The list separates names by blanks and quotes none. Where names have blanks themselves, a key may
/// be taken for one of another table; it is made once all the same, only too early or too late.
fn take_keys(entries: &mut Vec<String>, schema: &str, table: &str) -> Vec<String> {
    if [schema, table].iter().any(|name| name.contains(char::is_whitespace)) {
        return Vec::new();
    }
    let is_key = |entry: &mut String| {
        // The numbers of the entry, its catalog and its object.
        let mut words = entry.split(' ').skip(3);
        [CONSTRAINT, schema, table].iter().all(|word| words.next() == Some(word))
    };
    entries.extract_if(.., is_key).collect()
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

/// Divides entries at their first and last attachment; one pass where there is none, and none where
/// there are no entries.
fn passes(entries: &[String]) -> Vec<(Pace, &[String])> {
    let is_attachment = |entry: &String| entry.contains(ATTACHMENT);
    let first = entries.iter().position(is_attachment).unwrap_or(entries.len());
    let last = entries.iter().rposition(is_attachment).map_or(first, |last| last + 1);
    let (before, rest) = entries.split_at(first);
    let (attached, after) = rest.split_at(last - first);
    let all = [(Pace::AtOnce, before), (Pace::OneByOne, attached), (Pace::AtOnce, after)];
    all.into_iter().filter(|(_, some)| !some.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &[&str]) -> Vec<String> {
        list.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn attachments_are_made_one_by_one_between_the_others() {
        let list = [
            "1; 0 0 INDEX a x o",
            "2; 0 0 INDEX ATTACH a y o",
            "3; 0 0 INDEX ATTACH a z o",
            "4; 0 0 FK CONSTRAINT a f o",
        ];
        let list = entries(&list);
        let found: Vec<_> = passes(&list).into_iter().map(|(pace, some)| (pace, some.len())).collect();
        assert_eq!(found, [(Pace::AtOnce, 1), (Pace::OneByOne, 2), (Pace::AtOnce, 1)]);
    }

    #[test]
    fn one_pass_does_where_nothing_is_attached() {
        assert_eq!(passes(&entries(&["1; 0 0 INDEX a x o"])).len(), 1);
        assert!(passes(&[]).is_empty());
    }

    #[test]
    fn keys_of_a_table_are_taken_once() {
        let mut list = entries(&[
            "1; 2606 1 CONSTRAINT public users users_pkey postgres",
            "2; 2606 2 CONSTRAINT public users users_mail_key postgres",
            "3; 2606 3 CONSTRAINT public user users_pkey postgres",
            "4; 2606 4 FK CONSTRAINT public users users_fkey postgres",
            "5; 1259 5 INDEX public users users_index postgres",
            "6; 2606 6 CHECK CONSTRAINT public users users_check postgres",
        ]);
        assert_eq!(take_keys(&mut list, "public", "users").len(), 2);
        assert_eq!(take_keys(&mut list, "public", "users"), Vec::<String>::new());
        assert_eq!(list.len(), 4);
    }

    #[test]
    fn keys_of_names_with_blanks_wait_for_the_others() {
        let mut list = entries(&["1; 2606 1 CONSTRAINT public my users users_pkey postgres"]);
        assert!(take_keys(&mut list, "public", "my users").is_empty());
        assert_eq!(list.len(), 1);
    }
}
