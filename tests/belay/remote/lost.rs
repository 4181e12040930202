//! A runner that dies, a network that is cut, a pipeline that is stopped.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::site::Remote;
use crate::gate::site::Site;
use crate::gate::{psql, shell};

const HALF: &str = "UPDATE users SET name = 'half' WHERE id <= 5";

fn a_remote() -> Remote {
    Remote::of(Site::with_gate("")).start()
}

/// A half, a stop, and another statement.
fn stopping(remote: &Remote, status: u8) -> Vec<String> {
    let stop = remote.site.pauses.shell("command");
    let rest = psql("CREATE TABLE whole (id int PRIMARY KEY)");
    shell(&format!("{}{stop}{rest}exit {status}", psql(HALF)))
}

fn wait_for_end(remote: &Remote, outcome: &str) {
    crate::gate::wait_until("the run is over", || remote.site.newest_run()["phase"] == "done");
    assert_eq!(remote.site.newest_run()["outcome"], outcome, "{}", remote.log());
}

#[test]
fn what_a_killed_runner_left_is_put_back() {
    let remote = a_remote();
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&stopping(&remote, 0));
    running.wait_at(&remote.site.pauses, "command");
    running.kill();
    let killed_at = Instant::now();
    wait_for_end(&remote, "restored");
    assert!(killed_at.elapsed() >= Duration::from_secs(6), "it was not waited for");
    remote.site.assert_as_before();
    let shown = remote.site.belay.run(["runs", "show"]);
    assert!(shown.stdout.contains("the runner of the command was lost"), "{}", shown.stdout);
}

#[test]
fn what_the_command_of_a_killed_runner_started_is_ended_with_it() {
    let remote = a_remote();
    remote.site.pauses.stop_at("command");
    let insert = psql("INSERT INTO users (name) VALUES ('orphan')");
    let stop = remote.site.pauses.shell("command");
    // A child of the command, which nothing ends with its parent.
    let script = format!("{}(while :; do {insert} sleep 0.2; done) &\n{stop}wait", psql(HALF));
    let mut running = remote.begin(&shell(&script));
    running.wait_at(&remote.site.pauses, "command");
    running.kill();
    wait_for_end(&remote, "restored");
    remote.site.assert_as_before();
    // It would have come back by now.
    sleep(Duration::from_secs(2));
    remote.site.assert_as_before();
}

#[test]
fn a_token_revoked_during_its_run_leaves_the_runner_without_a_verdict() {
    let remote = a_remote();
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&stopping(&remote, 0));
    running.wait_at(&remote.site.pauses, "command");
    assert_eq!(remote.site.belay.run(["token", "revoke", "runner"]).code, 0);
    remote.site.pauses.go_on();
    let ran = running.ran();
    assert_eq!(ran.code, 30, "the command may have done anything: {}", ran.told);
    wait_for_end(&remote, "restored");
}

#[test]
fn a_runner_killed_before_it_changed_anything_leaves_everything() {
    let remote = a_remote();
    remote.site.pauses.stop_at("command");
    let script = shell(&remote.site.pauses.shell("command"));
    let mut running = remote.begin(&script);
    running.wait_at(&remote.site.pauses, "command");
    running.kill();
    wait_for_end(&remote, "failed_unchanged");
    remote.site.assert_as_before();
}

#[test]
fn a_runner_killed_before_the_go_ends_the_run_before_its_start() {
    let remote = a_remote();
    remote.site.pauses.stop_at("raising");
    let mut running = remote.begin(&shell("true"));
    running.wait_at(&remote.site.pauses, "raising");
    running.kill();
    wait_for_end(&remote, "terminated");
    remote.site.pauses.go_on();
    assert_ne!(remote.site.is_fenced(), Some(true));
    let shown = remote.site.belay.run(["runs", "show"]);
    assert!(shown.stdout.contains("was not heard of"), "{}", shown.stdout);
}

#[test]
fn a_network_cut_for_less_than_the_lease_is_survived() {
    let remote = a_remote();
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&stopping(&remote, 0));
    running.wait_at(&remote.site.pauses, "command");
    remote.line.cut();
    // How long the network is away is what is tested.
    sleep(Duration::from_secs(5));
    remote.line.mend();
    sleep(Duration::from_secs(6));
    remote.site.pauses.go_on();
    running.ran().assert_ended(0, "migrated");
}

#[test]
fn a_network_cut_before_the_go_is_survived() {
    let remote = a_remote();
    remote.site.pauses.stop_at("raising");
    let mut running = remote.begin(&stopping(&remote, 0));
    running.wait_at(&remote.site.pauses, "raising");
    remote.line.cut();
    sleep(Duration::from_secs(3));
    remote.line.mend();
    remote.site.pauses.go_on();
    running.ran().assert_ended(0, "migrated");
}

#[test]
fn a_network_cut_for_longer_than_the_lease_ends_the_command_on_both_sides() {
    let remote = a_remote();
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&stopping(&remote, 0));
    running.wait_at(&remote.site.pauses, "command");
    remote.line.cut();
    wait_for_end(&remote, "restored");
    remote.line.mend();
    // The verdict is the daemon's, and the runner hears of it.
    let ran = running.ran();
    ran.assert_ended(21, "restored");
    assert!(ran.told.contains("the command is ended"), "{}", ran.told);
    remote.site.assert_as_before();
}

#[test]
#[ignore = "takes five minutes"]
fn a_network_cut_for_five_minutes_leaves_the_verdict_on_the_host() {
    let remote = a_remote();
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&stopping(&remote, 0));
    running.wait_at(&remote.site.pauses, "command");
    remote.line.cut();
    sleep(Duration::from_mins(5));
    remote.line.mend();
    wait_for_end(&remote, "restored");
    let ran = running.ran();
    assert_eq!(ran.code, 30, "nobody told the runner: {}", ran.told);
    assert!(ran.told.contains("belay runs show"), "{}", ran.told);
    remote.site.assert_as_before();
}

#[test]
fn a_pipeline_that_is_stopped_before_the_go_touches_nothing() {
    for (signal, code, outcome) in
        [(Signal::SIGINT, 130, "interrupted"), (Signal::SIGTERM, 143, "terminated")]
    {
        let remote = a_remote();
        remote.site.pauses.stop_at("raising");
        let mut running = remote.begin(&shell("true"));
        running.wait_at(&remote.site.pauses, "raising");
        running.signal(signal);
        running.ran().assert_ended(code, outcome);
        remote.site.assert_as_before();
    }
}

#[test]
fn a_pipeline_that_is_stopped_after_the_go_is_judged() {
    let remote = a_remote();
    remote.site.pauses.stop_at("command");
    let mut running = remote.begin(&stopping(&remote, 0));
    running.wait_at(&remote.site.pauses, "command");
    running.signal(Signal::SIGTERM);
    let ran = running.ran();
    ran.assert_ended(21, "restored");
    assert!(ran.reasons().contains("told to stop"), "{}", ran.reasons());
    remote.site.assert_as_before();
}
