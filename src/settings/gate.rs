//! `[gate]`: how a migration is fenced, judged and, if need be, undone.

mod check;
mod fence;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;

use super::table::Table;
use super::{SettingsError, depth, secret_file, units};
use crate::rules::manifest::Depth;
use crate::rules::table_name::TableName;
use crate::rules::template::Template;
pub use check::{CheckKind, CheckSettings};
pub use fence::{Deployment, FenceKind, FenceSettings};

/// `[gate]`; it holds for every database.
#[derive(Debug, Clone)]
pub struct GateSettings {
    /// What keeps commits out between the snapshot and the migration.
    pub consistency: Consistency,
    /// What happens to sessions that are left once all fences are up.
    pub sessions: SessionPolicy,
    /// A verified snapshot at most so old is used again when nothing was committed since; zero:
    /// a new one is always taken.
    pub fresh_within: TimeDelta,
    /// How deep the snapshot is verified before the migration begins.
    pub verify_depth: Depth,
    /// The migration is tried on a copy first.
    pub rehearse: bool,
    /// What a rehearsal does.
    pub rehearse_cycle: RehearsalCycle,
    /// The migration's command is ended after it.
    pub timeout: Duration,
    /// How long a runner on another machine may be silent.
    pub lease: Duration,
    /// How long the backends of an ended migration are waited for.
    pub settle_timeout: Duration,
    /// How long each fence may take to be up.
    pub fence_timeout: Duration,
    /// `lock_timeout` of the migration's sessions.
    pub lock_timeout: Duration,
    /// How long each check may take.
    pub check_timeout: Duration,
    /// What happens after a migration that left a half.
    pub on_failure: OnFailure,
    /// How long the failed database is kept after a restore.
    pub keep_failed: TimeDelta,
    /// Where the migration tool keeps its revision.
    pub version_table: TableName,
    /// The column of it.
    pub version_column: String,
    /// What is made of a new revision without any other change.
    pub stamped: Stamped,
    /// Migrations that would break the running application are let through.
    pub allow_breaking: bool,
    /// The role that migrates; `None` for the database's own user.
    pub role: Option<MigrationRole>,
    /// Logical slots that a restore may lose.
    pub disposable_slots: Vec<String>,
    /// A copy of the database on its own server, beside the snapshot.
    pub local_copy: LocalCopy,
    /// Variables for the migration's command, by name.
    pub environment: BTreeMap<String, Template>,
    /// `[[gate.fence]]`, in the order in which they go up.
    pub fences: Vec<FenceSettings>,
    /// `[[gate.check]]`; no two have the same name.
    pub checks: Vec<CheckSettings>,
}

/// What keeps commits out between the snapshot and the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Fences go up before the snapshot is taken: a restore loses nothing.
    Fenced,
    /// The snapshot is taken while the application runs, and counts only if nothing was
    /// committed since.
    Checked,
    /// The application runs on; what it commits after the snapshot would be lost by a restore.
    Unfenced,
}

/// What happens to sessions that are left once all fences are up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPolicy {
    /// The migration is refused.
    Refuse,
    /// They are ended, and those that come after them.
    End,
}

/// What a rehearsal does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RehearsalCycle {
    /// The migration's command.
    Up,
    /// The migration's command, the way down, and the command again.
    UpDownUp {
        /// The command that goes down, its program first; never empty.
        down: Vec<String>,
    },
}

/// What happens after a migration that left a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The snapshot is restored where nothing is lost by it.
    Restore,
    /// Everything stays as it is until an operator decides.
    Hold,
}

/// What is made of a new revision without any other change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamped {
    /// The migration counts as done.
    Accept,
    /// It counts as failed.
    Refuse,
}

/// A copy of the database on its own server, beside the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalCopy {
    /// None.
    None,
    /// Made by the server, with the database as template.
    Template,
}

/// A role that does nothing but migrate.
#[derive(Debug, Clone)]
pub struct MigrationRole {
    /// Its name.
    pub name: String,
    /// `None` when the server is expected to ask for none.
    pub password: Option<SecretString>,
}

const CONSISTENCIES: [(&str, Consistency); 3] =
    [("fenced", Consistency::Fenced), ("checked", Consistency::Checked), ("unfenced", Consistency::Unfenced)];
const SESSION_POLICIES: [(&str, SessionPolicy); 2] =
    [("refuse", SessionPolicy::Refuse), ("end", SessionPolicy::End)];
const FAILURE_POLICIES: [(&str, OnFailure); 2] = [("restore", OnFailure::Restore), ("hold", OnFailure::Hold)];
const STAMPS: [(&str, Stamped); 2] = [("accept", Stamped::Accept), ("refuse", Stamped::Refuse)];
const LOCAL_COPIES: [(&str, LocalCopy); 2] = [("none", LocalCopy::None), ("template", LocalCopy::Template)];

/// Accepts one of a few words.
fn word<T: Copy>(text: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(word, _)| *word == text);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = known.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        format!("must be one of {}, not {text:?}", words.join(", "))
    })
}

impl GateSettings {
    /// `is_known` says of a name whether it is that of a database with a section.
    pub(super) fn read(mut table: Table, is_known: &dyn Fn(&str) -> bool) -> Result<Self, SettingsError> {
        let within = |text: &str| units::timeout_within(text, "1s", "7d");
        let lease = |text: &str| units::timeout_within(text, "10s", "1h");
        let lock_timeout = |text: &str| units::timeout_within(text, "1ms", "1h");
        let settings = Self {
            consistency: table
                .parsed("consistency", |text| word(text, &CONSISTENCIES))?
                .unwrap_or(Consistency::Fenced),
            sessions: table
                .parsed("sessions", |text| word(text, &SESSION_POLICIES))?
                .unwrap_or(SessionPolicy::Refuse),
            fresh_within: table.parsed("fresh_within", units::age)?.unwrap_or(TimeDelta::zero()),
            verify_depth: table.parsed("verify_depth", depth)?.unwrap_or(Depth::Restored),
            rehearse: table.boolean("rehearse")?.unwrap_or(false),
            rehearse_cycle: rehearsal_cycle(&mut table)?,
            timeout: table.parsed("timeout", within)?.unwrap_or(Duration::from_secs(6 * 3600)),
            lease: table.parsed("lease", lease)?.unwrap_or(Duration::from_secs(60)),
            settle_timeout: table.parsed("settle_timeout", within)?.unwrap_or(Duration::from_secs(60)),
            fence_timeout: table.parsed("fence_timeout", within)?.unwrap_or(Duration::from_secs(60)),
            lock_timeout: table.parsed("lock_timeout", lock_timeout)?.unwrap_or(Duration::from_secs(30)),
            check_timeout: table.parsed("check_timeout", within)?.unwrap_or(Duration::from_secs(300)),
            on_failure: table
                .parsed("on_failure", |text| word(text, &FAILURE_POLICIES))?
                .unwrap_or(OnFailure::Restore),
            keep_failed: table.parsed("keep_failed", units::age)?.unwrap_or(TimeDelta::days(7)),
            version_table: table
                .parsed("version_table", version_table)?
                .unwrap_or_else(|| TableName { schema: None, name: "alembic_version".into() }),
            version_column: table
                .text("version_column")?
                .map_or_else(|| "version_num".into(), |given| given.value),
            stamped: table.parsed("stamped", |text| word(text, &STAMPS))?.unwrap_or(Stamped::Accept),
            allow_breaking: table.boolean("allow_breaking")?.unwrap_or(false),
            role: migration_role(&mut table)?,
            disposable_slots: table.texts("disposable_slots", |text| Ok(text.into()))?.unwrap_or_default(),
            local_copy: table
                .parsed("local_copy", |text| word(text, &LOCAL_COPIES))?
                .unwrap_or(LocalCopy::None),
            environment: environment(table.table("environment")?, is_known)?,
            fences: table
                .sections("fence")?
                .into_iter()
                .map(FenceSettings::read)
                .collect::<Result<_, _>>()?,
            checks: check::read(table.sections("check")?, is_known)?,
        };
        settings.refuse_fenced_role(&table)?;
        table.finish()?;
        Ok(settings)
    }

    /// Why writers are not kept out though they are meant to be, in a sentence.
    pub fn why_not_fenced(&self) -> Option<String> {
        let mode = match self.consistency {
            Consistency::Fenced => "fenced",
            Consistency::Checked => "checked",
            Consistency::Unfenced => return None,
        };
        let others = match self.sessions {
            SessionPolicy::Refuse => "can write",
            SessionPolicy::End => "can write until its session is ended",
        };
        self.fences.is_empty().then(|| {
            format!(
                "consistency is \"{mode}\" and there is no [[gate.fence]]: whoever connects while a migration runs \
                 {others}, and a failed one is not put back by itself once others committed"
            )
        })
    }

    /// A role that may not log in cannot migrate.
    fn refuse_fenced_role(&self, table: &Table) -> Result<(), SettingsError> {
        let Some(MigrationRole { name, .. }) = &self.role else { return Ok(()) };
        let keeps_out =
            |fence: &FenceSettings| matches!(&fence.kind, FenceKind::Role { roles } if roles.contains(name));
        if self.fences.iter().any(keeps_out) {
            return Err(table.invalid(format!("has a fence that keeps out its own role {name:?}")));
        }
        Ok(())
    }
}

fn rehearsal_cycle(table: &mut Table) -> Result<RehearsalCycle, SettingsError> {
    let missing = table.missing("rehearse_down");
    let down = table.command("rehearse_down")?;
    let goes_down =
        table.parsed("rehearse_cycle", |text| word(text, &[("up", false), ("up-down-up", true)]))?;
    match (goes_down.unwrap_or(false), down) {
        (false, _) => Ok(RehearsalCycle::Up),
        (true, Some(down)) => Ok(RehearsalCycle::UpDownUp { down }),
        (true, None) => Err(missing),
    }
}

fn version_table(text: &str) -> Result<TableName, String> {
    text.parse().map_err(|error| format!("names no table: {error}"))
}

fn migration_role(table: &mut Table) -> Result<Option<MigrationRole>, SettingsError> {
    let given = table.peek("role_password_file");
    let path = table.absolute_path("role_password_file")?;
    match (table.text("role")?, path, given) {
        (Some(role), Some(path), Some(given)) => {
            let password = Some(secret_file::password(&path, &given)?);
            Ok(Some(MigrationRole { name: role.value, password }))
        }
        (Some(role), ..) => Ok(Some(MigrationRole { name: role.value, password: None })),
        (None, _, Some(file)) => Err(file.invalid("needs role beside it")),
        (None, ..) => Ok(None),
    }
}

fn environment(
    table: Table,
    is_known: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, Template>, SettingsError> {
    let mut variables = BTreeMap::new();
    for (name, given) in table.entries()? {
        let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let starts_with_digit = name.starts_with(|c: char| c.is_ascii_digit());
        if name.is_empty() || starts_with_digit || !name.bytes().all(is_inner) {
            return Err(given.invalid("must be called by letters, digits and _, as variables are"));
        }
        let template = Template::parse(&given.value).map_err(|error| given.invalid(error.to_string()))?;
        if let Some(unknown) = template.sections().find(|section| !is_known(section)) {
            let complaint = format!("has the place of a database that has no section: {unknown}");
            return Err(given.invalid(complaint));
        }
        variables.insert(name, template);
    }
    Ok(variables)
}
