//! A cluster with the database `app`, and `belay` with a fence before it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::pauses::Pauses;
use super::wait_until;
use crate::death::programs::Programs;
use crate::world::{Belay, Cluster, Output, Plan, a_cluster, finish, with_rows_sorted};

/// Two tables with an index, a sequence and a view on them, at the revision `a1`.
const APP: &str = "
    CREATE TABLE users (id serial PRIMARY KEY, email text NOT NULL UNIQUE, name text NOT NULL);
    INSERT INTO users (email, name) SELECT 'user' || n || '@example.org', 'name ' || n % 10 FROM generate_series(1, 200) n;
    CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users, total numeric(10, 2) NOT NULL);
    INSERT INTO orders SELECT n, n % 200 + 1, n * 1.25 FROM generate_series(1, 500) n;
    CREATE INDEX orders_by_user ON orders (user_id);
    CREATE SEQUENCE invoice_numbers START 1000;
    SELECT nextval('invoice_numbers');
    CREATE VIEW totals AS SELECT user_id, sum(total) AS total FROM orders GROUP BY user_id;
    CREATE TABLE alembic_version (version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY);
    INSERT INTO alembic_version VALUES ('a1');
    CREATE ROLE app_owner;
    CREATE ROLE app_reader LOGIN;
    ALTER TABLE users OWNER TO app_owner;
    GRANT SELECT ON users TO app_reader;";

/// What stays with a database's OID, and must be given to the one that takes its name.
const PROPERTIES: &str = "
    ALTER DATABASE app OWNER TO app_owner;
    ALTER DATABASE app CONNECTION LIMIT 60;
    ALTER DATABASE app SET work_mem = '8MB';
    ALTER ROLE app_reader IN DATABASE app SET statement_timeout = '5s';
    REVOKE TEMPORARY ON DATABASE app FROM PUBLIC;
    GRANT CREATE ON DATABASE app TO app_reader;
    COMMENT ON DATABASE app IS 'the application''s own';";

/// What a run of `belay migrate` came to.
pub struct Ran {
    /// The exit status.
    pub code: i32,
    /// What it printed on standard output; null where that is no JSON.
    pub report: Value,
    /// All that it printed.
    pub told: String,
}

impl Ran {
    /// What it came to, by its output.
    pub fn of(output: &Output) -> Ran {
        let report = serde_json::from_str(&output.stdout).unwrap_or_default();
        Ran { code: output.code, report, told: format!("{}{}", output.stdout, output.stderr) }
    }

    /// Asserts how the run ended, in both words in which it says so.
    #[track_caller]
    pub fn assert_ended(&self, code: i32, outcome: &str) {
        assert_eq!(self.code, code, "{}", self.told);
        assert_eq!(self.report["schema"], "belay.migrate.v1", "{}", self.told);
        assert_eq!(self.report["outcome"], outcome, "{}", self.told);
    }

    /// Asserts that the run was not begun, with `code`, for a reason that holds `words`.
    #[track_caller]
    pub fn assert_refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}", self.told);
        for word in words {
            assert!(self.told.contains(word), "{word:?} is not in: {}", self.told);
        }
    }

    /// The reasons of the report, one on each line.
    pub fn reasons(&self) -> String {
        let reasons = self.report["reasons"].as_array().expect("reasons are a list");
        reasons.iter().map(|reason| format!("{}\n", reason.as_str().unwrap())).collect()
    }

    /// The phases of the report, in order.
    pub fn phases(&self) -> Vec<String> {
        let phases = self.report["phases"].as_array().expect("phases are a list");
        phases.iter().map(|phase| phase["phase"].as_str().unwrap().to_owned()).collect()
    }
}

/// A cluster, and `belay` beside it, whose fence tells in a file whether it is up.
pub struct Site {
    /// The cluster.
    pub cluster: Cluster,
    /// The installation.
    pub belay: Belay,
    /// Where a run can be stopped: at `raise` and `release` of the fence, and wherever a test says.
    pub pauses: Pauses,
    /// [`state`] of `app` at the beginning.
    pub before: String,
}

impl Site {
    /// A site with `settings` in `[gate]`, where a snapshot is verified as quickly as can be.
    pub fn with_gate(settings: &str) -> Site {
        Site::planned(a_cluster(), |_| format!("verify_depth = \"stored\"\n{settings}"))
    }

    /// A site on a cluster of `plan`, with the settings that `gate` says, which begin within `[gate]`.
    pub fn planned(plan: Plan, gate: impl FnOnce(&Pauses) -> String) -> Site {
        let cluster = plan.start();
        cluster.create_database("app");
        cluster.psql("app", APP);
        cluster.psql("postgres", PROPERTIES);
        let pauses = Pauses::new(cluster.room("gate"));
        let settings = format!("[gate]\n{}\n{}", gate(&pauses), fence(&pauses));
        let belay = Belay::with_settings(&cluster, "app", &settings);
        let made = belay.run(["init", "--single-recipient"]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        let before = state(&cluster, "app");
        Site { cluster, belay, pauses, before }
    }

    /// Has `belay` run in `directory`.
    pub fn standing_in(self, directory: &Path) -> Site {
        Site { belay: self.belay.standing_in(directory), ..self }
    }

    /// Has `belay` use `programs`.
    pub fn using(self, programs: &Programs) -> Site {
        Site { belay: programs.given_to(self.belay), ..self }
    }

    /// Gates a command.
    pub fn migrate(&self, words: &[String]) -> Ran {
        self.migrate_with(&[], words)
    }

    /// Gates a command, with options.
    pub fn migrate_with(&self, options: &[&str], words: &[String]) -> Ran {
        Ran::of(&finish(&mut self.command(options, words)))
    }

    /// Begins to gate a command.
    pub fn begin(&self, options: &[&str], words: &[String]) -> Running {
        Running::start(&mut self.command(options, words))
    }

    /// The command that gates a command, with options.
    pub fn command(&self, options: &[&str], words: &[String]) -> Command {
        let mut command = self.belay.command(["--json", "migrate", "--db", "app"]);
        command.args(options).arg("--").args(words);
        command
    }

    /// The run begun last, as `belay runs list` has it; null where there is none.
    pub fn newest_run(&self) -> Value {
        let listed = self.belay.run(["--json", "runs", "list"]);
        let list: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
        list["runs"][0].clone()
    }

    /// Whether the fence keeps the application out; `None` where it was never raised.
    pub fn is_fenced(&self) -> Option<bool> {
        let text = std::fs::read_to_string(self.pauses.directory().join("fence")).ok()?;
        Some(text == "up\n")
    }

    /// Whether the server has a session of a migration.
    pub fn has_sessions_of_runs(&self) -> bool {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'belay-%'";
        self.cluster.psql("postgres", sql) != "0"
    }

    /// The database that was `app` before a restore.
    pub fn failed_databases(&self) -> Vec<String> {
        let sql = "SELECT datname FROM pg_database WHERE datname LIKE 'app\\_failed\\_%'";
        self.cluster.psql("postgres", sql).lines().map(str::to_owned).collect()
    }

    /// Asserts that `app` is what it was at the beginning, and open to all.
    #[track_caller]
    pub fn assert_as_before(&self) {
        assert_same(&state(&self.cluster, "app"), &self.before);
        assert_ne!(self.is_fenced(), Some(true));
        assert!(!self.has_sessions_of_runs());
    }

    /// Asserts that the run was undone by a restore, and that the failed database is kept.
    #[track_caller]
    pub fn assert_restored(&self, ran: &Ran) {
        self.assert_as_before();
        assert_eq!(ran.report["restored"], true, "{}", ran.told);
        assert_eq!(self.failed_databases(), [ran.report["kept_as"].as_str().unwrap()]);
    }

    /// Asserts that an operator is to decide, and that nothing was put back.
    #[track_caller]
    pub fn assert_held(&self, ran: &Ran) {
        ran.assert_ended(22, "restore_refused");
        assert_eq!(ran.report["restored"], false, "{}", ran.told);
        assert_eq!(self.newest_run()["phase"], "held");
        assert_eq!(self.failed_databases(), Vec::<String>::new());
    }
}

/// A run of `belay` that goes on in the background; killed when dropped.
pub struct Running(Child);

impl Running {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Running {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start belay"))
    }

    /// Waits until `holds`; tells what `belay` said if it ends before.
    pub fn wait_until(&mut self, fact: &str, mut holds: impl FnMut() -> bool) {
        wait_until(fact, || {
            let is_over = self.0.try_wait().unwrap().is_some();
            let is_so = holds();
            if is_over && !is_so {
                let said = finish_of(&mut self.0);
                panic!("belay ended before {fact}: {}: {}{}", said.code, said.stdout, said.stderr);
            }
            is_so
        });
    }

    /// Waits until the run stands at `place`.
    pub fn wait_at(&mut self, pauses: &Pauses, place: &str) {
        self.wait_until(&format!("it stands at {place}"), || pauses.is_at(place));
    }

    /// Waits until the run is in `phase`.
    pub fn wait_for_phase(&mut self, site: &Site, phase: &str) {
        self.wait_until(&format!("it is {phase}"), || site.newest_run()["phase"] == phase);
    }

    /// Waits for its end.
    pub fn ran(mut self) -> Ran {
        let output = finish_of(&mut self.0);
        Ran::of(&output)
    }

    /// Sends `belay` itself a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    /// Kills `belay` itself, and nothing else.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn finish_of(child: &mut Child) -> Output {
    use std::io::Read as _;
    use std::os::unix::process::ExitStatusExt as _;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let mut said = child.stderr.take().unwrap();
    // Both pipes are read at once: a full one would stop it.
    let reader = std::thread::spawn(move || said.read_to_string(&mut stderr).map(|_| stderr));
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let stderr = reader.join().unwrap().unwrap();
    let status = child.wait().unwrap();
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap();
    Output { code, stdout, stderr }
}

/// Writes the programs of a fence, and returns its settings.
fn fence(pauses: &Pauses) -> String {
    let state = pauses.directory().join("fence");
    let state = state.display();
    let script = |name: &str, text: String| {
        let path = pauses.directory().join(name);
        std::fs::write(&path, text).unwrap();
        format!("{name} = [\"/bin/sh\", \"{}\"]\n", path.display())
    };
    format!(
        "[[gate.fence]]\nkind = \"command\"\nname = \"maintenance\"\n{}{}",
        script("raise", format!("echo up >'{state}'\n{}", pauses.shell("raising"))),
        script("release", format!("{}echo down >'{state}'\n", pauses.shell("releasing"))),
    )
}

/// Everything of a database that a restore must bring back, as text.
pub fn state(cluster: &Cluster, database: &str) -> String {
    with_rows_sorted(&cluster.dump(database)) + &cluster.properties(database)
}

/// Asserts that two states are the same; tells the first lines that only one of them has.
#[track_caller]
pub fn assert_same(now: &str, before: &str) {
    let lacking = |one: &str, other: &str| {
        one.lines().filter(|line| !other.lines().any(|l| l == *line)).take(10).collect::<Vec<_>>().join("\n")
    };
    assert!(
        now == before,
        "the database is another one; new:\n{}\ngone:\n{}",
        lacking(now, before),
        lacking(before, now)
    );
}
