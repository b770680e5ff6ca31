//! A worker's answer on its way to the client, frame by frame.
//!
//! The body is polled by the client's connection and polls the worker's in turn: no task, no
//! channel and no buffer lies between, so a client that reads slowly slows the worker down. The
//! in-flight guard and the call live inside and end with it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant as TokioInstant, Sleep, sleep_until};

use super::Job;
use super::attempt::{Held, dialect};
use super::call::{Call, Routed};
use super::error::{CallError, Deadline};
use super::pair::Joint;
use super::reply::Reply;
use super::verdict;
use crate::api::{Endpoint, error, sse, usage};
use crate::base::clock;
use crate::live::Phase;
use crate::plan::{Role, Timeouts};
use crate::state::{InFlight, Outcome};

/// What is sent on a silent event stream.
pub(super) const KEEPALIVE: &[u8] = b": keep-alive\n\n";

/// The answer broke off and its protocol has no frame that could say so; the connection is aborted,
/// so that the client can see the truncation.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub struct RelayError;

/// Why a relay is pending.
enum Kind {
    /// An event stream.
    Events(sse::Reader),
    /// Anything else; only its usage is looked for.
    Bytes(usage::Finder),
}

/// The body of an answer that has begun.
pub struct Relay {
    /// Taken only by [`Relay::into_call`].
    call: Option<Box<Call>>,
    endpoint: Endpoint,
    answer: Option<Reply>,
    guard: Option<InFlight>,
    kind: Kind,
    queued: VecDeque<Bytes>,
    /// Takes the usage out that the client has not asked for.
    hide: Option<Box<sse::Hide>>,
    /// No more than what is queued will follow.
    closing: bool,
    timeouts: Timeouts,
    keepalive: Duration,
    /// How long the worker has been waited for since its last event. The time in which the client
    /// does not read is not among it.
    silent: Duration,
    /// Since when it is waited for now.
    waiting: Option<Instant>,
    last_sent: Instant,
    boundary: bool,
    /// The worker has sent an error frame; no frame of ours follows it.
    failed: bool,
    /// Why it broke off.
    broke: Option<CallError>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Relay {
    pub(super) fn new(mut call: Box<Call>, job: &Job, held: Held) -> (Parts, Self) {
        let Held {
            parts,
            answer,
            guard,
            sse,
            queued,
            ended,
            said_error,
            ..
        } = held;
        call.status = parts.status.as_u16();
        let now = clock::now();
        if let Some(routed) = call.routed.as_mut() {
            routed.answered = Some(now);
        }
        let mut relay = Self::bare(call, job, now);
        if let Some(reader) = sse {
            relay.boundary = reader.at_boundary();
            relay.kind = Kind::Events(reader);
        } else if let Kind::Bytes(finder) = &mut relay.kind {
            for data in &queued {
                finder.feed(data);
            }
        }
        if said_error {
            relay.note_error();
        }
        if let (true, Kind::Events(_)) = (job.hides_usage, &relay.kind) {
            let mut hide = Box::<sse::Hide>::default();
            for data in &queued {
                hide.pass(data, &mut relay.queued);
            }
            relay.hide = Some(hide);
        } else {
            relay.queued = queued.into();
        }
        relay.guard = Some(guard);
        relay.answer = Some(answer);
        if ended {
            relay.end();
        }
        (parts, relay)
    }

    /// A stream that ends with the frame for `error`; its head has gone out before.
    pub(super) fn failed(call: Box<Call>, job: &Job, error: CallError) -> Self {
        let mut relay = Self::bare(call, job, clock::now());
        relay.kind = Kind::Events(sse::Reader::new(dialect(job.endpoint)));
        relay.boundary = true;
        relay.fail(error);
        relay
    }

    fn bare(call: Box<Call>, job: &Job, now: Instant) -> Self {
        let route = call
            .snapshot
            .route(job.route)
            .map(|(route, _)| route.timeouts);
        let forever = Duration::from_secs(365 * 24 * 3600);
        let timeouts = route.unwrap_or(Timeouts {
            connect: forever,
            headers: forever,
            first_token: forever,
            idle: forever,
            total: forever,
        });
        let keepalive = call.snapshot.plan.server.sse_keepalive;
        Self {
            endpoint: job.endpoint,
            answer: None,
            guard: None,
            kind: Kind::Bytes(usage::Finder::new()),
            queued: VecDeque::new(),
            hide: None,
            closing: false,
            timeouts,
            keepalive,
            silent: Duration::ZERO,
            waiting: None,
            last_sent: now,
            boundary: false,
            failed: false,
            broke: None,
            timer: None,
            call: Some(call),
        }
    }

    /// The call.
    pub(super) fn call(&self) -> Option<&Call> {
        self.call.as_deref()
    }

    /// The same, to be noted something on.
    pub(super) fn call_mut(&mut self) -> Option<&mut Call> {
        self.call.as_deref_mut()
    }

    /// Why the answer broke off.
    pub(super) fn broke(&self) -> Option<CallError> {
        self.broke
    }

    fn routed(&mut self) -> Option<&mut Routed> {
        self.call.as_mut()?.routed.as_mut()
    }

    /// Ends the answer and gives the call back.
    pub(super) fn into_call(mut self) -> Option<Box<Call>> {
        self.settle();
        self.call.take()
    }

    /// Takes a chunk of the answer into account; what it says about the stream's health decides.
    fn observe(&mut self, data: &Bytes, now: Instant) {
        self.last_sent = now;
        self.stop_waiting(now);
        let Some(call) = self.call.as_mut() else {
            return;
        };
        match &mut self.kind {
            Kind::Bytes(finder) => finder.feed(data),
            Kind::Events(reader) => {
                let seen = reader.read(data);
                self.boundary = seen.boundary;
                if let Some(routed) = call.routed.as_mut() {
                    routed.usage = seen.usage.or(routed.usage);
                    if seen.events > 0 {
                        self.silent = Duration::ZERO;
                    }
                    if seen.events > 0
                        && let Some(before) = routed.last_event.replace(now)
                    {
                        let gap = now.saturating_duration_since(before).as_secs_f64();
                        let series = routed.model.series(routed.endpoint);
                        series.inter_token.record(gap);
                    }
                }
                if let Some(error) = seen.error {
                    self.note_error();
                    let why = "the worker's stream reported an error";
                    self.judge(verdict::of_frame(error.code), why);
                }
            }
        }
    }

    fn count(&mut self, data: &Bytes) {
        if let Some(call) = self.call.as_mut() {
            call.bytes_out += data.len() as u64;
        }
    }

    fn stop_waiting(&mut self, now: Instant) {
        if let Some(since) = self.waiting.take() {
            self.silent += now.saturating_duration_since(since);
        }
    }

    fn note_error(&mut self) {
        self.failed = true;
        if let Some(call) = self.call.as_mut() {
            call.error_code = "stream_error";
        }
    }

    /// Tells the breaker of the worker how the attempt ended, unless it knows.
    fn judge(&mut self, outcome: Outcome, why: &str) {
        if let Some(guard) = self.guard.as_mut()
            && let Some(call) = &self.call
            && let Some(worker) = call.routed.as_ref().and_then(|routed| routed.worker)
        {
            verdict::tell(&call.snapshot, worker, guard, outcome, why);
        }
    }

    /// The worker's answer has reached its end, and is let go.
    fn end(&mut self) {
        let reply = self.answer.take();
        self.finish();
        if let Some(Reply::Pair(joint)) = reply {
            self.note(&joint);
            let good = |call: &Call| call.error_code.is_empty();
            if self.call.as_deref().is_some_and(good) {
                joint.let_go();
            }
        }
    }

    /// Notes how far the other leg of a pair has come.
    fn note(&mut self, joint: &Joint) {
        if let Some(prefilling) = self.routed().and_then(|routed| routed.prefill.as_mut()) {
            joint.tell(prefilling);
        }
    }

    fn finish(&mut self) {
        self.closing = true;
        let broken = match &mut self.kind {
            Kind::Events(reader) => {
                let seen = reader.finish();
                !reader.ended() && seen.error.is_none() && !self.failed
            }
            Kind::Bytes(finder) => {
                let usage = finder.usage();
                if let Some(routed) = self.routed() {
                    routed.usage = usage;
                }
                false
            }
        };
        if broken {
            return self.fail(CallError::Stream);
        }
        if let Some(mut hide) = self.hide.take() {
            hide.finish(&mut self.queued);
        }
        self.judge(Outcome::Success, "");
        self.guard = None;
        if let Some(routed) = self.routed() {
            routed.complete = true;
        }
    }

    /// A reader that knows the length stops asking once it has all bytes.
    fn settle(&mut self) {
        if !self.closing && self.is_end_stream() {
            self.end();
        }
    }

    /// Ends the stream with a frame that its protocol has for failures.
    fn fail(&mut self, error: CallError) {
        if let Some(Reply::Pair(joint)) = self.answer.take() {
            self.note(&joint);
        }
        // The client has been told how the stream ends; what breaks behind that is not its answer.
        let told = matches!(&self.kind, Kind::Events(reader) if reader.ended() || self.failed);
        let outcome = match error {
            // It is the other leg that failed.
            CallError::Leg(..) => Outcome::Neutral,
            // The breaker knows of an error frame already.
            _ if told => Outcome::Success,
            error => verdict::of_error(error),
        };
        self.judge(outcome, error.message());
        self.guard = None;
        self.closing = true;
        if told {
            if let Some(routed) = self.routed() {
                routed.complete = true;
            }
            return;
        }
        let paired = self.routed().is_some_and(|routed| routed.prefill.is_some());
        let error = if paired {
            error.of(Role::Decode)
        } else {
            error
        };
        let code = error.code();
        if let Some(call) = self.call.as_mut() {
            call.error_code = code.as_str();
            if let Some(routed) = call.routed.as_mut() {
                routed.complete = true;
            }
        }
        if let Kind::Events(reader) = &self.kind {
            let mut frame = Vec::new();
            if !reader.at_boundary() {
                // Cuts off the event that the worker left half-written, so that ours stands alone.
                frame.extend_from_slice(b"\n\n");
            }
            match self.endpoint {
                Endpoint::Responses => frame.extend(error::response_failed_frame(
                    reader.next_sequence(),
                    reader.response_id().unwrap_or("resp_unknown"),
                    code,
                    error.message(),
                )),
                _ => frame.extend(error::stream_frame(code, error.message())),
            }
            self.queued.push_back(frame.into());
        }
    }

    /// The same, and whether only a broken connection can show it.
    fn breaks_off(&mut self, error: CallError) -> bool {
        self.fail(error);
        self.broke = Some(error);
        matches!(self.kind, Kind::Bytes(_))
    }

    /// Whether the time of the whole call is over at `now`.
    fn is_over(&self, now: Instant) -> bool {
        let call = self.call.as_ref();
        call.is_some_and(|call| now >= call.started + self.timeouts.total)
    }

    /// Waits for whatever ends a silence: a deadline, a comment that is due, the end of the grace
    /// period.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Silence> {
        let Some(call) = self.call.as_ref() else {
            return Poll::Pending;
        };
        let started = call.started;
        if call.phase() == Phase::Ending {
            return Poll::Ready(Silence::Over(CallError::Ending));
        }
        loop {
            let now = clock::now();
            let (events, ended) = match &self.kind {
                Kind::Events(reader) => (true, reader.ended()),
                Kind::Bytes(_) => (false, false),
            };
            let total_by = started + self.timeouts.total;
            let mut by = total_by;
            if events {
                let since = *self.waiting.get_or_insert(now);
                let idle_by = since + self.timeouts.idle.saturating_sub(self.silent);
                if now >= idle_by {
                    return Poll::Ready(Silence::Over(CallError::Timeout(Deadline::Idle)));
                }
                by = by.min(idle_by);
                // Behind the terminator nothing is to be said.
                if !self.keepalive.is_zero() && self.boundary && !ended {
                    let due = self.last_sent + self.keepalive;
                    if now >= due {
                        self.last_sent = now;
                        self.stop_waiting(now);
                        return Poll::Ready(Silence::Comment);
                    }
                    by = by.min(due);
                }
            }
            if now >= total_by {
                return Poll::Ready(Silence::Over(CallError::Timeout(Deadline::Total)));
            }
            // The timer is moved only when it fires: a chunk costs no trip to the timer wheel.
            let by = TokioInstant::from_std(by);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(by)));
            if timer.deadline() > by || timer.is_elapsed() {
                timer.as_mut().reset(by);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

enum Silence {
    Comment,
    Over(CallError),
}

impl Body for Relay {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let this = self.get_mut();
        loop {
            if let Some(data) = this.queued.pop_front() {
                this.count(&data);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if this.closing {
                return Poll::Ready(None);
            }
            let Some(answer) = this.answer.as_mut() else {
                return Poll::Ready(None);
            };
            match Pin::new(answer).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let now = clock::now();
                    // A client that reads slowly never waits for the worker, and has no more time
                    // than others.
                    if this.is_over(now) {
                        if this.breaks_off(CallError::Timeout(Deadline::Total)) {
                            return Poll::Ready(Some(Err(RelayError)));
                        }
                        continue;
                    }
                    if let Some(data) = frame.data_ref() {
                        this.observe(data, now);
                        if let Some(hide) = this.hide.as_mut() {
                            hide.pass(data, &mut this.queued);
                            continue;
                        }
                        this.count(data);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(None) => this.end(),
                Poll::Ready(Some(Err(error))) => {
                    if this.breaks_off(error.error()) {
                        return Poll::Ready(Some(Err(RelayError)));
                    }
                }
                Poll::Pending => match ready!(this.poll_silence(cx)) {
                    Silence::Comment => {
                        this.queued.push_back(Bytes::from_static(KEEPALIVE));
                    }
                    Silence::Over(error) => {
                        if this.breaks_off(error) {
                            return Poll::Ready(Some(Err(RelayError)));
                        }
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.answer.as_ref().is_none_or(Body::is_end_stream);
        matches!(self.kind, Kind::Bytes(_)) && self.queued.is_empty() && rest
    }

    fn size_hint(&self) -> SizeHint {
        let queued = self.queued.iter().map(Bytes::len).sum::<usize>() as u64;
        match (&self.kind, &self.answer) {
            (Kind::Bytes(_), Some(answer)) => {
                let mut hint = SizeHint::new();
                let rest = answer.size_hint();
                hint.set_lower(rest.lower() + queued);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + queued);
                }
                hint
            }
            (Kind::Bytes(_), None) => SizeHint::with_exact(queued),
            (Kind::Events(_), _) => SizeHint::new(),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.settle();
        if let Some(Reply::Pair(joint)) = self.answer.take() {
            self.note(&joint);
        }
    }
}
