//! libpq's password file (PostgreSQL manual, "The Password File").

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use super::connection::{is_default_socket_directory, is_socket_directory};
use super::{Connection, Environment, SettingsError, secret_file};

/// The entries of `PGPASSFILE` or `~/.pgpass`, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Pgpass(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    host: Pattern,
    port: Pattern,
    database: Pattern,
    user: Pattern,
    password: SecretString,
}

#[derive(Debug, Clone)]
enum Pattern {
    Any,
    Exactly(String),
}

impl Pattern {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(text) => text == value,
        }
    }
}

impl Pgpass {
    /// Reads the file that libpq would read; one that is not there has no entries.
    ///
    /// `~/.pgpass` may also lie in a home that is not ours to look into, which libpq passes over too.
    pub(super) fn load(environment: &Environment) -> Result<Self, SettingsError> {
        let (path, key) = match (environment.get("PGPASSFILE"), environment.get("HOME")) {
            (Some(path), _) => (PathBuf::from(path), "PGPASSFILE"),
            (None, Some(home)) => (PathBuf::from(home).join(".pgpass"), ".pgpass"),
            (None, None) => return Ok(Self::default()),
        };
        let text = match secret_file::text(&path, key) {
            Ok(text) => text,
            Err(_) if key == ".pgpass" || !path.exists() => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let entries = Self::parse(&text);
        if !entries.0.is_empty() {
            secret_file::refuse_exposed(&path, key)?;
        }
        Ok(entries)
    }

    /// Reads `host:port:database:user:password` lines; others are passed over, as libpq does.
    fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(entry).collect())
    }

    /// The password of the first entry that matches.
    pub(super) fn find(&self, connection: &Connection) -> Option<&SecretString> {
        let host = connection.host.as_str();
        let is_default_socket = is_socket_directory(host) && is_default_socket_directory(host);
        let matching = self.0.iter().find(|entry| {
            (entry.host.matches(host) || is_default_socket && entry.host.matches("localhost"))
                && entry.port.matches(&connection.port.to_string())
                && entry.database.matches(&connection.database)
                && entry.user.matches(&connection.user)
        });
        matching.map(|entry| &entry.password).filter(|password| !password.expose_secret().is_empty())
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut fields = fields(line).into_iter();
    let mut pattern = || {
        let field = fields.next()?;
        Some(if field.raw == "*" { Pattern::Any } else { Pattern::Exactly(field.text) })
    };
    let (host, port, database, user) = (pattern()?, pattern()?, pattern()?, pattern()?);
    Some(Entry { host, port, database, user, password: SecretString::from(fields.next()?.text) })
}

#[derive(Default)]
struct Field {
    /// As written, so that `\*` is not the wildcard.
    raw: String,
    text: String,
}

/// Splits at colons; a backslash takes the meaning from the character after it.
fn fields(line: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut field = Field::default();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == ':' {
            fields.push(std::mem::take(&mut field));
            continue;
        }
        field.raw.push(character);
        match character {
            '\\' => field.text.push(characters.next().unwrap_or('\\')),
            plain => field.text.push(plain),
        }
    }
    fields.push(field);
    fields
}
