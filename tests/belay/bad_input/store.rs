//! What somebody or something did to the store.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{TABLES, TINY, assert_told, databases, initialized, snapshot_of, told};
use crate::world::{Belay, Cluster, a_cluster, change_manifest, document, signed};

/// A repository with a good snapshot and one that is to be damaged.
struct Damaged {
    cluster: Cluster,
    belay: Belay,
    good: String,
    bad: String,
    databases: String,
    /// The repository as it was.
    original: PathBuf,
}

impl Damaged {
    fn new() -> Damaged {
        let cluster = a_cluster().start();
        cluster.create_database("app");
        cluster.psql("app", TABLES);
        let belay = initialized(Belay::with_settings(&cluster, "app", TINY));
        let good = snapshot_of(&belay, "app");
        cluster.psql("app", "ALTER TABLE one ADD later int DEFAULT 1; UPDATE one SET t = t || 'x'; UPDATE two SET t = t || 'y'");
        let bad = loop {
            // Ids sort by the second.
            let id = snapshot_of(&belay, "app");
            if id[..16] > good[..16] {
                break id;
            }
            std::fs::remove_dir_all(belay.repository().join("prod/snapshots/app").join(&id))
                .expect("take it again");
        };
        let original = cluster.host().join("original");
        copy(&belay.repository(), &original);
        let databases = databases(&cluster);
        Damaged { cluster, belay, good, bad, databases, original }
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.belay.repository().join("prod/snapshots/app").join(id)
    }

    fn object(&self, name: &str) -> PathBuf {
        self.folder(&self.bad).join(name)
    }

    /// The chunks of the snapshot that is to be damaged and not of the good one.
    fn chunks(&self) -> Vec<PathBuf> {
        let names = |id: &str| -> Vec<String> {
            let manifest = document(&self.folder(id).join("manifest.json"));
            let chunks = manifest["signed"]["chunks"].as_array().expect("chunks are a list").clone();
            chunks.iter().map(|chunk| chunk["name"].as_str().expect("a name").to_owned()).collect()
        };
        let shared = names(&self.good);
        let own = names(&self.bad).into_iter().filter(|name| !shared.contains(name));
        let chunks = self.belay.repository().join("prod/chunks");
        own.map(|name| chunks.join(&name[..2]).join(format!("{name}.copy.gz.age"))).collect()
    }

    fn mend(&self) {
        std::fs::remove_dir_all(self.belay.repository()).expect("remove the damaged repository");
        copy(&self.original, &self.belay.repository());
    }

    /// Restores and verifies the damaged snapshot, which says `words` and leaves nothing; the good
    /// one is as good as ever. Then mends the damage.
    #[track_caller]
    fn assert_named(&self, words: &[&str]) {
        let restored = self.belay.run(["restore", "app", "--from", &self.bad, "--into", "back"]);
        assert!([4, 5].contains(&restored.code), "{}: {}", restored.code, told(&restored));
        assert_told(&restored, restored.code, words);
        assert_eq!(databases(&self.cluster), self.databases);
        let verified = self.belay.run(["verify", &self.bad, "--depth", "readable"]);
        assert!([4, 5].contains(&verified.code), "{}: {}", verified.code, told(&verified));
        assert_told(&verified, verified.code, words);
        self.assert_good_is_restorable();
        self.mend();
    }

    #[track_caller]
    fn assert_good_is_restorable(&self) {
        let restored = self.belay.run(["restore", "app", "--from", &self.good, "--into", "back"]);
        assert_eq!(restored.code, 0, "{}", told(&restored));
        self.cluster.psql("postgres", "DROP DATABASE back");
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--archive").arg(from).arg(to).status();
    assert!(copied.expect("run cp").success());
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("read an object");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("write an object");
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

fn swap(one: &Path, other: &Path) {
    let (these, those) =
        (std::fs::read(one).expect("read an object"), std::fs::read(other).expect("read an object"));
    std::fs::write(one, those).expect("write an object");
    std::fs::write(other, these).expect("write an object");
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("an object has a name")
}

const OBJECTS: [&str; 4] =
    ["schema.dump.gz.age", "data.dump.gz.age", "globals.sql.gz.age", "inventory.json.gz.age"];

#[test]
fn flipped_bit_truncation_and_deletion_are_named_in_every_kind_of_object() {
    let world = Damaged::new();
    let chunk = world.chunks().first().expect("there is a chunk").clone();
    // Globals are read by a restore only where roles are missing; then verification has to find it.
    let restored = OBJECTS.iter().filter(|name| !name.starts_with("globals")).map(|name| world.object(name));
    for path in restored.chain([chunk]) {
        let name = name_of(&path);
        change(&path, |bytes| flip(bytes));
        world.assert_named(&[name, "its SHA-256 is not that of the manifest"]);
        change(&path, |bytes| bytes.truncate(bytes.len() - 1));
        world.assert_named(&[name, "bytes, the manifest says"]);
        std::fs::remove_file(&path).expect("remove an object");
        world.assert_named(&[name]);
    }
    let globals = world.object("globals.sql.gz.age");
    for damage in [flip as fn(&mut [u8]), |bytes| bytes.fill(0)] {
        change(&globals, |bytes| damage(bytes));
        let verified = world.belay.run(["verify", &world.bad, "--depth", "stored"]);
        assert_told(&verified, 4, &["globals.sql.gz.age", "SHA-256"]);
        world.mend();
    }
    std::fs::remove_file(&globals).expect("remove an object");
    assert_told(
        &world.belay.run(["verify", &world.bad, "--depth", "stored"]),
        4,
        &["globals.sql.gz.age", "missing"],
    );
}

#[test]
fn restore_text_that_was_edited_or_deleted_is_named_at_every_depth() {
    let world = Damaged::new();
    let text = world.object("RESTORE.txt");
    for depth in ["stored", "readable", "restored"] {
        let verify = || world.belay.run(["verify", &world.bad, "--depth", depth]);
        change(&text, |bytes| bytes.extend_from_slice(b"cat \"$IDENTITY\"\n"));
        assert_told(&verify(), 4, &["RESTORE.txt", "bytes, the manifest says"]);
        world.mend();
        change(&text, |bytes| flip(bytes));
        assert_told(&verify(), 4, &["RESTORE.txt", "SHA-256 is not that of the manifest"]);
        std::fs::remove_file(&text).expect("remove the text");
        assert_told(&verify(), 4, &["RESTORE.txt", "missing"]);
        world.mend();
        assert_eq!(verify().code, 0);
        world.mend();
    }
}

#[test]
fn restore_text_that_an_older_manifest_does_not_record_is_not_compared() {
    let world = Damaged::new();
    change_manifest(&world.object("manifest.json"), &world.belay, |manifest| {
        let recorded = manifest["objects"].as_object_mut().expect("an object").remove("restore_text");
        assert!(recorded.is_some());
    });
    change(&world.object("RESTORE.txt"), |bytes| flip(bytes));
    assert_eq!(world.belay.run(["verify", &world.bad, "--depth", "readable"]).code, 0);
    let restored = world.belay.run(["restore", "app", "--from", &world.bad, "--into", "back"]);
    assert_eq!(restored.code, 0, "{}", told(&restored));
}

#[test]
fn verification_that_cannot_be_recorded_is_told_all_the_same() {
    let world = Damaged::new();
    let unfinished = world.belay.repository().join(".unfinished");
    let verify =
        |options: &[&str]| world.belay.run([&["verify", &world.bad, "--depth", "stored"], options].concat());
    let json = || serde_json::from_str::<Value>(&verify(&["--json"]).stdout).expect("it is JSON");
    let may_only_be_read: fn(&Path) = |folder| {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o500)).expect("change its mode");
    };
    let fails_otherwise: fn(&Path) = |folder| {
        std::fs::remove_dir(folder).expect("remove the folder");
        std::fs::write(folder, "").expect("put a file in its place");
    };
    for (obstruct, reason, code) in
        [(may_only_be_read, "permission denied", 0), (fails_otherwise, "write", 5)]
    {
        obstruct(&unfinished);
        assert_told(&verify(&[]), code, &["stored: ok", "note: this result is not recorded", reason]);
        assert_eq!((&json()["ok"], &json()["recorded"]), (&true.into(), &false.into()));
        let globals = world.object("globals.sql.gz.age");
        change(&globals, |bytes| flip(bytes));
        assert_told(&verify(&[]), 4, &["globals.sql.gz.age", "note: this result is not recorded", reason]);
        assert_eq!((&json()["ok"], &json()["recorded"]), (&false.into(), &false.into()));
        assert_eq!(world.belay.json(["show", &world.bad])["verifications"], serde_json::json!([]));
        world.mend();
    }
    assert_eq!(json()["recorded"], true);

    let signing_key = world.belay.state().join("keys/signing.key");
    let signer = document(&world.belay.repository().join("belay.json"))["signer"].clone();
    std::fs::remove_file(signing_key).expect("lose the signing key");
    let trusted = world.belay.state().join("keys/trusted-signers.txt");
    std::fs::write(trusted, signer.as_str().expect("a key is text")).expect("trust it");
    assert_told(&verify(&[]), 0, &["stored: ok", "note: this result is not recorded", "no signing key"]);
}

#[test]
fn missing_roles_are_not_made_from_damaged_globals() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", "CREATE ROLE goer; CREATE TABLE t (a int); ALTER TABLE t OWNER TO goer");
    let belay = initialized(Belay::with_settings(&cluster, "app", TINY));
    let id = snapshot_of(&belay, "app");
    cluster.psql("app", "ALTER TABLE t OWNER TO postgres; DROP ROLE goer");
    let before = databases(&cluster);
    change(&belay.repository().join("prod/snapshots/app").join(id).join("globals.sql.gz.age"), |bytes| {
        flip(bytes)
    });
    let restored = belay.run(["restore", "app", "--into", "back"]);
    assert_told(&restored, 4, &["globals.sql.gz.age", "SHA-256"]);
    assert_eq!(databases(&cluster), before);
    assert_eq!(cluster.psql("app", "SELECT count(*) FROM pg_roles WHERE rolname = 'goer'"), "0");
}

#[test]
fn objects_in_the_place_of_others_are_named() {
    let world = Damaged::new();
    let chunks = world.chunks();
    assert!(chunks.len() > 1, "{chunks:?}");
    swap(&chunks[0], &chunks[1]);
    let restored = world.belay.run(["restore", "app", "--from", &world.bad, "--into", "back"]);
    assert!(chunks.iter().any(|chunk| told(&restored).contains(name_of(chunk))), "{}", told(&restored));
    world.assert_named(&["copy.gz.age", "manifest"]);
    for name in OBJECTS.iter().filter(|name| !name.starts_with("globals")) {
        std::fs::copy(world.folder(&world.good).join(name), world.object(name))
            .expect("put one in another's place");
        world.assert_named(&[name, "manifest"]);
    }
    swap(&world.object("schema.dump.gz.age"), &world.object("data.dump.gz.age"));
    world.assert_named(&["dump.gz.age", "manifest"]);
}

#[test]
fn manifest_in_another_folder_is_named_and_not_listed() {
    let world = Damaged::new();
    std::fs::copy(world.folder(&world.good).join("manifest.json"), world.object("manifest.json"))
        .expect("copy a manifest");
    world.assert_named(&[&world.bad, &world.good, "copied here"]);

    let other = world.belay.repository().join("prod/snapshots/other");
    std::fs::create_dir(&other).expect("make another database's folder");
    copy(&world.folder(&world.bad), &other.join(&world.bad));
    std::fs::remove_dir_all(world.folder(&world.bad)).expect("move the snapshot");
    let settings = std::fs::read_to_string(world.belay.settings()).expect("read the settings");
    let host = world.cluster.host().display();
    let section = format!(
        "[database.other]\nhost = \"{host}\"\nport = {}\nuser = \"postgres\"\n",
        world.cluster.port()
    );
    world.belay.write_settings(&format!("{settings}{section}"));
    let restored = world.belay.run(["restore", "other", "--from", &world.bad, "--into", "back"]);
    assert_told(&restored, 4, &[&world.bad, "prod/snapshots/other", "copied here"]);
    assert_eq!(databases(&world.cluster), world.databases);
    world.assert_good_is_restorable();
}

#[test]
fn manifest_that_is_edited_unsigned_or_signed_by_a_stranger_is_named() {
    let world = Damaged::new();
    let manifest = world.object("manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("read the manifest");
    let replace = |text: String| std::fs::write(&manifest, text).expect("write the manifest");
    let named =
        |what: &str| world.assert_named(&[&world.bad, "manifest", what, "hint: somebody or something"]);

    replace(text.replacen("\"rows\":", "\"rows\":1", 1));
    named("changed after signing");
    let original = document(&manifest);
    for field in ["signature", "signer"] {
        let mut unsigned = original.clone();
        unsigned.as_object_mut().expect("a document is an object").remove(field);
        replace(unsigned.to_string());
        named("not signed");
    }
    let stranger = initialized(Belay::new(&world.cluster, "app"));
    replace(signed("manifest", &original["signed"], &stranger));
    // Only then can trusting another key be of use.
    world.assert_named(&[
        &world.bad,
        "manifest",
        "signed by a stranger",
        "hint: compare the key",
        "--trust-signer",
    ]);
    // A signature of ours under another kind of document is none.
    replace(signed("verification", &original["signed"], &world.belay));
    named("changed after signing");
    change(&manifest, |bytes| flip(bytes));
    world.assert_named(&[&world.bad, "manifest"]);
    change(&manifest, |bytes| bytes.truncate(bytes.len() / 2));
    named("not a signed document");
    change(&manifest, Vec::clear);
    named("not a signed document");

    std::fs::remove_file(&manifest).expect("remove the manifest");
    let restored = world.belay.run(["restore", "app", "--from", &world.bad, "--into", "back"]);
    assert_told(&restored, 3, &[&world.bad]);
    world.assert_good_is_restorable();
}

#[test]
fn unknown_format_is_named_whatever_else_it_changed() {
    let world = Damaged::new();
    let manifest = world.object("manifest.json");
    let mut newer = document(&manifest)["signed"].clone();
    newer["format"] = 2.into();
    std::fs::write(&manifest, signed("manifest", &newer, &world.belay)).expect("write the manifest");
    world.assert_named(&[&world.bad, "format 2 is unknown"]);
    let alien = serde_json::json!({ "format": 7, "parts": "all" });
    std::fs::write(&manifest, signed("manifest", &alien, &world.belay)).expect("write the manifest");
    world.assert_named(&[&world.bad, "format 7 is unknown"]);

    let record = world.belay.repository().join("belay.json");
    std::fs::write(&record, signed("repository", &alien, &world.belay)).expect("write the record");
    for args in [["restore", "app", "--into", "back"].as_slice(), &["snapshot"], &["verify"]] {
        assert_told(&world.belay.run(args), 4, &["belay.json", "format 7 is unknown"]);
    }
    assert_eq!(databases(&world.cluster), world.databases);
}

#[test]
fn repository_record_that_is_damaged_forged_or_lost_is_named() {
    let world = Damaged::new();
    let record = world.belay.repository().join("belay.json");
    let fails = |words: &[&str]| {
        for args in [["restore", "app", "--into", "back"].as_slice(), &["snapshot"], &["verify"]] {
            assert_told(&world.belay.run(args), 4, &[&["belay.json"], words].concat());
        }
        assert_eq!(databases(&world.cluster), world.databases);
    };
    change(&record, |bytes| flip(bytes));
    fails(&[]);
    change(&record, |bytes| bytes.truncate(20));
    fails(&["not a signed document"]);
    let stranger = initialized(Belay::new(&world.cluster, "app"));
    std::fs::copy(stranger.repository().join("belay.json"), &record).expect("put a stranger's record");
    fails(&["signed by a stranger"]);
    std::fs::remove_file(&record).expect("remove the record");
    fails(&["missing", "hint: put belay.json back"]);
    // A new record would disown every snapshot.
    assert_told(&world.belay.run(["init", "--single-recipient"]), 4, &["belay.json is missing"]);
    // Written again from what the manifests say.
    assert_told(&world.belay.run(["init", "--takeover", "--single-recipient"]), 0, &["recovery kit"]);
    world.assert_good_is_restorable();
    snapshot_of(&world.belay, "app");
    assert_eq!(world.belay.json(["list"])["snapshots"].as_array().expect("a list").len(), 3);
    world.mend();
    world.assert_good_is_restorable();
}

#[test]
fn wrong_or_missing_identity_is_named() {
    let world = Damaged::new();
    let stranger = initialized(Belay::new(&world.cluster, "app"));
    let identity = world.belay.state().join("keys/identity.txt");
    let wrong = stranger.state().join("keys/identity.txt");
    let wrong = wrong.to_str().expect("a path is text");
    let restore = ["restore", "app", "--into", "back"];
    let restored = world.belay.run(restore.into_iter().chain(["--identity", wrong]));
    assert_told(
        &restored,
        2,
        &["inventory.json.gz.age", "none of the identities given is a recipient", "hint: "],
    );
    let absent = world.belay.run(restore.into_iter().chain(["--identity", "/nonexistent"]));
    assert_told(&absent, 2, &["/nonexistent", "No such file"]);

    let kept = std::fs::read(&identity).expect("read the identity");
    std::fs::remove_file(&identity).expect("lose the identity");
    assert_told(&world.belay.run(restore), 2, &["there is no identity on this host", "hint: "]);
    assert_told(
        &world.belay.run(["verify", "--depth", "readable"]),
        2,
        &["there is no identity on this host"],
    );
    // What needs none goes on.
    assert_eq!(world.belay.run(["verify", "--depth", "stored"]).code, 0);
    assert_eq!(world.belay.run(["snapshot"]).code, 0);
    std::fs::write(&identity, kept).expect("put the identity back");
    assert_told(&world.belay.run(restore), 2, &["identity.txt", "lets others than its owner use it"]);
    assert_eq!(databases(&world.cluster), world.databases);
}
