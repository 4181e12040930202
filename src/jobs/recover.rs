//! Recovers the cluster as it was at a moment: a base backup, and the log behind it up to there.
//!
//! Comes in: a moment, and an empty directory. Goes out: a data directory that was replayed up to the
//! moment, promoted, and shut down in order; or the server that did so, still running. The server asks
//! for the log by files, and what it asks for, and what comes next, is fetched by this process: keys
//! and addresses stay in it.

mod assemble;
mod damage;
mod feed;
mod guard;
mod moment;
mod places;
pub mod segment;
mod sought;
mod stock;
mod unpack;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::damage::is_of_the_machine;
use self::feed::Feed;
use self::guard::{Guard, Reach};
pub use self::moment::{Moment, databases_at};
pub use self::places::places;
pub(super) use self::segment::Source;
pub use self::stock::{Choice, Stock, base_of};
use super::{JobError, Progress, Stopwatch, WorkDirectory, disk};
use crate::catalog::Catalog;
use crate::postgres::recovering::{self, RecoveredServer, Replay, Replayed};
use crate::postgres::tools::{self, Tools};
use crate::postgres::{replication, session};
use crate::rules::causes::in_a_sentence;
use crate::rules::chain;
use crate::rules::layout::SnapshotId;
use crate::rules::physical::BaseManifest;
use crate::rules::recovery::{Plan, Target, Window};
use crate::rules::tablespaces::Place;
use crate::seal::Opener;

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

/// A recovery that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// From which base backup.
    pub base: SnapshotId,
    /// PostgreSQL's major.
    pub major: u32,
    /// Whether the log ended before a commit behind the moment: then its end is the moment.
    pub reached_end: bool,
    /// Where it ended.
    pub reached: Replayed,
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
/// made in the directory stays there, unless that is [`recover_into`]'s.
pub async fn recover(
    means: &Means<'_>,
    stock: &Stock,
    plan: &Plan,
    base: &BaseManifest,
    directory: &Path,
    is_durable: bool,
) -> Result<Served, JobError> {
    let placed = places::beside(&base.tablespaces, directory)?;
    let site = Site { directory, placed: &placed, reach: Reach::Given, is_durable };
    recover_at(means, stock, plan, base, site).await
}

/// Where a cluster is recovered.
#[derive(Clone, Copy)]
struct Site<'a> {
    directory: &'a Path,
    placed: &'a [Place],
    reach: Reach,
    /// Whether what is recovered has to outlive a crash of the machine.
    is_durable: bool,
}

async fn recover_at(
    means: &Means<'_>,
    stock: &Stock,
    plan: &Plan,
    base: &BaseManifest,
    site: Site<'_>,
) -> Result<Served, JobError> {
    let watch = Stopwatch::start();
    let has_places = |older: &&BaseManifest| older.tablespaces == base.tablespaces;
    let windows = tried(means, stock, plan, base).await?;
    let tried = windows.into_iter().filter_map(|it| Some((it, stock.base(it).filter(has_places)?)));
    for (window, base) in tried {
        let plan = Plan { window: window.clone(), ..plan.clone() };
        if let Some(mut served) = recover_from(means, stock, &plan, base, site).await? {
            served.recovered.elapsed_ms = watch.elapsed_ms();
            return Ok(served);
        }
        tracing::info!(base = %base.id, "the moment is not behind this base backup");
        site.empty()?;
    }
    let target = plan.stop_at.as_ref().map(ToString::to_string).unwrap_or_default();
    Err(JobError::Refused {
        action: format!("recover {target}"),
        reasons: vec!["the log that is stored ends before it".into()],
    })
}

/// The windows of `plan` that are to be tried, in this order: where the place of a restore point is not known,
/// but is found in the log, those that reach it.
///
/// # Errors
/// [`JobError::Refused`] when no log has it. What is damaged elsewhere may be what nobody wants, and is not said here.
async fn tried<'a>(
    means: &Means<'_>,
    stock: &Stock,
    plan: &'a Plan,
    base: &BaseManifest,
) -> Result<Vec<&'a Window>, JobError> {
    let all: Vec<&Window> = std::iter::once(&plan.window).chain(&plan.older).collect();
    let Some(Target::Name(name)) = &plan.stop_at else { return Ok(all) };
    let known = means.catalog.restore_points().await.unwrap_or_default();
    if known.iter().any(|point| point.name == *name) {
        return Ok(all);
    }
    match sought::place_of(means, stock, plan, base, name).await {
        Ok(lsn) => {
            let reaches = |window: &&Window| window.base.stop <= lsn && lsn <= window.end;
            Ok(all.into_iter().filter(reaches).collect())
        }
        Err(error @ JobError::Refused { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the log is not looked through for the restore point: a server does it");
            Ok(all)
        }
    }
}

/// As [`recover`], from the plan's window alone; `None` when the log behind it ends before the moment.
async fn recover_from(
    means: &Means<'_>,
    stock: &Stock,
    plan: &Plan,
    base: &BaseManifest,
    Site { directory, placed, reach, is_durable }: Site<'_>,
) -> Result<Option<Served>, JobError> {
    let major = base.server_version_num / 10_000;
    let programs = Tools::find_server(means.bin_directory, means.path, major).await?;
    let passed_over = |id: &SnapshotId| {
        format!("base backup {id} was passed over: its verification failed, or that of one that it builds on")
    };
    let mut notes: Vec<String> = plan.passed_over.iter().map(passed_over).collect();
    means.progress.enter("unpacking the base backup");
    means.progress.expect(base.plain_bytes);
    let assembled = assemble::assemble(means, &stock.bases, base, &programs, directory, placed, is_durable);
    assembled.await.map_err(|error| damage::named(error, stock, plan))?;
    means.progress.enter("verifying the base backup");
    let verified = verify_files(&programs, directory).await;
    notes.extend(verified.map_err(|error| damage::found_in(&base.id, error, stock, plan))?);
    places::write_map(placed, directory)?;
    recovering::clean(directory).map_err(|source| disk("clean", directory, source))?;

    means.progress.enter("replaying the write-ahead log");
    means.progress.expect(plan.window.end.0.saturating_sub(base.start_lsn.0));
    let room = WorkDirectory::create(means.scratch_directory)?;
    let feed =
        Feed::open(means, stock, (base, plan.window.timeline), Guard::new(reach, placed), room.path())?;
    let command = feed.restore_command();
    let mut replay = Replay {
        data: directory,
        room: room.path(),
        programs: &programs,
        restore_command: &command,
        timeline: plan.window.timeline,
        stop_at: plan.stop_at.as_ref(),
        superuser: &base.bootstrap_superuser,
        segment_bytes: base.segment_bytes,
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
            // Everything that was committed, or written, until then is in what is stored: the end is the moment.
            None if matches!(replay.stop_at, Some(Target::Time(_) | Target::Lsn(_))) => {
                reached_end = true;
                replay.stop_at = None;
            }
            None => return Ok(None),
        }
    };
    let mut session = session::connect(&server.connection).await?;
    let reached = recovering::replayed(&mut session).await?;
    session::close(session).await?;
    let (base, segments) = (base.id.clone(), feed.served());
    let recovered = Recovered { base, major, reached_end, reached, segments, notes, elapsed_ms: 0 };
    Ok(Some(Served { recovered, server, programs, _room: room }))
}

/// Recovers into a directory that is to be used and is emptied again by a failure, its tablespaces at `placed` as [`places`] has them: what is left
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
    let site = Site { directory, placed, reach: Reach::Empty, is_durable: true };
    // All of them are empty now: what is in them later was put there by this.
    let made = places::make_all(directory, placed)?;
    // Before the server, which ends first.
    let mut unfinished = Unfinished { site, made, is_kept: false };
    let Served { mut recovered, server, programs, _room } =
        recover_at(means, stock, plan, base, site).await?;
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
    unfinished.is_kept = true;
    Ok(recovered)
}

impl Site<'_> {
    /// Removes what is in its directories, as far as they are there.
    fn empty(&self) -> Result<(), JobError> {
        let placed = self.placed.iter().map(|place| place.directory.as_path());
        let directories = placed.chain([self.directory]).filter(|directory| directory.exists());
        // One that cannot be emptied does not keep the others.
        let emptied: Vec<_> = directories.map(unpack::empty).collect();
        emptied.into_iter().collect()
    }
}

/// What a recovery makes in directories that were empty: half of a cluster looks like one, and is gone
/// when the recovery does not come to its end.
struct Unfinished<'a> {
    site: Site<'a>,
    /// Those that were not there.
    made: Vec<PathBuf>,
    is_kept: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = self.site.empty() {
            tracing::warn!(%error, "what was recovered in part is left");
        }
        places::remove_empty(&self.made);
    }
}

/// Why `base`, which is one of `bases`, cannot be unpacked in the directory `scratch`, if that is so.
pub fn why_not_unpacked(scratch: &Path, bases: &[BaseManifest], base: &BaseManifest) -> Option<String> {
    let chain = match chain::chain(bases, base) {
        Ok(chain) => chain,
        Err(broken) => return Some(broken.to_string()),
    };
    let placed = places::beside(&base.tablespaces, scratch);
    // All of it lies there.
    let bytes =
        |placed: &[Place]| assemble::needs(&chain, scratch, placed).iter().map(|(_, bytes)| bytes).sum();
    let checked = placed.and_then(|placed| places::check_room(&[(scratch, bytes(&placed))]));
    checked.err().map(|error| in_a_sentence(&error))
}

/// Compares the files with the list that `pg_basebackup` made of them; returns why that could not be.
async fn verify_files(programs: &Path, directory: &Path) -> Result<Option<String>, JobError> {
    let program = programs.join("pg_verifybackup");
    if !directory.join(replication::LIST_OF_FILES).exists() {
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
