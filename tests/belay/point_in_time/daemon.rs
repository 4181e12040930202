use super::site::{a_site, text_of};
use crate::daemon::service::Service;

#[test]
fn the_daemon_keeps_base_backups_and_log_and_retention_takes_what_is_not_needed() {
    let site = a_site();
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let often = "schedule = \"*/5 * * * * *\"\n";
    let never = "schedule = \"never\"\n";
    let settings = settings.replace("name = \"prod\"\n", "name = \"prod\"\npoint_in_time = true\n");
    let settings = settings
        .replace("[wal]\n", &format!("{never}[verify]\n{never}[retention]\n{never}keep = \"0s\"\n[wal]\n"));
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
