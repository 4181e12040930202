//! What others commit while a migration runs is counted and never lost.

use std::process::{Child, Stdio};

use rstest::rstest;

use super::pauses::Pauses;
use super::site::Site;
use super::{psql, shell, wait_until};
use crate::death::programs::{POST_DATA, Programs};
use crate::world::{Client, a_cluster};

/// A migration that commits a half and fails, and that stops before, during and after it.
pub fn failing(pauses: &Pauses) -> Vec<String> {
    let stops = ["before", "during", "after"].map(|place| pauses.shell(place));
    let half = psql("UPDATE users SET name = 'half' WHERE id <= 5");
    let rest = psql("CREATE TABLE half (id int)");
    shell(&format!("{}{half}{}{rest}{}exit 1", stops[0], stops[1], stops[2]))
}

/// Two rows in one transaction of somebody else.
pub const TWO_USERS: &str =
    "INSERT INTO users (email, name) VALUES ('one@example.com', 'one'), ('two@example.com', 'two')";

/// Asserts that what [`TWO_USERS`] committed is there.
#[track_caller]
pub fn assert_two_users(site: &Site) {
    let sql = "SELECT count(*) FROM users WHERE email LIKE '%@example.com'";
    assert_eq!(site.cluster.psql("app", sql), "2");
}

/// Runs the failing migration, and `act` while it stops at `place`.
pub fn with_an_act_at(site: &Site, place: &str, act: impl FnOnce(&Site)) -> super::site::Ran {
    site.pauses.stop_at(place);
    let mut running = site.begin(&[], &failing(&site.pauses));
    running.wait_at(&site.pauses, place);
    act(site);
    site.pauses.go_on();
    running.ran()
}

#[rstest]
fn a_foreign_commit_is_never_undone(#[values("before", "during", "after")] place: &str) {
    let site = Site::with_gate("");
    let ran = with_an_act_at(&site, place, |site| {
        site.cluster.psql("app", TWO_USERS);
    });
    site.assert_held(&ran);
    assert!(ran.reasons().contains("1 transaction"), "{}", ran.reasons());
    assert!(ran.reasons().contains("2 rows in public.users"), "{}", ran.reasons());
    assert_two_users(&site);
    assert_eq!(site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'half'"), "5");
}

#[test]
fn foreign_commits_are_counted_by_table() {
    let site = Site::with_gate("");
    let ran = with_an_act_at(&site, "during", |site| {
        for _ in 0..3 {
            site.cluster.psql("app", "UPDATE orders SET total = total + 1 WHERE id <= 4");
        }
        site.cluster.psql("app", TWO_USERS);
    });
    site.assert_held(&ran);
    let reasons = ran.reasons();
    for said in ["4 transactions", "12 rows in public.orders", "2 in public.users"] {
        assert!(reasons.contains(said), "{said:?} is not in: {reasons}");
    }
}

#[rstest]
#[case::rolled_back("app", "BEGIN; INSERT INTO users (email, name) VALUES ('x', 'x'); ROLLBACK")]
#[case::in_another_database("other", "CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n")]
#[case::vacuum("app", "VACUUM users; VACUUM orders")]
#[case::checkpoint("app", "CHECKPOINT")]
#[case::read_with_locks_on_rows("app", "SELECT count(*) FROM users; SELECT * FROM users FOR SHARE")]
fn what_commits_nothing_to_the_database_hinders_no_restore(#[case] database: &str, #[case] sql: &str) {
    let site = Site::with_gate("");
    site.cluster.create_database("other");
    let ran = with_an_act_at(&site, "during", |site| {
        site.cluster.psql(database, sql);
    });
    ran.assert_ended(21, "restored");
    site.assert_restored(&ran);
}

#[test]
fn busy_writers_of_another_database_hinder_no_restore() {
    let site = Site::with_gate("");
    site.cluster.create_database("other");
    site.cluster.psql("other", "CREATE TABLE t (n int)");
    let script = site.pauses.directory().join("busy.sql");
    std::fs::write(&script, "BEGIN; INSERT INTO t VALUES (1); SELECT pg_sleep(0.003); COMMIT;\n").unwrap();
    let mut busy = site.cluster.client("pgbench");
    busy.args(["-n", "-c", "6", "-T", "300", "-f"]).arg(&script).arg("other");
    let _busy = Client::start(&mut busy);
    let failing = shell(&format!("{}exit 1", psql("UPDATE users SET name = 'half' WHERE id <= 5")));
    for _ in 0..3 {
        let ran = site.migrate(&failing);
        ran.assert_ended(21, "restored");
        site.assert_as_before();
    }
    let written = site.cluster.psql("other", "SELECT count(*) > 100 FROM t");
    assert_eq!(written, "t", "the writers were busy");
}

#[test]
fn a_commit_while_a_check_runs_is_not_undone() {
    let site = Site::planned(a_cluster(), |pauses| {
        let script = serde_json::to_string(&format!("{}exit 1", pauses.shell("check"))).unwrap();
        format!(
            "verify_depth = \"stored\"\n[[gate.check]]\nname = \"smoke\"\ncommand = [\"sh\", \"-c\", {script}]\n"
        )
    });
    site.pauses.stop_at("check");
    let mut running = site.begin(&[], &shell(&psql("ALTER TABLE users ADD age int")));
    running.wait_at(&site.pauses, "check");
    site.cluster.psql("app", TWO_USERS);
    site.pauses.go_on();
    let ran = running.ran();
    site.assert_held(&ran);
    assert!(ran.reasons().contains("2 rows in public.users"), "{}", ran.reasons());
    assert_two_users(&site);
}

#[test]
fn nobody_can_commit_while_the_snapshot_is_loaded() {
    let site = Site::with_gate("");
    let programs = Programs::of(&site.cluster);
    let pause = site.pauses.shell("load");
    programs.fake("pg_restore", &format!("{POST_DATA}\n{pause}exec \"$real\" \"$@\""));
    let site = site.using(&programs);
    site.pauses.stop_at("load");
    let mut running = site.begin(&[], &failing(&site.pauses));
    running.wait_at(&site.pauses, "load");
    let stranger = site.cluster.client("psql").args(["-d", "app", "-c", TWO_USERS]).output().unwrap();
    assert!(!stranger.status.success());
    let said = String::from_utf8_lossy(&stranger.stderr);
    assert!(said.contains("not currently accepting connections"), "{said}");
    site.pauses.go_on();
    let ran = running.ran();
    ran.assert_ended(21, "restored");
    site.assert_restored(&ran);
}

/// A session of somebody else that waits inside of a transaction.
pub fn open_transaction(site: &Site, sql: &str) -> Child {
    open_transaction_as(site, "psql", sql)
}

/// As [`open_transaction`], by an application that calls itself `name`.
fn open_transaction_as(site: &Site, name: &str, sql: &str) -> Child {
    use std::io::Write as _;
    let mut client = site.cluster.client("psql");
    client.args(["-Xq", "-d", "app"]).env("PGAPPNAME", name).stdin(Stdio::piped());
    let mut session = client.spawn().unwrap();
    writeln!(session.stdin.as_mut().unwrap(), "BEGIN; {sql};").unwrap();
    wait_until("a session is idle in a transaction", || {
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
        site.cluster.psql("postgres", idle) == "1"
    });
    session
}

/// Has a session of [`open_transaction`] commit and leave.
pub fn commit(mut session: Child) {
    use std::io::Write as _;
    let mut input = session.stdin.take().unwrap();
    writeln!(input, "COMMIT;").unwrap();
    drop(input);
    assert!(session.wait().unwrap().success());
}

/// Asserts that the run took a second snapshot, which has what [`TWO_USERS`] committed, and was undone.
#[track_caller]
fn assert_kept_by_another_snapshot(site: &Site, ran: &super::site::Ran) {
    ran.assert_ended(21, "restored");
    let snapshots = ran.phases().iter().filter(|phase| *phase == "snapshotting").count();
    assert_eq!(snapshots, 2, "{}", ran.told);
    assert_two_users(site);
    assert_eq!(site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'half'"), "0");
}

#[test]
fn what_was_begun_before_the_snapshot_and_committed_after_it_is_not_lost() {
    let site = Site::with_gate("consistency = \"checked\"\n");
    let session = open_transaction(&site, TWO_USERS);
    site.pauses.stop_at("raising");
    let mut running = site.begin(&[], &failing(&site.pauses));
    // The snapshot is taken by then, and does not hold what is committed now.
    running.wait_at(&site.pauses, "raising");
    commit(session);
    site.pauses.go_on();
    let ran = running.ran();
    assert_kept_by_another_snapshot(&site, &ran);
}

/// Somebody whom no look at the sessions has seen: he says that he is one of ours.
#[test]
fn where_no_fence_is_up_what_was_committed_during_the_snapshot_is_not_lost() {
    let site = Site::with_gate("");
    let programs = Programs::of(&site.cluster);
    programs.fake("pg_dump", &format!("{}exec \"$real\" \"$@\"", site.pauses.shell("dump")));
    let site = site.using(&programs);
    without_fences(&site);
    let session = open_transaction_as(&site, "belay", TWO_USERS);
    site.pauses.stop_at("dump");
    let mut running = site.begin(&[], &failing(&site.pauses));
    running.wait_at(&site.pauses, "dump");
    commit(session);
    site.pauses.go_on();
    let ran = running.ran();
    assert_kept_by_another_snapshot(&site, &ran);
}

#[test]
fn a_fresh_snapshot_is_used_again_until_something_is_committed() {
    let site = Site::with_gate("fresh_within = \"1h\"\n");
    let taken = site.belay.json(["snapshot", "app"])["id"].clone();
    site.belay.json(["verify", "latest", "--depth", "stored"]);
    let failing = shell(&format!("{}exit 1", psql("UPDATE users SET name = 'half' WHERE id <= 5")));
    for _ in 0..2 {
        // The gate's own transactions are no reason for another one.
        let ran = site.migrate(&shell("exit 1"));
        ran.assert_ended(20, "failed_unchanged");
        assert_eq!(ran.report["snapshot"], taken, "{}", ran.told);
    }
    let ran = site.migrate(&failing);
    ran.assert_ended(21, "restored");
    assert_eq!(ran.report["snapshot"], taken, "{}", ran.told);
    site.assert_restored(&ran);

    let taken = site.belay.json(["snapshot", "app"])["id"].clone();
    site.belay.json(["verify", "latest", "--depth", "stored"]);
    site.cluster.psql("app", TWO_USERS);
    let ran = site.migrate(&failing);
    ran.assert_ended(21, "restored");
    assert_ne!(ran.report["snapshot"], taken, "{}", ran.told);
    assert_two_users(&site);
}

#[test]
fn a_snapshot_to_which_nothing_was_added_is_taken_once() {
    let site = Site::with_gate("consistency = \"checked\"\n");
    let ran = site.migrate(&failing(&site.pauses));
    ran.assert_ended(21, "restored");
    let snapshots = ran.phases().iter().filter(|phase| *phase == "snapshotting").count();
    assert_eq!(snapshots, 1, "{}", ran.told);
    site.assert_restored(&ran);
}

#[test]
fn nothing_is_put_back_by_itself_while_the_application_is_let_in() {
    let site = Site::with_gate("consistency = \"unfenced\"\n");
    let ran = site.migrate(&failing(&site.pauses));
    site.assert_held(&ran);
    assert_eq!(site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'half'"), "5");
}

/// Takes the fences out of the settings; returns these.
fn without_fences(site: &Site) -> String {
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let (without, _) = settings.split_once("[[gate.fence]]").unwrap();
    site.belay.write_settings(without);
    without.to_owned()
}

#[test]
fn a_run_that_keeps_nobody_out_says_so() {
    let site = Site::with_gate("");
    let told = |ran: &super::site::Ran| ran.report["notes"].to_string();
    let warning = "there is no [[gate.fence]]";
    let fenced = site.migrate(&shell("exit 1"));
    assert!(!told(&fenced).contains(warning), "{}", told(&fenced));
    assert!(!site.belay.run(["check"]).stdout.contains(warning));
    let without = without_fences(&site);
    let ran = site.migrate(&shell("exit 1"));
    ran.assert_ended(20, "failed_unchanged");
    assert!(told(&ran).contains(warning), "{}", told(&ran));
    let checked = site.belay.run(["check"]);
    assert_eq!(checked.code, 0, "{}", checked.stdout);
    assert!(
        checked.stdout.contains("warning  gate: consistency is \"fenced\" and there is no"),
        "{}",
        checked.stdout
    );
    let unfenced = without.replace("[gate]\n", "[gate]\nconsistency = \"unfenced\"\n");
    site.belay.write_settings(&unfenced);
    assert!(!site.belay.run(["check"]).stdout.contains(warning));
}
