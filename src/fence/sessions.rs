//! Sessions that are in a database although every fence is up: named, or ended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;

use super::{Context, FenceError};
use crate::postgres::PostgresError;
use crate::postgres::session::{column, rows};
use crate::rules::sql::literal;
use crate::settings::SessionPolicy;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// So many looks in a row that find nobody: a client that reconnects is away for a moment.
const QUIET_LOOKS: u32 = 5;
/// A backend whose client just went takes a moment to notice.
const GRACE: Duration = Duration::from_secs(2);
/// How many kinds of sessions a message tells apart.
const TOLD: usize = 5;

/// A session in the database that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLeft {
    /// Process of its backend.
    pub pid: i32,
    /// When it began, as the server writes it in UTC: a number may be another's later. Empty
    /// where we may not see it.
    pub backend_start: String,
    /// Its role.
    pub user: String,
    /// Its `application_name`; may be empty.
    pub application: String,
    /// Its address; `None` for a socket, or where we may not see it.
    pub client: Option<String>,
}

/// How our own sessions are told from others.
#[derive(Debug, Clone, Copy)]
pub struct Ours<'a> {
    /// Their values of `application_name`.
    pub applications: &'a [&'a str],
    /// Roles that nobody else uses.
    pub roles: &'a [&'a str],
}

impl Ours<'_> {
    /// Chooses the client backends in `database` that are not ours.
    ///
    /// A role without `pg_read_all_stats` sees neither kind nor application of others' sessions;
    /// those that have a role are taken for clients.
    fn others_in(&self, database: &str) -> String {
        let except = |what: &str, names: &[&str]| match names {
            [] => String::new(),
            _ => {
                let names: Vec<_> = names.iter().map(|name| literal(name)).collect();
                format!(" AND coalesce({what}, '') NOT IN ({})", names.join(", "))
            }
        };
        format!(
            "FROM pg_catalog.pg_stat_activity WHERE datname = {} AND pid <> pg_catalog.pg_backend_pid() \
             AND (backend_type = 'client backend' OR backend_type IS NULL AND usesysid IS NOT NULL){}{}",
            literal(database),
            except("application_name", self.applications),
            except("usename", self.roles)
        )
    }
}

const COLUMNS: &str = "pid, coalesce(backend_start::text, '') AS backend_start, coalesce(usename::text, '') AS usename, \
    coalesce(application_name, '') AS application, pg_catalog.host(client_addr) AS client";

/// The client sessions in `database` that are not ours, the oldest first.
///
/// # Errors
/// What the server says.
pub async fn sessions_left(
    session: &mut PgConnection,
    database: &str,
    ours: Ours<'_>,
) -> Result<Vec<SessionLeft>, PostgresError> {
    let others = ours.others_in(database);
    read(session, "list the sessions in the database", format!("SELECT {COLUMNS} {others} ORDER BY 2, 1"))
        .await
}

/// Ends the client sessions in `database` that are not ours, once; returns those that were told.
///
/// # Errors
/// [`PostgresError::Denied`] when our role may not end one of them.
pub async fn end_sessions(
    session: &mut PgConnection,
    database: &str,
    ours: Ours<'_>,
) -> Result<Vec<SessionLeft>, PostgresError> {
    let others = ours.others_in(database);
    // In one statement: between two, the number of a process may become another's.
    let sql = format!("SELECT {COLUMNS}, pg_catalog.pg_terminate_backend(pid) AS is_told {others}");
    read(session, "end the sessions in the database", sql).await
}

async fn read(
    session: &mut PgConnection,
    action: &str,
    sql: String,
) -> Result<Vec<SessionLeft>, PostgresError> {
    let left = |row| {
        Ok(SessionLeft {
            pid: column(row, "pid")?,
            backend_start: column(row, "backend_start")?,
            user: column(row, "usename")?,
            application: column(row, "application")?,
            client: column(row, "client")?,
        })
    };
    rows(session, action, sql).await?.iter().map(left).collect()
}

/// Makes sure that nobody but us is in the context's database, as `policy` has it.
///
/// # Errors
/// [`FenceError::SessionsLeft`] under [`SessionPolicy::Refuse`], a moment after the first look;
/// [`FenceError::SessionsReturn`] under [`SessionPolicy::End`], at the end of the fence's timeout.
pub async fn empty(context: &Context<'_>, policy: SessionPolicy, ours: Ours<'_>) -> Result<(), FenceError> {
    let mut session = context.maintenance_session().await?;
    let database = context.database;
    let waited = match policy {
        SessionPolicy::Refuse => context.fence_timeout.min(GRACE),
        SessionPolicy::End => context.fence_timeout,
    };
    let until = tokio::time::Instant::now() + waited;
    let mut quiet_looks = 0;
    loop {
        let sessions = match policy {
            SessionPolicy::Refuse => sessions_left(&mut session, database, ours).await?,
            SessionPolicy::End => end_sessions(&mut session, database, ours).await?,
        };
        quiet_looks = if sessions.is_empty() { quiet_looks + 1 } else { 0 };
        if quiet_looks >= QUIET_LOOKS {
            return Ok(());
        }
        // While nobody is seen it is not too late: a few more looks decide.
        if tokio::time::Instant::now() >= until && !sessions.is_empty() {
            let database = database.to_owned();
            return Err(match policy {
                SessionPolicy::Refuse => FenceError::SessionsLeft { database, sessions },
                SessionPolicy::End => FenceError::SessionsReturn { database, sessions, waited },
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `3 sessions of app_user (gunicorn, from 10.0.0.3) are`
pub(super) fn in_words(sessions: &[SessionLeft]) -> String {
    let mut kinds: BTreeMap<_, usize> = BTreeMap::new();
    for session in sessions {
        *kinds.entry((&session.user, &session.application, &session.client)).or_default() += 1;
    }
    let counted =
        |count: usize| if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") };
    let mut told: Vec<_> = kinds
        .iter()
        .take(TOLD)
        .map(|((user, application, client), count)| {
            let from = client.as_ref().map_or("from a socket".into(), |client| format!("from {client}"));
            let separator = if application.is_empty() { "" } else { ", " };
            format!("{} of {user} ({application}{separator}{from})", counted(*count))
        })
        .collect();
    let more: usize = kinds.values().skip(TOLD).sum();
    if more > 0 {
        told.push(format!("{more} more"));
    }
    let is = if sessions.len() == 1 { "is" } else { "are" };
    format!("{} {is}", told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(user: &str, application: &str, client: Option<&str>) -> SessionLeft {
        SessionLeft {
            pid: 1,
            backend_start: String::new(),
            user: user.into(),
            application: application.into(),
            client: client.map(str::to_owned),
        }
    }

    #[test]
    fn sessions_are_told_by_what_they_have_in_common() {
        let gunicorn = session("app_user", "gunicorn", Some("10.0.0.3"));
        assert_eq!(in_words(&[session("bob", "", None)]), "1 session of bob (from a socket) is");
        assert_eq!(
            in_words(&[gunicorn.clone(), session("bob", "psql", None), gunicorn.clone(), gunicorn]),
            "3 sessions of app_user (gunicorn, from 10.0.0.3), 1 session of bob (psql, from a socket) are"
        );
    }

    #[test]
    fn many_kinds_of_sessions_are_not_all_told() {
        let many: Vec<_> = (0..9).map(|n| session(&format!("u{n}"), "", None)).collect();
        assert!(
            in_words(&many).ends_with("1 session of u4 (from a socket), 4 more are"),
            "{}",
            in_words(&many)
        );
    }
}
