//! Pools, workers and models, in words and figures.

use super::{MANY, Model, Pool, Route, Worker, has_failed, is_draining};
use crate::api::overview;
use crate::serve::console::number;
pub(super) fn pool(pool: &overview::Pool) -> Pool {
    let total = pool.workers.len();
    let ready = pool.workers.iter().filter(|worker| worker.ready).count();
    let in_flight: u64 = pool.workers.iter().map(|worker| worker.in_flight).sum();
    let mut workers: Vec<&overview::Worker> = pool.workers.iter().collect();
    // Who needs a look comes first; the others stay where they are.
    workers.sort_by_key(|worker| (worker.ready, is_draining(worker)));
    let mut kinds = workers.iter().map(|worker| &*worker.runtime);
    let first = kinds.next().unwrap_or_default();
    let kind = if kinds.all(|kind| kind == first) {
        first
    } else {
        ""
    };
    Pool {
        kind: kind.to_owned(),
        name: pool.name.clone(),
        state: match (total, ready) {
            _ if pool.drain => "idle",
            (0, _) => "idle",
            (total, ready) if total == ready => "up",
            (_, 0) => "down",
            _ => "trying",
        },
        summary: match total {
            0 => "no workers".to_owned(),
            total => format!("{ready} of {total} ready"),
        },
        in_flight: number::count(in_flight),
        folded: total > MANY,
        draining: pool.drain,
        has_engine: workers.iter().any(|worker| worker.engine.is_some()),
        has_cache: workers
            .iter()
            .any(|worker| worker.cache_hit_ratio.is_some()),
        workers: workers.into_iter().map(|one| worker(one, kind)).collect(),
    }
}

/// A worker of a pool whose engines are all of one `kind`, if they are.
fn worker(worker: &overview::Worker, kind: &str) -> Worker {
    let runtime = Some(&*worker.runtime).filter(|runtime| *runtime != kind);
    let (mark, word) = match () {
        () if is_draining(worker) => ("idle", "draining"),
        () if worker.ready && worker.breaker == "half_open" => ("trying", "on trial"),
        () if worker.ready => ("up", "ready"),
        () if worker.health == "unknown" && !has_failed(worker) => ("trying", "starting"),
        () if worker.health == "healthy" && worker.breaker != "closed" => ("down", "broken"),
        () => ("down", "down"),
    };
    let mut kind: Vec<&str> = runtime.into_iter().collect();
    if worker.role != "regular" {
        kind.push(&worker.role);
    }
    if worker.source == "manual" {
        kind.push("added");
    }
    let engine = worker.engine.as_ref();
    let dash = || "–".to_owned();
    Worker {
        id: worker.id.clone(),
        place: place(&worker.url).to_owned(),
        url: worker.url.clone(),
        mark,
        word: word.to_owned(),
        reason: if is_draining(worker) {
            String::new()
        } else {
            worker.reason.clone()
        },
        kind: kind.join(" · "),
        breaker: worker.breaker.replace('_', " "),
        breaker_bad: worker.breaker != "closed",
        in_flight: number::count(worker.in_flight),
        running: engine.map_or_else(dash, |engine| number::count(engine.running)),
        waiting: engine.map_or_else(dash, |engine| number::count(engine.waiting)),
        usage: engine
            .and_then(|engine| engine.usage)
            .map(|usage| (width(usage), number::percent(usage))),
        cache: worker.cache_hit_ratio.map_or_else(dash, number::percent),
        answered: number::count(worker.answered),
        failed: number::count(worker.failed),
        failed_any: worker.failed > 0,
        models: worker.models.join(", "),
    }
}

/// A share as the width of a bar that is 100 wide.
fn width(share: f64) -> String {
    format!("{:.1}", share.clamp(0.0, 1.0) * 100.0)
}

/// A worker's URL without what all of them begin with.
pub(super) fn place(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}

pub(super) fn model(model: &overview::Model) -> Model {
    let total: f64 = model.routes.iter().map(|route| route.weight).sum();
    let (mark, word) = match model.ready {
        true => ("up", "served"),
        false => ("down", "nobody serves it"),
    };
    Model {
        name: model.name.clone(),
        aliases: model.aliases.join(", "),
        mark,
        word,
        routes: model
            .routes
            .iter()
            .map(|route| Route {
                pool: route.pool.clone(),
                share: match model.routes.len() {
                    0 | 1 => String::new(),
                    _ => number::percent(route.weight / total),
                },
                model: route.model.clone(),
                policy: route.policy.clone(),
                ready: format!("{} of {}", route.ready, route.workers),
                short: route.ready < route.workers,
            })
            .collect(),
        fallback: model.fallback.join(" → "),
        mirror: model.mirror.clone(),
        degraded: model.degraded.clone(),
    }
}
