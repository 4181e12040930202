//! A cluster that is written to, and its log received meanwhile.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;

use crate::bucket::an_installation;
use crate::world::{Belay, Cluster, Output, Plan, a_cluster};

/// A cluster with the database `app`, and an installation that keeps its log.
pub struct Site {
    pub cluster: Cluster,
    pub belay: Belay,
}

const SHIP_OFTEN: &str = "[wal]\nship_every = \"1s\"\n";

/// Commits can be told by their time: `track_commit_timestamp` is on.
pub fn a_site() -> Site {
    a_site_on(a_cluster())
}

/// As [`a_site`], on another cluster.
pub fn a_site_on(plan: Plan) -> Site {
    let cluster = a_cluster_with_moments(plan);
    let belay = Belay::with_settings(&cluster, "app", SHIP_OFTEN);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    Site { cluster, belay }
}

/// As [`a_site_on`], whose repository is in a bucket that is reached at `endpoint`; each request has `timeout`,
/// and is tried twice.
pub fn a_site_in_a_bucket(plan: Plan, endpoint: &str, timeout: &str) -> Site {
    let cluster = a_cluster_with_moments(plan);
    let belay = an_installation(&cluster, endpoint);
    let settings = std::fs::read_to_string(belay.settings()).unwrap();
    let settings = settings.replace("attempts = 6\n", &format!("attempts = 2\ntimeout = \"{timeout}\"\n"));
    belay.write_settings(&format!("{settings}{SHIP_OFTEN}"));
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    Site { cluster, belay }
}

fn a_cluster_with_moments(plan: Plan) -> Cluster {
    let cluster = plan
        .with_setting("wal_level=replica")
        .with_setting("max_wal_senders=10")
        .with_setting("track_commit_timestamp=on")
        .start();
    cluster.create_database("app");
    cluster.psql("app", "CREATE TABLE moments (id bigserial PRIMARY KEY, body text)");
    cluster
}

/// As [`a_site`], whose server hands its log over instead.
pub fn a_site_that_pushes(plan: Plan) -> Site {
    let site = a_site_on(plan.with_setting("archive_mode=on"));
    site.begin_to_push();
    site
}

impl Site {
    /// Has the server hand its log over; it archives.
    pub fn begin_to_push(&self) {
        let command = self.command_of_server("wal push %p");
        self.cluster.psql("postgres", &format!("ALTER SYSTEM SET archive_command = '{command}'"));
        self.cluster.psql("postgres", "SELECT pg_reload_conf()");
    }

    /// The rows, and when each was committed.
    pub fn committed(&self) -> Vec<(i64, DateTime<Utc>)> {
        let sql = "SELECT id, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM moments ORDER BY 1";
        let row = |line: &str| {
            let (id, at) = line.split_once('|').unwrap();
            (id.parse().unwrap(), DateTime::from_timestamp_micros(at.parse().unwrap()).unwrap())
        };
        self.cluster.psql("app", sql).lines().map(row).collect()
    }

    /// What the server runs `belay` by.
    pub fn command_of_server(&self, words: &str) -> String {
        command_of_server(&self.cluster, &self.belay, words)
    }

    /// Has the server end its segment, and waits until all of its log is handed over.
    pub fn switch(&self) {
        // At the beginning of a segment there is nothing to end, and the one before is named.
        let last = self.cluster.psql("postgres", "SELECT pg_walfile_name(pg_switch_wal())");
        self.wait_until_pushed(&last);
    }

    /// Waits until a segment is handed over.
    pub fn wait_until_pushed(&self, segment: &str) {
        let sql = "SELECT coalesce(last_archived_wal, ''), failed_count FROM pg_stat_archiver";
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.cluster.psql("postgres", sql).as_str() < segment {
            assert!(Instant::now() < deadline, "{segment} is not pushed: {}", self.cluster.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes a base backup.
    pub fn base(&self) -> serde_json::Value {
        self.belay.json(["base-backup"])
    }

    /// Makes a tablespace, and a table `<name>_rows` of `rows` rows in it; returns its directory.
    pub fn make_tablespace(&self, name: &str, rows: u32) -> PathBuf {
        let directory = self.cluster.room(name);
        let at = directory.display();
        self.cluster.psql("app", &format!("CREATE TABLESPACE {name} LOCATION '{at}'"));
        self.cluster.psql(
            "app",
            &format!(
                "CREATE TABLE {name}_rows TABLESPACE {name} AS SELECT n FROM generate_series(1, {rows}) n"
            ),
        );
        directory
    }

    /// Where the object of a base backup lies.
    pub fn object(&self, base: &serde_json::Value, name: &str) -> PathBuf {
        let folder = self.belay.repository().join("prod/base").join(base["id"].as_str().unwrap());
        folder.join(name)
    }

    /// The files of the repository.
    pub fn objects(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.belay.repository()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    found.insert(entry.path());
                }
            }
        }
        found
    }

    /// The base backups that are listed, and whether anything is left in the scratch directory.
    pub fn listed(&self) -> (Vec<String>, usize) {
        let windows = self.belay.json(["list"])["windows"].clone();
        let ids = windows.as_array().unwrap().iter().map(|window| window["base"].as_str().unwrap().into());
        let scratch = std::fs::read_dir(self.belay.state().join("scratch")).map_or(0, Iterator::count);
        (ids.collect(), scratch)
    }

    /// Commits a row.
    pub fn write(&self, body: &str) {
        self.cluster.psql("app", &format!("INSERT INTO moments (body) VALUES ('{body}')"));
    }

    /// Commits rows, each at the end of a segment of its own; returns the segments.
    pub fn write_segments(&self, bodies: &[&str]) -> Vec<String> {
        let end = |body: &&str| {
            self.write(body);
            let file = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
            let segment = self.cluster.psql("postgres", file);
            self.cluster.psql("postgres", "SELECT pg_switch_wal()");
            segment
        };
        bodies.iter().map(end).collect()
    }

    /// The server's clock.
    pub fn now(&self) -> DateTime<Utc> {
        let text =
            self.cluster.psql("postgres", "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
        DateTime::from_timestamp_micros(text.parse().unwrap()).unwrap()
    }

    /// Where the log is.
    pub fn lsn(&self) -> String {
        self.cluster.psql("postgres", "SELECT pg_current_wal_insert_lsn()")
    }

    /// Starts to receive the log.
    pub fn receive(&self) -> Receiver {
        Receiver::start(&self.belay)
    }

    fn receiver_log(&self) -> std::path::PathBuf {
        receiver_log(&self.belay)
    }

    /// Receives the log until what is there now is stored.
    pub fn receive_all(&self) {
        let wanted = self.lsn();
        let receiver = self.receive();
        self.wait_until_stored(&wanted);
        receiver.end();
    }

    /// Waits until the log is stored up to `lsn`, by what the slot lets the server have.
    pub fn wait_until_stored(&self, lsn: &str) {
        let sql = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'belay_prod' AND restart_lsn >= '{lsn}'::pg_lsn"
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.cluster.psql("postgres", &sql) != "1" {
            let slots = "SELECT slot_name, restart_lsn, pg_current_wal_flush_lsn() FROM pg_replication_slots";
            assert!(
                Instant::now() < deadline,
                "{lsn} is not stored: {} {}",
                self.cluster.psql("postgres", slots),
                std::fs::read_to_string(self.receiver_log()).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Restores the database as it was `at`, into `back`.
    pub fn restore(&self, at: &str) -> Output {
        self.belay.run(["restore", "app", "--at", at, "--into", "back"])
    }

    /// Recovers the cluster as it was `at`, and goes on with that in place of the live one.
    pub fn go_back(&self, at: &str) {
        let data = self.cluster.room("recovered").join("data");
        let into = data.to_string_lossy().into_owned();
        let recovered = self.belay.run(["recover", "--into", &into, "--at", at]);
        assert_eq!(recovered.code, 0, "{}", recovered.stderr);
        self.cluster.go_on_with(&data);
        let timeline = self.cluster.psql("postgres", "SELECT timeline_id FROM pg_control_checkpoint()");
        assert_eq!(timeline, "2");
    }

    /// What the rows say of the database as it was `at`, on the newest timeline unless one is named.
    pub fn bodies(&self, at: &str, timeline: Option<&str>) -> String {
        let on = timeline.into_iter().flat_map(|timeline| ["--timeline", timeline]);
        let args = ["restore", "app", "--at", at, "--into", "back"].into_iter().chain(on);
        let restored = self.belay.run(args);
        assert_eq!(restored.code, 0, "{at}: {}", restored.stderr);
        let found = self.cluster.psql("back", "SELECT string_agg(body, ' ' ORDER BY id) FROM moments");
        self.cluster.psql("postgres", "DROP DATABASE back");
        found
    }

    /// What the restored database has; it is dropped.
    pub fn restored_ids(&self, at: &str) -> Vec<i64> {
        let restored = self.restore(at);
        assert_eq!(restored.code, 0, "{at}: {}", restored.stderr);
        let ids = self.cluster.psql("back", "SELECT id FROM moments ORDER BY id");
        self.cluster.psql("postgres", "DROP DATABASE back");
        ids.lines().map(|id| id.parse().unwrap()).collect()
    }
}

fn receiver_log(belay: &Belay) -> std::path::PathBuf {
    belay.home().join("receiver.log")
}

/// Turns points in time on, with `verify` in `[verify]` and `more` behind; nothing else is done unasked.
pub fn with_points_in_time(site: &Site, verify: &str, more: &str) {
    let never = "schedule = \"never\"\n";
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let settings = settings.replace("name = \"prod\"\n", "name = \"prod\"\npoint_in_time = true\n");
    let verify = if verify.is_empty() { "physical_schedule = \"never\"\n" } else { verify };
    let sections = format!("{never}[verify]\n{never}{verify}[retention]\n{never}[wal]\n");
    site.belay.write_settings(&format!("{}{more}", settings.replace("[wal]\n", &sections)));
}

/// What a server runs `belay` by: it may not enter where that was built.
pub fn command_of_server(cluster: &Cluster, belay: &Belay, words: &str) -> String {
    let program = cluster.host().join("belay");
    if !program.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_belay"), &program).unwrap();
    }
    let (program, settings) = (program.display(), belay.settings().display().to_string());
    format!("env -i PATH=/usr/bin:/bin {program} --config {settings} {words}")
}

/// A running `belay wal receive`.
pub struct Receiver(Child);

impl Receiver {
    /// Starts it.
    pub fn start(belay: &Belay) -> Receiver {
        let mut command = belay.command(["wal", "receive"]);
        let log = std::fs::File::create(receiver_log(belay)).unwrap();
        Receiver(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// The most memory that it had, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Tells it to stop; it stores what it has.
    pub fn end(mut self) {
        self.signal(Signal::SIGTERM);
        self.0.wait().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for its end, and says whether it ended well.
    pub fn ended(mut self) -> bool {
        self.0.wait().unwrap().success()
    }

    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A time as `--at` takes it.
pub fn text_of(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

/// Turns a bit in the middle of a file over; returns what it was before.
pub fn flipped(path: &std::path::Path) -> Vec<u8> {
    let good = std::fs::read(path).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(path, bad).unwrap();
    good
}
