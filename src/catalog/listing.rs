//! What the catalog holds, and how one of it is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::CatalogError;
use crate::rules::causes;
use crate::rules::layout::{SnapshotHome, SnapshotId};
use crate::rules::manifest::{ChunkRecord, Depth, Manifest, Verification};
use crate::rules::proof::{self, Fault};
use crate::rules::retention::Candidate;
use crate::store::ObjectInfo;

/// An operator keeps a snapshot from retention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Since when.
    pub at: DateTime<Utc>,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
}

/// A snapshot that exists.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it lies.
    pub home: SnapshotHome,
    /// What it is.
    pub manifest: Manifest,
    /// What was proven of it, oldest first.
    pub verifications: Vec<Verification>,
    /// What was found in chunks that it shares, when others were verified.
    pub shared_faults: Vec<Fault>,
    /// Whether an operator keeps it.
    pub pin: Option<Pin>,
}

impl Entry {
    /// What snapshots are ordered by: the time they were taken, then their ids.
    pub fn order(&self) -> (DateTime<Utc>, &SnapshotId) {
        (self.manifest.taken_at, &self.manifest.id)
    }

    /// What was proven of it, most deeply; none while something is known to be wrong with it.
    pub fn verified(&self) -> Option<&Verification> {
        proof::proven(&self.verifications, &self.shared_faults)
    }

    /// What is known to be wrong with it.
    pub fn failure(&self) -> Option<Fault> {
        proof::standing_fault(&self.verifications, &self.shared_faults)
    }

    /// The snapshot as retention looks at it.
    pub fn candidate(&self) -> Candidate {
        Candidate {
            id: self.manifest.id.clone(),
            database: self.manifest.database.clone(),
            taken_at: self.manifest.taken_at,
            verified: self.verified().map(|verification| (verification.depth, verification.at)),
            has_failed: self.failure().is_some(),
            is_pinned: self.pin.is_some(),
        }
    }

    /// The newest measured restore into a scratch cluster, in milliseconds.
    pub fn restore_ms(&self) -> Option<u64> {
        self.verifications
            .iter()
            .filter(|v| v.is_ok && v.restore_ms.is_some())
            .max_by_key(|v| v.at)
            .and_then(|v| v.restore_ms)
    }
}

/// A snapshot folder whose manifest is not believed, or of which something cannot be read.
#[derive(Debug)]
pub struct Rejected {
    /// The folder.
    pub home: SnapshotHome,
    /// Why it is not listed.
    pub error: Arc<CatalogError>,
}

impl Rejected {
    /// Why it is not listed, in one line.
    pub fn reason(&self) -> String {
        causes::each_said_once(&self.error)
    }

    fn in_words(&self) -> CatalogError {
        let id = self.home.id.clone();
        match *self.error {
            CatalogError::Store(_) => CatalogError::Unreadable { id, reason: self.reason() },
            _ => CatalogError::NotBelieved { id, source: Arc::clone(&self.error) },
        }
    }
}

/// Everything under a cluster's snapshots.
#[derive(Debug, Default)]
pub struct Listing {
    /// What can be trusted, oldest first.
    pub entries: Vec<Entry>,
    /// Folders with a manifest that is not believed, or with something that cannot be read.
    pub rejected: Vec<Rejected>,
    /// Objects of folders without a manifest.
    pub unpublished: Vec<ObjectInfo>,
}

/// Which snapshot an operator means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// This one.
    Id(SnapshotId),
    /// The newest.
    Latest,
    /// The newest that was verified to at least this depth.
    LatestVerified(Depth),
    /// The newest from before this Alembic revision was there; the beginning of its id will do.
    BeforeRevision(String),
}

/// How many revisions are named where one is not found.
const REVISIONS_NAMED: usize = 5;

fn first(revisions: &[&String]) -> String {
    revisions.iter().take(REVISIONS_NAMED).map(|revision| revision.as_str()).collect::<Vec<_>>().join(", ")
}

impl Listing {
    /// Lets what was found in the chunks of one entry count against all that share them.
    pub(super) fn share_faults(&mut self) {
        let records = self.entries.iter().flat_map(|entry| &entry.verifications);
        let damaging: Vec<_> = records.filter(|record| !record.damaged_chunks.is_empty()).cloned().collect();
        for entry in &mut self.entries {
            let shared = damaging.iter().filter_map(|record| proof::shared_fault(&entry.manifest, record));
            entry.shared_faults = shared.collect();
        }
    }

    /// Finds the snapshot that `selector` means, among those of `database` if one is named.
    ///
    /// # Errors
    /// [`CatalogError::NotFound`]; the reason why a snapshot of this id is not believed.
    pub fn select(&self, database: Option<&str>, selector: &Selector) -> Result<&Entry, CatalogError> {
        let of_database = || {
            self.entries.iter().filter(|entry| database.is_none_or(|name| entry.manifest.database == name))
        };
        let found = match selector {
            Selector::Id(id) => of_database().find(|entry| &entry.manifest.id == id),
            Selector::Latest => of_database().next_back(),
            Selector::LatestVerified(depth) => {
                of_database().rfind(|entry| entry.verified().is_some_and(|v| v.depth >= *depth))
            }
            Selector::BeforeRevision(revision) => {
                let revision = self.known_revision(database, revision)?;
                of_database().take_while(|entry| !entry.manifest.revisions.contains(&revision)).last()
            }
        };
        found.ok_or_else(|| self.not_found(database, selector))
    }

    /// The revision that `wanted` is, or alone begins with it, of those that some snapshot has: one
    /// that none has may be a typo, or have come and gone between two of them.
    fn known_revision(&self, database: Option<&str>, wanted: &str) -> Result<String, CatalogError> {
        let mut known: Vec<&String> = Vec::new();
        for entry in self.entries.iter().rev() {
            if database.is_none_or(|name| entry.manifest.database == name) {
                let new = entry.manifest.revisions.iter().filter(|revision| !known.contains(revision));
                known.extend(new.collect::<Vec<_>>());
            }
        }
        let begin: Vec<&String> = known.iter().filter(|known| known.starts_with(wanted)).copied().collect();
        let exact = known.iter().find(|known| known.as_str() == wanted);
        match (exact, begin.as_slice(), known.is_empty()) {
            (Some(found), ..) | (None, [found], _) => Ok((*found).clone()),
            (.., true) => Err(self.not_found(database, &Selector::BeforeRevision(wanted.into()))),
            (_, [], _) => {
                let wanted =
                    format!("none has revision {wanted}; the newest that they have: {}", first(&known));
                Err(CatalogError::NotFound { wanted })
            }
            (_, several, _) => {
                let wanted = format!("several revisions begin with {wanted}: {}", first(several));
                Err(CatalogError::NotFound { wanted })
            }
        }
    }

    fn not_found(&self, database: Option<&str>, selector: &Selector) -> CatalogError {
        let is_meant = |rejected: &&Rejected| match selector {
            Selector::Id(id) => &rejected.home.id == id,
            _ => database.is_none_or(|name| rejected.home.database == name),
        };
        let has_trusted =
            self.entries.iter().any(|entry| database.is_none_or(|name| entry.manifest.database == name));
        if (matches!(selector, Selector::Id(_)) || !has_trusted)
            && let Some(rejected) = self.rejected.iter().rfind(is_meant)
        {
            return rejected.in_words();
        }
        let of = database.map(|name| format!(" of database {name}")).unwrap_or_default();
        let wanted = match selector {
            Selector::Id(id) => format!("there is no {id}{of}"),
            Selector::Latest => format!("there is none{of}"),
            Selector::LatestVerified(depth) => {
                format!("there is none{of} that was verified to depth {}", depth.as_str())
            }
            Selector::BeforeRevision(revision) => {
                format!("there is none{of} from before revision {revision}")
            }
        };
        CatalogError::NotFound { wanted }
    }

    /// Whether a newer snapshot of the same database is verified.
    pub fn has_newer_verified(&self, entry: &Entry) -> bool {
        let is_it = |other: &Entry| {
            other.manifest.database == entry.manifest.database
                && other.order() > entry.order()
                && other.verified().is_some()
        };
        self.entries.iter().any(is_it)
    }

    /// A sentence for each newer snapshot of the same database whose manifest is not believed: who
    /// asks for the latest should know that there was a later one.
    pub fn rejected_after(&self, entry: &Entry) -> Vec<String> {
        let is_newer = |rejected: &&Rejected| {
            rejected.home.database == entry.home.database && rejected.home.id > entry.home.id
        };
        let said = |rejected: &Rejected| {
            format!("{} is newer, but not believed: {}", rejected.home.id, rejected.reason())
        };
        self.rejected.iter().filter(is_newer).map(said).collect()
    }

    /// The chunks that a snapshot sealed to `recipients` may refer to, by chunk id: those that
    /// trusted manifests name, all of them sealed to the same recipients, and that no
    /// verification found damaged.
    ///
    /// Every manifest followed this rule, so whoever opens a snapshot opens its chunks, and nobody
    /// else does. One manifest with other recipients is enough for doubt: earlier versions
    /// referred to chunks whoever they were sealed to.
    pub fn reusable_chunks(&self, recipients: &[String]) -> BTreeMap<String, ChunkRecord> {
        let wanted: BTreeSet<&String> = recipients.iter().collect();
        let is_sealed_alike =
            |entry: &&Entry| entry.manifest.recipients.iter().collect::<BTreeSet<_>>() == wanted;
        let others = self.entries.iter().filter(|entry| !is_sealed_alike(entry));
        let sealed_otherwise: BTreeSet<&str> =
            others.flat_map(|entry| &entry.manifest.chunks).map(|chunk| chunk.name.as_str()).collect();
        let damaged: BTreeSet<&str> = self
            .entries
            .iter()
            .flat_map(|e| &e.verifications)
            .flat_map(|v| &v.damaged_chunks)
            .map(String::as_str)
            .collect();
        let records = self.entries.iter().filter(is_sealed_alike).flat_map(|entry| &entry.manifest.chunks);
        records
            .filter(|chunk| !damaged.contains(chunk.name.as_str()))
            .filter(|chunk| !sealed_otherwise.contains(chunk.name.as_str()))
            .map(|chunk| (chunk.chunk_id().to_owned(), chunk.clone()))
            .collect()
    }
}
