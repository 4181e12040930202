//! The server crashes under a run, and comes back.

use rstest::rstest;

use super::{
    End, a_stoppable_site, assert_order_is_made, hold_renames, migrated, migration, waits_for_a_lock,
};

#[rstest]
#[case::migrating(&[], "command", End::AnyOrHeld)]
#[case::restoring(&["command"], "load", End::AnyOrHeld)]
fn a_server_that_crashed_comes_back_with_the_old_database_or_the_new(
    #[case] via: &[&str],
    #[case] place: &str,
    #[case] end: End,
) {
    let site = a_stoppable_site("stored");
    let migrated = migrated(&site);
    for stop in via.iter().chain([&place]) {
        site.pauses.stop_at(stop);
    }
    let mut running = site.begin(&[], &migration(&site.pauses, 1));
    for passed in via {
        running.wait_at(&site.pauses, passed);
        site.pauses.pass(passed);
    }
    running.wait_at(&site.pauses, place);
    site.cluster.crash();
    site.pauses.go_on();
    site.cluster.start_again();
    let ran = running.ran();
    assert_ne!(ran.code, 0, "{}", ran.told);
    assert_order_is_made(&site, &migrated, end);
}

#[test]
fn a_server_that_crashed_in_a_swap_has_one_database_of_the_name() {
    let site = a_stoppable_site("stored");
    let migrated = migrated(&site);
    site.pauses.stop_at("command");
    site.pauses.stop_at("load");
    let mut running = site.begin(&[], &migration(&site.pauses, 1));
    running.wait_at(&site.pauses, "command");
    site.pauses.pass("command");
    running.wait_at(&site.pauses, "load");
    let renames = hold_renames(&site.cluster);
    site.pauses.go_on();
    running.wait_until("the swap waits", || waits_for_a_lock(&site.cluster));
    site.cluster.crash();
    drop(renames);
    site.cluster.start_again();
    let ran = running.ran();
    assert_ne!(ran.code, 0, "{}", ran.told);
    assert_order_is_made(&site, &migrated, End::AnyOrHeld);
    let named = "SELECT count(*) FROM pg_database WHERE datname = 'app' AND datallowconn";
    assert_eq!(site.cluster.psql("postgres", named), "1");
}
