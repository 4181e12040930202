//! Where a connection is written: keys, URL, service file, prefixed variables, libpq's variables.

use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption};
use percent_encoding::percent_decode_str;

use super::connection::{self, Partial, SslMode};
use super::layers::FROM_ENVIRONMENT;
use super::table::{Given, Table};
use super::{Environment, SettingsError, secret_file};

/// What `[cluster]` says of every connection; its `name` is not a database's.
pub(super) fn of_cluster(table: &mut Table, environment: &Environment) -> Result<Partial, SettingsError> {
    let keys = ["host", "port", "user", "password_file"];
    refuse_several(table, &keys)?;
    of_section(table, Partial::default(), environment)
}

/// What `[database.NAME]` says of its connection.
pub(super) fn of_database(table: &mut Table, environment: &Environment) -> Result<Partial, SettingsError> {
    let keys = ["host", "port", "name", "user", "password_file"];
    refuse_several(table, &keys)?;
    let database = table.parsed("name", connection::database)?;
    of_section(table, Partial { database, ..Partial::default() }, environment)
}

/// Exactly one source speaks for a section, or none; two would leave open which one wins.
fn refuse_several(table: &Table, keys: &[&str]) -> Result<(), SettingsError> {
    let plain = keys.iter().find_map(|key| table.peek(key));
    let others = ["url", "service", "env_prefix"].map(|key| table.peek(key));
    let mut given = std::iter::once(plain).chain(others).flatten();
    match (given.next(), given.next()) {
        (Some(first), Some(second)) => Err(second.invalid(format!(
            "and {} (in {}) both say how to connect; give one of them",
            first.key, first.origin
        ))),
        _ => Ok(()),
    }
}

fn of_section(
    table: &mut Table,
    named: Partial,
    environment: &Environment,
) -> Result<Partial, SettingsError> {
    let password_file = table.peek("password_file");
    let keys = Partial {
        host: table.parsed("host", connection::host)?,
        port: table.integer("port", 1..=65535)?.and_then(|port| u16::try_from(port).ok()),
        user: table.text("user")?.map(|given| given.value),
        password: match (table.absolute_path("password_file")?, password_file) {
            (Some(path), Some(given)) => Some(secret_file::password(&path, &given)?),
            _ => None,
        },
        ..named
    };
    let url = table.text("url")?.map(|given| of_url(&given)).transpose()?;
    let service = of_service_keys(table, environment)?;
    let prefixed = table.text("env_prefix")?.map(|given| of_prefix(&given, environment)).transpose()?;
    // These say nothing about where to connect, and env_prefix has no variable for them.
    let over = Partial {
        password: table.secret("password")?.map(|given| given.value.into()),
        sslmode: table.parsed("sslmode", SslMode::parse)?,
        sslrootcert: table.absolute_path("sslrootcert")?,
        ..Partial::default()
    };
    let source = url.or(service).or(prefixed).unwrap_or_default();
    Ok(over.or(keys).or(source))
}

fn of_service_keys(table: &mut Table, environment: &Environment) -> Result<Option<Partial>, SettingsError> {
    let file_given = table.peek("service_file");
    let file = table.absolute_path("service_file")?;
    match (table.text("service")?, file_given) {
        (Some(given), _) => of_service(&given, file, environment).map(Some),
        (None, Some(file)) => Err(file.invalid("needs service beside it")),
        (None, None) => Ok(None),
    }
}

/// Reads the five variables `PREFIX_HOST`, `_PORT`, `_NAME`, `_USER` and `_PASSWORD`.
///
/// Without HOST, NAME or USER it could only guess, so these must be set.
fn of_prefix(prefix: &Given<String>, environment: &Environment) -> Result<Partial, SettingsError> {
    let mut told = Partial { env_prefix: Some(prefix.value.clone()), ..Partial::default() };
    let needed = ["HOST", "NAME", "USER"];
    let options =
        [("HOST", "host"), ("NAME", "dbname"), ("USER", "user"), ("PORT", "port"), ("PASSWORD", "password")];
    for (suffix, option) in options {
        let variable = format!("{}_{suffix}", prefix.value);
        match environment.get(&variable) {
            Some(value) => set_from_variable(&mut told, option, &variable, value)?,
            None if needed.contains(&suffix) => {
                let Given { origin, key, .. } = prefix.clone();
                return Err(SettingsError::MissingVariable { origin, key, variable });
            }
            None => {}
        }
    }
    Ok(told)
}

/// What libpq itself would read from the environment: the service first, then single variables.
pub(super) fn of_libpq(environment: &Environment) -> Result<Partial, SettingsError> {
    let mut told = Partial::default();
    let options = [
        ("PGHOST", "host"),
        ("PGPORT", "port"),
        ("PGUSER", "user"),
        ("PGPASSWORD", "password"),
        ("PGSSLMODE", "sslmode"),
        ("PGSSLROOTCERT", "sslrootcert"),
    ];
    for (variable, option) in options {
        if let Some(value) = environment.get(variable) {
            set_from_variable(&mut told, option, variable, value)?;
        }
    }
    let Some(service) = environment.get("PGSERVICE") else { return Ok(told) };
    let origin = format!("{FROM_ENVIRONMENT}PGSERVICE");
    let service = Given { value: service.into(), key: "PGSERVICE".into(), origin };
    Ok(of_service(&service, None, environment)?.or(told))
}

fn set_from_variable(
    told: &mut Partial,
    option: &str,
    variable: &str,
    value: &str,
) -> Result<(), SettingsError> {
    told.set(option, value).map_err(|complaint| SettingsError::Invalid {
        origin: "environment".into(),
        key: variable.into(),
        complaint,
    })
}

/// Reads one service of libpq's connection service file (PostgreSQL manual, "The Connection
/// Service File"): the given file, or the user's and then the system's.
fn of_service(
    service: &Given<String>,
    file: Option<PathBuf>,
    environment: &Environment,
) -> Result<Partial, SettingsError> {
    let is_named = file.is_some();
    let files = file.map_or_else(|| service_files(environment), |file| vec![file]);
    for file in &files {
        let text = match secret_file::text(file, &service.key) {
            Ok(text) => text,
            Err(error) if is_named => return Err(error),
            Err(_) => continue,
        };
        if let Some(told) = service_in(&text, file, service)? {
            return Ok(told);
        }
    }
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    Err(service.invalid(format!("names service {:?}, which is not in {}", service.value, files.join(", "))))
}

fn service_files(environment: &Environment) -> Vec<PathBuf> {
    let user = match (environment.get("PGSERVICEFILE"), environment.get("HOME")) {
        (Some(file), _) => Some(PathBuf::from(file)),
        (None, Some(home)) => Some(PathBuf::from(home).join(".pg_service.conf")),
        (None, None) => None,
    };
    let system = match environment.get("PGSYSCONFDIR") {
        Some(folder) => vec![folder],
        None => vec!["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc"],
    };
    let system = system.into_iter().map(|folder| Path::new(folder).join("pg_service.conf"));
    user.into_iter().chain(system).collect()
}

fn service_in(text: &str, file: &Path, service: &Given<String>) -> Result<Option<Partial>, SettingsError> {
    // libpq knows neither quotes nor escapes in this file.
    let plain = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
    let parsed = Ini::load_from_str_opt(text, plain).map_err(|error| {
        service.invalid(format!("needs {}, which has an error in line {}", file.display(), error.line))
    })?;
    let Some(section) = parsed.section(Some(service.value.as_str())) else { return Ok(None) };
    let mut told = Partial::default();
    for (option, value) in section {
        told.set(option, value).map_err(|complaint| {
            service.invalid(format!(
                "names service {:?} in {}, which {complaint}",
                service.value,
                file.display()
            ))
        })?;
    }
    if told.password.is_some() {
        secret_file::refuse_exposed(file, &service.key)?;
    }
    Ok(Some(told))
}

/// Reads `postgresql://user:password@host:port/database?option=value`, every part optional.
///
/// A driver's name as in `postgresql+psycopg2://` is passed over, so that the URL of an
/// application can be used as it is. No message quotes the URL: it may hold the password.
fn of_url(url: &Given<String>) -> Result<Partial, SettingsError> {
    let told = parse_url(&url.value).map_err(|complaint| url.invalid(complaint))?;
    if told.password.is_some() && !url.is_from_environment() {
        secret_file::refuse_exposed(Path::new(&url.origin), &url.key)?;
    }
    Ok(told)
}

fn parse_url(url: &str) -> Result<Partial, String> {
    let form = "must be of the form postgresql://user@host:port/database?option=value";
    let (scheme, rest) = url.split_once("://").ok_or(form)?;
    if !matches!(scheme.split('+').next(), Some("postgres" | "postgresql")) || rest.contains('#') {
        return Err(form.into());
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = split_address(address).ok_or(form)?;

    let mut told = Partial::default();
    let parts =
        [("user", user), ("password", password), ("host", host), ("port", port), ("dbname", database)];
    for (option, text) in parts {
        told.set(option, &decoded(text)?)?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (option, value) = pair.split_once('=').ok_or(form)?;
        match (decoded(option)?.as_str(), decoded(value)?.as_str()) {
            // What libpq makes of JDBC's spelling.
            ("ssl", "true") => told.set("sslmode", "require")?,
            (option, value) => told.set(option, value)?,
        }
    }
    Ok(told)
}

/// Splits `host:port`; an address with colons stands in brackets.
fn split_address(address: &str) -> Option<(&str, &str)> {
    let Some(bracketed) = address.strip_prefix('[') else {
        return Some(address.split_once(':').unwrap_or((address, "")));
    };
    let (host, rest) = bracketed.split_once(']')?;
    if rest.is_empty() { Some((host, "")) } else { rest.strip_prefix(':').map(|port| (host, port)) }
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| "must be UTF-8 after decoding")?;
    if text.contains('\0') { Err("must not hold a NUL".into()) } else { Ok(text.into_owned()) }
}
