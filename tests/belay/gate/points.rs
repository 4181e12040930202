//! Where points in time are kept, the moment before a migration has a name, and is what is put back where
//! the snapshot lacks something.

use super::foreign::{TWO_USERS, assert_two_users, failing, with_an_act_at};
use super::site::{Ran, Site};
use super::{ADD_AGE, alembic};
use crate::death::programs::{DATA, POST_DATA, Programs};
use crate::point_in_time::site::{Receiver, command_of_server};
use crate::world::{AlembicProject, Environment, Plan, Revision, a_cluster};

const HALF: &str = "SELECT count(*) FROM users WHERE name = 'half'";

/// A site that keeps points in time, with `consistency`; what was received is stored when it is wanted, and
/// else once an hour.
fn a_site(consistency: &str) -> Site {
    let plan = a_cluster().with_setting("wal_level=replica").with_setting("max_wal_senders=10");
    a_site_of(plan, consistency)
}

fn a_site_of(plan: Plan, consistency: &str) -> Site {
    let site =
        Site::planned(plan, |_| format!("verify_depth = \"stored\"\nconsistency = \"{consistency}\"\n"));
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let settings = settings.replace("name = \"prod\"\n", "name = \"prod\"\npoint_in_time = true\n");
    site.belay.write_settings(&format!("{settings}[wal]\nship_every = \"1h\"\n"));
    site
}

/// Has the log received, and makes a base backup behind its beginning.
fn received(site: &Site) -> Receiver {
    let receiver = Receiver::start(&site.belay);
    super::wait_until("the log is kept", || site.belay.state().join("wal-shipped.json").exists());
    site.belay.json(["base-backup"]);
    receiver
}

/// Has `pg_dump` of the data stop at `dumped` when it has ended: what is committed then is not in the
/// snapshot, and nobody looks yet.
fn stopping_after_dump(site: Site) -> Site {
    let programs = Programs::of(&site.cluster);
    let pause = site.pauses.shell("dumped");
    programs.fake("pg_dump", &format!("{DATA}\n\"$real\" \"$@\" || exit 1\n{pause}"));
    site.using(&programs)
}

fn point_of(ran: &Ran) -> String {
    ran.report["restore_point"]["name"].as_str().unwrap_or_else(|| panic!("{}", ran.told)).to_owned()
}

#[test]
fn an_application_that_is_let_in_loses_nothing_that_it_committed_before_the_command() {
    let site = stopping_after_dump(a_site("unfenced"));
    let receiver = received(&site);
    let ran = with_an_act_at(&site, "dumped", |site| {
        site.cluster.psql("app", TWO_USERS);
    });
    ran.assert_ended(21, "restored");
    assert_eq!(ran.report["restored_from"], "restore_point", "{}", ran.told);
    assert!(ran.told.contains("put back as of restore point belay:"), "{}", ran.told);
    assert_two_users(&site);
    assert_eq!(site.cluster.psql("app", HALF), "0");
    assert_eq!(site.cluster.psql(&site.failed_databases()[0], HALF), "5");
    assert_eq!(std::fs::read_dir(site.belay.state().join("scratch")).unwrap().count(), 0);

    // The same moment is had again by its name, and by the run's.
    let run = ran.report["run"].as_str().unwrap();
    for at in [format!("name:{}", point_of(&ran)), format!("before-migration:{run}")] {
        let back = site.belay.run(["restore", "app", "--at", &at, "--into", "back"]);
        assert_eq!(back.code, 0, "{}", back.stderr);
        let count = "SELECT count(*) FROM users WHERE email LIKE '%@example.com'";
        assert_eq!(
            (site.cluster.psql("back", count), site.cluster.psql("back", HALF)),
            ("2".into(), "0".into())
        );
        site.cluster.psql("postgres", "DROP DATABASE back");
    }
    receiver.end();
}

#[test]
fn where_nothing_was_committed_since_the_snapshot_it_is_put_back_though_nobody_is_kept_out() {
    let site = a_site("unfenced");
    let receiver = received(&site);
    let ran = site.migrate(&failing(&site.pauses));
    ran.assert_ended(21, "restored");
    assert_eq!(ran.report["restored_from"], "snapshot", "{}", ran.told);
    site.assert_restored(&ran);
    receiver.end();
}

#[test]
fn what_the_application_commits_while_the_command_runs_is_lost_only_when_an_operator_accepts_it() {
    let site = stopping_after_dump(a_site("unfenced"));
    let receiver = received(&site);
    site.pauses.stop_at("dumped");
    site.pauses.stop_at("during");
    let mut running = site.begin(&[], &failing(&site.pauses));
    running.wait_at(&site.pauses, "dumped");
    site.cluster.psql("app", TWO_USERS);
    site.pauses.pass("dumped");
    running.wait_at(&site.pauses, "during");
    site.cluster.psql("app", "INSERT INTO users (email, name) VALUES ('late@example.org', 'late')");
    site.pauses.go_on();
    let ran = running.ran();
    site.assert_held(&ran);
    assert!(ran.reasons().contains("1 row in public.users"), "{}", ran.reasons());

    let run = ran.report["run"].as_str().unwrap();
    let refused = site.belay.run(["runs", "resolve", run, "--restore"]);
    assert_eq!(refused.code, 22, "{}", refused.stdout);
    assert!(refused.stdout.contains("by others since the restore point"), "{}", refused.stdout);
    let accepted = site.belay.run(["runs", "resolve", run, "--restore", "--accept-loss"]);
    assert_eq!(accepted.code, 0, "{}{}", accepted.stdout, accepted.stderr);
    assert_two_users(&site);
    assert_eq!(site.cluster.psql("app", "SELECT count(*) FROM users WHERE name IN ('half', 'late')"), "0");
    receiver.end();
}

#[test]
fn a_snapshot_that_lacks_something_is_not_taken_again_where_the_log_has_it() {
    let site = a_site("checked");
    let receiver = received(&site);
    let ran = with_an_act_at(&site, "raising", |site| {
        site.cluster.psql("app", TWO_USERS);
    });
    ran.assert_ended(21, "restored");
    let snapshots = ran.phases().iter().filter(|phase| *phase == "snapshotting").count();
    assert_eq!(snapshots, 1, "{}", ran.told);
    assert_eq!(ran.report["restored_from"], "restore_point", "{}", ran.told);
    assert_two_users(&site);
    assert_eq!(site.cluster.psql("app", HALF), "0");
    receiver.end();
}

#[test]
fn without_anybody_who_receives_the_log_it_is_as_if_none_were_kept() {
    let site = stopping_after_dump(a_site("unfenced"));
    received(&site).end();
    let ran = with_an_act_at(&site, "dumped", |site| {
        site.cluster.psql("app", TWO_USERS);
    });
    site.assert_held(&ran);
    assert!(ran.told.contains("nobody receives the log: is the daemon running?"), "{}", ran.told);
    assert!(ran.told.contains("an automatic restore is off"), "{}", ran.told);
    assert_two_users(&site);
}

#[test]
fn log_from_before_the_base_backup_is_not_enough() {
    let site = stopping_after_dump(a_site("unfenced"));
    let receiver = Receiver::start(&site.belay);
    super::wait_until("the log is kept", || site.belay.state().join("wal-shipped.json").exists());
    let ran = site.migrate(&failing(&site.pauses));
    site.assert_held(&ran);
    assert!(ran.told.contains("there is no base backup with all of the log behind it"), "{}", ran.told);
    receiver.end();
}

#[test]
fn a_restore_from_the_log_that_was_killed_is_made_again() {
    let site = a_site("checked");
    let receiver = received(&site);
    let programs = Programs::of(&site.cluster);
    let pause = site.pauses.shell("load");
    programs.fake("pg_restore", &format!("{POST_DATA}\n{pause}exec \"$real\" \"$@\""));
    let site = site.using(&programs);
    site.pauses.stop_at("raising");
    site.pauses.stop_at("load");
    let mut running = site.begin(&[], &failing(&site.pauses));
    running.wait_at(&site.pauses, "raising");
    site.cluster.psql("app", TWO_USERS);
    site.pauses.pass("raising");
    running.wait_at(&site.pauses, "load");
    running.kill();
    site.pauses.go_on();
    site.belay.run(["snapshot", "app"]);
    assert_eq!(site.newest_run()["phase"], "done", "{}", site.newest_run());
    assert_eq!(site.newest_run()["outcome"], "restored");
    assert_two_users(&site);
    assert_eq!(site.cluster.psql("app", HALF), "0");
    assert_eq!(std::fs::read_dir(site.belay.state().join("scratch")).unwrap().count(), 0);
    receiver.end();
}

#[test]
fn the_moment_before_a_revision_is_had_again_when_the_migration_was_long_ago() {
    let site = a_site("fenced");
    let project = AlembicProject::new(&site.cluster, Environment::Usual);
    project.add(&Revision { id: "a1", down: "", upgrade: "", downgrade: "", docstring: "what is there" });
    project.add(&Revision { id: "b2", down: "a1", upgrade: ADD_AGE, downgrade: "", docstring: "ages" });
    let site = site.standing_in(project.directory());
    let receiver = received(&site);
    let ran = site.migrate(&alembic(&["upgrade", "head"]));
    ran.assert_ended(0, "migrated");
    site.cluster.psql("app", &format!("{TWO_USERS}; UPDATE users SET age = 7"));
    // The newest base backup is too late for it.
    site.belay.json(["base-backup"]);
    let listed = site.belay.run(["list"]).stdout;
    let told = format!("restore point {}: ", point_of(&ran));
    assert!(listed.contains(&told) && listed.contains("before the migration of app to b2"), "{listed}");
    let unknown = site.belay.run(["restore", "app", "--at", "before-migration:f00", "--into", "back"]);
    assert_eq!(unknown.code, 10, "{}", unknown.stderr);
    assert!(unknown.stderr.contains(&point_of(&ran)), "{}", unknown.stderr);
    let back = site.belay.run(["restore", "app", "--at", "before-migration:b2", "--into", "back"]);
    assert_eq!(back.code, 0, "{}", back.stderr);
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'users'";
    assert_eq!(site.cluster.psql("back", columns), "3");
    assert_eq!(site.cluster.psql("back", "SELECT version_num FROM alembic_version"), "a1");
    receiver.end();
}

#[test]
fn a_point_that_an_operator_made_is_found_behind_an_older_base_backup() {
    let site = a_site("fenced");
    let receiver = received(&site);
    site.cluster.psql("app", TWO_USERS);
    site.cluster.psql("postgres", "SELECT pg_create_restore_point('before the clean-up')");
    site.cluster.psql("app", "DELETE FROM users WHERE email LIKE '%@example.com'");
    site.belay.json(["base-backup"]);
    receiver.end();
    let back = site.belay.run(["restore", "app", "--at", "name:before the clean-up", "--into", "back"]);
    assert_eq!(back.code, 0, "{}", back.stderr);
    assert_eq!(site.cluster.psql("back", "SELECT count(*) FROM users WHERE email LIKE '%@example.com'"), "2");
    let never = site.belay.run(["restore", "app", "--at", "name:never made", "--into", "other"]);
    assert_eq!(never.code, 10, "{}", never.stderr);
    let only = "has no restore point of that name; the only one that it has is before the clean-up";
    assert!(never.stderr.contains(only), "{}", never.stderr);
}

#[test]
fn a_server_that_makes_no_restore_points_migrates_without_one() {
    let site =
        a_site_of(a_cluster().with_setting("wal_level=minimal").with_setting("max_wal_senders=0"), "fenced");
    let ran = site.migrate(&failing(&site.pauses));
    ran.assert_ended(21, "restored");
    assert!(ran.told.contains("there is no restore point before the migration"), "{}", ran.told);
    assert!(ran.report["restore_point"].is_null(), "{}", ran.told);
    site.assert_restored(&ran);
}

#[test]
fn a_server_that_hands_its_log_over_has_the_restore_point_too() {
    let plan = a_cluster().with_setting("archive_mode=on").with_setting("wal_level=replica");
    let site = a_site_of(plan.with_setting("max_wal_senders=10"), "checked");
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&settings.replace("[wal]\n", "[wal]\nreceive = false\n"));
    let command = command_of_server(&site.cluster, &site.belay, "wal push %p");
    site.cluster.psql("postgres", &format!("ALTER SYSTEM SET archive_command = '{command}'"));
    site.cluster.psql("postgres", "SELECT pg_reload_conf()");
    site.belay.json(["base-backup"]);
    let ran = with_an_act_at(&site, "raising", |site| {
        site.cluster.psql("app", TWO_USERS);
    });
    ran.assert_ended(21, "restored");
    assert_eq!(ran.report["restored_from"], "restore_point", "{}", ran.told);
    assert_two_users(&site);
    assert_eq!(site.cluster.psql("app", HALF), "0");
    assert_eq!(site.cluster.psql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
}
