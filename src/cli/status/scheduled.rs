//! What is scheduled: when it last succeeded, when it is next done, and whether a daemon does it.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::cli::report::{Failure, age_text, time_text};
use crate::cli::table::{Align, table};
use crate::cli::wal;
use crate::jobs::due::{self, LogStanding, Standing};
use crate::ledger::Ledger;
use crate::ledger::lock::{LockName, StateLock};
use crate::rules::schedule::Due;
use crate::settings::{DatabaseSettings, Settings};

/// A piece of scheduled work, as `belay status` shows it.
#[derive(Debug, Serialize)]
pub struct Scheduled {
    pub(super) job: &'static str,
    pub(super) database: Option<String>,
    schedule: String,
    pub(super) last: Option<DateTime<Utc>>,
    /// `due`, `retry`, `given_up`, `done`.
    pub(super) state: &'static str,
    /// When it is to begin next; in the past for what is due.
    pub(super) next: Option<DateTime<Utc>>,
    /// Failed tries for the moment that is due.
    pub(super) failures: u32,
}

impl Scheduled {
    /// The database that it is about, if it is about one.
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }
}

/// Everything that is scheduled; `is_broken` as in [`LogStanding`].
///
/// # Errors
/// What the ledger says.
pub async fn scheduled(
    settings: &Settings,
    databases: &[DatabaseSettings],
    listing: &crate::catalog::Listing,
    ledger: &Ledger,
    is_broken: bool,
    now: DateTime<Utc>,
) -> Result<Vec<Scheduled>, Failure> {
    let shipped = wal::shipped(&settings.state.directory);
    let log = LogStanding { shipped: shipped.as_ref(), is_broken };
    let standings = due::standings(settings, databases, listing, ledger, log, now).await;
    Ok(standings.map_err(Failure::of("status"))?.into_iter().map(Scheduled::from).collect())
}

impl From<Standing> for Scheduled {
    fn from(standing: Standing) -> Self {
        let (state, next, failures) = match standing.due {
            Due::Now { since, failures } => ("due", Some(since), failures),
            Due::Again { at, failures } => ("retry", Some(at), failures),
            Due::GivenUp { next, failures } => ("given_up", next, failures),
            Due::Done { next } => ("done", next, 0),
        };
        Self {
            job: standing.work.kind.as_str(),
            database: standing.work.database,
            schedule: standing.schedule.to_string(),
            last: standing.last,
            state,
            next,
            failures,
        }
    }
}

/// Whether a daemon of this state directory runs.
pub fn is_daemon_running(settings: &Settings) -> bool {
    StateLock::exclusive(&settings.state.directory, &LockName::daemon()).is_err()
}

/// The table of what is scheduled.
pub fn text(all: &[Scheduled], is_daemon_running: bool, now: DateTime<Utc>) -> String {
    if all.is_empty() {
        return "schedule      nothing is scheduled\n".into();
    }
    let rows: Vec<_> = all.iter().map(|scheduled| row(scheduled, now)).collect();
    let left = Align::Left;
    let mut text = String::from("\n");
    text.push_str(&table(
        [("scheduled", left), ("last", Align::Right), ("next", left), ("schedule", left)],
        &rows,
    ));
    if !is_daemon_running {
        text.push_str("schedule      no daemon runs, so nobody does this: systemctl start belay\n");
    }
    text
}

fn row(scheduled: &Scheduled, now: DateTime<Utc>) -> [String; 4] {
    let name = scheduled.database.as_ref().map_or(String::new(), |database| format!(" {database}"));
    let last = scheduled.last.map_or_else(|| "never".into(), |last| age_text(now - last));
    let at = |time: Option<DateTime<Utc>>| time.map_or_else(|| "never".into(), time_text);
    let failures = scheduled.failures;
    let next = match scheduled.state {
        "due" => format!("now, due since {}", at(scheduled.next)),
        "retry" => format!("{}, failed {failures} times", at(scheduled.next)),
        "given_up" => format!("{}, given up after {failures} failures", at(scheduled.next)),
        _ => at(scheduled.next),
    };
    [format!("{}{name}", scheduled.job), last, next, scheduled.schedule.clone()]
}
