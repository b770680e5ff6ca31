//! One try: pick a worker, send, wait until its answer is certain.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::response::Parts;
use http::{Method, Request, StatusCode};
use http_body::Body;
use metrics::Counter;
use tokio::time::{Instant as TokioInstant, timeout_at};

use super::call::{Call, Placed, Routed};
use super::choose::{self, Chosen, Usable};
use super::error::{CallError, Deadline, Shortage};
use super::pair::Lost;
use super::reply::{Reply, ReplyError};
use super::{Job, State, rank, verdict};
use crate::api::payload::Sending;
use crate::api::{Endpoint, Payload, sse};
use crate::base::clock;
use crate::live::{Snapshot, WorkerRef};
use crate::plan::{Leg, Role, Timeouts, WorkerIx};
use crate::policy::{self, Mode, Refused};
use crate::state::{Allowance, HealthCell, InFlight, Outcome, Reservation};
use crate::telemetry::metrics::{self as names, Metric};
use crate::telemetry::trace::Link;
use crate::upstream::{self, Failure, headers};

/// Bytes of role-only deltas and comments, or of an answer that is no stream, that are held back at
/// most; a worker that sends more of them than this is taken to have begun.
const HELD_BYTES: usize = 64 * 1024;

/// An answer under way whose first event has not come yet.
pub(super) struct Held {
    pub(super) parts: Parts,
    pub(super) answer: Reply,
    pub(super) guard: InFlight,
    pub(super) worker: WorkerIx,
    pub(super) sse: Option<sse::Reader>,
    pub(super) queued: Vec<Bytes>,
    /// What is queued takes up so much memory, if it is held back at all.
    pub(super) memory: Option<Reservation>,
    pub(super) ended: bool,
    pub(super) health: Arc<HealthCell>,
    pub(super) first_by: Instant,
    /// The worker has sent an error frame.
    pub(super) said_error: bool,
}

/// How an attempt ended.
pub(super) enum Tried {
    /// The answer has begun; nothing can be tried again.
    Begun(Box<Held>),
    /// A 2xx head has come, the first event has not, and the time to hold the head back is over.
    Waiting(Box<Held>),
    /// The worker answered with a status that may be retried.
    Refused(Box<Held>),
    /// There is no answer.
    Failed { worker: WorkerIx, error: CallError },
    /// Nobody could be picked.
    Nobody(Refused),
    /// A leg of a pair failed; the other has been cancelled.
    Leg(Box<Lost>),
    /// No pair could be picked.
    Unpaired(CallError),
}

/// Picks a worker and sends the request to it. `release` is how long a 2xx head is held back.
pub(super) async fn attempt(
    call: &mut Call,
    job: &Job,
    state: &mut State,
    release: Option<Duration>,
) -> Tried {
    let snapshot = Arc::clone(&call.snapshot);
    let Some(routed) = call.routed.as_mut() else {
        return Tried::Nobody(Refused::Nobody);
    };
    let Some((route, parts)) = snapshot.route(job.route) else {
        return Tried::Nobody(Refused::Nobody);
    };
    let series = parts.model.series(job.endpoint);
    let picking = clock::now();
    let (chosen, mut guard) = match take(&snapshot, route.legs.answering(), job, state) {
        Ok(taken) => taken,
        Err(refused) => return Tried::Nobody(refused),
    };
    series.selections.increment(1);
    let worker = chosen.worker;
    let sent = clock::now();
    if routed.attempts == 0 {
        let ready = routed.body_read + routed.queued;
        series.stages.route(ready, picking);
    }
    series.stages.pick(picking, sent);
    routed.placed = Some(Placed {
        role: Role::Regular,
        policy: chosen.policy,
        reason: chosen.reason,
        lane: chosen.lane,
        expected: chosen.expected,
    });
    state.tried.push(worker.ix);
    routed.worker = Some(worker.ix);
    routed.attempts += 1;
    routed.head = None;

    let total_by = call.started + route.timeouts.total;
    routed.sent = Some(sent);
    let mut link = None;
    if let Some(trace) = call.trace.as_mut() {
        let (at, number) = ((Role::Regular, worker.ix), routed.attempts);
        trace.attempt(at, chosen.policy, number, sent);
        link = trace.link_of(Role::Regular);
    }
    let pool = snapshot.plan.pool(worker.plan.pool);
    let by = deadline(job.streaming, sent, &route.timeouts, total_by);
    let body = rank::body(job, worker.plan.key.rank(), &mut state.outline);
    let (forward, link, reached) = (pool.forward_authorization, link.as_ref(), &routed.reached);
    let request = || {
        // Made once there is a connection to send it over.
        reached.store(true, Ordering::Relaxed);
        build(job, &body, worker, forward, &call.id, link)
    };
    let sending = upstream::http::send(worker, pool.connections, route.timeouts.connect, request);
    let sending = unless_lost(&worker.parts.health, sending);
    let response = match timeout_at(TokioInstant::from_std(by), sending).await {
        Ok(Some(Ok(response))) => response,
        Ok(Some(Err(failure))) => {
            return failed(&snapshot, worker.ix, &mut guard, classify(&failure));
        }
        Ok(None) => return failed(&snapshot, worker.ix, &mut guard, CallError::Connect),
        Err(_) => {
            let which = if by == total_by {
                Deadline::Total
            } else {
                Deadline::Headers
            };
            return failed(&snapshot, worker.ix, &mut guard, CallError::Timeout(which));
        }
    };
    routed.head = Some(clock::now());
    count_answer(response.status());
    if let Some(trace) = call.trace.as_mut() {
        trace.answered(response.status());
    }
    if response.status().is_informational() {
        // Nobody has asked for another protocol, and to a client it would be one.
        return failed(&snapshot, worker.ix, &mut guard, CallError::Malformed);
    }
    let (mut parts, answer) = response.into_parts();
    headers::clean_answer(&mut parts.headers);
    let streams = is_event_stream(&parts.headers);
    if streams {
        // Comments and terminal frames may be added, so the length is no longer the worker's.
        parts.headers.remove(CONTENT_LENGTH);
    }
    if let Some(outcome) = verdict::of_head(parts.status, &parts.headers) {
        let why = parts.status.as_str();
        verdict::tell(&snapshot, worker.ix, &mut guard, outcome, why);
    }
    // Boxed, since it goes through many hands.
    let mut held = Box::new(Held {
        sse: (streams && parts.status.is_success())
            .then(|| sse::Reader::new(dialect(job.endpoint))),
        parts,
        answer: Reply::One(answer),
        guard,
        worker: worker.ix,
        queued: Vec::new(),
        memory: None,
        ended: false,
        health: Arc::clone(&worker.parts.health),
        first_by: if job.streaming {
            sent + route.timeouts.first_token
        } else {
            total_by
        },
        said_error: false,
    });
    let status = held.parts.status;
    if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
        return failed(&snapshot, worker.ix, &mut held.guard, CallError::Redirect);
    }
    if job.endpoint.retries_answers() && route.retry.covers(status.as_u16()) {
        return Tried::Refused(held);
    }
    let release = release.map(|wait| clock::now() + wait);
    first_event(&snapshot, routed, held, total_by, release).await
}

/// Goes on waiting for the first event of an answer whose head has gone out.
pub(super) async fn resume(call: &mut Call, job: &Job, held: Box<Held>) -> Tried {
    let snapshot = Arc::clone(&call.snapshot);
    let Some((route, _)) = snapshot.route(job.route) else {
        return Tried::Nobody(Refused::Nobody);
    };
    let total_by = call.started + route.timeouts.total;
    let Some(routed) = call.routed.as_mut() else {
        return Tried::Nobody(Refused::Nobody);
    };
    first_event(&snapshot, routed, held, total_by, None).await
}

/// Tells the breaker of `worker` how the attempt failed.
fn failed(snapshot: &Snapshot, worker: WorkerIx, guard: &mut InFlight, error: CallError) -> Tried {
    let outcome = verdict::of_error(error);
    verdict::tell(snapshot, worker, guard, outcome, error.message());
    Tried::Failed { worker, error }
}

/// Chooses a worker of `leg` and takes it.
pub(super) fn take<'a>(
    snapshot: &'a Snapshot,
    leg: &Leg,
    job: &Job,
    state: &State,
) -> Result<(Chosen<'a>, InFlight), Refused> {
    // A worker whose last place others were quicker to take is no candidate the next time; it can
    // happen once for each of them, unless places come and go all the while.
    for _ in 0..=leg.candidates.len() {
        let request = job.request(Mode::Take);
        let usable = usable(snapshot, leg, job, state, request.now)?;
        let taken = choose::take(snapshot, &request, leg.role, &usable, &state.charged)?;
        if let Some(taken) = taken {
            return Ok(taken);
        }
        if policy::is_targeted(&leg.policy, &job.headers) {
            return Err(Refused::Target);
        }
    }
    Err(Refused::Nobody)
}

/// Whom an attempt may go to: those of `leg` that have not been tried, else all but those that asked
/// not to be called again. Where the request names its worker nobody is left out, so that a position
/// means the same one as before.
fn usable<'a>(
    snapshot: &'a Snapshot,
    leg: &Leg,
    job: &Job,
    state: &State,
    now: Instant,
) -> Result<Vec<Usable<'a>>, Refused> {
    if policy::is_targeted(&leg.policy, &job.headers) {
        return if state.set_aside.is_empty() {
            Ok(choose::usable(snapshot, leg, &[], now))
        } else {
            Err(Refused::Target)
        };
    }
    let usable = choose::usable(snapshot, leg, &state.tried, now);
    if usable.is_empty() && !state.tried.is_empty() {
        return Ok(choose::usable(snapshot, leg, &state.set_aside, now));
    }
    Ok(usable)
}

/// What `awaited` brings, or nothing once nothing connects to the worker any more.
pub(super) async fn unless_lost<T>(
    health: &HealthCell,
    awaited: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        brought = awaited => Some(brought),
        () = health.lost() => None,
    }
}

/// Counts a head received from a worker.
pub(super) fn count_answer(status: StatusCode) {
    const FIRST: u16 = 100;
    static ANSWERS: [OnceLock<Counter>; 500] = [const { OnceLock::new() }; 500];
    let Some(slot) = ANSWERS.get(usize::from(status.as_u16() - FIRST)) else {
        return;
    };
    let counter = slot.get_or_init(|| {
        let labels = [
            ("router_type", "http"),
            ("status_code", status.as_str()),
            ("error_code", ""),
        ];
        names::counter(Metric::RouterUpstreamResponses, &labels)
    });
    counter.increment(1);
}

pub(super) fn deadline(
    streaming: bool,
    sent: Instant,
    timeouts: &Timeouts,
    total_by: Instant,
) -> Instant {
    // An engine that does not stream answers head and body together, at the end.
    if streaming {
        total_by.min(sent + timeouts.headers)
    } else {
        total_by
    }
}

pub(super) fn build(
    job: &Job,
    body: &Payload,
    worker: WorkerRef<'_>,
    forward: bool,
    id: &http::HeaderValue,
    link: Option<&Link>,
) -> Request<Sending> {
    let mut request = Request::new(body.send());
    *request.method_mut() = Method::POST;
    if let Some(target) = worker.parts.targets.get(job.endpoint.index()) {
        request.uri_mut().clone_from(target);
    }
    let mut sent = headers::forwardable(&job.headers, id);
    if let Some(link) = link {
        link.put(&mut sent);
    }
    headers::address(&mut sent, worker, job.credential(forward));
    *request.headers_mut() = sent;
    request
}

pub(super) fn classify(failure: &Failure) -> CallError {
    match failure {
        Failure::Connect(_) => CallError::Connect,
        Failure::ConnectTimeout(_) => CallError::Timeout(Deadline::Connect),
        Failure::Broken(_) => CallError::Broken,
        Failure::Malformed(_) => CallError::Malformed,
        Failure::Short(_) => CallError::Short(Shortage::Sockets),
    }
}

/// How streams of `endpoint` mark their end.
pub(super) fn dialect(endpoint: Endpoint) -> sse::Dialect {
    match endpoint {
        Endpoint::Responses => sse::Dialect::Responses,
        Endpoint::Chat
        | Endpoint::Completions
        | Endpoint::Generate
        | Endpoint::Embeddings
        | Endpoint::Rerank
        | Endpoint::Classify => sse::Dialect::Completions,
    }
}

pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..17))
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Waits for the first event of a stream, or for the first bytes of any other answer.
pub(super) async fn first_event(
    snapshot: &Snapshot,
    routed: &mut Routed,
    mut held: Box<Held>,
    total_by: Instant,
    release: Option<Instant>,
) -> Tried {
    let first_by = held.first_by.min(total_by);
    let release = release.filter(|_| held.sse.is_some());
    let whole = if held.sse.is_some() {
        0
    } else {
        awaited(&held.parts)
    };
    let mut size = 0;
    let failed = |mut held: Box<Held>, error| failed(snapshot, held.worker, &mut held.guard, error);
    loop {
        let by = release.map_or(first_by, |at| at.min(first_by));
        let mut answer = pin!(&mut held.answer);
        let next = poll_fn(|cx| answer.as_mut().poll_frame(cx));
        let next = unless_lost(&held.health, next);
        let frame = match timeout_at(TokioInstant::from_std(by), next).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return failed(held, CallError::Connect),
            Err(_) if by < first_by => return Tried::Waiting(held),
            Err(_) => {
                let which = if first_by == total_by {
                    Deadline::Total
                } else {
                    Deadline::FirstToken
                };
                return failed(held, CallError::Timeout(which));
            }
        };
        match frame {
            None => {
                held.ended = true;
                if held.sse.is_some() {
                    // A stream without a single event is no answer.
                    return failed(held, CallError::Stream);
                }
                return Tried::Begun(held);
            }
            Some(Err(ReplyError::BrokeOff)) => {
                return failed(held, CallError::BrokeOff);
            }
            Some(Err(ReplyError::Leg(lost))) => return Tried::Leg(lost),
            Some(Err(error @ ReplyError::Short)) => return failed(held, error.error()),
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                let length = data.len();
                size += length;
                let Some(reader) = held.sse.as_mut() else {
                    held.queued.push(data);
                    if size < whole {
                        if hold_back(&mut held, snapshot, length) {
                            continue;
                        }
                        return failed(held, CallError::Short(Shortage::Memory));
                    }
                    return Tried::Begun(held);
                };
                let seen = reader.read(&data);
                held.queued.push(data);
                routed.usage = seen.usage.or(routed.usage);
                if let Some(error) = seen.error {
                    held.said_error = true;
                    let outcome = verdict::of_frame(error.code);
                    let why = "the worker's stream reported an error";
                    verdict::tell(snapshot, held.worker, &mut held.guard, outcome, why);
                    if outcome == Outcome::Failure {
                        return Tried::Refused(held);
                    }
                }
                if seen.content || seen.ended || held.said_error || size > HELD_BYTES {
                    let now = clock::now();
                    held.guard.prefilled(now);
                    routed.first_event = Some(now);
                    routed.last_event = routed.first_event;
                    return Tried::Begun(held);
                }
                if !hold_back(&mut held, snapshot, length) {
                    return failed(held, CallError::Short(Shortage::Memory));
                }
            }
        }
    }
}

/// Makes room for `length` bytes more that are held back. `false` where there is none.
fn hold_back(held: &mut Held, snapshot: &Snapshot, length: usize) -> bool {
    let kept = held.memory.get_or_insert_with(|| snapshot.memory.none());
    kept.grow(length)
}

/// The length of an answer that is held back until it is whole, so that another worker can make up for
/// one that breaks off: of one that is short and says how long it is. 0 where nothing is waited for.
fn awaited(parts: &Parts) -> usize {
    let length = parts.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    length.filter(|length| *length <= HELD_BYTES).unwrap_or(0)
}

/// Reads what is left of a refused answer, so that it can be given verbatim if nothing better
/// comes, and its connection used again. Bounded in size, memory and time; `None` when it breaks a
/// bound.
pub(super) async fn keep(
    held: Held,
    limit: Duration,
    memory: &Allowance,
) -> Option<(Parts, Bytes)> {
    const KEPT_BYTES: usize = 256 * 1024;
    let Held {
        mut parts,
        answer,
        guard: _guard,
        queued,
        ..
    } = held;
    let mut answer = Box::pin(answer);
    let mut kept = queued.concat();
    let mut room = memory.try_reserve(kept.len())?;
    let read = async {
        while let Some(frame) = poll_fn(|cx| answer.as_mut().poll_frame(cx)).await {
            let data = frame.ok()?.into_data().unwrap_or_default();
            if kept.len() + data.len() > KEPT_BYTES || !room.grow(data.len()) {
                return None;
            }
            kept.extend_from_slice(&data);
        }
        Some(())
    };
    tokio::time::timeout(limit, read).await.ok()??;
    parts.headers.remove(CONTENT_LENGTH);
    Some((parts, room.around(kept)))
}
