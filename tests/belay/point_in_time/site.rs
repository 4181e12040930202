//! A cluster that is written to, and its log received meanwhile.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::world::{Belay, Cluster, Output, Plan, a_cluster};

/// A cluster with the database `app`, and an installation that keeps its log.
pub struct Site {
    pub cluster: Cluster,
    pub belay: Belay,
}

/// Commits can be told by their time: `track_commit_timestamp` is on.
pub fn a_site() -> Site {
    a_site_on(a_cluster())
}

/// The same, on a cluster of another kind.
pub fn a_site_on(plan: Plan) -> Site {
    let cluster = plan
        .with_setting("wal_level=replica")
        .with_setting("max_wal_senders=10")
        .with_setting("track_commit_timestamp=on")
        .start();
    cluster.create_database("app");
    cluster.psql("app", "CREATE TABLE moments (id bigserial PRIMARY KEY, body text)");
    let belay = Belay::with_settings(&cluster, "app", "[wal]\nship_every = \"1s\"\n");
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    Site { cluster, belay }
}

impl Site {
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
        let mut command = self.belay.command(["wal", "receive"]);
        Receiver(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
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
                "{lsn} is not stored: {}",
                self.cluster.psql("postgres", slots)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Restores the database as it was `at`, into `back`.
    pub fn restore(&self, at: &str) -> Output {
        self.belay.run(["restore", "app", "--at", at, "--into", "back"])
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

/// A running `belay wal receive`.
pub struct Receiver(Child);

impl Receiver {
    /// Tells it to stop; it stores what it has.
    pub fn end(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
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
