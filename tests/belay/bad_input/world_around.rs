//! What PostgreSQL and its programs do not give us.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::{assert_told, initialized, snapshot_of};
use crate::world::{Belay, Cluster, Output, a_cluster, finish};

/// Programs that say that they are of PostgreSQL 12, and can do nothing else.
fn old_programs(directory: &Path) {
    for program in ["pg_dump", "pg_restore", "pg_dumpall", "psql"] {
        let path = directory.join(program);
        std::fs::write(&path, format!("#!/bin/sh\necho '{program} (PostgreSQL) 12.22'\n"))
            .expect("write a fake program");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .expect("let the fake program be run");
    }
}

/// Runs `belay` where there are no programs of PostgreSQL but those of `directory`.
fn run_with_only(belay: &Belay, directory: &Path, args: &[&str]) -> Output {
    let command = belay.command(args);
    let mut hidden = Command::new("unshare");
    let namespace = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
    let script = "mount -t tmpfs tmpfs /usr/lib/postgresql; PATH=$ONLY exec \"$@\"";
    hidden.args([namespace, "sh", "-ec", script, "sh"]).arg(command.get_program()).args(command.get_args());
    hidden.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    hidden.env("ONLY", directory).env("BELAY__CLUSTER__BIN_DIRECTORY", directory).current_dir("/");
    finish(&mut hidden)
}

#[test]
fn server_newer_than_pg_dump_is_named_with_what_to_install() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    let belay = initialized(Belay::new(&cluster, "app"));
    snapshot_of(&belay, "app");
    let only = cluster.room("only");
    old_programs(&only);
    let wanted = format!("pg_dump of version {} or newer", cluster.major());
    let hint = format!("hint: install postgresql-client-{}", cluster.major());
    for args in
        [["snapshot"].as_slice(), &["restore", "app", "--into", "back"], &["verify", "--depth", "readable"]]
    {
        let failed = run_with_only(&belay, &only, args);
        assert_told(&failed, 5, &[&wanted, "12.22", &hint]);
    }
    let databases = super::databases(&cluster);
    assert!(!databases.contains("back") && !databases.contains("belay_restore"), "{databases}");
}

#[test]
fn database_that_is_missing_is_not_found() {
    let cluster = a_cluster().start();
    let belay = initialized(Belay::new(&cluster, "gone"));
    assert_told(&belay.run(["snapshot", "app"]), 3, &["gone", "there is no such database", "hint: "]);
    assert_told(&belay.run(["verify"]), 3, &["there is none"]);
}

#[test]
fn server_that_is_not_there_is_named() {
    let cluster = a_cluster().start();
    let belay = initialized(Belay::new(&cluster, "app"));
    let settings = std::fs::read_to_string(belay.settings()).expect("read the settings");
    let port = format!("port = {}", cluster.port());
    belay.write_settings(&settings.replace(&port, "port = 1"));
    assert_told(&belay.run(["snapshot", "app"]), 5, &["connect to database app", "hint: check host, port"]);
}

#[test]
fn table_that_may_not_be_read_is_named_and_nothing_is_listed() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE ROLE reader LOGIN; CREATE TABLE open AS SELECT 1 AS a; CREATE TABLE closed AS SELECT 2 AS a;
         GRANT SELECT ON open TO reader",
    );
    let belay = Belay::new(&cluster, "app");
    let settings = std::fs::read_to_string(belay.settings()).expect("read the settings");
    belay.write_settings(&settings.replace("user = \"postgres\"", "user = \"reader\""));
    let belay = initialized(belay);
    let denied = belay.run(["snapshot", "app"]);
    assert_told(&denied, 5, &["permission denied for table closed", "hint: grant pg_read_all_data"]);
    assert_told(&belay.run(["verify"]), 3, &["there is none"]);
    cluster.psql("app", "GRANT SELECT ON closed TO reader");
    let taken = belay.run(["snapshot", "app"]);
    assert_eq!(taken.code, 0, "{}", taken.stderr);
}

/// A belay whose role may read all tables, and nothing else.
fn reading_all_tables(cluster: &Cluster) -> Belay {
    cluster.psql("app", "CREATE ROLE reader LOGIN IN ROLE pg_read_all_data");
    let belay = Belay::new(cluster, "app");
    let settings = std::fs::read_to_string(belay.settings()).expect("read the settings");
    belay.write_settings(&settings.replace("user = \"postgres\"", "user = \"reader\""));
    initialized(belay)
}

#[test]
fn large_objects_that_may_not_be_read_are_told_by_check_too() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", "SELECT lo_from_bytea(4711, 'a'), lo_from_bytea(4712, 'b')");
    let belay = reading_all_tables(&cluster);
    let hint = "hint: GRANT SELECT ON LARGE OBJECT";
    assert_told(&belay.run(["check"]), 4, &["may not read 2 large objects, such as 4711", hint]);
    assert_told(&belay.run(["snapshot"]), 5, &["permission denied for large object", hint]);
    cluster
        .psql("app", "GRANT SELECT ON LARGE OBJECT 4711 TO reader; ALTER LARGE OBJECT 4712 OWNER TO reader");
    assert_told(&belay.run(["check"]), 0, &["a run has what it needs"]);
    assert_told(&belay.run(["snapshot"]), 0, &[]);
}

#[test]
fn what_only_a_superuser_may_dump_is_told_when_it_is_left_out() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE SUBSCRIPTION news CONNECTION 'dbname=other' PUBLICATION p WITH (connect = false);
         CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w;
         CREATE USER MAPPING FOR postgres SERVER far OPTIONS (password 'x');
         CREATE SERVER open FOREIGN DATA WRAPPER w; CREATE USER MAPPING FOR PUBLIC SERVER open",
    );
    let belay = reading_all_tables(&cluster);
    let left_out = [
        "subscriptions are left out, since the role is no superuser: news",
        "user mappings are without their options, which the role may not see: postgres for server far",
    ];
    assert_told(&belay.run(["check"]), 0, &left_out);
    assert_told(&belay.run(["snapshot"]), 0, &left_out);
    assert_eq!(belay.json(["snapshot"])["notes"], serde_json::json!(left_out));
    cluster.psql("app", "ALTER ROLE reader SUPERUSER");
    assert_eq!(belay.json(["snapshot"])["notes"], serde_json::json!([]));
}
