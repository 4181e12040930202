//! From the fence to the moment before the command starts.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::JobError;
use super::environment;
use super::facts::{Armed, Origin, Rehearsal, TakenSnapshot};
use super::fingerprint::Fingerprint;
use super::member::Member;
use super::run::Run;
use super::walk::Walk;
use super::window::Committed;
use crate::catalog::Entry;
use crate::fence::{self, Context, FenceError, Ours, Undo};
use crate::jobs::snapshot;
use crate::jobs::verify::{self, Recording};
use crate::postgres::session::{column, rows};
use crate::postgres::{PostgresError, limited, wal};
use crate::rules::causes::in_a_sentence;
use crate::rules::gate::{Outcome, Verdict};
use crate::rules::manifest::Depth;
use crate::rules::sql::literal;
use crate::rules::wal::{Lsn, WindowStart};
use crate::settings::CheckKind;

/// The `application_name` of our own sessions.
const OUR_SESSIONS: Ours<'static> = Ours { applications: &["belay"], roles: &[] };

/// How a fence of a run is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GateUndo {
    /// As its party has it.
    Fence {
        /// The database that it was raised for.
        database: String,
        /// How it is released.
        undo: Undo,
    },
    /// The database of this OID lets sessions in again.
    Connections(u32),
}

impl Walk<'_> {
    /// Raises every fence, each written down before, and sees to it that nobody is left.
    pub(super) async fn raise_fences(&mut self) -> Result<Outcome, JobError> {
        if self.run.facts.order.is_none() {
            return Ok(Outcome::Passed);
        }
        let standing = self.run.means.ledger.standing_fences(&self.run.request.id).await?;
        if standing.is_empty() {
            for (at, member) in self.members.iter().enumerate() {
                self.run.raise_fences_of(member.name(), at == 0).await?;
            }
        }
        self.keep_empty().await?;
        Ok(Outcome::Passed)
    }

    /// Makes sure that nobody is in the databases, where writers are kept out.
    async fn keep_empty(&mut self) -> Result<(), JobError> {
        if self.run.facts.order.is_none() {
            return Ok(());
        }
        let policy = self.run.means.gate.sessions;
        for member in &self.members {
            let work = async |context: &Context<'_>| fence::empty(context, policy, OUR_SESSIONS).await;
            self.run.with_fence_context(member.name(), work).await??;
        }
        Ok(())
    }

    /// Takes a snapshot of each, or finds one that is fresh enough and still holds everything.
    pub(super) async fn take_snapshots(&mut self) -> Result<Outcome, JobError> {
        let may_reuse = self.run.snapshots_taken == 0;
        let mut without = Vec::new();
        for member in &mut self.members {
            if !(may_reuse && member.reuse_snapshot(&mut self.run).await?) {
                without.push(member);
            }
        }
        if without.is_empty() {
            return Ok(Outcome::Passed);
        }
        self.run.snapshots_taken += 1;
        for member in without {
            member.take_snapshot(&self.run).await?;
        }
        Ok(Outcome::Passed)
    }

    /// Verifies the snapshots to the depth that the settings ask for.
    pub(super) async fn verify_snapshots(&mut self) -> Result<Outcome, JobError> {
        for member in &mut self.members {
            let problems = member.verify_snapshot(&self.run).await?;
            if !problems.is_empty() {
                self.run.facts.reasons.extend(member.say_all(problems));
                return Ok(Outcome::Refused(Verdict::NoSnapshot));
            }
        }
        Ok(Outcome::Passed)
    }

    /// Writes down the state before the command, and makes sure that the snapshots hold it.
    pub(super) async fn arm(&mut self) -> Result<Outcome, JobError> {
        let mut looks = Vec::new();
        for member in &mut self.members {
            looks.push(member.look_before(&mut self.run).await?);
            member.make_local_copy(&self.run).await?;
        }
        self.run.hold_log().await?;
        // Whoever came since the fence went up may have written, and commit while the command runs.
        self.keep_empty().await?;
        let mut session = self.run.maintenance_session().await?;
        let read_from = wal::position(&mut session).await?;
        let mut elsewhere = Vec::new();
        for member in &self.members {
            elsewhere.push(member.open_elsewhere(&self.run).await?);
        }
        let start = wal::begin_window(&mut session).await?;
        let mut since = Vec::new();
        for ((member, look), elsewhere) in self.members.iter_mut().zip(looks).zip(elsewhere) {
            since.push(member.committed_since_snapshot(&mut self.run, start.lsn).await?);
            member.facts.armed = Some(look.armed(read_from, start, elsewhere));
        }
        self.make_restore_point().await?;
        if self.run.facts.order.is_none() && !self.run.has_restore_point() {
            self.run.facts.notes.push("nobody is kept out: an automatic restore is off".into());
        }
        Ok(self.what_came_since(&since))
    }

    /// What it means that this was committed to each database since its snapshot.
    fn what_came_since(&mut self, since: &[Committed]) -> Outcome {
        let is_kept_out = self.run.facts.order.is_some();
        let is_fenced = self.run.is_fenced();
        let has_point = self.run.has_restore_point();
        let mut lacking = Vec::new();
        for (member, committed) in self.members.iter().zip(since) {
            match (committed, committed.in_words()) {
                (Committed::Known { .. }, None) => {}
                (Committed::Unknown(_), _) if is_fenced || !(is_kept_out || has_point) => {}
                (_, what) => lacking.push((member, what)),
            }
        }
        if lacking.is_empty() {
            return Outcome::Passed;
        }
        let (facts, may_go_on) = (&mut self.run.facts, self.run.snapshots_taken < MOST_SNAPSHOTS);
        if has_point {
            facts.origin = Origin::RestorePoint;
        }
        for (member, what) in lacking {
            let what = what.unwrap_or_else(|| "what cannot be known".into());
            if has_point {
                let what = format!("{what} came after the snapshot: the restore point has that too");
                facts.notes.push(member.says(what));
            } else if !is_kept_out {
                let what = format!("{what} came after the snapshot, before the migration");
                facts.notes.push(member.says(what));
            } else if may_go_on {
                let what = format!("another snapshot is taken: {what} came after the first");
                facts.notes.push(member.says(what));
            } else {
                let what = format!("{what} came after each snapshot, in spite of the fence");
                facts.reasons.push(member.says(what));
            }
        }
        match (is_kept_out && !has_point, may_go_on) {
            (false, _) => Outcome::Passed,
            (true, true) => Outcome::Stale,
            (true, false) => Outcome::Refused(Verdict::NoSnapshot),
        }
    }
}

impl Run<'_> {
    /// Raises the fences of `database`: all of them for the first of a run, and for the others those
    /// that go up for each.
    async fn raise_fences_of(&mut self, database: &str, is_first: bool) -> Result<(), JobError> {
        let (ledger, run, gate) = (self.means.ledger, self.request.id.clone(), self.means.gate);
        let work = async |context: &Context<'_>| {
            for fence in gate.fences.iter().filter(|fence| is_first || fence.is_of_each_database()) {
                let named = |error| not_raised(&fence.name, &error);
                let undo = fence::look(fence, context).await.map_err(named)?;
                let database = database.to_owned();
                let text = undo_text(&GateUndo::Fence { database, undo: undo.clone() });
                ledger.record_fence(&run, &text).await?;
                fence::raise(fence, &undo, context).await.map_err(named)?;
            }
            Ok::<_, JobError>(())
        };
        self.with_fence_context(database, work).await?
    }

    /// Whether the run's commits can be told by their mark: nobody else's sessions have it.
    pub(super) async fn has_own_mark(&self) -> Result<bool, JobError> {
        // The roles of a run may each have the setting, for its other databases.
        let roles = environment::addresses(self.means).into_iter().map(|it| literal(&it.to.user));
        let sql = format!(
            "SELECT s.setting = 'remote_apply' OR EXISTS ( \
                SELECT FROM pg_catalog.pg_db_role_setting d LEFT JOIN pg_catalog.pg_roles r ON r.oid = d.setrole, \
                LATERAL unnest(d.setconfig) c WHERE c = 'synchronous_commit=remote_apply' AND (r.rolname IS NULL OR r.rolname NOT IN ({}))) AS taken \
             FROM pg_catalog.pg_settings s WHERE s.name = 'synchronous_commit'",
            roles.collect::<Vec<_>>().join(", ")
        );
        let mut session = self.maintenance_session().await?;
        let found = rows(&mut session, "look how commits are marked", sql).await?;
        let is_taken: bool = found.first().map(|row| column(row, "taken")).transpose()?.unwrap_or(true);
        Ok(!is_taken)
    }
}

/// What a database looks like before the command.
struct LookBefore {
    before: Fingerprint,
    answers: BTreeMap<String, String>,
    has_own_mark: bool,
}

impl LookBefore {
    fn armed(self, read_from: Lsn, start: WindowStart, elsewhere: Vec<u32>) -> Armed {
        let Self { before, answers, has_own_mark } = self;
        let (lsn, next_transaction) = (start.lsn, start.next_transaction);
        Armed { read_from, lsn, next_transaction, elsewhere, before, answers, has_own_mark }
    }
}

impl Member<'_> {
    async fn take_snapshot(&mut self, run: &Run<'_>) -> Result<(), JobError> {
        let mut elsewhere = self.open_elsewhere(run).await?;
        let means = snapshot::Means {
            catalog: run.means.catalog,
            sealer: run.means.sealer,
            signing: run.means.signing,
            chunk_key: run.means.chunk_key,
            bin_directory: run.means.bin_directory,
            path: run.means.path,
            progress: run.means.progress,
        };
        let taken = snapshot::take(&means, self.settings, rand::random(), run.clock).await?;
        elsewhere.extend(self.open_elsewhere(run).await?);
        let no_window = || JobError::Refused {
            action: "stand on the snapshot".into(),
            reasons: vec!["the server is a standby: what is committed to it is not known here".into()],
        };
        let window_start = taken.manifest.window_start.ok_or_else(no_window)?;
        self.facts.snapshot = Some(TakenSnapshot {
            id: taken.manifest.id,
            is_reused: false,
            is_fenced: run.is_fenced() && !run.means.gate.fences.is_empty(),
            window_start,
            restore_ms: None,
            elsewhere,
        });
        self.entry = self.find_entry(run).await?;
        Ok(())
    }

    /// Transactions of other databases that are open now.
    async fn open_elsewhere(&self, run: &Run<'_>) -> Result<Vec<u32>, JobError> {
        let oid = self.facts.identity.as_ref().map_or(0, |identity| identity.oid);
        let sql = format!(
            "SELECT backend_xid::text AS xid FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND datid <> {oid} \
             UNION SELECT p.transaction::text FROM pg_catalog.pg_prepared_xacts p JOIN pg_catalog.pg_database d ON d.datname = p.database \
             WHERE d.oid <> {oid}"
        );
        let mut session = run.maintenance_session().await?;
        let found = rows(&mut session, "list open transactions", sql).await?;
        let xids: Result<Vec<String>, _> = found.iter().map(|row| column(row, "xid")).collect();
        Ok(xids?.iter().filter_map(|xid| xid.parse().ok()).collect())
    }

    /// Takes the newest verified snapshot if it is young enough, of this very database, and
    /// nothing was committed since.
    async fn reuse_snapshot(&mut self, run: &mut Run<'_>) -> Result<bool, JobError> {
        let Some((entry, window_start)) = self.newest_fresh(run).await? else { return Ok(false) };
        self.facts.snapshot = Some(TakenSnapshot {
            id: entry.manifest.id.clone(),
            is_reused: true,
            is_fenced: false,
            window_start,
            restore_ms: entry.restore_ms(),
            elsewhere: Vec::new(),
        });
        self.entry = Some(entry);
        let to = run.lsn().await?;
        let committed = self.committed_since_snapshot(run, to).await?;
        if matches!(&committed, Committed::Known { .. }) && committed.in_words().is_none() {
            return Ok(true);
        }
        (self.facts.snapshot, self.entry) = (None, None);
        Ok(false)
    }

    async fn newest_fresh(&self, run: &Run<'_>) -> Result<Option<(Entry, WindowStart)>, JobError> {
        let (gate, now) = (run.means.gate, (run.clock)());
        let Some(identity) = &self.facts.identity else { return Ok(None) };
        if gate.fresh_within <= TimeDelta::zero() {
            return Ok(None);
        }
        let is_fresh = |entry: &Entry| {
            let age = now - entry.manifest.taken_at;
            entry.manifest.database == self.name()
                && entry.manifest.database_oid == identity.oid
                && entry.manifest.system_identifier == identity.system_identifier
                && age >= TimeDelta::zero()
                && age <= gate.fresh_within
                && entry.verified().is_some_and(|verified| verified.depth >= gate.verify_depth)
        };
        let found = run.means.catalog.list().await?.entries.into_iter().rfind(is_fresh);
        Ok(found.and_then(|entry| {
            let window_start = entry.manifest.window_start?;
            Some((entry, window_start))
        }))
    }

    /// Verifies the snapshot to the depth that the settings ask for; returns what is wrong with it.
    async fn verify_snapshot(&mut self, run: &Run<'_>) -> Result<Vec<String>, JobError> {
        let wants_copy = run.facts.rehearsal != Rehearsal::Not && run.facts.rehearsed.is_none();
        let is_reused = self.facts.snapshot.as_ref().is_some_and(|snapshot| snapshot.is_reused);
        let Some(entry) = self.entry.clone() else {
            return Ok(vec!["the snapshot that was taken is not in the catalog".into()]);
        };
        if is_reused && !wants_copy {
            return Ok(Vec::new());
        }
        let means = verify::Means {
            catalog: run.means.catalog,
            opener: run.means.opener,
            signing: Some(run.means.signing),
            bin_directory: run.means.bin_directory,
            path: run.means.path,
            scratch_directory: run.means.scratch_directory,
            jobs: run.means.verify_jobs,
            stall_timeout: self.settings.stall_timeout,
            progress: run.means.progress,
        };
        let depth = if wants_copy { Depth::Restored } else { run.means.gate.verify_depth };
        let (verified, copy) = verify::verify_keeping_copy(&means, &entry, depth, run.clock).await?;
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
                Recording::Done | Recording::NoKey => Ok(Vec::new()),
            };
        }
        Ok(verified.record.problems.into_iter().chain(verified.differences).collect())
    }

    async fn look_before(&self, run: &mut Run<'_>) -> Result<LookBefore, JobError> {
        let server = run.server().await?;
        let before = self.look(run, &server.tools).take().await?;
        let answers = self.answers(run).await?;
        Ok(LookBefore { before, answers, has_own_mark: run.has_own_mark().await? })
    }

    /// What the SQL checks of this database answer now, by their names.
    pub(super) async fn answers(&self, run: &Run<'_>) -> Result<BTreeMap<String, String>, JobError> {
        let mut answers = BTreeMap::new();
        for check in run.means.gate.checks.iter().filter(|check| check.is_of(&self.settings.key)) {
            if let CheckKind::Sql { sql, .. } = &check.kind {
                answers.insert(check.name.clone(), self.answer(run, &check.name, sql).await?);
            }
        }
        Ok(answers)
    }

    pub(super) async fn answer(&self, run: &Run<'_>, name: &str, sql: &str) -> Result<String, PostgresError> {
        limited::answer_within(&self.settings.connection, name, sql, run.means.gate.check_timeout).await
    }
}

/// How many snapshots a run takes at the most.
const MOST_SNAPSHOTS: u32 = 2;

fn not_raised(fence: &str, error: &FenceError) -> JobError {
    let reason = format!("fence {fence}: {}", in_a_sentence(error));
    JobError::Refused { action: format!("raise fence {fence}"), reasons: vec![reason] }
}

/// The text of an undo in the ledger.
pub(super) fn undo_text(undo: &GateUndo) -> String {
    serde_json::to_string(undo).expect("an undo is made of texts and numbers")
}
