//! A copy that the server makes while writers are kept out: the first that a failed migration is
//! undone with.

use super::site::Site;
use super::{psql, shell};

fn databases(site: &Site) -> String {
    let sql = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate";
    site.cluster.psql("postgres", sql)
}

#[test]
fn a_failed_migration_is_undone_with_the_copy() {
    let site = Site::with_gate("local_copy = \"template\"\n");
    let ran = site.migrate(&shell(&format!("{}exit 1", psql("DELETE FROM orders"))));
    ran.assert_ended(21, "restored");
    site.assert_restored(&ran);
    let failed = site.failed_databases();
    assert_eq!(databases(&site), format!("app {} postgres", failed[0]));
}

#[test]
fn a_copy_that_is_not_needed_is_dropped() {
    let site = Site::with_gate("local_copy = \"template\"\n");
    let ran = site.migrate(&shell(&psql("ALTER TABLE users ADD age int")));
    ran.assert_ended(0, "migrated");
    assert_eq!(databases(&site), "app postgres");
}
