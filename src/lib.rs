//! Belay keeps PostgreSQL databases restorable: verified, encrypted snapshots, migrations that
//! start only behind one and are undone when they fail, restores that prove themselves, and
//! retention that never takes the last good copy.
//!
//! # Levels
//!
//! A file names only files of a lower level, or of its own room (`store.rs` and `store/*` are one
//! room). `tests/layers.rs` refuses an upward import.
//!
//! | level | rooms |
//! |---|---|
//! | L9 | `main`: argv → settings → tracing → dispatch; the only `exit` |
//! | L8 | [`daemon`]: does what an operator would do by hand, by the verbs of [`cli`], when it is due |
//! | L7 | [`http`]: shows what [`cli`] reports to whoever may see it, and hands what they ask for to the daemon |
//! | L6 | [`cli`]: verbs, reports, hints, exit codes; the only place that prints |
//! | L5 | [`jobs`]: snapshot, verify, restore, retain, migrate, base backup, log, recovery, written as procedures |
//! | L4 | [`catalog`]: the manifests in the store are the catalog; [`fence`]: keeps writers out, and lets them in again |
//! | L3 | [`seal`] (gzip and age), [`keys`], [`store`], [`postgres`], [`ledger`], [`command`], [`checkout`], [`remote`]: one per outside party |
//! | L2 | [`settings`]: every key, typed; [`tether`]: children end with us |
//! | L0 | [`rules`]: decides, never does: no disk, no network, no clock, no log |
//!
//! # Choices worth knowing before changing them
//!
//! - **pg_dump is the authority** on what a dump contains. Large tables alone go another way, by
//!   `COPY` of ctid ranges in the same exported snapshot; everything else is pg_dump's archive.
//! - **Tables are locked before the snapshot is taken**, because TRUNCATE and DROP do not respect
//!   snapshots ([`postgres::session::Keeper`]).
//! - **The client programs are of the server's own major version** where they are installed, else
//!   the lowest above it: what a newer pg_dump writes, an older server may not read.
//! - **Plain bytes are digested with BLAKE3, stored bytes with SHA-256**: there are many of the
//!   former, and `sha256sum` shall agree about the latter.
//! - **Session values that change text** (time zone, `bytea_output`, `lc_monetary`, …) are pinned
//!   in every session: databases and roles set them, and row digests must not depend on it.
//! - **Rows pass in the database's own encoding, names as UTF-8**: a `SQL_ASCII` database may hold
//!   any bytes, and they come back.
//! - **Partitions that are chosen by the hash of an enum are loaded through their root** and
//!   compared together: OIDs are others after a restore, and with them the partition of a row.
//! - **A migration's commits are told from others' by a mark in the log**: its sessions commit with
//!   `synchronous_commit = remote_apply`, which stands in each commit record ([`rules::wal`]).
//! - **A failed database is closed before its snapshot is loaded**, and what others committed is
//!   looked at right then: no log has to be kept for as long as a load takes.
//! - **A run over several databases is one transaction over them**: what its command changed is put
//!   back in one transaction of renames, or not at all; what it left alone is not touched.
//! - **A run that died before its command started is undone, not gone on with**: nobody waits for
//!   that migration any more.
//! - **A command on another machine is judged by what the server shows**: its runner holds a lease, and one
//!   that is lost tells nothing of how the command ended. The runner ends it, the daemon waits for longer
//!   than that takes, ends the sessions, and only then looks ([`rules::lease`]).
//! - **The log is kept by a slot that nobody streams from**, and that is moved over what is stored: `pg_receivewal`
//!   would report what lies in a spool, which is lost with the host.
//! - **A recovering server is given the log by the process that started it**, through files: keys, addresses and
//!   signatures stay in one place, and nothing has to be configured on a bare host.
//! - **A failed migration is put back from its snapshot, and from the log only where the snapshot lacks something**:
//!   the former is verified before the command, and loads sooner than a cluster is recovered. The restore point is made
//!   behind the moment from which foreign commits are counted: what lies between is refused, and not lost.
//! - **Of a timeline's first segment the parent's copy counts only up to the fork**: PostgreSQL would replay what was given
//!   up behind it ([`rules::recovery`]).
//! - **A base backup whose verification failed is passed over only where another reaches the moment**: what is damaged in it may
//!   be what nobody wants.
//! - **A server that fetches its log itself is told of an end only where it is one**: everything else has an exit code
//!   that stops its recovery.
//! - **Archives of tablespaces come through named pipes** that `pg_basebackup` takes for its files: it writes only one to
//!   its standard output ([`postgres::archives`]).
//! - **A record of the log that makes a tablespace is changed before a recovering server gets it**, unless its directory is
//!   free: on the host of the live server it would replay into the live tablespace ([`rules::wal::tablespaces`]).
//! - **A database of a moment is taken out of its cluster as a snapshot**, and restored as one: there is one way back.
//! - **Base backups and log are proven by recovering a moment drawn by chance**: the log of every moment is needed by some
//!   recovery, and nobody knows by which. Each page is looked at too, since a piece in the place of another decrypts as well.
//! - **Heartbeats lie in the maintenance database alone**: in one that is migrated they would be somebody's commits.
//! - **A guard outlives us while a command runs**: its children do not end with us by themselves, and would write on
//!   into what was put back ([`command`]).
//! - **Tokens lie in the ledger, as hashes**: one that is revoked counts no more from that moment on, and what it
//!   was used for stands in the audit log beside it.
//! - **A verification record names objects, not tables**: it lies in the open. What differs in a
//!   table is told to whoever asked.
//!
//! # Glossary
//!
//! *snapshot*: one logical dump of one database · *manifest*: our signed record of one ·
//! *inventory*: its tables · *catalog*: all manifests · *chunk*: a range of one large table, shared
//! between snapshots · *base backup*: a copy of a cluster's data directory, *incremental*: what changed since
//! another, its *parent* · *piece*: a segment of the
//! write-ahead log, or a part of one · *window*: the moments that a base backup and the log behind it reach · *restore point*: a moment that
//! has a name in the log · *timeline*: a line of the log; a recovered cluster begins one, where it leaves its parent's is its *fork* ·
//! *drill*: a recovery that is made to see whether it can be ·
//! *recipient*: a public key that we encrypt to, *identity*: its private key ·
//! *seal* and *open*: compress and encrypt, and back · *restore*: load a snapshot · *cluster*: one
//! data directory, *database*: one inside it · *fence* and *release*: keep writers out, and let
//! them in · *run*: one gated migration, *class*: what it did, *verdict*: how it ended.
//!
//! # Invariants
//!
//! 1. Every object in the store is write-once. A verification is a second small object beside
//!    the manifest.
//! 2. The manifest is the commit point and is written last, signed. Payload without a manifest is
//!    litter: swept after a grace period, never listed.
//! 3. A child's exit status is known before anything that depends on it is published.
//! 4. Two digests per object: of the plain bytes, and of the bytes in the store.
//! 5. Plain data never touches a disk of ours, but for the schema archive while restoring, the list of
//!    files of a base backup, and the scratch cluster, all under a 0700 directory that is emptied at start, and the
//!    log on its way, in 0700 directories of the state directory.
//! 6. Retention never removes the newest verified snapshot, the newest of the deepest depth that any
//!    was verified to, the newest verified base backup and the log behind it, what is pinned, or what another kept
//!    snapshot needs.
//! 7. A restore never overwrites: it loads beside, is proven, and takes the name in one
//!    transaction. The previous database is kept until its expiry.
//! 8. Memory is bounded by settings, not by the size of the database (one row is held whole).
//! 9. Secrets are never in argv, logs, errors, the ledger, or a report.
//! 10. Every phase of a gated run is journalled before its act, and what undoes a fence before the
//!     fence goes up. A command that may have started is never started again, and nothing is put
//!     back before the run was settled and classified.

pub mod rules;
pub mod settings;
pub mod tether;

pub mod checkout;
pub mod command;
pub mod keys;
pub mod ledger;
pub mod postgres;
pub mod remote;
pub mod seal;
pub mod store;

pub mod catalog;
pub mod fence;

pub mod jobs;

pub mod cli;

pub mod http;

pub mod daemon;
