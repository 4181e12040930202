//! One run, told: on one screen, and as JSON. The same for a run that just ended and for one of a
//! month ago.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::cli::gate::facts_of;
use crate::cli::report::{ExitCode, Failure, Report, duration_text, time_text};
use crate::jobs::migrate::facts::{DatabaseFacts, Facts};
use crate::ledger::{GateRun, JournalEntry, Ledger};
use crate::rules::classify::Class;
use crate::rules::gate::{Phase, Verdict};
use crate::rules::plain;

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

    /// As [`Position::ended`](crate::rules::gate::Position::ended).
    pub fn verdict(&self) -> Option<Verdict> {
        self.run.position.ended()
    }

    /// What the run says to a pipeline: one that is held always that somebody has to decide.
    pub fn code(&self) -> ExitCode {
        let is_held = self.run.position.phase == Phase::Held;
        match self.verdict().map(code_of) {
            Some(code @ (ExitCode::RestoreRefused | ExitCode::RestoreFailed)) => code,
            Some(code) if !is_held => code,
            _ => ExitCode::Unknown,
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

    /// Whether the run put a database back.
    pub fn is_restored(&self) -> bool {
        self.facts.databases.iter().any(|of| of.kept_as.is_some())
    }

    /// What is known of the database that was named first.
    pub fn first(&self) -> &DatabaseFacts {
        static NOTHING: LazyLock<DatabaseFacts> = LazyLock::new(DatabaseFacts::default);
        self.facts.databases.first().unwrap_or(&NOTHING)
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

    /// The run as an object. What is of one database only is of the first, outside of `databases`.
    pub fn json(&self) -> Value {
        let (facts, first) = (&self.facts.run, self.first());
        let phases: Vec<Value> = self
            .phases()
            .into_iter()
            .map(|(phase, elapsed_ms)| json!({ "phase": phase.as_str(), "elapsed_ms": elapsed_ms }))
            .collect();
        let of_each = self.run.databases.iter().zip(self.facts.databases.iter());
        let databases: Vec<Value> = of_each.map(|(name, of)| object_of(name, of)).collect();
        let mut object = json!({
            "run": self.run.id, "command": self.run.command,
            "started_at": self.run.started_at, "ended_at": self.run.ended_at,
            "phase": self.run.position.phase.as_str(),
            "held": self.run.position.phase == Phase::Held,
            "outcome": self.verdict().map(Verdict::as_str),
            "exit_code": self.verdict().map(|_| self.code() as i32),
            "rehearsal": self.rehearsal(), "command_ms": facts.command_ms, "phases": phases,
            "reasons": facts.reasons, "checks": facts.checks, "notes": facts.notes,
            "restore_point": facts.restore_point, "restored_from": facts.origin,
            "declared_down": facts.declared_down, "foreign_sessions": facts.foreign_sessions, "databases": databases,
        });
        let of_first = object_of(self.run.databases.first().map_or("", String::as_str), first);
        if let (Some(object), Value::Object(of_first)) = (object.as_object_mut(), of_first) {
            object.extend(of_first);
            object.insert("class".into(), facts.class.map(Class::as_str).into());
            object.insert("restored".into(), self.is_restored().into());
        }
        object
    }

    fn rehearsal(&self) -> Option<Value> {
        let (steps, reached) = (self.facts.run.rehearsed.as_ref()?, self.first().rehearsed.clone());
        let reached = reached.unwrap_or_default();
        Some(json!({
            "steps": steps.steps, "locks": steps.locks,
            "revisions": reached.revisions, "schema_bag": reached.schema_bag,
        }))
    }

    /// The run on one screen.
    pub fn text(&self) -> String {
        let facts = &self.facts.run;
        let (run, databases) = (plain::line(&self.run.id), plain::line(&self.run.named_databases()));
        let mut text = format!("run {run}  {databases}: {}\n", self.sentence());
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<10} {}", plain::line(value));
        };
        line("command", &self.run.command.join(" "));
        line("began", &time_text(self.run.started_at));
        for of in &self.facts.databases {
            self.lines_of(of, &mut line);
        }
        if let Some(point) = &facts.restore_point {
            line("point", &point.name);
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
        for of in &self.facts.databases {
            self.change_lines(of, &mut line);
        }
        self.check_lines(&mut line);
        if let Some(next) = self.next_step() {
            line("next", &next);
        }
        text
    }

    /// What became of one database; where there are several, under its name.
    fn lines_of(&self, of: &DatabaseFacts, line: &mut impl FnMut(&str, &str)) {
        if self.has_several() {
            line("database", &of.section);
        }
        if let Some(armed) = &of.armed {
            let after = of.after.as_ref().map_or_else(|| "?".into(), |after| words(&after.revisions));
            line("revision", &format!("{} -> {after}", words(&armed.before.revisions)));
        }
        if let Some(snapshot) = &of.snapshot {
            let took = snapshot.restore_ms.map(|ms| format!(", its restore took {}", duration_text(ms)));
            let origin = if snapshot.is_reused { ", taken before" } else { "" };
            line("snapshot", &format!("{}{origin}{}", snapshot.id, took.unwrap_or_default()));
        }
        if let Some(classified) = &of.classified {
            line("class", classified.class.as_str());
        }
        if let Some(kept_as) = &of.kept_as {
            line("kept as", kept_as);
        }
    }

    fn has_several(&self) -> bool {
        self.facts.databases.len() > 1
    }

    /// Each database of a run that has several.
    pub fn of_each(&self) -> Vec<OfDatabase> {
        let is_good = self.verdict().map(code_of) == Some(ExitCode::Done);
        let all = self.facts.databases.iter().filter(|_| self.has_several());
        let is_well = |of: &DatabaseFacts| {
            is_good || of.kept_as.is_none() && of.classified.as_ref().is_some_and(|it| it.is_at_goal)
        };
        all.map(|of| OfDatabase { section: of.section.clone(), line: line_of(of), is_well: is_well(of) })
            .collect()
    }

    fn change_lines(&self, of: &DatabaseFacts, line: &mut impl FnMut(&str, &str)) {
        let name = if self.has_several() { format!("{}: ", of.section) } else { String::new() };
        of.changes.iter().take(CHANGES_TOLD).for_each(|change| line("change", &format!("{name}{change}")));
        if of.changes.len() > CHANGES_TOLD {
            line("change", &format!("{name}and {} more (--json)", of.changes.len() - CHANGES_TOLD));
        }
    }

    fn check_lines(&self, line: &mut impl FnMut(&str, &str)) {
        for check in &self.facts.run.checks {
            let verdict = if check.is_ok { "ok" } else { "FAILED" };
            let of = check.database.iter().map(|of| format!(" of {of}")).collect::<String>();
            let (name, expected, after) = (&check.name, &check.expected, &check.after);
            line("check", &format!("{name}{of} {verdict}: {expected} was expected, {after}"));
        }
    }

    fn rehearsal_lines(&self, line: &mut impl FnMut(&str, &str)) {
        let Some(rehearsal) = &self.facts.run.rehearsed else { return };
        for (name, exit, elapsed_ms) in &rehearsal.steps {
            line("rehearsal", &format!("{name}: {exit}, in {}", duration_text(*elapsed_ms)));
        }
        rehearsal.locks.iter().for_each(|lock| line("lock", lock));
    }

    fn next_step(&self) -> Option<String> {
        if self.run.position.phase == Phase::Held {
            let decided = self.run.position.verdict.is_some_and(|verdict| !verdict.is_undecided());
            let restore = if decided { "" } else { " --restore, or" };
            return Some(format!("belay runs resolve {}{restore} --keep", self.run.id));
        }
        if self.run.ended_at.is_none() && !self.run.process.is_alive() {
            let next =
                "the process of the run died; `belay snapshot`, `migrate`, or the service goes on with it";
            return Some(next.into());
        }
        let kept: Vec<&str> = self.facts.databases.iter().filter_map(|of| of.kept_as.as_deref()).collect();
        match kept.as_slice() {
            [] => None,
            [kept_as] => Some(format!("look at {kept_as}; `belay retain` drops it when its time is over")),
            several => Some(format!(
                "look at {}; `belay retain` drops them when their time is over",
                several.join(", ")
            )),
        }
    }
}

/// What became of one database among several.
pub struct OfDatabase {
    /// Its section.
    pub section: String,
    /// What became of it, in a line.
    pub line: String,
    /// Whether it is where the run was to bring it.
    pub is_well: bool,
}

/// What became of one database, in a line.
fn line_of(of: &DatabaseFacts) -> String {
    let mut facts: Vec<String> = of.classified.iter().map(|it| it.class.to_string()).collect();
    if let Some(armed) = &of.armed {
        let after = of.after.as_ref().map_or_else(|| "?".into(), |after| words(&after.revisions));
        facts.push(format!("{} -> {after}", words(&armed.before.revisions)));
    }
    facts.extend(of.kept_as.iter().map(|kept_as| format!("put back, kept as {kept_as}")));
    if facts.is_empty() { "not touched".into() } else { facts.join(", ") }
}

/// What became of one database.
fn object_of(name: &str, of: &DatabaseFacts) -> Value {
    json!({
        "database": name,
        "class": of.classified.as_ref().map(|classified| classified.class.as_str()),
        "snapshot": of.snapshot.as_ref().map(|snapshot| snapshot.id.as_str()),
        "revision_before": of.armed.as_ref().map(|armed| &armed.before.revisions),
        "revision_expected": of.expected,
        "revision_after": of.after.as_ref().map(|after| &after.revisions),
        "pending": of.pending, "restored": of.kept_as.is_some(), "kept_as": of.kept_as,
        "changes": of.changes, "foreign": of.foreign,
    })
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
