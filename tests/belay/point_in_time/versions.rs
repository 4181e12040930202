//! Every major that PostgreSQL's own project keeps, and two that it does not; segments of the sizes that
//! servers have.

use rstest::rstest;

use super::pushing::assert_the_last_commit_is_told;
use super::site::{Site, a_site_on, a_site_that_pushes, text_of};
use crate::world::{a_cluster, a_cluster_of};

/// Moments before and after the cluster went back to one of them.
fn assert_moments_come_back(site: &Site) {
    let receiver = site.receive();
    site.base();
    site.write("one");
    let (time, place) = (text_of(site.now()), site.lsn());
    site.write("two");
    site.cluster.psql("app", "SELECT pg_create_restore_point('name')");
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.write("three");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    assert_eq!(site.bodies(&time, None), "one");
    assert_eq!(site.bodies(&place, None), "one");
    assert_eq!(site.bodies("name:name", None), "one two");
    assert_eq!(site.bodies("latest", None), "one two three");
    site.go_back(&time);
    let receiver = site.receive();
    site.wait_until_stored("0/0");
    site.base();
    site.write("four");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    assert_eq!(site.bodies("latest", None), "one four");
    assert_eq!(site.bodies("latest", Some("1")), "one two three");
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn moments_come_back_on(#[values(12, 13, 14, 15, 16, 17, 18)] major: u32) {
    assert_moments_come_back(&a_site_on(a_cluster_of(major)));
}

#[rstest]
#[ignore = "needs the servers of scripts/test --all-versions"]
fn the_last_commit_of_a_segment_is_read_on(#[values(12, 13, 14, 15, 16, 17, 18)] major: u32) {
    let site = a_site_that_pushes(a_cluster_of(major));
    assert_the_last_commit_is_told(&site);
    assert_eq!(site.bodies("latest", None), "one two three");
}

#[rstest]
fn moments_come_back_with_segments_of(#[values(16, 64)] mib: u32) {
    assert_moments_come_back(&a_site_on(a_cluster().with_segments_of(mib)));
}

#[test]
fn the_memory_of_a_receiver_does_not_grow_with_the_segments() {
    let site = a_site_on(a_cluster().with_segments_of(64));
    let receiver = site.receive();
    site.wait_until_stored("0/0");
    site.cluster.psql("app", "ALTER TABLE moments ALTER body SET STORAGE EXTERNAL");
    let rows = "SELECT string_agg(sha512(random()::text::bytea)::text, '') FROM generate_series(1, 100) h, \
                generate_series(1, 6000) g GROUP BY g";
    for _ in 0..2 {
        site.cluster.psql("app", &format!("INSERT INTO moments (body) {rows}"));
    }
    site.wait_until_stored(&site.lsn());
    let peak_kib = receiver.peak_kib();
    eprintln!("peak {peak_kib} KiB");
    let written: belay::rules::wal::Lsn = site.lsn().parse().unwrap();
    assert!(written.0 > 3 << 26, "several segments were written: {written}");
    assert!(peak_kib < 120 << 10, "{peak_kib} KiB");
    receiver.end();
}
