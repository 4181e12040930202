//! What a restore would do, and what speaks against it. Reads only.

use std::collections::BTreeSet;

use super::{Destination, Request};
use crate::jobs::JobError;
use crate::postgres::describe;
use crate::postgres::session::{self, column, rows};
use crate::rules::layout::SnapshotId;
use crate::rules::manifest::Inventory;
use crate::rules::sql::literal;
use crate::settings::Connection;

/// What a restore would do.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RestorePlan {
    /// The snapshot.
    pub from: SnapshotId,
    /// The name that the restored database would have.
    pub into: String,
    /// Whether a live database would give up that name.
    pub replaces: bool,
    /// Alembic's revisions in the snapshot.
    #[serde(rename = "revision")]
    pub revisions: Vec<String>,
    /// Tables in the snapshot.
    pub tables: u64,
    /// Rows in the snapshot.
    pub rows: u64,
    /// Bytes that would be read from the store.
    pub stored_bytes: u64,
    /// Bytes that the database had on disk when the snapshot was taken.
    pub needed_bytes: u64,
    /// Bytes that are free where the cluster lies, when that can be seen from here.
    pub free_bytes: Option<u64>,
    /// Roles that would be made.
    pub missing_roles: Vec<String>,
    /// How long the last restore of this snapshot into a scratch cluster took, in milliseconds.
    pub estimate_ms: Option<u64>,
    /// What should be known, but stops nothing.
    pub warnings: Vec<String>,
    /// Why it would be refused.
    pub refusals: Vec<String>,
}

/// Looks at the cluster and says what `request` would do.
///
/// # Errors
/// What PostgreSQL says when asked; a reason to refuse is in the plan.
pub async fn plan(request: &Request<'_>, inventory: &Inventory) -> Result<RestorePlan, JobError> {
    let mut session =
        session::connect(&request.connection.with_database(session::MAINTENANCE_DATABASE)).await?;
    let manifest = &request.entry.manifest;
    let present: BTreeSet<String> = describe::all_roles(&mut session).await?.into_iter().collect();
    let mut plan = RestorePlan {
        from: manifest.id.clone(),
        into: request.destination.name().into(),
        replaces: matches!(request.destination, Destination::Swap(_)),
        revisions: manifest.revisions.clone(),
        tables: manifest.tables,
        rows: manifest.rows,
        stored_bytes: manifest.stored_bytes,
        needed_bytes: inventory.properties.disk_bytes,
        free_bytes: None,
        missing_roles: inventory.roles.iter().filter(|role| !present.contains(*role)).cloned().collect(),
        estimate_ms: request.entry.restore_ms(),
        warnings: Vec::new(),
        refusals: Vec::new(),
    };
    let of_name = look_at_name(&request.destination, request.disposable_slots, &mut session).await?;
    plan.refusals.extend(of_name);
    look_at_rights(request, inventory, &present, &mut session, &mut plan).await?;
    look_at_server(manifest.server_version_num, &mut session, &mut plan).await?;
    look_at_parts(inventory, &mut session, &mut plan).await?;
    look_at_room(request, &mut session, &mut plan).await?;
    Ok(plan)
}

/// What speaks against a restore into `destination`, as far as it can be told before there is a snapshot.
///
/// # Errors
/// What PostgreSQL says when asked.
pub async fn what_speaks_against(
    destination: &Destination,
    connection: &Connection,
) -> Result<Vec<String>, JobError> {
    let mut session = session::connect(&connection.with_database(session::MAINTENANCE_DATABASE)).await?;
    let mut refusals = look_at_name(destination, &[], &mut session).await?;
    refusals.extend(standby(&mut session).await?);
    session::close(session).await?;
    Ok(refusals)
}

async fn look_at_name(
    destination: &Destination,
    disposable_slots: &[String],
    session: &mut sqlx::PgConnection,
) -> Result<Vec<String>, JobError> {
    let name = destination.name();
    let exists = describe::database_oid(session, name).await?.is_some();
    let reason = match destination {
        Destination::Into(_) if exists => {
            format!("a database {name} exists already, and a restore never overwrites")
        }
        Destination::Into(_) => return Ok(Vec::new()),
        Destination::Swap(_) if !exists => format!("there is no database {name} to take the name from"),
        Destination::Swap(_) if matches!(name, "postgres" | "template0" | "template1") => {
            format!("{name} is one of the cluster's own databases and cannot be renamed")
        }
        Destination::Swap(_) => return what_binds(session, name, disposable_slots).await,
    };
    Ok(vec![reason])
}

/// What would stop a rename, or be lost with one.
///
/// # Errors
/// What PostgreSQL says.
pub async fn what_binds(
    session: &mut sqlx::PgConnection,
    name: &str,
    disposable_slots: &[String],
) -> Result<Vec<String>, JobError> {
    let name_literal = literal(name);
    let disposable: String = disposable_slots.iter().map(|slot| format!(", {}", literal(slot))).collect();
    let sql = format!(
        "SELECT 'prepared transaction ' || quote_literal(gid) || ' is open in it: COMMIT or ROLLBACK PREPARED first' AS reason \
           FROM pg_catalog.pg_prepared_xacts WHERE database = {name_literal} \
         UNION ALL SELECT 'logical replication slot ' || quote_ident(slot_name) || ' belongs to it and would follow the old database: drop it first' \
           FROM pg_catalog.pg_replication_slots WHERE database = {name_literal} AND slot_name NOT IN (''{disposable}) \
         UNION ALL SELECT 'subscription ' || quote_ident(subname) || ' belongs to it: drop it first' \
           FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = {name_literal}"
    );
    let found = rows(session, "look at what binds the database", sql).await?;
    Ok(found.iter().map(|row| column(row, "reason")).collect::<Result<_, _>>()?)
}

/// What a role that is no superuser may lack; a superuser lacks nothing.
async fn look_at_rights(
    request: &Request<'_>,
    inventory: &Inventory,
    present: &BTreeSet<String>,
    session: &mut sqlx::PgConnection,
    plan: &mut RestorePlan,
) -> Result<(), JobError> {
    let sql = "SELECT rolname::text AS name, rolcreatedb, rolcreaterole FROM pg_catalog.pg_roles \
        WHERE rolname = current_user AND NOT rolsuper";
    let found = rows(session, "look at the role's rights", sql).await?;
    let Some(row) = found.first() else { return Ok(()) };
    let role: String = column(row, "name")?;
    if !column::<bool>(row, "rolcreatedb")? {
        plan.refusals.push(format!("role {role} may not make databases (CREATEDB)"));
    }
    if !plan.missing_roles.is_empty() && !column::<bool>(row, "rolcreaterole")? {
        plan.refusals.push(format!(
            "role {role} may not make the roles {} (CREATEROLE)",
            plan.missing_roles.join(", ")
        ));
    }
    let owner = &inventory.properties.owner;
    let may_act_for =
        |owner: &str| format!("SELECT pg_catalog.pg_has_role({}, 'MEMBER') AS may", literal(owner));
    let mut refuse_unless = async |sql: String, reason: String| {
        let found = rows(session, "look at the role's rights", sql).await?;
        let may = found.first().map(|row| column::<bool>(row, "may")).transpose()?.unwrap_or(true);
        if !may {
            plan.refusals.push(reason);
        }
        Ok::<_, JobError>(())
    };
    if present.contains(owner) {
        let reason = format!("role {role} is no member of {owner}, who is to own the database");
        refuse_unless(may_act_for(owner), reason).await?;
    }
    if let Destination::Swap(name) = &request.destination {
        let sql = format!(
            "SELECT pg_catalog.pg_has_role(datdba, 'MEMBER') AS may FROM pg_catalog.pg_database WHERE datname = {}",
            literal(name)
        );
        refuse_unless(sql, format!("role {role} does not own database {name} and may not rename it")).await?;
        let sql = "SELECT pg_catalog.pg_has_role('pg_signal_backend', 'MEMBER') AS may".to_owned();
        refuse_unless(sql, format!("role {role} may not end the sessions of others (pg_signal_backend)"))
            .await?;
    }
    Ok(())
}

async fn look_at_server(
    taken_on: u32,
    session: &mut sqlx::PgConnection,
    plan: &mut RestorePlan,
) -> Result<(), JobError> {
    plan.refusals.extend(standby(session).await?);
    let here = session::server_version_num(session).await? / 10_000;
    let there = taken_on / 10_000;
    if here < there {
        plan.warnings.push(format!(
            "the snapshot is of PostgreSQL {there}, the server is {here}: what {here} does not know fails"
        ));
    }
    Ok(())
}

/// Why nothing can be restored into a standby, where the server is one.
pub(super) async fn standby(session: &mut sqlx::PgConnection) -> Result<Option<String>, JobError> {
    let reason = "the server is a standby (in recovery) and takes no writes: restore on its primary";
    Ok(session::is_standby(session).await?.then(|| reason.to_owned()))
}

async fn look_at_parts(
    inventory: &Inventory,
    session: &mut sqlx::PgConnection,
    plan: &mut RestorePlan,
) -> Result<(), JobError> {
    let sql = "SELECT name::text AS name FROM pg_catalog.pg_available_extensions";
    let found = rows(session, "list available extensions", sql).await?;
    let available: BTreeSet<String> =
        found.iter().map(|row| column(row, "name")).collect::<Result<_, _>>()?;
    for extension in inventory.extensions.iter().filter(|extension| !available.contains(&extension.name)) {
        plan.refusals.push(format!(
            "extension {} {} is not installed on the server",
            extension.name, extension.version
        ));
    }
    let sql = "SELECT spcname::text AS name FROM pg_catalog.pg_tablespace";
    let found = rows(session, "list tablespaces", sql).await?;
    let present: BTreeSet<String> = found.iter().map(|row| column(row, "name")).collect::<Result<_, _>>()?;
    for tablespace in inventory.tablespaces.iter().filter(|name| !present.contains(*name)) {
        plan.refusals.push(format!(
            "tablespace {tablespace} does not exist: make it first, on the disk that it should have"
        ));
    }
    let properties = &inventory.properties;
    if properties.locale_provider == "libc" && !has_locale(&properties.collate, session).await? {
        plan.refusals.push(format!("locale {} is not installed on the server", properties.collate));
    }
    Ok(())
}

async fn has_locale(name: &str, session: &mut sqlx::PgConnection) -> Result<bool, JobError> {
    if matches!(name, "C" | "POSIX") {
        return Ok(true);
    }
    // initdb writes every locale of the machine into pg_collation; the template's own is there by use.
    let folded = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    let sql = "SELECT coalesce(collcollate, '')::text AS name FROM pg_catalog.pg_collation WHERE collprovider = 'c' \
        UNION SELECT datcollate::text FROM pg_catalog.pg_database";
    for row in rows(session, "list locales", sql).await? {
        if folded(&column::<String>(&row, "name")?) == folded(name) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn look_at_room(
    request: &Request<'_>,
    session: &mut sqlx::PgConnection,
    plan: &mut RestorePlan,
) -> Result<(), JobError> {
    plan.free_bytes = free_bytes(request.connection, session).await?;
    match plan.free_bytes {
        Some(free) => plan.refusals.extend(too_little(plan.needed_bytes, free)),
        None => plan.warnings.push("how much room the server has cannot be seen from here".into()),
    }
    Ok(())
}

/// Why there is no room for a database of `needed_bytes`, where that can be seen from here.
///
/// # Errors
/// What PostgreSQL says.
pub async fn no_room(
    connection: &Connection,
    session: &mut sqlx::PgConnection,
    needed_bytes: u64,
) -> Result<Option<String>, JobError> {
    Ok(free_bytes(connection, session).await?.and_then(|free| too_little(needed_bytes, free)))
}

fn too_little(needed_bytes: u64, free_bytes: u64) -> Option<String> {
    (free_bytes < needed_bytes).then(|| {
        format!(
            "there is no room: the database needs about {}, {} are free",
            bytesize::ByteSize(needed_bytes),
            bytesize::ByteSize(free_bytes)
        )
    })
}

async fn free_bytes(
    connection: &Connection,
    session: &mut sqlx::PgConnection,
) -> Result<Option<u64>, JobError> {
    if !connection.is_local() {
        return Ok(None);
    }
    let sql = "SELECT CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'member') OR \
        (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) \
        THEN current_setting('data_directory') END AS directory";
    let found = rows(session, "look where the cluster lies", sql).await?;
    let directory: Option<String> = found.first().map(|row| column(row, "directory")).transpose()?.flatten();
    Ok(directory.and_then(|directory| {
        let space = nix::sys::statvfs::statvfs(directory.as_str()).ok()?;
        Some(space.fragment_size().saturating_mul(space.blocks_available()))
    }))
}
