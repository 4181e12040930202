//! Programs of an operator's own, one that keeps writers out and one that lets them in again.

use super::program;
use super::{Context, FenceError, Undo};

/// Both programs must be there before the first of them runs.
pub(super) fn look(raise: &[String], release: &[String], context: &Context<'_>) -> Result<Undo, FenceError> {
    for command in [raise, release] {
        program::command(program_of(command), context)?;
    }
    Ok(Undo::Command { release: release.to_vec() })
}

/// Runs `command`, which learns from `BELAY_DATABASE` which database is meant.
pub(super) async fn run(command: &[String], context: &Context<'_>) -> Result<(), FenceError> {
    let mut child = program::command(program_of(command), context)?;
    child.args(command.iter().skip(1)).env("BELAY_DATABASE", context.database);
    // The whole command may hold what nobody else should read; its name does not.
    program::run(child, &format!("run {}", program_of(command)), context.deadline()).await
}

fn program_of(command: &[String]) -> &str {
    command.first().map_or("", String::as_str)
}
