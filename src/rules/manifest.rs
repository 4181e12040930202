//! The stored format, version 1: manifest, inventory, verification record.
//!
//! The *manifest* is plain and signed; it says what a snapshot consists of, without names of
//! tables. Its digests cover everything that a restore reads or runs, the plain `RESTORE.txt`
//! too. The *inventory* is sealed; it says what a restored database must hold. A
//! *verification record* is plain and signed; it says what was proven of a snapshot, and when.
//!
//! A chunk's name is its chunk id, 32 hexadecimal digits of a keyed BLAKE3 over the plain digest
//! of its bytes, so that an unchanged range is stored once and the name tells a stranger
//! nothing. Where a chunk of that name was found damaged, or is sealed to other recipients, the
//! next snapshot stores it again as `<chunk-id>-<6 base32>`. So everything that a manifest names,
//! chunks included, is sealed to the recipients in the manifest, and to nobody else.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::digest::{Digest256, RowTally};
use super::layout::SnapshotId;
use super::signature::SignerKey;
use super::wal::WindowStart;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// Kind of signed document: [`Manifest`].
pub const MANIFEST_KIND: &str = "manifest";
/// Kind of signed document: [`Verification`].
pub const VERIFICATION_KIND: &str = "verification";
/// Kind of signed document: [`RepositoryRecord`].
pub const REPOSITORY_KIND: &str = "repository";

/// `belay.json`: what the repository is and who writes to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRecord {
    /// [`FORMAT`] of everything in the repository.
    pub format: u32,
    /// 26 base32 characters, made at `init`.
    pub repository: String,
    /// When `belay init` made it.
    pub created_at: DateTime<Utc>,
    /// Host name of the one writer; for messages, the signer is what counts.
    pub host: String,
    /// The public key that signs everything in the repository.
    pub signer: SignerKey,
    /// Signers before the last takeover; what they signed still counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_signers: Vec<SignerKey>,
    /// The age recipients at `init`; each manifest names its own.
    pub recipients: Vec<String>,
}

/// Sizes and digests of one object, plain and as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Bytes before compression and encryption.
    pub plain_bytes: u64,
    /// BLAKE3 of the plain bytes.
    pub plain_blake3: Digest256,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// SHA-256 of the bytes in the store.
    pub stored_sha256: Digest256,
}

impl ObjectRecord {
    /// The record of an object that is stored as it is.
    pub fn of_unsealed(bytes: &[u8]) -> Self {
        Self {
            plain_bytes: bytes.len() as u64,
            plain_blake3: Digest256::blake3(bytes),
            stored_bytes: bytes.len() as u64,
            stored_sha256: Digest256::sha256(bytes),
        }
    }
}

/// One chunk object that a snapshot needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// The object's name (see the module's text).
    pub name: String,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// SHA-256 of the bytes in the store.
    pub stored_sha256: Digest256,
}

impl ChunkRecord {
    /// The chunk id, without the tail of a replacement.
    pub fn chunk_id(&self) -> &str {
        self.name.split('-').next().unwrap_or(&self.name)
    }
}

/// The objects of a snapshot besides its chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// `schema.dump.gz.age`
    pub schema: ObjectRecord,
    /// `data.dump.gz.age`
    pub data: ObjectRecord,
    /// `globals.sql.gz.age`
    pub globals: ObjectRecord,
    /// `inventory.json.gz.age`
    pub inventory: ObjectRecord,
    /// `RESTORE.txt`, which lies in the open; absent in manifests written before it was
    /// recorded, and not compared then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_text: Option<ObjectRecord>,
}

/// `manifest.json`: our record of one snapshot, and its commit point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`]; a reader refuses a newer one.
    pub format: u32,
    /// The snapshot.
    pub id: SnapshotId,
    /// [`RepositoryRecord::repository`].
    pub repository: String,
    /// Name of the cluster in the settings.
    pub cluster: String,
    /// PostgreSQL's own identifier of the cluster; `None` when the role may not read it.
    pub system_identifier: Option<String>,
    /// Name of the database.
    pub database: String,
    /// OID of the database when the snapshot was taken.
    pub database_oid: u32,
    /// When the exported snapshot was taken, by the host's clock.
    pub taken_at: DateTime<Utc>,
    /// When the last object before the manifest was stored.
    pub finished_at: DateTime<Utc>,
    /// `pg_current_wal_insert_lsn()` at the snapshot (the replay position on a standby).
    pub lsn: String,
    /// `pg_current_snapshot()` as text: which transactions the snapshot sees.
    pub visible_transactions: String,
    /// Where the log is read from to learn what the snapshot does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_start: Option<WindowStart>,
    /// Alembic revisions (`version_num`), sorted; empty without a version table.
    pub revisions: Vec<String>,
    /// `server_version_num`, such as 150018.
    pub server_version_num: u32,
    /// `pg_dump --version` of the program that wrote the archives.
    pub pg_dump_version: String,
    /// Version of Belay.
    pub belay_version: String,
    /// Tables with data in the snapshot.
    pub tables: u64,
    /// Rows in those tables.
    pub rows: u64,
    /// Plain bytes of all sealed objects and chunks.
    pub plain_bytes: u64,
    /// Stored bytes of all sealed objects and chunks, shared or not.
    pub stored_bytes: u64,
    /// The objects in the snapshot's folder.
    pub objects: Objects,
    /// The chunks that the snapshot needs, each once, sorted by name.
    pub chunks: Vec<ChunkRecord>,
    /// The age recipients that every sealed object of the folder, and every chunk, is sealed to.
    pub recipients: Vec<String>,
}

/// How deep a verification went; a deeper one includes the shallower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every byte was read again and has the stored digest.
    Stored,
    /// Decrypted, decompressed, archives listed, rows counted and digested.
    Readable,
    /// Restored into a scratch cluster and compared there.
    Restored,
}

impl Depth {
    /// The name in settings, file names and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Readable => "readable",
            Self::Restored => "restored",
        }
    }
}

/// `verified-<depth>-<time>.json`: what was proven of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// [`FORMAT`].
    pub format: u32,
    /// The snapshot.
    pub id: SnapshotId,
    /// [`RepositoryRecord::repository`].
    pub repository: String,
    /// How deep it went.
    pub depth: Depth,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Whether no problem was found.
    pub is_ok: bool,
    /// Each problem as a sentence.
    pub problems: Vec<String>,
    /// Names of chunks that are missing or damaged; a later snapshot stores them anew.
    pub damaged_chunks: Vec<String>,
    /// Tables compared with the inventory.
    pub tables_compared: u64,
    /// Rows compared with the inventory.
    pub rows_compared: u64,
    /// How long the restore into the scratch cluster took, at depth `restored`.
    pub restore_ms: Option<u64>,
    /// How long the whole verification took.
    pub elapsed_ms: u64,
}

/// `inventory.json`: what a restored database must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// [`FORMAT`].
    pub format: u32,
    /// The snapshot.
    pub id: SnapshotId,
    /// What `CREATE DATABASE` and `ALTER DATABASE` need.
    pub properties: DatabaseProperties,
    /// The same as SQL for stock psql.
    pub sql: DatabaseSql,
    /// Extensions in the database.
    pub extensions: Vec<Extension>,
    /// Roles that owners, ACLs and settings of the database name.
    pub roles: Vec<String>,
    /// The cluster's bootstrap superuser (OID 10).
    pub bootstrap_superuser: String,
    /// Tablespaces that objects of the database lie in.
    pub tablespaces: Vec<String>,
    /// The encoding of the COPY text that chunks hold and rows are digested as: the database's own.
    /// `UTF8` in inventories written before it was.
    #[serde(default = "utf8")]
    pub copy_encoding: String,
    /// Every table with data.
    pub tables: Vec<TableRecord>,
    /// Every sequence.
    pub sequences: Vec<SequenceRecord>,
    /// Large objects, `None` when the role may not read `pg_largeobject`.
    pub large_objects: Option<RowTally>,
    /// Indexes and constraints by name: `index public.orders_pkey`, `constraint public.orders orders_fk`.
    pub structures: Vec<String>,
    /// BLAKE3 of the schema as SQL text (see `postgres::tools`), comparable within one major
    /// version of server and pg_dump.
    pub schema_digest: Digest256,
}

fn utf8() -> String {
    "UTF8".into()
}

/// What stays with a database's OID and must be made anew with a restored one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseProperties {
    /// Owner.
    pub owner: String,
    /// Encoding name, such as `UTF8`.
    pub encoding: String,
    /// `libc`, `icu` or `builtin`.
    pub locale_provider: String,
    /// `datcollate`
    pub collate: String,
    /// `datctype`
    pub ctype: String,
    /// `daticulocale` or `datlocale`, for the providers that have one.
    pub locale: Option<String>,
    /// `daticurules`
    pub icu_rules: Option<String>,
    /// Default tablespace.
    pub tablespace: String,
    /// `datconnlimit`; -1 is no limit.
    pub connection_limit: i32,
    /// `datistemplate`
    pub is_template: bool,
    /// `datallowconn`
    pub allows_connections: bool,
    /// `datacl`, `None` for the default.
    pub acl: Option<Vec<Grant>>,
    /// `COMMENT ON DATABASE`
    pub comment: Option<String>,
    /// Security labels as (provider, label).
    pub security_labels: Vec<(String, String)>,
    /// `ALTER DATABASE … SET`: (role or `None` for all, `name=value`).
    pub settings: Vec<(Option<String>, String)>,
    /// `pg_database_size()` when the snapshot was taken.
    pub disk_bytes: u64,
}

/// One right on the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who has it; `None` is PUBLIC.
    pub grantee: Option<String>,
    /// `CONNECT`, `CREATE` or `TEMPORARY`.
    pub privilege: String,
    /// WITH GRANT OPTION
    pub is_grantable: bool,
}

/// The statements of [`super::sql`] for stock psql, which fills in `:"target"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSql {
    /// `CREATE DATABASE`
    pub create: String,
    /// Owner, rights, settings, comment.
    pub properties: String,
}

/// An extension of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// `extname`
    pub name: String,
    /// `extversion`
    pub version: String,
    /// Its schema.
    pub schema: String,
}

/// One table with data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The columns that COPY writes, in order: no dropped and no generated ones.
    pub columns: Vec<String>,
    /// The types of those columns as a column definition writes them, schema-qualified outside
    /// `pg_catalog`, with a collation that is not the type's own; empty in inventories written
    /// before types were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// For an extension's configuration table: the condition that selects its dumped rows
    /// (`WHERE …`, may be empty); only those are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// For a partition whose rows may belong into another one where they are restored (see
    /// [`PartitionRoot`]): the table that they are loaded through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_through: Option<PartitionRoot>,
    /// Rows and their digest.
    #[serde(flatten)]
    pub tally: RowTally,
    /// Where the rows are: chunks in order, or `None` when they are in `data.dump`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Vec<ChunkPart>>,
}

/// The topmost table of a tree whose hash partitions depend on OIDs, as those on an enum do.
///
/// OIDs are others after a restore, and so is the partition that a row belongs into. The partitions
/// of one root hold the rows of the snapshot together, not each its own; their columns are listed
/// in the root's order, so that a row has the same digest in each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionRoot {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// A chunk as a part of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkPart {
    /// [`ChunkRecord::name`].
    pub name: String,
    /// Bytes of COPY text.
    pub plain_bytes: u64,
    /// BLAKE3 of the COPY text.
    pub plain_blake3: Digest256,
    /// Its rows and their digest.
    #[serde(flatten)]
    pub tally: RowTally,
}

/// One sequence, read before and after the data was dumped.
///
/// Sequences do not follow snapshots: on a live database pg_dump reads a value between the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// State before pg_dump ran.
    pub before: SequenceState,
    /// State after pg_dump ran.
    pub after: SequenceState,
}

/// The state of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceState {
    /// `last_value`
    pub last_value: i64,
    /// Whether `last_value` was handed out.
    pub is_called: bool,
}

impl SequenceRecord {
    /// Whether a restored sequence in `state` fits what was seen.
    pub fn admits(&self, state: SequenceState) -> bool {
        if self.before == self.after {
            return state == self.before;
        }
        let (low, high) = (
            self.before.last_value.min(self.after.last_value),
            self.before.last_value.max(self.after.last_value),
        );
        state == self.before || (low..=high).contains(&state.last_value)
    }
}

/// A signed document whose format this program does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("format {found} is unknown, this program reads formats up to {FORMAT}")]
pub struct UnknownFormat {
    /// The format in the document.
    pub found: u32,
}

/// Refuses a format that this program does not know.
///
/// # Errors
/// [`UnknownFormat`]
pub fn check_format(found: u32) -> Result<(), UnknownFormat> {
    if found == FORMAT { Ok(()) } else { Err(UnknownFormat { found }) }
}
