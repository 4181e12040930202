use chrono::TimeDelta;

use super::site::{a_site, flipped, text_of};

#[test]
fn what_cannot_be_reached_is_refused_with_the_nearest_moment() {
    let site = a_site();
    let none = site.restore("latest");
    assert_eq!(none.code, 10, "{}", none.stderr);
    assert!(none.stderr.contains("no base backup of cluster prod is stored"), "{}", none.stderr);
    assert!(none.stderr.contains("hint: on the database host, `belay base-backup`"), "{}", none.stderr);

    let start = site.now();
    let receiver = site.receive();
    site.base();
    site.write("one");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let early = site.restore(&text_of(start - TimeDelta::hours(1)));
    assert_eq!(early.code, 10, "{}", early.stderr);
    assert!(early.stderr.contains("the earliest moment is"), "{}", early.stderr);
    let late = site.restore(&text_of(site.now() + TimeDelta::hours(1)));
    assert_eq!(late.code, 10, "{}", late.stderr);
    assert!(late.stderr.contains("the latest moment is"), "{}", late.stderr);
    assert!(late.stderr.contains("--at latest takes all that is stored"), "{}", late.stderr);
    let nonsense = site.restore("yesterday");
    assert_eq!(nonsense.code, 2, "{}", nonsense.stderr);
    let planned =
        site.belay.json(["restore", "app", "--into", "then", "--at", "name:nobody-made-it", "--plan"]);
    assert!(planned["notes"].to_string().contains("there is such a restore point is not known"), "{planned}");
    let unknown = site.restore("name:nobody-made-it");
    assert_eq!(unknown.code, 10, "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("has no restore point of that name; it has none at all"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn what_speaks_against_the_restore_is_told_before_the_cluster_is_recovered() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let restore = |more: &[&str]| {
        let told = site.belay.run(["restore", "app", "--at", "latest"].iter().chain(more));
        assert!(!told.stderr.contains("unpacking"), "{}", told.stderr);
        told
    };
    for plan in [&[][..], &["--plan"]] {
        let taken = restore(&[&["--into", "postgres"], plan].concat());
        assert_eq!(taken.code, 10, "{}", taken.stderr);
        let told = format!("{}{}", taken.stdout, taken.stderr);
        assert!(told.contains("a database postgres exists already"), "{told}");
    }
    let table = restore(&["--table", "moments", "--into", "nowhere"]);
    assert_eq!(table.code, 3, "{}", table.stderr);
    site.cluster.stop();
    let away = restore(&["--swap"]);
    assert_eq!(away.code, 5, "{}", away.stderr);
}

#[test]
fn a_database_that_was_not_there_then_is_told_and_one_that_was_closed_comes_back() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("one");
    site.cluster.psql("postgres", "ALTER DATABASE app ALLOW_CONNECTIONS false");
    let closed = site.lsn();
    site.cluster.psql("postgres", "ALTER DATABASE app ALLOW_CONNECTIONS true");
    site.cluster.psql("postgres", "ALTER DATABASE app RENAME TO other");
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let gone = site.restore("latest");
    assert_eq!(gone.code, 3, "{}", gone.stderr);
    let told = "the cluster had no database app at that moment; it had other, postgres";
    assert!(gone.stderr.contains(told), "{}", gone.stderr);
    let then = site.restore(&closed);
    assert_eq!(then.code, 0, "{}", then.stderr);
    assert_eq!(site.cluster.psql("back", "SELECT body FROM moments"), "one");
}

#[test]
fn a_moment_in_a_gap_is_refused() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    let segments = site.write_segments(&["one", "two", "three"]);
    let lost = site.now();
    site.write("four");
    site.base();
    site.write("five");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let record = site.belay.repository().join(format!("prod/wal/00000001/{}.json", segments[1]));
    std::fs::remove_file(&record).unwrap();
    let in_gap = site.restore(&text_of(lost));
    assert_eq!(in_gap.code, 10, "{}", in_gap.stderr);
    assert!(in_gap.stderr.contains("log is missing there; the nearest moments are"), "{}", in_gap.stderr);
    assert_eq!(site.restored_ids("latest").len(), 5, "the later base backup does not need it");
}

#[test]
fn log_that_was_stored_and_is_gone_is_no_end_of_the_log() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("one");
    site.wait_until_stored(&site.lsn());
    let log = site.belay.repository().join("prod/wal/00000001");
    let stored = || std::fs::read_dir(&log).unwrap().flatten().map(|entry| entry.path());
    let before: Vec<_> = stored().collect();
    site.write("two");
    let at = site.now();
    site.write("three");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    for newer in stored().filter(|path| !before.contains(path)) {
        std::fs::remove_file(newer).unwrap();
    }
    for moment in [text_of(at), "latest".into()] {
        let refused = site.restore(&moment);
        assert_eq!(refused.code, 10, "{moment}: {}", refused.stderr);
        assert!(refused.stderr.contains("log is missing from"), "{moment}: {}", refused.stderr);
    }
}

#[test]
fn a_flipped_bit_is_named_and_nothing_is_restored() {
    let site = a_site();
    let receiver = site.receive();
    let base = site.base();
    site.write("one");
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.write("two");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let root = site.belay.repository().join("prod");
    let of_base = format!("base/{}/base.tar.gz.age", base["id"].as_str().unwrap());
    let mut logs: Vec<_> =
        std::fs::read_dir(root.join("wal/00000001")).unwrap().flatten().map(|e| e.file_name()).collect();
    logs.sort();
    let of_log =
        logs.iter().rev().map(|name| name.to_string_lossy()).find(|name| name.ends_with(".gz.age")).unwrap();
    for object in [of_base, format!("wal/00000001/{of_log}")] {
        let path = root.join(&object);
        let good = flipped(&path);
        let restored = site.restore("latest");
        assert!([4, 5].contains(&restored.code), "{object}: {} {}", restored.code, restored.stderr);
        assert!(restored.stderr.contains(&object), "{object}: {}", restored.stderr);
        assert_eq!(
            site.cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'back'"),
            "0"
        );
        std::fs::write(&path, &good).unwrap();
    }
    assert_eq!(site.restored_ids("latest").len(), 2);
}

#[test]
fn a_role_without_replication_is_told_what_it_lacks() {
    let site = a_site();
    site.cluster.psql(
        "postgres",
        "CREATE ROLE reader LOGIN; GRANT pg_read_all_data, pg_read_all_settings TO reader; \
        GRANT EXECUTE ON FUNCTION pg_control_system() TO reader",
    );
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&settings.replace("user = \"postgres\"", "user = \"reader\""));
    for args in [&["base-backup"][..], &["wal", "receive"]] {
        let refused = site.belay.run(args.iter().copied());
        assert_eq!(refused.code, 5, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("REPLICATION"), "{args:?}: {}", refused.stderr);
    }
    assert!(site.belay.json(["list"])["windows"].as_array().unwrap().is_empty());
}
