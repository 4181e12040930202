//! What an operator asks for, or writes into settings, that cannot be done.

use std::os::unix::fs::PermissionsExt as _;

use super::{assert_told, databases, initialized, snapshot_of};
use crate::world::{Belay, a_cluster};

#[test]
fn settings_that_cannot_be_used_are_named_with_what_was_meant() {
    let cluster = a_cluster().start();
    let misspelt = Belay::with_settings(&cluster, "postgres", "lock_timout = \"1s\"\n");
    for verb in ["init", "snapshot", "verify"] {
        let refused = misspelt.run([verb]);
        assert_told(
            &refused,
            2,
            &["belay.toml", "unknown key database.app.lock_timout", "did you mean lock_timeout?"],
        );
    }
    let password = cluster.host().join("password");
    std::fs::write(&password, "secret\n").expect("write a password file");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644))
        .expect("open the password file to all");
    let exposed =
        Belay::with_settings(&cluster, "postgres", &format!("password_file = \"{}\"\n", password.display()));
    let refused = exposed.run(["snapshot"]);
    assert_told(&refused, 2, &["password_file", "open to every user of this host"]);
    assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    let absent = Belay::new(&cluster, "postgres");
    std::fs::remove_file(absent.settings()).expect("remove the settings");
    assert_told(&absent.run(["snapshot"]), 2, &["belay.toml", "No such file"]);
}

#[test]
fn repository_is_made_once_and_for_two_recipients_unless_told_otherwise() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    let belay = Belay::new(&cluster, "app");
    for args in [["snapshot"].as_slice(), &["verify"], &["restore", "app", "--into", "back"]] {
        assert_told(&belay.run(args), 2, &["hint: `belay init` makes the keys of a host"]);
    }
    assert_told(
        &belay.run(["init"]),
        2,
        &["to this host alone", "hint: ", "--offline-identity", "--single-recipient"],
    );
    assert!(!belay.repository().join("belay.json").exists());
    let belay = initialized(belay);
    let record = std::fs::read(belay.repository().join("belay.json")).expect("read the record");
    assert_told(
        &belay.run(["init", "--single-recipient"]),
        10,
        &["belay.json", "it exists already", "hint: "],
    );
    assert_eq!(std::fs::read(belay.repository().join("belay.json")).expect("read the record"), record);

    let moved = cluster.host().join("moved");
    std::fs::rename(belay.repository(), &moved).expect("take the repository away");
    for args in [["snapshot"].as_slice(), &["verify"], &["restore", "app", "--into", "back"]] {
        assert_told(&belay.run(args), 3, &["repository", "there is none", "`belay init` creates one"]);
        // As root, belay makes an empty directory for it, and that is none either.
        assert!(!belay.repository().join("prod").exists());
    }
    let _ = std::fs::remove_dir(belay.repository());
    std::fs::rename(&moved, belay.repository()).expect("put the repository back");
    assert_eq!(belay.run(["snapshot"]).code, 0);
}

#[test]
fn a_refused_init_writes_no_identity() {
    let cluster = a_cluster().start();
    let belay = initialized(Belay::new(&cluster, "app"));
    let file = belay.home().join("offline.txt");
    let init = ["init", "--offline-identity", file.to_str().expect("a path is text")];
    assert_told(&belay.run(init), 10, &["it exists already", "hint: "]);
    assert!(!file.exists());
    // What was in the way is gone: the same command works.
    std::fs::remove_dir_all(belay.repository()).expect("remove the repository");
    assert_told(&belay.run(init), 0, &["recovery kit"]);
    assert!(file.exists());
}

#[test]
fn a_restore_into_a_standby_is_refused() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", "CREATE TABLE t (a int)");
    let belay = initialized(Belay::new(&cluster, "app"));
    snapshot_of(&belay, "app");
    cluster.crash();
    std::fs::write(cluster.data().join("standby.signal"), "").expect("make it a standby");
    cluster.start_again();
    let reason = "the server is a standby (in recovery) and takes no writes";
    for args in [
        ["restore", "app", "--swap", "--plan"].as_slice(),
        &["restore", "app", "--swap"],
        &["restore", "app", "--into", "back", "--plan"],
        &["restore", "app", "--into", "back"],
        &["restore", "app", "--table", "t"],
    ] {
        assert_told(&belay.run(args), 10, &[reason]);
    }
}

#[test]
fn what_does_not_exist_is_not_found() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    let belay = initialized(Belay::new(&cluster, "app"));
    assert_told(&belay.run(["verify"]), 3, &["there is none"]);
    assert_told(&belay.run(["restore", "app", "--into", "back"]), 3, &["there is none of database app"]);
    snapshot_of(&belay, "app");
    let absent = "20010101T000000Z-aaaaaa";
    assert_told(&belay.run(["verify", absent]), 3, &[absent, "hint: "]);
    assert_told(&belay.run(["restore", "app", "--from", absent, "--into", "back"]), 3, &[absent]);
    assert_told(
        &belay.run(["restore", "app", "--from", "latest-verified", "--into", "back"]),
        3,
        &["verified"],
    );
    assert_told(&belay.run(["restore", "nosuch", "--into", "back"]), 3, &["nosuch", "there is app"]);
    assert_told(&belay.run(["snapshot", "nosuch"]), 3, &["nosuch"]);
    assert_told(&belay.run(["verify", "yesterday"]), 2, &["yesterday", "expected a snapshot's id"]);
    assert_told(
        &belay.run(["restore", "app", "--from", "before:", "--into", "back"]),
        2,
        &["a revision must follow"],
    );
    assert!(!databases(&cluster).contains("back"));
}

#[test]
fn restore_never_overwrites_nor_takes_a_name_that_is_bound() {
    let cluster = a_cluster()
        .with_setting("wal_level=logical")
        .with_setting("max_prepared_transactions=2")
        .with_setting("max_replication_slots=2")
        .start();
    cluster.create_database("app");
    cluster.psql("app", "CREATE TABLE t AS SELECT 1 AS a");
    let belay = initialized(Belay::new(&cluster, "app"));
    snapshot_of(&belay, "app");
    cluster.psql("app", "INSERT INTO t VALUES (2)");
    let before = databases(&cluster);
    assert_told(&belay.run(["restore", "app", "--into", "app"]), 10, &["a database app exists already"]);
    assert_told(&belay.run(["restore", "app", "--into", "app", "--swap"]), 2, &["--into"]);

    // In this order: a slot is made only when every transaction before it has ended.
    cluster.psql("app", "SELECT pg_create_logical_replication_slot('follower', 'test_decoding')");
    cluster.psql("app", "BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'half ''done'");
    let refused = belay.run(["restore", "app", "--swap"]);
    let reasons =
        ["prepared transaction 'half ''done' is open", "logical replication slot follower belongs to it"];
    assert_told(&refused, 10, &reasons);
    let planned = belay.run(["restore", "app", "--swap", "--plan"]);
    assert_told(&planned, 10, &reasons);
    cluster.psql("app", "COMMIT PREPARED 'half ''done'");
    assert_told(&belay.run(["restore", "app", "--swap"]), 10, &reasons[1..]);
    assert_eq!(databases(&cluster), before);
    assert_eq!(cluster.psql("app", "SELECT count(*) FROM t"), "3");

    cluster.psql("app", "SELECT pg_drop_replication_slot('follower')");
    assert_eq!(belay.run(["restore", "app", "--swap"]).code, 0);
    assert_eq!(cluster.psql("app", "SELECT count(*) FROM t"), "1");
}

#[test]
fn snapshot_from_before_a_revision_is_found_by_its_version_tables() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    let belay = initialized(Belay::new(&cluster, "app"));
    cluster.psql(
        "app",
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY); CREATE TABLE t (at text)",
    );
    for revision in ["aaa1", "bbb2", "ccc3"] {
        cluster.psql("app", &format!("DELETE FROM alembic_version; INSERT INTO alembic_version VALUES ('{revision}'); INSERT INTO t VALUES ('{revision}')"));
        snapshot_of(&belay, "app");
    }
    for (revision, into, count) in [("bbb2", "before_b", "1"), ("ccc3", "before_c", "2")] {
        let restored = belay.run(["restore", "app", "--from", &format!("before:{revision}"), "--into", into]);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        assert_eq!(cluster.psql(into, "SELECT count(*) FROM t"), count, "before:{revision}");
    }
    let none = belay.run(["restore", "app", "--from", "before:aaa1", "--into", "before_a"]);
    assert_told(&none, 3, &["from before revision aaa1"]);
    assert!(!databases(&cluster).contains("before_a"));
}
