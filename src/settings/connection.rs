//! How one database is reached, once every source has had its say.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::pgpass::Pgpass;
use super::{Environment, SettingsError, source};

/// How to reach one database. Its `Debug` hides the password.
#[derive(Debug, Clone)]
pub struct Connection {
    /// A host name, an address, or the directory of a socket (begins with `/`).
    pub host: String,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    /// The database's name in PostgreSQL.
    pub database: String,
    /// The role.
    pub user: String,
    /// `None` when the server is expected to ask for none.
    pub password: Option<SecretString>,
    /// As libpq's `sslmode`.
    pub sslmode: SslMode,
    /// Certificates that the server's is checked against; `None` leaves it to the client.
    pub sslrootcert: Option<PathBuf>,
}

impl Connection {
    /// The same server and role, another database.
    pub fn with_database(&self, name: &str) -> Self {
        Self { database: name.into(), ..self.clone() }
    }

    /// The server is on this host, by socket or loopback; a tunnel looks the same.
    pub fn is_local(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        is_socket_directory(&self.host)
            || self.host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.is_loopback())
    }
}

/// Claims that `host` means a socket (a directory, or `@` for an abstract one), as libpq does.
pub(super) fn is_socket_directory(host: &str) -> bool {
    host.starts_with(['/', '@'])
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS when the server insists.
    Allow,
    /// TLS when the server can.
    Prefer,
    /// TLS, with anybody.
    Require,
    /// TLS, with a certificate of a known authority.
    VerifyCa,
    /// TLS, with a certificate of a known authority for this host.
    VerifyFull,
}

impl SslMode {
    const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The name that libpq has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let complaint = || format!("must be one of {}", Self::ALL.map(Self::as_str).join(", "));
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or_else(complaint)
    }
}

/// What one source says of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Partial {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub password: Option<SecretString>,
    pub sslmode: Option<SslMode>,
    pub sslrootcert: Option<PathBuf>,
    /// The `env_prefix` that all this was read from.
    pub env_prefix: Option<String>,
}

/// libpq options that change nothing that matters to us.
const HARMLESS: [&str; 9] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

impl Partial {
    /// Fills what is not said from `fallback`.
    pub(super) fn or(self, fallback: Self) -> Self {
        Self {
            host: self.host.or(fallback.host),
            port: self.port.or(fallback.port),
            database: self.database.or(fallback.database),
            user: self.user.or(fallback.user),
            password: self.password.or(fallback.password),
            sslmode: self.sslmode.or(fallback.sslmode),
            sslrootcert: self.sslrootcert.or(fallback.sslrootcert),
            env_prefix: self.env_prefix.or(fallback.env_prefix),
        }
    }

    /// Takes an option by libpq's name; an empty value says nothing. An option that we cannot
    /// honour is refused, so that no connection is less strict than it was written.
    pub(super) fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Ok(());
        }
        match option {
            "host" => self.host = Some(host(value)?),
            "port" => self.port = Some(port(value)?),
            "dbname" => self.database = Some(database(value)?),
            "user" => self.user = Some(value.into()),
            "password" => self.password = Some(SecretString::from(value)),
            "sslmode" => self.sslmode = Some(SslMode::parse(value).map_err(|e| format!("sslmode {e}"))?),
            "sslrootcert" => self.sslrootcert = Some(value.into()),
            harmless if HARMLESS.contains(&harmless) => {}
            other => return Err(format!("has option {other}, which is not supported")),
        }
        Ok(())
    }
}

/// Accepts one host name, address or socket directory.
pub(super) fn host(text: &str) -> Result<String, String> {
    if text.contains(',') { Err("must name one host, not several".into()) } else { Ok(text.into()) }
}

/// Accepts a port number.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|port| *port != 0);
    number.ok_or_else(|| "needs a port from 1 to 65535".into())
}

/// Accepts the name of a database; PostgreSQL would cut a longer one off without a word.
pub(super) fn database(text: &str) -> Result<String, String> {
    if text.len() > 63 { Err("must be at most 63 bytes".into()) } else { Ok(text.into()) }
}

const SOCKET_DIRECTORIES: [&str; 3] = ["/run/postgresql", "/var/run/postgresql", "/tmp"];

/// Claims that libpq, on one system or another, looks for its socket in `host` by default.
pub(super) fn is_default_socket_directory(host: &str) -> bool {
    SOCKET_DIRECTORIES.contains(&host.trim_end_matches('/'))
}

fn default_host() -> String {
    let existing = SOCKET_DIRECTORIES.into_iter().find(|directory| Path::new(directory).exists());
    existing.unwrap_or("/tmp").into()
}

/// What every connection of the cluster falls back to.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    fallback: Partial,
    passwords: Pgpass,
}

impl Resolver {
    /// Puts the cluster's own source before libpq's environment. The name of a database is never
    /// a fallback: it would make every section mean the same one.
    pub(super) fn new(cluster: Partial, environment: &Environment) -> Result<Self, SettingsError> {
        let fallback = cluster.or(source::of_libpq(environment)?);
        let fallback = Partial { database: None, ..fallback };
        Ok(Self { fallback, passwords: Pgpass::load(environment)? })
    }

    /// Completes what a section says; `database` is the name when it says none.
    pub(super) fn connection(&self, own: Partial, database: &str) -> Connection {
        let told = own.or(self.fallback.clone());
        let mut connection = Connection {
            host: told.host.unwrap_or_else(default_host),
            port: told.port.unwrap_or(5432),
            database: told.database.unwrap_or_else(|| database.into()),
            user: told.user.unwrap_or_else(|| "postgres".into()),
            password: told.password,
            sslmode: told.sslmode.unwrap_or(SslMode::Prefer),
            sslrootcert: told.sslrootcert,
        };
        if connection.password.is_none() {
            connection.password = self.passwords.find(&connection).cloned();
        }
        connection
    }
}
