//! What the verbs of the gate share: the means of a run, and runs whose process died.

pub mod elsewhere;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use self::elsewhere::{Next, who_goes_on};
use super::host::Host;
use super::progress::shown_in_lines;
use super::report::{ExitCode, Failure, print_notice};
use super::{Global, audit, clock};
use crate::jobs::Progress;
use crate::jobs::migrate::facts::Facts;
use crate::jobs::migrate::runner::{RemoteRunner, Runner};
use crate::jobs::migrate::{self, Means, Walked};
use crate::jobs::receive_wal::waiting::KeptLog;
use crate::ledger::lock::{LockError, LockName, StateLock};
use crate::ledger::{GateRun, Ledger};
use crate::rules::gate::{Phase, Verdict};
use crate::seal::{Opener, Sealer};
use crate::settings::DatabaseSettings;

/// Everything a run is made with, owned.
pub struct Ground<'a> {
    host: &'a Host,
    ledger: &'a Ledger,
    databases: Vec<DatabaseSettings>,
    sealer: Sealer,
    opener: Option<Opener>,
    scratch_directory: PathBuf,
    /// How far the run is.
    pub progress: Arc<Progress>,
}

impl<'a> Ground<'a> {
    /// Gathers the means for `databases`, at least one.
    ///
    /// # Errors
    /// [`Failure`] for recipients that cannot be read.
    pub fn new(
        host: &'a Host,
        ledger: &'a Ledger,
        databases: Vec<DatabaseSettings>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            host,
            ledger,
            databases,
            sealer: host.sealer()?,
            opener: host.opener(),
            scratch_directory: host.scratch_directory(),
            progress: Arc::new(Progress::default()),
        })
    }

    /// The databases.
    pub fn databases(&self) -> &[DatabaseSettings] {
        &self.databases
    }

    /// The means of a run whose command we run, with whoever hears of phases and output.
    ///
    /// # Errors
    /// [`Failure`] when this host has no signing key.
    pub fn means<'s>(
        &'s self,
        on_phase: &'s (dyn Fn(Phase) + Sync),
        on_output: &'s (dyn Fn(&[u8]) + Sync),
    ) -> Result<Means<'s>, Failure> {
        self.means_of(Runner::Here, on_phase, on_output)
    }

    /// As [`Ground::means`], for a command that `runner` runs.
    ///
    /// # Errors
    /// As [`Ground::means`].
    pub fn means_of<'s>(
        &'s self,
        runner: Runner<'s>,
        on_phase: &'s (dyn Fn(Phase) + Sync),
        on_output: &'s (dyn Fn(&[u8]) + Sync),
    ) -> Result<Means<'s>, Failure> {
        let (settings, signing) = (&self.host.settings, self.host.keys.signing.as_ref());
        let no_key = || Failure::new("migrate", ExitCode::Usage, "there is no signing key on this host");
        Ok(Means {
            catalog: &self.host.catalog,
            sealer: &self.sealer,
            signing: signing.ok_or_else(no_key)?,
            chunk_key: &self.host.keys.chunk_key,
            opener: self.opener.as_ref(),
            ledger: self.ledger,
            databases: &self.databases,
            gate: &settings.gate,
            runner,
            log: settings
                .cluster
                .point_in_time
                .then(|| KeptLog { state: &settings.state.directory, is_received: settings.wal.receive }),
            bin_directory: settings.cluster.bin_directory.as_deref(),
            path: &self.host.path,
            scratch_directory: &self.scratch_directory,
            verify_jobs: settings.verify.jobs,
            progress: match runner {
                Runner::Here => &self.progress,
                Runner::Elsewhere(runner) => &runner.progress,
            },
            on_phase,
            on_output,
        })
    }
}

/// The locks of a run: of its databases alone, and of the repository with others.
pub struct RunLocks {
    _databases: Vec<StateLock>,
    _repository: StateLock,
}

impl RunLocks {
    /// Takes them all, those of the databases in the order of their names; does not wait.
    ///
    /// # Errors
    /// [`LockError`]; then none is held.
    pub fn take<'n>(host: &Host, databases: impl IntoIterator<Item = &'n String>) -> Result<Self, LockError> {
        let state = &host.settings.state.directory;
        // Whoever takes a part of the same ones takes them in the same order.
        let names: BTreeSet<&String> = databases.into_iter().collect();
        let lock = |name: &String| StateLock::exclusive(state, &LockName::database(name));
        Ok(Self {
            _databases: names.into_iter().map(lock).collect::<Result<_, _>>()?,
            _repository: StateLock::shared(state, &LockName::repository())?,
        })
    }
}

/// Walks on with every run whose process died, and tells what became of each.
///
/// What cannot be walked on now (its lock is held, its server is away) is left to a later command;
/// it does not keep this one from its work.
///
/// # Errors
/// What the ledger says.
pub async fn resume_open_runs(global: &Global, host: &Host, ledger: &Ledger) -> Result<(), Failure> {
    let open = ledger.open_runs().await.map_err(Failure::of("look for interrupted migrations"))?;
    // One of our own is one that we gave up when its server was away: its lock tells if we walk it.
    let is_abandoned = |run: &&GateRun| !run.process.is_alive() || run.process == *ledger.process();
    for run in open.iter().filter(is_abandoned) {
        let runner = match who_goes_on(host, ledger, run).await? {
            Next::Anybody(runner) => runner,
            Next::Daemon => continue,
            Next::LaterAt(at) => {
                print_notice(&format!(
                    "run {} of {} waits for its runner and for the daemon: start that, or run this again after {}",
                    run.id,
                    run.named_databases(),
                    at.format("%H:%M:%SZ")
                ));
                continue;
            }
        };
        let locks = RunLocks::take(host, &run.databases);
        if matches!(locks, Err(LockError::Busy { .. })) && run.process == *ledger.process() {
            continue;
        }
        print_notice(&format!(
            "run {} of {} stopped while {}: going on with it",
            run.id,
            run.named_databases(),
            run.position.phase
        ));
        match resume_one(global, host, ledger, (run, runner.as_deref()), locks).await {
            Ok(Walked::Ended(position)) => {
                let ended = GateRun { position, ..run.clone() };
                audit::note_run(ledger, "migrate", &ended).await?;
                let verdict = position.verdict.unwrap_or(Verdict::Unknown);
                print_notice(&format!("run {} is {}: {}", run.id, position.phase, verdict.sentence()));
            }
            Ok(Walked::Suspended(error)) => print_notice(&format!(
                "run {} waits for the server: {error}; the next command goes on with it",
                run.id
            )),
            Err(failure) => print_notice(&format!("run {} is left: {}", run.id, failure.chain())),
        }
    }
    Ok(())
}

async fn resume_one(
    global: &Global,
    host: &Host,
    ledger: &Ledger,
    (run, runner): (&GateRun, Option<&RemoteRunner>),
    locks: Result<RunLocks, LockError>,
) -> Result<Walked, Failure> {
    let title = format!("go on with run {}", run.id);
    let _locks = locks.map_err(Failure::of(&title))?;
    let ground = Ground::new(host, ledger, databases_of(host, run)?)?;
    let means = ground.means_of(runner.map_or(Runner::Here, Runner::Elsewhere), &|_| {}, &|_| {})?;
    let work = Box::pin(migrate::resume(&means, run, clock::now));
    shown_in_lines(global, &title, &ground.progress, work).await.map_err(Failure::of(&title))
}

/// The settings of a run's databases, in the order of the run.
///
/// # Errors
/// [`Failure`] when the settings know one no longer.
pub fn databases_of(host: &Host, run: &GateRun) -> Result<Vec<DatabaseSettings>, Failure> {
    let sections: Vec<String> = facts_of(run).databases.into_iter().map(|known| known.section).collect();
    // A run that died at once has written down their names only.
    let names = if sections.is_empty() { &run.databases } else { &sections };
    names.iter().map(|name| host.database(name)).collect()
}

/// What is known of a run; nothing where that cannot be read.
pub fn facts_of(run: &GateRun) -> Facts {
    serde_json::from_str(&run.facts).unwrap_or_default()
}
