//! `--standalone`: a repository opened on a bare machine, without settings, keys or state.
//!
//! Comes in: the repository's address and the signer that the recovery kit names. Goes out: a
//! catalog, and a private directory for what a job writes down meanwhile, removed at the end.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use clap::Args;

use super::report::{ExitCode, Failure};
use super::repository::open_store;
use crate::catalog::{Catalog, CatalogError};
use crate::ledger::Ledger;
use crate::rules::layout::{self, ObjectKey, SnapshotHome};
use crate::rules::signature::SignerKey;
use crate::settings::{self, Environment, RepositorySettings, RepositoryUrl};
use crate::store::Store;

/// Options that open a repository without settings.
#[derive(Debug, Clone, Args)]
pub struct StandaloneArgs {
    /// Use no settings file: connect as libpq's environment says (PGHOST, PGPORT, PGUSER, …), and keep no state
    #[arg(long, requires = "repository")]
    pub standalone: bool,
    /// The repository, with --standalone: file:///absolute/path or s3://bucket/prefix (AWS_ENDPOINT_URL, AWS_REGION, …)
    #[arg(long, value_name = "URL", requires = "standalone")]
    pub repository: Option<RepositoryUrl>,
    /// The cluster in the repository, with --standalone; needed when it holds several
    #[arg(long, value_name = "NAME", requires = "standalone", value_parser = settings::cluster_name)]
    pub cluster: Option<String>,
    /// Believe what this key signed, too (64 hexadecimal digits, in the recovery kit)
    #[arg(long, value_name = "KEY", value_parser = signer)]
    pub trust_signer: Vec<SignerKey>,
}

fn signer(text: &str) -> Result<SignerKey, String> {
    SignerKey::parse(text).ok_or_else(|| "expected a public key of 64 hexadecimal digits".into())
}

/// A repository opened without settings.
pub struct Standalone {
    /// The repository, seen from the cluster that was named or is the only one.
    pub catalog: Catalog,
    /// What should be known of the repository.
    pub note: Option<String>,
    /// The search path for programs.
    pub path: String,
    state: tempfile::TempDir,
}

impl Standalone {
    /// Opens the repository that `args` name.
    ///
    /// # Errors
    /// [`Failure`] with [`ExitCode::Usage`] without a signer to trust or with several clusters to
    /// choose from, [`ExitCode::Problem`] when somebody else signed it.
    pub async fn open(args: &StandaloneArgs) -> Result<Self, Failure> {
        const ACTION: &str = "open the repository";
        let Some(url) = &args.repository else {
            return Err(Failure::new(ACTION, ExitCode::Usage, "--standalone needs --repository URL"));
        };
        if args.trust_signer.is_empty() {
            let failure = Failure::new(ACTION, ExitCode::Usage, "--standalone needs --trust-signer KEY");
            return Err(failure.with_hint("the recovery kit has it, as \"signing public key\""));
        }
        let private = std::fs::Permissions::from_mode(0o700);
        let state = tempfile::Builder::new().prefix("belay-standalone-").permissions(private).tempdir();
        let state = state.map_err(|error| {
            let text = format!("make a directory in {}: {error}", std::env::temp_dir().display());
            Failure::new(ACTION, ExitCode::Failed, text)
        })?;
        let environment = Environment::of_process();
        let repository = RepositorySettings::by_environment(url.clone(), &environment);
        let repository = repository.map_err(Failure::of("read the environment"))?;
        let store = open_store(&repository, None).await?;
        let cluster = match &args.cluster {
            Some(cluster) => {
                check_there(store.as_ref(), cluster).await?;
                cluster.clone()
            }
            None => only_cluster(store.as_ref()).await?,
        };
        let opened = Catalog::open(store.clone(), &cluster, args.trust_signer.clone()).await;
        let (opened, note) = match opened {
            Err(CatalogError::RecordLost { key, .. }) => {
                let note =
                    format!("{key} is missing from the repository: its signed manifests are gone by alone");
                (Catalog::open_by_manifests(store, &cluster, args.trust_signer.clone()).await, Some(note))
            }
            opened => (opened, None),
        };
        let catalog = opened.map_err(Failure::of(ACTION))?;
        Ok(Self { catalog, note, path: settings::search_path(), state })
    }

    /// A 0700 directory that is removed with this.
    pub fn state_directory(&self) -> &Path {
        self.state.path()
    }

    /// A ledger that nobody reads afterwards.
    ///
    /// # Errors
    /// [`Failure`] when the temporary directory takes no file.
    pub async fn ledger(&self) -> Result<Ledger, Failure> {
        Ledger::open(&self.state.path().join("ledger.sqlite")).await.map_err(Failure::of("open the ledger"))
    }
}

const FIND: &str = "find the cluster";

/// Refuses a cluster of which nothing is stored.
async fn check_there(store: &dyn Store, cluster: &str) -> Result<(), Failure> {
    // There are far fewer objects of base backups than of snapshots.
    for prefix in [layout::bases_prefix(cluster), layout::snapshots_prefix(cluster)] {
        if !store.list(&prefix).await.map_err(Failure::of(FIND))?.is_empty() {
            return Ok(());
        }
    }
    let there: Vec<String> = clusters(store).await?.into_iter().collect();
    let text = format!("the repository holds nothing of cluster {cluster}; it holds {}", there.join(", "));
    Err(Failure::new(FIND, ExitCode::NotFound, text).with_hint("name another one with --cluster"))
}

async fn only_cluster(store: &dyn Store) -> Result<String, Failure> {
    let names: Vec<String> = clusters(store).await?.into_iter().collect();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        several => {
            let text = format!("the repository holds several: {}", several.join(", "));
            Err(Failure::new(FIND, ExitCode::Usage, text).with_hint("name one of them with --cluster"))
        }
    }
}

/// The clusters of which something is stored; there is one at least.
async fn clusters(store: &dyn Store) -> Result<BTreeSet<String>, Failure> {
    let objects = store.list("").await.map_err(Failure::of(FIND))?;
    let of_manifest = |key: &ObjectKey| {
        let of_snapshot = SnapshotHome::of_key(key).map(|(home, file)| (home.cluster, file));
        let of_base = || {
            let (cluster, _) = key.as_str().split_once('/')?;
            layout::base_of_key(key).map(|(_, file)| (cluster.to_owned(), file))
        };
        let (cluster, file) = of_snapshot.or_else(of_base)?;
        (file == layout::MANIFEST).then_some(cluster)
    };
    let clusters: BTreeSet<String> = objects
        .iter()
        .filter_map(|object| of_manifest(&object.key))
        .filter(|name| settings::cluster_name(name).is_ok())
        .collect();
    if clusters.is_empty() {
        let text = "the repository holds neither a snapshot nor a base backup";
        return Err(Failure::new(FIND, ExitCode::NotFound, text));
    }
    Ok(clusters)
}
