//! Databases that one run cannot be about.

use super::{TwoSite, in_app};
use crate::gate::shell;

#[test]
fn a_run_over_one_of_the_databases_excludes_a_run_over_both() {
    let both = TwoSite::with_gate("");
    both.site.pauses.stop_at("command");
    let pause = both.site.pauses.shell("command");
    let mut first = both.begin(&format!("{pause}{}", in_app("ALTER TABLE users ADD age int")));
    first.wait_at(&both.site.pauses, "command");
    let mut second = both.site.belay.command(["--json", "migrate", "--db", "billing", "--", "true"]);
    let second = crate::world::finish(&mut second);
    assert_eq!(second.code, 12, "{}{}", second.stdout, second.stderr);
    assert!(second.stderr.contains("database billing"), "{}", second.stderr);
    both.site.pauses.go_on();
    first.ran().assert_ended(0, "migrated");
}

#[test]
fn databases_of_two_servers_are_refused() {
    let both = TwoSite::with_gate("");
    let settings = std::fs::read_to_string(both.site.belay.settings()).unwrap();
    let port = format!("port = {}", both.site.cluster.port());
    let (head, tail) = settings.split_once("[database.billing]").unwrap();
    both.site.belay.write_settings(&format!("{head}[database.billing]{}", tail.replace(&port, "port = 1")));
    let ran = both.site.migrate_with(&["--db", "billing"], &shell("exit 0"));
    ran.assert_ended(10, "refused");
    assert!(ran.reasons().contains("the databases of one run are of one cluster"), "{}", ran.told);
    both.assert_as_before();
}

#[test]
fn a_database_is_named_once() {
    let both = TwoSite::with_gate("");
    let ran = both.site.migrate_with(&["--db", "app"], &shell("exit 0"));
    ran.assert_refused(2, &["--db app names a database that was named before"]);
}

#[test]
fn a_check_that_one_of_the_databases_cannot_answer_is_told_with_its_name() {
    let check =
        "[[gate.check]]\nname = \"users\"\nsql = \"SELECT count(*) FROM users\"\nexpect = \"unchanged\"\n";
    let both = TwoSite::with_gate(check);
    let ran = both.migrate("exit 0");
    ran.assert_ended(10, "refused");
    assert!(ran.reasons().starts_with("billing: ") && ran.reasons().contains("users"), "{}", ran.reasons());
    both.assert_as_before();
}

#[test]
fn a_check_of_a_database_that_nobody_knows_is_no_setting() {
    let both = TwoSite::with_gate("");
    let good = std::fs::read_to_string(both.site.belay.settings()).unwrap();
    let check = "[[gate.check]]\nname = \"c\"\ndatabase = \"biling\"\ncommand = [\"true\"]\n";
    both.site.belay.write_settings(&format!("{good}{check}"));
    both.migrate("exit 0").assert_refused(2, &["gate.check[1].database", "biling"]);
}
