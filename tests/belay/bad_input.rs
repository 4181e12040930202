//! What is damaged, forged, missing or not allowed is named, and nothing is restored from it.

#![allow(clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod refusals;
mod store;
mod unreadable;
mod verifications;
mod world_around;

use crate::world::{Belay, Cluster, Output};

/// Tables go through chunks from the first page on.
const TINY: &str = "large_table = \"8KiB\"\nchunk = \"4MiB\"\n";

/// Two tables that are chunked and one that is not.
const TABLES: &str = "CREATE TABLE one AS SELECT i, md5(i::text) AS t FROM generate_series(1, 3000) i;
    CREATE TABLE two AS SELECT i, md5((-i)::text) AS t FROM generate_series(1, 2000) i;
    CREATE TABLE empty (a int); CREATE SEQUENCE s;";

fn initialized(belay: Belay) -> Belay {
    let made = belay.run(["init", "--single-recipient"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    belay
}

/// Takes a snapshot and returns its id.
fn snapshot_of(belay: &Belay, database: &str) -> String {
    belay.json(["snapshot", database])["id"].as_str().expect("an id is text").to_owned()
}

fn databases(cluster: &Cluster) -> String {
    cluster.psql("postgres", "SELECT datname FROM pg_database ORDER BY 1")
}

/// What was printed, on whichever side.
fn told(output: &Output) -> String {
    format!("{}{}", output.stdout, output.stderr)
}

#[track_caller]
fn assert_told(output: &Output, code: i32, words: &[&str]) {
    let told = told(output);
    assert_eq!(output.code, code, "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
}
