//! The command dies, and its session in the server does not.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{FIRST, a_stoppable_site};
use crate::gate::site::Site;
use crate::gate::{psql, shell, wait_until};

/// The pid that a script wrote into the file `pid` of its site.
fn pid_of(site: &Site) -> Pid {
    let file = site.pauses.directory().join("pid");
    let read = || std::fs::read_to_string(&file).unwrap_or_default().trim().parse().ok().map(Pid::from_raw);
    wait_until("a pid is told", || read().is_some());
    read().unwrap()
}

/// Sessions of runs that sleep.
fn sleeping(site: &Site) -> Option<Pid> {
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name LIKE 'belay-%'";
    site.cluster.psql("postgres", sql).parse().ok().map(Pid::from_raw)
}

/// Commits [`FIRST`], then becomes a client whose `statement` is a transaction of its own.
fn ending_in(site: &Site, statement: &str) -> Vec<String> {
    let pid = site.pauses.directory().join("pid");
    let first = psql(FIRST);
    shell(&format!("{first}echo $$ >'{}'\nexec psql -Xq -c \"{statement}\"", pid.display()))
}

#[test]
fn a_killed_command_is_settled_before_it_is_judged() {
    let site = a_stoppable_site("stored");
    let mut running = site.begin(&[], &ending_in(&site, "SELECT pg_sleep(600)"));
    running.wait_until("the second statement runs", || sleeping(&site).is_some());
    kill(pid_of(&site), Signal::SIGKILL).unwrap();
    let ran = running.ran();
    ran.assert_ended(21, "restored");
    assert!(ran.reasons().contains("signal 9"), "{}", ran.reasons());
    site.assert_restored(&ran);
}

#[test]
fn what_the_session_of_a_killed_client_commits_late_is_seen() {
    let site = a_stoppable_site("stored");
    let late = "UPDATE users SET name = 'late' FROM (SELECT pg_sleep(1)) nap";
    let pid = site.pauses.directory().join("pid");
    // The client is killed while its statement runs; the command ends when that is committed.
    let script = format!(
        "psql -Xqc \"{late}\" & client=$!\n{}kill -KILL $client\necho $client >'{}'\nwait $client || true\n{}exit 137",
        site.pauses.shell("sleeping"),
        pid.display(),
        site.pauses.shell("committed"),
    );
    site.pauses.stop_at("sleeping");
    site.pauses.stop_at("committed");
    let mut running = site.begin(&[], &shell(&script));
    running.wait_until("the statement runs", || sleeping(&site).is_some());
    site.pauses.pass("sleeping");
    pid_of(&site);
    wait_until("it is committed by nobody's client", || {
        site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'late'") == "200"
    });
    site.pauses.go_on();
    let ran = running.ran();
    ran.assert_ended(21, "restored");
    assert!(ran.reasons().contains("200 rows in public.users"), "{}", ran.reasons());
    site.assert_restored(&ran);
}

#[test]
fn a_session_that_outlives_its_command_commits_nothing_after_the_verdict() {
    let site = a_stoppable_site("stored");
    let late = "UPDATE users SET name = 'late' FROM (SELECT pg_sleep(2)) nap";
    let mut running = site.begin(&[], &ending_in(&site, late));
    running.wait_until("the second statement runs", || sleeping(&site).is_some());
    kill(pid_of(&site), Signal::SIGKILL).unwrap();
    let ran = running.ran();
    ran.assert_ended(21, "restored");
    // Nobody is left who could.
    site.assert_restored(&ran);
    let failed = &site.failed_databases()[0];
    assert_eq!(site.cluster.psql(failed, "SELECT count(*) FROM users WHERE name = 'late'"), "0");
}

#[test]
fn a_session_that_cannot_be_ended_holds_the_run() {
    let site = Site::with_gate("settle_timeout = \"1s\"\n");
    let mut running = site.begin(&[], &ending_in(&site, "SELECT pg_sleep(600)"));
    let mut backend = None;
    running.wait_until("the second statement runs", || {
        backend = sleeping(&site);
        backend.is_some()
    });
    kill(backend.unwrap(), Signal::SIGSTOP).unwrap();
    kill(pid_of(&site), Signal::SIGKILL).unwrap();
    let ran = running.ran();
    kill(backend.unwrap(), Signal::SIGCONT).unwrap();
    // What it did cannot be told while it may still do something.
    assert!([22, 30].contains(&ran.code), "{}", ran.told);
    assert_eq!(site.newest_run()["phase"], "held");
    assert_eq!(site.failed_databases(), Vec::<String>::new());
    assert_eq!(site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'half'"), "5");
}

#[test]
fn a_command_that_takes_too_long_is_ended_and_undone() {
    let site = Site::with_gate("timeout = \"2s\"\n");
    let ran = site.migrate(&ending_in(&site, "SELECT pg_sleep(600)"));
    ran.assert_ended(21, "restored");
    assert!(ran.reasons().contains("longer than it may"), "{}", ran.reasons());
    site.assert_restored(&ran);
}
