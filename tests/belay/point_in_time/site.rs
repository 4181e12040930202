//! A cluster that is written to, and its log received meanwhile.

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

/// One on such a cluster.
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

/// Turns points in time on, with `verify` in `[verify]` and `more` behind; nothing else is done unasked.
pub fn with_points_in_time(site: &Site, verify: &str, more: &str) {
    let never = "schedule = \"never\"\n";
    let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
    let settings = settings.replace("name = \"prod\"\n", "name = \"prod\"\npoint_in_time = true\n");
    let verify = if verify.is_empty() { "physical_schedule = \"never\"\n" } else { verify };
    let sections = format!("{never}[verify]\n{never}{verify}[retention]\n{never}[wal]\n");
    site.belay.write_settings(&format!("{}{more}", settings.replace("[wal]\n", &sections)));
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
