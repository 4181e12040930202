//! The physical side of the stored format: base backups, and the write-ahead log behind them.
//!
//! A *base backup* is a copy of the data directory that was made while the server wrote. Only with the
//! log from its beginning to its end it is a cluster, and with more of the log it is the same cluster
//! later. Its folder has the copy and, written last, a signed [`BaseManifest`]:
//!
//! ```text
//! <cluster>/base/<id>/base.tar.gz.age              the data directory
//! <cluster>/base/<id>/16384.tar.gz.age             a tablespace, by its OID
//! <cluster>/base/<id>/backup_manifest.gz.age       the list of files, where it is not at the end of base.tar
//! ```
//!
//! An *incremental* base backup has only the blocks that changed since another one, its *parent*, which
//! may be incremental too: with that, and all before it up to a full one, it is a copy.
//!
//! The log is kept in *pieces*. A whole segment is one piece. Of the segment that is being written
//! several are stored, each from where the last one ended, so that little is lost with the host:
//!
//! ```text
//! <cluster>/wal/00000001/00000001000000000000002A.gz.age            a whole segment
//! <cluster>/wal/00000001/00000001000000000000002B.00000000-00012000.gz.age     the first bytes of one
//! <cluster>/wal/00000002/00000002.history.gz.age                    where timeline 2 left the one before
//! ```
//!
//! Beside each lies its signed [`PieceRecord`], `.json` in place of `.gz.age`, written last: without
//! it the piece is not there. The log says what the server does when it recovers, so nobody but the
//! writer of the repository may add to it.

pub mod file_name;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::layout::{self, ObjectKey, SnapshotId};
use super::manifest::ObjectRecord;
use super::wal::Lsn;

/// Kind of signed document: [`BaseManifest`].
pub const BASE_KIND: &str = "base";
/// Kind of signed document: [`PieceRecord`].
pub const PIECE_KIND: &str = "wal";

const SEALED_SUFFIX: &str = ".gz.age";
const RECORD_SUFFIX: &str = ".json";
const HISTORY_SUFFIX: &str = ".history";

/// What a base backup is; the commit point of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseManifest {
    /// [`FORMAT`](super::manifest::FORMAT)
    pub format: u32,
    /// The repository it belongs to.
    pub repository: String,
    /// Name of the cluster in the settings.
    pub cluster: String,
    /// Its name.
    pub id: SnapshotId,
    /// PostgreSQL's own number of the cluster.
    pub system_identifier: String,
    /// Name of the role that was made with the cluster.
    pub bootstrap_superuser: String,
    /// `server_version_num` of the server.
    pub server_version_num: u32,
    /// `pg_basebackup --version`.
    pub pg_basebackup_version: String,
    /// The timeline that it was made on.
    pub timeline: u32,
    /// Where replaying the log has to begin.
    pub start_lsn: Lsn,
    /// Where the log was when the copy had ended: replayed up to there, the cluster is consistent.
    pub stop_lsn: Lsn,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// When it ended; no earlier moment can be reached with it.
    pub ended_at: DateTime<Utc>,
    /// Its objects, by file name.
    pub objects: BTreeMap<String, ObjectRecord>,
    /// The cluster's tablespaces besides PostgreSQL's own, each with an object of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<Tablespace>,
    /// The base backup that this one only has the changes since; `None` for a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SnapshotId>,
    /// Bytes of the copy.
    pub plain_bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Public keys that it is sealed to.
    pub recipients: Vec<String>,
    /// Version of the program that made it.
    pub belay_version: String,
}

impl BaseManifest {
    /// `full`, or `incremental`.
    pub fn kind(&self) -> &'static str {
        kind(self.parent.as_ref())
    }
}

/// What a base backup with this parent is called: `full`, or `incremental`.
pub fn kind(parent: Option<&SnapshotId>) -> &'static str {
    if parent.is_some() { "incremental" } else { "full" }
}

/// A tablespace besides PostgreSQL's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// PostgreSQL's number of it.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// The directory that it had, absolute; within the data directory (`pg_tblspc/16384`) where it is relative.
    pub location: String,
}

impl Tablespace {
    /// The file name of its object in the folder of a base backup.
    pub fn object(&self) -> String {
        layout::tablespace_file(self.oid)
    }

    /// Whether it lies within the data directory.
    pub fn is_in_place(&self) -> bool {
        !self.location.starts_with('/')
    }
}

/// A piece of the log that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRecord {
    /// [`FORMAT`](super::manifest::FORMAT)
    pub format: u32,
    /// The repository it belongs to.
    pub repository: String,
    /// Name of the cluster in the settings.
    pub cluster: String,
    /// PostgreSQL's own number of the cluster.
    pub system_identifier: String,
    /// Which piece it is.
    pub name: PieceName,
    /// The piece as stored.
    pub object: ObjectRecord,
    /// When it was stored, by the host's clock.
    pub stored_at: DateTime<Utc>,
    /// Everything that was committed until then, by the server's clock, is stored with it; `None` for
    /// a history file, and where nothing says it.
    pub complete_until: Option<DateTime<Utc>>,
    /// What a history file says, so that windows can be told without an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<Switch>>,
}

/// A segment of the log: 24 hexadecimal digits, as PostgreSQL names its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Its timeline.
    pub timeline: u32,
    /// Its number; the log begins with 0.
    pub number: u64,
    /// Bytes of every segment of the cluster: a power of two from 1 MiB to 1 GiB.
    pub bytes: u64,
}

impl Segment {
    /// The segment in which `lsn` lies.
    pub fn at(timeline: u32, lsn: Lsn, bytes: u64) -> Self {
        Self { timeline, number: lsn.0 / bytes.max(1), bytes }
    }

    /// Reads the name of a file of the log.
    pub fn of_name(name: &str, bytes: u64) -> Option<Self> {
        let is_name = name.len() == 24 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
        let (timeline, high, low) = (part(0)?, u64::from(part(8)?), u64::from(part(16)?));
        let per_id = Self::per_id(bytes);
        (is_name && low < per_id).then(|| Self { timeline, number: high * per_id + low, bytes })
    }

    /// How many segments share the middle eight digits of their names.
    fn per_id(bytes: u64) -> u64 {
        (1 << 32) / bytes.max(1)
    }

    /// Where it begins.
    pub fn start(&self) -> Lsn {
        Lsn(self.number * self.bytes)
    }

    /// Where the next one begins.
    pub fn end(&self) -> Lsn {
        Lsn((self.number + 1) * self.bytes)
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_id = Self::per_id(self.bytes);
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.number / per_id, self.number % per_id)
    }
}

/// Which piece of the log an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PieceName {
    /// A whole segment, by the name of its file.
    Segment(String),
    /// Some of one.
    Part {
        /// The name of its file.
        segment: String,
        /// Bytes of it before the piece.
        from: u32,
        /// Bytes of it to the end of the piece.
        to: u32,
    },
    /// Where a timeline left the one before.
    History(u32),
}

impl PieceName {
    /// The timeline.
    pub fn timeline(&self) -> u32 {
        match self {
            Self::Segment(segment) | Self::Part { segment, .. } => {
                segment.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default()
            }
            Self::History(timeline) => *timeline,
        }
    }

    /// Where the piece lies.
    pub fn sealed_key(&self, cluster: &str) -> ObjectKey {
        layout::wal_key(cluster, self.timeline(), &format!("{self}{SEALED_SUFFIX}"))
    }

    /// Where its record lies.
    pub fn record_key(&self, cluster: &str) -> ObjectKey {
        layout::wal_key(cluster, self.timeline(), &format!("{self}{RECORD_SUFFIX}"))
    }

    /// The piece that the record at `key` is of.
    pub fn of_record_key(key: &ObjectKey) -> Option<Self> {
        key.file_name().strip_suffix(RECORD_SUFFIX)?.parse().ok()
    }
}

impl fmt::Display for PieceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => f.write_str(segment),
            Self::Part { segment, from, to } => write!(f, "{segment}.{from:08X}-{to:08X}"),
            Self::History(timeline) => write!(f, "{timeline:08X}{HISTORY_SUFFIX}"),
        }
    }
}

/// A text that names no piece of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no piece of the write-ahead log")]
pub struct InvalidPieceName(String);

impl FromStr for PieceName {
    type Err = InvalidPieceName;

    fn from_str(text: &str) -> Result<Self, InvalidPieceName> {
        let invalid = || InvalidPieceName(text.into());
        let number = |digits: &str| {
            let is_number = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|_| is_number).ok_or_else(invalid)
        };
        if let Some(timeline) = text.strip_suffix(HISTORY_SUFFIX) {
            return number(timeline).map(Self::History);
        }
        let (segment, range) = text.split_once('.').map_or((text, None), |(name, range)| (name, Some(range)));
        // Any size of segment does to see that it is a name.
        Segment::of_name(segment, 1 << 20).ok_or_else(invalid)?;
        let Some(range) = range else { return Ok(Self::Segment(segment.into())) };
        let (from, to) = range.split_once('-').ok_or_else(invalid)?;
        let (from, to) = (number(from)?, number(to)?);
        if from < to { Ok(Self::Part { segment: segment.into(), from, to }) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for PieceName {
    type Error = InvalidPieceName;

    fn try_from(text: String) -> Result<Self, InvalidPieceName> {
        text.parse()
    }
}

impl From<PieceName> for String {
    fn from(name: PieceName) -> Self {
        name.to_string()
    }
}

/// Where a timeline left another: a line of its history file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// The timeline that was left.
    pub parent: u32,
    /// Where.
    pub at: Lsn,
}

/// Reads a history file: its timeline's ancestors, oldest first. Lines that say nothing are passed over,
/// as PostgreSQL does with comments.
pub fn history(text: &str) -> Vec<Switch> {
    let switch = |line: &str| {
        let mut words = line.split_whitespace();
        Some(Switch { parent: words.next()?.parse().ok()?, at: words.next()?.parse().ok()? })
    };
    text.lines().filter_map(switch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn segments_have_the_names_that_postgresql_gives_them() {
        let segment = Segment::at(1, "2/2A000028".parse().unwrap(), 16 * MIB);
        assert_eq!(segment.to_string(), "00000001000000020000002A");
        assert_eq!(Segment::of_name("00000001000000020000002A", 16 * MIB), Some(segment));
        assert_eq!(segment.start(), "2/2A000000".parse().unwrap());
        let last_of_id = Segment::of_name("0000000100000002000000FF", 16 * MIB).unwrap();
        assert_eq!(last_of_id.next().to_string(), "000000010000000300000000");
        assert_eq!(Segment::of_name("000000010000000200000100", 16 * MIB), None);
        for name in ["", "00000001000000020000002", "00000001000000020000002a", "+0000001000000020000002A"] {
            assert_eq!(Segment::of_name(name, 16 * MIB), None, "{name}");
        }
    }

    #[test]
    fn names_of_pieces_read_back() {
        for text in
            ["00000001000000020000002A", "00000001000000020000002A.00000000-00012000", "00000002.history"]
        {
            let name: PieceName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(PieceName::of_record_key(&name.record_key("prod")), Some(name));
        }
        for text in ["", "x", "2.history", "00000001000000020000002A.00000010-00000010", "a.b-c"] {
            assert!(text.parse::<PieceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_history_file_tells_where_timelines_were_left() {
        let text = "# comment\n1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2026\n";
        let found = history(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], Switch { parent: 2, at: "0/5000000".parse().unwrap() });
    }
}
