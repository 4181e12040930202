//! From the fence to the moment before the command starts.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::JobError;
use super::facts::{Armed, Rehearsal, TakenSnapshot};
use super::walk::Walk;
use super::window::Committed;
use crate::catalog::Entry;
use crate::fence::{self, Context, FenceError, Ours, Undo};
use crate::jobs::snapshot;
use crate::jobs::verify::{self, Recording};
use crate::postgres::session::{column, rows};
use crate::postgres::{PostgresError, limited, wal};
use crate::rules::causes::in_a_sentence;
use crate::rules::gate::{Order, Outcome, Verdict};
use crate::rules::manifest::Depth;
use crate::rules::wal::Lsn;
use crate::settings::CheckKind;

/// The `application_name` of our own sessions.
const OUR_SESSIONS: Ours<'static> = Ours { applications: &["belay"], roles: &[] };
/// How far before its own position the log of an earlier snapshot is read: it was taken a moment
/// before its position was.
const REUSE_MARGIN_BYTES: u64 = 16 << 20;

/// How a fence of a run is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GateUndo {
    /// As its party has it.
    Fence(Undo),
    /// The database of this OID lets sessions in again.
    Connections(u32),
}

impl Walk<'_> {
    pub(super) async fn with_fence_context<T>(
        &mut self,
        work: impl AsyncFnOnce(&Context<'_>) -> T,
    ) -> Result<T, JobError> {
        let server = self.server().await?;
        let connection = &self.means.database.connection;
        let context = Context {
            connection,
            database: &connection.database,
            tools: &server.tools,
            search_path: self.means.path,
            fence_timeout: self.means.gate.fence_timeout,
        };
        Ok(work(&context).await)
    }

    /// Raises every fence, each written down before, and sees to it that nobody is left.
    pub(super) async fn raise_fences(&mut self) -> Result<Outcome, JobError> {
        if self.facts.order.is_none() {
            if self.facts.rehearsal != Rehearsal::Only {
                self.facts.notes.push("nobody is kept out: an automatic restore is off".into());
            }
            return Ok(Outcome::Passed);
        }
        let (ledger, run) = (self.means.ledger, self.request.id.clone());
        let gate = self.means.gate;
        let stand_already = !ledger.standing_fences(&run).await?.is_empty();
        let raised = self
            .with_fence_context(async |context| {
                for fence in gate.fences.iter().filter(|_| !stand_already) {
                    let named = |error| not_raised(&fence.name, &error);
                    let undo = fence::look(fence, context).await.map_err(named)?;
                    let text = undo_text(&GateUndo::Fence(undo.clone()));
                    ledger.record_fence(&run, &text).await?;
                    fence::raise(fence, &undo, context).await.map_err(named)?;
                }
                Ok::<_, JobError>(fence::empty(context, gate.sessions, OUR_SESSIONS).await?)
            })
            .await?;
        raised.map(|()| Outcome::Passed)
    }

    /// Makes sure once more that nobody is in the database, where writers are kept out.
    async fn keep_empty(&mut self) -> Result<(), JobError> {
        if self.facts.order.is_none() {
            return Ok(());
        }
        let policy = self.means.gate.sessions;
        let empty = self
            .with_fence_context(async |context| fence::empty(context, policy, OUR_SESSIONS).await)
            .await?;
        Ok(empty?)
    }

    /// Takes a snapshot, or finds one that is fresh enough and still holds everything.
    pub(super) async fn take_snapshot(&mut self) -> Result<Outcome, JobError> {
        if self.snapshots_taken == 0 && self.reuse_snapshot().await? {
            return Ok(Outcome::Passed);
        }
        self.snapshots_taken += 1;
        let is_fenced = self.is_fenced();
        let start = wal::begin_window(&mut self.maintenance_session().await?).await?;
        let mut elsewhere = self.open_elsewhere().await?;
        let means = snapshot::Means {
            catalog: self.means.catalog,
            sealer: self.means.sealer,
            signing: self.means.signing,
            chunk_key: self.means.chunk_key,
            bin_directory: self.means.bin_directory,
            path: self.means.path,
            progress: self.means.progress,
        };
        let taken = snapshot::take(&means, self.means.database, rand::random(), self.clock).await?;
        elsewhere.extend(self.open_elsewhere().await?);
        let id = taken.manifest.id;
        self.facts.snapshot = Some(TakenSnapshot {
            id,
            is_reused: false,
            is_fenced,
            from_lsn: start.lsn,
            next_transaction: Some(start.next_transaction),
            restore_ms: None,
            elsewhere,
        });
        self.entry = self.find_entry().await?;
        Ok(Outcome::Passed)
    }

    /// Whether writers are kept out by now.
    pub(super) fn is_fenced(&self) -> bool {
        match self.facts.order {
            Some(Order::FenceFirst) => true,
            Some(Order::SnapshotFirst) => self.snapshots_taken > 1,
            None => false,
        }
    }

    /// Transactions of other databases that are open now.
    async fn open_elsewhere(&self) -> Result<Vec<u32>, JobError> {
        let oid = self.facts.identity.as_ref().map_or(0, |identity| identity.oid);
        let sql = format!(
            "SELECT backend_xid::text AS xid FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND datid <> {oid} \
             UNION SELECT p.transaction::text FROM pg_catalog.pg_prepared_xacts p JOIN pg_catalog.pg_database d ON d.datname = p.database \
             WHERE d.oid <> {oid}"
        );
        let mut session = self.maintenance_session().await?;
        let found = rows(&mut session, "list open transactions", sql).await?;
        let xids: Result<Vec<String>, _> = found.iter().map(|row| column(row, "xid")).collect();
        Ok(xids?.iter().filter_map(|xid| xid.parse().ok()).collect())
    }

    /// The catalog's entry of the run's snapshot.
    pub(super) async fn find_entry(&self) -> Result<Option<Entry>, JobError> {
        let Some(snapshot) = &self.facts.snapshot else { return Ok(None) };
        let listing = self.means.catalog.list().await?;
        Ok(listing.entries.into_iter().find(|entry| entry.manifest.id == snapshot.id))
    }

    /// Takes the newest verified snapshot if it is young enough, of this very database, and
    /// nothing was committed since.
    async fn reuse_snapshot(&mut self) -> Result<bool, JobError> {
        let (gate, now) = (self.means.gate, (self.clock)());
        let Some(identity) = self.facts.identity.clone() else { return Ok(false) };
        if gate.fresh_within <= TimeDelta::zero() {
            return Ok(false);
        }
        let name = &self.means.database.connection.database;
        let is_fresh = |entry: &Entry| {
            let age = now - entry.manifest.taken_at;
            entry.manifest.database == *name
                && entry.manifest.database_oid == identity.oid
                && entry.manifest.system_identifier == identity.system_identifier
                && age >= TimeDelta::zero()
                && age <= gate.fresh_within
                && entry.verified().is_some_and(|verified| verified.depth >= gate.verify_depth)
        };
        let found = self.means.catalog.list().await?.entries.into_iter().rfind(is_fresh);
        let Some((entry, lsn)) = found
            .and_then(|entry| Some((entry.manifest.lsn.parse::<Lsn>().ok()?, entry)))
            .map(|(l, e)| (e, l))
        else {
            return Ok(false);
        };
        self.facts.snapshot = Some(TakenSnapshot {
            id: entry.manifest.id.clone(),
            is_reused: true,
            is_fenced: false,
            from_lsn: Lsn(lsn.0.saturating_sub(REUSE_MARGIN_BYTES)),
            next_transaction: None,
            restore_ms: entry.restore_ms(),
            elsewhere: Vec::new(),
        });
        self.entry = Some(entry);
        let to = self.lsn().await?;
        let committed = self.committed_since_snapshot(to).await?;
        if matches!(&committed, Committed::Known { .. }) && committed.in_words().is_none() {
            return Ok(true);
        }
        (self.facts.snapshot, self.entry) = (None, None);
        Ok(false)
    }

    /// Verifies the snapshot to the depth that the settings ask for.
    pub(super) async fn verify_snapshot(&mut self) -> Result<Outcome, JobError> {
        let wants_copy = self.facts.rehearsal != Rehearsal::Not && self.facts.rehearsed.is_none();
        let is_reused = self.facts.snapshot.as_ref().is_some_and(|snapshot| snapshot.is_reused);
        let Some(entry) = self.entry.clone() else {
            self.facts.reasons.push("the snapshot that was taken is not in the catalog".into());
            return Ok(Outcome::Refused(Verdict::NoSnapshot));
        };
        if is_reused && !wants_copy {
            return Ok(Outcome::Passed);
        }
        let means = verify::Means {
            catalog: self.means.catalog,
            opener: self.means.opener,
            signing: Some(self.means.signing),
            bin_directory: self.means.bin_directory,
            path: self.means.path,
            scratch_directory: self.means.scratch_directory,
            jobs: self.means.verify_jobs,
            stall_timeout: self.means.database.stall_timeout,
            progress: self.means.progress,
        };
        let depth = if wants_copy { Depth::Restored } else { self.means.gate.verify_depth };
        let (verified, copy) = verify::verify_keeping_copy(&means, &entry, depth, self.clock).await?;
        self.drop_copy().await;
        self.copy = copy;
        if !wants_copy {
            self.drop_copy().await;
        }
        if let Some(snapshot) = &mut self.facts.snapshot {
            snapshot.restore_ms = verified.record.restore_ms.or(snapshot.restore_ms);
        }
        if verified.record.is_ok {
            // Retention and the next run go by the record: without it, the snapshot counts for less.
            return match verified.recording {
                Recording::Failed(error) => Err(error.into()),
                Recording::Done | Recording::NoKey => Ok(Outcome::Passed),
            };
        }
        self.facts.reasons.extend(verified.record.problems.into_iter().chain(verified.differences));
        Ok(Outcome::Refused(Verdict::NoSnapshot))
    }

    /// Writes down the state before the command, and makes sure that the snapshot holds it.
    pub(super) async fn arm(&mut self) -> Result<Outcome, JobError> {
        let server = self.server().await?;
        let before = self.look(&server.tools).take().await?;
        let answers = self.answers().await?;
        let has_own_mark = self.has_own_mark().await?;
        self.make_local_copy().await?;
        self.hold_log().await?;
        // Whoever came since the fence went up may have written, and commit while the command runs.
        self.keep_empty().await?;
        let elsewhere = self.open_elsewhere().await?;
        let start = wal::begin_window(&mut self.maintenance_session().await?).await?;
        let (lsn, next_transaction) = (start.lsn, start.next_transaction);
        let committed = self.committed_since_snapshot(lsn).await?;
        self.facts.armed = Some(Armed { lsn, next_transaction, elsewhere, before, answers, has_own_mark });
        let is_kept_out = self.facts.order.is_some();
        match (&committed, committed.in_words()) {
            (Committed::Known { .. }, None) => Ok(Outcome::Passed),
            (_, Some(what)) if !is_kept_out => {
                self.facts
                    .notes
                    .push(format!("{what} were committed after the snapshot, before the migration"));
                Ok(Outcome::Passed)
            }
            (Committed::Unknown(_), _) if !is_kept_out || self.is_fenced() => Ok(Outcome::Passed),
            (_, what) if self.snapshots_taken < MOST_SNAPSHOTS => {
                let what = what.unwrap_or_else(|| "what cannot be known".into());
                self.facts
                    .notes
                    .push(format!("another snapshot is taken: {what} was committed since the first"));
                Ok(Outcome::Stale)
            }
            (_, what) => {
                let what = what.unwrap_or_else(|| "what cannot be known".into());
                self.facts
                    .reasons
                    .push(format!("{what} was committed after each snapshot, in spite of the fence"));
                Ok(Outcome::Refused(Verdict::NoSnapshot))
            }
        }
    }

    /// What the SQL checks answer now, by their names.
    pub(super) async fn answers(&self) -> Result<std::collections::BTreeMap<String, String>, JobError> {
        let mut answers = std::collections::BTreeMap::new();
        for check in &self.means.gate.checks {
            if let CheckKind::Sql { sql, .. } = &check.kind {
                answers.insert(check.name.clone(), self.answer(&check.name, sql).await?);
            }
        }
        Ok(answers)
    }

    pub(super) async fn answer(&self, name: &str, sql: &str) -> Result<String, PostgresError> {
        let limit = self.means.gate.check_timeout;
        limited::answer_within(&self.means.database.connection, name, sql, limit).await
    }

    /// Whether the run's commits can be told by their mark: nobody else's sessions have it.
    pub(super) async fn has_own_mark(&self) -> Result<bool, JobError> {
        let role = environment_user(self);
        let sql = format!(
            "SELECT s.setting = 'remote_apply' OR EXISTS ( \
                SELECT FROM pg_catalog.pg_db_role_setting d LEFT JOIN pg_catalog.pg_roles r ON r.oid = d.setrole, \
                LATERAL unnest(d.setconfig) c WHERE c = 'synchronous_commit=remote_apply' AND r.rolname IS DISTINCT FROM {}) AS taken \
             FROM pg_catalog.pg_settings s WHERE s.name = 'synchronous_commit'",
            crate::rules::sql::literal(&role)
        );
        let mut session = self.maintenance_session().await?;
        let found = rows(&mut session, "look how commits are marked", sql).await?;
        let is_taken: bool = found.first().map(|row| column(row, "taken")).transpose()?.unwrap_or(true);
        Ok(!is_taken)
    }
}

/// How many snapshots a run takes at the most.
const MOST_SNAPSHOTS: u32 = 2;

fn environment_user(walk: &Walk<'_>) -> String {
    super::connection_of(walk.means.database, walk.means.gate).user
}

fn not_raised(fence: &str, error: &FenceError) -> JobError {
    let reason = format!("fence {fence}: {}", in_a_sentence(error));
    JobError::Refused { action: format!("raise fence {fence}"), reasons: vec![reason] }
}

/// The text of an undo in the ledger.
pub(super) fn undo_text(undo: &GateUndo) -> String {
    serde_json::to_string(undo).expect("an undo is made of texts and numbers")
}
