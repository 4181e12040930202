//! What settings say as a whole, and what is refused.

mod connections;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rstest::rstest;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;

pub(super) const SMALLEST: &str =
    "[repository]\nurl = 'file:///srv/backup'\n[cluster]\nname = 'prod'\nhost = '/run/postgresql'\n";

/// A folder with `belay.toml` and whatever else a test puts there.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn with(settings: &str) -> Self {
        let folder = Self(TempDir::new().unwrap());
        folder.put("belay.toml", settings);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn put(&self, name: &str, text: &str) -> PathBuf {
        self.put_with_mode(name, text, 0o600)
    }

    fn put_with_mode(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    pub(super) fn load(&self, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::load_with(&self.path("belay.toml"), &variables.iter().copied().collect())
    }
}

pub(super) fn load(more: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Folder::with(&format!("{SMALLEST}{more}")).load(variables)
}

pub(super) fn refusal(more: &str, variables: &[(&str, &str)]) -> String {
    load(more, variables).unwrap_err().to_string()
}

fn app(more: &str, variables: &[(&str, &str)]) -> Connection {
    let settings = load(&format!("[database.app]\n{more}"), variables).unwrap();
    settings.databases["app"].connection.clone()
}

fn password(connection: &Connection) -> Option<&str> {
    connection.password.as_ref().map(ExposeSecret::expose_secret)
}

#[test]
fn shipped_settings_load() {
    let settings = Settings::load_with(&shipped(), &Environment::from_iter([("", ""); 0])).unwrap();
    assert_eq!(settings.cluster.name, "prod");
    assert_eq!(settings.databases["app"].connection.user, "postgres");
    assert_eq!(settings.databases.len(), 1);
}

#[test]
fn base_backups_and_log_are_verified_on_a_schedule_of_their_own() {
    let read = |verify: &str| load(&format!("[verify]\n{verify}"), &[]).unwrap().verify;
    let text = |settings: &VerifySettings| settings.physical_schedule.as_ref().map(ToString::to_string);
    let usual = read("timezone = \"Europe/Zurich\"\nschedule = \"never\"\n");
    assert_eq!(text(&usual).as_deref(), Some("0 5 * * 0 (Europe/Zurich)"));
    assert_eq!(usual.physical_depth, PhysicalDepth::Recovered);
    let told = read("physical_schedule = \"never\"\nphysical_depth = \"readable\"\n");
    assert_eq!((text(&told), told.physical_depth), (None, PhysicalDepth::Readable));
    assert!(told.schedule.is_some(), "the one of snapshots is another");
    let refused = refusal("[verify]\nphysical_depth = \"restored\"\n", &[]);
    assert!(refused.contains("must be \"readable\" or \"recovered\""), "{refused}");
    assert!(!load("", &[]).unwrap().wal.heartbeat);
    assert!(load("[wal]\nheartbeat = true\n", &[]).unwrap().wal.heartbeat);
}

fn shipped() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/belay.toml"))
}

#[test]
fn shipped_settings_load_with_every_optional_key() {
    let shown = fs::read_to_string(shipped()).unwrap();
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => key.to_owned(),
        _ => line.to_owned(),
    };
    let all: Vec<String> = shown.lines().map(uncommented).collect();
    let folder = Folder::with("");
    let all = all.join("\n").replace("file:///var/lib/belay/repository", "s3://backups/belay");
    let all = all.replace("/etc/belay/", &format!("{}/", folder.0.path().display()));
    folder.put("belay.toml", &all);
    for name in ["app-password", "migration-password", "pgbouncer-password"] {
        folder.put(name, "secret\n");
    }
    folder.put("s3-credentials", KEY_PAIR);
    folder.put("pg_service.conf", "[billing]\nhost=db3\n");
    let cronos =
        [("CRONOS_AI_DB_HOST", "db4"), ("CRONOS_AI_DB_NAME", "cronos_ai"), ("CRONOS_AI_DB_USER", "cronos")];
    let settings = folder.load(&cronos).unwrap();
    let sections: Vec<_> = settings.databases.keys().map(String::as_str).collect();
    assert_eq!(sections, ["app", "billing", "cronos", "reports"]);
    assert_eq!(settings.retention.keep, TimeDelta::days(30));
    assert_eq!(settings.databases["cronos"].env_prefix.as_deref(), Some("CRONOS_AI_DB"));
    assert!(settings.databases["app"].env_prefix.is_none());
    assert_eq!((settings.gate.fences.len(), settings.gate.checks.len()), (4, 2));
}

const KEY_PAIR: &str = "[default]\naws_access_key_id = AKID\naws_secret_access_key = a/b+c=\n";

#[test]
fn a_bucket_is_spoken_to_as_the_settings_say() {
    let folder = Folder::with("");
    let path = folder.put("keys", KEY_PAIR);
    let path = path.display();
    let bucket = |more: &str| {
        folder.put(
            "belay.toml",
            &format!("[repository]\nurl = 's3://backups/a'\n{more}\n[cluster]\nname = 'prod'\n"),
        );
    };
    bucket(&format!(
        "endpoint = 'https://s3.example.com/'\ncredentials_file = '{path}'\nobject_lock = 'governance'\nobject_lock_for = '30d'"
    ));
    let s3 = folder.load(&[]).unwrap().repository.s3;
    assert_eq!(s3.endpoint.as_deref(), Some("https://s3.example.com"));
    assert_eq!((s3.region.as_deref(), s3.addressing), (Some("us-east-1"), Addressing::Path));
    assert_eq!((s3.part_bytes, s3.parallel_parts, s3.attempts), (16 << 20, 4, 6));
    assert_eq!((s3.timeout, s3.checksum), (Duration::from_secs(30), Checksum::Crc32));
    let lock = ObjectLock { mode: LockMode::Governance, keeps: TimeDelta::days(30) };
    assert_eq!(s3.object_lock, Some(lock));
    let keys = s3.credentials.unwrap();
    assert_eq!((keys.access_key.as_str(), keys.secret_key.expose_secret()), ("AKID", "a/b+c="));

    bucket("");
    let s3 = folder
        .load(&[("AWS_REGION", "eu-1"), ("AWS_ENDPOINT_URL", "http://localhost:1")])
        .unwrap()
        .repository
        .s3;
    assert_eq!((s3.region.as_deref(), s3.endpoint.as_deref()), (Some("eu-1"), Some("http://localhost:1")));
    let s3 = folder.load(&[]).unwrap().repository.s3;
    assert_eq!((s3.region, s3.addressing), (None, Addressing::Host));
}

#[test]
fn settings_of_a_bucket_that_cannot_be_meant_are_refused() {
    let folder = Folder::with("");
    let refusal = |url: &str, more: &str| {
        folder.put("belay.toml", &format!("[repository]\nurl = '{url}'\n{more}\n[cluster]\nname = 'prod'\n"));
        folder.load(&[]).unwrap_err().to_string()
    };
    assert!(
        refusal("file:///srv/a", "endpoint = 'http://localhost'")
            .ends_with("is for a bucket (s3://…), and url is file:///srv/a")
    );
    let secret = refusal("s3://backups", "endpoint = 'https://user:hunter2@example.com'");
    assert!(secret.contains("repository.endpoint must be http") && !secret.contains("hunter2"), "{secret}");
    assert!(refusal("s3://backups", "object_lock = 'governance'").contains("needs both"));
    assert!(refusal("s3://backups", "part_size = '1MiB'").contains("must be from 5MiB to 256MiB"));
    assert!(refusal("s3://backups", "endpont = 'x'").contains("did you mean endpoint?"));
    let open = folder.put_with_mode("keys", KEY_PAIR, 0o644);
    let file = format!("credentials_file = '{}'", open.display());
    assert!(refusal("s3://backups", &file).contains("open to every user"));
    folder.put("keys", "[default]\naws_access_key_id = AKID\n");
    assert!(refusal("s3://backups", &file).contains("has no aws_secret_access_key in [default]"));
    assert!(refusal("s3://backups", &format!("{file}\nprofile = 'x'")).contains("has no section [x]"));
}

#[test]
fn what_is_shown_as_a_default_is_the_default() {
    let settings = load("[database.app]\n", &[]).unwrap();
    assert_eq!(settings.state.directory, PathBuf::from("/var/lib/belay"));
    assert_eq!(settings.cluster.databases, DatabaseScope::Listed);
    assert_eq!(settings.verify.depth, Depth::Restored);
    assert_eq!(settings.verify.jobs, 2);
    assert_eq!(settings.retention.min_verified, 3);
    assert_eq!(settings.retention.keep, TimeDelta::days(30));
    assert_eq!(settings.retention.litter_grace, TimeDelta::hours(24));
    assert_eq!(settings.retention.keep_replaced, TimeDelta::days(7));
    assert_eq!((settings.base_backup.full_every, settings.base_backup.max_rate_kib), (None, None));
    assert_eq!(settings.base_backup.jobs, 2);
    let app = &settings.databases["app"];
    assert_eq!((app.large_table_bytes, app.chunk_bytes, app.jobs), (8 << 20, 16 << 20, 2));
    assert_eq!((app.lock_timeout, app.stall_timeout), (Duration::from_secs(10), Duration::from_secs(600)));
    let connection = &app.connection;
    assert_eq!(
        (connection.port, connection.database.as_str(), connection.user.as_str()),
        (5432, "app", "postgres")
    );
    assert_eq!(connection.sslmode, SslMode::Prefer);
    assert!(connection.password.is_none());
}

#[test]
fn later_layer_wins_key_by_key() {
    let folder = Folder::with(&format!(
        "{SMALLEST}[retention]\nkeep = '1d'\nlitter_grace = '1h'\nkeep_replaced = '1d'\nmin_verified = 1\n"
    ));
    folder.put("conf.d/20-b.toml", "[retention]\nlitter_grace = '3h'\nkeep_replaced = '3d'\n");
    folder.put("conf.d/10-a.toml", "[retention]\nkeep = '2d'\nlitter_grace = '2h'\nkeep_replaced = '2d'\n");
    folder.put("conf.d/.hidden.toml", "nonsense");
    folder.put("conf.d/notes.txt", "nonsense");
    let environment = [("BELAY__RETENTION__KEEP_REPLACED", "4d"), ("BELAY_CONFIG", "/else/where")];
    let retention = folder.load(&environment).unwrap().retention;
    assert_eq!(retention.min_verified, 1);
    assert_eq!(retention.keep, TimeDelta::days(2));
    assert_eq!(retention.litter_grace, TimeDelta::hours(3));
    assert_eq!(retention.keep_replaced, TimeDelta::days(4));
}

#[test]
fn environment_reaches_every_kind_of_value() {
    let variables = [
        ("BELAY__VERIFY__JOBS", "7"),
        ("BELAY__CLUSTER__DATABASES", "all"),
        ("BELAY__CLUSTER__EXCEPT", "scratch, old"),
        ("BELAY__DATABASE__MY_APP__JOBS", "3"),
        ("BELAY__DATABASE__MY_APP__PASSWORD", "from environment"),
        ("BELAY__DATABASE__NEW__HOST", "db2"),
    ];
    let settings = load("[database.My-App]\n", &variables).unwrap();
    assert_eq!(settings.verify.jobs, 7);
    assert_eq!(settings.cluster.databases, DatabaseScope::All);
    assert_eq!(settings.cluster.except.iter().collect::<Vec<_>>(), ["old", "scratch"]);
    assert_eq!(settings.databases["My-App"].jobs, 3);
    assert_eq!(password(&settings.databases["My-App"].connection), Some("from environment"));
    assert_eq!(settings.databases["new"].connection.host, "db2");
}

#[rstest]
#[case("[retention]\nkep = '1d'\n", "unknown key retention.kep (did you mean keep?)")]
#[case("[database.app]\nhots = 'db'\n", "unknown key database.app.hots (did you mean host?)")]
#[case("[retentoin]\nkeep = '1d'\n", "unknown key retentoin (did you mean retention?)")]
#[case("[verify]\nxylophone = 1\n", "unknown key verify.xylophone")]
#[case("[gaet]\n", "unknown key gaet (did you mean gate?)")]
fn unknown_key_is_named_with_its_nearest(#[case] more: &str, #[case] complaint: &str) {
    let folder = Folder::with(SMALLEST);
    let beside = folder.put("conf.d/more.toml", more);
    let refusal = folder.load(&[]).unwrap_err().to_string();
    let file = if more == "[gaet]\n" { folder.path("belay.toml") } else { beside };
    assert_eq!(refusal, format!("read settings {}: {complaint}", file.display()));
}

#[test]
fn unknown_variable_is_named() {
    assert_eq!(
        refusal("", &[("BELAY__RETENTION__KEP", "1d")]),
        "read settings environment variable BELAY__RETENTION__KEP: unknown key retention.kep (did you mean keep?)"
    );
    assert!(refusal("", &[("BELAY__CLUSTER", "x")]).contains("unknown key cluster"));
}

#[rstest]
#[case("[database.app]\nport = '5432'\n", "database.app.port must be a whole number, not text")]
#[case("[database.app]\nport = 0\n", "database.app.port must be a whole number from 1 to 65535")]
#[case("[database.app]\nhost = 5\n", "database.app.host must be text, not a whole number")]
#[case("[database.app]\nhost = ''\n", "database.app.host must not be empty")]
#[case("[database.app]\nhost = 'a,b'\n", "database.app.host must name one host, not several")]
#[case("[database.app]\nsslmode = 'on'\n", "database.app.sslmode must be one of disable, allow, ")]
#[case("[database.app]\njobs = 65\n", "database.app.jobs must be a whole number from 1 to 64")]
#[case("[database.app]\nchunk = '1MiB'\n", "database.app.chunk must be from 4MiB to 256MiB, not 1MiB")]
#[case("[database.app]\nlarge_table = '8'\n", "database.app.large_table must be a size with a unit")]
#[case("[database.app]\nlarge_table = 8\n", "database.app.large_table must be text, not a whole number")]
#[case("[database.app]\nlock_timeout = '10'\n", "database.app.lock_timeout must be a duration with a unit")]
#[case("[database.app]\nservice_file = '/a'\n", "database.app.service_file needs service beside it")]
#[case("[database.app]\npassword = 'x'\n", "database.app.password is refused, because settings files")]
#[case("[retention]\nmin_verified = 0\n", "retention.min_verified must be a whole number from 1 to 10000")]
#[case("[retention]\nkeep = 'a month'\n", "retention.keep must be a duration with a unit")]
#[case("[base_backup]\nmax_rate = '1kB'\n", "base_backup.max_rate must be from 32KiB to 1GiB, not 1kB")]
#[case("[base_backup]\njobs = 0\n", "base_backup.jobs must be a whole number from 1 to 64")]
#[case("[base_backup]\nfull_every = '1m'\n", "base_backup.full_every must be from 1h to 366d, not 1m")]
#[case("[base_backup]\nfull_every = 7\n", "base_backup.full_every must be text, not a whole number")]
#[case("[verify]\ndepth = 'deep'\n", "verify.depth must be \"stored\", \"readable\" or \"restored\"")]
#[case("[state]\ndirectory = 'state'\n", "state.directory must be an absolute path, not \"state\"")]
#[case("[keys]\nrecipients = 'age1a'\n", "keys.recipients must be a list of texts, not text")]
#[case(
    "[keys]\nrecipients = ['age1a', 1]\n",
    "keys.recipients must be a list of texts, and holds a whole number"
)]
#[case("[keys]\nrecipients = ['ssh-rsa']\n", "keys.recipients must hold public keys of age")]
#[case("[database]\napp = 'x'\n", "database.app must be a section, not text")]
fn bad_value_is_named_with_its_file(#[case] more: &str, #[case] complaint: &str) {
    let folder = Folder::with(&format!("{SMALLEST}{more}"));
    let refusal = folder.load(&[]).unwrap_err().to_string();
    let expected = format!("read settings {}: {complaint}", folder.path("belay.toml").display());
    assert!(refusal.starts_with(&expected), "{refusal}");
}

#[rstest]
#[case("[cluster]\nname = 'prod'\n", "repository.url is missing")]
#[case("[repository]\nurl = 'file:///srv'\n", "cluster.name is missing")]
#[case("[repository]\nurl = 'ftp://b'\n[cluster]\nname = 'p'\n", "the scheme ftp is not supported")]
#[case("[repository]\nurl = 'file:///srv'\n[cluster]\nname = 'Prod'\n", "cluster.name must be lower-case")]
fn what_must_be_given_is_checked(#[case] settings: &str, #[case] complaint: &str) {
    let refusal = Folder::with(settings).load(&[]).unwrap_err().to_string();
    assert!(refusal.contains(complaint), "{refusal}");
}

#[test]
fn error_in_toml_never_quotes_the_line() {
    let refusal = refusal("[database.app]\nurl = 'postgresql://u:hush@h/d\n", &[]);
    assert!(refusal.contains("line 7") && !refusal.contains("hush"), "{refusal}");
}

#[test]
fn secret_key_among_recipients_is_not_repeated() {
    let refusal = refusal("[keys]\nrecipients = ['AGE-SECRET-KEY-1HUSH']\n", &[]);
    assert!(refusal.contains("secret key") && !refusal.contains("HUSH"), "{refusal}");
}

#[test]
fn absent_file_is_an_error() {
    let folder = Folder::with(SMALLEST);
    let absent = folder.path("other.toml");
    let error = Settings::load_with(&absent, &Environment::from_iter([("HOME", "/")])).unwrap_err();
    assert_eq!(error.to_string(), format!("read settings {}", absent.display()));
}
