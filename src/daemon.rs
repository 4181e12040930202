//! `belay serve`: does on schedule what an operator would do by hand, with the same verbs.
//!
//! Comes in: settings and signals. Goes out: jobs, each begun when `jobs::due` says so, under the
//! locks that the command line takes, and signs of life for systemd. A knock only wakes it: what
//! is due is decided from catalog and ledger every time, so that nothing is lost by sleeping. What
//! is asked for over HTTP comes to the same loop, and is done under the same rules.

mod errand;
mod gates;
mod heartbeat;
mod orders;
mod service;
mod wal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use self::errand::{Done, Errand, Ground, Outcome, Survey};
use self::gates::Gates;
use self::heartbeat::HeartbeatTask;
use self::wal::WalTask;
use crate::cli::gate::elsewhere::Opening;
use crate::cli::host::Host;
use crate::cli::report::{ExitCode, Failure, Report};
use crate::cli::wal::shipped as wal_received;
use crate::cli::{Global, audit, clock};
use crate::http::{HttpError, Office, Order, Server};
use crate::jobs::due::{self, LogStanding, Work};
use crate::jobs::migrate::Stop;
use crate::ledger::JobKind;
use crate::ledger::lock::{LockName, StateLock};
use crate::rules::causes;
use crate::rules::schedule::Due;

const TITLE: &str = "serve";
/// When it is asked what is due.
const KNOCKS: &str = "*/5 * * * * *";
/// Catalog and cluster may change without us: they are asked anew after this time at the latest.
const SURVEY_AGE: Duration = Duration::from_secs(600);
/// Orders that wait until the loop looks at them.
const ORDERS: usize = 16;
/// How long work waits whose lock another process holds.
const BUSY_PAUSE: Duration = Duration::from_secs(30);
/// How long a run waits whose runner could not be waited for: it beats meanwhile, and is not heard.
const GATE_PAUSE: Duration = Duration::from_secs(2);
/// How long a survey waits that failed, and a migration that could not be gone on with.
const FAILED_PAUSE: Duration = Duration::from_secs(60);

/// Runs until it is told to stop.
///
/// # Errors
/// [`Failure`] when the installation does not open, or another daemon has its state directory.
pub async fn serve(global: Global, stop: Stop) -> Result<Report, Failure> {
    let host = Host::open(&global.config).await?;
    let state = host.settings.state.directory.clone();
    let _lock = StateLock::exclusive(&state, &LockName::daemon()).map_err(Failure::of(TITLE))?;
    let ledger = host.ledger().await?.for_daemon();
    audit::note(&ledger, TITLE, (None, None), "started").await?;
    let global = Global { quiet: true, json: false, ..global };
    let host = Arc::new(host);
    let (hosts, newest_host) = watch::channel(Arc::clone(&host));
    let (orderer, orders) = mpsc::channel(ORDERS);
    let gates = Arc::new(Gates::default());
    let (opener, openings) = mpsc::channel(ORDERS);
    let office = Office::new(
        newest_host.clone(),
        ledger.clone(),
        orderer.clone(),
        opener.clone(),
        Arc::clone(&gates.runners),
    );
    let http = &host.settings.http;
    let server = if http.is_served() {
        Some(Server::start(http, Arc::new(office)).await.map_err(|error| http_failure(&error))?)
    } else {
        None
    };
    let wal = WalTask::start(newest_host.clone());
    let heartbeat = HeartbeatTask::start(newest_host.clone());
    let daemon = Daemon {
        ground: Arc::new(Ground { global, host, ledger, gates }),
        hosts,
        orders,
        openings,
        _orderers: (orderer, opener),
        server,
        wal,
        _heartbeat: heartbeat,
        errands: JoinSet::new(),
        running: BTreeMap::new(),
        cut: CancellationToken::new(),
        survey: None,
        changes: 0,
        not_before: BTreeMap::new(),
        mended: None,
    };
    daemon.run(stop).await
}

/// The daemon while it runs.
struct Daemon {
    ground: Arc<Ground>,
    /// Tells the server of the installation by new settings.
    hosts: watch::Sender<Arc<Host>>,
    orders: mpsc::Receiver<Order>,
    openings: mpsc::Receiver<Opening>,
    /// Orders do not end when there is nobody that gives any.
    _orderers: (mpsc::Sender<Order>, mpsc::Sender<Opening>),
    server: Option<Server>,
    wal: WalTask,
    _heartbeat: HeartbeatTask,
    errands: JoinSet<Done>,
    running: BTreeMap<Id, Errand>,
    /// Cuts every errand short, at a safe place.
    cut: CancellationToken,
    survey: Option<Survey>,
    /// How often something ended that may have changed the catalog.
    changes: u64,
    not_before: BTreeMap<Errand, Instant>,
    /// When a base backup was last begun because log was lost.
    mended: Option<Instant>,
}

impl Daemon {
    async fn run(mut self, mut stop: Stop) -> Result<Report, Failure> {
        let listen = |kind| signal(kind).map_err(|error| start_failure(&error));
        let mut hangup = listen(SignalKind::hangup())?;
        let knock = Arc::new(Notify::new());
        let mut scheduler = knocking(&knock).await.map_err(|error| start_failure(&error))?;
        service::ready();
        tracing::info!(settings = %self.ground.global.config.display(), "serving");
        loop {
            self.begin_what_is_due().await;
            service::is_alive(&self.occupation());
            tokio::select! {
                () = knock.notified() => {}
                Some(ended) = self.errands.join_next_with_id() => self.note_end(ended)?,
                Some(order) = self.orders.recv() => self.take(order),
                Some(opening) = self.openings.recv() => self.open(opening),
                _ = hangup.recv() => self.begin(Errand::Reload),
                told = stop.wait_for(Option::is_some) => {
                    tracing::info!(told = told.is_ok(), "stopping");
                    break;
                }
            }
        }
        service::stopping();
        // Its own end is of no interest any more: nothing is begun from here on.
        let _ = scheduler.shutdown().await;
        let ledger = self.ground.ledger.clone();
        self.come_to_an_end(stop).await;
        audit::note(&ledger, TITLE, (None, None), "stopped").await?;
        Ok(Report::new(TITLE, "", &serde_json::json!({})))
    }

    /// Lets what runs end by itself for a while; what is dropped then has published nothing half.
    async fn come_to_an_end(mut self, mut stop: Stop) {
        stop.mark_unchanged();
        // Whoever gives an order from here on is told that none are taken.
        self.orders.close();
        self.openings.close();
        // What has not begun is undone; what runs elsewhere runs on, and a later daemon waits for it.
        self.ground.gates.runners.suspend().await;
        let grace = self.ground.host.settings.daemon.stop_grace;
        tokio::select! {
            () = async { while self.errands.join_next().await.is_some() {} } => {}
            () = tokio::time::sleep(grace) => tracing::warn!("jobs are cut short: they took longer than stop_grace"),
            _ = stop.changed() => tracing::warn!("jobs are cut short: told to stop again"),
        }
        self.cut.cancel();
        while self.errands.join_next().await.is_some() {}
        self.wal.end().await;
        if let Some(server) = self.server {
            server.stop().await;
        }
    }

    async fn begin_what_is_due(&mut self) {
        if self.is_survey_wanted() {
            self.begin(Errand::Survey { change: self.changes });
        }
        self.begin_abandoned().await;
        for work in self.work_due().await {
            if self.may_begin(&work) {
                if work.kind == JobKind::BaseBackup && self.is_to_mend() {
                    self.mended = Some(Instant::now());
                }
                self.begin(Errand::Work(work));
            } else if work.kind == JobKind::Retain {
                // It needs the repository for itself: what is due later must not keep it from that.
                break;
            }
        }
    }

    fn is_survey_wanted(&self) -> bool {
        let is_current = self.survey.as_ref().is_some_and(|survey| survey.at.elapsed() < SURVEY_AGE);
        !is_current && !self.running.values().any(|errand| matches!(errand, Errand::Survey { .. }))
    }

    /// What is due now, what waits longest first; nothing while the catalog is not known.
    async fn work_due(&self) -> Vec<Work> {
        let Some(survey) = &self.survey else { return Vec::new() };
        let Ground { host, ledger, .. } = &*self.ground;
        let (databases, listing, now) = (&survey.databases, &survey.listing, clock::now());
        let shipped = wal_received(&host.settings.state.directory);
        let log = LogStanding { shipped: shipped.as_ref(), is_broken: self.is_to_mend() };
        let standings = due::standings(&host.settings, databases, listing, ledger, log, now).await;
        let standings = match standings {
            Ok(standings) => standings,
            Err(error) => {
                tracing::error!(error = %error, "the ledger does not answer");
                return Vec::new();
            }
        };
        let mut due: Vec<_> = standings
            .into_iter()
            .filter(|standing| matches!(standing.due, Due::Now { .. }))
            .map(|standing| (standing.waits_since(), standing.work))
            .collect();
        due.sort();
        due.into_iter()
            .map(|(_, work)| work)
            .filter(|work| self.has_waited(&Errand::Work(work.clone())))
            .collect()
    }

    /// Whether log was lost that no base backup is behind yet, and none was begun because of that a while ago.
    fn is_to_mend(&self) -> bool {
        let has_waited = self.mended.is_none_or(|at| at.elapsed() >= SURVEY_AGE);
        has_waited && self.survey.as_ref().is_some_and(|survey| survey.lost.is_some())
    }

    /// Whether work that is due has room beside what runs.
    fn may_begin(&self, work: &Work) -> bool {
        let running: Vec<&Work> = self.running.values().filter_map(Errand::work).collect();
        if work.kind == JobKind::Retain {
            return running.is_empty();
        }
        running.len() < self.ground.host.settings.daemon.jobs
            && running.iter().all(|other| other.kind != JobKind::Retain && !is_in_the_way(other, work))
    }

    fn is_running(&self, errand: &Errand) -> bool {
        self.running.values().any(|running| running == errand)
    }

    fn has_waited(&self, errand: &Errand) -> bool {
        self.not_before.get(errand).is_none_or(|at| *at <= Instant::now())
    }

    fn begin(&mut self, errand: Errand) {
        if self.is_running(&errand) || !self.has_waited(&errand) {
            return;
        }
        let (ground, chosen, cut) = (Arc::clone(&self.ground), errand.clone(), self.cut.clone());
        let runtime = Handle::current();
        // A thread of its own: what digests rows for minutes must not keep the loop from its rounds.
        let work = move || runtime.block_on(errand::run_until_cut(ground, chosen, cut));
        let task = self.errands.spawn_blocking(work);
        self.running.insert(task.id(), errand);
    }

    /// Takes in what an errand brought.
    ///
    /// # Errors
    /// [`Failure`] when it panicked: what it held is not known any more, and a new process finds out.
    fn note_end(&mut self, ended: Result<(Id, Done), JoinError>) -> Result<(), Failure> {
        let (id, done) = ended.map_err(|error| start_failure(&error))?;
        let Some(errand) = self.running.remove(&id) else { return Ok(()) };
        if let Errand::Work(_) | Errand::Ordered(_) | Errand::Resume | Errand::Gate(_) = errand {
            self.changes += 1;
            self.survey = None;
        }
        if let Errand::Resume | Errand::Gate(_) = errand {
            // What could not be gone on with now has its reasons: a lock, a server that is away.
            let pause = if errand == Errand::Resume { FAILED_PAUSE } else { GATE_PAUSE };
            self.not_before.retain(|_, at| *at > Instant::now());
            self.not_before.insert(errand.clone(), Instant::now() + pause);
        }
        match done {
            Ok(Outcome::Surveyed(survey)) if survey.change == self.changes => self.survey = Some(survey),
            Ok(Outcome::Reloaded(host)) => self.take_over(*host),
            Ok(_) => {}
            Err(failure) => self.note_failure(errand, &failure),
        }
        Ok(())
    }

    fn note_failure(&mut self, errand: Errand, failure: &Failure) {
        let pause = if failure.code == ExitCode::Busy {
            tracing::info!(errand = %errand, reason = failure.chain(), "waits");
            BUSY_PAUSE
        } else {
            tracing::error!(errand = %errand, error = failure.chain(), hint = failure.hint, "failed");
            FAILED_PAUSE
        };
        if matches!(errand, Errand::Ordered(_)) {
            // It is done once, whatever comes of it.
            return;
        }
        // How long failed work waits is the schedule's business; the ledger knows of it.
        if failure.code == ExitCode::Busy || matches!(errand, Errand::Survey { .. }) {
            self.not_before.insert(errand, Instant::now() + pause);
        }
    }

    fn take_over(&mut self, host: Host) {
        let Ground { global, ledger, host: old, gates } = &*self.ground;
        if host.settings.state.directory != old.settings.state.directory {
            tracing::error!(
                "the state directory has changed: restart the service to use it; the old settings stay"
            );
            return;
        }
        if let Some(server) = &mut self.server {
            if let Err(error) = server.reload(&host.settings.http) {
                let reason = causes::each_said_once(&error);
                tracing::error!(error = reason, "the certificate is not read: the old one stays");
            }
        } else if host.settings.http.is_served() {
            tracing::error!("[http] is new: restart the service to use it");
        }
        let host = Arc::new(host);
        self.hosts.send_replace(Arc::clone(&host));
        self.ground = Arc::new(Ground {
            global: global.clone(),
            ledger: ledger.clone(),
            host,
            gates: Arc::clone(gates),
        });
        self.survey = None;
        self.changes += 1;
        tracing::info!("the settings are read again");
    }

    /// What it does, in a line.
    fn occupation(&self) -> String {
        let working: Vec<String> = self.running.values().map(Errand::to_string).collect();
        if working.is_empty() { "nothing is due".into() } else { working.join(", ") }
    }
}

/// Of a database one thing is done at a time; base backups are verified while others are made.
fn is_in_the_way(running: &Work, work: &Work) -> bool {
    running.database == work.database && (work.database.is_some() || running.kind == work.kind)
}

fn http_failure(error: &HttpError) -> Failure {
    let text = causes::each_said_once(error);
    let failure = Failure::new(TITLE, ExitCode::Usage, text);
    failure.with_hint("[http] in the settings says where is listened, and with which certificate")
}

fn start_failure(error: &dyn std::error::Error) -> Failure {
    Failure::new(TITLE, ExitCode::Failed, error.to_string())
}

/// Starts the knocks. They carry nothing: one that is missed is no loss.
async fn knocking(knock: &Arc<Notify>) -> Result<JobScheduler, tokio_cron_scheduler::JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    let knock = Arc::clone(knock);
    scheduler.add(Job::new(KNOCKS, move |_, _| knock.notify_one())?).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_backups_are_verified_while_others_are_made() {
        let work = |kind, database: Option<&str>| Work { kind, database: database.map(str::to_owned) };
        let (base, verify) = (work(JobKind::BaseBackup, None), work(JobKind::VerifyPhysical, None));
        assert!(!is_in_the_way(&verify, &base) && !is_in_the_way(&base, &verify));
        assert!(is_in_the_way(&verify, &verify));
        let (snapshot, of_app) = (work(JobKind::Snapshot, Some("app")), work(JobKind::Verify, Some("app")));
        assert!(is_in_the_way(&snapshot, &of_app), "of a database one thing is done at a time");
        assert!(!is_in_the_way(&snapshot, &base));
        assert!(!is_in_the_way(&snapshot, &work(JobKind::Verify, Some("billing"))));
    }
}
