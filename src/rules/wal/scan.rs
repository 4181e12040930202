//! Folds lines of `pg_waldump` (PostgreSQL 12 to 18) into the commits of one database.
//!
//! Comes in: one line per record, in order. Goes out: a [`Window`]. Of a transaction it keeps the
//! number of rows per relation, from its first write to its end; of one that aborts, nothing.
//!
//! Writes are `INSERT`, `UPDATE`, `HOT_UPDATE`, `DELETE` and `MULTI_INSERT` of the heap, and `LOG`
//! of sequences. Row locks, pruning, freezing, visibility, in-place updates, hint bits and indexes
//! change no row.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, NaiveDateTime, Utc};

use super::{BareCommit, Commit, Lsn, Window};

/// A record of which we should know what it says, and do not: the evidence is not whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read a record of the write-ahead log: {line:?} has no form that is known")]
pub struct UnknownRecord {
    /// The line.
    pub line: String,
}

/// The writes of one transaction or subtransaction that has not ended yet.
#[derive(Debug, Default)]
struct Writes {
    rows: BTreeMap<u32, u64>,
    sequences: BTreeSet<u32>,
    /// It works in another database, and a transaction works in one only.
    is_elsewhere: bool,
}

impl Writes {
    fn add(&mut self, other: Self) {
        for (relfilenode, rows) in other.rows {
            *self.rows.entry(relfilenode).or_default() += rows;
        }
        self.sequences.extend(other.sequences);
        self.is_elsewhere |= other.is_elsewhere;
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.sequences.is_empty()
    }
}

/// A running fold over the records of a window.
#[derive(Debug)]
pub struct Scan {
    database_oid: u32,
    open: HashMap<u32, Writes>,
    window: Window,
}

/// The parts of a line that matter.
struct Record<'a> {
    manager: &'a str,
    xid: u32,
    lsn: Lsn,
    /// Such as `MULTI_INSERT+INIT`.
    what: &'a str,
    details: &'a str,
}

impl Scan {
    /// Begins a fold that looks for writes to the database of this OID.
    pub fn new(database_oid: u32) -> Self {
        Self { database_oid, open: HashMap::new(), window: Window::default() }
    }

    /// Takes the next line; lines that are no records, and records that write no rows, say nothing.
    ///
    /// # Errors
    /// [`UnknownRecord`]: what has been taken so far is no evidence then.
    pub fn line(&mut self, line: &str) -> Result<(), UnknownRecord> {
        let manager = line.strip_prefix("rmgr: ").and_then(|rest| rest.split_whitespace().next());
        if !matches!(manager, Some("Heap" | "Heap2" | "Sequence" | "Transaction")) {
            return Ok(());
        }
        let taken = Record::parse(line).and_then(|record| match record.manager {
            "Transaction" => self.end(&record),
            _ => self.write(&record),
        });
        taken.ok_or_else(|| UnknownRecord { line: line.chars().take(300).collect() })
    }

    /// Ends the fold. Transactions that have not ended are left out.
    pub fn finish(self) -> Window {
        self.window
    }

    /// Notes a write; `None` when the record is not understood.
    fn write(&mut self, record: &Record<'_>) -> Option<()> {
        let rows = match (record.manager, record.what.trim_end_matches("+INIT")) {
            // Bootstrap alone writes outside of transactions.
            _ if record.xid == 0 => return Some(()),
            // It names its tables by other numbers; its writes of pg_class are seen.
            ("Heap", "TRUNCATE") => return Some(()),
            ("Heap", "INSERT" | "UPDATE" | "HOT_UPDATE" | "DELETE") => 1,
            ("Heap2", "MULTI_INSERT") => record.tuples()?,
            ("Sequence", _) => 0,
            _ => {
                // Not a write, but it may tell in which database the transaction works.
                if let Some((database, _)) = record.relation() {
                    self.place(record.xid, database);
                }
                return Some(());
            }
        };
        let (database, relfilenode) = record.relation()?;
        if self.place(record.xid, database) {
            let writes = self.open.entry(record.xid).or_default();
            if record.manager == "Sequence" {
                writes.sequences.insert(relfilenode);
            } else {
                *writes.rows.entry(relfilenode).or_default() += rows;
            }
        }
        Some(())
    }

    /// Tells whether `database` is ours, and notes when it is another. Shared catalogs (0) belong to
    /// none.
    fn place(&mut self, xid: u32, database: u32) -> bool {
        if database != self.database_oid && database != 0 {
            self.open.entry(xid).or_default().is_elsewhere = true;
        }
        database == self.database_oid
    }

    /// Ends a transaction; `None` when the record is not understood.
    fn end(&mut self, record: &Record<'_>) -> Option<()> {
        let is_commit = match record.what {
            "COMMIT" | "COMMIT_PREPARED" => true,
            "ABORT" | "ABORT_PREPARED" => false,
            _ => return Some(()),
        };
        let (xid, details) = match record.what {
            "COMMIT_PREPARED" | "ABORT_PREPARED" => {
                let (xid, details) = record.details.split_once(": ")?;
                (xid.parse().ok()?, details)
            }
            _ => (record.xid, record.details),
        };
        let mut writes = self.take(xid);
        for subtransaction in subtransactions(details) {
            writes.add(self.take(subtransaction?));
        }
        if is_commit {
            self.commit(xid, record.lsn, details, writes);
        }
        Some(())
    }

    fn take(&mut self, xid: u32) -> Writes {
        match self.open.entry(xid) {
            Entry::Occupied(found) => found.remove(),
            Entry::Vacant(_) => Writes::default(),
        }
    }

    fn commit(&mut self, xid: u32, lsn: Lsn, details: &str, writes: Writes) {
        let is_marked = details.split("; ").any(|part| part.trim_end() == "apply_feedback");
        if !writes.is_empty() {
            let Writes { rows, sequences, .. } = writes;
            let committed_at = time(details);
            self.window.commits.push(Commit { xid, lsn, committed_at, is_marked, rows, sequences });
        } else if !writes.is_elsewhere {
            self.window.bare_commits.push(BareCommit { xid, lsn, is_marked });
        }
    }
}

impl<'a> Record<'a> {
    /// `rmgr: Heap len (rec/tot): 59/59, tx: 757, lsn: 0/01D4D570, prev 0/01D4D518, desc: INSERT …`
    fn parse(line: &'a str) -> Option<Self> {
        let (head, description) = line.split_once(", desc: ")?;
        let after = |name: &str| head.split_once(name).map(|(_, rest)| rest.trim_start());
        let (xid, rest) = after("tx: ")?.split_once(',')?;
        let lsn = rest.split_once("lsn: ")?.1;
        let lsn = lsn.split_once(',').map_or(lsn, |(lsn, _)| lsn);
        let (what, details) = description.split_once(' ').unwrap_or((description, ""));
        Some(Self {
            manager: after("rmgr: ")?.split_whitespace().next()?,
            xid: xid.parse().ok()?,
            lsn: lsn.parse().ok()?,
            // A record without details ends in a comma when a block follows.
            what: what.trim_end_matches(','),
            details,
        })
    }

    /// Database and relfilenode of the first block: `blkref #0: rel 1663/16384/16390 blk 0`.
    fn relation(&self) -> Option<(u32, u32)> {
        let path = self.details.split_once("blkref #0: rel ")?.1.split([' ', ',']).next()?;
        let mut numbers = path.split('/').skip(1).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// `4 tuples flags 0x02` up to 15, `ntuples: 4, flags: 0x02` from 16 on.
    fn tuples(&self) -> Option<u64> {
        let number = self.details.strip_prefix("ntuples: ").unwrap_or(self.details);
        number.split([' ', ',']).next()?.parse().ok()
    }
}

/// `…; subxacts: 738 739; …`
fn subtransactions(details: &str) -> impl Iterator<Item = Option<u32>> + '_ {
    let lists = details.split("; ").filter_map(|part| part.strip_prefix("subxacts: "));
    lists.flat_map(|list| list.split_whitespace().map(|xid| xid.parse().ok()))
}

/// `2026-11-24 20:18:28.914075 UTC` of pg_waldump, `2026-11-24 20:18:28.914075+00` of the server.
fn time(details: &str) -> Option<DateTime<Utc>> {
    let text = details.split(';').next()?.trim_end();
    let text = text.strip_suffix(" UTC").or_else(|| text.strip_suffix("+00"))?;
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|time| time.and_utc())
}
