//! Before anything is touched: the lock, and everything that could stop the run or a restore.

use super::facts::{Identity, Pending, Rehearsal};
use super::fingerprint::{rows_of, schemas_of, why_ambiguous};
use super::walk::Walk;
use crate::checkout::Checkout;
use crate::command::CommandLine;
use crate::jobs::JobError;
use crate::jobs::restore::plan;
use crate::postgres::session::{self, column, rows};
use crate::postgres::{describe, wal};
use crate::rules::alembic::{self, Action, Intent};
use crate::rules::causes::in_a_sentence;
use crate::rules::classify::Expected;
use crate::rules::gate::{Outcome, Verdict};
use crate::rules::manifest::Depth;
use crate::rules::sql::literal;
use crate::settings::OnFailure;

impl Walk<'_> {
    /// Takes the advisory lock of the database's gate, in the maintenance database: those of the
    /// database itself would not outlive a swap.
    pub(super) async fn request_lock(&mut self) -> Result<Outcome, JobError> {
        let name = &self.means.database.connection.database;
        let mut session = self.maintenance_session().await?;
        if !session::try_work_under(&mut session, &format!("belay:gate:{name}")).await? {
            self.facts.reasons.push(format!("another host runs a migration of {name}"));
            return Ok(Outcome::Refused(Verdict::Busy));
        }
        let mut own = session::connect(&self.means.database.connection).await?;
        let (oid, system_identifier) = describe::identity(&mut own).await?;
        let timeline = wal::timeline(&mut session).await?;
        self.facts.identity = Some(Identity { oid, system_identifier, timeline });
        self.lock = Some(session);
        Ok(Outcome::Passed)
    }

    /// Looks at all that must be so, and tells every reason against at once.
    pub(super) async fn preflight(&mut self) -> Result<Outcome, JobError> {
        let mut reasons = Vec::new();
        let server = self.server().await?;
        reasons.extend(self.held_runs().await?);
        let line = self.command_line(&[]);
        reasons.extend(line.why_not_there());
        if reasons.is_empty() {
            line.program()?;
        }
        self.means.catalog.check_writer(self.means.signing)?;
        self.look_at_revisions().await?;
        // A check that cannot be asked now could not be asked afterwards either.
        self.answers().await?;
        reasons.extend(self.breaking_changes());
        reasons.extend(self.missing_key());
        if self.means.gate.on_failure == OnFailure::Restore {
            reasons.extend(self.what_forbids_a_restore().await?);
        }
        if let Some(why) = server.wal.why_not() {
            self.facts.notes.push(format!(
                "what is committed cannot be read from the write-ahead log, so that a failed migration may end as unknown: {why}"
            ));
        }
        if reasons.is_empty() {
            return Ok(Outcome::Passed);
        }
        self.facts.reasons.extend(reasons);
        Ok(Outcome::Refused(Verdict::Refused))
    }

    /// Runs of this database that wait for an operator: what they decide must not undo this one.
    async fn held_runs(&self) -> Result<Vec<String>, JobError> {
        let name = &self.means.database.connection.database;
        let runs = self.means.ledger.held_runs(name).await?;
        Ok(runs
            .into_iter()
            .map(|run| format!("run {run} is held: `belay runs resolve {run}` first"))
            .collect())
    }

    /// The command, to be run with `environment`.
    pub(super) fn command_line<'s>(
        &'s self,
        environment: &'s [(String, secrecy::SecretString)],
    ) -> CommandLine<'s> {
        CommandLine {
            words: &self.request.words,
            directory: &self.request.directory,
            environment,
            mark: &self.request.id,
            path: self.means.path,
            timeout: self.means.gate.timeout,
        }
    }

    /// Reads the revisions of the database, and from an Alembic checkout which are pending.
    async fn look_at_revisions(&mut self) -> Result<(), JobError> {
        let server = self.server().await?;
        let mut session = session::connect(&self.means.database.connection).await?;
        let tables = self.look(&server.tools).version_tables(&mut session).await?;
        let (current, schemas) = (rows_of(&tables), schemas_of(tables));
        let Some(intent) = Intent::of(&self.request.words) else {
            self.facts.expected = Some(Expected::Unknown("the command is not Alembic's".into()));
            return Ok(());
        };
        let config = self.request.alembic_config.as_deref();
        let checkout = match Checkout::read(&self.request.directory, &intent, config) {
            Ok(Some(checkout)) => checkout,
            Ok(None) => {
                self.facts.expected = Some(Expected::Unknown("there is no alembic.ini to read".into()));
                return Ok(());
            }
            Err(error) => {
                // Alembic itself may read what we do not; then the rehearsal or the end tells.
                self.facts.expected = Some(Expected::Unknown(in_a_sentence(&error)));
                return Ok(());
            }
        };
        if let Some(why) = why_ambiguous(&schemas) {
            self.facts.expected = Some(Expected::Unknown(why));
            return Ok(());
        }
        match alembic::expected(&intent, &checkout.revisions, &current) {
            Ok(expected) => {
                self.facts.pending =
                    expected.pending.iter().map(|id| pending(&checkout, &intent, id)).collect();
                self.facts.expected = Some(Expected::Revisions(expected.rows));
            }
            Err(unclear) => self.facts.expected = Some(Expected::Unknown(unclear.to_string())),
        }
        Ok(())
    }

    fn breaking_changes(&self) -> Vec<String> {
        if self.request.allows_breaking || self.means.gate.allow_breaking {
            return Vec::new();
        }
        let breaking = |pending: &Pending| {
            let text = pending.breaking.as_ref()?;
            Some(format!(
                "revision {} says BREAKING CHANGE: {text} (--allow-breaking lets it through)",
                pending.id
            ))
        };
        self.facts.pending.iter().filter_map(breaking).collect()
    }

    fn missing_key(&self) -> Option<String> {
        let gate = self.means.gate;
        let opens = gate.verify_depth > Depth::Stored
            || self.facts.rehearsal != Rehearsal::Not
            || gate.on_failure == OnFailure::Restore;
        let is_missing = opens && self.means.opener.is_none();
        is_missing.then(|| {
            "there is no identity on this host: a snapshot could be taken, but neither verified nor put back".into()
        })
    }

    async fn what_forbids_a_restore(&self) -> Result<Vec<String>, JobError> {
        let name = &self.means.database.connection.database;
        let mut session = self.maintenance_session().await?;
        let mut reasons = plan::what_binds(&mut session, name, &self.means.gate.disposable_slots).await?;
        let sql = format!(
            "SELECT r.rolsuper OR r.rolcreatedb AS makes, r.rolsuper OR pg_catalog.pg_has_role(d.datdba, 'MEMBER') AS owns, \
                r.rolsuper OR pg_catalog.pg_has_role('pg_signal_backend', 'MEMBER') AS ends, \
                r.rolsuper OR pg_catalog.pg_has_role('pg_read_all_stats', 'MEMBER') AS sees, \
                pg_catalog.pg_database_size(d.oid) AS bytes \
             FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.rolname = current_user AND d.datname = {}",
            literal(name)
        );
        for row in rows(&mut session, "look at what a restore needs", sql).await? {
            let needs = [
                ("makes", "may not make databases (CREATEDB)"),
                ("owns", "does not own the database"),
                ("ends", "may not end the sessions of others (pg_signal_backend)"),
                ("sees", "may not see whose the sessions of others are (pg_read_all_stats)"),
            ];
            for (right, lack) in needs {
                if !column::<bool>(&row, right)? {
                    reasons.push(format!("role {} {lack}", self.means.database.connection.user));
                }
            }
            let bytes = u64::try_from(column::<i64>(&row, "bytes")?).unwrap_or_default();
            reasons.extend(plan::no_room(&self.means.database.connection, &mut session, bytes).await?);
        }
        Ok(reasons)
    }
}

fn pending(checkout: &Checkout, intent: &Intent, id: &str) -> Pending {
    let revision = checkout.revisions.revision(id);
    let does_nothing = revision.is_some_and(|revision| match intent.action {
        Action::Upgrade(_) => revision.upgrades_nothing,
        Action::Downgrade(_) => revision.downgrades_nothing,
        Action::Stamp { .. } => false,
    });
    Pending {
        does_nothing,
        id: id.to_owned(),
        file: checkout.files.get(id).cloned(),
        breaking: revision.and_then(|revision| revision.breaking.clone()),
    }
}
