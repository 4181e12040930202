use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::Value;

use super::site::{Site, a_site, a_site_on, text_of};
use crate::death::programs::Programs;
use crate::death::wait_until;
use crate::world::a_cluster_of;

const WEEKLY: &str = "[base_backup]\nfull_every = \"7d\"\n";

/// A cluster that notes which blocks its log changes, and an installation whose base backups build on one
/// another.
fn a_site_of(major: u32) -> (Site, Programs) {
    let plan = a_cluster_of(major).with_setting("summarize_wal=on");
    let site = a_site_on(plan.with_setting("full_page_writes=on"));
    let programs = Programs::of(&site.cluster);
    let site = Site { belay: programs.given_to(site.belay), cluster: site.cluster };
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&format!("{settings}{WEEKLY}"));
    (site, programs)
}

fn kinds(site: &Site) -> Vec<(String, String)> {
    let windows = site.belay.json(["list"])["windows"].clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    windows.as_array().unwrap().iter().map(|w| (text(&w["base"]), text(&w["kind"]))).collect()
}

fn id(base: &Value) -> &str {
    base["id"].as_str().unwrap()
}

fn sums(site: &Site, database: &str) -> String {
    let sql = "SELECT (SELECT md5(string_agg(id || body, ',' ORDER BY id)) FROM moments), \
               (SELECT count(*) || ' ' || sum(n) FROM fast_rows)";
    site.cluster.psql(database, sql)
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn a_cluster_comes_back_from_base_backups_that_build_on_one_another(#[values(17, 18)] major: u32) {
    let (site, _programs) = a_site_of(major);
    let fast = site.make_tablespace("fast", 100_000);
    let receiver = site.receive();
    site.cluster
        .psql("app", "INSERT INTO moments (body) SELECT repeat('x', 100) FROM generate_series(1, 50000)");
    let full = site.base();
    assert_eq!((full["kind"].as_str(), &full["parent"]), (Some("full"), &Value::Null), "{full}");
    site.cluster.psql("app", "UPDATE moments SET body = 'changed' WHERE id % 5000 = 0");
    let first = site.base();
    assert_eq!((first["kind"].as_str(), &first["parent"]), (Some("incremental"), &full["id"]), "{first}");
    let bytes = |base: &Value| base["plain_bytes"].as_u64().unwrap();
    assert!(bytes(&first) < bytes(&full) / 2, "{first} {full}");
    site.make_tablespace("later", 300);
    site.cluster.psql("app", "INSERT INTO fast_rows SELECT -n FROM generate_series(1, 10) n");
    let second = site.base();
    assert_eq!(second["parent"], first["id"], "{second}");
    let moment = site.now();
    let then = sums(&site, "app");
    site.cluster.psql("app", "DELETE FROM moments WHERE id < 100; DELETE FROM fast_rows; CHECKPOINT");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    assert_eq!(
        kinds(&site).iter().map(|(_, kind)| kind.as_str()).collect::<Vec<_>>(),
        ["full", "incremental", "incremental"]
    );
    let listed = site.belay.run(["list"]);
    assert!(
        listed.stdout.contains(&format!("base backup {} (incremental): any moment", id(&second))),
        "{}",
        listed.stdout
    );

    let restored = site.restore(&text_of(moment));
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(sums(&site, "back"), then);
    assert_eq!(site.cluster.psql("back", "SELECT count(*) FROM later_rows"), "300");
    assert_eq!(site.listed().1, 0);

    let world = site.cluster.room("recovered");
    let into = world.join("data").to_string_lossy().into_owned();
    let later = site.cluster.host().join("later");
    let mappings = [(&fast, "fast"), (&later, "later")]
        .map(|(old, new)| format!("--tablespace-mapping={}={}", old.display(), world.join(new).display()));
    let at = text_of(moment);
    let recovered = site.belay.run(["recover", "--into", &into, "--at", &at, &mappings[0], &mappings[1]]);
    assert_eq!(recovered.code, 0, "{}", recovered.stderr);
    assert!(recovered.stdout.contains(id(&second)), "{}", recovered.stdout);
    assert!(!recovered.stdout.contains("not compared"), "{}", recovered.stdout);
    let left = std::fs::read_dir(world.join("data")).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("belay")).collect();
    assert!(left.is_empty(), "{left:?}");
    let again = a_cluster_of(major).start_on(&world);
    let count = "SELECT count(*) FROM moments WHERE body = 'changed'";
    assert_eq!(again.psql("app", count), "10");
    assert_eq!(again.psql("app", "SELECT count(*) FROM fast_rows"), "100010");
    assert_eq!(again.psql("app", "SELECT count(*) FROM later_rows"), "300");
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn a_chain_with_a_damaged_or_missing_member_is_named(#[values(17, 18)] major: u32) {
    let (site, _programs) = a_site_of(major);
    let receiver = site.receive();
    let full = site.base();
    site.write("one");
    let first = site.base();
    site.write("two");
    let second = site.base();
    site.wait_until_stored(&site.lsn());
    receiver.end();
    for (base, object) in
        [(&full, "base.tar.gz.age"), (&first, "base.tar.gz.age"), (&first, "backup_manifest.gz.age")]
    {
        let path = site.object(base, object);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let restored = site.restore("latest");
        assert!([4, 5].contains(&restored.code), "{object}: {} {}", restored.code, restored.stderr);
        let key = format!("{}/{object}", id(base));
        assert!(restored.stderr.contains(&key), "{key}: {}", restored.stderr);
        std::fs::write(&path, good).unwrap();
    }
    let manifest = site.object(&first, "manifest.json");
    let good = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    let window = site.belay.json(["list"])["windows"][1].clone();
    assert_eq!(
        (&window["base"], &window["missing"], &window["until"]),
        (&second["id"], &first["id"], &Value::Null)
    );
    let sentence = format!("base backup {}, which it builds on, is missing", id(&first));
    let listed = site.belay.run(["list"]);
    assert!(listed.stdout.contains(&sentence), "{}", listed.stdout);
    // The full one and the log do.
    assert_eq!(site.restored_ids("latest").len(), 2);
    let next = site.base();
    assert_eq!(next["parent"], full["id"], "{next}");
    std::fs::write(&manifest, good).unwrap();
    assert_eq!(site.restored_ids("latest").len(), 2);
    std::fs::remove_file(site.object(&full, "manifest.json")).unwrap();
    let refused = site.restore("latest");
    assert_eq!(refused.code, 10, "{}", refused.stderr);
    let broken = format!("base backup {} builds on {}", id(&second), id(&full));
    assert!(refused.stderr.contains(&broken), "{}", refused.stderr);
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn retention_keeps_what_a_kept_base_backup_builds_on(#[values(17)] major: u32) {
    let (site, _programs) = a_site_of(major);
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&format!("{settings}[retention]\nkeep = \"0s\"\n"));
    let receiver = site.receive();
    let lone = site.base();
    let mut bases = BTreeMap::new();
    // As if a week had passed.
    site.belay.write_settings(&settings.replace(WEEKLY, ""));
    let gone = site.base();
    site.belay.write_settings(&format!("{settings}[retention]\nkeep = \"0s\"\n"));
    for body in ["one", "two"] {
        site.write(body);
        let base = site.base();
        bases.insert(id(&base).to_owned(), base["parent"].clone());
    }
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let parents: Vec<&Value> = bases.values().collect();
    assert_eq!(*parents[0], lone["id"], "one without a list of files is not built on: {bases:?}");
    let retained = site.belay.json(["retain"]);
    let removed = retained["removed"].as_array().unwrap();
    let removed: Vec<&str> = removed.iter().filter_map(|removed| removed["id"].as_str()).collect();
    assert_eq!(removed, [id(&gone)], "{retained}");
    let kept = retained["kept"].to_string();
    assert!(kept.contains("builds on it"), "{kept}");
    assert_eq!(site.restored_ids("latest").len(), 2);
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn without_summaries_of_the_log_a_base_backup_is_full_and_says_so(#[values(17, 18)] major: u32) {
    let (site, programs) = a_site_of(major);
    let full = site.base();
    site.write("one");
    site.cluster.psql("postgres", "CHECKPOINT");
    let written = site.lsn();
    let summarized = format!("SELECT max(end_lsn) >= '{written}' FROM pg_available_wal_summaries()");
    let next = "SELECT pg_switch_wal(); CHECKPOINT";
    wait_until("the log is summarized", || {
        site.cluster.psql("postgres", next);
        site.cluster.psql("postgres", &summarized) == "t"
    });
    let summaries = site.cluster.data().join("pg_wal/summaries");
    for entry in std::fs::read_dir(&summaries).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    let made = site.base();
    assert_eq!(made["kind"], "full", "{made}");
    let notes = made["notes"].to_string();
    assert!(notes.contains("it is a full one") && notes.contains("WAL summar"), "{notes}");
    // The next one builds on that.
    site.write("two");
    let next = site.base();
    assert_eq!(next["parent"], made["id"], "{next}");
    assert_ne!(made["id"], full["id"]);

    let list = site.object(&next, "backup_manifest.gz.age");
    std::fs::write(&list, b"nothing").unwrap();
    let after = site.base();
    assert_eq!(after["kind"], "full", "{after}");
    assert!(after["notes"].to_string().contains("backup_manifest.gz.age"), "{after}");
    assert_eq!(site.listed().1, 0);

    site.write("three");
    let receiver = site.receive();
    site.base();
    site.wait_until_stored(&site.lsn());
    receiver.end();
    // A full disk of ours is no damage; anything else that it finds is.
    for (says, code) in [("No space left on device", 5), ("incorrect magic number", 4)] {
        programs.fake("pg_combinebackup", &format!("echo '{says}' >&2; exit 1"));
        let restored = site.restore("latest");
        assert_eq!(restored.code, code, "{}", restored.stderr);
        let told = format!("pg_combinebackup exited with status 1: {says}");
        assert!(restored.stderr.contains(&told), "{}", restored.stderr);
    }
    programs.leave_out("pg_combinebackup");
    let restored = site.restore("latest");
    assert_eq!(restored.code, 10, "{}", restored.stderr);
    assert!(restored.stderr.contains("it is incremental, and there is no"), "{}", restored.stderr);
    assert_eq!(site.listed().1, 0);
}

#[test]
fn an_older_server_gets_full_base_backups_and_a_note() {
    let site = a_site();
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&format!("{settings}{WEEKLY}"));
    assert!(site.cluster.major() < 17, "this is about servers before 17");
    let receiver = site.receive();
    for body in ["one", "two"] {
        let made = site.belay.run(["base-backup"]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        assert!(made.stdout.contains(": full, "), "{}", made.stdout);
        assert!(
            made.stdout.contains("note: it is a full one: the server is older than PostgreSQL 17"),
            "{}",
            made.stdout
        );
        site.write(body);
    }
    site.wait_until_stored(&site.lsn());
    receiver.end();
    assert_eq!(site.restored_ids("latest").len(), 2);
}
