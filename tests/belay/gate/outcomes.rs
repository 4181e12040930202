//! What a command says of itself and what it did are two things; the database tells.

use super::site::{assert_same, state};
use super::{ADD_AGE, alembic, an_alembic_site, an_alembic_site_with};
use crate::world::{Environment, Revision};

/// Runs statements in an `autocommit_block`, of which each is committed by itself.
fn autocommitted(statements: &[&str]) -> String {
    let lines = statements.iter().map(|sql| format!("    op.execute({sql:?})\n"));
    format!("with op.get_context().autocommit_block():\n{}", lines.collect::<String>())
}

const RAISE: &str = "raise RuntimeError(\"something is wrong here\")";

#[test]
fn a_failure_inside_a_transaction_changes_nothing() {
    let (site, _project) = an_alembic_site(Environment::Usual, &format!("{ADD_AGE}\n{RAISE}"));
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(20, "failed_unchanged");
    assert_eq!(ran.report["class"], "unchanged");
    assert_eq!(ran.report["restored"], false);
    assert_eq!(ran.report["revision_after"], serde_json::json!(["a1"]));
    site.assert_as_before();
    assert_eq!(site.failed_databases(), Vec::<String>::new());
    assert_eq!(site.is_fenced(), Some(false));
}

#[test]
fn a_failure_after_committed_rows_is_undone() {
    let half = autocommitted(&["UPDATE users SET name = 'half' WHERE id <= 5"]);
    let (site, _project) = an_alembic_site(Environment::Usual, &format!("{half}{RAISE}"));
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(21, "restored");
    assert_eq!(ran.report["class"], "partial");
    assert!(ran.reasons().contains("users"), "{}", ran.reasons());
    site.assert_restored(&ran);
    let failed = &site.failed_databases()[0];
    assert_eq!(site.cluster.psql(failed, "SELECT count(*) FROM users WHERE name = 'half'"), "5");
}

#[test]
fn revisions_that_are_committed_before_one_fails_are_undone() {
    let (site, project) = an_alembic_site(Environment::TransactionPerMigration, ADD_AGE);
    project.add(&Revision { id: "c3", down: "b2", upgrade: RAISE, downgrade: "", docstring: "" });
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(21, "restored");
    assert_eq!(ran.report["revision_before"], serde_json::json!(["a1"]));
    site.assert_restored(&ran);
    let failed = &site.failed_databases()[0];
    assert_eq!(site.cluster.psql(failed, "SELECT version_num FROM alembic_version"), "b2");
}

#[test]
fn an_index_that_was_not_built_to_its_end_does_not_stay() {
    let build = autocommitted(&["CREATE UNIQUE INDEX CONCURRENTLY users_by_name ON users (name)"]);
    let (site, _project) = an_alembic_site(Environment::Usual, &build);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(21, "restored");
    site.assert_restored(&ran);
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(site.cluster.psql(&site.failed_databases()[0], invalid), "1");
    assert_eq!(site.cluster.psql("app", invalid), "0");
}

#[test]
fn a_dropped_table_comes_back() {
    let drop = autocommitted(&["DROP TABLE orders CASCADE"]);
    let (site, _project) = an_alembic_site(Environment::Usual, &format!("{drop}{RAISE}"));
    let ran = site.migrate_with(&["--allow-breaking"], &alembic(&["upgrade", "head"]));
    ran.assert_ended(21, "restored");
    site.assert_restored(&ran);
    assert_eq!(site.cluster.psql("app", "SELECT count(*), sum(total) FROM orders"), "500|156562.50");
}

#[test]
fn success_of_a_revision_that_left_early_is_not_believed() {
    let (site, _project) =
        an_alembic_site(Environment::Usual, &format!("{ADD_AGE}\nimport sys\nsys.exit(0)"));
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(24, "false_success");
    assert_eq!(ran.report["class"], "false_success");
    site.assert_as_before();
    assert_eq!(site.failed_databases(), Vec::<String>::new());
}

#[test]
fn success_without_a_commit_is_not_believed() {
    let (site, _project) = an_alembic_site(Environment::TouchedBeforeConfigure, ADD_AGE);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(24, "false_success");
    site.assert_as_before();
}

#[test]
fn a_migration_that_is_applied_is_kept_though_the_command_failed() {
    let (site, _project) = an_alembic_site(Environment::RaisingAfterwards, ADD_AGE);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(26, "applied_with_error");
    assert_eq!(ran.report["class"], "applied_with_error");
    assert_eq!(ran.report["restored"], false);
    assert_eq!(ran.report["revision_after"], serde_json::json!(["b2"]));
    assert_eq!(site.cluster.psql("app", "SELECT count(age), count(*) FROM users"), "0|200");
    assert_eq!(site.is_fenced(), Some(false));
}

#[test]
fn a_stamp_counts_as_done_unless_settings_say_otherwise() {
    let (site, _project) = an_alembic_site(Environment::Usual, ADD_AGE);
    let ran = site.migrate(&alembic(&["stamp", "head"]));
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["class"], "stamped");
    assert_eq!(site.cluster.psql("app", "SELECT version_num FROM alembic_version"), "b2");

    let (site, _project) = an_alembic_site_with("stamped = \"refuse\"\n", Environment::Usual, ADD_AGE);
    let ran = site.migrate(&alembic(&["stamp", "head"]));
    // The table of exit codes has no line for it: it is the policy's check that fails.
    ran.assert_ended(25, "checks_failed");
    assert_eq!(ran.report["class"], "stamped");
    site.assert_restored(&ran);
}

#[test]
fn a_migration_of_one_schema_of_several_is_not_undone() {
    for rehearsal in [&[][..], &["--rehearse"]] {
        let (site, _project) = an_alembic_site(Environment::Usual, ADD_AGE);
        site.cluster.psql("app", "CREATE SCHEMA tenant");
        site.cluster.psql("app", "CREATE TABLE tenant.alembic_version AS SELECT * FROM alembic_version");
        let ran = site.migrate_with(rehearsal, &alembic(&["upgrade", "head"]));
        ran.assert_ended(0, "migrated");
        assert_eq!(ran.report["class"], "success", "{}", ran.told);
        assert_eq!(ran.report["revision_before"], serde_json::json!(["public:a1", "tenant:a1"]));
        assert_eq!(ran.report["revision_after"], serde_json::json!(["public:b2", "tenant:a1"]));
    }
}

#[test]
fn a_merge_of_heads_is_no_stamp() {
    let (site, project) = an_alembic_site_with("stamped = \"refuse\"\n", Environment::Usual, ADD_AGE);
    let other = Revision { id: "c3", down: "a1", upgrade: "", downgrade: "", docstring: "another head" };
    project.add(&other);
    site.cluster.psql("app", "UPDATE alembic_version SET version_num = 'b2'");
    site.cluster.psql("app", "INSERT INTO alembic_version VALUES ('c3')");
    project.merge("d4");
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["class"], "success", "{}", ran.told);
    assert_eq!(ran.report["revision_after"], serde_json::json!(["d4"]));
    let unmerged = site.migrate(&alembic(&["downgrade", "b2"]));
    unmerged.assert_ended(0, "migrated");
    // A command that says nothing of what it does moves only the revision too, and is a stamp still.
    let ran = site.migrate(&alembic(&["stamp", "d4"]));
    ran.assert_ended(25, "checks_failed");
}

#[test]
fn a_migration_whose_check_fails_is_undone() {
    let check = "[[gate.check]]\nname = \"no user is renamed\"\n\
                 sql = \"SELECT count(*) FROM users WHERE name LIKE 'name %'\"\nexpect = \"= before\"\n";
    let renames = format!("{ADD_AGE}\nop.execute(\"UPDATE users SET name = 'x' WHERE id <= 3\")");
    let (site, _project) = an_alembic_site_with(check, Environment::Usual, &renames);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(25, "checks_failed");
    assert!(ran.reasons().contains("no user is renamed"), "{}", ran.reasons());
    assert!(ran.reasons().contains("200") && ran.reasons().contains("197"), "{}", ran.reasons());
    site.assert_restored(&ran);
}

#[test]
fn nothing_is_done_where_nothing_is_pending() {
    let (site, _project) = an_alembic_site(Environment::Usual, ADD_AGE);
    let ran = site.migrate(&alembic(&["upgrade", "a1"]));
    ran.assert_ended(0, "nothing_pending");
    site.assert_as_before();
    assert_eq!(site.failed_databases(), Vec::<String>::new());
}

#[test]
fn a_good_migration_is_checked_and_let_out() {
    let check = "[[gate.check]]\nname = \"orders stay\"\nsql = \"SELECT count(*) FROM orders\"\nexpect = \"unchanged\"\n\
                 [[gate.check]]\nname = \"smoke\"\ncommand = [\"true\"]\n";
    let (site, _project) = an_alembic_site_with(check, Environment::Usual, ADD_AGE);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["class"], "success");
    assert_eq!(ran.report["revision_before"], serde_json::json!(["a1"]));
    assert_eq!(ran.report["revision_after"], serde_json::json!(["b2"]));
    assert_eq!(ran.report["restored"], false);
    let phases = ran.phases();
    for phase in ["preflight", "fencing", "snapshotting", "verifying", "armed", "migrating", "settling"] {
        assert!(phases.contains(&phase.into()), "{phases:?}");
    }
    assert_eq!(site.cluster.psql("app", "SELECT count(age), count(*) FROM users"), "0|200");
    assert_eq!(site.is_fenced(), Some(false));
    assert_eq!(site.failed_databases(), Vec::<String>::new());
    let snapshot = ran.report["snapshot"].as_str().unwrap();
    let restored = site.belay.run(["restore", "app", "--from", snapshot, "--into", "back"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(site.cluster.psql("back", "SELECT version_num FROM alembic_version"), "a1");
}

#[test]
fn a_downgrade_is_gated_like_an_upgrade() {
    let (site, project) = an_alembic_site(Environment::Usual, ADD_AGE);
    site.migrate(&alembic(&["upgrade", "head"])).assert_ended(0, "migrated");
    let down = site.migrate_with(&["--allow-breaking"], &alembic(&["downgrade", "-1"]));
    down.assert_ended(0, "migrated");
    assert_eq!(down.report["revision_after"], serde_json::json!(["a1"]));

    let half = autocommitted(&["ALTER TABLE users DROP COLUMN age", "DELETE FROM orders"]);
    let downgrade = &format!("{half}{RAISE}");
    project.add(&Revision { id: "b2", down: "a1", upgrade: ADD_AGE, downgrade, docstring: "" });
    site.migrate(&alembic(&["upgrade", "head"])).assert_ended(0, "migrated");
    let migrated = state(&site.cluster, "app");
    let failed = site.migrate_with(&["--allow-breaking"], &alembic(&["downgrade", "-1"]));
    failed.assert_ended(21, "restored");
    assert_same(&state(&site.cluster, "app"), &migrated);
}
