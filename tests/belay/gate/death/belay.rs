//! SIGKILL of `belay` itself.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt as _;
use rstest::rstest;

use super::{
    End, Holder, a_stoppable_site, assert_order_is_made, hold_renames, migrated, migration, waits_for_a_lock,
};
use crate::gate::shell;
use crate::world::dice;

/// Kills `belay` while it stands at `place`, where it came past the places of `via`.
fn killed_at(depth: &str, options: &[&str], status: u8, via: &[&str], place: &str, phase: &str, end: End) {
    let site = a_stoppable_site(depth);
    let migrated = migrated(&site);
    let mut places = via.iter().chain([&place]);
    let mut standing = places.next().unwrap();
    site.pauses.stop_at(standing);
    let mut running = site.begin(options, &migration(&site.pauses, status));
    for next in places {
        running.wait_at(&site.pauses, standing);
        // Before it may go on, so that it cannot be missed.
        site.pauses.stop_at(next);
        site.pauses.pass(standing);
        standing = next;
    }
    running.wait_at(&site.pauses, place);
    running.wait_for_phase(&site, phase);
    running.kill();
    site.pauses.go_on();
    assert_order_is_made(&site, &migrated, end);
}

#[rstest]
#[case::fencing("stored", &[], "raising", "fencing")]
#[case::snapshotting("stored", &[], "dump", "snapshotting")]
#[case::verifying("restored", &[], "load", "verifying")]
#[case::rehearsing("stored", &["--rehearse"], "command", "rehearsing")]
#[case::armed("stored", &[], "wal", "armed")]
fn killed_before_the_command_started_the_database_is_as_it_was(
    #[case] depth: &str,
    #[case] options: &[&str],
    #[case] place: &str,
    #[case] phase: &str,
) {
    killed_at(depth, options, 0, &[], place, phase, End::Old);
}

#[rstest]
#[case::migrating(0, &[], "command", "migrating", End::AnyOrHeld)]
#[case::classifying(0, &["command"], "wal", "classifying", End::AnyOrHeld)]
#[case::checking(0, &[], "check", "checking", End::New)]
#[case::releasing(0, &[], "releasing", "releasing", End::New)]
#[case::restoring(1, &["command"], "load", "restoring", End::Old)]
#[case::releasing_the_restored(1, &[], "releasing", "releasing", End::Old)]
fn killed_after_the_command_started_the_run_is_brought_to_its_end(
    #[case] status: u8,
    #[case] via: &[&str],
    #[case] place: &str,
    #[case] phase: &str,
    #[case] end: End,
) {
    killed_at("stored", &[], status, via, place, phase, end);
}

#[test]
fn killed_in_preflight_nothing_was_touched() {
    let site = a_stoppable_site("stored");
    let migrated = migrated(&site);
    let revisions = Holder::of(&site.cluster, "app", "LOCK TABLE alembic_version");
    let mut running = site.begin(&[], &migration(&site.pauses, 0));
    running.wait_for_phase(&site, "preflight");
    running.wait_until("preflight waits for the revisions", || waits_for_a_lock(&site.cluster));
    running.kill();
    drop(revisions);
    assert_order_is_made(&site, &migrated, End::Old);
    assert_eq!(site.is_fenced(), None);
}

#[test]
fn killed_while_settling_the_run_is_settled_again() {
    let site = a_stoppable_site("stored");
    let migrated = migrated(&site);
    let script = format!(
        "{}psql -Xqc 'SELECT pg_sleep(600)' &\n{}exit 1",
        super::psql(super::FIRST),
        site.pauses.shell("command")
    );
    let sleeping =
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name LIKE 'belay-%'";
    site.pauses.stop_at("command");
    let mut running = site.begin(&[], &shell(&script));
    let mut backend = None;
    running.wait_until("a session of the run sleeps", || {
        backend = site.cluster.psql("postgres", sleeping).parse().ok().map(Pid::from_raw);
        backend.is_some()
    });
    // A backend that does not hear keeps the run where it is.
    kill(backend.unwrap(), Signal::SIGSTOP).unwrap();
    site.pauses.go_on();
    running.wait_for_phase(&site, "settling");
    running.kill();
    kill(backend.unwrap(), Signal::SIGCONT).unwrap();
    assert_order_is_made(&site, &migrated, End::Old);
}

#[test]
fn killed_while_the_names_are_swapped_the_catalog_is_asked() {
    let site = a_stoppable_site("stored");
    let migrated = migrated(&site);
    site.pauses.stop_at("command");
    let mut running = site.begin(&[], &migration(&site.pauses, 1));
    running.wait_at(&site.pauses, "command");
    site.pauses.stop_at("load");
    site.pauses.pass("command");
    running.wait_at(&site.pauses, "load");
    // From here on the restored database is there, and cannot take the name.
    let renames = hold_renames(&site.cluster);
    site.pauses.go_on();
    running.wait_for_phase(&site, "swapping");
    running.wait_until("the swap waits", || waits_for_a_lock(&site.cluster));
    running.kill();
    // The server may have got the statements before belay died, and carry them out now.
    drop(renames);
    assert_order_is_made(&site, &migrated, End::Old);
    assert_eq!(site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'half'"), "0");
}

#[test]
fn killed_at_any_moment_order_is_made() {
    let mut random = dice();
    let site = a_stoppable_site("stored");
    let migrated = migrated(&site);
    let start = Instant::now();
    let ran = site.migrate(&migration(&site.pauses, 1));
    ran.assert_ended(21, "restored");
    let usual = start.elapsed();
    for _ in 0..4 {
        let moment = usual.mul_f64(random.random_range(0.0..1.0));
        let running = site.begin(&[], &migration(&site.pauses, 1));
        std::thread::sleep(moment);
        running.kill();
        eprintln!("killed after {moment:?} of {usual:?}");
        assert_order_is_made(&site, &migrated, End::Old);
    }
}
