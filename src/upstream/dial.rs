//! Connecting to a worker, by whichever of its addresses accepts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{Instant as TokioInstant, timeout_at};

use super::resolve::{self, Lookup};
use crate::base::clock;
use crate::state::NameCell;

/// Silence before the kernel asks whether the other side is still there, how often it asks again,
/// and how often in vain before the connection counts as broken.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// A connection to `port` of the host within `limit`, and the address that it leads to.
///
/// All addresses are tried, one at a time: the next one at once when one refuses, and when one
/// stays silent for its share of what is left of `limit`. If none connects the host is looked up
/// once more, and addresses that come to light have what is left.
///
/// Cancel safety: dropping the future closes what it has opened.
///
/// # Errors
/// That of the last address tried, or of the look-up; `TimedOut` at the end of `limit`.
pub(super) async fn dial(
    names: &Arc<NameCell>,
    port: u16,
    limit: Duration,
    lookup: impl Lookup,
) -> io::Result<(TcpStream, IpAddr)> {
    let began = clock::now();
    let end = began + limit;
    if let Some(address) = names.literal() {
        return connect(address, port, end).await;
    }
    let mut tried = Vec::new();
    let mut known = by(end, resolve::addresses(names, lookup)).await?;
    loop {
        let mut last = io::ErrorKind::NotFound.into();
        for (at, address) in known.iter().enumerate() {
            let now = clock::now();
            match connect(*address, port, now + share(end, now, known.len() - at)).await {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
            names.failed(*address);
        }
        tried.append(&mut known);
        if clock::now() >= end {
            // The next one who connects finds a newer answer.
            resolve::hurry(names, lookup, began);
            return Err(last);
        }
        if !by(end, async {
            Ok(resolve::again(names, lookup, began).await)
        })
        .await?
        {
            return Err(last);
        }
        known = names.addresses();
        known.retain(|address| !tried.contains(address));
        if known.is_empty() {
            return Err(last);
        }
    }
}

fn share(end: Instant, now: Instant, among: usize) -> Duration {
    end.saturating_duration_since(now) / u32::try_from(among).unwrap_or(u32::MAX).max(1)
}

async fn by<T>(end: Instant, awaited: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(TokioInstant::from_std(end), awaited)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect(
    mut address: SocketAddr,
    port: u16,
    end: Instant,
) -> io::Result<(TcpStream, IpAddr)> {
    address.set_port(port);
    let stream = by(end, TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    let (silence, between, times) = KEEPALIVE;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(silence)
        .with_interval(between)
        .with_retries(times);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok((stream, address.ip()))
}
