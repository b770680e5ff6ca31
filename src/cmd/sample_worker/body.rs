//! Bodies of answers. A stream makes its own events when they are due: no task and no channel
//! stands behind it, so that a waiting stream costs a timer and a few hundred bytes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::engine::{Engine, Pace, Ticket};
use super::fault::{Cut, End};
use super::shape::{ERROR, Script};
use super::stats::Presence;
use crate::base::clock;

/// Events that are due at the same time share a frame up to about this many bytes.
const FRAME: usize = 16 * 1024;
/// About the size of an event.
const EVENT: usize = 320;
/// How long a reset leaves the connection to write what was sent before.
const FLUSH: Duration = Duration::from_millis(5);
const GARBAGE: &[u8] = b"\x00\xff\xfe<<< this is not an event >>>\x00\xff";

/// The answer was broken off on purpose.
#[derive(Debug, thiserror::Error)]
#[error("broken off by a sample fault")]
pub(super) struct Aborted;

/// A body. The presence of its request, if it is counted, ends when the body is dropped.
#[derive(Debug)]
pub(super) struct Body {
    presence: Option<Presence>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Whole(Option<Bytes>),
    Broken(Broken),
    Stream(Box<Stream>),
}

/// Sets the flag that makes the connection's end a TCP reset; `None` where one connection carries
/// other streams too.
pub(super) type Abort = Option<Arc<AtomicBool>>;

impl Body {
    /// A body known in full.
    pub(super) fn whole(bytes: Bytes, presence: Option<Presence>) -> Self {
        Self {
            presence,
            kind: Kind::Whole(Some(bytes)),
        }
    }

    /// The first `cut.after` bytes of a body, then the end that `cut` says.
    pub(super) fn broken(
        mut bytes: Bytes,
        cut: Cut,
        presence: Option<Presence>,
        abort: Abort,
    ) -> Self {
        if cut.end == End::ErrorFrame {
            return Self::whole(Bytes::from_static(ERROR.as_bytes()), presence);
        }
        let declared = bytes.len() as u64;
        bytes.truncate(cut.after as usize);
        if cut.end == End::Garbage {
            bytes = [&bytes, GARBAGE].concat().into();
        }
        // A body that breaks promises its full length, one that is cut short does not.
        let declared = (cut.end == End::Reset || cut.end == End::Stall).then_some(declared);
        let broken = Broken {
            bytes: Some(bytes),
            end: cut.end.into(),
            declared,
            abort,
        };
        Self {
            presence,
            kind: Kind::Broken(broken),
        }
    }

    /// The events of `script`, at the engine's pace.
    pub(super) fn stream(
        engine: Arc<Engine>,
        script: Script,
        cut: Option<Cut>,
        presence: Option<Presence>,
        abort: Abort,
    ) -> Self {
        let job = &script.job;
        let ticket = engine.enter(job.rank, job.prompt_tokens() + job.completion_tokens());
        let phase = match engine.slots() {
            None => Phase::Start(None),
            Some(slots) => Phase::Queued(Box::pin(async move { slots.acquire_owned().await.ok() })),
        };
        let stream = Stream {
            engine,
            steps: job.steps(),
            script,
            phase,
            step: 0,
            pace: Pace::default(),
            timer: None,
            cut,
            ticket: Some(ticket),
            abort,
        };
        Self {
            presence,
            kind: Kind::Stream(Box::new(stream)),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let this = self.get_mut();
        let next = match &mut this.kind {
            Kind::Whole(bytes) => bytes.take().map(Ok),
            Kind::Broken(broken) => ready!(broken.poll(cx)),
            Kind::Stream(stream) => ready!(stream.poll(cx)),
        };
        let ended = next.is_none() || this.is_end();
        if let Some(presence) = &mut this.presence {
            if let Some(Ok(bytes)) = &next {
                presence.sent(bytes.len());
            }
            if ended {
                presence.complete();
            }
        }
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Broken(Broken {
                declared: Some(bytes),
                ..
            }) => SizeHint::with_exact(*bytes),
            Kind::Broken(_) | Kind::Stream(_) => SizeHint::default(),
        }
    }
}

impl Body {
    fn is_end(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Broken(broken) => broken.bytes.is_none() && matches!(broken.end, Close::Done),
            Kind::Stream(stream) => matches!(stream.phase, Phase::Close(Close::Done)),
        }
    }
}

/// What is left to do when there is nothing more to send.
#[derive(Debug)]
enum Close {
    Done,
    Stall,
    /// A reset drops what the connection has not written yet, so it waits a little.
    Flush(Pin<Box<Sleep>>),
}

impl From<End> for Close {
    fn from(end: End) -> Self {
        match end {
            End::Stall => Self::Stall,
            End::Reset => Self::Flush(Box::pin(tokio::time::sleep(FLUSH))),
            End::Truncate | End::Garbage | End::ErrorFrame => Self::Done,
        }
    }
}

impl Close {
    fn poll(
        &mut self,
        abort: &Abort,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Aborted>>> {
        match self {
            Self::Done => Poll::Ready(None),
            Self::Stall => Poll::Pending,
            Self::Flush(timer) => {
                ready!(timer.as_mut().poll(cx));
                *self = Self::Done;
                if let Some(abort) = abort {
                    abort.store(true, Ordering::Relaxed);
                }
                Poll::Ready(Some(Err(Aborted)))
            }
        }
    }
}

#[derive(Debug)]
struct Broken {
    bytes: Option<Bytes>,
    end: Close,
    declared: Option<u64>,
    abort: Abort,
}

impl Broken {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Aborted>>> {
        match self.bytes.take().filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => Poll::Ready(Some(Ok(bytes))),
            None => self.end.poll(&self.abort, cx),
        }
    }
}

struct Stream {
    engine: Arc<Engine>,
    script: Script,
    phase: Phase,
    /// Steps taken, of `steps`.
    step: u32,
    steps: u32,
    pace: Pace,
    timer: Option<Pin<Box<Sleep>>>,
    cut: Option<Cut>,
    /// Held until the last event has been made.
    ticket: Option<Ticket>,
    abort: Abort,
}

type Turn = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

enum Phase {
    Queued(Turn),
    Start(Option<OwnedSemaphorePermit>),
    Decode,
    Close(Close),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Aborted>>> {
        loop {
            match &mut self.phase {
                Phase::Queued(turn) => {
                    let slot = ready!(turn.as_mut().poll(cx));
                    self.phase = Phase::Start(slot);
                }
                Phase::Start(slot) => {
                    if let Some(ticket) = &mut self.ticket {
                        ticket.start(slot.take());
                    }
                    let job = &mut self.script.job;
                    self.pace = self.engine.prefill(job.rank, &mut job.prompts);
                    self.phase = Phase::Decode;
                }
                Phase::Decode => {
                    let now = ready!(self.poll_due(cx));
                    let events = self.decode(now);
                    if !events.is_empty() {
                        return Poll::Ready(Some(Ok(events.into())));
                    }
                }
                Phase::Close(close) => return close.poll(&self.abort, cx),
            }
        }
    }

    /// Waits until the next step is due; gives the time, if the pace asks for it.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Option<Instant>> {
        let Some(due) = self.pace.due(self.step) else {
            return Poll::Ready(None);
        };
        let now = clock::now();
        if due <= now {
            return Poll::Ready(Some(now));
        }
        let due = due.into();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx).map(|()| Some(clock::now()))
    }

    /// The events that are due by `now`.
    fn decode(&mut self, now: Option<Instant>) -> Vec<u8> {
        let cut_at = self.cut.map_or(u32::MAX, |cut| cut.after);
        let steps = if now.is_none() {
            self.steps - self.step
        } else {
            1
        };
        let events = self
            .script
            .job
            .answers
            .len()
            .saturating_mul(steps as usize + 2);
        let mut out = Vec::with_capacity(events.saturating_mul(EVENT).min(FRAME + EVENT));
        if self.step == 0 && cut_at > 0 {
            self.script.open(&mut out);
        }
        let mut made = 0;
        while self.step < self.steps.min(cut_at) && out.len() < FRAME && self.is_due(now) {
            made += self.take_step(&mut out);
        }
        if let Some(ticket) = &self.ticket {
            ticket.generated(made);
        }
        if self.step < self.steps.min(cut_at) {
            return out;
        }
        let close = match self.cut {
            None => {
                self.script.tail(&mut out);
                Close::Done
            }
            Some(Cut { end, .. }) => {
                match end {
                    End::Garbage => out.extend_from_slice(GARBAGE),
                    End::ErrorFrame => self.script.error(self.step, &mut out),
                    End::Stall | End::Reset | End::Truncate => {}
                }
                end.into()
            }
        };
        // A stalled answer keeps its place in the engine, as a hanging one would.
        if !matches!(close, Close::Stall) {
            self.ticket = None;
        }
        self.phase = Phase::Close(close);
        out
    }

    fn is_due(&self, now: Option<Instant>) -> bool {
        match (self.pace.due(self.step), now) {
            (Some(due), Some(now)) => due <= now,
            _ => true,
        }
    }

    fn take_step(&mut self, out: &mut Vec<u8>) -> u64 {
        let mut made = 0;
        for (index, answer) in self.script.job.answers.iter().enumerate() {
            if self.step < answer.tokens() {
                self.script.token(index, self.step, out);
                made += 1;
            }
            if self.step + 1 == answer.tokens().max(1) {
                self.script.finish(index, out);
            }
        }
        self.step += 1;
        made
    }
}
