//! What requests are answered with: the installation as it is now, its ledger, and the way to the
//! daemon's loop.

use std::sync::Arc;

use axum::http::StatusCode;
use chrono::TimeDelta;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use super::caller::{Caller, Peer};
use super::orders::Order;
use super::problem::Problem;
use super::tries::Tries;
use crate::cli::clock;
use crate::cli::gate::elsewhere::Opening;
use crate::cli::host::Host;
use crate::cli::report::Failure;
use crate::jobs::migrate::runner::Runners;
use crate::ledger::{Happening, Ledger, LedgerError, OnBehalf, Token};
use crate::rules::access::{Act, refusal};
use crate::rules::token::BearerToken;

/// Requests that read catalog, ledger or cluster at the same time.
const READERS: usize = 4;
/// How fine the last use of a token is recorded: each record is a write to disk.
const USE_GRAIN: TimeDelta = TimeDelta::minutes(1);
/// The action of the event that says that a token was used, once a day.
const TOKEN_USE: &str = "token_use";

/// Answers requests.
pub struct Office {
    host: watch::Receiver<Arc<Host>>,
    ledger: Ledger,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) openings: mpsc::Sender<Opening>,
    pub(super) runners: Arc<Runners>,
    pub(super) tries: Tries,
    readers: Arc<Semaphore>,
}

impl Office {
    /// An office for the installation that `host` has at any time; what it may not do itself it
    /// hands over as `orders` and `openings`, and `runners` are those of the gates that are walked.
    pub fn new(
        host: watch::Receiver<Arc<Host>>,
        ledger: Ledger,
        orders: mpsc::Sender<Order>,
        openings: mpsc::Sender<Opening>,
        runners: Arc<Runners>,
    ) -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        Self { host, ledger, orders, openings, runners, tries: Tries::new(), readers }
    }

    /// The installation by the settings as they are now.
    pub(super) fn host(&self) -> Arc<Host> {
        self.host.borrow().clone()
    }

    /// The ledger, to read.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The ledger, whose audit log says that `who` acts.
    pub(super) fn ledger_for(&self, who: &OnBehalf) -> Ledger {
        self.ledger.clone().on_behalf_of(who)
    }

    /// The holder of a token, if it is one that counts now. Nothing is remembered between
    /// requests, so that one that is revoked is refused at once.
    pub(super) async fn holder_of(&self, token: &BearerToken, peer: Peer) -> Result<Option<Token>, Problem> {
        let found = self.ledger.token(&token.id).await.map_err(|error| ledger_problem(&error))?;
        let now = clock::now();
        let Some((holder, digest)) = found else { return Ok(None) };
        if !token.has_digest(&digest) {
            return Ok(None);
        }
        if !holder.is_valid(now) {
            tracing::info!(token = holder.name, %peer, "a token that is revoked or expired is refused");
            return Ok(None);
        }
        if holder.last_used_at.is_none_or(|last| (now - last).abs() >= USE_GRAIN) {
            self.note_use(&holder, peer).await.map_err(|error| ledger_problem(&error))?;
        }
        Ok(Some(holder))
    }

    async fn note_use(&self, holder: &Token, peer: Peer) -> Result<(), LedgerError> {
        let now = clock::now();
        self.ledger.note_token_use(&holder.id, now).await?;
        if holder.last_used_at.is_some_and(|last| last.date_naive() == now.date_naive()) {
            return Ok(());
        }
        let detail = Map::from_iter([("from".to_owned(), Value::from(peer.to_string()))]);
        let happening = Happening {
            action: TOKEN_USE,
            database: holder.database.as_deref(),
            subject: Some(&holder.name),
            outcome: "first use of the day",
            detail,
        };
        let ledger = self.ledger_for(&OnBehalf::Token(holder.name.clone()));
        ledger.note_happening(happening, now).await.map(drop)
    }

    /// Lets `caller` pass if they may do `act` to the databases that it is `about`, by their names
    /// in PostgreSQL; of one who may not the audit log hears.
    pub(super) async fn permit(&self, caller: &Caller, act: Act, about: &[&str]) -> Result<(), Problem> {
        let Some(reason) = refusal(caller.rights(), act, about) else { return Ok(()) };
        self.note(caller, act.action(), about.first().copied(), None, &format!("refused: {reason}")).await;
        let problem = Problem::forbidden(reason);
        Err(match &caller.database {
            Some(own) => problem.with_hint(self.own_hint(own)),
            None => problem,
        })
    }

    /// What a token is for that is bound to the database `own`, by the names that `--db` takes.
    fn own_hint(&self, own: &str) -> String {
        let host = self.host();
        let sections = host.settings.databases.iter();
        let of_own = sections.filter(|(_, section)| section.connection.database == own);
        let names: Vec<&str> = of_own.map(|(name, _)| name.as_str()).collect();
        let named = if names.is_empty() { own.to_owned() } else { names.join(", ") };
        format!("this token is for the database {named}; `belay token add` on the database host makes others")
    }

    /// Lets `caller` pass as [`Self::permit`] does, for the database that they call `name`; returns
    /// its name in PostgreSQL.
    pub(super) async fn permitted_database(
        &self,
        caller: &Caller,
        act: Act,
        name: &str,
    ) -> Result<String, Problem> {
        let host = self.host();
        let known = host.database(name);
        // Who may not learns nothing of whether there is one.
        let database = match &known {
            Ok(database) => database.connection.database.clone(),
            Err(_) => host.database_name(name),
        };
        self.permit(caller, act, &[&database]).await?;
        known.map(|_| database).map_err(|failure| Problem::of(&failure, caller))
    }

    /// Notes for the audit log what came of an act of `caller`.
    pub(super) async fn note(
        &self,
        caller: &Caller,
        action: &str,
        database: Option<&str>,
        subject: Option<&str>,
        outcome: &str,
    ) {
        let detail = Map::from_iter([("from".to_owned(), Value::from(caller.peer.to_string()))]);
        let happening = Happening { action, database, subject, outcome, detail };
        if let Err(error) = self.ledger_for(&caller.who).note_happening(happening, clock::now()).await {
            tracing::error!(%error, "the audit log does not take what was asked for");
        }
    }

    /// Does work that may take long, or computes, away from the threads that answer.
    pub(super) async fn apart<T, W>(
        self: &Arc<Self>,
        caller: &Caller,
        work: impl FnOnce(Arc<Host>, Ledger) -> W + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Failure>>,
    {
        let permit = Arc::clone(&self.readers).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let (host, ledger, runtime) = (self.host(), self.ledger_for(&caller.who), Handle::current());
        let work = move || {
            let _permit = permit;
            runtime.block_on(Box::pin(work(host, ledger)))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(|failure| Problem::of(&failure, caller)),
            Err(error) => {
                tracing::error!(%error, "a request panicked");
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the daemon could not do it"))
            }
        }
    }
}

fn ledger_problem(error: &LedgerError) -> Problem {
    tracing::error!(%error, "the ledger does not answer");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon cannot look tokens up now")
}
