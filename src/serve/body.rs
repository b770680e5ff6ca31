//! The body of a response.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::gate::Standing;
use super::layer::poll_caught;
use crate::dispatch::{Answered, Call, RelayError};

/// What a client gets. It holds the call, whose end is logged and counted when the body is dropped,
/// and keeps its connection marked as busy until then.
pub(crate) struct Body {
    kind: Kind,
    _busy: Option<Busy>,
}

enum Kind {
    Full(
        Option<Bytes>,
        // Held for its end.
        Option<Box<Call>>,
    ),
    /// Gone once it has panicked.
    Worker(Option<Answered>),
}

impl Body {
    /// A body that is at hand.
    pub(crate) fn full(data: Bytes, call: Box<Call>) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Self {
            kind: Kind::Full(data, Some(call)),
            _busy: None,
        }
    }

    /// A body that belongs to no call.
    pub(crate) fn bare(data: Bytes) -> Self {
        Self {
            kind: Kind::Full(Some(data), None),
            _busy: None,
        }
    }

    /// A worker's answer.
    pub(crate) fn worker(answered: Answered) -> Self {
        Self {
            kind: Kind::Worker(Some(answered)),
            _busy: None,
        }
    }

    /// The same for a request that wants no data; data at hand is dropped.
    pub(crate) fn without_data(mut self) -> Self {
        if let Kind::Full(data, call) = &mut self.kind {
            *data = None;
            if let Some(call) = call {
                call.bytes_out = 0;
            }
        }
        self
    }

    /// Keeps the connection busy until the body is dropped.
    pub(crate) fn keeping(mut self, busy: Busy) -> Self {
        self._busy = Some(busy);
        self
    }
}

/// What the last poll of a task did to a body, for whoever watches over an HTTP/2 stream: a body that
/// has handed out data and is not asked for more belongs to a client that does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nobody asked.
    No,
    /// Somebody asked, and there was nothing.
    InVain,
    /// Data was handed out.
    Handed,
}

thread_local! {
    static ASKED: Cell<Asked> = const { Cell::new(Asked::No) };
}

impl Asked {
    /// What has happened on this thread since the last call.
    pub(crate) fn take() -> Self {
        ASKED.replace(Self::No)
    }
}

/// A request under way on a connection.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Standing>);

impl Busy {
    /// Counts a request on the connection that stands so.
    pub(crate) fn start(standing: &Arc<Standing>) -> Self {
        standing.served.fetch_add(1, Ordering::Relaxed);
        standing.busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(standing))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let polled = match &mut self.get_mut().kind {
            Kind::Full(data, _) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Kind::Worker(answered) => poll_caught(answered, cx, Answered::call_mut),
        };
        let handed = matches!(polled, Poll::Ready(Some(Ok(_))));
        ASKED.set(if handed { Asked::Handed } else { Asked::InVain });
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(data, _) => data.is_none(),
            Kind::Worker(answered) => answered.as_ref().is_none_or(HttpBody::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(data, _) => SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Worker(answered) => answered
                .as_ref()
                .map_or_else(SizeHint::default, HttpBody::size_hint),
        }
    }
}
