//! A rehearsal tries the same command on a copy, and the database has no part in it.

use rstest::rstest;

use super::site::Site;
use super::{ADD_AGE, alembic, an_alembic_site, psql, shell};
use crate::world::Environment;

/// How a migration ends that fails on its copy, which the table of exit codes has no line for: the
/// database is proven unchanged, since the command was never started on it.
const REHEARSAL_FAILED: [i32; 2] = [11, 20];

/// A migration that counts how often it was begun, and then does what `script` says.
fn counted(site: &Site, script: &str) -> Vec<String> {
    let counter = site.pauses.directory().join("begun");
    shell(&format!(
        "echo begun >>'{counter}'\ntimes=$(wc -l <'{counter}')\n{script}",
        counter = counter.display()
    ))
}

fn times_begun(site: &Site) -> usize {
    std::fs::read_to_string(site.pauses.directory().join("begun")).unwrap_or_default().lines().count()
}

#[test]
fn a_migration_that_is_rehearsed_well_is_carried_out() {
    let (site, _project) = an_alembic_site(Environment::Usual, ADD_AGE);
    let ran = site.migrate_with(&["--rehearse"], &alembic(&["upgrade", "head"]));
    ran.assert_ended(0, "migrated");
    let phases = ran.phases();
    let at = |phase: &str| phases.iter().position(|it| it == phase);
    assert!(at("rehearsing").is_some() && at("rehearsing") < at("migrating"), "{phases:?}");
    assert_eq!(ran.report["revision_after"], serde_json::json!(["b2"]));
    assert_eq!(site.cluster.psql("app", "SELECT count(age), count(*) FROM users"), "0|200");
}

#[test]
fn settings_can_ask_for_a_rehearsal() {
    let site = Site::with_gate("rehearse = true\n");
    let ran = site.migrate(&counted(&site, &psql("ALTER TABLE users ADD age int")));
    ran.assert_ended(0, "migrated");
    assert_eq!(times_begun(&site), 2);
}

#[test]
fn a_migration_that_fails_on_the_copy_is_not_begun_on_the_database() {
    let site = Site::with_gate("");
    let half = psql("UPDATE users SET name = 'half'");
    let ran = site.migrate_with(&["--rehearse"], &counted(&site, &format!("{half}exit 1")));
    assert!(REHEARSAL_FAILED.contains(&ran.code), "{}", ran.told);
    assert_eq!(ran.report["outcome"], "rehearsal_failed", "{}", ran.told);
    assert!(!ran.phases().contains(&"migrating".into()), "{:?}", ran.phases());
    assert_eq!(times_begun(&site), 1);
    site.assert_as_before();
    assert_eq!(site.is_fenced(), Some(false));
    assert_eq!(site.failed_databases(), Vec::<String>::new());
}

#[test]
fn a_rehearsal_alone_changes_nothing() {
    let site = Site::with_gate("");
    let ran =
        site.migrate_with(&["--rehearse-only"], &counted(&site, &psql("ALTER TABLE users ADD age int")));
    ran.assert_ended(0, "rehearsed");
    assert_eq!(times_begun(&site), 1);
    assert!(!ran.phases().contains(&"migrating".into()), "{:?}", ran.phases());
    site.assert_as_before();
}

/// A statement on the database itself, whatever the environment says, by a client without a name.
fn hard_wired(site: &Site, options: &str, statement: &str) -> Vec<String> {
    let (host, port) = (site.cluster.host().display(), site.cluster.port());
    shell(&format!(
        "PGAPPNAME=hardwired PGHOST='{host}' PGPORT={port} PGUSER=postgres {options} psql -d app -Xq -v ON_ERROR_STOP=1 -c \"{statement}\""
    ))
}

#[rstest]
#[case::by_its_mark("", "UPDATE users SET name = 'strayed' WHERE id <= 3", "3 rows in public.users")]
#[case::by_the_revision("PGOPTIONS=", "UPDATE alembic_version SET version_num = 'b2'", "was a1 and is b2")]
fn a_rehearsal_that_changed_the_database_itself_is_held(
    #[case] options: &str,
    #[case] statement: &str,
    #[case] told: &str,
) {
    let site = Site::with_gate("");
    let ran = site.migrate_with(&["--rehearse-only"], &hard_wired(&site, options, statement));
    ran.assert_ended(30, "unknown");
    assert!(ran.reasons().contains(told), "{}", ran.reasons());
    assert!(ran.reasons().contains("elsewhere than its environment"), "{}", ran.reasons());
    assert_eq!(site.newest_run()["phase"], "held");
    // The snapshot was taken before, and an operator can go back to it.
    let run = ran.report["run"].as_str().unwrap();
    let resolved = site.belay.run(["runs", "resolve", run, "--restore", "--accept-loss"]);
    assert_eq!(resolved.code, 0, "{}{}", resolved.stdout, resolved.stderr);
    site.assert_as_before();
}

#[test]
fn a_rehearsal_fails_where_the_schema_of_the_database_itself_changed() {
    let site = Site::with_gate("");
    let words = hard_wired(&site, "PGOPTIONS=", "ALTER TABLE users ADD strayed int");
    let ran = site.migrate_with(&["--rehearse-only"], &words);
    ran.assert_ended(20, "rehearsal_failed");
    assert!(ran.reasons().contains("schema of the database itself changed"), "{}", ran.reasons());
}

#[test]
fn a_migration_that_goes_another_way_than_its_rehearsal_is_undone() {
    let site = Site::with_gate("");
    let script = format!(
        "{}[ $times -eq 1 ] || {}",
        psql("ALTER TABLE users ADD age int"),
        psql("ALTER TABLE users ADD height int")
    );
    let ran = site.migrate_with(&["--rehearse"], &counted(&site, &script));
    ran.assert_ended(21, "restored");
    assert!(ran.reasons().contains("rehearsal"), "{}", ran.reasons());
    site.assert_restored(&ran);
}

#[test]
fn a_way_down_that_leaves_something_behind_fails_the_rehearsal() {
    let settings = |down: &str| {
        format!("rehearse_cycle = \"up-down-up\"\nrehearse_down = [\"psql\", \"-Xqc\", \"{down}\"]\n")
    };
    let up = psql("ALTER TABLE users ADD age int");
    let good = Site::with_gate(&settings("ALTER TABLE users DROP age"));
    let ran = good.migrate_with(&["--rehearse"], &counted(&good, &up));
    ran.assert_ended(0, "migrated");
    assert_eq!(times_begun(&good), 3);

    // The column is still there when the command runs again.
    let bad = Site::with_gate(&settings("SELECT 1"));
    let ran = bad.migrate_with(&["--rehearse"], &counted(&bad, &up));
    assert!(REHEARSAL_FAILED.contains(&ran.code), "{}", ran.told);
    bad.assert_as_before();
}
