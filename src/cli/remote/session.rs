//! A gate on another machine: opened, armed, claimed, kept, closed, and its verdict awaited.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::output::Output;
use crate::cli::migrate::report::RunReport;
use crate::cli::progress::print_progress;
use crate::cli::report::{ExitCode, Failure, print_notice};
use crate::jobs::migrate::Stop;
use crate::ledger::{CI_VARIABLES, GateRun, JournalEntry, ProcessMark};
use crate::remote::{RemoteError, Server, pause_before_next, until_answered};
use crate::rules::api::{CloseGate, Event, GateStanding, Go, OpenGate, RunTold, Scripts};
use crate::rules::causes;
use crate::rules::classify::Exit;
use crate::rules::gate::{Phase, Position, Verdict};
use crate::rules::{lease, plain};
use crate::settings;

/// How long a daemon is waited for that does not answer while nothing of ours runs: it may be
/// started anew.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks whether there is output to tell.
const OUTPUT_PAUSE: Duration = Duration::from_millis(500);
/// How long it takes for a stream of events that broke to be asked for again.
const EVENTS_PAUSE: Duration = Duration::from_millis(500);
/// How long the end of a command is told to a daemon that does not answer, beyond the lease.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// A gate.
pub struct Session {
    server: Server,
    /// The run.
    pub run: String,
    /// What notices begin with.
    pub title: String,
    /// How long we may be silent.
    pub lease: Duration,
    /// By what name we have the go.
    pub holder: String,
    is_quiet: bool,
    /// The number of the last event that is known.
    known: u64,
    /// The command may have begun: what cannot be asked any more is not known.
    has_go: bool,
    is_over: bool,
}

/// What is asked for.
pub struct Wanted {
    /// The databases, by the names of their sections.
    pub databases: Vec<String>,
    /// The command; secrets masked.
    pub command: Vec<String>,
    /// Whether revisions that say they break something are let through.
    pub allow_breaking: bool,
    /// What is to be known of the checkout.
    pub scripts: Scripts,
}

/// How it goes on once the gate was opened.
pub enum Ready {
    /// The command may begin.
    Go(Go),
    /// It will not: the run is over.
    Over,
}

/// A name that nobody else makes up.
pub fn new_name() -> String {
    data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>())
}

impl Session {
    /// Opens a gate.
    ///
    /// # Errors
    /// [`Failure`], with the exit code that the daemon says.
    pub async fn open(
        server: Server,
        wanted: Wanted,
        is_quiet: bool,
        mut stop: Stop,
    ) -> Result<Self, Failure> {
        let told = |name: &&str| Some(((**name).to_owned(), settings::variable(name)?));
        let request = OpenGate {
            key: new_name(),
            databases: wanted.databases,
            command: wanted.command,
            allow_breaking: wanted.allow_breaking,
            scripts: wanted.scripts,
            ci: CI_VARIABLES.iter().filter_map(told).collect::<BTreeMap<_, _>>(),
        };
        let deadline = Instant::now() + PATIENCE;
        let mut has_told = false;
        let asking = until_answered(deadline, async || {
            let asked = server.open(&request).await;
            let Err(error) = asked else { return asked.map(Ok) };
            // Before anything has begun there is nothing to lose by giving up at once.
            if error.fault().is_some() {
                return Ok(Err(error));
            }
            if error.is_passing() && !std::mem::replace(&mut has_told, true) {
                let seconds = PATIENCE.as_secs();
                print_notice(&format!("{}; it is tried for {seconds} s", causes::each_said_once(&error)));
            }
            Err(error)
        });
        let opened = tokio::select! {
            opened = asking => opened.flatten().map_err(Failure::of("open the gate"))?,
            // A gate that was opened all the same ends by itself: nobody keeps it.
            verdict = stopped(&mut stop) => return Err(stopped_before(verdict)),
        };
        Ok(Self {
            server,
            run: opened.run,
            title: format!("migrate {}", plain::line(&opened.databases.join(", "))),
            lease: Duration::from_secs(opened.lease_seconds),
            holder: new_name(),
            is_quiet,
            known: 0,
            has_go: false,
            is_over: false,
        })
    }

    /// The gate of a run that was opened before.
    pub fn known(server: Server, run: String, holder: String, is_quiet: bool) -> Self {
        let title = format!("run {run}");
        Self {
            server,
            run,
            title,
            lease: PATIENCE,
            holder,
            is_quiet,
            known: 0,
            has_go: false,
            is_over: false,
        }
    }

    /// Waits until the command may begin, and claims the go; told to stop, it ends the run.
    ///
    /// # Errors
    /// [`Failure`] when the daemon is away for too long, or another one has the go.
    pub async fn wait_for_go(&mut self, mut stop: Stop) -> Result<Ready, Failure> {
        let (server, run, pause) = (self.server.clone(), self.run.clone(), lease::beat_pause(self.lease));
        let beats = async {
            loop {
                // Whether it is heard shows by what follows.
                let _ = server.beat(&run, None).await;
                tokio::time::sleep(pause).await;
            }
        };
        let is_over = tokio::select! {
            is_over = self.follow(Until::Go) => is_over?,
            () = beats => unreachable!("beats go on until they are dropped"),
            verdict = stopped(&mut stop) => {
                self.cancel(verdict).await?;
                return Ok(Ready::Over);
            }
        };
        if is_over {
            return Ok(Ready::Over);
        }
        let deadline = Instant::now() + self.lease;
        let claimed = until_answered(deadline, async || self.server.claim(&self.run, &self.holder).await);
        match claimed.await {
            Ok(go) => {
                self.has_go = true;
                Ok(Ready::Go(go))
            }
            Err(error) => Err(self.failure("claim the go", error)),
        }
    }

    /// Has the run end, whose command was not begun.
    async fn cancel(&self, verdict: Verdict) -> Result<(), Failure> {
        let told = CloseGate::Cancel { is_terminated: verdict == Verdict::Terminated };
        let deadline = Instant::now() + self.lease;
        let done = until_answered(deadline, async || self.server.close(&self.run, &told).await).await;
        done.map(drop).map_err(|error| self.failure("cancel the run", error))
    }

    /// Says again and again that we are there, and returns when that was not heard for the length
    /// of the lease, or the daemon has given us up.
    pub async fn keep(&self, output: &Output) -> LostLease {
        let heard = watch::Sender::new(Instant::now());
        tokio::select! {
            lost = self.beat_on(&heard) => lost,
            () = self.tell_output(output, &heard) => unreachable!("output is told until this is dropped"),
        }
    }

    async fn beat_on(&self, heard: &watch::Sender<Instant>) -> LostLease {
        let pause = lease::beat_pause(self.lease);
        let mut next = Instant::now();
        loop {
            // The lease counts from when we said something that was heard: the daemon counts from then
            // on, or later.
            let over = *heard.borrow() + self.lease;
            if tokio::time::timeout_at(over, tokio::time::sleep_until(next)).await.is_err() {
                if Instant::now() >= *heard.borrow() + self.lease {
                    return LostLease::Unheard;
                }
                continue;
            }
            let said_at = Instant::now();
            let limit = over.min(said_at + pause.max(Duration::from_secs(1)));
            let beat = self.server.beat(&self.run, Some(&self.holder));
            match tokio::time::timeout_at(limit, beat).await {
                Ok(Ok(standing)) if standing.phase > Phase::Migrating => return LostLease::GivenUp,
                Ok(Ok(_)) => {
                    heard.send_replace(said_at);
                    next = said_at + pause;
                }
                Ok(Err(error)) if matches!(error.status(), Some(404 | 409)) => return LostLease::GivenUp,
                Ok(Err(_)) | Err(_) => next = Instant::now() + pause_before_next(pause / 4, None),
            }
        }
    }

    async fn tell_output(&self, output: &Output, heard: &watch::Sender<Instant>) {
        loop {
            let said_at = Instant::now();
            if let Ok(true) = self.tell_piece(output).await {
                heard.send_if_modified(|heard| {
                    let is_later = said_at > *heard;
                    *heard = (*heard).max(said_at);
                    is_later
                });
                continue;
            }
            tokio::time::sleep(OUTPUT_PAUSE).await;
        }
    }

    /// Tells a piece of output; returns whether there was one.
    async fn tell_piece(&self, output: &Output) -> Result<bool, RemoteError> {
        let Some((offset, piece)) = output.next_piece() else { return Ok(false) };
        let standing = self.server.output(&self.run, &self.holder, offset, piece).await?;
        output.note_known(standing.output_bytes);
        Ok(true)
    }

    /// Tells what is left of the output, and how the command ended.
    ///
    /// # Errors
    /// [`Failure`] when the daemon does not take it; it has then judged by what it sees, or will.
    pub async fn close(&self, output: &Output, exit: Exit) -> Result<GateStanding, Failure> {
        output.finish();
        let deadline = Instant::now() + self.lease + LAST_WORDS;
        let tell = async || {
            while self.tell_piece(output).await? {}
            Ok(())
        };
        // That some of it is missing is no reason to keep the end from the daemon.
        let _: Result<(), RemoteError> = until_answered(deadline, tell).await;
        let told = CloseGate::Exit { holder: self.holder.clone(), exit };
        let deadline = deadline.max(Instant::now() + LAST_WORDS);
        let closed = until_answered(deadline, async || self.server.close(&self.run, &told).await).await;
        closed.map_err(|error| self.failure("tell how the command ended", error))
    }

    /// Waits until the run is over, and reads everything that there is to tell of it.
    ///
    /// # Errors
    /// [`Failure`] with [`ExitCode::Unknown`] when the daemon is away for too long.
    pub async fn verdict(&mut self) -> Result<RunReport, Failure> {
        if !self.is_over {
            self.follow(Until::End).await?;
        }
        let deadline = Instant::now() + PATIENCE;
        let told = until_answered(deadline, async || self.server.told(&self.run).await).await;
        report_of(told.map_err(|error| self.failure("read the run", error))?)
    }

    /// Follows the events, and tells them; returns whether the run is over.
    async fn follow(&mut self, until: Until) -> Result<bool, Failure> {
        let mut heard_at = Instant::now();
        loop {
            let error = match self.server.events(&self.run, self.known).await {
                Ok(mut events) => loop {
                    let next = events.next().await;
                    match next {
                        Ok(Some(event)) => {
                            heard_at = Instant::now();
                            if let Some(is_over) = self.note(&event, until) {
                                return Ok(is_over);
                            }
                        }
                        Ok(None) => {
                            heard_at = Instant::now();
                            break None;
                        }
                        Err(error) => break Some(error),
                    }
                },
                Err(error) => Some(error),
            };
            match error {
                Some(error) if !error.is_passing() => return Err(self.failure("follow the run", error)),
                Some(error) if heard_at.elapsed() > PATIENCE.max(self.lease * 2) => {
                    return Err(self.failure("follow the run", error));
                }
                _ => tokio::time::sleep(pause_before_next(EVENTS_PAUSE, None)).await,
            }
        }
    }

    /// Takes an event; returns whether the run is over where following ends.
    fn note(&mut self, event: &Event, until: Until) -> Option<bool> {
        match event {
            Event::Phase { number, phase, .. } => {
                self.known = *number;
                if phase.is_terminal() {
                    self.is_over = true;
                    return Some(true);
                }
                self.tell_phase(*phase);
                None
            }
            Event::Go => (until == Until::Go).then_some(false),
            Event::Alive { doing, done_bytes, expected_bytes } => {
                if !self.is_quiet {
                    print_progress(&self.title, doing, (*done_bytes, *expected_bytes));
                }
                None
            }
        }
    }

    fn tell_phase(&self, phase: Phase) {
        if !self.is_quiet {
            print_notice(&format!("{}: {phase}", self.title));
        }
    }

    /// The failure of `action` while the run may go on without us.
    fn failure(&self, action: &str, error: RemoteError) -> Failure {
        let run = &self.run;
        let failure = Failure::of(format!("{action} of run {run}"))(error);
        let code = match failure.code {
            code @ (ExitCode::Usage | ExitCode::Refused | ExitCode::NotFound | ExitCode::Busy)
                if !self.has_go =>
            {
                code
            }
            _ => ExitCode::Unknown,
        };
        Failure { code, ..failure }
            .with_hint(format!("`belay runs show {run}` on the database host tells how it stands"))
    }
}

/// How far events are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until the command may begin, or the run is over.
    Go,
    /// Until the run is over.
    End,
}

/// Why the lease is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostLease {
    /// The daemon could not be reached for its length.
    Unheard,
    /// The daemon does not wait for us any more.
    GivenUp,
}

/// Waits for a stop, for ever if none comes.
pub async fn stopped(stop: &mut Stop) -> Verdict {
    match stop.wait_for(Option::is_some).await.map(|verdict| *verdict) {
        Ok(verdict) => verdict.unwrap_or(Verdict::Interrupted),
        Err(_) => std::future::pending().await,
    }
}

fn stopped_before(verdict: Verdict) -> Failure {
    let (code, word) = match verdict {
        Verdict::Terminated => (ExitCode::Terminated, "ended"),
        _ => (ExitCode::Interrupted, "interrupted"),
    };
    Failure::new("open the gate", code, format!("{word} before it was opened"))
}

/// The report of a run, from what the daemon told of it.
fn report_of(told: RunTold) -> Result<RunReport, Failure> {
    let unread = |error: serde_json::Error| {
        let failure = Failure::new("read the run", ExitCode::Unknown, error.to_string());
        failure.with_hint("the daemon is of another release than this program")
    };
    let entry = |phase: crate::rules::api::PhaseTold| JournalEntry {
        phase: phase.phase,
        began_at: phase.began_at,
        ended_at: phase.ended_at,
        outcome: phase.outcome,
    };
    Ok(RunReport {
        facts: serde_json::from_value(told.facts.clone()).map_err(unread)?,
        journal: told.journal.into_iter().map(entry).collect(),
        run: GateRun {
            id: told.run,
            databases: told.databases,
            command: told.command,
            started_at: told.started_at,
            process: ProcessMark::elsewhere(),
            position: Position { phase: told.phase, verdict: told.verdict },
            facts: told.facts.to_string(),
            output: told.output,
            ended_at: told.ended_at,
        },
    })
}
