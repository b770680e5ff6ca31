//! Letting a request in, or having it wait for that.

use std::pin::pin;
use std::task::Poll;

use futures_util::future::poll_fn;

use crate::base::clock;
use crate::dispatch::{Call, CallError};
use crate::live::Phase;
use crate::plan::{DEFAULT_CLASS, DestinationIx};
use crate::serve::error::Refusal;
use crate::serve::gate::Gate;
use crate::state::{Entering, Permit, Waiting};

/// How a request was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// As soon as it had come.
    AtOnce,
    /// After a wait: what was decided before it may hold no more.
    Waited,
}

/// Gives `call` its permit, which it holds to the end of its answer.
///
/// Cancel safety: dropping the future gives up the place in the queue.
///
/// # Errors
/// Why it is not let in.
pub(super) async fn enter(
    gate: &Gate,
    call: &mut Call,
    destination: DestinationIx,
) -> Result<Entered, Refusal> {
    let Some((entry, class)) = call.snapshot.entry(destination) else {
        return Ok(Entered::AtOnce);
    };
    let auth = &call.snapshot.plan.auth;
    let tenant = call.caller.tenant.and_then(|ix| auth.tenant(ix));
    let of_tenant = tenant.and_then(|tenant| tenant.class.as_ref());
    // A model that names its class has the first word.
    let class = of_tenant
        .filter(|_| **class == *DEFAULT_CLASS)
        .unwrap_or(class);
    let (permit, entered) = match entry.enter(class, &call.caller.identity) {
        Entering::In(permit) => (permit, Entered::AtOnce),
        Entering::Shut(why) => return Err(Refusal::shut(why)),
        // Boxed, so that the future of a request that does not wait stays small.
        Entering::Waits(waiting) => {
            let permit = Box::pin(queued(gate, call, waiting)).await?;
            (permit, Entered::Waited)
        }
    };
    call.permit = Some(permit);
    Ok(entered)
}

async fn queued(gate: &Gate, call: &mut Call, waiting: Waiting) -> Result<Permit, Refusal> {
    let since = clock::now();
    let route = call
        .routed
        .as_ref()
        .and_then(|routed| call.snapshot.route(routed.route));
    let total = route.map_or(call.snapshot.plan.server.request_timeout, |(route, _)| {
        route.timeouts.total
    });
    let mut admitted = pin!(waiting.admitted(call.started + total));
    let outcome = poll_fn(|cx| {
        // Whoever serves the connection wakes it when the grace period is over. What ends then makes
        // room, but not for a beginning.
        if gate.live.phase() == Phase::Ending {
            return Poll::Ready(Err(CallError::Ending.into()));
        }
        admitted
            .as_mut()
            .poll(cx)
            .map(|outcome| outcome.map_err(Refusal::late))
    })
    .await;
    if let Some(routed) = call.routed.as_mut() {
        routed.queued = clock::now().saturating_duration_since(since);
    }
    outcome
}
