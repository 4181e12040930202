//! What a base backup builds on: nothing, or the list of files of another one, fetched for
//! `pg_basebackup --incremental`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};

use super::Means;
use crate::jobs::opening::open_into;
use crate::jobs::{JobError, WorkDirectory, disk};
use crate::postgres::replication::{ClusterFacts, LIST_OF_FILES};
use crate::rules::chain::{self, FIRST_MAJOR, Now};
use crate::rules::drill::{self, Checked};
use crate::rules::layout::{self, SnapshotId};
use crate::rules::physical::BaseManifest;

/// What is built on.
pub(super) struct Parent {
    found: Option<(SnapshotId, WorkDirectory)>,
    is_for_children: bool,
    /// Why it is full where that was not wanted.
    pub(super) notes: Vec<String>,
}

impl Parent {
    /// Chooses it, and fetches its list of files.
    pub(super) async fn choose(
        means: &Means<'_>,
        facts: &ClusterFacts,
        full_every: Option<TimeDelta>,
        now: DateTime<Utc>,
    ) -> Result<Self, JobError> {
        let mut chosen = Self { found: None, is_for_children: false, notes: Vec::new() };
        let Some(full_every) = full_every else { return Ok(chosen) };
        let lacks = if facts.version_num / 10_000 < FIRST_MAJOR {
            Some(format!("the server is older than PostgreSQL {FIRST_MAJOR}"))
        } else if !facts.summarizes {
            Some("summarize_wal is off on the server".into())
        } else if means.opener.is_none() {
            Some("there is no identity on this host that opens the list of files of the one before".into())
        } else {
            None
        };
        if let Some(reason) = lacks {
            chosen.notes.push(format!("it is a full one: {reason}"));
            return Ok(chosen);
        }
        chosen.is_for_children = true;
        let bases = means.catalog.bases().await?.bases;
        let now = Now {
            system_identifier: &facts.system_identifier,
            version_num: facts.version_num,
            timeline: facts.timeline,
            at: now,
        };
        let failed = failed(means).await?;
        let parent = chain::parent(&bases, now, full_every, &failed);
        if parent.is_none() && chain::parent(&bases, now, full_every, &BTreeSet::new()).is_some() {
            chosen.notes.push("it is a full one: the verification of the one before failed".into());
        }
        if let Some(parent) = parent {
            match fetch(means, parent).await {
                Ok(room) => chosen.found = Some((parent.id.clone(), room)),
                Err(error) => chosen.give_up(&error),
            }
        }
        Ok(chosen)
    }

    /// The list of files, for as long as this lives.
    pub(super) fn list_of_files(&self) -> Option<PathBuf> {
        self.found.as_ref().map(|(_, room)| room.path().join(LIST_OF_FILES))
    }

    /// The base backup that is built on.
    pub(super) fn id(&self) -> Option<SnapshotId> {
        self.found.as_ref().map(|(id, _)| id.clone())
    }

    /// Whether others shall be able to build on the new one, so that its list of files is needed.
    pub(super) fn is_for_children(&self) -> bool {
        self.is_for_children
    }

    /// Builds on nothing, because of `error`.
    pub(super) fn give_up(&mut self, error: &JobError) {
        self.found = None;
        let reason = crate::rules::causes::in_a_sentence(error);
        self.notes.push(format!("it is a full one: {reason}"));
    }
}

/// The base backups whose verification failed.
async fn failed(means: &Means<'_>) -> Result<BTreeSet<SnapshotId>, JobError> {
    let records = means.catalog.base_verifications().await?;
    let failed = records.into_iter().filter(|(_, records)| drill::checked(records) == Checked::Failed);
    Ok(failed.map(|(id, _)| id).collect())
}

/// Puts its list of files into a directory of ours.
async fn fetch(means: &Means<'_>, parent: &BaseManifest) -> Result<WorkDirectory, JobError> {
    let key = layout::base_key(means.catalog.cluster(), &parent.id, layout::BACKUP_MANIFEST);
    let no_identity = || JobError::NoIdentity { action: "open the list of files of a base backup" };
    let opener = means.opener.ok_or_else(no_identity)?;
    let record = parent.objects.get(layout::BACKUP_MANIFEST).ok_or_else(no_identity)?;
    let plain = open_into(means.catalog.store().as_ref(), opener, &key, record, (Vec::new(), None)).await?;
    let room = WorkDirectory::create(means.scratch_directory)?;
    let path = room.path().join(LIST_OF_FILES);
    std::fs::write(&path, plain).map_err(|source| disk("write", &path, source))?;
    Ok(room)
}
