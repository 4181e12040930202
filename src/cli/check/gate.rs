//! What `belay migrate` would need of a database: evidence of what is committed, and a role whose
//! sessions can be told from others'.

use sqlx::postgres::PgConnection;

use super::Findings;
use crate::cli::report::Failure;
use crate::postgres::PostgresError;
use crate::postgres::describe;
use crate::postgres::session::{column, rows};
use crate::postgres::wal::WalReader;
use crate::rules::sql::{literal, quoted};
use crate::settings::{self, DatabaseSettings, GateSettings, Settings};

/// `client_connection_check_interval` exists from here on.
const CONNECTION_CHECK_SINCE: u32 = 140_000;

/// Whether those are kept out who are meant to be.
pub(super) fn check_fences(gate: &GateSettings, findings: &mut Findings) {
    if let Some(why) = gate.why_not_fenced() {
        let hint = "before `belay migrate` is used: add a [[gate.fence]], or set consistency = \"unfenced\" if that is meant";
        findings.warning("gate", why, hint);
    }
}

pub(super) async fn check(
    subject: &str,
    database: &DatabaseSettings,
    settings: &Settings,
    version_num: u32,
    session: &mut PgConnection,
    findings: &mut Findings,
) {
    let bin_directory = settings.cluster.bin_directory.as_deref();
    let (path, connection) = (settings::search_path(), &database.connection);
    let reader = WalReader::find(connection, session, bin_directory, &path, version_num / 10_000).await;
    if let Some(reader) = findings.take(subject, reader.map_err(Failure::of("find a way to read the log"))) {
        match reader.why_not() {
            None => findings.ok(subject, "what a migration commits can be read from the write-ahead log"),
            Some(why) => findings.warning(
                subject,
                format!("what a migration commits cannot be read, so that a failed one may end as unknown: {why}"),
                "run belay on the database's host as the cluster's owner, or CREATE EXTENSION pg_walinspect in postgres",
            ),
        }
    }
    let owner = describe::properties(session, version_num).await.map(|properties| properties.owner);
    let Some(owner) = findings.take(subject, owner.map_err(Failure::of("read the database's owner"))) else {
        return;
    };
    let sql = role_sql(&settings.gate, database, &owner, version_num);
    match &settings.gate.role {
        None => findings.ok(
            subject,
            format!("migrations run as {}; for a role of their own: {}", connection.user, sql.join("; ")),
        ),
        Some(role) => {
            let lacking =
                lacking(session, &role.name, version_num).await.map_err(Failure::of("look at the role"));
            match findings.take(subject, lacking) {
                None => {}
                Some(lacking) if lacking.is_empty() => {
                    findings.ok(subject, format!("migrations run as {}, a role of their own", role.name));
                }
                Some(lacking) => findings.warning(
                    subject,
                    format!("the migration role {} lacks {}", role.name, lacking.join(", ")),
                    &sql.join("; "),
                ),
            }
        }
    }
}

/// The settings that a migration role should have, whatever its driver takes from the environment.
fn role_settings(gate: &GateSettings, version_num: u32) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("synchronous_commit", "remote_apply".to_owned()),
        ("lock_timeout", format!("{}ms", gate.lock_timeout.as_millis())),
    ];
    if version_num >= CONNECTION_CHECK_SINCE {
        all.push(("client_connection_check_interval", "5s".into()));
    }
    all
}

/// The SQL that makes a migration role: a member of the owner, which everything it makes belongs to.
fn role_sql(gate: &GateSettings, database: &DatabaseSettings, owner: &str, version_num: u32) -> Vec<String> {
    let called =
        gate.role.as_ref().map_or_else(|| format!("{}_migrator", database.key), |role| role.name.clone());
    let role = quoted(&called);
    let mut sql = vec![format!("CREATE ROLE {role} LOGIN IN ROLE {}", quoted(owner))];
    sql.push(format!(
        "ALTER ROLE {role} IN DATABASE {} SET role = {}",
        quoted(&database.connection.database),
        literal(owner)
    ));
    let set = |(name, value): (&str, String)| format!("ALTER ROLE {role} SET {name} = {}", literal(&value));
    sql.extend(role_settings(gate, version_num).into_iter().map(set));
    sql
}

async fn lacking(
    session: &mut PgConnection,
    role: &str,
    version_num: u32,
) -> Result<Vec<String>, PostgresError> {
    let sql = format!(
        "SELECT r.rolcanlogin, coalesce(d.setconfig, '{{}}') AS settings FROM pg_catalog.pg_roles r \
         LEFT JOIN pg_catalog.pg_db_role_setting d ON d.setrole = r.oid AND d.setdatabase = 0 WHERE r.rolname = {}",
        literal(role)
    );
    let found = rows(session, "look at the migration role", sql).await?;
    let Some(row) = found.first() else { return Ok(vec!["everything: there is no such role".into()]) };
    let settings: Vec<String> = column(row, "settings")?;
    let mut lacking = Vec::new();
    if !column::<bool>(row, "rolcanlogin")? {
        lacking.push("LOGIN".to_owned());
    }
    let mut wanted = vec!["synchronous_commit=remote_apply", "lock_timeout="];
    if version_num >= CONNECTION_CHECK_SINCE {
        wanted.push("client_connection_check_interval=");
    }
    let is_missing = |wanted: &&&str| settings.iter().all(|setting| !setting.starts_with(**wanted));
    lacking.extend(wanted.iter().filter(is_missing).map(|setting| setting.trim_end_matches('=').to_owned()));
    Ok(lacking)
}
