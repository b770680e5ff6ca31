//! What all workers are asked at once: to empty their caches, and how busy they are.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{rfc3339, to_json};
use crate::api::load::Load;
use crate::base::clock;
use crate::dispatch::Call;
use crate::live::{Snapshot, WorkerRef};
use crate::plan::WorkerIx;
use crate::serve::body::Body;
use crate::serve::error::json as respond;
use crate::upstream::{self, fetch};

const FLUSH_WAIT: Duration = Duration::from_secs(45);
const LOAD_WAIT: Duration = Duration::from_secs(5);
const ABREAST: usize = 32;
const MAX: usize = 1024 * 1024;

/// One membership per worker: what is asked of a worker is asked once.
fn each(snapshot: &Snapshot) -> Vec<WorkerRef<'_>> {
    let mut workers: Vec<WorkerRef<'_>> = snapshot.workers().collect();
    workers.sort_by(|a, b| a.plan.key.cmp(&b.plan.key));
    workers.dedup_by(|a, b| a.plan.key == b.plan.key);
    workers
}

/// One worker per engine: what concerns all its ranks is asked once.
fn engines(snapshot: &Snapshot) -> Vec<WorkerRef<'_>> {
    let mut workers = each(snapshot);
    workers.dedup_by_key(|worker| worker.plan.key.base());
    workers
}

/// `POST /flush_cache`
pub(crate) async fn flush_cache(call: Box<Call>) -> Response<Body> {
    let snapshot = Arc::clone(&call.snapshot);
    let workers = engines(&snapshot);
    let total = workers.len();
    let asked: Vec<_> = workers
        .iter()
        .map(|worker| flush(Arc::clone(&snapshot), worker.ix))
        .collect();
    let outcomes: Vec<(String, Result<(), String>)> =
        stream::iter(asked).buffered(ABREAST).collect().await;
    let successful: Vec<&str> = outcomes
        .iter()
        .filter(|(_, o)| o.is_ok())
        .map(|(url, _)| &**url)
        .collect();
    let failed: Vec<Value> = outcomes
        .iter()
        .filter_map(|(url, outcome)| {
            let error = outcome.as_ref().err()?;
            Some(json!({ "worker": url, "error": error }))
        })
        .collect();
    let message = match (total, failed.len()) {
        (0, _) => "there are no workers".to_owned(),
        (_, 0) => format!("the caches of {total} workers are empty"),
        (_, bad) => format!("{bad} of {total} workers did not flush their cache"),
    };
    let mut body = json!({
        "status": if failed.is_empty() { "success" } else { "partial_success" },
        "message": message,
        "workers_flushed": successful.len(),
        "total_http_workers": total,
        "total_grpc_workers": 0,
        "total_workers": total,
    });
    let status = if failed.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::PARTIAL_CONTENT
    };
    if !failed.is_empty()
        && let Some(fields) = body.as_object_mut()
    {
        fields.insert("successful".to_owned(), json!(successful));
        fields.insert("failed".to_owned(), json!(failed));
    }
    respond(call, status, to_json(&body))
}

async fn flush(snapshot: Arc<Snapshot>, ix: WorkerIx) -> (String, Result<(), String>) {
    let Some(worker) = snapshot.worker(ix) else {
        return (String::new(), Ok(()));
    };
    let limits = snapshot.plan.pool(worker.plan.pool).connections;
    let flushed = fetch(
        worker,
        limits,
        Method::POST,
        "/flush_cache",
        FLUSH_WAIT,
        MAX,
    )
    .await;
    let outcome = match flushed {
        Ok(answer) if answer.status.is_success() => {
            let (emptied, key) = (Arc::clone(&snapshot), worker.plan.key.clone());
            // A full tree of prompts takes a while to be gone through.
            let forgotten = spawn_blocking(move || emptied.flushed(&key)).await;
            forgotten.map_err(|_| "what was known of its cache is not forgotten".to_owned())
        }
        Ok(answer) => Err(format!("status {}", answer.status.as_u16())),
        Err(error) => Err(error.to_string()),
    };
    (worker.plan.key.base().to_string(), outcome)
}

/// `GET /get_loads`
pub(crate) async fn loads(call: Box<Call>) -> Response<Body> {
    let snapshot = Arc::clone(&call.snapshot);
    let asked: Vec<_> = engines(&snapshot)
        .iter()
        .map(|engine| loads_of(Arc::clone(&snapshot), engine.ix))
        .collect();
    let loads: Vec<Value> = stream::iter(asked)
        .buffered(ABREAST)
        .collect::<Vec<_>>()
        .await
        .concat();
    let fresh = || {
        loads
            .iter()
            .filter(|load| load.get("stale") == Some(&Value::Bool(false)))
    };
    let count_of =
        |field: &str| -> u64 { fresh().filter_map(|load| load.get(field)?.as_u64()).sum() };
    let mean = |field: &str| {
        let told = fresh().filter_map(|load| load.get(field)?.as_f64());
        let (count, sum) = told.fold((0_u32, 0.0), |(count, sum), figure| {
            (count + 1, sum + figure)
        });
        sum / f64::from(count.max(1))
    };
    let (running, waiting) = (count_of("num_running_reqs"), count_of("num_waiting_reqs"));
    let body = json!({
        "timestamp": rfc3339(clock::wall()),
        "version": concat!("smg-", env!("CARGO_PKG_VERSION")),
        "dp_rank_count": loads.len(),
        "loads": loads,
        "aggregate": {
            "total_running_reqs": running,
            "total_waiting_reqs": waiting,
            "total_reqs": running + waiting,
            "avg_token_usage": mean("token_usage"),
            "avg_throughput": mean("gen_throughput"),
            "avg_utilization": mean("utilization"),
        },
    });
    respond(call, StatusCode::OK, to_json(&body))
}

/// What the engine behind the worker at `ix` says of its load, rank by rank: as the load monitor knows
/// it, else as it says now. Without either our own count stands, marked stale.
async fn loads_of(snapshot: Arc<Snapshot>, ix: WorkerIx) -> Vec<Value> {
    let Some(first) = snapshot.worker(ix) else {
        return Vec::new();
    };
    let base = first.plan.key.base();
    let members: Vec<WorkerRef<'_>> = each(&snapshot)
        .into_iter()
        .filter(|worker| worker.plan.key.base() == base)
        .collect();
    let age = snapshot.plan.load_monitor.age();
    let now = clock::now();
    let known = |worker: &WorkerRef<'_>| worker.parts.cell.report.read(now, age);
    let is_usable = snapshot.is_usable(first);
    let asked = if is_usable && !members.iter().all(|worker| known(worker).is_some()) {
        let limits = snapshot.plan.pool(first.plan.pool).connections;
        upstream::loads::ask(first, limits, LOAD_WAIT).await.ok()
    } else {
        None
    };
    let mut rows = Vec::new();
    for worker in members {
        let mine = |load: &&Load| {
            worker
                .plan
                .key
                .rank()
                .is_none_or(|rank| load.dp_rank == Some(rank))
        };
        let (ranks, seconds) = match (known(&worker).filter(|_| is_usable), &asked) {
            (Some(report), _) => {
                let age = now.saturating_duration_since(report.at).as_secs_f64();
                (report.ranks.clone(), (age * 1000.0).round() / 1000.0)
            }
            (None, Some(told)) => (told.iter().filter(mine).copied().collect(), 0.0),
            (None, None) => (Vec::new(), 0.0),
        };
        if ranks.is_empty() {
            let own = Load {
                dp_rank: worker.plan.key.rank(),
                running: Some(worker.parts.cell.load() as u64),
                ..Load::default()
            };
            rows.push(row(worker, &own, true, 0.0));
        }
        rows.extend(ranks.iter().map(|load| row(worker, load, false, seconds)));
    }
    rows
}

fn row(worker: WorkerRef<'_>, load: &Load, stale: bool, age_seconds: f64) -> Value {
    let own = || worker.parts.cell.load() as u64;
    let running = load.running.unwrap_or_else(own);
    let waiting = load.waiting.unwrap_or(0);
    json!({
        "worker": worker.plan.key.as_str(),
        "worker_id": worker.plan.id,
        "worker_type": worker.plan.role.as_str(),
        "dp_rank": load.dp_rank,
        "num_running_reqs": running,
        "num_waiting_reqs": waiting,
        "num_waiting_uncached_tokens": load.waiting_uncached_tokens,
        "num_total_reqs": running + waiting,
        "num_used_tokens": load.used_tokens,
        "max_total_num_tokens": load.max_total_tokens,
        "token_usage": load.token_usage,
        "gen_throughput": load.gen_throughput,
        "cache_hit_rate": load.cache_hit_rate,
        "utilization": load.utilization,
        "max_running_requests": load.max_running_requests,
        "stale": stale,
        "age_seconds": age_seconds,
    })
}
