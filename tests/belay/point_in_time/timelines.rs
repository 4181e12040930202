use super::site::{Site, a_site, text_of};
use crate::world::{Cluster, Locale, a_cluster};

fn restore_point(site: &Site, name: &str) {
    site.cluster.psql("app", &format!("SELECT pg_create_restore_point('{name}')"));
}

/// A log that forks: `one two` are on both timelines, `three four` on the first alone.
fn a_fork() -> (Site, [String; 4]) {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("one");
    let (time_before, place_before) = (text_of(site.now()), site.lsn());
    restore_point(&site, "before");
    site.write("two");
    let fork = text_of(site.now());
    site.write("three");
    let given_up = text_of(site.now());
    site.cluster.psql("postgres", "SELECT pg_switch_wal()");
    site.write("four");
    restore_point(&site, "given-up");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    site.go_back(&fork);
    (site, [time_before, place_before, fork, given_up])
}

#[test]
fn moments_before_and_after_a_switch_and_on_what_was_given_up_come_back() {
    let (site, [time_before, place_before, fork, given_up]) = a_fork();
    let receiver = site.receive();
    site.wait_until_stored("0/0");
    site.write("five");
    let (time_after, place_after) = (text_of(site.now()), site.lsn());
    restore_point(&site, "after");
    site.write("six");
    site.wait_until_stored(&site.lsn());
    receiver.end();

    for at in [&time_before, &place_before, "name:before"] {
        assert_eq!(site.bodies(at, None), "one", "{at}");
    }
    assert_eq!(site.bodies(&fork, None), "one two");
    for at in [&time_after, &place_after, "name:after"] {
        assert_eq!(site.bodies(at, None), "one two five", "{at}");
    }
    assert_eq!(site.bodies("latest", None), "one two five six");
    assert_eq!(site.bodies(&given_up, Some("1")), "one two three");
    for at in ["name:given-up", "latest"] {
        assert_eq!(site.bodies(at, Some("1")), "one two three four", "{at}");
    }
    let unknown = site.belay.run(["restore", "app", "--at", "latest", "--timeline", "7", "--into", "back"]);
    assert_eq!(unknown.code, 10, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("timeline 7"), "{}", unknown.stderr);

    let windows = site.belay.json(["list"])["windows"].as_array().unwrap().clone();
    let told: Vec<i64> = windows.iter().map(|window| window["timeline"].as_i64().unwrap()).collect();
    assert_eq!(told, [1, 2], "{windows:?}");
    assert!(windows.iter().all(|window| window["resumes_lsn"].is_null()), "{windows:?}");
    assert!(windows[0]["until"].as_str() < windows[1]["until"].as_str(), "{windows:?}");
    let text = site.belay.run(["list"]).stdout;
    assert!(text.contains("timeline 1, base backup") && text.contains("timeline 2, base backup"), "{text}");
    assert!(site.belay.run(["status"]).stdout.contains("timeline 2: any moment"));
}

#[test]
fn log_that_the_new_server_has_no_more_is_told_and_nothing_of_what_was_given_up_takes_its_place() {
    let (site, [.., given_up]) = a_fork();
    // What the new server keeps from now on begins behind the segment with the fork.
    site.write("lost");
    let in_gap = text_of(site.now());
    site.cluster.psql("postgres", "SELECT pg_switch_wal(); CHECKPOINT");
    let receiver = site.receive();
    site.wait_until_stored("0/0");
    site.write("five");
    site.wait_until_stored(&site.lsn());
    let windows = site.belay.json(["list"])["windows"].as_array().unwrap().clone();
    let window = windows.last().unwrap();
    assert_eq!(window["timeline"], 2, "{windows:?}");
    assert!(!window["resumes_lsn"].is_null(), "{windows:?}");
    // Timeline 1 has log in the segment with the fork that was given up: it is not replayed here.
    let latest = site.restore("latest");
    assert_eq!(latest.code, 10, "{}", latest.stderr);
    assert!(latest.stderr.contains("log is missing from"), "{}", latest.stderr);
    assert_eq!(site.bodies(window["until_lsn"].as_str().unwrap(), None), "one two");
    let refused = site.restore(&given_up);
    assert_eq!(refused.code, 10, "{}", refused.stderr);
    assert!(refused.stderr.contains("it is there with --timeline 1"), "{}", refused.stderr);
    assert_eq!(site.bodies(&given_up, Some("1")), "one two three");
    assert_a_server_gets_nothing_that_was_given_up(&site, window["until_lsn"].as_str().unwrap());

    site.base();
    site.write("six");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    let refused = site.restore(&in_gap);
    assert_eq!(refused.code, 10, "{}", refused.stderr);
    assert!(refused.stderr.contains("log is missing there"), "{}", refused.stderr);
    assert_eq!(site.bodies("latest", None), "one two lost five six");

    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    site.belay.write_settings(&format!("{settings}[retention]\nkeep = \"0s\"\n"));
    let retained = site.belay.json(["retain"]);
    assert_eq!(retained["removed"].as_array().unwrap().len(), 1, "{retained}");
    let of_first = site.belay.repository().join("prod/wal/00000001");
    assert!(!of_first.exists(), "what was given up is out of the window");
    assert_eq!(site.bodies("latest", None), "one two lost five six");
}

/// Asks for the segment with the fork as a server does that follows timeline 2.
fn assert_a_server_gets_nothing_that_was_given_up(site: &Site, fork: &str) {
    let fork: belay::rules::wal::Lsn = fork.parse().unwrap();
    let segment = belay::rules::physical::Segment::at(2, fork, 1 << 20);
    let to = site.cluster.room("fetched").join("RECOVERYXLOG");
    let fetch = |name: String| site.belay.run(["wal", "fetch", &name, to.to_str().unwrap()]);
    let fetched = fetch(segment.to_string());
    assert_eq!(fetched.code, 0, "{}", fetched.stderr);
    let bytes = std::fs::read(&to).unwrap();
    let (before, behind) = bytes.split_at(usize::try_from(fork.0 % (1 << 20)).unwrap());
    assert!(before.iter().any(|byte| *byte != 0) && behind.iter().all(|byte| *byte == 0));
    assert_eq!(fetch("00000002.history".into()).code, 0);
    // Before the fork timeline 2 has nothing of its own, and nothing is missing there.
    let earlier = belay::rules::physical::Segment { number: segment.number - 1, ..segment };
    assert_eq!(fetch(earlier.to_string()).code, 1);
}

#[test]
fn another_cluster_under_the_same_name_is_refused_before_anything_is_stored() {
    let site = a_site();
    let receiver = site.receive();
    site.base();
    site.write("one");
    site.wait_until_stored(&site.lsn());
    receiver.end();
    // One that was made by itself: those of the tests' usual kind are copies of each other.
    let other = a_cluster().with_encoding("LATIN1").with_locale(Locale::Libc("C".into())).start();
    other.create_database("app");
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let place =
        |cluster: &Cluster| format!("host = \"{}\"\nport = {}\n", cluster.host().display(), cluster.port());
    site.belay.write_settings(&settings.replace(&place(&site.cluster), &place(&other)));
    let before = site.objects();
    for args in [&["wal", "receive"][..], &["base-backup"]] {
        let refused = site.belay.run(args.iter().copied());
        assert_eq!(refused.code, 10, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("must not be mixed"), "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("hint: give this cluster a name of its own"), "{}", refused.stderr);
    }
    assert_eq!(site.objects(), before);
    assert_eq!(other.psql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
    site.belay.write_settings(&settings);
    site.write("two");
    site.receive_all();
    assert_eq!(site.bodies("latest", None), "one two");
}
