//! Gates for runners elsewhere, each walked by an errand of its own for as long as it takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Daemon;
use super::errand::{Errand, Ground};
use crate::cli::gate::elsewhere::{self, Opening};
use crate::cli::report::{ExitCode, Failure};
use crate::jobs::migrate::runner::Runners;
use crate::ledger::{GateRun, LedgerError};
use crate::rules::gate::Phase;

/// Gates at the same time; each has its own databases.
const MOST_GATES: usize = 32;

/// The gates of the daemon.
#[derive(Default)]
pub struct Gates {
    /// Whose command runs elsewhere, while we walk them.
    pub runners: Arc<Runners>,
    /// Asked for, and not begun yet; by the runs that they will be.
    openings: Mutex<BTreeMap<String, Opening>>,
}

impl Gates {
    fn add(&self, run: String, opening: Opening) {
        self.openings.lock().unwrap_or_else(PoisonError::into_inner).insert(run, opening);
    }

    fn take(&self, run: &str) -> Option<Opening> {
        self.openings.lock().unwrap_or_else(PoisonError::into_inner).remove(run)
    }
}

impl Daemon {
    /// Begins to open a gate, or says why not.
    pub(super) fn open(&mut self, opening: Opening) {
        let gates = self.running.values().filter(|errand| matches!(errand, Errand::Gate(_))).count();
        if gates >= MOST_GATES {
            let text = format!("{gates} gates are open, and no more may be");
            let _ = opening.answer.send(Err(Failure::new("open the gate", ExitCode::Busy, text)));
            return;
        }
        let run = elsewhere::new_run();
        self.ground.gates.add(run.clone(), opening);
        self.begin(Errand::Gate(run));
    }

    /// Goes on with runs that nobody walks any more: one whose command runs elsewhere is waited for
    /// by itself, the others are gone on with one after the other.
    pub(super) async fn begin_abandoned(&mut self) {
        let abandoned = match self.abandoned().await {
            Ok(abandoned) => abandoned,
            Err(error) => return tracing::error!(error = %error, "the ledger does not answer"),
        };
        for (run, runs_elsewhere) in abandoned {
            self.begin(if runs_elsewhere { Errand::Gate(run) } else { Errand::Resume });
        }
    }

    async fn abandoned(&self) -> Result<Vec<(String, bool)>, LedgerError> {
        let Ground { ledger, gates, .. } = &*self.ground;
        // A run of ours is one that we gave up when its server was away, unless we walk it.
        let is_left = |run: &GateRun| !run.process.is_alive() || run.process == *ledger.process();
        let is_walked = |run: &GateRun| {
            gates.runners.of(&run.id).is_some() || self.is_running(&Errand::Gate(run.id.clone()))
        };
        let mut abandoned = Vec::new();
        for run in ledger.open_runs().await? {
            if is_left(&run) && !is_walked(&run) {
                let may_run = run.position.phase == Phase::Migrating;
                let runs_elsewhere = may_run && ledger.lease(&run.id).await?.is_some();
                abandoned.push((run.id, runs_elsewhere));
            }
        }
        Ok(abandoned)
    }
}

/// Opens the gate of `run`, or goes on with it where another daemon stopped.
pub async fn walk(ground: &Ground, run: &str) -> Result<(), Failure> {
    let Ground { global, host, ledger, gates } = ground;
    match gates.take(run) {
        Some(opening) => {
            let opening = (run.to_owned(), opening);
            elsewhere::run_for_runner(global, host, ledger, &gates.runners, opening).await
        }
        None => elsewhere::resume_for_runner(host, ledger, &gates.runners, run).await,
    }
}
