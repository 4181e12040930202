//! What is asked of the daemon's loop: it takes the locks and does the work, and how that ends is
//! seen in the status.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::caller::Caller;
use super::office::Office;
use super::problem::{Body, Problem};
use crate::catalog::Selector;
use crate::cli::report::Failure;
use crate::cli::selector;
use crate::ledger::{JobKind, OnBehalf};
use crate::rules::access::Act;
use crate::rules::layout::SnapshotId;
use crate::rules::manifest::Depth;

/// How long the loop may take to look at an order.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// After which time it is worth asking again.
const BUSY_PAUSE: Duration = Duration::from_secs(30);
/// The longest name that PostgreSQL has.
const NAME_BYTES: usize = 63;

/// Something for the daemon to do.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub task: Task,
    /// The database, by its name in PostgreSQL.
    pub database: String,
    /// Who wants it.
    pub by: OnBehalf,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// What is to be done to a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Take a snapshot.
    Snapshot,
    /// Verify one.
    Verify {
        /// Which.
        snapshot: SnapshotId,
        /// How deep.
        depth: Depth,
    },
}

impl Task {
    /// The kind of job that it is.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Snapshot => JobKind::Snapshot,
            Self::Verify { .. } => JobKind::Verify,
        }
    }
}

/// What the loop says to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is begun.
    Begun,
    /// The same runs already.
    Running,
    /// Something else runs that it cannot run beside.
    Busy,
    /// As much runs as may run at the same time.
    Full,
}

/// Which database a snapshot is taken of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotWanted {
    /// By the name of its section.
    #[schema(examples("app"))]
    database: String,
}

/// Which snapshot is verified, and how deep.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerificationWanted {
    /// The database, by the name of its section.
    #[schema(examples("app"))]
    database: String,
    /// An ID, `latest`, `latest-verified` or `before:REVISION`; `latest` when not given.
    snapshot: Option<String>,
    /// When not given, that of the settings.
    depth: Option<DepthWanted>,
}

/// How deep a verification goes.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum DepthWanted {
    /// Every byte is read again.
    Stored,
    /// Decrypted, decompressed, counted.
    Readable,
    /// Restored into a scratch cluster and compared.
    Restored,
}

impl From<DepthWanted> for Depth {
    fn from(wanted: DepthWanted) -> Self {
        match wanted {
            DepthWanted::Stored => Self::Stored,
            DepthWanted::Readable => Self::Readable,
            DepthWanted::Restored => Self::Restored,
        }
    }
}

/// What became of an order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    /// Always `belay.order.v1`.
    schema: &'static str,
    /// `snapshot` or `verify`.
    job: &'static str,
    /// The database, by its name in PostgreSQL.
    database: String,
    /// The snapshot that is verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    /// `begun`, or `running` when the same was running already.
    state: &'static str,
}

/// Has a snapshot of one database taken. How it ends is seen in the status and the list of snapshots.
#[utoipa::path(
    post,
    path = "/v1/snapshots",
    tag = "orders",
    request_body = SnapshotWanted,
    responses(
        (status = 202, description = "It is begun, or was running already", body = Accepted),
        (status = 403, description = "Only for operators", body = Problem),
        (status = 404, description = "There is no such database", body = Problem),
        (status = 409, description = "Another job of the database runs", body = Problem),
        (status = 503, description = "As many jobs run as may run", body = Problem),
    )
)]
pub async fn take_snapshot(
    State(office): State<Arc<Office>>,
    caller: Caller,
    Body(wanted): Body<SnapshotWanted>,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let database = database_of(&office, &caller, Act::TakeSnapshot, &wanted.database).await?;
    place(&office, &caller, Task::Snapshot, database).await
}

/// Has a snapshot verified. How it ends is seen in the status and in the snapshot.
#[utoipa::path(
    post,
    path = "/v1/verifications",
    tag = "orders",
    request_body = VerificationWanted,
    responses(
        (status = 202, description = "It is begun, or was running already", body = Accepted),
        (status = 403, description = "Only for operators", body = Problem),
        (status = 404, description = "There is no such database or snapshot", body = Problem),
        (status = 409, description = "Another job of the database runs", body = Problem),
        (status = 503, description = "As many jobs run as may run", body = Problem),
    )
)]
pub async fn verify(
    State(office): State<Arc<Office>>,
    caller: Caller,
    Body(wanted): Body<VerificationWanted>,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let database = database_of(&office, &caller, Act::Verify, &wanted.database).await?;
    let selector = match wanted.snapshot.as_deref() {
        Some(text) => selector::parse(text)
            .map_err(|expected| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, expected))?,
        None => Selector::Latest,
    };
    let of_database = database.clone();
    let snapshot = office
        .apart(&caller, move |host, _| async move {
            let listing = host.catalog.list().await.map_err(Failure::of("verify"))?;
            let entry = listing.select(Some(&of_database), &selector).map_err(Failure::of("verify"))?;
            Ok(entry.manifest.id.clone())
        })
        .await?;
    let depth = wanted.depth.map_or(office.host().settings.verify.depth, Depth::from);
    place(&office, &caller, Task::Verify { snapshot, depth }, database).await
}

async fn database_of(office: &Office, caller: &Caller, act: Act, name: &str) -> Result<String, Problem> {
    let is_name = !name.is_empty() && name.len() <= NAME_BYTES && !name.contains('\0');
    if !is_name {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "database must be the name of one"));
    }
    office.permitted_database(caller, act, name).await
}

/// Hands an order over to the loop, and tells what it said.
async fn place(
    office: &Office,
    caller: &Caller,
    task: Task,
    database: String,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let job = task.kind().as_str();
    let subject = match &task {
        Task::Snapshot => None,
        Task::Verify { snapshot, .. } => Some(snapshot.to_string()),
    };
    let (answer, answered) = oneshot::channel();
    let order = Order { task, database: database.clone(), by: caller.who.clone(), answer };
    let said = tokio::time::timeout(ANSWER_TIMEOUT, async {
        office.orders.send(order).await.ok()?;
        answered.await.ok()
    });
    let said = said.await.ok().flatten();
    let outcome = outcome_of(said);
    let action = if job == "verify" { Act::Verify } else { Act::TakeSnapshot }.action();
    office.note(caller, action, Some(&database), subject.as_deref(), outcome).await;
    let state = match said {
        Some(Answer::Begun) => "begun",
        Some(Answer::Running) => "running",
        Some(Answer::Busy) => {
            return Err(Problem::new(StatusCode::CONFLICT, outcome).passing_after(BUSY_PAUSE));
        }
        Some(Answer::Full) | None => {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, outcome).passing_after(BUSY_PAUSE));
        }
    };
    let accepted = Accepted { schema: "belay.order.v1", job, database, snapshot: subject, state };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

fn outcome_of(said: Option<Answer>) -> &'static str {
    match said {
        Some(Answer::Begun) => "begun",
        Some(Answer::Running) => "running already",
        Some(Answer::Busy) => "something else runs that it cannot run beside",
        Some(Answer::Full) => "as many jobs run as may run at the same time",
        None => "the daemon does not take orders now",
    }
}
