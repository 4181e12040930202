//! What a migration's command finds in its environment: how to connect, in the words of libpq, of
//! a URL, of the application's own variables, and of the templates in the settings.

use secrecy::{ExposeSecret as _, SecretString};

use super::Means;
use crate::rules::template::{Placeholder, encoded};
use crate::settings::{Connection, DatabaseSettings, GateSettings};

/// `client_connection_check_interval` exists from here on.
const CONNECTION_CHECK_SINCE: u32 = 140_000;

/// The name that the sessions of a run give themselves, where the driver honours it.
pub fn application_name(run: &str) -> String {
    // PostgreSQL cuts such names at 63 bytes; a run's is shorter.
    format!("belay-{run}")
}

/// The connection of the migration: the database's own, as the migration's role if there is one.
pub fn connection_of(database: &DatabaseSettings, gate: &GateSettings) -> Connection {
    let mut connection = database.connection.clone();
    if let Some(role) = &gate.role {
        connection.user.clone_from(&role.name);
        connection.password.clone_from(&role.password);
    }
    connection
}

/// Where a command finds one of its databases.
pub struct Address<'a> {
    /// The database's settings.
    pub settings: &'a DatabaseSettings,
    /// How it is reached: the database itself, or a copy.
    pub to: Connection,
}

/// Where a migration finds its databases, in the order given.
pub fn addresses<'a>(means: &Means<'a>) -> Vec<Address<'a>> {
    let address = |settings| Address { settings, to: connection_of(settings, means.gate) };
    means.databases.iter().map(address).collect()
}

/// What every database of a run has its URL in, by its section: `BELAY_DATABASE_URL_<SECTION>`, in
/// upper case, with `_` for whatever is neither a letter of ASCII nor a digit.
pub fn url_variable(section: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("BELAY_DATABASE_URL_{}", section.chars().map(plain).collect::<String>())
}

/// The variables for a command of `run` that is to work on the databases at `addresses`.
///
/// What names one database only, such as `PGDATABASE`, names the first. `own_options` are libpq
/// options that the caller's environment has already.
pub fn variables(
    run: &str,
    addresses: &[Address<'_>],
    gate: &GateSettings,
    server_version_num: u32,
    own_options: Option<&str>,
) -> Vec<(String, SecretString)> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let mut all = of_libpq(&first.to);
    all.extend(marks(run, gate, server_version_num, own_options));
    all.push(("DATABASE_URL".into(), url(&first.to)));
    for Address { settings, to } in addresses {
        all.push((url_variable(&settings.key), url(to)));
        all.extend(settings.env_prefix.iter().flat_map(|prefix| five_names(prefix, to)));
    }
    let in_templates = |section: Option<&str>, place| {
        let of_section = |it: &&Address<'_>| section.is_none_or(|section| it.settings.key == section);
        addresses.iter().find(of_section).map(|it| value_of(&it.to, place))
    };
    let templates = gate.environment.iter();
    all.extend(
        // One that is about a database that the run is not about stays as the caller has it.
        templates.filter_map(|(name, template)| Some((name.clone(), template.fill(in_templates)?))),
    );
    all.into_iter().map(|(name, value)| (name, SecretString::from(value))).collect()
}

/// The variables by which the sessions of `run` are known; nothing in them says where to connect.
pub fn marks(
    run: &str,
    gate: &GateSettings,
    server_version_num: u32,
    own_options: Option<&str>,
) -> [(String, String); 2] {
    [
        ("PGAPPNAME".into(), application_name(run)),
        ("PGOPTIONS".into(), session_options(gate, server_version_num, own_options)),
    ]
}

fn of_libpq(to: &Connection) -> Vec<(String, String)> {
    let mut all = vec![
        ("PGHOST".to_owned(), to.host.clone()),
        ("PGPORT".into(), to.port.to_string()),
        ("PGDATABASE".into(), to.database.clone()),
        ("PGUSER".into(), to.user.clone()),
        ("PGSSLMODE".into(), to.sslmode.as_str().into()),
    ];
    all.extend(to.sslrootcert.iter().map(|path| ("PGSSLROOTCERT".into(), path.display().to_string())));
    let password = value_of(to, Placeholder::Password);
    all.extend(
        (!password.is_empty())
            .then_some(password)
            .into_iter()
            .map(|password| ("PGPASSWORD".into(), password)),
    );
    all
}

/// The names of an `env_prefix`.
fn five_names(prefix: &str, to: &Connection) -> [(String, String); 5] {
    [
        ("HOST", Placeholder::Host),
        ("PORT", Placeholder::Port),
        ("NAME", Placeholder::Name),
        ("USER", Placeholder::User),
        ("PASSWORD", Placeholder::Password),
    ]
    .map(|(suffix, place)| (format!("{prefix}_{suffix}"), value_of(to, place)))
}

fn value_of(to: &Connection, place: Placeholder) -> String {
    let password = || to.password.as_ref().map(|password| password.expose_secret().to_owned());
    match place {
        Placeholder::Host => to.host.clone(),
        Placeholder::Port => to.port.to_string(),
        Placeholder::Name => to.database.clone(),
        Placeholder::User => to.user.clone(),
        Placeholder::Password => password().unwrap_or_default(),
        Placeholder::Url => url(to),
    }
}

/// What the sessions of a run set: `synchronous_commit` marks their commits in the write-ahead
/// log (see [`crate::rules::wal`]), and a server that is asked to end a statement notices that its
/// client is gone.
fn session_options(gate: &GateSettings, server_version_num: u32, own: Option<&str>) -> String {
    let mut options = vec![
        "-c synchronous_commit=remote_apply".to_owned(),
        format!("-c lock_timeout={}", gate.lock_timeout.as_millis()),
    ];
    if server_version_num >= CONNECTION_CHECK_SINCE {
        options.push("-c client_connection_check_interval=5000".into());
    }
    options.extend(own.map(str::to_owned));
    options.join(" ")
}

/// `postgresql://…`, which both libpq and SQLAlchemy's drivers read.
fn url(to: &Connection) -> String {
    let password = to
        .password
        .as_ref()
        .map(|password| format!(":{}", encoded(password.expose_secret())))
        .unwrap_or_default();
    let login = format!("{}{password}", encoded(&to.user));
    let database = encoded(&to.database);
    let mut options = Vec::new();
    let address = if to.host.starts_with('/') {
        options.push(format!("host={}&port={}", encoded(&to.host), to.port));
        String::new()
    } else if to.host.contains(':') {
        format!("[{}]:{}", to.host, to.port)
    } else {
        format!("{}:{}", to.host, to.port)
    };
    if !to.host.starts_with('/') && to.sslmode != crate::settings::SslMode::Prefer {
        options.push(format!("sslmode={}", to.sslmode.as_str()));
    }
    options.extend(
        to.sslrootcert.iter().map(|path| format!("sslrootcert={}", encoded(&path.to_string_lossy()))),
    );
    let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
    format!("postgresql://{login}@{address}/{database}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SslMode;

    fn to(host: &str) -> Connection {
        Connection {
            host: host.into(),
            port: 5433,
            database: "my app".into(),
            user: "o'hara".into(),
            password: Some(SecretString::from("p@ss/word")),
            sslmode: SslMode::Prefer,
            sslrootcert: None,
        }
    }

    #[test]
    fn a_url_names_socket_directories_as_an_option() {
        assert_eq!(
            url(&to("/run/postgresql")),
            "postgresql://o%27hara:p%40ss%2Fword@/my%20app?host=%2Frun%2Fpostgresql&port=5433"
        );
    }

    #[test]
    fn every_database_has_a_variable_of_its_own() {
        assert_eq!(url_variable("billing"), "BELAY_DATABASE_URL_BILLING");
        assert_eq!(url_variable("my-app 2é"), "BELAY_DATABASE_URL_MY_APP_2_");
    }

    #[test]
    fn a_url_names_hosts_and_what_tls_is_asked_for() {
        let strict = Connection { sslmode: SslMode::VerifyFull, password: None, ..to("db1.example.com") };
        assert_eq!(url(&strict), "postgresql://o%27hara@db1.example.com:5433/my%20app?sslmode=verify-full");
        assert_eq!(
            url(&Connection { password: None, ..to("::1") }),
            "postgresql://o%27hara@[::1]:5433/my%20app"
        );
    }
}
