//! The routes and how answers of the plane become HTTP.

use super::apply::{self, ApplyResult};
use super::plane::{FlowFilter, Invalidate, Outcome, Plane, Stored, Unavailable};
use crate::explain::{FlowPattern, RECENT_RECORDS, RECORDS_MAX};
use crate::metrics::Metrics;
use crate::resource::{self, Kind, plural, show};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// The largest request body: some ten thousand targets.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Rows of a listing when nobody says how many.
const ROWS_DEFAULT: usize = 100;
/// Rows of a listing at most: a bound on memory.
const ROWS_MAX: usize = 100_000;

/// The body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs: `invalid`, `not_found`, `refused`, `unavailable`.
    pub code: String,
    /// For people.
    pub message: String,
    /// What to do.
    pub fix: String,
}

/// What every handler has.
struct Shared<P> {
    plane: P,
    metrics: Metrics,
    /// Held while an apply or a removal runs, so that no other comes between check and put.
    changing: tokio::sync::Mutex<()>,
}

/// The API over `plane`.
pub fn router<P: Plane>(plane: P, metrics: Metrics) -> Router {
    let shared = Shared { plane, metrics, changing: tokio::sync::Mutex::new(()) };
    Router::new()
        .route("/v1/apply", post(post_apply::<P>))
        .route("/v1/flows", get(get_flows::<P>))
        .route("/v1/explain", get(get_explain::<P>))
        .route("/v1/directives", get(get_directives::<P>))
        .route("/v1/node", get(get_node::<P>))
        .route("/v1/decision-node", get(get_decision_node::<P>))
        .route("/v1/invalidate", post(post_invalidate::<P>))
        .route("/v1/{kind}", get(get_kind::<P>))
        .route("/v1/{kind}/{name}", get(get_one::<P>).delete(delete_one::<P>))
        .route("/metrics", get(get_metrics::<P>))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(get_ready::<P>))
        .fallback(async || {
            error(StatusCode::NOT_FOUND, "not_found", "no such route", "see `penstock --help`")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(shared))
}

type Plain<P> = State<Arc<Shared<P>>>;

fn error(
    status: StatusCode,
    code: &str,
    message: impl Into<String>,
    fix: impl Into<String>,
) -> Response {
    let detail = ErrorDetail { code: code.into(), message: message.into(), fix: fix.into() };
    (status, Json(ErrorBody { error: detail })).into_response()
}

fn invalid(message: impl Into<String>, fix: impl Into<String>) -> Response {
    error(StatusCode::BAD_REQUEST, "invalid", message, fix)
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", self.reason, self.fix)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApplyQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn post_apply<P: Plane>(
    State(shared): Plain<P>,
    query: Result<Query<ApplyQuery>, axum::extract::rejection::QueryRejection>,
    body: Bytes,
) -> Response {
    let Ok(Query(query)) = query else {
        return invalid("the query is not understood", "write ?dryRun=true or nothing");
    };
    let value: Value = match serde_json::from_slice(&body) {
        Ok(value) => value,
        Err(wrong) => {
            return invalid(format!("the body is no JSON: {wrong}"), "send a list of resources");
        }
    };
    let documents = match resource::read_json(&value) {
        Ok(documents) => documents,
        Err(problems) => {
            return invalid(problems.to_string().trim_end(), "mend the resources and apply again");
        }
    };
    let resources = documents.into_iter().map(|document| document.resource).collect();
    let _changing = shared.changing.lock().await;
    match apply::apply(&shared.plane, resources, query.dry_run).await {
        Ok(reply) if reply.accepted => Json(reply).into_response(),
        Ok(reply) => (StatusCode::UNPROCESSABLE_ENTITY, Json(reply)).into_response(),
        Err(unavailable) => unavailable.into_response(),
    }
}

/// The kind of a path, by its plural only.
fn kind_in_path(text: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| plural(*kind) == text)
}

fn no_such_kind(text: &str) -> Response {
    let fix = format!("ask for {}", resource::problem::one_of(&Kind::ALL.map(plural)));
    error(StatusCode::NOT_FOUND, "not_found", format!("there is no `{text}`"), fix)
}

fn missing(kind: Kind, name: &str) -> Response {
    let message = format!("there is no {kind} `{name}`");
    error(
        StatusCode::NOT_FOUND,
        "not_found",
        message,
        format!("see `penstock get {}`", plural(kind)),
    )
}

fn stored_json(stored: &Stored) -> Value {
    let mut value = show::json(&stored.resource);
    value["status"] = json!({"id": stored.id});
    if let Some(live) = &stored.live {
        value["status"]["live"] = json!(live);
    }
    value
}

async fn get_kind<P: Plane>(State(shared): Plain<P>, Path(kind): Path<String>) -> Response {
    let Some(kind) = kind_in_path(&kind) else { return no_such_kind(&kind) };
    match shared.plane.resources(kind).await {
        Ok(list) => {
            let items: Vec<Value> = list.iter().map(stored_json).collect();
            Json(json!({"apiVersion": resource::API_VERSION, "kind": "List", "items": items}))
                .into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}

async fn get_one<P: Plane>(
    State(shared): Plain<P>,
    Path((kind, name)): Path<(String, String)>,
) -> Response {
    let Some(kind) = kind_in_path(&kind) else { return no_such_kind(&kind) };
    match shared.plane.resources(kind).await {
        Ok(list) => match list.iter().find(|stored| stored.resource.name == name) {
            Some(stored) => Json(stored_json(stored)).into_response(),
            None => missing(kind, &name),
        },
        Err(unavailable) => unavailable.into_response(),
    }
}

async fn delete_one<P: Plane>(
    State(shared): Plain<P>,
    Path((kind, name)): Path<(String, String)>,
) -> Response {
    let Some(kind) = kind_in_path(&kind) else { return no_such_kind(&kind) };
    let _changing = shared.changing.lock().await;
    match shared.plane.remove(kind, name.clone()).await {
        Ok(Outcome::NotFound) => missing(kind, &name),
        Ok(Outcome::Refused { refusals }) => {
            let wrongs: Vec<&str> =
                refusals.iter().map(|refusal| refusal.message.as_str()).collect();
            let message = format!("{kind} `{name}` cannot be deleted: {}", wrongs.join("; "));
            let fix = refusals.into_iter().next().map(|refusal| refusal.fix).unwrap_or_default();
            error(StatusCode::CONFLICT, "refused", message, fix)
        }
        Ok(outcome) => {
            Json(ApplyResult { kind: kind.name().into(), name, outcome }).into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowQuery {
    limit: Option<usize>,
    requirement: Option<String>,
    network: Option<String>,
    target: Option<String>,
    address: Option<String>,
    protocol: Option<String>,
}

impl FlowQuery {
    fn filter(self) -> Result<FlowFilter, String> {
        let address = self
            .address
            .map(|text| text.parse().map_err(|_| format!("address: `{text}` is no IP address")));
        let protocol =
            self.protocol.map(|text| text.parse().map_err(|wrong| format!("protocol: {wrong}")));
        Ok(FlowFilter {
            limit: self.limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX),
            requirement: self.requirement,
            network: self.network,
            target: self.target,
            address: address.transpose()?,
            protocol: protocol.transpose()?,
        })
    }
}

async fn get_flows<P: Plane>(
    State(shared): Plain<P>,
    query: Result<Query<FlowQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let known = "filter by limit, requirement, network, target, address or protocol";
    let filter = match query {
        Ok(Query(query)) => query.filter(),
        Err(wrong) => Err(wrong.body_text()),
    };
    match filter {
        Err(message) => invalid(message, known),
        Ok(filter) => match shared.plane.flows(filter).await {
            Ok(listing) => Json(listing).into_response(),
            Err(unavailable) => unavailable.into_response(),
        },
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    flow: String,
    network: Option<String>,
    /// Whether to look for a flow that is over among recent records alone.
    #[serde(default)]
    recent: bool,
}

async fn get_explain<P: Plane>(
    State(shared): Plain<P>,
    query: Result<Query<ExplainQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let asked = match query {
        Ok(Query(ExplainQuery { flow, network, recent })) => flow.parse().map(|flow| {
            let FlowPattern { network: named, .. } = flow;
            let records = if recent { RECENT_RECORDS } else { RECORDS_MAX };
            (FlowPattern { network: network.or(named), ..flow }, records)
        }),
        Err(wrong) => Err(wrong.body_text()),
    };
    match asked {
        Err(message) => invalid(message, "write ?flow=SOURCE:PORT>DESTINATION:PORT"),
        Ok((pattern, records)) => match shared.plane.explain(pattern.clone(), records).await {
            Ok(Some(story)) => Json(story).into_response(),
            Ok(None) => {
                let message = format!("nothing is known of the flow {pattern}");
                error(StatusCode::NOT_FOUND, "not_found", message, "see `penstock flow list`")
            }
            Err(unavailable) => unavailable.into_response(),
        },
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitQuery {
    limit: Option<usize>,
}

async fn get_directives<P: Plane>(
    State(shared): Plain<P>,
    query: Result<Query<LimitQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let limit = match query {
        Ok(Query(query)) => query.limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX),
        Err(wrong) => return invalid(wrong.body_text(), "write ?limit=NUMBER or nothing"),
    };
    match shared.plane.directives(limit).await {
        Ok(listing) => Json(listing).into_response(),
        Err(unavailable) => unavailable.into_response(),
    }
}

async fn get_node<P: Plane>(State(shared): Plain<P>) -> Response {
    match shared.plane.status().await {
        Ok(status) => Json(status).into_response(),
        Err(unavailable) => unavailable.into_response(),
    }
}

async fn get_decision_node<P: Plane>(State(shared): Plain<P>) -> Response {
    match shared.plane.decision_node().await {
        Ok(status) => Json(status).into_response(),
        Err(unavailable) => unavailable.into_response(),
    }
}

async fn post_invalidate<P: Plane>(State(shared): Plain<P>, body: Bytes) -> Response {
    let what: Invalidate = match serde_json::from_slice(&body) {
        Ok(what) => what,
        Err(wrong) => {
            let fix = r#"send "all", {"requirement": NAME}, {"network": NAME} or {"keys": [FLOW]}"#;
            return invalid(format!("the body is not understood: {wrong}"), fix);
        }
    };
    match shared.plane.invalidate(what).await {
        Ok(()) => Json(json!({})).into_response(),
        Err(unavailable) => unavailable.into_response(),
    }
}

async fn get_metrics<P: Plane>(State(shared): Plain<P>) -> Response {
    match shared.plane.status().await {
        Ok(status) => {
            let text = shared.metrics.scrape(&status);
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
                .into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}

async fn get_ready<P: Plane>(State(shared): Plain<P>) -> Response {
    match shared.plane.status().await {
        Ok(status) if status.not_ready.is_empty() => "ready\n".into_response(),
        Ok(status) => {
            let reasons = status.not_ready.join("\n") + "\n";
            (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response()
        }
        Err(unavailable) => unavailable.into_response(),
    }
}
