//! Belay dies while it puts two databases back: both are put back in the end, never one of them.

use super::{HALF_OF_APP, HALF_OF_BILLING, TwoSite, in_app, in_billing};
use crate::death::programs::{POST_DATA, Programs};
use crate::gate::death::{hold_renames, waits_for_a_lock};
use crate::gate::wait_until;

/// A site where a run that changed both can be stopped at `command`, and at the loads of its two
/// databases, `first` and `second`.
fn a_stoppable_site() -> TwoSite {
    let TwoSite { site, billing } = TwoSite::with_gate("");
    let programs = Programs::of(&site.cluster);
    let script = format!(
        "{POST_DATA}\nif mkdir '{}' 2>/dev/null; then\n{}else\n{}fi\nexec \"$real\" \"$@\"",
        site.pauses.directory().join("loading").display(),
        site.pauses.shell("first"),
        site.pauses.shell("second")
    );
    programs.fake("pg_restore", &script);
    TwoSite { site: site.using(&programs), billing }
}

fn failing(both: &TwoSite) -> String {
    let pause = both.site.pauses.shell("command");
    format!("{}{}{pause}exit 1", in_app(HALF_OF_APP), in_billing(HALF_OF_BILLING))
}

#[track_caller]
fn assert_order_is_made(both: &TwoSite) {
    let next = both.site.belay.run(["snapshot", "app"]);
    assert_eq!(next.code, 0, "{}", next.stderr);
    let run = both.site.newest_run();
    assert_eq!(
        (&run["phase"], &run["outcome"]),
        (&"done".into(), &"restored".into()),
        "{run}: {}",
        next.stderr
    );
    both.assert_as_before();
    assert_eq!(both.failed_databases().len(), 2);
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'belay\\_%'";
    assert_eq!(both.site.cluster.psql("postgres", left), "0");
    let status = both.site.belay.json(["status"]);
    assert_eq!(status["databases_kept"].as_array().unwrap().len(), 2, "{status}");
}

#[test]
fn where_the_second_cannot_be_loaded_the_first_is_not_put_back_either() {
    let TwoSite { site, billing } = TwoSite::with_gate("");
    let programs = Programs::of(&site.cluster);
    let first = site.pauses.directory().join("loading");
    let script = format!("{POST_DATA}\nmkdir '{}' || exit 1\nexec \"$real\" \"$@\"", first.display());
    programs.fake("pg_restore", &script);
    let both = TwoSite { site: site.using(&programs), billing };
    let (app, billing) = (both.oid("app"), both.oid("billing"));
    let ran = both.migrate(&failing(&both));
    ran.assert_ended(23, "restore_failed");
    assert_eq!([both.oid("app"), both.oid("billing")], [app, billing]);
    assert_eq!(both.failed_databases(), Vec::<String>::new());
    let left = "SELECT count(*) FROM pg_database \
        WHERE datname LIKE 'belay\\_%' OR NOT datallowconn AND datname <> 'template0'";
    assert_eq!(both.site.cluster.psql("postgres", left), "0");
}

#[test]
fn killed_while_the_second_is_loaded_both_are_loaded_again() {
    let both = a_stoppable_site();
    both.site.pauses.stop_at("second");
    let mut running = both.begin(&failing(&both));
    running.wait_at(&both.site.pauses, "second");
    running.wait_for_phase(&both.site, "restoring");
    running.kill();
    both.site.pauses.go_on();
    assert_order_is_made(&both);
}

#[test]
fn killed_before_the_second_is_made_both_are_loaded_again() {
    let both = a_stoppable_site();
    both.site.pauses.stop_at("first");
    let mut running = both.begin(&failing(&both));
    running.wait_at(&both.site.pauses, "first");
    let databases = hold_renames(&both.site.cluster);
    both.site.pauses.go_on();
    running.wait_until("the second cannot be made", || waits_for_a_lock(&both.site.cluster));
    running.kill();
    // The server has got the statement, and makes it now.
    drop(databases);
    assert_order_is_made(&both);
}

/// Brings a run to where the swap of both waits, and kills it there.
fn killed_in_the_swap(both: &TwoSite, then: impl FnOnce()) {
    both.site.pauses.stop_at("second");
    let mut running = both.begin(&failing(both));
    running.wait_at(&both.site.pauses, "second");
    // From here on both restored databases are there, and cannot take the names.
    let renames = hold_renames(&both.site.cluster);
    both.site.pauses.go_on();
    running.wait_for_phase(&both.site, "swapping");
    running.wait_until("the swap waits", || waits_for_a_lock(&both.site.cluster));
    running.kill();
    then();
    drop(renames);
    assert_order_is_made(both);
}

#[test]
fn killed_while_two_are_swapped_the_server_swaps_both() {
    let both = a_stoppable_site();
    killed_in_the_swap(&both, || ());
}

#[test]
fn killed_while_two_are_swapped_the_server_swaps_none() {
    let both = a_stoppable_site();
    killed_in_the_swap(&both, || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE wait_event_type = 'Lock' AND application_name LIKE 'belay%'";
        both.site.cluster.psql("postgres", end);
        wait_until("the swap is given up", || !waits_for_a_lock(&both.site.cluster));
        assert_eq!(both.failed_databases(), Vec::<String>::new());
    });
}
