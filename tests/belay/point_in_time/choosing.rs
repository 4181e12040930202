//! Which base backup a moment is recovered from, and what is told of what came of it.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::site::{Site, a_site, a_site_that_pushes, flipped, text_of};
use crate::world::{Output, a_cluster, finish};

/// Two base backups with whole log behind both, a row behind each, and a moment between them.
fn two_bases() -> (Site, [Value; 2], DateTime<Utc>) {
    let site = a_site();
    let receiver = site.receive();
    let first = site.base();
    site.write("one");
    let between = site.now();
    let second = site.base();
    site.write("two");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    (site, [first, second], between)
}

fn id(base: &Value) -> &str {
    base["id"].as_str().unwrap()
}

fn hint(output: &Output) -> String {
    let line = output.stderr.lines().find(|line| line.starts_with("hint: "));
    line.unwrap_or_else(|| panic!("no hint: {}", output.stderr)).to_owned()
}

fn restore<'a>(at: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "app", "--at", at, "--into", "back"], more].concat()
}

#[test]
fn a_damaged_base_backup_is_named_with_one_that_would_do_and_passed_over_once_that_is_known() {
    let (site, [first, second], _) = two_bases();
    flipped(&site.object(&second, "base.tar.gz.age"));
    let damaged = site.belay.run(restore("latest", &[]));
    assert_eq!(damaged.code, 4, "{}", damaged.stderr);
    let object = format!("prod/base/{}/base.tar.gz.age", id(&second));
    let named = format!("base backup {} is damaged", id(&second));
    assert!(damaged.stderr.contains(&named) && damaged.stderr.contains(&object), "{}", damaged.stderr);
    let hint = hint(&damaged);
    assert!(hint.contains(&format!("--base {}", id(&first))) && !hint.contains("snapshot"), "{hint}");

    let forced = site.belay.json(restore("latest", &["--base", id(&first)]));
    assert_eq!((&forced["moment"]["base"], &forced["rows"]), (&first["id"], &2.into()), "{forced}");
    site.cluster.psql("postgres", "DROP DATABASE back");

    assert_eq!(site.belay.run(["verify", "--physical", "--depth", "readable"]).code, 4);
    let listed = site.belay.run(["list"]).stdout;
    let failed: Vec<&str> = listed.lines().filter(|line| line.contains("its verification failed")).collect();
    assert!(failed.len() == 1 && failed[0].contains(id(&second)), "{listed}");
    let planned = site.belay.json(restore("latest", &["--plan"]));
    assert_eq!(planned["base"], first["id"], "{planned}");
    assert_eq!(planned["passed_over"], serde_json::json!([second["id"]]), "{planned}");
    let text = site.belay.run(restore("latest", &["--plan"])).stdout;
    assert!(text.contains(&format!("base backup {} is passed over", id(&second))), "{text}");
    let restored = site.belay.run(restore("latest", &[]));
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert!(restored.stdout.contains(&format!("{} was passed over", id(&second))), "{}", restored.stdout);
    assert_eq!(site.cluster.psql("back", "SELECT count(*) FROM moments"), "2");
    let data = site.cluster.room("recovered").join("data");
    let into = data.to_string_lossy().into_owned();
    let recovered = site.belay.json(["recover", "--into", &into]);
    assert_eq!(recovered["base"], first["id"], "{recovered}");
    assert!(recovered["notes"].to_string().contains("was passed over"), "{recovered}");

    // Who names it gets it, for what that is worth.
    site.cluster.psql("postgres", "DROP DATABASE back");
    let forced = site.belay.run(restore("latest", &["--base", id(&second)]));
    assert_eq!(forced.code, 4, "{}", forced.stderr);
    assert!(forced.stderr.contains(&named), "{}", forced.stderr);
}

#[test]
fn a_base_backup_that_does_not_lead_to_the_moment_is_refused_with_what_it_reaches() {
    let (site, [first, second], between) = two_bases();
    let between = text_of(between);
    let early = site.belay.run(restore(&between, &["--base", id(&second)]));
    assert_eq!(early.code, 10, "{}", early.stderr);
    assert!(early.stderr.contains("does not lead there: it reaches"), "{}", early.stderr);
    assert!(hint(&early).contains(&format!("--base {}", id(&first))), "{}", early.stderr);
    let late = text_of(site.now() + TimeDelta::hours(1));
    let late = site.belay.run(restore(&late, &["--base", id(&first)]));
    assert_eq!(late.code, 10, "{}", late.stderr);
    assert!(hint(&late).contains("no other one leads there"), "{}", late.stderr);
    let unknown = site.belay.run(restore("latest", &["--base", "20200101T000000Z-222222"]));
    assert_eq!(unknown.code, 3, "{}", unknown.stderr);
    let elsewhere = site.belay.run(restore("latest", &["--timeline", "7"]));
    assert_eq!(elsewhere.code, 10, "{}", elsewhere.stderr);
    assert!(elsewhere.stderr.contains("no timeline 7; what is stored is of 1"), "{}", elsewhere.stderr);
}

#[test]
fn damaged_log_is_told_with_what_can_be_done_about_log() {
    let (site, ..) = two_bases();
    let log = site.belay.repository().join("prod/wal/00000001");
    let names = std::fs::read_dir(log).unwrap().flatten().map(|entry| entry.path());
    let last = names.filter(|path| path.to_string_lossy().ends_with(".gz.age")).max().unwrap();
    let good = flipped(&last);
    let damaged = site.belay.run(restore("latest", &[]));
    assert_eq!(damaged.code, 4, "{}", damaged.stderr);
    let hint = hint(&damaged);
    assert!(hint.contains("verify --physical") && !hint.contains("snapshot"), "{hint}");
    // What was made for it goes with it, and what was there stays.
    let (new, old) = (site.belay.home().join("new"), site.cluster.room("old"));
    for into in [&new, &old] {
        let damaged = site.belay.run(["recover", "--into", into.to_str().unwrap()]);
        assert_eq!(damaged.code, 4, "{}", damaged.stderr);
    }
    assert!(!new.exists());
    assert_eq!(std::fs::read_dir(&old).unwrap().count(), 0);
    std::fs::write(&last, good).unwrap();
    assert_eq!(site.restored_ids("latest").len(), 2);
}

#[test]
fn the_moment_and_the_place_that_were_reached_are_told() {
    let (site, [_, second], _) = two_bases();
    let last =
        "SELECT (extract(epoch FROM max(pg_xact_commit_timestamp(xmin))) * 1000000)::bigint FROM moments";
    let last: i64 = site.cluster.psql("app", last).parse().unwrap();
    let restored = site.belay.json(restore("latest", &[]));
    let reached: DateTime<Utc> = restored["moment"]["last_commit_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(reached.timestamp_micros(), last, "{restored}");
    let place = restored["moment"]["reached_lsn"].as_str().unwrap();
    let stop = second["stop_lsn"].as_str().unwrap();
    let is_there = format!("SELECT '{place}'::pg_lsn BETWEEN '{stop}' AND pg_current_wal_insert_lsn()");
    assert_eq!(site.cluster.psql("app", &is_there), "t", "{restored}");
    let data = site.cluster.room("recovered").join("data");
    let into = data.to_string_lossy().into_owned();
    let recovered = site.belay.run(["recover", "--into", &into]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    let told = format!(
        "reached {place} of the log: the last transaction in it ended at {}",
        reached.format("%Y-%m-%d %H:%M:%S%.6f UTC")
    );
    assert!(recovered.stdout.contains(&told), "{told}: {}", recovered.stdout);
}

#[test]
fn a_base_backup_says_whether_its_log_is_stored() {
    let site = a_site();
    let alone = site.base();
    assert_eq!(alone["usable"], false, "{alone}");
    let why = alone["unusable_because"].as_str().unwrap();
    let stop = alone["stop_lsn"].as_str().unwrap();
    assert!(why.contains("cannot be used before") && why.contains(stop), "{why}");
    assert!(why.contains("belay serve") && why.contains("belay wal receive"), "{why}");
    let text = site.belay.run(["base-backup"]).stdout;
    assert!(text.contains("note: it cannot be used before"), "{text}");

    let receiver = site.receive();
    site.wait_until_stored("0/0");
    let kept = site.base();
    assert_eq!((&kept["usable"], &kept["unusable_because"]), (&true.into(), &Value::Null), "{kept}");
    receiver.end();
    // At once, and nothing was written since.
    assert_eq!(site.restored_ids("latest").len(), 0);
}

#[test]
fn a_base_backup_of_a_server_that_hands_its_log_over_can_be_used_when_it_is_told_so() {
    let site = a_site_that_pushes(a_cluster());
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&settings.replace("[wal]\n", "[wal]\nreceive = false\n"));
    site.write("one");
    let base = site.base();
    assert_eq!(base["usable"], true, "{base}");
    assert_eq!(site.restored_ids("latest"), [1]);
}

#[test]
fn a_file_that_cannot_be_written_is_no_damage() {
    let (site, ..) = two_bases();
    let data = site.cluster.room("recovered").join("data");
    let into = data.to_string_lossy().into_owned();
    // In blocks of 512 bytes; some tables of the catalog are larger.
    let limited = "trap '' XFSZ; ulimit -f 1000; exec \"$@\"";
    let command = site.belay.command(["recover", "--into", &into]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", limited, "sh"]).arg(command.get_program()).args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir("/");
    let failed = finish(&mut shell);
    assert_eq!(failed.code, 5, "{}", failed.stderr);
    assert!(failed.stderr.contains(&format!("write {into}")), "{}", failed.stderr);
    assert!(!failed.stderr.contains("damaged") && hint(&failed).contains("ulimit"), "{}", failed.stderr);
    assert!(!data.exists(), "what was begun is removed");
}

#[test]
fn an_identity_that_opens_nothing_is_a_mistake_of_usage() {
    let (site, [first, _], _) = two_bases();
    let stranger = crate::world::Belay::new(&site.cluster, "app");
    assert_eq!(stranger.run(["init", "--single-recipient"]).code, 0);
    let identity = stranger.state().join("keys/identity.txt");
    let identity = identity.to_str().unwrap();
    let into = site.cluster.room("recovered").join("data");
    let into = into.to_string_lossy().into_owned();
    for args in [
        restore("latest", &[]),
        restore("latest", &["--base", id(&first)]),
        vec!["recover", "--into", &into],
        vec!["verify", "--physical"],
    ] {
        let refused = site.belay.run(args.iter().copied().chain(["--identity", identity]));
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.stderr);
        assert!(hint(&refused).contains("recovery kit"), "{args:?}: {}", refused.stderr);
    }
    assert!(site.belay.json(restore("latest", &["--plan"]))["passed_over"].as_array().unwrap().is_empty());
}

#[test]
fn a_restore_point_that_is_not_in_the_log_is_known_before_a_server_is_started() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("one");
    site.cluster.psql("app", "SELECT pg_create_restore_point('before-lunch')");
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.write("two");
    site.base();
    site.write("three");
    site.cluster.psql("app", "SELECT pg_create_restore_point('after-lunch')");
    site.write("four");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let nowhere = site.belay.run(restore("name:lunch", &[]));
    assert_eq!(nowhere.code, 10, "{}", nowhere.stderr);
    assert!(nowhere.stderr.contains("has no restore point of that name"), "{}", nowhere.stderr);
    assert!(
        nowhere.stderr.contains("before-lunch at 0/") && nowhere.stderr.contains("after-lunch at 0/"),
        "{}",
        nowhere.stderr
    );
    assert!(!nowhere.stderr.contains("replaying"), "no server was started: {}", nowhere.stderr);
    assert_eq!(site.restored_ids("name:before-lunch"), [1]);
    assert_eq!(site.restored_ids("name:after-lunch"), [1, 2, 3]);
}
