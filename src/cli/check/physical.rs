//! Points in time, where they are kept: what the role lacks for them, and what is proven of them.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;

use super::Findings;
use crate::catalog::{Catalog, CatalogError};
use crate::cli::advice::HEARTBEAT;
use crate::cli::clock;
use crate::cli::report::{Failure, age_text};
use crate::postgres::PostgresError;
use crate::postgres::heartbeat;
use crate::postgres::session::{column, rows};
use crate::rules::drill::{self, BaseVerification};
use crate::rules::layout::SnapshotId;
use crate::rules::physical::BaseManifest;
use crate::settings::Settings;

pub(super) const SUBJECT: &str = "points in time";

/// What is known to be proven of the base backups.
pub(super) async fn check_verified(settings: &Settings, catalog: &Catalog, findings: &mut Findings) {
    if !settings.cluster.point_in_time {
        return;
    }
    let found = proven(catalog).await.map_err(Failure::of("read the base backups"));
    let Some((bases, records)) = findings.take(SUBJECT, found) else { return };
    let (Some(oldest), Some(newest)) = (bases.first(), bases.last()) else {
        return findings.warning(
            SUBJECT,
            "there is no base backup: no moment can be had",
            "`belay serve` makes one as soon as it receives the log; so does `belay base-backup`",
        );
    };
    let now = clock::now();
    let standing = drill::standing(&records);
    for (record, _) in standing.failed.iter().filter(|(_, overcome)| !overcome) {
        let text =
            format!("base backup {} failed its verification: {}", record.id, record.problems.join("; "));
        findings.warning(
            SUBJECT,
            text,
            "make another with `belay base-backup`; moments before it need this one",
        );
    }
    let verified_at = standing.verified.map(|record| record.at);
    let schedule = settings.verify.physical_schedule.as_ref();
    if schedule.is_some_and(|schedule| drill::is_overdue(schedule, verified_at, oldest.ended_at, now)) {
        let last = verified_at.map_or_else(
            || "never were verified".to_owned(),
            |at| format!("were verified {} ago", age_text(now - at)),
        );
        let text =
            format!("base backups and log {last}, and physical_schedule in [verify] wants it more often");
        findings.warning(SUBJECT, text, "`belay verify --physical` does it, and so does `belay serve`");
    }
    findings.ok(
        SUBJECT,
        format!("base backups: {}, the newest {} old", bases.len(), age_text(now - newest.ended_at)),
    );
}

type Records = BTreeMap<SnapshotId, Vec<BaseVerification>>;

async fn proven(catalog: &Catalog) -> Result<(Vec<BaseManifest>, Records), CatalogError> {
    Ok((catalog.bases().await?.bases, catalog.base_verifications().await?))
}

/// What the role may.
pub(super) async fn check_role(settings: &Settings, session: &mut PgConnection, findings: &mut Findings) {
    let may = may_see_receivers(session).await.map_err(Failure::of("read the role's rights"));
    if findings.take(SUBJECT, may) == Some(false) {
        findings.warning(
            SUBJECT,
            "the role may not see how far the log is received: on a server where nothing is written it looks older than it is",
            "GRANT pg_read_all_stats TO the role",
        );
    }
    if !settings.wal.heartbeat {
        return;
    }
    match heartbeat::try_beat(session).await {
        Ok(()) => findings.ok(SUBJECT, "a heartbeat can be written"),
        Err(error) => {
            let text = Failure::of("write a heartbeat")(error).chain();
            findings.problem(SUBJECT, text, HEARTBEAT);
        }
    }
}

async fn may_see_receivers(session: &mut PgConnection) -> Result<bool, PostgresError> {
    let sql = "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS may";
    let found = rows(session, "read the role's rights", sql).await?;
    Ok(found.first().map(|row| column(row, "may")).transpose()?.unwrap_or_default())
}
