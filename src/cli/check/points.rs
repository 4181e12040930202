//! What points in time need of a cluster: replication, a slot that cannot fill the disk, restore points.

use sqlx::postgres::PgConnection;

use super::Findings;
use super::physical::{self, SUBJECT};
use crate::catalog::Catalog;
use crate::cli::host::{clusters_of, free_bytes};
use crate::cli::report::{Failure, bytes_text};
use crate::jobs::JobError;
use crate::jobs::keep_wal::check_cluster;
use crate::postgres::session::{self, column, rows};
use crate::postgres::tools::{self, Tools};
use crate::postgres::{PostgresError, replication};
use crate::rules::causes::in_a_sentence;
use crate::settings::{self, Connection, Settings};

/// `max_slot_wal_keep_size` exists from here on.
const SLOT_LIMIT_SINCE: u32 = 130_000;

/// Looks at the cluster, and whether it is that of `catalog`, where that was opened.
pub(super) async fn check(settings: &Settings, catalog: Option<&Catalog>, findings: &mut Findings) {
    let clusters = clusters_of(settings);
    let [to] = clusters.as_slice() else {
        let hint = "points in time are kept of one cluster: give each a settings file of its own";
        findings.problem(SUBJECT, "the databases of the settings are on several servers", hint);
        return;
    };
    let to = to.with_database(session::MAINTENANCE_DATABASE);
    let connected = session::connect(&to).await.map_err(Failure::of("connect"));
    let Some(mut session) = findings.take(SUBJECT, connected) else { return };
    physical::check_role(settings, &mut session, findings).await;
    let facts = replication::facts(&mut session).await.map_err(Failure::of("look at the cluster"));
    let Some(facts) = findings.take(SUBJECT, facts) else { return };
    if let Some(catalog) = catalog.filter(|_| !facts.system_identifier.is_empty()) {
        let is_ours = is_of(catalog, &facts.system_identifier).await;
        findings.take(SUBJECT, is_ours.map_err(Failure::of("compare the cluster with the repository's")));
    }
    check_replication(&to, facts.version_num / 10_000, settings, findings).await;
    let server = Server::look(&mut session).await.map_err(Failure::of("look at the server's settings"));
    if let Some(server) = findings.take(SUBJECT, server) {
        server.report(facts.version_num, settings, findings);
    }
    check_room(facts.disk_bytes, settings, findings);
}

/// Refuses a cluster that the base backups and the log of `catalog` are not of.
async fn is_of(catalog: &Catalog, system_identifier: &str) -> Result<(), JobError> {
    check_cluster(catalog, system_identifier, &catalog.pieces().await?).await
}

/// Connects as `pg_basebackup` and `pg_receivewal` do, which pg_hba.conf lets in by rules of their own.
async fn check_replication(to: &Connection, major: u32, settings: &Settings, findings: &mut Findings) {
    let found = Tools::find(settings.cluster.bin_directory.as_deref(), &settings::search_path(), major).await;
    let Some(tools) = findings.take(SUBJECT, found.map_err(Failure::of("find pg_basebackup"))) else {
        return;
    };
    match tools::run(replication::identify(&tools, to)).await {
        Ok(_) => findings.ok(SUBJECT, format!("{} may replicate", to.user)),
        Err(error) => {
            let hint = format!(
                "ALTER ROLE {} REPLICATION, and let it in by a line for the database `replication` in pg_hba.conf",
                to.user
            );
            let text = format!("no connection for replication: {}", in_a_sentence(&error));
            findings.problem(SUBJECT, text, &hint);
        }
    }
}

/// What of the server's settings counts.
struct Server {
    wal_level: String,
    senders: i64,
    free_slots: i64,
    /// Megabytes; -1 without a limit.
    slot_limit: Option<i64>,
    makes_restore_points: bool,
}

impl Server {
    async fn look(session: &mut PgConnection) -> Result<Self, PostgresError> {
        let action = "look at the server's settings";
        let sql = "SELECT s.wal_level, s.senders, s.slots - (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS free_slots, \
            s.slot_limit, pg_catalog.has_function_privilege('pg_catalog.pg_create_restore_point(text)', 'execute') AS points \
            FROM (SELECT max(setting) FILTER (WHERE name = 'wal_level') AS wal_level, \
              max(setting) FILTER (WHERE name = 'max_wal_senders')::bigint AS senders, \
              max(setting) FILTER (WHERE name = 'max_replication_slots')::bigint AS slots, \
              max(setting) FILTER (WHERE name = 'max_slot_wal_keep_size')::bigint AS slot_limit \
              FROM pg_catalog.pg_settings) s";
        let found = rows(session, action, sql).await?;
        let row = found.first().ok_or_else(|| PostgresError::of_query(action, sqlx::Error::RowNotFound))?;
        Ok(Self {
            wal_level: column(row, "wal_level")?,
            senders: column(row, "senders")?,
            free_slots: column(row, "free_slots")?,
            slot_limit: column(row, "slot_limit")?,
            makes_restore_points: column(row, "points")?,
        })
    }

    fn report(&self, version_num: u32, settings: &Settings, findings: &mut Findings) {
        if self.wal_level == "minimal" {
            let hint = "ALTER SYSTEM SET wal_level = 'replica', and restart the server";
            findings.problem(SUBJECT, "wal_level is minimal: the log does not have everything", hint);
        }
        // One for the log, two while a base backup is made.
        if self.senders < 2 {
            let text = format!("max_wal_senders is {}, and two are needed", self.senders);
            findings.problem(SUBJECT, text, "ALTER SYSTEM SET max_wal_senders = 10, and restart the server");
        }
        if settings.wal.receive {
            self.report_slots(version_num, settings, findings);
        }
        if !self.makes_restore_points {
            let hint = "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO the role, in the database postgres";
            findings.warning(SUBJECT, "the role may not make restore points before migrations", hint);
        }
    }

    fn report_slots(&self, version_num: u32, settings: &Settings, findings: &mut Findings) {
        if self.free_slots < 1 {
            let hint =
                "raise max_replication_slots, and restart the server; or drop a slot that nobody needs";
            findings.warning(SUBJECT, "no replication slot is free, unless ours is there already", hint);
        }
        match self.slot_limit {
            Some(limit) if limit >= 0 => {
                let limit = bytes_text(limit.unsigned_abs() << 20);
                findings.ok(SUBJECT, format!("the server keeps {limit} of its log for us at the most"));
            }
            _ if version_num < SLOT_LIMIT_SINCE => findings.warning(
                SUBJECT,
                "this server cannot limit what it keeps of its log: while Belay is down, that fills its disk",
                "watch its disk; Belay drops the slot when it runs",
            ),
            _ => {
                let gigabytes = (settings.wal.keep_bytes >> 30).max(1);
                let hint = format!(
                    "ALTER SYSTEM SET max_slot_wal_keep_size = '{gigabytes}GB'; SELECT pg_reload_conf()"
                );
                let text = "max_slot_wal_keep_size is not set: while Belay is down, the log that is kept for it fills the server's disk";
                findings.warning(SUBJECT, text, &hint);
            }
        }
    }
}

/// `restore --at` recovers the whole cluster in the state directory.
fn check_room(disk_bytes: u64, settings: &Settings, findings: &mut Findings) {
    let Some(free_bytes) = free_bytes(&settings.state.directory) else { return };
    if free_bytes < disk_bytes {
        let text = format!(
            "the cluster has {}, and {} are free in the state directory, where restore --at recovers it",
            bytes_text(disk_bytes),
            bytes_text(free_bytes)
        );
        findings.warning(SUBJECT, text, "make room, or put the state directory on a larger disk");
    }
}
