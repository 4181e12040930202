//! A gated migration ends as its exit code says, and no row that anybody committed is lost by it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod checks;
pub mod death;
mod foreign;
mod local_copy;
mod long;
mod outcomes;
pub mod pauses;
mod points;
mod premises;
mod refusals;
mod rehearsal;
mod runs;
mod several;
pub mod site;
mod surroundings;
mod swap;
mod tools;

use std::time::{Duration, Instant};

use crate::world::{AlembicProject, Environment, Revision, migration_program};
use site::Site;

/// A site whose `app` stands at revision `a1` of a project, and where `b2` is pending.
///
/// # Panics
///
/// Unless [`migration_program`] finds Alembic.
fn an_alembic_site(environment: Environment, upgrade: &str) -> (Site, AlembicProject) {
    an_alembic_site_with("", environment, upgrade)
}

/// The same, with `settings` in `[gate]`.
pub fn an_alembic_site_with(
    settings: &str,
    environment: Environment,
    upgrade: &str,
) -> (Site, AlembicProject) {
    let site = Site::with_gate(settings);
    let project = AlembicProject::new(&site.cluster, environment);
    project.add(&Revision { id: "a1", down: "", upgrade: "", downgrade: "", docstring: "what is there" });
    let downgrade = "op.drop_column(\"users\", \"age\")";
    project.add(&Revision { id: "b2", down: "a1", upgrade, downgrade, docstring: "ages of users" });
    (site.standing_in(project.directory()), project)
}

/// What a good `b2` does.
pub const ADD_AGE: &str = "op.add_column(\"users\", sa.Column(\"age\", sa.Integer))";

/// The words of an Alembic command.
pub fn alembic(args: &[&str]) -> Vec<String> {
    words(&migration_program("alembic"), args)
}

/// The words of a shell script.
pub fn shell(script: &str) -> Vec<String> {
    words("sh", &["-ec", script])
}

/// Runs one statement as a transaction of its own, as a line of a shell script.
pub fn psql(statement: &str) -> String {
    assert!(!statement.contains('"'), "the statement is quoted by \"");
    format!("psql -Xq -v ON_ERROR_STOP=1 -c \"{statement}\"\n")
}

fn words(program: &str, args: &[&str]) -> Vec<String> {
    std::iter::once(program).chain(args.iter().copied()).map(str::to_owned).collect()
}

/// Waits until `holds`.
pub fn wait_until(fact: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come true that {fact}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
