//! What is shown: the reports of the command line, to those who may see them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::caller::Caller;
use super::office::Office;
use super::problem::{InPath, Params, Problem};
use crate::catalog::Selector;
use crate::cli::report::Report;
use crate::cli::status::Format;
use crate::cli::{list, runs, show, status};
use crate::rules::access::{Act, Role, refusal};
use crate::rules::layout::SnapshotId;

/// Runs that are listed at most.
const RUNS: u32 = 1000;

type Shown = Result<Json<Value>, Problem>;

/// A report as `--json` prints it; `schema` says which, and its fields are those of that version.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it only describes what reports have in common")]
pub struct AnyReport {
    /// Such as `belay.status.v1`.
    schema: String,
    #[schema(additional_properties)]
    #[serde(flatten)]
    fields: Value,
}

/// Which database is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OfDatabase {
    /// By the name of its section; all when not given, and for a token of one database that one.
    database: Option<String>,
}

/// Which runs are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RunsWanted {
    /// By the name of its section; all when not given, and for a token of one database that one.
    database: Option<String>,
    /// How many, 1 to 1000; 20 when not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Says that the daemon answers.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "daemon",
    security(()),
    responses((status = 200, description = "The daemon answers", body = AnyReport))
)]
pub async fn healthz() -> Json<Value> {
    Json(json!({ "schema": "belay.health.v1", "ok": true }))
}

/// What is fresh, verified, running and failing, as `belay status --json` has it.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "reports",
    params(OfDatabase),
    responses((status = 200, description = "The status", body = AnyReport))
)]
pub async fn status(
    State(office): State<Arc<Office>>,
    caller: Caller,
    Params(wanted): Params<OfDatabase>,
) -> Shown {
    let database = scope(&office, &caller, Act::ReadStatus, wanted.database).await?;
    shown(office.apart(&caller, |host, ledger| async move {
        let scope = database.as_deref().map_or(status::Scope::Everything, status::Scope::Database);
        status::report(&host, &ledger, scope).await
    }))
    .await
}

/// The numbers of the status as metrics for Prometheus, in OpenMetrics for who accepts that.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "reports",
    params(OfDatabase),
    responses((
        status = 200,
        description = "The metrics; what is not known is absent",
        content(
            (String = "text/plain; version=0.0.4; charset=utf-8"),
            (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ),
    ))
)]
pub async fn metrics(
    State(office): State<Arc<Office>>,
    caller: Caller,
    headers: HeaderMap,
    Params(wanted): Params<OfDatabase>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let database = scope(&office, &caller, Act::ReadStatus, wanted.database).await?;
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::for_accept(accept.unwrap_or_default());
    let text = office.apart(&caller, move |host, ledger| async move {
        let scope = database.as_deref().map_or(status::Scope::Everything, status::Scope::Database);
        status::metrics(&host, &ledger, scope, format).await
    });
    Ok(([(CONTENT_TYPE, format.content_type())], text.await?))
}

/// The snapshots, the oldest first, as `belay list --json` has them.
#[utoipa::path(
    get,
    path = "/v1/snapshots",
    tag = "reports",
    params(OfDatabase),
    responses((status = 200, description = "The snapshots", body = AnyReport))
)]
pub async fn snapshots(
    State(office): State<Arc<Office>>,
    caller: Caller,
    Params(wanted): Params<OfDatabase>,
) -> Shown {
    let database = scope(&office, &caller, Act::ReadSnapshots, wanted.database).await?;
    shown(office.apart(&caller, |host, _| async move { list::report(&host, database.as_deref()).await }))
        .await
}

/// Everything that is known of one snapshot, as `belay show --json` has it, but for its tables.
#[utoipa::path(
    get,
    path = "/v1/snapshots/{id}",
    tag = "reports",
    params(("id" = String, Path, description = "The ID of the snapshot")),
    responses(
        (status = 200, description = "The snapshot", body = AnyReport),
        (status = 404, description = "There is no such snapshot", body = Problem),
    )
)]
pub async fn snapshot(
    State(office): State<Arc<Office>>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Shown {
    office.permit(&caller, Act::ReadSnapshots, &own(&caller)).await?;
    let id: SnapshotId =
        id.parse().map_err(|_| Problem::new(StatusCode::NOT_FOUND, "there is no such snapshot"))?;
    let database = caller.database.clone();
    shown(office.apart(&caller, |host, _| async move {
        show::report(&host, database.as_deref(), &Selector::Id(id), show::Tables::Untold).await
    }))
    .await
}

/// The gated migrations begun last, as `belay runs list --json` has them.
#[utoipa::path(
    get,
    path = "/v1/runs",
    tag = "reports",
    params(RunsWanted),
    responses((status = 200, description = "The runs, the newest first", body = AnyReport))
)]
pub async fn runs(
    State(office): State<Arc<Office>>,
    caller: Caller,
    Params(wanted): Params<RunsWanted>,
) -> Shown {
    let limit = wanted.limit.unwrap_or(20);
    if !(1..=RUNS).contains(&limit) {
        let text = format!("limit must be from 1 to {RUNS}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let database = scope(&office, &caller, Act::ReadRuns, wanted.database).await?;
    let rights = caller.clone();
    shown(office.apart(&caller, move |_, ledger| async move {
        let may_see = |databases: &[&str]| refusal(rights.rights(), Act::ReadRuns, databases).is_none();
        runs::list(&ledger, database.as_deref(), limit, &may_see).await
    }))
    .await
}

/// Everything that is known of one gated migration, as `belay runs show --json` has it.
#[utoipa::path(
    get,
    path = "/v1/runs/{id}",
    tag = "reports",
    params(("id" = String, Path, description = "The run")),
    responses(
        (status = 200, description = "The run", body = AnyReport),
        (status = 404, description = "There is no such run", body = Problem),
    )
)]
pub async fn run(State(office): State<Arc<Office>>, caller: Caller, InPath(id): InPath<String>) -> Shown {
    let wanted = id.clone();
    let found = office
        .apart(&caller, move |_, ledger| async move {
            let run = runs::find(&ledger, &wanted).await?;
            Ok((run.run.databases.clone(), runs::shown(&run)))
        })
        .await;
    let (databases, report) = match found {
        // A token of one database does not learn which runs there are of others.
        Err(_) if caller.role == Role::Ci => {
            office.permit(&caller, Act::ReadRuns, &[]).await?;
            return Err(Problem::new(StatusCode::NOT_FOUND, "there is no such run"));
        }
        found => found?,
    };
    let databases: Vec<&str> = databases.iter().map(String::as_str).collect();
    office.permit(&caller, Act::ReadRuns, &databases).await?;
    Ok(Json(report.json))
}

async fn shown(report: impl Future<Output = Result<Report, Problem>>) -> Shown {
    report.await.map(|report| Json(report.json))
}

/// What a caller is bound to, as what an act is about.
fn own(caller: &Caller) -> Vec<&str> {
    caller.database.as_deref().into_iter().collect()
}

/// The database that is asked for by name, or the caller's own, or none for all; if they may.
async fn scope(
    office: &Office,
    caller: &Caller,
    act: Act,
    name: Option<String>,
) -> Result<Option<String>, Problem> {
    let database = name.map(|name| office.host().database_name(&name)).or_else(|| caller.database.clone());
    let about: Vec<&str> = database.as_deref().into_iter().collect();
    office.permit(caller, act, &about).await?;
    Ok(database)
}
