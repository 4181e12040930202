//! The audit log: rows that are added and never changed.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{Ledger, LedgerError};
use crate::rules::audit::{Actor, Event, Row};
use crate::rules::digest::Digest256;
use crate::settings::Environment;

/// The names under which CI systems say who and what called.
pub const CI_VARIABLES: [&str; 12] = [
    "GITHUB_ACTOR",
    "GITHUB_REPOSITORY",
    "GITHUB_REF",
    "GITHUB_SHA",
    "GITHUB_RUN_ID",
    "GITHUB_WORKFLOW",
    "GITLAB_USER_LOGIN",
    "CI_PROJECT_PATH",
    "CI_COMMIT_SHA",
    "CI_PIPELINE_ID",
    "BUILD_URL",
    "BUILDKITE_BUILD_URL",
];

/// What the kernel says of a process that no login began.
const NO_LOGIN: u32 = u32::MAX;

/// Something that happened, without who did it.
#[derive(Debug, Clone, Default)]
pub struct Happening<'a> {
    /// What: `snapshot`, `verify`, `remove`, …
    pub action: &'a str,
    /// The database it is about, by its name in PostgreSQL.
    pub database: Option<&'a str>,
    /// The snapshot, run, or other thing it is about.
    pub subject: Option<&'a str>,
    /// How it ended: `done`, or what went wrong.
    pub outcome: &'a str,
    /// More of it, by name; no secrets.
    pub detail: Map<String, Value>,
}

/// Whom the daemon acts for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnBehalf {
    /// The holder of the token of this name.
    Token(String),
    /// A user of this host, by user ID.
    Peer(u32),
}

impl std::fmt::Display for OnBehalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(name) => write!(f, "token {name}"),
            Self::Peer(uid) => write!(f, "user {uid}"),
        }
    }
}

/// Who this process acts for.
pub(super) fn actor_of_process() -> Actor {
    let uid = nix::unistd::Uid::effective();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    let environment = Environment::of_process();
    let told = |name: &str| environment.get(name).map(str::to_owned);
    let ci = CI_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), told(name)?)));
    Actor {
        user: user.map_or_else(|| uid.to_string(), |user| user.name),
        login_uid: login.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != NO_LOGIN),
        sudo_user: told("SUDO_USER"),
        is_daemon: false,
        token: None,
        peer_uid: None,
        ci: ci.collect(),
    }
}

impl Ledger {
    /// The same ledger, whose audit log says that the daemon acts.
    #[must_use]
    pub fn for_daemon(mut self) -> Self {
        self.actor.is_daemon = true;
        self
    }

    /// The same ledger, whose audit log says that somebody had it done over HTTP.
    #[must_use]
    pub fn on_behalf_of(mut self, caller: &OnBehalf) -> Self {
        self.actor.is_daemon = false;
        (self.actor.token, self.actor.peer_uid) = match caller {
            OnBehalf::Token(name) => (Some(name.clone()), None),
            OnBehalf::Peer(uid) => (None, Some(*uid)),
        };
        self
    }

    /// Who its audit log says acts, in a pipeline of a CI system that tells `variables` of itself;
    /// those that are not known are left out.
    pub fn actor_in_ci(&self, variables: &BTreeMap<String, String>) -> Actor {
        let is_known = |(name, _): &(&String, &String)| CI_VARIABLES.contains(&name.as_str());
        let known = variables.iter().filter(is_known).map(|(name, value)| (name.clone(), value.clone()));
        Actor { ci: known.collect(), ..self.actor.clone() }
    }

    /// The same ledger, whose audit log says that `actor` acts.
    #[must_use]
    pub fn acting_as(mut self, actor: &Actor) -> Self {
        self.actor = actor.clone();
        self
    }

    /// Adds to the audit log what happened at `at`, durably.
    ///
    /// # Errors
    /// As [`Ledger::note`].
    pub async fn note_happening(&self, what: Happening<'_>, at: DateTime<Utc>) -> Result<Row, LedgerError> {
        self.note(&Event {
            at,
            actor: self.actor.clone(),
            action: what.action.into(),
            database: what.database.map(str::to_owned),
            subject: what.subject.map(str::to_owned),
            outcome: what.outcome.into(),
            detail: what.detail,
        })
        .await
    }

    /// Adds an event to the audit log, durably.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn note(&self, event: &Event) -> Result<Row, LedgerError> {
        let failed = || self.failed("add to the audit log");
        let text = serde_json::to_string(event).expect("an event is maps with text keys, texts and numbers");
        // The write lock comes first: nobody may add a row between the last one and ours.
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        let last = sqlx::query("SELECT * FROM audit ORDER BY number DESC LIMIT 1")
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed())?;
        let last = last.map(|row| self.audit_row(&row)).transpose()?;
        let row = Row::after(last.as_ref(), text);
        sqlx::query("INSERT INTO audit (number, event, previous, hash) VALUES (?, ?, ?, ?)")
            .bind(i64::try_from(row.number).unwrap_or(i64::MAX))
            .bind(&row.event)
            .bind(row.previous.to_string())
            .bind(row.hash.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(row)
    }

    /// Rows of the audit log after `number`, in order; at most `limit` of them.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn audit_rows_after(&self, number: u64, limit: u32) -> Result<Vec<Row>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM audit WHERE number > ? ORDER BY number LIMIT ?")
            .bind(i64::try_from(number).unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read the audit log"))?;
        rows.iter().map(|row| self.audit_row(row)).collect()
    }

    /// The last rows of the audit log, the newest first.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`], [`LedgerError::Value`].
    pub async fn last_audit_rows(&self, limit: u32) -> Result<Vec<Row>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM audit ORDER BY number DESC LIMIT ?")
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read the audit log"))?;
        rows.iter().map(|row| self.audit_row(row)).collect()
    }

    /// The newest event of `action`; none where its row is no event of ours.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn last_audit_event(&self, action: &str) -> Result<Option<Event>, LedgerError> {
        let select = "SELECT event FROM audit WHERE event ->> '$.action' = ? ORDER BY number DESC LIMIT 1";
        let text: Option<String> = sqlx::query_scalar(select)
            .bind(action)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the audit log"))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// The highest number that a row of the audit log was ever given.
    ///
    /// # Errors
    /// [`LedgerError::Query`], [`LedgerError::Corrupt`].
    pub async fn audit_numbered(&self) -> Result<u64, LedgerError> {
        let select = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'audit'), 0)";
        let number: i64 = sqlx::query_scalar(select)
            .fetch_one(&self.pool)
            .await
            .map_err(self.failed("read the audit log"))?;
        Ok(u64::try_from(number).unwrap_or_default())
    }

    fn audit_row(&self, row: &SqliteRow) -> Result<Row, LedgerError> {
        // What is no hash any more fits nothing, and whoever inspects the chain says so.
        let digest = |column| {
            let text: String = self.column(row, column)?;
            Ok(text.parse().unwrap_or_else(|_| Digest256::zero()))
        };
        let number: i64 = self.column(row, "number")?;
        Ok(Row {
            number: u64::try_from(number).map_err(|_| self.bad_value("number", number))?,
            event: self.column(row, "event")?,
            previous: digest("previous")?,
            hash: digest("hash")?,
        })
    }
}
