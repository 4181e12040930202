//! What a database looks like at one moment, as far as a migration can change it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;

use crate::jobs::{JobError, Progress, prove};
use crate::postgres::describe::{Digests, VersionTable};
use crate::postgres::tools::Tools;
use crate::postgres::{PostgresError, describe, session};
use crate::rules::digest::{Digest256, RowTally};
use crate::rules::sql::qualified;
use crate::rules::table_name::TableName;
use crate::settings::Connection;

/// How long a look waits for a lock.
const LOCK_TIMEOUT_MS: u32 = 30_000;

/// The state of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Rows of the version table, sorted; of several tables, each after its schema and a colon.
    pub revisions: Vec<String>,
    /// The schemas of the version tables.
    #[serde(default)]
    pub version_schemas: Vec<String>,
    /// Digest of the schema as pg_dump writes it.
    pub schema: String,
    /// The same without regard to the order of lines, which differs between clusters.
    pub schema_bag: String,
    /// Columns of each table.
    pub tables: BTreeMap<String, BTreeSet<String>>,
    /// Indexes and constraints, by name and validity.
    pub structures: BTreeSet<String>,
    /// Where each sequence stands.
    pub sequences: BTreeMap<String, i64>,
    /// Rows of unlogged tables, whose changes stand in no write-ahead log.
    pub unlogged: BTreeMap<String, RowTally>,
    /// The database's own properties; `None` in a run of a version that did not look at them.
    #[serde(default)]
    pub properties: Option<Digests>,
    /// Roles of the cluster, as [`Self::properties`].
    #[serde(default)]
    pub roles: Option<Digests>,
}

/// What can be seen of a database without reading its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the version table, sorted.
    pub revisions: Vec<String>,
    /// Digest of the schema as pg_dump writes it.
    pub schema: String,
}

/// How a fingerprint is taken.
pub struct Look<'a> {
    /// The database.
    pub connection: &'a Connection,
    /// PostgreSQL's programs.
    pub tools: &'a Tools,
    /// Where the revisions stand.
    pub version_table: &'a TableName,
    /// In which column.
    pub version_column: &'a str,
    /// Told as things move.
    pub progress: &'a Arc<Progress>,
}

impl Look<'_> {
    /// Reads the state of the database.
    ///
    /// # Errors
    /// What PostgreSQL and its programs say.
    pub async fn take(&self) -> Result<Fingerprint, JobError> {
        match self.take_unnamed().await {
            Err(JobError::Postgres(PostgresError::LockTimeout { action, tables })) if tables.is_empty() => {
                let tables = session::locked_by_others(self.connection).await.unwrap_or_default();
                Err(PostgresError::LockTimeout { action, tables }.into())
            }
            taken => taken,
        }
    }

    async fn take_unnamed(&self) -> Result<Fingerprint, JobError> {
        let mut session = session::connect(self.connection).await?;
        // A lock that somebody holds for long is told, not waited for.
        session::run(&mut session, "limit waits for locks", format!("SET lock_timeout = {LOCK_TIMEOUT_MS}"))
            .await?;
        let tables = self.version_tables(&mut session).await?;
        let (revisions, version_schemas) = (rows_of(&tables), schemas_of(tables));
        let sequences = describe::sequences(&mut session).await?.into_iter();
        let sequences = sequences.map(|it| (qualified(&it.schema, &it.name), it.state.last_value)).collect();
        let listed = describe::tables(&mut session).await?;
        let tables = listed.iter().map(|table| {
            let columns = table.columns.iter().zip(&table.types).map(|(name, of)| format!("{name} {of}"));
            (table.qualified(), columns.collect())
        });
        let tables = tables.collect();
        let structures = describe::structures(&mut session).await?.into_iter().collect();
        let encoding = describe::encoding(&mut session).await?;
        let mut unlogged = BTreeMap::new();
        for (schema, name) in describe::unlogged_tables(&mut session).await? {
            let Some(table) = listed.iter().find(|table| table.schema == schema && table.name == name) else {
                continue;
            };
            let tally = prove::tally_select(&mut session, &table.select(), &encoding, self.progress).await?;
            unlogged.insert(qualified(&schema, &name), tally);
        }
        let version_num = session::server_version_num(&mut session).await?;
        let properties = describe::properties(&mut session, version_num).await?;
        let properties = Some(describe::property_digests(&properties));
        let roles = Some(describe::role_digests(&mut session).await?);
        let lines = prove::database_lines(self.connection, self.tools, &encoding).await?;
        let mut bag = lines.clone();
        bag.sort_unstable();
        Ok(Fingerprint {
            revisions,
            version_schemas,
            schema: digest_of(&lines),
            schema_bag: digest_of(&bag),
            tables,
            structures,
            sequences,
            unlogged,
            properties,
            roles,
        })
    }

    /// Reads revisions and schema alone.
    ///
    /// # Errors
    /// What PostgreSQL and its programs say.
    pub async fn shape(&self) -> Result<Shape, JobError> {
        let mut session = session::connect(self.connection).await?;
        let revisions = rows_of(&self.version_tables(&mut session).await?);
        let encoding = describe::encoding(&mut session).await?;
        let lines = prove::database_lines(self.connection, self.tools, &encoding).await?;
        Ok(Shape { revisions, schema: digest_of(&lines) })
    }

    /// Reads the version tables alone.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn version_tables(&self, session: &mut PgConnection) -> Result<Vec<VersionTable>, JobError> {
        Ok(describe::version_tables(session, self.version_table, self.version_column).await?)
    }
}

/// All rows of version tables: of several, it matters which has which.
pub fn rows_of(tables: &[VersionTable]) -> Vec<String> {
    let is_only = tables.len() < 2;
    let row = |table: &VersionTable, revision: &String| {
        if is_only { revision.clone() } else { format!("{}:{revision}", table.schema) }
    };
    tables.iter().flat_map(|table| table.revisions.iter().map(move |it| row(table, it))).collect()
}

/// The schemas of version tables.
pub fn schemas_of(tables: Vec<VersionTable>) -> Vec<String> {
    tables.into_iter().map(|table| table.schema).collect()
}

/// Why it cannot be known which revisions a command is to reach, if there are several tables.
pub fn why_ambiguous(version_schemas: &[String]) -> Option<String> {
    (version_schemas.len() > 1)
        .then(|| format!("there are version tables in several schemas: {}", version_schemas.join(", ")))
}

fn both(before: &Option<Digests>, after: &Option<Digests>) -> Vec<String> {
    let (Some(before), Some(after)) = (before, after) else { return Vec::new() };
    describe::differences(before, after)
}

fn digest_of(lines: &[u64]) -> String {
    let bytes: Vec<u8> = lines.iter().flat_map(|line| line.to_le_bytes()).collect();
    Digest256::blake3(&bytes).to_string()
}

impl Fingerprint {
    /// Indexes that are invalid now.
    pub fn invalid_indexes(&self) -> BTreeSet<&str> {
        self.structures.iter().filter_map(|structure| structure.strip_suffix(" (invalid)")).collect()
    }

    /// What differs in `after`, each as a sentence.
    pub fn changes(&self, after: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (table, columns) in &self.tables {
            match after.tables.get(table) {
                None => changes.push(format!("table {table} is gone")),
                Some(now) => {
                    changes.extend(
                        columns.difference(now).map(|c| format!("table {table} has no longer column {c}")),
                    );
                    changes
                        .extend(now.difference(columns).map(|c| format!("table {table} has new column {c}")));
                }
            }
        }
        let is_new = |table: &&String| !self.tables.contains_key(*table);
        changes.extend(after.tables.keys().filter(is_new).map(|table| format!("table {table} is new")));
        let gone = self.structures.difference(&after.structures);
        changes.extend(gone.map(|structure| format!("{structure} is gone")));
        let new = after.structures.difference(&self.structures);
        changes.extend(new.map(|structure| format!("{structure} is new")));
        let rewritten = after
            .unlogged
            .iter()
            .filter(|(table, tally)| self.unlogged.get(*table).is_some_and(|before| before != *tally));
        changes.extend(rewritten.map(|(table, _)| format!("rows of unlogged table {table} changed")));
        changes.extend(
            self.changed_properties(after).into_iter().map(|what| format!("of the database, {what}")),
        );
        changes
    }

    /// What became of the database's properties, each as a sentence.
    pub fn changed_properties(&self, after: &Self) -> Vec<String> {
        both(&self.properties, &after.properties)
    }

    /// What became of the cluster's roles, each as a sentence.
    pub fn changed_roles(&self, after: &Self) -> Vec<String> {
        both(&self.roles, &after.roles)
    }

    /// Names sequences that stand further back in `after`: values that were given would be given
    /// again.
    pub fn sequences_set_back<'a>(&'a self, after: &'a Self) -> Vec<&'a str> {
        let is_back =
            |(name, before): &(&String, &i64)| after.sequences.get(*name).is_some_and(|now| now < before);
        self.sequences.iter().filter(is_back).map(|(name, _)| name.as_str()).collect()
    }

    /// Names unlogged tables whose rows are not those of `self`.
    pub fn changed_unlogged<'a>(&'a self, after: &'a Self) -> Vec<&'a str> {
        let all: BTreeSet<&String> = self.unlogged.keys().chain(after.unlogged.keys()).collect();
        all.into_iter()
            .filter(|table| self.unlogged.get(*table) != after.unlogged.get(*table))
            .map(String::as_str)
            .collect()
    }
}
