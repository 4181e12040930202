use super::site::{a_site, text_of, with_points_in_time};
use crate::daemon::service::Service;

#[test]
fn the_daemon_keeps_base_backups_and_log_and_retention_takes_what_is_not_needed() {
    let site = a_site();
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let often = "schedule = \"*/5 * * * * *\"\n";
    let never = "schedule = \"never\"\n";
    let settings = settings.replace("name = \"prod\"\n", "name = \"prod\"\npoint_in_time = true\n");
    let settings = settings
        .replace("[wal]\n", &format!("{never}[verify]\n{never}physical_schedule = \"never\"\n[retention]\n{never}keep = \"0s\"\n[wal]\n"));
    site.belay.write_settings(&format!("{settings}[base_backup]\n{often}"));
    let service = Service::start(&site.belay);
    service.wait_until("base backups are made", || {
        service.log().matches("made job=\"base-backup\"").count() >= 2
    });
    site.write("one");
    let moment = site.now();
    site.write("two");
    site.wait_until_stored(&site.lsn());
    let status = site.belay.json(["status"]);
    assert!(status["wal"]["behind_seconds"].as_i64().unwrap() < 60, "{status}");
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert!(!ended.log.contains("ERROR"), "{}", ended.log);
    assert_eq!(site.restored_ids(&text_of(moment)), [1]);

    let before = site.belay.json(["list"])["windows"].as_array().unwrap().clone();
    assert!(before.len() >= 2, "{before:?}");
    let retained = site.belay.json(["retain"]);
    assert_eq!(retained["removed"].as_array().unwrap().len(), before.len() - 1, "{retained}");
    assert!(retained["wal_removed"].as_u64().unwrap() > 0, "{retained}");
    let after = site.belay.json(["list"])["windows"].as_array().unwrap().clone();
    assert_eq!(after, before[before.len() - 1..]);
    assert_eq!(site.restored_ids("latest").len(), 2);
    let again = site.belay.json(["retain"]);
    assert_eq!(
        (again["removed"].as_array().unwrap().len(), &again["wal_removed"]),
        (0, &0.into()),
        "{again}"
    );
}

#[test]
fn a_server_that_had_to_keep_too_much_comes_before_its_backup() {
    let site = a_site();
    let never = "schedule = \"never\"\n";
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let settings = settings.replace("name = \"prod\"\n", "name = \"prod\"\npoint_in_time = true\n");
    let more = format!(
        "{never}[verify]\n{never}physical_schedule = \"never\"\n[retention]\n{never}[wal]\nkeep = \"64MiB\"\n"
    );
    let settings = settings.replace("[wal]\n", &more);
    site.belay.write_settings(&format!("{settings}[base_backup]\nschedule = \"0 0 1 1 *\"\n"));
    let service = Service::start(&site.belay);
    let made = || service.log().matches("made job=\"base-backup\"").count();
    service.wait_until("a base backup is made when there is log", || made() == 1);
    site.write("before");
    site.wait_until_stored(&site.lsn());

    // The store is away, and the server goes on.
    let failures = || service.log().matches("log is not received").count();
    let failed_before = failures();
    let wal = site.belay.repository().join("prod/wal");
    let away = wal.with_extension("away");
    std::fs::rename(&wal, &away).unwrap();
    std::fs::write(&wal, "").unwrap();
    let slots = "SELECT count(*) FROM pg_replication_slots";
    let fill =
        "INSERT INTO moments (body) SELECT repeat(md5(random()::text), 200) FROM generate_series(1, 20000)";
    site.cluster.psql("app", "ALTER TABLE moments ALTER body SET STORAGE EXTERNAL");
    // What the spool had of it would be no gap.
    service.wait_until("nobody receives any more", || failures() > failed_before);
    site.cluster.psql("app", fill);
    service.wait_until("the slot goes", || service.log().contains("the slot was dropped"));
    std::fs::remove_file(&wal).unwrap();
    std::fs::rename(&away, &wal).unwrap();

    service.wait_until("the log is received again", || site.cluster.psql("postgres", slots) == "1");
    service.wait_until("a base backup is due at once", || made() == 2);
    site.write("after");
    site.wait_until_stored(&site.lsn());
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    let windows = site.belay.json(["list"])["windows"].as_array().unwrap().clone();
    assert_eq!(windows.len(), 2, "{windows:?}");
    assert!(!windows[0]["resumes_lsn"].is_null(), "what is missing is told: {windows:?}");
    assert!(windows[1]["resumes_lsn"].is_null(), "{windows:?}");
    assert_eq!(site.restored_ids("latest").len(), 20_002);
}

#[test]
fn log_that_is_lost_in_the_store_is_told_at_once_and_makes_a_base_backup_due() {
    let site = a_site();
    with_points_in_time(&site, "", "[base_backup]\nschedule = \"0 0 1 1 *\"\n");
    let service = Service::start(&site.belay);
    let made = || service.log().matches("made job=\"base-backup\"").count();
    service.wait_until("a base backup is made when there is log", || made() == 1);
    let segments = site.write_segments(&["one", "two", "three"]);
    site.write("four");
    site.wait_until_stored(&site.lsn());
    let whole = site.belay.json(["status"])["recovery"].clone();
    assert_eq!(whole["unreachable"], serde_json::json!([]), "{whole}");

    let log = site.belay.repository().join("prod/wal/00000001");
    for ending in ["json", "gz.age"] {
        std::fs::remove_file(log.join(format!("{}.{ending}", segments[1]))).unwrap();
    }
    let status = site.belay.json(["status"]);
    let told = &status["recovery"]["unreachable"];
    assert_eq!(told.as_array().unwrap().len(), 1, "{told}");
    assert!(told[0]["until"].is_null() && told[0]["from"].is_string(), "no base backup is behind it: {told}");
    assert_eq!(&site.belay.json(["list"])["unreachable"], told);
    let due = |job: &&serde_json::Value| job["job"] == "base-backup";
    let scheduled = status["scheduled"].as_array().unwrap().iter().find(due).unwrap();
    assert_eq!(scheduled["state"], "due", "{scheduled}");
    for verb in ["status", "list"] {
        let text = site.belay.run([verb]).stdout;
        assert!(text.contains("no base backup is behind that yet"), "{text}");
    }

    // What there is, is looked at anew after a while, and when the settings are read.
    service.hang_up();
    service.wait_until("another base backup is made", || made() == 2);
    site.write("five");
    site.wait_until_stored(&site.lsn());
    let status = site.belay.json(["status"]);
    let told = &status["recovery"]["unreachable"];
    assert_eq!(
        (told.as_array().unwrap().len(), &told[0]["until"]),
        (1, &status["recovery"]["newest_base"]["ended_at"])
    );
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert_eq!(ended.log.matches("made job=\"base-backup\"").count(), 2, "{}", ended.log);
    assert_eq!(site.restored_ids("latest").len(), 5);
}
