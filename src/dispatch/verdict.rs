//! What the end of an attempt says about the worker that had it. The breaker of the worker is told
//! here and nowhere else.

use http::StatusCode;
use http::header::{HeaderMap, RETRY_AFTER};

use super::error::{CallError, Deadline};
use crate::base::clock;
use crate::live::Snapshot;
use crate::plan::WorkerIx;
use crate::state::{BreakerState, InFlight, Outcome};
use crate::telemetry::event;

/// Of an attempt that ended with `error`.
pub(super) fn of_error(error: CallError) -> Outcome {
    match error {
        CallError::Connect
        | CallError::Broken
        | CallError::BrokeOff
        | CallError::Malformed
        | CallError::Stream => Outcome::Failure,
        // Whoever used the time up, it need not have been this worker.
        CallError::Timeout(Deadline::Total) => Outcome::Neutral,
        CallError::Timeout(
            Deadline::Connect | Deadline::Headers | Deadline::FirstToken | Deadline::Idle,
        ) => Outcome::Failure,
        CallError::Redirect => Outcome::Success,
        CallError::Status(status) => of_status(status),
        CallError::Leg(_, fault) => of_error(fault.plain()),
        CallError::NoWorker
        | CallError::Target
        | CallError::NoLeg(_)
        | CallError::Unbuildable
        | CallError::Short(_)
        | CallError::Ending => Outcome::Neutral,
    }
}

/// Of an answer with `status` that comes to its good end.
pub(super) fn of_status(status: u16) -> Outcome {
    match status {
        400..=499 => Outcome::Neutral,
        500 | 502 | 503 | 504 => Outcome::Failure,
        _ => Outcome::Success,
    }
}

/// Of a head, where it says already how the attempt ends; a success shows at the end of its body.
pub(super) fn of_head(status: StatusCode, headers: &HeaderMap) -> Option<Outcome> {
    match of_status(status.as_u16()) {
        Outcome::Success => None,
        Outcome::Failure
            if status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key(RETRY_AFTER) =>
        {
            Some(Outcome::Overloaded)
        }
        outcome => Some(outcome),
    }
}

/// Of an error frame with this code in a stream.
pub(super) fn of_frame(code: Option<u16>) -> Outcome {
    match code {
        Some(400..=499) => Outcome::Neutral,
        _ => Outcome::Failure,
    }
}

/// Tells the breaker of `worker`, which `guard` keeps busy, unless it has been told before; `why` says
/// how the worker failed.
pub(super) fn tell(
    snapshot: &Snapshot,
    worker: WorkerIx,
    guard: &mut InFlight,
    outcome: Outcome,
    why: &str,
) {
    let Some(turn) = guard.judge(outcome, clock::now()) else {
        return;
    };
    let Some(worker) = snapshot.worker(worker) else {
        return;
    };
    let worker = event::Worker {
        url: worker.plan.key.as_str(),
        id: worker.parts.id_str(),
        pool: &snapshot.plan.pool(worker.plan.pool).name,
    };
    match turn.to {
        BreakerState::Open => event::BreakerOpened { worker, error: why }.emit(),
        BreakerState::Closed => event::BreakerClosed { worker }.emit(),
        BreakerState::HalfOpen => {}
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::dispatch::Fault;
    use crate::plan::Role;

    #[test]
    fn clients_at_fault_say_nothing_about_the_worker() {
        let of = |status: u16| of_head(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
        for status in 400..500 {
            assert_eq!(of(status), Some(Outcome::Neutral), "{status}");
        }
        for status in [500, 502, 503, 504] {
            assert_eq!(of(status), Some(Outcome::Failure), "{status}");
        }
        for status in [200, 204, 301, 304, 501, 505, 599] {
            assert_eq!(of(status), None, "{status}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        let busy = of_head(StatusCode::SERVICE_UNAVAILABLE, &headers);
        assert_eq!(busy, Some(Outcome::Overloaded));
        let frames = [None, Some(429), Some(500)].map(of_frame);
        let (failure, neutral) = (Outcome::Failure, Outcome::Neutral);
        assert_eq!(frames, [failure, neutral, failure]);
    }

    #[test]
    fn only_the_deadline_of_the_whole_request_is_not_the_workers() {
        for which in [
            Deadline::Connect,
            Deadline::Headers,
            Deadline::FirstToken,
            Deadline::Idle,
        ] {
            let leg = CallError::Leg(Role::Decode, Fault::Timeout(which));
            for error in [CallError::Timeout(which), leg] {
                assert_eq!(of_error(error), Outcome::Failure, "{error:?}");
            }
        }
        let total = CallError::Timeout(Deadline::Total);
        assert_eq!(of_error(total), Outcome::Neutral);
        assert_eq!(of_error(CallError::Ending), Outcome::Neutral);
    }
}
