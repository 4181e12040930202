//! Who may ask the daemon for what over HTTP: one table, for every role and every act.
//!
//! Comes in: a role, the one database it is bound to, an act, the database that the act is about.
//! Goes out: whether that is allowed, and if not, why. Restores, removals and keys are no acts:
//! nobody has them over HTTP.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a token, or a user of the socket, may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at everything, changes nothing.
    Viewer,
    /// Opens gates of one database, and sees how that database and its runs are.
    Ci,
    /// Does everything that HTTP offers.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Ci, Self::Operator];

    /// The role as it stands in ledger and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Ci => "ci",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role")]
pub struct InvalidRole(String);

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| InvalidRole(text.into()))
    }
}

/// Something that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// See how databases, jobs and repository are.
    ReadStatus,
    /// List snapshots, or see one.
    ReadSnapshots,
    /// List gated migrations, or see one.
    ReadRuns,
    /// Have a snapshot taken.
    TakeSnapshot,
    /// Have a snapshot verified.
    Verify,
    /// Open a gate, and see it through to its end.
    Gate,
}

impl Act {
    /// Every act.
    pub const ALL: [Self; 6] =
        [Self::ReadStatus, Self::ReadSnapshots, Self::ReadRuns, Self::TakeSnapshot, Self::Verify, Self::Gate];

    /// The act in words that follow `may not`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadStatus => "see the status",
            Self::ReadSnapshots => "see snapshots",
            Self::ReadRuns => "see runs",
            Self::TakeSnapshot => "have a snapshot taken",
            Self::Verify => "have a snapshot verified",
            Self::Gate => "open a gate",
        }
    }

    /// The act as the audit log calls it.
    pub fn action(self) -> &'static str {
        match self {
            Self::ReadStatus => "ask_status",
            Self::ReadSnapshots => "ask_snapshots",
            Self::ReadRuns => "ask_runs",
            Self::TakeSnapshot => "ask_snapshot",
            Self::Verify => "ask_verify",
            Self::Gate => "ask_gate",
        }
    }

    /// Whether it leaves everything as it was.
    pub fn only_reads(self) -> bool {
        matches!(self, Self::ReadStatus | Self::ReadSnapshots | Self::ReadRuns)
    }
}

/// Whose rights are asked for: a role, and the one database it is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights<'a> {
    /// The role.
    pub role: Role,
    /// By its name in PostgreSQL; `None` for one that is bound to none.
    pub database: Option<&'a str>,
}

/// Returns why `rights` do not allow `act`, or `None` when they do.
///
/// `about` are the databases that the act is about, by their names in PostgreSQL; none means all
/// that there are. A role that is bound to a database is never allowed another one beside it.
pub fn refusal(rights: Rights<'_>, act: Act, about: &[&str]) -> Option<String> {
    let is_of_role = match rights.role {
        Role::Operator => true,
        Role::Viewer => act.only_reads(),
        Role::Ci => matches!(act, Act::ReadStatus | Act::ReadRuns | Act::Gate),
    };
    if !is_of_role {
        return Some(format!("the role {} may not {}", rights.role, act.as_str()));
    }
    let is_bound = rights.role == Role::Ci || rights.database.is_some();
    let is_own = |name: &&str| Some(*name) == rights.database;
    if is_bound && (about.is_empty() || !about.iter().all(is_own)) {
        return Some(format!("this token may not {} of another database than its own", act.as_str()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(role: Role, own: Option<&str>, act: Act, about: &[&str]) -> bool {
        refusal(Rights { role, database: own }, act, about).is_none()
    }

    #[test]
    fn every_role_may_what_the_table_says_and_nothing_else() {
        // Viewer, ci of `app`, operator; each about nothing in particular, `app`, `crm`, and both.
        type Row = (Act, [[bool; 4]; 3]);
        const ALL: [bool; 4] = [true; 4];
        const NONE: [bool; 4] = [false; 4];
        const OWN: [bool; 4] = [false, true, false, false];
        let table: [Row; 6] = [
            (Act::ReadStatus, [ALL, OWN, ALL]),
            (Act::ReadSnapshots, [ALL, NONE, ALL]),
            (Act::ReadRuns, [ALL, OWN, ALL]),
            (Act::TakeSnapshot, [NONE, NONE, ALL]),
            (Act::Verify, [NONE, NONE, ALL]),
            (Act::Gate, [NONE, OWN, ALL]),
        ];
        assert_eq!(table.map(|(act, _)| act), Act::ALL);
        let about: [&[&str]; 4] = [&[], &["app"], &["crm"], &["app", "crm"]];
        let roles = [(Role::Viewer, None), (Role::Ci, Some("app")), (Role::Operator, None)];
        for (act, by_role) in table {
            for ((role, own), expected) in roles.into_iter().zip(by_role) {
                let found = about.map(|about| may(role, own, act, about));
                assert_eq!(found, expected, "{role} {act:?}");
            }
        }
    }

    #[test]
    fn a_ci_token_without_a_database_may_nothing() {
        for act in Act::ALL {
            assert!(!may(Role::Ci, None, act, &[]) && !may(Role::Ci, None, act, &["app"]), "{act:?}");
        }
    }

    #[test]
    fn any_role_that_is_bound_stays_with_its_database() {
        for role in [Role::Viewer, Role::Operator] {
            assert!(may(role, Some("app"), Act::ReadStatus, &["app"]));
            assert!(!may(role, Some("app"), Act::ReadStatus, &["crm"]));
            assert!(!may(role, Some("app"), Act::ReadStatus, &[]));
        }
    }

    #[test]
    fn a_role_is_read_by_its_name() {
        assert!(Role::ALL.into_iter().all(|role| role.as_str().parse() == Ok(role)));
        assert!("root".parse::<Role>().is_err());
    }
}
