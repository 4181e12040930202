//! A check after a migration takes no longer than it may, and is not cut short.

use nix::sys::signal::Signal;
use rstest::rstest;

use super::site::Site;
use super::{ADD_AGE, alembic, an_alembic_site_with, psql, shell};
use crate::world::Environment;

/// A check that takes `seconds` once users have an age.
fn slow_once_migrated(settings: &str, seconds: u32) -> String {
    let has_age = "EXISTS (SELECT FROM pg_attribute WHERE attname = 'age' AND attrelid = 'users'::regclass)";
    format!(
        "{settings}[[gate.check]]\nname = \"slow\"\nexpect = \"unchanged\"\n\
         sql = \"SELECT CASE WHEN {has_age} THEN left(pg_sleep({seconds})::text, 0) ELSE '' END\"\n"
    )
}

#[test]
fn a_check_that_takes_too_long_has_failed() {
    let settings = slow_once_migrated("check_timeout = \"1s\"\n", 600);
    let (site, _project) = an_alembic_site_with(&settings, Environment::Usual, ADD_AGE);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(25, "checks_failed");
    assert!(ran.reasons().contains("check slow: no answer within 1s"), "{}", ran.reasons());
    site.assert_restored(&ran);
    let asking =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(6%' AND pid <> pg_backend_pid()";
    assert_eq!(site.cluster.psql("postgres", asking), "0");
}

#[test]
fn a_command_that_checks_too_long_has_failed() {
    let check = "check_timeout = \"1s\"\n[[gate.check]]\nname = \"slow\"\ncommand = [\"sleep\", \"600\"]\n";
    let site = Site::with_gate(check);
    let ran = site.migrate(&shell(&psql("ALTER TABLE users ADD age int")));
    ran.assert_ended(25, "checks_failed");
    assert!(ran.reasons().contains("longer than it may"), "{}", ran.reasons());
    site.assert_restored(&ran);
}

#[test]
fn a_check_that_was_too_slow_before_stops_the_run_untouched() {
    let check = "check_timeout = \"1s\"\n[[gate.check]]\nname = \"slow\"\nsql = \"SELECT pg_sleep(600)\"\nexpect = \"unchanged\"\n";
    let site = Site::with_gate(check);
    let ran = site.migrate(&shell("exit 1"));
    ran.assert_ended(10, "refused");
    assert!(ran.reasons().contains("ask check slow: no answer within 1s"), "{}", ran.reasons());
}

#[rstest]
#[case::after_its_question("SELECT 1; DROP VIEW totals", "cannot insert multiple commands")]
#[case::in_its_question("SELECT nextval('invoice_numbers')", "read-only transaction")]
#[case::with_rows("INSERT INTO users (email, name) VALUES ('x', 'x') RETURNING 1", "read-only transaction")]
fn a_check_cannot_change_the_database(#[case] sql: &str, #[case] why: &str) {
    let check = format!("[[gate.check]]\nname = \"wild\"\nexpect = \"= 1\"\nsql = \"{sql}\"\n");
    let site = Site::with_gate(&check);
    let ran = site.migrate(&shell("exit 1"));
    ran.assert_ended(10, "refused");
    assert!(ran.reasons().contains(why), "{}", ran.reasons());
    site.assert_as_before();
}

#[test]
fn signals_do_not_cut_checks_short() {
    let settings = slow_once_migrated("", 4);
    let (site, _project) = an_alembic_site_with(&settings, Environment::Usual, ADD_AGE);
    let mut running = site.begin(&[], &alembic(&["upgrade", "head"]));
    running.wait_for_phase(&site, "checking");
    running.signal(Signal::SIGTERM);
    running.signal(Signal::SIGINT);
    let ran = running.ran();
    ran.assert_ended(0, "migrated");
    assert_eq!(ran.report["checks"][0]["is_ok"], true, "{}", ran.told);
    assert_eq!(site.is_fenced(), Some(false));
}
