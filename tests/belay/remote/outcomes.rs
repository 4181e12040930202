//! Every end that a gate has, it has for a runner elsewhere: same report, same exit code.

use super::site::Remote;
use crate::gate::site::{Ran, Site, assert_same, state};
use crate::gate::{ADD_AGE, alembic, an_alembic_site_with, psql, shell};
use crate::world::{Environment, Revision, finish};

const RAISE: &str = "raise RuntimeError(\"something is wrong here\")";

fn with_alembic(settings: &str, environment: Environment, upgrade: &str) -> Remote {
    let (site, project) = an_alembic_site_with(settings, environment, upgrade);
    Remote::standing_in(site, project.directory()).start()
}

fn half() -> String {
    let sql = "UPDATE users SET name = 'half' WHERE id <= 5";
    format!("with op.get_context().autocommit_block():\n    op.execute({sql:?})\n")
}

#[test]
fn a_good_migration_is_migrated_and_told_as_a_local_one() {
    let remote = with_alembic("", Environment::Usual, ADD_AGE);
    let ran = remote.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["class"], "success");
    assert_eq!(ran.report["revision_before"], serde_json::json!(["a1"]));
    assert_eq!(ran.report["revision_after"], serde_json::json!(["b2"]));
    assert_eq!(ran.report["pending"][0]["id"], "b2", "{}", ran.report);
    assert_eq!(ran.report["foreign_sessions"], serde_json::json!([]));
    let local = ["preflight", "fencing", "snapshotting", "armed", "migrating", "settling", "releasing"];
    assert!(local.iter().all(|phase| ran.phases().contains(&(*phase).to_owned())), "{:?}", ran.phases());
    assert!(ran.told.contains("migrate app: migrating"), "{}", ran.told);
    assert_eq!(remote.site.is_fenced(), Some(false));
    let again = remote.migrate(&alembic(&["upgrade", "head"]));
    again.assert_ended(0, "nothing_pending");
}

#[test]
fn a_migration_that_failed_in_its_transaction_changed_nothing() {
    let remote = with_alembic("", Environment::Usual, &format!("{ADD_AGE}\n{RAISE}"));
    let ran = remote.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(20, "failed_unchanged");
    remote.site.assert_as_before();
    let shown = remote.site.belay.run(["runs", "show"]);
    assert!(shown.stdout.contains("something is wrong here"), "the output came up: {}", shown.stdout);
    assert!(ran.told.contains("something is wrong here"), "{}", ran.told);
}

#[test]
fn a_half_is_put_back() {
    let remote = with_alembic("", Environment::Usual, &format!("{}{RAISE}", half()));
    let ran = remote.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(21, "restored");
    remote.site.assert_restored(&ran);
}

#[test]
fn a_half_that_others_wrote_beside_is_held() {
    let remote =
        with_alembic("consistency = \"unfenced\"", Environment::Usual, &format!("{}{RAISE}", half()));
    let ran = remote.migrate(&alembic(&["upgrade", "head"]));
    remote.site.assert_held(&ran);
}

#[test]
fn success_that_is_none_is_not_believed() {
    let upgrade = format!("{ADD_AGE}\nimport sys\nsys.exit(0)");
    let remote = with_alembic("", Environment::Usual, &upgrade);
    remote.migrate(&alembic(&["upgrade", "head"])).assert_ended(24, "false_success");
    remote.site.assert_as_before();
}

#[test]
fn failed_checks_put_back() {
    let check = "[[gate.check]]\nname = \"users\"\nsql = \"SELECT count(*) FROM users\"\nexpect = \"= 7\"\n";
    let remote = with_alembic(check, Environment::Usual, ADD_AGE);
    let ran = remote.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(25, "checks_failed");
    remote.site.assert_restored(&ran);
}

#[test]
fn what_is_applied_in_spite_of_an_error_stays() {
    let remote = with_alembic("", Environment::RaisingAfterwards, ADD_AGE);
    remote.migrate(&alembic(&["upgrade", "head"])).assert_ended(26, "applied_with_error");
}

#[test]
fn breaking_changes_of_the_runners_checkout_are_refused() {
    let (site, project) = an_alembic_site_with("", Environment::Usual, ADD_AGE);
    project.add(&Revision {
        id: "c3",
        down: "b2",
        upgrade: "pass",
        downgrade: "",
        docstring: "drop\n\nBREAKING CHANGE: old clients",
    });
    let remote = Remote::standing_in(site, project.directory()).start();
    let words = alembic(&["upgrade", "head"]);
    let refused = remote.migrate(&words);
    refused.assert_ended(10, "refused");
    assert!(refused.reasons().contains("old clients"), "{}", refused.told);
    assert_eq!(remote.site.is_fenced(), None);
    remote.migrate_with(&["--allow-breaking"], &words).assert_ended(0, "migrated");
}

#[test]
fn a_command_that_is_not_there_opens_no_gate() {
    let remote = Remote::of(Site::with_gate("")).start();
    remote.migrate(&["no-such-program".to_owned()]).assert_refused(10, &["no-such-program"]);
    assert!(remote.site.newest_run().is_null());
}

#[test]
fn a_fence_that_fails_is_undone() {
    let remote = Remote::of(Site::with_gate("fence_timeout = \"5s\"")).start();
    std::fs::write(remote.site.pauses.directory().join("raise"), "exit 1").unwrap();
    remote.migrate(&shell("true")).assert_ended(13, "fence_failed");
    remote.site.assert_as_before();
}

#[test]
fn a_second_runner_is_told_that_the_database_is_busy() {
    let remote = Remote::of(Site::with_gate("")).start();
    remote.site.pauses.stop_at("command");
    let script = shell(&remote.site.pauses.shell("command"));
    let mut first = remote.begin(&script);
    first.wait_at(&remote.site.pauses, "command");
    let second = remote.migrate(&shell("true"));
    let run = remote.site.newest_run()["run"].as_str().unwrap().to_owned();
    second.assert_refused(12, &["another run holds it", &run, "belay runs list", "on the database host"]);
    assert!(!second.told.contains("process"), "the daemon is no run: {}", second.told);
    remote.site.pauses.go_on();
    first.ran().assert_ended(0, "nothing_pending");
}

#[test]
fn a_rehearsal_is_refused_with_a_hint() {
    let remote = Remote::of(Site::with_gate("")).start();
    let ran = remote.migrate_with(&["--rehearse"], &shell("true"));
    ran.assert_refused(10, &["scratch copy", "hint"]);
    let remote = Remote::of(Site::with_gate("rehearse = true")).start();
    remote.migrate(&shell("true")).assert_refused(10, &["rehearse = true", "hint"]);
    assert!(remote.site.newest_run().is_null());
}

#[test]
fn a_command_that_takes_too_long_is_ended_and_put_back() {
    let remote = Remote::of(Site::with_gate("timeout = \"3s\"")).start();
    let script = format!("{}exec sleep 600", psql("UPDATE users SET name = 'half' WHERE id <= 5"));
    let ran = remote.migrate(&shell(&script));
    ran.assert_ended(21, "restored");
    assert!(ran.reasons().contains("ran longer than it may"), "{}", ran.reasons());
}

#[test]
fn the_command_has_its_own_address_and_the_marks_of_the_run() {
    let remote = Remote::of(Site::with_gate("")).start();
    let script = shell(
        "echo app=$PGAPPNAME run=$BELAY_RUN options=$PGOPTIONS host=$PGHOST; psql -Xqc 'CREATE TABLE extra ()'",
    );
    let mut command = remote.command(&[], &script);
    command.env("PGOPTIONS", "-c work_mem=5MB").env("PGPASSWORD", "hunter22");
    let ran = Ran::of(&finish(&mut command));
    ran.assert_ended(0, "migrated");
    let run = ran.report["run"].as_str().unwrap();
    assert!(ran.told.contains(&format!("app=belay-{run} run={run} ")), "{}", ran.told);
    assert!(ran.told.contains("remote_apply") && ran.told.contains("work_mem=5MB"), "{}", ran.told);
    let host = remote.site.cluster.host().display().to_string();
    assert!(ran.told.contains(&format!("host={host}")), "{}", ran.told);
}

#[test]
fn secrets_of_the_runner_do_not_come_up() {
    let remote = Remote::of(Site::with_gate("")).start();
    let mut command = remote.command(&[], &shell("echo the password is $PGPASSWORD; exit 1 # hunter22"));
    command.env("PGPASSWORD", "hunter22");
    let ran = Ran::of(&finish(&mut command));
    assert!(ran.told.contains("the password is ***"), "{}", ran.told);
    let shown = remote.site.belay.run(["--json", "runs", "show"]);
    assert!(shown.stdout.contains("the password is ***"), "{}", shown.stdout);
    assert!(!ran.told.contains("hunter22") && !shown.stdout.contains("hunter22"), "{}", shown.stdout);
}

#[test]
fn what_a_long_command_writes_comes_up_whole() {
    let remote = Remote::of(Site::with_gate("")).start();
    let ran = remote.migrate(&shell("seq 1 100000; exit 1"));
    ran.assert_ended(20, "failed_unchanged");
    let shown = remote.site.belay.json(["runs", "show"]);
    let output = shown["output"].as_str().unwrap();
    assert_eq!(output.lines().count(), 100_000);
    assert!(output.ends_with("99999\n100000\n"));
}

#[test]
fn the_audit_log_says_who_opened_the_gate() {
    let remote = Remote::of(Site::with_gate("")).start();
    remote.migrate(&shell("true")).assert_ended(0, "nothing_pending");
    let events = remote.audit();
    for action in ["gate_open", "gate_claim", "migrate"] {
        let event = events.iter().find(|event| event["action"] == action);
        let event = event.unwrap_or_else(|| panic!("no {action}: {events:?}"));
        assert_eq!(event["actor"]["token"], "runner", "{event}");
    }
    let opened = events.iter().find(|event| event["action"] == "gate_open").unwrap();
    assert_eq!(opened["actor"]["ci"]["GITHUB_ACTOR"], "octocat", "{opened}");
}

#[test]
fn reports_for_pipelines_are_written_on_the_runner() {
    let remote = Remote::of(Site::with_gate("")).start();
    let room = remote.site.cluster.room("reports");
    let junit = room.join("junit.xml");
    let mut command = remote.command(&["--junit", junit.to_str().unwrap()], &shell("exit 3"));
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_OUTPUT", room.join("outputs"));
    let ran = Ran::of(&finish(&mut command));
    ran.assert_ended(20, "failed_unchanged");
    assert!(std::fs::read_to_string(&junit).unwrap().contains("exited with status 3"));
    assert!(std::fs::read_to_string(room.join("outputs")).unwrap().contains("outcome=failed_unchanged"));
    assert!(ran.told.contains("::error"), "{}", ran.told);
}

#[test]
fn a_gate_over_a_database_leaves_it_as_it_was() {
    let remote = Remote::of(Site::with_gate("")).start();
    remote.migrate(&shell("exit 1")).assert_ended(20, "failed_unchanged");
    assert_same(&state(&remote.site.cluster, "app"), &remote.site.before);
}
