//! Every setting, typed: defaults < file < `conf.d/*.toml` beside it < environment.
//!
//! Comes in: a path and the environment. Goes out: [`Settings`], with every connection resolved
//! and every password read. A key that nobody knows, a value out of range, or a secret that
//! everybody can read is an error that names its file and key; nothing here connects anywhere.

mod connection;
mod error;
mod gate;
mod http;
mod layers;
mod pgpass;
mod point_in_time;
mod repository;
mod repository_url;
mod schedule;
mod secret_file;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod tuning;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use chrono_tz::Tz;
use secrecy::SecretString;

use crate::rules::drill::PhysicalDepth;
use crate::rules::manifest::Depth;
use crate::rules::schedule::{Retry, Schedule};
pub use connection::{Connection, SslMode};
use connection::{Partial, Resolver};
pub use error::SettingsError;
pub use gate::{
    CheckKind, CheckSettings, Consistency, Deployment, FenceKind, FenceSettings, GateSettings, LocalCopy,
    MigrationRole, OnFailure, RehearsalCycle, SessionPolicy, Stamped,
};
pub use http::{HttpSettings, TlsFiles};
pub use layers::{Environment, files};
pub use point_in_time::{BaseBackupSettings, WalSettings};
pub use repository::{
    Addressing, Checksum, LockMode, ObjectLock, RepositorySettings, S3Credentials, S3Settings,
};
pub use repository_url::{InvalidRepositoryUrl, RepositoryUrl};
use schedule::When;
use table::Table;
use tuning::Tuning;

/// What one host is told to do; see `config/belay.toml` for every key.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[state]`
    pub state: StateSettings,
    /// `[repository]`
    pub repository: RepositorySettings,
    /// `[keys]`
    pub keys: KeySettings,
    /// `[cluster]`
    pub cluster: ClusterSettings,
    /// `[database.NAME]` by NAME; no two name the same database of the cluster.
    pub databases: BTreeMap<String, DatabaseSettings>,
    /// `[verify]`
    pub verify: VerifySettings,
    /// `[retention]`
    pub retention: RetentionSettings,
    /// `[base_backup]`
    pub base_backup: BaseBackupSettings,
    /// `[wal]`
    pub wal: WalSettings,
    /// `[gate]`
    pub gate: GateSettings,
    /// `[daemon]`
    pub daemon: DaemonSettings,
    /// `[http]`
    pub http: HttpSettings,
}

/// `[state]`
#[derive(Debug, Clone)]
pub struct StateSettings {
    /// Ledger, keys, locks and scratch; absolute.
    pub directory: PathBuf,
}

/// `[keys]`; what is not given has its place in the state directory.
#[derive(Debug, Clone)]
pub struct KeySettings {
    /// The host's age identity; absolute.
    pub identity_file: Option<PathBuf>,
    /// Public keys (`age1…`) that are sealed to; empty when the repository record decides.
    pub recipients: Vec<String>,
    /// The Ed25519 key that signs manifests; absolute.
    pub signing_key_file: Option<PathBuf>,
}

/// Which databases of the cluster are meant when none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseScope {
    /// Every database that accepts connections, also those made later, but for the exceptions.
    All,
    /// Those that have a section.
    Listed,
}

/// `[cluster]`
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// The first segment of every key in the store.
    pub name: String,
    /// The OS user to become when started as root; `None` lets the cluster's owner decide.
    pub run_as: Option<String>,
    /// Where `pg_dump` and its like are looked for first; absolute.
    pub bin_directory: Option<PathBuf>,
    /// Which databases are meant when none is named.
    pub databases: DatabaseScope,
    /// Databases left out of [`DatabaseScope::All`]; a database with a section is never left out.
    pub except: BTreeSet<String>,
    /// Whether base backups and the write-ahead log are kept.
    pub point_in_time: bool,
    /// The cluster's own connection, to the database `postgres`.
    pub connection: Connection,
    tuning: Tuning,
    resolver: Resolver,
}

/// One database and how it is snapshotted.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// NAME of its section; the database's own name when it has none.
    pub key: String,
    /// How to reach it; [`Connection::database`] is its name in PostgreSQL.
    pub connection: Connection,
    /// The `env_prefix` of its section, if that says how to connect.
    pub env_prefix: Option<String>,
    /// Tables larger than this are copied in chunks.
    pub large_table_bytes: u64,
    /// Worker sessions, 1 to 64.
    pub jobs: usize,
    /// Plain bytes aimed at for one chunk of a large table, 4 MiB to 256 MiB.
    pub chunk_bytes: usize,
    /// How long a lock of ours may queue; the application queues behind it.
    pub lock_timeout: Duration,
    /// How long work may make no progress before it is given up.
    pub stall_timeout: Duration,
    /// When snapshots are taken; `None` for never.
    pub schedule: Option<Schedule>,
}

/// `[verify]`
#[derive(Debug, Clone)]
pub struct VerifySettings {
    /// How deep a verification goes unless told otherwise.
    pub depth: Depth,
    /// Workers that read or load at the same time, 1 to 64.
    pub jobs: usize,
    /// When the newest snapshot of each database is verified; `None` for never.
    pub schedule: Option<Schedule>,
    /// How deep base backups and the write-ahead log are verified unless told otherwise.
    pub physical_depth: PhysicalDepth,
    /// When they are, where `point_in_time` is on; `None` for never.
    pub physical_schedule: Option<Schedule>,
}

/// `[retention]`
#[derive(Debug, Clone)]
pub struct RetentionSettings {
    /// Age up to which every snapshot stays.
    pub keep: TimeDelta,
    /// Verified snapshots of a database that stay at any age; at least 1.
    pub min_verified: usize,
    /// Age from which payload without a manifest is swept.
    pub litter_grace: TimeDelta,
    /// How long a database that a restore replaced is kept.
    pub keep_replaced: TimeDelta,
    /// When what is not kept is removed; `None` for never.
    pub schedule: Option<Schedule>,
}

/// `[daemon]`
#[derive(Debug, Clone)]
pub struct DaemonSettings {
    /// Scheduled jobs that run at the same time, of different databases; 1 to 64.
    pub jobs: usize,
    /// How often a failed job is tried again, and after which pauses.
    pub retry: Retry,
    /// How long running jobs have to end by themselves once the daemon is told to stop.
    pub stop_grace: Duration,
}

/// systemd's `$CREDENTIALS_DIRECTORY`, where a service finds its secrets.
pub fn credentials_directory() -> Option<PathBuf> {
    Environment::of_process().get("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Reads a password file that these settings name once more: it may have changed since.
///
/// # Errors
/// [`SettingsError`] when it cannot be read, is open to every user, or has not one line.
pub fn password_in(path: &Path) -> Result<SecretString, SettingsError> {
    let origin = path.display().to_string();
    secret_file::password(path, &table::Given { value: (), key: "password_file".into(), origin })
}

/// A variable of this process's environment; an empty one counts as not set.
pub fn variable(name: &str) -> Option<String> {
    Environment::of_process().get(name).map(str::to_owned)
}

/// The search path for programs.
pub fn search_path() -> String {
    Environment::of_process().get("PATH").unwrap_or("/usr/bin:/bin").to_owned()
}

/// How to reach `database` by libpq's environment alone, with every other setting at its default;
/// for a machine without a settings file.
///
/// # Errors
/// [`SettingsError`] for a variable, service or password file that cannot be used.
pub fn database_by_environment(
    database: &str,
    environment: &Environment,
) -> Result<DatabaseSettings, SettingsError> {
    let resolver = Resolver::new(Partial::default(), environment)?;
    let connection = resolver.connection(Partial::default(), database);
    Ok(Tuning::default().database(database.into(), connection, None))
}

impl Settings {
    /// Reads `file`, its `conf.d` and the environment of this process.
    ///
    /// # Errors
    /// Every [`SettingsError`]; the first one found.
    pub fn load(file: &Path) -> Result<Self, SettingsError> {
        Self::load_with(file, &Environment::of_process())
    }

    /// Reads `file` and its `conf.d` under the given environment.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_with(file: &Path, environment: &Environment) -> Result<Self, SettingsError> {
        let mut root = Table::root(layers::merge(file, environment)?, file);
        let state = root.table("state")?;
        let repository = root.table("repository")?;
        let keys = root.table("keys")?;
        let cluster = root.table("cluster")?;
        let databases = root.table("database")?;
        let verify = root.table("verify")?;
        let retention = root.table("retention")?;
        let base_backup = root.table("base_backup")?;
        let wal = root.table("wal")?;
        let gate = root.table("gate")?;
        let daemon = root.table("daemon")?;
        let http = root.table("http")?;
        root.finish()?;

        let cluster = ClusterSettings::read(cluster, environment)?;
        let databases = read_databases(databases, &cluster, environment)?;
        // A database without a section of its own is called by its name.
        let is_known = |name: &str| cluster.databases == DatabaseScope::All || databases.contains_key(name);
        let gate = GateSettings::read(gate, &is_known)?;
        Ok(Self {
            state: StateSettings::read(state)?,
            repository: RepositorySettings::read(repository, environment)?,
            keys: KeySettings::read(keys)?,
            databases,
            verify: VerifySettings::read(verify, cluster.tuning.when.zone)?,
            retention: RetentionSettings::read(retention, cluster.tuning.when.zone)?,
            base_backup: BaseBackupSettings::read(base_backup, cluster.tuning.when.zone)?,
            wal: WalSettings::read(wal)?,
            cluster,
            gate,
            daemon: DaemonSettings::read(daemon)?,
            http: HttpSettings::read(http)?,
        })
    }

    /// Settings for a database found in the cluster: its section's, or the cluster's defaults.
    pub fn cluster_database(&self, database: &str) -> DatabaseSettings {
        let listed = self.databases.values().find(|listed| listed.connection.database == database);
        listed.cloned().unwrap_or_else(|| {
            let connection = self.cluster.resolver.connection(Partial::default(), database);
            self.cluster.tuning.clone().database(database.into(), connection, None)
        })
    }
}

impl StateSettings {
    fn read(mut table: Table) -> Result<Self, SettingsError> {
        let directory = table.absolute_path("directory")?;
        table.finish()?;
        Ok(Self { directory: directory.unwrap_or_else(|| PathBuf::from("/var/lib/belay")) })
    }
}

impl KeySettings {
    fn read(mut table: Table) -> Result<Self, SettingsError> {
        let settings = Self {
            identity_file: table.absolute_path("identity_file")?,
            recipients: table.texts("recipients", recipient)?.unwrap_or_default(),
            signing_key_file: table.absolute_path("signing_key_file")?,
        };
        table.finish()?;
        Ok(settings)
    }
}

fn recipient(text: &str) -> Result<String, String> {
    let is_bech32 = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if text.starts_with("age1") && is_bech32 {
        Ok(text.into())
    } else if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        Err("holds a secret key where a public one (age1…) belongs".into())
    } else {
        Err(format!("must hold public keys of age (age1…), not {text:?}"))
    }
}

impl ClusterSettings {
    fn read(mut table: Table, environment: &Environment) -> Result<Self, SettingsError> {
        let name = table.parsed("name", cluster_name)?;
        let run_as = table.text("run_as")?.map(|given| given.value);
        let bin_directory = table.absolute_path("bin_directory")?;
        let databases = table.parsed("databases", database_scope)?.unwrap_or(DatabaseScope::Listed);
        let except = table.texts("except", |text| Ok(text.into()))?.unwrap_or_default();
        let point_in_time = table.boolean("point_in_time")?.unwrap_or(false);
        let tuning = Tuning::read(&mut table, Tuning::default())?;
        let source = source::of_cluster(&mut table, environment)?;
        let missing = table.missing("name");
        table.finish()?;

        let resolver = Resolver::new(source, environment)?;
        Ok(Self {
            name: name.ok_or(missing)?,
            run_as,
            bin_directory,
            databases,
            except: except.into_iter().collect(),
            point_in_time,
            connection: resolver.connection(Partial::default(), "postgres"),
            tuning,
            resolver,
        })
    }
}

/// Accepts the name of a cluster, as `name` in `[cluster]` has it.
///
/// # Errors
/// What it must be instead.
pub fn cluster_name(text: &str) -> Result<String, String> {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    match text.as_bytes() {
        [first, rest @ ..]
            if (first.is_ascii_lowercase() || first.is_ascii_digit())
                && rest.iter().all(|b| is_inner(*b)) =>
        {
            Ok(text.into())
        }
        _ => Err(format!("must be lower-case letters, digits, `_` and `-`, not {text:?}")),
    }
}

fn database_scope(text: &str) -> Result<DatabaseScope, String> {
    match text {
        "all" => Ok(DatabaseScope::All),
        "listed" => Ok(DatabaseScope::Listed),
        _ => Err(format!("must be \"all\" or \"listed\", not {text:?}")),
    }
}

fn read_databases(
    sections: Table,
    cluster: &ClusterSettings,
    environment: &Environment,
) -> Result<BTreeMap<String, DatabaseSettings>, SettingsError> {
    let mut databases = BTreeMap::new();
    let mut section_of: BTreeMap<String, String> = BTreeMap::new();
    for (key, mut table) in sections.tables()? {
        let tuning = Tuning::read(&mut table, cluster.tuning.clone())?;
        let source = source::of_database(&mut table, environment)?;
        let env_prefix = source.env_prefix.clone();
        let connection = cluster.resolver.connection(source, &key);
        if let Some(other) = section_of.insert(connection.database.clone(), key.clone()) {
            let database = &connection.database;
            return Err(table.invalid(format!("means database {database:?}, and so does database.{other}")));
        }
        table.finish()?;
        databases.insert(key.clone(), tuning.database(key, connection, env_prefix));
    }
    Ok(databases)
}

impl VerifySettings {
    fn read(mut table: Table, zone: Tz) -> Result<Self, SettingsError> {
        let when = When::of("0 5 * * *", zone).read(&mut table)?;
        let physical = When::of("0 5 * * 0", when.zone).read_key("physical_schedule", &mut table)?;
        let physical_depth = table.parsed("physical_depth", physical_depth)?;
        let settings = Self {
            schedule: when.schedule,
            depth: table.parsed("depth", depth)?.unwrap_or(Depth::Restored),
            jobs: table.integer("jobs", 1..=64)?.unwrap_or(2),
            physical_depth: physical_depth.unwrap_or(PhysicalDepth::Recovered),
            physical_schedule: physical.schedule,
        };
        table.finish()?;
        Ok(settings)
    }
}

fn depth(text: &str) -> Result<Depth, String> {
    let depths = [Depth::Stored, Depth::Readable, Depth::Restored];
    let found = depths.into_iter().find(|depth| depth.as_str() == text);
    found.ok_or_else(|| format!("must be \"stored\", \"readable\" or \"restored\", not {text:?}"))
}

fn physical_depth(text: &str) -> Result<PhysicalDepth, String> {
    let depths = [PhysicalDepth::Readable, PhysicalDepth::Recovered];
    let found = depths.into_iter().find(|depth| depth.as_str() == text);
    found.ok_or_else(|| format!("must be \"readable\" or \"recovered\", not {text:?}"))
}

impl RetentionSettings {
    fn read(mut table: Table, zone: Tz) -> Result<Self, SettingsError> {
        let settings = Self {
            schedule: When::of("0 7 * * *", zone).read(&mut table)?.schedule,
            keep: table.parsed("keep", units::age)?.unwrap_or(TimeDelta::days(30)),
            min_verified: table.integer("min_verified", 1..=10_000)?.unwrap_or(3),
            litter_grace: table.parsed("litter_grace", units::age)?.unwrap_or(TimeDelta::hours(24)),
            keep_replaced: table.parsed("keep_replaced", units::age)?.unwrap_or(TimeDelta::days(7)),
        };
        table.finish()?;
        Ok(settings)
    }
}
