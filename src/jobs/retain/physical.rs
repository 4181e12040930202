//! Removes base backups and log that no moment of the window needs.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::{Judged, Means, Retained, Sweep};
use crate::jobs::JobError;
use crate::jobs::recover::base_of;
use crate::jobs::recover::segment::histories;
use crate::rules::layout;
use crate::rules::physical::PieceName;
use crate::rules::recovery::{Base, Log};
use crate::rules::retention;
use crate::store::ObjectInfo;

impl Sweep<'_> {
    /// Removes them, or only counts them. A base backup that is not believed may need any of the log.
    pub(super) async fn physical(
        &self,
        means: &Means<'_>,
        now: DateTime<Utc>,
        retained: &mut Retained,
    ) -> Result<(), JobError> {
        let catalog = means.catalog;
        let found = catalog.bases().await?;
        for (id, error) in &found.rejected {
            let reason = crate::rules::causes::in_a_sentence(error);
            retained.left.push(format!("base backup {id} is not believed, so no log was removed: {reason}"));
        }
        let records = catalog.base_verifications().await?;
        let bases: Vec<Base> = found.bases.iter().map(|manifest| base_of(manifest, &records)).collect();
        let verified = retention::newest_verified(&bases).map(|base| &base.id);
        let objects = self.store.list(&layout::wal_prefix(catalog.cluster())).await?;
        let pieces: Vec<PieceName> =
            objects.iter().filter_map(|object| PieceName::of_record_key(&object.key)).collect();
        let segment_bytes = found.bases.last().map_or(1 << 24, |base| base.segment_bytes);
        let histories = histories(catalog, None, &pieces).await?;
        let is_unread = histories.values().any(Vec::is_empty);
        if is_unread {
            let reason = "what the history of a timeline says is not known here, so no log was removed";
            retained.left.push(reason.into());
        }
        let log = Log::new(segment_bytes, &pieces, histories);
        let mut plan =
            retention::physical(&bases, &pieces, &log, &stored_at(&objects), means.policy.keep, now);
        if !found.rejected.is_empty() || is_unread {
            plan = retention::PhysicalPlan::default();
        }
        for base in &bases {
            let is_going = plan.bases.contains(&base.id);
            let is_kept_child =
                |other: &&Base| other.parent.as_ref() == Some(&base.id) && !plan.bases.contains(&other.id);
            let reason = match bases.iter().find(is_kept_child) {
                _ if is_going => "no moment of the window needs it".into(),
                Some(child) => format!("base backup {} builds on it", child.id),
                None if verified == Some(&base.id) => "it is the newest that is verified".into(),
                None => "the window needs it".into(),
            };
            let judged =
                Judged { id: base.id.clone(), database: format!("cluster {}", catalog.cluster()), reason };
            if is_going {
                let prefix = format!("{}{}/", layout::bases_prefix(catalog.cluster()), base.id);
                retained.freed_bytes += self.folder(&prefix).await?;
                retained.removed.push(judged);
            } else {
                retained.kept.push(judged);
            }
        }
        self.pieces(means, &plan.pieces, &objects, retained).await?;
        retained.freed_bytes += self.points(means, &bases, now).await?;
        let litter: Vec<_> = found
            .unpublished
            .into_iter()
            .filter(|object| object.modified_at < now - means.litter_grace)
            .collect();
        retained.litter_removed += litter.len();
        retained.freed_bytes += self.remove(litter).await?;
        Ok(())
    }

    /// Restore points from before the window that lie before every base backup: nothing reaches them again.
    async fn points(&self, means: &Means<'_>, bases: &[Base], now: DateTime<Utc>) -> Result<u64, JobError> {
        let catalog = means.catalog;
        let mut out_of_reach = BTreeSet::new();
        for point in catalog.restore_points().await? {
            let is_old = point.made_at < now - means.policy.keep;
            if is_old && bases.iter().all(|base| base.stop > point.lsn) {
                out_of_reach.insert(layout::point_key(catalog.cluster(), &point.run));
            }
        }
        let objects = self.store.list(&layout::points_prefix(catalog.cluster())).await?;
        self.remove(objects.into_iter().filter(|object| out_of_reach.contains(&object.key)).collect()).await
    }

    /// The oldest first, and each record before its piece: what is left has no hole.
    async fn pieces(
        &self,
        means: &Means<'_>,
        pieces: &[PieceName],
        objects: &[ObjectInfo],
        retained: &mut Retained,
    ) -> Result<(), JobError> {
        let cluster = means.catalog.cluster();
        let by_key: BTreeMap<_, _> = objects.iter().map(|object| (&object.key, object)).collect();
        let found = |key: &layout::ObjectKey| by_key.get(key).copied().cloned();
        let records = pieces.iter().filter_map(|piece| found(&piece.record_key(cluster))).collect();
        let sealed = pieces.iter().filter_map(|piece| found(&piece.sealed_key(cluster))).collect();
        retained.freed_bytes += self.remove(records).await?;
        retained.freed_bytes += self.remove(sealed).await?;
        retained.wal_removed += pieces.len();
        Ok(())
    }
}

/// When something was last stored of each timeline's log.
fn stored_at(objects: &[ObjectInfo]) -> BTreeMap<u32, DateTime<Utc>> {
    let mut stored_at: BTreeMap<u32, DateTime<Utc>> = BTreeMap::new();
    for object in objects {
        let Some(piece @ (PieceName::Segment(_) | PieceName::Part { .. })) =
            PieceName::of_record_key(&object.key)
        else {
            continue;
        };
        let newest = stored_at.entry(piece.timeline()).or_insert(object.modified_at);
        *newest = (*newest).max(object.modified_at);
    }
    stored_at
}
