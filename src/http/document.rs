//! The routes, and the OpenAPI document that is made from the very same list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::HttpBody as _;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::office::Office;
use super::problem::Problem;
use super::{gates, orders, reports};

/// Bodies of requests, unless a route says otherwise.
const BODY_BYTES: usize = 64 << 10;
/// A request that does not stream, from its head to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Where the document is.
const DOCUMENT: &str = "/v1/openapi.json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Belay",
        description = "Verified snapshots of PostgreSQL and gated migrations. Restores are not offered here.",
    ),
    modifiers(&Bearer),
    security(("token" = [])),
)]
struct Document;

/// Says how callers prove who they are.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
            "Made by `belay token add`. Over the Unix socket none is needed: root and the daemon's user are operators, others viewers.",
        ));
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
    }
}

/// The OpenAPI document.
pub fn api_document() -> OpenApi {
    router_and_document().1
}

/// Every route, and the document of them.
pub(super) fn router_and_document() -> (Router<Arc<Office>>, OpenApi) {
    let answered_at_once = OpenApiRouter::new()
        .routes(routes!(reports::healthz))
        .routes(routes!(document))
        .routes(routes!(reports::status))
        .routes(routes!(reports::metrics))
        .routes(routes!(reports::snapshots, orders::take_snapshot))
        .routes(routes!(reports::snapshot))
        .routes(routes!(reports::runs))
        .routes(routes!(reports::run))
        .routes(routes!(orders::verify))
        .routes(routes!(gates::run))
        .routes(routes!(gates::claim))
        .routes(routes!(gates::beat))
        .routes(routes!(gates::close))
        .layer(from_fn(in_time))
        .layer(from_fn(within::<BODY_BYTES>))
        .layer(DefaultBodyLimit::max(BODY_BYTES));
    let large = OpenApiRouter::new()
        .routes(routes!(gates::output))
        .layer(from_fn(in_time))
        .layer(from_fn(within::<{ gates::OUTPUT_BYTES }>))
        .layer(DefaultBodyLimit::max(gates::OUTPUT_BYTES));
    // Opening a gate may have to end an abandoned run first, and events go on for as long as a run.
    let patient = OpenApiRouter::new()
        .routes(routes!(gates::open))
        .routes(routes!(gates::events))
        .layer(from_fn(within::<{ gates::OPENING_BYTES }>))
        .layer(DefaultBodyLimit::max(gates::OPENING_BYTES));
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(answered_at_once)
        .merge(large)
        .merge(patient)
        .split_for_parts();
    let router = router
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing here").with_hint(DOCUMENT))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this is not done here").with_hint(DOCUMENT)
        })
        .layer(from_fn(noted));
    (router, with_common_answers(document))
}

/// Puts what every route may answer besides into the document.
fn with_common_answers(mut document: OpenApi) -> OpenApi {
    let answers = [
        ("401", "No token, or none that counts"),
        ("403", "The token does not allow it"),
        ("429", "Too many tries from this address with tokens that are none"),
    ];
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            if operation.security.is_some() {
                continue;
            }
            for (status, description) in answers {
                let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
                let answer = ResponseBuilder::new().description(description);
                let answer = answer.content("application/json", content).build();
                operation.responses.responses.entry(status.into()).or_insert(answer.into());
            }
        }
    }
    document
}

/// This document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "daemon",
    security(()),
    responses((status = 200, description = "The OpenAPI document"))
)]
async fn document() -> Json<OpenApi> {
    Json(api_document())
}

/// Refuses a body that is announced as larger than it may be, before any of it is read.
async fn within<const BYTES: usize>(request: Request, next: Next) -> Response {
    if request.body().size_hint().lower() > BYTES as u64 {
        let text = format!("the body of this request may have {BYTES} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    }
    next.run(request).await
}

/// Ends a request that takes too long; one whose body does not come, too.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this took too long").into_response(),
    }
}

/// Logs what was asked and answered, by the path of the route: what a client writes into a path or
/// behind it is its own affair.
async fn noted(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let begun = Instant::now();
    let mut response = next.run(request).await;
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(%method, path, status = response.status().as_u16(), elapsed_ms, "answered");
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
