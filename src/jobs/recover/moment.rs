//! Databases as they were at a moment, as snapshots: recovered with their cluster in a scratch directory,
//! and taken from there.
//!
//! The snapshots lie in a repository of its own, beside the recovered cluster and sealed to a key that is
//! gone with it, and are restored from there as any other.

use std::io;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;

use super::{Means, Recovered, Served, Stock, disk, places, recover};
use crate::catalog::{Catalog, CatalogError, Entry, Selector};
use crate::jobs::{JobError, WorkDirectory, snapshot};
use crate::keys::HostKeys;
use crate::postgres::{describe, session};
use crate::rules::manifest::{FORMAT, RepositoryRecord};
use crate::rules::physical::BaseManifest;
use crate::rules::recovery::Plan;
use crate::rules::signature::SignerKey;
use crate::rules::sql::quoted;
use crate::seal::{Opener, Sealer};
use crate::settings::DatabaseSettings;
use crate::store::Store;
use crate::store::local::LocalStore;

/// Databases as they were; everything of it is gone when this is dropped.
pub struct Moment {
    /// How its cluster was recovered.
    pub recovered: Recovered,
    /// The repository that they lie in.
    pub catalog: Catalog,
    /// What opens them.
    pub opener: Opener,
    _work: WorkDirectory,
}

impl Moment {
    /// The snapshot of `database`.
    ///
    /// # Errors
    /// [`CatalogError::NotFound`] when it is not one of those that
    /// were wanted.
    pub async fn entry(&self, database: &str) -> Result<Entry, JobError> {
        Ok(self.catalog.list().await?.select(Some(database), &Selector::Latest)?.clone())
    }
}

/// Recovers the cluster by `plan`, and takes a snapshot of each of `databases` in it.
///
/// # Errors
/// As [`recover`] and [`snapshot::take`]; a database that was not there then is [`CatalogError::NotFound`].
pub async fn databases_at(
    means: &Means<'_>,
    stock: &Stock,
    plan: &Plan,
    base: &BaseManifest,
    databases: &[&DatabaseSettings],
    clock: fn() -> DateTime<Utc>,
) -> Result<Moment, JobError> {
    let work = WorkDirectory::create(means.scratch_directory)?;
    // A server that outlives us is found by this name when the scratch directory is swept.
    let data = work.path().join("data");
    let Served { recovered, server, programs: _programs, _room } =
        recover(means, stock, plan, base, &data, false).await?;

    let mut session = session::connect(&server.connection).await?;
    for database in databases {
        be_let_in(&mut session, &database.connection.database).await?;
    }
    session::close(session).await?;

    let failed = |error: String| disk("make a repository in", work.path(), io::Error::other(error));
    let keys =
        HostKeys::create(&work.path().join("keys"), clock()).map_err(|error| failed(error.to_string()))?;
    let signing = keys.signing.as_ref().ok_or_else(|| failed("no signing key was made".into()))?;
    let root = work.path().join("repository");
    std::fs::create_dir(&root).map_err(|source| disk("make", &root, source))?;
    let store = LocalStore::create(&root).map_err(|error| failed(error.to_string()))?;
    let record = RepositoryRecord {
        format: FORMAT,
        repository: means.catalog.record().repository.clone(),
        created_at: clock(),
        host: "recovered".into(),
        signer: SignerKey::of(signing),
        former_signers: Vec::new(),
        recipients: keys.recipients().iter().map(ToString::to_string).collect(),
    };
    Catalog::create(&store, &record, signing).await?;
    let store: Arc<dyn Store> = Arc::new(store);
    let catalog = Catalog::open(store, means.catalog.cluster(), keys.trusted_signers.clone()).await?;
    let sealer = Sealer::new(keys.recipients())?;
    let taking = snapshot::Means {
        catalog: &catalog,
        sealer: &sealer,
        signing,
        chunk_key: &keys.chunk_key,
        bin_directory: means.bin_directory,
        path: means.path,
        progress: means.progress,
    };
    for database in databases {
        let connection = server.connection.with_database(&database.connection.database);
        let there = DatabaseSettings { connection, ..(*database).clone() };
        snapshot::take(&taking, &there, rand::random(), clock).await?;
    }
    drop(server);
    // The copy of the cluster needs much more room than the snapshots do.
    for part in [data.clone(), places::parent_of(&data)] {
        match std::fs::remove_dir_all(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(disk("remove", &part, error));
            }
            _ => {}
        }
    }
    Ok(Moment { recovered, opener: Opener::new(keys.identities.clone()), catalog, _work: work })
}

/// Sees to it that the database `name` is there and accepts connections: somebody may have closed it then.
async fn be_let_in(session: &mut PgConnection, name: &str) -> Result<(), JobError> {
    if session::databases(session).await?.iter().any(|there| there == name) {
        return Ok(());
    }
    if describe::database_oid(session, name).await?.is_none() {
        let there = session::databases(session).await?.join(", ");
        let wanted = format!("the cluster had no database {name} at that moment; it had {there}");
        return Err(CatalogError::NotFound { wanted }.into());
    }
    let open = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quoted(name));
    Ok(session::run(session, "open the recovered database", open).await?)
}
