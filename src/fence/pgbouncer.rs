//! PgBouncer, which holds its clients back while a database is paused.
//!
//! Its console takes the simple protocol only, so psql speaks to it (PgBouncer's manual, "Admin
//! console").

use std::path::Path;

use tokio::process::Command;

use super::program;
use super::{Context, Deadline, FenceError, Undo};
use crate::rules::sql::quoted;
use crate::settings::{Connection, SslMode, password_in};

/// Between the fields and the rows of psql's answers; no name of a database holds them.
const FIELD: char = '\x1f';
const ROW: char = '\x1e';

/// The console of one PgBouncer.
pub(super) struct Console<'a> {
    pub host: &'a str,
    pub port: u16,
    pub user: &'a str,
    pub password_file: Option<&'a Path>,
}

/// A database as `SHOW DATABASES` has it.
#[derive(Debug, PartialEq, Eq)]
struct Pooled {
    name: String,
    is_paused: bool,
}

impl Console<'_> {
    /// Reads which of `names` are not paused.
    pub(super) async fn look(&self, names: &[String], context: &Context<'_>) -> Result<Undo, FenceError> {
        let pooled = self.databases(context, context.deadline()).await?;
        let mut running = Vec::new();
        for name in names {
            match pooled.iter().find(|one| one.name == *name) {
                Some(one) if one.is_paused => {}
                Some(_) => running.push(name.clone()),
                None => {
                    return Err(FenceError::NotPooled { database: name.clone(), host: self.host.into() });
                }
            }
        }
        Ok(Undo::Pgbouncer {
            host: self.host.into(),
            port: self.port,
            user: self.user.into(),
            password_file: self.password_file.map(Path::to_owned),
            databases: running,
        })
    }

    /// Pauses `names`; each takes until the transactions (with session pooling: the sessions) that
    /// are under way have ended.
    pub(super) async fn raise(&self, names: &[String], context: &Context<'_>) -> Result<(), FenceError> {
        let deadline = context.deadline();
        for name in names {
            self.ask(&format!("PAUSE {}", quoted(name)), context, deadline).await?;
        }
        Ok(())
    }

    /// Resumes those of `names` that are paused; one that is gone needs nothing.
    pub(super) async fn release(&self, names: &[String], context: &Context<'_>) -> Result<(), FenceError> {
        if names.is_empty() {
            return Ok(());
        }
        let deadline = context.deadline();
        let pooled = self.databases(context, deadline).await?;
        let mut outcome = Ok(());
        for one in pooled.iter().filter(|one| one.is_paused && names.contains(&one.name)) {
            let resume = format!("RESUME {}", quoted(&one.name));
            outcome = outcome.and(self.ask(&resume, context, deadline).await.map(drop));
        }
        outcome
    }

    async fn databases(&self, context: &Context<'_>, deadline: Deadline) -> Result<Vec<Pooled>, FenceError> {
        let answer = self.ask("SHOW DATABASES", context, deadline).await?;
        pooled(&answer).ok_or_else(|| FenceError::Answer {
            action: format!("list the databases of PgBouncer at {}", self.host),
            answer: answer.chars().take(200).collect(),
        })
    }

    async fn ask(&self, sql: &str, context: &Context<'_>, deadline: Deadline) -> Result<String, FenceError> {
        let action = format!("ask PgBouncer at {} for {sql}", self.host);
        program::answer(self.psql(sql, context)?, &action, deadline).await
    }

    fn psql(&self, sql: &str, context: &Context<'_>) -> Result<Command, FenceError> {
        let console = Connection {
            host: self.host.into(),
            port: self.port,
            database: "pgbouncer".into(),
            user: self.user.into(),
            password: self.password_file.map(password_in).transpose()?,
            sslmode: SslMode::Prefer,
            sslrootcert: None,
        };
        let mut psql = context.tools.command("psql", &console);
        // It refuses sessions that come with options.
        psql.env_remove("PGOPTIONS");
        psql.args(["-X", "-q", "-w", "-A", "-P", "footer=off", "-v", "ON_ERROR_STOP=1"]);
        psql.args(["-F", &FIELD.to_string(), "-R", &ROW.to_string(), "-c", sql]);
        Ok(psql)
    }
}

/// Reads the answer to `SHOW DATABASES`, whose columns differ between versions of PgBouncer.
fn pooled(answer: &str) -> Option<Vec<Pooled>> {
    let mut rows =
        answer.trim_end_matches(['\n', ROW]).split(ROW).map(|row| row.split(FIELD).collect::<Vec<_>>());
    let header = rows.next()?;
    let at = |column: &str| header.iter().position(|name| *name == column);
    let (name, paused) = (at("name")?, at("paused")?);
    rows.map(|row| {
        let (name, paused) = (row.get(name)?, row.get(paused)?);
        Some(Pooled { name: (*name).to_owned(), is_paused: *paused != "0" })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_read_by_the_names_of_their_columns() {
        let answer = "host\x1fname\x1fpaused\x1e/run\x1fa b\x1f1\x1e/run\x1fapp\x1f0\n";
        let one = |name: &str, is_paused| Pooled { name: name.into(), is_paused };
        assert_eq!(pooled(answer), Some(vec![one("a b", true), one("app", false)]));
        assert_eq!(pooled("name\x1fpaused\n"), Some(Vec::new()));
    }

    #[test]
    fn an_answer_of_another_form_is_not_taken_for_no_databases() {
        assert_eq!(pooled(""), None);
        assert_eq!(pooled("name\x1fhost\x1eapp\x1f/run\n"), None);
        assert_eq!(pooled("name\x1fpaused\x1eapp\n"), None);
    }
}
