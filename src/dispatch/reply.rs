//! The body of an answer under way: a worker's, or a pair's.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::error::{CallError, Shortage};
use super::pair::{Joint, Lost};
use crate::upstream::Answer;

/// Where an answer comes from.
pub(super) enum Reply {
    /// From one worker.
    One(Answer),
    /// From the decode worker of a pair, while its prefill worker may still be at work.
    Pair(Box<Joint>),
}

/// How an answer ended before its time.
pub(super) enum ReplyError {
    /// It broke off.
    BrokeOff,
    /// A leg of the pair failed.
    Leg(Box<Lost>),
    /// There is no memory left to put the answers of both legs together.
    Short,
}

impl ReplyError {
    /// The same for the client.
    pub(super) fn error(&self) -> CallError {
        match self {
            Self::BrokeOff => CallError::BrokeOff,
            Self::Leg(lost) => lost.error(),
            Self::Short => CallError::Short(Shortage::Memory),
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = ReplyError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        match self.get_mut() {
            Self::One(answer) => Pin::new(answer)
                .poll_frame(cx)
                .map_err(|_| ReplyError::BrokeOff),
            Self::Pair(joint) => joint.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::One(answer) => answer.is_end_stream(),
            Self::Pair(joint) => joint.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::One(answer) => answer.size_hint(),
            Self::Pair(joint) => joint.size_hint(),
        }
    }
}
