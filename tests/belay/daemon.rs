//! `belay serve` does what is scheduled, whatever happens to it, and says how it is.

pub mod service;

use std::time::Duration;

use serde_json::Value;

use self::service::Service;
use crate::world::{Belay, Client, Cluster};

/// Due again every ten seconds.
const OFTEN: &str = "*/10 * * * * *";

fn snapshots(belay: &Belay) -> Vec<Value> {
    belay.json(["list"])["snapshots"].as_array().unwrap().clone()
}

fn scheduled(belay: &Belay, job: &str) -> Value {
    let status = belay.json(["status"]);
    let all = status["scheduled"].as_array().unwrap();
    all.iter().find(|scheduled| scheduled["job"] == job).cloned().unwrap_or_default()
}

/// Somebody holds the one table, so that a snapshot waits for it.
fn a_locked_table(cluster: &Cluster) -> Client {
    let hold = "BEGIN; LOCK TABLE t; SELECT pg_sleep(600)";
    Client::start(cluster.client("psql").args(["-XAtqd", "app", "-c", hold]))
}

fn wait_for_a_running_job(service: &Service, belay: &Belay) {
    service.wait_until("the snapshot waits for the table", || {
        !belay.json(["status"])["running"].as_array().unwrap().is_empty()
    });
}

#[test]
fn what_is_scheduled_is_done_and_told() {
    let more = format!(
        "schedule = \"{OFTEN}\"\n[verify]\ndepth = \"readable\"\nschedule = \"{OFTEN}\"\n\
         [retention]\nkeep = \"0s\"\nmin_verified = 1\nschedule = \"{OFTEN}\"\n"
    );
    let (_cluster, belay) = Belay::with_an_app(&more);
    assert_eq!(belay.json(["status"])["daemon_running"], false);
    let service = Service::start(&belay);
    service.wait_for("READY=1");
    service.wait_until("snapshots are taken, verified and removed", || {
        let listed = snapshots(&belay);
        let taken = service.log().matches("taken").count();
        taken > listed.len() && listed.iter().any(|snapshot| snapshot["verified"]["depth"] == "readable")
    });
    let status = belay.json(["status"]);
    assert_eq!(status["daemon_running"], true);
    let jobs: Vec<_> = status["scheduled"].as_array().unwrap().iter().map(|s| s["job"].clone()).collect();
    assert_eq!(jobs, ["snapshot", "verify", "retain"]);
    service.wait_for("WATCHDOG=1");
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert!(ended.told.contains("STOPPING=1"), "{}", ended.told);
    assert!(!ended.log.contains("ERROR"), "{}", ended.log);
    for snapshot in snapshots(&belay) {
        let verified = belay.run(["verify", snapshot["id"].as_str().unwrap(), "--depth", "readable"]);
        assert_eq!(verified.code, 0, "{}", verified.stderr);
    }
}

#[test]
fn what_was_done_for_the_last_moment_is_not_done_again() {
    let (_cluster, belay) = Belay::with_an_app("schedule = \"0 0 1 1 *\"\n[verify]\nschedule = \"never\"\n");
    let service = Service::start(&belay);
    service.wait_until("the first snapshot is taken at once", || snapshots(&belay).len() == 1);
    assert_eq!(scheduled(&belay, "verify"), Value::Null);
    service.stop();
    let service = Service::start(&belay);
    service.wait_for("STATUS=nothing is due");
    service.wait_for_more("WATCHDOG=1", 3);
    service.stop();
    assert_eq!(snapshots(&belay).len(), 1);
    assert_eq!(scheduled(&belay, "snapshot")["state"], "done");
}

#[test]
fn one_state_directory_has_one_daemon() {
    let (_cluster, belay) = Belay::with_an_app("schedule = \"never\"\n");
    let service = Service::start(&belay);
    service.wait_for("READY=1");
    let second = belay.run(["serve"]);
    assert_eq!(second.code, 12, "{}", second.stderr);
    assert!(second.stderr.contains("another run holds it"), "{}", second.stderr);
    assert_eq!(service.stop().code, 0);
}

#[test]
fn a_hangup_reads_the_settings_and_keeps_the_old_ones_if_they_are_wrong() {
    let (_cluster, belay) = Belay::with_an_app("schedule = \"never\"\n");
    let good = std::fs::read_to_string(belay.settings()).unwrap();
    let service = Service::start(&belay);
    service.wait_for("READY=1");
    belay.write_settings(&good.replace("never", "never again"));
    service.hang_up();
    service.wait_until("the mistake is told", || service.log().contains("must be a cron pattern"));
    belay.write_settings(&good.replace("never", OFTEN));
    service.hang_up();
    service.wait_until("a snapshot is taken by the new settings", || !snapshots(&belay).is_empty());
    assert_eq!(service.stop().code, 0);
}

#[test]
fn a_job_that_fails_is_tried_again_later_and_then_given_up() {
    let more =
        "schedule = \"0 0 1 1 *\"\n[daemon]\nretry_pause = \"1s\"\nretry_pause_longest = \"2s\"\ntries = 3\n";
    let (cluster, belay) = Belay::with_an_app(more);
    let good = std::fs::read_to_string(belay.settings()).unwrap();
    belay.write_settings(&good.replace("name = \"app\"", "name = \"lost\""));
    let service = Service::start(&belay);
    service.wait_until("it is given up", || scheduled(&belay, "snapshot")["state"] == "given_up");
    assert_eq!(scheduled(&belay, "snapshot")["failures"], 3);
    let failed = "ERROR belay::daemon: failed errand=snapshot lost";
    service.wait_until("each failure is told", || service.log().matches(failed).count() == 3);
    cluster.create_database("lost");
    service.wait_for_more("WATCHDOG=1", 2);
    assert_eq!(service.stop().code, 0);
    assert_eq!(snapshots(&belay).len(), 0, "nothing is tried before the next moment");
}

#[test]
fn a_killed_daemon_is_followed_by_one_that_takes_the_snapshot() {
    let (cluster, belay) = Belay::with_an_app("schedule = \"0 0 1 1 *\"\n[daemon]\nretry_pause = \"1s\"\n");
    let holder = a_locked_table(&cluster);
    let service = Service::start(&belay);
    wait_for_a_running_job(&service, &belay);
    service.kill();
    drop(holder);
    cluster.psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app'");
    let service = Service::start(&belay);
    service.wait_until("the snapshot is taken", || snapshots(&belay).len() == 1);
    assert_eq!(service.stop().code, 0);
    assert_eq!(belay.run(["verify", "latest", "--depth", "readable"]).code, 0);
}

#[test]
fn a_stop_cuts_short_what_takes_too_long() {
    let (cluster, belay) = Belay::with_an_app(
        "schedule = \"0 0 1 1 *\"\nlock_timeout = \"1h\"\n[daemon]\nstop_grace = \"1s\"\n",
    );
    let holder = a_locked_table(&cluster);
    let service = Service::start(&belay);
    wait_for_a_running_job(&service, &belay);
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert!(ended.log.contains("longer than stop_grace"), "{}", ended.log);
    assert_eq!(snapshots(&belay).len(), 0);
    drop(holder);
}

#[test]
fn a_migration_whose_process_died_is_gone_on_with_by_the_daemon() {
    let (cluster, belay) = Belay::with_an_app("schedule = \"never\"\n[gate]\nverify_depth = \"stored\"\n");
    let marker = cluster.room("marker").join("started");
    let command = format!("psql -Xqc 'DELETE FROM t' && touch {} && exec sleep 600", marker.display());
    let mut migrate = belay.command(["migrate", "--db", "app", "--", "sh", "-c", &command]);
    let mut migrate =
        migrate.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    service::wait_until(Duration::from_secs(90), "the migration runs", || marker.exists());
    migrate.kill().unwrap();
    migrate.wait().unwrap();
    let service = Service::start(&belay);
    service.wait_until("the run is over", || {
        let runs = belay.json(["runs", "list"]);
        let run = &runs["runs"][0];
        run["phase"] == "done" && run["outcome"] == "restored"
    });
    assert_eq!(service.stop().code, 0);
    assert_eq!(cluster.psql("app", "SELECT count(*) FROM t"), "100");
}
