//! The control plane: reload, what is in effect, metrics.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::{flag, to_json};
use crate::api::error::ErrorCode;
use crate::base::clock;
use crate::config::{diag, spec};
use crate::dispatch::Call;
use crate::live::{Outcome, Trigger, scrape};
use crate::serve::body::Body;
use crate::serve::error::{Refusal, json as respond_json, respond};
use crate::serve::gate::Gate;
use crate::serve::{explain, intake, overview};
use crate::telemetry::metrics::{self as names, Metric};

/// `POST /admin/reload[?wait=true]`
pub(crate) async fn reload(gate: &Gate, call: Box<Call>, query: &str) -> Response<Body> {
    let outcome = gate.admin.reload(Trigger::Admin).await;
    let (result, generation, sha256) = match outcome {
        Outcome::Rejected { diagnostics } => {
            let text = diag::render(&diagnostics, diag::Format::Human);
            let body = json!({ "result": "rejected", "diagnostics": diagnostics, "text": text });
            return respond_json(call, StatusCode::UNPROCESSABLE_ENTITY, to_json(&body));
        }
        Outcome::Applied { generation, sha256 } => ("applied", generation, sha256),
        Outcome::Unchanged { generation, sha256 } => ("unchanged", generation, sha256),
    };
    let mut call = call;
    if flag(query, "wait") {
        // This very call began under the old snapshot; it must not be what is waited for.
        call.snapshot = gate.live.load();
        gate.admin.drained(generation).await;
    }
    let body = json!({ "result": result, "generation": generation, "sha256": *sha256 });
    respond_json(call, StatusCode::OK, to_json(&body))
}

/// `GET /admin/config`
pub(crate) fn config(gate: &Gate, call: Box<Call>) -> Response<Body> {
    respond_json(call, StatusCode::OK, to_json(&gate.admin.config()))
}

/// `GET /admin/config/status`
pub(crate) fn config_status(gate: &Gate, call: Box<Call>) -> Response<Body> {
    respond_json(call, StatusCode::OK, to_json(&gate.admin.status()))
}

/// `GET /admin/overview`
pub(crate) fn overview(gate: &Gate, call: Box<Call>) -> Response<Body> {
    let body = to_json(&overview::look(gate, &call.snapshot));
    respond_json(call, StatusCode::OK, body)
}

/// `GET /admin/snapshots`
pub(crate) fn snapshots(gate: &Gate, call: Box<Call>) -> Response<Body> {
    let now = clock::now();
    let current = gate.live.load().id;
    let alive: Vec<_> = gate
        .live
        .alive()
        .iter()
        .map(|snapshot| {
            // This listing holds one; the swap holds the current one.
            let held = if snapshot.id == current { 2 } else { 1 };
            json!({
                "snapshot_id": snapshot.id,
                "generation": snapshot.generation,
                "age_seconds": now.saturating_duration_since(snapshot.born).as_secs(),
                "calls": Arc::strong_count(snapshot).saturating_sub(held),
            })
        })
        .collect();
    respond_json(call, StatusCode::OK, to_json(&alive))
}

/// `POST /admin/explain`
pub(crate) async fn explain(gate: &Gate, call: Box<Call>, body: Incoming) -> Response<Body> {
    const MAX: usize = 64 * 1024 * 1024;
    let server = &call.snapshot.plan.server;
    let by = call.started + server.request_timeout;
    let max = server.max_payload.min(MAX);
    let taken =
        match intake::read(body, &call.snapshot.memory, max, by, &gate.listener.limits).await {
            Ok(taken) => taken,
            Err(refusal) => return refusal.into_response(call),
        };
    let mut memory = taken.memory;
    if !memory.grow(taken.payload.len()) {
        return Refusal::no_memory().into_response(call);
    }
    let whole = taken.payload.pieces().concat();
    match serde_json::from_slice::<spec::Request>(&whole) {
        Ok(request) => {
            let explanation = explain::explain(&call.snapshot, &request, fastrand::u64(..));
            respond_json(call, StatusCode::OK, to_json(&explanation))
        }
        Err(error) => {
            let message = format!("this is no request to explain: {error}");
            Refusal::bad_request(ErrorCode::InvalidJson, message).into_response(call)
        }
    }
}

/// `GET /metrics`
pub(crate) fn metrics(gate: &Gate, call: Box<Call>) -> Response<Body> {
    let calls = u32::try_from(gate.live.calls()).unwrap_or(u32::MAX);
    names::gauge(Metric::HttpRequestsInFlight, &[]).set(f64::from(calls));
    let mut text = names::render();
    text.push_str(&scrape::render(&gate.live, clock::now()));
    respond(call, StatusCode::OK, exposition_type(), text.into_bytes())
}

/// The content type of the Prometheus text format.
pub(super) fn exposition_type() -> HeaderValue {
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8")
}
