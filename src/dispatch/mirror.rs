//! Copies of requests, whose answers are thrown away.
//!
//! Invariant: whoever made the original waits for nothing here. A copy has a task of its own, is
//! tried once, and counts nowhere but in its own metric and in the load and the attempts of the worker
//! that it keeps busy: no breaker and no budget hears of it.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::poll_fn;
use http::header::{HeaderName, HeaderValue};
use http_body::Body as _;
use tokio::time::timeout;

use super::attempt::{build, unless_lost};
use super::{Job, choose, rank};
use crate::base::{clock, task};
use crate::live::{Snapshot, WorkerRef};
use crate::plan::{Mirror, Route};
use crate::policy::{self, Feedback, Mode};
use crate::state::{Copying, InFlight, MirrorCell};
use crate::telemetry::trace::Link;
use crate::upstream;

/// Copies under way for one model; those beyond are dropped.
const MOST: usize = 64;

/// Names a worker of the original's pool.
const X_SMG_TARGET_WORKER: HeaderName = HeaderName::from_static("x-smg-target-worker");

/// Sends a copy to `mirror` if one is due: of the configured share of requests, drawn with `chance`
/// from 0..1. `job` makes the copy's own, given its route, where there is memory for it. `id` is the
/// request id of both, `link` what the copy's worker gets to know of the trace.
pub fn send(
    snapshot: &Arc<Snapshot>,
    (mirror, cell): (&Mirror, &Arc<MirrorCell>),
    (id, link): (&HeaderValue, Option<Link>),
    chance: f64,
    job: impl FnOnce(&Route) -> Option<Job>,
) {
    if chance >= mirror.fraction {
        return;
    }
    let Some((route, _)) = snapshot.route(mirror.route) else {
        return;
    };
    let Some(copying) = cell.start(MOST) else {
        return;
    };
    let Some(mut job) = job(route) else {
        return;
    };
    job.route = mirror.route;
    job.headers.remove(X_SMG_TARGET_WORKER);
    let copy = copy(Arc::clone(snapshot), job, (id.clone(), link), copying);
    // Whoever waits for calls at shutdown does not wait for copies.
    task::spawn("mirror", copy);
}

/// Asks one worker and reads its answer to the end. Out of time, it is dropped with its connection,
/// and the worker notices.
async fn copy(
    snapshot: Arc<Snapshot>,
    job: Job,
    marks: (HeaderValue, Option<Link>),
    mut copying: Copying,
) {
    let Some((route, parts)) = snapshot.route(job.route) else {
        return;
    };
    let leg = route.legs.answering();
    let Some(parts) = parts.leg(leg.role) else {
        return;
    };
    let request = job.request(Mode::Take);
    let mut usable = choose::usable(&snapshot, leg, &[], request.now);
    // Copies neither move a breaker nor take the places of those that try a worker.
    usable.retain(|usable| {
        let worker = usable.worker;
        worker.parts.cell.breaker.is_closed(&worker.plan.breaker)
    });
    let Ok(chosen) = choose::choose(&snapshot, &request, leg.role, &usable, None) else {
        return;
    };
    let mut guard = InFlight::start(
        &chosen.worker.parts.cell,
        chosen.expected.prefill_tokens,
        clock::now(),
    );
    copying.sent();
    let exchange = exchange(&snapshot, route, job, &marks, chosen.worker, &mut guard);
    let answered = timeout(route.timeouts.total, exchange).await;
    let success = matches!(answered, Ok(Some(())));
    if success {
        copying.answered();
    }
    let feedback = Feedback {
        lane: chosen.lane,
        expected: chosen.expected,
        success,
        prompt_tokens: None,
        cached_tokens: None,
    };
    policy::learn(&leg.policy, &parts.memory, feedback);
}

/// Nothing where the exchange fails or the answer is an error.
async fn exchange(
    snapshot: &Snapshot,
    route: &Route,
    job: Job,
    (id, link): &(HeaderValue, Option<Link>),
    worker: WorkerRef<'_>,
    guard: &mut InFlight,
) -> Option<()> {
    let pool = snapshot.plan.pool(worker.plan.pool);
    let response = {
        let body = rank::body(&job, worker.plan.key.rank(), &mut None);
        let (forward, link) = (pool.forward_authorization, link.as_ref());
        let request = || build(&job, &body, worker, forward, id, link);
        let connect = route.timeouts.connect;
        let sending = upstream::http::send(worker, pool.connections, connect, request);
        unless_lost(&worker.parts.health, sending).await?.ok()?
    };
    // The body has gone out; waiting for the end of the answer does not need it.
    drop(job);
    let success = response.status().is_success();
    let mut answer = pin!(response.into_body());
    loop {
        let frame = poll_fn(|cx| answer.as_mut().poll_frame(cx));
        match unless_lost(&worker.parts.health, frame).await? {
            Some(frame) => {
                frame.ok()?;
                guard.prefilled(clock::now());
            }
            None => return success.then_some(()),
        }
    }
}
