use std::time::Duration;

use rand::RngExt as _;

use super::site::{Site, a_site_that_pushes, text_of};
use crate::world::{Client, a_cluster, dice};

fn failures(site: &Site) -> String {
    site.cluster.psql("postgres", "SELECT failed_count FROM pg_stat_archiver")
}

/// The segment that is written.
fn current(site: &Site) -> String {
    site.cluster.psql("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
}

#[test]
fn a_log_that_the_server_hands_over_reaches_every_moment() {
    let site = a_site_that_pushes(a_cluster());
    site.base();
    site.write("one");
    let (first, place) = (text_of(site.now()), site.lsn());
    site.write("two");
    site.switch();
    // Nothing is committed in it.
    site.cluster.psql("postgres", "CHECKPOINT");
    site.switch();
    let late = text_of(site.now());
    site.write("three");
    let refused = site.restore(&late);
    assert_eq!(refused.code, 10, "{}", refused.stderr);
    assert!(refused.stderr.contains("the latest moment is"), "{}", refused.stderr);
    // A restore writes to the log itself.
    assert_eq!(site.bodies("latest", None), "one two");
    assert_eq!(site.bodies(&first, None), "one");
    assert_eq!(site.bodies(&place, None), "one");
    site.write("four");
    site.switch();
    assert_eq!(site.bodies(&late, None), "one two");

    // The server of a recovered cluster does not hand its history over.
    site.go_back(&first);
    site.write("five");
    let after = text_of(site.now());
    site.write("six");
    site.switch();
    assert_eq!(site.bodies(&first, None), "one");
    assert_eq!(site.bodies(&after, None), "one five");
    assert_eq!(site.bodies("latest", Some("1")), "one two three four");
    assert_eq!(failures(&site), "0");
    assert_eq!(site.cluster.psql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_file_is_stored_once_and_another_of_its_name_is_refused() {
    let site = a_site_that_pushes(a_cluster());
    site.write("one");
    let segment = current(&site);
    site.switch();
    let kept = site.cluster.room("kept");
    let file = kept.join(&segment);
    let good = std::fs::read(site.cluster.data().join("pg_wal").join(&segment)).unwrap();
    std::fs::write(&file, &good).unwrap();
    let push = |path: &std::path::Path| site.belay.run(["wal", "push", path.to_str().unwrap()]);
    let again = push(&file);
    assert_eq!((again.code, again.stdout.as_str(), again.stderr.as_str()), (0, "", ""));

    let mut other = good.clone();
    other[100_000] ^= 1;
    std::fs::write(&file, &other).unwrap();
    let differs = push(&file);
    assert_eq!(differs.code, 10, "{}", differs.stderr);
    assert!(differs.stderr.contains("what it holds differs"), "{}", differs.stderr);
    // The number of the cluster stands in the first page.
    let mut foreign = good.clone();
    foreign[24] ^= 1;
    std::fs::write(&file, &foreign).unwrap();
    let refused = push(&file);
    assert_eq!(refused.code, 10, "{}", refused.stderr);
    assert!(refused.stderr.contains("must not be mixed"), "{}", refused.stderr);
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    let cut = push(&file);
    assert_eq!(cut.code, 10, "{}", cut.stderr);
    assert!(cut.stderr.contains("and a segment of its cluster 1048576"), "{}", cut.stderr);
    std::fs::write(&file, "no log").unwrap();
    assert!(push(&file).stderr.contains("does not begin as a segment does"));

    for name in ["notes.txt", "RECOVERYXLOG", "00000001000000020000002A.gz"] {
        let path = kept.join(name);
        std::fs::write(&path, &good).unwrap();
        let refused = push(&path);
        assert_eq!(refused.code, 10, "{name}: {}", refused.stderr);
        assert!(refused.stderr.contains("no name of a file of the log"), "{name}: {}", refused.stderr);
    }
    for name in [format!("{segment}.partial"), format!("{segment}.00000028.backup")] {
        let path = kept.join(&name);
        std::fs::write(&path, &good).unwrap();
        assert_eq!(push(&path).code, 0, "{name}");
        assert!(!site.belay.repository().join(format!("prod/wal/00000001/{name}.json")).exists());
    }
    assert_eq!(push(&kept.join("000000010000000000000099")).code, 5, "it is not there");
}

#[test]
fn the_server_keeps_its_log_while_the_store_is_away() {
    let site = a_site_that_pushes(a_cluster());
    site.base();
    site.write("one");
    let wal = site.belay.repository().join("prod/wal");
    let away = wal.with_extension("away");
    std::fs::rename(&wal, &away).unwrap();
    std::fs::write(&wal, "").unwrap();
    let segment = current(&site);
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while failures(&site) == "0" {
        assert!(std::time::Instant::now() < deadline, "{}", site.cluster.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let ready = site.cluster.data().join("pg_wal/archive_status").join(format!("{segment}.ready"));
    assert!(ready.exists());
    std::fs::remove_file(&wal).unwrap();
    std::fs::rename(&away, &wal).unwrap();
    site.wait_until_pushed(&segment);
    assert_eq!(site.bodies("latest", None), "one");
}

#[test]
fn a_push_that_is_killed_at_any_moment_and_repeated_leaves_what_opens() {
    let mut random = dice();
    let site = a_site_that_pushes(a_cluster().with_segments_of(16));
    site.base();
    site.cluster.psql("postgres", "ALTER SYSTEM SET archive_command = 'false'; SELECT pg_reload_conf()");
    site.cluster
        .psql("app", "INSERT INTO moments (body) SELECT md5(g::text) FROM generate_series(1, 60000) g");
    let segment = current(&site);
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    let file = site.cluster.data().join("pg_wal").join(&segment);
    let file = file.to_str().unwrap();
    for _ in 0..25 {
        let mut push = site.belay.command(["wal", "push", file]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
        push.kill().unwrap();
        push.wait().unwrap();
    }
    let done = site.belay.run(["wal", "push", file]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(site.bodies("latest", None).split(' ').count(), 60_000);
}

#[test]
fn a_receiver_and_the_server_itself_agree() {
    let site = a_site_that_pushes(a_cluster());
    let receiver = site.receive();
    site.base();
    let file = site.cluster.room("load").join("insert.sql");
    std::fs::write(&file, "INSERT INTO moments (body) SELECT repeat('x', 20000);\n").unwrap();
    let file = file.to_string_lossy().into_owned();
    let bench = ["-n", "-c", "2", "-R", "100", "-T", "6", "-f", &file, "app"];
    let mut load = Client::start(site.cluster.client("pgbench").args(bench));
    while !load.has_ended() {
        site.cluster.psql("postgres", "SELECT pg_switch_wal()");
        std::thread::sleep(Duration::from_millis(300));
    }
    site.switch();
    site.wait_until_stored(&site.lsn());
    receiver.end();
    assert_eq!(failures(&site), "0");
    let live = site.cluster.psql("app", "SELECT count(*), max(id) FROM moments");
    assert_eq!(site.restore("latest").code, 0);
    assert_eq!(site.cluster.psql("back", "SELECT count(*), max(id) FROM moments"), live);
}

#[test]
fn what_a_segment_says_of_its_last_commit_is_what_the_server_says() {
    assert_the_last_commit_is_told(&a_site_that_pushes(a_cluster()));
}

pub fn assert_the_last_commit_is_told(site: &Site) {
    site.base();
    for body in ["one", "two", "three"] {
        site.write(body);
    }
    let segment = current(site);
    let last = site.cluster.psql(
        "app",
        "SELECT (extract(epoch FROM max(pg_xact_commit_timestamp(xmin))) * 1000000)::bigint - 1 FROM moments",
    );
    site.switch();
    let record = site.belay.repository().join(format!("prod/wal/00000001/{segment}.json"));
    let record = crate::world::document(&record)["signed"].clone();
    let told: chrono::DateTime<chrono::Utc> = record["complete_until"].as_str().unwrap().parse().unwrap();
    assert_eq!(told.timestamp_micros().to_string(), last);
}
