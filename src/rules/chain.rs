//! Base backups that build on one another: which a new one builds on, and which one needs.
//!
//! Comes in: manifests, and the time. Goes out: a parent, or a chain from a full base backup on. Reads
//! nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::layout::{self, SnapshotId};
use super::physical::BaseManifest;

/// The first major that makes incremental base backups.
pub const FIRST_MAJOR: u32 = 17;

/// A base backup whose parents are not all there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("base backup {id} builds on {missing}, which is missing or not believed")]
pub struct Broken {
    /// The one that is wanted.
    pub id: SnapshotId,
    /// The one that is not there.
    pub missing: SnapshotId,
}

/// What `id` builds on, oldest first, by `parent_of`, which says the parent of a base backup that is there;
/// the first one is full.
///
/// # Errors
/// [`Broken`]
pub fn ancestors(
    id: &SnapshotId,
    parent_of: impl Fn(&SnapshotId) -> Option<Option<SnapshotId>>,
) -> Result<Vec<SnapshotId>, Broken> {
    let broken = |missing: &SnapshotId| Broken { id: id.clone(), missing: missing.clone() };
    let mut chain = Vec::new();
    let mut next = parent_of(id).ok_or_else(|| broken(id))?;
    while let Some(parent) = next {
        // A child is younger than its parent: what says otherwise leads nowhere.
        if parent >= *chain.last().unwrap_or(id) {
            return Err(broken(&parent));
        }
        next = parent_of(&parent).ok_or_else(|| broken(&parent))?;
        chain.push(parent);
    }
    chain.reverse();
    Ok(chain)
}

/// What `base` is made of, the full one first and itself last.
///
/// # Errors
/// [`Broken`]
pub fn chain<'a>(bases: &'a [BaseManifest], base: &'a BaseManifest) -> Result<Vec<&'a BaseManifest>, Broken> {
    let found = |id: &SnapshotId| bases.iter().find(|other| other.id == *id);
    let parent_of = |id: &SnapshotId| {
        if *id == base.id { Some(base.parent.clone()) } else { found(id).map(|other| other.parent.clone()) }
    };
    let ids = ancestors(&base.id, parent_of)?;
    Ok(ids.iter().filter_map(found).chain([base]).collect())
}

/// The cluster as it is now, as far as a parent must be of the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now<'a> {
    /// PostgreSQL's own number of the cluster.
    pub system_identifier: &'a str,
    /// `server_version_num`
    pub version_num: u32,
    /// The timeline that is written.
    pub timeline: u32,
    /// The time.
    pub at: DateTime<Utc>,
}

/// What a new base backup builds on: the newest one that does, unless its full one is `full_every` old or
/// more, or the verification of it, or of one that it builds on, `failed`; `None` when the new one has to be
/// full.
pub fn parent<'a>(
    bases: &'a [BaseManifest],
    now: Now<'_>,
    full_every: TimeDelta,
    failed: &BTreeSet<SnapshotId>,
) -> Option<&'a BaseManifest> {
    let is_of_cluster = |base: &&BaseManifest| {
        base.system_identifier == now.system_identifier
            && base.server_version_num / 10_000 == now.version_num / 10_000
            && base.timeline == now.timeline
            && base.objects.contains_key(layout::BACKUP_MANIFEST)
    };
    let is_young =
        |chain: &[&BaseManifest]| chain.first().is_some_and(|full| now.at - full.began_at < full_every);
    let is_sound = |chain: &[&BaseManifest]| chain.iter().all(|base| !failed.contains(&base.id));
    let is_usable =
        |base: &&BaseManifest| chain(bases, base).is_ok_and(|chain| is_young(&chain) && is_sound(&chain));
    let usable = bases.iter().filter(is_of_cluster).filter(is_usable);
    usable.max_by_key(|base| (base.stop_lsn, &base.id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rules::manifest::ObjectRecord;
    use crate::rules::wal::Lsn;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + hour * 3600, 0).unwrap()
    }

    fn id(hour: i64) -> SnapshotId {
        SnapshotId::new(at(hour), 0)
    }

    fn base(hour: i64, parent: Option<i64>) -> BaseManifest {
        let list = ObjectRecord::of_unsealed(b"list");
        BaseManifest {
            format: 1,
            repository: "r".into(),
            cluster: "prod".into(),
            id: id(hour),
            system_identifier: "7".into(),
            bootstrap_superuser: "postgres".into(),
            server_version_num: 170_002,
            pg_basebackup_version: "17.2".into(),
            timeline: 1,
            start_lsn: Lsn(u64::try_from(hour).unwrap() << 24),
            stop_lsn: Lsn((u64::try_from(hour).unwrap() << 24) + 300),
            segment_bytes: 1 << 24,
            began_at: at(hour),
            ended_at: at(hour),
            objects: BTreeMap::from([(layout::BACKUP_MANIFEST.into(), list)]),
            tablespaces: Vec::new(),
            parent: parent.map(id),
            plain_bytes: 0,
            stored_bytes: 0,
            recipients: Vec::new(),
            belay_version: "0".into(),
        }
    }

    fn now(hour: i64) -> Now<'static> {
        Now { system_identifier: "7", version_num: 170_004, timeline: 1, at: at(hour) }
    }

    fn parent_but(bases: &[BaseManifest], hour: i64, failed: &[i64]) -> Option<SnapshotId> {
        let failed = failed.iter().map(|hour| id(*hour)).collect();
        parent(bases, now(hour), TimeDelta::hours(10), &failed).map(|base| base.id.clone())
    }

    fn parent_at(bases: &[BaseManifest], hour: i64) -> Option<SnapshotId> {
        parent_but(bases, hour, &[])
    }

    #[test]
    fn a_chain_begins_with_a_full_base_and_ends_with_the_one_that_is_wanted() {
        let bases = [base(1, None), base(2, Some(1)), base(3, None), base(4, Some(2))];
        let ids =
            |of: &BaseManifest| chain(&bases, of).map(|c| c.iter().map(|b| b.id.clone()).collect::<Vec<_>>());
        assert_eq!(ids(&bases[3]), Ok(vec![id(1), id(2), id(4)]));
        assert_eq!(ids(&bases[2]), Ok(vec![id(3)]));
        let broken = chain(&bases[1..], &bases[3]).unwrap_err();
        assert_eq!(broken, Broken { id: id(4), missing: id(1) });
    }

    #[test]
    fn a_chain_that_turns_back_is_broken() {
        assert!(chain(&[], &base(4, Some(4))).is_err());
        let circle = [base(4, Some(5)), base(5, Some(4))];
        assert!(circle.iter().all(|base| chain(&circle, base).is_err()));
    }

    #[test]
    fn the_newest_base_is_built_on_until_its_full_one_is_old() {
        let bases = [base(1, None), base(5, Some(1))];
        assert_eq!(parent_at(&bases, 10), Some(id(5)));
        assert_eq!(parent_at(&bases, 11), None);
        assert_eq!(parent_at(&[], 1), None);
    }

    #[test]
    fn what_failed_its_verification_is_not_built_on() {
        let bases = [base(1, None), base(3, None), base(5, Some(3))];
        assert_eq!(parent_but(&bases, 6, &[5]), Some(id(3)));
        assert_eq!(parent_but(&bases, 6, &[3]), Some(id(1)), "nor what builds on it");
        assert_eq!(parent_but(&bases, 6, &[1, 3]), None);
    }

    #[test]
    fn another_cluster_timeline_or_major_is_not_built_on() {
        let mut changed = [base(1, None), base(1, None), base(1, None), base(1, None)];
        changed[0].system_identifier = "8".into();
        changed[1].timeline = 2;
        changed[2].server_version_num = 180_000;
        changed[3].objects.clear();
        for base in changed {
            assert_eq!(parent_at(&[base], 2), None);
        }
        assert_eq!(parent_at(&[base(2, Some(1))], 3), None, "its own parent is missing");
    }
}
