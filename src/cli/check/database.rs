//! Each database: reached, locked and read as a snapshot would, with the programs that it takes.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;

use super::{Findings, gate};
use crate::catalog::Listing;
use crate::cli::advice::LARGE_OBJECTS;
use crate::cli::host::databases_of;
use crate::cli::report::Failure;
use crate::ledger::Ledger;
use crate::postgres::PostgresError;
use crate::postgres::describe;
use crate::postgres::rights::{MissingRights, missing_rights};
use crate::postgres::session::{self, Keeper};
use crate::postgres::tools::Tools;
use crate::rules::manifest::Depth;
use crate::settings::{self, DatabaseSettings, Settings};

/// How many names a finding lists.
const NAMES_SHOWN: usize = 5;

/// Tries each; `ledger` and `listing` as far as they could be read.
pub(super) async fn check_all(
    settings: &Settings,
    (ledger, listing): (Option<&Ledger>, Option<&Listing>),
    findings: &mut Findings,
) {
    let Some(databases) = findings.take("databases", databases_of(settings, ledger).await) else { return };
    let mut majors = BTreeSet::new();
    for database in &databases {
        let subject = format!("database {}", database.key);
        majors.extend(check_one(&subject, database, (settings, listing), findings).await);
    }
    for major in majors {
        check_server_programs(major, settings, findings).await;
    }
}

/// Returns the server's major version, if it was reached.
async fn check_one(
    subject: &str,
    database: &DatabaseSettings,
    (settings, listing): (&Settings, Option<&Listing>),
    findings: &mut Findings,
) -> Option<u32> {
    let connected = session::connect(&database.connection).await.map_err(Failure::of("connect"));
    let mut session = findings.take(subject, connected)?;
    let version = session::server_version_num(&mut session).await.map_err(Failure::of("ask for the version"));
    let version = findings.take(subject, version)?;
    let major = version / 10_000;
    let bin_directory = settings.cluster.bin_directory.as_deref();
    let tools = Tools::find(bin_directory, &settings::search_path(), major)
        .await
        .map_err(Failure::of("find pg_dump"));
    if let Some(tools) = findings.take(subject, tools) {
        findings.ok(
            subject,
            format!("PostgreSQL {major}.{} is reached, pg_dump {} fits", version % 10_000, tools.version),
        );
    }
    match lock_and_let_go(database).await {
        Ok(()) => {
            findings.ok(subject, "every table can be locked and read");
            let catalogs = read_catalogs(&mut session, version).await;
            let catalogs = catalogs.map_err(|error| error.of_catalogs(&database.connection.database));
            findings.take(subject, catalogs.map_err(Failure::of("read the catalogs")));
        }
        Err(failure) => findings.failure(subject, failure),
    }
    let missing = missing_rights(&mut session).await.map_err(Failure::of("read the role's rights"));
    if let Some(missing) = findings.take(subject, missing) {
        report_missing(subject, &missing, findings);
    }
    if let Some(listing) = listing {
        check_cluster(subject, &database.connection.database, listing, &mut session, findings).await;
    }
    gate::check(subject, database, settings, version, &mut session, findings).await;
    Some(major)
}

/// Whether the newest snapshot is of the cluster that answers.
async fn check_cluster(
    subject: &str,
    name: &str,
    listing: &Listing,
    session: &mut PgConnection,
    findings: &mut Findings,
) {
    let of_database = listing.entries.iter().rev().map(|entry| &entry.manifest);
    let mut identified = of_database.filter(|manifest| manifest.database == name);
    let known = identified.find_map(|manifest| Some((&manifest.id, manifest.system_identifier.as_ref()?)));
    let found = describe::identity(session).await.map_err(Failure::of("read which cluster it is"));
    let found = findings.take(subject, found).and_then(|(_, identifier)| identifier);
    if let (Some((id, known)), Some(found)) = (known, found)
        && *known != found
    {
        findings.warning(
            subject,
            format!("it is of cluster {found}, and its newest snapshot {id} is of cluster {known}"),
            "are host and port in the settings those of the right server? If the cluster was made anew, take a snapshot of it",
        );
    }
}

/// What a snapshot begins with; the transaction ends without a trace.
async fn lock_and_let_go(database: &DatabaseSettings) -> Result<(), Failure> {
    let keeper = Keeper::open(&database.connection, database.lock_timeout)
        .await
        .map_err(Failure::of("lock the tables"))?;
    keeper.close().await.map_err(Failure::of("let the tables go"))
}

/// Reads of the catalogs what a snapshot writes down; text that is no UTF-8 shows here.
async fn read_catalogs(session: &mut PgConnection, version_num: u32) -> Result<(), PostgresError> {
    if describe::encoding(session).await? == "UTF8" {
        return Ok(());
    }
    describe::tables(session).await?;
    describe::structures(session).await?;
    describe::properties(session, version_num).await?;
    describe::extensions(session).await?;
    describe::roles(session).await?;
    describe::tablespaces(session).await?;
    Ok(())
}

fn report_missing(subject: &str, missing: &MissingRights, findings: &mut Findings) {
    let rights = "grant pg_read_all_data to the role in [database.NAME], or use the cluster's superuser";
    if !missing.filtered_tables.is_empty() {
        let text = format!(
            "row security hides rows of {} from the role, pg_dump refuses that",
            names(&missing.filtered_tables)
        );
        findings.problem(subject, text, "give the role BYPASSRLS, or use the cluster's superuser");
    }
    if !missing.closed_sequences.is_empty() {
        findings.problem(
            subject,
            format!("the role may not read the sequences {}", names(&missing.closed_sequences)),
            rights,
        );
    }
    if !missing.closed_schemas.is_empty() {
        findings.problem(
            subject,
            format!("the role may not use the schemas {}", names(&missing.closed_schemas)),
            rights,
        );
    }
    if let Some(closed) = &missing.closed_large_objects {
        let text = format!("the role may not read {} large objects, such as {}", closed.count, closed.first);
        findings.problem(subject, text, LARGE_OBJECTS);
    }
    for sentence in missing.left_out.sentences() {
        findings.warning(subject, sentence, "use the cluster's superuser, or make them anew after a restore");
    }
    if missing.role_passwords {
        let text = "the role may not read pg_authid: snapshots leave out the passwords of roles";
        findings.warning(
            subject,
            text,
            "use the cluster's superuser, or set the passwords after a restore into a new cluster",
        );
    }
    if missing.system_identifier {
        let text = "the role may not call pg_control_system(): this cluster cannot be told from a copy of it, \
            and databases set aside by a restore are never dropped";
        findings.warning(subject, text, "grant execute on function pg_control_system() to the role");
    }
}

fn names(all: &[String]) -> String {
    let mut text = all.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > NAMES_SHOWN {
        text.push_str(&format!(" and {} more", all.len() - NAMES_SHOWN));
    }
    text
}

async fn check_server_programs(major: u32, settings: &Settings, findings: &mut Findings) {
    let subject = format!("server programs {major}");
    let found =
        Tools::find_server(settings.cluster.bin_directory.as_deref(), &settings::search_path(), major).await;
    match found {
        Ok(directory) => findings.ok(&subject, format!("initdb and postgres are in {}", directory.display())),
        Err(error) if settings.verify.depth == Depth::Restored => {
            findings.failure(&subject, Failure::of("find them")(error))
        }
        Err(error) => {
            let failure = Failure::of("find them")(error);
            let text = format!("{}: verification to depth restored does not work", failure.chain());
            findings.warning(&subject, text, failure.hint.as_deref().unwrap_or("install them"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_of_names_are_cut() {
        let all: Vec<String> = (1..=7).map(|n| format!("t{n}")).collect();
        assert_eq!(names(&all), "t1, t2, t3, t4, t5 and 2 more");
        assert_eq!(names(&all[..2]), "t1, t2");
    }
}
