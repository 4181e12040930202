//! What migration tools do without a gate: the facts that the other tests of it rest on.

use std::process::Command;

use rstest::rstest;

use super::site::Site;
use super::{ADD_AGE, alembic, an_alembic_site, psql, shell, tools};
use crate::world::{Environment, Output, finish};

/// Runs a command in `app` as `belay` would, without it.
fn run(site: &Site, directory: &std::path::Path, words: &[String]) -> Output {
    let client = site.cluster.client("psql");
    let variables = client.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let host = site.cluster.host().display().to_string().replace('/', "%2F");
    let url = format!("postgresql://postgres@/app?host={host}&port={}", site.cluster.port());
    let mut command = Command::new(&words[0]);
    let path = format!("{}:/usr/bin:/bin", site.cluster.programs().display());
    command
        .args(&words[1..])
        .envs(variables)
        .env("PGDATABASE", "app")
        .env("DATABASE_URL", url)
        .env("PATH", path);
    finish(command.current_dir(directory))
}

const RAISE: &str = "raise RuntimeError(\"something is wrong here\")";

#[rstest]
#[case::good(Environment::Usual, ADD_AGE, 0, "b2")]
#[case::good_by_asyncpg(Environment::Asyncpg, ADD_AGE, 0, "b2")]
#[case::failing(Environment::Usual, RAISE, 1, "a1")]
#[case::failing_by_asyncpg(Environment::Asyncpg, RAISE, 1, "a1")]
#[case::leaving_early(Environment::Usual, "import sys\nsys.exit(0)", 0, "a1")]
#[case::touched_before(Environment::TouchedBeforeConfigure, ADD_AGE, 0, "a1")]
#[case::raising_afterwards(Environment::RaisingAfterwards, ADD_AGE, 1, "b2")]
#[case::a_transaction_each(Environment::TransactionPerMigration, ADD_AGE, 0, "b2")]
fn the_status_of_alembic_and_what_it_committed_are_two_things(
    #[case] environment: Environment,
    #[case] upgrade: &str,
    #[case] status: i32,
    #[case] revision: &str,
) {
    let (site, project) = an_alembic_site(environment, upgrade);
    let ran = run(&site, project.directory(), &alembic(&["upgrade", "head"]));
    assert_eq!(ran.code, status, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(site.cluster.psql("app", "SELECT version_num FROM alembic_version"), revision);
}

#[rstest]
#[case::usual(Environment::Usual)]
#[case::asyncpg(Environment::Asyncpg)]
fn what_an_autocommit_block_did_stays(#[case] environment: Environment) {
    let half = "with op.get_context().autocommit_block():\n    \
                op.execute(\"UPDATE users SET name = 'half' WHERE id <= 5\")\n";
    let (site, project) = an_alembic_site(environment, &format!("{half}{RAISE}"));
    let ran = run(&site, project.directory(), &alembic(&["upgrade", "head"]));
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'half'"), "5");
}

#[rstest]
#[case::yoyo("SELECT string_agg(migration_id, ',') FROM _yoyo_migration", "0001.ages")]
#[case::django("SELECT string_agg(name, ',') FROM django_migrations", "m1")]
fn other_tools_have_other_version_tables_and_leave_halves_too(#[case] versions: &str, #[case] first: &str) {
    let site = Site::with_gate("");
    let is_django = first == "m1";
    let (directory, apply) = if is_django { tools::django(&site) } else { tools::yoyo(&site) };
    let good = run(&site, &directory, &apply);
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    assert_eq!(site.cluster.psql("app", versions), first);
    match is_django {
        true => tools::add_a_failure_to_django(&directory, "False"),
        false => tools::add_a_half_to_yoyo(&directory),
    }
    let failed = run(&site, &directory, &apply);
    assert_ne!(failed.code, 0, "{}{}", failed.stdout, failed.stderr);
    assert_eq!(site.cluster.psql("app", versions), first);
    assert_eq!(site.cluster.psql("app", "SELECT count(age), count(*) FROM users"), "200|200");
}

#[test]
fn a_script_stops_where_a_test_wants_it_to() {
    let site = Site::with_gate("");
    let script = format!("{}{}exit 3", site.pauses.shell("here"), psql("ALTER TABLE users ADD age int"));
    site.pauses.stop_at("here");
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&site, site.pauses.directory(), &shell(&script)));
        site.pauses.wait_at("here");
        let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0";
        assert_eq!(site.cluster.psql("app", columns), "3");
        site.pauses.go_on();
        running.join().unwrap()
    });
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_eq!(site.cluster.psql("app", "SELECT count(age), count(*) FROM users"), "0|200");
}

#[test]
fn a_server_that_crashed_can_be_started_again() {
    let site = Site::with_gate("");
    site.cluster.psql("app", "SET synchronous_commit = on; UPDATE users SET name = 'kept'");
    site.cluster.crash();
    site.cluster.start_again();
    assert_eq!(site.cluster.psql("app", "SELECT count(*) FROM users WHERE name = 'kept'"), "200");
}
