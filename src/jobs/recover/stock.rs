//! What the repository has of the physical side, and how a moment is recovered from it.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use super::segment;
use crate::catalog::Catalog;
use crate::jobs::JobError;
use crate::jobs::receive_wal::Shipped;
use crate::rules::causes::in_a_sentence;
use crate::rules::chain::Broken;
use crate::rules::layout::SnapshotId;
use crate::rules::physical::BaseManifest;
use crate::rules::recovery::{self, Base, Log, Plan, Target, Unreachable, Wanted, Window};
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

    pub(super) fn base(&self, window: &Window) -> Option<&BaseManifest> {
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
