//! Verifies one snapshot to a depth: stored, readable, restored.
//!
//! Comes in: a catalog entry. Goes out: a signed verification record beside the manifest, whether
//! it found something or not, and one beside every snapshot that shares a damaged chunk; where they
//! cannot be written, what was found is handed over all the same. A problem of the snapshot is a
//! finding; a problem of the machine (no room, no server programs) is an error, and nothing is
//! recorded.

mod scratch;

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use futures::{StreamExt as _, TryStreamExt as _};

pub use self::scratch::ScratchCopy;
use super::load::{Source, StoredCheck};
use super::{JobError, Progress, Stopwatch, blocking, until_stalled};
use crate::catalog::{Catalog, CatalogError, Entry};
use crate::postgres::PostgresError;
use crate::postgres::pipes::WhileRead;
use crate::postgres::tools::{RunningTool, Streams, Tools};
use crate::rules::causes::in_a_sentence;
use crate::rules::digest::{Digest256, RowTally};
use crate::rules::layout::{self, ObjectKey};
use crate::rules::manifest::{self, ChunkPart, Depth, Inventory, ObjectRecord, Verification};
use crate::rules::proof;
use crate::seal::{Opener, SealError};
use crate::store::StoreError;

/// What a verification is made with.
pub struct Means<'a> {
    /// Where the snapshot lies.
    pub catalog: &'a Catalog,
    /// What opens it; needed from depth `readable` on.
    pub opener: Option<&'a Opener>,
    /// Who signs the record; without, nothing is recorded.
    pub signing: Option<&'a SigningKey>,
    /// Where PostgreSQL's programs are looked for first.
    pub bin_directory: Option<&'a Path>,
    /// The search path for programs.
    pub path: &'a str,
    /// A 0700 directory for scratch clusters and spools.
    pub scratch_directory: &'a Path,
    /// Objects read, or tables loaded, at once.
    pub jobs: usize,
    /// How long nothing may move.
    pub stall_timeout: std::time::Duration,
    /// Told as bytes pass.
    pub progress: &'a Arc<Progress>,
}

/// What a verification found.
#[derive(Debug)]
pub struct Verified {
    /// The record, as signed.
    pub record: Verification,
    /// What is different in the restored database, by name; the record, which lies in the open,
    /// has only their number.
    pub differences: Vec<String>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
    /// Whether the record was written.
    pub recording: Recording,
}

/// What became of the record of a verification.
#[derive(Debug)]
pub enum Recording {
    /// It lies beside the snapshot, and beside those that share what is damaged.
    Done,
    /// This host has no key to sign it with.
    NoKey,
    /// It could not be written.
    Failed(CatalogError),
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    differences: Vec<String>,
    notes: Vec<String>,
    damaged_chunks: Vec<String>,
    tables: u64,
    rows: u64,
    restore_ms: Option<u64>,
    copy: Option<ScratchCopy>,
}

/// Verifies `entry` to `depth` and records the result.
///
/// # Errors
/// [`JobError::NoIdentity`] when the depth needs one; what keeps the verification itself from
/// being made. A damaged snapshot is no error, see [`Verification::is_ok`]; neither is a record
/// that cannot be written, see [`Verified::recording`].
pub async fn verify(
    means: &Means<'_>,
    entry: &Entry,
    depth: Depth,
    clock: fn() -> DateTime<Utc>,
) -> Result<Verified, JobError> {
    let (verified, copy) = verify_keeping_copy(means, entry, depth, clock).await?;
    if let Some(copy) = copy {
        copy.remove().await?;
    }
    Ok(verified)
}

/// As [`verify`], and hands over the scratch copy that [`Depth::Restored`] was proven with.
///
/// # Errors
/// As [`verify`].
pub async fn verify_keeping_copy(
    means: &Means<'_>,
    entry: &Entry,
    depth: Depth,
    clock: fn() -> DateTime<Utc>,
) -> Result<(Verified, Option<ScratchCopy>), JobError> {
    let watch = Stopwatch::start();
    let work = Box::pin(find(means, entry, depth));
    let mut findings =
        until_stalled(means.progress, means.stall_timeout, "verify the snapshot", work).await?;
    findings.damaged_chunks.sort();
    if !findings.differences.is_empty() {
        let number = findings.differences.len();
        findings.problems.push(format!("what was restored differs from the snapshot in {number} respect(s)"));
    }
    let record = Verification {
        format: manifest::FORMAT,
        id: entry.manifest.id.clone(),
        repository: entry.manifest.repository.clone(),
        depth,
        at: clock(),
        is_ok: findings.problems.is_empty(),
        problems: findings.problems,
        damaged_chunks: findings.damaged_chunks,
        tables_compared: findings.tables,
        rows_compared: findings.rows,
        restore_ms: findings.restore_ms,
        elapsed_ms: watch.elapsed_ms(),
    };
    let recording = recorded(means, entry, &record).await;
    let verified = Verified { record, differences: findings.differences, notes: findings.notes, recording };
    Ok((verified, findings.copy))
}

async fn recorded(means: &Means<'_>, entry: &Entry, record: &Verification) -> Recording {
    let Some(key) = means.signing else { return Recording::NoKey };
    let recording = async {
        means.catalog.record_verification(&entry.home, record, key).await?;
        tell_sharers(means.catalog, record, key).await
    };
    recording.await.map_or_else(Recording::Failed, |()| Recording::Done)
}

async fn find(means: &Means<'_>, entry: &Entry, depth: Depth) -> Result<Findings, JobError> {
    if depth == Depth::Stored {
        return read_again(means, entry).await;
    }
    let opener = means.opener.ok_or(JobError::NoIdentity { action: "open the snapshot" })?;
    let mut findings = read_again(means, entry).await?;
    if !findings.problems.is_empty() {
        return Ok(findings);
    }
    let source = Source { catalog: means.catalog, entry, opener };
    let inventory = match source.inventory().await {
        Err(error) => {
            findings.problems.push(as_problem(error)?);
            return Ok(findings);
        }
        Ok(inventory) => inventory,
    };
    match depth {
        Depth::Restored => {
            let copy = scratch::restore_and_compare(means, &source, &inventory, &mut findings).await?;
            findings.copy = Some(copy);
        }
        Depth::Stored | Depth::Readable => open_again(means, &source, &inventory, &mut findings).await?,
    }
    Ok(findings)
}

/// Records damage beside every snapshot that shares the chunks: this one may be removed before.
async fn tell_sharers(
    catalog: &Catalog,
    record: &Verification,
    key: &SigningKey,
) -> Result<(), CatalogError> {
    if record.damaged_chunks.is_empty() {
        return Ok(());
    }
    for entry in catalog.list().await?.entries {
        if let Some(shared) = proof::shared_record(&entry.manifest, record) {
            catalog.record_verification(&entry.home, &shared, key).await?;
        }
    }
    Ok(())
}

/// The problem that a damaged object is, as a sentence; any other error is handed back.
///
/// The wrong key says nothing of the snapshot.
fn as_problem(error: JobError) -> Result<String, JobError> {
    match &error {
        JobError::Object { source: SealError::WrongIdentity, .. } => Err(error),
        JobError::Object { .. } => Ok(in_a_sentence(&error)),
        _ => Err(error),
    }
}

/// One object that must be there.
struct Expected {
    key: ObjectKey,
    stored_bytes: u64,
    stored_sha256: Digest256,
    chunk: Option<String>,
}

fn expected(means: &Means<'_>, entry: &Entry) -> Vec<Expected> {
    let objects = &entry.manifest.objects;
    let own: [(&str, &ObjectRecord); 4] = [
        (layout::SCHEMA, &objects.schema),
        (layout::DATA, &objects.data),
        (layout::GLOBALS, &objects.globals),
        (layout::INVENTORY, &objects.inventory),
    ];
    let restore_text = objects.restore_text.iter().map(|record| (layout::RESTORE_TEXT, record));
    let mut all: Vec<Expected> = own
        .into_iter()
        .chain(restore_text)
        .map(|(name, record)| Expected {
            key: entry.home.key(name),
            stored_bytes: record.stored_bytes,
            stored_sha256: record.stored_sha256,
            chunk: None,
        })
        .collect();
    all.extend(entry.manifest.chunks.iter().map(|chunk| Expected {
        key: layout::chunk_key(means.catalog.cluster(), &chunk.name),
        stored_bytes: chunk.stored_bytes,
        stored_sha256: chunk.stored_sha256,
        chunk: Some(chunk.name.clone()),
    }));
    all
}

/// Reads every byte of the snapshot again and compares the digests.
async fn read_again(means: &Means<'_>, entry: &Entry) -> Result<Findings, JobError> {
    means.progress.enter("reading every object");
    means.progress.expect(entry.manifest.stored_bytes);
    let mut findings = Findings::default();
    let mut reads = futures::stream::iter(expected(means, entry))
        .map(|object| async move {
            let problem = read_object(means, &object).await?;
            Ok::<_, JobError>((object, problem))
        })
        .buffer_unordered(means.jobs);
    while let Some((object, problem)) = reads.try_next().await? {
        if let Some(problem) = problem {
            findings.problems.push(format!("{}: {problem}", object.key));
            findings.damaged_chunks.extend(object.chunk);
        }
    }
    findings.problems.sort();
    Ok(findings)
}

async fn read_object(means: &Means<'_>, object: &Expected) -> Result<Option<String>, JobError> {
    let mut pieces = match means.catalog.store().get(&object.key).await {
        Err(StoreError::Missing { .. }) => return Ok(Some("it is missing".into())),
        other => other?,
    };
    let mut check = StoredCheck::default();
    while let Some(piece) = pieces.try_next().await? {
        means.progress.advance(piece.len());
        check = blocking(move || {
            check.update(&piece);
            Ok::<_, JobError>(check)
        })
        .await?;
    }
    Ok(check.finish(object.stored_bytes, object.stored_sha256).err().map(|error| error.to_string()))
}

/// Decrypts and decompresses everything, lists the archives, counts and digests the rows.
async fn open_again(
    means: &Means<'_>,
    source: &Source<'_>,
    inventory: &Inventory,
    findings: &mut Findings,
) -> Result<(), JobError> {
    means.progress.enter("opening every object");
    let chunked: Vec<_> =
        inventory.tables.iter().filter_map(|table| Some((table, table.chunks.as_ref()?))).collect();
    means.progress.expect(chunked.iter().flat_map(|(_, parts)| *parts).map(|part| part.plain_bytes).sum());
    for (table, parts) in chunked {
        let mut tally = RowTally::default();
        let mut checks = futures::stream::iter(parts)
            .map(|part| open_chunk(means, source, part))
            .buffer_unordered(means.jobs);
        while let Some((part, problem)) = checks.try_next().await? {
            tally.add(part.tally);
            if let Some(problem) = problem {
                findings.problems.push(problem);
                findings.damaged_chunks.push(part.name.clone());
            }
        }
        if tally != table.tally {
            findings
                .problems
                .push(format!("the chunks of a table do not add up to its {} rows", table.tally.rows));
        }
        findings.tables += 1;
        findings.rows += tally.rows;
    }
    let objects = &source.entry.manifest.objects;
    let manifest = &source.entry.manifest;
    let major = manifest.server_version_num / 10_000;
    let tools =
        Tools::find_reading(means.bin_directory, means.path, major, &manifest.pg_dump_version).await?;
    for (name, record) in [(layout::SCHEMA, &objects.schema), (layout::DATA, &objects.data)] {
        findings.problems.extend(list_archive(means, source, &tools, name, record).await?);
    }
    if let Err(error) = source.small_object(layout::GLOBALS, &objects.globals).await {
        findings.problems.push(as_problem(error)?);
    }
    Ok(())
}

async fn open_chunk<'p>(
    means: &Means<'_>,
    source: &Source<'_>,
    part: &'p ChunkPart,
) -> Result<(&'p ChunkPart, Option<String>), JobError> {
    match source.chunk_text(part, Vec::new()).await {
        Ok(text) => {
            means.progress.advance(text.len());
            let tally = blocking(move || {
                let mut tally = RowTally::default();
                tally.add_lines(&text);
                Ok::<_, JobError>(tally)
            })
            .await?;
            let differs = tally != part.tally;
            Ok((
                part,
                differs.then(|| format!("chunk {}: its rows are not those of the inventory", part.name)),
            ))
        }
        Err(error) => Ok((part, Some(as_problem(error)?))),
    }
}

/// Opens an archive completely, and has pg_restore list it.
async fn list_archive(
    means: &Means<'_>,
    source: &Source<'_>,
    tools: &Tools,
    name: &'static str,
    record: &ObjectRecord,
) -> Result<Option<String>, JobError> {
    let directory = super::WorkDirectory::create(means.scratch_directory)?;
    let sealed = source.spool_sealed(name, record, directory.path(), means.progress).await?;
    let mut command = tokio::process::Command::new(tools.program("pg_restore"));
    command.arg("--list");
    let mut tool = RunningTool::start(command, Streams::In)?;
    let stdin = tool.stdin()?;
    let opened = source.pump_opened(&sealed, record, WhileRead::new(stdin), means.progress).await?;
    let listed = tool.reap().await;
    Ok(match (opened, listed) {
        (Err(error), _) => {
            let key = source.entry.home.key(name).to_string();
            Some(as_problem(JobError::Object { key, source: error })?)
        }
        (Ok(()), Err(PostgresError::ToolFailed { messages, .. })) => {
            Some(format!("{}: pg_restore does not list it: {messages}", source.entry.home.key(name)))
        }
        (Ok(()), Err(error)) => return Err(error.into()),
        (Ok(()), Ok(_)) => None,
    })
}
