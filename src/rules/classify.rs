//! Decides what a migration did: evidence in, a class with its reasons out.
//!
//! A command's exit status is one witness among several, and no reliable one: it may say success
//! where nothing was committed, and failure where everything was. What counts are the revisions,
//! the schema, and what was committed. Where one of them cannot be known, the class is
//! [`Class::Unknown`], never [`Class::Unchanged`].

pub mod combine;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::gate::{Decision, Verdict};

/// How the command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// A signal ended it.
    Signal(i32),
    /// It ran longer than it may, and was ended.
    TimedOut,
    /// Belay was told to stop, and ended it.
    Stopped,
    /// Belay died while it ran.
    Unseen,
    /// It ran on another machine, which was not heard of for the length of its lease.
    Lost,
    /// It was to run on another machine, which never took the go.
    Unclaimed,
}

impl Exit {
    /// Whether the command itself says success.
    pub fn is_success(&self) -> bool {
        *self == Self::Status(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the command exited with status {status}"),
            Self::Signal(signal) => write!(f, "the command was ended by signal {signal}"),
            Self::TimedOut => f.write_str("the command ran longer than it may, and was ended"),
            Self::Stopped => f.write_str("belay was told to stop, and ended the command"),
            Self::Unseen => f.write_str("belay died while the command ran"),
            Self::Lost => f.write_str("the runner of the command was lost"),
            Self::Unclaimed => f.write_str("no runner took the command up"),
        }
    }
}

/// Whether two states of the schema are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schema {
    /// The schema is that of before.
    Same,
    /// It is another one.
    Changed,
}

/// What the run committed to this database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// Nothing.
    None,
    /// Only rows of the version table.
    VersionOnly,
    /// This, in words.
    Some(String),
    /// It cannot be known, and why.
    Unknown(String),
}

/// Which revisions the command is to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// These, sorted.
    Revisions(Vec<String>),
    /// It cannot be known beforehand, and why.
    Unknown(String),
}

/// What the pending revisions say that they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// They may change something, or it is not known which are pending.
    Something,
    /// There are some, and each plainly does nothing, as a merge does.
    Nothing,
}

/// What a rehearsal of the same command says of the schema that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rehearsed {
    /// There was none.
    Not,
    /// The rehearsal reached the same schema.
    Same,
    /// The rehearsal reached another schema.
    Differs,
}

/// What is known of a run once it is settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// How the command ended.
    pub exit: Exit,
    /// Revisions before, sorted.
    pub revisions_before: Vec<String>,
    /// Revisions now, sorted.
    pub revisions_after: Vec<String>,
    /// Revisions that the command is to reach.
    pub expected: Expected,
    /// What the pending revisions say that they do.
    pub asked: Asked,
    /// The schema now against the schema before.
    pub schema: Schema,
    /// The schema now against that of the rehearsal.
    pub rehearsed: Rehearsed,
    /// What the run committed.
    pub writes: Writes,
}

impl Evidence {
    fn has_same_revisions(&self) -> bool {
        self.revisions_before == self.revisions_after
    }

    fn is_as_expected(&self) -> bool {
        matches!(&self.expected, Expected::Revisions(expected) if *expected == self.revisions_after)
    }

    /// Whether the command is known to have had something to do; `None` where that is not known.
    fn had_pending(&self) -> Option<bool> {
        match &self.expected {
            Expected::Revisions(expected) => Some(*expected != self.revisions_before),
            Expected::Unknown(_) => None,
        }
    }

    /// Whether everything is as it was; `None` where that is not known.
    fn is_unchanged(&self) -> Option<bool> {
        if !self.has_same_revisions() || self.schema == Schema::Changed {
            return Some(false);
        }
        match self.writes {
            Writes::None => Some(true),
            Writes::VersionOnly | Writes::Some(_) => Some(false),
            Writes::Unknown(_) => None,
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It failed, and everything is as it was.
    Unchanged,
    /// It failed, or stopped on its way, and left something behind.
    Partial,
    /// It says failure, and reached what it was to reach.
    AppliedWithError,
    /// It reached what it was to reach.
    Success,
    /// It says success, and did nothing of what was pending.
    FalseSuccess,
    /// Only the version moved.
    Stamped,
    /// Nothing was pending, and nothing was done.
    NothingPending,
    /// It cannot be told.
    Unknown,
}

impl Class {
    /// The class as reports have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Partial => "partial",
            Self::AppliedWithError => "applied_with_error",
            Self::Success => "success",
            Self::FalseSuccess => "false_success",
            Self::Stamped => "stamped",
            Self::NothingPending => "nothing_pending",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a database is another one than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Everything is as it was.
    None,
    /// Something was changed.
    Some,
    /// It cannot be told.
    Unknown,
}

/// A class, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classified {
    /// The class.
    pub class: Class,
    /// Whether the database is another one than before.
    pub change: Change,
    /// Whether it is where the run was to bring it, as far as that is known.
    pub is_at_goal: bool,
    /// Each reason as a sentence, the decisive one last.
    pub reasons: Vec<String>,
}

/// Says what a run did.
pub fn classify(evidence: &Evidence) -> Classified {
    let (class, decisive) =
        if evidence.exit.is_success() { of_success(evidence) } else { of_failure(evidence) };
    let mut reasons = facts(evidence);
    reasons.push(decisive);
    let change = match evidence.is_unchanged() {
        Some(true) => Change::None,
        Some(false) => Change::Some,
        None => Change::Unknown,
    };
    let is_at_goal = match class {
        Class::AppliedWithError | Class::Success | Class::Stamped | Class::NothingPending => true,
        Class::Unchanged => evidence.had_pending() == Some(false),
        Class::Partial | Class::FalseSuccess | Class::Unknown => false,
    };
    Classified { class, change, is_at_goal, reasons }
}

fn of_failure(evidence: &Evidence) -> (Class, String) {
    if evidence.is_as_expected() && evidence.had_pending() == Some(true) {
        return match evidence.rehearsed {
            Rehearsed::Differs => {
                (Class::Partial, "the revision is the expected one, the schema is not the rehearsal's".into())
            }
            Rehearsed::Same | Rehearsed::Not => {
                (Class::AppliedWithError, "all that was pending is applied, though the command failed".into())
            }
        };
    }
    match evidence.is_unchanged() {
        Some(true) => (Class::Unchanged, "revision, schema and rows are what they were".into()),
        Some(false) => (Class::Partial, "the command failed after it had changed something".into()),
        None => (Class::Unknown, "whether something was committed cannot be known".into()),
    }
}

fn of_success(evidence: &Evidence) -> (Class, String) {
    if evidence.is_unchanged() == Some(true) {
        return match evidence.had_pending() {
            Some(true) => (
                Class::FalseSuccess,
                "something was pending, the command says success, and nothing was committed".into(),
            ),
            Some(false) => (Class::NothingPending, "nothing was pending".into()),
            None => (Class::NothingPending, "nothing was committed".into()),
        };
    }
    if !evidence.is_as_expected() && matches!(evidence.expected, Expected::Revisions(_)) {
        return match evidence.is_unchanged() {
            None => (
                Class::Unknown,
                "the revision is not the expected one, and whether something was committed cannot be known"
                    .into(),
            ),
            _ => (
                Class::Partial,
                "the command says success, but the revision is not the expected one and something changed"
                    .into(),
            ),
        };
    }
    if evidence.rehearsed == Rehearsed::Differs {
        return (Class::Partial, "the schema is not the one that the rehearsal reached".into());
    }
    if evidence.schema == Schema::Same && evidence.writes == Writes::VersionOnly {
        if evidence.asked == Asked::Nothing && evidence.is_as_expected() {
            return (Class::Success, "the revision moved, and no pending revision was to do more".into());
        }
        return (Class::Stamped, "the revision moved, and nothing else was changed".into());
    }
    match evidence.is_unchanged() {
        None if evidence.had_pending() == Some(false) => {
            (Class::NothingPending, "nothing was pending; whether rows were written cannot be known".into())
        }
        _ => (Class::Success, "the command did what it was to do".into()),
    }
}

fn facts(evidence: &Evidence) -> Vec<String> {
    let mut facts = vec![evidence.exit.to_string()];
    facts.push(match evidence.has_same_revisions() {
        true => format!("the revision is still {}", in_words(&evidence.revisions_after)),
        false => format!(
            "the revision was {} and is {}",
            in_words(&evidence.revisions_before),
            in_words(&evidence.revisions_after)
        ),
    });
    match &evidence.expected {
        Expected::Revisions(expected) if !evidence.is_as_expected() => {
            facts.push(format!("{} was to be reached", in_words(expected)));
        }
        Expected::Revisions(_) => {}
        Expected::Unknown(why) => facts.push(format!("which revision is to be reached is not known: {why}")),
    }
    facts.push(
        match evidence.schema {
            Schema::Same => "the schema is what it was",
            Schema::Changed => "the schema changed",
        }
        .into(),
    );
    facts.push(match &evidence.writes {
        Writes::None => "the run committed nothing".into(),
        Writes::VersionOnly => "the run committed rows of the version table only".into(),
        Writes::Some(what) => format!("the run committed {what}"),
        Writes::Unknown(why) => format!("what the run committed is not known: {why}"),
    });
    facts
}

fn in_words(revisions: &[String]) -> String {
    if revisions.is_empty() { "none".into() } else { revisions.join(", ") }
}

/// What the settings say of two cases that are a matter of taste.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether a run that moved only the version is a good one.
    pub accepts_stamped: bool,
    /// Whether a failed migration is undone without an operator.
    pub restores: bool,
}

/// Says what is to be done about a class, before checks.
pub fn decide(class: Class, policy: Policy) -> Decision {
    let restore = |verdict| {
        if policy.restores { Decision::Restore(verdict) } else { Decision::Hold(Verdict::RestoreRefused) }
    };
    match class {
        Class::Unchanged => Decision::Release(Verdict::FailedUnchanged),
        Class::Partial => restore(Verdict::Restored),
        Class::AppliedWithError | Class::Success => Decision::Check,
        Class::Stamped if policy.accepts_stamped => Decision::Check,
        Class::Stamped => restore(Verdict::ChecksFailed),
        Class::FalseSuccess => Decision::Release(Verdict::FalseSuccess),
        Class::NothingPending => Decision::Release(Verdict::NothingPending),
        Class::Unknown => Decision::Hold(Verdict::Unknown),
    }
}

/// Says what is to be done after the checks; `problems` is whether they found any.
pub fn decide_checked(class: Class, has_problems: bool, policy: Policy) -> Decision {
    match (has_problems, class) {
        (false, Class::AppliedWithError) => Decision::Release(Verdict::AppliedWithError),
        (false, _) => Decision::Release(Verdict::Migrated),
        (true, _) if policy.restores => Decision::Restore(Verdict::ChecksFailed),
        (true, _) => Decision::Hold(Verdict::RestoreRefused),
    }
}

#[cfg(test)]
mod tests;
