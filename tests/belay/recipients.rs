//! Whoever a snapshot is sealed to opens all of it, chunks of earlier snapshots included, and nobody
//! else does.

use std::fs;
use std::path::PathBuf;

use belay::keys::read_identity_file;
use belay::seal::{Opener, SealError};
use serde_json::{Value, json};

use crate::world::{Belay, Cluster, a_cluster, change_manifest, document};

/// A database with a table in chunks, the installation that keeps it, and another pair of keys.
struct World {
    cluster: Cluster,
    belay: Belay,
    /// The settings without recipients.
    settings: String,
    other: Belay,
}

impl World {
    fn new() -> World {
        let cluster = a_cluster().start();
        cluster.create_database("shop");
        let rows = "SELECT g AS id, repeat(md5(g::text), 8) AS body FROM generate_series(1, 30000) g";
        cluster.psql("shop", &format!("CREATE TABLE orders AS {rows}"));
        let belay =
            Belay::with_settings(&cluster, "shop", "large_table = \"64KiB\"\nchunk = \"4MiB\"\n[keys]\n");
        let other = Belay::new(&cluster, "shop");
        for installation in [&belay, &other] {
            let made = installation.run(["init", "--single-recipient"]);
            assert_eq!(made.code, 0, "{}", made.stderr);
        }
        let settings = fs::read_to_string(belay.settings()).unwrap();
        World { cluster, belay, settings, other }
    }

    fn seal_to(&self, recipients: &[&str]) {
        self.belay.write_settings(&format!("{}recipients = {}\n", self.settings, json!(recipients)));
    }

    fn snapshot(&self) -> Value {
        self.belay.json(["snapshot", "app"])
    }

    fn manifest(&self, taken: &Value) -> PathBuf {
        let id = taken["id"].as_str().unwrap();
        self.belay.repository().join("prod/snapshots/shop").join(id).join("manifest.json")
    }

    fn chunks(&self, taken: &Value) -> Vec<PathBuf> {
        let chunks = document(&self.manifest(taken))["signed"]["chunks"].as_array().unwrap().clone();
        let path = |name: &str| {
            self.belay.repository().join("prod/chunks").join(&name[..2]).join(format!("{name}.copy.gz.age"))
        };
        chunks.iter().map(|chunk| path(chunk["name"].as_str().unwrap())).collect()
    }

    #[track_caller]
    fn assert_restores_with(&self, identity: &str) {
        let restored =
            self.belay.run(["restore", "app", "--into", "back", "--prove", "full", "--identity", identity]);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        assert_eq!(self.cluster.psql("back", "SELECT count(*) FROM orders"), "30000");
        self.cluster.psql("postgres", "DROP DATABASE back");
    }
}

fn recipient(belay: &Belay) -> String {
    let record = document(&belay.repository().join("belay.json"));
    record["signed"]["recipients"][0].as_str().unwrap().to_owned()
}

fn identity(belay: &Belay) -> String {
    belay.state().join("keys/identity.txt").to_str().unwrap().to_owned()
}

#[test]
fn added_recipient_opens_what_did_not_change_before_it_was_added() {
    let world = World::new();
    let first = world.snapshot();
    assert!(first["chunks_new"].as_u64() >= Some(2), "{first}");
    let (own, added) = (recipient(&world.belay), recipient(&world.other));
    world.seal_to(&[&own, &added]);

    let second = world.snapshot();
    assert_eq!((&second["chunks_new"], &second["chunks_reused"]), (&first["chunks_new"], &json!(0)));
    let drill = world.belay.json(["key", "drill", "--identity", &identity(&world.other)]);
    assert!(drill["snapshots"][0]["chunk"].is_string(), "{drill}");
    world.assert_restores_with(&identity(&world.other));
    world.assert_restores_with(&identity(&world.belay));

    // The order of the recipients is nothing.
    world.seal_to(&[&added, &own]);
    let third = world.snapshot();
    assert_eq!((&third["chunks_new"], &third["chunks_reused"]), (&json!(0), &first["chunks_new"]));
    world.assert_restores_with(&identity(&world.other));
}

#[test]
fn recipient_that_was_taken_away_opens_nothing_of_later_snapshots() {
    let world = World::new();
    let (own, other) = (recipient(&world.belay), recipient(&world.other));
    world.seal_to(&[&own, &other]);
    let first = world.snapshot();
    world.seal_to(&[&other]);
    let second = world.snapshot();
    assert_eq!((&second["chunks_new"], &second["chunks_reused"]), (&first["chunks_new"], &json!(0)));

    let taken_away = Opener::new(read_identity_file(identity(&world.belay).as_ref()).unwrap());
    for chunk in world.chunks(&second) {
        let opened = taken_away.open(fs::File::open(&chunk).unwrap());
        assert!(matches!(opened.map(drop), Err(SealError::WrongIdentity)), "{}", chunk.display());
    }
    assert_eq!(world.belay.run(["key", "drill"]).code, 4);
    world.assert_restores_with(&identity(&world.other));

    // Chunks that are sealed to just these are there from before.
    world.seal_to(&[&own, &other]);
    assert_eq!(world.snapshot()["chunks_reused"], first["chunks_new"]);
}

#[test]
fn chunk_that_manifests_with_different_recipients_name_is_stored_anew() {
    let world = World::new();
    let first = world.snapshot();
    let (own, added) = (recipient(&world.belay), recipient(&world.other));
    let second = world.snapshot();
    assert_eq!(second["chunks_reused"], first["chunks_new"]);
    // As earlier versions wrote it.
    change_manifest(&world.manifest(&second), &world.belay, |manifest| {
        manifest["recipients"] = json!([own, added]);
    });
    world.seal_to(&[&own, &added]);
    assert_eq!(world.snapshot()["chunks_new"], first["chunks_new"]);
    world.assert_restores_with(&identity(&world.other));
}

#[test]
fn chunk_that_the_identity_does_not_open_is_told_and_not_recorded_as_damaged() {
    let world = World::new();
    let first = world.snapshot();
    let (own, added) = (recipient(&world.belay), recipient(&world.other));
    world.seal_to(&[&own, &added]);
    let second = world.snapshot();
    // The same rows, sealed to the first recipient alone.
    let names = |taken: &Value| document(&world.manifest(taken))["signed"]["chunks"].clone();
    let old = names(&first);
    for (earlier, later) in world.chunks(&first).iter().zip(world.chunks(&second)) {
        fs::copy(earlier, later).unwrap();
    }
    change_manifest(&world.manifest(&second), &world.belay, |manifest| {
        for (record, earlier) in
            manifest["chunks"].as_array_mut().unwrap().iter_mut().zip(old.as_array().unwrap())
        {
            record["stored_bytes"] = earlier["stored_bytes"].clone();
            record["stored_sha256"] = earlier["stored_sha256"].clone();
        }
    });

    let added = identity(&world.other);
    for depth in ["readable", "restored"] {
        let verified = world.belay.run(["verify", "latest", "--depth", depth, "--identity", &added]);
        assert_eq!(verified.code, 2, "{}{}", verified.stdout, verified.stderr);
        assert!(
            verified.stderr.contains(".copy.gz.age: open: none of the identities"),
            "{}",
            verified.stderr
        );
    }
    assert_eq!(world.belay.json(["show", "latest"])["verifications"], json!([]));
    let drill = world.belay.run(["key", "drill", "--identity", &added]);
    assert_eq!(drill.code, 4, "{}", drill.stdout);
    assert!(drill.stdout.contains(".copy.gz.age: open: none of the identities"), "{}", drill.stdout);
    assert_eq!(world.belay.run(["verify", "latest", "--depth", "readable"]).code, 0);
}
