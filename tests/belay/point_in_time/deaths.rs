use std::path::Path;
use std::time::Duration;

use chrono::TimeDelta;
use nix::sys::signal::Signal;

use super::site::{Site, a_site, text_of};
use crate::death::wait_until;
use crate::world::Client;

fn file_has(path: &Path, bytes: &[u8]) -> bool {
    std::fs::read(path).unwrap_or_default().windows(bytes.len()).any(|window| window == bytes)
}

/// Writes for some seconds, and has something happen again and again meanwhile.
fn while_writing(site: &Site, seconds: u32, mut happen: impl FnMut(u32)) {
    let file = site.cluster.host().join("insert.sql");
    std::fs::write(&file, "INSERT INTO moments (body) SELECT repeat('x', 20000);\n").unwrap();
    let (file, time) = (file.to_string_lossy().into_owned(), seconds.to_string());
    let bench = ["-n", "-c", "2", "-R", "100", "-T", &time, "-f", &file, "app"];
    let _load = Client::start(site.cluster.client("pgbench").args(bench));
    for second in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        happen(second);
    }
}

fn assert_all_is_there(site: &Site) {
    site.receive_all();
    let live = site.cluster.psql("app", "SELECT count(*), max(id) FROM moments");
    let restored = site.restore("latest");
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(site.cluster.psql("back", "SELECT count(*), max(id) FROM moments"), live);
}

#[test]
fn a_receiver_that_is_killed_again_and_again_loses_nothing() {
    let site = a_site();
    let mut receiver = Some(site.receive());
    std::thread::sleep(Duration::from_secs(1));
    site.base();
    while_writing(&site, 12, |second| {
        if second % 2 == 0 {
            receiver.take().unwrap().kill();
            receiver = Some(site.receive());
        }
    });
    receiver.unwrap().kill();
    assert_all_is_there(&site);
}

#[test]
fn a_server_that_crashes_loses_nothing_that_was_committed() {
    let site = a_site();
    let receiver = site.receive();
    std::thread::sleep(Duration::from_secs(1));
    site.base();
    while_writing(&site, 4, |_| {});
    site.cluster.crash();
    assert!(!receiver.ended(), "the receiver says that the server is gone");
    site.cluster.start_again();
    while_writing(&site, 2, |_| {});
    assert_all_is_there(&site);
}

#[test]
fn what_a_server_sent_before_it_ended_is_stored_without_it() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    // The receiver of a server that ends in good order has all of its log by then.
    site.write("last");
    site.cluster.stop();
    assert!(!receiver.ended(), "the receiver says that the server is gone");
    let into = site.belay.home().join("elsewhere");
    let recovered = site.belay.run(["recover", "--into", into.to_str().unwrap(), "--at", "latest"]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    site.cluster.go_on_from(&into);
    assert_eq!(site.cluster.psql("app", "SELECT body FROM moments ORDER BY id DESC LIMIT 1"), "last");
}

#[test]
fn what_was_received_is_stored_though_the_server_does_not_come_back() {
    let site = a_site();
    site.receive_all();
    site.base();
    // Nothing is stored while the last of it is received, and host and server end then.
    let receiver = site.receive();
    site.wait_until_stored(&site.lsn());
    receiver.signal(Signal::SIGSTOP);
    for body in ["first", "second"] {
        site.write(body);
        site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    }
    site.write("the very last");
    let last = site.committed().last().unwrap().1;
    let spool = site.belay.state().join("wal");
    wait_until("all of it is received", || {
        let has_last = |file: &Path| file_has(file, b"the very last");
        spool.read_dir().unwrap().any(|entry| has_last(&entry.unwrap().path()))
    });
    receiver.kill();
    site.cluster.stop();

    let alone = site.belay.run(["wal", "receive"]);
    assert_eq!(alone.code, 5, "the server is away: {}", alone.stderr);
    let stored = site.objects();
    assert_eq!(site.belay.run(["wal", "receive"]).code, 5);
    assert_eq!(site.objects(), stored);
    let into = site.belay.home().join("elsewhere");
    // Also the time up to which everything is there is known from what was received.
    let just_before = text_of(last - TimeDelta::microseconds(1));
    let recovered = site.belay.run(["recover", "--into", into.to_str().unwrap(), "--at", &just_before]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    std::fs::remove_dir_all(&into).unwrap();
    let recovered = site.belay.run(["recover", "--into", into.to_str().unwrap(), "--at", "latest"]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    site.cluster.go_on_from(&into);
    assert_eq!(
        site.cluster.psql("app", "SELECT body FROM moments ORDER BY id DESC LIMIT 1"),
        "the very last"
    );
    assert_all_is_there(&site);
}

#[test]
fn a_spool_that_is_lost_is_received_again() {
    let site = a_site();
    let receiver = site.receive();
    std::thread::sleep(Duration::from_secs(1));
    site.base();
    while_writing(&site, 3, |_| {});
    receiver.kill();
    std::fs::remove_dir_all(site.belay.state().join("wal")).unwrap();
    while_writing(&site, 2, |_| {});
    assert_all_is_there(&site);
}

#[test]
fn a_received_segment_of_another_size_is_reported_and_received_again() {
    let site = a_site();
    site.receive_all();
    site.base();
    site.write("one");
    let spool = site.belay.state().join("wal");
    let open = std::fs::read_dir(&spool).unwrap().flatten().map(|entry| entry.path()).next().unwrap();
    let whole = open.with_extension("");
    std::fs::write(&whole, b"not a segment").unwrap();
    let told = site.belay.run(["wal", "receive"]);
    assert_eq!(told.code, 5, "{}", told.stderr);
    assert!(told.stderr.contains("it has 13 bytes, and a segment "), "{}", told.stderr);
    assert_all_is_there(&site);
}
