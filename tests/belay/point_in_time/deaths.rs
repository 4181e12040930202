use std::time::Duration;

use super::site::{Site, a_site};
use crate::world::Client;

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
