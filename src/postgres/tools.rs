//! PostgreSQL's own programs as children: found by version, fed, drained, and always reaped.
//!
//! A child's exit status is known before anything that depends on it goes on. Passwords go by
//! environment, never by argument.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use secrecy::ExposeSecret as _;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::{PostgresError, pipes};
use crate::settings::Connection;
use crate::tether;

/// Session options of every program, so that a live database and its restored copy are dumped alike,
/// and that pg_restore may write where a role only reads by default.
pub const PINNED_OPTIONS: &str =
    "-c standard_conforming_strings=on -c quote_all_identifiers=off -c default_transaction_read_only=off";
/// How much of a child's standard error is kept, from its end.
const MESSAGES_BYTES: usize = 8 << 10;
/// How often a child that is not wanted any more is looked at before it is killed, and the pause
/// between.
const END_ATTEMPTS: u32 = 100;
const END_PAUSE: Duration = Duration::from_millis(5);

/// A set of PostgreSQL's programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    directory: PathBuf,
    /// `pg_dump --version`, such as `15.18`.
    pub version: String,
    /// Its major version.
    pub major: u32,
}

impl Tools {
    /// Finds `pg_dump` and its companions for a server of `server_major`.
    ///
    /// Of the sets in `preferred` (looked at first), on the path and where Debian, Red Hat and
    /// PostgreSQL's own packages put them, takes the one of the server's own major, else the
    /// lowest above it: archives of a newer pg_dump may hold what older servers do not know.
    ///
    /// # Errors
    /// [`PostgresError::ToolMissing`] when all that was found is older.
    pub async fn find(
        preferred: Option<&Path>,
        path: &str,
        server_major: u32,
    ) -> Result<Self, PostgresError> {
        Self::find_at_least(preferred, path, server_major).await
    }

    /// As [`Tools::find`], and able to read an archive that `pg_dump_version` wrote.
    ///
    /// # Errors
    /// [`PostgresError::ToolMissing`] when all that was found is older.
    pub async fn find_reading(
        preferred: Option<&Path>,
        path: &str,
        server_major: u32,
        pg_dump_version: &str,
    ) -> Result<Self, PostgresError> {
        Self::find_at_least(preferred, path, server_major.max(oldest_reader(pg_dump_version))).await
    }

    async fn find_at_least(
        preferred: Option<&Path>,
        path: &str,
        server_major: u32,
    ) -> Result<Self, PostgresError> {
        let mut found: Vec<Self> = Vec::new();
        for directory in directories(preferred, path) {
            if let Some(tools) = Self::look_in(&directory).await {
                let is_preferred = preferred == Some(directory.as_path()) && tools.major >= server_major;
                // To ask a program for its version takes a while: no set could be a better one.
                if is_preferred || tools.major == server_major {
                    return Ok(tools);
                }
                found.push(tools);
            }
        }
        let versions: Vec<_> = found.iter().map(|tools| tools.version.clone()).collect();
        let usable = found.into_iter().filter(|tools| tools.major >= server_major);
        usable.min_by_key(|tools| tools.major).ok_or_else(|| PostgresError::ToolMissing {
            tool: "pg_dump",
            wanted: server_major,
            found: if versions.is_empty() {
                "there is none".into()
            } else {
                format!("there is only {}", versions.join(", "))
            },
        })
    }

    async fn look_in(directory: &Path) -> Option<Self> {
        let (version, major) = version_of(&directory.join("pg_dump")).await?;
        Some(Self { directory: directory.to_owned(), version, major })
    }

    /// Finds the server's programs (initdb, postgres) of exactly `major`, in the same places.
    ///
    /// # Errors
    /// [`PostgresError::ToolMissing`]
    pub async fn find_server(
        preferred: Option<&Path>,
        path: &str,
        major: u32,
    ) -> Result<PathBuf, PostgresError> {
        let mut versions = Vec::new();
        for directory in directories(preferred, path) {
            let Some((version, found)) = version_of(&directory.join("postgres")).await else { continue };
            if found == major && directory.join("initdb").exists() {
                return Ok(directory);
            }
            versions.push(version);
        }
        let found = if versions.is_empty() {
            "there is none".into()
        } else {
            format!("there is only {}", versions.join(", "))
        };
        Err(PostgresError::ServerMissing { major, found })
    }

    /// The path of one program of the set.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A command of the set that connects to `to`.
    pub fn command(&self, name: &str, to: &Connection) -> Command {
        let mut command = Command::new(self.program(name));
        command
            .env("PGHOST", &to.host)
            .env("PGPORT", to.port.to_string())
            .env("PGUSER", &to.user)
            .env("PGDATABASE", &to.database)
            .env("PGSSLMODE", to.sslmode.as_str())
            .env("PGAPPNAME", "belay")
            .env("LC_MESSAGES", "C")
            .env_remove("PGSERVICE")
            // What a database may set by itself and pg_dump would take over into its archive.
            .env("PGOPTIONS", PINNED_OPTIONS)
            .env_remove("PGHOSTADDR")
            .env_remove("PGCLIENTENCODING");
        if let Some(path) = &to.sslrootcert {
            command.env("PGSSLROOTCERT", path);
        }
        match &to.password {
            Some(password) => command.env("PGPASSWORD", password.expose_secret()),
            None => command.env_remove("PGPASSWORD"),
        };
        command
    }
}

/// The oldest major whose pg_restore reads an archive of `pg_dump_version`: the custom format got
/// new versions in 16 and 17 (`K_VERS_1_15` and `K_VERS_1_16` in PostgreSQL's pg_backup_archiver.h).
fn oldest_reader(pg_dump_version: &str) -> u32 {
    let major = pg_dump_version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
    match major {
        0..16 => 0,
        16 => 16,
        _ => 17,
    }
}

/// What a program answers to `--version`: `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
async fn version_of(program: &Path) -> Option<(String, u32)> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_whitespace().nth(2)?.to_owned();
    let major = version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some((version, major))
}

fn directories(preferred: Option<&Path>, path: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = preferred.map(Path::to_owned).into_iter().collect();
    // Packages' own directories before the path: what Debian puts there is a wrapper that guesses
    // a version.
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-"), ("/opt/postgresql", "")] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let named = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        found.extend(named.map(|entry| entry.path().join("bin")));
    }
    found.extend(std::env::split_paths(path));
    found.retain(|directory| directory.is_absolute());
    found
}

/// A running child of ours; ended when dropped before it was reaped, and when this process dies.
///
/// It leads a process group of its own: Ctrl-C reaches us alone, and we end its children with it.
pub struct RunningTool {
    name: String,
    child: Child,
    messages: tokio::task::JoinHandle<String>,
}

/// What of a child's streams we hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// We read what it writes.
    Out,
    /// We write what it reads.
    In,
    /// Both.
    InOut,
    /// Neither.
    None,
}

impl RunningTool {
    /// Starts `command`.
    ///
    /// # Errors
    /// [`PostgresError::ToolStart`]
    pub fn start(command: Command, streams: Streams) -> Result<Self, PostgresError> {
        let pipe_if = |is_piped| if is_piped { Stdio::piped() } else { Stdio::null() };
        let stdin = pipe_if(matches!(streams, Streams::In | Streams::InOut));
        Self::spawn(&command, stdin, pipe_if(matches!(streams, Streams::Out | Streams::InOut)))
    }

    /// Starts `command` reading `input`; we read what it writes.
    ///
    /// # Errors
    /// [`PostgresError::ToolStart`]
    pub fn start_reading(command: Command, input: File) -> Result<Self, PostgresError> {
        Self::spawn(&command, Stdio::from(input), Stdio::piped())
    }

    fn spawn(command: &Command, stdin: Stdio, stdout: Stdio) -> Result<Self, PostgresError> {
        let program = PathBuf::from(command.as_std().get_program());
        let name =
            program.file_name().map_or_else(|| "child".into(), |name| name.to_string_lossy().into_owned());
        let failed = |source| PostgresError::ToolStart { program: program.clone(), source };
        // A tether starts whatever the program is, and would hide that it is missing.
        std::fs::metadata(&program).map_err(failed)?;
        let mut command = tether::tethered(command, ending_of(&name));
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let stderr = child.stderr.take();
        let messages = tokio::spawn(async move {
            match stderr {
                Some(stderr) => tail_of(stderr).await,
                None => String::new(),
            }
        });
        Ok(Self { name, child, messages })
    }

    /// The program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The child's standard output, to be read where blocking is allowed.
    ///
    /// # Errors
    /// [`PostgresError::Pump`] when it is not piped or was taken.
    pub fn stdout(&mut self) -> Result<File, PostgresError> {
        let taken = self.child.stdout.take().ok_or_else(not_piped).and_then(|pipe| pipe.into_owned_fd());
        let stdout = taken.map_err(|source| self.pump_error(source))?;
        pipes::widen(&stdout);
        Ok(stdout.into())
    }

    /// The child's standard input, to be written where blocking is allowed.
    ///
    /// # Errors
    /// [`PostgresError::Pump`] when it is not piped or was taken.
    pub fn stdin(&mut self) -> Result<File, PostgresError> {
        let taken = self.child.stdin.take().ok_or_else(not_piped).and_then(|pipe| pipe.into_owned_fd());
        taken.map(File::from).map_err(|source| self.pump_error(source))
    }

    /// Names this child in an error of its pipes.
    pub fn pump_error(&self, source: std::io::Error) -> PostgresError {
        PostgresError::Pump { tool: self.name.clone(), source }
    }

    /// Whether the child has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().map_or(true, |status| status.is_some())
    }

    /// Ends a server: asks for an immediate shutdown (SIGQUIT), waits for its end, and returns
    /// the end of what it wrote to standard error.
    pub async fn end(mut self) -> String {
        self.signal(Signal::SIGQUIT);
        let _ = self.child.wait().await;
        (&mut self.messages).await.unwrap_or_default()
    }

    /// Ends a server: asks for a fast shutdown (SIGINT), and waits until it has written everything.
    ///
    /// # Errors
    /// As [`Self::reap`].
    pub async fn end_in_order(self) -> Result<String, PostgresError> {
        let leader = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = leader {
            // The server alone: it tells its processes itself.
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        self.reap().await
    }

    /// Signals the child's group, unless the child was reaped: the number may be another's then.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for the child and returns the end of what it wrote to standard error.
    ///
    /// # Errors
    /// [`PostgresError::ToolFailed`] unless it exited with status 0.
    pub async fn reap(mut self) -> Result<String, PostgresError> {
        let status = self.child.wait().await.map_err(|source| self.pump_error(source))?;
        let messages = (&mut self.messages).await.unwrap_or_default();
        if status.success() {
            return Ok(messages);
        }
        Err(PostgresError::ToolFailed { tool: self.name.clone(), status: in_words(status), messages })
    }
}

impl Drop for RunningTool {
    /// A pg_restore that is asked to end cancels what the server does for it; one that is killed
    /// leaves an index being built.
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        self.signal(ending_of(&self.name));
        for _ in 0..END_ATTEMPTS {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(END_PAUSE);
        }
        self.signal(Signal::SIGKILL);
    }
}

/// The signal that ends a program soon: a server would wait for its clients otherwise.
fn ending_of(name: &str) -> Signal {
    if name == "postgres" { Signal::SIGQUIT } else { Signal::SIGTERM }
}

fn not_piped() -> std::io::Error {
    std::io::Error::other("the stream is not open")
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".into(),
    }
}

async fn tail_of(mut stderr: tokio::process::ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut piece = vec![0; 4096];
    while let Ok(read) = stderr.read(&mut piece).await {
        if read == 0 {
            break;
        }
        kept.extend_from_slice(piece.get(..read).unwrap_or_default());
        if kept.len() > 2 * MESSAGES_BYTES {
            kept.drain(..kept.len() - MESSAGES_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Runs a child that neither reads nor writes, and returns the end of its standard error.
///
/// # Errors
/// [`PostgresError::ToolStart`], [`PostgresError::ToolFailed`]
pub async fn run(command: Command) -> Result<String, PostgresError> {
    RunningTool::start(command, Streams::None)?.reap().await
}
