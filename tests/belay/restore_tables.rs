//! Single tables come back into a schema of an existing database, and nothing that exists is touched.

use crate::world::{Belay, Cluster, a_cluster};

/// A table in chunks, small ones, and names that look like other things.
const TABLES: &str = r#"
CREATE TYPE public.mood AS ENUM ('good', 'bad');
CREATE TABLE public.orders AS SELECT i AS id, repeat(md5(i::text), 8) AS note FROM generate_series(1, 60000) i;
ALTER TABLE public.orders ADD PRIMARY KEY (id);
CREATE SCHEMA "Odd.Schema";
CREATE TABLE "Odd.Schema"."T" (
    a text COLLATE "C", b varchar(10) NOT NULL DEFAULT 'x', mood public.mood, dropped int,
    doubled int GENERATED ALWAYS AS (c * 2) STORED, c int, "semi;
colon" numeric(10, 2));
ALTER TABLE "Odd.Schema"."T" DROP COLUMN dropped;
INSERT INTO "Odd.Schema"."T" (a, mood, c) SELECT E'tab\tback\\slash\n' || i, 'bad', i FROM generate_series(1, 300) i;
CREATE TABLE public.bare ();
INSERT INTO public.bare DEFAULT VALUES;
CREATE TABLE public.empty (a int);
CREATE TABLE public.events (day int) PARTITION BY RANGE (day);
CREATE TABLE public.events_2026 PARTITION OF public.events FOR VALUES FROM (0) TO (400);
INSERT INTO public.events VALUES (1), (2);
CREATE TABLE public."x
COPY public.bare FROM stdin;
" (a int);
INSERT INTO public."x
COPY public.bare FROM stdin;
" VALUES (7);
"#;
const ODD: &str = "\"x\nCOPY public.bare FROM stdin;\n\"";

fn a_snapshot_of_tables() -> (Cluster, Belay) {
    let cluster = a_cluster().start();
    cluster.create_database("app");
    cluster.psql("app", TABLES);
    let belay = Belay::with_settings(&cluster, "app", "large_table = \"1MiB\"\n");
    for args in [["init", "--single-recipient"], ["snapshot", "app"]] {
        let done = belay.run(args);
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    (cluster, belay)
}

fn schemas(cluster: &Cluster, database: &str) -> String {
    cluster.psql(database, "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1")
}

#[test]
fn tables_come_back_with_their_rows_beside_what_is_there() {
    let (cluster, belay) = a_snapshot_of_tables();
    cluster.psql("app", "DELETE FROM public.orders WHERE id > 10");
    let odd = format!("public.{ODD}");
    let tables = ["orders", "\"Odd.Schema\".\"T\"", "bare", "public.empty", "events_2026", &odd];
    let args = ["restore", "app", "--schema", "back"].into_iter();
    let report = belay.json(args.chain(tables.iter().flat_map(|table| ["--table", *table])));
    assert_eq!(report["into_schema"], "back");
    assert_eq!(report["tables"][0], serde_json::json!({"table": "public.orders", "rows": 60000}));
    let same = cluster.psql(
        "app",
        "SELECT count(*), min(id), max(id), bool_and(note = repeat(md5(id::text), 8)) FROM back.orders;
         SELECT count(*) FROM public.orders;
         SELECT count(*) FROM (SELECT a, b, mood, c, \"semi;\ncolon\" FROM back.\"T\"
             EXCEPT SELECT a, b, mood, c, \"semi;\ncolon\" FROM \"Odd.Schema\".\"T\") x;
         SELECT count(*) FROM back.\"T\";
         SELECT count(*) FROM back.bare;
         SELECT count(*) FROM back.empty;
         SELECT sum(day) FROM back.events_2026;
         SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'back'::regnamespace;
         SELECT collname FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation WHERE attrelid = 'back.\"T\"'::regclass AND attname = 'a';
         SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'back.\"T\"'::regclass AND attname LIKE 'semi%';",
    );
    assert_eq!(same, "60000|1|60000|t\n10\n0\n300\n1\n0\n3\n0\nC\nnumeric(10,2)");
}

#[test]
fn a_table_that_exists_already_is_refused_and_nothing_is_made() {
    let (cluster, belay) = a_snapshot_of_tables();
    let refused =
        belay.run(["restore", "app", "--table", "empty", "--table", "orders", "--schema", "public"]);
    assert_eq!(refused.code, 10, "{}", refused.stderr);
    assert!(refused.stderr.contains("public.orders exists already"), "{}", refused.stderr);
    let plan = belay.run(["restore", "app", "--table", "orders", "--plan"]);
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    assert_eq!(schemas(&cluster, "app"), "Odd.Schema\ninformation_schema\npublic");
}

#[test]
fn a_partitioned_table_is_not_found_and_its_partitions_are_named() {
    let (_cluster, belay) = a_snapshot_of_tables();
    let missing = belay.run(["restore", "app", "--table", "public.events"]);
    assert_eq!(missing.code, 3, "{}", missing.stderr);
    assert!(missing.stderr.contains("public.events_2026"), "{}", missing.stderr);
}

#[test]
fn a_type_that_the_other_database_lacks_is_refused_before_anything_is_made() {
    let (cluster, belay) = a_snapshot_of_tables();
    cluster.create_database("other");
    let odd = ["restore", "app", "--into", "other", "--table", "\"Odd.Schema\".T"];
    let refused = belay.run(odd);
    assert_eq!(refused.code, 10, "{}", refused.stderr);
    assert!(refused.stderr.contains("public.mood"), "{}", refused.stderr);
    assert_eq!(schemas(&cluster, "other"), "information_schema\npublic");
}

#[test]
fn a_damaged_chunk_leaves_nothing_behind() {
    let (cluster, belay) = a_snapshot_of_tables();
    let chunk = first_file(&belay.repository().join("prod/chunks"));
    let mut bytes = std::fs::read(&chunk).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&chunk, bytes).unwrap();
    let failed = belay.run(["restore", "app", "--table", "orders", "--table", "bare"]);
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    assert_eq!(schemas(&cluster, "app"), "Odd.Schema\ninformation_schema\npublic");
}

fn first_file(directory: &std::path::Path) -> std::path::PathBuf {
    let mut entries: Vec<_> = directory
        .read_dir()
        .expect("read the repository")
        .map(|entry| entry.expect("read the repository").path())
        .collect();
    entries.sort();
    let first = entries.into_iter().next().expect("there is an entry");
    if first.is_dir() { first_file(&first) } else { first }
}
