//! The audit log as a chain: each row holds the hash of the one before, and signed heads lie elsewhere.
//!
//! Comes in: rows in the order of their numbers, and heads. Goes out: what does not fit, row by row.
//! Whoever may write the table can make a chain anew from any row on; a head that was stored away
//! before then does not fit it any more.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::digest::Digest256;

/// The kind of a signed head.
pub const HEAD_KIND: &str = "audit-head";

/// What happened, and at whose hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it was noted.
    pub at: DateTime<Utc>,
    /// At whose hand.
    pub actor: Actor,
    /// What: `snapshot`, `verify`, `restore`, `remove`, `migrate`, `settings`, …
    pub action: String,
    /// The database it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The snapshot, run, or other thing it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How it ended: `done`, or what went wrong.
    pub outcome: String,
    /// More of it, by name; no secrets.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub detail: serde_json::Map<String, serde_json::Value>,
}

/// Who acts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Actor {
    /// The system user that Belay runs as.
    pub user: String,
    /// The user ID of the login that it all began with, as the kernel keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Who called sudo, as sudo says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// Whether the daemon acts on schedule.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_daemon: bool,
    /// The name of the token with which the daemon was asked over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The user ID of the process that asked the daemon over its socket without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_uid: Option<u32>,
    /// What a CI system says of who and what called, by its own names.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub ci: std::collections::BTreeMap<String, String>,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Counted from 1, without gaps.
    pub number: u64,
    /// The event as JSON; the hash is of these very bytes.
    pub event: String,
    /// The hash of the row before; of the first one, zeros.
    pub previous: Digest256,
    /// The hash of this row.
    pub hash: Digest256,
}

impl Row {
    /// The row that follows `last`.
    pub fn after(last: Option<&Self>, event: String) -> Self {
        let (number, previous) = last.map_or((1, Digest256::zero()), |last| (last.number + 1, last.hash));
        let hash = hash_of(number, previous, &event);
        Self { number, event, previous, hash }
    }
}

fn hash_of(number: u64, previous: Digest256, event: &str) -> Digest256 {
    Digest256::blake3(format!("belay audit 1\n{number}\n{previous}\n{event}").as_bytes())
}

/// What a chain had come to at some time; stored signed, where the table cannot reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The cluster whose log it is.
    pub cluster: String,
    /// The hash of the first row: which chain it is.
    pub chain: Digest256,
    /// The number of the last row then.
    pub number: u64,
    /// Its hash.
    pub hash: Digest256,
    /// When the head was made.
    pub at: DateTime<Utc>,
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The hash of a row is not that of its contents.
    Edited(u64),
    /// A row does not follow the one before it.
    Broken(u64),
    /// Rows between two others, or at the ends, are missing.
    Missing {
        /// The first of them.
        from: u64,
        /// The last of them.
        until: u64,
    },
    /// A head says another hash than the row of its number has.
    Rewritten(Head),
    /// A head is of another chain.
    Replaced(Head),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edited(number) => write!(f, "row {number} was edited"),
            Self::Broken(number) => {
                write!(f, "row {number} does not follow row {}", number.saturating_sub(1))
            }
            Self::Missing { from, until } if from == until => write!(f, "row {from} is missing"),
            Self::Missing { from, until } => write!(f, "rows {from} to {until} are missing"),
            Self::Rewritten(head) => write!(
                f,
                "rows up to {} are not those of {}, when their head was signed",
                head.number, head.at
            ),
            Self::Replaced(head) => {
                write!(
                    f,
                    "the log was begun anew: a head of {} is signed for another one of {} rows",
                    head.at, head.number
                )
            }
        }
    }
}

/// Looks over a log, one row after the other.
#[derive(Debug)]
pub struct Inspection {
    heads: Vec<Head>,
    last: Option<Row>,
    chain: Option<Digest256>,
    faults: Vec<Fault>,
}

impl Inspection {
    /// Begins, with the heads that the log has to fit.
    pub fn new(heads: Vec<Head>) -> Self {
        Self { heads, last: None, chain: None, faults: Vec::new() }
    }

    /// Takes the next row, in the order of numbers.
    pub fn take(&mut self, row: Row) {
        let (expected, previous) =
            self.last.as_ref().map_or((1, Digest256::zero()), |last| (last.number + 1, last.hash));
        if row.number > expected {
            self.faults.push(Fault::Missing { from: expected, until: row.number - 1 });
        } else if row.previous != previous {
            self.faults.push(Fault::Broken(row.number));
        }
        if hash_of(row.number, row.previous, &row.event) != row.hash {
            self.faults.push(Fault::Edited(row.number));
        }
        let chain = *self.chain.get_or_insert(row.hash);
        let rewritten =
            |head: &&Head| head.chain == chain && head.number == row.number && head.hash != row.hash;
        self.faults.extend(self.heads.iter().filter(rewritten).cloned().map(Fault::Rewritten));
        self.last = Some(row);
    }

    /// Ends; `numbered` is the highest number that was ever given. Returns what does not fit.
    pub fn finish(mut self, numbered: u64) -> Vec<Fault> {
        let number = self.last.as_ref().map_or(0, |last| last.number);
        let of_chain = |head: &&Head| Some(head.chain) == self.chain;
        let by_heads = self.heads.iter().filter(of_chain).map(|head| head.number).max().unwrap_or(0);
        let until = numbered.max(by_heads);
        if until > number {
            self.faults.push(Fault::Missing { from: number + 1, until });
        }
        let others = self.heads.iter().filter(|head| !of_chain(head)).max_by_key(|head| head.at);
        self.faults.extend(others.cloned().map(Fault::Replaced));
        self.faults
    }
}

#[cfg(test)]
mod tests;
