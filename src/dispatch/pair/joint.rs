//! The answer of a pair whose legs run beside each other: decode's, for as long as prefill does not
//! fail.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::timeout;

use super::super::call::Prefilling;
use super::super::reply::ReplyError;
use super::leg::Lost;
use super::prefill::{Prefilled, Running};
use crate::api::logprobs::{Lines, Logprobs};
use crate::base::task;
use crate::state::Reservation;
use crate::upstream::Answer;

/// Longest that a prefill is read after decode has answered.
const DRAIN: Duration = Duration::from_secs(5);

/// An answer above this is not merged.
const MAX: usize = 64 * 1024 * 1024;

/// Most that is read of a stream while prefill is not done.
const AHEAD: usize = 1024 * 1024;

/// Both legs of a pair.
pub(in super::super) struct Joint {
    decode: Answer,
    /// Decode has said everything.
    ended: bool,
    /// The client has got something.
    begun: bool,
    side: Side,
    merge: Merge,
    /// What is held back takes up so much.
    memory: Reservation,
    failed: Option<Box<Lost>>,
}

/// The leg that reads the prompt.
pub(super) enum Side {
    Running(Running),
    /// Nothing where it has failed.
    Done(Option<Prefilled>),
}

/// What is done to decode's answer.
pub(super) enum Merge {
    /// It passes as it comes.
    Off,
    /// It is one text that prefill's logprobs are put into.
    Whole(Vec<u8>),
    /// It is a stream with events that prefill's logprobs are put into.
    Events(Lines),
}

impl Side {
    /// Drives a prefill under way; what it failed with, once.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Box<Lost>>> {
        let Self::Running(running) = self else {
            return Poll::Ready(Ok(()));
        };
        let done = ready!(running.as_mut().poll(cx));
        // What has ended must not be asked again.
        let (prefilled, outcome) = match done {
            Ok(prefilled) => (Some(prefilled), Ok(())),
            Err(lost) => (None, Err(lost)),
        };
        *self = Self::Done(prefilled);
        Poll::Ready(outcome)
    }
}

impl Joint {
    /// Of decode's answer, whose head has come.
    pub(super) fn new(decode: Answer, side: Side, merge: Merge, memory: Reservation) -> Self {
        Self {
            decode,
            ended: false,
            begun: false,
            side,
            merge,
            memory,
            failed: None,
        }
    }

    /// The next of decode's frames, as the client is to see it.
    pub(in super::super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        if let Some(lost) = self.failed.take() {
            return Poll::Ready(Some(Err(ReplyError::Leg(lost))));
        }
        if matches!(self.merge, Merge::Off) {
            return self.poll_as_it_comes(cx);
        }
        loop {
            // Decode is read as far as it goes, so that its failure is seen.
            let mut dry = self.ended;
            while !dry && self.has_room() {
                match Pin::new(&mut self.decode).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if !self.hold_back(&frame.into_data().unwrap_or_default()) {
                            return Poll::Ready(Some(Err(ReplyError::Short)));
                        }
                    }
                    Poll::Ready(Some(Err(_))) => {
                        return Poll::Ready(Some(Err(ReplyError::BrokeOff)));
                    }
                    Poll::Ready(None) => {
                        self.ended = true;
                        dry = true;
                    }
                    Poll::Pending => dry = true,
                }
            }
            if let Err(lost) = ready!(self.side.poll(cx))
                && !(self.begun && lost.tolerable)
            {
                return Poll::Ready(Some(Err(ReplyError::Leg(lost))));
            }
            let Some(out) = self.merged() else {
                return Poll::Ready(Some(Err(ReplyError::Short)));
            };
            if !out.is_empty() {
                self.begun = true;
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if dry {
                return Poll::Pending;
            }
        }
    }

    fn poll_as_it_comes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        let frame = Pin::new(&mut self.decode).poll_frame(cx);
        // What decode has said stands first: on a tie it is decode that failed, or that answered.
        self.begun |= matches!(frame, Poll::Ready(Some(Ok(_))));
        if let Poll::Ready(Err(lost)) = self.side.poll(cx)
            && !(self.begun && lost.tolerable)
        {
            if frame.is_pending() {
                return Poll::Ready(Some(Err(ReplyError::Leg(lost))));
            }
            self.failed = Some(lost);
        }
        frame.map_err(|_| ReplyError::BrokeOff)
    }

    /// What can go out of what was held back; nothing without the memory to put it together.
    fn merged(&mut self) -> Option<Bytes> {
        let none = Logprobs::default();
        let own = match &self.side {
            Side::Done(Some(prefilled)) => &prefilled.logprobs,
            Side::Done(None) | Side::Running(_) => &none,
        };
        match &mut self.merge {
            Merge::Off => Some(Bytes::new()),
            Merge::Whole(text) if self.ended => {
                // There are two of it while one is made of the other.
                if !self.memory.grow(text.len()) {
                    return None;
                }
                let out = own.merged(&std::mem::take(text));
                self.memory.shrink_to(out.len());
                Some(self.memory.take().around(out))
            }
            Merge::Whole(text) if text.len() >= MAX => {
                let text = std::mem::take(text);
                self.merge = Merge::Off;
                Some(self.memory.take().around(text))
            }
            Merge::Whole(_) => Some(Bytes::new()),
            Merge::Events(lines) => {
                let mut out = lines.read(own);
                if out.is_empty() && self.ended {
                    out = lines.finish();
                }
                self.memory.shrink_to(lines.len());
                Some(out.into())
            }
        }
    }

    fn held_back(&self) -> usize {
        match &self.merge {
            Merge::Off => 0,
            Merge::Whole(text) => text.len(),
            Merge::Events(lines) => lines.len(),
        }
    }

    /// Whether decode may say more before something goes on.
    fn has_room(&mut self) -> bool {
        match &mut self.merge {
            Merge::Off => false,
            Merge::Whole(text) => text.len() < MAX,
            Merge::Events(lines) => lines.len() < AHEAD || lines.is_dry(),
        }
    }

    /// `false` without the memory for it.
    fn hold_back(&mut self, data: &[u8]) -> bool {
        if !self.memory.grow(data.len()) {
            return false;
        }
        match &mut self.merge {
            Merge::Off => {}
            Merge::Whole(text) => text.extend_from_slice(data),
            Merge::Events(lines) => lines.push(data),
        }
        true
    }

    /// As of a body.
    pub(in super::super) fn is_end_stream(&self) -> bool {
        match self.merge {
            Merge::Off => self.decode.is_end_stream(),
            _ => self.ended && self.held_back() == 0,
        }
    }

    /// As of a body.
    pub(in super::super) fn size_hint(&self) -> SizeHint {
        match self.merge {
            Merge::Off => self.decode.size_hint(),
            _ => SizeHint::new(),
        }
    }

    /// Notes how far prefill has come.
    pub(in super::super) fn tell(&self, prefilling: &mut Prefilling) {
        if let Side::Done(Some(prefilled)) = &self.side {
            prefilling.complete = true;
            prefilling.usage = prefilled.usage;
            prefilling.done = Some(prefilled.at);
        }
    }

    /// Lets go of an answer that has come to its good end. A prefill whose own answer has not is read
    /// on for a while, so that the worker is not told to stop what it has done.
    pub(in super::super) fn let_go(self: Box<Self>) {
        if let Side::Running(running) = self.side
            && tokio::runtime::Handle::try_current().is_ok()
        {
            task::spawn("prefill", timeout(DRAIN, running));
        }
    }
}
