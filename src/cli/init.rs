//! `belay init`: repository, keys of this host, recovery kit.

use std::io::Write as _;
use std::path::PathBuf;

use age::x25519::Recipient;
use clap::Args;
use serde_json::json;

use super::host::{key_paths, ledger_of, load_settings};
use super::privileges::Inputs;
use super::report::{ExitCode, Failure, Report};
use super::repository::{create_directory, open_store};
use super::{Global, audit, clock};
use crate::catalog::{Catalog, CatalogError};
use crate::keys::kit::{KitFacts, recovery_kit};
use crate::keys::{HostKeys, parse_recipient};
use crate::rules::manifest::{FORMAT, RepositoryRecord};
use crate::rules::signature::SignerKey;
use crate::settings::{RepositoryUrl, Settings};
use crate::store::StoreError;

/// Options of `belay init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Public key of an identity that is kept away from this host (age1…)
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "offline_identity")]
    pub offline_recipient: Option<String>,
    /// Make an identity to carry away, in this new file
    #[arg(long, value_name = "FILE")]
    pub offline_identity: Option<PathBuf>,
    /// Seal to this host's identity alone: if the host is lost, so are all snapshots
    #[arg(long, conflicts_with_all = ["offline_recipient", "offline_identity"])]
    pub single_recipient: bool,
    /// Make this host the writer of a repository that another host made, or whose belay.json is lost
    #[arg(long)]
    pub takeover: bool,
}

/// Makes what is missing; never overwrites a key or a repository.
///
/// # Errors
/// [`Failure`]
pub async fn run(global: &Global, args: InitArgs, inputs: Inputs) -> Result<Report, Failure> {
    let settings = load_settings(&global.config)?;
    let offline = offline_recipient(&args, inputs)?;
    let has_recipients = !settings.keys.recipients.is_empty();
    if offline.is_none() && !args.single_recipient && settings.keys.recipients.len() < 2 {
        let text = "snapshots would be sealed to this host alone, and lost with it";
        let hint = "give --offline-identity FILE (makes one to carry away), --offline-recipient age1…, or --single-recipient";
        return Err(Failure::new("init", ExitCode::Usage, text).with_hint(hint));
    }
    let keys = own_keys(&settings)?;
    let signing = keys
        .signing
        .as_ref()
        .ok_or_else(|| Failure::new("init", ExitCode::Usage, "there is no signing key"))?;
    let recipients: Vec<String> = if has_recipients {
        settings.keys.recipients.clone()
    } else {
        keys.recipients().iter().chain(offline.as_ref()).map(ToString::to_string).collect()
    };
    let record = RepositoryRecord {
        format: FORMAT,
        repository: new_repository_id(),
        created_at: clock::now(),
        host: host_name(),
        signer: SignerKey::of(signing),
        former_signers: Vec::new(),
        recipients,
    };
    let record = if args.takeover {
        super::takeover::take_over(&settings, record, &keys).await?
    } else {
        create_directory(&settings.repository.url)?;
        let store = open_store(&settings.repository, None).await?;
        Catalog::create(store.as_ref(), &record, signing).await.map_err(not_created)?;
        record
    };
    let ledger = ledger_of(&settings).await?;
    audit::note_settings(&ledger, &global.config).await?;
    let action = if args.takeover { "takeover" } else { "init" };
    audit::note(&ledger, action, (None, Some(&record.repository)), "done").await?;
    report(&settings, &keys, &record)
}

/// Refuses where there is a repository already, before anything is written: an identity that was
/// made for nothing would be in the way of the next try.
///
/// # Errors
/// As [`run`] would.
pub async fn refuse_early(args: &InitArgs, settings: &Settings) -> Result<(), Failure> {
    if let RepositoryUrl::Local(root) = &settings.repository.url
        && !args.takeover
        && !root.exists()
    {
        return Ok(());
    }
    let store = open_store(&settings.repository, None).await?;
    if args.takeover { Ok(()) } else { Catalog::refuse_existing(store.as_ref()).await.map_err(not_created) }
}

fn not_created(error: CatalogError) -> Failure {
    let exists = matches!(error, CatalogError::Store(StoreError::Exists { .. }));
    let failure = Failure::of("init")(error);
    if !exists {
        return failure;
    }
    let hint = "there is a repository already, and it was left as it is; `belay init --takeover` makes this host the writer of another's";
    Failure { code: ExitCode::Refused, ..failure }.with_hint(hint)
}

fn offline_recipient(args: &InitArgs, inputs: Inputs) -> Result<Option<Recipient>, Failure> {
    match &args.offline_recipient {
        Some(text) => parse_recipient(text).map(Some).map_err(Failure::of("init")),
        None => Ok(inputs.offline_recipient),
    }
}

/// The host's keys, made unless they are there (handed over by systemd, or by an earlier `init`
/// that was interrupted).
fn own_keys(settings: &Settings) -> Result<HostKeys, Failure> {
    let paths = key_paths(settings);
    if paths.chunk.path().exists() {
        return HostKeys::load(&paths).map_err(Failure::of("init"));
    }
    let directory = settings.state.directory.join("keys");
    let made = if settings.keys.identity_file.is_some() {
        HostKeys::create_without_identity(&directory)
    } else {
        HostKeys::create(&directory, clock::now())
    };
    made.map_err(Failure::of("init"))?;
    HostKeys::load(&paths).map_err(Failure::of("init"))
}

fn new_repository_id() -> String {
    data_encoding::BASE32_NOPAD.encode(&rand::random::<[u8; 16]>()).to_lowercase()
}

fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn report(settings: &Settings, keys: &HostKeys, record: &RepositoryRecord) -> Result<Report, Failure> {
    let host_recipients: Vec<String> = keys.recipients().iter().map(ToString::to_string).collect();
    let kit = recovery_kit(&KitFacts {
        repository_url: settings.repository.url.to_string(),
        repository_environment: settings.repository.environment(),
        repository_id: record.repository.clone(),
        host: record.host.clone(),
        cluster: settings.cluster.name.clone(),
        created_at: record.created_at,
        signer: record.signer.clone(),
        host_recipient: host_recipients.first().cloned(),
        offline_recipients: record
            .recipients
            .iter()
            .filter(|recipient| !host_recipients.contains(recipient))
            .cloned()
            .collect(),
    });
    let path = settings.state.directory.join("recovery-kit.txt");
    write_kit(&path, &kit).map_err(|error| {
        Failure::new("write the recovery kit", ExitCode::Failed, format!("{}: {error}", path.display()))
    })?;
    let text = format!(
        "{kit}\nThe above is the recovery kit, also in {}. Print it, or store it away from this host.\n",
        path.display()
    );
    let body = json!({
        "repository": record.repository, "url": settings.repository.url.to_string(), "signer": record.signer,
        "recipients": record.recipients, "recovery_kit": path,
    });
    Ok(Report::new("init", text, &body))
}

fn write_kit(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
