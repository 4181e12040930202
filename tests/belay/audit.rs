//! What happened stands in the audit log, and the log cannot be edited unnoticed.

use std::process::Command;

use serde_json::Value;

use crate::world::{Belay, Cluster};

/// Nothing is kept but the newest verified snapshot.
fn a_world() -> (Cluster, Belay) {
    Belay::with_an_app("[retention]\nkeep = \"0s\"\nmin_verified = 1\n")
}

fn events(belay: &Belay) -> Vec<Value> {
    belay.json(["audit", "list", "-n", "1000"])["events"].as_array().unwrap().clone()
}

fn actions(belay: &Belay) -> Vec<String> {
    events(belay).iter().map(|row| row["event"]["action"].as_str().unwrap().to_owned()).collect()
}

/// Edits the ledger behind Belay's back, as one who may write the state directory can.
fn edit(belay: &Belay, sql: &str) {
    let script = "import sqlite3, sys\n\
                  ledger = sqlite3.connect(sys.argv[1])\n\
                  ledger.executescript('DROP TRIGGER IF EXISTS audit_is_not_edited; DROP TRIGGER IF EXISTS audit_is_not_shortened;')\n\
                  ledger.executescript(sys.argv[2])\n\
                  ledger.commit()\n";
    let ledger = belay.state().join("ledger.sqlite");
    let output = Command::new("python3").args(["-c", script]).arg(ledger).arg(sql).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn problems(belay: &Belay) -> String {
    let output = belay.run(["audit", "verify"]);
    assert_eq!(output.code, 4, "{}{}", output.stdout, output.stderr);
    output.stdout
}

#[test]
fn everything_that_happens_is_noted_with_who_did_it() {
    let (_cluster, belay) = a_world();
    let first = belay.json(["snapshot", "app"])["id"].as_str().unwrap().to_owned();
    belay.json(["pin", "latest", "--reason", "for the auditor"]);
    belay.json(["unpin", "latest"]);
    let second = belay.json(["snapshot", "app"])["id"].as_str().unwrap().to_owned();
    belay.json(["verify", "latest", "--depth", "readable"]);
    belay.json(["key", "drill"]);
    belay.json(["restore", "app", "--into", "back"]);
    belay.json(["retain"]);
    assert_eq!(belay.run(["migrate", "--db", "app", "--", "false"]).code, 20);

    let settings = std::fs::read_to_string(belay.settings()).unwrap();
    belay.write_settings(&settings.replace("min_verified = 1", "min_verified = 2"));
    let noted = actions(&belay);
    let expected = [
        "settings",
        "init",
        "snapshot",
        "pin",
        "unpin",
        "snapshot",
        "key_use",
        "verify",
        "key_use",
        "key_use",
        "restore",
        "retain",
        "remove",
        "audit_head",
        "migrate",
        "settings",
    ];
    assert_eq!(noted, expected);
    let events = events(&belay);
    assert_eq!(events[2]["event"]["subject"], first);
    assert_eq!(events[5]["event"]["subject"], second);
    assert_eq!(events[12]["event"]["subject"], first);
    assert_eq!(events[14]["event"]["outcome"], "done, failed_unchanged");
    assert!(events.iter().all(|row| !row["event"]["actor"]["user"].as_str().unwrap().is_empty()));
    let verified = belay.json(["audit", "verify"]);
    assert_eq!(verified["rows"], expected.len());
    assert_eq!(verified["heads"], 1);

    let lines = belay.run(["audit", "export"]).stdout;
    let exported: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(exported, events);
}

#[test]
fn a_ci_system_and_sudo_are_named() {
    let (_cluster, belay) = a_world();
    let mut command = belay.command(["snapshot", "app"]);
    command.env("SUDO_USER", "alice").env("GITHUB_ACTOR", "bob").env("GITHUB_RUN_ID", "17");
    assert!(command.output().unwrap().status.success());
    let actor = &events(&belay).pop().unwrap()["event"]["actor"];
    assert_eq!(actor["sudo_user"], "alice");
    assert_eq!(actor["ci"]["GITHUB_RUN_ID"], "17");
}

#[test]
fn the_log_refuses_edits_and_tells_of_those_that_were_forced() {
    let (_cluster, belay) = a_world();
    belay.json(["snapshot", "app"]);
    belay.json(["retain"]);
    assert_eq!(belay.run(["audit", "verify"]).code, 0);
    let rows = events(&belay).len();

    edit(&belay, "UPDATE audit SET event = replace(event, 'snapshot', 'snapshop') WHERE number = 3");
    assert!(problems(&belay).contains("row 3 was edited"));

    edit(&belay, "DELETE FROM audit WHERE number = 2");
    assert!(problems(&belay).contains("row 2 is missing"));

    edit(&belay, &format!("DELETE FROM audit WHERE number = {rows}"));
    assert!(problems(&belay).contains(&format!("row {rows} is missing")));

    // The whole log made anew fits itself, and not the head that was signed before.
    edit(&belay, "DELETE FROM audit; DELETE FROM sqlite_sequence WHERE name = 'audit'");
    belay.json(["snapshot", "app"]);
    assert!(problems(&belay).contains("the log was begun anew"));
}
