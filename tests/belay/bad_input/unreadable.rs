//! One file that cannot be read keeps nothing else from being used.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::{TABLES, TINY, assert_told, databases, initialized, snapshot_of};
use crate::world::{Belay, a_cluster};

fn objects_of(belay: &Belay, id: &str) -> Vec<PathBuf> {
    let folder = belay.repository().join("prod/snapshots/app").join(id);
    folder.read_dir().expect("read a folder").flatten().map(|entry| entry.path()).collect()
}

fn chunks(belay: &Belay) -> usize {
    let shards = belay.repository().join("prod/chunks").read_dir().expect("there are chunks").flatten();
    shards.map(|shard| shard.path().read_dir().expect("read a folder").count()).sum()
}

#[test]
fn one_unreadable_file_of_an_old_snapshot_stops_nothing_else() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", TABLES);
    let settings = format!("{TINY}[retention]\nlitter_grace = \"0s\"\n");
    let belay = initialized(Belay::with_settings(&cluster, "app", &settings));
    let old = snapshot_of(&belay, "app");
    assert_eq!(belay.run(["verify", &old, "--depth", "stored"]).code, 0);
    cluster.psql("app", "UPDATE one SET t = t || 'x'");
    let good = snapshot_of(&belay, "app");
    let before = databases(&cluster);
    for beginning in ["manifest", "verified-"] {
        let is_meant = |path: &&PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))
        };
        let objects = objects_of(&belay, &old);
        let path = objects.iter().find(is_meant).expect("it is there");
        std::fs::set_permissions(path, Permissions::from_mode(0o000)).expect("close a file");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();

        for args in
            [["restore", "app", "--from", &good, "--into", "back"].as_slice(), &["snapshot"], &["verify"]]
        {
            assert_told(&belay.run(args), 0, &[]);
        }
        cluster.psql("postgres", "DROP DATABASE back");
        assert_told(&belay.run(["list"]), 0, &[&old, "is not listed", &name, "permission denied"]);
        assert_told(&belay.run(["check"]), 0, &[&old, &name, "see to owner, mode and disk"]);
        let stored = chunks(&belay);
        let told = ["is not believed and stays", &name, "no chunk was swept"];
        assert_told(&belay.run(["retain"]), 0, &told);
        assert_eq!(chunks(&belay), stored);
        let refused = belay.run(["restore", "app", "--from", &old, "--into", "back"]);
        assert_told(&refused, 5, &[&old, "cannot be read", &name, "hint: nothing uses it"]);
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("open a file");
    }
    assert_eq!(databases(&cluster), before);
    assert_told(&belay.run(["restore", "app", "--from", &old, "--into", "back"]), 0, &[]);
}

#[test]
fn a_repository_that_cannot_be_read_at_all_is_an_error() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    let belay = initialized(Belay::new(&cluster, "app"));
    snapshot_of(&belay, "app");
    let snapshots = belay.repository().join("prod/snapshots");
    std::fs::set_permissions(&snapshots, Permissions::from_mode(0o000)).expect("close a folder");
    let listed = belay.run(["list"]);
    std::fs::set_permissions(&snapshots, Permissions::from_mode(0o700)).expect("open a folder");
    assert_told(&listed, 5, &["permission denied", "hint: everything in the repository must be readable"]);
}
