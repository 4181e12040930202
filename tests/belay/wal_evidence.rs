//! What was committed between two positions is read from the write-ahead log, and nothing else.

use belay::postgres::session;
use belay::postgres::wal::{
    Evidence, WalReader, begin_window, commits_between, committed_since, position, relations, timeline,
};
use belay::rules::wal::summary::{CommitSummary, GONE, in_words, summarize};
use belay::rules::wal::{Lsn, VisibleTransactions, Window};
use belay::settings::{Connection, SslMode};
use sqlx::postgres::PgConnection;

use crate::world::{Cluster, a_cluster};

/// A database `app` whose log is read, with a session in it.
struct Watched {
    cluster: Cluster,
    connection: Connection,
    session: PgConnection,
    reader: WalReader,
    oid: u32,
}

impl Watched {
    async fn start(cluster: Cluster) -> Watched {
        cluster.create_database("app");
        cluster.psql(
            "app",
            "CREATE TABLE orders (id serial PRIMARY KEY, body text, n int);
             CREATE TABLE users (id int);
             CREATE UNLOGGED TABLE visits (id int);
             INSERT INTO orders (body) SELECT 'x' FROM generate_series(1, 100);",
        );
        let connection = connection(&cluster, "app");
        let mut session = session::connect(&connection).await.unwrap();
        let programs = cluster.programs().to_owned();
        let reader = WalReader::find(&connection, &mut session, Some(&programs), "", cluster.major());
        let reader = reader.await.unwrap();
        assert_eq!(reader.why_not(), None);
        let oid = cluster.psql("app", "SELECT oid FROM pg_database WHERE datname = 'app'").parse().unwrap();
        Watched { cluster, connection, session, reader, oid }
    }

    async fn position(&mut self) -> Lsn {
        position(&mut self.session).await.unwrap()
    }

    async fn evidence_since(&mut self, from: Lsn) -> Evidence {
        let to = self.position().await;
        commits_between(&self.reader, &mut self.session, self.oid, from, to).await.unwrap()
    }

    async fn window_since(&mut self, from: Lsn) -> Window {
        match self.evidence_since(from).await {
            Evidence::Read(window) => window,
            other => panic!("the log is there and readable: {other:?}"),
        }
    }

    async fn commits_since(&mut self, from: Lsn) -> Vec<CommitSummary> {
        let window = self.window_since(from).await;
        summarize(&window, &relations(&mut self.session).await.unwrap())
    }

    /// What the log says in words of `sql`, each statement of which is a transaction.
    async fn told(&mut self, sql: &str) -> String {
        let from = self.position().await;
        self.cluster.psql("app", sql);
        in_words(&self.commits_since(from).await)
    }
}

fn connection(cluster: &Cluster, database: &str) -> Connection {
    Connection {
        host: cluster.host().to_string_lossy().into_owned(),
        port: cluster.port(),
        database: database.into(),
        user: "postgres".into(),
        password: None,
        sslmode: SslMode::Disable,
        sslrootcert: None,
    }
}

async fn run(session: &mut PgConnection, sql: &str) {
    session::run(session, "run a statement of a test", sql.into()).await.unwrap();
}

/// Twenty transactions in one database and several in another, with everything that writes.
const MIXED: &str = "
INSERT INTO orders (body) VALUES ('a');
BEGIN; INSERT INTO users VALUES (1); SAVEPOINT a; INSERT INTO users VALUES (2); ROLLBACK TO a;
SAVEPOINT b; INSERT INTO users VALUES (3); RELEASE b; COMMIT;
BEGIN; DELETE FROM orders; ROLLBACK;
UPDATE orders SET body = repeat(md5(id::text), 400) WHERE id < 4;
CREATE TABLE made AS SELECT g AS a FROM generate_series(1, 500) g;
ALTER TABLE orders ADD more int DEFAULT 7;
TRUNCATE users;
ANALYZE;
VACUUM;
INSERT INTO visits VALUES (1);
SELECT nextval('orders_id_seq') FROM generate_series(1, 40);
SELECT lo_from_bytea(0, 'x');
SELECT * FROM orders FOR UPDATE;
SET synchronous_commit = remote_apply; DELETE FROM made WHERE a < 10; DROP TABLE made;
";

#[tokio::test]
async fn committed_rows_are_counted_by_table() {
    let mut app = Watched::start(a_cluster().start()).await;
    assert_eq!(
        app.told("INSERT INTO users SELECT generate_series(1, 3); DELETE FROM users WHERE id = 2").await,
        "2 transactions (4 rows in public.users)"
    );
    assert_eq!(
        app.told("COPY users FROM STDIN;\n4\n5\n6\n7\n\\.\n").await,
        "1 transaction (4 rows in public.users)"
    );
    assert_eq!(app.told("UPDATE orders SET n = 1").await, "1 transaction (100 rows in public.orders)");
    let large = "UPDATE orders SET body = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 999) g) WHERE id = 1";
    assert_eq!(app.told(large).await, "1 transaction (1 row in public.orders)");
    let savepoints = "BEGIN; INSERT INTO users VALUES (1); SAVEPOINT a; INSERT INTO users VALUES (2); ROLLBACK TO a; \
        SAVEPOINT b; INSERT INTO users VALUES (3); RELEASE b; COMMIT";
    assert_eq!(app.told(savepoints).await, "1 transaction (2 rows in public.users)");
    assert_eq!(
        app.told("SELECT lo_from_bytea(0, 'x')").await,
        "1 transaction (1 row in pg_catalog.pg_largeobject, 1 in pg_catalog.pg_largeobject_metadata)"
    );
}

#[tokio::test]
async fn schema_and_sequences_are_told() {
    let mut app = Watched::start(a_cluster().start()).await;
    assert_eq!(app.told("ALTER TABLE users ADD more int").await, "1 transaction (changes of the schema)");
    assert_eq!(app.told("TRUNCATE orders").await, "1 transaction (changes of the schema)");
    assert_eq!(
        app.told("SELECT setval('orders_id_seq', 1000)").await,
        "1 transaction (sequence public.orders_id_seq moved)"
    );
    assert_eq!(
        app.told("INSERT INTO users VALUES (1); TRUNCATE users").await,
        format!("2 transactions (1 row in {GONE}, changes of the schema)")
    );
}

#[tokio::test]
async fn what_commits_no_write_to_the_database_is_not_counted() {
    let mut app = Watched::start(a_cluster().start()).await;
    app.cluster.create_database("other");
    app.cluster.psql("other", "CREATE TABLE t (a int)");
    app.cluster.psql("app", "CREATE STATISTICS s ON id, n FROM orders; UPDATE orders SET n = id");
    assert_eq!(app.told("BEGIN; DELETE FROM orders; ROLLBACK").await, "no transactions");
    assert_eq!(app.told("VACUUM (FREEZE, ANALYZE); ANALYZE; CHECKPOINT").await, "no transactions");
    assert_eq!(app.told("SELECT * FROM orders FOR UPDATE; SELECT txid_current()").await, "no transactions");
    assert_eq!(app.told("CREATE ROLE someone").await, "no transactions");
    // Its rows are in no log: they are compared in another way, or said to be unknown.
    assert_eq!(app.told("INSERT INTO visits VALUES (1)").await, "no transactions");

    let from = app.position().await;
    app.cluster.psql("other", "INSERT INTO t SELECT generate_series(1, 9); CREATE TABLE u (a int)");
    let window = app.window_since(from).await;
    assert_eq!((window.commits.len(), window.bare_commits.len()), (0, 0), "{window:?}");
}

#[tokio::test]
async fn prepared_transactions_count_when_they_are_committed() {
    let mut app = Watched::start(a_cluster().with_setting("max_prepared_transactions=5").start()).await;
    let prepare = "BEGIN; INSERT INTO users VALUES (1); SAVEPOINT a; INSERT INTO users VALUES (2); PREPARE TRANSACTION 'p';";
    assert_eq!(app.told(prepare).await, "no transactions");
    assert_eq!(app.told("ROLLBACK PREPARED 'p'").await, "no transactions");
    let both = format!("{prepare} COMMIT PREPARED 'p'");
    assert_eq!(app.told(&both).await, "1 transaction (2 rows in public.users)");
}

#[tokio::test]
async fn straddler_shows_as_a_commit_of_an_older_transaction() {
    let mut app = Watched::start(a_cluster().start()).await;
    let mut early = session::connect(&app.connection).await.unwrap();
    let mut failing = session::connect(&app.connection).await.unwrap();
    run(&mut early, "BEGIN; INSERT INTO public.orders (body) VALUES ('before')").await;
    run(&mut failing, "BEGIN; INSERT INTO public.orders (body) VALUES ('never')").await;
    let snapshot = "SELECT txid_current_snapshot()";
    let plain: VisibleTransactions = app.cluster.psql("app", snapshot).parse().unwrap();
    let start = begin_window(&mut app.session).await.unwrap();
    let visible: VisibleTransactions = app.cluster.psql("app", snapshot).parse().unwrap();
    // Nothing has ended since the two began, so that the first snapshot does not know them.
    assert_eq!((plain.in_progress().count(), visible.in_progress().count()), (0, 2));
    app.cluster.psql("app", "SELECT * FROM orders FOR UPDATE");

    let next = start.next_transaction;
    let window = app.window_since(start.lsn).await;
    assert_eq!(window.straddlers(&visible, next).count(), 0, "it has not ended: {window:?}");
    assert_eq!(committed_since(&mut app.session, &visible).await.unwrap(), Vec::<u64>::new());

    run(&mut early, "COMMIT").await;
    run(&mut failing, "ROLLBACK").await;
    let window = app.window_since(start.lsn).await;
    assert!(window.commits.is_empty(), "{window:?}");
    let straddlers: Vec<u32> = window.straddlers(&visible, next).map(|commit| commit.xid).collect();
    let committed = committed_since(&mut app.session, &visible).await.unwrap();
    assert_eq!(committed.len(), 1);
    assert_eq!(committed, straddlers.iter().map(|xid| u64::from(*xid)).collect::<Vec<_>>());
    // Of a window begun after the snapshot it is found too, among others that only locked.
    assert_eq!(window.straddlers(&plain, next).map(|commit| commit.xid).collect::<Vec<_>>(), straddlers);
}

#[tokio::test]
async fn commits_of_the_run_are_told_from_foreign_ones() {
    let mut app = Watched::start(a_cluster().start()).await;
    let from = app.position().await;
    let mut migration = app.cluster.client("psql");
    migration.env("PGOPTIONS", "-c synchronous_commit=remote_apply");
    let sql = "ALTER TABLE users ADD more int; UPDATE orders SET n = 1 WHERE id < 4";
    app.cluster.run(migration.args(["-Xq", "-d", "app", "-c", sql]));
    app.cluster.psql("app", "INSERT INTO users VALUES (1)");
    let (own, foreign): (Vec<_>, Vec<_>) =
        app.commits_since(from).await.into_iter().partition(|commit| commit.is_marked);
    assert_eq!(in_words(&own), "1 transaction (3 rows in public.orders, changes of the schema)");
    assert_eq!(in_words(&foreign), "1 transaction (1 row in public.users)");
}

#[tokio::test]
async fn log_that_is_still_in_memory_is_read() {
    // Nothing writes of itself what nobody waits for.
    let mut app = Watched::start(a_cluster().with_setting("wal_writer_delay=10s").start()).await;
    let from = app.position().await;
    app.cluster.psql("app", "SET synchronous_commit = off; INSERT INTO users VALUES (1)");
    let commits = app.commits_since(from).await;
    assert_eq!(in_words(&commits), "1 transaction (1 row in public.users)");
}

#[tokio::test]
async fn windows_may_begin_and_end_where_a_segment_does() {
    let mut app = Watched::start(a_cluster().with_setting("autovacuum=off").start()).await;
    app.cluster.psql("app", "SELECT pg_switch_wal()");
    let from = app.position().await;
    assert_eq!(from.0 % (1 << 20), 40, "{from} is behind a segment's header");
    assert_eq!(app.window_since(from).await, Window::default());
    app.cluster.psql("app", "INSERT INTO users VALUES (1); SELECT pg_switch_wal()");
    let commits = app.commits_since(from).await;
    assert_eq!(in_words(&commits), "1 transaction (1 row in public.users)");
    app.cluster.psql("app", "INSERT INTO users VALUES (2)");
    assert_eq!(app.commits_since(from).await.len(), 2);

    let backwards = commits_between(&app.reader, &mut app.session, app.oid, from, Lsn(1)).await.unwrap();
    assert!(matches!(backwards, Evidence::Unreadable { .. }), "{backwards:?}");
    let ahead = commits_between(&app.reader, &mut app.session, app.oid, from, Lsn(u64::MAX)).await.unwrap();
    assert!(matches!(ahead, Evidence::Unreadable { .. }), "{ahead:?}");
    assert_eq!(timeline(&mut app.session).await.unwrap(), 1);
}

/// A cluster that keeps no more of its log than it must.
async fn forgetful() -> Watched {
    let cluster = a_cluster().with_setting("wal_keep_size=0").with_setting("max_wal_size=32MB");
    let mut app = Watched::start(cluster.with_setting("min_wal_size=32MB").start()).await;
    let from = app.position().await;
    app.cluster.psql("app", "INSERT INTO users VALUES (1)");
    assert_eq!(app.commits_since(from).await.len(), 1);
    app
}

async fn forget(app: &Watched) {
    for _ in 0..4 {
        app.cluster.psql("app", "SELECT pg_switch_wal(); INSERT INTO users VALUES (1); CHECKPOINT");
    }
}

#[tokio::test]
async fn removed_log_is_gone() {
    let mut app = forgetful().await;
    let from = app.position().await;
    forget(&app).await;
    assert_eq!(app.evidence_since(from).await, Evidence::Gone);
    let to = app.position().await;
    app.cluster.psql("app", "CREATE EXTENSION pg_walinspect");
    let server = WalReader::through_server(&app.connection, &mut app.session, app.cluster.major());
    let server = server.await.unwrap();
    let evidence = commits_between(&server, &mut app.session, app.oid, from, to).await.unwrap();
    assert_eq!(evidence, Evidence::Gone);
}

#[tokio::test]
async fn server_reads_the_same_as_pg_waldump() {
    let mut app = Watched::start(a_cluster().start()).await;
    let server = WalReader::through_server(&app.connection, &mut app.session, app.cluster.major());
    let why = server.await.unwrap().why_not().map(ToOwned::to_owned);
    assert!(why.is_some_and(|why| why.contains("no extension pg_walinspect")));

    app.cluster
        .psql("postgres", "CREATE SCHEMA \"Inspect\"; CREATE EXTENSION pg_walinspect SCHEMA \"Inspect\"");
    let from = app.position().await;
    app.cluster.psql("app", MIXED);
    let to = app.position().await;
    let by_files = commits_between(&app.reader, &mut app.session, app.oid, from, to).await.unwrap();
    let Evidence::Read(window) = &by_files else { panic!("{by_files:?}") };
    assert!(window.commits.len() > 10 && window.bare_commits.len() > 1, "{window:?}");
    assert!(window.commits.iter().all(|commit| commit.committed_at.is_some()));
    let through_postgres = WalReader::through_server(&app.connection, &mut app.session, app.cluster.major());
    let reader = through_postgres.await.unwrap();
    assert_eq!(reader.why_not(), None);
    let by_server = commits_between(&reader, &mut app.session, app.oid, from, to).await.unwrap();
    assert_eq!(by_server, by_files);

    app.cluster.psql("app", "CREATE EXTENSION pg_walinspect");
    let here = WalReader::through_server(&app.connection, &mut app.session, app.cluster.major());
    let here = here.await.unwrap();
    let by_server = commits_between(&here, &mut app.session, app.oid, from, to).await.unwrap();
    assert_eq!(by_server, by_files);
}

#[tokio::test]
async fn log_that_cannot_be_read_is_no_evidence_of_silence() {
    let mut app = Watched::start(a_cluster().start()).await;
    let (programs, major) = (app.cluster.programs().to_owned(), app.cluster.major());
    let from = app.position().await;
    let roles = "CREATE ROLE guest LOGIN; CREATE ROLE reader LOGIN IN ROLE pg_read_all_settings; \
        REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC";
    app.cluster.psql("app", roles);
    let to = app.position().await;
    let as_role = |user: &str| Connection { user: user.into(), ..app.connection.clone() };
    let elsewhere = Connection { host: "db.example".into(), ..app.connection.clone() };
    for (connection, role, major, words) in [
        (elsewhere, "postgres", 14, "the server is on another host; PostgreSQL 14 has no pg_walinspect"),
        (as_role("postgres"), "postgres", 11, "find initdb and postgres of version 11"),
        (as_role("guest"), "guest", major, "the role may not read data_directory"),
        // Whose files these are is not known to a role that may not ask for the identifier.
        (as_role("reader"), "reader", major, "is not known to be of this server"),
    ] {
        let mut session = session::connect(&as_role(role)).await.unwrap();
        let reader = WalReader::find(&connection, &mut session, Some(&programs), "", major).await.unwrap();
        let why = reader.why_not().unwrap().to_owned();
        assert!(why.contains(words), "{why}");
        let evidence = commits_between(&reader, &mut app.session, app.oid, from, to).await.unwrap();
        assert_eq!(evidence, Evidence::Unreadable { why });
    }
}
