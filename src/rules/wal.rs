//! What the write-ahead log tells of committed writes: positions, commits, and who saw them.
//!
//! Comes in: lines of `pg_waldump` ([`scan::Scan`]). Goes out: a [`Window`], and in words what it
//! means ([`summary`]). Never reads the log itself.
//!
//! # Whose commit it is
//!
//! The gate gives the sessions of a migration `synchronous_commit = remote_apply` (by `PGOPTIONS`
//! or as a setting of their role). Their commit records then carry `; apply_feedback`, which no
//! session with another setting writes: [`Commit::is_marked`]. So the run's own commits are told
//! from foreign ones by the log itself, not by process ids or times. With no synchronous standby
//! it costs nothing; with one, each commit waits until it is applied there.
//!
//! # What the log does not tell
//!
//! - Unlogged tables write none of their rows, temporary tables neither.
//! - TRUNCATE shows as a write of `pg_class`, without a number of rows; so does what `wal_level =
//!   minimal` leaves out for a table that is made in the same transaction.
//! - A sequence writes one record for 32 values, so a few values may be taken without any.
//! - A table access method that does not write heap records is not seen.
//! - `PREPARE TRANSACTION` names, and before PostgreSQL 15 the text of logical messages, stand in
//!   the lines as they are: who may choose them could forge a line. The log is evidence against
//!   accidents.

pub mod attribution;
pub mod page;
pub mod records;
pub mod scan;
pub mod segment;
pub mod summary;
pub mod tablespaces;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Bytes of a page of the log, as PostgreSQL is built unless told otherwise.
const PAGE_BYTES: u64 = 8 << 10;
/// Bytes of a page's header: on the first page of a segment, and on the others.
const HEADERS_BYTES: (u64, u64) = (40, 24);

/// A position in the log, in bytes; written as `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

/// A text that is no position in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no position in the write-ahead log, such as 16/B374D848")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |digits: &str| {
            let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|_| is_hexadecimal).map(u64::from)
        };
        let halves = text.split_once('/').and_then(|(high, low)| Some((half(high)?, half(low)?)));
        halves.map(|(high, low)| Self(high << 32 | low)).ok_or_else(|| InvalidLsn(text.into()))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = InvalidLsn;

    fn try_from(text: String) -> Result<Self, InvalidLsn> {
        text.parse()
    }
}

impl Lsn {
    /// The same place, but before the header of a page when nothing of the page follows it.
    ///
    /// Where the log ends with a page, the server gives the place of its next record behind the
    /// header of the next page, which is not written before that record is.
    pub fn before_page_header(self, segment_bytes: u64) -> Self {
        let into_page = self.0 % PAGE_BYTES;
        let page = self.0 - into_page;
        let is_first = page.checked_rem(segment_bytes) == Some(0);
        let header = if is_first { HEADERS_BYTES.0 } else { HEADERS_BYTES.1 };
        if into_page == header { Self(page) } else { self }
    }
}

/// Which transactions a snapshot sees: what `txid_current_snapshot()` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleTransactions {
    /// Every transaction below had ended.
    ended_below: u64,
    /// No transaction from here on had ended; it may have begun.
    unended_from: u64,
    in_progress: BTreeSet<u64>,
}

/// A text that is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no snapshot, such as 730:735:731,733")]
pub struct InvalidVisibleTransactions(String);

impl FromStr for VisibleTransactions {
    type Err = InvalidVisibleTransactions;

    fn from_str(text: &str) -> Result<Self, InvalidVisibleTransactions> {
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let bounds = number().zip(number());
        let list = parts.next().map(|list| {
            list.split(',').filter(|xid| !xid.is_empty()).map(str::parse::<u64>).collect::<Result<_, _>>()
        });
        match (bounds, list, parts.next()) {
            (Some((ended_below, unended_from)), Some(Ok(in_progress)), None) => {
                Ok(Self { ended_below, unended_from, in_progress })
            }
            _ => Err(InvalidVisibleTransactions(text.into())),
        }
    }
}

impl VisibleTransactions {
    /// The snapshot sees what the transaction wrote, given that it committed.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.widened(xid);
        xid < self.ended_below || xid < self.unended_from && !self.in_progress.contains(&xid)
    }

    /// Transactions that had begun and not ended, with their epoch. Those that began after the last
    /// one that ended are not among them: the snapshot does not know them from later ones.
    pub fn in_progress(&self) -> impl Iterator<Item = u64> + '_ {
        self.in_progress.iter().copied()
    }

    /// Puts the epoch before a number of the log: never more than 2^31 transactions lie between
    /// two that are of interest at one time.
    fn widened(&self, xid: u32) -> u64 {
        let near = self.unended_from;
        // The log keeps the lower half alone.
        let ahead = xid.wrapping_sub(near as u32);
        if ahead < 1 << 31 {
            near.wrapping_add(u64::from(ahead))
        } else {
            near.wrapping_sub(u64::from(ahead.wrapping_neg()))
        }
    }
}

/// What was committed between two positions of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Window {
    /// Commits of transactions that wrote to the database within the window, in their order.
    pub commits: Vec<Commit>,
    /// Commits of transactions that wrote nothing within the window, in their order: they locked
    /// rows at most, or they wrote before it. Of which database they are is not known.
    pub bare_commits: Vec<BareCommit>,
}

/// A committed transaction and what it wrote to one database within a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The transaction, without its epoch.
    pub xid: u32,
    /// Where its commit record begins.
    pub lsn: Lsn,
    /// When, by the server's clock; `None` where the line does not give it in UTC.
    pub committed_at: Option<DateTime<Utc>>,
    /// It was committed with `synchronous_commit = remote_apply`: by a session of the run.
    pub is_marked: bool,
    /// Rows inserted, updated and deleted, by relfilenode.
    pub rows: BTreeMap<u32, u64>,
    /// Sequences that it advanced or set, by relfilenode.
    pub sequences: BTreeSet<u32>,
}

/// A committed transaction that wrote nothing within a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BareCommit {
    /// The transaction, without its epoch.
    pub xid: u32,
    /// Where its commit record begins.
    pub lsn: Lsn,
    /// As [`Commit::is_marked`].
    pub is_marked: bool,
}

impl Window {
    /// What of it was committed at `lsn` or later.
    #[must_use]
    pub fn since(&self, lsn: Lsn) -> Self {
        let mut window = self.clone();
        window.commits.retain(|commit| commit.lsn >= lsn);
        window.bare_commits.retain(|commit| commit.lsn >= lsn);
        window
    }

    /// Commits that may show nothing of what they wrote, because they wrote it before the window:
    /// those of transactions older than the window, by [`WindowStart::next_transaction`], that
    /// `visible` does not see.
    pub fn straddlers<'a>(
        &'a self,
        visible: &'a VisibleTransactions,
        next_transaction: u64,
    ) -> impl Iterator<Item = &'a BareCommit> {
        let is_older = move |xid| visible.widened(xid) < next_transaction;
        self.bare_commits.iter().filter(move |commit| !visible.sees(commit.xid) && is_older(commit.xid))
    }
}

/// Where a window begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowStart {
    /// The position.
    pub lsn: Lsn,
    /// A transaction, with its epoch, that is younger than all that wrote before the position.
    pub next_transaction: u64,
}
