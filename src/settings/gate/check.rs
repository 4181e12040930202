//! `[[gate.check]]`: what must be true of a database once it is migrated.

use std::collections::BTreeSet;

use crate::rules::expectation::Expectation;
use crate::settings::SettingsError;
use crate::settings::table::Table;

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckSettings {
    /// What it is called in reports.
    pub name: String,
    /// The section of the database that it is about; `None` for every database.
    pub database: Option<String>,
    /// What it asks.
    pub kind: CheckKind,
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// A query of one value, asked before and after the migration.
    Sql {
        /// The query.
        sql: String,
        /// What is expected of its answer.
        expect: Expectation,
    },
    /// A command, its program first, that must exit with status 0 after the migration.
    Command(Vec<String>),
}

/// Reads all checks; a name is given once, and a database `is_known`.
pub(super) fn read(
    sections: Vec<Table>,
    is_known: &dyn Fn(&str) -> bool,
) -> Result<Vec<CheckSettings>, SettingsError> {
    let mut names = BTreeSet::new();
    let mut checks = Vec::new();
    for table in sections {
        let given = table.peek("name");
        let check = CheckSettings::read(table, is_known)?;
        if let (false, Some(given)) = (names.insert(check.name.clone()), given) {
            return Err(given.invalid(format!("is {:?}, and so is another check's", check.name)));
        }
        checks.push(check);
    }
    Ok(checks)
}

impl CheckSettings {
    /// Whether it is about the database with this section.
    pub fn is_of(&self, section: &str) -> bool {
        self.database.as_ref().is_none_or(|of| of == section)
    }

    fn read(mut table: Table, is_known: &dyn Fn(&str) -> bool) -> Result<Self, SettingsError> {
        let no_name = table.missing("name");
        let no_expect = table.missing("expect");
        let name = table.text("name")?.ok_or(no_name)?.value;
        let expect_given = table.peek("expect");
        let sql = table.text("sql")?;
        let expect =
            table.parsed("expect", |text| Expectation::parse(text).map_err(|error| error.to_string()))?;
        let command = table.command("command")?;
        let kind = match (sql, expect, command) {
            (Some(sql), Some(expect), None) => CheckKind::Sql { sql: sql.value, expect },
            (Some(_), None, None) => return Err(no_expect),
            (Some(sql), _, Some(_)) => return Err(sql.invalid("and command exclude each other")),
            (None, None, Some(command)) => CheckKind::Command(command),
            (None, ..) => {
                return Err(match expect_given {
                    Some(expect) => expect.invalid("needs sql beside it"),
                    None => table.invalid("needs sql and expect, or command".into()),
                });
            }
        };
        let known = |name: &str| {
            is_known(name).then(|| name.to_owned()).ok_or_else(|| format!("names no section: {name}"))
        };
        let database = table.parsed("database", known)?;
        table.finish()?;
        Ok(Self { name, database, kind })
    }
}
