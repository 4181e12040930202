//! The daemon left alone: a schedule, a database that is written to, a store that fails now and then.
//!
//! `BELAY_TEST_SOAK_MINUTES` makes it as long as one likes, with a schedule of every minute; `scripts/soak`
//! sets it. Without it a minute must do, with a schedule of every ten seconds.

use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::bucket::{an_installation, done, ids, set_endpoint};
use crate::daemon::service::Service;
use crate::world::proxy::refusal;
use crate::world::{Belay, Bucket, Client, Fault, Proxy, a_cluster, seed};

/// How long it goes on, and how often everything is due.
struct Length {
    whole: Duration,
    pattern: &'static str,
    period: Duration,
}

#[expect(clippy::disallowed_methods, reason = "the length of a test is no setting of belay")]
fn length() -> Length {
    let minutes = std::env::var("BELAY_TEST_SOAK_MINUTES").ok();
    match minutes.map(|minutes| minutes.parse().expect("minutes are a number")) {
        Some(minutes) => Length {
            whole: Duration::from_mins(minutes),
            pattern: "* * * * *",
            period: Duration::from_mins(1),
        },
        None => Length {
            whole: Duration::from_mins(1),
            pattern: "*/10 * * * * *",
            period: Duration::from_secs(10),
        },
    }
}

/// Most requests pass; some are cut, refused, answered late or wrongly. From time to time nothing passes.
fn weather(seed: u64, length: &Length) -> impl Fn(usize, &str) -> Fault + Send + Sync + 'static {
    let begun = Instant::now();
    let (outages, outage) = (length.period * 5, length.period / 2);
    move |number, _| {
        let since = begun.elapsed().as_millis() % outages.as_millis();
        if since > (outages - outage).as_millis() {
            return refusal("503 Service Unavailable", "SlowDown");
        }
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ number as u64);
        match random.random_range(0..100) {
            0 => Fault::CutRequest(random.random_range(0..100_000)),
            1 => Fault::CutAnswer(random.random_range(0..1_000)),
            2 => refusal("503 Service Unavailable", "SlowDown"),
            3 => refusal("500 Internal Server Error", "InternalError"),
            4 => Fault::Slow(Duration::from_millis(random.random_range(0..1_000))),
            5 => Fault::WrongByte(0),
            _ => Fault::None,
        }
    }
}

/// What a daemon holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    resident_kib: u64,
    files: usize,
}

fn holdings(service: &Service) -> Holdings {
    let process = format!("/proc/{}", service.pid());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
    Holdings { resident_kib, files: std::fs::read_dir(format!("{process}/fd")).unwrap().count() }
}

fn schedule_all(belay: &Belay, length: &Length) {
    let (pattern, keep) = (length.pattern, length.period.as_secs() * 5);
    let settings = std::fs::read_to_string(belay.settings()).unwrap();
    belay.write_settings(&format!(
        "{settings}schedule = \"{pattern}\"\n[verify]\ndepth = \"restored\"\nschedule = \"{pattern}\"\n\
         [retention]\nkeep = \"{keep}s\"\nmin_verified = 2\nschedule = \"{pattern}\"\n\
         [daemon]\nretry_pause = \"1s\"\nretry_pause_longest = \"5s\"\n"
    ));
}

#[test]
fn a_daemon_left_alone_keeps_its_promises_over_a_store_that_fails() {
    let (length, seed) = (length(), seed());
    let (cluster, bucket) = (a_cluster().start(), Bucket::start());
    cluster.fill_pgbench("app", 2);
    let belay = an_installation(&cluster, &bucket.endpoint());
    done(&belay, ["init", "--single-recipient"]);
    let proxy = Proxy::start(bucket.address(), weather(seed, &length));
    set_endpoint(&belay, &proxy.endpoint(), 4);
    schedule_all(&belay, &length);
    let seconds = (length.whole + length.period).as_secs().to_string();
    let bench = ["-n", "-c", "2", "-R", "20", "-T", &seconds, "app"];
    let load = Client::start(cluster.client("pgbench").args(bench));
    let service = Service::start(&belay);

    // It has to warm up first.
    std::thread::sleep(length.whole / 6);
    let before = holdings(&service);
    std::thread::sleep(length.whole * 5 / 6);
    let after = holdings(&service);
    let ended = service.stop();
    drop(load);
    assert_eq!(ended.code, 0, "{}", ended.log);

    let count = |words: &str| ended.log.matches(words).count();
    let (taken, verified) = (count("taken job=\"snapshot\""), count("verified job=\"verify\""));
    let errors: Vec<&str> = ended.log.lines().filter(|line| line.contains(" ERROR ")).collect();
    eprintln!(
        "{taken} snapshots taken, {verified} restored and compared, {} errors, {} requests; {before:?}, then {after:?}",
        errors.len(),
        proxy.asked().len(),
    );
    let due = usize::try_from(length.whole.as_secs() / length.period.as_secs()).unwrap();
    assert!(taken * 3 >= due, "{taken} of {due} snapshots were taken: {}", ended.log);
    assert!(verified * 4 >= due, "{verified} of {due} verifications were done: {}", ended.log);
    for line in errors {
        assert!(is_injected(line), "{line}");
    }
    assert!(after.resident_kib <= before.resident_kib * 3 / 2 + (32 << 10), "{before:?}, then {after:?}");
    assert!(after.files <= before.files + 8, "{before:?}, then {after:?}");

    set_endpoint(&belay, &bucket.endpoint(), 4);
    done(&belay, ["retain"]);
    let listed = ids(&belay);
    // Those of five periods, those that retention had not come to, and two that stay in any case.
    assert!((1..=9).contains(&listed.len()), "{listed:?}");
    for id in &listed {
        done(&belay, ["verify", id, "--depth", "readable"]);
    }
    done(&belay, ["audit", "verify"]);
    assert_eq!(bucket.uploads(), 0, "no unfinished upload is left");
}

/// Whether an error that was told is one of the store.
fn is_injected(line: &str) -> bool {
    ["503", "500", "SlowDown", "InternalError", "the repository", "dispatch failure", "checksum"]
        .iter()
        .any(|word| line.contains(word))
}
