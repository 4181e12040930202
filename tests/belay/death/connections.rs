//! The server cuts our sessions, or crashes.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rstest::rstest;

use super::{
    a_filled_cluster, assert_failed, assert_nothing_left, contents, half_loaded, installed, listed, succeed,
    wait_until,
};

/// Ends sessions of ours as soon as one copies a table: those that `whom` picks.
fn cut(whom: &str) -> String {
    format!(
        "DO $$ BEGIN FOR attempt IN 1..20000 LOOP PERFORM pg_stat_clear_snapshot(); \
         IF EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'belay' AND query LIKE 'COPY (%' AND state = 'active') THEN \
           PERFORM pg_terminate_backend(pid) FROM ( \
             SELECT pid FROM pg_stat_activity WHERE application_name = 'belay' {whom}) picked; RETURN; \
         END IF; PERFORM pg_sleep(0.002); END LOOP; RAISE 'nobody came'; END $$"
    )
}

#[rstest]
#[case::all("")]
#[case::a_worker("AND query LIKE 'COPY (%' AND state = 'active' ORDER BY backend_start LIMIT 1")]
#[case::the_keeper("ORDER BY backend_start LIMIT 1")]
fn a_snapshot_whose_session_is_cut_is_not_listed(#[case] whom: &str) {
    let cluster = a_filled_cluster(200_000);
    let belay = installed(&cluster, "");
    let output = std::thread::scope(|scope| {
        let cutter = scope.spawn(|| cluster.psql("postgres", &cut(whom)));
        let output = belay.run(["snapshot", "app"]);
        cutter.join().unwrap();
        output
    });
    assert_failed(&output, 5, "belay: snapshot app: ");
    assert!(
        output.stderr.contains("terminating connection") || output.stderr.contains("snapshot"),
        "{}",
        output.stderr
    );
    assert_eq!(listed(&belay), Vec::<String>::new());
    assert_nothing_left(&belay);
    succeed(&belay, &["snapshot", "app"]);
    succeed(&belay, &["verify", "latest", "--depth", "readable"]);
}

#[test]
fn a_restore_whose_server_crashes_changes_nothing() {
    let cluster = a_filled_cluster(200_000);
    let belay = installed(&cluster, "");
    succeed(&belay, &["snapshot", "app"]);
    cluster.psql("app", "UPDATE mark SET n = 1; CHECKPOINT");
    let live = contents(&cluster, "app");
    let output = std::thread::scope(|scope| {
        let running = scope.spawn(|| belay.run(["restore", "app", "--swap"]));
        let loading = "SELECT pid FROM pg_stat_activity WHERE datname LIKE 'belay_restore_%' AND query LIKE 'COPY %' LIMIT 1";
        // A server whose session is killed takes down all others, and starts anew by itself. The
        // session seen may have ended since: then the next one.
        wait_until("a session that loads a table is killed", || {
            let backend = cluster.psql("postgres", loading);
            backend.parse().is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
        });
        running.join().unwrap()
    });
    assert_failed(&output, 5, "belay: restore app: ");
    wait_until("the server is there again", || {
        let mut ready = cluster.client("pg_isready");
        ready.arg("--quiet").status().unwrap().success()
    });
    assert_eq!(contents(&cluster, "app"), live);
    assert_nothing_left(&belay);
    succeed(&belay, &["snapshot", "app"]);
    assert_eq!(half_loaded(&cluster), Vec::<String>::new());
    succeed(&belay, &["restore", "app", "--swap"]);
}
