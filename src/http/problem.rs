//! What went wrong with a request, in one shape, and what is read from requests with it.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::caller::Caller;
use crate::cli::report::{ExitCode, Failure};
use crate::rules::access::Role;

/// How long the body of a request may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a request was not done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `belay.problem.v1`.
    #[schema(examples("belay.problem.v1"))]
    schema: &'static str,
    /// What is wrong.
    error: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// The exit status of `belay migrate`, where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[serde(skip)]
    status: StatusCode,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl Problem {
    /// A problem that its words explain.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let (error, schema) = (error.into(), "belay.problem.v1");
        Self { schema, error, hint: None, exit_code: None, status, retry_after: None }
    }

    /// The same problem with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same problem, as which `belay migrate` ends so.
    #[must_use]
    pub fn with_exit_code(self, code: ExitCode) -> Self {
        Self { exit_code: Some(code as u8), ..self }
    }

    /// The same problem, which is over after a while.
    #[must_use]
    pub fn passing_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Nobody, or nobody that is known, or not any more: which one it is, is not told.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "a valid token is needed")
            .with_hint("send `Authorization: Bearer TOKEN`; `belay token add` on the host makes one")
    }

    /// Somebody who may not.
    pub fn forbidden(reason: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, reason)
    }

    /// Somebody who failed too often.
    pub fn too_many_tries(wait: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too many failed tries from here").passing_after(wait)
    }

    /// What the daemon could not do; whoever is no operator learns no more than that.
    pub fn of(failure: &Failure, caller: &Caller) -> Self {
        let status = match failure.code {
            ExitCode::NotFound => StatusCode::NOT_FOUND,
            ExitCode::Busy | ExitCode::Refused => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(action = failure.action, error = failure.chain(), "a request is not done");
        }
        if caller.role == Role::Operator {
            let problem = Self::new(status, format!("{}: {}", failure.action, failure.chain()));
            return Self { hint: failure.hint.clone(), ..problem };
        }
        match status {
            StatusCode::NOT_FOUND => Self::new(status, "there is no such thing"),
            StatusCode::CONFLICT => Self::new(status, "something else is being done there"),
            _ => Self::new(status, "the daemon could not do it").with_hint("its log on the host says why"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"belay\""));
        }
        if let Some(wait) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
        }
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// The JSON of a request, which comes within [`BODY_TIMEOUT`].
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(body) = in_time(Json::from_request(request, state)).await??;
        Ok(Self(body))
    }
}

/// Reads a body, or gives it up when its client takes too long to send it.
///
/// # Errors
/// [`Problem`]
pub async fn in_time<T>(read: impl Future<Output = T>) -> Result<T, Problem> {
    let read = tokio::time::timeout(BODY_TIMEOUT, read).await;
    read.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body of the request does not come"))
}

/// What stands behind the `?`.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Params<T>(pub T);

/// What stands in the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct InPath<T>(pub T);
