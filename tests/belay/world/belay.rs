//! The built `belay`, with a state directory, a repository and a settings file of its own.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cluster::{Cluster, a_cluster};
use super::owner;

/// What a run of `belay` came to.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit status; 128 and the number of the signal if one ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// An installation of `belay` for one cluster.
///
/// Its files lie in the cluster's world, are owned by the cluster's owner and go with the cluster.
pub struct Belay {
    home: PathBuf,
    programs: PathBuf,
    directory: PathBuf,
}

impl Belay {
    /// Writes the smallest settings that work, for `database` under the name `app`.
    pub fn new(cluster: &Cluster, database: &str) -> Belay {
        Belay::with_settings(cluster, database, "")
    }

    /// Writes the smallest settings that work and `more` behind them, whose first lines belong to
    /// `[database.app]`.
    pub fn with_settings(cluster: &Cluster, database: &str, more: &str) -> Belay {
        let name = (0..).map(|n| format!("belay-{n}")).find(|name| !cluster.host().join(name).exists());
        let home = cluster.room(&name.expect("numbers do not run out"));
        let mut settings = String::new();
        let database = serde_json::to_string(database).expect("a name is text");
        write!(
            settings,
            "[state]\ndirectory = \"{home}/state\"\n[repository]\nurl = \"file://{home}/repository\"\n\
             [cluster]\nname = \"prod\"\n[database.app]\nhost = \"{host}\"\nport = {port}\nname = {database}\n\
             user = \"postgres\"\n{more}",
            home = home.display(),
            host = cluster.host().display(),
            port = cluster.port(),
        )
        .expect("writing to a string does not fail");
        let belay = Belay { home, programs: cluster.programs().to_owned(), directory: "/".into() };
        belay.write_settings(&settings);
        belay
    }

    /// An installation that is ready, for a cluster with the database `app`, whose one table `t` has
    /// a hundred rows; `more` as in [`Belay::with_settings`].
    pub fn with_an_app(more: &str) -> (Cluster, Belay) {
        let cluster = a_cluster().start();
        cluster.create_database("app");
        cluster.psql("app", "CREATE TABLE t AS SELECT generate_series(1, 100) AS n");
        let belay = Belay::with_settings(&cluster, "app", more);
        assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
        (cluster, belay)
    }

    /// Replaces the settings file.
    pub fn write_settings(&self, settings: &str) {
        std::fs::write(self.settings(), settings).expect("write the settings file");
        owner::hand_over(&self.settings());
    }

    /// The settings file.
    pub fn settings(&self) -> PathBuf {
        self.home.join("belay.toml")
    }

    /// The directory that holds everything of this installation.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// The repository's directory.
    pub fn repository(&self) -> PathBuf {
        self.home.join("repository")
    }

    /// Has `belay` find the programs of `directory` before PostgreSQL's own.
    pub fn with_programs(self, directory: &Path) -> Belay {
        Belay { programs: directory.to_owned(), ..self }
    }

    /// Has `belay` run in `directory`, rather than in the root directory.
    pub fn standing_in(self, directory: &Path) -> Belay {
        Belay { directory: directory.to_owned(), ..self }
    }

    /// Returns a command that runs `belay` with this installation's settings, and with nothing of the
    /// environment of the tests but the path.
    pub fn command<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_belay"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&path));
        command
            .env_clear()
            .env("PATH", std::env::join_paths(path).expect("no program lies in a path with a colon"))
            .env("BELAY__CLUSTER__BIN_DIRECTORY", &self.programs);
        command
            .env("HOME", &self.home)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .current_dir(&self.directory);
        command.stdin(Stdio::null()).arg("--config").arg(self.settings()).args(args);
        command
    }

    /// Runs `belay` to its end.
    pub fn run<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Output {
        finish(&mut self.command(args))
    }

    /// Runs `belay --json`, which must exit with status 0, and returns the object it printed.
    pub fn json<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> serde_json::Value {
        let output = finish(self.command(["--json"]).args(args));
        assert_eq!(output.code, 0, "belay: {}", output.stderr);
        serde_json::from_str(&output.stdout).expect("belay --json prints one object")
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Output {
    use std::os::unix::process::ExitStatusExt;
    let output = command.output().expect("run belay");
    let signal = output.status.signal().map(|signal| 128 + signal);
    Output {
        code: output.status.code().or(signal).expect("a process exits or is ended by a signal"),
        stdout: String::from_utf8(output.stdout).expect("belay prints UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("belay prints UTF-8"),
    }
}
