//! What can be done where base backups or the write-ahead log are not what was stored.

use super::{Advice, said};
use crate::cli::report::ExitCode;
use crate::rules::layout::{self, ObjectKey, SnapshotId};

const ALL: &str = "`belay verify --physical` names everything that is damaged";
pub(super) const NO_BASE: &str =
    "on the database host, `belay base-backup` takes one, and `belay status` says how far its log is stored";

/// On an object, by its key; `None` for one of a snapshot.
pub(super) fn on_object(key: &str) -> Advice {
    let key = ObjectKey::new(key).ok()?;
    if layout::is_of_log(&key) {
        return said(
            ExitCode::Problem,
            &format!(
                "a moment before that piece of the log, or behind the next base backup, can be had (`belay list` shows which); {ALL}"
            ),
        );
    }
    layout::base_of_key(&key)?;
    said(ExitCode::Problem, &format!("--base ID begins with another base backup (`belay list`); {ALL}"))
}

/// On a base backup that is damaged.
pub(super) fn on_damaged(instead: Option<&SnapshotId>) -> Advice {
    let hint = match instead {
        Some(other) => {
            format!(
                "the same command with --base {other} begins with another one that reaches the moment; {ALL}"
            )
        }
        None => format!(
            "no other base backup reaches the moment; `belay list` shows which moments others reach, and {ALL}"
        ),
    };
    said(ExitCode::Problem, &hint)
}

/// On a base backup that was asked for and does not lead to the moment.
pub(super) fn on_choice(instead: Option<&SnapshotId>) -> Advice {
    let hint = match instead {
        Some(other) => format!("leave --base out, or give --base {other}, which leads there"),
        None => "no other one leads there; `belay list` shows what each base backup reaches".to_owned(),
    };
    said(ExitCode::Refused, &hint)
}
