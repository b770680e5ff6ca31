//! Liveness and readiness.

use std::collections::BTreeSet;

use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::to_json;
use crate::base::clock;
use crate::dispatch::Call;
use crate::live::{Phase, Snapshot, signals};
use crate::serve::body::Body;
use crate::serve::error::{json, respond};
use crate::serve::gate::Gate;

/// `GET /liveness`, `GET /health`: the process lives, also while it drains.
pub(crate) fn alive(call: Box<Call>) -> Response<Body> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    respond(call, StatusCode::OK, plain, b"OK".to_vec())
}

#[derive(Serialize)]
struct Readiness<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    healthy_workers: usize,
    total_workers: usize,
    unready_pools: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    degraded: Vec<Degraded<'a>>,
}

/// A policy that runs without what it wants to look at.
#[derive(Serialize)]
struct Degraded<'a> {
    model: &'a str,
    policy: &'static str,
    reason: String,
}

/// `GET /readiness`: whether at least one model can be served.
pub(crate) fn ready(gate: &Gate, call: Box<Call>) -> Response<Body> {
    gate.live.note_readiness_probe(clock::now());
    let snapshot = std::sync::Arc::clone(&call.snapshot);
    let draining = gate.live.phase() > Phase::Running;
    let (status, body) = judge(&snapshot, draining);
    json(call, status, to_json(&body))
}

fn judge(snapshot: &Snapshot, draining: bool) -> (StatusCode, Readiness<'_>) {
    let usable: BTreeSet<_> = snapshot
        .workers()
        .filter(|worker| snapshot.is_usable(*worker))
        .map(|worker| worker.ix)
        .collect();
    let healthy: BTreeSet<_> = snapshot
        .workers()
        .filter(|worker| usable.contains(&worker.ix))
        .map(|worker| &worker.plan.key)
        .collect();
    let total: BTreeSet<_> = snapshot.workers().map(|worker| &worker.plan.key).collect();
    let unready_pools = snapshot
        .plan
        .pools
        .iter()
        .filter(|pool| {
            !pool
                .legs()
                .all(|leg| leg.iter().any(|ix| usable.contains(ix)))
        })
        .map(|pool| &*pool.name)
        .collect();
    let mut routes = snapshot.plan.routes.all.iter();
    let served = routes.any(|route| !route.copies && snapshot.can_serve(route));
    let reason = match (draining, served) {
        (true, _) => Some("draining"),
        (false, false) => Some("insufficient healthy workers"),
        (false, true) => None,
    };
    let body = Readiness {
        status: if reason.is_some() {
            "not ready"
        } else {
            "ready"
        },
        reason,
        healthy_workers: healthy.len(),
        total_workers: total.len(),
        unready_pools,
        degraded: signals(snapshot, clock::now())
            .iter()
            .filter(|signal| signal.is_degraded())
            .map(|signal| Degraded {
                model: signal.model,
                policy: signal.policy,
                reason: signal.reason(),
            })
            .collect(),
    };
    let status = if body.reason.is_some() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (status, body)
}
