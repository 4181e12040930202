//! Restore points: moments that have a name in the write-ahead log, and what they are the moment before.
//!
//! The gate makes one before each migration. The log has the name alone; where it stands there, and which
//! revisions were to follow, is in a signed [`RestorePoint`] beside it, so that it is found without reading
//! the log, and on any host.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::layout::SnapshotId;
use super::wal::Lsn;

/// Kind of signed document: [`RestorePoint`].
pub const POINT_KIND: &str = "restore-point";

/// A restore point that a run made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// [`FORMAT`](super::manifest::FORMAT)
    pub format: u32,
    /// The repository it belongs to.
    pub repository: String,
    /// Name of the cluster in the settings.
    pub cluster: String,
    /// PostgreSQL's own number of the cluster.
    pub system_identifier: Option<String>,
    /// The run that made it.
    pub run: SnapshotId,
    /// What the log calls it.
    pub name: String,
    /// The timeline that it lies on.
    pub timeline: u32,
    /// The end of its record in the log.
    pub lsn: Lsn,
    /// When it was made, by our clock.
    pub made_at: DateTime<Utc>,
    /// What was about to be migrated.
    pub databases: Vec<AboutToMigrate>,
}

/// A database before its migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AboutToMigrate {
    /// Its name in PostgreSQL.
    pub database: String,
    /// The revisions that it was at.
    pub revisions: Vec<String>,
    /// The revisions that were to follow, in their order, as far as that was known.
    pub pending: Vec<String>,
}

/// What the log calls the restore point of `run`.
pub fn name_of(run: &str) -> String {
    format!("belay:{run}")
}

/// The newest of `points` behind which `revision`, or the run of that name, was to follow, in `database` if
/// one is named. A revision may be given by its beginning, as Alembic has it.
pub fn before_migration<'a>(
    points: &'a [RestorePoint],
    revision: &str,
    database: Option<&str>,
) -> Option<&'a RestorePoint> {
    let follows = |about: &AboutToMigrate| {
        database.is_none_or(|name| about.database == name)
            && about.pending.iter().any(|pending| pending.starts_with(revision))
    };
    let is_wanted =
        |point: &&RestorePoint| point.run.as_str() == revision || point.databases.iter().any(follows);
    points.iter().filter(is_wanted).max_by_key(|point| (point.timeline, point.lsn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(second: i64, database: &str, pending: &[&str]) -> RestorePoint {
        let made_at = DateTime::from_timestamp(1_795_000_000 + second, 0).unwrap();
        let run = SnapshotId::new(made_at, 0);
        let pending = pending.iter().map(|revision| (*revision).to_owned()).collect();
        RestorePoint {
            format: 1,
            repository: "r".into(),
            cluster: "prod".into(),
            system_identifier: None,
            name: name_of(run.as_str()),
            run,
            timeline: 1,
            lsn: Lsn(second.unsigned_abs()),
            made_at,
            databases: vec![AboutToMigrate { database: database.into(), revisions: vec![], pending }],
        }
    }

    #[test]
    fn a_revision_is_found_by_its_newest_migration() {
        let points =
            [point(1, "app", &["b2f", "c3d"]), point(2, "app", &["c3d"]), point(3, "other", &["c3d"])];
        let found = |revision, database| before_migration(&points, revision, database).map(|it| it.lsn.0);
        assert_eq!(found("c3d", Some("app")), Some(2));
        assert_eq!(found("c3d", None), Some(3));
        assert_eq!(found("b2", Some("app")), Some(1));
        assert_eq!(found("b2", Some("other")), None);
        assert_eq!(found("f00", None), None);
        assert_eq!(found(points[0].run.as_str(), Some("app")), Some(1));
    }
}
