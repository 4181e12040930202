//! Which databases of a cluster are Belay's own: loaded at the moment, left half-loaded, or set
//! aside by a swap.
//!
//! Comes in: the ledger, and a session of the cluster. Goes out: names. A mark in a comment alone
//! does not tell: who gives a database that was set aside its name back, or another one, has made
//! it theirs again.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;

use super::beside::{KEPT, LOADING, LOADING_NAME};
use crate::jobs::JobError;
use crate::ledger::{Ledger, Loading, Replacement};
use crate::postgres::session::{column, rows};

/// A database as the cluster has it.
struct Seen {
    oid: i64,
    name: String,
    comment: Option<String>,
}

/// Names the databases that are Belay's own in the cluster of `session`.
///
/// # Errors
/// What PostgreSQL or the ledger say.
pub async fn own_databases(
    ledger: &Ledger,
    session: &mut PgConnection,
) -> Result<BTreeSet<String>, JobError> {
    let loading: Vec<_> = ledger.loading().await?.into_iter().map(|database| database.loading).collect();
    let replaced: Vec<_> =
        ledger.replaced().await?.into_iter().map(|database| database.replacement).collect();
    let sql = "SELECT oid::bigint AS oid, datname::text AS name, \
        pg_catalog.shobj_description(oid, 'pg_database') AS comment FROM pg_catalog.pg_database";
    let mut own = BTreeSet::new();
    for row in rows(session, "list databases", sql).await? {
        let seen = Seen {
            oid: column(&row, "oid")?,
            name: column(&row, "name")?,
            comment: column(&row, "comment")?,
        };
        if is_loading(&seen, &loading) || is_set_aside(&seen, &replaced) {
            own.insert(seen.name);
        }
    }
    Ok(own)
}

/// Whether a restore of this host loads or loaded it, or one that keeps its own ledger does.
fn is_loading(seen: &Seen, loading: &[Loading]) -> bool {
    let is_marked = seen.name.starts_with(LOADING_NAME)
        && seen.comment.as_ref().is_some_and(|comment| comment.starts_with(LOADING));
    // Without a comment it was only just made; its name is ours and random.
    let is_known = |loading: &Loading| {
        loading.temp_name == seen.name
            && seen.comment.as_ref().is_none_or(|comment| *comment == loading.marker)
    };
    is_marked || loading.iter().any(is_known)
}

fn is_set_aside(seen: &Seen, replaced: &[Replacement]) -> bool {
    let is_it = |replaced: &Replacement| {
        replaced.kept_name == seen.name
            && i64::from(replaced.oid) == seen.oid
            && seen.comment.as_ref() == Some(&replaced.marker)
    };
    seen.comment.as_ref().is_some_and(|comment| comment.starts_with(KEPT)) && replaced.iter().any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn seen(oid: i64, name: &str, comment: Option<&str>) -> Seen {
        Seen { oid, name: name.into(), comment: comment.map(Into::into) }
    }

    fn set_aside() -> Replacement {
        Replacement {
            marker: "belay:kept:abc".into(),
            system_identifier: "7".into(),
            oid: 42,
            kept_name: "app_kept_1".into(),
            original_name: "app".into(),
            replaced_at: DateTime::UNIX_EPOCH,
            expires_at: DateTime::UNIX_EPOCH,
        }
    }

    fn loaded() -> Loading {
        Loading {
            marker: "belay:loading:abc".into(),
            system_identifier: "7".into(),
            oid: None,
            temp_name: "belay_restore_1".into(),
            started_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_database_set_aside_is_ours_while_name_oid_and_mark_fit() {
        let mark = Some("belay:kept:abc");
        assert!(is_set_aside(&seen(42, "app_kept_1", mark), &[set_aside()]));
        for other in [
            seen(43, "app_kept_1", mark),
            seen(42, "app", mark),
            seen(42, "app_kept_1", None),
            seen(42, "app_kept_1", Some("belay:kept:other")),
        ] {
            assert!(!is_set_aside(&other, &[set_aside()]), "{} {:?}", other.name, other.comment);
        }
        assert!(!is_set_aside(&seen(42, "app_kept_1", mark), &[]));
    }

    #[test]
    fn a_database_being_loaded_is_ours_whoever_loads_it() {
        let mark = Some("belay:loading:abc");
        assert!(is_loading(&seen(1, "belay_restore_1", None), &[loaded()]));
        assert!(is_loading(&seen(1, "belay_restore_1", mark), &[loaded()]));
        assert!(is_loading(&seen(1, "belay_restore_2", Some("belay:loading:def")), &[]));
        assert!(!is_loading(&seen(1, "belay_restore_2", None), &[loaded()]));
        assert!(!is_loading(&seen(1, "app", mark), &[loaded()]));
    }
}
