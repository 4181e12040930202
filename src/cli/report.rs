//! Results and errors as people and pipelines read them: text, JSON, exit codes. The only place
//! that prints.

use std::error::Error;
use std::io::Write as _;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use super::advice::advice;
use crate::rules::{causes, plain};

/// How a verb ended, as its exit status says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// `wal fetch`: there is no such file.
    NoFile = 1,
    /// Usage or settings.
    Usage = 2,
    /// Database, snapshot or run not found.
    NotFound = 3,
    /// A verification or a check found a problem.
    Problem = 4,
    /// Store, PostgreSQL or a program failed.
    Failed = 5,
    /// Refused before anything was touched.
    Refused = 10,
    /// No fresh verified snapshot could be had; the migration was not started.
    NoSnapshot = 11,
    /// Another run holds the lock.
    Busy = 12,
    /// Writers could not be kept out, and the fence is undone.
    FenceFailed = 13,
    /// The migration failed, and the database is proven unchanged.
    FailedUnchanged = 20,
    /// The migration failed, and the database was put back.
    Restored = 21,
    /// The migration failed, and putting the database back was refused; the run is held.
    RestoreRefused = 22,
    /// The migration failed, and so did the restore; the run is held.
    RestoreFailed = 23,
    /// The command said success, and it was none.
    FalseSuccess = 24,
    /// Checks failed, and the database was put back.
    ChecksFailed = 25,
    /// The command said failure, and the migration is applied.
    AppliedWithError = 26,
    /// What happened cannot be told.
    Unknown = 30,
    /// Interrupted (SIGINT) at a safe place.
    Interrupted = 130,
    /// Ended (SIGTERM) at a safe place.
    Terminated = 143,
    /// `wal fetch`: the file cannot be had, and recovery must not take that for the end of the log.
    StopRecovery = 200,
}

impl ExitCode {
    /// Every code, in order.
    pub const ALL: [Self; 21] = [
        Self::Done,
        Self::NoFile,
        Self::Usage,
        Self::NotFound,
        Self::Problem,
        Self::Failed,
        Self::Refused,
        Self::NoSnapshot,
        Self::Busy,
        Self::FenceFailed,
        Self::FailedUnchanged,
        Self::Restored,
        Self::RestoreRefused,
        Self::RestoreFailed,
        Self::FalseSuccess,
        Self::ChecksFailed,
        Self::AppliedWithError,
        Self::Unknown,
        Self::Interrupted,
        Self::Terminated,
        Self::StopRecovery,
    ];

    /// What it says to whoever called, in words.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NoFile => "wal fetch: there is no such file",
            Self::Usage => "usage or settings: fix them",
            Self::NotFound => "not found: database, snapshot or run",
            Self::Problem => "a verification, a check or a drill found a problem",
            Self::Failed => "the store, PostgreSQL or a program failed",
            Self::Refused => "refused before anything was touched",
            Self::NoSnapshot => "no fresh verified snapshot could be had; the migration was not started",
            Self::Busy => "another run holds the lock: try again",
            Self::FenceFailed => "writers could not be kept out; the fence is undone",
            Self::FailedUnchanged => "the migration failed; the database is proven unchanged",
            Self::Restored => "the migration failed; the database was put back, nothing is lost",
            Self::RestoreRefused => "the migration failed; a restore would lose something: held",
            Self::RestoreFailed => "the migration failed, and so did the restore: held",
            Self::FalseSuccess => "the command said success, and nothing was migrated",
            Self::ChecksFailed => "checks failed; the database was put back",
            Self::AppliedWithError => "the command said failure, and the migration is applied",
            Self::Unknown => "what happened cannot be told, or a fence stays up: held, or to be gone on with",
            Self::Interrupted => "interrupted, at a safe place",
            Self::Terminated => "ended by SIGTERM, at a safe place",
            Self::StopRecovery => "wal fetch: the file cannot be had, and recovery must not go on without",
        }
    }
}

/// The exit codes as `belay --help` ends with them.
pub fn exit_codes_text() -> String {
    let mut text = String::from("Exit codes:");
    for code in ExitCode::ALL {
        text.push_str(&format!("\n  {:>3}  {}", code as u8, code.meaning()));
    }
    text
}

/// What a verb has to say when it has done its work.
#[derive(Debug)]
pub struct Report {
    /// Lines for people.
    pub text: String,
    /// The object for machines.
    pub json: Value,
    /// How it ended.
    pub code: ExitCode,
}

impl Report {
    /// A report of `verb`; `body` becomes a JSON object with its schema's name in front.
    pub fn new(verb: &str, text: impl Into<String>, body: &impl Serialize) -> Self {
        let mut object = Map::new();
        object.insert("schema".into(), format!("belay.{verb}.v1").into());
        match serde_json::to_value(body) {
            Ok(Value::Object(fields)) => object.extend(fields),
            Ok(other) => {
                object.insert("value".into(), other);
            }
            Err(error) => {
                object.insert("error".into(), error.to_string().into());
            }
        }
        Self { text: text.into(), json: Value::Object(object), code: ExitCode::Done }
    }

    /// The same report with another exit code.
    #[must_use]
    pub fn ending(mut self, code: ExitCode) -> Self {
        self.code = code;
        self
    }
}

/// A verb that did not do its work.
#[derive(Debug)]
pub struct Failure {
    /// What was being done: `snapshot app`.
    pub action: String,
    /// Why it was not done.
    pub error: Box<dyn Error + Send + Sync>,
    /// What to do about it.
    pub hint: Option<String>,
    /// How it ended.
    pub code: ExitCode,
}

impl Failure {
    /// A failure that only its words explain.
    pub fn new(action: impl Into<String>, code: ExitCode, message: impl Into<String>) -> Self {
        Self { action: action.into(), error: message.into().into(), hint: None, code }
    }

    /// The failure of `action`, with the code and the hint that go with its error.
    pub fn of<E>(action: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Error + Send + Sync + 'static,
    {
        let action = action.into();
        move |error| {
            let (code, hint) = advice(&error);
            Self { action, error: Box::new(error), hint, code }
        }
    }

    /// The same failure with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The error and its causes in one line, each said once.
    pub fn chain(&self) -> String {
        causes::each_said_once(self.error.as_ref())
    }
}

/// Prints a report: its JSON or its text, on standard output; returns the code to end with.
pub fn print_report(report: &Report, as_json: bool) -> ExitCode {
    let text = if as_json { format!("{}\n", report.json) } else { report.text.clone() };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // A reader that went away (`| head`) is no reason to fail; a full disk is.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            print_notice(&format!("write the report: {error}"));
            ExitCode::Failed
        }
        _ => report.code,
    }
}

/// Prints a failure on standard error, and as JSON on standard output if that is asked for.
pub fn print_failure(failure: &Failure, as_json: bool) {
    let mut text = format!("belay: {}: {}\n", plain::lines(&failure.action), plain::lines(&failure.chain()));
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {}\n", plain::lines(hint)));
    }
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    if as_json {
        let object = serde_json::json!({
            "schema": "belay.error.v1",
            "action": failure.action,
            "error": failure.chain(),
            "hint": failure.hint,
            "exit_code": failure.code as i32,
        });
        let _ = std::io::stdout().lock().write_all(format!("{object}\n").as_bytes());
    }
}

/// Prints a line on standard error that is no failure.
pub fn print_notice(text: &str) {
    let _ = std::io::stderr().lock().write_all(format!("belay: {}\n", plain::lines(text)).as_bytes());
}

/// A duration as people read it: `820 ms`, `12.3 s`, `4 min 5 s`.
pub fn duration_text(elapsed_ms: u64) -> String {
    match elapsed_ms {
        0..1_000 => format!("{elapsed_ms} ms"),
        1_000..60_000 => format!("{}.{} s", elapsed_ms / 1_000, elapsed_ms % 1_000 / 100),
        _ => format!("{} min {} s", elapsed_ms / 60_000, elapsed_ms % 60_000 / 1_000),
    }
}

/// An age in its largest unit, as a table has room for it: `42 s`, `7 min`, `5 h`, `12 d`.
///
/// What lies ahead has a minus.
pub fn age_text(age: TimeDelta) -> String {
    let seconds = age.num_seconds();
    match seconds.unsigned_abs() {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

const SECOND: &str = "%Y-%m-%d %H:%M:%SZ";

/// A moment to the minute, in UTC: `2026-11-23 14:03Z`.
pub fn time_text(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%MZ").to_string()
}

/// The first moment that can be had, to the second, in UTC, and not before it: `2026-11-23 14:03:08Z`.
pub fn first_moment_text(time: DateTime<Utc>) -> String {
    first_second(time).format(SECOND).to_string()
}

/// The last moment that can be had, to the second, in UTC, and not after it: `2026-11-23 14:03:08Z`.
pub fn last_moment_text(time: DateTime<Utc>) -> String {
    time.format(SECOND).to_string()
}

/// The first and the last of moments that can be had; without a whole second in between, as they are.
pub fn moments_text(from: DateTime<Utc>, until: DateTime<Utc>) -> (String, String) {
    if first_second(from) > until {
        let exact = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S%.fZ").to_string();
        return (exact(from), exact(until));
    }
    (first_moment_text(from), last_moment_text(until))
}

fn first_second(time: DateTime<Utc>) -> DateTime<Utc> {
    let second = time.trunc_subsecs(0);
    if second < time { second + TimeDelta::seconds(1) } else { second }
}

/// A size as people read it: `12.3 MiB`.
pub fn bytes_text(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_said_in_its_largest_unit() {
        let said =
            [0, 119, 120, 7_199, 7_200, 172_799, 172_800, -90_000].map(|s| age_text(TimeDelta::seconds(s)));
        assert_eq!(said, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d", "-25 h"]);
    }

    #[test]
    fn both_ends_of_moments_can_be_asked_for() {
        let at = |ms: i64| DateTime::from_timestamp_millis(1_795_000_000_000 + ms).unwrap();
        let told = |from, until| moments_text(at(from), at(until));
        let text = |second: &str| format!("2026-11-18 {second}Z");
        assert_eq!(told(0, 9_999), (text("11:06:40"), text("11:06:49")));
        assert_eq!(told(1, 9_999), (text("11:06:41"), text("11:06:49")));
        assert_eq!(told(250, 750), (text("11:06:40.250"), text("11:06:40.750")));
    }
}
