//! What is served here: the model list, and what workers say of themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};

use super::decoded;
use crate::api::error::ErrorCode;
use crate::api::models::{self, Listed};
use crate::dispatch::Call;
use crate::live::{Snapshot, WorkerRef};
use crate::plan::{self, Role, WorkerIx};
use crate::serve::body::Body;
use crate::serve::error::{Refusal, json, respond};
use crate::serve::routes::Question;
use crate::upstream::{Fetched, fetch};

const WAIT: Duration = Duration::from_secs(5);
const MAX: usize = 16 * 1024 * 1024;

fn listed(listed: &plan::Listed) -> Listed {
    Listed {
        id: listed.id.to_string(),
        created: 0,
        root: Some(listed.root.to_string()),
        max_model_len: listed.max_model_len,
    }
}

/// A tenant with a list of models sees no others.
fn is_shown(call: &Call, model: &plan::Listed) -> bool {
    let auth = &call.snapshot.plan.auth;
    let tenant = call.caller.tenant.and_then(|ix| auth.tenant(ix));
    tenant.is_none_or(|tenant| tenant.may_ask(&model.id, &model.root))
}

/// `GET /v1/models`
pub(crate) fn models(call: Box<Call>) -> Response<Body> {
    let known = &call.snapshot.plan.routes.listed;
    if known.is_empty() {
        return Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::NoModelsAvailable,
            "no model is declared and no worker advertises one",
        )
        .into_response(call);
    }
    let mine = known.iter().filter(|model| is_shown(&call, model));
    let mine: Vec<Listed> = mine.map(listed).collect();
    json(call, StatusCode::OK, models::list(mine))
}

/// `GET /v1/models/{id}`
pub(crate) fn model(call: Box<Call>, id: &str) -> Response<Body> {
    // Some clients encode the slashes of a name and some do not.
    let id = decoded(id);
    let found = call
        .snapshot
        .plan
        .routes
        .listed
        .iter()
        .find(|model| *model.id == *id && is_shown(&call, model))
        .map(listed);
    match found {
        Some(model) => json(call, StatusCode::OK, models::one(&model)),
        None => Refusal::unroutable(plan::Unroutable::Unknown, Some(&id)).into_response(call),
    }
}

/// Usable workers by URL, each engine once.
fn usable(snapshot: &Snapshot) -> Vec<WorkerRef<'_>> {
    let mut seen = BTreeSet::new();
    let mut workers: Vec<WorkerRef<'_>> = snapshot
        .workers()
        .filter(|worker| snapshot.is_usable(*worker))
        .filter(|worker| seen.insert(worker.plan.key.base()))
        .collect();
    workers.sort_by(|a, b| a.plan.key.cmp(&b.plan.key));
    workers
}

fn nobody(call: Box<Call>) -> Response<Body> {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::NoWorkers,
        "no worker is healthy",
    )
    .into_response(call)
}

async fn get(snapshot: &Snapshot, worker: WorkerRef<'_>, path: &str) -> Option<Fetched> {
    let limits = snapshot.plan.pool(worker.plan.pool).connections;
    fetch(worker, limits, Method::GET, path, WAIT, MAX)
        .await
        .ok()
}

/// `GET /health_generate`, `/get_server_info`, `/get_model_info`: the first healthy worker's answer; one
/// that generates for others is asked only where there is nobody else.
pub(crate) async fn ask(call: Box<Call>, question: Question) -> Response<Body> {
    let snapshot = Arc::clone(&call.snapshot);
    let workers = usable(&snapshot);
    let alone = |worker: &&WorkerRef<'_>| worker.plan.role != Role::Decode;
    let found = workers.iter().find(alone).or_else(|| workers.first());
    let Some(worker) = found.copied() else {
        return nobody(call);
    };
    let paths: &[&str] = match question {
        Question::HealthGenerate => &["/health_generate"],
        Question::ServerInfo => &["/get_server_info", "/server_info"],
        Question::ModelInfo => &["/get_model_info", "/model_info"],
    };
    let mut answer = None;
    for path in paths {
        answer = get(&snapshot, worker, path).await;
        if answer
            .as_ref()
            .is_none_or(|answer| answer.status != StatusCode::NOT_FOUND)
        {
            break;
        }
    }
    let Some(answer) = answer else {
        let message = "the worker did not answer";
        let code = ErrorCode::CallUpstreamConnectionFailed;
        return Refusal::new(StatusCode::BAD_GATEWAY, code, message).into_response(call);
    };
    let kind = answer
        .headers
        .get(CONTENT_TYPE)
        .cloned()
        .unwrap_or_else(|| HeaderValue::from_static("application/json"));
    if question == Question::ServerInfo && answer.status.is_success() {
        // An engine's own answer holds its keys.
        return match models::public_info(&answer.body) {
            Ok(body) => json(call, answer.status, body),
            Err(_) => {
                let message = "the worker's answer is malformed";
                Refusal::new(
                    StatusCode::BAD_GATEWAY,
                    ErrorCode::NoWorkerResponse,
                    message,
                )
                .into_response(call)
            }
        };
    }
    respond(call, answer.status, kind, answer.body.to_vec())
}

async fn scrape(snapshot: Arc<Snapshot>, ix: WorkerIx) -> Option<(String, Fetched)> {
    let worker = snapshot.worker(ix)?;
    let answer = get(&snapshot, worker, "/metrics").await?;
    answer
        .status
        .is_success()
        .then(|| (worker.plan.key.base().to_string(), answer))
}

/// `GET /engine_metrics`: the metrics of all healthy workers in one exposition.
pub(crate) async fn engine_metrics(call: Box<Call>) -> Response<Body> {
    let snapshot = Arc::clone(&call.snapshot);
    let asked: Vec<_> = usable(&snapshot)
        .into_iter()
        .map(|worker| scrape(Arc::clone(&snapshot), worker.ix))
        .collect();
    let scrapes: Vec<(String, Fetched)> = stream::iter(asked)
        .buffered(32)
        .filter_map(|answer| async move { answer })
        .collect()
        .await;
    if scrapes.is_empty() {
        return nobody(call);
    }
    let texts: Vec<(&str, String)> = scrapes
        .iter()
        .map(|(worker, answer)| {
            (
                &**worker,
                String::from_utf8_lossy(&answer.body).into_owned(),
            )
        })
        .collect();
    let merged = crate::serve::exposition::merge(&texts);
    respond(
        call,
        StatusCode::OK,
        super::admin::exposition_type(),
        merged.into_bytes(),
    )
}
