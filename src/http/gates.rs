//! Gates for runners elsewhere: opened by whoever may, and seen through by them alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body as Stream, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::caller::Caller;
use super::events::Events;
use super::office::Office;
use super::problem::{Body, InPath, Params, Problem};
use crate::cli::gate::elsewhere::{Opening, told};
use crate::cli::report::{ExitCode, Failure};
use crate::jobs::migrate::runner::{RemoteRunner, RunnerError};
use crate::ledger::lock::{LockError, LockName};
use crate::ledger::{GateRun, LeaseRecord, LedgerError};
use crate::rules::access::{Act, Role, refusal};
use crate::rules::api::{
    BeatGate, ClaimGo, CloseGate, GateStanding, Go, MOST_OUTPUT_BYTES, OpenGate, OpenedGate, RunTold,
};
use crate::rules::gate::{Phase, Verdict};
use crate::rules::lease::Refusal;

/// The body of an opening, which has the revisions of a checkout.
pub const OPENING_BYTES: usize = 4 << 20;
/// The body of a piece of output.
pub const OUTPUT_BYTES: usize = MOST_OUTPUT_BYTES;
/// How long an opening may take, which may have to end an abandoned run first.
const OPEN_TIMEOUT: Duration = Duration::from_secs(110);
/// After which time it is worth asking again.
const SOON: Duration = Duration::from_secs(1);

/// From where on events are told.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The number of the last event that is known; all are told when not given.
    after: Option<u64>,
}

/// Which piece of the output comes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Who has the go.
    holder: String,
    /// Where in the output it begins, in bytes.
    offset: u64,
}

/// Opens a gate: the database is fenced, a snapshot taken and verified, and then the go is given.
/// Asked again with the same `key`, it answers with the same run.
#[utoipa::path(
    post,
    path = "/v1/gates",
    tag = "gates",
    request_body = OpenGate,
    responses(
        (status = 201, description = "The gate opens; its events tell when the go may be claimed", body = OpenedGate),
        (status = 403, description = "Not this database, or not with this token", body = Problem),
        (status = 404, description = "There is no such database", body = Problem),
        (status = 409, description = "Another run has the database, or the settings forbid it", body = Problem),
        (status = 422, description = "Out of bounds", body = Problem),
    )
)]
pub async fn open(
    State(office): State<Arc<Office>>,
    caller: Caller,
    Body(mut request): Body<OpenGate>,
) -> Result<(StatusCode, Json<OpenedGate>), Problem> {
    if request.databases.is_empty() {
        request.databases.extend(caller.database.clone());
    }
    if request.databases.is_empty() {
        office.permit(&caller, Act::Gate, &[]).await?;
    }
    for name in &request.databases {
        office.permitted_database(&caller, Act::Gate, name).await?;
    }
    let bad =
        |error: &dyn std::error::Error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
    request.validate().map_err(|error| bad(&error))?;
    request.scripts.history().map_err(|error| bad(&error))?;
    let actor = office.ledger_for(&caller.who).actor_in_ci(&request.ci);
    let (answer, answered) = oneshot::channel();
    let opening = Opening { request, owner: caller.who.to_string(), actor, answer };
    let said = tokio::time::timeout(OPEN_TIMEOUT, async {
        office.openings.send(opening).await.ok()?;
        answered.await.ok()
    });
    match said.await.ok().flatten() {
        Some(Ok(opened)) => Ok((StatusCode::CREATED, Json(opened))),
        Some(Err(failure)) => match failure.error.downcast_ref() {
            Some(LockError::Busy { name, .. }) => Err(busy(&office, &caller, name).await),
            _ => Err(not_opened(&failure, &caller)),
        },
        None => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon opens no gate now")
                .passing_after(SOON))
        }
    }
}

/// Why a gate does not open whose lock is held: by a run that the caller may see, as far as is known.
async fn busy(office: &Office, caller: &Caller, lock: &str) -> Problem {
    let open = office.ledger().open_runs().await.unwrap_or_default();
    let names = |run: &GateRun| run.databases.iter().any(|name| lock == LockName::database(name).to_string());
    let may_see = |run: &GateRun| {
        let databases: Vec<&str> = run.databases.iter().map(String::as_str).collect();
        refusal(caller.rights(), Act::ReadRuns, &databases).is_none()
    };
    let holder = open.into_iter().find(|run| names(run) && may_see(run));
    let (by, shows) = match holder {
        Some(run) => (
            format!("another run holds it, {} ({})", run.id, run.position.phase),
            format!("runs show {}", run.id),
        ),
        None => ("another run holds it".to_owned(), "status".to_owned()),
    };
    let hint = format!(
        "wait until it is over, and try again; `belay runs list` and `belay {shows}` on the database host tell how it stands"
    );
    let problem = Problem::new(StatusCode::CONFLICT, format!("lock {lock}: {by}"));
    problem.with_exit_code(ExitCode::Busy).with_hint(hint)
}

/// Why a gate does not open; whoever may open it is told, since it is they who can do something.
fn not_opened(failure: &Failure, caller: &Caller) -> Problem {
    let status = match failure.code {
        ExitCode::Busy | ExitCode::Refused => StatusCode::CONFLICT,
        ExitCode::NotFound => StatusCode::NOT_FOUND,
        ExitCode::Usage => StatusCode::UNPROCESSABLE_ENTITY,
        _ => return Problem::of(failure, caller),
    };
    let problem = Problem::new(status, failure.chain()).with_exit_code(failure.code);
    failure.hint.iter().fold(problem, |problem, hint| problem.with_hint(hint))
}

/// What happens to a run, line by line as it happens: each line is one event, and an empty line
/// says that there is none. It ends with the run.
#[utoipa::path(
    get,
    path = "/v1/gates/{run}/events",
    tag = "gates",
    params(("run" = String, Path, description = "The run"), After),
    responses(
        (status = 200, description = "Events, a JSON object on each line", content_type = "application/x-ndjson", body = String),
        (status = 404, description = "There is no such gate", body = Problem),
    )
)]
pub async fn events(
    State(office): State<Arc<Office>>,
    caller: Caller,
    InPath(run): InPath<String>,
    Params(after): Params<After>,
) -> Result<Response, Problem> {
    let gate = Gate::of(&office, &caller, &run).await?;
    let events = Events::new(office, gate.record.run, after.after.unwrap_or(0));
    let lines = stream::unfold(events, |mut events| async {
        let line = events.next_line().await?;
        Some((Ok::<_, Infallible>(line), events))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Stream::from_stream(lines)).into_response())
}

/// Claims the go: whoever gets it begins the command, and nobody else.
#[utoipa::path(
    post,
    path = "/v1/gates/{run}/claim",
    tag = "gates",
    params(("run" = String, Path, description = "The run")),
    request_body = ClaimGo,
    responses(
        (status = 200, description = "The go; the same one gets it again", body = Go),
        (status = 404, description = "There is no such gate", body = Problem),
        (status = 409, description = "Another one has it, or the run is over", body = Problem),
        (status = 503, description = "The run is not ready for its command", body = Problem),
    )
)]
pub async fn claim(
    State(office): State<Arc<Office>>,
    caller: Caller,
    InPath(run): InPath<String>,
    Body(asked): Body<ClaimGo>,
) -> Result<Json<Go>, Problem> {
    let gate = Gate::of(&office, &caller, &run).await?;
    let runner = gate.runner_or_over(&office)?;
    let holder = asked.holder.clone();
    let go = apart(async move { runner.claim(&holder).await }).await?;
    office.note(&caller, "gate_claim", gate.database(), Some(&run), "the go is given").await;
    Ok(Json(go))
}

/// Says that the runner is there, and hears how the run stands. Before the go is given nobody has it;
/// from then on, `holder` says who.
#[utoipa::path(
    post,
    path = "/v1/gates/{run}/beat",
    tag = "gates",
    params(("run" = String, Path, description = "The run")),
    request_body = BeatGate,
    responses(
        (status = 200, description = "How it stands", body = GateStanding),
        (status = 404, description = "There is no such gate", body = Problem),
        (status = 409, description = "Another one has the go, or the end is known", body = Problem),
    )
)]
pub async fn beat(
    State(office): State<Arc<Office>>,
    caller: Caller,
    InPath(run): InPath<String>,
    Body(beat): Body<BeatGate>,
) -> Result<Json<GateStanding>, Problem> {
    Gate::of(&office, &caller, &run).await?;
    if let Some(runner) = office.runners.of(&run) {
        apart(async move { runner.beat(beat.holder.as_deref()).await }).await?;
    }
    let gate = Gate::of(&office, &caller, &run).await?;
    Ok(Json(gate.standing()))
}

/// Takes a piece of what the command wrote; bytes that are known already are passed over.
#[utoipa::path(
    post,
    path = "/v1/gates/{run}/output",
    tag = "gates",
    params(("run" = String, Path, description = "The run"), Piece),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "How it stands, with what is known now", body = GateStanding),
        (status = 404, description = "There is no such gate", body = Problem),
        (status = 409, description = "Another one has the go, or the end is known", body = Problem),
        (status = 413, description = "More than 256 KiB at once", body = Problem),
        (status = 416, description = "What comes before it is not known", body = Problem),
    )
)]
pub async fn output(
    State(office): State<Arc<Office>>,
    caller: Caller,
    InPath(run): InPath<String>,
    Params(piece): Params<Piece>,
    bytes: Bytes,
) -> Result<Json<GateStanding>, Problem> {
    let gate = Gate::of(&office, &caller, &run).await?;
    let runner = gate.runner_or_over(&office)?;
    let output_bytes = apart(async move { runner.output(&piece.holder, piece.offset, &bytes).await }).await?;
    Ok(Json(GateStanding { output_bytes, ..gate.standing() }))
}

/// Tells how the command ended, or that it will not begin. The verdict is told by the events.
#[utoipa::path(
    post,
    path = "/v1/gates/{run}/close",
    tag = "gates",
    params(("run" = String, Path, description = "The run")),
    request_body = CloseGate,
    responses(
        (status = 200, description = "How it stands", body = GateStanding),
        (status = 404, description = "There is no such gate", body = Problem),
        (status = 409, description = "Another one has the go, or another end is known", body = Problem),
    )
)]
pub async fn close(
    State(office): State<Arc<Office>>,
    caller: Caller,
    InPath(run): InPath<String>,
    Body(told): Body<CloseGate>,
) -> Result<Json<GateStanding>, Problem> {
    let gate = Gate::of(&office, &caller, &run).await?;
    match (told, gate.runner(&office)) {
        (CloseGate::Exit { holder, exit }, Some(runner)) => {
            apart(async move { runner.close(&holder, &exit).await }).await?;
        }
        // An answer got lost, and the run is on its way without its runner.
        (CloseGate::Exit { holder, exit }, None) if gate.is_past_command() => {
            gate.record.lease.clone().close(&holder, &exit).map_err(|refusal| refused(&refusal.into()))?;
        }
        (CloseGate::Cancel { is_terminated }, Some(runner)) => {
            let verdict = if is_terminated { Verdict::Terminated } else { Verdict::Interrupted };
            apart(async move { runner.cancel(verdict).await }).await?;
        }
        (CloseGate::Cancel { .. }, None) if gate.is_over() => {}
        (_, None) => return Err(not_ready()),
    }
    Ok(Json(gate.standing()))
}

/// Everything that a report of the run is made of.
#[utoipa::path(
    get,
    path = "/v1/gates/{run}",
    tag = "gates",
    params(("run" = String, Path, description = "The run")),
    responses(
        (status = 200, description = "The run", body = RunTold),
        (status = 404, description = "There is no such gate", body = Problem),
    )
)]
pub async fn run(
    State(office): State<Arc<Office>>,
    caller: Caller,
    InPath(run): InPath<String>,
) -> Result<Json<RunTold>, Problem> {
    Gate::of(&office, &caller, &run).await?;
    office.apart(&caller, move |_, ledger| async move { told(&ledger, &run).await }).await.map(Json)
}

/// A gate that the caller may touch.
struct Gate {
    record: LeaseRecord,
    /// The run, once it is written down.
    run: Option<GateRun>,
}

impl Gate {
    /// The gate of `run`, if `caller` opened it, or is an operator; and may still open it.
    async fn of(office: &Office, caller: &Caller, run: &str) -> Result<Self, Problem> {
        let none = || Problem::new(StatusCode::NOT_FOUND, "there is no such gate");
        let unanswered = |error: LedgerError| {
            tracing::error!(%error, "the ledger does not answer");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon cannot look the gate up now")
        };
        let ledger = office.ledger_for(&caller.who);
        let known = ledger.lease(run).await.map_err(unanswered)?;
        let run = ledger.run(run).await.map_err(unanswered)?;
        // Whoever may not open any does not learn which there are.
        let own = caller.database.as_deref().into_iter().collect::<Vec<_>>();
        let about = run.as_ref().filter(|_| known.is_some());
        let about = about.map_or(own, |run| run.databases.iter().map(String::as_str).collect());
        office.permit(caller, Act::Gate, &about).await?;
        let is_own =
            |record: &LeaseRecord| caller.role == Role::Operator || record.owner == caller.who.to_string();
        let record = known.filter(is_own).ok_or_else(none)?;
        if run.is_none() && office.runners.of(&record.run).is_none() {
            return Err(Problem::new(StatusCode::NOT_FOUND, "the daemon ended before the run began"));
        }
        Ok(Self { record, run })
    }

    fn phase(&self) -> Phase {
        self.run.as_ref().map_or(Phase::Requested, |run| run.position.phase)
    }

    fn is_past_command(&self) -> bool {
        self.phase() > Phase::Migrating
    }

    fn is_over(&self) -> bool {
        self.phase().is_terminal()
    }

    fn database(&self) -> Option<&str> {
        self.run.as_ref()?.databases.first().map(String::as_str)
    }

    fn runner(&self, office: &Office) -> Option<Arc<RemoteRunner>> {
        office.runners.of(&self.record.run)
    }

    fn runner_or_over(&self, office: &Office) -> Result<Arc<RemoteRunner>, Problem> {
        match self.runner(office) {
            Some(runner) => Ok(runner),
            None if self.phase() == Phase::Migrating || !self.phase().is_terminal() => Err(not_ready()),
            None => Err(Problem::new(StatusCode::CONFLICT, "the run is over")),
        }
    }

    fn standing(&self) -> GateStanding {
        GateStanding {
            run: self.record.run.clone(),
            phase: self.phase(),
            lease_seconds: self.record.length.as_secs(),
            output_bytes: self.record.lease.output_bytes,
        }
    }
}

/// Does work that must not stop halfway when its client goes away.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, RunnerError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(done) => done.map_err(|error| refused(&error)),
        Err(error) => {
            tracing::error!(%error, "a request panicked");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the daemon could not do it"))
        }
    }
}

fn refused(error: &RunnerError) -> Problem {
    let status = match error {
        RunnerError::NotReady => return not_ready(),
        RunnerError::Ledger(error) => {
            tracing::error!(%error, "the ledger does not answer");
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon cannot write it down now");
        }
        RunnerError::Refused(Refusal::BadName | Refusal::BadExit) => StatusCode::UNPROCESSABLE_ENTITY,
        RunnerError::Refused(Refusal::Gap(_)) => StatusCode::RANGE_NOT_SATISFIABLE,
        RunnerError::Refused(_) | RunnerError::Cancelled => StatusCode::CONFLICT,
    };
    Problem::new(status, error.to_string())
}

fn not_ready() -> Problem {
    let text = "the run is not ready for that: its daemon has not come so far";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).passing_after(SOON)
}
