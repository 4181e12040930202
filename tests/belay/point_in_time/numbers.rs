use std::time::Duration;

use super::site::{a_site, with_points_in_time};

#[test]
fn a_server_where_nothing_is_written_is_not_behind_and_one_that_is_not_received_is() {
    let site = a_site();
    with_points_in_time(&site, "", "");
    site.write("one");
    let receiver = site.receive();
    site.wait_until_stored(&site.lsn());
    // The server itself writes a last record within 15 seconds, which ends in zeros.
    std::thread::sleep(Duration::from_secs(25));
    let wal = site.belay.json(["status"])["wal"].clone();
    assert!(wal["behind_seconds"].as_i64().unwrap() < 8, "{wal}");
    assert_eq!(wal["is_received"], true, "{wal}");
    receiver.kill();
    std::thread::sleep(Duration::from_secs(9));
    let wal = site.belay.json(["status"])["wal"].clone();
    assert!(wal["behind_seconds"].as_i64().unwrap() >= 9, "{wal}");
    assert_eq!(wal["is_received"], false, "{wal}");
    let told = site.belay.run(["status"]).stdout;
    assert!(told.contains("nobody receives it"), "{told}");
}

#[test]
fn a_recovery_is_planned_with_what_it_takes() {
    let site = a_site();
    let receiver = site.receive();
    let base = site.base();
    site.write("one");
    site.wait_until_stored(&site.lsn());
    let at = super::site::text_of(site.now());
    site.write("two");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let into = site.belay.home().join("then");
    let recover = ["recover", "--into", into.to_str().unwrap(), "--at", &at, "--plan"];
    let before = site.belay.json(recover);
    assert_eq!(before["base"], base["id"], "{before}");
    assert_eq!(before["base_bytes"], base["plain_bytes"], "{before}");
    assert!(before["log_bytes"].as_u64().unwrap() > 0, "{before}");
    assert!(before["needed_bytes"].as_u64().unwrap() > base["plain_bytes"].as_u64().unwrap(), "{before}");
    assert!(before["estimate_ms"].is_null() && !into.exists(), "{before}");
    assert_eq!(site.belay.run(["verify", "--physical"]).code, 0);
    let after = site.belay.json(recover);
    assert!(after["estimate_ms"].as_u64().unwrap() > 0, "{after}");

    let restore = ["restore", "app", "--at", &at, "--into", "back", "--plan"];
    let planned = site.belay.json(restore);
    assert_eq!((&planned["base"], &planned["at"]), (&after["base"], &after["at"]), "{planned}");
    let text = site.belay.run(restore).stdout;
    assert!(text.contains("restore app as back from there") && text.contains("by estimate"), "{text}");
    let there = "SELECT count(*) FROM pg_database WHERE datname = 'back'";
    assert_eq!(site.cluster.psql("postgres", there), "0");
    let early = site.belay.run(["restore", "app", "--at", "2020-01-01 00:00Z", "--swap", "--plan"]);
    assert_eq!(early.code, 10, "{}", early.stderr);
}

#[test]
fn what_cannot_be_reached_and_what_is_not_proven_is_told() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    let segments = site.write_segments(&["one", "two", "three"]);
    let newest = site.base();
    site.write("four");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    std::fs::remove_file(site.belay.repository().join(format!("prod/wal/00000001/{}.json", segments[1])))
        .unwrap();
    with_points_in_time(&site, "physical_schedule = \"* * * * * *\"\n", "heartbeat = true\n");
    std::thread::sleep(Duration::from_secs(3));
    let status = site.belay.json(["status"]);
    let recovery = &status["recovery"];
    assert_eq!(recovery["unreachable"].as_array().unwrap().len(), 1, "{recovery}");
    assert_eq!(recovery["unreachable"][0]["until"], newest["ended_at"], "{recovery}");
    assert_eq!((&recovery["is_overdue"], &recovery["verified"]), (&true.into(), &serde_json::Value::Null));
    let checked = site.belay.run(["check"]).stdout;
    assert!(checked.contains("base backups and log never were verified"), "{checked}");
    assert!(checked.contains("a heartbeat can be written"), "{checked}");
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname = 'belay'";
    assert_eq!(site.cluster.psql("postgres", made), "0", "the check leaves nothing behind");

    // The first base backup has a gap behind it, and the second is whole.
    let verified = site.belay.run(["verify", "--physical", "--json"]);
    assert_eq!(verified.code, 4, "{}", verified.stdout);
    let told: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!((&told["bases"][0]["ok"], &told["bases"][1]["ok"]), (&false.into(), &true.into()), "{told}");
    let recovery = site.belay.json(["status"])["recovery"].clone();
    assert_eq!(recovery["failed"][0]["overcome"], true, "{recovery}");
    assert!(recovery["failed"][0]["problems"][0].as_str().unwrap().contains(&segments[1]), "{recovery}");
    let text = site.belay.run(["status"]).stdout;
    assert!(text.contains("unreachable   from ") && text.contains("a newer one is verified"), "{text}");

    // A role that may not make the table is told what it lacks.
    site.cluster
        .psql("postgres", "CREATE ROLE reader LOGIN; GRANT pg_read_all_data, pg_read_all_settings TO reader");
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&settings.replace("user = \"postgres\"", "user = \"reader\""));
    let checked = site.belay.run(["check"]).stdout;
    assert!(
        checked.contains("permission denied") && checked.contains("GRANT CREATE ON DATABASE postgres"),
        "{checked}"
    );
    assert!(checked.contains("GRANT pg_read_all_stats TO the role"), "{checked}");
}
