//! Attempts: pick, call, classify, account, retry.
//!
//! Invariant: no byte of a request is sent again after a byte of a worker's answer has gone to the
//! client. Whatever ends a call, its in-flight guard and its counters end with it.

mod attempt;
mod branches;
mod call;
pub mod choose;
mod error;
mod fewest;
mod late;
pub mod mirror;
mod pair;
mod rank;
mod relay;
mod reply;
mod retry;
pub mod target;
mod trace;
mod verdict;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::Response;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::response::Parts;
use http_body::{Body, Frame, SizeHint};

use self::attempt::{Held, Tried};
pub use self::call::{Audited, Call, Placed, Prefilling, Routed, Said, error_type};
pub use self::error::{CallError, Deadline, Fault, Shortage};
use self::late::Late;
pub use self::relay::{Relay, RelayError};
pub use self::trace::Trace;
use crate::api::members::Outline;
use crate::api::prompt::Prompt;
use crate::api::scan::Fields;
use crate::api::{Endpoint, Payload};
use crate::base::clock;
use crate::live::Phase;
use crate::plan::{RouteIx, WorkerIx};
use crate::policy::Mode;
use crate::state::Reservation;

/// What a worker is to be asked.
#[derive(Debug)]
pub struct Job {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The route that the model name led to.
    pub route: RouteIx,
    /// The model that the worker is asked for.
    pub model: Arc<str>,
    /// Headers as the client sent them; only those of the allow-list go on.
    pub headers: HeaderMap,
    /// The body that the worker gets.
    pub body: Payload,
    /// The body that the client sent, which `fields` describes.
    pub original: Payload,
    /// Where routing finds what it looks at.
    pub fields: Fields,
    /// Whether the client asked for a stream.
    pub streaming: bool,
    /// Whether the usage of a stream is asked for on the gateway's own account, and is taken out for
    /// the client.
    pub hides_usage: bool,
    /// What the bodies take up, for as long as they may have to be sent again.
    pub memory: Arc<Reservation>,
}

impl Job {
    /// What choosing a worker needs of it.
    fn request(&self, mode: Mode) -> choose::Request<'_> {
        choose::Request {
            route: self.route,
            prompt: Prompt::new(self.endpoint, self.original.pieces(), &self.fields),
            model: &self.model,
            headers: &self.headers,
            mode,
            now: clock::now(),
            seed: fastrand::u64(..),
        }
    }

    /// The client's credential, where the pool of `worker` asks for it. What is marked as sensitive
    /// stands where one of the gateway's was, and stays here.
    fn credential(&self, forward: bool) -> Option<&HeaderValue> {
        let own = self.headers.get(AUTHORIZATION);
        own.filter(|value| forward && !value.is_sensitive())
    }
}

/// What is remembered between the attempts of one call.
#[derive(Default)]
struct State {
    /// Workers already tried; passed over while others are usable.
    tried: Vec<WorkerIx>,
    /// Workers that asked not to be called again before this call's time is over.
    set_aside: Vec<WorkerIx>,
    /// Workers that have failed this call; a breaker hears of that once.
    charged: Vec<WorkerIx>,
    /// The answer of the latest attempt, if it was refused: given verbatim if nothing better comes.
    kept: Option<(Parts, Bytes)>,
    /// An answer whose head has gone out and whose first event has not come.
    held: Option<Box<Held>>,
    /// Where the members of the body stand that differ between the legs of a pair.
    outline: Option<Box<Outline>>,
}

/// How far a call has come.
enum Progress {
    /// A worker's answer has begun.
    Begun(Box<Held>),
    /// Attempts are used up; this is what the last worker said.
    Verbatim(Parts, Bytes),
    /// There is no answer.
    Failed(CallError),
    /// The head may go out although the first event has not come.
    Head(Parts),
}

/// The body of an answer.
pub enum Answered {
    /// Comes from a worker.
    Relay(Box<Relay>),
    /// Its head has gone out; the first event is still to come, perhaps from another worker.
    Late(Box<Late>),
    /// A worker's refusal, already read.
    Kept(Bytes, Box<Call>),
}

/// Runs `job` until an answer has begun.
///
/// Cancel safety: dropping the future ends the attempt and releases the worker.
///
/// # Errors
/// The call and why nobody answered it, for the caller to tell the client.
pub async fn run(
    mut call: Box<Call>,
    job: Job,
) -> Result<Response<Answered>, (Box<Call>, CallError)> {
    let job = Arc::new(job);
    let keepalive = call.snapshot.plan.server.sse_keepalive;
    let release = (job.streaming && !keepalive.is_zero()).then_some(keepalive);
    let mut state = State::default();
    if let Some((route, _)) = call.snapshot.route(job.route)
        && let Some(budget) = call.snapshot.budget(route.pool)
    {
        budget.request(clock::now());
    }
    match advance(&mut call, &job, &mut state, release).await {
        Progress::Begun(held) => {
            let (parts, relay) = Relay::new(call, &job, *held);
            Ok(Response::from_parts(
                parts,
                Answered::Relay(Box::new(relay)),
            ))
        }
        Progress::Verbatim(parts, body) => {
            call.status = parts.status.as_u16();
            call.bytes_out = body.len() as u64;
            if parts.status.is_success() {
                // No other answer of this kind is kept than a stream that began with an error.
                call.error_code = "stream_error";
            }
            if let Some(routed) = call.routed.as_mut() {
                routed.complete = true;
            }
            Ok(Response::from_parts(parts, Answered::Kept(body, call)))
        }
        Progress::Failed(error) => Err((call, error)),
        Progress::Head(parts) => {
            call.status = parts.status.as_u16();
            let late = Late::new(call, job, state, keepalive);
            Ok(Response::from_parts(parts, Answered::Late(Box::new(late))))
        }
    }
}

/// Attempts until an answer has begun, the attempts are used up, the head is to be released, or the
/// gateway ends.
async fn advance(
    call: &mut Box<Call>,
    job: &Job,
    state: &mut State,
    release: Option<Duration>,
) -> Progress {
    let live = call.live();
    let mut attempts = pin!(attempts(call, job, state, release));
    poll_fn(|cx| {
        let progress = attempts.as_mut().poll(cx);
        // Whoever serves the connection wakes it when the grace period is over.
        if progress.is_pending() && live.phase() == Phase::Ending {
            return Poll::Ready(Progress::Failed(CallError::Ending));
        }
        progress
    })
    .await
}

async fn attempts(
    call: &mut Box<Call>,
    job: &Job,
    state: &mut State,
    release: Option<Duration>,
) -> Progress {
    let pair = call
        .snapshot
        .route(job.route)
        .is_some_and(|(route, _)| route.legs.is_pair());
    loop {
        let tried = match state.held.take() {
            Some(held) => Box::pin(attempt::resume(call, job, held)).await,
            None if pair => Box::pin(pair::attempt(call, job, state, release)).await,
            None => attempt::attempt(call, job, state, release).await,
        };
        let tried = if pair { pair::named(tried) } else { tried };
        let failure = match tried {
            Tried::Begun(held) => return Progress::Begun(held),
            Tried::Waiting(held) => {
                let head = copy(&held.parts);
                state.held = Some(held);
                return Progress::Head(head);
            }
            Tried::Nobody(refused) => {
                return match state.kept.take() {
                    Some((parts, body)) => Progress::Verbatim(parts, body),
                    None => Progress::Failed(refused.into()),
                };
            }
            Tried::Refused(held) if retry::is_last(call, job) => {
                retry::count_last(job);
                return Progress::Begun(held);
            }
            Tried::Refused(held) => retry::Failed::Refused(held),
            Tried::Failed { worker, error } => retry::Failed::Error(worker, error),
            Tried::Unpaired(error) => return Progress::Failed(error),
            Tried::Leg(lost) => retry::Failed::Leg(lost),
        };
        let noted = &mut **call;
        if let Some(routed) = noted.routed.as_mut()
            && let Some(sent) = routed.sent.take()
        {
            let series = routed.model.series(routed.endpoint);
            series.stages.upstream(sent, clock::now());
        }
        if let Some(trace) = noted.trace.as_mut() {
            trace.failed(noted.routed.as_ref(), &failure);
        }
        match Box::pin(retry::next(call, job, state, failure)).await {
            retry::Next::Again => {
                if let Some(trace) = call.trace.as_mut() {
                    trace.retry();
                }
            }
            retry::Next::Final(progress) => return progress,
        }
    }
}

/// The head alone. Response parts cannot be cloned with their extensions, and need not be.
fn copy(parts: &Parts) -> Parts {
    let mut response = Response::new(());
    *response.status_mut() = parts.status;
    response.headers_mut().clone_from(&parts.headers);
    response.into_parts().0
}

impl Answered {
    /// The call that the answer belongs to; `None` while a late stream's next attempt holds it.
    pub fn call(&self) -> Option<&Call> {
        match self {
            Self::Relay(relay) => relay.call(),
            Self::Kept(_, call) => Some(call),
            Self::Late(_) => None,
        }
    }

    /// The same, to be noted something on.
    pub fn call_mut(&mut self) -> Option<&mut Call> {
        match self {
            Self::Relay(relay) => relay.call_mut(),
            Self::Kept(_, call) => Some(call),
            Self::Late(late) => late.call_mut(),
        }
    }

    /// Why the answer broke off, once it has.
    pub fn broke(&self) -> Option<CallError> {
        match self {
            Self::Relay(relay) => relay.broke(),
            Self::Kept(..) | Self::Late(_) => None,
        }
    }

    /// Ends the answer and gives the call back, for an endpoint that answers in its own words.
    /// `None` for a late stream, whose head has gone out.
    pub fn into_call(self) -> Option<Box<Call>> {
        match self {
            Self::Relay(relay) => relay.into_call(),
            Self::Kept(_, call) => Some(call),
            Self::Late(_) => None,
        }
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match self.get_mut() {
            Self::Relay(relay) => Pin::new(&mut **relay).poll_frame(cx),
            Self::Late(late) => Pin::new(&mut **late).poll_frame(cx),
            Self::Kept(data, _) => {
                let data = std::mem::take(data);
                Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relay(relay) => relay.is_end_stream(),
            Self::Late(_) => false,
            Self::Kept(data, _) => data.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relay(relay) => relay.size_hint(),
            Self::Late(_) => SizeHint::new(),
            Self::Kept(data, _) => SizeHint::with_exact(data.len() as u64),
        }
    }
}
