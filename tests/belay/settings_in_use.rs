//! Connections as they are written in settings, used against a server that asks for passwords.

#![allow(clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use serde_json::Value;

use crate::world::{Belay, Cluster, Listen, Output, a_cluster, finish};

const PASSWORD: &str = "it's \\ a=\"secret\" %20";

/// A cluster that lets nobody in over TCP without the password, with `databases`.
fn a_guarded_cluster(databases: &[&str]) -> Cluster {
    let cluster =
        a_cluster().listening(Listen::Loopback).with_setting("password_encryption=scram-sha-256").start();
    for database in databases {
        cluster.create_database(database);
        cluster.psql(database, "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    }
    let password = PASSWORD.replace('\'', "''");
    cluster.psql("postgres", &format!("CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{password}'"));
    let rules = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(cluster.data().join("pg_hba.conf"), rules).expect("write pg_hba.conf");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    // The reload is asynchronous: wait until a connection without a password is refused.
    let mut attempts = 0;
    while is_let_in(&cluster) {
        attempts += 1;
        assert!(attempts < 500, "the server does not read pg_hba.conf");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    cluster
}

fn is_let_in(cluster: &Cluster) -> bool {
    let mut psql = cluster.client("psql");
    psql.env("PGHOST", "127.0.0.1").args(["-Xw", "-d", "postgres", "-c", "SELECT 1"]);
    psql.output().expect("run psql").status.success()
}

/// An installation whose settings end in `sections`.
fn an_installation(cluster: &Cluster, sections: &str) -> Belay {
    let belay = Belay::new(cluster, "unused");
    belay.write_settings(&format!(
        "[state]\ndirectory = \"{home}/state\"\n[repository]\nurl = \"file://{home}/repository\"\n[cluster]\nname = \"prod\"\n{sections}",
        home = belay.home().display()
    ));
    belay
}

fn a_secret_file(belay: &Belay, name: &str, text: &str) -> String {
    let path = belay.home().join(name);
    std::fs::write(&path, text).expect("write a secret file");
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("set the mode of a secret file");
    let owner = belay.home().metadata().expect("look at the home").uid();
    std::os::unix::fs::chown(&path, Some(owner), None).expect("chown a secret file");
    path.display().to_string()
}

fn taken_databases(output: &Output) -> Vec<String> {
    assert_eq!(output.code, 0, "{}", output.stderr);
    let object: Value = serde_json::from_str(&output.stdout).expect("it is JSON");
    let all = object["snapshots"].as_array().cloned().unwrap_or_else(|| vec![object.clone()]);
    let mut names: Vec<_> =
        all.iter().map(|one| one["database"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_way_to_write_a_connection_reaches_a_server_that_asks_for_a_password() {
    let cluster = a_guarded_cluster(&["by_url", "by_prefix", "by_service", "by_keys"]);
    let port = cluster.port();
    let belay = an_installation(&cluster, "");
    let password_file = a_secret_file(&belay, "password", &format!("{PASSWORD}\n"));
    let service =
        format!("[zoo]\nhost=127.0.0.1\nport={port}\nuser=keeper\ndbname=by_service\npassword={PASSWORD}\n");
    let service_file = a_secret_file(&belay, "services.conf", &service);
    let settings = std::fs::read_to_string(belay.settings()).expect("read the settings");
    belay.write_settings(&format!(
        "{settings}[database.a]\nurl = \"postgresql+psycopg2://keeper@127.0.0.1:{port}/by_url?sslmode=disable\"\n\
         [database.b]\nenv_prefix = \"CRONOS_AI_DB\"\n\
         [database.c]\nservice = \"zoo\"\nservice_file = \"{service_file}\"\n\
         [database.d]\nhost = \"127.0.0.1\"\nport = {port}\nname = \"by_keys\"\nuser = \"keeper\"\npassword_file = \"{password_file}\"\n"
    ));
    let run = |args: &[&str]| {
        let mut command: Command = belay.command(args);
        let prefixed =
            [("HOST", "127.0.0.1"), ("NAME", "by_prefix"), ("USER", "keeper"), ("PASSWORD", PASSWORD)];
        command.envs(prefixed.map(|(suffix, value)| (format!("CRONOS_AI_DB_{suffix}"), value)));
        command.env("CRONOS_AI_DB_PORT", port.to_string()).env("BELAY__DATABASE__A__PASSWORD", PASSWORD);
        finish(&mut command)
    };
    assert_eq!(run(&["init", "--single-recipient"]).code, 0);
    let taken = run(&["--json", "snapshot"]);
    assert_eq!(taken_databases(&taken), ["by_keys", "by_prefix", "by_service", "by_url"]);
    for (section, into) in [("a", "back_a"), ("b", "back_b"), ("c", "back_c"), ("d", "back_d")] {
        let restored = run(&["restore", section, "--into", into]);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        assert_eq!(cluster.psql(into, "SELECT count(*) FROM t"), "100");
    }
    std::fs::write(&password_file, "another\n").expect("change the password file");
    let refused = run(&["snapshot", "d"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("by_keys") && refused.stderr.contains("password_file"),
        "{}",
        refused.stderr
    );
    let told = format!("{}{}{}", taken.stdout, taken.stderr, refused.stderr);
    assert!(!told.contains(PASSWORD) && !told.contains("another"), "{told}");
}

#[test]
fn all_databases_are_taken_new_ones_too_but_for_the_exceptions() {
    let cluster = a_guarded_cluster(&["app", "Odd name", "left_out"]);
    let belay = an_installation(&cluster, "");
    let password_file = a_secret_file(&belay, "password", PASSWORD);
    let settings = std::fs::read_to_string(belay.settings()).expect("read the settings");
    belay.write_settings(&format!(
        "{settings}databases = \"all\"\nexcept = [\"left_out\"]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"keeper\"\n\
         password_file = \"{password_file}\"\n[database.main]\nname = \"app\"\njobs = 1\n",
        cluster.port()
    ));
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert_eq!(taken_databases(&belay.run(["--json", "snapshot"])), ["Odd name", "app"]);
    cluster.create_database("made_later");
    assert_eq!(taken_databases(&belay.run(["--json", "snapshot"])), ["Odd name", "app", "made_later"]);
    assert_eq!(taken_databases(&belay.run(["--json", "snapshot", "Odd name"])), ["Odd name"]);
}

#[test]
fn databases_that_belay_made_or_set_aside_are_none_of_all_databases() {
    let cluster = a_cluster().start();
    for name in ["app", "pattern"] {
        cluster.create_database(name);
        cluster.psql(name, "CREATE TABLE t AS SELECT generate_series(1, 100) AS n");
    }
    cluster.psql("postgres", "ALTER DATABASE pattern IS_TEMPLATE true");
    let belay = an_installation(&cluster, "");
    let settings = std::fs::read_to_string(belay.settings()).expect("read the settings");
    let host = cluster.host().display();
    belay.write_settings(&format!(
        "{settings}databases = \"all\"\nhost = \"{host}\"\nport = {}\n",
        cluster.port()
    ));
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    let taken = || taken_databases(&belay.run(["--json", "snapshot"]));
    assert_eq!(taken(), ["app", "pattern"], "a template of the operator's own is taken");
    let swapped = |name: &str| {
        let kept = belay.json(["restore", name, "--swap"])["previous_kept_as"].clone();
        kept.as_str().expect("it was kept").to_owned()
    };
    let (kept, kept_template) = (swapped("app"), swapped("pattern"));
    // As a restore on a bare machine would be seen.
    cluster.create_database("belay_restore_elsewhere");
    cluster.psql("postgres", "COMMENT ON DATABASE belay_restore_elsewhere IS 'belay:loading:elsewhere'");
    assert_eq!(taken(), ["app", "pattern"]);

    cluster.psql("postgres", &format!("ALTER DATABASE {kept} RENAME TO once_more"));
    assert_eq!(taken(), ["app", "once_more", "pattern"], "who renames it has it back");
    assert_eq!(cluster.psql(&kept_template, "SELECT count(*) FROM t"), "100");
}

#[test]
fn what_a_killed_restore_left_is_swept_before_all_databases_are_listed() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", "CREATE TABLE t AS SELECT n, md5(n::text) AS m FROM generate_series(1, 50000) n");
    cluster.psql("app", "CREATE INDEX ON t (m); CREATE INDEX ON t (md5(m))");
    let belay = an_installation(&cluster, "");
    let settings = std::fs::read_to_string(belay.settings()).expect("read the settings");
    let host = cluster.host().display();
    belay.write_settings(&format!(
        "{settings}databases = \"all\"\nhost = \"{host}\"\nport = {}\n",
        cluster.port()
    ));
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert_eq!(taken_databases(&belay.run(["--json", "snapshot"])), ["app"]);
    let half_loaded = || {
        let sql = "SELECT count(*) FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE 'belay:loading:%'";
        cluster.psql("postgres", sql) == "1"
    };
    let mut restore = belay.command(["restore", "app", "--into", "back"]).spawn().expect("run belay");
    while !half_loaded() {
        assert!(restore.try_wait().expect("look at belay").is_none(), "it is over before it is seen");
    }
    restore.kill().expect("kill belay");
    restore.wait().expect("wait for belay");

    assert_eq!(taken_databases(&belay.run(["--json", "snapshot"])), ["app"]);
    assert!(!half_loaded());
}
