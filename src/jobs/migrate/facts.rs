//! What is known of a run: written into the ledger with every phase, read by reports and by the
//! process that goes on where another died.
//!
//! Whatever is not known yet is empty, so that a run that died early reads back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use crate::rules::classify::{Class, Classified, Exit, Expected};
use crate::rules::gate::Order;
use crate::rules::layout::SnapshotId;
use crate::rules::wal::{Lsn, WindowStart};

/// Whether the command is tried on a scratch copy first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rehearsal {
    /// It is not.
    #[default]
    Not,
    /// It is, and then run on the database.
    First,
    /// It is, and the database is not touched.
    Only,
}

/// What becomes of a fence that cannot be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedRelease {
    /// It holds the run.
    #[default]
    Holds,
    /// An operator says that it is down: it is tried once more, and counts as down.
    CountsAsDown,
}

/// What an operator says to what a restore would take from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Nothing may be lost.
    #[default]
    Refused,
    /// It may be lost.
    Accepted,
}

/// Everything that is known of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Of the run as a whole.
    pub run: RunFacts,
    /// Of each of its databases, in the order given; nothing for a run that died at once.
    pub databases: Vec<DatabaseFacts>,
}

/// What is known of a run as a whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFacts {
    /// Where the command runs.
    pub directory: PathBuf,
    /// Whether there is a rehearsal.
    pub rehearsal: Rehearsal,
    /// When writers are kept out; `None` for a run that keeps nobody out.
    pub order: Option<Order>,
    /// What the rehearsal showed.
    pub rehearsed: Option<RehearsalFacts>,
    /// Sessions of others that were seen while the command ran, each as a sentence.
    pub foreign_sessions: Vec<String>,
    /// How the command ended.
    pub exit: Option<Exit>,
    /// How long it ran.
    pub command_ms: u64,
    /// The write-ahead log's position when nothing of the run lived any more.
    pub settled_lsn: Option<Lsn>,
    /// What the run did to its databases as a whole.
    pub class: Option<Class>,
    /// The checks.
    pub checks: Vec<CheckResult>,
    /// What becomes of a fence that cannot be released.
    pub failed_release: FailedRelease,
    /// What an operator's restore may lose.
    pub loss: Loss,
    /// Fences that an operator declared down, each with what it answered.
    pub declared_down: Vec<String>,
    /// The restore point before the command, where points in time are kept.
    pub restore_point: Option<MadePoint>,
    /// What a restore puts back.
    pub origin: Origin,
    /// Why the run ended as it did, each as a sentence.
    pub reasons: Vec<String>,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// A restore point that the run made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadePoint {
    /// What the log calls it.
    pub name: String,
    /// The timeline that it lies on.
    pub timeline: u32,
    /// The end of its record.
    pub lsn: Lsn,
    /// Why what was stored before the command did not reach it, if that is so.
    pub out_of_reach: Option<String>,
}

/// What a restore puts back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The snapshot.
    #[default]
    Snapshot,
    /// What the cluster was at the restore point: the snapshot lacks what was committed after it.
    RestorePoint,
}

/// What is known of one database of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseFacts {
    /// Its section in the settings.
    pub section: String,
    /// The database, by what a rename does not change.
    pub identity: Option<Identity>,
    /// Revisions that are pending, in the order in which they would run.
    pub pending: Vec<Pending>,
    /// Which revisions are to be reached.
    pub expected: Option<Expected>,
    /// The snapshot that the run stands on.
    pub snapshot: Option<TakenSnapshot>,
    /// What the rehearsal reached on its copy.
    pub rehearsed: Option<Reached>,
    /// The state before the command.
    pub armed: Option<Armed>,
    /// Whether a session was seen that calls itself this run's.
    pub has_named_sessions: bool,
    /// The state after it.
    pub after: Option<Fingerprint>,
    /// What the run did.
    pub classified: Option<Classified>,
    /// What others committed in the window of the run, in words.
    pub foreign: Option<String>,
    /// Why it cannot be known what others committed.
    pub foreign_unknown: Option<String>,
    /// The failed database lets nobody in, and nothing of others was committed before that.
    pub is_closed: bool,
    /// What differs between before and after, each as a sentence.
    pub changes: Vec<String>,
    /// What the failed database is called now.
    pub kept_as: Option<String>,
}

/// A database, by what a rename does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its OID.
    pub oid: u32,
    /// Its cluster, as PostgreSQL identifies it; `None` where the role may not ask.
    pub system_identifier: Option<String>,
    /// The cluster's timeline.
    pub timeline: u32,
}

/// A revision that is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its id.
    pub id: String,
    /// Its script.
    pub file: Option<PathBuf>,
    /// What its docstring says it breaks.
    pub breaking: Option<String>,
    /// It plainly does nothing, in the direction in which it is to run.
    #[serde(default)]
    pub does_nothing: bool,
}

/// The snapshot that a run stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Whether it was there before the run.
    pub is_reused: bool,
    /// Whether writers were kept out when it was taken.
    pub is_fenced: bool,
    /// Where the window begins in which everything lies that it does not hold.
    pub window_start: WindowStart,
    /// How long its restore took when it was verified, in milliseconds.
    pub restore_ms: Option<u64>,
    /// Transactions of other databases that were open when it was taken.
    pub elsewhere: Vec<u32>,
}

/// The state before the command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// Where the log is read from: a position before `elsewhere` was looked at, so that what others
    /// began since shows of which database it is.
    pub read_from: Lsn,
    /// The write-ahead log's position: what was committed before does not count.
    pub lsn: Lsn,
    /// A transaction that is younger than all that had written by then.
    pub next_transaction: u64,
    /// Transactions of other databases that were open then.
    pub elsewhere: Vec<u32>,
    /// What the database looks like.
    pub before: Fingerprint,
    /// What the SQL checks answer, by their names.
    pub answers: BTreeMap<String, String>,
    /// Whether the commits of the run bear a mark that those of others do not.
    pub has_own_mark: bool,
}

/// What a rehearsal showed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RehearsalFacts {
    /// Each command of it, how it ended, and how long it took in milliseconds.
    pub steps: Vec<(String, String, u64)>,
    /// Strong locks that were seen, each as a sentence.
    pub locks: Vec<String>,
}

/// What a rehearsal reached on the copy of one database.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reached {
    /// The revisions.
    pub revisions: Vec<String>,
    /// The schema, in any order of its lines.
    pub schema_bag: String,
}

/// One check, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Its name.
    pub name: String,
    /// The section of the database that was asked, for an SQL check of a run over several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// What was expected, in words.
    pub expected: String,
    /// The answer before, for an SQL check that is answered now.
    pub before: Option<String>,
    /// The answer after, or what went wrong.
    pub after: String,
    /// Whether it is as expected.
    pub is_ok: bool,
}
