//! A daemon beside a cluster, and a runner that has nothing but its address and a token.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::daemon::service::Service;
use crate::gate::site::{Ran, Running, Site};
use crate::world::{Line, finish};

/// A site whose daemon holds gates.
pub struct Remote {
    /// The cluster, the installation, and its fence.
    pub site: Site,
    /// The way of the runner to the daemon.
    pub line: Line,
    daemon: Option<Service>,
    token: PathBuf,
    directory: PathBuf,
}

impl Remote {
    /// Has a daemon serve `site`, with a token for the database `app`.
    pub fn of(site: Site) -> Remote {
        Remote::standing_in(site, Path::new("/"))
    }

    /// The same, with a runner that stands in `directory`.
    pub fn standing_in(site: Site, directory: &Path) -> Remote {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
        let (before, gate) = settings.split_once("[gate]\n").unwrap();
        let never = "schedule = \"never\"\n";
        site.belay.write_settings(&format!(
            "{before}{never}[verify]\n{never}[retention]\n{never}[http]\nlisten = \"127.0.0.1:{port}\"\n\
             [gate]\nlease = \"10s\"\n{gate}"
        ));
        let token = site.cluster.room("runner").join("token");
        let remote = Remote {
            line: Line::to(([127, 0, 0, 1], port).into()),
            daemon: None,
            token,
            directory: directory.to_owned(),
            site,
        };
        remote.add_token("runner", &["--role", "ci", "--db", "app"], &remote.token);
        remote
    }

    /// Makes a token, and writes it into a file.
    pub fn add_token(&self, name: &str, options: &[&str], file: &Path) {
        let made = self.site.belay.run([&["token", "add", name], options].concat());
        assert_eq!(made.code, 0, "{}", made.stderr);
        let token = made.stdout.split_whitespace().find(|word| word.starts_with("belay_")).unwrap();
        std::fs::write(file, format!("{token}\n")).unwrap();
    }

    /// Starts the daemon.
    pub fn start(mut self) -> Remote {
        self.start_daemon();
        self
    }

    /// Starts the daemon, again if it was killed.
    pub fn start_daemon(&mut self) {
        let daemon = Service::start(&self.site.belay);
        daemon.wait_for("READY=1");
        self.daemon = Some(daemon);
    }

    /// Kills the daemon, and nothing else.
    pub fn kill_daemon(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    /// Ends the daemon as systemd does; returns its log.
    pub fn stop_daemon(&mut self) -> String {
        let ended = self.daemon.take().unwrap().stop();
        assert_eq!(ended.code, 0, "{}", ended.log);
        ended.log
    }

    /// The log of the daemon.
    pub fn log(&self) -> String {
        self.daemon.as_ref().unwrap().log()
    }

    /// `belay` as a runner has it: no settings, its own way to the database, and the daemon's address.
    pub fn runner(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_belay"));
        let host = self.site.cluster.host().display().to_string();
        let port = self.site.cluster.port();
        let encoded = host.replace('/', "%2F");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.directory)
            .env("LC_ALL", "C.UTF-8")
            .env("PGHOST", &host)
            .env("PGPORT", port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "app")
            .env("DATABASE_URL", format!("postgresql://postgres@/app?host={encoded}&port={port}"))
            .env("GITHUB_ACTOR", "octocat")
            .env("BELAY_SERVER", self.line.url())
            .current_dir(&self.directory)
            .stdin(Stdio::null());
        command
    }

    /// The command that gates a command, with options.
    pub fn command(&self, options: &[&str], words: &[String]) -> Command {
        let mut command = self.runner();
        command.args(["--json", "migrate", "--db", "app", "--token-file"]).arg(&self.token);
        command.args(options).arg("--").args(words);
        command
    }

    /// Gates a command from the runner.
    pub fn migrate(&self, words: &[String]) -> Ran {
        self.migrate_with(&[], words)
    }

    /// Gates a command from the runner, with options.
    pub fn migrate_with(&self, options: &[&str], words: &[String]) -> Ran {
        Ran::of(&finish(&mut self.command(options, words)))
    }

    /// Begins to gate a command from the runner.
    pub fn begin(&self, words: &[String]) -> Running {
        Running::start(&mut self.command(&[], words))
    }

    /// The file with the runner's token.
    pub fn token(&self) -> &Path {
        &self.token
    }

    /// The events of the audit log, the oldest first.
    pub fn audit(&self) -> Vec<Value> {
        let listed = self.site.belay.json(["audit", "list", "-n", "1000"]);
        let mut events: Vec<Value> = listed["events"].as_array().unwrap().clone();
        events.sort_by_key(|row| row["number"].as_u64());
        events.into_iter().map(|row| row["event"].clone()).collect()
    }
}
