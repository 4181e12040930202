//! A throwaway cluster of ours: made, used, removed; nothing in it outlives a job.
//!
//! It lies in a 0700 directory under the state directory, listens on a socket there and on
//! loopback, asks for a random password, and does not care for durability.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt as _;
use rand::distr::Alphanumeric;
use secrecy::SecretString;

use super::tools::{self, RunningTool, Streams};
use super::{PostgresError, session};
use crate::settings::{Connection, SslMode};

/// A cluster is ready well within this on any machine that runs PostgreSQL.
const START_ATTEMPTS: u32 = 600;
const START_PAUSE: Duration = Duration::from_millis(50);

/// A running throwaway cluster; ended and removed by [`ScratchCluster::remove`], killed when dropped.
pub struct ScratchCluster {
    directory: PathBuf,
    server: Option<RunningTool>,
    /// How to connect to its maintenance database.
    pub connection: Connection,
}

impl ScratchCluster {
    /// Makes and starts a cluster under `parent`, whose superuser is called `superuser`.
    ///
    /// `programs` is the directory of initdb and postgres of the major version wanted.
    ///
    /// # Errors
    /// [`PostgresError::ToolStart`] when the server's programs are not installed,
    /// [`PostgresError::ToolFailed`] when the cluster does not start.
    pub async fn start(parent: &Path, programs: &Path, superuser: &str) -> Result<Self, PostgresError> {
        let directory = parent.join(format!(
            "scratch-{}-{}",
            std::process::id(),
            crate::rules::layout::tail(rand::random())
        ));
        let password: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
        let failed = |source| PostgresError::Pump { tool: "initdb".into(), source };
        prepare(&directory, &password).map_err(failed)?;
        let port = free_port().map_err(failed)?;
        let connection = Connection {
            host: directory.to_string_lossy().into_owned(),
            port,
            database: session::MAINTENANCE_DATABASE.into(),
            user: superuser.into(),
            password: Some(SecretString::from(password)),
            sslmode: SslMode::Disable,
            sslrootcert: None,
        };
        // From here on its directory goes with it, also when we are stopped while initdb runs.
        let mut cluster = Self { directory, server: None, connection };
        initialize(&cluster.directory, programs, superuser).await?;
        cluster.server = Some(serve(&cluster.directory, programs, port)?);
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    async fn wait_until_ready(&mut self) -> Result<(), PostgresError> {
        for _ in 0..START_ATTEMPTS {
            if session::connect(&self.connection).await.is_ok() {
                return Ok(());
            }
            if let Some(server) = &mut self.server
                && server.has_ended()
            {
                break;
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        let ended = match self.server.take() {
            Some(server) => server.end().await,
            None => String::new(),
        };
        let last_lines: Vec<&str> = ended.lines().rev().take(5).collect();
        Err(PostgresError::ToolFailed {
            tool: "postgres".into(),
            status: "did not start a scratch cluster".into(),
            messages: last_lines.into_iter().rev().collect::<Vec<_>>().join("\n"),
        })
    }

    /// A directory of this cluster for a tablespace, made empty.
    ///
    /// # Errors
    /// What the system says.
    pub fn tablespace_directory(&self, ordinal: usize) -> io::Result<PathBuf> {
        let directory = self.directory.join(format!("tablespace-{ordinal}"));
        make_private(&directory)?;
        Ok(directory)
    }

    /// Ends the server and removes everything.
    ///
    /// # Errors
    /// What the system says; what is left is removed when the next scratch cluster is made.
    pub async fn remove(mut self) -> io::Result<()> {
        if let Some(server) = self.server.take() {
            server.end().await;
        }
        std::fs::remove_dir_all(&self.directory)
    }
}

impl Drop for ScratchCluster {
    fn drop(&mut self) {
        // The server ends with its handle.
        drop(self.server.take());
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn prepare(directory: &Path, password: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    make_private(directory)?;
    let path = directory.join("password");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(password.as_bytes())
}

fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

async fn initialize(directory: &Path, programs: &Path, superuser: &str) -> Result<(), PostgresError> {
    let mut command = tokio::process::Command::new(programs.join("initdb"));
    command
        .arg(format!("--pgdata={}", directory.join("data").display()))
        .arg(format!("--username={superuser}"))
        .arg(format!("--pwfile={}", directory.join("password").display()))
        .args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .env("LC_ALL", "C");
    tools::run(command).await?;
    std::fs::remove_file(directory.join("password"))
        .map_err(|source| PostgresError::Pump { tool: "initdb".into(), source })
}

fn serve(directory: &Path, programs: &Path, port: u16) -> Result<RunningTool, PostgresError> {
    let mut command = tokio::process::Command::new(programs.join("postgres"));
    command.arg("-D").arg(directory.join("data")).env("LC_ALL", "C");
    let settings = [
        ("unix_socket_directories", directory.to_string_lossy().into_owned()),
        ("listen_addresses", "127.0.0.1".into()),
        ("port", port.to_string()),
        ("fsync", "off".into()),
        ("full_page_writes", "off".into()),
        ("synchronous_commit", "off".into()),
        ("wal_level", "minimal".into()),
        ("max_wal_senders", "0".into()),
        ("max_wal_size", "4GB".into()),
        ("autovacuum", "off".into()),
        ("maintenance_work_mem", "128MB".into()),
        ("max_locks_per_transaction", "1024".into()),
        ("max_connections", "100".into()),
        ("log_min_messages", "fatal".into()),
        ("log_min_error_statement", "panic".into()),
    ];
    for (name, value) in settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    RunningTool::start(command, Streams::None)
}

fn free_port() -> io::Result<u16> {
    // The port is free again when this returns; a clash in between ends in a server that does not start.
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr().map(|address| address.port())
}

/// Removes what dead processes left under `parent`: directories called `<kind>-<pid>-<anything>`.
///
/// # Errors
/// What the system says.
pub fn sweep(parent: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.split('-').nth(1).and_then(|pid| pid.parse::<i32>().ok());
        let is_left =
            maker.is_some_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err());
        if is_left {
            end_orphan(&entry.path().join("data"));
            super::archives::open_up(&entry.path());
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Ends the server of a data directory whose maker died.
fn end_orphan(data: &Path) {
    let Ok(text) = std::fs::read_to_string(data.join("postmaster.pid")) else { return };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else { return };
    let working_directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    // The number may belong to somebody else by now; a postmaster stands in its data directory.
    if working_directory.as_deref() == Some(data) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
        for _ in 0..100 {
            if nix::sys::signal::kill(pid, None).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}
