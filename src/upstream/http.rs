//! One request to one worker.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use metrics::Histogram;

use super::{http1, http2};
use crate::api::payload::Sending;
use crate::base::{clock, descriptors};
use crate::live::WorkerRef;
use crate::plan::Connections;
use crate::telemetry::metrics::{self as names, Metric};

/// Why a worker gave no response head.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Refused, unreachable, without an address, or not HTTP/2 where that was expected.
    #[error("connection failed: {0}")]
    Connect(#[source] io::Error),
    /// The gateway has no descriptor, or no port of its own, left for a connection. That says nothing
    /// of the worker.
    #[error("no socket is left for a connection: {0}")]
    Short(#[source] io::Error),
    /// No connection within the deadline.
    #[error("connection took longer than {0:?}")]
    ConnectTimeout(Duration),
    /// The connection broke before a head had arrived.
    #[error("connection broke before the answer: {0}")]
    Broken(#[source] Break),
    /// What came back is not the protocol that was spoken.
    #[error("answer is malformed: {0}")]
    Malformed(#[source] Break),
}

impl Failure {
    pub(super) fn connect(error: io::Error, limit: Duration) -> Self {
        if is_short(&error) {
            Self::Short(error)
        } else if error.kind() == io::ErrorKind::TimedOut {
            Self::ConnectTimeout(limit)
        } else {
            Self::Connect(error)
        }
    }
}

/// How an exchange ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Break {
    /// Over HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

/// Counts the time since `began` that a connection to a worker has taken to be made.
pub(super) fn count_connected(began: Instant) {
    static TIME: LazyLock<Histogram> = LazyLock::new(|| {
        let labels = [("router_type", "http"), ("stage", "connect")];
        names::histogram(Metric::RouterStageDuration, &labels)
    });
    let took = clock::now().saturating_duration_since(began);
    TIME.record(took.as_secs_f64());
}

/// Whether `error` is the gateway's own want of descriptors or ports, and not about whom it calls.
pub(super) fn is_short(error: &io::Error) -> bool {
    descriptors::are_short(error) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Sends a request made by `request` to `worker` and waits for the response head.
///
/// What the worker has certainly not seen is sent once more over a fresh connection: a request
/// that met a dead connection before anything of it had been sent, or a stream that the worker
/// refused. What may have reached the worker is never sent again from here. `connect` bounds the
/// time until a connection is usable; the wait for the head is the caller's to bound.
///
/// Cancel safety: dropping the future, like dropping the answer before its end, tells the worker to
/// stop: it closes the connection, or resets the stream where others share it.
///
/// # Errors
/// [`Failure`] when there is no head.
pub async fn send(
    worker: WorkerRef<'_>,
    limits: Connections,
    connect: Duration,
    request: impl Fn() -> Request<Sending>,
) -> Result<Response<Answer>, Failure> {
    if worker.parts.conns.is_http2() {
        // Boxed, so that it takes no room in what waits for HTTP/1.1.
        let sent = Box::pin(http2::send(worker, connect, request)).await;
        return sent.map(|response| response.map(Answer::Http2));
    }
    let sent = http1::send(worker, limits, connect, request).await;
    sent.map(|response| response.map(Answer::Http1))
}

/// The body of a worker's answer, with what carries it.
#[derive(Debug)]
pub enum Answer {
    /// Over a connection of its own.
    Http1(http1::Answer),
    /// Over one stream of many.
    Http2(http2::Answer),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Break;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Break>>> {
        match self.get_mut() {
            Self::Http1(answer) => Pin::new(answer).poll_frame(cx).map_err(Break::Http1),
            Self::Http2(answer) => Pin::new(answer).poll_frame(cx).map_err(Break::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(answer) => answer.is_end_stream(),
            Self::Http2(answer) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(answer) => answer.size_hint(),
            Self::Http2(answer) => answer.size_hint(),
        }
    }
}
