//! A stream whose head has gone out before its first event.
//!
//! The client has seen comments only, so the attempt may still be replaced by another.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep};

use super::call::Call;
use super::error::CallError;
use super::relay::{KEEPALIVE, Relay, RelayError};
use super::{Job, Progress, State, advance};
use crate::base::clock;

type Rest = Pin<Box<dyn Future<Output = Relay> + Send>>;

/// The body of such a stream.
pub struct Late {
    rest: Rest,
    begun: Option<Relay>,
    keepalive: Duration,
    timer: Pin<Box<Sleep>>,
    said_something: bool,
}

impl Late {
    pub(super) fn new(
        mut call: Box<Call>,
        job: Arc<Job>,
        mut state: State,
        keepalive: Duration,
    ) -> Self {
        let rest = async move {
            match advance(&mut call, &job, &mut state, None).await {
                Progress::Begun(held) if held.sse.is_some() => {
                    let (_, relay) = Relay::new(call, &job, *held);
                    relay
                }
                Progress::Begun(held) => {
                    Relay::failed(call, &job, CallError::Status(held.parts.status.as_u16()))
                }
                Progress::Verbatim(parts, _) => {
                    Relay::failed(call, &job, CallError::Status(parts.status.as_u16()))
                }
                Progress::Failed(error) => Relay::failed(call, &job, error),
                Progress::Head(_) => Relay::failed(call, &job, CallError::Stream),
            }
        };
        Self {
            rest: Box::pin(rest),
            begun: None,
            keepalive,
            timer: Box::pin(sleep(Duration::ZERO)),
            said_something: false,
        }
    }

    /// The call, once the stream has begun.
    pub(super) fn call_mut(&mut self) -> Option<&mut Call> {
        self.begun.as_mut()?.call_mut()
    }
}

impl Body for Late {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let this = self.get_mut();
        if this.begun.is_none() {
            match this.rest.as_mut().poll(cx) {
                Poll::Ready(relay) => this.begun = Some(relay),
                Poll::Pending => {
                    // The first comment goes out with the head, the others after each silence.
                    if this.said_something {
                        ready!(this.timer.as_mut().poll(cx));
                    }
                    this.said_something = true;
                    let next = Instant::from_std(clock::now() + this.keepalive);
                    this.timer.as_mut().reset(next);
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(KEEPALIVE)))));
                }
            }
        }
        match this.begun.as_mut() {
            Some(relay) => Pin::new(relay).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
}
