use super::site::{Site, a_site, a_site_on, with_points_in_time};
use crate::world::{Belay, Locale, a_cluster};

/// What `belay check` finds of points in time, as `verdict: message` and hint, on a cluster with `settings`;
/// Belay connects as `user`.
fn found(settings: &[&str], user: &str) -> (i32, String) {
    let plan = settings.iter().fold(a_cluster(), |plan, setting| plan.with_setting(setting));
    let cluster = plan.start();
    cluster.create_database("app");
    cluster.psql("postgres", "CREATE ROLE reader LOGIN IN ROLE pg_read_all_data, pg_monitor");
    let belay = Belay::with_settings(&cluster, "app", "");
    let text = std::fs::read_to_string(belay.settings()).unwrap();
    let text = text.replace("name = \"prod\"\n", "name = \"prod\"\npoint_in_time = true\n");
    belay.write_settings(&text.replace("user = \"postgres\"", &format!("user = \"{user}\"")));
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    let site = Site { cluster, belay };
    let checked = site.belay.run(["--json", "check"]);
    let body: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    let findings = body["findings"].as_array().unwrap().iter();
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or("").to_owned();
    let of_points = findings.filter(|finding| finding["subject"] == "points in time").map(|finding| {
        format!("{}: {} ({})\n", text(finding, "verdict"), text(finding, "message"), text(finding, "hint"))
    });
    (checked.code, of_points.collect())
}

#[test]
fn a_server_that_limits_its_slots_has_all_that_is_needed() {
    let settings = ["wal_level=replica", "max_wal_senders=10", "max_slot_wal_keep_size=2GB"];
    let (code, found) = found(&settings, "postgres");
    assert_eq!(code, 0, "{found}");
    assert!(found.contains("ok: postgres may replicate"), "{found}");
    assert!(found.contains("ok: the server keeps 2.0 GiB of its log"), "{found}");
    assert_eq!(found.matches("warning").count(), 1, "{found}");
    assert!(found.contains("warning: there is no base backup"), "{found}");
}

#[test]
fn a_server_whose_slots_may_fill_its_disk_is_warned_of() {
    let (code, found) = found(&["wal_level=replica", "max_wal_senders=10"], "postgres");
    assert_eq!(code, 0, "{found}");
    assert!(found.contains("warning: max_slot_wal_keep_size is not set"), "{found}");
    assert!(found.contains("ALTER SYSTEM SET max_slot_wal_keep_size = '16GB'"), "{found}");
}

#[test]
fn a_server_without_log_and_senders_is_a_problem() {
    let (code, found) = found(&["wal_level=minimal", "max_wal_senders=0"], "postgres");
    assert_eq!(code, 4, "{found}");
    assert!(found.contains("problem: wal_level is minimal"), "{found}");
    assert!(found.contains("problem: max_wal_senders is 0"), "{found}");
    assert!(found.contains("problem: no connection for replication"), "{found}");
}

#[test]
fn a_role_without_rights_is_told_what_it_lacks() {
    let (code, found) = found(&["wal_level=replica", "max_wal_senders=10"], "reader");
    assert_eq!(code, 4, "{found}");
    assert!(found.contains("ALTER ROLE reader REPLICATION"), "{found}");
    assert!(found.contains("warning: the role may not make restore points"), "{found}");
}

#[test]
fn another_cluster_than_that_of_the_repository_is_noticed() {
    // One that was made by itself: those of the tests' usual kind are copies of each other.
    let other = a_cluster().with_encoding("LATIN1").with_locale(Locale::Libc("C".into()));
    let (site, other) = (a_site(), a_site_on(other));
    with_points_in_time(&site, "", "");
    site.receive_all();
    site.base();
    assert_eq!(site.belay.run(["snapshot", "app"]).code, 0);
    let checked = |site: &Site| site.belay.run(["check"]);
    let own = checked(&site);
    assert!(own.code == 0 && !own.stdout.contains("of cluster"), "{}", own.stdout);

    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let reached = |site: &Site| {
        format!("host = \"{}\"\nport = {}\n", site.cluster.host().display(), site.cluster.port())
    };
    assert!(settings.contains(&reached(&site)), "{settings}");
    site.belay.write_settings(&settings.replace(&reached(&site), &reached(&other)));
    let found = checked(&site);
    assert_eq!(found.code, 4, "{}", found.stdout);
    let number = "SELECT system_identifier FROM pg_control_system()";
    let number = |site: &Site| site.cluster.psql("postgres", number);
    let says = |text: &str| assert!(found.stdout.contains(text), "{text}: {}", found.stdout);
    says("problem  points in time: ");
    says("must not be mixed");
    says(&format!("warning  database app: it is of cluster {}", number(&other)));
    says(&format!("is of cluster {}", number(&site)));
}
