//! Where each object lies in the store (format 1). Paths only: nothing here reads or writes.
//!
//! ```text
//! belay.json                                      repository record
//! <cluster>/snapshots/<database>/<id>/…           one folder per snapshot
//! <cluster>/chunks/<aa>/<chunk-name>.copy.gz.age  ranges of large tables, shared by snapshots
//! ```
//!
//! A database name is percent-encoded outside `[A-Za-z0-9_-]`, so that any name PostgreSQL
//! accepts is one path segment.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use data_encoding::BASE32_NOPAD;
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

/// The name of a snapshot: `20261123T140312Z-k7q2mx`; sorts by time, unique by its tail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Makes the id of a snapshot taken at `taken_at`; `noise` makes it unique.
    pub fn new(taken_at: DateTime<Utc>, noise: u32) -> Self {
        Self(format!("{}-{}", taken_at.format(TIME_FORMAT), tail(noise)))
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

/// Six lower-case base32 characters (30 bits of `noise`).
pub fn tail(noise: u32) -> String {
    BASE32_NOPAD.encode(&noise.to_be_bytes()).chars().take(6).collect::<String>().to_lowercase()
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

/// The prefix of all snapshots of `cluster`.
pub fn snapshots_prefix(cluster: &str) -> String {
    format!("{cluster}/snapshots/")
}

/// The prefix of all chunks of `cluster`.
pub fn chunks_prefix(cluster: &str) -> String {
    format!("{cluster}/chunks/")
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
