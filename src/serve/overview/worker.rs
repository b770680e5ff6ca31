//! A worker, as the overview shows it.

use std::time::Instant;

use crate::api::load;
use crate::api::overview::{Engine, Worker};
use crate::config::spec::Runtime;
use crate::live::{Snapshot, WorkerRef};
use crate::plan::Source;
use crate::state::HealthState;

/// The worker at `now`.
pub(super) fn show(snapshot: &Snapshot, worker: WorkerRef<'_>, now: Instant) -> Worker {
    let (plan, cell) = (worker.plan, &worker.parts.cell);
    let tally = cell.breaker.tally();
    let report = cell.report.read(now, snapshot.plan.load_monitor.age());
    let told = report.map(|report| load::whole(&report.ranks));
    let ready = snapshot.is_open_to(worker, now);
    Worker {
        id: worker.parts.id_str().to_owned(),
        url: plan.key.as_str().to_owned(),
        role: plan.role.as_str().to_owned(),
        runtime: plan.runtime.map_or("", Runtime::as_str).to_owned(),
        source: match plan.source {
            Source::File => "static",
            Source::Api => "manual",
        }
        .to_owned(),
        health: match worker.parts.health.state() {
            HealthState::Ready => "healthy",
            HealthState::NotReady | HealthState::Failed => "unhealthy",
            HealthState::Pending => "unknown",
        }
        .to_owned(),
        ready,
        reason: if ready {
            String::new()
        } else {
            reason(snapshot, worker)
        },
        breaker: cell.breaker.look(&plan.breaker, now).as_str().to_owned(),
        in_flight: cell.load() as u64,
        answered: tally.successes + tally.failures + tally.neutral,
        failed: tally.failures,
        engine: told.map(|load| Engine {
            running: load.running.unwrap_or_default(),
            waiting: load.waiting.unwrap_or_default(),
            usage: load.token_usage,
        }),
        cache_hit_ratio: cell
            .cache_hit_ratio()
            .or_else(|| told.and_then(|load| load.cache_hit_rate)),
        models: plan.models.iter().map(ToString::to_string).collect(),
    }
}

/// What keeps requests from a worker that gets none.
fn reason(snapshot: &Snapshot, worker: WorkerRef<'_>) -> String {
    let state = worker.parts.health.state();
    if worker.plan.draining {
        return "draining".to_owned();
    }
    if !worker.plan.is_admitted() {
        let trouble = worker.parts.cell.trouble();
        return trouble.map_or_else(
            || "not registered yet".to_owned(),
            |trouble| {
                // The number of an error says nothing that its text does not.
                let message = trouble
                    .message
                    .split(" (os error")
                    .next()
                    .unwrap_or_default();
                format!("cannot be registered: {message}")
            },
        );
    }
    match state {
        HealthState::Pending => "not probed successfully yet",
        HealthState::NotReady => "its health probes fail",
        HealthState::Failed => "its health probes have failed for long",
        HealthState::Ready if snapshot.is_usable(worker) => "its breaker keeps requests away",
        HealthState::Ready => "it gets no requests",
    }
    .to_owned()
}
