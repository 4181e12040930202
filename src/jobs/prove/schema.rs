//! Compares the schema as SQL text: the database dumped anew, against the archive of the snapshot.
//!
//! Both go through the same pg_dump and pg_restore, so that equal schemas are equal texts; between
//! major versions they are not, and the comparison of structures has to do.

use std::fs::File;
use std::path::Path;

use sqlx::postgres::PgConnection;

use super::{Claim, Proven};
use crate::jobs::{JobError, Progress, blocking};
use crate::postgres::pipes::read_schema_text;
use crate::postgres::tools::{RunningTool, Streams, Tools};
use crate::postgres::{PostgresError, session};
use crate::settings::Connection;

/// How long a dump of a schema waits for a lock.
const LOCK_TIMEOUT_MS: u32 = 30_000;

/// Adds the first difference to `proven`, or why the texts are not compared.
pub(super) async fn compare(
    claim: &Claim<'_>,
    connection: &Connection,
    tools: &Tools,
    session: &mut PgConnection,
    progress: &Progress,
    proven: &mut Proven,
) -> Result<(), JobError> {
    let server_major = session::server_version_num(session).await? / 10_000;
    let dumped_by = claim.manifest.pg_dump_version.split('.').next().unwrap_or_default();
    if claim.manifest.server_version_num / 10_000 != server_major || dumped_by != tools.major.to_string() {
        proven.notes.push(format!(
            "the schema's text is not compared between versions (snapshot: server {}, pg_dump {}; here: server {server_major}, pg_dump {})",
            claim.manifest.server_version_num / 10_000,
            claim.manifest.pg_dump_version,
            tools.version
        ));
        return Ok(());
    }
    let encoding = &claim.inventory.properties.encoding;
    let texts = Texts { archive: &claim.loaded.schema_archive, connection, tools, encoding, progress };
    proven.schema_problems.extend(texts.difference().await?);
    Ok(())
}

/// Which lines of a schema are looked at.
type Chosen = fn(&[u8]) -> bool;

fn every_line(_: &[u8]) -> bool {
    true
}

/// Whether a line is more than a remark: before each statement pg_dump says what it is about.
fn is_of_a_statement(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    !line.is_empty() && !line.starts_with(b"--")
}

/// The two texts of a schema; they are read as often as something of them is asked for.
struct Texts<'a> {
    archive: &'a Path,
    connection: &'a Connection,
    tools: &'a Tools,
    encoding: &'a str,
    progress: &'a Progress,
}

impl Texts<'_> {
    async fn difference(&self) -> Result<Option<String>, JobError> {
        let Some(number) = self.first_differing(every_line).await? else { return Ok(None) };
        let (chosen, number): (Chosen, usize) = match self.first_differing(is_of_a_statement).await? {
            Some(number) => (is_of_a_statement, number),
            None => (every_line, number),
        };
        let wanted = archive_line(self.open()?, self.connection, self.tools, chosen, number).await?;
        let found = database_line(self.connection, self.tools, self.encoding, chosen, number).await?;
        let quoted = |line: Option<String>| line.map_or("its end".to_owned(), |line| format!("{line:?}"));
        let (wanted, found) = (quoted(wanted), quoted(found));
        Ok(Some(format!("the schema is not that of the snapshot: {wanted} there is {found} here")))
    }

    /// The number of the first of the chosen lines that is not the same in both.
    async fn first_differing(&self, chosen: Chosen) -> Result<Option<usize>, JobError> {
        let wanted = archive_lines(self.open()?, self.connection, self.tools, chosen);
        let found = chosen_lines(self.connection, self.tools, self.encoding, chosen);
        let (wanted, found) = futures::try_join!(wanted, found)?;
        self.progress.beat();
        let first = wanted.iter().zip(&found).position(|(wanted, found)| wanted != found);
        Ok(first.or_else(|| (wanted.len() != found.len()).then(|| wanted.len().min(found.len()))))
    }

    fn open(&self) -> Result<File, JobError> {
        let path = self.archive;
        File::open(path).map_err(|source| JobError::Disk { action: "read", path: path.to_owned(), source })
    }
}

/// A schema as the hashes of its lines.
pub type Lines = Vec<u64>;

/// Reads the schema of a live database.
///
/// # Errors
/// What pg_dump and pg_restore say.
pub async fn database_lines(
    connection: &Connection,
    tools: &Tools,
    encoding: &str,
) -> Result<Lines, JobError> {
    chosen_lines(connection, tools, encoding, every_line).await
}

async fn chosen_lines(
    connection: &Connection,
    tools: &Tools,
    encoding: &str,
    chosen: Chosen,
) -> Result<Lines, JobError> {
    let mut dump = dump_schema(connection, tools, encoding)?;
    let lines = archive_lines(dump.stdout()?, connection, tools, chosen).await;
    dump.reap().await?;
    lines
}

async fn database_line(
    connection: &Connection,
    tools: &Tools,
    encoding: &str,
    chosen: Chosen,
    number: usize,
) -> Result<Option<String>, JobError> {
    let mut dump = dump_schema(connection, tools, encoding)?;
    let line = archive_line(dump.stdout()?, connection, tools, chosen, number).await;
    dump.reap().await?;
    line
}

async fn archive_lines(
    archive: File,
    connection: &Connection,
    tools: &Tools,
    chosen: Chosen,
) -> Result<Lines, JobError> {
    let keep = move |lines: &mut Lines, line: &[u8]| {
        if chosen(line) {
            lines.push(hash_of_line(line));
        }
    };
    read_archive(archive, connection, tools, Lines::new(), keep).await
}

/// pg_dump names the roles of a policy in the order of their OIDs, which another cluster may have
/// in another order: such a line counts as the bag of its words.
fn hash_of_line(line: &[u8]) -> u64 {
    use xxhash_rust::xxh3::xxh3_64;
    if !line.starts_with(b"CREATE POLICY ") {
        return xxh3_64(line);
    }
    let words = line.split(|byte| matches!(byte, b' ' | b','));
    words.fold(0, |sum: u64, word| sum.wrapping_add(xxh3_64(word)))
}

async fn archive_line(
    archive: File,
    connection: &Connection,
    tools: &Tools,
    chosen: Chosen,
    number: usize,
) -> Result<Option<String>, JobError> {
    let keep = move |(at, kept): &mut (usize, Option<String>), line: &[u8]| {
        if chosen(line) {
            if *at == number {
                *kept = Some(String::from_utf8_lossy(line).trim_end().to_owned());
            }
            *at += 1;
        }
    };
    Ok(read_archive(archive, connection, tools, (0, None), keep).await?.1)
}

fn dump_schema(connection: &Connection, tools: &Tools, encoding: &str) -> Result<RunningTool, PostgresError> {
    let mut command = tools.command("pg_dump", connection);
    command.args([
        "--format=custom",
        "--compress=0",
        "--no-password",
        "--section=pre-data",
        "--section=post-data",
    ]);
    command.arg(format!("--encoding={encoding}")).arg(format!("--lock-wait-timeout={LOCK_TIMEOUT_MS}"));
    RunningTool::start(command, Streams::Out)
}

/// Has pg_restore write an archive as text, and folds its lines into `folded`.
async fn read_archive<T: Send + 'static>(
    archive: File,
    connection: &Connection,
    tools: &Tools,
    mut folded: T,
    fold: impl Fn(&mut T, &[u8]) + Send + 'static,
) -> Result<T, JobError> {
    let mut command = tools.command("pg_restore", connection);
    command.arg("--file=-").env_remove("PGDATABASE");
    let mut restore = RunningTool::start_reading(command, archive)?;
    let text = restore.stdout()?;
    let read = blocking(move || {
        read_schema_text(text, |line| fold(&mut folded, line))
            .map(|()| folded)
            .map_err(|source| PostgresError::Pump { tool: "pg_restore".into(), source })
    })
    .await;
    restore.reap().await?;
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_not_of_a_statement() {
        let lines: [&[u8]; 4] = [b"--\n", b"-- Name: t; Type: TABLE\n", b"\n", b"    ADD CONSTRAINT c;\n"];
        assert_eq!(lines.map(is_of_a_statement), [false, false, false, true]);
    }
}
