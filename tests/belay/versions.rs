//! Every major that PostgreSQL's own project keeps, and two that it does not: the zoo comes back on
//! each, and goes on to the next.

use rstest::rstest;

use crate::world::{Belay, Cluster, Output, a_cluster_of, finish, with_rows_sorted};

const TINY: &str = "large_table = \"8KiB\"\nchunk = \"4MiB\"\njobs = 2\n";

/// A zoo on a server of `major`, and a snapshot of it.
fn a_snapshot_on(major: u32) -> (Cluster, Belay) {
    let cluster = a_cluster_of(major).with_menagerie().start();
    cluster.fill_zoo("zoo");
    let belay = Belay::with_settings(&cluster, "zoo", TINY);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    (cluster, belay)
}

fn assert_similar(before: &str, after: &str) {
    let differing: Vec<_> = before.lines().zip(after.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!(before.lines().count(), after.lines().count());
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn zoo_comes_back_on(#[values(12, 13, 14, 15, 16, 17, 18)] major: u32) {
    let (cluster, belay) = a_snapshot_on(major);
    let taken = belay.json(["snapshot", "app"]);
    assert!(taken["chunks_new"].as_u64() > Some(5), "{taken}");
    let verified = belay.run(["verify", "latest", "--depth", "restored"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    let restored = belay.run(["restore", "app", "--into", "back", "--prove", "full"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_similar(&with_rows_sorted(&cluster.dump("zoo")), &with_rows_sorted(&cluster.dump("back")));
    assert_similar(&cluster.properties("zoo"), &cluster.properties("back"));
}

/// Runs `belay` with the keys and the repository of `belay`, but for the cluster `to`.
fn elsewhere(belay: &Belay, from: &Cluster, to: &Cluster, args: &[&str]) -> Output {
    let settings = std::fs::read_to_string(belay.settings()).expect("read the settings");
    let place =
        |cluster: &Cluster| format!("host = \"{}\"\nport = {}\n", cluster.host().display(), cluster.port());
    let moved = settings.replace(&place(from), &place(to));
    assert_ne!(moved, settings);
    belay.write_settings(&moved);
    // Those of the older server stay on the path, as on a host where both majors are installed.
    finish(belay.command(args).env("BELAY__CLUSTER__BIN_DIRECTORY", to.programs()))
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn snapshot_of_each_major_restores_into_the_next(#[values(12, 13, 14, 15, 16, 17)] major: u32) {
    let (old, belay) = a_snapshot_on(major);
    let new = a_cluster_of(major + 1).with_menagerie().start();
    let compressions = "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'";
    if !new.psql("postgres", compressions).contains("lz4") {
        old.psql("zoo", "SET zoo.allow_ddl = 'yes'; DROP TABLE IF EXISTS zoo.compressed");
    }
    belay.json(["snapshot", "app"]);
    let restored = elsewhere(&belay, &old, &new, &["restore", "app", "--into", "zoo", "--prove", "full"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    // Both dumps by the newer client: clients of two majors write the same rows in other words.
    let mut at_old = new.client("pg_dump");
    at_old.env("PGHOST", old.host()).env("PGPORT", old.port().to_string()).args(["--data-only", "-d", "zoo"]);
    let before = crate::world::without_run(&old.run(&mut at_old));
    assert_similar(&with_rows_sorted(&before), &with_rows_sorted(&new.dump_with("zoo", &["--data-only"])));
}
