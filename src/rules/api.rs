//! What a runner and the daemon say to each other about a gated migration, as JSON.
//!
//! Belongs to `/v1` of the HTTP interface: fields are added, never removed or given another
//! meaning. No address and no password is among them: the runner has its own.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::alembic::{History, HistoryError, Revision};
use super::classify::Exit;
use super::gate::{Phase, Verdict};

/// The most bytes that are taken as one piece of output.
pub const MOST_OUTPUT_BYTES: usize = 256 << 10;
/// The most words that a command has, and the most bytes of all of them.
const MOST_WORDS: usize = 1_000;
const MOST_COMMAND_BYTES: usize = 64 << 10;
/// The most databases of one run.
const MOST_DATABASES: usize = 64;
/// The most variables of a CI system, and the most bytes of one of them.
const MOST_VARIABLES: usize = 32;
const MOST_VARIABLE_BYTES: usize = 1_024;

/// Asks for a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenGate {
    /// Made up by whoever asks: who asks again with the same one, since the answer was lost, gets the
    /// same run.
    pub key: String,
    /// Databases, by the names of their sections; empty where the settings have one only.
    #[serde(default)]
    pub databases: Vec<String>,
    /// The words of the command, for the record; secrets masked.
    pub command: Vec<String>,
    /// Whether revisions that say they break something are let through.
    #[serde(default)]
    pub allow_breaking: bool,
    /// The migration scripts of the runner's checkout.
    #[serde(default)]
    pub scripts: Scripts,
    /// What the CI system says of who and what called.
    #[serde(default)]
    pub ci: BTreeMap<String, String>,
}

/// The migration scripts of a checkout, as far as a gate needs them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scripts {
    /// There is no configuration of Alembic, or the command is not Alembic's.
    #[default]
    None,
    /// They cannot be read, and why.
    Unreadable(String),
    /// These, in the order of their files.
    Read(Vec<Script>),
}

/// One revision and its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Script {
    /// What it says; without its docstring.
    #[serde(flatten)]
    pub revision: Revision,
    /// Where it lies on the runner.
    #[serde(default)]
    pub file: Option<String>,
}

/// Why what a runner sends is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// A key that is none.
    #[error("key has 8 to 64 letters, digits, - and _")]
    Key,
    /// A command that is none, or too long.
    #[error("command has 1 to {MOST_WORDS} words of at most {MOST_COMMAND_BYTES} bytes together")]
    Command,
    /// Too many databases, or one twice.
    #[error("databases has at most {MOST_DATABASES} names, none twice")]
    Databases,
    /// Too many or too long.
    #[error("ci has at most {MOST_VARIABLES} variables of at most {MOST_VARIABLE_BYTES} bytes each")]
    Variables,
    /// They do not follow each other.
    #[error("scripts: {0}")]
    Scripts(HistoryError),
}

impl OpenGate {
    /// Looks whether all of it is within bounds.
    ///
    /// # Errors
    /// [`BadRequest`]; that the scripts follow each other is [`Scripts::history`]'s business.
    pub fn validate(&self) -> Result<(), BadRequest> {
        if !super::lease::is_name(&self.key) {
            return Err(BadRequest::Key);
        }
        let bytes: usize = self.command.iter().map(String::len).sum();
        if !(1..=MOST_WORDS).contains(&self.command.len()) || bytes > MOST_COMMAND_BYTES {
            return Err(BadRequest::Command);
        }
        let distinct: BTreeSet<&String> = self.databases.iter().collect();
        if self.databases.len() > MOST_DATABASES || distinct.len() != self.databases.len() {
            return Err(BadRequest::Databases);
        }
        let is_short = |(name, value): (&String, &String)| name.len() + value.len() <= MOST_VARIABLE_BYTES;
        if self.ci.len() > MOST_VARIABLES || !self.ci.iter().all(is_short) {
            return Err(BadRequest::Variables);
        }
        Ok(())
    }
}

impl Scripts {
    /// The history of the scripts; `None` where there is none to read.
    ///
    /// # Errors
    /// [`BadRequest::Scripts`]
    pub fn history(&self) -> Result<Option<History>, BadRequest> {
        let Self::Read(scripts) = self else { return Ok(None) };
        let revisions = scripts.iter().map(|script| script.revision.clone());
        History::new(revisions).map(Some).map_err(BadRequest::Scripts)
    }
}

/// A gate that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenedGate {
    /// `belay.gate.v1`
    pub schema: String,
    /// The run.
    pub run: String,
    /// The databases, by the names of their sections.
    pub databases: Vec<String>,
    /// How long the runner may be silent, in seconds, from now on.
    pub lease_seconds: u64,
}

/// A line of the stream of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A phase begins; a phase that is repeated stands again.
    Phase {
        /// Counted from 1 within the run.
        number: u64,
        /// It.
        phase: Phase,
        /// When it began.
        at: DateTime<Utc>,
        /// In a phase that ends the run: how.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<Verdict>,
    },
    /// The go may be claimed.
    Go,
    /// The run goes on; how far its phase is.
    Alive {
        /// What it does now.
        doing: String,
        /// Bytes done.
        done_bytes: u64,
        /// Bytes expected; zero when that is not known.
        expected_bytes: u64,
    },
}

/// Asks for the go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimGo {
    /// Made up by whoever asks; only the first one gets it.
    pub holder: String,
}

/// What a command needs to be known by, beside the address of its database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Go {
    /// Variables for its environment. What the runner has in `PGOPTIONS` goes behind what is here.
    pub environment: BTreeMap<String, String>,
    /// How long it may run, in seconds.
    pub timeout_seconds: u64,
    /// How long the runner may be silent, in seconds.
    pub lease_seconds: u64,
}

/// Says that the runner is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeatGate {
    /// Who has the go; nobody before that.
    #[serde(default)]
    pub holder: Option<String>,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GateStanding {
    /// The run.
    pub run: String,
    /// The phase.
    pub phase: Phase,
    /// How long the runner may be silent, in seconds, from now on.
    pub lease_seconds: u64,
    /// How much of the command's output is known, in bytes.
    pub output_bytes: u64,
}

/// Tells how the command ended, or that it will not begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CloseGate {
    /// It ended.
    Exit {
        /// Who has the go.
        holder: String,
        /// How.
        exit: Exit,
    },
    /// It was not begun, and will not be.
    Cancel {
        /// Whether the runner was ended (SIGTERM), rather than interrupted.
        #[serde(default)]
        is_terminated: bool,
    },
}

/// Everything that a report of a run is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunTold {
    /// `belay.gate-run.v1`
    pub schema: String,
    /// The run.
    pub run: String,
    /// Its databases, by their names in PostgreSQL.
    pub databases: Vec<String>,
    /// The words of the command.
    pub command: Vec<String>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was done or held.
    pub ended_at: Option<DateTime<Utc>>,
    /// The phase.
    pub phase: Phase,
    /// How it ends, if that is known.
    pub verdict: Option<Verdict>,
    /// What the command wrote.
    pub output: String,
    /// What is known of it.
    pub facts: Value,
    /// What it went through.
    pub journal: Vec<PhaseTold>,
}

/// One phase of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PhaseTold {
    /// It.
    pub phase: Phase,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How it ended, in words.
    pub outcome: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> OpenGate {
        OpenGate {
            key: "0123456789".into(),
            databases: vec!["app".into()],
            command: vec!["alembic".into(), "upgrade".into(), "head".into()],
            allow_breaking: false,
            scripts: Scripts::None,
            ci: BTreeMap::new(),
        }
    }

    fn script(id: &str, down: &[&str]) -> Script {
        let down = down.iter().map(|id| (*id).to_owned()).collect();
        let revision = Revision { id: id.into(), down, ..Revision::default() };
        Script { revision, file: Some(format!("/checkout/{id}.py")) }
    }

    #[test]
    fn a_request_within_bounds_is_taken() {
        assert_eq!(opening().validate(), Ok(()));
        let text = r#"{"key": "0123456789", "command": ["make", "migrate"]}"#;
        assert_eq!(serde_json::from_str::<OpenGate>(text).unwrap().validate(), Ok(()));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let cases = [
            (OpenGate { key: "short".into(), ..opening() }, BadRequest::Key),
            (OpenGate { command: Vec::new(), ..opening() }, BadRequest::Command),
            (
                OpenGate { command: vec!["x".repeat(MOST_COMMAND_BYTES + 1)], ..opening() },
                BadRequest::Command,
            ),
            (OpenGate { databases: vec!["app".into(), "app".into()], ..opening() }, BadRequest::Databases),
            (
                OpenGate { ci: [("X".into(), "y".repeat(MOST_VARIABLE_BYTES))].into(), ..opening() },
                BadRequest::Variables,
            ),
        ];
        for (request, refusal) in cases {
            assert_eq!(request.validate(), Err(refusal));
        }
        assert!(
            serde_json::from_str::<OpenGate>(r#"{"key": "k", "command": [], "rehearse": true}"#).is_err()
        );
    }

    #[test]
    fn scripts_come_over_the_wire_as_they_are() {
        let scripts = Scripts::Read(vec![script("a1", &[]), script("b2", &["a1"])]);
        let text = serde_json::to_string(&scripts).unwrap();
        let read: Scripts = serde_json::from_str(&text).unwrap();
        assert_eq!(read, scripts);
        assert!(read.history().unwrap().unwrap().revision("b2").is_some());
        assert_eq!(Scripts::Unreadable("why".into()).history(), Ok(None));
    }

    #[test]
    fn scripts_that_do_not_fit_together_are_refused() {
        let scripts = Scripts::Read(vec![script("a1", &["missing"])]);
        assert!(matches!(scripts.history(), Err(BadRequest::Scripts(_))));
    }

    #[test]
    fn an_end_is_plain_to_write_by_hand() {
        let exit = r#"{"exit": {"holder": "0123456789", "exit": {"status": 0}}}"#;
        let told = CloseGate::Exit { holder: "0123456789".into(), exit: Exit::Status(0) };
        assert_eq!(serde_json::from_str::<CloseGate>(exit).unwrap(), told);
        let cancel = serde_json::from_str::<CloseGate>(r#"{"cancel": {}}"#).unwrap();
        assert_eq!(cancel, CloseGate::Cancel { is_terminated: false });
    }
}
