//! What tests may rely on in their world.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Belay, Listen, Locale, a_cluster};

#[test]
fn a_cluster_is_gone_with_its_files_when_dropped() {
    let cluster = a_cluster().start();
    let world = cluster.host().to_owned();
    assert_eq!(cluster.psql("postgres", "SELECT 1, NULL, 'x'; SELECT 2"), "1||x\n2");
    drop(cluster);
    assert!(!world.exists());
}

#[test]
fn a_cluster_listens_on_its_socket_only_unless_asked() {
    let quiet = a_cluster().start();
    assert!(std::net::TcpStream::connect(("127.0.0.1", quiet.port())).is_err());
    let open = a_cluster().listening(Listen::Loopback).start();
    assert!(std::net::TcpStream::connect(("127.0.0.1", open.port())).is_ok());
}

#[test]
fn a_cluster_has_the_locale_that_was_asked_for() {
    let cluster = a_cluster().with_locale(Locale::Icu("de".into())).start();
    assert!(
        cluster.properties("postgres").contains("|UTF8|C.UTF-8|C.UTF-8|i|de|"),
        "{}",
        cluster.properties("postgres")
    );
    let cluster = a_cluster().with_locale(Locale::Libc("C".into())).with_encoding("LATIN1").start();
    assert!(cluster.properties("postgres").contains("|LATIN1|C|C|"), "{}", cluster.properties("postgres"));
}

#[test]
fn a_database_may_have_any_name() {
    let cluster = a_cluster().start();
    let name = "Käfig \"quoted\" 'n' \\ 🦁 host=nowhere";
    cluster.create_database(name);
    assert_eq!(cluster.psql(name, "SELECT current_database()"), name);
}

#[test]
fn belay_gets_a_home_that_the_clusters_owner_can_write() {
    let cluster = a_cluster().start();
    cluster.fill_pgbench("bench", 1);
    let belay = Belay::new(&cluster, "bench");
    let second = Belay::with_settings(&cluster, "bench", "jobs = 2\n");
    assert_ne!(belay.home(), second.home());
    let settings = std::fs::read_to_string(second.settings()).expect("read the settings");
    assert!(settings.ends_with("name = \"bench\"\nuser = \"postgres\"\njobs = 2\n"), "{settings}");
    let mut touch = super::owner::command(Path::new("touch"));
    assert!(touch.arg(belay.home().join("written")).status().expect("run touch").success());
    assert_eq!(cluster.psql("bench", "SELECT count(*) FROM pgbench_accounts"), "100000");
}

#[test]
fn a_cluster_ends_with_a_killed_test_process() {
    // This test runs itself once more, and kills that one while it holds a cluster.
    if std::env::var_os("BELAY_TEST_VICTIM").is_some() {
        let cluster = a_cluster().start();
        writeln!(std::io::stdout(), "world: {}", cluster.host().display()).expect("tell the world");
        std::io::stdin().read_line(&mut String::new()).expect("wait to be killed");
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("the test binary has a path"))
        .args(["--exact", "world::facts::a_cluster_ends_with_a_killed_test_process"])
        .env("BELAY_TEST_VICTIM", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run the test binary");
    let stdout = BufReader::new(child.stdout.take().expect("its output is piped"));
    let mut lines = stdout.lines().map(|line| line.expect("the test binary prints text"));
    let world = lines.find_map(|line| line.split_once("world: ").map(|(_, world)| world.to_owned()));
    let world = world.expect("the process tells its world");
    assert!(Path::new(&world).exists());
    child.kill().expect("kill the test process");
    child.wait().expect("wait for the test process");
    let deadline = Instant::now() + Duration::from_secs(30);
    while Path::new(&world).exists() {
        assert!(Instant::now() < deadline, "{world} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}
