//! Whatever dies, and whenever: the next command finds out how it stands, and makes order.

mod belay;
mod migration;
mod server;

use std::process::{Child, Stdio};

use super::pauses::Pauses;
use super::site::{Site, assert_same, state};
use super::{psql, shell, wait_until};
use crate::death::programs::{POST_DATA, Programs};
use crate::world::{Cluster, a_cluster, with_rows_sorted};

/// The first statement of the migration.
const FIRST: &str = "UPDATE users SET name = 'half' WHERE id <= 5";
/// The second.
const SECOND: &str = "CREATE TABLE whole (id int PRIMARY KEY)";

/// A site where a run can be stopped in nearly every phase: at `raising`, `dump`, `load`, `wal`,
/// `command`, `check` and `releasing`.
fn a_stoppable_site(depth: &str) -> Site {
    let site = Site::planned(a_cluster().with_setting("synchronous_commit=on"), |pauses| {
        let check = serde_json::to_string(&pauses.shell("check")).unwrap();
        format!(
            "verify_depth = \"{depth}\"\nsettle_timeout = \"20s\"\n\
             [[gate.check]]\nname = \"smoke\"\ncommand = [\"sh\", \"-c\", {check}]\n"
        )
    });
    let programs = Programs::of(&site.cluster);
    let paused =
        |unless: &str, place: &str| format!("{unless}\n{}exec \"$real\" \"$@\"", site.pauses.shell(place));
    programs.fake("pg_dump", &paused("", "dump"));
    programs.fake("pg_restore", &paused(POST_DATA, "load"));
    programs.fake("pg_waldump", &paused("", "wal"));
    site.using(&programs)
}

/// Both statements, a stop between them, and an exit `status`.
fn migration(pauses: &Pauses, status: u8) -> Vec<String> {
    let stop = pauses.shell("command");
    shell(&format!("{}{stop}{}exit {status}", psql(FIRST), psql(SECOND)))
}

/// What `app` is once both statements are committed.
fn migrated(site: &Site) -> String {
    site.cluster.psql("postgres", "CREATE DATABASE app_migrated TEMPLATE app");
    site.cluster.psql("app_migrated", &format!("{FIRST}; {SECOND}"));
    let dump = with_rows_sorted(&site.cluster.dump("app_migrated"));
    site.cluster.psql("postgres", "DROP DATABASE app_migrated");
    dump + &site.cluster.properties("app")
}

/// How a run may stand after a death and the next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is over, and the database is what it was.
    Old,
    /// It is over, and the database is migrated.
    New,
    /// Either of them, or an operator decides.
    AnyOrHeld,
}

/// Runs the next command, and asserts that the run whose process died is at an `end`.
#[track_caller]
fn assert_order_is_made(site: &Site, migrated: &str, end: End) {
    let next = site.belay.run(["snapshot", "app"]);
    let run = site.newest_run();
    let phase = run["phase"].as_str().unwrap_or("unknown");
    assert!(run["outcome"].is_string(), "{run}: {}", next.stderr);
    assert!(!site.has_sessions_of_runs());
    if phase == "held" {
        assert_eq!(end, End::AnyOrHeld, "{run}: {}", next.stderr);
        return;
    }
    assert_eq!(phase, "done", "{run}: {}", next.stderr);
    assert_eq!(next.code, 0, "{}", next.stderr);
    assert_ne!(site.is_fenced(), Some(true), "{run}");
    let now = state(&site.cluster, "app");
    match end {
        End::Old => assert_same(&now, &site.before),
        End::New => assert_same(&now, migrated),
        End::AnyOrHeld if now == migrated => {}
        End::AnyOrHeld => assert_same(&now, &site.before),
    }
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'belay\\_%' OR datname = 'app' AND NOT datallowconn";
    assert_eq!(site.cluster.psql("postgres", left), "0");
}

/// A session that holds what its statement took until it is dropped.
pub struct Holder<'a> {
    cluster: &'a Cluster,
    process: Child,
}

impl<'a> Holder<'a> {
    /// Runs `sql` in `database` within a transaction that stays open.
    fn of(cluster: &'a Cluster, database: &str, sql: &str) -> Holder<'a> {
        let mut client = cluster.client("psql");
        client.env("PGAPPNAME", "holder").args(["-Xq", "-d", database, "-c"]).arg(format!("BEGIN; {sql}"));
        client.args(["-c", "SELECT pg_sleep(600)"]).stdin(Stdio::null());
        let process = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a client");
        let holds = "SELECT wait_event FROM pg_stat_activity WHERE application_name = 'holder'";
        wait_until("the holder has what it wants", || cluster.psql("postgres", holds) == "PgSleep");
        Holder { cluster, process }
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'";
        let mut client = self.cluster.client("psql");
        let _ = client
            .args(["-Xq", "-d", "postgres", "-c", end])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Keeps every rename of a database waiting.
pub fn hold_renames(cluster: &Cluster) -> Holder<'_> {
    Holder::of(cluster, "postgres", "LOCK TABLE pg_catalog.pg_database IN SHARE MODE")
}

/// Whether a session of `belay` waits for a lock.
pub fn waits_for_a_lock(cluster: &Cluster) -> bool {
    let sql = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'belay%'";
    cluster.psql("postgres", sql) == "t"
}
