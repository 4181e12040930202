use super::site::{Site, a_site};
use crate::daemon::service::Service;

/// A site whose daemon makes base backups only when one is missing, and keeps 64 MiB at the most.
fn a_watched_site() -> Site {
    let site = a_site();
    let never = "schedule = \"never\"\n";
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let settings = settings.replace("name = \"prod\"\n", "name = \"prod\"\npoint_in_time = true\n");
    let more = format!("{never}[verify]\n{never}[retention]\n{never}[wal]\nkeep = \"64MiB\"\n");
    site.belay.write_settings(&format!(
        "{}[base_backup]\nschedule = \"0 0 1 1 *\"\n",
        settings.replace("[wal]\n", &more)
    ));
    site.cluster.psql("app", "ALTER TABLE moments ALTER body SET STORAGE EXTERNAL");
    site
}

/// Writes some 130 MB of log.
fn fill(site: &Site) {
    let rows = "SELECT repeat(md5(random()::text), 200) FROM generate_series(1, 20000)";
    site.cluster.psql("app", &format!("INSERT INTO moments (body) {rows}"));
}

#[test]
fn an_unreadable_first_segment_is_reported_and_does_not_keep_the_slot() {
    let site = a_watched_site();
    let spool = site.belay.state().join("wal");
    let service = Service::start(&site.belay);
    service.wait_until("the log is stored", || site.belay.state().join("wal-shipped.json").exists());
    let open = std::fs::read_dir(&spool).unwrap().flatten().map(|entry| entry.path()).next().unwrap();
    // A link to itself cannot be read, not even by root.
    let poisoned = open.with_file_name("000000010000000000000000");
    std::os::unix::fs::symlink(&poisoned, &poisoned).unwrap();
    let reported = poisoned.display().to_string();
    service.wait_until("it is reported", || service.log().contains(&reported));
    fill(&site);
    service.wait_until("the slot goes", || service.log().contains("the slot was dropped"));
    std::fs::remove_file(&poisoned).unwrap();
    let slots = "SELECT count(*) FROM pg_replication_slots";
    service.wait_until("the log is received again", || site.cluster.psql("postgres", slots) == "1");
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
}

#[test]
fn a_store_that_is_away_for_a_while_costs_nothing() {
    let site = a_watched_site();
    let service = Service::start(&site.belay);
    let made = || service.log().matches("made job=\"base-backup\"").count();
    service.wait_until("a base backup is made", || made() == 1);
    let away = site.belay.repository().with_extension("away");
    std::fs::rename(site.belay.repository(), &away).unwrap();
    site.write("while it is away");
    service.wait_until("it is told", || service.log().contains("the write-ahead log is not received"));
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.write("in the next segment");
    std::fs::rename(&away, site.belay.repository()).unwrap();
    site.wait_until_stored(&site.lsn());
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert_eq!(site.belay.json(["list"])["windows"].as_array().unwrap().len(), 1);
    assert_eq!(site.restored_ids("latest").len(), 2);
}

#[test]
fn a_receiver_that_ended_between_two_segments_goes_on_with_the_next() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = a_site();
    site.receive_all();
    site.base();
    let receiver = site.receive();
    site.wait_until_stored(&site.lsn());
    receiver.kill();
    let spool = site.belay.state().join("wal");
    for left in std::fs::read_dir(&spool).unwrap().flatten() {
        std::fs::remove_file(left.path()).unwrap();
    }
    // A whole segment, and none begun behind it.
    let begins =
        site.cluster.psql("postgres", "SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots");
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.write("while nobody receives");
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.write("in the segment after that");
    let data = site.cluster.psql("postgres", "SHOW data_directory");
    let whole = spool.join(&begins);
    std::fs::copy(format!("{data}/pg_wal/{begins}"), &whole).unwrap();
    std::fs::set_permissions(&whole, std::fs::Permissions::from_mode(0o644)).unwrap();
    site.receive_all();
    assert!(site.belay.json(["list"])["windows"][0]["resumes_lsn"].is_null());
    assert_eq!(site.restored_ids("latest").len(), 2);
}

/// The process that receives into `spool`.
fn receiver_of(spool: &std::path::Path) -> Option<nix::unistd::Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    let wanted = spool.display().to_string();
    let is_it = |number: &i32| {
        let words = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        words.contains("pg_receivewal") && words.contains(&wanted)
    };
    numbers.find(is_it).map(nix::unistd::Pid::from_raw)
}

#[test]
fn a_program_that_receives_and_is_killed_is_started_again_and_nothing_is_lost() {
    let site = a_watched_site();
    let service = Service::start(&site.belay);
    service.wait_until("a base backup is made", || {
        service.log().matches("made job=\"base-backup\"").count() == 1
    });
    let spool = site.belay.state().join("wal");
    for number in 0..3 {
        let mut receiver = None;
        service.wait_until("the log is received", || {
            receiver = receiver_of(&spool);
            receiver.is_some()
        });
        site.write(&format!("before {number}"));
        nix::sys::signal::kill(receiver.unwrap(), nix::sys::signal::Signal::SIGKILL).unwrap();
        site.cluster.psql("postgres", "SELECT pg_switch_wal()");
        site.write(&format!("after {number}"));
        service.wait_until("another one receives", || {
            receiver_of(&spool).is_some_and(|it| Some(it) != receiver)
        });
    }
    site.wait_until_stored(&site.lsn());
    assert!(service.log().contains("pg_receivewal"), "{}", service.log());
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert!(site.belay.json(["list"])["windows"][0]["resumes_lsn"].is_null());
    assert_eq!(site.restored_ids("latest").len(), 6);
}
