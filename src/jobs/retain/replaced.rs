//! Databases that a swap set aside: dropped when their time is over and every mark of ours fits.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;

use super::{Mode, Retained};
use crate::jobs::JobError;
use crate::ledger::{Ledger, ReplacedDatabase, Replacement, ReplacementState};
use crate::postgres::PostgresError;
use crate::postgres::describe;
use crate::postgres::session::{self, column, rows};
use crate::rules::causes::in_a_sentence;
use crate::settings::Connection;

/// What the cluster has under the recorded OID.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: String,
    comment: Option<String>,
}

/// Where a database that was set aside is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Its cluster does not answer, or cannot be told from others.
    Unseen,
    /// It has the name that it was given, or its swap is not settled.
    AsRecorded,
    /// Somebody gave it this name.
    Renamed(String),
    /// It was dropped.
    Gone,
}

/// Looks for every database that was set aside. Reads only.
///
/// # Errors
/// What the ledger says; a cluster that does not answer is [`Whereabouts::Unseen`].
pub async fn whereabouts(
    ledger: &Ledger,
    clusters: &[Connection],
) -> Result<Vec<(Replacement, Whereabouts)>, JobError> {
    let mut all: Vec<_> = ledger.replaced().await?.into_iter().map(|it| (it, Whereabouts::Unseen)).collect();
    for cluster in clusters {
        if all.iter().all(|(_, is)| *is != Whereabouts::Unseen) {
            break;
        }
        let Ok((mut session, Some(here))) = open(cluster).await else { continue };
        for (database, is) in all.iter_mut().filter(|(it, _)| it.replacement.system_identifier == here) {
            if let Ok(seen) = look(&mut session, database.replacement.oid).await {
                *is = whereabouts_of(database, seen);
            }
        }
    }
    Ok(all.into_iter().map(|(database, is)| (database.replacement, is)).collect())
}

fn whereabouts_of(database: &ReplacedDatabase, seen: Option<Seen>) -> Whereabouts {
    match seen {
        _ if database.state == ReplacementState::Planned => Whereabouts::AsRecorded,
        None => Whereabouts::Gone,
        Some(seen) if seen.name != database.replacement.kept_name => Whereabouts::Renamed(seen.name),
        Some(_) => Whereabouts::AsRecorded,
    }
}

/// What becomes of a database that was set aside.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is there, and its time is not over.
    Stay,
    /// It is ours, and its time is over.
    Drop,
    /// It is no longer there.
    Gone,
    /// Something about it is not as recorded.
    Leave(String),
    /// Somebody made it theirs: it is left for good.
    LetGo(String),
}

/// Drops what is expired and ours, forgets what is gone, and reports the rest.
///
/// # Errors
/// What the ledger says; what PostgreSQL says is in [`Retained::left`].
pub(super) async fn drop_expired(
    ledger: &Ledger,
    clusters: &[Connection],
    mode: Mode,
    now: DateTime<Utc>,
    retained: &mut Retained,
) -> Result<(), JobError> {
    let mut waiting = ledger.replaced().await?;
    for cluster in clusters {
        if waiting.is_empty() {
            return Ok(());
        }
        let opened = open(cluster).await;
        let (mut session, here) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                retained.left.push(format!(
                    "databases set aside at {}:{} were not looked at: {}",
                    cluster.host,
                    cluster.port,
                    in_a_sentence(&error)
                ));
                continue;
            }
        };
        let is_here = |database: &ReplacedDatabase| {
            here.is_some() && here.as_ref() == Some(&database.replacement.system_identifier)
        };
        let (found, elsewhere): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_here);
        waiting = elsewhere;
        for database in found {
            if let Err(error) = settle_one(ledger, &mut session, &database, mode, now, retained).await {
                retained.left.push(format!(
                    "database {} is left: {}",
                    database.replacement.kept_name,
                    in_a_sentence(&error)
                ));
            }
        }
    }
    for database in waiting.iter().filter(|database| database.replacement.expires_at <= now) {
        let name = &database.replacement.kept_name;
        retained.left.push(format!(
            "database {name} is left: none of the clusters that were reached is known to be the one that it was in"
        ));
    }
    Ok(())
}

async fn open(cluster: &Connection) -> Result<(PgConnection, Option<String>), PostgresError> {
    let mut session = session::connect(&cluster.with_database(session::MAINTENANCE_DATABASE)).await?;
    let system_identifier = describe::identity(&mut session).await?.1.filter(|text| !text.is_empty());
    Ok((session, system_identifier))
}

async fn settle_one(
    ledger: &Ledger,
    session: &mut PgConnection,
    database: &ReplacedDatabase,
    mode: Mode,
    now: DateTime<Utc>,
    retained: &mut Retained,
) -> Result<(), JobError> {
    let recorded = &database.replacement;
    let seen = look(session, recorded.oid).await?;
    match fate(database, seen.as_ref(), now) {
        Fate::Stay => {}
        Fate::Leave(reason) => retained.left.push(reason),
        Fate::LetGo(reason) => {
            if mode == Mode::CarryOut {
                ledger.forget_replaced(&recorded.marker).await?;
            }
            retained.left.push(reason);
        }
        Fate::Gone if mode == Mode::CarryOut => ledger.forget_replaced(&recorded.marker).await?,
        Fate::Gone => {}
        Fate::Drop => {
            if mode == Mode::CarryOut {
                describe::drop_database(session, &recorded.kept_name).await?;
                ledger.forget_replaced(&recorded.marker).await?;
            }
            retained.databases_dropped.push(recorded.kept_name.clone());
        }
    }
    Ok(())
}

async fn look(session: &mut PgConnection, oid: u32) -> Result<Option<Seen>, PostgresError> {
    let sql = format!(
        "SELECT datname::text AS name, pg_catalog.shobj_description(oid, 'pg_database') AS comment \
         FROM pg_catalog.pg_database WHERE oid = {oid}"
    );
    let found = rows(session, "look for a database that was set aside", sql).await?;
    found
        .first()
        .map(|row| Ok(Seen { name: column(row, "name")?, comment: column(row, "comment")? }))
        .transpose()
}

/// Decides on one; the cluster's system identifier was compared before.
fn fate(database: &ReplacedDatabase, seen: Option<&Seen>, now: DateTime<Utc>) -> Fate {
    let Replacement { kept_name, oid, marker, expires_at, .. } = &database.replacement;
    if database.state == ReplacementState::Planned {
        return Fate::Leave(format!(
            "database {kept_name} is left: whether its swap happened is not settled"
        ));
    }
    let Some(seen) = seen else { return Fate::Gone };
    if *expires_at > now {
        return Fate::Stay;
    }
    if seen.name != *kept_name {
        return Fate::LetGo(format!(
            "database {kept_name} (OID {oid}) is called {} now: it is left for good, and not looked after any more",
            seen.name
        ));
    }
    if seen.comment.as_ref() != Some(marker) {
        return Fate::Leave(format!(
            "database {kept_name} is left: its comment is no longer the one that marks it as ours"
        ));
    }
    Fate::Drop
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn set_aside() -> ReplacedDatabase {
        let replacement = Replacement {
            marker: "belay:kept:abc".into(),
            system_identifier: "7".into(),
            oid: 42,
            kept_name: "app_kept_1".into(),
            original_name: "app".into(),
            replaced_at: at(0),
            expires_at: at(100),
        };
        ReplacedDatabase { replacement, state: ReplacementState::Confirmed }
    }

    fn seen(name: &str, comment: Option<&str>) -> Seen {
        Seen { name: name.into(), comment: comment.map(Into::into) }
    }

    #[test]
    fn a_database_of_ours_is_dropped_when_its_time_is_over() {
        let ours = seen("app_kept_1", Some("belay:kept:abc"));
        assert_eq!(fate(&set_aside(), Some(&ours), at(99)), Fate::Stay);
        assert_eq!(fate(&set_aside(), Some(&ours), at(100)), Fate::Drop);
    }

    #[test]
    fn a_database_that_is_gone_is_forgotten_before_its_time() {
        assert_eq!(fate(&set_aside(), None, at(1)), Fate::Gone);
    }

    #[test]
    fn another_comment_keeps_a_database() {
        for other in [seen("app_kept_1", None), seen("app_kept_1", Some("mine"))] {
            assert!(matches!(fate(&set_aside(), Some(&other), at(1_000)), Fate::Leave(_)), "{other:?}");
        }
    }

    #[test]
    fn a_database_of_another_name_is_let_go_when_its_time_is_over() {
        let renamed = seen("app", Some("belay:kept:abc"));
        assert_eq!(fate(&set_aside(), Some(&renamed), at(99)), Fate::Stay);
        assert!(matches!(fate(&set_aside(), Some(&renamed), at(100)), Fate::LetGo(_)));
        assert_eq!(whereabouts_of(&set_aside(), Some(renamed)), Whereabouts::Renamed("app".into()));
        assert_eq!(whereabouts_of(&set_aside(), None), Whereabouts::Gone);
    }

    #[test]
    fn an_unsettled_swap_drops_nothing() {
        let planned = ReplacedDatabase { state: ReplacementState::Planned, ..set_aside() };
        let ours = seen("app_kept_1", Some("belay:kept:abc"));
        assert!(matches!(fate(&planned, Some(&ours), at(1_000)), Fate::Leave(_)));
    }
}
