//! A request over HTTP/1.1, which has a connection for itself.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::dial::dial;
use super::http::{Failure, count_connected};
use super::resolve::System;
use super::tls;
use crate::api::payload::Sending;
use crate::base::clock;
use crate::live::WorkerRef;
use crate::plan::Connections;
use crate::state::{Conn, ConnPool};

/// Sends over the connection used last that still lives, or over a fresh one. A kept connection that
/// turns out to be dead before anything of the request has been sent is replaced once.
///
/// Cancel safety: dropping the future closes the connection.
///
/// # Errors
/// [`Failure`] when there is no head.
pub(super) async fn send(
    worker: WorkerRef<'_>,
    limits: Connections,
    connect: Duration,
    request: impl Fn() -> Request<Sending>,
) -> Result<Response<Answer>, Failure> {
    let pool = &worker.parts.conns;
    let mut unsent = None;
    if let Some(conn) = pool.take() {
        match exchange(conn, pool, limits.max_idle, request(), Age::Kept).await {
            Err((_, Some(back))) => unsent = Some(back),
            Err((failure, None)) => return Err(failure),
            Ok(response) => return Ok(response),
        }
    }
    // Boxed: a request on a kept connection, as most are, carries no room for making one.
    let conn = match Box::pin(open(worker, connect)).await {
        // Another request may have let go of one meanwhile.
        Err(Failure::Short(error)) => pool.take().ok_or(Failure::Short(error))?,
        opened => opened?,
    };
    let again = unsent.unwrap_or_else(request);
    exchange(conn, pool, limits.max_idle, again, Age::Fresh)
        .await
        .map_err(|(failure, _)| failure)
}

type Unsent = Option<Request<Sending>>;

/// Whether a connection has carried an answer.
#[derive(PartialEq, Eq)]
enum Age {
    Fresh,
    Kept,
}

async fn exchange(
    mut conn: Conn,
    pool: &Arc<ConnPool>,
    max_idle: usize,
    request: Request<Sending>,
    age: Age,
) -> Result<Response<Answer>, (Failure, Unsent)> {
    let mut head = std::pin::pin!(conn.sender().try_send_request(request));
    let outcome = poll_fn(|cx| conn.poll_with(cx, |inner| head.as_mut().poll(inner))).await;
    match outcome {
        Ok(response) => Ok(response.map(|body| Answer {
            body,
            conn: Some(conn),
            pool: Arc::clone(pool),
            max_idle,
        })),
        Err(mut refused) => {
            let unsent = refused.take_message();
            let error = refused.into_error();
            let failure = if age == Age::Fresh
                && let Some(refusal) = tls::refusal(pool, conn.address(), &error)
            {
                Failure::Connect(refusal)
            } else if error.is_parse() {
                Failure::Malformed(error.into())
            } else {
                Failure::Broken(error.into())
            };
            Err((failure, unsent))
        }
    }
}

async fn open(worker: WorkerRef<'_>, limit: Duration) -> Result<Conn, Failure> {
    let pool = &worker.parts.conns;
    let began = clock::now();
    let (stream, address) = dial(pool, limit, System)
        .await
        .map_err(|error| Failure::connect(error, limit))?;
    let (sender, driver) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::Broken(error.into()))?;
    count_connected(began);
    Ok(pool.adopt(sender, driver, address))
}

/// The body of a worker's answer, with the connection that it comes over. When it has been read to
/// its end the connection goes back to the pool; dropped earlier, the connection closes and the
/// worker notices.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    conn: Option<Conn>,
    pool: Arc<ConnPool>,
    max_idle: usize,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(conn) = this.conn.as_mut() else {
            return Poll::Ready(None);
        };
        let body = &mut this.body;
        let frame =
            std::task::ready!(conn.poll_with(cx, |inner| Pin::new(&mut *body).poll_frame(inner)));
        if frame.is_none() {
            this.finish(clock::now());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Answer {
    fn finish(&mut self, now: Instant) {
        if let Some(conn) = self.conn.take() {
            self.pool.give_back(conn, now, self.max_idle);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A server that knows the length stops asking once it has all bytes.
        if self.body.is_end_stream() {
            self.finish(clock::now());
        }
    }
}
