//! `belay init --takeover`: this host becomes the writer of a repository that another one made, or
//! writes the record again that its own has lost.

use std::sync::Arc;

use super::report::{ExitCode, Failure};
use super::repository::open_store;
use crate::catalog::{Catalog, CatalogError};
use crate::keys::HostKeys;
use crate::rules::manifest::RepositoryRecord;
use crate::settings::Settings;
use crate::store::Store;

/// Opens the repository; one that has lost its record, by its signed manifests.
async fn open(store: &Arc<dyn Store>, settings: &Settings, keys: &HostKeys) -> Result<Catalog, CatalogError> {
    let (cluster, trusted) = (&settings.cluster.name, &keys.trusted_signers);
    match Catalog::open(store.clone(), cluster, trusted.clone()).await {
        Err(CatalogError::RecordLost { .. }) => {
            Catalog::open_by_manifests(store.clone(), cluster, trusted.clone()).await
        }
        opened => opened,
    }
}

/// Replaces the repository's record by `fresh`, which goes on trusting what was signed before.
///
/// The old record, or where it is lost a manifest, must be signed by somebody this host trusts: its
/// own key, or one in `trusted-signers.txt` in the directory of the keys, where the operator puts
/// the signer of the recovery kit.
///
/// # Errors
/// [`Failure`] when there is no repository, or its signer is not trusted.
pub async fn take_over(
    settings: &Settings,
    fresh: RepositoryRecord,
    keys: &HostKeys,
) -> Result<RepositoryRecord, Failure> {
    let store = open_store(&settings.repository, Some(&settings.state.directory)).await?;
    let catalog = open(&store, settings, keys).await.map_err(|error| {
        let is_stranger = matches!(error, CatalogError::Untrusted { .. });
        let failure = Failure::of("take over the repository")(error);
        if is_stranger {
            let path = settings.state.directory.join("keys/trusted-signers.txt");
            failure.with_hint(format!("write the signer's key from the recovery kit into {}", path.display()))
        } else {
            failure
        }
    })?;
    let old = catalog.record().clone();
    let mut former_signers = old.former_signers;
    if old.signer != fresh.signer && !former_signers.contains(&old.signer) {
        former_signers.push(old.signer);
    }
    let record =
        RepositoryRecord { repository: old.repository, created_at: old.created_at, former_signers, ..fresh };
    let signing = keys.signing.as_ref().ok_or_else(|| {
        Failure::new("take over the repository", ExitCode::Usage, "there is no signing key")
    })?;
    Catalog::replace_record(store.as_ref(), &record, signing)
        .await
        .map_err(Failure::of("take over the repository"))?;
    Ok(record)
}
