//! The events of a run, read from its journal: what a client missed while it was away, it reads
//! later, also from a daemon that was started anew.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::time::Instant;

use super::office::Office;
use crate::ledger::LedgerError;
use crate::rules::api::Event;
use crate::rules::gate::Phase;

/// Between two looks into the journal.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// A client hears something at least so often.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What is yet to be told.
pub struct Events {
    office: Arc<Office>,
    run: String,
    /// The number of the last event that was told.
    told: u64,
    /// Whether the go was told since its phase began.
    is_go_told: bool,
    beats: u64,
    spoke_at: Instant,
    is_over: bool,
}

impl Events {
    /// The events after number `after`.
    pub fn new(office: Arc<Office>, run: String, after: u64) -> Self {
        let spoke_at = Instant::now();
        Self { office, run, told: after, is_go_told: false, beats: 0, spoke_at, is_over: false }
    }

    /// The next line; none when the last one was told, or nothing can be read any more.
    pub async fn next_line(&mut self) -> Option<Bytes> {
        while !self.is_over {
            match self.next_event().await {
                Ok(Some(event)) => return Some(self.line_of(&event)),
                Ok(None) if self.spoke_at.elapsed() >= KEEP_ALIVE => {
                    self.spoke_at = Instant::now();
                    return Some(self.sign_of_life());
                }
                Ok(None) => tokio::time::sleep(LOOK_PAUSE).await,
                Err(error) => {
                    tracing::error!(%error, "the ledger does not answer");
                    return None;
                }
            }
        }
        None
    }

    async fn next_event(&mut self) -> Result<Option<Event>, LedgerError> {
        let ledger = self.office.ledger();
        let journal = ledger.journal(&self.run).await?;
        let known = usize::try_from(self.told).unwrap_or(usize::MAX);
        if let Some(entry) = journal.get(known) {
            self.told += 1;
            self.is_go_told = false;
            self.is_over = entry.phase.is_terminal();
            let run = if self.is_over { ledger.run(&self.run).await? } else { None };
            let (number, phase, at) = (self.told, entry.phase, entry.began_at);
            return Ok(Some(Event::Phase {
                number,
                phase,
                at,
                verdict: run.and_then(|run| run.position.verdict),
            }));
        }
        let is_there = !journal.is_empty() || self.office.runners.of(&self.run).is_some();
        // Whoever asks for what comes after the end knows all.
        self.is_over = !is_there || journal.last().is_some_and(|entry| entry.phase.is_terminal());
        let is_migrating = journal.last().is_some_and(|entry| entry.phase == Phase::Migrating);
        if let (true, false, Some(runner)) =
            (is_migrating, self.is_go_told, self.office.runners.of(&self.run))
            && runner.is_ready().await
        {
            self.is_go_told = true;
            return Ok(Some(Event::Go));
        }
        Ok(None)
    }

    fn line_of(&mut self, event: &Event) -> Bytes {
        self.spoke_at = Instant::now();
        let text = serde_json::to_string(event).expect("an event is texts and numbers");
        Bytes::from(format!("{text}\n"))
    }

    /// How far the phase is, if something moved; else an empty line.
    fn sign_of_life(&mut self) -> Bytes {
        let Some(runner) = self.office.runners.of(&self.run) else { return Bytes::from_static(b"\n") };
        let beats = runner.progress.beats();
        if std::mem::replace(&mut self.beats, beats) == beats {
            return Bytes::from_static(b"\n");
        }
        let (done_bytes, expected_bytes) = runner.progress.bytes();
        let doing = runner.progress.phase().to_owned();
        self.line_of(&Event::Alive { doing, done_bytes, expected_bytes })
    }
}
