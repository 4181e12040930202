//! Roles that may not log in for a while, and whose sessions in the database are ended.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::{Context, Deadline, FenceError, Undo};
use crate::postgres::session::{column, rows, run};
use crate::rules::sql::{literal, quoted};

/// Between two looks at a role's sessions.
const PAUSE: Duration = Duration::from_millis(100);
/// So many looks in a row that find none: a login that was under way may still appear.
const QUIET_LOOKS: u32 = 3;

/// Reads which of `roles` can log in.
pub(super) async fn look(roles: &[String], context: &Context<'_>) -> Result<Undo, FenceError> {
    let mut session = context.maintenance_session().await?;
    let sql = format!(
        "SELECT rolname::text AS name, rolcanlogin AS can_login, rolname IN (current_user, session_user) AS is_ours \
         FROM pg_catalog.pg_roles WHERE rolname IN ({})",
        literals(roles)
    );
    let mut known = Vec::new();
    let mut with_login = Vec::new();
    for row in rows(&mut session, "read the roles to keep out", sql).await? {
        let role: String = column(&row, "name")?;
        if column(&row, "is_ours")? {
            return Err(FenceError::OwnRole { role });
        }
        if column(&row, "can_login")? {
            with_login.push(role.clone());
        }
        known.push(role);
    }
    if let Some(role) = roles.iter().find(|role| !known.contains(role)) {
        return Err(FenceError::RoleMissing { role: role.clone() });
    }
    Ok(Undo::Role { roles: with_login })
}

/// Takes LOGIN from `with_login` and ends the sessions of all `roles`.
pub(super) async fn raise(
    roles: &[String],
    with_login: &[String],
    context: &Context<'_>,
) -> Result<(), FenceError> {
    let mut session = context.maintenance_session().await?;
    set_login(&mut session, with_login, "NOLOGIN").await?;
    end_all(&mut session, roles, context, context.deadline()).await
}

/// Gives LOGIN back to those of `roles` that are still there and have it not.
pub(super) async fn release(roles: &[String], context: &Context<'_>) -> Result<(), FenceError> {
    if roles.is_empty() {
        return Ok(());
    }
    let mut session = context.maintenance_session().await?;
    let sql = format!(
        "SELECT rolname::text AS name FROM pg_catalog.pg_roles WHERE NOT rolcanlogin AND rolname IN ({})",
        literals(roles)
    );
    let found = rows(&mut session, "read the roles that were kept out", sql).await?;
    let without = found.iter().map(|row| column(row, "name")).collect::<Result<Vec<String>, _>>()?;
    set_login(&mut session, &without, "LOGIN").await
}

/// All in one go: statements that are sent together are one transaction.
async fn set_login(session: &mut PgConnection, roles: &[String], option: &str) -> Result<(), FenceError> {
    if roles.is_empty() {
        return Ok(());
    }
    let each = roles.iter().map(|role| format!("ALTER ROLE {} {option}", quoted(role)));
    let action = format!("set {option} for role {}", roles.join(", "));
    Ok(run(session, &action, each.collect::<Vec<_>>().join("; ")).await?)
}

async fn end_all(
    session: &mut PgConnection,
    roles: &[String],
    context: &Context<'_>,
    deadline: Deadline,
) -> Result<(), FenceError> {
    let action = format!("end the sessions of role {}", roles.join(", "));
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) AS is_told FROM pg_catalog.pg_stat_activity \
         WHERE datname = {} AND usename IN ({}) AND pid <> pg_catalog.pg_backend_pid()",
        literal(context.database),
        literals(roles)
    );
    let mut quiet_looks = 0;
    while quiet_looks < QUIET_LOOKS {
        let ended = rows(session, &action, sql.clone()).await?;
        quiet_looks = if ended.is_empty() { quiet_looks + 1 } else { 0 };
        if deadline.is_over() {
            return Err(deadline.timed_out(action));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn literals(roles: &[String]) -> String {
    roles.iter().map(|role| literal(role)).collect::<Vec<_>>().join(", ")
}
