//! One connection, from accept to close.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::base::task;
use crate::live::Live;
use crate::serve::gate::Gate;
use crate::serve::guarded::{Deadlines, Guarded};
use crate::serve::stack;

/// Bytes of a head of HTTP/2.
const H2_HEADER_LIST: u32 = 64 * 1024;

/// Runs the streams of an HTTP/2 connection, each a task of its own.
#[derive(Clone)]
struct Streams(Arc<Live>);

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let ending = Arc::clone(&self.0).ending();
        task::spawn("stream", async move {
            let (mut stream, mut ending) = (pin!(stream), pin!(ending));
            let mut ended = false;
            poll_fn(|cx| {
                // Polled for the wake-up alone: the request looks at the phase by itself.
                ended = ended || ending.as_mut().poll(cx).is_ready();
                stream.as_mut().poll(cx).map(drop)
            })
            .await;
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
    let guarded = Guarded::new(stream, deadlines, Arc::clone(&gate.busy));
    let mut ending = pin!(Arc::clone(&gate.live).ending());
    let mut ended = false;
    let mut builder = auto::Builder::new(Streams(Arc::clone(&gate.live)));
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
            if !draining && closed.as_mut().poll(cx).is_ready() {
                draining = true;
                connection.as_mut().graceful_shutdown();
            } else if !ended && ending.as_mut().poll(cx).is_ready() {
                // The requests look at the phase themselves, once they are polled.
                ended = true;
            } else {
                return Poll::Pending;
            }
        }
    })
    .await;
}
