//! Depth `restored`: the snapshot is loaded into a scratch cluster, and every table read back.

use std::path::PathBuf;

use super::{Findings, Means};
use crate::jobs::load::{self, RestoreErrors, Source, Target, statistics};
use crate::jobs::prove::{self, Claim, Proof};
use crate::jobs::{JobError, Stopwatch, WorkDirectory};
use crate::postgres::scratch::ScratchCluster;
use crate::postgres::tools::Tools;
use crate::postgres::{PostgresError, session};
use crate::rules::causes::in_a_sentence;
use crate::rules::globals::{self, Subject};
use crate::rules::layout;
use crate::rules::manifest::{DatabaseProperties, Inventory};
use crate::rules::sql::{create_database, literal, quoted};
use crate::seal::SealError;
use crate::settings::Connection;

/// A snapshot in a scratch cluster; both are gone when this is removed or dropped.
pub struct ScratchCopy {
    cluster: ScratchCluster,
    /// How to connect to the copy, as the superuser of its cluster.
    pub connection: Connection,
}

impl ScratchCopy {
    /// Ends the cluster and removes all of it.
    ///
    /// # Errors
    /// [`JobError::Disk`]
    pub async fn remove(self) -> Result<(), JobError> {
        let path = PathBuf::from(&self.connection.host);
        self.cluster.remove().await.map_err(|source| JobError::Disk {
            action: "remove the scratch cluster in",
            path,
            source,
        })
    }
}

/// Loads the snapshot into a cluster of its own and compares everything with the inventory.
pub async fn restore_and_compare(
    means: &Means<'_>,
    source: &Source<'_>,
    inventory: &Inventory,
    findings: &mut Findings,
) -> Result<ScratchCopy, JobError> {
    let major = source.entry.manifest.server_version_num / 10_000;
    let dumped_by = &source.entry.manifest.pg_dump_version;
    let tools = Tools::find_reading(means.bin_directory, means.path, major, dumped_by).await?;
    let programs = Tools::find_server(means.bin_directory, means.path, major).await?;
    let work = WorkDirectory::create(means.scratch_directory)?;
    means.progress.enter("starting a scratch cluster");
    let cluster =
        ScratchCluster::start(means.scratch_directory, &programs, &inventory.bootstrap_superuser).await?;
    let connection = cluster.connection.with_database(name_of_copy(&source.entry.manifest.database));
    let copy = ScratchCopy { cluster, connection };
    match load_and_prove(means, source, inventory, &tools, &copy, &work, findings).await {
        Err(error) if is_finding(&error) => findings.differences.push(in_a_sentence(&error)),
        other => other?,
    }
    Ok(copy)
}

/// The copy has the database's own name, unless the scratch cluster has that already.
fn name_of_copy(database: &str) -> &str {
    if matches!(database, "postgres" | "template0" | "template1") { "snapshot" } else { database }
}

/// Whether an error says something of the snapshot, and not of the machine.
fn is_finding(error: &JobError) -> bool {
    match error {
        JobError::Object { source, .. } => !matches!(source, SealError::WrongIdentity),
        JobError::Postgres(PostgresError::ToolFailed { tool, messages, .. }) => {
            tool == "pg_restore" && !messages.contains("No space left")
        }
        JobError::Postgres(PostgresError::Query { source, .. }) => {
            // Lost connections, exhausted resources and interventions say nothing of the snapshot.
            let code = source.as_database_error().and_then(|error| error.code());
            code.is_some_and(|code| !["08", "53", "57"].iter().any(|class| code.starts_with(class)))
        }
        _ => false,
    }
}

async fn load_and_prove(
    means: &Means<'_>,
    source: &Source<'_>,
    inventory: &Inventory,
    tools: &Tools,
    copy: &ScratchCopy,
    work: &WorkDirectory,
    findings: &mut Findings,
) -> Result<(), JobError> {
    let watch = Stopwatch::start();
    let (cluster, connection) = (&copy.cluster, &copy.connection);
    make_globals(source, inventory, cluster).await?;
    let properties = DatabaseProperties { tablespace: "pg_default".into(), ..inventory.properties.clone() };
    let mut session = session::connect(&cluster.connection).await?;
    let create =
        create_database(&quoted(&connection.database), &properties, source.entry.manifest.server_version_num);
    session::run(&mut session, "create the scratch database", create).await?;
    let target = Target {
        connection,
        tools,
        jobs: means.jobs,
        work_directory: work.path(),
        errors: RestoreErrors::Refuse,
        progress: means.progress,
    };
    let loaded = load::load(source, inventory, &target).await?;
    let statistics = async {
        let missed = statistics::gather(inventory, &target, &loaded).await?;
        Ok((missed, watch.elapsed_ms()))
    };
    let claim = Claim { manifest: &source.entry.manifest, inventory, loaded: &loaded };
    let proving = prove::prove(&claim, connection, tools, Proof::Full, means.jobs, means.progress);
    let ((missed, restore_ms), proven) = futures::try_join!(statistics, proving)?;
    findings.restore_ms = Some(restore_ms);
    findings.differences.extend(proven.problems);
    findings.differences.extend(proven.schema_problems);
    findings.notes.extend(proven.notes);
    findings.notes.extend(missed);
    findings.tables = proven.tables;
    findings.rows = proven.rows;
    Ok(())
}

/// Makes every role of the dump, and tablespaces of the same names inside the scratch directory.
async fn make_globals(
    source: &Source<'_>,
    inventory: &Inventory,
    cluster: &ScratchCluster,
) -> Result<(), JobError> {
    let plain = source.small_object(layout::GLOBALS, &source.entry.manifest.objects.globals).await?;
    let statements = globals::statements(&String::from_utf8_lossy(&plain));
    let mut session = session::connect(&cluster.connection).await?;
    for statement in &statements {
        let is_wanted = match &statement.subject {
            // The scratch cluster's superuser keeps its own password and rights.
            Subject::NewRole(name) | Subject::Role(name) => *name != inventory.bootstrap_superuser,
            Subject::Membership { .. } => true,
            Subject::Other => false,
        };
        if is_wanted {
            session::run(&mut session, "make the roles of the snapshot", statement.sql.clone()).await?;
        }
    }
    for (ordinal, name) in inventory.tablespaces.iter().enumerate() {
        let directory = cluster.tablespace_directory(ordinal).map_err(|source| JobError::Disk {
            action: "make a tablespace for",
            path: name.into(),
            source,
        })?;
        let sql =
            format!("CREATE TABLESPACE {} LOCATION {}", quoted(name), literal(&directory.to_string_lossy()));
        session::run(&mut session, "make the tablespaces of the snapshot", sql).await?;
    }
    Ok(())
}
