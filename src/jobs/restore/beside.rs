//! The database that a snapshot is loaded into before it has its name.
//!
//! It is written down before it is made, and bears a marker of ours in its comment: whatever happens,
//! the next run knows it, and drops it.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;

use crate::jobs::JobError;
use crate::ledger::{Ledger, Loading};
use crate::postgres::{describe, session};
use crate::rules::layout;
use crate::rules::sql::{literal, quoted};

/// What the marker of a database begins with while it is loaded, and once it was set aside. What
/// follows is the same for both databases of one swap.
pub(super) const LOADING: &str = "belay:loading:";
pub(super) const KEPT: &str = "belay:kept:";
/// What the name of a database begins with while it is loaded.
pub(super) const LOADING_NAME: &str = "belay_restore_";

/// The database that a snapshot is loaded into before it has its name.
pub(crate) struct Beside {
    /// Its name for now.
    pub(crate) name: String,
    /// Stands in its comment until it is done, so that it is known as ours.
    pub(crate) marker: String,
}

impl Beside {
    /// Makes the database with the statement that `create` gives for its quoted name.
    pub(super) async fn create(
        ledger: &Ledger,
        session: &mut PgConnection,
        marker: &str,
        now: DateTime<Utc>,
        create: impl FnOnce(&str) -> String,
    ) -> Result<Self, JobError> {
        let name = format!("{LOADING_NAME}{}", layout::tail(rand::random()));
        let system_identifier = describe::identity(session).await?.1.unwrap_or_default();
        let (temp_name, marker) = (name.clone(), marker.to_owned());
        // Written down first: a database that nobody knows of would never be dropped.
        ledger
            .record_loading(&Loading {
                marker: marker.clone(),
                system_identifier,
                oid: None,
                temp_name,
                started_at: now,
            })
            .await?;
        session::run(session, "create the database to restore into", create(&quoted(&name))).await?;
        let comment = format!("COMMENT ON DATABASE {} IS {}", quoted(&name), literal(&marker));
        session::run(session, "mark the database to restore into", comment).await?;
        if let Some(oid) = describe::database_oid(session, &name).await? {
            ledger.note_loading_oid(&marker, oid).await?;
        }
        Ok(Self { name, marker })
    }
}

/// A marker that no other database has.
pub(super) fn new_marker() -> String {
    format!("{LOADING}{}{}", layout::tail(rand::random()), layout::tail(rand::random()))
}
