//! Gives a proven database its name, in one transaction.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgConnection;

use super::Beside;
use crate::jobs::JobError;
use crate::ledger::{Ledger, Replacement};
use crate::postgres::PostgresError;
use crate::postgres::describe;
use crate::postgres::session::{self, rows};
use crate::rules::layout;
use crate::rules::manifest::Inventory;
use crate::rules::sql::{database_properties, literal, quoted};

/// How often sessions are ended and looked for, and the pause between.
const END_ATTEMPTS: u32 = 100;
const END_PAUSE: Duration = Duration::from_millis(100);

/// Renames the loaded database to a name that nobody has, with the snapshot's properties.
pub async fn take_free_name(
    session: &mut PgConnection,
    beside: &Beside,
    name: &str,
    inventory: &Inventory,
) -> Result<(), JobError> {
    end_sessions(session, &beside.name).await?;
    let statements = renamed(beside, name, inventory);
    transaction(session, "give the restored database its name", statements).await
}

/// Renames the live database away and the loaded one into its place.
///
/// New connections are refused first: clients that reconnect would make the rename fail. If the
/// transaction fails they are let in again; if we die in between, [`super::recover`] does it.
pub async fn take_over(
    ledger: &Ledger,
    session: &mut PgConnection,
    beside: &Beside,
    name: &str,
    inventory: &Inventory,
    keep: TimeDelta,
    now: DateTime<Utc>,
) -> Result<String, JobError> {
    let Some(oid) = describe::database_oid(session, name).await? else {
        return Err(JobError::Refused { action: format!("swap {name}"), reasons: vec!["it is gone".into()] });
    };
    let kept_name = kept_name(session, name, now).await?;
    let replaced = Replacement {
        system_identifier: describe::identity(session).await?.1.unwrap_or_default(),
        oid,
        kept_name: kept_name.clone(),
        original_name: name.to_owned(),
        marker: format!("belay:kept:{}{}", layout::tail(rand::random()), layout::tail(rand::random())),
        replaced_at: now,
        expires_at: now + keep,
    };
    // Written down first, so that a crash leaves no database closed for ever and none unknown.
    ledger.record_replaced(&replaced).await?;
    let swapped = swap(session, beside, name, &replaced, inventory).await;
    if let Err(error) = swapped {
        session::run(
            session,
            "let sessions in again",
            format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quoted(name)),
        )
        .await?;
        ledger.forget_replaced(&replaced.marker).await?;
        return Err(error);
    }
    ledger.confirm_replaced(&replaced.marker).await?;
    Ok(kept_name)
}

async fn swap(
    session: &mut PgConnection,
    beside: &Beside,
    name: &str,
    replaced: &Replacement,
    inventory: &Inventory,
) -> Result<(), JobError> {
    session::run(
        session,
        "keep sessions out",
        format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", quoted(name)),
    )
    .await?;
    end_sessions(session, name).await?;
    end_sessions(session, &beside.name).await?;
    let kept = quoted(&replaced.kept_name);
    let mut statements = vec![
        format!("ALTER DATABASE {} RENAME TO {kept}", quoted(name)),
        format!("COMMENT ON DATABASE {kept} IS {}", literal(&replaced.marker)),
        // For a look: nobody who looks for the old name comes here.
        format!("ALTER DATABASE {kept} ALLOW_CONNECTIONS true"),
    ];
    statements.extend(renamed(beside, name, inventory));
    transaction(session, "swap the databases", statements).await
}

fn renamed(beside: &Beside, name: &str, inventory: &Inventory) -> Vec<String> {
    let mut statements = vec![format!("ALTER DATABASE {} RENAME TO {}", quoted(&beside.name), quoted(name))];
    statements.extend(database_properties(&quoted(name), &inventory.properties));
    statements
}

async fn transaction(
    session: &mut PgConnection,
    action: &str,
    statements: Vec<String>,
) -> Result<(), JobError> {
    let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
    if let Err(error) = session::run(session, action, sql).await {
        // The session stands in an aborted transaction.
        session::run(session, "give up the transaction", "ROLLBACK".into()).await?;
        return Err(error.into());
    }
    Ok(())
}

/// Ends every session of a database, and looks until none is left.
async fn end_sessions(session: &mut PgConnection, database: &str) -> Result<(), JobError> {
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
         WHERE datname = {} AND pid <> pg_catalog.pg_backend_pid()",
        literal(database)
    );
    for _ in 0..END_ATTEMPTS {
        if rows(session, "end the sessions of the database", sql.clone()).await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(END_PAUSE).await;
    }
    let waited = END_PAUSE * END_ATTEMPTS;
    Err(PostgresError::Stalled { action: format!("end the sessions of database {database}"), waited }.into())
}

/// `<name>_kept_<time>`, cut to what PostgreSQL takes, and free.
async fn kept_name(session: &mut PgConnection, name: &str, now: DateTime<Utc>) -> Result<String, JobError> {
    const NAME_BYTES: usize = 63;
    for attempt in 0.. {
        let suffix = match attempt {
            0 => format!("_kept_{}", now.format("%Y%m%dt%H%M%S")),
            n => format!("_kept_{}_{n}", now.format("%Y%m%dt%H%M%S")),
        };
        let mut stem = name.to_owned();
        while stem.len() + suffix.len() > NAME_BYTES {
            stem.pop();
        }
        let candidate = format!("{stem}{suffix}");
        if describe::database_oid(session, &candidate).await?.is_none() {
            return Ok(candidate);
        }
    }
    unreachable!("some number is free")
}
