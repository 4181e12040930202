//! Ranges of large tables are stored once, and stored anew when they were damaged.

use std::path::{Path, PathBuf};

use crate::world::{Belay, Cluster, a_cluster};

const SETTINGS: &str = "large_table = \"64KiB\"\nchunk = \"4MiB\"\n";

/// A database with one table of 60,000 rows in chunks, and an installation that keeps it.
fn a_kept_table() -> (Cluster, Belay) {
    let cluster = a_cluster().start();
    cluster.create_database("shop");
    cluster.psql(
        "shop",
        "CREATE TABLE orders AS SELECT g AS id, repeat(md5(g::text), 8) AS body FROM generate_series(1, 60000) g",
    );
    let belay = Belay::with_settings(&cluster, "shop", SETTINGS);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    (cluster, belay)
}

fn chunk_files(belay: &Belay) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for shard in std::fs::read_dir(belay.repository().join("prod/chunks")).unwrap() {
        found.extend(std::fs::read_dir(shard.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    found.sort();
    found
}

fn flip_a_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn unchanged_ranges_are_stored_once() {
    let (cluster, belay) = a_kept_table();
    let first = belay.json(["snapshot", "app"]);
    let second = belay.json(["snapshot", "app"]);
    assert!(first["chunks_new"].as_u64() >= Some(4), "{first}");
    assert_eq!(second["chunks_new"], 0);
    assert_eq!(second["chunks_reused"], first["chunks_new"]);
    let share = second["new_stored_bytes"].as_f64().unwrap() / first["new_stored_bytes"].as_f64().unwrap();
    assert!(share < 0.05, "{share}");

    cluster.psql("shop", "INSERT INTO orders SELECT g, 'new' FROM generate_series(60001, 60100) g");
    // VACUUM makes the maps of the table, which are no part of its rows.
    cluster.psql("shop", "VACUUM orders");
    let third = belay.json(["snapshot", "app"]);
    assert_eq!(third["chunks_new"], 1, "only the last range changed: {third}");
}

#[test]
fn ranges_with_the_same_rows_share_a_chunk() {
    let (cluster, belay) = a_kept_table();
    cluster.psql("shop", "CREATE TABLE copied AS SELECT * FROM orders ORDER BY id");
    let taken = belay.json(["snapshot", "app"]);
    assert_eq!(taken["chunks_new"].as_u64().unwrap(), chunk_files(&belay).len() as u64);
    assert_eq!(belay.run(["verify", "latest", "--depth", "readable"]).code, 0);
    assert_eq!(belay.run(["restore", "app", "--into", "back", "--prove", "full"]).code, 0);
    let count = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM copied)";
    assert_eq!(cluster.psql("back", count).trim(), "60000|60000");
}

#[test]
fn large_tables_come_back_with_their_keys_and_statistics() {
    let (cluster, belay) = a_kept_table();
    cluster.psql(
        "shop",
        "ALTER TABLE orders ADD PRIMARY KEY (id);
         CREATE TABLE lines AS SELECT id, id % 100 AS day, body FROM orders;
         ALTER TABLE lines ADD CONSTRAINT \"a key\" UNIQUE (id), ADD FOREIGN KEY (id) REFERENCES orders;
         CREATE INDEX ON lines (upper(left(body, 8)));
         CREATE STATISTICS by_day (dependencies) ON day, id FROM lines;
         CREATE SCHEMA \"a b\";
         CREATE TABLE \"a b\".\"c d\" AS SELECT * FROM orders;
         ALTER TABLE \"a b\".\"c d\" ADD PRIMARY KEY (id)",
    );
    assert_eq!(belay.run(["snapshot", "app"]).code, 0);
    let restored = belay.run(["restore", "app", "--into", "back", "--prove", "full"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let keys = "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint \
        WHERE contype IN ('p', 'u', 'f') AND conrelid > 16383 ORDER BY 1::text, 2";
    let found = cluster.psql("back", keys);
    assert_eq!(found.lines().count(), 4);
    assert_eq!(found, cluster.psql("shop", keys));
    // Of two columns, three, the expression of an index, and two.
    let of_columns = "SELECT count(*) FROM pg_stats WHERE schemaname IN ('public', 'a b')";
    assert_eq!(cluster.psql("back", of_columns).trim(), "8");
    assert_eq!(cluster.psql("back", "SELECT count(*) FROM pg_statistic_ext_data").trim(), "1");
}

#[test]
fn damaged_chunk_is_stored_anew_by_the_next_snapshot() {
    let (_cluster, belay) = a_kept_table();
    belay.json(["snapshot", "app"]);
    let files = chunk_files(&belay);
    flip_a_byte(&files[0]);

    let found = belay.run(["verify", "latest", "--depth", "stored"]);
    assert_eq!(found.code, 4);
    let name = files[0].file_name().unwrap().to_string_lossy().into_owned();
    assert!(found.stdout.contains(&name), "{}", found.stdout);

    let healed = belay.json(["snapshot", "app"]);
    assert_eq!(healed["chunks_new"], 1, "{healed}");
    let verified = belay.run(["verify", "latest", "--depth", "readable"]);
    assert_eq!(verified.code, 0, "{}", verified.stdout);
}

#[test]
fn missing_and_cut_chunks_are_stored_anew_without_a_verification() {
    let (_cluster, belay) = a_kept_table();
    belay.json(["snapshot", "app"]);
    let files = chunk_files(&belay);
    std::fs::remove_file(&files[0]).unwrap();
    let cut = std::fs::read(&files[1]).unwrap();
    std::fs::write(&files[1], &cut[..cut.len() - 1]).unwrap();

    let healed = belay.json(["snapshot", "app"]);
    assert_eq!(healed["chunks_new"], 2, "{healed}");
    assert_eq!(belay.run(["verify", "latest", "--depth", "readable"]).code, 0);
}
