use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::site::{Site, a_site};

/// The code that stops a recovery.
const STOP: i32 = 200;

/// A cluster whose log is stored over many segments, and a copy of it from before.
fn a_stored_log() -> (Site, PathBuf) {
    let site = a_site();
    let receiver = site.receive();
    site.wait_until_stored("0/0");
    site.base();
    let copy = site.cluster.copy_of_data("copy");
    site.cluster.psql("app", "ALTER TABLE moments ALTER body SET STORAGE EXTERNAL");
    for _ in 0..6 {
        site.cluster.psql(
            "app",
            "INSERT INTO moments (body) SELECT repeat(md5(g::text), 100) FROM generate_series(1, 1000) g",
        );
    }
    site.wait_until_stored(&site.lsn());
    receiver.end();
    (site, copy)
}

/// Has the copy recover by asking for the log itself, in place of the live cluster.
pub fn recover_by_hand(site: &Site, copy: &Path) {
    let command = site.command_of_server("wal fetch %f %p");
    let auto = copy.join("postgresql.auto.conf");
    let mut settings = std::fs::read_to_string(&auto).unwrap();
    settings.push_str(&format!("restore_command = '{command}'\n"));
    std::fs::write(&auto, settings).unwrap();
    std::fs::write(copy.join("recovery.signal"), "").unwrap();
    site.cluster.exchange(copy);
}

/// Starts the server, and waits until it has recovered.
pub fn start_to_the_end(site: &Site) {
    site.cluster.start_again();
    let deadline = Instant::now() + Duration::from_secs(60);
    while site.cluster.psql("postgres", "SELECT pg_is_in_recovery()") != "f" {
        assert!(Instant::now() < deadline, "{}", site.cluster.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn whole_segments(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.belay.repository().join("prod/wal/00000001")).unwrap();
    let mut whole: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    whole.retain(|path| path.to_string_lossy().ends_with(".json") && path.file_stem().unwrap().len() == 24);
    whole.sort();
    whole
}

#[test]
fn a_server_that_asks_for_its_log_comes_to_the_end_of_it() {
    let (site, copy) = a_stored_log();
    assert!(whole_segments(&site).len() > 10);
    let live = site
        .cluster
        .psql("app", "SELECT count(*), max(id), md5(string_agg(body, '' ORDER BY id)) FROM moments");
    recover_by_hand(&site, &copy);
    start_to_the_end(&site);
    let sql = "SELECT count(*), max(id), md5(string_agg(body, '' ORDER BY id)) FROM moments";
    assert_eq!(site.cluster.psql("app", sql), live);
    assert!(site.belay.state().join("wal-ahead").exists(), "segments are fetched ahead");
    let left = std::fs::read_dir(site.cluster.data().join("pg_wal")).unwrap().flatten();
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().ends_with(".belay")).count(), 0);
}

/// Waits until the server that recovers has ended, and returns what it has logged since it began.
fn ended(site: &Site) -> String {
    let before = site.cluster.log().len();
    site.cluster.order();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let log = site.cluster.log().split_off(before);
        if log.contains("database system is shut down") {
            return log;
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_damaged_segment_stops_a_recovery_and_is_not_its_end() {
    let (site, copy) = a_stored_log();
    let whole = whole_segments(&site);
    let sealed = whole[whole.len() - 3].with_extension("gz.age");
    let mut bytes = std::fs::read(&sealed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&sealed, &bytes).unwrap();
    recover_by_hand(&site, &copy);
    let log = ended(&site);
    assert!(log.contains("belay: wal fetch") && log.contains("open: damaged or cut"), "{log}");
    assert!(log.contains("FATAL:  could not restore file"), "{log}");
    assert!(!log.contains("selected new timeline"), "{log}");
}

#[test]
fn what_is_not_there_is_told_from_what_cannot_be_had() {
    let (site, _) = a_stored_log();
    let whole = whole_segments(&site);
    let name_of = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    let to = site.cluster.room("fetched").join("RECOVERYXLOG");
    let fetch = |name: &str| site.belay.run(["wal", "fetch", name, to.to_str().unwrap()]);
    let first = fetch(&name_of(&whole[0]));
    assert_eq!((first.code, first.stdout.as_str()), (0, ""), "{}", first.stderr);
    assert_eq!(std::fs::metadata(&to).unwrap().len(), 1 << 20);
    for name in ["0000000100000000000000EE", "000000020000000000000003", "00000002.history"] {
        let missing = fetch(name);
        assert_eq!((missing.code, missing.stderr.as_str()), (1, ""), "{name}");
    }
    let gone = &whole[6];
    std::fs::rename(gone, gone.with_extension("away")).unwrap();
    let ahead = site.belay.state().join("wal-ahead");
    let _ = std::fs::remove_dir_all(&ahead);
    let in_gap = fetch(&name_of(gone));
    assert_eq!(in_gap.code, STOP, "{}", in_gap.stderr);
    assert!(in_gap.stderr.contains("it is missing, though"), "{}", in_gap.stderr);
    for name in ["notes.txt", "%f"] {
        assert_eq!(fetch(name).code, STOP, "{name}");
    }
    assert_eq!(site.belay.run(["wal", "fetch", "00000002.history"]).code, STOP, "a word is missing");
    let lost = site.belay.run(["--config", "/nowhere.toml", "wal", "fetch", "00000002.history", "x"]);
    assert_eq!(lost.code, STOP, "{}", lost.stderr);
    let root = site.belay.repository();
    let away = root.with_extension("away");
    std::fs::rename(&root, &away).unwrap();
    assert_eq!(fetch("0000000100000000000000EE").code, STOP, "the repository is away");
    std::fs::rename(&away, &root).unwrap();
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&format!("{settings}[nonsense]\n"));
    assert_eq!(fetch("0000000100000000000000EE").code, STOP, "the settings are not read");
}
