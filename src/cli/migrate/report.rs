//! One run, told: on one screen, and as JSON. The same for a run that just ended and for one of a
//! month ago.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::gate::facts_of;
use crate::cli::report::{ExitCode, Failure, Report, duration_text, time_text};
use crate::jobs::migrate::facts::Facts;
use crate::ledger::{GateRun, JournalEntry, Ledger};
use crate::rules::gate::{Phase, Verdict};

/// How many changes of the schema are told on the screen; JSON has all.
const CHANGES_TOLD: usize = 12;

/// Everything there is to tell of a run.
pub struct RunReport {
    /// The run.
    pub run: GateRun,
    /// What it went through.
    pub journal: Vec<JournalEntry>,
    /// What is known of it.
    pub facts: Facts,
}

impl RunReport {
    /// Reads a run from the ledger.
    ///
    /// # Errors
    /// [`Failure`] with [`ExitCode::NotFound`] when there is none of that name.
    pub async fn read(ledger: &Ledger, id: &str) -> Result<Self, Failure> {
        let failed = || Failure::of("read the run");
        let run = ledger.run(id).await.map_err(failed())?;
        let none = || {
            Failure::new("find the run", ExitCode::NotFound, format!("there is no run {id}"))
                .with_hint("`belay runs list` shows what there is")
        };
        let run = run.ok_or_else(none)?;
        let journal = ledger.journal(id).await.map_err(failed())?;
        let facts = facts_of(&run);
        Ok(Self { run, journal, facts })
    }

    /// How the run ended, or stands.
    pub fn verdict(&self) -> Option<Verdict> {
        self.run.position.verdict
    }

    /// What the run says to a pipeline; one that is held never says that all is well.
    pub fn code(&self) -> ExitCode {
        match self.verdict().map(code_of) {
            Some(ExitCode::Done) if self.run.position.phase == Phase::Held => ExitCode::Unknown,
            Some(code) => code,
            None => ExitCode::Unknown,
        }
    }

    /// Phases with how long each took, in milliseconds; a phase that was repeated stands twice.
    pub fn phases(&self) -> Vec<(Phase, u64)> {
        let elapsed = |entry: &JournalEntry| {
            let ended_at = entry.ended_at?;
            u64::try_from((ended_at - entry.began_at).num_milliseconds()).ok()
        };
        self.journal.iter().filter_map(|entry| Some((entry.phase, elapsed(entry)?))).collect()
    }

    /// Whether the run put the database back.
    pub fn is_restored(&self) -> bool {
        self.facts.kept_as.is_some()
    }

    /// What happened, in a sentence.
    pub fn sentence(&self) -> String {
        match (self.verdict(), self.run.position.phase) {
            (Some(verdict), Phase::Held) => format!("{}; held", verdict.sentence()),
            (Some(verdict), _) => verdict.sentence().into(),
            (None, phase) => format!("it is in phase {phase}"),
        }
    }

    /// The report of `verb`; its exit code is the run's.
    pub fn report(&self, verb: &str) -> Report {
        let code = self.code();
        Report::new(verb, self.text(), &self.json()).ending(code)
    }

    /// The run as an object.
    pub fn json(&self) -> Value {
        let facts = &self.facts;
        let phases: Vec<Value> = self
            .phases()
            .into_iter()
            .map(|(phase, elapsed_ms)| json!({ "phase": phase.as_str(), "elapsed_ms": elapsed_ms }))
            .collect();
        json!({
            "run": self.run.id, "database": self.run.database, "command": self.run.command,
            "started_at": self.run.started_at, "ended_at": self.run.ended_at,
            "phase": self.run.position.phase.as_str(),
            "held": self.run.position.phase == Phase::Held,
            "outcome": self.verdict().map(Verdict::as_str),
            "exit_code": self.verdict().map(|_| self.code() as i32),
            "class": facts.classified.as_ref().map(|classified| classified.class.as_str()),
            "snapshot": facts.snapshot.as_ref().map(|snapshot| snapshot.id.as_str()),
            "revision_before": facts.armed.as_ref().map(|armed| &armed.before.revisions),
            "revision_expected": facts.expected,
            "revision_after": facts.after.as_ref().map(|after| &after.revisions),
            "pending": facts.pending, "restored": self.is_restored(), "kept_as": facts.kept_as,
            "rehearsal": facts.rehearsed, "command_ms": facts.command_ms, "phases": phases,
            "reasons": facts.reasons, "checks": facts.checks, "changes": facts.changes, "notes": facts.notes,
            "declared_down": facts.declared_down, "foreign": facts.foreign, "foreign_sessions": facts.foreign_sessions,
        })
    }

    /// The run on one screen.
    pub fn text(&self) -> String {
        let facts = &self.facts;
        let mut text = format!("run {}  {}: {}\n", self.run.id, self.run.database, self.sentence());
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<10} {value}");
        };
        line("command", &self.run.command.join(" "));
        line("began", &time_text(self.run.started_at));
        if let Some(armed) = &facts.armed {
            let after = facts.after.as_ref().map_or_else(|| "?".into(), |after| words(&after.revisions));
            line("revision", &format!("{} -> {after}", words(&armed.before.revisions)));
        }
        if let Some(snapshot) = &facts.snapshot {
            let took = snapshot.restore_ms.map(|ms| format!(", its restore took {}", duration_text(ms)));
            let origin = if snapshot.is_reused { ", taken before" } else { "" };
            line("snapshot", &format!("{}{origin}{}", snapshot.id, took.unwrap_or_default()));
        }
        if let Some(classified) = &facts.classified {
            line("class", classified.class.as_str());
        }
        if let Some(kept_as) = &facts.kept_as {
            line("kept as", kept_as);
        }
        // A rehearsal that nobody asked for is no phase to tell of.
        let was_there = |phase: &Phase| *phase != Phase::Rehearsing || facts.rehearsed.is_some();
        let phases = self.phases().into_iter().filter(|(phase, _)| was_there(phase)).collect::<Vec<_>>();
        let told: Vec<_> =
            phases.iter().map(|(phase, ms)| format!("{phase} {}", duration_text(*ms))).collect();
        line("phases", &told.join(", "));
        self.rehearsal_lines(&mut line);
        let lists = [("why", &facts.reasons), ("note", &facts.notes), ("taken down", &facts.declared_down)];
        for (name, sentences) in lists {
            sentences.iter().for_each(|sentence| line(name, sentence));
        }
        facts.changes.iter().take(CHANGES_TOLD).for_each(|change| line("change", change));
        if facts.changes.len() > CHANGES_TOLD {
            line("change", &format!("and {} more (--json)", facts.changes.len() - CHANGES_TOLD));
        }
        for check in &facts.checks {
            let verdict = if check.is_ok { "ok" } else { "FAILED" };
            line(
                "check",
                &format!("{} {verdict}: {} was expected, {}", check.name, check.expected, check.after),
            );
        }
        if let Some(next) = self.next_step() {
            line("next", &next);
        }
        text
    }

    fn rehearsal_lines(&self, line: &mut impl FnMut(&str, &str)) {
        let Some(rehearsal) = &self.facts.rehearsed else { return };
        for (name, exit, elapsed_ms) in &rehearsal.steps {
            line("rehearsal", &format!("{name}: {exit}, in {}", duration_text(*elapsed_ms)));
        }
        rehearsal.locks.iter().for_each(|lock| line("lock", lock));
    }

    fn next_step(&self) -> Option<String> {
        let is_good = self.verdict().map(code_of) == Some(ExitCode::Done);
        if self.run.position.phase == Phase::Held {
            let restore = if is_good { "" } else { " --restore, or" };
            return Some(format!("belay runs resolve {}{restore} --keep", self.run.id));
        }
        let kept_as = self.facts.kept_as.as_ref()?;
        Some(format!("look at {kept_as}; `belay retain` drops it when its time is over"))
    }
}

fn words(revisions: &[String]) -> String {
    if revisions.is_empty() { "none".into() } else { revisions.join(", ") }
}

/// What a verdict says to a pipeline.
pub fn code_of(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Migrated
        | Verdict::NothingPending
        | Verdict::Rehearsed
        | Verdict::RestoredByOperator
        | Verdict::KeptByOperator => ExitCode::Done,
        Verdict::Refused => ExitCode::Refused,
        Verdict::NoSnapshot => ExitCode::NoSnapshot,
        Verdict::Busy => ExitCode::Busy,
        Verdict::FenceFailed => ExitCode::FenceFailed,
        Verdict::RehearsalFailed | Verdict::FailedUnchanged => ExitCode::FailedUnchanged,
        Verdict::Restored => ExitCode::Restored,
        Verdict::RestoreRefused => ExitCode::RestoreRefused,
        Verdict::RestoreFailed => ExitCode::RestoreFailed,
        Verdict::FalseSuccess => ExitCode::FalseSuccess,
        Verdict::ChecksFailed => ExitCode::ChecksFailed,
        Verdict::AppliedWithError => ExitCode::AppliedWithError,
        Verdict::Unknown => ExitCode::Unknown,
        Verdict::Interrupted => ExitCode::Interrupted,
        Verdict::Terminated | Verdict::Abandoned => ExitCode::Terminated,
    }
}
