//! SIGKILL of `belay` at random moments: fifty in all.
//!
//! The seed is printed; BELAY_TEST_SEED repeats one. The moments are drawn from it, though what
//! the machine has done by then differs.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::{
    a_filled_cluster, assert_nothing_left, contents, databases, files_below, half_loaded, installed, listed,
    succeed, wait_for_the_end_of_children, wait_until,
};
use crate::world::{Belay, Cluster, dice, document};

const ROWS: u32 = 20_000;

/// Draws the moments of one test.
struct Fate {
    random: Xoshiro256PlusPlus,
}

impl Fate {
    fn new() -> Fate {
        Fate { random: dice() }
    }

    /// Runs `belay` and kills it within `usual`, the time that it takes; says how long it lived.
    fn kill(&mut self, belay: &Belay, args: &[&str], usual: Duration) -> Duration {
        let moment = usual.mul_f64(self.random.random_range(0.0..1.05));
        let mut running = belay.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment);
        running.kill().unwrap();
        running.wait().unwrap();
        eprintln!("belay {} killed after {moment:?} of {usual:?}", args.join(" "));
        moment
    }
}

/// Runs `belay` to its end, and says how long it took.
fn timed(belay: &Belay, args: &[&str]) -> Duration {
    let start = Instant::now();
    succeed(belay, args);
    start.elapsed()
}

/// Asserts that what `belay list` lists is what has a manifest, and verifies.
fn assert_all_verify(belay: &Belay, depth: &str) {
    let list = belay.json(["list"]);
    let mut ids: Vec<_> =
        list["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, listed(belay));
    for id in ids {
        succeed(belay, &["verify", &id, "--depth", depth]);
    }
}

#[test]
fn a_killed_snapshot_is_whole_or_not_listed() {
    let mut fate = Fate::new();
    let cluster = a_filled_cluster(ROWS);
    let belay = installed(&cluster, "");
    let usual = timed(&belay, &["snapshot", "app"]);
    for round in 0..20 {
        // Other rows, so that there are chunks to store.
        cluster.psql("app", &format!("UPDATE big SET note = note || '{round}' WHERE id % 7 = {round} % 7"));
        fate.kill(&belay, &["snapshot", "app"], usual);
        wait_for_the_end_of_children(&belay);
        if round % 4 == 3 {
            assert_all_verify(&belay, "readable");
            succeed(&belay, &["snapshot", "app"]);
            assert_nothing_left(&belay);
        }
    }
    assert_all_verify(&belay, "stored");
    succeed(&belay, &["verify", "latest", "--depth", "restored"]);
    assert_nothing_left(&belay);
}

#[test]
fn a_killed_restore_into_is_whole_or_gone() {
    let mut fate = Fate::new();
    let cluster = a_filled_cluster(ROWS);
    let belay = installed(&cluster, "");
    succeed(&belay, &["snapshot", "app"]);
    let snapshot = contents(&cluster, "app");
    let restore = ["restore", "app", "--into", "back"];
    let usual = timed(&belay, &restore);
    for _ in 0..12 {
        cluster.psql("postgres", "DROP DATABASE IF EXISTS back");
        fate.kill(&belay, &restore, usual);
        wait_for_the_end_of_children(&belay);
        if !databases(&cluster).contains(&"back".into()) {
            let again = belay.run(restore);
            // The server may have got the rename before we died, and carry it out after we looked.
            assert!(again.code == 0 || databases(&cluster).contains(&"back".into()), "{}", again.stderr);
        }
        assert_eq!(contents(&cluster, "back"), snapshot);
        succeed(&belay, &["snapshot", "app"]);
        assert_eq!(half_loaded(&cluster), Vec::<String>::new());
        assert_nothing_left(&belay);
    }
    assert_eq!(contents(&cluster, "app"), snapshot);
}

#[test]
fn a_database_that_the_server_makes_for_a_dead_restore_is_dropped() {
    let cluster = a_filled_cluster(1_000);
    let belay = installed(&cluster, "");
    succeed(&belay, &["snapshot", "app"]);
    let mut psql = cluster.client("psql");
    let mut holder = psql.args(["-XAtq", "-d", "postgres"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut statements = holder.stdin.take().unwrap();
    statements.write_all(b"BEGIN; LOCK TABLE pg_catalog.pg_database IN SHARE MODE;\n").unwrap();
    let waiting = |query: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'belay' AND wait_event_type = 'Lock' AND query LIKE '{query}'"
        );
        cluster.psql("postgres", &sql) == "1"
    };
    let mut running = belay.command(["restore", "app", "--into", "back"]).spawn().unwrap();
    wait_until("the server waits to make a database", || waiting("CREATE DATABASE%"));
    running.kill().unwrap();
    running.wait().unwrap();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| belay.run(["snapshot", "app"]));
        wait_until("the next run waits for it, or does not", || {
            waiting("%advisory_lock%") || next.is_finished()
        });
        statements.write_all(b"COMMIT;\n").unwrap();
        assert_eq!(next.join().unwrap().code, 0);
    });
    drop(statements);
    holder.wait().unwrap();
    wait_until("the dead restore's session is gone", || {
        cluster.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'belay'")
            == "0"
    });
    assert_eq!(half_loaded(&cluster), Vec::<String>::new());
}

/// Drops what swaps kept, so that the disk does not fill.
fn drop_kept(cluster: &Cluster) {
    for kept in databases(cluster).iter().filter(|name| name.contains("_kept_")) {
        cluster.psql("postgres", &format!("DROP DATABASE {kept}"));
    }
}

#[test]
fn a_killed_swap_leaves_the_old_database_or_the_new_one() {
    let mut fate = Fate::new();
    let cluster = a_filled_cluster(ROWS);
    let belay = installed(&cluster, "");
    succeed(&belay, &["snapshot", "app"]);
    let (snapshot, id) = (contents(&cluster, "app"), listed(&belay).remove(0));
    let swap = ["restore", "app", "--swap", "--from", &id];
    let usual = timed(&belay, &swap);
    let mut swapped = 0;
    for round in 1..=12 {
        cluster.psql("app", &format!("UPDATE mark SET n = {round}"));
        let live = contents(&cluster, "app");
        // Half of the moments are in the last tenth, where the swap is.
        let span = if round % 2 == 0 { usual } else { usual.mul_f64(0.1) };
        let before = usual - span;
        let mut running = belay.command(swap).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moment = before + span.mul_f64(fate.random.random_range(0.0..1.05));
        std::thread::sleep(moment);
        running.kill().unwrap();
        running.wait().unwrap();
        eprintln!("swap killed after {moment:?} of {usual:?}");
        wait_for_the_end_of_children(&belay);
        let found = contents(&cluster, "app");
        assert!(found == live || found == snapshot, "{found}");
        succeed(&belay, &["snapshot", "app"]);
        let after = contents(&cluster, "app");
        assert!(after == live || after == snapshot, "{after}");
        let kept: Vec<_> = databases(&cluster).into_iter().filter(|name| name.contains("_kept_")).collect();
        if after == snapshot {
            swapped += 1;
            assert!(kept.iter().any(|name| contents(&cluster, name) == live), "{kept:?}");
        }
        assert_eq!(half_loaded(&cluster), Vec::<String>::new());
        assert_nothing_left(&belay);
        drop_kept(&cluster);
    }
    eprintln!("{swapped} of 12 had swapped");
    succeed(&belay, &swap);
    assert_eq!(contents(&cluster, "app"), snapshot);
    assert_all_verify(&belay, "stored");
}

#[test]
fn a_killed_retain_leaves_whole_snapshots_and_the_next_one_ends_its_work() {
    let mut fate = Fate::new();
    let cluster = a_filled_cluster(ROWS);
    let policy = "[retention]\nkeep = \"0s\"\nmin_verified = 1\nlitter_grace = \"0s\"\n";
    let belay = installed(&cluster, policy);
    let take = |round: u32| {
        cluster.psql("app", &format!("UPDATE big SET note = note || '{round}'"));
        succeed(&belay, &["snapshot", "app"]);
    };
    (0..3).for_each(take);
    succeed(&belay, &["verify", "latest", "--depth", "stored"]);
    let usual = timed(&belay, &["retain"]);
    for round in 3..9 {
        take(round);
        take(round + 100);
        succeed(&belay, &["verify", "latest", "--depth", "stored"]);
        let newest = listed(&belay).pop();
        fate.kill(&belay, &["retain"], usual);
        assert_eq!(listed(&belay).pop(), newest);
        assert_all_verify(&belay, "readable");
        succeed(&belay, &["verify", "latest", "--depth", "stored"]);
        succeed(&belay, &["retain"]);
        assert_eq!(listed(&belay), newest.into_iter().collect::<Vec<_>>());
        assert_only_the_listed_lies_there(&belay);
    }
    succeed(&belay, &["verify", "latest", "--depth", "restored"]);
}

/// Asserts that a repository with one snapshot holds its chunks and objects, and no others.
fn assert_only_the_listed_lies_there(belay: &Belay) {
    let files = files_below(&belay.repository());
    let count = |part: &str| files.iter().filter(|path| path.to_string_lossy().contains(part)).count();
    let manifest = files.iter().find(|path| path.ends_with("manifest.json")).unwrap();
    let chunks = document(manifest)["signed"]["chunks"].as_array().unwrap().len();
    assert_eq!(count("/chunks/"), chunks, "{files:#?}");
    let home = format!("{}/", manifest.parent().unwrap().display());
    assert_eq!(count("/snapshots/"), count(&home), "{files:#?}");
    assert_eq!(count("/.unfinished/"), 0, "{files:#?}");
}
