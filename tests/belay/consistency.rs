//! A snapshot is of one moment, whatever the application does meanwhile, and does not stop it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::world::{Belay, Client, Cluster, a_cluster};

/// Accounts and tellers go through chunks, accounts in several ranges.
const RANGES: &str = "large_table = \"8KiB\"\nchunk = \"4MiB\"\njobs = 2\n";

fn initialized(cluster: &Cluster, database: &str, settings: &str) -> Belay {
    let belay = Belay::with_settings(cluster, database, settings);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    belay
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for 30 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
    (SELECT count(*) FROM pgbench_history)";

#[test]
fn snapshots_under_pgbench_hold_its_invariant_ten_times_of_ten() {
    let cluster = a_cluster().start();
    cluster.fill_pgbench("bench", 2);
    let belay = initialized(&cluster, "bench", RANGES);
    let ids: Vec<String> = {
        let _bench = Client::start(cluster.client("pgbench").args(["-n", "-c", "4", "-T", "600", "bench"]));
        let transactions =
            || cluster.psql("bench", "SELECT count(*) FROM pgbench_history").parse::<u64>().expect("a count");
        wait_until("pgbench runs", || transactions() > 50);
        let take = |_| {
            let taken = belay.json(["snapshot", "app"]);
            taken["id"].as_str().expect("an id is text").to_owned()
        };
        (0..10).map(take).collect()
    };
    let mut histories = Vec::new();
    for id in &ids {
        let restored = belay.run(["restore", "app", "--from", id, "--into", "back"]);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        let sums = cluster.psql("back", SUMS);
        let fields: Vec<&str> = sums.split('|').collect();
        let [accounts, tellers, branches, deltas, rows] = fields[..] else { panic!("{sums}") };
        assert_eq!([accounts, tellers, branches], [deltas; 3], "snapshot {id}: {sums}");
        histories.push(rows.parse::<u64>().expect("a count"));
        cluster.psql("postgres", "DROP DATABASE back");
    }
    // Without transactions between and during the snapshots this would prove nothing.
    assert!(histories.windows(2).all(|pair| pair[0] < pair[1]), "{histories:?}");
}

/// Always 1000 rows to whoever looks at one moment; emptied, dropped and rewritten again and again,
/// with pauses in which a snapshot gets its locks.
const CHURN: &str = "
BEGIN; TRUNCATE emptied; INSERT INTO emptied SELECT i FROM generate_series(1, 1000) i; COMMIT;
BEGIN; DROP TABLE dropped; CREATE TABLE dropped AS SELECT i FROM generate_series(1, 1000) i; COMMIT;
ALTER TABLE altered ALTER t TYPE varchar(50);
BEGIN; ALTER TABLE altered ADD more int DEFAULT 7; ALTER TABLE altered DROP more; COMMIT;
ALTER TABLE altered ALTER t TYPE text;
SELECT pg_sleep(random() * 0.8);
";

#[test]
fn snapshots_between_truncate_drop_and_alter_are_whole_or_fail_clearly() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE emptied AS SELECT i FROM generate_series(1, 1000) i;
         CREATE TABLE dropped AS SELECT i FROM generate_series(1, 1000) i;
         CREATE TABLE altered AS SELECT i, repeat('x', 40) AS t FROM generate_series(1, 1000) i;
         CREATE TABLE steady AS SELECT i FROM generate_series(1, 20000) i;",
    );
    let belay = initialized(&cluster, "app", "large_table = \"8KiB\"\nlock_timeout = \"500ms\"\n");
    let is_over = AtomicBool::new(false);
    let (mut ids, mut failures) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                cluster.psql("app", CHURN);
            }
        });
        for _ in 0..12 {
            let taken = belay.run(["--json", "snapshot", "app"]);
            if taken.code == 0 {
                let taken: serde_json::Value = serde_json::from_str(&taken.stdout).expect("it is JSON");
                ids.push(taken["id"].as_str().expect("an id is text").to_owned());
            } else {
                failures.push((taken.code, taken.stderr));
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    for (code, told) in &failures {
        let is_clear = ["lock", "does not exist", "dropped"].iter().any(|word| told.contains(word));
        assert!(*code == 5 && is_clear, "{code}: {told}");
    }
    assert!(!ids.is_empty(), "{failures:#?}");
    for id in &ids {
        let restored = belay.run(["restore", "app", "--from", id, "--into", "back"]);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        let counts = "SELECT (SELECT count(*) FROM emptied), (SELECT count(*) FROM dropped), \
            (SELECT count(*) FROM altered), (SELECT count(*) FROM steady)";
        assert_eq!(cluster.psql("back", counts), "1000|1000|1000|20000", "snapshot {id}");
        cluster.psql("postgres", "DROP DATABASE back");
    }
}

#[test]
fn snapshot_gives_up_rather_than_queue_the_application_behind_it() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", "CREATE TABLE held AS SELECT 1 AS a");
    let belay = initialized(&cluster, "app", "lock_timeout = \"1s\"\n");
    let session = |sql: &str| {
        let mut psql = cluster.client("psql");
        Client::start(psql.args(["-Xq", "-d", "app", "-c", sql]))
    };
    let _reader = session("BEGIN; SELECT * FROM held; SELECT pg_sleep(600)");
    let waiting = |event: &str| {
        let sql =
            format!("SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND wait_event = '{event}'");
        cluster.psql("postgres", &sql) == "1"
    };
    wait_until("the reader holds its lock", || waiting("PgSleep"));
    let _migration = session("ALTER TABLE held ADD b int");
    wait_until("the migration waits", || waiting("relation"));

    let began = Instant::now();
    let taken = belay.run(["snapshot", "app"]);
    assert_eq!(taken.code, 5, "{}", taken.stderr);
    assert!(
        taken.stderr.contains("holds a lock on public.held for longer than the lock timeout")
            && taken.stderr.contains("hint: something holds"),
        "{}",
        taken.stderr
    );
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(belay.run(["verify", "latest"]).code, 3);
}
