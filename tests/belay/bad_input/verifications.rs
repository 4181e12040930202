//! What a verification found wrong is not forgotten before another has looked as closely.

use std::path::PathBuf;

use super::{TABLES, TINY, assert_told, initialized, snapshot_of, told};
use crate::world::{Belay, Cluster, a_cluster, document, signed};

/// A database, and an installation that keeps every snapshot for no longer than it must.
fn a_world() -> (Cluster, Belay) {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", TABLES);
    let settings = format!("{TINY}[retention]\nkeep = \"0s\"\nmin_verified = 1\n");
    let belay = initialized(Belay::with_settings(&cluster, "app", &settings));
    (cluster, belay)
}

fn folder(belay: &Belay, id: &str) -> PathBuf {
    belay.repository().join("prod/snapshots/app").join(id)
}

fn verify(belay: &Belay, id: &str, depth: &str) {
    let verified = belay.run(["verify", id, "--depth", depth]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}

/// Has the snapshot's verification to depth `stored` be one to depth `restored` that found something.
fn turn_into_a_deep_failure(belay: &Belay, id: &str) {
    let folder = folder(belay, id);
    let is_record = |name: &str| name.starts_with("verified-stored-");
    let names = folder.read_dir().expect("read a folder").flatten().map(|entry| entry.file_name());
    let name = names.map(|name| name.into_string().expect("a name")).find(|name| is_record(name));
    let path = folder.join(name.expect("it was verified"));
    let mut record = document(&path)["signed"].clone();
    record["depth"] = "restored".into();
    record["is_ok"] = false.into();
    record["problems"] = serde_json::json!(["a table differs"]);
    std::fs::write(&path, signed("verification", &record, belay)).expect("write a record");
}

#[test]
fn a_shallower_verification_does_not_make_a_failed_snapshot_good() {
    let (_cluster, belay) = a_world();
    let good = snapshot_of(&belay, "app");
    verify(&belay, &good, "restored");
    let bad = snapshot_of(&belay, "app");
    verify(&belay, &bad, "stored");
    turn_into_a_deep_failure(&belay, &bad);

    verify(&belay, &bad, "stored");
    verify(&belay, &bad, "readable");

    let listed = belay.json(["list"])["snapshots"].clone();
    assert_eq!(listed[1]["verified"], serde_json::Value::Null, "{listed}");
    assert_eq!(listed[1]["failed"], "a table differs");
    assert_told(&belay.run(["list"]), 0, &["FAILED restored"]);
    assert_eq!(belay.json(["show", "latest-verified"])["id"], good.as_str());
    assert_eq!(belay.json(["retain"])["removed"], serde_json::json!([]));

    verify(&belay, &bad, "restored");
    assert_eq!(belay.json(["show", "latest-verified"])["id"], bad.as_str());
    assert_eq!(belay.json(["retain"])["removed"][0]["id"], good.as_str());
}

#[test]
fn retention_keeps_the_newest_snapshot_that_was_restored() {
    let (_cluster, belay) = a_world();
    let restored = snapshot_of(&belay, "app");
    verify(&belay, &restored, "restored");
    let stored = snapshot_of(&belay, "app");
    verify(&belay, &stored, "stored");

    let retained = belay.json(["retain"]);

    assert_eq!(retained["removed"], serde_json::json!([]));
    assert_eq!(retained["kept"][0]["reason"], "newest verified to depth restored");
    assert!(folder(&belay, &restored).join("manifest.json").exists());
}

#[test]
fn check_warns_of_a_failed_snapshot_until_a_newer_one_is_verified() {
    let (_cluster, belay) = a_world();
    let bad = snapshot_of(&belay, "app");
    verify(&belay, &bad, "stored");
    turn_into_a_deep_failure(&belay, &bad);
    let warning = format!("{bad} of app failed its verification: a table differs");
    assert_told(&belay.run(["check"]), 0, &[&warning, "take another"]);
    let newer = snapshot_of(&belay, "app");
    assert_told(&belay.run(["check"]), 0, &[&warning]);
    verify(&belay, &newer, "stored");
    let checked = belay.run(["check"]);
    assert!(!told(&checked).contains(&bad), "{}", told(&checked));
}

/// A chunk that the snapshot names.
fn chunk_of(belay: &Belay, id: &str) -> PathBuf {
    let manifest = document(&folder(belay, id).join("manifest.json"));
    let name = manifest["signed"]["chunks"][0]["name"].as_str().expect("it has chunks");
    belay.repository().join("prod/chunks").join(&name[..2]).join(format!("{name}.copy.gz.age"))
}

#[test]
fn a_damaged_chunk_counts_against_every_snapshot_that_names_it() {
    let (_cluster, belay) = a_world();
    let older = snapshot_of(&belay, "app");
    verify(&belay, &older, "restored");
    let newer = snapshot_of(&belay, "app");
    let chunk = chunk_of(&belay, &newer);
    assert_eq!(chunk, chunk_of(&belay, &older));
    let whole = std::fs::read(&chunk).expect("read a chunk");
    std::fs::write(&chunk, &whole[1..]).expect("damage the chunk");

    assert_told(&belay.run(["verify", &newer, "--depth", "stored"]), 4, &["copy.gz.age"]);

    for listed in belay.json(["list"])["snapshots"].as_array().expect("a list") {
        assert_eq!(listed["verified"], serde_json::Value::Null, "{listed}");
        assert!(listed["failed"].is_string(), "{listed}");
    }
    assert_told(&belay.run(["show", "latest-verified"]), 3, &[]);
    let retained = belay.json(["retain"]);
    assert_eq!(retained["removed"], serde_json::json!([]), "nothing good is left to replace it");

    // What is known of the chunk does not go with the snapshot that it was found by.
    std::fs::remove_dir_all(folder(&belay, &newer)).expect("remove a snapshot");
    let shown = belay.run(["show", &older]);
    assert!(
        told(&shown).contains(&format!("was found damaged when {newer} was verified")),
        "{}",
        told(&shown)
    );
    assert!(belay.json(["list"])["snapshots"][0]["failed"].is_string());

    std::fs::write(&chunk, &whole).expect("mend the chunk");
    verify(&belay, &older, "stored");
    assert_eq!(belay.json(["show", "latest-verified"])["id"], older.as_str());
}
