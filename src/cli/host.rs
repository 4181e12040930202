//! What most verbs need: settings, keys, the opened repository, the ledger.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::audit;
use super::report::{ExitCode, Failure};
use super::repository::open_store;
use crate::catalog::Catalog;
use crate::jobs::restore::own::own_databases;
use crate::jobs::restore::recover;
use crate::keys::{HostKeys, KeyFile, KeyPaths, parse_recipient};
use crate::ledger::Ledger;
use crate::postgres::{scratch, session};
use crate::rules::signature::SignerKey;
use crate::seal::{Opener, Sealer};
use crate::settings::{self, Connection, DatabaseScope, DatabaseSettings, RepositoryUrl, Settings};
use crate::store::Store;

/// An opened installation.
pub struct Host {
    /// The file of the settings.
    pub config: PathBuf,
    /// The settings.
    pub settings: Settings,
    /// The keys.
    pub keys: HostKeys,
    /// The repository, seen from the settings' cluster.
    pub catalog: Catalog,
    /// The search path for programs.
    pub path: String,
}

impl Host {
    /// Opens the installation that `config` describes.
    ///
    /// # Errors
    /// [`Failure`] of whichever part does not open.
    pub async fn open(config: &Path) -> Result<Self, Failure> {
        Self::open_trusting(config, &[]).await
    }

    /// As [`Host::open`], and believes what `also_trusted` signed too.
    ///
    /// # Errors
    /// As [`Host::open`].
    pub async fn open_trusting(config: &Path, also_trusted: &[SignerKey]) -> Result<Self, Failure> {
        let settings = load_settings(config)?;
        let keys = HostKeys::load(&key_paths(&settings)).map_err(Failure::of("open the keys"))?;
        let store = open_store(&settings.repository, Some(&settings.state.directory)).await?;
        let trusted = keys.trusted_signers.iter().chain(also_trusted).cloned().collect();
        let catalog = open_catalog(store, &settings.cluster.name, trusted).await?;
        let host = Self { config: config.into(), settings, keys, catalog, path: settings::search_path() };
        scratch::sweep(&host.scratch_directory()).map_err(|error| {
            Failure::new("empty the scratch directory", ExitCode::Failed, error.to_string())
        })?;
        Ok(host)
    }

    /// Bytes that are free where a local repository lies, when that can be asked.
    pub fn repository_free_bytes(&self) -> Option<u64> {
        match &self.settings.repository.url {
            RepositoryUrl::Local(root) => free_bytes(root),
            RepositoryUrl::S3 { .. } => None,
        }
    }

    /// Where scratch clusters and spools lie.
    pub fn scratch_directory(&self) -> PathBuf {
        self.settings.state.directory.join("scratch")
    }

    /// Seals to the recipients of the settings, or to those of the repository.
    ///
    /// # Errors
    /// [`Failure`] for a text that is no recipient.
    pub fn sealer(&self) -> Result<Sealer, Failure> {
        let configured = &self.settings.keys.recipients;
        let texts = if configured.is_empty() { &self.catalog.record().recipients } else { configured };
        let recipients: Result<Vec<_>, _> = texts.iter().map(|text| parse_recipient(text)).collect();
        Sealer::new(recipients.map_err(Failure::of("read the recipients"))?)
            .map_err(Failure::of("read the recipients"))
    }

    /// The key that signs what this host writes; `action` is for the error.
    ///
    /// # Errors
    /// [`Failure`] when there is none.
    pub fn signing(&self, action: &str) -> Result<&ed25519_dalek::SigningKey, Failure> {
        let missing = || Failure::new(action, ExitCode::Usage, "there is no signing key on this host");
        self.keys.signing.as_ref().ok_or_else(missing)
    }

    /// Opens with the host's identities, if it has any.
    pub fn opener(&self) -> Option<Opener> {
        let identities = &self.keys.identities;
        (!identities.is_empty()).then(|| Opener::new(identities.clone()))
    }

    /// The settings of one database: its section, or those of the cluster when it has all.
    ///
    /// # Errors
    /// [`Failure`] with [`ExitCode::NotFound`].
    pub fn database(&self, name: &str) -> Result<DatabaseSettings, Failure> {
        let sections = &self.settings.databases;
        let by_name = || sections.values().find(|section| section.connection.database == name);
        if let Some(section) = sections.get(name).or_else(by_name) {
            return Ok(section.clone());
        }
        if self.settings.cluster.databases == DatabaseScope::All {
            return Ok(self.settings.cluster_database(name));
        }
        let known: Vec<_> = sections.keys().cloned().collect();
        let text = format!("there is no [database.{name}] in the settings; there is {}", known.join(", "));
        Err(Failure::new("find the database", ExitCode::NotFound, text))
    }

    /// The name in PostgreSQL of the database whose section is called `name`; without such a
    /// section, `name` itself, so that snapshots of a database that left the settings are found.
    pub fn database_name(&self, name: &str) -> String {
        database_name(&self.settings, name)
    }

    /// Every database that the settings name or mean.
    ///
    /// # Errors
    /// As [`databases_of`].
    pub async fn databases(&self, ledger: &Ledger) -> Result<Vec<DatabaseSettings>, Failure> {
        databases_of(&self.settings, Some(ledger)).await
    }

    /// Settles what interrupted restores left in the cluster whose databases are all meant, so that
    /// none of it is taken for one of them.
    ///
    /// # Errors
    /// [`Failure`] when the cluster does not answer.
    pub async fn settle_cluster(&self, ledger: &Ledger) -> Result<(), Failure> {
        if self.settings.cluster.databases == DatabaseScope::All {
            let settled = recover::settle(ledger, &self.settings.cluster.connection).await;
            settled.map_err(Failure::of("settle interrupted restores"))?;
        }
        Ok(())
    }

    /// One connection for each server that a database of the settings is on.
    pub fn clusters(&self) -> Vec<Connection> {
        clusters_of(&self.settings)
    }

    /// Opens the ledger, whose audit log hears of new settings.
    ///
    /// # Errors
    /// [`Failure`] when it is damaged or of a newer version.
    pub async fn ledger(&self) -> Result<Ledger, Failure> {
        let ledger = ledger_of(&self.settings).await?;
        audit::note_settings(&ledger, &self.config).await?;
        Ok(ledger)
    }
}

/// How each cluster is reached that `settings` are about, by the first of its databases.
pub fn clusters_of(settings: &Settings) -> Vec<Connection> {
    let mut clusters: Vec<Connection> = Vec::new();
    let of_sections = settings.databases.values().map(|database| &database.connection);
    let has_own = settings.cluster.databases == DatabaseScope::All || settings.databases.is_empty();
    for to in of_sections.chain(has_own.then_some(&settings.cluster.connection)) {
        if clusters.iter().all(|known| (&known.host, known.port) != (&to.host, to.port)) {
            clusters.push(to.clone());
        }
    }
    clusters
}

/// As [`Host::database_name`], where only the settings are read.
pub fn database_name(settings: &Settings, name: &str) -> String {
    let section = settings.databases.get(name);
    section.map_or_else(|| name.to_owned(), |section| section.connection.database.clone())
}

/// Opens the ledger of the state directory.
///
/// # Errors
/// [`Failure`] when it is damaged or of a newer version.
pub async fn ledger_of(settings: &Settings) -> Result<Ledger, Failure> {
    let path = settings.state.directory.join("ledger.sqlite");
    Ledger::open(&path).await.map_err(Failure::of("open the ledger"))
}

/// Reads the settings.
///
/// # Errors
/// [`Failure`] with [`ExitCode::Usage`].
pub fn load_settings(config: &Path) -> Result<Settings, Failure> {
    Settings::load(config).map_err(Failure::of("read the settings"))
}

/// Every database that the settings name or mean; those that are Belay's own, by `ledger`, are not
/// meant.
///
/// # Errors
/// [`Failure`] when the cluster cannot be asked which it has, or there is none.
pub async fn databases_of(
    settings: &Settings,
    ledger: Option<&Ledger>,
) -> Result<Vec<DatabaseSettings>, Failure> {
    let mut all: Vec<DatabaseSettings> = settings.databases.values().cloned().collect();
    if settings.cluster.databases == DatabaseScope::All {
        let to = &settings.cluster.connection;
        let mut session = session::connect(to).await.map_err(Failure::of("list databases"))?;
        let names = session::databases(&mut session).await.map_err(Failure::of("list databases"))?;
        let own = match ledger {
            Some(ledger) => {
                own_databases(ledger, &mut session).await.map_err(Failure::of("list databases"))?
            }
            None => BTreeSet::new(),
        };
        let is_meant = |name: &&String| {
            *name != session::MAINTENANCE_DATABASE
                && !own.contains(*name)
                && !settings.cluster.except.contains(*name)
                && all.iter().all(|section| &section.connection.database != *name)
        };
        let found: Vec<_> =
            names.iter().filter(is_meant).map(|name| settings.cluster_database(name)).collect();
        all.extend(found);
    }
    if all.is_empty() {
        let failure = Failure::new("find databases", ExitCode::Usage, "the settings name no database");
        return Err(failure.with_hint("add a section [database.NAME], or databases = \"all\" in [cluster]"));
    }
    Ok(all)
}

/// Where the keys are: named in the settings, handed over by systemd, or in the state directory.
pub fn key_paths(settings: &Settings) -> KeyPaths {
    let mut paths = KeyPaths::in_directory(&settings.state.directory.join("keys"));
    let credentials = settings::credentials_directory();
    let credential = |name: &str| {
        credentials
            .as_ref()
            .map(|directory| directory.join(name))
            .filter(|path| path.exists())
            .map(KeyFile::Credential)
    };
    let named = |path: &Option<PathBuf>| path.clone().map(KeyFile::Required);
    if let Some(file) = named(&settings.keys.identity_file).or_else(|| credential("identity.txt")) {
        paths.identity = file;
    }
    if let Some(file) = named(&settings.keys.signing_key_file).or_else(|| credential("signing.key")) {
        paths.signing = file;
    }
    paths
}

/// Opens the catalog in a store.
///
/// # Errors
/// [`Failure`] when there is none, or it is not to be believed.
pub async fn open_catalog(
    store: Arc<dyn Store>,
    cluster: &str,
    trusted: Vec<SignerKey>,
) -> Result<Catalog, Failure> {
    Catalog::open(store, cluster, trusted).await.map_err(Failure::of("open the repository"))
}

/// Bytes that are free for us on the file system of `path`, when that can be asked.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let space = nix::sys::statvfs::statvfs(path).ok()?;
    Some(space.fragment_size().saturating_mul(space.blocks_available()))
}
