//! A request over HTTP/2, which shares its connection with others.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::uri::Scheme;
use http::{Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant as TokioInstant, Sleep, sleep, timeout};

use super::dial::dial;
use super::http::{Failure, count_connected, is_short};
use super::resolve::System;
use super::tls;
use crate::api::payload::Sending;
use crate::base::{clock, task};
use crate::live::WorkerRef;
use crate::state::{
    ConnPool, Granted, Landed, Lease, NoConnection, Open, Opening, Pulse, Step, Stream,
};

/// What one stream may send before it is read: the bound of what a client that does not read costs.
const STREAM_WINDOW: u32 = 64 * 1024;
/// What all streams of a connection may send together. Large, since it is no bound of memory but a
/// way for a few streams that are not read to stall all others.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// What small frames that are not read may cost beyond their bytes; spent, the connection ends.
const FRAME_BUDGET: usize = 1 << 30;
/// Streams given up here whose last frames are awaited and ignored.
const RESET_STREAMS: usize = 65_536;
/// Largest head of an answer.
const HEAD_BYTES: u32 = 64 * 1024;
/// Stands for the limit of streams until the worker has told its own.
const UNTOLD: usize = usize::MAX - 1;
/// When a silent connection is asked for a sign of life, and how long it has for that.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(15));

/// Sends over a connection with room, or over a fresh one. A stream that the worker has certainly
/// not processed is opened once more, on a newer connection.
///
/// Cancel safety: dropping the future resets the stream.
///
/// # Errors
/// [`Failure`] when there is no head.
pub(super) async fn send(
    worker: WorkerRef<'_>,
    connect: Duration,
    request: impl Fn() -> Request<Sending>,
) -> Result<Response<Answer>, Failure> {
    let pool = &worker.parts.conns;
    let mut after = None;
    loop {
        let granted = match pool.claim(after) {
            Some(granted) => granted,
            None => wait(pool, after, connect).await?,
        };
        match exchange(granted, addressed(worker, request())).await {
            Ok(response) => return Ok(response),
            Err(lost) if lost.seen == Seen::Maybe || after.is_some() => return Err(lost.failure()),
            // Others may take it: a worker that is short of room is not asked for a connection per
            // stream that it refuses.
            Err(Lost {
                seen: Seen::Refused(number),
                ..
            }) => after = Some(number),
            // All its connections may be going.
            Err(_) => after = Some(pool.newest()),
        }
    }
}

/// The request with its target in the form of HTTP/2.
fn addressed(worker: WorkerRef<'_>, mut request: Request<Sending>) -> Request<Sending> {
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(match worker.plan.tls {
        None => Scheme::HTTP,
        Some(_) => Scheme::HTTPS,
    });
    target.authority = Some(worker.parts.authority.clone());
    if let Ok(target) = Uri::from_parts(target) {
        *request.uri_mut() = target;
    }
    *request.version_mut() = Version::HTTP_2;
    let length = request.body().size_hint().exact().unwrap_or_default();
    let headers = request.headers_mut();
    headers.remove(HOST);
    if length > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    request
}

/// Waits for a connection with room, and sees that there will be one.
async fn wait(
    pool: &Arc<ConnPool>,
    after: Option<u64>,
    limit: Duration,
) -> Result<Granted, Failure> {
    let Some(mut waiting) = pool.wait(after) else {
        return Err(Failure::Connect(io::ErrorKind::Unsupported.into()));
    };
    let granted = async {
        loop {
            match waiting.step() {
                Step::Granted(granted) => return Ok(granted),
                Step::Failed(why) => return Err(why.into()),
                Step::Open(opening) => {
                    // On a task of its own: others wait for it, whatever becomes of this request.
                    task::spawn("connection to a worker", live(opening, limit));
                }
                Step::Wait => waiting.news().await,
            }
        }
    };
    timeout(limit, granted)
        .await
        .unwrap_or(Err(Failure::ConnectTimeout(limit)))
}

impl From<NoConnection> for Failure {
    fn from(why: NoConnection) -> Self {
        match why {
            NoConnection::Refused(error) if is_short(&error) => {
                Self::Short(io::Error::new(error.kind(), error))
            }
            NoConnection::Refused(error) => Self::Connect(io::Error::new(error.kind(), error)),
            NoConnection::Timeout(limit) => Self::ConnectTimeout(limit),
            NoConnection::Malformed(_) => {
                Self::Connect(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }
}

/// Why there is no head.
struct Lost {
    error: h2::Error,
    seen: Seen,
}

/// What the worker has done of a request without a head.
#[derive(PartialEq, Eq)]
enum Seen {
    /// Perhaps all of it.
    Maybe,
    /// Nothing: it has refused the stream on the connection of this number.
    Refused(u64),
    /// Nothing: the connection ended before, or without, the stream.
    Never,
}

impl Lost {
    fn failure(self) -> Failure {
        if self.error.is_library() {
            Failure::Malformed(self.error.into())
        } else {
            Failure::Broken(self.error.into())
        }
    }
}

async fn exchange(granted: Granted, request: Request<Sending>) -> Result<Response<Answer>, Lost> {
    let Granted { mut sender, lease } = granted;
    let before = lease.written();
    let unsent = |error| Lost {
        error,
        seen: Seen::Never,
    };
    let (head, mut body) = request.into_parts();
    let empty = body.is_end_stream();
    let (response, mut stream) = sender
        .send_request(Request::from_parts(head, ()), empty)
        .map_err(unsent)?;
    drop(sender);
    // The pieces are held anyway, for another attempt; the library sends them as the worker takes
    // them. What it says of the stream is said again by the response.
    while let Some(piece) = body.next_piece() {
        if stream.send_data(piece, body.is_end_stream()).is_err() {
            break;
        }
    }
    drop((stream, body));
    match response.await {
        Ok(response) => {
            let (mut head, stream) = response.into_parts();
            head.version = Version::HTTP_11;
            let left = length(&head.headers);
            let body = Answer {
                stream,
                left,
                lease: Some(lease),
            };
            Ok(Response::from_parts(head, body))
        }
        Err(error) => {
            let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
            // Told of streams above the last one that the worker will process.
            let left_behind = error.is_go_away() && error.is_remote();
            let seen = if refused && error.is_remote() {
                Seen::Refused(lease.number())
            } else if left_behind || lease.written() == before {
                Seen::Never
            } else {
                Seen::Maybe
            };
            Err(Lost { error, seen })
        }
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The body of a worker's answer, one stream of a connection. Dropped before its end, it resets the
/// stream and the worker notices; other streams live on. Trailers are ignored.
#[derive(Debug)]
pub struct Answer {
    stream: RecvStream,
    /// Bytes still to come, where the worker has said how many.
    left: Option<u64>,
    /// Until the end has come.
    lease: Option<Lease>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        if this.lease.is_none() {
            return Poll::Ready(None);
        }
        loop {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // Only what somebody takes is replaced: who does not read stops the worker.
                    this.stream.flow_control().release_capacity(data.len())?;
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // After a whole answer a reset is none: the library says that the end has come. Before
                // its end, whatever the reason that is given, it has been cut short.
                end => {
                    this.lease = None;
                    return Poll::Ready(end.map(|end| end.map(Frame::data)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0) || self.lease.is_none() || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The life of a connection, from the first address tried to the last byte.
async fn live(opening: Opening, limit: Duration) {
    let opened = timeout(limit, open(opening.pool(), limit));
    let opened = opened.await.unwrap_or(Err(NoConnection::Timeout(limit)));
    match opened {
        Ok((landed, wire, open)) => {
            let pulse = Arc::clone(&landed.pulse);
            let to = SocketAddr::new(landed.address, opening.pool().port());
            opening.land(landed, clock::now());
            drive(wire, &pulse, to, PING).await;
            drop(open);
        }
        Err(why) => opening.fail(why),
    }
}

type Driver = Connection<Wire, Bytes>;

/// Connects and waits until the worker has told how many streams it takes.
async fn open(pool: &ConnPool, limit: Duration) -> Result<(Landed, Driver, Open), NoConnection> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => NoConnection::Timeout(limit),
        _ => NoConnection::Refused(Arc::new(error)),
    };
    let began = clock::now();
    let (stream, address) = dial(pool, limit, System).await.map_err(refused)?;
    let pulse = Arc::new(Pulse::default());
    let wire = Wire {
        stream,
        pulse: Arc::clone(&pulse),
    };
    let open = pool.count();
    let ended = |error: h2::Error| match error.get_io() {
        Some(error) => {
            let error = io::Error::new(error.kind(), error.to_string());
            // A worker that does not take what it was shown says so only now.
            if let Some(secured) = pool.secured()
                && error.kind() == io::ErrorKind::InvalidData
            {
                tls::tell(pool, secured, SocketAddr::new(address, pool.port()), &error);
            }
            refused(error)
        }
        None => NoConnection::Malformed(Arc::new(error)),
    };
    let (sender, mut wire) = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(FRAME_BUDGET)
        .initial_max_send_streams(UNTOLD)
        .max_header_list_size(HEAD_BYTES)
        .max_concurrent_reset_streams(RESET_STREAMS)
        // A worker that goes on sending on streams that were reset long ago is no attacker.
        .max_local_error_reset_streams(None)
        .handshake(wire)
        .await
        .map_err(ended)?;
    std::future::poll_fn(|cx| match Pin::new(&mut wire).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(refused(io::ErrorKind::ConnectionReset.into()))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(ended(error))),
        Poll::Pending if sender.current_max_send_streams() == UNTOLD => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await?;
    count_connected(began);
    if sender.current_max_send_streams() == 0 {
        return Err(refused(io::Error::other("the worker takes no stream")));
    }
    let landed = Landed {
        sender,
        address,
        pulse,
    };
    Ok((landed, wire, open))
}

/// Moves the bytes of a connection until it ends: nobody holds a stream or may open one, the worker
/// has closed it, or it has given no sign of life. Its streams, if any are left, break.
async fn drive(
    mut wire: Driver,
    pulse: &Pulse,
    to: SocketAddr,
    (every, within): (Duration, Duration),
) {
    let mut life = Life {
        to,
        pings: wire.ping_pong(),
        asked: false,
        timer: Box::pin(sleep(every)),
    };
    std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut wire).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%to, %error, "connection to a worker ended");
            }
            return Poll::Ready(());
        }
        life.poll(cx, pulse, every, within)
    })
    .await;
}

/// Asks for signs of life.
struct Life {
    to: SocketAddr,
    pings: Option<PingPong>,
    asked: bool,
    timer: Pin<Box<Sleep>>,
}

impl Life {
    /// Ready when there has been none in time.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pulse: &Pulse,
        every: Duration,
        within: Duration,
    ) -> Poll<()> {
        if let Some(pings) = self.pings.as_mut()
            && let Poll::Ready(answered) = pings.poll_pong(cx)
        {
            match answered {
                Ok(_) => {
                    self.asked = false;
                    self.wait(every);
                }
                Err(error) => {
                    tracing::debug!(to = %self.to, %error, "connection to a worker takes no ping");
                    self.pings = None;
                }
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let heard = pulse.was_heard();
            if !heard && self.asked {
                tracing::warn!(
                    to = %self.to,
                    "connection to a worker gives no sign of life, its requests break off"
                );
                return Poll::Ready(());
            }
            self.asked = !heard;
            if !heard && let Some(pings) = self.pings.as_mut() {
                // Refused only while the last one is unanswered, which is as good as asking.
                if let Err(error) = pings.send_ping(Ping::opaque()) {
                    tracing::trace!(%error, "ping not sent");
                }
            }
            self.wait(if heard { every } else { within });
        }
    }

    fn wait(&mut self, length: Duration) {
        let at = TokioInstant::from_std(clock::now()) + length;
        self.timer.as_mut().reset(at);
    }
}

/// The socket, with what crosses it noted.
struct Wire {
    stream: Stream,
    pulse: Arc<Pulse>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.hear();
        }
        read
    }
}

impl Wire {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.pulse.wrote(bytes);
        }
        written
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::net::TcpListener;

    use super::*;
    use crate::state::{ConnKey, Keyed, NameCell};

    const SOON: Duration = Duration::from_secs(20);
    const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// An open connection to a server that answers pings, or stops saying anything.
    async fn connected(silent: bool) -> (Landed, Driver, Open, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = ConnKey {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
            http2: true,
            guarded: false,
            networks: Arc::default(),
            tls: None,
        };
        let server = task::spawn("server of a test", async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            if silent {
                std::future::pending::<()>().await;
            }
            while connection.accept().await.is_some() {}
        });
        let pool = ConnPool::new(&key, Arc::new(NameCell::new(&key.host)), &Keyed::default());
        let (landed, wire, open) = open(&pool, SOON).await.unwrap();
        (landed, wire, open, server)
    }

    #[tokio::test]
    async fn a_connection_without_a_sign_of_life_breaks_its_streams() {
        let (mut landed, wire, _open, server) = connected(true).await;
        let request = Request::get("http://worker/").body(()).unwrap();
        let (response, _) = landed.sender.send_request(request, true).unwrap();
        let pulse = Arc::clone(&landed.pulse);
        let short = Duration::from_millis(30);
        let driving = timeout(SOON, drive(wire, &pulse, NOWHERE, (short, short)));
        let (driven, response) = tokio::join!(driving, timeout(SOON, response));
        driven.unwrap();
        assert!(response.unwrap().is_err());
        server.abort();
    }

    #[tokio::test]
    async fn a_connection_that_answers_pings_lives_until_nobody_needs_it() {
        let (landed, wire, _open, server) = connected(false).await;
        let pulse = Arc::clone(&landed.pulse);
        let every = Duration::from_millis(10);
        let mut driving = std::pin::pin!(drive(wire, &pulse, NOWHERE, (every, SOON)));
        // Long enough for many pings, each of which puts bytes on the wire.
        let pinged = async {
            while landed.pulse.written() < 600 {
                task::spawn("turn", tokio::task::yield_now()).await.unwrap();
            }
        };
        tokio::select! {
            () = &mut driving => panic!("it has ended"),
            pinged = timeout(SOON, pinged) => pinged.unwrap(),
        }
        drop(landed);
        timeout(SOON, driving).await.unwrap();
        server.abort();
    }
}
