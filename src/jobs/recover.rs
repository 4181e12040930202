//! Recovers the cluster as it was at a moment: a base backup, and the log behind it up to there.
//!
//! Comes in: a moment, and an empty directory. Goes out: a data directory that was replayed up to the
//! moment, promoted, and shut down in order; or the server that did so, still running. The server asks
//! for the log by files, and what it asks for, and what comes next, is fetched by this process: keys
//! and addresses stay in it.

mod assemble;
mod feed;
mod guard;
mod moment;
mod places;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use self::feed::Feed;
use self::guard::{Guard, Reach};
pub use self::moment::{Moment, database_at};
pub use self::places::places;
use super::receive_wal::Shipped;
use super::{JobError, Progress, Stopwatch, WorkDirectory};
use crate::catalog::Catalog;
use crate::postgres::recovering::{self, RecoveredServer, Replay};
use crate::postgres::tools::{self, Tools};
use crate::rules::chain::Broken;
use crate::rules::layout::SnapshotId;
use crate::rules::physical::{self, BaseManifest, PieceName, PieceRecord, Switch};
use crate::rules::recovery::{self, Base, Log, Plan, Target, Window};
use crate::rules::tablespaces::Place;
use crate::seal::Opener;
use crate::store::StoreError;

/// What `pg_basebackup` calls its list of files.
const LIST_OF_FILES: &str = "backup_manifest";

/// What a recovery is made with.
pub struct Means<'a> {
    /// Where base backups and the log lie.
    pub catalog: &'a Catalog,
    /// What opens them.
    pub opener: &'a Opener,
    /// Where PostgreSQL's programs are looked for first.
    pub bin_directory: Option<&'a Path>,
    /// The search path for programs.
    pub path: &'a str,
    /// A 0700 directory for the server's socket and for the log on its way.
    pub scratch_directory: &'a Path,
    /// Told as bytes pass.
    pub progress: &'a Arc<Progress>,
}

/// What the repository has of the physical side, as far as a recovery looks at it.
pub struct Stock {
    /// Base backups that are believed, oldest first.
    pub bases: Vec<BaseManifest>,
    /// Those that are not, and why.
    pub rejected: Vec<(SnapshotId, String)>,
    pieces: BTreeSet<PieceName>,
    /// The log.
    pub log: Log,
    /// What whoever receives the log noted, if that was on this host.
    pub shipped: Option<Shipped>,
}

impl Stock {
    /// Lists base backups and log, and reads the histories of the timelines.
    ///
    /// # Errors
    /// What the store says; a history that cannot be opened.
    pub async fn read(catalog: &Catalog, opener: Option<&Opener>) -> Result<Self, JobError> {
        let found = catalog.bases().await?;
        let pieces: BTreeSet<PieceName> = catalog.pieces().await?.into_iter().collect();
        let mut histories: BTreeMap<u32, Vec<Switch>> = BTreeMap::new();
        for piece in &pieces {
            if let (PieceName::History(timeline), Some(opener)) = (piece, opener) {
                let text = feed::open_piece(catalog, opener, piece).await?;
                histories.insert(*timeline, physical::history(&String::from_utf8_lossy(&text)));
            }
        }
        let segment_bytes = found.bases.last().map_or(16 << 20, |base| base.segment_bytes);
        let rejected =
            found.rejected.into_iter().map(|(id, error)| (id, crate::rules::causes::in_a_sentence(&error)));
        Ok(Self {
            rejected: rejected.collect(),
            log: Log::new(segment_bytes, &pieces, histories),
            bases: found.bases,
            pieces,
            shipped: None,
        })
    }

    /// What can be reached on `timeline`, the newest unless one is named.
    pub fn windows(&self, timeline: Option<u32>) -> (u32, Vec<Window>) {
        let timeline = timeline.or_else(|| self.log.newest_timeline()).unwrap_or(1);
        let bases: Vec<Base> = self.bases.iter().map(base_of).collect();
        (timeline, recovery::windows(&bases, &self.log, timeline))
    }

    /// Until when everything that was committed is stored in a window.
    ///
    /// # Errors
    /// What the store says.
    pub async fn complete_until(
        &self,
        catalog: &Catalog,
        window: &Window,
    ) -> Result<Option<DateTime<Utc>>, JobError> {
        let Some(last) = self.log.last_piece(window.timeline, window.end) else { return Ok(None) };
        let mut names: Vec<&PieceName> =
            self.pieces.iter().filter(|piece| is_of(piece, &last.to_string())).collect();
        // The parts of a segment are in the order of their ends where they begin alike.
        names.sort();
        // On a server where nothing is written no piece is newer, though time goes on.
        let is_of_window =
            |shipped: &&Shipped| shipped.timeline == window.timeline && shipped.until <= window.end;
        let mut latest = self.shipped.as_ref().filter(is_of_window).map(|shipped| shipped.complete_until);
        for name in names {
            if let Some(record) = catalog.piece(name).await? {
                latest = latest.max(record.complete_until);
            }
        }
        Ok(latest)
    }

    /// Decides how `target` is recovered.
    ///
    /// # Errors
    /// [`JobError::Refused`] with the nearest moments that can be reached.
    pub async fn plan(
        &self,
        catalog: &Catalog,
        target: &Target,
        timeline: Option<u32>,
    ) -> Result<(Plan, BaseManifest), JobError> {
        let (timeline, windows) = self.windows(timeline);
        let mut complete: Vec<(SnapshotId, Option<DateTime<Utc>>)> = Vec::new();
        for window in &windows {
            complete.push((window.base.id.clone(), self.complete_until(catalog, window).await?));
        }
        let complete_until = |window: &Window| {
            complete.iter().find(|(id, _)| *id == window.base.id).and_then(|(_, until)| *until)
        };
        let refused = |reason: String| {
            let broken = windows.iter().filter_map(|window| {
                let (id, missing) = (window.base.id.clone(), window.missing.clone()?);
                Some(Broken { id, missing }.to_string())
            });
            let reasons = std::iter::once(reason).chain(broken).collect();
            JobError::Refused { action: format!("recover {target}"), reasons }
        };
        let plan = recovery::plan(target, timeline, &windows, complete_until, None)
            .map_err(|unreachable| refused(unreachable.to_string()))?;
        let base = self.bases.iter().find(|base| base.id == plan.window.base.id).cloned();
        let base = base.ok_or_else(|| refused("its base backup is gone".into()))?;
        Ok((plan, base))
    }
}

fn is_of(piece: &PieceName, segment: &str) -> bool {
    match piece {
        PieceName::Segment(name) | PieceName::Part { segment: name, .. } => name == segment,
        PieceName::History(_) => false,
    }
}

/// What recovery looks at of a base backup.
pub fn base_of(manifest: &BaseManifest) -> Base {
    Base {
        id: manifest.id.clone(),
        parent: manifest.parent.clone(),
        timeline: manifest.timeline,
        start: manifest.start_lsn,
        stop: manifest.stop_lsn,
        ended_at: manifest.ended_at,
    }
}

/// A recovery that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// From which base backup.
    pub base: SnapshotId,
    /// PostgreSQL's major.
    pub major: u32,
    /// Whether the log ended before a commit behind the moment: then its end is the moment.
    pub reached_end: bool,
    /// Segments of the log that the server took.
    pub segments: u64,
    /// What could not be proven.
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// A cluster that is recovered and served; both end when this is dropped.
pub struct Served {
    /// What is known of it.
    pub recovered: Recovered,
    /// The server.
    pub server: RecoveredServer,
    /// The directory of the server's programs.
    pub programs: PathBuf,
    _room: WorkDirectory,
}

/// Recovers `plan` into a scratch `directory`, which is made or is empty, and leaves the server running. Its
/// tablespaces go into a directory beside it, and nowhere else.
///
/// # Errors
/// [`JobError::Object`] when base backup or log are not what was stored; what PostgreSQL says. What was
/// made in the directory stays there.
pub async fn recover(
    means: &Means<'_>,
    stock: &Stock,
    plan: &Plan,
    base: &BaseManifest,
    directory: &Path,
    is_durable: bool,
) -> Result<Served, JobError> {
    let placed = places::beside(&base.tablespaces, directory)?;
    recover_to(means, stock, (plan, base), directory, (&placed, Reach::Given), is_durable).await
}

async fn recover_to(
    means: &Means<'_>,
    stock: &Stock,
    (plan, base): (&Plan, &BaseManifest),
    directory: &Path,
    (placed, reach): (&[Place], Reach),
    is_durable: bool,
) -> Result<Served, JobError> {
    let watch = Stopwatch::start();
    let major = base.server_version_num / 10_000;
    let programs = Tools::find_server(means.bin_directory, means.path, major).await?;
    let mut notes = Vec::new();
    means.progress.enter("unpacking the base backup");
    means.progress.expect(base.plain_bytes);
    assemble::assemble(means, &stock.bases, base, &programs, directory, placed, is_durable).await?;
    means.progress.enter("verifying the base backup");
    notes.extend(verify_files(&programs, directory).await?);
    places::write_map(placed, directory)?;
    recovering::clean(directory).map_err(|source| disk("clean", directory, source))?;

    means.progress.enter("replaying the write-ahead log");
    means.progress.expect(plan.window.end.0.saturating_sub(base.start_lsn.0));
    let room = WorkDirectory::create(means.scratch_directory)?;
    let feed = Feed::open(means, stock, base, Guard::new(reach, placed), room.path())?;
    let command = feed.restore_command();
    let mut replay = Replay {
        data: directory,
        room: room.path(),
        programs: &programs,
        restore_command: &command,
        timeline: plan.window.timeline,
        stop_at: plan.stop_at.as_ref(),
        superuser: &base.bootstrap_superuser,
        is_durable,
    };
    let mut reached_end = false;
    let server = loop {
        let replayed = tokio::select! {
            replayed = replay.run() => replayed?,
            error = feed.serve() => return Err(error),
        };
        match replayed {
            Some(server) => break server,
            // Everything that was committed until then is in what is stored: the end is the moment.
            None if matches!(replay.stop_at, Some(Target::Time(_))) => {
                reached_end = true;
                replay.stop_at = None;
            }
            None => {
                let target = plan.stop_at.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(JobError::Refused {
                    action: format!("recover {target}"),
                    reasons: vec!["the log that is stored ends before it".into()],
                });
            }
        }
    };
    let recovered = Recovered {
        base: base.id.clone(),
        major,
        reached_end,
        segments: feed.served(),
        notes,
        elapsed_ms: watch.elapsed_ms(),
    };
    Ok(Served { recovered, server, programs, _room: room })
}

/// Recovers into a directory that is to be used, its tablespaces at `placed` as [`places`] has them: what is left
/// is a cluster that was shut down in order.
///
/// # Errors
/// As [`recover`].
pub async fn recover_into(
    means: &Means<'_>,
    stock: &Stock,
    plan: &Plan,
    base: &BaseManifest,
    directory: &Path,
    placed: &[Place],
) -> Result<Recovered, JobError> {
    let watch = Stopwatch::start();
    let Served { mut recovered, server, programs, _room } =
        recover_to(means, stock, (plan, base), directory, (placed, Reach::Empty), true).await?;
    means.progress.enter("shutting down");
    server.shut_down().await?;
    recovering::clean(directory).map_err(|source| disk("clean", directory, source))?;
    let mut sync = tokio::process::Command::new(programs.join("initdb"));
    sync.arg("--sync-only").arg("--pgdata").arg(directory).env("LC_ALL", "C");
    tools::run(sync).await?;
    if !directory.join("postgresql.conf").exists() {
        recovered.notes.push(
            "the cluster kept its settings outside of its data directory: give it a postgresql.conf and a pg_hba.conf"
                .into(),
        );
    }
    recovered.notes.extend(places::moved_in(placed, directory));
    recovered.elapsed_ms = watch.elapsed_ms();
    Ok(recovered)
}

/// Compares the files with the list that `pg_basebackup` made of them; returns why that could not be.
async fn verify_files(programs: &Path, directory: &Path) -> Result<Option<String>, JobError> {
    let program = programs.join("pg_verifybackup");
    if !directory.join(LIST_OF_FILES).exists() {
        return Ok(Some("the server was too old to list its files: they are not compared".into()));
    }
    if !program.exists() {
        return Ok(Some(format!("there is no {}: the files are not compared", program.display())));
    }
    let mut command = tokio::process::Command::new(program);
    // The log lies elsewhere, and is proven by being replayed.
    command.args(["--no-parse-wal", "--quiet"]).arg(directory).env("LC_ALL", "C");
    tools::run(command).await?;
    Ok(None)
}

fn disk(action: &'static str, path: &Path, source: std::io::Error) -> JobError {
    JobError::Disk { action, path: path.to_owned(), source }
}

/// A piece whose record was listed and is gone: a whole segment took the place of its parts.
fn is_gone(error: &JobError) -> bool {
    matches!(error, JobError::Store(StoreError::Missing { .. }))
}

/// Whether a piece belongs to the cluster of the base backup.
fn check_cluster(record: &PieceRecord, base: &BaseManifest) -> Result<(), JobError> {
    if record.system_identifier == base.system_identifier {
        return Ok(());
    }
    Err(JobError::Refused {
        action: format!("replay {}", record.name),
        reasons: vec![format!("it is of cluster {}, the base backup of another", record.system_identifier)],
    })
}
