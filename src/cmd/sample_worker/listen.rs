//! The socket: binding, accepting, and one task per connection.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::answering::Worker;
use crate::base::task;

const BACKLOG: u32 = 4096;
/// Streams that one HTTP/2 connection may carry.
const MOST_STREAMS: u32 = 65_536;
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// A socket that is bound to the first address of `host` but refuses connections until
/// [`listen`]; and the address that it got.
pub(super) async fn bind(host: &str, port: u16) -> io::Result<(TcpSocket, SocketAddr)> {
    let host = host.trim_matches(['[', ']']);
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let address = tokio::net::lookup_host((host, port))
        .await?
        .next()
        .ok_or_else(nowhere)?;
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let bound = socket.local_addr()?;
    Ok((socket, bound))
}

/// Makes the socket accept connections.
pub(super) fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

/// Accepts connections until `stop` changes or its sender is gone.
pub(super) async fn accept(
    listener: TcpListener,
    worker: Arc<Worker>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, Arc::clone(&worker), stop.clone());
                task::spawn("sample worker connection", connection);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // The port is free before the last receiver of `stop` goes, which is what a stop waits for.
    drop(listener);
}

async fn connection(stream: TcpStream, worker: Arc<Worker>, mut stop: watch::Receiver<bool>) {
    let stats = Arc::clone(&worker.engine.stats);
    stats.accepted.add(1);
    stats.connections.add(1);
    let abort = Arc::new(AtomicBool::new(false));
    let wire = Wire {
        stream,
        abort: Arc::clone(&abort),
    };
    let service = service_fn(move |request| {
        let (worker, abort) = (Arc::clone(&worker), Arc::clone(&abort));
        async move { worker.answer(request, abort).await }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().header_read_timeout(None);
    builder.http2().max_concurrent_streams(MOST_STREAMS);
    {
        let mut serving = pin!(builder.serve_connection(TokioIo::new(wire), service));
        tokio::select! {
            biased;
            served = &mut serving => {
                if let Err(error) = served {
                    tracing::debug!(error = %error, "connection ended early");
                }
            }
            _ = stop.changed() => {}
        }
    }
    stats.connections.sub(1);
}

/// A connection whose end is a reset once `abort` is set.
struct Wire {
    stream: TcpStream,
    abort: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.abort.load(Ordering::Relaxed)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "cannot reset the connection");
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
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
