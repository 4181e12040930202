//! Runs are kept, shown, and decided by an operator where they are held.

use serde_json::Value;

use super::site::{Site, assert_same, state};
use super::{ADD_AGE, alembic, an_alembic_site, psql, shell};
use crate::world::Environment;

/// A site with a run that left a half and is held; and the run.
fn a_held_site() -> (Site, String) {
    let site = Site::with_gate("on_failure = \"hold\"\n");
    let half = psql("UPDATE users SET name = 'half' WHERE id <= 5");
    let ran = site.migrate(&shell(&format!("{half}echo told; exit 1")));
    site.assert_held(&ran);
    let run = ran.report["run"].as_str().unwrap().to_owned();
    (site, run)
}

fn halves(site: &Site) -> String {
    site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'half'")
}

#[test]
fn a_held_run_is_put_back_when_the_operator_says_so() {
    let (site, run) = a_held_site();
    assert_eq!(halves(&site), "5");
    let resolved = site.belay.run(["runs", "resolve", &run, "--restore"]);
    assert_eq!(resolved.code, 0, "{}", resolved.stderr);
    site.assert_as_before();
    assert_eq!(site.failed_databases().len(), 1);
    assert_eq!(site.newest_run()["outcome"], "restored_by_operator");
    assert_eq!(site.is_fenced(), Some(false));
}

#[test]
fn a_held_run_is_let_be_when_the_operator_says_so() {
    let (site, run) = a_held_site();
    let held = state(&site.cluster, "app");
    let resolved = site.belay.run(["runs", "resolve", &run, "--keep"]);
    assert_eq!(resolved.code, 0, "{}", resolved.stderr);
    assert_same(&state(&site.cluster, "app"), &held);
    assert_eq!(halves(&site), "5");
    assert_eq!(site.newest_run()["outcome"], "kept_by_operator");
    assert_eq!(site.is_fenced(), Some(false));
    let again = site.belay.run(["runs", "resolve", &run, "--keep"]);
    assert_ne!(again.code, 0, "{}", again.stdout);
}

#[test]
fn what_others_committed_is_lost_only_when_the_operator_accepts_it() {
    let (site, run) = a_held_site();
    let others =
        "INSERT INTO users (email, name) VALUES ('one@example.com', 'one'), ('two@example.com', 'two')";
    site.cluster.psql("app", others);
    let count = "SELECT count(*) FROM users WHERE email LIKE '%@example.com'";

    let refused = site.belay.run(["runs", "resolve", &run, "--restore"]);
    assert_eq!(refused.code, 22, "{}{}", refused.stdout, refused.stderr);
    for told in ["1 transaction (2 rows in public.users", "--accept-loss"] {
        assert!(refused.stdout.contains(told), "{told}: {}", refused.stdout);
    }
    assert_eq!(site.cluster.psql("app", count), "2");
    assert_eq!(site.newest_run()["phase"], "held");
    assert_eq!(site.failed_databases(), Vec::<String>::new());

    let accepted = site.belay.run(["runs", "resolve", &run, "--restore", "--accept-loss"]);
    assert_eq!(accepted.code, 0, "{}{}", accepted.stdout, accepted.stderr);
    assert!(accepted.stdout.contains("is in the database that is kept aside"), "{}", accepted.stdout);
    site.assert_as_before();
    assert_eq!(site.cluster.psql(&site.failed_databases()[0], count), "2");
}

#[test]
fn a_fence_that_can_never_be_released_is_declared_down() {
    let site = Site::with_gate("");
    // As somebody's hand would leave it: what the fence calls is gone.
    let release = site.pauses.directory().join("release");
    std::fs::write(&release, "echo 'no such deployment'; exit 7\n").unwrap();
    let ran = site.migrate(&shell(&psql("ALTER TABLE users ADD age int")));
    assert_eq!(site.newest_run()["phase"], "held");
    assert!(ran.reasons().contains("--fence-is-down"), "{}", ran.told);
    let run = ran.report["run"].as_str().unwrap();

    let kept = site.belay.run(["runs", "resolve", run, "--keep"]);
    assert_ne!(kept.code, 0, "{}", kept.stdout);
    assert_eq!(site.newest_run()["phase"], "held");

    let declared = site.belay.run(["runs", "resolve", run, "--keep", "--fence-is-down"]);
    assert_eq!(declared.code, 0, "{}{}", declared.stdout, declared.stderr);
    assert_eq!(site.newest_run()["phase"], "done");
    let shown = site.belay.json(["runs", "show", run]);
    assert!(shown["declared_down"][0].as_str().unwrap().contains("status 7"), "{shown}");
    let journal = shown["journal"].as_array().unwrap();
    let last = journal.iter().rfind(|entry| entry["phase"] == "releasing").unwrap();
    assert!(last["outcome"].as_str().unwrap().contains("declared down by an operator"), "{last}");
    // The next run is not kept from beginning; its own fence stays up as well.
    site.migrate(&shell("exit 1")).assert_ended(30, "failed_unchanged");
}

#[test]
fn a_run_that_is_held_for_its_fence_alone_ends_as_it_had_ended() {
    let site = Site::with_gate("");
    let release = site.pauses.directory().join("release");
    let script = std::fs::read_to_string(&release).unwrap();
    std::fs::write(&release, "exit 7\n").unwrap();
    let half = psql("UPDATE users SET name = 'half' WHERE id <= 5");
    let ran = site.migrate(&shell(&format!("{half}exit 1")));
    // Put back it is, but the writers are still kept out: somebody has to act.
    ran.assert_ended(30, "restored");
    assert_eq!(site.newest_run()["phase"], "held");
    std::fs::write(&release, script).unwrap();
    let run = ran.report["run"].as_str().unwrap();
    let kept = site.belay.run(["runs", "resolve", run, "--keep"]);
    assert_eq!(kept.code, 0, "{}{}", kept.stdout, kept.stderr);
    assert_eq!(site.newest_run()["outcome"], "restored");
    site.assert_restored(&ran);
}

#[test]
fn a_fence_that_can_be_released_is_released_though_it_is_declared_down() {
    let (site, run) = a_held_site();
    assert_eq!(site.is_fenced(), Some(true));
    let resolved = site.belay.run(["runs", "resolve", &run, "--keep", "--fence-is-down"]);
    assert_eq!(resolved.code, 0, "{}", resolved.stderr);
    assert_eq!(site.is_fenced(), Some(false));
    assert_eq!(site.belay.json(["runs", "show", &run])["declared_down"], serde_json::json!([]));
}

#[test]
fn a_run_is_shown_with_its_journal_and_its_output() {
    let (site, run) = a_held_site();
    let shown = site.belay.json(["runs", "show", &run]);
    assert_eq!(shown["run"], run.as_str());
    assert_eq!(shown["outcome"], "restore_refused");
    assert_eq!(shown["class"], "partial");
    assert_eq!(shown["restored"], false);
    assert!(shown["output"].as_str().unwrap().contains("told"), "{shown}");
    let journal = shown["journal"].as_array().unwrap();
    let phases: Vec<_> = journal.iter().map(|entry| entry["phase"].as_str().unwrap()).collect();
    for pair in [
        ("preflight", "fencing"),
        ("fencing", "snapshotting"),
        ("armed", "migrating"),
        ("migrating", "settling"),
    ] {
        let at = |phase: &str| phases.iter().position(|it| *it == phase);
        assert!(at(pair.0).is_some() && at(pair.0) < at(pair.1), "{phases:?}");
    }
    let absent = site.belay.run(["runs", "show", "no-such-run"]);
    assert_eq!(absent.code, 3, "{}", absent.stderr);
}

#[test]
fn passwords_of_a_command_are_not_recorded_and_nothing_it_says_commands_a_terminal() {
    let site = Site::with_gate("");
    // Printed in pieces, and with what moves a cursor.
    let script = "test \"$5 $PGPASSWORD\" = 'hunter3x zorro1'; echo it is $5; printf 'postgresql://u:out'; sleep 0.2; \
        printf 'put1@h/app\\n\\033[2J\\rforged\\n'; exit 1";
    let words = [
        "env",
        "PGPASSWORD=zorro1",
        "sh",
        "-ec",
        script,
        "sh",
        "postgresql://u:s3cretpw@/app?x=y&password=qsecret9",
        "--password=hunter2",
        "x",
        "--password",
        "hunter3x",
        "host=x password='a bc' user=y",
        "--password-file=/x",
        "\u{1b}[2J\n  forged",
    ];
    let ran = site.migrate(&words.map(str::to_owned));
    ran.assert_ended(20, "failed_unchanged");
    assert!(ran.told.contains("it is ***") && ran.told.contains("postgresql://u:***@h/app"), "{}", ran.told);
    let (shown, json) =
        (site.belay.run(["runs", "show"]).stdout, site.belay.run(["--json", "runs", "show"]).stdout);
    for told in [
        "env PGPASSWORD=*** sh -ec",
        "postgresql://u:***@/app?x=y&password=*** --password=*** x --password *** host=x password='***' user=y",
        "--password-file=/x \u{fffd}[2J\u{fffd}  forged\n",
        "  | it is ***\n  | postgresql://u:***@h/app\n  | \u{fffd}[2J\u{fffd}forged\n",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert!(!shown.contains(['\u{1b}', '\r']) && !shown.contains("\n  forged"), "{shown}");
    let files = std::fs::read_dir(site.belay.state()).unwrap().map(|file| file.unwrap().path());
    let ledger: Vec<u8> =
        files.filter(|file| file.is_file()).flat_map(|file| std::fs::read(file).unwrap()).collect();
    let ledger = String::from_utf8_lossy(&ledger);
    for secret in ["s3cretpw", "qsecret9", "hunter2", "hunter3x", "zorro1", "a bc", "output1"] {
        assert!(!ran.told.contains(secret) && !json.contains(secret), "{secret}: {json}");
        assert!(!ledger.contains(secret), "{secret} is in the ledger");
    }
}

#[test]
fn runs_are_listed_the_newest_first() {
    let (site, _project) = an_alembic_site(Environment::Usual, ADD_AGE);
    let good = site.migrate(&alembic(&["upgrade", "head"]));
    let idle = site.migrate(&alembic(&["upgrade", "head"]));
    let listed = site.belay.json(["runs", "list"]);
    let runs: Vec<&Value> = listed["runs"].as_array().unwrap().iter().map(|run| &run["run"]).collect();
    assert_eq!(runs, [&idle.report["run"], &good.report["run"]]);
    assert_eq!(listed["runs"][0]["outcome"], "nothing_pending");
    assert_eq!(listed["runs"][1]["outcome"], "migrated");
}

#[test]
fn a_report_for_pipelines_tells_a_failure_as_one() {
    let site = Site::with_gate("");
    // Belay writes it as the user that it becomes.
    let file = site.pauses.directory().join("report.xml");
    let junit = ["--junit", file.to_str().unwrap()];
    site.migrate_with(&junit, &shell(&psql("ALTER TABLE users ADD age int"))).assert_ended(0, "migrated");
    let good = std::fs::read_to_string(&file).unwrap();
    assert!(good.contains("<testsuite") && good.contains("failures=\"0\""), "{good}");
    site.migrate_with(&junit, &shell("exit 1")).assert_ended(20, "failed_unchanged");
    let failed = std::fs::read_to_string(&file).unwrap();
    assert!(failed.contains("failures=\"1\"") && failed.contains("<failure"), "{failed}");
}
