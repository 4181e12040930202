//! Reads the signed documents of a repository: its record, manifests, verification records.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{CatalogError, MANIFEST_MAX_BYTES, SMALL_MAX_BYTES};
use crate::rules::layout::{self, ObjectKey, SnapshotHome, SnapshotId};
use crate::rules::manifest::{self, MANIFEST_KIND, Manifest};
use crate::rules::physical::{BASE_KIND, BaseManifest};
use crate::rules::signature::{self, SignerKey};
use crate::store::{ObjectInfo, Store, StoreError, read_small};

/// Where the record of a repository lies.
pub(super) fn repository_key() -> ObjectKey {
    ObjectKey::new(layout::REPOSITORY_RECORD).expect("the name of the record is a key")
}

/// What a signed document says of the repository that it was written to.
pub(super) struct Origin {
    pub(super) repository: String,
    pub(super) at: DateTime<Utc>,
    pub(super) recipients: Vec<String>,
}

/// What the newest snapshot of `cluster` that one of `trusted` signed says, or where there is none the newest
/// base backup.
pub(super) async fn newest_origin(
    store: &dyn Store,
    cluster: &str,
    trusted: &[SignerKey],
) -> Result<Option<Origin>, CatalogError> {
    if let Some(Manifest { repository, taken_at: at, recipients, .. }) =
        newest_manifest(store, cluster, trusted).await?
    {
        return Ok(Some(Origin { repository, at, recipients }));
    }
    let objects = store.list(&layout::bases_prefix(cluster)).await?;
    let mut ids: Vec<SnapshotId> = objects
        .iter()
        .filter_map(|object| layout::base_of_key(&object.key))
        .filter(|(_, file)| *file == layout::MANIFEST)
        .map(|(id, _)| id)
        .collect();
    ids.sort();
    let mut first_error = None;
    for id in ids.into_iter().rev() {
        let key = layout::base_key(cluster, &id, layout::MANIFEST);
        let bytes = read_small(store, &key, MANIFEST_MAX_BYTES).await?;
        match open_document(BASE_KIND, &key, &bytes, trusted) {
            Ok(BaseManifest { repository, ended_at: at, recipients, .. }) => {
                return Ok(Some(Origin { repository, at, recipients }));
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// The newest manifest of `cluster` that lies at home and is signed by one of `trusted`.
async fn newest_manifest(
    store: &dyn Store,
    cluster: &str,
    trusted: &[SignerKey],
) -> Result<Option<Manifest>, CatalogError> {
    let objects = store.list(&layout::snapshots_prefix(cluster)).await?;
    let mut homes: Vec<SnapshotHome> = objects
        .iter()
        .filter_map(|object| SnapshotHome::of_key(&object.key))
        .filter(|(_, file)| *file == layout::MANIFEST)
        .map(|(home, _)| home)
        .collect();
    homes.sort_by(|a, b| b.id.cmp(&a.id));
    let mut first_error = None;
    for home in homes {
        match read_manifest(store, &home, trusted).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// Reads the manifest of the snapshot at `home`, whichever repository it says it is of.
pub(super) async fn read_manifest(
    store: &dyn Store,
    home: &SnapshotHome,
    trusted: &[SignerKey],
) -> Result<Manifest, CatalogError> {
    let key = home.key(layout::MANIFEST);
    let bytes = read_small(store, &key, MANIFEST_MAX_BYTES).await?;
    let manifest: Manifest = open_document(MANIFEST_KIND, &key, &bytes, trusted)?;
    let is_at_home =
        manifest.id == home.id && manifest.database == home.database && manifest.cluster == home.cluster;
    if is_at_home { Ok(manifest) } else { Err(misplaced(&key, manifest)) }
}

/// A manifest that is not where it says it belongs.
pub(super) fn misplaced(key: &ObjectKey, manifest: Manifest) -> CatalogError {
    CatalogError::Misplaced { key: key.to_string(), id: manifest.id, database: manifest.database }
}

/// Reads `belay.json`, unopened.
pub(super) async fn read_record(store: &dyn Store) -> Result<Vec<u8>, CatalogError> {
    let key = repository_key();
    match read_small(store, &key, SMALL_MAX_BYTES).await {
        Err(StoreError::Missing { store: address, .. }) => {
            let is_ours = |object: &ObjectInfo| {
                SnapshotHome::of_key(&object.key).is_some()
                    || layout::chunk_name(&object.key).is_some()
                    || layout::base_of_key(&object.key).is_some()
            };
            Err(if store.list("").await?.iter().any(is_ours) {
                CatalogError::RecordLost { store: address, key: key.to_string() }
            } else {
                CatalogError::NoRepository { store: address }
            })
        }
        other => Ok(other?),
    }
}

/// What every signed document of ours has, whatever else its format puts into it.
#[derive(Deserialize)]
struct Formatted {
    format: u32,
}

/// Opens a document that `trusted` signed; its format is looked at before the rest of it.
pub(super) fn open_document<T: serde::de::DeserializeOwned>(
    kind: &'static str,
    key: &ObjectKey,
    bytes: &[u8],
    trusted: &[SignerKey],
) -> Result<T, CatalogError> {
    let untrusted = |source| CatalogError::Untrusted { key: key.to_string(), source };
    let Formatted { format } = signature::open(kind, bytes, trusted).map_err(untrusted)?;
    manifest::check_format(format).map_err(|source| CatalogError::Format { key: key.to_string(), source })?;
    signature::open(kind, bytes, trusted).map_err(untrusted)
}
