//! Other drivers than psycopg2, and other tools than Alembic.

use std::path::{Path, PathBuf};

use super::site::{Site, assert_same, state};
use super::{ADD_AGE, alembic, an_alembic_site, an_alembic_site_with, shell, words};
use crate::world::{Environment, migration_program};

const HALF: &str = "with op.get_context().autocommit_block():\n    \
                    op.execute(\"UPDATE users SET name = 'half' WHERE id <= 5\")\nraise RuntimeError(\"no\")";

#[test]
fn asyncpg_migrates() {
    let (site, _project) = an_alembic_site(Environment::Asyncpg, ADD_AGE);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["revision_after"], serde_json::json!(["b2"]));
    assert_eq!(site.cluster.psql("app", "SELECT count(age), count(*) FROM users"), "0|200");
}

#[test]
fn what_asyncpg_left_is_undone_where_migrations_have_a_role_of_their_own() {
    let settings = "role = \"app_migrations\"\n";
    let (site, _project) = an_alembic_site_with(settings, Environment::Asyncpg, HALF);
    // As `belay check` says that such a role is to be made.
    let role = "CREATE ROLE app_migrations LOGIN SUPERUSER; ALTER ROLE app_migrations SET synchronous_commit = 'remote_apply'";
    site.cluster.psql("postgres", role);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(21, "restored");
    site.assert_restored(&ran);
}

#[test]
fn what_asyncpg_left_is_held_where_it_has_no_role_of_its_own() {
    let (site, _project) = an_alembic_site(Environment::Asyncpg, HALF);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    // Its commits look like anybody's.
    ran.assert_ended(30, "unknown");
    assert!(ran.reasons().contains("5 rows in public.users"), "{}", ran.reasons());
    assert_eq!(site.failed_databases(), Vec::<String>::new());
}

/// Writes a file of SQL that psql can run.
fn sql_file(site: &Site, text: &str) -> Vec<String> {
    let path = site.pauses.directory().join("migration.sql");
    std::fs::write(&path, text).unwrap();
    words("psql", &["-Xq", "-v", "ON_ERROR_STOP=1", "-f", &path.display().to_string()])
}

#[test]
fn a_file_of_statements_migrates() {
    let site = Site::with_gate("");
    let ran = site.migrate(&sql_file(&site, "ALTER TABLE users ADD age int; UPDATE users SET age = 7;"));
    ran.assert_ended(0, "migrated");
    assert_eq!(site.cluster.psql("app", "SELECT sum(age) FROM users"), "1400");
}

#[test]
fn half_a_file_of_statements_is_undone() {
    let site = Site::with_gate("");
    let ran = site.migrate(&sql_file(&site, "ALTER TABLE users ADD age int; SELECT 1 / 0;"));
    ran.assert_ended(21, "restored");
    site.assert_restored(&ran);

    let whole = site.migrate(&sql_file(&site, "BEGIN; ALTER TABLE users ADD age int; SELECT 1 / 0;"));
    whole.assert_ended(20, "failed_unchanged");
    site.assert_as_before();
}

#[test]
fn output_and_environment_of_the_command_are_what_it_is_promised() {
    let site = Site::with_gate("[gate.environment]\nAPP_TARGET = \"{name} at {port} as {user}\"\n");
    let seen = site.pauses.directory().join("seen");
    let script = format!(
        "printf '%s\\n' \"$PGAPPNAME\" \"$PGDATABASE\" \"$APP_TARGET\" \"$(pwd)\" >'{seen}'\n\
         psql -XAtq -d \"$DATABASE_URL\" -c 'SELECT current_database()' >>'{seen}'\necho told; exit 3",
        seen = seen.display()
    );
    let ran = site.migrate(&shell(&script));
    ran.assert_ended(20, "failed_unchanged");
    let run = ran.report["run"].as_str().unwrap();
    let port = site.cluster.port();
    let expected = format!("belay-{run}\napp\napp at {port} as postgres\n/\napp\n");
    assert_eq!(std::fs::read_to_string(seen).unwrap(), expected);
    assert!(ran.reasons().contains("status 3"), "{}", ran.reasons());
    let shown = site.belay.json(["runs", "show", run]);
    assert!(shown["output"].as_str().unwrap().contains("told"), "{shown}");
}

/// A directory of files that the command can read.
fn directory_of(site: &Site, files: &[(&str, &str)]) -> PathBuf {
    let directory = site.cluster.room("files");
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

/// A directory of migrations of yoyo, of which `0001.ages` is pending, and how they are applied.
pub fn yoyo(site: &Site) -> (PathBuf, Vec<String>) {
    let directory = directory_of(site, &[("0001.ages.sql", "ALTER TABLE users ADD age int;")]);
    let program = migration_program("yoyo");
    let apply = "apply --batch --no-config-file --database \"postgresql:///$PGDATABASE\" .";
    (directory, shell(&format!("exec '{program}' {apply}")))
}

/// Adds a migration of yoyo that commits a half and fails.
pub fn add_a_half_to_yoyo(directory: &Path) {
    let half = "-- transactional: false\nUPDATE users SET age = 7;\nSELECT 1 / 0;\n";
    std::fs::write(directory.join("0002.half.sql"), half).unwrap();
}

#[test]
fn a_tool_with_its_own_version_table_is_gated_like_alembic() {
    let site = Site::with_gate("version_table = \"_yoyo_migration\"\nversion_column = \"migration_id\"\n");
    let (directory, apply) = yoyo(&site);
    let site = site.standing_in(&directory);
    let ran = site.migrate(&apply);
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["revision_before"], serde_json::json!([]));
    assert_eq!(ran.report["revision_after"], serde_json::json!(["0001.ages"]));

    let migrated = state(&site.cluster, "app");
    add_a_half_to_yoyo(&directory);
    let failed = site.migrate(&apply);
    failed.assert_ended(21, "restored");
    assert_eq!(failed.report["revision_before"], serde_json::json!(["0001.ages"]));
    assert_same(&state(&site.cluster, "app"), &migrated);
}

const DJANGO_SETTINGS: &str = r#"import os
INSTALLED_APPS = ["shop"]
USE_TZ = True
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"],
    "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"], "USER": os.environ["PGUSER"],
}}
"#;

/// A Django project whose migration `m1` is pending, and how its migrations are applied.
pub fn django(site: &Site) -> (PathBuf, Vec<String>) {
    let first = django_migration("True", "", "'ALTER TABLE users ADD age int'");
    let files = [
        ("conf.py", DJANGO_SETTINGS),
        ("shop/__init__.py", ""),
        ("shop/migrations/__init__.py", ""),
        ("shop/migrations/m1.py", &first),
    ];
    let program = migration_program("django-admin");
    (directory_of(site, &files), words(&program, &["migrate", "--settings=conf", "--pythonpath=."]))
}

/// A migration of Django that runs `statements`, each as it stands in a list of Python.
fn django_migration(is_atomic: &str, below: &str, statements: &str) -> String {
    format!(
        "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n    atomic = {is_atomic}\n    \
         dependencies = [{below}]\n    operations = [migrations.RunSQL(sql) for sql in [{statements}]]\n"
    )
}

/// Makes a second migration of Django, which fails at its end: in a transaction, or without one.
pub fn add_a_failure_to_django(directory: &Path, is_atomic: &str) {
    let failing = django_migration(is_atomic, "('shop', 'm1')", "'UPDATE users SET age = 7', 'SELECT 1 / 0'");
    std::fs::write(directory.join("shop/migrations/m2.py"), failing).unwrap();
}

#[test]
fn django_is_gated_like_alembic() {
    let site = Site::with_gate("version_table = \"django_migrations\"\nversion_column = \"name\"\n");
    let (directory, migrate) = django(&site);
    let site = site.standing_in(&directory);
    let ran = site.migrate(&migrate);
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["revision_after"], serde_json::json!(["m1"]));

    let migrated = state(&site.cluster, "app");
    add_a_failure_to_django(&directory, "False");
    site.migrate(&migrate).assert_ended(21, "restored");
    assert_same(&state(&site.cluster, "app"), &migrated);

    add_a_failure_to_django(&directory, "True");
    site.migrate(&migrate).assert_ended(20, "failed_unchanged");
    assert_same(&state(&site.cluster, "app"), &migrated);
}
