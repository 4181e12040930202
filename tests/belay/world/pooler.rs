//! A throwaway PgBouncer in front of a throwaway cluster.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, text};
use super::owner;

/// The password of its administrator `keeper`.
pub const PASSWORD: &str = "it's a=\"secret\"";

/// A running PgBouncer with transaction pooling; it is stopped when dropped, and goes with its test.
pub struct Pooler {
    room: PathBuf,
    port: u16,
    programs: PathBuf,
    watchdog: Child,
}

const WATCHDOG: &str = r#"
room=$1
shift
PATH=$PATH:/usr/sbin
"$@" </dev/null >"$room/output" 2>&1 &
server=$!
cat >/dev/null
kill -TERM "$server"
wait "$server"
"#;

impl Pooler {
    /// Starts one that lends connections to `databases`, under the names that they have; PgBouncer's
    /// settings know no quotes around those.
    ///
    /// # Panics
    ///
    /// When it does not start; scripts/test installs it.
    pub fn start(cluster: &Cluster, databases: &[&str]) -> Pooler {
        let room = cluster.room("pooler");
        let port = cluster.port();
        write(&room.join("users"), &format!("\"keeper\" \"{}\"\n", PASSWORD.replace('"', "\"\"")));
        write(&room.join("pgbouncer.ini"), &settings(cluster, &room, databases));
        let pgbouncer = owner::command(Path::new("pgbouncer"));
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHDOG, "watchdog"]).arg(&room);
        shell.arg(pgbouncer.get_program()).args(pgbouncer.get_args()).arg(room.join("pgbouncer.ini"));
        shell
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let watchdog = shell.spawn().expect("start the shell that runs PgBouncer");
        let pooler = Pooler { room, port, programs: cluster.programs().to_owned(), watchdog };
        let socket = pooler.room.join(format!(".s.PGSQL.{port}"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while !socket.exists() {
            let told = std::fs::read_to_string(pooler.room.join("output")).unwrap_or_default();
            assert!(!told.contains("FATAL") && Instant::now() < deadline, "PgBouncer does not start: {told}");
            std::thread::sleep(Duration::from_millis(5));
        }
        pooler
    }

    /// The directory of its socket.
    pub fn host(&self) -> &Path {
        &self.room
    }

    /// The number in the name of its socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns a psql that connects to `database` through it, as its administrator.
    pub fn psql(&self, database: &str, sql: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.env_remove("PGOPTIONS").env("PGHOST", &self.room).env("PGPORT", self.port.to_string());
        psql.env("PGUSER", "keeper").env("PGPASSWORD", PASSWORD).env("PGDATABASE", database);
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]).stdin(Stdio::null());
        psql
    }

    /// Asks its console.
    pub fn console(&self, sql: &str) -> String {
        text(self.psql("pgbouncer", sql).output().expect("run psql"))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

fn settings(cluster: &Cluster, room: &Path, databases: &[&str]) -> String {
    let place = format!("host={} port={} user=postgres", cluster.host().display(), cluster.port());
    let databases: Vec<_> = databases.iter().map(|name| format!("{name} = {place} dbname={name}")).collect();
    format!(
        "[databases]\n{}\n[pgbouncer]\nlisten_addr =\nlisten_port = {port}\nunix_socket_dir = {room}\n\
         auth_type = plain\nauth_file = {room}/users\nadmin_users = keeper\npool_mode = transaction\n",
        databases.join("\n"),
        port = cluster.port(),
        room = room.display()
    )
}

fn write(path: &Path, content: &str) {
    std::fs::write(path, content).expect("write a file of PgBouncer's");
    owner::hand_over(path);
}
