//! Fences keep writers out, and release puts back exactly what was.

mod commands;
mod deployments;
mod pools;
mod roles;
mod sessions;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use belay::fence::{Context, Undo};
use belay::postgres::tools::Tools;
use belay::settings::{Connection, FenceKind, FenceSettings, SslMode};

use crate::world::{Client, Cluster};

/// What a fence is given, for the database `app` of a cluster.
struct Post {
    connection: Connection,
    tools: Tools,
    search_path: String,
    fence_timeout: Duration,
}

impl Post {
    async fn at(cluster: &Cluster) -> Post {
        Post {
            connection: connection(cluster.host(), cluster.port()),
            tools: Tools::find(Some(cluster.programs()), "", cluster.major())
                .await
                .expect("the tools are there"),
            search_path: "/usr/bin:/bin".into(),
            fence_timeout: Duration::from_secs(30),
        }
    }

    /// For fences that ask no server.
    async fn without_a_server() -> Post {
        let tools = Tools::find(None, "/usr/bin", 0).await.expect("the tools are there");
        Post {
            connection: connection(Path::new("/no/such/directory"), 1),
            tools,
            search_path: "/usr/bin:/bin".into(),
            fence_timeout: Duration::from_secs(30),
        }
    }

    fn within(self, fence_timeout: Duration) -> Post {
        Post { fence_timeout, ..self }
    }

    fn context(&self) -> Context<'_> {
        Context {
            connection: &self.connection,
            database: "app",
            tools: &self.tools,
            search_path: &self.search_path,
            fence_timeout: self.fence_timeout,
        }
    }
}

fn connection(host: &Path, port: u16) -> Connection {
    Connection {
        host: host.display().to_string(),
        port,
        database: "app".into(),
        user: "postgres".into(),
        password: None,
        sslmode: SslMode::Prefer,
        sslrootcert: None,
    }
}

fn fence(kind: FenceKind) -> FenceSettings {
    FenceSettings { name: "the fence".into(), kind }
}

/// The undo list as another process reads it from a journal.
fn journalled(undo: &Undo) -> Undo {
    let text = serde_json::to_string(undo).expect("an undo list can be written");
    serde_json::from_str(&text).expect("what was written can be read")
}

fn texts<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(String::from).to_vec()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

/// A session of `role` in `database` that does nothing for ten minutes.
fn idle_client(cluster: &Cluster, role: &str, database: &str) -> Client {
    let mut psql = cluster.client("psql");
    psql.env("PGUSER", role).env("PGAPPNAME", "gunicorn");
    let client = Client::start(psql.args(["-Xq", "-d", database, "-c", "SELECT pg_sleep(600)"]));
    wait_until("the session is there", || sleepers(cluster, role, database) == 1);
    client
}

/// One that begins such a session anew whenever it is ended.
fn reconnecting_client(cluster: &Cluster, role: &str, database: &str) -> Client {
    let psql = cluster.client("psql");
    let mut shell = Command::new("sh");
    shell.envs(psql.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("PGUSER", role).args(["-c", "while :; do \"$@\"; done", "sh"]);
    shell.arg(psql.get_program()).args(["-Xq", "-d", database, "-c", "SELECT pg_sleep(600)"]);
    Client::start(&mut shell)
}

fn sleepers(cluster: &Cluster, role: &str, database: &str) -> usize {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND datname = '{database}' AND wait_event = 'PgSleep'"
    );
    cluster.psql("postgres", &sql).parse().expect("a count")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for 30 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
