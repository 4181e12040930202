//! What a migration does to the database's properties is undone; what it does to roles is told.

use super::site::{Ran, Site};
use super::{psql, shell};

fn notes(ran: &Ran) -> String {
    ran.report["notes"].to_string()
}

#[test]
fn a_failed_change_of_properties_is_a_half_and_is_undone() {
    for change in [
        "ALTER DATABASE app SET work_mem = '99MB'",
        "ALTER DATABASE app RESET work_mem",
        "ALTER ROLE app_reader IN DATABASE app SET statement_timeout = '9s'",
        "ALTER DATABASE app CONNECTION LIMIT 7",
        "ALTER DATABASE app OWNER TO postgres",
        "GRANT TEMPORARY ON DATABASE app TO PUBLIC",
        "COMMENT ON DATABASE app IS 'another'",
    ] {
        let site = Site::with_gate("");
        let ran = site.migrate(&shell(&format!("{}exit 1", psql(change))));
        ran.assert_ended(21, "restored");
        assert_eq!(ran.report["class"], "partial", "{change}: {}", ran.told);
        assert!(ran.reasons().contains("properties"), "{change}: {}", ran.reasons());
        site.assert_restored(&ran);
    }
}

#[test]
fn a_setting_is_told_by_its_name_alone() {
    let site = Site::with_gate("");
    let ran =
        site.migrate(&shell("psql -Xqc \"ALTER DATABASE app SET app.key = 'hush$((6 * 7))hush'\"; exit 1"));
    ran.assert_ended(21, "restored");
    assert!(ran.report["changes"].to_string().contains("setting app.key is new"), "{}", ran.told);
    assert!(!ran.told.contains("hush42hush"), "{}", ran.told);
}

#[test]
fn roles_that_a_failed_migration_changed_are_named() {
    let site = Site::with_gate("");
    let changes = [
        "CREATE ROLE intruder LOGIN PASSWORD 'in5ide'",
        "GRANT app_owner TO app_reader",
        "ALTER ROLE app_reader SET work_mem = '9MB'",
        "ALTER ROLE app_reader CREATEDB",
    ];
    let script = changes.map(psql).concat();
    let ran = site.migrate(&shell(&format!("{script}exit 1")));
    ran.assert_ended(20, "failed_unchanged");
    for told in [
        "role intruder is new",
        "membership of role app_reader in app_owner is new",
        "setting work_mem of role app_reader is new",
        "role app_reader is another",
        "are not put back",
    ] {
        assert!(notes(&ran).contains(told), "{told}: {}", ran.told);
    }
    assert!(!ran.told.contains("SCRAM"), "{}", ran.told);
}

#[test]
fn roles_that_nobody_changed_are_not_told_of() {
    let site = Site::with_gate("");
    let ran = site.migrate(&shell("exit 1"));
    ran.assert_ended(20, "failed_unchanged");
    assert!(!notes(&ran).contains("role"), "{}", ran.told);
}
