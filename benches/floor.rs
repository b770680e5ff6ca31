//! The floor of `make bench`: the least a hyper proxy can do. It parses no body, picks no worker
//! and logs nothing; what it costs per request is what hyper, tokio and the kernel cost.
//!
//! `floor LISTEN UPSTREAM`, both `address:port`.

#![expect(
    clippy::disallowed_methods,
    reason = "a bare proxy uses nothing of smg, its way to spawn included"
)]

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;
type Sender = SendRequest<Incoming>;
type Idle = Arc<Mutex<Vec<Sender>>>;

/// A response body that gives its connection back to the idle ones when it has been read.
struct Relay {
    body: Incoming,
    sender: Option<Sender>,
    idle: Idle,
}

impl Body for Relay {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            let sender = self.sender.take();
            self.idle.lock().extend(sender);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn connect(upstream: SocketAddr) -> Result<Sender, Failure> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn relay(
    request: Request<Incoming>,
    upstream: SocketAddr,
    idle: Idle,
) -> Result<Response<Relay>, Failure> {
    let reused = idle.lock().pop();
    let mut sender = match reused {
        Some(sender) if !sender.is_closed() => sender,
        _ => connect(upstream).await?,
    };
    sender.ready().await?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let sender = Some(sender);
    Ok(Response::from_parts(head, Relay { body, sender, idle }))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut addresses = std::env::args()
        .skip(1)
        .map(|text| text.parse::<SocketAddr>());
    let (Some(listen), Some(upstream)) = (addresses.next(), addresses.next()) else {
        return Err("usage: floor LISTEN UPSTREAM".into());
    };
    let (listener, upstream) = (TcpListener::bind(listen?).await?, upstream?);
    let idle = Idle::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let idle = Arc::clone(&idle);
        let service = service_fn(move |request| relay(request, upstream, Arc::clone(&idle)));
        let server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
    }
}
