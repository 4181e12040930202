//! Who runs the command of a gated migration: we do, or a runner on another machine, which holds a
//! lease while it does.
//!
//! Both sides of a lease meet here. The walk offers the go and waits for the end; whoever serves
//! the runner brings its claim, its beats, its output, and the end. Whatever is answered is written
//! down before. What may be said when is decided in `rules::lease`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::{JobError, Stop};
use crate::jobs::Progress;
use crate::ledger::{LeaseRecord, Ledger, LedgerError};
use crate::rules::api::Go;
use crate::rules::classify::Exit;
use crate::rules::gate::{Place, Verdict};
use crate::rules::lease::{Lease, Refusal, Standing, standing};
use crate::rules::mask::{CapturedOutput, Mask};

/// Who runs the command.
#[derive(Clone, Copy)]
pub enum Runner<'a> {
    /// We do.
    Here,
    /// This one.
    Elsewhere(&'a RemoteRunner),
}

impl Runner<'_> {
    /// Where the command runs.
    pub fn place(self) -> Place {
        match self {
            Self::Here => Place::Here,
            Self::Elsewhere(_) => Place::Elsewhere,
        }
    }

    /// Why it had the run stopped, if it did.
    pub(super) async fn why_stopped(self) -> Option<String> {
        match self {
            Self::Here => None,
            Self::Elsewhere(runner) => runner.inner.lock().await.why_stopped.clone(),
        }
    }
}

/// Why something that a runner says is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// It may not be said, or not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The go is not given yet.
    #[error("the run is not ready for its command")]
    NotReady,
    /// The run was cancelled, or is to be.
    #[error("the run was cancelled")]
    Cancelled,
    /// It cannot be written down.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A runner on another machine, as its run sees it.
pub struct RemoteRunner {
    run: String,
    owner: String,
    length: Duration,
    ledger: Ledger,
    clock: fn() -> DateTime<Utc>,
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
    stop: watch::Sender<Option<Verdict>>,
    /// How far the run is.
    pub progress: Arc<Progress>,
}

struct Inner {
    lease: Lease,
    heard: Instant,
    output: CapturedOutput,
    mask: Mask,
    go: Option<Go>,
    is_cancelled: bool,
    is_suspended: bool,
    why_stopped: Option<String>,
}

impl RemoteRunner {
    /// The runner of `record`, which has a whole lease from now on; `output` is what is known of
    /// the command's output.
    pub fn new(ledger: &Ledger, record: LeaseRecord, output: &str, clock: fn() -> DateTime<Utc>) -> Self {
        Self::last_heard(ledger, record, output, clock, Duration::ZERO)
    }

    /// As [`Self::new`], for one whose lease is over.
    pub fn lost(ledger: &Ledger, record: LeaseRecord, output: &str, clock: fn() -> DateTime<Utc>) -> Self {
        let silent_for = record.length;
        Self::last_heard(ledger, record, output, clock, silent_for)
    }

    fn last_heard(
        ledger: &Ledger,
        record: LeaseRecord,
        output: &str,
        clock: fn() -> DateTime<Utc>,
        silent_for: Duration,
    ) -> Self {
        let mut captured = CapturedOutput::default();
        captured.push(output.as_bytes());
        let now = Instant::now();
        let inner = Inner {
            lease: record.lease,
            heard: now.checked_sub(silent_for).unwrap_or(now),
            output: captured,
            mask: Mask::new([]),
            go: None,
            is_cancelled: false,
            is_suspended: false,
            why_stopped: None,
        };
        Self {
            run: record.run,
            owner: record.owner,
            length: record.length,
            ledger: ledger.clone(),
            clock,
            inner: Mutex::new(inner),
            changed: watch::Sender::new(()),
            stop: watch::Sender::new(None),
            progress: Arc::new(Progress::default()),
        }
    }

    /// The run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Who may touch it besides operators.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// How long the runner may be silent.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Tells the walk when the run is to end before its command starts.
    pub fn stop(&self) -> Stop {
        self.stop.subscribe()
    }

    /// How much of the output is known, in bytes.
    pub async fn output_bytes(&self) -> u64 {
        self.inner.lock().await.lease.output_bytes
    }

    /// Whether the go may be claimed.
    pub async fn is_ready(&self) -> bool {
        self.inner.lock().await.go.is_some()
    }

    /// Gives the go to `holder`.
    ///
    /// # Errors
    /// [`RunnerError`]
    pub async fn claim(&self, holder: &str) -> Result<Go, RunnerError> {
        let mut inner = self.inner.lock().await;
        let mut lease = inner.lease.clone();
        let now = (self.clock)();
        if inner.is_cancelled {
            return Err(RunnerError::Cancelled);
        }
        let go = inner.go.clone().filter(|_| !inner.is_suspended).ok_or(RunnerError::NotReady)?;
        lease.claim(holder, now)?;
        self.ledger.note_lease(&self.run, &lease, now).await?;
        self.heard(&mut inner, lease);
        Ok(go)
    }

    /// Hears that the runner is there; who has the go says so by its name.
    ///
    /// # Errors
    /// [`RunnerError`]
    pub async fn beat(&self, holder: Option<&str>) -> Result<(), RunnerError> {
        let mut inner = self.inner.lock().await;
        match (holder, &inner.lease.holder) {
            (Some(holder), _) => inner.lease.hear(holder)?,
            // Whoever has the go is waited for, and nobody else.
            (None, Some(_)) => return Err(Refusal::Taken.into()),
            (None, None) => {}
        }
        let lease = inner.lease.clone();
        self.ledger.note_lease(&self.run, &lease, (self.clock)()).await?;
        self.heard(&mut inner, lease);
        Ok(())
    }

    /// Takes output that begins at byte `offset`; returns how much is known now.
    ///
    /// # Errors
    /// [`RunnerError`]
    pub async fn output(&self, holder: &str, offset: u64, bytes: &[u8]) -> Result<u64, RunnerError> {
        let mut inner = self.inner.lock().await;
        let mut lease = inner.lease.clone();
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let known = usize::try_from(lease.take_output(holder, offset, length)?).unwrap_or(usize::MAX);
        let mut output = inner.output.clone();
        output.push(bytes.get(known..).unwrap_or_default());
        let text = inner.mask.apply_unfinished(&output.text());
        self.ledger.note_lease_and_output(&self.run, &lease, &text, (self.clock)()).await?;
        inner.output = output;
        self.heard(&mut inner, lease);
        Ok(inner.lease.output_bytes)
    }

    /// Takes the end of the command.
    ///
    /// # Errors
    /// [`RunnerError`]
    pub async fn close(&self, holder: &str, exit: &Exit) -> Result<(), RunnerError> {
        let mut inner = self.inner.lock().await;
        let mut lease = inner.lease.clone();
        lease.close(holder, exit)?;
        // What ended in the middle of a line is whole now.
        let text = inner.mask.apply(&inner.output.text());
        self.ledger.note_lease_and_output(&self.run, &lease, &text, (self.clock)()).await?;
        self.heard(&mut inner, lease);
        Ok(())
    }

    /// Ends the run, whose command nobody began.
    ///
    /// # Errors
    /// [`Refusal::Taken`] when somebody has the go.
    pub async fn cancel(&self, verdict: Verdict) -> Result<(), RunnerError> {
        let mut inner = self.inner.lock().await;
        if inner.lease.holder.is_some() {
            return Err(Refusal::Taken.into());
        }
        inner.is_cancelled = true;
        self.stop_for(&mut inner, verdict, "its runner cancelled it");
        Ok(())
    }

    /// Has the run end if its command has not begun, and else stand still until a later daemon goes
    /// on with it.
    pub async fn suspend(&self) {
        let mut inner = self.inner.lock().await;
        inner.is_suspended = true;
        self.stop_for(&mut inner, Verdict::Terminated, "the daemon was told to stop");
    }

    /// Ends the run when its runner is lost before the go is given; returns never.
    pub async fn watch_before_start(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let pause = {
                let mut inner = self.inner.lock().await;
                match standing(self.length, inner.heard.elapsed()) {
                    _ if inner.go.is_some() => break,
                    Standing::Alive(left) => left,
                    Standing::Lost => {
                        inner.is_cancelled = true;
                        let why = format!("its runner was not heard of for {:?}", self.length);
                        self.stop_for(&mut inner, Verdict::Terminated, &why);
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(pause, changed.changed()).await;
        }
        std::future::pending().await
    }

    fn stop_for(&self, inner: &mut Inner, verdict: Verdict, why: &str) {
        inner.why_stopped.get_or_insert_with(|| why.to_owned());
        self.stop.send_replace(Some(verdict));
        self.changed.send_replace(());
    }

    fn heard(&self, inner: &mut Inner, lease: Lease) {
        (inner.lease, inner.heard) = (lease, Instant::now());
        self.changed.send_replace(());
    }

    /// Offers the go, and waits for the end of the command, which may run for `timeout`.
    ///
    /// # Errors
    /// [`JobError::RunsElsewhere`] when a later daemon is to wait on; what the ledger says.
    pub(super) async fn run_command(&self, go: Go, mask: Mask, timeout: Duration) -> Result<Exit, JobError> {
        let mut changed = self.changed.subscribe();
        {
            let mut inner = self.inner.lock().await;
            (inner.go, inner.mask) = (Some(go), mask);
        }
        self.changed.send_replace(());
        loop {
            changed.mark_unchanged();
            let pause = {
                let mut inner = self.inner.lock().await;
                if let Some(exit) = &inner.lease.exit {
                    return Ok(exit.clone());
                }
                if inner.is_suspended {
                    return Err(JobError::RunsElsewhere { run: self.run.clone() });
                }
                match self.end_unheard(&inner, timeout) {
                    Ok(pause) => pause,
                    Err(exit) => {
                        inner.lease.exit = Some(exit.clone());
                        self.ledger.note_lease(&self.run, &inner.lease, (self.clock)()).await?;
                        return Ok(exit);
                    }
                }
            };
            let _ = tokio::time::timeout(pause, changed.changed()).await;
        }
    }

    /// How long the end of the command may yet be waited for, or what it counts as.
    fn end_unheard(&self, inner: &Inner, timeout: Duration) -> Result<Duration, Exit> {
        if inner.is_cancelled && inner.lease.holder.is_none() {
            return Err(Exit::Unclaimed);
        }
        let Standing::Alive(left) = standing(self.length, inner.heard.elapsed()) else {
            return Err(inner.lease.exit_of_lost());
        };
        let Some(claimed_at) = inner.lease.claimed_at else { return Ok(left) };
        // The runner ends the command by itself, and gets the length of its lease to tell.
        let ran = ((self.clock)() - claimed_at).to_std().unwrap_or_default();
        let may_run = (timeout + self.length).checked_sub(ran).filter(|left| !left.is_zero());
        may_run.map(|may_run| may_run.min(left)).ok_or(Exit::TimedOut)
    }

    /// How long the command ran, in milliseconds, as far as is known.
    pub(super) async fn elapsed_ms(&self) -> u64 {
        let claimed_at = self.inner.lock().await.lease.claimed_at;
        let elapsed = claimed_at.map_or(0, |at| ((self.clock)() - at).num_milliseconds());
        u64::try_from(elapsed).unwrap_or_default()
    }
}

/// The runners of the runs that this process walks.
#[derive(Default)]
pub struct Runners {
    all: std::sync::Mutex<BTreeMap<String, Arc<RemoteRunner>>>,
}

impl Runners {
    /// The runner of `run`, while this process walks that.
    pub fn of(&self, run: &str) -> Option<Arc<RemoteRunner>> {
        self.lock().get(run).cloned()
    }

    /// Has `runner` found until what is returned is dropped.
    pub fn add(&self, runner: Arc<RemoteRunner>) -> Present<'_> {
        let run = runner.run().to_owned();
        self.lock().insert(run.clone(), runner);
        Present { runners: self, run }
    }

    /// Suspends all of them; see [`RemoteRunner::suspend`].
    pub async fn suspend(&self) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        for runner in all {
            runner.suspend().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<RemoteRunner>>> {
        self.all.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A runner that is found among [`Runners`].
#[must_use = "it is not found any more when this is dropped"]
pub struct Present<'a> {
    runners: &'a Runners,
    run: String,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.runners.lock().remove(&self.run);
    }
}
