//! An attempt at a pair: one worker reads the prompt, another generates.
//!
//! Invariant: when one leg fails, the other is dropped in the same poll, which closes its connection.
//! Each leg has an in-flight guard, a key and an outcome of its own.

mod joint;
mod leg;
mod prefill;
mod sglang;
mod vllm;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::Counter;

pub(super) use self::joint::Joint;
pub(super) use self::leg::Lost;
use super::attempt::{Tried, take};
use super::call::{Call, Placed, Prefilling, Routed};
use super::choose::Chosen;
use super::error::{CallError, Fault};
use super::{Job, State};
use crate::api::members::Outline;
use crate::base::clock;
use crate::config::spec::Runtime;
use crate::live::{Snapshot, WorkerRef};
use crate::plan::{Leg, Legs, Role, Route};
use crate::policy::Refused;
use crate::state::{InFlight, ModelCell};
use crate::telemetry::metrics::{self as names, Metric, label};

const SGLANG: &str = "sglang";
const VLLM: &str = "vllm";

/// The members of a request that differ between the legs or decide how they do.
const NAMES: &[&str] = &[
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "kv_transfer_params",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "min_tokens",
    "stream",
    "stream_options",
    "return_logprob",
    "logprobs",
    "data_parallel_rank",
    "routed_dp_rank",
    "disagg_prefill_dp_rank",
];

/// Two workers that are to serve a request together, counted as busy.
struct Pair<'a> {
    route: &'a Route,
    prefill: WorkerRef<'a>,
    decode: WorkerRef<'a>,
    prefill_guard: InFlight,
    decode_guard: InFlight,
    model: Arc<ModelCell>,
    sent: Instant,
    total_by: Instant,
}

/// Picks a pair and sends the request to both. `release` is how long a 2xx head is held back.
pub(super) async fn attempt(
    call: &mut Call,
    job: &Job,
    state: &mut State,
    release: Option<Duration>,
) -> Tried {
    let snapshot = Arc::clone(&call.snapshot);
    let Some((route, _)) = snapshot.route(job.route) else {
        return Tried::Nobody(Refused::Nobody);
    };
    let outline = match state.outline.take() {
        Some(outline) => outline,
        None => match Outline::of(&job.body, NAMES) {
            Ok(outline) => Box::new(outline),
            Err(_) => return Tried::Unpaired(CallError::Unbuildable),
        },
    };
    let picking = clock::now();
    let chosen = choose_pair(&snapshot, route, job, state);
    let ((prefill, prefill_guard), (decode, decode_guard)) = match chosen {
        Ok(pair) => pair,
        Err(error) => return Tried::Unpaired(error),
    };
    state.tried.push(prefill.worker.ix);
    state.tried.push(decode.worker.ix);
    let runtime = runtime_of(prefill.worker, decode.worker);
    let sent = clock::now();
    let Some(routed) = call.routed.as_mut() else {
        return Tried::Nobody(Refused::Nobody);
    };
    let model = Arc::clone(&routed.model);
    let stages = &routed.model.series(job.endpoint).stages;
    if routed.attempts == 0 {
        stages.route(routed.body_read + routed.queued, picking);
    }
    stages.pick(picking, sent);
    note(routed, sent, runtime, &prefill, &decode);
    if let Some(trace) = call.trace.as_mut() {
        for (role, chosen) in [(Role::Prefill, &prefill), (Role::Decode, &decode)] {
            let at = (role, chosen.worker.ix);
            trace.attempt(at, chosen.policy, routed.attempts, sent);
        }
    }
    let pair = Pair {
        route,
        model,
        prefill: prefill.worker,
        decode: decode.worker,
        prefill_guard,
        decode_guard,
        sent,
        total_by: call.started + route.timeouts.total,
    };
    let tried = if runtime == VLLM {
        vllm::attempt(call, job, pair, &outline, release).await
    } else {
        sglang::attempt(call, job, pair, &outline, release).await
    };
    state.outline = Some(outline);
    tried
}

/// A failed attempt with the name of the leg that failed: an answer is always decode's.
pub(super) fn named(tried: Tried) -> Tried {
    match tried {
        Tried::Failed { worker, error } => match error.of(Role::Decode) {
            CallError::Leg(_, fault) => {
                Tried::Leg(Box::new(Lost::new(worker, Role::Decode, fault)))
            }
            error => Tried::Failed { worker, error },
        },
        Tried::Refused(held) => {
            let lost = Lost::new(held.worker, Role::Decode, Fault::Status(500));
            Tried::Leg(Box::new(lost.saying(held.queued.concat())))
        }
        other => other,
    }
}

/// Counts a pair that a leg has left.
pub(super) fn count_failure(routed: &Routed, role: Role) {
    match (&routed.prefill, role) {
        (Some(prefill), _) if prefill.runtime == SGLANG => {
            names::counter(Metric::PdBootstrapFailures, &[]).increment(1);
        }
        (Some(_), Role::Decode) => {
            names::counter(Metric::PdKvTransferFailures, &[]).increment(1);
        }
        _ => {}
    }
}

/// A worker that was chosen, and taken.
type Taken<'a> = (Chosen<'a>, InFlight);

/// Each leg by its own policy over its own candidates; nobody is chosen where one of them has none.
fn choose_pair<'a>(
    snapshot: &'a Snapshot,
    route: &Route,
    job: &Job,
    state: &State,
) -> Result<(Taken<'a>, Taken<'a>), CallError> {
    let Legs::Pair { prefill, decode } = &route.legs else {
        return Err(CallError::NoWorker);
    };
    let now = clock::now();
    if let Some(leg) = route.legs.iter().find(|leg| !snapshot.has_room(leg, now)) {
        return Err(CallError::NoLeg(leg.role));
    }
    let take = |leg: &Leg| {
        take(snapshot, leg, job, state).map_err(|refused| match refused {
            Refused::Nobody => CallError::NoLeg(leg.role),
            Refused::Target => CallError::Target,
        })
    };
    Ok((take(prefill)?, take(decode)?))
}

/// How the two of them find each other: as their engine has it. Where neither is known, as SGLang.
fn runtime_of(prefill: WorkerRef<'_>, decode: WorkerRef<'_>) -> &'static str {
    match decode.plan.runtime.or(prefill.plan.runtime) {
        Some(Runtime::Vllm) => VLLM,
        _ => SGLANG,
    }
}

fn placed(role: Role, chosen: &Chosen<'_>) -> Placed {
    Placed {
        role,
        policy: chosen.policy,
        reason: chosen.reason,
        lane: chosen.lane,
        expected: chosen.expected,
    }
}

/// Notes an attempt that is about to be sent.
fn note(
    routed: &mut Routed,
    sent: Instant,
    runtime: &'static str,
    prefill: &Chosen<'_>,
    decode: &Chosen<'_>,
) {
    let labels = [
        ("worker_type", Role::Prefill.as_str()),
        ("connection_mode", "http"),
        ("model", &*routed.label),
        ("policy", prefill.policy),
    ];
    names::counter(Metric::WorkerSelection, &labels).increment(1);
    let series = routed.model.series(routed.endpoint);
    series.selections.increment(1);
    routed.worker = Some(decode.worker.ix);
    routed.placed = Some(placed(Role::Decode, decode));
    routed.prefill = Some(Box::new(Prefilling {
        worker: prefill.worker.ix,
        placed: placed(Role::Prefill, prefill),
        runtime,
        complete: false,
        usage: None,
        handed_over: None,
        done: None,
    }));
    routed.said = None;
    routed.head = None;
    routed.attempts += 1;
    routed.reached.store(true, Ordering::Relaxed);
    routed.sent = Some(sent);
}

fn count_mode(mode: &'static str) {
    static MODES: [OnceLock<Counter>; label::KV_MODES.len()] =
        [const { OnceLock::new() }; label::KV_MODES.len()];
    let at = label::KV_MODES.iter().position(|known| *known == mode);
    if let Some(slot) = at.and_then(|at| MODES.get(at)) {
        slot.get_or_init(|| names::counter(Metric::PdKvConnectorMode, &[("mode", mode)]))
            .increment(1);
    }
}

/// Records how long a prefill worker took.
fn record_prefill(model: &ModelCell, runtime: &'static str, sent: Instant) {
    let took = clock::now().saturating_duration_since(sent);
    model.pair(runtime).prefill.record(took.as_secs_f64());
}
