//! A daemon that listens to a socket and to an address, beside a database with a table.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use serde_json::Value;

use super::client::{Answer, ask, bearer, connect, request};
use crate::daemon::service::Service;
use crate::world::{Belay, Cluster};

/// Nothing is scheduled.
const IDLE: &str = "schedule = \"never\"\n[verify]\nschedule = \"never\"\ndepth = \"readable\"\n\
                    [retention]\nschedule = \"never\"\n[gate]\nverify_depth = \"stored\"\n";

/// The daemon and what it serves.
pub struct Site {
    pub service: Service,
    pub belay: Belay,
    pub cluster: Cluster,
    pub address: SocketAddr,
    pub socket: PathBuf,
}

impl Site {
    /// Starts one, with `http` behind the keys of its section.
    pub fn start(http: &str) -> Self {
        Self::start_logging(http, "info,sqlx=warn")
    }

    /// As [`Site::start`], with what is logged.
    pub fn start_logging(http: &str, filter: &str) -> Self {
        let (cluster, belay) = Belay::with_an_app(IDLE);
        cluster.create_database("crm");
        let (address, socket) = (a_free_address(), belay.home().join("belay.sock"));
        let crm = format!(
            "[database.crm]\nhost = \"{}\"\nport = {}\nschedule = \"never\"\n",
            cluster.host().display(),
            cluster.port()
        );
        let section = format!("[http]\nsocket = \"{}\"\nlisten = \"{address}\"\n{http}", socket.display());
        let settings = std::fs::read_to_string(belay.settings()).unwrap();
        belay.write_settings(&format!("{settings}{crm}{section}"));
        let service = Service::start_logging(&belay, filter);
        service.wait_for("READY=1");
        Self { service, belay, cluster, address, socket }
    }

    /// Makes a token with these options.
    pub fn token(&self, options: &[&str]) -> String {
        let output = self.belay.run(["token", "add"].iter().chain(options));
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout.trim().to_owned()
    }

    pub fn operator(&self) -> String {
        self.token(&["op", "--role", "operator"])
    }

    /// Asks over TCP.
    pub fn get(&self, path: &str, token: &str) -> Answer {
        ask(connect(self.address), &request("GET", path, &bearer(token), ""))
    }

    /// Gives an order over TCP.
    pub fn post(&self, path: &str, token: &str, body: &str) -> Answer {
        let fields = format!("{}Content-Type: application/json\r\n", bearer(token));
        ask(connect(self.address), &request("POST", path, &fields, body))
    }

    /// The events of the audit log, the oldest first.
    pub fn events(&self) -> Vec<Value> {
        let log = self.belay.json(["audit", "list", "-n", "1000"]);
        log["events"].as_array().unwrap().iter().map(|row| row["event"].clone()).collect()
    }

    pub fn snapshots(&self) -> Vec<Value> {
        self.belay.json(["list"])["snapshots"].as_array().unwrap().clone()
    }

    /// Whether the daemon answers, as a client of its own sees it.
    pub fn is_well(&self) -> bool {
        ask(connect(self.address), &request("GET", "/healthz", "", "")).status == 200
    }

    /// Files that the daemon has open.
    pub fn open_files(&self) -> usize {
        // `setpriv` becomes the daemon.
        std::fs::read_dir(format!("/proc/{}/fd", self.service.pid())).unwrap().count()
    }

    /// Every file of the repository, with its length.
    pub fn objects(&self) -> Vec<(PathBuf, u64)> {
        let (mut found, mut open) = (Vec::new(), vec![self.belay.repository()]);
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let (path, about) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
                if about.is_dir() { open.push(path) } else { found.push((path, about.len())) }
            }
        }
        found.sort();
        found
    }
}

/// An address of loopback that nobody listens to now.
pub fn a_free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
