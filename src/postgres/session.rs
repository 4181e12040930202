//! Sessions: connect with the settings that pg_dump itself uses, and the keeper of a snapshot.

use secrecy::ExposeSecret as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqlSafeStr as _};

use super::PostgresError;
use crate::settings::Connection;

/// The database that is there in every cluster, for statements about other databases.
pub const MAINTENANCE_DATABASE: &str = "postgres";

/// Values that make text the same at every time and place; those a server does not know are
/// passed over. As pg_dump sets them.
const SESSION_VALUES: &str = "SELECT set_config(s.name, v.value, false) FROM (VALUES \
    ('datestyle', 'ISO'), ('intervalstyle', 'postgres'), ('extra_float_digits', '3'), \
    ('synchronize_seqscans', 'off'), ('row_security', 'off'), ('search_path', ''), \
    ('statement_timeout', '0'), ('lock_timeout', '0'), ('transaction_timeout', '0'), \
    ('idle_in_transaction_session_timeout', '0'), ('idle_session_timeout', '0'), \
    ('quote_all_identifiers', 'off'), ('check_function_bodies', 'off'), ('xmloption', 'content'), \
    ('client_min_messages', 'warning'), ('bytea_output', 'hex'), ('timezone', 'UTC'), \
    ('lc_monetary', 'C'), ('xmlbinary', 'base64'), ('default_transaction_read_only', 'off')) v(name, value) \
    JOIN pg_catalog.pg_settings s ON lower(s.name) = v.name";

/// Opens a session.
///
/// # Errors
/// [`PostgresError::Connect`], [`PostgresError::NoDatabase`]
pub async fn connect(to: &Connection) -> Result<PgConnection, PostgresError> {
    let mut session = options(to).connect().await.map_err(|source| connect_error(to, source))?;
    sqlx::query(SESSION_VALUES)
        .execute(&mut session)
        .await
        .map_err(|source| PostgresError::of_query("prepare a session", source))?;
    Ok(session)
}

fn options(to: &Connection) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(to.port)
        .username(&to.user)
        .database(&to.database)
        .application_name("belay")
        .statement_cache_capacity(0)
        .disable_statement_logging();
    // libpq knows no TLS on sockets, whatever sslmode says.
    options = if to.host.starts_with('/') {
        options.socket(&to.host).ssl_mode(PgSslMode::Disable)
    } else {
        options.host(&to.host).ssl_mode(to.sslmode.as_str().parse().unwrap_or(PgSslMode::Prefer))
    };
    if let Some(path) = &to.sslrootcert {
        options = options.ssl_root_cert(path);
    }
    match &to.password {
        Some(password) => options.password(password.expose_secret()),
        None => options,
    }
}

fn connect_error(to: &Connection, source: sqlx::Error) -> PostgresError {
    let (database, host) = (to.database.clone(), to.host.clone());
    let code = source.as_database_error().and_then(|error| error.code());
    if code.as_deref() == Some("3D000") {
        PostgresError::NoDatabase { database, host }
    } else {
        PostgresError::Connect { database, host, source }
    }
}

/// Ends a session and waits for the server to know.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn close(session: PgConnection) -> Result<(), PostgresError> {
    session.close().await.map_err(|source| PostgresError::of_query("end a session", source))
}

/// Runs statements that return nothing; `sql` is built by us, with names quoted.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn run(session: &mut PgConnection, action: &str, sql: String) -> Result<(), PostgresError> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(session)
        .await
        .map_err(|source| PostgresError::of_query(action, source))?;
    Ok(())
}

/// Reads all rows of a query; `sql` is built by us, with names quoted.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn rows(
    session: &mut PgConnection,
    action: &str,
    sql: impl Into<String>,
) -> Result<Vec<sqlx::postgres::PgRow>, PostgresError> {
    sqlx::query(AssertSqlSafe(sql.into()))
        .persistent(false)
        .fetch_all(session)
        .await
        .map_err(|source| PostgresError::of_query(action, source))
}

/// Reads one column of a row.
///
/// # Errors
/// [`PostgresError::Query`] when the server's answer has another form than asked for.
pub fn column<'r, T>(row: &'r sqlx::postgres::PgRow, name: &str) -> Result<T, PostgresError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name).map_err(|source| PostgresError::of_query(format!("read column {name}"), source))
}

/// Asks a query of an operator for its one value, as text; no row, or NULL, is an empty one.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn answer(session: &mut PgConnection, name: &str, sql: &str) -> Result<String, PostgresError> {
    use futures::TryStreamExt as _;
    let action = format!("ask check {name}");
    let failed = |source| PostgresError::of_query(action.as_str(), source);
    run(session, &action, "SET search_path TO DEFAULT".into()).await?;
    // What has several statements is refused before any of them does something.
    session.prepare(AssertSqlSafe(sql.to_owned()).into_sql_str()).await.map_err(failed)?;
    run(session, &action, "BEGIN READ ONLY".into()).await?;
    // The simple protocol: every value comes as text, whatever its type.
    let found: Vec<_> = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .fetch(&mut *session)
        .try_collect()
        .await
        .map_err(failed)?;
    run(session, &action, "ROLLBACK".into()).await?;
    let Some(row) = found.last() else { return Ok(String::new()) };
    let value: Option<String> = row
        .try_get_raw(0)
        .and_then(|raw| {
            raw.as_str().map(|text| Some(text.to_owned())).or(Ok(None)).map_err(sqlx::Error::Decode)
        })
        .map_err(failed)?;
    Ok(value.unwrap_or_default())
}

/// `server_version_num` of the session's server.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn server_version_num(session: &mut PgConnection) -> Result<u32, PostgresError> {
    let found =
        rows(session, "read the server's version", "SELECT current_setting('server_version_num')::int AS n")
            .await?;
    let number: i32 = found.first().map(|row| column(row, "n")).transpose()?.unwrap_or_default();
    Ok(u32::try_from(number).unwrap_or_default())
}

/// Makes `session` the one that works under `marker` until it ends; see [`outlive`].
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn work_under(session: &mut PgConnection, marker: &str) -> Result<(), PostgresError> {
    run(
        session,
        "announce the work to the server",
        format!("SELECT pg_catalog.pg_advisory_lock({})", lock_key(marker)),
    )
    .await
}

/// As [`work_under`], but returns at once, and says whether nobody else works under `marker`.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn try_work_under(session: &mut PgConnection, marker: &str) -> Result<bool, PostgresError> {
    let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({}) AS has_lock", lock_key(marker));
    let found = rows(session, "announce the work to the server", sql).await?;
    Ok(found.first().map(|row| column(row, "has_lock")).transpose()?.unwrap_or_default())
}

/// Waits until no session of this database works under `marker` any more.
///
/// A server carries out the statement that it got from a client that is dead by now: a database
/// that is not there yet may still come, and a rename may still happen.
///
/// # Errors
/// [`PostgresError::LockTimeout`] when it takes very long; then later is early enough.
pub async fn outlive(session: &mut PgConnection, marker: &str) -> Result<(), PostgresError> {
    let key = lock_key(marker);
    let sql = format!(
        "SET lock_timeout = '60s'; SELECT pg_catalog.pg_advisory_lock({key}); \
         SELECT pg_catalog.pg_advisory_unlock({key}); SET lock_timeout = 0"
    );
    run(session, "wait for the end of an interrupted restore", sql).await
}

fn lock_key(marker: &str) -> String {
    format!("pg_catalog.hashtextextended({}, 0)", crate::rules::sql::literal(marker))
}

/// `maintenance_work_mem` of a session.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn maintenance_memory_bytes(session: &mut PgConnection) -> Result<u64, PostgresError> {
    let sql = "SELECT setting::bigint * 1024 AS bytes FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'";
    let found = rows(session, "read maintenance_work_mem", sql).await?;
    let bytes: i64 = found.first().map(|row| column(row, "bytes")).transpose()?.unwrap_or_default();
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// Names of the databases that accept connections, but for the cluster's own templates; those that
/// an interrupted DROP DATABASE left accept none.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn databases(session: &mut PgConnection) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 \
        AND datname NOT IN ('template0', 'template1') ORDER BY 1";
    rows(session, "list databases", sql).await?.iter().map(|row| column(row, "datname")).collect()
}

/// Whether the server replays another one's log, and takes no writes.
///
/// # Errors
/// As [`PostgresError::of_query`] sorts them.
pub async fn is_standby(session: &mut PgConnection) -> Result<bool, PostgresError> {
    let sql = "SELECT pg_catalog.pg_is_in_recovery() AS is_standby";
    let found = rows(session, "look whether the server is a standby", sql).await?;
    Ok(found.first().map(|row| column(row, "is_standby")).transpose()?.unwrap_or_default())
}

/// The session that holds a snapshot open while others read in it.
///
/// It locks every table (`ACCESS SHARE`) *before* its snapshot is taken, because TRUNCATE and
/// DROP do not respect snapshots: a table emptied between a snapshot and a lock would be dumped
/// empty without an error.
pub struct Keeper {
    /// The session, inside its transaction.
    pub session: PgConnection,
    /// The name to give to `SET TRANSACTION SNAPSHOT` and `pg_dump --snapshot`.
    pub snapshot: String,
    /// Where the write-ahead log stood.
    pub lsn: String,
    /// `pg_current_snapshot()` as text.
    pub visible_transactions: String,
}

const TABLES_TO_LOCK: &str = "SELECT format('%I.%I', n.nspname, c.relname) AS name \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' \
      AND n.nspname !~ '^pg_(toast|temp)' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    ORDER BY c.oid";

const LOCK_ATTEMPTS: u32 = 5;

impl Keeper {
    /// Locks every table of the database, then takes and exports a snapshot.
    ///
    /// # Errors
    /// [`PostgresError::LockTimeout`] when a table stays locked, [`PostgresError::Denied`] when the
    /// role may not read one, [`PostgresError::NotUtf8`] when one has such a name.
    pub async fn open(to: &Connection, lock_timeout: std::time::Duration) -> Result<Self, PostgresError> {
        Self::open_raw(to, lock_timeout).await.map_err(|error| error.of_catalogs(&to.database))
    }

    async fn open_raw(to: &Connection, lock_timeout: std::time::Duration) -> Result<Self, PostgresError> {
        let mut session = connect(to).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {}",
            lock_timeout.as_millis()
        );
        for attempt in 1.. {
            let tables = names(&mut connect(to).await?).await?;
            run(&mut session, "begin the snapshot", begin.clone()).await?;
            let locked = lock(&mut session, &tables).await;
            let is_gone = |error: &PostgresError| {
                matches!(error, PostgresError::Query { source, .. }
                if source.as_database_error().and_then(|e| e.code()).as_deref() == Some("42P01"))
            };
            match locked {
                // A table dropped between listing and locking: list again.
                Err(error) if is_gone(&error) && attempt < LOCK_ATTEMPTS => {}
                Err(PostgresError::LockTimeout { action, .. }) => {
                    let tables = locked_by_others(to).await.unwrap_or_default();
                    return Err(PostgresError::LockTimeout { action, tables });
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    let seen = names(&mut session).await?;
                    // A table created in between is not locked yet: once more, but not for ever on
                    // a database that makes tables all the time; those are too new to hold anything.
                    if attempt >= LOCK_ATTEMPTS || seen.iter().all(|name| tables.contains(name)) {
                        return Self::export(session).await;
                    }
                }
            }
            run(&mut session, "begin the snapshot again", "ROLLBACK".into()).await?;
        }
        unreachable!("the loop returns at its last attempt")
    }

    async fn export(mut session: PgConnection) -> Result<Self, PostgresError> {
        let facts = "SELECT pg_catalog.pg_export_snapshot() AS snapshot, \
            (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
             ELSE pg_catalog.pg_current_wal_insert_lsn() END)::text AS lsn";
        let found = rows(&mut session, "export the snapshot", facts).await?;
        let visible = rows(
            &mut session,
            "read the snapshot",
            // txid_current_snapshot is the name that servers before 13 know.
            "SELECT pg_catalog.txid_current_snapshot()::text AS visible",
        )
        .await?;
        let (Some(row), Some(visible)) = (found.first(), visible.first()) else {
            return Err(PostgresError::of_query("export the snapshot", sqlx::Error::RowNotFound));
        };
        Ok(Self {
            snapshot: column(row, "snapshot")?,
            lsn: column(row, "lsn")?,
            visible_transactions: column(visible, "visible")?,
            session,
        })
    }

    /// Ends the transaction and the session.
    ///
    /// # Errors
    /// When the connection is gone: then the snapshot was not held to the end.
    pub async fn close(mut self) -> Result<(), PostgresError> {
        run(&mut self.session, "end the snapshot", "COMMIT".into()).await?;
        self.session.close().await.map_err(|source| PostgresError::of_query("end the snapshot", source))
    }
}

async fn names(session: &mut PgConnection) -> Result<Vec<String>, PostgresError> {
    rows(session, "list tables", TABLES_TO_LOCK).await?.iter().map(|row| column(row, "name")).collect()
}

async fn lock(session: &mut PgConnection, tables: &[String]) -> Result<(), PostgresError> {
    for some in tables.chunks(500) {
        let sql = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", some.join(", ONLY "));
        run(session, "lock the tables against DROP and TRUNCATE", sql).await?;
    }
    Ok(())
}

/// Some of the tables that others hold or await an exclusive lock on, the only one that keeps ours
/// waiting; the server does not say which one did.
///
/// # Errors
/// As [`connect`]; as [`PostgresError::of_query`] sorts them.
pub async fn locked_by_others(to: &Connection) -> Result<Vec<String>, PostgresError> {
    let sql = "SELECT DISTINCT format('%I.%I', n.nspname, c.relname) AS name FROM pg_catalog.pg_locks l \
        JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        JOIN pg_catalog.pg_database d ON d.oid = l.database \
        WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND d.datname = current_database() \
          AND c.relkind IN ('r', 'p', 'S', 'm', 'v') AND n.nspname !~ '^pg_(toast|temp)' AND n.nspname <> 'pg_catalog' ORDER BY 1 LIMIT 5";
    let mut session = connect(to).await?;
    rows(&mut session, "look for locked tables", sql).await?.iter().map(|row| column(row, "name")).collect()
}

/// Opens a session that sees exactly what the keeper's snapshot sees.
///
/// # Errors
/// As [`connect`]; [`PostgresError::Query`] when the keeper is gone.
pub async fn join_snapshot(
    to: &Connection,
    snapshot: &str,
    lock_timeout: std::time::Duration,
) -> Result<PgConnection, PostgresError> {
    let mut session = connect(to).await?;
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; SET LOCAL lock_timeout = {}",
        crate::rules::sql::literal(snapshot),
        lock_timeout.as_millis()
    );
    run(&mut session, "join the snapshot", sql).await?;
    Ok(session)
}
