//! The catalog: every snapshot that has a manifest we trust, read from the store alone.
//!
//! Comes in: a store and the keys whose signatures count. Goes out: entries, and new manifests,
//! verification records and pins. Nothing is listed without a manifest whose signature fits and
//! that lies where it says it belongs.

mod documents;
mod heads;
mod listing;
mod physical;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::DateTime;
use ed25519_dalek::SigningKey;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use self::documents::{misplaced, newest_origin, open_document, read_manifest, read_record, repository_key};
use crate::rules::layout::{self, ObjectKey, SnapshotHome, SnapshotId};
use crate::rules::manifest::{
    self, MANIFEST_KIND, Manifest, REPOSITORY_KIND, RepositoryRecord, UnknownFormat, VERIFICATION_KIND,
    Verification,
};
use crate::rules::signature::{self, SignatureError, SignerKey};
use crate::store::{ObjectInfo, Parts, Store, StoreError, read_small};

pub use listing::{Entry, Listing, Pin, Rejected, Selector};

/// No manifest of ours is longer (a table of 100 TB would reach it).
const MANIFEST_MAX_BYTES: usize = 1 << 30;
const SMALL_MAX_BYTES: usize = 16 << 20;
const READS_AT_ONCE: usize = 8;

/// Why the catalog cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The store says no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no `belay.json`.
    #[error("open repository {store}: there is none")]
    NoRepository {
        /// Address of the store.
        store: String,
    },
    /// There is no `belay.json`, but there are objects of a repository.
    #[error("open repository {store}: {key} is missing, though there are objects of a repository")]
    RecordLost {
        /// Address of the store.
        store: String,
        /// Where it should lie.
        key: String,
    },
    /// A signed document is not to be believed.
    #[error("{key}: {source}")]
    Untrusted {
        /// Where it lies.
        key: String,
        /// Why.
        source: SignatureError,
    },
    /// A document is of a format that this program does not know.
    #[error("{key}: {source}")]
    Format {
        /// Where it lies.
        key: String,
        /// Which.
        source: UnknownFormat,
    },
    /// A manifest lies in another place than it says.
    #[error("{key}: it is the manifest of snapshot {id} of {database}, copied here")]
    Misplaced {
        /// Where it lies.
        key: String,
        /// What it says.
        id: SnapshotId,
        /// What it says.
        database: String,
    },
    /// Another host writes this repository.
    #[error("write to repository {store}: it belongs to host {host} ({signer})")]
    ForeignWriter {
        /// Address of the store.
        store: String,
        /// The host in `belay.json`.
        host: String,
        /// Its public key.
        signer: String,
    },
    /// The snapshot that is meant has a manifest that is not to be believed.
    #[error("find a snapshot: {id} is not believed: {source}")]
    NotBelieved {
        /// The snapshot.
        id: SnapshotId,
        /// Why.
        source: Arc<CatalogError>,
    },
    /// Something of the snapshot that is meant cannot be read.
    #[error("find a snapshot: {id} cannot be read: {reason}")]
    Unreadable {
        /// The snapshot.
        id: SnapshotId,
        /// Why, in words.
        reason: String,
    },
    /// No snapshot, or base backup, answers the description.
    #[error("{wanted}")]
    NotFound {
        /// What was looked for, in words.
        wanted: String,
    },
    /// A document of ours does not become JSON.
    #[error("write {key}")]
    Write {
        /// Where it should lie.
        key: String,
        /// What serde_json says.
        #[source]
        source: serde_json::Error,
    },
}

/// An opened repository, seen from one cluster.
#[derive(Clone)]
pub struct Catalog {
    store: Arc<dyn Store>,
    cluster: String,
    record: RepositoryRecord,
    trusted: Vec<SignerKey>,
}

impl Catalog {
    /// Writes `belay.json` into a store that has none.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when there is a repository already, [`CatalogError::RecordLost`] when
    /// there is all of one but its record.
    pub async fn create(
        store: &dyn Store,
        record: &RepositoryRecord,
        key: &SigningKey,
    ) -> Result<(), CatalogError> {
        Self::refuse_existing(store).await?;
        Self::write_record(store, record, key).await
    }

    /// Refuses a store that is a repository already, or was one.
    ///
    /// # Errors
    /// As [`Catalog::create`]; what the store says.
    pub async fn refuse_existing(store: &dyn Store) -> Result<(), CatalogError> {
        match read_record(store).await {
            Err(CatalogError::NoRepository { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                let (key, store) = (repository_key().to_string(), store.address().into());
                Err(StoreError::Exists { key, store }.into())
            }
        }
    }

    async fn write_record(
        store: &dyn Store,
        record: &RepositoryRecord,
        key: &SigningKey,
    ) -> Result<(), CatalogError> {
        let at = repository_key();
        let bytes = signature::sign(REPOSITORY_KIND, record, key)
            .map_err(|source| CatalogError::Write { key: at.to_string(), source })?;
        store.put(&at, Parts::whole(bytes)).await?;
        Ok(())
    }

    /// Replaces `belay.json` when another host becomes the writer: the one object that is.
    ///
    /// Between the removal and the write there is no record; the snapshots are untouched.
    ///
    /// # Errors
    /// What the store says.
    pub async fn replace_record(
        store: &dyn Store,
        record: &RepositoryRecord,
        key: &SigningKey,
    ) -> Result<(), CatalogError> {
        store.delete(&repository_key()).await?;
        Self::write_record(store, record, key).await
    }

    /// Opens the repository in `store`; signatures of `trusted`, and of signers that a trusted
    /// repository record names as former ones, count.
    ///
    /// # Errors
    /// [`CatalogError::NoRepository`], [`CatalogError::RecordLost`], [`CatalogError::Untrusted`],
    /// [`CatalogError::Format`]
    pub async fn open(
        store: Arc<dyn Store>,
        cluster: &str,
        trusted: Vec<SignerKey>,
    ) -> Result<Self, CatalogError> {
        let bytes = read_record(store.as_ref()).await?;
        let record: RepositoryRecord = open_document(REPOSITORY_KIND, &repository_key(), &bytes, &trusted)?;
        let mut trusted = trusted;
        trusted.extend(record.former_signers.iter().cloned());
        Ok(Self { store, cluster: cluster.into(), record, trusted })
    }

    /// Opens a repository that has lost its record, by what its manifests say.
    ///
    /// To read from: the record is a stand-in. Manifests of other repositories than that of the
    /// newest one that `trusted` signed are not believed.
    ///
    /// # Errors
    /// Why the newest manifest is not believed, when none is; [`CatalogError::RecordLost`] when
    /// there is none.
    pub async fn open_by_manifests(
        store: Arc<dyn Store>,
        cluster: &str,
        trusted: Vec<SignerKey>,
    ) -> Result<Self, CatalogError> {
        let lost =
            || CatalogError::RecordLost { store: store.address().into(), key: repository_key().to_string() };
        let (signer, former_signers) = trusted.split_first().ok_or_else(lost)?;
        let origin = newest_origin(store.as_ref(), cluster, &trusted).await?.ok_or_else(lost)?;
        let record = RepositoryRecord {
            format: manifest::FORMAT,
            repository: origin.repository,
            created_at: origin.at,
            host: "unknown".into(),
            signer: signer.clone(),
            former_signers: former_signers.to_vec(),
            recipients: origin.recipients,
        };
        Ok(Self { store, cluster: cluster.into(), record, trusted })
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Asks the store whether the repository is still there.
    ///
    /// # Errors
    /// [`CatalogError::NoRepository`]; what the store says.
    pub async fn check_reached(&self) -> Result<(), CatalogError> {
        let gone = || CatalogError::NoRepository { store: self.store.address().into() };
        self.store.head(&repository_key()).await?.map(drop).ok_or_else(gone)
    }

    /// The repository's own record.
    pub fn record(&self) -> &RepositoryRecord {
        &self.record
    }

    /// Name of the cluster that is looked at.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Refuses to write unless `key` is the repository's signer.
    ///
    /// # Errors
    /// [`CatalogError::ForeignWriter`]
    pub fn check_writer(&self, key: &SigningKey) -> Result<(), CatalogError> {
        if self.record.signer == SignerKey::of(key) {
            return Ok(());
        }
        Err(CatalogError::ForeignWriter {
            store: self.store.address().into(),
            host: self.record.host.clone(),
            signer: self.record.signer.as_str().into(),
        })
    }

    /// Reads every manifest of the cluster.
    ///
    /// # Errors
    /// What the store says when asked for the list; a snapshot whose manifest is not believed, or of
    /// which something cannot be read, is in [`Listing::rejected`].
    pub async fn list(&self) -> Result<Listing, CatalogError> {
        let mut folders: BTreeMap<SnapshotHome, Vec<ObjectInfo>> = BTreeMap::new();
        for object in self.store.list(&layout::snapshots_prefix(&self.cluster)).await? {
            if let Some((home, _)) = SnapshotHome::of_key(&object.key) {
                folders.entry(home).or_default().push(object);
            }
        }
        let mut listing = Listing::default();
        let mut reads = futures::stream::iter(folders)
            .map(|(home, objects)| async move {
                let read = self.read_folder(&home, &objects).await;
                (home, objects, read)
            })
            .buffered(READS_AT_ONCE);
        while let Some((home, objects, read)) = reads.next().await {
            match read {
                Ok(Some(entry)) => listing.entries.push(entry),
                Ok(None) => listing.unpublished.extend(objects),
                Err(error) => listing.rejected.push(Rejected { home, error: Arc::new(error) }),
            }
        }
        listing.entries.sort_by(|a, b| a.order().cmp(&b.order()));
        listing.share_faults();
        Ok(listing)
    }

    async fn read_folder(
        &self,
        home: &SnapshotHome,
        objects: &[ObjectInfo],
    ) -> Result<Option<Entry>, CatalogError> {
        let has = |name: &str| objects.iter().any(|object| object.key.file_name() == name);
        if !has(layout::MANIFEST) {
            return Ok(None);
        }
        let manifest = match read_manifest(self.store.as_ref(), home, &self.trusted).await {
            // Retention removes the manifest first: gone since the listing is gone.
            Err(CatalogError::Store(StoreError::Missing { .. })) => return Ok(None),
            other => other?,
        };
        if manifest.repository != self.record.repository {
            return Err(misplaced(&home.key(layout::MANIFEST), manifest));
        }
        let verifications = self.read_verifications(&manifest, objects).await?;
        let pin = if has(layout::PIN) { self.read_pin(home).await? } else { None };
        Ok(Some(Entry { home: home.clone(), manifest, verifications, shared_faults: Vec::new(), pin }))
    }

    async fn read_verifications(
        &self,
        manifest: &Manifest,
        objects: &[ObjectInfo],
    ) -> Result<Vec<Verification>, CatalogError> {
        let keys: Vec<&ObjectKey> = objects
            .iter()
            .map(|object| &object.key)
            .filter(|key| layout::is_verification(key.file_name()))
            .collect();
        let mut found: Vec<Verification> = futures::stream::iter(keys)
            .map(|key| async move {
                let bytes = match read_small(self.store.as_ref(), key, SMALL_MAX_BYTES).await {
                    // Removed since it was listed, with the snapshot.
                    Err(StoreError::Missing { .. }) => return Ok(None),
                    other => other?,
                };
                // A record that is not believed proves nothing; it must not hide the snapshot.
                Ok::<_, CatalogError>(
                    open_document::<Verification>(VERIFICATION_KIND, key, &bytes, &self.trusted).ok(),
                )
            })
            .buffered(READS_AT_ONCE)
            .try_filter_map(|record| async move { Ok(record) })
            .try_collect()
            .await?;
        found.retain(|record| {
            record.id == manifest.id
                && record.repository == manifest.repository
                && record.format == manifest::FORMAT
        });
        found.sort_by_key(|record| record.at);
        Ok(found)
    }

    async fn read_pin(&self, home: &SnapshotHome) -> Result<Option<Pin>, CatalogError> {
        let unreadable = || Pin { at: DateTime::UNIX_EPOCH, reason: "unreadable pin".into() };
        match read_small(self.store.as_ref(), &home.key(layout::PIN), SMALL_MAX_BYTES).await {
            // A pin that cannot be read still pins: keeping too much is the safe side.
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| unreadable()))),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(_) => Ok(Some(unreadable())),
        }
    }

    /// Publishes a snapshot: the last object written, and the commit point.
    ///
    /// # Errors
    /// What the store says; then the snapshot does not exist.
    pub async fn publish(&self, manifest: &Manifest, key: &SigningKey) -> Result<(), CatalogError> {
        self.write_signed(MANIFEST_KIND, &self.home(manifest).key(layout::MANIFEST), manifest, key).await
    }

    /// Records what a verification proved.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_verification(
        &self,
        home: &SnapshotHome,
        record: &Verification,
        key: &SigningKey,
    ) -> Result<(), CatalogError> {
        let name = layout::verification_name(record.depth.as_str(), record.at);
        self.write_signed(VERIFICATION_KIND, &home.key(&name), record, key).await
    }

    async fn write_signed<T: Serialize>(
        &self,
        kind: &'static str,
        at: &ObjectKey,
        document: &T,
        key: &SigningKey,
    ) -> Result<(), CatalogError> {
        let bytes = signature::sign(kind, document, key)
            .map_err(|source| CatalogError::Write { key: at.to_string(), source })?;
        self.store.put(at, Parts::whole(bytes)).await?;
        Ok(())
    }

    /// Keeps a snapshot from retention; pinning twice keeps the first pin.
    ///
    /// # Errors
    /// What the store says.
    pub async fn pin(&self, home: &SnapshotHome, pin: &Pin) -> Result<(), CatalogError> {
        let key = home.key(layout::PIN);
        let bytes =
            serde_json::to_vec(pin).map_err(|source| CatalogError::Write { key: key.to_string(), source })?;
        match self.store.put(&key, Parts::whole(bytes)).await {
            Ok(_) | Err(StoreError::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets retention have a snapshot again.
    ///
    /// # Errors
    /// What the store says.
    pub async fn unpin(&self, home: &SnapshotHome) -> Result<(), CatalogError> {
        Ok(self.store.delete(&home.key(layout::PIN)).await?)
    }

    /// The folder of a snapshot of this cluster.
    pub fn home(&self, manifest: &Manifest) -> SnapshotHome {
        SnapshotHome {
            cluster: self.cluster.clone(),
            database: manifest.database.clone(),
            id: manifest.id.clone(),
        }
    }
}
