//! Who we are: started as root, we become the user that owns the cluster.
//!
//! PostgreSQL's server programs refuse root, and peer authentication knows the cluster's owner.
//! What only the caller may read or write on the command line is opened before.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use nix::unistd::{Uid, User};

use super::report::{ExitCode, Failure};
use super::{Cli, Verb, init, token};
use crate::postgres::session;
use crate::settings::{self, Connection, DatabaseSettings, Environment, RepositoryUrl, Settings};

/// The user that PostgreSQL's packages make.
const USUAL_USER: &str = "postgres";

/// What was read with the caller's rights, before they were given up.
#[derive(Default)]
pub struct Inputs {
    /// The contents of `--identity`, with its path for messages.
    pub identity: Option<(String, Vec<u8>)>,
    /// The recipient of the identity that `init --offline-identity` wrote.
    pub offline_recipient: Option<age::x25519::Recipient>,
    /// Where the caller stood; a command of theirs runs there.
    pub directory: PathBuf,
    /// The new file that `token add --out` names, and its path.
    pub token_file: Option<(PathBuf, std::fs::File)>,
    /// How libpq's environment says to connect, for a verb without a settings file.
    pub by_environment: Option<DatabaseSettings>,
}

/// Reads what needs the caller's rights, then gives up root.
///
/// # Errors
/// [`Failure`] when an input cannot be read or the user cannot be become.
pub fn settle(cli: &Cli, settings: Option<&Settings>, now: DateTime<Utc>) -> Result<Inputs, Failure> {
    let inputs = read_inputs(cli, settings, now)?;
    if Uid::effective().is_root()
        && let Some(user) = user_to_become(settings, &inputs)?
    {
        if let Some(settings) = settings {
            hand_over(settings, &user)?;
        }
        become_user(&user)?;
    }
    Ok(inputs)
}

fn read_inputs(cli: &Cli, settings: Option<&Settings>, now: DateTime<Utc>) -> Result<Inputs, Failure> {
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let mut inputs = Inputs { directory, ..Inputs::default() };
    if let Some(path) = cli.verb.identity_file() {
        let bytes = std::fs::read(path).map_err(|error| {
            Failure::new("read the identity", ExitCode::Usage, format!("{}: {error}", path.display()))
        })?;
        inputs.identity = Some((path.display().to_string(), bytes));
    }
    if cli.verb.is_standalone() {
        let environment = Environment::of_process();
        let found = settings::database_by_environment(session::MAINTENANCE_DATABASE, &environment);
        inputs.by_environment = Some(found.map_err(Failure::of("read the environment"))?);
    }
    if let Verb::Token(token::TokenVerb::Add(args)) = &cli.verb
        && let Some(path) = &args.out
    {
        inputs.token_file = Some((path.clone(), token::create_file(path)?));
    }
    if let Verb::Init(args) = &cli.verb
        && let Some(path) = &args.offline_identity
    {
        if let Some(settings) = settings {
            at_once(init::refuse_early(args, settings))??;
        }
        inputs.offline_recipient =
            Some(crate::keys::write_offline_identity(path, now).map_err(Failure::of("init"))?);
    }
    Ok(inputs)
}

/// Carries out `work` on this thread; when it is done there is one thread, as before.
fn at_once<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new("start", ExitCode::Failed, error.to_string()))?;
    Ok(runtime.block_on(work))
}

fn user_to_become(settings: Option<&Settings>, inputs: &Inputs) -> Result<Option<User>, Failure> {
    let failed = |text: String| Failure::new("give up root", ExitCode::Usage, text);
    if let Some(name) = settings.and_then(|settings| settings.cluster.run_as.as_deref()) {
        let found = User::from_name(name).map_err(|error| failed(error.to_string()))?;
        return found
            .map(Some)
            .ok_or_else(|| failed(format!("there is no user {name} (run_as in [cluster])")));
    }
    let own = settings.into_iter().flat_map(connections);
    let found = match owner_of_cluster(
        own.chain(inputs.by_environment.iter().map(|database| &database.connection)),
    ) {
        Some(uid) => User::from_uid(uid),
        None => User::from_name(USUAL_USER),
    };
    Ok(found.map_err(|error| failed(error.to_string()))?.filter(|user| !user.uid.is_root()))
}

fn connections(settings: &Settings) -> impl Iterator<Item = &Connection> {
    settings.databases.values().map(|database| &database.connection).chain([&settings.cluster.connection])
}

fn owner_of_cluster<'a>(connections: impl Iterator<Item = &'a Connection>) -> Option<Uid> {
    let mut owners = connections
        .filter(|to| to.host.starts_with('/'))
        .filter_map(|to| std::fs::metadata(Path::new(&to.host).join(format!(".s.PGSQL.{}", to.port))).ok());
    owners.next().map(|metadata| Uid::from_raw(metadata.uid()))
}

/// Makes the state directory and a local repository for `user` where they are missing, and gives
/// them over where they are empty directories of root's.
fn hand_over(settings: &Settings, user: &User) -> Result<(), Failure> {
    let repository = match &settings.repository.url {
        RepositoryUrl::Local(repository) => Some(repository),
        RepositoryUrl::S3 { .. } => None,
    };
    for directory in [&settings.state.directory].into_iter().chain(repository) {
        make_for(directory, user).map_err(|error| {
            Failure::new("prepare directories", ExitCode::Usage, format!("{}: {error}", directory.display()))
        })?;
    }
    Ok(())
}

fn make_for(directory: &Path, user: &User) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let missing: Vec<PathBuf> =
        directory.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    for path in missing.iter().rev() {
        // Only the last one is ours; those above are ordinary directories.
        let mode = if path == directory { 0o700 } else { 0o755 };
        std::fs::DirBuilder::new().mode(mode).create(path)?;
    }
    let is_empty = || Ok::<_, std::io::Error>(std::fs::read_dir(directory)?.next().is_none());
    if std::fs::metadata(directory)?.uid() == 0 && is_empty()? {
        nix::unistd::chown(directory, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

fn become_user(user: &User) -> Result<(), Failure> {
    let failed = |error: nix::Error| {
        Failure::new("give up root", ExitCode::Failed, format!("become {}: {error}", user.name))
    };
    let name = std::ffi::CString::new(user.name.as_str())
        .map_err(|_| Failure::new("give up root", ExitCode::Usage, "the user's name has a NUL"))?;
    nix::unistd::initgroups(&name, user.gid).map_err(failed)?;
    nix::unistd::setgid(user.gid).map_err(failed)?;
    nix::unistd::setuid(user.uid).map_err(failed)?;
    // The directory we stand in may be closed to that user; children would complain.
    nix::unistd::chdir("/").map_err(failed)
}
