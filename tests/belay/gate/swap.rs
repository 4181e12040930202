//! The restored database takes the name while clients come back all the time.

use std::process::{Child, Stdio};

use super::site::Site;
use super::{psql, shell, wait_until};
use crate::world::{Cluster, migration_program};

/// Threads that connect, ask and leave, until a file is there; each that got an answer adds a byte.
const CLIENTS: &str = r#"
import os, sys, threading, psycopg2

stop, answers = sys.argv[1], open(sys.argv[2], "ab", buffering=0)

def reconnect():
    while not os.path.exists(stop):
        try:
            connection = psycopg2.connect("dbname=app")
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM users")
            cursor.fetchone()
            connection.close()
            answers.write(b".")
        except psycopg2.Error:
            pass

threads = [threading.Thread(target=reconnect) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"#;

/// 16 clients that reconnect; ended when dropped.
struct Clients {
    process: Child,
    stop: std::path::PathBuf,
    answers: std::path::PathBuf,
}

impl Clients {
    fn start(cluster: &Cluster, directory: &std::path::Path) -> Clients {
        let (stop, answers) = (directory.join("clients.end"), directory.join("clients.answers"));
        let mut python = cluster.client("psql");
        let environment: Vec<_> = python
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        python = std::process::Command::new(migration_program("python"));
        python.envs(environment).args(["-c", CLIENTS]).arg(&stop).arg(&answers);
        let process = python.stdin(Stdio::null()).spawn().expect("start the clients");
        Clients { process, stop, answers }
    }

    fn answered(&self) -> u64 {
        std::fs::metadata(&self.answers).map(|about| about.len()).unwrap_or_default()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.stop, "");
        let _ = self.process.wait();
    }
}

#[test]
fn clients_that_come_back_all_the_time_do_not_hinder_a_swap() {
    let site = Site::with_gate("");
    site.pauses.stop_at("command");
    let half = psql("DELETE FROM orders");
    let script = format!("{half}{}exit 1", site.pauses.shell("command"));
    let mut running = site.begin(&[], &shell(&script));
    running.wait_at(&site.pauses, "command");
    let clients = Clients::start(&site.cluster, site.pauses.directory());
    wait_until("clients get answers", || clients.answered() >= 50);
    site.pauses.go_on();
    let ran = running.ran();
    ran.assert_ended(21, "restored");
    let at_the_end = clients.answered();
    wait_until("clients get answers of the restored database", || clients.answered() >= at_the_end + 50);
    drop(clients);
    // Owner, rights, settings, limit and comment are part of it.
    site.assert_restored(&ran);
    let failed = &site.failed_databases()[0];
    assert_eq!(site.cluster.psql(failed, "SELECT count(*) FROM orders"), "0");
}
