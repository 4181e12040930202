//! Opens the store that an address means, and remembers what a bucket was seen to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::report::Failure;
use crate::catalog::CatalogError;
use crate::settings::{RepositorySettings, RepositoryUrl};
use crate::store::Store;
use crate::store::local::{LocalStore, LocalStoreError};
use crate::store::s3::{ConditionalPut, Conditions, Profile, S3Store};

const ACTION: &str = "open the repository";

/// Opens the store of a repository; what is known of a bucket lies in `state`, where there is one.
///
/// # Errors
/// [`Failure`] when a directory is not there, or a bucket cannot be spoken to as the settings say.
pub async fn open_store(
    repository: &RepositorySettings,
    state: Option<&Path>,
) -> Result<Arc<dyn Store>, Failure> {
    match &repository.url {
        RepositoryUrl::Local(root) => match LocalStore::open(root) {
            Ok(store) => Ok(Arc::new(store)),
            Err(LocalStoreError::Missing { .. }) => {
                let store = repository.url.to_string();
                Err(Failure::of(ACTION)(CatalogError::NoRepository { store }))
            }
            Err(error) => Err(Failure::of(ACTION)(error)),
        },
        RepositoryUrl::S3 { bucket, prefix } => {
            Ok(Arc::new(open_s3(repository, (bucket, prefix), state).await?))
        }
    }
}

/// Opens a repository's bucket; `None` when it lies elsewhere.
///
/// # Errors
/// [`Failure`] when it cannot be spoken to as the settings say.
pub async fn open_bucket(
    repository: &RepositorySettings,
    state: Option<&Path>,
) -> Result<Option<S3Store>, Failure> {
    match &repository.url {
        RepositoryUrl::Local(_) => Ok(None),
        RepositoryUrl::S3 { bucket, prefix } => open_s3(repository, (bucket, prefix), state).await.map(Some),
    }
}

async fn open_s3(
    repository: &RepositorySettings,
    (bucket, prefix): (&str, &str),
    state: Option<&Path>,
) -> Result<S3Store, Failure> {
    let conditions = state.map_or(Conditions::Unknown, |state| remembered(repository, state));
    let opened = Box::pin(S3Store::open(bucket, prefix, &repository.s3, conditions)).await;
    opened.map_err(Failure::of(ACTION))
}

/// Makes the directory of a repository; a bucket is for its owner to make.
///
/// # Errors
/// [`Failure`] when it cannot be made.
pub fn create_directory(url: &RepositoryUrl) -> Result<(), Failure> {
    match url {
        RepositoryUrl::Local(root) => LocalStore::create(root).map(drop).map_err(Failure::of("init")),
        RepositoryUrl::S3 { .. } => Ok(()),
    }
}

/// What `belay check` saw a bucket do, for the runs after it.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    url: String,
    endpoint: Option<String>,
    honours_conditions: bool,
}

fn path(state: &Path) -> PathBuf {
    state.join("bucket.json")
}

/// Nothing is known of another bucket, or when the file cannot be read: then writes ask first.
fn remembered(repository: &RepositorySettings, state: &Path) -> Conditions {
    let text = std::fs::read(path(state)).unwrap_or_default();
    match serde_json::from_slice::<Remembered>(&text) {
        Ok(seen)
            if seen.honours_conditions
                && seen.url == repository.url.to_string()
                && seen.endpoint == repository.s3.endpoint =>
        {
            Conditions::Honoured
        }
        _ => Conditions::Unknown,
    }
}

/// Writes down what a bucket was seen to do.
///
/// # Errors
/// What the system says.
pub fn remember(repository: &RepositorySettings, profile: &Profile, state: &Path) -> std::io::Result<()> {
    let seen = Remembered {
        url: repository.url.to_string(),
        endpoint: repository.s3.endpoint.clone(),
        honours_conditions: profile.conditional_put == ConditionalPut::Honoured,
    };
    let mut file = tempfile::NamedTempFile::new_in(state)?;
    serde_json::to_writer(&mut file, &seen)?;
    file.persist(path(state))?;
    Ok(())
}
