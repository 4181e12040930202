//! Loads a snapshot into an empty database, checking every byte before it is used.
//!
//! Comes in: a catalog entry, identities, an empty database. Goes out: the number of rows that the
//! server took per table. What is loaded was compared with the signed manifest and the inventory
//! first: the archives hold SQL that would run with the restoring role's rights.

mod chunks;
mod post_data;
pub mod statistics;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt as _;

use self::post_data::PostData;
use super::{JobError, Progress, blocking, disk};
use crate::catalog::{Catalog, Entry};
use crate::postgres::pipes::pump;
use crate::postgres::tools::{RunningTool, Streams, Tools};
use crate::postgres::{PostgresError, tools};
use crate::rules::layout::{self, ObjectKey};
use crate::rules::manifest::{ChunkPart, Inventory, ObjectRecord};
use crate::seal::{Opener, SealError, check_stored};
use crate::settings::Connection;
use crate::store::read_small;

/// A chunk is never longer than one row over the limit of the settings; a row is at most 1 GiB.
const CHUNK_MAX_BYTES: usize = 3 << 30;

/// A snapshot that can be read.
#[derive(Clone)]
pub struct Source<'a> {
    /// Where it lies.
    pub catalog: &'a Catalog,
    /// Which one.
    pub entry: &'a Entry,
    /// What opens it.
    pub opener: &'a Opener,
}

impl Source<'_> {
    /// Reads and checks the inventory.
    ///
    /// # Errors
    /// [`JobError::Object`] when it is missing, damaged, or sealed to somebody else.
    pub async fn inventory(&self) -> Result<Inventory, JobError> {
        let plain = self.small_object(layout::INVENTORY, &self.entry.manifest.objects.inventory).await?;
        let key = self.entry.home.key(layout::INVENTORY).to_string();
        serde_json::from_slice(&plain)
            .map_err(|source| JobError::Object { key, source: SealError::Damaged(io::Error::other(source)) })
    }

    /// Reads and checks an object that fits into memory.
    ///
    /// # Errors
    /// [`JobError::Object`] when it is missing, damaged, or sealed to somebody else.
    pub async fn small_object(&self, name: &str, record: &ObjectRecord) -> Result<Vec<u8>, JobError> {
        let key = self.entry.home.key(name);
        // Another object in its place is named by its length, unless it is far longer.
        let max_bytes = usize::try_from(record.stored_bytes).unwrap_or(usize::MAX).saturating_add(1 << 20);
        let sealed = read_small(self.catalog.store().as_ref(), &key, max_bytes).await?;
        let (opener, record) = (self.opener.clone(), record.clone());
        let opened = blocking(move || Ok::<_, JobError>(opener.open_checked(&sealed, &record))).await?;
        opened.map_err(|source| JobError::Object { key: key.to_string(), source })
    }

    /// Fetches an object's sealed bytes into a file of its own, checked against the manifest, so
    /// that nobody can change them between the check and their use.
    ///
    /// # Errors
    /// [`JobError::Object`] when it differs from the manifest; what store and disk say.
    pub async fn spool_sealed(
        &self,
        name: &str,
        record: &ObjectRecord,
        directory: &Path,
        progress: &Progress,
    ) -> Result<PathBuf, JobError> {
        let key = self.entry.home.key(name);
        let path = directory.join(name);
        let mut file = private_file(&path).map_err(|source| disk("write", &path, source))?;
        let mut check = StoredCheck::default();
        let mut pieces = self.catalog.store().get(&key).await?;
        while let Some(piece) = pieces.try_next().await? {
            check.update(&piece);
            file.write_all(&piece).map_err(|source| disk("write", &path, source))?;
            progress.beat();
        }
        check.finish(record.stored_bytes, record.stored_sha256).map_err(|source| damaged(&key, source))?;
        Ok(path)
    }

    /// Opens a spooled object into `to`; the inner result says whether it is what the manifest says.
    ///
    /// # Errors
    /// [`JobError::Panicked`]
    pub async fn pump_opened<W: Write + Send + 'static>(
        &self,
        sealed: &Path,
        record: &ObjectRecord,
        mut to: W,
        progress: &Arc<Progress>,
    ) -> Result<Result<(), SealError>, JobError> {
        let (opener, progress, record, sealed) =
            (self.opener.clone(), Arc::clone(progress), record.clone(), sealed.to_owned());
        blocking(move || Ok::<_, JobError>(open_into(&opener, &sealed, &mut to, &record, &progress))).await
    }

    /// Fetches one chunk and returns its COPY text in `buffer`, its digests compared on both sides:
    /// these are the bytes whose rows were counted when the snapshot was taken.
    ///
    /// # Errors
    /// [`JobError::Object`] when it is missing or differs from manifest or inventory.
    pub async fn chunk_text(&self, part: &ChunkPart, buffer: Vec<u8>) -> Result<Vec<u8>, JobError> {
        let key = layout::chunk_key(self.catalog.cluster(), &part.name);
        let chunks = &self.entry.manifest.chunks;
        let found = chunks.binary_search_by(|record| record.name.as_str().cmp(&part.name)).ok();
        let Some(record) = found.and_then(|index| chunks.get(index)).cloned() else {
            return Err(damaged(&key, io::Error::other("the inventory names it, the manifest does not")));
        };
        let sealed = read_small(self.catalog.store().as_ref(), &key, CHUNK_MAX_BYTES).await?;
        let (opener, part) = (self.opener.clone(), part.clone());
        let opened = blocking(move || {
            let opened = check_stored(&sealed, record.stored_bytes, record.stored_sha256)
                .map_err(SealError::Damaged)
                .and_then(|()| opener.open_plain(&sealed, part.plain_bytes, part.plain_blake3, buffer));
            Ok::<_, JobError>(opened)
        })
        .await?;
        opened.map_err(|source| JobError::Object { key: key.to_string(), source })
    }
}

fn damaged(key: &ObjectKey, source: io::Error) -> JobError {
    JobError::Object { key: key.to_string(), source: SealError::Damaged(source) }
}

fn private_file(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Checks sealed bytes as they pass.
#[derive(Default)]
pub struct StoredCheck {
    stored_bytes: u64,
    sha256: sha2::Sha256,
}

impl StoredCheck {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        use sha2::Digest as _;
        self.stored_bytes += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    /// Compares what passed with what the manifest says.
    ///
    /// # Errors
    /// An [`io::Error`] that says what differs.
    pub fn finish(self, stored_bytes: u64, stored_sha256: crate::rules::digest::Digest256) -> io::Result<()> {
        if self.stored_bytes != stored_bytes {
            return Err(io::Error::other(format!(
                "it has {} bytes, the manifest says {stored_bytes}",
                self.stored_bytes
            )));
        }
        if crate::rules::digest::Digest256::from(self.sha256) != stored_sha256 {
            return Err(io::Error::other("its SHA-256 is not that of the manifest"));
        }
        Ok(())
    }
}

/// What happens to an error of pg_restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreErrors {
    /// The load fails.
    Refuse,
    /// It is reported, and the load goes on.
    Accept,
}

/// Where and how a snapshot is loaded.
pub struct Target<'a> {
    /// The empty database.
    pub connection: &'a Connection,
    /// PostgreSQL's programs.
    pub tools: &'a Tools,
    /// Sessions at once.
    pub jobs: usize,
    /// A 0700 directory for the schema archive and sealed spools; the caller empties it.
    pub work_directory: &'a Path,
    /// What an error of pg_restore means.
    pub errors: RestoreErrors,
    /// Told as bytes pass.
    pub progress: &'a Arc<Progress>,
}

/// What was loaded.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Rows that the server took, by table, of those that were loaded in chunks.
    pub rows: BTreeMap<(String, String), u64>,
    /// The schema archive, opened, in the work directory.
    pub schema_archive: PathBuf,
    /// Errors of pg_restore that were accepted.
    pub accepted: Vec<String>,
    /// Tables whose columns' statistics were gathered meanwhile.
    pub analyzed: BTreeSet<(String, String)>,
}

/// Loads the whole snapshot: schema, data, indexes and constraints; its statistics are [`statistics`].
///
/// # Errors
/// [`JobError::Object`] for anything in the store that is not as the manifest says; what
/// PostgreSQL says of the rest. The database is of no use then.
pub async fn load(
    source: &Source<'_>,
    inventory: &Inventory,
    target: &Target<'_>,
) -> Result<Loaded, JobError> {
    let objects = &source.entry.manifest.objects;
    let mut loaded = Loaded::default();
    target.progress.enter("loading the schema");
    let schema = open_schema(source, target.work_directory, target.progress).await?;
    let (accepted, post_data, data) = futures::try_join!(
        run_pg_restore(target, &["--section=pre-data"], &schema, 1, tools::PINNED_OPTIONS),
        PostData::read(target, &schema),
        source.spool_sealed(layout::DATA, &objects.data, target.work_directory, target.progress)
    )?;
    loaded.accepted.extend(accepted);

    target.progress.enter("loading tables");
    target
        .progress
        .expect(chunks::chunked(inventory).flat_map(|(_, parts)| parts).map(|part| part.plain_bytes).sum());
    let (from_chunks, accepted) = futures::try_join!(
        chunks::load(source, inventory, target, &post_data),
        load_data(source, target, &data)
    )?;
    (loaded.rows, loaded.analyzed) = (from_chunks.rows, from_chunks.analyzed);
    loaded.accepted.extend(from_chunks.accepted.into_iter().chain(accepted));

    target.progress.enter("building indexes and constraints");
    loaded.accepted.extend(post_data.build_rest(target).await?);
    std::fs::remove_file(&data).map_err(|source| disk("remove", &data, source))?;
    loaded.schema_archive = schema;
    Ok(loaded)
}

/// Opens the schema archive into the work directory: pg_restore needs to seek in it.
pub(super) async fn open_schema(
    source: &Source<'_>,
    directory: &Path,
    progress: &Arc<Progress>,
) -> Result<PathBuf, JobError> {
    let record = source.entry.manifest.objects.schema.clone();
    let sealed = source.spool_sealed(layout::SCHEMA, &record, directory, progress).await?;
    let path = directory.join("schema.dump");
    let file = private_file(&path).map_err(|source| disk("write", &path, source))?;
    let opened = source.pump_opened(&sealed, &record, file, progress).await?;
    opened.map_err(|error| JobError::Object {
        key: source.entry.home.key(layout::SCHEMA).to_string(),
        source: error,
    })?;
    std::fs::remove_file(&sealed).map_err(|source| disk("remove", &sealed, source))?;
    Ok(path)
}

/// Opens a spooled object into `to`, comparing what passes with the manifest.
fn open_into(
    opener: &Opener,
    sealed: &Path,
    to: &mut impl Write,
    record: &ObjectRecord,
    progress: &Progress,
) -> Result<(), SealError> {
    let file = std::fs::File::open(sealed).map_err(SealError::Damaged)?;
    let mut plain = PlainCheck { to, hasher: blake3::Hasher::new() };
    let plain_bytes =
        pump(opener.open(file)?, &mut plain, |_| progress.beat()).map_err(SealError::Damaged)?;
    let digest: crate::rules::digest::Digest256 = plain.hasher.finalize().into();
    if plain_bytes != record.plain_bytes || digest != record.plain_blake3 {
        return Err(SealError::Damaged(io::Error::other("its contents are not those of the manifest")));
    }
    Ok(())
}

struct PlainCheck<'a, W: Write> {
    to: &'a mut W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for PlainCheck<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

async fn run_pg_restore(
    target: &Target<'_>,
    arguments: &[&str],
    archive: &Path,
    jobs: usize,
    session_options: &str,
) -> Result<Vec<String>, JobError> {
    let mut command = pg_restore(target);
    command.env("PGOPTIONS", session_options);
    command.args(arguments).arg(format!("--jobs={jobs}")).arg(archive);
    let watched = heartbeat(target.progress, tools::run(command)).await;
    accepted(target.errors, watched)
}

fn pg_restore(target: &Target<'_>) -> tokio::process::Command {
    let mut command = target.tools.command("pg_restore", target.connection);
    command.args(["--no-password", "--dbname", &super::conninfo_of(&target.connection.database)]);
    if target.errors == RestoreErrors::Refuse {
        command.arg("--exit-on-error");
    }
    command
}

fn accepted(errors: RestoreErrors, ended: Result<String, PostgresError>) -> Result<Vec<String>, JobError> {
    match ended {
        Ok(_) => Ok(Vec::new()),
        // pg_restore goes on after an error of the server, counts them, and exits with status 1.
        Err(PostgresError::ToolFailed { messages, .. })
            if errors == RestoreErrors::Accept && messages.contains("errors ignored on restore") =>
        {
            Ok(messages.lines().filter(|line| line.contains("error:")).map(str::to_owned).collect())
        }
        Err(error) => Err(error.into()),
    }
}

/// A server that builds an index says nothing for hours; that it still works is movement.
pub(super) async fn heartbeat<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => progress.beat(),
        }
    }
}

/// Streams `data.dump` into pg_restore.
async fn load_data(source: &Source<'_>, target: &Target<'_>, sealed: &Path) -> Result<Vec<String>, JobError> {
    let mut tool = RunningTool::start(pg_restore(target), Streams::In)?;
    let stdin = tool.stdin()?;
    let opened = source.pump_opened(sealed, &source.entry.manifest.objects.data, stdin, target.progress);
    let (opened, ended) = heartbeat(target.progress, async { tokio::join!(opened, tool.reap()) }).await;
    // A pg_restore that failed explains more than the pipe that it left.
    let accepted = accepted(target.errors, ended)?;
    opened?.map_err(|error| JobError::Object {
        key: source.entry.home.key(layout::DATA).to_string(),
        source: error,
    })?;
    Ok(accepted)
}
