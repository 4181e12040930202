//! Before anything is touched: the locks, and everything that could stop the run or a restore.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;

use super::environment::url_variable;
use super::facts::{Identity, Pending, Rehearsal};
use super::fingerprint::{rows_of, schemas_of, why_ambiguous};
use super::member::Member;
use super::run::Run;
use super::runner::Runner;
use super::walk::Walk;
use super::{Request, ScriptsOf};
use crate::checkout::Checkout;
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
use crate::settings::{Connection, OnFailure};

impl Walk<'_> {
    /// Takes the advisory locks of the databases' gates, in the maintenance database: those of the
    /// databases themselves would not outlive a swap.
    pub(super) async fn request_locks(&mut self) -> Result<Outcome, JobError> {
        if let Some(reason) = self.why_not_one_server() {
            self.run.facts.reasons.push(reason);
            return Ok(Outcome::Refused(Verdict::Refused));
        }
        let (mut session, taken) = self.lock_gates().await?;
        if let Some(name) = taken {
            self.run.facts.reasons.push(format!("another host runs a migration of {name}"));
            return Ok(Outcome::Refused(Verdict::Busy));
        }
        let timeline = wal::timeline(&mut session).await?;
        for member in &mut self.members {
            let mut own = session::connect(&member.settings.connection).await?;
            let (oid, system_identifier) = describe::identity(&mut own).await?;
            member.facts.identity = Some(Identity { oid, system_identifier, timeline });
        }
        if let Some(reason) = self.why_not_one_cluster() {
            self.run.facts.reasons.push(reason);
            return Ok(Outcome::Refused(Verdict::Refused));
        }
        self.run.lock = Some(session);
        Ok(Outcome::Passed)
    }

    /// A session with the locks of the gates, up to the first that somebody else has, which is named.
    pub(super) async fn lock_gates(&self) -> Result<(PgConnection, Option<String>), JobError> {
        let mut session = self.run.maintenance_session().await?;
        // Always in the same order, so that of two runs that share databases one has them all.
        let names: BTreeSet<&str> = self.members.iter().map(|member| member.name()).collect();
        for name in names {
            if !session::try_work_under(&mut session, &format!("belay:gate:{name}")).await? {
                return Ok((session, Some(name.to_owned())));
            }
        }
        Ok((session, None))
    }

    /// Why the databases cannot be those of one cluster, by how they are reached.
    fn why_not_one_server(&self) -> Option<String> {
        let first = self.run.means.first();
        let server = |at: &Connection| format!("{}:{}", at.host, at.port);
        let other = self
            .members
            .iter()
            .map(|member| member.settings)
            .find(|settings| server(&settings.connection) != server(&first.connection))?;
        Some(format!(
            "{} is on {} and {} on {}: the databases of one run are of one cluster, which swaps them at once",
            first.key,
            server(&first.connection),
            other.key,
            server(&other.connection)
        ))
    }

    /// Why the databases are not those of one cluster, by what PostgreSQL says of itself.
    fn why_not_one_cluster(&self) -> Option<String> {
        let mut identified = self
            .members
            .iter()
            .filter_map(|member| Some((member, member.facts.identity.as_ref()?.system_identifier.as_ref()?)));
        let (first, of_first) = identified.next()?;
        let (other, _) = identified.find(|(_, other)| *other != of_first)?;
        Some(format!(
            "{} and {} are of different clusters, though both are reached by {}:{}",
            first.settings.key,
            other.settings.key,
            self.run.connection().host,
            self.run.connection().port
        ))
    }

    /// Looks at all that must be so, and tells every reason against at once.
    pub(super) async fn preflight(&mut self) -> Result<Outcome, JobError> {
        let mut reasons = Vec::new();
        let server = self.run.server().await?;
        reasons.extend(self.held_runs().await?);
        if let Runner::Here = self.run.means.runner {
            let line = self.run.command_line(&[]);
            reasons.extend(line.why_not_there());
            if reasons.is_empty() {
                line.program()?;
            }
        }
        self.run.means.catalog.check_writer(self.run.means.signing)?;
        for member in &mut self.members {
            member.look_at_revisions(&mut self.run).await?;
            // A check that cannot be asked now could not be asked afterwards either.
            if let Err(error) = member.answers(&self.run).await {
                reasons.push(member.says(in_a_sentence(&error)));
            }
            reasons.extend(member.say_all(member.breaking_changes(&self.run)));
        }
        reasons.extend(self.shared_variables());
        reasons.extend(self.run.missing_key());
        if self.run.means.gate.on_failure == OnFailure::Restore {
            reasons.extend(self.what_forbids_a_restore().await?);
        }
        if self.run.facts.order.is_some() {
            self.run.facts.notes.extend(self.run.means.gate.why_not_fenced());
        }
        if let Some(why) = server.wal.why_not() {
            self.run.facts.notes.push(format!(
                "what is committed cannot be read from the write-ahead log, so that a failed migration may end as unknown: {why}"
            ));
        }
        if reasons.is_empty() {
            return Ok(Outcome::Passed);
        }
        self.run.facts.reasons.extend(reasons);
        Ok(Outcome::Refused(Verdict::Refused))
    }

    /// Runs of these databases that wait for an operator: what they decide must not undo this one.
    async fn held_runs(&self) -> Result<Vec<String>, JobError> {
        let mut runs = BTreeSet::new();
        for member in &self.members {
            runs.extend(self.run.means.ledger.held_runs(member.name()).await?);
        }
        Ok(runs
            .into_iter()
            .map(|run| format!("run {run} is held: `belay runs resolve {run}` first"))
            .collect())
    }

    /// Variables that two of the databases would have their addresses in.
    fn shared_variables(&self) -> Vec<String> {
        let mut taken = BTreeSet::new();
        let prefixes = self.members.iter().filter_map(|member| member.settings.env_prefix.clone());
        let names = self.members.iter().map(|member| url_variable(&member.settings.key)).chain(prefixes);
        names
            .filter(|name| !taken.insert(name.clone()))
            .map(|name| format!("two of the databases have their addresses in {name}"))
            .collect()
    }

    async fn what_forbids_a_restore(&self) -> Result<Vec<String>, JobError> {
        let mut session = self.run.maintenance_session().await?;
        let mut reasons = Vec::new();
        let mut bytes = 0;
        for member in &self.members {
            let (own_bytes, forbids) =
                self.run.what_forbids_a_restore_of(member.name(), &mut session).await?;
            bytes += own_bytes;
            reasons.extend(member.say_all(forbids));
        }
        reasons.extend(plan::no_room(self.run.connection(), &mut session, bytes).await?);
        Ok(reasons)
    }
}

impl Run<'_> {
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

    /// How large a database is, and what speaks against putting it back.
    async fn what_forbids_a_restore_of(
        &self,
        name: &str,
        session: &mut PgConnection,
    ) -> Result<(u64, Vec<String>), JobError> {
        let mut reasons = plan::what_binds(session, name, &self.means.gate.disposable_slots).await?;
        let sql = format!(
            "SELECT r.rolsuper OR r.rolcreatedb AS makes, r.rolsuper OR pg_catalog.pg_has_role(d.datdba, 'MEMBER') AS owns, \
                r.rolsuper OR pg_catalog.pg_has_role('pg_signal_backend', 'MEMBER') AS ends, \
                r.rolsuper OR pg_catalog.pg_has_role('pg_read_all_stats', 'MEMBER') AS sees, \
                pg_catalog.pg_database_size(d.oid) AS bytes \
             FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.rolname = current_user AND d.datname = {}",
            literal(name)
        );
        let mut bytes = 0;
        for row in rows(session, "look at what a restore needs", sql).await? {
            let needs = [
                ("makes", "may not make databases (CREATEDB)"),
                ("owns", "does not own the database"),
                ("ends", "may not end the sessions of others (pg_signal_backend)"),
                ("sees", "may not see whose the sessions of others are (pg_read_all_stats)"),
            ];
            for (right, lack) in needs {
                if !column::<bool>(&row, right)? {
                    reasons.push(format!("role {} {lack}", self.connection().user));
                }
            }
            bytes = u64::try_from(column::<i64>(&row, "bytes")?).unwrap_or_default();
        }
        Ok((bytes, reasons))
    }
}

impl Member<'_> {
    /// Reads the revisions of the database, and from an Alembic checkout which are pending.
    async fn look_at_revisions(&mut self, run: &mut Run<'_>) -> Result<(), JobError> {
        let server = run.server().await?;
        let mut session = session::connect(&self.settings.connection).await?;
        let tables = self.look(run, &server.tools).version_tables(&mut session).await?;
        let (current, schemas) = (rows_of(&tables), schemas_of(tables));
        let Some(intent) = Intent::of(&run.request.words) else {
            self.facts.expected = Some(Expected::Unknown("the command is not Alembic's".into()));
            return Ok(());
        };
        let checkout = match read_checkout(&run.request, &intent) {
            Ok(Some(checkout)) => checkout,
            Ok(None) => {
                self.facts.expected = Some(Expected::Unknown("there is no alembic.ini to read".into()));
                return Ok(());
            }
            Err(why) => {
                // Alembic itself may read what we do not; then the rehearsal or the end tells.
                self.facts.expected = Some(Expected::Unknown(why));
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

    fn breaking_changes(&self, run: &Run<'_>) -> Vec<String> {
        if run.request.allows_breaking || run.means.gate.allow_breaking {
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
}

/// The scripts that the command would load, if there are any; else why that cannot be told.
fn read_checkout(request: &Request, intent: &Intent) -> Result<Option<Checkout>, String> {
    match &request.scripts {
        ScriptsOf::Directory { alembic_config } => {
            Checkout::read(&request.directory, intent, alembic_config.as_deref())
                .map_err(|error| in_a_sentence(&error))
        }
        ScriptsOf::Runner(scripts) => Checkout::of_runner(scripts),
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
