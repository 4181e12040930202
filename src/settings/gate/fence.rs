//! `[[gate.fence]]`: what keeps the application out while a migration runs.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::settings::connection;
use crate::settings::table::Table;
use crate::settings::{SettingsError, secret_file};

/// One fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceSettings {
    /// What it is called in messages; its kind where it has no name.
    pub name: String,
    /// How it keeps writers out.
    pub kind: FenceKind,
}

/// How a fence keeps writers out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceKind {
    /// Deployments of Kubernetes are scaled to no pod.
    KubectlScale {
        /// At least one.
        deployments: Vec<Deployment>,
        /// kubectl's context; `None` for its current one.
        context: Option<String>,
        /// The program: a name on the path, or a path.
        kubectl: String,
    },
    /// PgBouncer holds its clients back.
    Pgbouncer {
        /// A host name, an address, or the directory of a socket.
        host: String,
        /// TCP port, or the number in the socket's name.
        port: u16,
        /// One of PgBouncer's `admin_users`.
        user: String,
        /// A file of one line; it was readable and not exposed when settings were read.
        password_file: Option<PathBuf>,
        /// Names that PgBouncer has for them; empty for the database's own.
        databases: Vec<String>,
    },
    /// Roles may not log in.
    Role {
        /// At least one.
        roles: Vec<String>,
    },
    /// A program keeps them out and another lets them in.
    Command {
        /// The program first; never empty.
        raise: Vec<String>,
        /// The program first; never empty. It must bear being run again.
        release: Vec<String>,
    },
}

impl FenceSettings {
    /// Whether a run over several databases raises it for each; else it keeps writers out of all of
    /// them once it is up.
    pub fn is_of_each_database(&self) -> bool {
        match &self.kind {
            FenceKind::Pgbouncer { databases, .. } => databases.is_empty(),
            FenceKind::Command { .. } => true,
            FenceKind::KubectlScale { .. } | FenceKind::Role { .. } => false,
        }
    }
}

/// A deployment of Kubernetes, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deployment {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for Deployment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Kubernetes' own rule for such names (RFC 1123); no name can be taken for an option.
        let is_name = |part: &str| {
            let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
            !part.is_empty() && !part.starts_with(['-', '.']) && part.bytes().all(is_inner)
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(format!("must hold deployments as \"namespace/name\", not {text:?}")),
        }
    }
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    KubectlScale,
    Pgbouncer,
    Role,
    Command,
}

const KINDS: [(&str, Kind); 4] = [
    ("kubectl-scale", Kind::KubectlScale),
    ("pgbouncer", Kind::Pgbouncer),
    ("role", Kind::Role),
    ("command", Kind::Command),
];

impl FenceSettings {
    pub(super) fn read(mut table: Table) -> Result<Self, SettingsError> {
        let missing = table.missing("kind");
        let known = |text: &str| Ok((text.to_owned(), super::word(text, &KINDS)?));
        let (called, kind) = table.parsed("kind", known)?.ok_or(missing)?;
        let name = table.text("name")?.map_or(called, |given| given.value);
        let kind = match kind {
            Kind::KubectlScale => kubectl_scale(&mut table)?,
            Kind::Pgbouncer => pgbouncer(&mut table)?,
            Kind::Role => FenceKind::Role { roles: some_of(&mut table, "roles", |text| Ok(text.into()))? },
            Kind::Command => FenceKind::Command {
                raise: needed_command(&mut table, "raise")?,
                release: needed_command(&mut table, "release")?,
            },
        };
        table.finish()?;
        Ok(Self { name, kind })
    }
}

/// A list that must be given and hold something.
fn some_of(
    table: &mut Table,
    name: &'static str,
    parse: impl Fn(&str) -> Result<String, String>,
) -> Result<Vec<String>, SettingsError> {
    let (given, missing) = (table.peek(name), table.missing(name));
    let list = table.texts(name, parse)?;
    match (list, given) {
        (Some(list), Some(given)) if list.is_empty() => Err(given.invalid("must not be empty")),
        (Some(list), _) => Ok(list),
        (None, _) => Err(missing),
    }
}

fn needed_command(table: &mut Table, name: &'static str) -> Result<Vec<String>, SettingsError> {
    let missing = table.missing(name);
    table.command(name)?.ok_or(missing)
}

fn kubectl_scale(table: &mut Table) -> Result<FenceKind, SettingsError> {
    let named = some_of(table, "deployments", |text| text.parse::<Deployment>().map(|one| one.to_string()))?;
    Ok(FenceKind::KubectlScale {
        deployments: named.iter().filter_map(|text| text.parse().ok()).collect(),
        context: table.text("context")?.map(|given| given.value),
        kubectl: table.text("kubectl")?.map_or_else(|| "kubectl".into(), |given| given.value),
    })
}

fn pgbouncer(table: &mut Table) -> Result<FenceKind, SettingsError> {
    let (no_host, no_user) = (table.missing("host"), table.missing("user"));
    let given = table.peek("password_file");
    let password_file = table.absolute_path("password_file")?;
    if let (Some(path), Some(given)) = (&password_file, given) {
        secret_file::password(path, &given)?;
    }
    let port = table.integer("port", 1..=65535)?.and_then(|port| u16::try_from(port).ok());
    Ok(FenceKind::Pgbouncer {
        host: table.parsed("host", connection::host)?.ok_or(no_host)?,
        port: port.unwrap_or(6432),
        user: table.text("user")?.ok_or(no_user)?.value,
        password_file,
        databases: table.texts("databases", |text| Ok(text.into()))?.unwrap_or_default(),
    })
}
