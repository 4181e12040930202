//! A snapshot and its restore lose nothing: the zoo comes back equal, by every path.

use rstest::rstest;

use crate::world::{Belay, Cluster, a_cluster, with_rows_sorted};

/// Every table but the smallest goes through chunks, in several ranges and pieces.
const TINY: &str = "large_table = \"8KiB\"\nchunk = \"4MiB\"\njobs = 3\n";

/// Restores the newest snapshot of `database` beside it and compares what pg_dump says of both.
fn assert_comes_back_equal(cluster: &Cluster, belay: &Belay, database: &str) {
    let restored = belay.run(["restore", "app", "--from", "latest", "--into", "back", "--prove", "full"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let (before, after) = (cluster.dump(database), cluster.dump("back"));
    similar(&with_rows_sorted(&before), &with_rows_sorted(&after));
    similar(&cluster.properties(database), &cluster.properties("back"));
}

fn similar(before: &str, after: &str) {
    let differing: Vec<_> = before.lines().zip(after.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!(before.lines().count(), after.lines().count());
}

fn zoo_comes_back(settings: &str) {
    let cluster = a_cluster().with_menagerie().start();
    cluster.fill_zoo("zoo");
    let belay = Belay::with_settings(&cluster, "zoo", settings);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    let taken = belay.json(["snapshot", "app"]);
    assert!(taken["tables"].as_u64() > Some(20), "{taken}");
    let verified = belay.run(["verify", "latest", "--depth", "restored"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    assert_comes_back_equal(&cluster, &belay, "zoo");
}

#[test]
fn zoo_comes_back_equal() {
    zoo_comes_back("");
}

#[test]
fn zoo_comes_back_equal_through_chunks() {
    zoo_comes_back(TINY);
}

#[test]
fn settings_of_a_database_do_not_change_its_dump() {
    let cluster = a_cluster().start();
    cluster.create_database("odd");
    cluster.psql("odd", "CREATE TABLE t AS SELECT g AS id, 'a\\b''c' AS body FROM generate_series(1, 100) g");
    for setting in
        ["client_encoding = 'LATIN1'", "standard_conforming_strings = off", "quote_all_identifiers = on"]
    {
        cluster.psql("odd", &format!("ALTER DATABASE odd SET {setting}"));
    }
    let belay = Belay::new(&cluster, "odd");
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert_eq!(belay.run(["snapshot"]).code, 0);
    let verified = belay.run(["verify", "latest", "--depth", "restored"]);
    assert_eq!(verified.code, 0, "{}", verified.stdout);
    assert_eq!(belay.run(["restore", "app", "--swap"]).code, 0);
}

#[test]
fn a_wrong_identity_is_no_finding() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    let belay = Belay::new(&cluster, "app");
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert_eq!(belay.run(["snapshot"]).code, 0);
    let stranger = Belay::new(&cluster, "app");
    assert_eq!(stranger.run(["init", "--single-recipient"]).code, 0);
    let other = stranger.state().join("keys/identity.txt");
    let tried =
        belay.run(["verify", "latest", "--depth", "readable", "--identity", &other.to_string_lossy()]);
    assert_eq!(tried.code, 2, "{}", tried.stderr);
    assert!(belay.json(["list"])["snapshots"][0]["failed"].is_null());
}

/// Hash partitions on an enum, below a root whose columns lie in another order than theirs.
const BY_ENUM: &str = "CREATE TYPE color AS ENUM ('r', 'g'); ALTER TYPE color ADD VALUE 'a' BEFORE 'g';
    CREATE TABLE root (x int, c color, t text) PARTITION BY RANGE (x);
    CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (1000) PARTITION BY HASH (c);
    CREATE TABLE low_0 (t text, gone int, c color, x int);
    ALTER TABLE low_0 DROP COLUMN gone;
    ALTER TABLE low ATTACH PARTITION low_0 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE low_1 PARTITION OF low FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE high PARTITION OF root FOR VALUES FROM (1000) TO (2000);
    INSERT INTO root SELECT g, (enum_range(NULL::color))[1 + g % 3], 't' || g FROM generate_series(1, 1500) g";

fn hash_partitions_on_an_enum_come_back(settings: &str) {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    // Several statements at once are one transaction, which may not use an enum's new value yet.
    BY_ENUM.split_inclusive(';').for_each(|sql| drop(cluster.psql("app", sql)));
    let rows = |database: &str, table: &str| {
        cluster.psql(database, &format!("SELECT x, c, t FROM {table} ORDER BY x"))
    };
    let belay = Belay::with_settings(&cluster, "app", settings);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert_eq!(belay.json(["snapshot", "app"])["rows"], 1500);
    let verified = belay.run(["verify", "latest", "--depth", "restored"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    for proof in ["sent", "full"] {
        let back = format!("back_{proof}");
        let restored = belay.run(["restore", "app", "--into", &back, "--prove", proof]);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        assert_eq!(rows("app", "root"), rows(&back, "root"));
    }
    let restored = belay.run(["restore", "app", "--table", "low_0", "--table", "high", "--schema", "old"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    for table in ["low_0", "high"] {
        assert_eq!(rows("app", &format!("old.{table}")), rows("app", table));
    }
}

#[test]
fn hash_partitions_on_an_enum_come_back_whole() {
    hash_partitions_on_an_enum_come_back("");
}

#[test]
fn hash_partitions_on_an_enum_come_back_whole_through_chunks() {
    hash_partitions_on_an_enum_come_back(TINY);
}

#[test]
fn a_foreign_key_that_rows_break_is_left_out_when_errors_are_accepted() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE one (a int PRIMARY KEY); CREATE TABLE two (a int REFERENCES one);
         SET session_replication_role = replica; INSERT INTO two VALUES (5)",
    );
    let belay = Belay::new(&cluster, "app");
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert_eq!(belay.run(["snapshot", "app"]).code, 0);
    assert_eq!(belay.run(["restore", "app", "--into", "back"]).code, 5);
    let restored = belay.json(["restore", "app", "--into", "back", "--accept-errors"]);
    let notes = restored["notes"].to_string();
    for said in [
        "violates foreign key constraint",
        "constraint public.two two_a_fkey is missing",
        "not that of the snapshot: \\\"ALTER TABLE ONLY public.two\\\" there is its end here",
    ] {
        assert!(notes.contains(said), "{said} is not in {notes}");
    }
    assert_eq!(cluster.psql("back", "SELECT a FROM two"), "5");
}

#[test]
fn rows_that_are_missing_are_never_accepted() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE FUNCTION fits(int) RETURNS bool LANGUAGE sql AS 'SELECT true'; CREATE TABLE t (a int CHECK (fits(a)));
         INSERT INTO t VALUES (1); CREATE OR REPLACE FUNCTION fits(int) RETURNS bool LANGUAGE sql AS 'SELECT false'",
    );
    let belay = Belay::new(&cluster, "app");
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    assert_eq!(belay.run(["snapshot", "app"]).code, 0);
    let refused = belay.run(["restore", "app", "--into", "back", "--accept-errors"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("has 0 rows, the snapshot has 1"), "{}", refused.stderr);
}

/// Rows whose bytes are those of no one encoding, in a table whose name is UTF-8.
const BYTES: &str = "CREATE TABLE \"Käfig\" (i int, t text);
    INSERT INTO \"Käfig\" SELECT i, convert_from(decode('e9' || lpad(to_hex(128 + i % 128), 2, '0') || '5c', 'hex'), 'SQL_ASCII')
        FROM generate_series(1, 3000) i";

/// A digest of the rows as the server has them.
fn digest_of_bytes(cluster: &Cluster, database: &str, table: &str) -> String {
    cluster.psql(
        database,
        &format!("SET client_encoding = 'UTF8'; SELECT md5(string_agg(encode(t::bytea, 'hex'), '' ORDER BY i)) FROM (SELECT i, replace(t, '\\', '\\\\') t FROM {table}) x"),
    )
}

fn a_database_in(cluster: &Cluster, encoding: &str) {
    cluster.psql(
        "postgres",
        &format!("CREATE DATABASE app TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"),
    );
}

fn bytes_come_back(encoding: &str, sql: &str, settings: &str) {
    let cluster = a_cluster().start();
    a_database_in(&cluster, encoding);
    cluster.psql("app", sql);
    let belay = Belay::with_settings(&cluster, "app", settings);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    let taken = belay.run(["snapshot", "app"]);
    assert_eq!(taken.code, 0, "{}", taken.stderr);
    let verified = belay.run(["verify", "latest", "--depth", "restored"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    let restored = belay.run(["restore", "app", "--into", "back", "--prove", "full"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let wanted = digest_of_bytes(&cluster, "app", "\"Käfig\"");
    assert_eq!(digest_of_bytes(&cluster, "back", "\"Käfig\""), wanted);
    let restored = belay.run(["restore", "app", "--table", "Käfig", "--schema", "old"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(digest_of_bytes(&cluster, "app", "old.\"Käfig\""), wanted);
}

#[rstest]
fn bytes_of_no_encoding_come_back(#[values("", TINY)] settings: &str) {
    bytes_come_back("SQL_ASCII", BYTES, settings);
}

#[rstest]
#[case("LATIN1")]
#[case("EUC_JIS_2004")]
fn text_of_another_encoding_comes_back(#[case] encoding: &str, #[values("", TINY)] settings: &str) {
    let letters = if encoding == "LATIN1" { "'é' || chr(160 + i % 96)" } else { "'動物園'" };
    let sql = format!(
        "SET client_encoding = 'UTF8'; CREATE TABLE \"Käfig\" (i int, t text);
         INSERT INTO \"Käfig\" SELECT i, {letters} || i FROM generate_series(1, 3000) i"
    );
    bytes_come_back(encoding, &sql, settings);
}

#[test]
fn a_name_that_is_not_utf8_is_told_before_anything_is_read() {
    let cluster = a_cluster().start();
    a_database_in(&cluster, "SQL_ASCII");
    cluster.psql(
        "app",
        "DO $$ BEGIN EXECUTE 'CREATE TABLE t (' || quote_ident(convert_from('\\xe9', 'SQL_ASCII')) || ' int)'; END $$",
    );
    let belay = Belay::new(&cluster, "app");
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    for (verb, code) in [("check", 4), ("snapshot", 5)] {
        let told = belay.run([verb]);
        let text = told.stdout + &told.stderr;
        assert_eq!(told.code, code, "{text}");
        assert!(text.contains("database app has names, comments or settings that are not UTF-8"), "{text}");
        assert!(text.contains("hint: rename them"), "{text}");
    }
}

#[test]
fn a_role_that_only_reads_by_default_restores() {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql(
        "app",
        "CREATE TABLE t AS SELECT generate_series(1, 3000) AS n; CREATE INDEX ON t (n);
         ALTER DATABASE app SET default_transaction_read_only = on;
         ALTER ROLE postgres SET default_transaction_read_only = on",
    );
    let belay = Belay::with_settings(&cluster, "app", TINY);
    assert_eq!(belay.run(["init", "--single-recipient"]).code, 0);
    let back: [&[&str]; 3] = [&["--table", "t", "--schema", "old"], &["--into", "back"], &["--swap"]];
    assert_eq!(belay.run(["snapshot", "app"]).code, 0);
    for how in back {
        let restored = belay.run([&["restore", "app"], how].concat());
        assert_eq!(restored.code, 0, "{how:?}: {}", restored.stderr);
    }
    for database in ["back", "app"] {
        assert_eq!(cluster.psql(database, "SELECT sum(n) FROM t"), "4501500");
    }
}
