//! What Belay does, as procedures: one public function each, its steps named at one height.

pub mod base_backup;
pub mod due;
pub mod fetch_wal;
pub mod keep_wal;
pub mod load;
pub mod migrate;
mod opening;
pub mod prove;
pub mod push_wal;
pub mod receive_wal;
pub mod recover;
pub mod restore;
pub mod retain;
mod sealing;
pub mod snapshot;
pub mod verify;
pub mod verify_physical;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::catalog::CatalogError;
use crate::command::CommandError;
use crate::fence::FenceError;
use crate::ledger::LedgerError;
use crate::ledger::lock::LockError;
use crate::postgres::PostgresError;
use crate::rules::layout::SnapshotId;
use crate::rules::table_name::TableNotFound;
use crate::seal::SealError;
use crate::store::StoreError;

/// Why a job did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// PostgreSQL or one of its programs.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Compression or encryption.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// An object of a snapshot is not what the manifest says.
    #[error("{key}")]
    Object {
        /// Its key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: SealError,
    },
    /// There is no identity on this host that could open snapshots.
    #[error("{action}: there is no identity on this host")]
    NoIdentity {
        /// What needed one.
        action: &'static str,
    },
    /// What is asked for would destroy or overwrite something, or cannot succeed.
    #[error("{action}: {}", reasons.join("; "))]
    Refused {
        /// What was asked for.
        action: String,
        /// Each reason as a sentence.
        reasons: Vec<String>,
    },
    /// What a base backup consists of is not what was stored.
    #[error("base backup {base} is damaged")]
    DamagedBase {
        /// The base backup.
        base: SnapshotId,
        /// Another one that reaches the moment, as far as is known.
        instead: Option<SnapshotId>,
        /// What is wrong with which object.
        #[source]
        source: Box<JobError>,
    },
    /// The base backup that was asked for does not lead to the moment.
    #[error("{action}: {why}")]
    NotFromBase {
        /// What was asked for.
        action: String,
        /// What it reaches, as a sentence.
        why: String,
        /// The one that is taken where none is asked for, if one leads there.
        instead: Option<SnapshotId>,
    },
    /// No base backup can be begun with.
    #[error("{action}: {}", reasons.join("; "))]
    NoBase {
        /// What was asked for.
        action: String,
        /// Each reason as a sentence.
        reasons: Vec<String>,
    },
    /// A table that is asked for is not in the snapshot.
    #[error(transparent)]
    NoTable(#[from] TableNotFound),
    /// What was loaded is not what the snapshot holds.
    #[error("{action}: {}", problems.join("; "))]
    NotProven {
        /// What was done.
        action: String,
        /// Each difference as a sentence.
        problems: Vec<String>,
    },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A lock of this host.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What is stored under a cluster's name is of another cluster than the server.
    #[error(
        "keep cluster {cluster}: the server is cluster {found} by PostgreSQL's own number, and what is stored as \
        {cluster} is of cluster {stored}: their base backups and logs must not be mixed"
    )]
    OtherCluster {
        /// Name of the cluster in the settings.
        cluster: String,
        /// The number of the cluster in the repository.
        stored: String,
        /// The number of the server's.
        found: String,
    },
    /// A fence.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// Somebody else's program.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The process that waits for the end of a command is told to stop; a later one waits on.
    #[error("wait for the command of run {run}: it runs on another machine, and belay is told to stop")]
    RunsElsewhere {
        /// The run.
        run: String,
    },
    /// Our own disk.
    #[error("{action} {}", path.display())]
    Disk {
        /// `write`, `remove`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A task of ours panicked; a defect.
    #[error("a task of the job panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// An error of our own disk, for `map_err`.
fn disk(action: &'static str, path: &Path, source: std::io::Error) -> JobError {
    JobError::Disk { action, path: path.to_owned(), source }
}

/// Runs `work` on the pool for work that blocks or computes for long.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, JobError>
where
    T: Send + 'static,
    E: Into<JobError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(JobError::Panicked)?.map_err(Into::into)
}

/// Runs `work` until it ends, or until `progress` stood still for `stall_timeout`.
///
/// There is no limit on the whole: a large database takes its time.
async fn until_stalled<T>(
    progress: &Progress,
    stall_timeout: Duration,
    action: &str,
    work: impl Future<Output = Result<T, JobError>>,
) -> Result<T, JobError> {
    let watch = async {
        loop {
            let before = progress.beats();
            tokio::time::sleep(stall_timeout).await;
            if progress.beats() == before {
                return;
            }
        }
    };
    tokio::select! {
        done = work => done,
        () = watch => Err(PostgresError::Stalled { action: action.into(), waited: stall_timeout }.into()),
    }
}

/// A 0700 directory of one job, removed with what is in it when dropped.
struct WorkDirectory(tempfile::TempDir);

impl WorkDirectory {
    /// Makes one under `parent`, which is made if it is missing.
    fn create(parent: &Path) -> Result<Self, JobError> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        let failed = |source| disk("make a directory in", parent, source);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
        let private = std::fs::Permissions::from_mode(0o700);
        let made = tempfile::Builder::new()
            .prefix(&format!("work-{}-", std::process::id()))
            .permissions(private)
            .tempdir_in(parent);
        made.map(Self).map_err(failed)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A connection string that names a database, whatever its name.
fn conninfo_of(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Measures how long a job takes.
struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How far a job is; written by the job, read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    phase: Mutex<&'static str>,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    beats: AtomicU64,
}

impl Progress {
    /// Says what the job does now; counts as movement.
    pub fn enter(&self, phase: &'static str) {
        tracing::debug!(phase, "phase begins");
        *self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = phase;
        self.beat();
    }

    /// What the job does now, such as `copying tables`.
    pub fn phase(&self) -> &'static str {
        *self.phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts to count anew, towards `total_bytes`; zero when it is not known.
    pub fn expect(&self, total_bytes: u64) {
        self.done_bytes.store(0, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Adds bytes that passed.
    pub fn advance(&self, bytes: usize) {
        self.done_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.beat();
    }

    /// Says that something moved, though no bytes are counted.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes done, and bytes expected (zero when not known).
    pub fn bytes(&self) -> (u64, u64) {
        (self.done_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }

    /// A number that differs after every movement.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}
