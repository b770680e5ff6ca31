//! One connection, from accept to close.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::base::task;
use crate::serve::gate::Gate;
use crate::serve::guarded::{Deadlines, Guarded};
use crate::serve::stack;

/// Bytes of a head of HTTP/2.
const H2_HEADER_LIST: u32 = 64 * 1024;

/// Runs the streams of an HTTP/2 connection.
#[derive(Clone, Copy)]
struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        task::spawn("stream", async move {
            stream.await;
        });
    }
}

/// Serves a connection until either side ends it. When `closing` ends, the request in progress is
/// the last.
pub(super) async fn serve<S>(stream: S, gate: Gate, mut closing: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = gate.listener.limits;
    let deadlines = Deadlines {
        header: limits.header_timeout,
        idle: limits.idle_timeout,
        write: limits.write_timeout,
    };
    let guarded = Guarded::new(stream, deadlines, std::sync::Arc::clone(&gate.busy));
    let mut builder = auto::Builder::new(Streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        // Heads are timed by the guard, which also knows kept connections.
        .header_read_timeout(None)
        .max_headers(limits.max_headers.saturating_add(1));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_max_streams)
        .max_header_list_size(H2_HEADER_LIST);
    let service = stack::build(gate);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(guarded), service));
    let mut closed = pin!(closing.changed());
    let mut draining = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "connection ended");
                }
                return Poll::Ready(());
            }
            if draining || closed.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
    })
    .await;
}
