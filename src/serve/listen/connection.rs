//! One connection, from accept to close.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::base::{clock, task};
use crate::live::{Live, Phase};
use crate::plan::Limits;
use crate::serve::body::Asked;
use crate::serve::gate::{Gate, Standing};
use crate::serve::guarded::{Deadlines, Guarded, Timer};
use crate::serve::stack;

/// Bytes of a head of HTTP/1 that are read in any case: below this the library refuses nothing, so
/// that the answer to a head beyond the listener's own limits is ours.
const HEAD: usize = 400 * 1024;

/// Bytes of an answer that an HTTP/2 stream takes from its worker before the client takes them, and
/// what one frame of the worker's holds besides. That of HTTP/1 is bounded by [`HEAD`].
const UNSENT: usize = 64 * 1024;

/// Streams of an HTTP/2 connection that may break its rules before the connection ends.
const RESETS: usize = 256;

/// Runs the streams of an HTTP/2 connection, each a task of its own. A client that does not take
/// what its stream has to give stalls no write, since the frames of others may pass, so each stream
/// is watched by itself.
#[derive(Clone)]
struct Streams {
    live: Arc<Live>,
    /// How long a stream may be stalled; zero: for ever.
    write_timeout: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let Self {
            live,
            write_timeout,
        } = self.clone();
        task::spawn("stream", async move {
            let mut stream = pin!(stream);
            let mut handed = None;
            let mut timer = Timer::default();
            let watched = poll_fn(|cx| {
                Asked::take();
                let polled = stream.as_mut().poll(cx);
                match Asked::take() {
                    Asked::Handed => handed = Some(clock::now()),
                    Asked::InVain => handed = None,
                    Asked::No => {}
                }
                match handed.filter(|_| polled.is_pending() && !write_timeout.is_zero()) {
                    // Ended here, the stream is reset and its worker released.
                    Some(since) => timer.poll(since + write_timeout, cx),
                    None => polled.map(drop),
                }
            });
            woken_at_the_end(pin!(watched), live).await;
        });
    }
}

/// How long a connection that nobody uses is kept after its listener has gone. A client may be
/// sending a request on it at that very moment.
const LINGER: Duration = Duration::from_secs(5);

/// How long a connection may take to bring its first request once the process has none left. It was
/// accepted before the sockets closed, and its client has no reason to think that it was refused.
const FIRST: Duration = Duration::from_millis(500);

/// How often one looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// Its first bytes will tell.
    Either,
    /// HTTP/1, as was agreed on.
    Http1,
    /// HTTP/2, as was agreed on.
    Http2,
}

/// The deadlines of a connection under these limits.
pub(super) fn deadlines(limits: &Limits) -> Deadlines {
    Deadlines {
        header: limits.header_timeout,
        idle: limits.idle_timeout,
        write: limits.write_timeout,
    }
}

/// Serves a connection until either side ends it. When `closing` ends, the next request is the
/// last one: it is answered with `connection: close`, over HTTP/2 it is refused by a GOAWAY.
pub(super) async fn serve<S>(
    stream: S,
    speaks: Speaks,
    gate: Gate,
    mut closing: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = gate.listener.limits;
    // Each header of HTTP/2 counts 32 bytes more than it has.
    let head = limits.max_header_bytes + limits.max_uri_bytes + 32 * limits.max_headers;
    let head = head * 2;
    let (live, standing) = (Arc::clone(&gate.live), Arc::clone(&gate.standing));
    standing
        .multiplexed
        .store(speaks == Speaks::Http2, Ordering::Relaxed);
    let guarded = Guarded::new(stream, deadlines(&limits), Arc::clone(&standing));
    let mut builder = auto::Builder::new(Streams {
        live: Arc::clone(&live),
        write_timeout: limits.write_timeout,
    });
    builder
        .http1()
        .timer(TokioTimer::new())
        // Heads are timed by the guard, which also knows kept connections.
        .header_read_timeout(None)
        .max_buf_size(HEAD.max(head))
        .max_headers(limits.max_headers.saturating_add(1));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_max_streams)
        .max_send_buf_size(UNSENT)
        .max_local_error_reset_streams(Some(RESETS))
        // Compressed, a head of any size costs a client few bytes, so it is bounded closely.
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX));
    let builder = match speaks {
        Speaks::Either => builder,
        Speaks::Http1 => builder.http1_only(),
        Speaks::Http2 => builder.http2_only(),
    };
    let service = stack::build(gate);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(guarded), service));
    let outcome = tokio::select! {
        biased;
        outcome = connection.as_mut() => outcome,
        _ = closing.changed() => {
            standing.ending.store(true, Ordering::Relaxed);
            tokio::select! {
                biased;
                outcome = connection.as_mut() => outcome,
                () = left_alone(&live, &standing) => {
                    connection.as_mut().graceful_shutdown();
                    woken_at_the_end(connection, Arc::clone(&live)).await
                }
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}

/// Polls `requests` once more when the grace period is over: they look at the phase by themselves.
async fn woken_at_the_end<F: Future>(mut requests: Pin<&mut F>, live: Arc<Live>) -> F::Output {
    let mut ending = pin!(live.ending());
    let mut ended = false;
    poll_fn(|cx| {
        ended = ended || ending.as_mut().poll(cx).is_ready();
        requests.as_mut().poll(cx)
    })
    .await
}

/// Waits until the connection can be shut down without a client being surprised by it: at once
/// over HTTP/2, which has words for that, else when nothing has come for a while. While the
/// process drains that is when it closes.
async fn left_alone(live: &Live, standing: &Standing) {
    let mut phases = live.phases();
    let closing = async {
        // An error means that the process is past caring.
        drop(phases.wait_for(|phase| *phase >= Phase::Closing).await);
        timeout(FIRST, begun(standing)).await.ok();
    };
    tokio::select! {
        () = closing => {}
        () = unused(live, standing) => {}
    }
}

/// Waits until the connection has brought a request.
async fn begun(standing: &Standing) {
    let is_fresh = || {
        standing.served.load(Ordering::Relaxed) == 0
            && !standing.multiplexed.load(Ordering::Relaxed)
    };
    while is_fresh() {
        sleep(LOOK).await;
    }
}

async fn unused(live: &Live, standing: &Standing) {
    let is_idle = || standing.busy.load(Ordering::Relaxed) == 0;
    // A request that comes now is the last one. None can come and go unseen.
    let mut idle = is_idle();
    while !standing.multiplexed.load(Ordering::Relaxed) {
        sleep(LINGER).await;
        if idle && is_idle() && live.phase() == Phase::Running {
            return;
        }
        idle = is_idle();
    }
}
