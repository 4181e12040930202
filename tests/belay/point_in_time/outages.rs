//! The network to the store is gone for a while, by refused connections and by ones that hang.

use std::path::Path;
use std::time::{Duration, Instant};

use super::fetching::{recover_by_hand, start_to_the_end};
use super::metrics::metrics;
use super::site::{Site, a_site_in_a_bucket, text_of, with_points_in_time};
use crate::daemon::service::Service;
use crate::world::{Bucket, Client, Line, a_cluster};

const SEGMENT_BYTES: u64 = 1 << 20;
/// Base backups are made when there is none of use.
const RARELY: &str = "[base_backup]\nschedule = \"0 0 1 1 *\"\n";

/// A daemon that keeps the log in a bucket, over a line; the first base backup is made.
struct World {
    service: Service,
    site: Site,
    line: Line,
    bucket: Bucket,
}

/// `wal` goes into `[wal]`.
fn a_world(timeout: &str, wal: &str) -> World {
    let bucket = Bucket::start();
    let line = Line::to(bucket.address());
    let site = a_site_in_a_bucket(a_cluster(), &line.url(), timeout);
    with_points_in_time(&site, "", &format!("{wal}{RARELY}"));
    let service = Service::start(&site.belay);
    service.wait_until("a base backup is made", || service.log().contains("made job=\"base-backup\""));
    World { service, site, line, bucket }
}

impl World {
    /// Up to where the bucket has the log, by the names of its records.
    fn stored_until(&self) -> String {
        let records = std::fs::read_dir(self.bucket.file("belay/prod/wal/00000001")).unwrap().flatten();
        let ends = records.filter_map(|record| {
            let name = record.file_name().into_string().unwrap();
            end_of(name.strip_suffix(".json")?)
        });
        let until = ends.max().expect("there is some");
        format!("{:X}/{:X}", until >> 32, until & 0xffff_ffff)
    }

    /// Has the store away for so long while rows are written; returns a moment of that time.
    fn away(&self, seconds: u64, begin: impl Fn(&Line)) -> String {
        let Self { site, line, .. } = self;
        begin(line);
        let until = Instant::now() + Duration::from_secs(seconds);
        let rows = || site.cluster.psql("app", "SELECT count(*) FROM moments").parse::<u64>().unwrap();
        let before = rows();
        // A piece that was on its way may have come.
        std::thread::sleep(Duration::from_secs(1));
        let stored = self.stored_until();
        let passed = format!(
            "SELECT count(*), coalesce(bool_or(restart_lsn > '{stored}'), false) FROM pg_replication_slots"
        );
        let mut moment = None;
        while Instant::now() < until {
            assert_eq!(site.cluster.psql("postgres", &passed), "1|f", "beyond {stored}");
            if Instant::now() + Duration::from_secs(seconds / 2) > until {
                moment.get_or_insert_with(|| site.now());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(self.stored_until(), stored);
        assert!(rows() > before + seconds * 10, "production goes on");
        self.assert_outage_is_told(seconds);
        line.mend();
        self.site.wait_until_stored(&self.site.lsn());
        let told = site.belay.json(["status"]);
        assert!(told["wal"]["last_error"].is_null(), "{told}");
        assert!(told["wal"]["behind_seconds"].as_u64().unwrap() < 10, "{told}");
        text_of(moment.unwrap())
    }

    fn assert_outage_is_told(&self, seconds: u64) {
        let status = self.site.belay.run(["--json", "status"]);
        assert_eq!(status.code, 5, "{}{}", status.stdout, status.stderr);
        let told: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        let wal = &told["wal"];
        assert!(wal["behind_seconds"].as_u64().unwrap() >= seconds - 2, "{told}");
        assert!(wal["kept_bytes"].is_u64(), "{told}");
        let time = |key: &str| chrono::DateTime::parse_from_rfc3339(wal["last_error"][key].as_str().unwrap());
        assert!(time("since").unwrap() < time("at").unwrap(), "it was tried again: {told}");
        assert!(wal["last_error"]["error"].as_str().unwrap().contains("s3://backups/belay"), "{told}");
        assert!(told["repository_error"].is_string(), "{told}");
        let text = self.site.belay.run(["status"]).stdout;
        assert!(text.contains("log fails     since "), "{text}");
        assert!(text.contains("not reached   what is in the repository is not known"), "{text}");
    }
}

/// Where a piece of the log ends, by its name.
fn end_of(name: &str) -> Option<u64> {
    let hex = |range: std::ops::Range<usize>| u64::from_str_radix(name.get(range)?, 16).ok();
    let start = (hex(8..16)? << 32) + hex(16..24)? * SEGMENT_BYTES;
    match name.len() {
        24 => Some(start + SEGMENT_BYTES),
        _ => Some(start + hex(34..42)?),
    }
}

#[test]
fn the_end_of_a_piece_stands_in_its_name() {
    assert_eq!(end_of("000000010000000200000003"), Some((2 << 32) + 4 * SEGMENT_BYTES));
    assert_eq!(
        end_of("000000010000000200000003.00002000-0000A0FF"),
        Some((2 << 32) + 3 * SEGMENT_BYTES + 0xA0FF)
    );
}

/// Writes until it is dropped.
fn writing(site: &Site) -> Client {
    let file = site.cluster.room("load").join("insert.sql");
    std::fs::write(&file, "INSERT INTO moments (body) SELECT repeat('x', 4000);\n").unwrap();
    let file = file.to_string_lossy().into_owned();
    Client::start(
        site.cluster.client("pgbench").args(["-n", "-c", "2", "-R", "60", "-T", "600", "-f", &file, "app"]),
    )
}

fn assert_nothing_is_lost_while_the_store_is_away(seconds: u64, timeout: &str) {
    let world = a_world(timeout, "");
    let load = writing(&world.site);
    world.site.wait_until_stored(&world.site.lsn());
    let moments = [world.away(seconds, Line::refuse), world.away(seconds, Line::hang)];
    drop(load);
    let World { service, site, line: _line, bucket: _bucket } = world;
    site.wait_until_stored(&site.lsn());
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert_eq!(ended.log.matches("made job=\"base-backup\"").count(), 1, "{}", ended.log);
    let windows = site.belay.json(["list"])["windows"].clone();
    assert_eq!(windows.as_array().unwrap().len(), 1, "{windows}");
    assert!(windows[0]["resumes_lsn"].is_null(), "{windows}");
    let committed = site.committed();
    for at in moments {
        let moment = chrono::DateTime::parse_from_str(&at, "%Y-%m-%d %H:%M:%S%.f%#z").unwrap();
        let wanted: Vec<i64> =
            committed.iter().filter(|(_, when)| *when <= moment).map(|(id, _)| *id).collect();
        assert!(!wanted.is_empty() && wanted.len() < committed.len());
        assert_eq!(site.restored_ids(&at), wanted, "at {at}");
    }
    assert_eq!(site.restored_ids("latest").len(), committed.len());
}

#[test]
fn nothing_is_lost_while_the_store_is_away() {
    assert_nothing_is_lost_while_the_store_is_away(12, "2s");
}

#[test]
#[ignore = "takes some five minutes"]
fn nothing_is_lost_while_the_store_is_away_for_minutes() {
    assert_nothing_is_lost_while_the_store_is_away(90, "10s");
}

/// Bytes that lie in a directory.
fn bytes_in(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn a_store_that_hangs_fills_neither_spool_nor_server() {
    // Long before a request is given up.
    let World { service, site, line, bucket: _bucket } =
        a_world("10m", "spool = \"64MiB\"\nkeep = \"160MiB\"\n");
    site.cluster.psql("app", "ALTER TABLE moments ALTER body SET STORAGE EXTERNAL");
    let spool = site.belay.state().join("wal");
    let write_ten_mib = || {
        let rows = "SELECT repeat(md5(random()::text), 320) FROM generate_series(1, 1000)";
        site.cluster.psql("app", &format!("INSERT INTO moments (body) {rows}"));
        assert!(bytes_in(&spool) <= 100 << 20, "{}", bytes_in(&spool));
        std::thread::sleep(Duration::from_millis(500));
    };
    line.hang();
    // What is on its way is stored or hangs.
    let begun = Instant::now();
    while !service.log().contains("the spool is full") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", service.log());
        write_ten_mib();
    }
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(site.cluster.psql("postgres", slots), "1");
    while site.cluster.psql("postgres", slots) == "1" {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", service.log());
        write_ten_mib();
    }
    service.wait_until("it is told", || service.log().contains("the slot was dropped"));
    let told = site.belay.run(["status"]).stdout;
    assert!(told.contains("log fails     since") && told.contains("the slot was dropped"), "{told}");
    line.cut();
    line.mend();
    service.wait_until("the log is received again", || site.cluster.psql("postgres", slots) == "1");
    let made = || service.log().matches("made job=\"base-backup\"").count();
    service.wait_until("a base backup is due at once", || made() == 2);
    site.write("after");
    site.wait_until_stored(&site.lsn());
    assert_eq!(service.stop().code, 0);
}

#[test]
fn a_log_that_is_handed_over_waits_for_the_store() {
    let bucket = Bucket::start();
    let line = Line::to(bucket.address());
    let site = a_site_in_a_bucket(a_cluster().with_setting("archive_mode=on"), &line.url(), "2s");
    let socket = site.belay.home().join("belay.sock");
    let more = format!("receive = false\n{RARELY}[http]\nsocket = \"{}\"\n", socket.display());
    with_points_in_time(&site, "", &more);
    let nothing = site.belay.run(["status"]).stdout;
    assert!(nothing.contains("is archive_command `belay wal push %p`?"), "{nothing}");
    site.begin_to_push();
    let service = Service::start(&site.belay);
    service.wait_until("a base backup is made", || service.log().contains("made job=\"base-backup\""));
    let copy = site.cluster.copy_of_data("copy");
    site.write("one");
    site.switch();

    line.refuse();
    site.write("two");
    let at = text_of(site.now());
    site.write("three");
    let segment = site.write_segments(&["four"]).remove(0);
    let failed = "SELECT failed_count > 0 FROM pg_stat_archiver";
    service.wait_until("the server is told", || site.cluster.psql("postgres", failed) == "t");
    let file = site.cluster.data().join("pg_wal").join(&segment);
    let refused = site.belay.run(["wal", "push", file.to_str().unwrap()]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    let ready = site.cluster.data().join("pg_wal/archive_status").join(format!("{segment}.ready"));
    assert!(ready.exists());
    let told = site.belay.run(["--json", "status"]);
    assert_eq!(told.code, 5, "{}{}", told.stdout, told.stderr);
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert!(told["wal"]["last_error"]["error"].as_str().unwrap().contains(&segment), "{told}");
    let seen = metrics(&site);
    assert_eq!(seen.get("belay_repository_reached"), Some(0.0));
    assert_eq!(seen.get("belay_wal_failing"), Some(1.0));
    line.hang();
    assert_eq!(site.belay.run(["wal", "push", file.to_str().unwrap()]).code, 5);
    line.mend();

    site.wait_until_pushed(&segment);
    let told = site.belay.json(["status"]);
    let wal = &told["wal"];
    assert_eq!((&wal["way"], &wal["last_error"]), (&"push".into(), &serde_json::Value::Null), "{told}");
    assert_eq!(wal["until_lsn"], told["recovery"]["windows"][0]["until_lsn"], "{told}");
    assert!(wal["behind_seconds"].as_u64().unwrap() < 60 && wal["is_received"].is_null(), "{told}");
    let text = site.belay.run(["status"]).stdout;
    assert!(text.contains("log           stored until "), "{text}");
    let seen = metrics(&site);
    assert_eq!(seen.get("belay_repository_reached"), Some(1.0));
    assert_eq!(seen.get("belay_wal_failing"), Some(0.0));
    assert!(seen.get("belay_wal_behind_seconds").is_some_and(|behind| behind < 60.0));
    assert_eq!((seen.get("belay_wal_received"), seen.get("belay_wal_kept_bytes")), (None, None));
    assert_eq!(service.stop().code, 0);
    assert_eq!(site.bodies(&at, None), "one two");
    assert_eq!(site.bodies("latest", None), "one two three four");

    both_ends_of_what_is_told_can_be_asked_for(&site);

    // A server asks for its log itself.
    recover_by_hand(&site, &copy);
    start_to_the_end(&site);
    let rows = "SELECT string_agg(body, ' ' ORDER BY id) FROM moments";
    assert_eq!(site.cluster.psql("app", rows), "one two three four");
}

fn both_ends_of_what_is_told_can_be_asked_for(site: &Site) {
    let text = site.belay.run(["list"]).stdout;
    let (from, until) = text.split_once("any moment from ").unwrap().1.split_once(" to ").unwrap();
    for end in [from, until.lines().next().unwrap()] {
        let planned = site.belay.run(["restore", "app", "--at", end, "--into", "back", "--plan"]);
        assert!(planned.code == 0 && end.len() >= 20, "{end}: {}", planned.stderr);
    }
}
