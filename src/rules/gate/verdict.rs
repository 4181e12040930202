//! How a run ends, for whoever called it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Unknown;

/// How a run ends, for whoever called it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Migrated, and every check passed.
    Migrated,
    /// There was nothing to migrate.
    NothingPending,
    /// The rehearsal that was asked for went well; the database was not touched.
    Rehearsed,
    /// Refused before anything was touched.
    Refused,
    /// No fresh verified snapshot could be had.
    NoSnapshot,
    /// Another run holds the lock.
    Busy,
    /// Writers could not be kept out.
    FenceFailed,
    /// The command failed on the scratch copy; the database was not touched.
    RehearsalFailed,
    /// The command failed, and changed nothing.
    FailedUnchanged,
    /// The command failed, and the database was put back; nothing is lost.
    Restored,
    /// The command failed, and putting the database back would lose something.
    RestoreRefused,
    /// The command failed, and so did the restore; it did not touch the database.
    RestoreFailed,
    /// The command said success, and did nothing.
    FalseSuccess,
    /// Checks failed, and the database was put back.
    ChecksFailed,
    /// The command said failure, and the migration is applied.
    AppliedWithError,
    /// What happened cannot be told.
    Unknown,
    /// Interrupted (SIGINT) before the command started.
    Interrupted,
    /// Ended (SIGTERM) before the command started.
    Terminated,
    /// Belay or its host died before the command started.
    Abandoned,
    /// An operator put the database back.
    RestoredByOperator,
    /// An operator let the database be as it is.
    KeptByOperator,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 21] = [
        Self::Migrated,
        Self::NothingPending,
        Self::Rehearsed,
        Self::Refused,
        Self::NoSnapshot,
        Self::Busy,
        Self::FenceFailed,
        Self::RehearsalFailed,
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
        Self::Abandoned,
        Self::RestoredByOperator,
        Self::KeptByOperator,
    ];

    /// The verdict as ledger and reports have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Migrated => "migrated",
            Self::NothingPending => "nothing_pending",
            Self::Rehearsed => "rehearsed",
            Self::Refused => "refused",
            Self::NoSnapshot => "no_snapshot",
            Self::Busy => "busy",
            Self::FenceFailed => "fence_failed",
            Self::RehearsalFailed => "rehearsal_failed",
            Self::FailedUnchanged => "failed_unchanged",
            Self::Restored => "restored",
            Self::RestoreRefused => "restore_refused",
            Self::RestoreFailed => "restore_failed",
            Self::FalseSuccess => "false_success",
            Self::ChecksFailed => "checks_failed",
            Self::AppliedWithError => "applied_with_error",
            Self::Unknown => "unknown",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
            Self::Abandoned => "abandoned",
            Self::RestoredByOperator => "restored_by_operator",
            Self::KeptByOperator => "kept_by_operator",
        }
    }

    /// Whether a run that is held with it waits for an operator to decide about the database, rather
    /// than for a fence to come down.
    pub fn is_undecided(self) -> bool {
        matches!(self, Self::RestoreRefused | Self::RestoreFailed | Self::Unknown)
    }

    /// What happened, as a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Migrated => "migrated and checked",
            Self::NothingPending => "nothing was pending; the database is as it was",
            Self::Rehearsed => "the rehearsal went well; the database was not touched",
            Self::Refused => "refused before anything was touched",
            Self::NoSnapshot => "no fresh verified snapshot could be had; the migration was not started",
            Self::Busy => "another run holds the lock",
            Self::FenceFailed => {
                "writers could not be kept out; the migration was not started and the fence is undone"
            }
            Self::RehearsalFailed => {
                "the migration failed on a scratch copy; it was not started on the database"
            }
            Self::FailedUnchanged => "the migration failed and changed nothing",
            Self::Restored => "the migration failed; the database was put back and nothing is lost",
            Self::RestoreRefused => {
                "the migration failed; the database was not put back, since that would lose something"
            }
            Self::RestoreFailed => {
                "the migration failed and so did the restore, which did not touch the database"
            }
            Self::FalseSuccess => "the command said success, but nothing was migrated",
            Self::ChecksFailed => "checks failed; the database was put back and nothing is lost",
            Self::AppliedWithError => "the command said failure, but the migration is applied",
            Self::Unknown => "what happened cannot be told",
            Self::Interrupted => "interrupted before the migration was started",
            Self::Terminated => "ended before the migration was started",
            Self::Abandoned => "belay died before the migration was started",
            Self::RestoredByOperator => "an operator put the database back",
            Self::KeptByOperator => "an operator let the database be as it is",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verdict {
    type Err = Unknown;
    fn from_str(text: &str) -> Result<Self, Unknown> {
        let found = Self::ALL.into_iter().find(|verdict| verdict.as_str() == text);
        found.ok_or_else(|| Unknown(text.into(), "verdict"))
    }
}
