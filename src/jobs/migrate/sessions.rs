//! Watches who is in the databases while the command runs.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::member::Member;
use super::run::Run;
use crate::fence::{Ours, SessionLeft, end_sessions, sessions_left};
use crate::postgres::PostgresError;
use crate::postgres::session;
use crate::settings::{Connection, SessionPolicy};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Who was seen.
#[derive(Default)]
pub(super) struct Seen {
    named: bool,
    /// Sessions that are neither ours nor known to be the run's, each once.
    others: BTreeSet<(i32, String, String)>,
}

/// Looks again and again; what it sees is written into `seen`.
pub(super) struct Watch<'a> {
    connection: &'a Connection,
    application: String,
    /// The role of the run, if nobody else uses it.
    own_role: Option<&'a str>,
    /// Whether sessions of others are ended.
    policy: SessionPolicy,
    seen: Mutex<Seen>,
}

/// Has all of them watch until this is dropped.
pub(super) async fn keep_all_on(watches: &[Watch<'_>]) {
    futures::future::join_all(watches.iter().map(Watch::keep_on)).await;
}

impl<'a> Watch<'a> {
    pub(super) fn of(run: &Run<'a>, member: &Member<'a>) -> Self {
        let is_fenced = run.facts.order.is_some();
        Self {
            connection: &member.settings.connection,
            application: super::application_name(&run.request.id),
            own_role: run.means.gate.role.as_ref().map(|role| role.name.as_str()),
            policy: if is_fenced { run.means.gate.sessions } else { SessionPolicy::Refuse },
            seen: Mutex::default(),
        }
    }

    /// Watches until it is dropped; a lost server is looked for again.
    pub(super) async fn keep_on(&self) {
        loop {
            // Nothing can be seen while the server is gone; the classification relies on more.
            let _ = self.look_on().await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn look_on(&self) -> Result<(), PostgresError> {
        let maintenance = self.connection.with_database(session::MAINTENANCE_DATABASE);
        let mut session = session::connect(&maintenance).await?;
        let database = &self.connection.database;
        let nobody_but_belay = Ours { applications: &["belay"], roles: &[] };
        loop {
            let present = sessions_left(&mut session, database, nobody_but_belay).await?;
            let strangers = self.note(present);
            // Only where the run's own can be told: a driver that names no application would be ended.
            if strangers > 0 && self.policy == SessionPolicy::End && self.can_tell() {
                let roles: Vec<&str> = self.own_role.into_iter().collect();
                let ours = Ours { applications: &["belay", &self.application], roles: &roles };
                end_sessions(&mut session, database, ours).await?;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn can_tell(&self) -> bool {
        self.own_role.is_some() || self.seen.lock().unwrap_or_else(PoisonError::into_inner).named
    }

    /// Writes down who is present; returns how many are not known to be the run's.
    fn note(&self, present: Vec<SessionLeft>) -> usize {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut strangers = 0;
        for session in present {
            let is_named = session.application == self.application;
            seen.named |= is_named;
            if !is_named && self.own_role != Some(session.user.as_str()) {
                strangers += 1;
                let from = session.client.unwrap_or_else(|| "a socket".to_owned());
                let who = format!("{} ({}, from {from})", session.user, session.application);
                seen.others.insert((session.pid, session.backend_start, who));
            }
        }
        strangers
    }

    /// Whether a session called itself the run's, and who else was there, each as a sentence.
    ///
    /// Where none calls itself the run's, those of the run's role are taken for the run's own.
    pub(super) fn into_seen(self, role: &str) -> (bool, Vec<String>) {
        let seen = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let own = format!("{role} (");
        let is_foreign = |who: &String| seen.named || self.own_role.is_some() || !who.starts_with(&own);
        let mut foreign: Vec<String> =
            seen.others.into_iter().map(|(_, _, who)| who).filter(is_foreign).collect();
        foreign.sort();
        foreign.dedup();
        (seen.named, foreign)
    }
}
