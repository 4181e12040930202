//! A migration that writes more log than the server keeps.

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
