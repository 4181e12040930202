//! What a run of Alembic should do, told from its command line and the scripts of a checkout.
//!
//! Comes in: the words of a command, the texts of revision scripts, the rows of the version table,
//! and afterwards what the command printed. Goes out: the revisions that are pending, the rows that
//! success leaves, and where a failure happened. No Python runs here; what only Python could tell
//! is an error that says so, and where Alembic itself would refuse, the answer is its refusal.

mod failure;
mod history;
mod intent;
mod python;
mod rows;
mod script;
mod steps;
mod target;
#[cfg(test)]
mod tests;

pub use failure::{Failure, Place, failing_place};
pub use history::{History, HistoryError};
pub use intent::{Action, Intent};
pub use script::{Revision, RevisionError, parse_revision};
pub use target::Unclear;

use history::Node;
use rows::Rows;

/// What a command leaves behind when it succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The rows of the version table, sorted.
    pub rows: Vec<String>,
    /// The revisions that are run, first one first; those undone, for a downgrade; none for a stamp.
    /// Between several `depends_on` of one revision Alembic's own order varies from run to run.
    pub pending: Vec<String>,
}

/// Says what `intent` does to a database whose version table has the rows `current`.
///
/// # Errors
/// [`Unclear`] with the reason: mostly what Alembic itself will say, such as that there are several
/// heads.
pub fn expected(intent: &Intent, history: &History, current: &[String]) -> Result<Expected, Unclear> {
    let mut rows = Rows::new(current);
    if intent.is_offline {
        return Ok(Expected { rows: rows.into_sorted(), pending: Vec::new() });
    }
    let pending = match &intent.action {
        Action::Upgrade(target) | Action::Downgrade(target) if target.contains(':') => {
            return Err(Unclear("Range revision not allowed".into()));
        }
        Action::Upgrade(target) => {
            let pending = history.upgrades(target, current)?;
            pending.iter().try_for_each(|node| rows.upgrade(history, node))?;
            pending
        }
        Action::Downgrade(target) => {
            let undone = history.downgrades(target, current)?;
            undone.iter().try_for_each(|node| rows.downgrade(history, node))?;
            undone
        }
        Action::Stamp { targets, is_purging } => {
            let current = if *is_purging { &[] } else { current };
            rows = stamped(history, targets, current)?;
            Vec::new()
        }
    };
    let pending = pending.into_iter().map(|node| node.id().to_owned()).collect();
    Ok(Expected { rows: rows.into_sorted(), pending })
}

fn stamped(history: &History, targets: &[String], current: &[String]) -> Result<Rows, Unclear> {
    let mut rows = Rows::new(current);
    let present: Vec<&str> = history.all(current)?.into_iter().map(Node::id).collect();
    let mut in_line = Vec::new();
    let mut destinations = Vec::new();
    for target in targets {
        for row in history.rows_in_line(&present, target)? {
            if !in_line.contains(&row) {
                in_line.push(row);
            }
        }
        destinations.extend(history.stamp_targets(target)?);
    }
    if destinations.is_empty() {
        rows.remove(&in_line)?;
    }
    for destination in destinations {
        rows.stamp(history, &in_line, destination)?;
    }
    Ok(rows)
}
