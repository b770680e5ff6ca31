//! Whether, when and where an attempt is replaced by another.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderMap, RETRY_AFTER};

use super::attempt::{Held, keep};
use super::call::Call;
use super::error::{CallError, Deadline, Fault};
use super::pair::{self, Lost};
use super::{Job, Progress, State, verdict};
use crate::base::clock;
use crate::live::Snapshot;
use crate::plan::{Leg, Role, Route, WorkerIx};
use crate::policy;
use crate::state::Outcome;
use crate::telemetry::metrics::{self as names, Metric};

/// Longest that the rest of a refused answer is waited for, while nobody else could answer.
const KEEP: Duration = Duration::from_secs(2);

/// The same, while another worker could.
const KEEP_BRIEFLY: Duration = Duration::from_millis(100);

/// How an attempt failed.
pub(super) enum Failed {
    /// With an answer that may be retried.
    Refused(Box<Held>),
    /// Without any.
    Error(WorkerIx, CallError),
    /// As a leg of a pair.
    Leg(Box<Lost>),
}

/// What happens now.
pub(super) enum Next {
    /// Another attempt; the wait before it is over.
    Again,
    /// Nothing more.
    Final(Progress),
}

/// Whether no attempt may follow, so that a refusal is the answer and goes to the client as it comes.
pub(super) fn is_last(call: &Call, job: &Job) -> bool {
    let attempts = call.routed.as_ref().map_or(0, |routed| routed.attempts);
    let used_up = |(route, _): (&Route, _)| attempts >= route.retry.attempts;
    !job.endpoint.retries_answers() || call.snapshot.route(job.route).is_none_or(used_up)
}

/// Accounts for a refusal that is the answer.
pub(super) fn count_last(job: &Job) {
    count_error(Role::Regular, CallError::Stream);
    if job.endpoint.retries_answers() {
        count_exhausted(Role::Regular, job, "attempts");
    }
}

/// Judges a failed attempt, waits where waiting is due, and accounts for both.
pub(super) async fn next(call: &mut Call, job: &Job, state: &mut State, failed: Failed) -> Next {
    let snapshot = std::sync::Arc::clone(&call.snapshot);
    let Some((route, _)) = snapshot.route(job.route) else {
        return Next::Final(Progress::Failed(CallError::NoWorker));
    };
    let routed = call.routed.as_ref();
    let attempts = routed.map_or(0, |routed| routed.attempts);
    let headed = routed.is_some_and(|routed| routed.head.is_some());
    let total_by = call.started + route.timeouts.total;
    let left = total_by.saturating_duration_since(clock::now());
    let (worker, error, asked) = match failed {
        Failed::Refused(held) => {
            let worker = held.worker;
            let asked = retry_after(&held.parts.headers, clock::wall());
            let status = held.parts.status.as_u16();
            let leg = leg_of(&snapshot, route, worker);
            let now = clock::now();
            let patience = if others(&snapshot, leg, job, state, now) {
                KEEP_BRIEFLY
            } else {
                KEEP
            };
            // An error frame stands for the status that it would have been.
            let status = if held.said_error { 500 } else { status };
            state.kept = keep(*held, patience.min(left), &snapshot.memory).await;
            (worker, CallError::Status(status), asked)
        }
        Failed::Error(worker, error) => {
            state.kept = None;
            (worker, error, None)
        }
        Failed::Leg(lost) => {
            state.kept = None;
            let (worker, error) = (lost.worker, lost.error());
            if let Some(routed) = call.routed.as_ref() {
                pair::count_failure(routed, lost.role);
            }
            let said = lost.listen(left).await;
            let asked = said.as_ref().and_then(|said| said.retry_after);
            if let Some(routed) = call.routed.as_mut() {
                routed.said = said.map(Box::new);
            }
            (worker, error, asked)
        }
    };
    if error.is_own() {
        return Next::Final(Progress::Failed(error));
    }
    let leg = leg_of(&snapshot, route, worker);
    // What a leg of a pair may do is what a worker may do that answers alone.
    let plain = match error {
        CallError::Leg(_, fault) => fault.plain(),
        other => other,
    };
    let final_status = match error {
        CallError::Leg(_, Fault::Status(status)) => !route.retry.covers(status),
        _ => false,
    };
    if matches!(
        plain,
        CallError::Connect | CallError::Timeout(Deadline::Connect)
    ) {
        leave_engine(&snapshot, leg, worker, state);
    }
    if verdict::of_error(error) == Outcome::Failure {
        state.charged.push(worker);
    }
    count_error(leg.role, error);
    let end = |state: &mut State, reason: &'static str| {
        count_exhausted(leg.role, job, reason);
        Next::Final(match state.kept.take() {
            Some((parts, body)) => Progress::Verbatim(parts, body),
            None => Progress::Failed(error),
        })
    };
    let hopeless = matches!(
        plain,
        CallError::Redirect | CallError::Timeout(Deadline::Total) | CallError::Ending
    );
    let answered = headed
        || matches!(
            plain,
            CallError::Status(_) | CallError::BrokeOff | CallError::Stream
        );
    if hopeless || final_status || answered && !job.endpoint.retries_answers() {
        return Next::Final(match state.kept.take() {
            Some((parts, body)) => Progress::Verbatim(parts, body),
            None => Progress::Failed(error),
        });
    }
    if attempts >= route.retry.attempts {
        return end(state, "attempts");
    }
    let now = clock::now();
    let left = total_by.saturating_duration_since(now);
    let too_long = asked.is_some_and(|wait| wait > route.retry.max_backoff || wait >= left);
    if too_long {
        state.set_aside.push(worker);
    }
    let elsewhere = others(&snapshot, leg, job, state, now);
    if !elsewhere && nobody_left(&snapshot, leg, state, now) {
        return end(state, "no_worker");
    }
    let transport = !matches!(plain, CallError::Status(_));
    let wait = if elsewhere && transport {
        Duration::ZERO
    } else {
        let own = route
            .retry
            .backoff(attempts.saturating_sub(1), fastrand::f64());
        let asked = asked
            .filter(|_| !too_long && !elsewhere)
            .unwrap_or_default();
        own.max(asked)
    };
    if wait >= left {
        return end(state, "deadline");
    }
    let budget = snapshot.budget(route.pool);
    if budget.is_some_and(|budget| !budget.retry(&route.retry.budget, now)) {
        return end(state, "budget");
    }
    if let Some(worker) = snapshot.worker(worker)
        && let Some(count) = worker.parts.cell.retries.get(job.endpoint.index())
    {
        count.fetch_add(1, Ordering::Relaxed);
    }
    if !wait.is_zero() {
        count_backoff(attempts, wait);
        tokio::time::sleep(wait).await;
    }
    Next::Again
}

/// Counts the ranks beside `worker`, to which nothing connects, as tried with it: they share its address.
fn leave_engine(snapshot: &Snapshot, leg: &Leg, worker: WorkerIx, state: &mut State) {
    let key_of = |ix| snapshot.worker(ix).map(|worker| &worker.plan.key);
    let Some(key) = key_of(worker).filter(|key| key.rank().is_some()) else {
        return;
    };
    for ix in &leg.candidates {
        let beside = key_of(*ix).is_some_and(|other| other.is_rank_beside(key));
        if beside && !state.tried.contains(ix) {
            state.tried.push(*ix);
        }
    }
}

/// The leg in which `worker` was tried.
fn leg_of<'a>(snapshot: &Snapshot, route: &'a Route, worker: WorkerIx) -> &'a Leg {
    snapshot
        .worker(worker)
        .and_then(|worker| route.legs.get(worker.plan.role))
        .unwrap_or_else(|| route.legs.answering())
}

/// Whether a worker is left in `leg` that this call has not tried and may go to.
fn others(snapshot: &Snapshot, leg: &Leg, job: &Job, state: &State, now: Instant) -> bool {
    !policy::is_targeted(&leg.policy, &job.headers)
        && open(snapshot, leg, now).any(|ix| !state.tried.contains(&ix))
}

/// Whether all who may be asked have asked to be left alone.
fn nobody_left(snapshot: &Snapshot, leg: &Leg, state: &State, now: Instant) -> bool {
    open(snapshot, leg, now).all(|ix| state.set_aside.contains(&ix))
}

fn open<'a>(
    snapshot: &'a Snapshot,
    leg: &'a Leg,
    now: Instant,
) -> impl Iterator<Item = WorkerIx> + 'a {
    leg.candidates.iter().copied().filter(move |ix| {
        snapshot
            .worker(*ix)
            .is_some_and(|worker| snapshot.is_open_to(worker, now))
    })
}

/// What `retry-after` asks for: seconds or a date. RFC 9110 §10.2.3.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

fn count_error(role: Role, error: CallError) {
    let labels = [
        ("worker_type", role.as_str()),
        ("connection_mode", "http"),
        ("error_type", error.label()),
    ];
    names::counter(Metric::WorkerErrors, &labels).increment(1);
}

fn count_exhausted(role: Role, job: &Job, reason: &'static str) {
    let labels = [
        ("worker_type", role.as_str()),
        ("endpoint", job.endpoint.label()),
        ("reason", reason),
    ];
    names::counter(Metric::WorkerRetriesExhausted, &labels).increment(1);
}

fn count_backoff(attempt: u32, wait: Duration) {
    let label = names::label::attempt(attempt);
    names::histogram(Metric::WorkerRetryBackoff, &[("attempt", label)]).record(wait.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let asked = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers, now)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            asked("Mon, 12 Jan 1970 13:47:10 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(asked("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
