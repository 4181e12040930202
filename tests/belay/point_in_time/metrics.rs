//! `/metrics` of points in time: what a loss would cost, what a recovery takes, what cannot be had.

use std::os::unix::net::UnixStream;

use super::site::{Site, a_site, with_points_in_time};
use crate::daemon::service::Service;
use crate::http::client::{ask, request};
use crate::http::metrics::Metrics;

/// Points in time are kept; base backups are made when none is of use, and nothing else is done.
fn a_site_that_serves() -> Site {
    let site = a_site();
    let socket = site.belay.home().join("belay.sock");
    let more =
        format!("[base_backup]\nschedule = \"0 0 1 1 *\"\n[http]\nsocket = \"{}\"\n", socket.display());
    with_points_in_time(&site, "", &more);
    site
}

pub fn metrics(site: &Site) -> Metrics {
    let socket = site.belay.home().join("belay.sock");
    Metrics::of(&ask(UnixStream::connect(socket).unwrap(), &request("GET", "/metrics", "", "")))
}

/// What the examples in YAML ask for.
fn names_of_the_readme() -> Vec<String> {
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let blocks = text.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next());
    let words = blocks.flat_map(|block| block.split(|c: char| !c.is_ascii_lowercase() && c != '_'));
    let names: Vec<String> = words.filter(|word| word.starts_with("belay_")).map(str::to_owned).collect();
    assert!(names.len() >= 3, "{names:?}");
    names
}

/// Waits until a figure is as wanted, and returns it.
fn wait_for(service: &Service, site: &Site, name: &str, is_so: impl Fn(f64) -> bool) -> f64 {
    let mut seen = None;
    service.wait_until(name, || {
        seen = metrics(site).get(name).filter(|value| is_so(*value));
        seen.is_some()
    });
    seen.unwrap()
}

#[test]
fn metrics_tell_what_a_loss_costs_and_what_a_recovery_takes() {
    let site = a_site_that_serves();
    let service = Service::start(&site.belay);
    service.wait_for("READY=1");
    wait_for(&service, &site, "belay_base_backup_age_seconds", |age| age < 60.0);
    site.write("one");
    site.wait_until_stored(&site.lsn());
    let seen = metrics(&site);
    assert_eq!(seen.get("belay_wal_received"), Some(1.0));
    assert!(seen.get("belay_wal_behind_seconds").is_some_and(|behind| behind < 60.0));
    assert!(seen.get("belay_wal_kept_bytes").is_some());
    for (name, value) in [
        ("belay_recovery_measured_seconds", None),
        ("belay_recovery_estimate_seconds", None),
        ("belay_recovery_verified_age_seconds", None),
        ("belay_recovery_verifications_failed", Some(0.0)),
        ("belay_recovery_verification_overdue", Some(0.0)),
        ("belay_recovery_unreachable_seconds", Some(0.0)),
        ("belay_recovery_unreachable_intervals", Some(0.0)),
        ("belay_job_due{job=\"base-backup\"}", Some(0.0)),
    ] {
        assert_eq!(seen.get(name), value, "{name}");
    }

    assert_eq!(site.belay.run(["verify", "--physical"]).code, 0);
    let proven = metrics(&site);
    let told = site.belay.json(["status"])["recovery"].clone();
    let measured = told["measured"]["recovery_ms"].as_f64().map(|ms| ms / 1e3);
    assert!(measured.is_some(), "{told}");
    assert_eq!(proven.get("belay_recovery_measured_seconds"), measured);
    assert!(proven.get("belay_recovery_estimate_seconds").is_some_and(|seconds| seconds > 0.0));
    assert!(proven.get("belay_recovery_verified_age_seconds").is_some_and(|age| age < 60.0));

    assert_eq!(site.belay.run(["snapshot", "app"]).code, 0);
    assert_eq!(site.belay.run(["verify", "latest", "--depth", "stored"]).code, 0);
    let seen = metrics(&site);
    for name in names_of_the_readme() {
        assert!(seen.types.contains_key(&name), "{name}: {:?}", seen.types);
    }

    // The store is away, and the server goes on.
    let wal = site.belay.repository().join("prod/wal");
    let away = wal.with_extension("away");
    std::fs::rename(&wal, &away).unwrap();
    std::fs::write(&wal, "").unwrap();
    site.write("two");
    // While the log is stored it is never as far behind.
    let behind = wait_for(&service, &site, "belay_wal_behind_seconds", |behind| behind >= 15.0);
    std::fs::remove_file(&wal).unwrap();
    std::fs::rename(&away, &wal).unwrap();
    wait_for(&service, &site, "belay_wal_behind_seconds", |now| now < behind);
    assert_eq!(service.stop().code, 0);
}

#[test]
fn moments_that_cannot_be_had_are_counted() {
    let site = a_site_that_serves();
    let service = Service::start(&site.belay);
    service.wait_for("READY=1");
    wait_for(&service, &site, "belay_base_backup_age_seconds", |_| true);
    site.write("one");
    site.wait_until_stored(&site.lsn());
    assert_eq!(service.stop().code, 0);
    let drop_slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    site.cluster.psql("postgres", drop_slots);
    site.write("lost");
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.cluster.psql("postgres", "CHECKPOINT");

    let service = Service::start(&site.belay);
    service.wait_for("READY=1");
    let intervals = "belay_recovery_unreachable_intervals";
    wait_for(&service, &site, intervals, |intervals| intervals == 1.0);
    let mut told = serde_json::Value::Null;
    service.wait_until("a base backup is behind what is missing", || {
        told = site.belay.json(["status"])["recovery"]["unreachable"][0].clone();
        told["until"].is_string()
    });
    let lost = metrics(&site).get("belay_recovery_unreachable_seconds").unwrap();
    let at = |end: &str| {
        let time = told[end].as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(time).unwrap().timestamp_millis() as f64 / 1e3
    };
    assert!((lost - (at("until") - at("from"))).abs() < 0.01, "{lost}: {told}");
    assert_eq!(service.stop().code, 0);
}
