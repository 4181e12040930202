//! Base backups and the write-ahead log behind them, as the store has them.
//!
//! The log is listed by the names of its records alone: there are too many to read each time.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use futures::StreamExt as _;

use super::documents::open_document;
use super::{Catalog, CatalogError, READS_AT_ONCE, SMALL_MAX_BYTES};
use crate::rules::drill::{BASE_VERIFICATION_KIND, BaseVerification};
use crate::rules::layout::{self, ObjectKey, SnapshotId};
use crate::rules::physical::{BASE_KIND, BaseManifest, PIECE_KIND, PieceName, PieceRecord};
use crate::rules::restore_point::{POINT_KIND, RestorePoint};
use crate::store::{ObjectInfo, StoreError, read_small};

/// What the store has of the physical side.
#[derive(Debug, Default)]
pub struct Bases {
    /// Base backups, oldest first.
    pub bases: Vec<BaseManifest>,
    /// Those whose manifest is not believed or cannot be read, and why.
    pub rejected: Vec<(SnapshotId, CatalogError)>,
    /// Objects of folders without a manifest.
    pub unpublished: Vec<ObjectInfo>,
}

impl Catalog {
    /// Publishes a base backup: the last object written, and the commit point.
    ///
    /// # Errors
    /// What the store says; then the base backup does not exist.
    pub async fn publish_base(&self, manifest: &BaseManifest, key: &SigningKey) -> Result<(), CatalogError> {
        let at = layout::base_key(&self.cluster, &manifest.id, layout::MANIFEST);
        self.write_signed(BASE_KIND, &at, manifest, key).await
    }

    /// Reads the manifest of every base backup of the cluster.
    ///
    /// # Errors
    /// What the store says when asked for the list.
    pub async fn bases(&self) -> Result<Bases, CatalogError> {
        let mut folders: BTreeMap<SnapshotId, Vec<ObjectInfo>> = BTreeMap::new();
        for object in self.store.list(&layout::bases_prefix(&self.cluster)).await? {
            if let Some((id, _)) = layout::base_of_key(&object.key) {
                folders.entry(id).or_default().push(object);
            }
        }
        let mut found = Bases::default();
        let mut reads = futures::stream::iter(folders)
            .map(|(id, objects)| async move {
                let is_published = objects.iter().any(|object| object.key.file_name() == layout::MANIFEST);
                let read = if is_published { self.base(&id).await } else { Ok(None) };
                (id, objects, read)
            })
            .buffered(READS_AT_ONCE);
        while let Some((id, objects, read)) = reads.next().await {
            match read {
                Ok(Some(manifest)) => found.bases.push(manifest),
                Ok(None) => found.unpublished.extend(objects),
                Err(error) => found.rejected.push((id, error)),
            }
        }
        Ok(found)
    }

    async fn base(&self, id: &SnapshotId) -> Result<Option<BaseManifest>, CatalogError> {
        let key = layout::base_key(&self.cluster, id, layout::MANIFEST);
        let manifest: Option<BaseManifest> = self.read_signed(BASE_KIND, &key).await?;
        let is_at_home = |manifest: &BaseManifest| {
            manifest.id == *id
                && manifest.cluster == self.cluster
                && manifest.repository == self.record.repository
        };
        match manifest {
            Some(manifest) if !is_at_home(&manifest) => Err(CatalogError::Misplaced {
                key: key.to_string(),
                id: manifest.id,
                database: format!("cluster {}", manifest.cluster),
            }),
            other => Ok(other),
        }
    }

    /// Records what was proven of a base backup and of the log behind it, beside its manifest.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_base_verification(
        &self,
        record: &BaseVerification,
        key: &SigningKey,
    ) -> Result<(), CatalogError> {
        let name = layout::verification_name(record.depth.as_str(), record.at);
        let at = layout::base_key(&self.cluster, &record.id, &name);
        self.write_signed(BASE_VERIFICATION_KIND, &at, record, key).await
    }

    /// Reads what was proven of the base backups of the cluster, each in the order of time. A record that
    /// is not believed, or lies beside another base backup than it names, proves nothing and is left out.
    ///
    /// # Errors
    /// What the store says.
    pub async fn base_verifications(
        &self,
    ) -> Result<BTreeMap<SnapshotId, Vec<BaseVerification>>, CatalogError> {
        let objects = self.store.list(&layout::bases_prefix(&self.cluster)).await?;
        let is_record = |object: &ObjectInfo| layout::is_verification(object.key.file_name());
        let mut reads = futures::stream::iter(objects.into_iter().filter(is_record))
            .map(|object| async move {
                let read = self.read_signed::<BaseVerification>(BASE_VERIFICATION_KIND, &object.key).await;
                (layout::base_of_key(&object.key).map(|(id, _)| id), read)
            })
            .buffered(READS_AT_ONCE);
        let mut found: BTreeMap<SnapshotId, Vec<BaseVerification>> = BTreeMap::new();
        while let Some((home, read)) = reads.next().await {
            let record = match read {
                Err(CatalogError::Store(error)) => return Err(error.into()),
                other => other.ok().flatten(),
            };
            let is_at_home = |record: &BaseVerification| {
                home.as_ref() == Some(&record.id)
                    && record.cluster == self.cluster
                    && record.repository == self.record.repository
            };
            if let Some(record) = record.filter(is_at_home) {
                found.entry(record.id.clone()).or_default().push(record);
            }
        }
        found.values_mut().for_each(|records| records.sort_by_key(|record| record.at));
        Ok(found)
    }

    /// Records a piece of the log: written after the piece, and the commit point.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_piece(&self, record: &PieceRecord, key: &SigningKey) -> Result<(), CatalogError> {
        self.write_signed(PIECE_KIND, &record.name.record_key(&self.cluster), record, key).await
    }

    /// Lists the pieces of the log that are recorded, in the order of their names.
    ///
    /// # Errors
    /// What the store says.
    pub async fn pieces(&self) -> Result<Vec<PieceName>, CatalogError> {
        let objects = self.store.list(&layout::wal_prefix(&self.cluster)).await?;
        Ok(objects.iter().filter_map(|object| PieceName::of_record_key(&object.key)).collect())
    }

    /// Reads the record of a piece; `None` when there is none.
    ///
    /// # Errors
    /// [`CatalogError::Untrusted`], [`CatalogError::Format`]; what the store says.
    pub async fn piece(&self, name: &PieceName) -> Result<Option<PieceRecord>, CatalogError> {
        let key = name.record_key(&self.cluster);
        let record: Option<PieceRecord> = self.read_signed(PIECE_KIND, &key).await?;
        let is_at_home = |record: &PieceRecord| {
            record.name == *name
                && record.cluster == self.cluster
                && record.repository == self.record.repository
        };
        Ok(record.filter(is_at_home))
    }

    /// Writes down a restore point that was made.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_point(&self, point: &RestorePoint, key: &SigningKey) -> Result<(), CatalogError> {
        self.write_signed(POINT_KIND, &layout::point_key(&self.cluster, &point.run), point, key).await
    }

    /// Reads the restore points that are believed, oldest first. One that is not names no moment, and the
    /// moment is reached by its time all the same.
    ///
    /// # Errors
    /// What the store says when asked for the list.
    pub async fn restore_points(&self) -> Result<Vec<RestorePoint>, CatalogError> {
        let objects = self.store.list(&layout::points_prefix(&self.cluster)).await?;
        let keys = objects.into_iter().filter_map(|object| {
            let run = layout::point_of_key(&object.key)?;
            Some((object.key, run))
        });
        let mut points = Vec::new();
        let mut reads = futures::stream::iter(keys)
            .map(|(key, run)| async move {
                let read: Result<Option<RestorePoint>, _> = self.read_signed(POINT_KIND, &key).await;
                (run, read)
            })
            .buffered(READS_AT_ONCE);
        while let Some((run, read)) = reads.next().await {
            match read {
                Ok(Some(point)) if point.run == run && point.cluster == self.cluster => points.push(point),
                Ok(_) => tracing::warn!(%run, "a restore point is not where it belongs"),
                Err(error) => tracing::warn!(%run, error = %error, "a restore point is not believed"),
            }
        }
        Ok(points)
    }

    async fn read_signed<T: serde::de::DeserializeOwned>(
        &self,
        kind: &'static str,
        key: &ObjectKey,
    ) -> Result<Option<T>, CatalogError> {
        match read_small(self.store.as_ref(), key, SMALL_MAX_BYTES).await {
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(bytes) => open_document(kind, key, &bytes, &self.trusted).map(Some),
        }
    }
}
