//! Copies the data directory and the tablespaces into objects of the store, sealed on the way.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use super::Means;
use crate::jobs::sealing::Sealing;
use crate::jobs::{JobError, Progress, WorkDirectory, disk};
use crate::postgres::PostgresError;
use crate::postgres::archives::{ArchiveName, Archives, NextArchive};
use crate::postgres::replication::{self, Copying};
use crate::postgres::tools::{RunningTool, Streams, Tools};
use crate::rules::layout::{self, SnapshotId};
use crate::rules::manifest::ObjectRecord;
use crate::rules::physical::Tablespace;
use crate::settings::Connection;

const PROGRAM: &str = "pg_basebackup";
/// How much of its beginning is looked at: `backup_label` and `tablespace_map` are the first files of every
/// copy.
const HEAD_BYTES: usize = 1 << 20;

/// What is copied.
pub(super) struct Copy<'a> {
    pub(super) tools: &'a Tools,
    pub(super) to: &'a Connection,
    pub(super) id: &'a SnapshotId,
    pub(super) max_rate_kib: Option<u64>,
    pub(super) tablespaces: &'a [Tablespace],
    /// The list of files that this copy only has the changes since.
    pub(super) parent_manifest: Option<&'a Path>,
}

/// A copy that is stored, and not yet listed.
pub(super) struct Copied {
    pub(super) objects: BTreeMap<String, ObjectRecord>,
    /// The beginning of the data directory's archive.
    pub(super) head: Vec<u8>,
    /// The end of what the program wrote to standard error.
    pub(super) messages: String,
}

impl Copy<'_> {
    /// Copies a cluster without tablespaces: one archive, with the list of files at its end.
    pub(super) async fn to_one_object(&self, means: &Means<'_>) -> Result<Copied, JobError> {
        let tool = self.start(None)?;
        let streamed = sealing(means).stream(tool, &self.key(means, layout::BASE), Head(Vec::new())).await?;
        let objects = BTreeMap::from([(layout::BASE.to_owned(), streamed.record)]);
        Ok(Copied { objects, head: streamed.also.0, messages: streamed.messages })
    }

    /// Copies it into an archive for the data directory, one for each tablespace, and the list of files; they
    /// come through pipes in a directory of `scratch`.
    pub(super) async fn to_objects(&self, means: &Means<'_>, scratch: &Path) -> Result<Copied, JobError> {
        let room = WorkDirectory::create(scratch)?;
        let disk = |source| disk("take archives from", room.path(), source);
        let oids = self.tablespaces.iter().map(|tablespace| tablespace.oid);
        let mut archives = Archives::make(room.path(), oids).map_err(disk)?;
        let tool = Mutex::new(self.start(Some(&archives.directory()))?);
        let has_ended = || tool.lock().unwrap_or_else(std::sync::PoisonError::into_inner).has_ended();
        archives.let_in(has_ended).await.map_err(disk)?;
        let (mut objects, mut head) = (BTreeMap::new(), Vec::new());
        let received = loop {
            let (name, file) = match archives.next(has_ended).await.map_err(disk)? {
                NextArchive::Begins(name, file) => (name, file),
                NextArchive::End => break Ok(()),
            };
            let object = match name {
                ArchiveName::Base => layout::BASE.to_owned(),
                ArchiveName::Tablespace(oid) => layout::tablespace_file(oid),
            };
            let key = self.key(means, &object);
            match sealing(means).stream_from(file, PROGRAM, &key, Head(Vec::new())).await {
                Ok(streamed) => {
                    if name == ArchiveName::Base {
                        head = streamed.also.0;
                    }
                    objects.insert(object, streamed.record);
                }
                Err(error) => break Err(error),
            }
        };
        received?;
        let tool = tool.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let messages = tool.reap().await?;
        self.check_whole(&archives, &objects, &head).map_err(disk)??;
        if let Some(record) = self.list_of_files(means, &archives.manifest()).await? {
            objects.insert(layout::BACKUP_MANIFEST.to_owned(), record);
        }
        Ok(Copied { objects, head, messages })
    }

    fn start(&self, directory: Option<&Path>) -> Result<RunningTool, JobError> {
        let label = format!("belay {}", self.id);
        let copying = Copying {
            label: &label,
            directory,
            max_rate_kib: self.max_rate_kib,
            parent_manifest: self.parent_manifest,
        };
        let streams = if directory.is_some() { Streams::None } else { Streams::Out };
        Ok(RunningTool::start(replication::base_backup(self.tools, self.to, copying), streams)?)
    }

    fn key(&self, means: &Means<'_>, object: &str) -> layout::ObjectKey {
        layout::base_key(means.catalog.cluster(), self.id, object)
    }

    /// Whether every tablespace that the server had came, and each from where we know it to be.
    fn check_whole(
        &self,
        archives: &Archives,
        objects: &BTreeMap<String, ObjectRecord>,
        head: &[u8],
    ) -> io::Result<Result<(), PostgresError>> {
        let mut missing: Vec<String> = archives
            .missing()
            .into_iter()
            .map(|name| match name {
                ArchiveName::Base => "the data directory did not come".into(),
                ArchiveName::Tablespace(oid) => format!("tablespace {oid} did not come"),
            })
            .collect();
        let empty = objects.iter().filter(|(_, record)| record.plain_bytes == 0);
        missing.extend(empty.map(|(name, _)| format!("{name} is empty")));
        missing.extend(archives.strangers()?.iter().map(|name| format!("{name} came as a file")));
        for (oid, location) in replication::tablespaces_in(head) {
            let is_known =
                self.tablespaces.iter().any(|known| known.oid == oid && known.location == location);
            if !is_known {
                missing.push(format!("tablespace {oid} at {location} was not there before"));
            }
        }
        if missing.is_empty() {
            return Ok(Ok(()));
        }
        Ok(Err(PostgresError::Incomplete { tool: PROGRAM, messages: missing.join("; ") }))
    }

    /// Stores the list of files; servers before 13 make none.
    async fn list_of_files(&self, means: &Means<'_>, path: &Path) -> Result<Option<ObjectRecord>, JobError> {
        let disk = |source| disk("read", path, source);
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(disk)?,
        };
        let key = self.key(means, layout::BACKUP_MANIFEST);
        let streamed = sealing(means).stream_from(file, PROGRAM, &key, io::sink()).await?;
        Ok(Some(streamed.record))
    }
}

fn sealing<'a>(means: &Means<'a>) -> Sealing<'a> {
    Sealing {
        sealer: means.sealer,
        store: means.catalog.store(),
        progress: means.progress,
        on_bytes: Progress::advance,
    }
}

/// Whether tablespaces were made or dropped while the copy began, by how it failed.
pub(super) fn is_of_another_moment(error: &JobError) -> bool {
    match error {
        JobError::Postgres(PostgresError::Incomplete { tool, .. }) => *tool == PROGRAM,
        JobError::Postgres(PostgresError::ToolFailed { tool, messages, .. }) => {
            let words = ["could not create file", "exists but is not empty"];
            tool == PROGRAM && words.iter().any(|words| messages.contains(words))
        }
        _ => false,
    }
}

/// Whether the server lacks what an incremental copy is made from.
pub(super) fn is_without_summaries(error: &JobError) -> bool {
    match error {
        JobError::Postgres(PostgresError::ToolFailed { tool, messages, .. }) => {
            tool == PROGRAM && ["WAL summar", "manifest"].iter().any(|words| messages.contains(words))
        }
        _ => false,
    }
}

/// The first bytes of what was written.
struct Head(Vec<u8>);

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = HEAD_BYTES - self.0.len();
        self.0.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
