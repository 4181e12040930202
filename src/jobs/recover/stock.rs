//! What the repository has of the physical side, and how a moment is recovered from it.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use super::segment;
use crate::catalog::{Catalog, CatalogError};
use crate::jobs::JobError;
use crate::jobs::receive_wal::Shipped;
use crate::rules::causes::in_a_sentence;
use crate::rules::chain::Broken;
use crate::rules::drill::{self, BaseVerification};
use crate::rules::layout::SnapshotId;
use crate::rules::physical::{BaseManifest, PieceName};
use crate::rules::recovery::{self, Base, BaseChoice, Log, Plan, Target, Unreachable, Wanted, Window};
use crate::rules::restore_point::{self, RestorePoint};
use crate::rules::wal::Lsn;
use crate::seal::Opener;

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

/// What was proven of each base backup, in the order of time.
type Records = BTreeMap<SnapshotId, Vec<BaseVerification>>;

/// What of the repository a moment is to be recovered from, where somebody says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// The database that is wanted of the cluster, if it is one, by its name in PostgreSQL.
    pub database: Option<&'a str>,
    /// The timeline to follow; the newest unless one is named.
    pub timeline: Option<u32>,
    /// The base backup to begin with.
    pub base: Option<&'a SnapshotId>,
}

impl Stock {
    /// Lists base backups and log, and reads the histories of the timelines; `shipped` is what whoever receives
    /// the log noted on this host.
    ///
    /// # Errors
    /// What the store says; a history that cannot be opened.
    pub async fn read(
        catalog: &Catalog,
        opener: Option<&Opener>,
        shipped: Option<Shipped>,
    ) -> Result<Self, JobError> {
        let found = catalog.bases().await?;
        let pieces = catalog.pieces().await?;
        let segment_bytes = found.bases.last().map_or(16 << 20, |base| base.segment_bytes);
        let rejected = found.rejected.into_iter().map(|(id, error)| (id, in_a_sentence(&error)));
        Ok(Self {
            rejected: rejected.collect(),
            log: Log::new(segment_bytes, &pieces, segment::histories(catalog, opener, &pieces).await?),
            bases: found.bases,
            shipped,
        })
    }

    /// As [`Stock::read`], and once more when something of the log seems lost: a segment that was completed while
    /// it was listed may be in the list neither in parts nor whole.
    ///
    /// # Errors
    /// As [`Stock::read`].
    pub async fn read_settled(
        catalog: &Catalog,
        opener: Option<&Opener>,
        shipped: Option<Shipped>,
    ) -> Result<Self, JobError> {
        let stock = Self::read(catalog, opener, shipped).await?;
        match stock.lost_behind_newest() {
            Some(_) => Self::read(catalog, opener, shipped).await,
            None => Ok(stock),
        }
    }

    fn bases(&self, records: &Records) -> Vec<Base> {
        self.bases.iter().map(|manifest| base_of(manifest, records)).collect()
    }

    /// What can be reached on `timeline`, the newest unless one is named; of verifications nothing is known.
    pub fn windows(&self, timeline: Option<u32>) -> (u32, Vec<Window>) {
        let timeline = timeline.or_else(|| self.log.newest_timeline()).unwrap_or(1);
        (timeline, recovery::windows(&self.bases(&Records::new()), &self.log, timeline))
    }

    /// What can be reached on any timeline, with what is proven of the base backups.
    pub async fn windows_of_all(&self, catalog: &Catalog) -> Vec<Window> {
        recovery::windows_of_all(&self.bases(&proven(catalog).await), &self.log)
    }

    /// Where the log goes on behind the end of `window`, if that is not where it ends for now: something
    /// between was lost.
    pub fn goes_on(&self, window: &Window) -> Option<Lsn> {
        let end = window.end;
        let last = self.log.ends_in(window);
        let later_part = self.log.pieces_of(last).into_iter().filter_map(|piece| match piece {
            PieceName::Part { from, .. } => Some(Lsn(last.start().0 + u64::from(from))),
            _ => None,
        });
        later_part.filter(|from| *from > end).min().or(window.resumes)
    }

    /// Up to where the log of `window` was stored once, by what was noted on this host, if it ends before
    /// that now.
    pub fn was_stored_to(&self, window: &Window) -> Option<Lsn> {
        let is_shorter =
            |shipped: &&Shipped| shipped.timeline == window.timeline && shipped.until > window.end;
        self.shipped.as_ref().filter(is_shorter).map(|shipped| shipped.until)
    }

    /// Where the log is of use again behind the end of `window`, if something of it was lost there.
    pub fn lost_until(&self, window: &Window) -> Option<Lsn> {
        self.goes_on(window).or_else(|| self.was_stored_to(window))
    }

    /// What was lost of the log behind the newest base backup, from where to where: no moment that is later
    /// can be had before there is another base backup.
    pub fn lost_behind_newest(&self) -> Option<(Lsn, Lsn)> {
        let id = &self.bases.last()?.id;
        let of = |timeline| {
            let (_, windows) = self.windows(timeline);
            windows.into_iter().find(|window| window.base.id == *id)
        };
        // A server may go on on another timeline than the newest.
        let window = of(None).or_else(|| of(self.bases.last().map(|base| base.timeline)))?;
        Some((window.end, self.lost_until(&window)?))
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

    /// Decides how `wanted` is recovered.
    ///
    /// # Errors
    /// [`JobError::Refused`] with the nearest moments that can be reached, [`JobError::NotFromBase`],
    /// [`JobError::NoBase`]; [`CatalogError::NotFound`] when there is no base backup of the name.
    pub async fn plan(
        &self,
        catalog: &Catalog,
        wanted: &Wanted,
        choice: Choice<'_>,
    ) -> Result<(Plan, BaseManifest), JobError> {
        let (target, point) = Self::named(catalog, wanted, choice.database).await?;
        // Another timeline has something else at its place.
        let timeline = choice.timeline.or(point.map(|(timeline, _)| timeline));
        self.check_there(wanted, &choice)?;
        let action = || format!("recover {wanted}");
        if self.bases.is_empty() {
            let none = format!("no base backup of cluster {} is stored", catalog.cluster());
            let not_believed =
                self.rejected.iter().map(|(id, why)| format!("base backup {id} is not believed: {why}"));
            let reasons = std::iter::once(none).chain(not_believed).collect();
            return Err(JobError::NoBase { action: action(), reasons });
        }
        let bases = self.bases(&proven(catalog).await);
        let on = timeline.or_else(|| self.log.newest_timeline()).unwrap_or(1);
        let mut windows = recovery::windows(&bases, &self.log, on);
        for window in &mut windows {
            window.resumes = self.lost_until(window);
        }
        let reasons = |first: String| {
            let broken = windows.iter().filter_map(|window| {
                let (id, missing) = (window.base.id.clone(), window.missing.clone()?);
                Some(Broken { id, missing }.to_string())
            });
            std::iter::once(first).chain(broken).collect()
        };
        let named_at = point.map(|(_, lsn)| lsn);
        let from = choice.base.map_or(BaseChoice::Any, BaseChoice::Only);
        let plan = match self.plan_in(catalog, &target, (on, &windows), named_at, from).await? {
            Ok(plan) => plan,
            Err(unreachable) => {
                let elsewhere = match timeline {
                    None => self.elsewhere(catalog, &target, (on, &bases), from).await?,
                    Some(_) => String::new(),
                };
                let why = format!("{unreachable}{elsewhere}");
                return Err(match unreachable {
                    Unreachable::NotFrom { instead, .. } => {
                        JobError::NotFromBase { action: action(), why, instead }
                    }
                    Unreachable::NoBase { .. } => {
                        JobError::NoBase { action: action(), reasons: reasons(why) }
                    }
                    _ => JobError::Refused { action: action(), reasons: reasons(why) },
                });
            }
        };
        let base = self.base(&plan.window).cloned();
        let gone =
            || JobError::Refused { action: action(), reasons: reasons("its base backup is gone".into()) };
        let base = base.ok_or_else(gone)?;
        Ok((plan, base))
    }

    /// Refuses a timeline and a base backup that are not stored.
    fn check_there(&self, wanted: &Wanted, choice: &Choice<'_>) -> Result<(), JobError> {
        let refused =
            |reason| Err(JobError::Refused { action: format!("recover {wanted}"), reasons: vec![reason] });
        if let Some(id) = choice.base.filter(|id| self.bases.iter().all(|base| base.id != **id)) {
            return match self.rejected.iter().find(|(rejected, _)| rejected == id) {
                Some((_, why)) => refused(format!("base backup {id} is not believed: {why}")),
                None => {
                    Err(CatalogError::NotFound { wanted: format!("there is no base backup {id}") }.into())
                }
            };
        }
        let mut timelines = self.log.timelines();
        timelines.extend(self.bases.iter().map(|base| base.timeline));
        match choice.timeline.filter(|timeline| !timelines.is_empty() && !timelines.contains(timeline)) {
            Some(timeline) => {
                let there: Vec<String> = timelines.iter().map(u32::to_string).collect();
                refused(format!("there is no timeline {timeline}; what is stored is of {}", there.join(", ")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn base(&self, window: &Window) -> Option<&BaseManifest> {
        self.bases.iter().find(|base| base.id == window.base.id)
    }

    async fn plan_in(
        &self,
        catalog: &Catalog,
        target: &Target,
        (timeline, windows): (u32, &[Window]),
        named_at: Option<Lsn>,
        from: BaseChoice<'_>,
    ) -> Result<Result<Plan, Unreachable>, JobError> {
        let mut complete: BTreeMap<SnapshotId, DateTime<Utc>> = BTreeMap::new();
        for window in windows {
            if let Some(until) = self.complete_until(catalog, window).await? {
                complete.insert(window.base.id.clone(), until);
            }
        }
        let complete_until = |window: &Window| complete.get(&window.base.id).copied();
        Ok(recovery::plan(target, timeline, windows, complete_until, named_at, from))
    }

    /// Which other timelines have the moment, in words.
    async fn elsewhere(
        &self,
        catalog: &Catalog,
        target: &Target,
        (but, bases): (u32, &[Base]),
        from: BaseChoice<'_>,
    ) -> Result<String, JobError> {
        let mut having = Vec::new();
        for timeline in self.log.timelines().into_iter().filter(|timeline| *timeline != but) {
            let windows = recovery::windows(bases, &self.log, timeline);
            // Whether a restore point is on a timeline is known to the server alone.
            if !matches!(target, Target::Name(_))
                && self.plan_in(catalog, target, (timeline, &windows), None, from).await?.is_ok()
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

/// What is proven of the base backups; what cannot be read keeps nobody from recovering.
async fn proven(catalog: &Catalog) -> Records {
    let records = catalog.base_verifications().await;
    records.unwrap_or_else(|error| {
        tracing::warn!(%error, "what is proven of the base backups cannot be read");
        Records::new()
    })
}

/// What recovery looks at of a base backup; `records` has what was proven of it, in the order of time.
pub fn base_of(manifest: &BaseManifest, records: &BTreeMap<SnapshotId, Vec<BaseVerification>>) -> Base {
    Base {
        id: manifest.id.clone(),
        parent: manifest.parent.clone(),
        timeline: manifest.timeline,
        start: manifest.start_lsn,
        stop: manifest.stop_lsn,
        ended_at: manifest.ended_at,
        checked: records.get(&manifest.id).map_or_else(Default::default, |records| drill::checked(records)),
    }
}
