//! One request to one HTTP/1.1 worker.

use std::io;
use std::net::{IpAddr, SocketAddr};
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
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::api::payload::Sending;
use crate::base::{clock, descriptors};
use crate::live::WorkerRef;
use crate::plan::Connections;
use crate::state::{Conn, ConnPool};

/// Why a worker gave no response head.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Refused, unreachable, or the name has no address.
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
    Broken(#[source] hyper::Error),
    /// What came back is not HTTP.
    #[error("answer is malformed: {0}")]
    Malformed(#[source] hyper::Error),
}

impl Failure {
    /// Why there is no connection.
    fn unconnected(error: io::Error) -> Self {
        if descriptors::are_short(&error) || error.kind() == io::ErrorKind::AddrNotAvailable {
            Self::Short(error)
        } else {
            Self::Connect(error)
        }
    }
}

/// Sends a request made by `request` to `worker` and waits for the response head.
///
/// A pooled connection that turns out to be dead before anything of the request has been sent is
/// replaced once by a fresh one; what may have reached the worker is never sent again from here. `connect` bounds the time until a connection is usable; the wait for the
/// head is the caller's to bound.
///
/// Cancel safety: dropping the future closes the connection, which tells the worker to stop.
///
/// # Errors
/// [`Failure`] when there is no head.
pub async fn send(
    worker: WorkerRef<'_>,
    limits: Connections,
    connect: Duration,
    request: impl Fn() -> Request<Sending>,
) -> Result<Response<Answer>, Failure> {
    let pool = &worker.parts.conns;
    let mut unsent = None;
    if let Some(conn) = pool.take() {
        match exchange(conn, pool, limits.max_idle, request()).await {
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
    exchange(conn, pool, limits.max_idle, again)
        .await
        .map_err(|(failure, _)| failure)
}

type Unsent = Option<Request<Sending>>;

async fn exchange(
    mut conn: Conn,
    pool: &Arc<ConnPool>,
    max_idle: usize,
    request: Request<Sending>,
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
            let failure = if error.is_parse() {
                Failure::Malformed(error)
            } else {
                Failure::Broken(error)
            };
            Err((failure, unsent))
        }
    }
}

async fn open(worker: WorkerRef<'_>, limit: Duration) -> Result<Conn, Failure> {
    let shake = async {
        let stream = dial(&worker.plan.host, worker.plan.port, limit)
            .await
            .map_err(Failure::unconnected)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::Broken)?;
        Ok(worker.parts.conns.adopt(sender, driver))
    };
    timeout(limit, shake)
        .await
        .unwrap_or(Err(Failure::ConnectTimeout(limit)))
}

/// Connects to the first address of `host` that accepts. Each of several has its share of `limit`, so
/// that a silent one does not keep the others from being tried.
///
/// # Errors
/// That of the last address tried, or of the look-up.
async fn dial(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let stream = if let Ok(address) = host.parse::<IpAddr>() {
        connect(SocketAddr::new(address, port)).await?
    } else {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut connected = None;
        let addresses: Vec<SocketAddr> = look_up(host, port).await?;
        let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        for address in addresses {
            match timeout(share, connect(address)).await {
                Ok(Ok(stream)) => {
                    connected = Some(stream);
                    break;
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        connected.ok_or(last)?
    };
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(30));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(address).await.map_err(|error| {
        // What is a want of ports elsewhere is, on a machine without this family, an address that
        // nobody can reach.
        if address.is_ipv6() && error.kind() == io::ErrorKind::AddrNotAvailable {
            io::ErrorKind::NetworkUnreachable.into()
        } else {
            error
        }
    })
}

/// The addresses of `host`. A resolver that cannot open its files or sockets does not say why it
/// fails, so the system is asked.
async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match lookup_host((host, port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => match TcpSocket::new_v4() {
            Err(why) if descriptors::are_short(&why) => Err(why),
            _ => Err(error),
        },
    }
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
