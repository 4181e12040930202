//! Alembic's own way: one `env.py`, several engines, one command.

use super::{TwoSite, of};
use crate::gate::alembic;
use crate::gate::site::Site;
use crate::world::{AlembicProject, Environment, Revision};

/// What a good `b2` does to each, by the engine that it is run on.
const UPGRADE: &str = "table = {\"app\": \"users\", \"billing\": \"invoices\"}[op.get_bind().engine.url.database]\n\
    op.add_column(table, sa.Column(\"note\", sa.Text))";

/// Both databases at `a1`, and `b2` pending, which does `upgrade`.
fn an_alembic_site(upgrade: &str) -> (TwoSite, AlembicProject) {
    let TwoSite { site, billing } = TwoSite::with_gate("");
    let project = AlembicProject::new(&site.cluster, Environment::Several);
    project.add(&Revision { id: "a1", down: "", upgrade: "", downgrade: "", docstring: "what is there" });
    project.add(&Revision { id: "b2", down: "a1", upgrade, downgrade: "", docstring: "notes" });
    let site: Site = site.standing_in(project.directory());
    (TwoSite { site, billing }, project)
}

fn upgraded(both: &TwoSite) -> crate::gate::site::Ran {
    both.site.migrate_with(&["--db", "billing"], &alembic(&["upgrade", "head"]))
}

#[test]
fn one_upgrade_migrates_both() {
    let (both, _project) = an_alembic_site(UPGRADE);
    let ran = upgraded(&both);
    ran.assert_ended(0, "migrated");
    for database in ["app", "billing"] {
        let told = of(&ran.report, database);
        assert_eq!(told["revision_before"], serde_json::json!(["a1"]));
        assert_eq!(told["revision_after"], serde_json::json!(["b2"]));
        assert_eq!(told["pending"][0]["id"], "b2");
    }
    upgraded(&both).assert_ended(0, "nothing_pending");
}

#[test]
fn a_database_that_is_at_head_already_is_no_failure() {
    let (both, _project) = an_alembic_site(UPGRADE);
    let ahead = "ALTER TABLE invoices ADD note text; UPDATE alembic_version SET version_num = 'b2'";
    both.site.cluster.psql("billing", ahead);
    let ran = upgraded(&both);
    ran.assert_ended(0, "migrated");
    assert_eq!(of(&ran.report, "billing")["class"], "nothing_pending");
}

#[test]
fn a_command_that_leaves_one_behind_has_failed_for_both() {
    let TwoSite { site, billing } = TwoSite::with_gate("");
    // Its one engine is that of the database that was named first.
    let project = AlembicProject::new(&site.cluster, Environment::Usual);
    project.add(&Revision { id: "a1", down: "", upgrade: "", downgrade: "", docstring: "what is there" });
    project.add(&Revision { id: "b2", down: "a1", upgrade: UPGRADE, downgrade: "", docstring: "notes" });
    let both = TwoSite { site: site.standing_in(project.directory()), billing };
    let ran = upgraded(&both);
    ran.assert_ended(21, "restored");
    both.assert_as_before();
    assert_eq!(of(&ran.report, "app")["class"], "success");
    assert_eq!(of(&ran.report, "billing")["class"], "false_success");
}

#[test]
fn a_revision_that_fails_in_its_transactions_changes_neither() {
    let fails = format!("{UPGRADE}\nif table == \"invoices\": raise RuntimeError(\"no\")");
    let (both, _project) = an_alembic_site(&fails);
    upgraded(&both).assert_ended(20, "failed_unchanged");
    both.assert_as_before();
}

#[test]
fn what_is_committed_in_one_before_the_other_fails_is_undone() {
    // The template commits one after the other.
    let fails = format!(
        "{UPGRADE}\nif table == \"invoices\": op.execute(\"CREATE TABLE c (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED); INSERT INTO c VALUES (1), (1)\")"
    );
    let (both, _project) = an_alembic_site(&fails);
    let billing = both.oid("billing");
    let ran = upgraded(&both);
    ran.assert_ended(21, "restored");
    both.assert_as_before();
    assert_eq!(of(&ran.report, "app")["class"], "applied_with_error");
    assert_eq!(of(&ran.report, "billing")["class"], "unchanged");
    assert_eq!(both.oid("billing"), billing);
    assert_eq!(both.failed_databases().len(), 1);
}
