//! The daemon dies while a runner waits for it, and another one comes.

use rstest::rstest;

use super::site::Remote;
use crate::death::programs::{POST_DATA, Programs};
use crate::gate::pauses::Pauses;
use crate::gate::site::{Site, assert_same, state};
use crate::gate::{psql, shell, wait_until};
use crate::world::{a_cluster, with_rows_sorted};

const FIRST: &str = "UPDATE users SET name = 'half' WHERE id <= 5";
const SECOND: &str = "CREATE TABLE whole (id int PRIMARY KEY)";

/// A site whose daemon can be stopped in nearly every phase.
fn a_stoppable_remote(depth: &str) -> Remote {
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
    Remote::of(site.using(&programs)).start()
}

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

fn count_of_starts(remote: &Remote) -> usize {
    let shown = remote.site.belay.json(["runs", "show"]);
    shown["output"].as_str().unwrap_or_default().matches("begun").count()
}

/// Kills the daemon while it stands at `place`, starts another one, and asserts how the runner ends.
fn killed_at(depth: &str, status: u8, via: &[&str], place: &str, code: i32, outcome: &str) {
    let mut remote = a_stoppable_remote(depth);
    let migrated = migrated(&remote.site);
    let mut places = via.iter().chain([&place]);
    let mut standing = places.next().unwrap();
    remote.site.pauses.stop_at(standing);
    let mut running = remote.begin(&migration(&remote.site.pauses, status));
    for next in places {
        running.wait_at(&remote.site.pauses, standing);
        remote.site.pauses.stop_at(next);
        remote.site.pauses.pass(standing);
        standing = next;
    }
    running.wait_at(&remote.site.pauses, place);
    remote.kill_daemon();
    remote.site.pauses.go_on();
    remote.start_daemon();
    let ran = running.ran();
    ran.assert_ended(code, outcome);
    assert_ne!(remote.site.is_fenced(), Some(true));
    let now = state(&remote.site.cluster, "app");
    assert_same(&now, if code == 0 { &migrated } else { &remote.site.before });
    assert!(count_of_starts(&remote) <= 1);
}

#[rstest]
#[case::fencing("stored", "raising")]
#[case::snapshotting("stored", "dump")]
#[case::verifying("restored", "load")]
#[case::armed("stored", "wal")]
fn killed_before_the_go_the_command_is_not_begun(#[case] depth: &str, #[case] place: &str) {
    killed_at(depth, 0, &[], place, 143, "abandoned");
}

#[rstest]
#[case::success(0, 0, "migrated")]
#[case::failure(1, 21, "restored")]
fn killed_while_the_command_runs_its_end_is_waited_for(
    #[case] status: u8,
    #[case] code: i32,
    #[case] outcome: &str,
) {
    killed_at("stored", status, &[], "command", code, outcome);
}

#[rstest]
#[case::classifying(1, &["command"], "wal", 21, "restored")]
#[case::restoring(1, &["command"], "load", 21, "restored")]
#[case::checking(0, &[], "check", 0, "migrated")]
#[case::releasing(0, &[], "releasing", 0, "migrated")]
#[case::releasing_the_restored(1, &[], "releasing", 21, "restored")]
fn killed_after_the_command_the_verdict_is_the_same(
    #[case] status: u8,
    #[case] via: &[&str],
    #[case] place: &str,
    #[case] code: i32,
    #[case] outcome: &str,
) {
    killed_at("stored", status, via, place, code, outcome);
}

#[test]
fn an_end_that_came_while_no_daemon_ran_is_taken() {
    let mut remote = a_stoppable_remote("stored");
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&migration(&remote.site.pauses, 0));
    running.wait_at(&remote.site.pauses, "command");
    remote.kill_daemon();
    remote.site.pauses.go_on();
    let is_done = "SELECT count(*) FROM pg_tables WHERE tablename = 'whole'";
    wait_until("the command is done", || remote.site.cluster.psql("app", is_done) == "1");
    remote.start_daemon();
    running.ran().assert_ended(0, "migrated");
}

#[test]
fn a_daemon_that_is_told_to_stop_leaves_a_running_command_to_the_next_one() {
    let mut remote = a_stoppable_remote("stored");
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&migration(&remote.site.pauses, 0));
    running.wait_at(&remote.site.pauses, "command");
    let log = remote.stop_daemon();
    assert!(log.contains("run is suspended"), "{log}");
    assert_eq!(remote.site.newest_run()["phase"], "migrating");
    // Another command leaves it alone as well.
    let other = remote.site.belay.run(["snapshot", "app"]);
    assert!(other.stderr.contains("waits for its runner"), "{}", other.stderr);
    assert_eq!(remote.site.newest_run()["phase"], "migrating");
    remote.start_daemon();
    remote.site.pauses.go_on();
    running.ran().assert_ended(0, "migrated");
}

#[test]
fn a_daemon_that_is_told_to_stop_ends_what_has_not_begun() {
    let mut remote = a_stoppable_remote("stored");
    remote.site.pauses.stop_at("dump");
    let mut running = remote.begin(&migration(&remote.site.pauses, 0));
    running.wait_at(&remote.site.pauses, "dump");
    let log = remote.stop_daemon();
    assert_eq!(remote.site.newest_run()["outcome"], "terminated", "{log}");
    remote.site.pauses.go_on();
    assert_ne!(remote.site.is_fenced(), Some(true));
    remote.start_daemon();
    running.ran().assert_ended(143, "terminated");
}

#[test]
fn without_a_daemon_the_next_command_settles_the_run_once_its_lease_is_over() {
    let mut remote = a_stoppable_remote("stored");
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&migration(&remote.site.pauses, 0));
    running.wait_at(&remote.site.pauses, "command");
    remote.kill_daemon();
    running.kill();
    wait_until("the lease is over, and the run is gone on with", || {
        remote.site.belay.run(["snapshot", "app"]);
        remote.site.newest_run()["phase"] == "done"
    });
    assert_eq!(remote.site.newest_run()["outcome"], "restored");
    remote.site.assert_as_before();
}
