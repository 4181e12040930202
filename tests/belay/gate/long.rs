//! What takes long: more log than the server keeps, and a lock that somebody holds for ever.

use super::foreign::{commit, open_transaction};
use super::site::Site;
use super::{psql, shell};

#[test]
fn what_a_long_migration_committed_is_known_though_the_server_recycles_its_log() {
    let site = Site::with_gate("");
    let small = ["max_wal_size = '32MB'", "min_wal_size = '32MB'", "wal_keep_size = 0"];
    for setting in small {
        site.cluster.psql("postgres", &format!("ALTER SYSTEM SET {setting}"));
    }
    site.cluster.psql("postgres", "SELECT pg_reload_conf()");
    let half = psql("UPDATE users SET name = 'half' WHERE id <= 5");
    let recycle = psql("SELECT pg_switch_wal()") + &psql("CHECKPOINT");
    // Each round of more than a segment; eight of them are eight times what is kept.
    let rounds = format!(
        "for n in 1 2 3 4 5 6 7 8; do {}{recycle}done\n",
        psql("UPDATE orders SET total = total + 1")
    );
    let ran = site.migrate(&shell(&format!("{half}{rounds}exit 1")));
    ran.assert_ended(21, "restored");
    assert!(ran.reasons().contains("5 in public.users"), "{}", ran.reasons());
    site.assert_restored(&ran);
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(site.cluster.psql("postgres", slots), "0");
}

#[test]
fn a_lock_that_keeps_the_judge_waiting_is_told() {
    let site = Site::with_gate("consistency = \"unfenced\"\n");
    site.pauses.stop_at("during");
    let mut running = site.begin(&[], &shell(&format!("{}exit 1", site.pauses.shell("during"))));
    running.wait_at(&site.pauses, "during");
    let holder = open_transaction(&site, "LOCK TABLE users");
    site.pauses.go_on();
    let ran = running.ran();
    ran.assert_ended(30, "unknown");
    for said in ["lock", "public.users"] {
        assert!(ran.reasons().contains(said), "{}", ran.reasons());
    }
    assert_eq!(site.newest_run()["phase"], "held");
    commit(holder);
}
