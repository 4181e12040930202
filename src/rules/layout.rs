//! Where each object lies in the store (format 1). Paths only: nothing here reads or writes.
//!
//! ```text
//! belay.json                                      repository record
//! <cluster>/snapshots/<database>/<id>/…           one folder per snapshot
//! <cluster>/chunks/<aa>/<chunk-name>.copy.gz.age  ranges of large tables, shared by snapshots
//! <cluster>/base/<id>/…                           one folder per base backup
//! <cluster>/wal/<timeline>/…                      the write-ahead log ([`super::physical`])
//! <cluster>/points/<run>.json                     moments before migrations ([`super::restore_point`])
//! ```
//!
//! A database name is percent-encoded outside `[A-Za-z0-9_-]`, so that any name PostgreSQL
//! accepts is one path segment.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

/// The repository record at the root of the store.
pub const REPOSITORY_RECORD: &str = "belay.json";
/// The commit point of a snapshot.
pub const MANIFEST: &str = "manifest.json";
/// `pg_dump -Fc` of the sections before and after the data.
pub const SCHEMA: &str = "schema.dump.gz.age";
/// `pg_dump -Fc` of the data section without the large tables.
pub const DATA: &str = "data.dump.gz.age";
/// Roles, memberships, role settings and tablespaces as SQL.
pub const GLOBALS: &str = "globals.sql.gz.age";
/// The [`Inventory`](super::manifest::Inventory) as JSON.
pub const INVENTORY: &str = "inventory.json.gz.age";
/// The commands that restore the snapshot with stock tools.
pub const RESTORE_TEXT: &str = "RESTORE.txt";
/// What `pg_basebackup` wrote: the data directory as tar, with its own `backup_manifest` at the end unless
/// that is an object of its own.
pub const BASE: &str = "base.tar.gz.age";
/// The list of files of a base backup, which `pg_basebackup` wrote.
pub const BACKUP_MANIFEST: &str = "backup_manifest.gz.age";
/// Present while an operator keeps the snapshot from retention.
pub const PIN: &str = "pinned.json";

/// A text that is not a valid name for its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}")]
pub struct InvalidName {
    /// What the text should have been.
    pub kind: &'static str,
    /// The text as given.
    pub text: String,
}

/// The address of an object in a store: `/`-separated segments, never empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Accepts `text` as a key.
    ///
    /// # Errors
    /// [`InvalidName`] for an empty, `.` or `..` segment, or a NUL.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        let is_safe =
            |segment: &str| !matches!(segment, "" | "." | "..") && !segment.contains(['\0', '\\', '\n']);
        if text.split('/').all(is_safe) {
            Ok(Self(text))
        } else {
            Err(InvalidName { kind: "object key", text })
        }
    }

    /// The key as text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segment after the last slash.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";
/// How much of an id's tail is chance.
const NOISE_BITS: u32 = 20;

/// The name of a snapshot: `20261123T140312Z-k7q2mx`. It sorts by time, to the millisecond: after
/// the second come two characters of milliseconds, and four of noise that make it unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Makes the id of a snapshot taken at `taken_at`; the low 20 bits of `noise` make it unique.
    pub fn new(taken_at: DateTime<Utc>, noise: u32) -> Self {
        // A leap second has more than a thousand.
        let milliseconds = taken_at.timestamp_subsec_millis().min(999);
        let bits = milliseconds << NOISE_BITS | noise & ((1 << NOISE_BITS) - 1);
        Self(format!("{}-{}", taken_at.format(TIME_FORMAT), tail(bits)))
    }

    /// The time in the id, to the second.
    pub fn time(&self) -> DateTime<Utc> {
        let stamp = self.0.split('-').next().unwrap_or_default();
        NaiveDateTime::parse_from_str(stamp, TIME_FORMAT).map(|t| t.and_utc()).unwrap_or_default()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Six lower-case base32 characters for the low 30 bits of `bits`; texts sort as the numbers do.
pub fn tail(bits: u32) -> String {
    // The characters of RFC 4648, in the order of their codes.
    let character = |place: u32| match (bits >> (5 * place) & 31) as u8 {
        digit @ 0..6 => char::from(b'2' + digit),
        letter => char::from(b'a' + letter - 6),
    };
    (0..6).rev().map(character).collect()
}

impl FromStr for SnapshotId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName { kind: "snapshot id", text: text.into() };
        let (stamp, tail) = text.split_once('-').ok_or_else(invalid)?;
        NaiveDateTime::parse_from_str(stamp, TIME_FORMAT).map_err(|_| invalid())?;
        let is_base32 = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
        if tail.len() == 6 && tail.chars().all(is_base32) { Ok(Self(text.into())) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotHome {
    /// Name of the cluster in the settings.
    pub cluster: String,
    /// Name of the database, as PostgreSQL has it.
    pub database: String,
    /// The snapshot.
    pub id: SnapshotId,
}

impl SnapshotHome {
    /// The key of `file` in this folder; `file` is one of this module's names.
    pub fn key(&self, file: &str) -> ObjectKey {
        ObjectKey(format!("{}/snapshots/{}/{}/{file}", self.cluster, encode_segment(&self.database), self.id))
    }

    /// The key prefix of every object of this snapshot, with its trailing slash.
    pub fn prefix(&self) -> String {
        format!("{}/snapshots/{}/{}/", self.cluster, encode_segment(&self.database), self.id)
    }

    /// Reads the folder out of the key of an object in it, with the object's file name.
    pub fn of_key(key: &ObjectKey) -> Option<(Self, &str)> {
        let mut segments = key.as_str().split('/');
        let (cluster, kind) = (segments.next()?, segments.next()?);
        let (database, id, file) = (segments.next()?, segments.next()?, segments.next()?);
        if kind != "snapshots" || segments.next().is_some() {
            return None;
        }
        let id = id.parse().ok()?;
        Some((Self { cluster: cluster.into(), database: decode_segment(database)?, id }, file))
    }
}

const VERIFICATION_PREFIX: &str = "verified-";

/// The file name of the record of a verification to `depth` that ended `at`.
pub fn verification_name(depth: &str, at: DateTime<Utc>) -> String {
    format!("{VERIFICATION_PREFIX}{depth}-{}.json", at.format("%Y%m%dT%H%M%S%3fZ"))
}

/// Whether a file of this name is the record of a verification.
pub fn is_verification(file_name: &str) -> bool {
    file_name.starts_with(VERIFICATION_PREFIX)
}

/// The prefix of all base backups of `cluster`.
pub fn bases_prefix(cluster: &str) -> String {
    format!("{cluster}/base/")
}

/// The key of `file` in the folder of a base backup.
pub fn base_key(cluster: &str, id: &SnapshotId, file: &str) -> ObjectKey {
    ObjectKey(format!("{cluster}/base/{id}/{file}"))
}

/// The file name of the archive of a tablespace, in the folder of a base backup.
pub fn tablespace_file(oid: u32) -> String {
    format!("{oid}.tar.gz.age")
}

/// Reads the base backup out of the key of an object in its folder, with the object's file name.
pub fn base_of_key(key: &ObjectKey) -> Option<(SnapshotId, &str)> {
    let mut segments = key.as_str().split('/').skip(1);
    let (kind, id, file) = (segments.next()?, segments.next()?, segments.next()?);
    (kind == "base" && segments.next().is_none()).then_some((id.parse().ok()?, file))
}

/// The prefix of all of the write-ahead log of `cluster`.
pub fn wal_prefix(cluster: &str) -> String {
    format!("{cluster}/wal/")
}

/// The key of `file` in the folder of a timeline.
pub fn wal_key(cluster: &str, timeline: u32, file: &str) -> ObjectKey {
    ObjectKey(format!("{cluster}/wal/{timeline:08X}/{file}"))
}

/// Whether an object is a piece of the write-ahead log, or the record of one.
pub fn is_of_log(key: &ObjectKey) -> bool {
    let mut segments = key.as_str().split('/').skip(1);
    segments.next() == Some("wal") && segments.count() == 2
}

/// The prefix of all restore points of `cluster`.
pub fn points_prefix(cluster: &str) -> String {
    format!("{cluster}/points/")
}

/// The key of the restore point of `run`.
pub fn point_key(cluster: &str, run: &SnapshotId) -> ObjectKey {
    ObjectKey(format!("{cluster}/points/{run}.json"))
}

/// Reads the run out of the key of its restore point.
pub fn point_of_key(key: &ObjectKey) -> Option<SnapshotId> {
    key.file_name().strip_suffix(".json")?.parse().ok()
}

/// The prefix of all snapshots of `cluster`.
pub fn snapshots_prefix(cluster: &str) -> String {
    format!("{cluster}/snapshots/")
}

/// The prefix of all chunks of `cluster`.
pub fn chunks_prefix(cluster: &str) -> String {
    format!("{cluster}/chunks/")
}

/// The prefix of all heads of the audit logs of `cluster`.
pub fn audit_prefix(cluster: &str) -> String {
    format!("{cluster}/audit/")
}

/// The key of the head of the log `chain` (the hash of its first row) at row `number`.
pub fn audit_head_key(cluster: &str, chain: &str, number: u64) -> ObjectKey {
    let chain = chain.get(..16).unwrap_or(chain);
    ObjectKey(format!("{cluster}/audit/{chain}-{number:012}.json"))
}

const CHUNK_SUFFIX: &str = ".copy.gz.age";

/// The key of the chunk object called `name` (see [`super::manifest::ChunkRecord`]).
pub fn chunk_key(cluster: &str, name: &str) -> ObjectKey {
    let shard = name.get(..2).unwrap_or("00");
    ObjectKey(format!("{cluster}/chunks/{shard}/{name}{CHUNK_SUFFIX}"))
}

/// The chunk name in `key`, when it is the key of a chunk.
pub fn chunk_name(key: &ObjectKey) -> Option<&str> {
    key.file_name().strip_suffix(CHUNK_SUFFIX)
}

/// Writes `name` as one path segment: percent-encoded outside `[A-Za-z0-9_-]`.
pub fn encode_segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn decode_segment(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_sorts_by_time_and_reads_back() {
        let at = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let id = SnapshotId::new(at, 7);
        assert_eq!(id.time(), at);
        assert_eq!(id.as_str().parse::<SnapshotId>().unwrap(), id);
        assert!(SnapshotId::new(at + chrono::TimeDelta::seconds(1), 0) > id);
        assert!(SnapshotId::new(at + chrono::TimeDelta::milliseconds(1), 0) > id);
    }

    #[test]
    fn tails_sort_as_their_numbers() {
        let tails = [0, 1, 5, 6, 31, 32, 1 << 20, (1 << 30) - 1].map(tail);
        assert!(tails.is_sorted(), "{tails:?}");
        assert_eq!((tails[0].as_str(), tails[7].as_str()), ("222222", "zzzzzz"));
    }

    #[test]
    fn any_database_name_is_one_segment() {
        let id = SnapshotId::new(DateTime::UNIX_EPOCH, 1);
        for database in ["app", "A b/c", "..", ".", "naïve\n\"x\"%41", "数据"] {
            let home = SnapshotHome { cluster: "prod".into(), database: database.into(), id: id.clone() };
            let key = home.key(MANIFEST);
            assert!(ObjectKey::new(key.as_str()).is_ok());
            assert_eq!(SnapshotHome::of_key(&key), Some((home, MANIFEST)));
        }
    }

    #[test]
    fn key_refuses_climbing() {
        for text in ["", "a//b", "../a", "a/..", "/a", "a/", "a\0b"] {
            assert!(ObjectKey::new(text).is_err(), "{text:?}");
        }
    }
}
