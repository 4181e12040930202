//! Alembic projects, and where the migration tools of the tests lie.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::cluster::Cluster;
use super::owner;

/// Returns a program of the virtual environment that `scripts/test` makes.
///
/// # Panics
///
/// Where it is absent: what a machine lacks is named, not skipped.
#[allow(clippy::disallowed_methods, reason = "the migration tools of the tests are no settings of belay")]
pub fn migration_program(name: &str) -> String {
    let named = std::env::var_os("BELAY_TEST_ALEMBIC").map(PathBuf::from);
    let programs = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/alembic/bin"));
    let program = programs.join(name);
    assert!(program.exists(), "{} is absent: scripts/test installs it", program.display());
    program.into_os_string().into_string().expect("the path of a program is text")
}

/// What `env.py` does around the migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// What `alembic init` writes: one transaction around all revisions, by psycopg2.
    Usual,
    /// The same by asyncpg, which takes neither a name nor options from the environment.
    Asyncpg,
    /// A transaction around each revision.
    TransactionPerMigration,
    /// A query before `context.configure()`: Alembic then leaves the COMMIT to a caller who does not know.
    TouchedBeforeConfigure,
    /// An exception after everything is committed.
    RaisingAfterwards,
    /// Alembic's template `multidb`: an engine each for `app` and `billing`, all revisions of both,
    /// and then one commit after the other.
    Several,
}

/// A revision script.
#[derive(Clone, Copy, Debug)]
pub struct Revision<'a> {
    /// Its name.
    pub id: &'a str,
    /// The revision below it; empty for the first.
    pub down: &'a str,
    /// What `upgrade()` does: statements of Python, one on each line.
    pub upgrade: &'a str,
    /// What `downgrade()` does.
    pub downgrade: &'a str,
    /// What the script says of itself.
    pub docstring: &'a str,
}

/// A directory with `alembic.ini`, `env.py` and revision scripts; gone with its cluster.
pub struct AlembicProject {
    directory: PathBuf,
}

impl AlembicProject {
    /// Makes a project without a revision.
    pub fn new(cluster: &Cluster, environment: Environment) -> AlembicProject {
        let name = (0..).map(|n| format!("project-{n}")).find(|name| !cluster.host().join(name).exists());
        let directory = cluster.room(&name.expect("numbers do not run out"));
        for room in ["migrations", "migrations/versions"] {
            owner::make_directory(&directory.join(room));
        }
        let project = AlembicProject { directory };
        project.write("alembic.ini", INI);
        project.write("migrations/env.py", &env_py(environment));
        project
    }

    /// Adds a revision script.
    pub fn add(&self, revision: &Revision<'_>) {
        let down = if revision.down.is_empty() { "None".into() } else { format!("{:?}", revision.down) };
        let script = format!(
            "\"\"\"{docstring}\n\nRevision ID: {id}\nRevises: {below}\n\"\"\"\nfrom alembic import op\n\
             import sqlalchemy as sa\n\nrevision = {id:?}\ndown_revision = {down}\nbranch_labels = None\n\
             depends_on = None\n\n\ndef upgrade() -> None:\n{upgrade}\n\ndef downgrade() -> None:\n{downgrade}",
            docstring = revision.docstring,
            id = revision.id,
            below = revision.down,
            upgrade = indented(revision.upgrade),
            downgrade = indented(revision.downgrade),
        );
        self.write(&format!("migrations/versions/{}.py", revision.id), &script);
    }

    /// Has Alembic itself merge all heads into the revision `id`.
    pub fn merge(&self, id: &str) {
        self.write("migrations/script.py.mako", MAKO);
        let mut alembic = std::process::Command::new(migration_program("alembic"));
        alembic.args(["merge", "-m", "merge", "--rev-id", id, "heads"]).current_dir(&self.directory);
        let merged = alembic.output().expect("run alembic");
        assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
        let script = self.directory.join(format!("migrations/versions/{id}_merge.py"));
        owner::hand_over(&script);
    }

    /// Where it lies; Alembic finds its settings when it runs there.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        std::fs::write(&path, text).expect("write a file of a project");
        owner::hand_over(&path);
    }
}

/// The body of a function: `pass` where there is nothing to do.
fn indented(statements: &str) -> String {
    let mut body = String::new();
    let statements = if statements.trim().is_empty() { "pass" } else { statements };
    for line in statements.lines() {
        writeln!(body, "    {line}").expect("writing to a string does not fail");
    }
    body
}

/// Of Alembic's generic template, what a script is made of.
const MAKO: &str = r#""""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""
from typing import Sequence, Union

revision: str = ${repr(up_revision)}
down_revision: Union[str, Sequence[str], None] = ${repr(down_revision)}
branch_labels: Union[str, Sequence[str], None] = ${repr(branch_labels)}
depends_on: Union[str, Sequence[str], None] = ${repr(depends_on)}


def upgrade() -> None:
    """Upgrade schema."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Downgrade schema."""
    ${downgrades if downgrades else "pass"}
"#;

const INI: &str = "[alembic]\nscript_location = %(here)s/migrations\n";

fn env_py(environment: Environment) -> String {
    let touch = match environment {
        Environment::TouchedBeforeConfigure => "connection.execute(text(\"SELECT 1\"))",
        _ => "pass",
    };
    let per_migration = match environment {
        Environment::TransactionPerMigration => "True",
        _ => "False",
    };
    let run = match environment {
        Environment::Asyncpg => "asyncio.run(run_by_asyncpg())",
        Environment::Several => "run_by_several_engines()",
        _ => "run_by_psycopg2()",
    };
    let afterwards = match environment {
        Environment::RaisingAfterwards => "raise RuntimeError(\"the announcement was not sent\")",
        _ => "",
    };
    ENV_PY
        .replace("TOUCH", touch)
        .replace("PER_MIGRATION", per_migration)
        .replace("RUN", run)
        .replace("AFTERWARDS", afterwards)
}

const ENV_PY: &str = r#"import asyncio
import os

from alembic import context
from sqlalchemy import create_engine, make_url, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

url = make_url(os.environ["DATABASE_URL"])


def migrate(connection):
    TOUCH
    context.configure(connection=connection, transaction_per_migration=PER_MIGRATION)
    with context.begin_transaction():
        context.run_migrations()


def run_by_psycopg2():
    engine = create_engine(url.set(drivername="postgresql+psycopg2"), poolclass=pool.NullPool)
    with engine.connect() as connection:
        migrate(connection)


def run_by_several_engines():
    engines = []
    for name in ("APP", "BILLING"):
        of_one = make_url(os.environ["BELAY_DATABASE_URL_" + name]).set(drivername="postgresql+psycopg2")
        connection = create_engine(of_one, poolclass=pool.NullPool).connect()
        engines.append((name, connection, connection.begin()))
    try:
        for name, connection, _ in engines:
            context.configure(
                connection=connection,
                upgrade_token=name.lower() + "_upgrades",
                downgrade_token=name.lower() + "_downgrades",
            )
            context.run_migrations()
        for _, _, transaction in engines:
            transaction.commit()
    except:
        for _, _, transaction in engines:
            transaction.rollback()
        raise
    finally:
        for _, connection, _ in engines:
            connection.close()


async def run_by_asyncpg():
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"), poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


RUN
AFTERWARDS
"#;
