//! Whatever dies, and whenever: what is listed can be restored, the live database is the old one
//! or the new one, and the next run finds order or makes it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod connections;
mod kills;
mod media;
pub mod programs;
mod signals;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::world::{Belay, Cluster, Output, a_cluster};

/// One table in chunks by two sessions, the others in pg_dump's archive.
const TINY: &str = "large_table = \"256KiB\"\nchunk = \"4MiB\"\njobs = 2\n";

/// A cluster whose database `app` has one large table and three small ones.
fn a_filled_cluster(rows: u32) -> Cluster {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    let sql = format!(
        "CREATE TABLE big (id int PRIMARY KEY, note text); \
         INSERT INTO big SELECT n, 'row ' || n || repeat(' of many', 5) FROM generate_series(1, {rows}) n; \
         CREATE INDEX ON big (note); CREATE INDEX ON big (md5(note)); \
         CREATE TABLE mark (id int PRIMARY KEY, n int); INSERT INTO mark VALUES (1, 0); \
         CREATE TABLE words (id serial PRIMARY KEY, word text); \
         INSERT INTO words (word) SELECT 'word ' || n FROM generate_series(1, 500) n; \
         CREATE TABLE links (id int PRIMARY KEY, word int REFERENCES words); \
         INSERT INTO links SELECT n, n FROM generate_series(1, 500) n;"
    );
    cluster.psql("app", &sql);
    cluster
}

/// An installation for `app` with a repository.
fn installed(cluster: &Cluster, more: &str) -> Belay {
    let belay = Belay::with_settings(cluster, "app", &format!("{TINY}{more}"));
    succeed(&belay, &["init", "--single-recipient"]);
    belay
}

fn succeed(belay: &Belay, args: &[&str]) -> Output {
    let output = belay.run(args);
    assert_eq!(output.code, 0, "belay {args:?}: {}", output.stderr);
    output
}

/// Asserts that `output` is a failure of kind `code` whose words hold `said`, and is brief.
fn assert_failed(output: &Output, code: i32, said: &str) {
    assert_eq!(output.code, code, "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(said), "{said:?} is not said by: {}", output.stderr);
    assert!(output.stderr.len() < 64 << 10, "{} bytes of words", output.stderr.len());
}

/// The ids that have a manifest, sorted.
fn listed(belay: &Belay) -> Vec<String> {
    let mut ids: Vec<_> = files_below(&belay.repository())
        .iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "manifest.json"))
        .map(|path| path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    ids.sort();
    ids
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// The contents of the tables of a database of [`a_filled_cluster`], in short.
fn contents(cluster: &Cluster, database: &str) -> String {
    let tables = ["big", "mark", "words", "links"];
    let of =
        |table: &&str| format!("SELECT count(*), md5(string_agg(t::text, ',' ORDER BY id)) FROM {table} t;");
    cluster.psql(database, &tables.iter().map(of).collect::<String>())
}

/// The databases of the cluster but for templates, sorted.
fn databases(cluster: &Cluster) -> Vec<String> {
    let sql = "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1";
    cluster.psql("postgres", sql).lines().map(str::to_owned).collect()
}

fn half_loaded(cluster: &Cluster) -> Vec<String> {
    databases(cluster).into_iter().filter(|name| name.starts_with("belay_restore_")).collect()
}

/// Processes that a run of this installation started and that are still there, itself included.
///
/// They have its home in their environment, or stand in it: a PostgreSQL server writes over its
/// environment, and stands in its data directory.
fn processes_of(belay: &Belay) -> Vec<String> {
    let home = belay.home().to_string_lossy().into_owned();
    let is_ours = |process: &Path| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let stands = std::fs::read_link(process.join("cwd")).is_ok_and(|path| path.starts_with(&home));
        stands || String::from_utf8_lossy(&environment).contains(&home)
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let numbered = all.filter(|path| path.file_name().unwrap().to_string_lossy().parse::<u32>().is_ok());
    let command = |process: PathBuf| {
        String::from_utf8_lossy(&std::fs::read(process.join("cmdline")).unwrap_or_default())
            .replace('\0', " ")
    };
    numbered.filter(|path| is_ours(path)).map(command).filter(|command| !command.is_empty()).collect()
}

/// What lies in the scratch directory.
fn scratch(belay: &Belay) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(belay.state().join("scratch"));
    entries.map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

pub fn wait_until(fact: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come true that {fact}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_the_end_of_children(belay: &Belay) {
    let mut left = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        left = processes_of(belay);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("still there: {left:#?}");
}

/// Asserts that nothing runs and nothing lies about.
fn assert_nothing_left(belay: &Belay) {
    wait_for_the_end_of_children(belay);
    assert_eq!(scratch(belay), Vec::<PathBuf>::new());
}
