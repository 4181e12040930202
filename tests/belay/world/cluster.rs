//! A throwaway PostgreSQL of the tests' own.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::owner;
use super::server::Server;
use super::template::{self, Locale};

/// Who can reach a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Its socket only.
    Socket,
    /// Its socket, and its port at 127.0.0.1.
    Loopback,
}

/// What a cluster shall be like; [`Plan::start`] makes it.
#[derive(Clone, Debug)]
pub struct Plan {
    server: Server,
    locale: Locale,
    encoding: String,
    listen: Listen,
    menagerie: bool,
    segment_mib: u32,
    settings: Vec<String>,
}

/// Plans a cluster of the usual major.
pub fn a_cluster() -> Plan {
    a_cluster_on(Server::usual())
}

/// Plans a cluster of `major`, which must be there.
pub fn a_cluster_of(major: u32) -> Plan {
    a_cluster_on(Server::of(major))
}

fn a_cluster_on(server: Server) -> Plan {
    Plan {
        server,
        locale: Locale::Libc("C.UTF-8".into()),
        encoding: "UTF8".into(),
        listen: Listen::Socket,
        menagerie: false,
        segment_mib: 1,
        settings: Vec::new(),
    }
}

impl Plan {
    /// Compares text by `locale` rather than by `C.UTF-8`.
    pub fn with_locale(self, locale: Locale) -> Plan {
        Plan { locale, ..self }
    }

    /// Stores text in `encoding` rather than in UTF8.
    pub fn with_encoding(self, encoding: &str) -> Plan {
        Plan { encoding: encoding.into(), ..self }
    }

    /// Chooses who can reach it.
    pub fn listening(self, listen: Listen) -> Plan {
        Plan { listen, ..self }
    }

    /// Has segments of the log of so many MiB rather than of one.
    pub fn with_segments_of(self, mib: u32) -> Plan {
        Plan { segment_mib: mib, ..self }
    }

    /// Adds a server setting, written `name=value`.
    pub fn with_setting(mut self, setting: &str) -> Plan {
        self.settings.push(setting.into());
        self
    }

    /// Runs a copy of the server that has the extension `zoo_menagerie`, see [`Cluster::programs`].
    pub fn with_menagerie(self) -> Plan {
        Plan { menagerie: true, ..self }
    }

    /// Starts the cluster and waits until it takes connections.
    pub fn start(self) -> Cluster {
        let world = owner::temporary_directory();
        let server = match self.menagerie {
            true => self.server.with_menagerie(&world.path().join("server")),
            false => self.server.clone(),
        };
        let data = world.path().join("data");
        template::copy_to(&data, &server, &self.locale, &self.encoding, self.segment_mib);
        let port = free_port();
        let watchdog = self.watch(&server, world.path(), port);
        let cluster = Cluster { server, world: world.keep(), port, watchdog };
        cluster.wait_until_ready();
        cluster
    }

    /// Starts the server on `world/data`, which is there; `world` is removed with the cluster.
    pub fn start_on(self, world: &Path) -> Cluster {
        let port = free_port();
        let watchdog = self.watch(&self.server, world, port);
        let cluster = Cluster { server: self.server, world: world.to_owned(), port, watchdog };
        cluster.wait_until_ready();
        cluster
    }

    /// Starts a shell that runs the server, and that ends it and removes the world when its standard
    /// input closes: at the cluster's drop, or with the test's process, however that ends.
    fn watch(&self, server: &Server, world: &Path, port: u16) -> Child {
        let mut postgres = owner::command(&server.program("postgres"));
        postgres.arg("-D").arg(world.join("data")).args(["-p", &port.to_string()]);
        postgres.arg("-c").arg(format!("unix_socket_directories={}", world.display()));
        if self.listen == Listen::Loopback {
            postgres.args(["-c", "listen_addresses=127.0.0.1"]);
        }
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        let mut shell = Command::new("sh");
        shell
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(world)
            .arg(postgres.get_program())
            .args(postgres.get_args());
        // A group of its own: what a test runner sends to the test's group must not reach it.
        shell.process_group(0).current_dir("/").env("LC_ALL", "C.UTF-8");
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        shell.spawn().expect("start the shell that runs the server")
    }
}

const WATCHDOG: &str = r#"
world=$1
shift
start() {
  "$@" </dev/null >>"$world/server.log" 2>&1 &
  server=$!
}
start "$@"
# A line asks for another server in place of one that has ended.
while read -r _; do
  wait "$server"
  start "$@"
done
kill -QUIT "$server"
wait "$server"
rm -rf "$world"
"#;

const SESSION: &str = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
                       -c bytea_output=hex";

/// A running cluster; it is stopped and removed when dropped.
pub struct Cluster {
    server: Server,
    world: PathBuf,
    port: u16,
    watchdog: Child,
}

impl Cluster {
    /// The directory of its socket, which is what clients take for a host.
    pub fn host(&self) -> &Path {
        &self.world
    }

    /// Its port, which no other cluster has while it runs.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its major version.
    pub fn major(&self) -> u32 {
        self.server.major
    }

    /// The directory of its programs, clients included.
    pub fn programs(&self) -> &Path {
        &self.server.programs
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.world.join("data")
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.world.join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Ends the server at once and without a checkpoint: `pg_ctl -m immediate`.
    pub fn crash(&self) {
        self.end("immediate");
    }

    /// Ends the server in good order: `pg_ctl -m fast`.
    pub fn stop(&self) {
        self.end("fast");
    }

    fn end(&self, mode: &str) {
        let mut stop = owner::command(&self.server.program("pg_ctl"));
        stop.args(["stop", "--silent", "--wait", "--mode", mode, "--pgdata"]).arg(self.data());
        self.run(stop.current_dir("/"));
    }

    /// Starts the server that [`Cluster::crash`] ended, and waits until it takes connections.
    pub fn start_again(&self) {
        self.order();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.client("pg_isready").arg("--quiet").status().expect("run pg_isready").success() {
            assert!(Instant::now() < deadline, "the server does not start again: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the server in good order, and starts it on `data` instead; what it had is kept beside.
    pub fn go_on_with(&self, data: &Path) {
        self.exchange(data);
        self.start_again();
    }

    /// As [`Cluster::go_on_with`], without waiting: the server recovers first, or ends.
    pub fn exchange(&self, data: &Path) {
        self.stop();
        self.put(data);
    }

    /// Starts the server that was ended on `data` instead.
    pub fn go_on_from(&self, data: &Path) {
        self.put(data);
        self.start_again();
    }

    fn put(&self, data: &Path) {
        let aside = (0..).map(|n| self.world.join(format!("data-before-{n}"))).find(|path| !path.exists());
        std::fs::rename(self.data(), aside.expect("numbers do not run out")).expect("set the data aside");
        std::fs::rename(data, self.data()).expect("put the other data in place");
    }

    /// Copies the data directory by `pg_basebackup`, without any of the log.
    pub fn copy_of_data(&self, name: &str) -> PathBuf {
        let data = self.room(name).join("data");
        let mut copy = owner::command(&self.server.program("pg_basebackup"));
        copy.args(["--wal-method=none", "--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&data);
        copy.env("PGHOST", &self.world).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        self.run(copy.current_dir("/"));
        data
    }

    /// Orders another server after one that has ended; see [`Cluster::start_again`].
    pub fn order(&self) {
        let mut orders = self.watchdog.stdin.as_ref().expect("the watchdog's input is piped");
        orders.write_all(b"start\n").expect("ask for another server");
    }

    /// Makes a directory that is removed with the cluster, and that the cluster's owner can write.
    pub fn room(&self, name: &str) -> PathBuf {
        let room = self.world.join(name);
        owner::make_directory(&room);
        room
    }

    /// Returns a command that runs one of PostgreSQL's clients as the superuser of this cluster.
    ///
    /// The settings of a database do not reach it where they would limit its time or change what is
    /// dumped of the same rows.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.server.program(program));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.env("PGHOST", &self.world).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command.env("PGOPTIONS", SESSION).env("PGTZ", "UTC").env("LC_ALL", "C.UTF-8").current_dir("/");
        command
    }

    /// Runs statements in `database`, one after the other, and returns the rows, `|` between columns.
    ///
    /// # Panics
    ///
    /// At the first statement that fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.client("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d"]).arg(quoted_name(database)).args(["-f", "-"]);
        let mut child = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run psql");
        let mut stdin = child.stdin.take().expect("psql's input is piped");
        let sql = sql.to_owned();
        // The statements are sent from aside: their rows may fill the other pipe first.
        let sender = std::thread::spawn(move || stdin.write_all(sql.as_bytes()));
        let output = child.wait_with_output().expect("wait for psql");
        let _ = sender.join().expect("the sender does not panic");
        text(output).trim_end_matches('\n').to_owned()
    }

    /// Makes an empty database.
    pub fn create_database(&self, name: &str) {
        self.run(self.client("createdb").arg("--template=template0").arg("--").arg(name));
    }

    /// Makes a database and fills it with `pgbench -i`, 100,000 accounts for each of `scale`.
    pub fn fill_pgbench(&self, database: &str, scale: u32) {
        self.create_database(database);
        self.run(
            self.client("pgbench").args(["-i", "-q", "-s", &scale.to_string()]).arg(quoted_name(database)),
        );
    }

    /// Makes a database and fills it with the zoo.
    pub fn fill_zoo(&self, database: &str) {
        self.create_database(database);
        let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/belay/zoo.sql");
        let mut psql = self.client("psql");
        psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d"]).arg(quoted_name(database)).arg("-f").arg(zoo);
        self.run(&mut psql);
    }

    /// Returns what `pg_dump` writes of `database`, without what differs from one run to the next.
    pub fn dump(&self, database: &str) -> String {
        self.dump_with(database, &[])
    }

    /// Returns what `pg_dump` with `options` writes of `database`.
    pub fn dump_with(&self, database: &str, options: &[&str]) -> String {
        let dump = self.run(self.client("pg_dump").args(options).arg("-d").arg(quoted_name(database)));
        super::dump::without_run(&dump)
    }

    /// Returns what a dump without `--create` leaves out: owner, locale, rights, limits, settings, comment.
    pub fn properties(&self, database: &str) -> String {
        self.psql("postgres", &super::dump::properties_query(database))
    }

    /// Runs a client's command, and returns what it printed.
    ///
    /// # Panics
    ///
    /// Unless it exits with status 0.
    pub fn run(&self, command: &mut Command) -> String {
        text(command.stdin(Stdio::null()).output().expect("run a client"))
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let pid_file = self.data().join("postmaster.pid");
        // Its eighth line tells the state.
        while !std::fs::read_to_string(&pid_file)
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|l| l.trim() == "ready"))
        {
            let log = self.log();
            assert!(!log.contains("FATAL") && Instant::now() < deadline, "the server does not start: {log}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

pub(super) fn text(output: std::process::Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("what the client prints is UTF-8")
}

/// Returns a connection string for `database`: a bare name may look like one itself.
fn quoted_name(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("find a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}
