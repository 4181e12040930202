//! A server of ours on a recovered data directory: it replays the log up to a target, and is
//! promoted there.
//!
//! It listens on a socket in a 0700 directory of ours, where whoever may enter is the superuser. It
//! takes neither settings nor access rules from the data directory: those of the cluster name files,
//! libraries and addresses of another life.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;

use super::session::{column, rows};
use super::tools::{RunningTool, Streams};
use super::{PostgresError, session};
use crate::rules::recovery::Target;
use crate::rules::wal::Lsn;
use crate::settings::{Connection, SslMode};

const PORT: u16 = 5432;
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// What a server says when the log ends before its target.
const ENDED_BEFORE: &str = "recovery ended before configured recovery target was reached";

/// How the log is replayed.
pub struct Replay<'a> {
    /// The data directory.
    pub data: &'a Path,
    /// A 0700 directory for socket and settings; the path of a socket has 107 bytes at most.
    pub room: &'a Path,
    /// Directory of the server's programs, of the cluster's major.
    pub programs: &'a Path,
    /// `restore_command`
    pub restore_command: &'a str,
    /// The timeline to follow.
    pub timeline: u32,
    /// Where to stop; `None` for the end of the log.
    pub stop_at: Option<&'a Target>,
    /// Name of the cluster's first role.
    pub superuser: &'a str,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Whether what is recovered has to outlive a crash of the machine.
    pub is_durable: bool,
}

/// A server that has recovered and takes writes; ended when dropped.
pub struct RecoveredServer {
    server: RunningTool,
    /// How to connect to its maintenance database.
    pub connection: Connection,
}

impl Replay<'_> {
    /// Starts the server and waits until it has recovered, for as long as that takes; `None` when the log
    /// ended before the target.
    ///
    /// # Errors
    /// [`PostgresError::ToolFailed`], with the end of what the server said.
    pub async fn run(&self) -> Result<Option<RecoveredServer>, PostgresError> {
        self.write_files().map_err(|source| PostgresError::Pump { tool: "postgres".into(), source })?;
        let prepared = self.prepared_transactions().await?;
        let mut server = RunningTool::start(self.command(&prepared), Streams::None)?;
        let connection = Connection {
            host: self.room.to_string_lossy().into_owned(),
            port: PORT,
            database: session::MAINTENANCE_DATABASE.into(),
            user: self.superuser.into(),
            password: None,
            sslmode: SslMode::Disable,
            sslrootcert: None,
        };
        loop {
            if server.has_ended() {
                let said = server.end().await;
                if said.contains(ENDED_BEFORE) {
                    return Ok(None);
                }
                let last_lines: Vec<&str> = said.lines().rev().take(8).collect();
                return Err(PostgresError::ToolFailed {
                    tool: "postgres".into(),
                    status: "ended before it had recovered".into(),
                    messages: last_lines.into_iter().rev().collect::<Vec<_>>().join("\n"),
                });
            }
            // With hot_standby off nobody is let in before the end of recovery.
            if let Ok(session) = session::connect(&connection).await {
                session::close(session).await?;
                return Ok(Some(RecoveredServer { server, connection }));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    fn write_files(&self) -> io::Result<()> {
        std::fs::write(self.room.join("postgresql.conf"), "")?;
        std::fs::write(self.room.join("pg_hba.conf"), "local all all trust\n")?;
        std::fs::write(self.room.join("pg_ident.conf"), "")?;
        let signal = self.data.join("recovery.signal");
        std::fs::File::create(signal)?.sync_all()
    }

    /// How many prepared transactions the cluster may have, by its control file: with room for fewer it
    /// does not come to the end of its recovery.
    async fn prepared_transactions(&self) -> Result<String, PostgresError> {
        let mut command = tokio::process::Command::new(self.programs.join("pg_controldata"));
        command.arg("-D").arg(self.data).env("LC_ALL", "C");
        let mut tool = RunningTool::start(command, Streams::Out)?;
        let failed = |source| PostgresError::Pump { tool: "pg_controldata".into(), source };
        let mut said = String::new();
        tool.stdout()?.read_to_string(&mut said).map_err(failed)?;
        tool.reap().await?;
        let setting = said.lines().find_map(|line| line.strip_prefix("max_prepared_xacts setting:"));
        Ok(setting.map_or("0", str::trim).to_owned())
    }

    fn command(&self, prepared_transactions: &str) -> tokio::process::Command {
        let file = |name: &str| self.room.join(name).to_string_lossy().into_owned();
        let on_off = |is_on| if is_on { "on" } else { "off" }.to_owned();
        let mut settings: Vec<(&str, String)> = vec![
            ("config_file", file("postgresql.conf")),
            ("hba_file", file("pg_hba.conf")),
            ("ident_file", file("pg_ident.conf")),
            ("unix_socket_directories", self.room.to_string_lossy().into_owned()),
            ("unix_socket_permissions", "0700".into()),
            ("listen_addresses", String::new()),
            ("port", PORT.to_string()),
            ("ssl", "off".into()),
            ("hot_standby", "off".into()),
            ("archive_mode", "off".into()),
            ("shared_preload_libraries", String::new()),
            ("logging_collector", "off".into()),
            ("log_destination", "stderr".into()),
            ("lc_messages", "C".into()),
            ("max_connections", "100".into()),
            ("max_prepared_transactions", prepared_transactions.into()),
            ("max_wal_size", "4GB".into()),
            // The server wants room for two segments, and its default has it up to 40 MiB.
            ("min_wal_size", format!("{}MB", (self.segment_bytes >> 19).max(80))),
            ("autovacuum", "off".into()),
            ("fsync", on_off(self.is_durable)),
            ("full_page_writes", on_off(self.is_durable)),
            ("restore_command", self.restore_command.into()),
            ("recovery_target_timeline", self.timeline.to_string()),
            ("recovery_target_action", "promote".into()),
        ];
        match self.stop_at {
            None | Some(Target::Latest) => {}
            Some(Target::Time(time)) => {
                settings.push(("recovery_target_time", time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()))
            }
            Some(Target::Lsn(lsn)) => settings.push(("recovery_target_lsn", lsn.to_string())),
            Some(Target::Name(name)) => settings.push(("recovery_target_name", name.clone())),
        }
        let mut command = tokio::process::Command::new(self.programs.join("postgres"));
        command.arg("-D").arg(self.data).env("LC_ALL", "C").env("TZ", "UTC");
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command
    }
}

impl RecoveredServer {
    /// Ends the server in good order: its directory is that of a cluster that was shut down.
    ///
    /// # Errors
    /// [`PostgresError::ToolFailed`] when it does not end so.
    pub async fn shut_down(self) -> Result<(), PostgresError> {
        self.server.end_in_order().await.map(drop)
    }
}

/// What of a data directory belongs to the life it had: who was its server, and how it recovered.
///
/// # Errors
/// What the system says.
pub fn clean(data: &Path) -> io::Result<()> {
    for name in ["postmaster.pid", "postmaster.opts", "recovery.signal", "standby.signal"] {
        let path: PathBuf = data.join(name);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Where a recovery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// How far the log was replayed.
    pub lsn: Lsn,
    /// When the last transaction that was replayed was committed; `None` when none was.
    pub last_commit: Option<DateTime<Utc>>,
}

/// Asks a server that has recovered where that ended.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn replayed(session: &mut PgConnection) -> Result<Replayed, PostgresError> {
    let action = "ask where the recovery ended";
    let sql = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text AS lsn, \
        (extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp()) * 1000000)::bigint AS at";
    let found = rows(session, action, sql).await?;
    let row = found.first().ok_or_else(|| PostgresError::of_query(action, sqlx::Error::RowNotFound))?;
    let lsn: Option<String> = column(row, "lsn")?;
    let at: Option<i64> = column(row, "at")?;
    Ok(Replayed {
        lsn: lsn.and_then(|lsn| lsn.parse().ok()).unwrap_or_default(),
        last_commit: at.and_then(DateTime::from_timestamp_micros),
    })
}
