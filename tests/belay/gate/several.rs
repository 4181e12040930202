//! One command over several databases: all of them are migrated, or all are what they were.

mod alembic;
mod held;
mod killed;
mod outcomes;
mod refusals;

use super::shell;
use super::site::{Ran, Running, Site, assert_same, state};
use crate::world::a_cluster;

/// A second database, at the revision `a1` too, with an owner of its own.
const BILLING: &str = "
    CREATE TABLE invoices (id int PRIMARY KEY, total numeric(10, 2) NOT NULL);
    INSERT INTO invoices SELECT n, n * 2.5 FROM generate_series(1, 300) n;
    CREATE TABLE alembic_version (version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY);
    INSERT INTO alembic_version VALUES ('a1');
    CREATE ROLE billing_owner;
    ALTER DATABASE billing OWNER TO billing_owner;
    ALTER DATABASE billing SET work_mem = '9MB';
    COMMENT ON DATABASE billing IS 'who owes what';";

/// A site with the databases `app` and `billing`, which have a section each.
pub struct TwoSite {
    pub site: Site,
    /// [`state`] of `billing` at the beginning.
    pub billing: String,
}

impl TwoSite {
    /// With `gate` in `[gate]`.
    pub fn with_gate(gate: &str) -> TwoSite {
        const BEGINNING: &str = "[gate]\nverify_depth = \"stored\"\n";
        let site = Site::planned(a_cluster(), |_| "verify_depth = \"stored\"\n".into());
        site.cluster.create_database("billing");
        site.cluster.psql("billing", BILLING);
        let settings = std::fs::read_to_string(site.belay.settings()).unwrap();
        let (first, fence) = settings.split_once(BEGINNING).unwrap();
        let (host, port) = (site.cluster.host().display(), site.cluster.port());
        site.belay.write_settings(&format!(
            "{first}[database.billing]\nhost = \"{host}\"\nport = {port}\nname = \"billing\"\n\
             user = \"postgres\"\n{BEGINNING}{gate}\n{fence}"
        ));
        let billing = state(&site.cluster, "billing");
        TwoSite { site, billing }
    }

    /// Gates a shell script over both databases.
    pub fn migrate(&self, script: &str) -> Ran {
        self.site.migrate_with(&["--db", "billing"], &shell(script))
    }

    /// Begins to gate a shell script over both databases.
    pub fn begin(&self, script: &str) -> Running {
        self.site.begin(&["--db", "billing"], &shell(script))
    }

    pub fn oid(&self, database: &str) -> String {
        let sql = format!("SELECT oid FROM pg_database WHERE datname = '{database}'");
        self.site.cluster.psql("postgres", &sql)
    }

    /// What `app` and `billing` were before a restore.
    pub fn failed_databases(&self) -> Vec<String> {
        let sql = "SELECT datname FROM pg_database WHERE datname LIKE '%\\_failed\\_%' ORDER BY 1";
        self.site.cluster.psql("postgres", sql).lines().map(str::to_owned).collect()
    }

    /// Asserts that both are what they were at the beginning, and open to all.
    #[track_caller]
    pub fn assert_as_before(&self) {
        self.site.assert_as_before();
        assert_same(&state(&self.site.cluster, "billing"), &self.billing);
        let closed = "SELECT count(*) FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'";
        assert_eq!(self.site.cluster.psql("postgres", closed), "0");
    }
}

/// Runs one statement in `app`.
fn in_app(statement: &str) -> String {
    super::psql(statement)
}

/// Runs one statement in `billing`, by the address that the command was given.
fn in_billing(statement: &str) -> String {
    format!("psql -Xq -v ON_ERROR_STOP=1 -d \"$BELAY_DATABASE_URL_BILLING\" -c \"{statement}\"\n")
}

/// What a report says of one of its databases.
fn of<'r>(report: &'r serde_json::Value, database: &str) -> &'r serde_json::Value {
    let all = report["databases"].as_array().expect("databases are a list");
    all.iter().find(|of| of["database"] == database).expect("the database is one of the run")
}

const HALF_OF_APP: &str = "UPDATE users SET name = 'half' WHERE id <= 5";
const HALF_OF_BILLING: &str = "UPDATE invoices SET total = 0 WHERE id <= 7";
