//! Base backups and log are verified: what is whole passes, and what is not is named.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;
use serde_json::Value;

use super::site::{Site, a_site, a_site_on, flipped, text_of, with_points_in_time};
use crate::daemon::service::Service;
use crate::world::{Output, a_cluster_of, document, signed};

const READABLE: [&str; 4] = ["verify", "--physical", "--depth", "readable"];
const RECOVERED: [&str; 4] = ["verify", "--physical", "--depth", "recovered"];

/// A site with a base backup, two whole segments and some of a third; nobody receives any more.
fn a_kept_site() -> (Site, Vec<String>) {
    kept(a_site())
}

fn kept(site: Site) -> (Site, Vec<String>) {
    site.cluster.create_database("o'dd \\ n=1");
    let receiver = site.receive();
    site.base();
    let mut segments = Vec::new();
    for body in ["one", "two"] {
        site.write(body);
        segments.push(site.cluster.psql("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"));
        site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    }
    site.write("three");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    (site, segments)
}

impl Site {
    fn log(&self) -> PathBuf {
        self.belay.repository().join("prod/wal/00000001")
    }

    fn base_folder(&self) -> PathBuf {
        let bases = std::fs::read_dir(self.belay.repository().join("prod/base")).unwrap();
        bases.flatten().map(|entry| entry.path()).max().unwrap()
    }

    /// The parts of the last segment, in their order, without their endings.
    fn parts(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.log()).unwrap().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut parts: Vec<String> = names
            .filter_map(|name| name.strip_suffix(".gz.age").map(str::to_owned))
            .filter(|name| name.contains('-'))
            .collect();
        parts.sort();
        parts
    }

    fn records(&self) -> Vec<Value> {
        let files = std::fs::read_dir(self.base_folder()).unwrap().flatten().map(|entry| entry.path());
        let is_record = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("verified-");
        let mut records: Vec<Value> =
            files.filter(is_record).map(|path| document(&path)["signed"].clone()).collect();
        records.sort_by_key(|record| record["at"].as_str().unwrap().to_owned());
        records
    }

    fn scratch(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.belay.state().join("scratch")) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

fn told(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn json(site: &Site, args: &[&str]) -> (i32, Value) {
    let output = site.belay.run(args.iter().copied().chain(["--json"]));
    (output.code, told(&output))
}

/// Asserts that a verification finds a problem, and that it says all of `words` in one.
fn assert_found(site: &Site, words: &[&str]) {
    let (code, body) = json(site, &READABLE);
    assert_eq!(code, 4, "{body}");
    let problems = body["problems"].as_array().unwrap_or_else(|| panic!("{body}"));
    let is_it = |problem: &&Value| words.iter().all(|word| problem.as_str().unwrap().contains(word));
    assert!(problems.iter().any(|problem| is_it(&problem)), "{words:?} in {problems:?}");
    assert_eq!(body["ok"], false);
    let last = site.records().pop().unwrap();
    assert_eq!(last["is_ok"], false, "{last}");
}

#[test]
fn what_is_whole_verifies_at_both_depths_and_the_record_is_believed() {
    let (site, _) = a_kept_site();
    let (code, readable) = json(&site, &READABLE);
    assert_eq!((code, &readable["ok"]), (0, &Value::Bool(true)), "{readable}");
    assert!(readable["bases"][0]["base_bytes"].as_u64().unwrap() > 10 << 20, "{readable}");
    assert!(readable["bases"][0]["log_bytes"].as_u64().unwrap() > 2 << 20, "{readable}");
    assert!(readable["drill"].is_null(), "{readable}");

    let (code, recovered) = json(&site, &RECOVERED);
    assert_eq!(code, 0, "{recovered}");
    let drill = &recovered["drill"];
    assert!(drill["recovery_ms"].as_u64().unwrap() > 0, "{drill}");
    assert_eq!(drill["databases_checked"], 3, "{recovered}");
    assert!(!recovered["notes"].to_string().contains("looked through"), "{recovered}");
    assert!(site.scratch().is_empty(), "{:?}", site.scratch());
    assert!(no_server_in(&site.belay.state()), "a server is left");

    let records = site.records();
    assert_eq!(records.len(), 2);
    let of_drill = records.iter().find(|record| record["depth"] == "recovered").unwrap();
    assert_eq!(of_drill["drill"]["moment"], drill["at"]);
    assert_eq!(of_drill["drill"]["seed"], drill["seed"]);
    with_points_in_time(&site, "", "");
    let status = site.belay.json(["status"]);
    assert_eq!(status["recovery"]["measured"]["recovery_ms"], drill["recovery_ms"], "{status}");

    // The same seed and the same moment, by either.
    let seed = drill["seed"].to_string();
    let (_, again) = json(&site, &[&RECOVERED[..], &["--seed", &seed]].concat());
    assert_eq!(again["drill"]["at"], drill["at"]);
    let at: DateTime<Utc> = drill["at"].as_str().unwrap().parse().unwrap();
    let (_, told) = json(&site, &[&RECOVERED[..], &["--at", &text_of(at)]].concat());
    assert_eq!((&told["drill"]["at"], &told["drill"]["seed"]), (&drill["at"], &Value::Null));
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn base_backups_and_log_verify_on(#[values(12, 13, 14, 15, 16, 17, 18)] major: u32) {
    let (site, segments) = kept(a_site_on(a_cluster_of(major)));
    let (code, recovered) = json(&site, &RECOVERED);
    assert_eq!(code, 0, "{recovered}");
    assert_eq!(recovered["drill"]["databases_checked"], 3, "{recovered}");
    flipped(&site.log().join(format!("{}.gz.age", segments[0])));
    assert_found(&site, &[&segments[0], "damaged"]);
}

/// Whether no PostgreSQL runs in a data directory below `directory`.
fn no_server_in(directory: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok())
        .all(|at| !at.starts_with(directory))
}

#[test]
fn a_flipped_bit_is_named_with_its_object() {
    let (site, segments) = a_kept_site();
    let part = site.parts().pop().unwrap();
    let objects = [
        (site.base_folder().join("base.tar.gz.age"), "base.tar.gz.age"),
        (site.log().join(format!("{}.gz.age", segments[0])), segments[0].as_str()),
        (site.log().join(format!("{part}.gz.age")), part.as_str()),
    ];
    for (path, name) in objects {
        let good = flipped(&path);
        assert_found(&site, &[name, "damaged"]);
        std::fs::write(&path, good).unwrap();
    }
    assert_eq!(site.belay.run(READABLE).code, 0);
}

#[test]
fn what_is_damaged_is_not_recovered_and_that_is_recorded() {
    let (site, segments) = a_kept_site();
    flipped(&site.log().join(format!("{}.gz.age", segments[1])));
    let (code, body) = json(&site, &RECOVERED);
    assert_eq!(code, 4, "{body}");
    assert!(body["drill"].is_null(), "{body}");
    assert!(body["notes"].to_string().contains("was not recovered"), "{body}");
    let last = site.records().pop().unwrap();
    assert_eq!((&last["depth"], &last["is_ok"]), (&"readable".into(), &Value::Bool(false)), "{last}");
}

#[test]
fn a_piece_that_was_removed_is_a_gap_that_is_named() {
    let (site, segments) = a_kept_site();
    let object = site.log().join(format!("{}.gz.age", segments[1]));
    let kept = std::fs::read(&object).unwrap();
    std::fs::remove_file(&object).unwrap();
    assert_found(&site, &[&segments[1], "it is missing"]);
    std::fs::write(&object, kept).unwrap();

    let record = site.log().join(format!("{}.json", segments[1]));
    let kept = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    assert_found(&site, &["log is missing from", &segments[1]]);
    std::fs::write(&record, kept).unwrap();

    // The end of the log: nothing behind it tells that there was more, but for what this host noted.
    for part in site.parts() {
        std::fs::remove_file(site.log().join(format!("{part}.json"))).unwrap();
    }
    assert_found(&site, &["log is missing from", "which was stored"]);
}

#[test]
fn a_part_that_was_removed_is_a_gap_within_its_segment() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    for _ in 0..3 {
        let random = "SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 1000)";
        site.cluster.psql("app", &format!("INSERT INTO moments (body) {random}"));
        site.wait_until_stored(&site.lsn());
    }
    receiver.end();
    assert_eq!(site.belay.run(READABLE).code, 0);
    let parts = site.parts();
    // A part begins with the page that the one before ended in: one that has a page of its own is needed.
    let range = |part: &String| {
        let (from, to) = part.split_once('.').unwrap().1.split_once('-').unwrap();
        (u32::from_str_radix(from, 16).unwrap(), u32::from_str_radix(to, 16).unwrap())
    };
    let is_needed =
        |three: &&[String]| three[0][..24] == three[2][..24] && range(&three[0]).1 < range(&three[2]).0;
    let hole = &parts.windows(3).find(is_needed).expect("each row has pages of its own")[1];
    std::fs::remove_file(site.log().join(format!("{hole}.json"))).unwrap();
    let segment = hole.split('.').next().unwrap();
    assert_found(&site, &["log is missing from", " to ", &format!("segment {segment} is not whole")]);
}

#[test]
fn pieces_that_changed_places_are_found_by_record_and_by_page() {
    let (site, segments) = a_kept_site();
    let path = |segment: &str, ending: &str| site.log().join(format!("{segment}.{ending}"));
    let swap = |ending: &str| {
        let read = |segment| std::fs::read(path(segment, ending)).unwrap();
        let (first, second) = (read(&segments[0]), read(&segments[1]));
        std::fs::write(path(&segments[0], ending), second).unwrap();
        std::fs::write(path(&segments[1], ending), first).unwrap();
    };
    swap("gz.age");
    assert_found(&site, &[&segments[0], "damaged"]);
    swap("json");
    assert_found(&site, &[&segments[0], "the record of another piece"]);

    // Whoever may sign can make records that fit; the pages still say where they belong.
    let objects: Vec<Value> =
        segments.iter().map(|segment| document(&path(segment, "json"))["signed"]["object"].clone()).collect();
    for (segment, object) in segments.iter().zip(objects) {
        let mut record = document(&path(segment, "json"))["signed"].clone();
        record["name"] = segment.as_str().into();
        record["object"] = object;
        std::fs::write(path(segment, "json"), signed("wal", &record, &site.belay)).unwrap();
    }
    assert_found(&site, &[&segments[0], "the page at", "says that it is the one at"]);
}

#[test]
fn a_record_that_was_edited_is_not_believed() {
    let (site, segments) = a_kept_site();
    let record = site.log().join(format!("{}.json", segments[0]));
    let good = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, good.replace("\"stored_at\":\"2", "\"stored_at\":\"3")).unwrap();
    assert_found(&site, &[&format!("{}.json", segments[0]), "signature"]);
    std::fs::write(&record, good).unwrap();

    assert_eq!(site.belay.run(READABLE).code, 0);
    with_points_in_time(&site, "", "");
    let verified = |site: &Site| site.belay.json(["status"])["recovery"]["verified"].clone();
    assert_eq!(verified(&site)["depth"], "readable");
    for entry in std::fs::read_dir(site.base_folder()).unwrap().flatten().map(|entry| entry.path()) {
        if entry.file_name().unwrap().to_string_lossy().starts_with("verified-") {
            let text = std::fs::read_to_string(&entry).unwrap();
            std::fs::write(
                &entry,
                text.replace("\"is_ok\":false", "\"is_ok\":true").replace("readable", "recovered"),
            )
            .unwrap();
        }
    }
    assert_eq!(verified(&site), Value::Null, "an edited verification proves nothing");
}

/// A cluster whose index had a page turned over before the base backup was made.
fn a_site_with_a_broken_index() -> Site {
    let site = a_site();
    site.cluster.psql(
        "app",
        "INSERT INTO moments (body) SELECT 'row ' || n FROM generate_series(1, 2000) n; CHECKPOINT",
    );
    let file = site.cluster.psql("app", "SELECT pg_relation_filepath('moments_pkey')");
    site.cluster.psql("postgres", "CHECKPOINT");
    site.cluster.crash();
    let path = site.cluster.data().join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    // Two keys of the first leaf change places: 8192 bytes in, its line pointers begin at byte 24.
    let leaf = 8192 + 24;
    for byte in 0..4 {
        bytes.swap(leaf + 40 + byte, leaf + 80 + byte);
    }
    std::fs::write(&path, bytes).unwrap();
    site.cluster.start_again();
    let receiver = site.receive();
    site.base();
    site.write("after");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    site
}

#[test]
fn an_index_that_was_broken_before_its_base_backup_is_found_by_the_drill() {
    let site = a_site_with_a_broken_index();
    assert_eq!(site.belay.run(READABLE).code, 0, "what is stored is what was there");
    let (code, body) = json(&site, &RECOVERED);
    assert_eq!(code, 4, "{body}");
    let problems = body["problems"].to_string();
    assert!(problems.contains("database app") && problems.contains("moments_pkey"), "{problems}");
    let last = site.records().pop().unwrap();
    assert_eq!(last["problems"].as_array().unwrap().len(), 1, "{last}");
    assert!(!last.to_string().contains("moments_pkey"), "the record names no relation: {last}");
    assert!(site.scratch().is_empty());

    // The same without pg_amcheck, by SQL.
    let programs = site.cluster.room("programs");
    for program in std::fs::read_dir(site.cluster.programs()).unwrap().flatten() {
        if program.file_name() != "pg_amcheck" {
            std::os::unix::fs::symlink(program.path(), programs.join(program.file_name())).unwrap();
        }
    }
    let Site { cluster, belay } = site;
    let site = Site { belay: belay.with_programs(&programs), cluster };
    let (code, by_sql) = json(&site, &RECOVERED);
    assert_eq!(code, 4, "{by_sql}");
    let problems = by_sql["problems"].to_string();
    assert!(problems.contains("btree index public.moments_pkey"), "{problems}");
}

#[test]
fn the_heartbeat_of_the_moment_is_there_and_no_later_one() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.cluster
        .psql("postgres", "CREATE SCHEMA belay; CREATE TABLE belay.heartbeat (at timestamptz PRIMARY KEY)");
    let beat = |at: DateTime<Utc>| {
        site.cluster.psql("postgres", &format!("INSERT INTO belay.heartbeat VALUES ('{}')", text_of(at)));
    };
    beat(site.now() - TimeDelta::seconds(60));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let moment = site.now();
    beat(site.now());
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let at = ["--at", &text_of(moment)];
    let (code, body) = json(&site, &[&RECOVERED[..], &at].concat());
    assert_eq!(code, 0, "{body}");
    let seen: DateTime<Utc> = body["drill"]["heartbeat"].as_str().unwrap().parse().unwrap();
    assert!(seen < moment && (moment - seen).num_seconds() < 70, "{body}");

    // As if the commit had been lost on its way: the live cluster has a row that the log does not.
    let lost = moment - TimeDelta::seconds(20);
    beat(lost);
    let (code, body) = json(&site, &[&RECOVERED[..], &at].concat());
    assert_eq!(code, 4, "{body}");
    assert!(body["problems"].to_string().contains("lacks the heartbeat of"), "{body}");

    // As if it had gone too far: a row of the future is among those of the moment.
    site.cluster.psql("postgres", &format!("DELETE FROM belay.heartbeat WHERE at >= '{}'", text_of(lost)));
    let receiver = site.receive();
    beat(site.now() + TimeDelta::hours(1));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let moment = site.now();
    site.write("later");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let (code, body) = json(&site, &[&RECOVERED[..], &["--at", &text_of(moment)]].concat());
    assert_eq!(code, 4, "{body}");
    assert!(body["problems"].to_string().contains("has the heartbeat of"), "{body}");
}

#[test]
fn a_drill_that_was_killed_leaves_its_cluster_to_the_next_run() {
    let (site, _) = a_kept_site();
    let mut drill = site.belay.command(RECOVERED);
    let mut drill =
        drill.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let has_server = |path: &PathBuf| path.join("data/postmaster.pid").exists();
    while !site.scratch().iter().any(has_server) {
        assert!(
            std::time::Instant::now() < deadline && drill.try_wait().unwrap().is_none(),
            "no server was seen"
        );
    }
    drill.kill().unwrap();
    drill.wait().unwrap();
    assert!(!site.scratch().is_empty());
    let (code, body) = json(&site, &RECOVERED);
    assert_eq!(code, 0, "{body}");
    assert!(site.scratch().is_empty(), "{:?}", site.scratch());
    assert!(no_server_in(&site.belay.state()), "a server is left");
}

#[test]
fn nothing_to_verify_and_moments_out_of_reach_are_refused() {
    let site = a_site();
    let none = site.belay.run(READABLE);
    assert_eq!(none.code, 10, "{}", none.stderr);
    assert!(none.stderr.contains("there is no base backup"), "{}", none.stderr);
    site.receive_all();
    let base = site.base();
    let waiting = site.belay.run(READABLE);
    assert_eq!(waiting.code, 10, "{}", waiting.stderr);
    assert!(waiting.stderr.contains("is of no use yet"), "{}", waiting.stderr);
    site.receive_all();
    let id = base["id"].as_str().unwrap();
    let (code, body) = json(&site, &[&READABLE[..], &["--base", id]].concat());
    assert_eq!((code, &body["bases"][0]["id"]), (0, &base["id"]), "{body}");
    let unknown = site.belay.run([&READABLE[..], &["--base", "20200101T000000Z-222222"]].concat());
    assert_eq!(unknown.code, 3, "{}", unknown.stderr);
    let early = site.belay.run([&RECOVERED[..], &["--at", "2020-01-01 00:00:00Z"]].concat());
    assert_eq!(early.code, 10, "{}", early.stderr);
    assert!(early.stderr.contains("what can be reached is from"), "{}", early.stderr);
    for args in [&["verify", "--physical", "--depth", "restored"][..], &["verify", "--depth", "recovered"]] {
        let wrong = site.belay.run(args.iter().copied());
        assert_eq!(wrong.code, 2, "{args:?}: {}", wrong.stderr);
    }
}

#[test]
fn the_daemon_verifies_on_schedule_and_writes_heartbeats() {
    let site = a_site();
    let base = "[base_backup]\nschedule = \"0 0 1 1 *\"\n";
    with_points_in_time(
        &site,
        "physical_schedule = \"*/20 * * * * *\"\n",
        &format!("heartbeat = true\n{base}"),
    );
    let service = Service::start(&site.belay);
    let verified = || service.log().matches("verified job=\"verify-physical\"").count();
    service.wait_until("a verification comes after the base backup", || verified() >= 1);
    service.wait_until("it is done again", || verified() >= 2);
    let beats = site.cluster.psql("postgres", "SELECT count(*) FROM belay.heartbeat");
    assert!(beats.parse::<u32>().unwrap() >= 1, "{beats}");
    let status = site.belay.json(["status"]);
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert!(!ended.log.contains("ERROR"), "{}", ended.log);
    assert!(ended.log.contains("recovered job=\"verify-physical\""), "{}", ended.log);
    let of_it = |job: &&Value| job["job"] == "verify-physical";
    let scheduled = status["scheduled"].as_array().unwrap().iter().find(of_it).unwrap();
    assert!(scheduled["last"].is_string() && scheduled["next"].is_string(), "{scheduled}");
    assert_eq!(status["recovery"]["verified"]["depth"], "recovered", "{status}");
    let audit = site.belay.run(["audit", "list"]).stdout;
    assert!(audit.contains("verify-physical"), "{audit}");
}

#[test]
fn retention_removes_the_record_with_its_base_backup() {
    let (site, _) = a_kept_site();
    assert_eq!(site.belay.run(READABLE).code, 0);
    let folder = site.base_folder();
    let receiver = site.receive();
    site.base();
    site.write("four");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&format!("{settings}[retention]\nkeep = \"0s\"\n"));
    let retained = site.belay.json(["retain"]);
    assert_eq!(retained["removed"].as_array().unwrap().len(), 0, "the newer one may be damaged: {retained}");
    assert_eq!(retained["kept"][0]["reason"], "it is the newest that is verified", "{retained}");
    assert_eq!(site.restored_ids("latest").len(), 4);
    assert_eq!(site.belay.run(READABLE).code, 0);
    let retained = site.belay.json(["retain"]);
    assert_eq!(retained["removed"].as_array().unwrap().len(), 1, "{retained}");
    assert!(!folder.exists() || std::fs::read_dir(&folder).unwrap().count() == 0, "{}", folder.display());
}
