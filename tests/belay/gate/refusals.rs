//! What cannot be undone safely is not begun.

use super::site::Site;
use super::{psql, shell, wait_until};
use crate::world::{Client, Plan, a_cluster, finish};

/// A cluster where transactions can be prepared and changes followed.
fn a_followed_cluster() -> Plan {
    a_cluster()
        .with_setting("wal_level=logical")
        .with_setting("max_prepared_transactions=2")
        .with_setting("max_replication_slots=4")
}

fn a_followed_site(settings: &str) -> Site {
    Site::planned(a_followed_cluster(), |_| format!("verify_depth = \"stored\"\n{settings}"))
}

/// A migration that tells that it was begun.
fn telling(site: &Site) -> Vec<String> {
    let begun = site.pauses.directory().join("begun");
    shell(&format!("touch '{}'\n{}", begun.display(), psql("ALTER TABLE users ADD age int")))
}

/// Asserts that the migration is refused in preflight for `reasons`, and that nothing was touched.
#[track_caller]
fn assert_not_begun(site: &Site, reasons: &[&str]) {
    let ran = site.migrate(&telling(site));
    ran.assert_refused(10, reasons);
    assert!(!site.pauses.directory().join("begun").exists());
    assert_eq!(site.is_fenced(), None);
    assert_eq!(site.belay.json(["list"])["snapshots"].as_array().unwrap().len(), 0);
    site.assert_as_before();
}

#[test]
fn a_prepared_transaction_stops_a_migration() {
    let site = a_followed_site("");
    site.cluster.psql("app", "BEGIN; UPDATE users SET name = 'x' WHERE id = 1; PREPARE TRANSACTION 'half'");
    assert_not_begun(&site, &["prepared transaction", "half"]);
    site.cluster.psql("app", "COMMIT PREPARED 'half'");
    assert_eq!(site.cluster.psql("app", "SELECT name FROM users WHERE id = 1"), "x");
}

#[test]
fn an_inactive_logical_slot_stops_a_migration() {
    let site = a_followed_site("");
    site.cluster.psql("app", "SELECT pg_create_logical_replication_slot('follower', 'test_decoding')");
    assert_not_begun(&site, &["slot", "follower"]);
    let slot = "SELECT slot_name, database FROM pg_replication_slots";
    assert_eq!(site.cluster.psql("postgres", slot), "follower|app");
}

#[test]
fn an_active_logical_slot_stops_a_migration() {
    let site = a_followed_site("");
    site.cluster.psql("app", "SELECT pg_create_logical_replication_slot('follower', 'test_decoding')");
    let mut follower = site.cluster.client("pg_recvlogical");
    let _follower =
        Client::start(follower.args(["--start", "--slot=follower", "--dbname=app", "--file=/dev/null"]));
    let active = "SELECT slot_name, active FROM pg_replication_slots";
    wait_until("the slot is active", || site.cluster.psql("postgres", active) == "follower|t");
    assert_not_begun(&site, &["slot", "follower"]);
    assert_eq!(site.cluster.psql("postgres", active), "follower|t");
}

#[test]
fn a_slot_that_may_be_lost_stops_nothing() {
    let site = a_followed_site("disposable_slots = [\"follower\"]\n");
    site.cluster.psql("app", "SELECT pg_create_logical_replication_slot('follower', 'test_decoding')");
    let half = psql("UPDATE users SET name = 'half'");
    let ran = site.migrate(&shell(&format!("{half}exit 1")));
    ran.assert_ended(21, "restored");
    site.assert_restored(&ran);
}

#[test]
fn a_subscription_stops_a_migration() {
    let site = a_followed_site("");
    let make = "CREATE SUBSCRIPTION news CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)";
    site.cluster.psql("app", make);
    let site = Site { before: super::site::state(&site.cluster, "app"), ..site };
    assert_not_begun(&site, &["subscription", "news"]);
    assert_eq!(site.cluster.psql("app", "SELECT subname FROM pg_subscription"), "news");
}

#[test]
fn of_two_runs_at_once_the_second_is_told_to_wait() {
    let site = Site::with_gate("");
    site.pauses.stop_at("command");
    let script = format!("{}{}", site.pauses.shell("command"), psql("ALTER TABLE users ADD age int"));
    let mut first = site.begin(&[], &shell(&script));
    first.wait_at(&site.pauses, "command");
    let second = site.migrate(&telling(&site));
    second.assert_refused(12, &["another run"]);
    assert!(!site.pauses.directory().join("begun").exists());
    assert_eq!(site.is_fenced(), Some(true));
    site.pauses.go_on();
    first.ran().assert_ended(0, "migrated");
    assert_eq!(site.cluster.psql("app", "SELECT count(age), count(*) FROM users"), "0|200");
}

#[test]
fn an_index_is_built_concurrently_beside_the_lock_of_the_run() {
    // It waits for every transaction of the cluster that has a snapshot, ours included.
    let site = Site::with_gate("timeout = \"20s\"\n");
    let ran = site.migrate(&shell(&psql("CREATE INDEX CONCURRENTLY users_by_name ON users (name)")));
    ran.assert_ended(0, "migrated");
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'users_by_name'::regclass";
    assert_eq!(site.cluster.psql("app", valid), "t");
}

/// A session that does nothing in `app`.
fn idle_session(site: &Site) -> Client {
    let client = Client::start(site.cluster.client("psql").args(["-Xq", "-d", "app"]));
    let idle =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND backend_type = 'client backend'";
    wait_until("a session is there", || site.cluster.psql("postgres", idle) == "1");
    client
}

#[test]
fn a_session_that_stays_stops_a_migration() {
    let site = Site::with_gate("sessions = \"refuse\"\nfence_timeout = \"1s\"\n");
    let session = idle_session(&site);
    let ran = site.migrate(&telling(&site));
    ran.assert_refused(13, &["psql"]);
    assert!(!site.pauses.directory().join("begun").exists());
    assert_eq!(site.is_fenced(), Some(false));
    site.assert_as_before();
    drop(session);
}

#[test]
fn a_session_that_stays_is_ended_where_settings_say_so() {
    let site = Site::with_gate("sessions = \"end\"\n");
    let session = idle_session(&site);
    site.migrate(&telling(&site)).assert_ended(0, "migrated");
    // It notices when it next asks something, and that is an input that ends.
    session.leave();
    let ended = site.cluster.log().matches("terminating connection due to administrator command").count();
    assert!(ended >= 1, "{}", site.cluster.log());
}

#[test]
fn a_fence_that_does_not_go_up_stops_a_migration() {
    let site = Site::planned(a_cluster(), |_| {
        "[[gate.fence]]\nkind = \"command\"\nname = \"pods\"\nraise = [\"false\"]\nrelease = [\"true\"]\n"
            .into()
    });
    let ran = site.migrate(&telling(&site));
    ran.assert_refused(13, &["pods"]);
    assert!(!site.pauses.directory().join("begun").exists());
    site.assert_as_before();
}

#[test]
fn settings_and_words_that_make_no_sense_are_told_before_anything_is_done() {
    let site = Site::with_gate("");
    let good = std::fs::read_to_string(site.belay.settings()).unwrap();
    let (first, rest) = good.split_once("[gate]\nverify_depth = \"stored\"\n").unwrap();
    for (settings, said) in [
        ("consistency = \"loose\"\n", "consistency"),
        ("on_failure = \"pray\"\n", "on_failure"),
        ("rehearse_cycle = \"up-down-up\"\n", "rehearse_down"),
        ("sesions = \"end\"\n", "did you mean sessions?"),
        ("[[gate.check]]\nname = \"none\"\nsql = \"SELECT 1\"\n", "expect"),
    ] {
        site.belay.write_settings(&format!("{first}[gate]\n{settings}{rest}"));
        site.migrate(&telling(&site)).assert_refused(2, &[said]);
        assert!(!site.pauses.directory().join("begun").exists());
    }
    site.belay.write_settings(&good);
    let no_command = site.belay.run(["migrate", "--db", "app"]);
    assert_eq!(no_command.code, 2, "{}", no_command.stderr);
    let no_database = finish(&mut site.belay.command(["migrate", "--db", "nosuch", "--", "true"]));
    assert_eq!(no_database.code, 3, "{}", no_database.stderr);
    let no_program = site.migrate(&["no-such-program".into()]);
    no_program.assert_refused(10, &["no-such-program"]);
    assert_eq!(site.is_fenced(), None);
    site.assert_as_before();
}

#[test]
fn a_check_that_cannot_be_asked_is_refused_before_anything_is_touched() {
    let check = "[[gate.check]]\nname = \"users\"\nsql = \"SELECT count(*) FROM no_such_table\"\nexpect = \"unchanged\"\n";
    let site = Site::with_gate(check);
    let ran = site.migrate(&shell(&psql("ALTER TABLE users ADD age int")));
    ran.assert_ended(10, "refused");
    assert!(ran.reasons().contains("no_such_table"), "{}", ran.reasons());
    site.assert_as_before();
}

#[test]
fn a_transaction_that_the_migration_leaves_prepared_is_not_taken_for_nothing() {
    let site = a_followed_site("");
    let prepare = psql("BEGIN; UPDATE users SET name = 'half'; PREPARE TRANSACTION 'left'");
    let ran = site.migrate(&shell(&format!("{prepare}exit 1")));
    ran.assert_ended(30, "unknown");
    assert!(ran.reasons().contains("left"), "{}", ran.reasons());
    assert_eq!(site.cluster.psql("app", "SELECT gid FROM pg_prepared_xacts"), "left");
}
