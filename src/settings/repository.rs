//! `[repository]`: the address, and how a bucket is spoken to.
//!
//! What a section does not say comes from the variables that every S3 client knows (`AWS_REGION`,
//! `AWS_ENDPOINT_URL`, `AWS_CA_BUNDLE`); so a machine without a settings file reaches a bucket too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use ini::{Ini, ParseOption};
use secrecy::SecretString;

use super::layers::FROM_ENVIRONMENT;
use super::table::{Given, Table};
use super::{Environment, RepositoryUrl, SettingsError, secret_file, units};

/// `[repository]`
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// Where sealed objects are kept.
    pub url: RepositoryUrl,
    /// How a bucket is spoken to; of no meaning to a directory.
    pub s3: S3Settings,
}

/// How a bucket is spoken to.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// `http://` or `https://` and a host; `None` for AWS's own.
    pub endpoint: Option<String>,
    /// `None` lets the profile or the machine's own region decide.
    pub region: Option<String>,
    /// Whether the bucket stands in the path of a request rather than in the host's name.
    pub addressing: Addressing,
    /// Certificates in PEM that are believed beside the system's; absolute.
    pub ca_file: Option<PathBuf>,
    /// What `credentials_file` holds; `None` asks environment, profile, container and machine.
    pub credentials: Option<S3Credentials>,
    /// The profile of the AWS tools' files; `None` for their default.
    pub profile: Option<String>,
    /// When a checksum goes with what is sent, and is asked for with what comes.
    pub checksum: Checksum,
    /// `None` for the bucket's default.
    pub storage_class: Option<String>,
    /// How long the store itself keeps every object from being removed.
    pub object_lock: Option<ObjectLock>,
    /// Of all uploads together.
    pub upload_bytes_per_second: Option<u64>,
    /// Parts on their way at the same time, of all uploads together; 1 to 64.
    pub parallel_parts: usize,
    /// Bytes of a part, 5 MiB to 256 MiB; larger objects have larger ones.
    pub part_bytes: usize,
    /// How long the store may take to answer a request, what is sent with it aside.
    pub timeout: Duration,
    /// How often a request is tried in all, 1 to 20.
    pub attempts: u32,
    /// How long the second attempt waits at most; each further one up to twice as long.
    pub first_retry_after: Duration,
}

/// Where a request names the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://endpoint/bucket/key`
    Path,
    /// `https://bucket.endpoint/key`
    Host,
}

/// A key pair, as the AWS tools have it.
#[derive(Debug, Clone)]
pub struct S3Credentials {
    /// `aws_access_key_id`
    pub access_key: String,
    /// `aws_secret_access_key`
    pub secret_key: SecretString,
    /// `aws_session_token`
    pub session_token: Option<SecretString>,
}

/// When checksums of S3's own are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC32 with everything that is sent.
    Crc32,
    /// Only where S3 requires one; for stores that know none.
    WhenRequired,
}

/// S3's object lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// Who may lift it.
    pub mode: LockMode,
    /// Counted from when an object is stored.
    pub keeps: TimeDelta,
}

/// Who may remove a locked object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever has the right to bypass the lock.
    Governance,
    /// Nobody.
    Compliance,
}

/// A request that is tried again waits at most this long at first.
const FIRST_RETRY_AFTER: Duration = Duration::from_millis(500);

impl RepositorySettings {
    pub(super) fn read(mut table: Table, environment: &Environment) -> Result<Self, SettingsError> {
        let url = table.parsed("url", |text| text.parse().map_err(|error| format!("{error}")))?;
        let missing = table.missing("url");
        let first = S3_KEYS.iter().find_map(|name| table.peek(name));
        let s3 = S3Settings::read(&mut table, environment)?;
        table.finish()?;
        let url = url.ok_or(missing)?;
        match (&url, first) {
            (RepositoryUrl::Local(_), Some(given)) => {
                Err(given.invalid(format!("is for a bucket (s3://…), and url is {url}")))
            }
            _ => Ok(Self { url, s3 }),
        }
    }

    /// The variables that tell any S3 client where the bucket is; none of them is a secret.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let S3Settings { endpoint, region, .. } = &self.s3;
        match self.url {
            RepositoryUrl::Local(_) => Vec::new(),
            RepositoryUrl::S3 { .. } => [("AWS_ENDPOINT_URL", endpoint), ("AWS_REGION", region)]
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.clone()?)))
                .collect(),
        }
    }

    /// The repository at `url`, reached as the environment says; for a machine without a settings
    /// file.
    ///
    /// # Errors
    /// [`SettingsError`] for a variable that cannot be used.
    pub fn by_environment(url: RepositoryUrl, environment: &Environment) -> Result<Self, SettingsError> {
        let mut none = Table::root(config::Map::new(), Path::new("the environment"));
        Ok(Self { url, s3: S3Settings::read(&mut none, environment)? })
    }
}

const S3_KEYS: [&str; 15] = [
    "endpoint",
    "region",
    "path_style",
    "ca_file",
    "credentials_file",
    "profile",
    "checksum",
    "storage_class",
    "object_lock",
    "object_lock_for",
    "upload_limit",
    "parallel_parts",
    "part_size",
    "timeout",
    "attempts",
];

impl S3Settings {
    fn read(table: &mut Table, environment: &Environment) -> Result<Self, SettingsError> {
        let variable =
            |names: &[&str]| names.iter().find_map(|name| environment.get(name)).map(str::to_owned);
        let endpoint = match table.parsed("endpoint", endpoint)? {
            None => endpoint_by(environment)?,
            given => given,
        };
        let path_style = table.boolean("path_style")?;
        let addressing = match path_style.unwrap_or(endpoint.is_some()) {
            true => Addressing::Path,
            false => Addressing::Host,
        };
        let region =
            table.parsed("region", word)?.or_else(|| variable(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
        let ca_file =
            table.absolute_path("ca_file")?.or_else(|| variable(&["AWS_CA_BUNDLE"]).map(PathBuf::from));
        let profile = table.text("profile")?.map(|given| given.value);
        let part = table.parsed("part_size", |text| units::bytes_within(text, "5MiB", "256MiB"))?;
        Ok(Self {
            // A store that is not AWS's takes any region, and this one by custom.
            region: region.or_else(|| endpoint.is_some().then(|| "us-east-1".into())),
            endpoint,
            addressing,
            ca_file,
            credentials: credentials(table, profile.as_deref())?,
            profile,
            checksum: table.parsed("checksum", checksum)?.unwrap_or(Checksum::Crc32),
            storage_class: table.parsed("storage_class", word)?,
            object_lock: object_lock(table)?,
            upload_bytes_per_second: table
                .parsed("upload_limit", |text| units::bytes_within(text, "1kB", "1TB"))?,
            parallel_parts: table.integer("parallel_parts", 1..=64)?.unwrap_or(4),
            part_bytes: part.map_or(16 << 20, |bytes| {
                usize::try_from(bytes).expect("at most 256 MiB, which every usize holds")
            }),
            timeout: table
                .parsed("timeout", |text| units::timeout_within(text, "1s", "1h"))?
                .unwrap_or(Duration::from_secs(30)),
            attempts: table
                .integer("attempts", 1..=20)?
                .map_or(6, |attempts| u32::try_from(attempts).expect("at most 20")),
            first_retry_after: FIRST_RETRY_AFTER,
        })
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.unwrap_or_default().trim_end_matches('/');
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]/".contains(c);
    if !host.is_empty() && !host.starts_with('/') && host.chars().all(is_host) {
        Ok(text.trim_end_matches('/').into())
    } else {
        // What stands before an @ is a secret, so the text is not shown.
        Err("must be http:// or https:// and a host, without user, query or spaces".into())
    }
}

fn endpoint_by(environment: &Environment) -> Result<Option<String>, SettingsError> {
    for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
        if let Some(text) = environment.get(name) {
            let origin = format!("{FROM_ENVIRONMENT}{name}");
            return endpoint(text).map(Some).map_err(|complaint| SettingsError::Invalid {
                origin,
                key: name.into(),
                complaint,
            });
        }
    }
    Ok(None)
}

/// A name that goes into a header.
fn word(text: &str) -> Result<String, String> {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        Ok(text.into())
    } else {
        Err(format!("must be letters, digits, `-` and `_`, not {text:?}"))
    }
}

fn checksum(text: &str) -> Result<Checksum, String> {
    match text {
        "crc32" => Ok(Checksum::Crc32),
        "when_required" => Ok(Checksum::WhenRequired),
        _ => Err(format!("must be \"crc32\" or \"when_required\", not {text:?}")),
    }
}

fn object_lock(table: &mut Table) -> Result<Option<ObjectLock>, SettingsError> {
    let given = table.peek("object_lock").or_else(|| table.peek("object_lock_for"));
    let mode = table.parsed("object_lock", |text| match text {
        "governance" => Ok(LockMode::Governance),
        "compliance" => Ok(LockMode::Compliance),
        _ => Err(format!("must be \"governance\" or \"compliance\", not {text:?}")),
    })?;
    let keeps = table.parsed("object_lock_for", |text| {
        let keeps = units::age(text)?;
        if keeps >= TimeDelta::days(1) { Ok(keeps) } else { Err(format!("must be at least 1d, not {text}")) }
    })?;
    match (mode, keeps, given) {
        (Some(mode), Some(keeps), _) => Ok(Some(ObjectLock { mode, keeps })),
        (None, None, _) | (_, _, None) => Ok(None),
        (_, _, Some(given)) => Err(given.invalid("needs both object_lock and object_lock_for")),
    }
}

/// Reads the key pair of a profile from `credentials_file`, which has the form of `~/.aws/credentials`.
fn credentials(table: &mut Table, profile: Option<&str>) -> Result<Option<S3Credentials>, SettingsError> {
    let Some(given) = table.peek("credentials_file") else { return Ok(None) };
    let Some(path) = table.absolute_path("credentials_file")? else { return Ok(None) };
    let text = secret_file::text(&path, &given.key)?;
    secret_file::refuse_exposed(&path, &given.key)?;
    key_pair(&text, &path, profile.unwrap_or("default"), &given).map(Some)
}

fn key_pair(
    text: &str,
    path: &Path,
    profile: &str,
    given: &Given<()>,
) -> Result<S3Credentials, SettingsError> {
    let shown = path.display();
    // A line that is wrong may be a secret, so it is not told which.
    let options = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
    let file = Ini::load_from_str_opt(text, options).map_err(|error| {
        given.invalid(format!("names {shown}, which is no such file: line {}", error.line))
    })?;
    let section = file
        .section(Some(profile))
        .ok_or_else(|| given.invalid(format!("names {shown}, which has no section [{profile}]")))?;
    let value = |name: &str| {
        let found = section.get(name).map(str::trim).filter(|value| !value.is_empty());
        found.ok_or_else(|| given.invalid(format!("names {shown}, which has no {name} in [{profile}]")))
    };
    Ok(S3Credentials {
        access_key: value("aws_access_key_id")?.into(),
        secret_key: SecretString::from(value("aws_secret_access_key")?),
        session_token: value("aws_session_token").ok().map(SecretString::from),
    })
}
