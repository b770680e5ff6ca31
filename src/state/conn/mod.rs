//! Connections to a worker.

mod http1;
mod http2;
mod secured;
mod stream;

pub use http1::Conn;
pub use http2::{Awaiting, Granted, Landed, Lease, NoConnection, Opening, Pulse, Step};
pub use secured::{Secured, TlsCell, TlsKey, Unfit};
pub use stream::Stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

use super::{Keyed, NameCell};
use crate::api::payload::Sending;
use crate::base::address::is_allowed;
use crate::base::network::Network;
use crate::plan::ClientTls;

/// Identity of a connection pool: what must be equal for a connection to be reusable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// Host name or address.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
    /// HTTP/2 from the first byte.
    pub http2: bool,
    /// Whether each address is looked at before it is connected to: the host was not named in the
    /// configuration.
    pub guarded: bool,
    /// The networks in which an address that is looked at must lie; empty: any.
    pub networks: Arc<[Network]>,
    /// What is spoken over TLS is shared by nobody who trusts, shows or expects anything else.
    pub tls: Option<Arc<ClientTls>>,
}

/// The connections of one worker that can be used again, and the number of open ones.
#[derive(Debug)]
pub struct ConnPool {
    names: Arc<NameCell>,
    port: u16,
    guarded: bool,
    networks: Arc<[Network]>,
    secured: Option<Secured>,
    kept: Kept,
    open: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Kept {
    Http1(http1::Idle),
    Http2(http2::Links),
}

impl ConnPool {
    /// An empty pool for `key`, whose host has the addresses of `names`. Settings for TLS are taken
    /// from `cells` where they have been made.
    pub fn new(key: &ConnKey, names: Arc<NameCell>, cells: &Keyed<TlsKey, TlsCell>) -> Self {
        let secured = |tls: &Arc<ClientTls>| Secured::new(tls, key.http2, cells);
        Self {
            names,
            port: key.port,
            guarded: key.guarded,
            networks: Arc::clone(&key.networks),
            secured: key.tls.as_ref().map(secured),
            kept: if key.http2 {
                Kept::Http2(http2::Links::default())
            } else {
                Kept::Http1(http1::Idle::default())
            },
            open: Arc::default(),
        }
    }

    /// The addresses of the host.
    pub fn names(&self) -> &Arc<NameCell> {
        &self.names
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether a connection may lead to `address`.
    pub fn may_reach(&self, address: IpAddr) -> bool {
        !self.guarded || is_allowed(address, &self.networks)
    }

    /// How its connections are secured; `None`: in the clear.
    #[inline]
    pub fn secured(&self) -> Option<&Secured> {
        self.secured.as_ref()
    }

    /// Whether its connections speak HTTP/2.
    #[inline]
    pub fn is_http2(&self) -> bool {
        matches!(self.kept, Kept::Http2(_))
    }

    /// Wraps a freshly shaken HTTP/1.1 connection to `address`, counting it as open until it is
    /// dropped.
    pub fn adopt(
        &self,
        sender: SendRequest<Sending>,
        driver: http1::Driver,
        address: IpAddr,
    ) -> Conn {
        Conn::new(sender, driver, Peer::new(address), self.count())
    }

    /// Counts one more open connection until the token is dropped.
    pub fn count(&self) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(&self.open))
    }

    /// The most recently used idle HTTP/1.1 connection that is still usable. Those found dead are
    /// dropped, as are those to an address that the host no longer has.
    pub fn take(&self) -> Option<Conn> {
        match &self.kept {
            Kept::Http1(idle) => idle.take(&self.names),
            Kept::Http2(_) => None,
        }
    }

    /// Keeps `conn` for another request if it can carry one and fewer than `max_idle` wait.
    pub fn give_back(&self, conn: Conn, now: Instant, max_idle: usize) {
        if let Kept::Http1(idle) = &self.kept {
            idle.give_back(conn, now, max_idle);
        }
    }

    /// The right to one more stream on an open HTTP/2 connection, if one has room. With `after`,
    /// only on one that was opened later than the connection of that number.
    pub fn claim(&self, after: Option<u64>) -> Option<Granted> {
        match &self.kept {
            Kept::Http1(_) => None,
            Kept::Http2(links) => links.claim(after, &self.names),
        }
    }

    /// Takes a place among those who wait for another HTTP/2 connection.
    pub fn wait(self: &Arc<Self>, after: Option<u64>) -> Option<Awaiting> {
        match &self.kept {
            Kept::Http1(_) => None,
            Kept::Http2(_) => Some(Awaiting::new(Arc::clone(self), after)),
        }
    }

    /// Number of the HTTP/2 connection opened last; 0 before the first.
    pub fn newest(&self) -> u64 {
        match &self.kept {
            Kept::Http1(_) => 0,
            Kept::Http2(links) => links.newest(),
        }
    }

    /// Drops connections that have been idle for `idle_timeout`, that the worker has closed, or
    /// that lead to an address that the host no longer has.
    pub fn sweep(&self, now: Instant, idle_timeout: Duration) {
        match &self.kept {
            Kept::Http1(idle) => idle.sweep(now, idle_timeout, &self.names),
            Kept::Http2(links) => links.sweep(now, idle_timeout, &self.names),
        }
    }

    /// Open connections, idle ones included.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections kept that carry no request.
    pub fn idle(&self) -> usize {
        match &self.kept {
            Kept::Http1(idle) => idle.len(),
            Kept::Http2(links) => links.idle(),
        }
    }

    fn links(&self) -> Option<&http2::Links> {
        match &self.kept {
            Kept::Http1(_) => None,
            Kept::Http2(links) => Some(links),
        }
    }
}

/// Counts an open connection for as long as it lives.
#[derive(Debug)]
pub struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a connection leads.
#[derive(Debug)]
struct Peer {
    address: IpAddr,
    /// The answer of the name service that is known to list it.
    seen: u64,
}

impl Peer {
    /// Whether the host has `address` is seen at the first use.
    fn new(address: IpAddr) -> Self {
        Self {
            address,
            seen: u64::MAX,
        }
    }

    /// Whether the host still has this address.
    #[inline]
    fn is_current(&mut self, names: &NameCell) -> bool {
        let version = names.version();
        if self.seen == version {
            return true;
        }
        self.seen = version;
        names.lists(self.address)
    }
}
