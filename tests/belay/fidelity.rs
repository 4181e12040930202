//! A snapshot and its restore lose nothing: the zoo comes back equal, by every path.

use crate::world::{Belay, Cluster, a_cluster, with_rows_sorted};

/// Every table but the smallest goes through chunks, in several ranges and pieces.
const TINY: &str = "large_table = \"8KiB\"\nchunk = \"4MiB\"\njobs = 3\n";

/// Restores the newest snapshot of `database` beside it and compares what pg_dump says of both.
fn assert_comes_back_equal(cluster: &Cluster, belay: &Belay, database: &str) {
    let restored = belay.run(["restore", "app", "--from", "latest", "--into", "back", "--prove", "full"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let (before, after) = (cluster.dump(database), cluster.dump("back"));
    similar(&with_rows_sorted(&before), &with_rows_sorted(&after));
    similar(&cluster.properties(database), &cluster.properties("back"));
}

fn similar(before: &str, after: &str) {
    let differing: Vec<_> = before.lines().zip(after.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!(before.lines().count(), after.lines().count());
}

fn zoo_comes_back(settings: &str) {
    let cluster = a_cluster().with_menagerie().start();
    cluster.fill_zoo("zoo");
    let belay = Belay::with_settings(&cluster, "zoo", settings);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    let taken = belay.json(["snapshot", "app"]);
    assert!(taken["tables"].as_u64() > Some(20), "{taken}");
    let verified = belay.run(["verify", "latest", "--depth", "restored"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    assert_comes_back_equal(&cluster, &belay, "zoo");
}

#[test]
fn zoo_comes_back_equal() {
    zoo_comes_back("");
}

#[test]
fn zoo_comes_back_equal_through_chunks() {
    zoo_comes_back(TINY);
}
