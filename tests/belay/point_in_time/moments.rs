use chrono::TimeDelta;
use rand::RngExt as _;

use super::site::{a_site, text_of};
use crate::world::{Client, dice, finish};

#[test]
fn every_row_committed_until_a_moment_is_there_and_none_after() {
    let mut random = dice();
    let site = a_site();
    let receiver = site.receive();
    site.base();
    let first = site.now();
    let load = site.cluster.room("load").join("insert.sql");
    std::fs::write(&load, "INSERT INTO moments (body) SELECT repeat('x', 2000);\n").unwrap();
    let load = load.to_string_lossy().into_owned();
    let bench = ["-n", "-c", "3", "-R", "60", "-T", "12", "-f", &load, "app"];
    let mut client = Client::start(site.cluster.client("pgbench").args(bench));
    while !client.has_ended() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let last = site.now();
    site.wait_until_stored(&site.lsn());
    let committed = site.committed();
    assert!(committed.len() > 300, "{} rows", committed.len());
    let span = (last - first).num_microseconds().unwrap();
    for _ in 0..20 {
        let at = first + TimeDelta::microseconds(random.random_range(0..span));
        let wanted: Vec<i64> = committed.iter().filter(|(_, when)| *when <= at).map(|(id, _)| *id).collect();
        assert_eq!(site.restored_ids(&text_of(at)), wanted, "at {at}");
    }
    receiver.end();
}

#[test]
fn a_place_a_name_and_the_end_of_the_log_are_moments_too() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("one");
    let place = site.lsn();
    site.write("two");
    site.cluster.psql("app", "SELECT pg_create_restore_point('belay:r1')");
    site.write("three");
    site.wait_until_stored(&site.lsn());
    assert_eq!(site.restored_ids(&place).len(), 1);
    assert_eq!(site.restored_ids("name:belay:r1").len(), 2);
    assert_eq!(site.restored_ids("latest").len(), 3);
    receiver.end();
}

#[test]
fn a_moment_takes_the_place_of_the_live_database() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("good");
    let before = site.now();
    site.cluster.psql("app", "DROP TABLE moments");
    site.wait_until_stored(&site.lsn());
    let swapped = site.belay.run(["restore", "app", "--at", &text_of(before), "--swap"]);
    assert_eq!(swapped.code, 0, "{}", swapped.stderr);
    assert_eq!(site.cluster.psql("app", "SELECT body FROM moments"), "good");
    let scratch = std::fs::read_dir(site.belay.state().join("scratch")).unwrap().count();
    assert_eq!(scratch, 0, "nothing of the recovered cluster is left");
    receiver.end();
}

#[test]
fn a_recovered_cluster_starts_and_its_log_goes_on_on_another_timeline() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("one");
    let at = site.now();
    site.write("two");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let data = site.cluster.room("recovered").join("data");
    let into = data.to_string_lossy().into_owned();
    let recovered = site.belay.run(["recover", "--into", &into, "--at", &text_of(at)]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    let again = site.belay.run(["recover", "--into", &into]);
    assert_eq!(again.code, 10, "{}", again.stderr);
    assert!(again.stderr.contains("it is not empty"), "{}", again.stderr);

    let control = finish(site.cluster.client("pg_controldata").arg(&into));
    assert!(control.stdout.contains("shut down"), "{}", control.stdout);
    assert!(
        control
            .stdout
            .lines()
            .any(|line| line.starts_with("Latest checkpoint's TimeLineID:") && line.ends_with(" 2"))
    );
}

#[test]
fn a_base_backup_is_no_faster_than_max_rate() {
    let site = a_site();
    site.make_tablespace("fast", 100_000);
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&format!("{settings}[base_backup]\nmax_rate = \"8MiB\"\n"));
    let base = site.base();
    let number = |key: &str| base[key].as_u64().unwrap();
    let least_ms = number("plain_bytes") * 1000 / (8 << 20);
    assert!(least_ms > 2000 && number("elapsed_ms") > least_ms * 8 / 10, "{base}");
}
