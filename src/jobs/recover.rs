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
pub mod segment;
mod unpack;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use self::feed::Feed;
use self::guard::{Guard, Reach};
pub use self::moment::{Moment, databases_at};
pub use self::places::places;
pub(super) use self::segment::Source;
use super::receive_wal::Shipped;
use super::{JobError, Progress, Stopwatch, WorkDirectory};
use crate::catalog::Catalog;
use crate::postgres::recovering::{self, RecoveredServer, Replay};
use crate::postgres::replication;
use crate::postgres::tools::{self, Tools};
use crate::rules::causes::in_a_sentence;
use crate::rules::chain::{self, Broken};
use crate::rules::layout::SnapshotId;
use crate::rules::physical::BaseManifest;
use crate::rules::recovery::{self, Base, Log, Plan, Target, Unreachable, Wanted, Window};
use crate::rules::restore_point::{self, RestorePoint};
use crate::rules::tablespaces::Place;
use crate::rules::wal::Lsn;
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

/// What the repository has of the physical side, as far as a recovery looks at it.
pub struct Stock {
    /// Base backups that are believed, oldest first.
    pub bases: Vec<BaseManifest>,
    /// Those that are not, and why.
    pub rejected: Vec<(SnapshotId, String)>,
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
        let pieces = catalog.pieces().await?;
        let segment_bytes = found.bases.last().map_or(16 << 20, |base| base.segment_bytes);
        let rejected = found.rejected.into_iter().map(|(id, error)| (id, in_a_sentence(&error)));
        Ok(Self {
            rejected: rejected.collect(),
            log: Log::new(segment_bytes, &pieces, segment::histories(catalog, opener, &pieces).await?),
            bases: found.bases,
            shipped: None,
        })
    }

    fn bases(&self) -> Vec<Base> {
        self.bases.iter().map(base_of).collect()
    }

    /// What can be reached on `timeline`, the newest unless one is named.
    pub fn windows(&self, timeline: Option<u32>) -> (u32, Vec<Window>) {
        let timeline = timeline.or_else(|| self.log.newest_timeline()).unwrap_or(1);
        (timeline, recovery::windows(&self.bases(), &self.log, timeline))
    }

    /// What can be reached on any timeline.
    pub fn windows_of_all(&self) -> Vec<Window> {
        recovery::windows_of_all(&self.bases(), &self.log)
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
        if !window.is_usable() {
            return Ok(None);
        }
        // On a server where nothing is written no piece is newer, though time goes on.
        let is_of_window =
            |shipped: &&Shipped| shipped.timeline == window.timeline && shipped.until <= window.end;
        let noted = self.shipped.as_ref().filter(is_of_window).map(|shipped| shipped.complete_until);
        for name in self.log.before(window.timeline, &window.base, window.end) {
            if let Some(recorded) = catalog.piece(&name).await?.and_then(|record| record.complete_until) {
                return Ok(noted.max(Some(recorded)));
            }
        }
        Ok(noted)
    }

    /// What the log calls `wanted`, and where it has that, as far as is known; `database` is the one that
    /// was migrated, if one is meant.
    async fn named(
        catalog: &Catalog,
        wanted: &Wanted,
        database: Option<&str>,
    ) -> Result<(Target, Option<(u32, Lsn)>), JobError> {
        let of_point =
            |point: &RestorePoint| (Target::Name(point.name.clone()), Some((point.timeline, point.lsn)));
        match wanted {
            Wanted::Target(target @ Target::Name(name)) => {
                let points = catalog.restore_points().await?;
                let known = points.iter().find(|point| point.name == *name);
                Ok(known.map_or_else(|| (target.clone(), None), of_point))
            }
            Wanted::Target(target) => Ok((target.clone(), None)),
            Wanted::BeforeMigration(revision) => {
                let points = catalog.restore_points().await?;
                let point = restore_point::before_migration(&points, revision, database);
                point.map(of_point).ok_or_else(|| JobError::Refused {
                    action: format!("recover {wanted}"),
                    reasons: vec![match points.last() {
                        Some(last) => format!(
                            "no restore point is known before a migration to it; the newest one is {}, of {}",
                            last.name,
                            last.made_at.to_rfc3339_opts(SecondsFormat::Secs, true)
                        ),
                        None => "no migration has made a restore point".into(),
                    }],
                })
            }
        }
    }

    /// Decides how `wanted` is recovered; `database` is the one that is wanted of the cluster, if it is one.
    ///
    /// # Errors
    /// [`JobError::Refused`] with the nearest moments that can be reached.
    pub async fn plan(
        &self,
        catalog: &Catalog,
        wanted: &Wanted,
        database: Option<&str>,
        timeline: Option<u32>,
    ) -> Result<(Plan, BaseManifest), JobError> {
        let (target, point) = Self::named(catalog, wanted, database).await?;
        // Another timeline has something else at its place.
        let timeline = timeline.or(point.map(|(timeline, _)| timeline));
        let (on, windows) = self.windows(timeline);
        let refused = |reason: String| {
            let broken = windows.iter().filter_map(|window| {
                let (id, missing) = (window.base.id.clone(), window.missing.clone()?);
                Some(Broken { id, missing }.to_string())
            });
            let reasons = std::iter::once(reason).chain(broken).collect();
            JobError::Refused { action: format!("recover {wanted}"), reasons }
        };
        let named_at = point.map(|(_, lsn)| lsn);
        let plan = match self.plan_in(catalog, &target, on, &windows, named_at).await? {
            Ok(plan) => plan,
            Err(unreachable) => {
                let elsewhere = match timeline {
                    None => self.elsewhere(catalog, &target, on).await?,
                    Some(_) => String::new(),
                };
                return Err(refused(format!("{unreachable}{elsewhere}")));
            }
        };
        let base = self.base(&plan.window).cloned();
        let base = base.ok_or_else(|| refused("its base backup is gone".into()))?;
        Ok((plan, base))
    }

    fn base(&self, window: &Window) -> Option<&BaseManifest> {
        self.bases.iter().find(|base| base.id == window.base.id)
    }

    async fn plan_in(
        &self,
        catalog: &Catalog,
        target: &Target,
        timeline: u32,
        windows: &[Window],
        named_at: Option<Lsn>,
    ) -> Result<Result<Plan, Unreachable>, JobError> {
        let mut complete: BTreeMap<SnapshotId, DateTime<Utc>> = BTreeMap::new();
        for window in windows {
            if let Some(until) = self.complete_until(catalog, window).await? {
                complete.insert(window.base.id.clone(), until);
            }
        }
        let complete_until = |window: &Window| complete.get(&window.base.id).copied();
        Ok(recovery::plan(target, timeline, windows, complete_until, named_at))
    }

    /// Which other timelines have the moment, in words.
    async fn elsewhere(&self, catalog: &Catalog, target: &Target, but: u32) -> Result<String, JobError> {
        let mut having = Vec::new();
        for timeline in self.log.timelines().into_iter().filter(|timeline| *timeline != but) {
            let (_, windows) = self.windows(Some(timeline));
            // Whether a restore point is on a timeline is known to the server alone.
            if !matches!(target, Target::Name(_))
                && self.plan_in(catalog, target, timeline, &windows, None).await?.is_ok()
            {
                having.push(format!("--timeline {timeline}"));
            }
        }
        Ok(if having.is_empty() {
            String::new()
        } else {
            format!("; it is there with {}", having.join(" or "))
        })
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
    let has_places = |older: &&BaseManifest| older.tablespaces == base.tablespaces;
    let older = plan.older.iter().filter_map(|window| Some((window, stock.base(window).filter(has_places)?)));
    for (window, base) in std::iter::once((&plan.window, base)).chain(older) {
        let plan = Plan { window: window.clone(), ..plan.clone() };
        let recovery = recover_from(means, stock, (&plan, base), directory, (placed, reach), is_durable);
        if let Some(mut served) = recovery.await? {
            served.recovered.elapsed_ms = watch.elapsed_ms();
            return Ok(served);
        }
        tracing::info!(base = %base.id, "the moment is not behind this base backup");
        unpack::empty(directory)?;
        for place in placed.iter().filter(|place| place.directory.exists()) {
            unpack::empty(&place.directory)?;
        }
    }
    let target = plan.stop_at.as_ref().map(ToString::to_string).unwrap_or_default();
    Err(JobError::Refused {
        action: format!("recover {target}"),
        reasons: vec!["the log that is stored ends before it".into()],
    })
}

/// As [`recover`], from the plan's window alone; `None` when the log behind it ends before the moment.
async fn recover_from(
    means: &Means<'_>,
    stock: &Stock,
    (plan, base): (&Plan, &BaseManifest),
    directory: &Path,
    (placed, reach): (&[Place], Reach),
    is_durable: bool,
) -> Result<Option<Served>, JobError> {
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
    let segments = feed.served();
    let recovered = Recovered { base: base.id.clone(), major, reached_end, segments, notes, elapsed_ms: 0 };
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
    places::make_empty(directory)?;
    places::make(placed)?;
    // Before the server, which ends first.
    let mut unfinished = Unfinished { directory, placed, is_kept: false };
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
    unfinished.is_kept = true;
    Ok(recovered)
}

/// What a recovery makes in directories that were empty: half of a cluster looks like one, and is gone
/// when the recovery does not come to its end.
struct Unfinished<'a> {
    directory: &'a Path,
    placed: &'a [Place],
    is_kept: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let placed = self.placed.iter().map(|place| place.directory.as_path());
        for directory in placed.chain([self.directory]).filter(|directory| directory.exists()) {
            if let Err(error) = unpack::empty(directory) {
                tracing::warn!(%error, "what was recovered in part is left");
            }
        }
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

fn disk(action: &'static str, path: &Path, source: std::io::Error) -> JobError {
    JobError::Disk { action, path: path.to_owned(), source }
}
