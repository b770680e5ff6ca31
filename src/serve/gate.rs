//! What every request of one connection has in common.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use crate::live::{Admin, Live};
use crate::plan::Listener;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A TCP client.
    Tcp(IpAddr),
    /// A client of a unix socket.
    Unix,
    /// A client of the control socket whose user, by number, is root or our own.
    Control(u32),
}

impl Peer {
    /// Whether it sits on this machine.
    pub(crate) fn is_local(self) -> bool {
        match self {
            Self::Tcp(address) => address.to_canonical().is_loopback(),
            Self::Unix | Self::Control(_) => true,
        }
    }
}

/// How a connection stands.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Requests under way.
    pub(crate) busy: AtomicUsize,
    /// Requests begun so far.
    pub(crate) served: AtomicUsize,
    /// It speaks HTTP/2.
    pub(crate) multiplexed: AtomicBool,
    /// Its listener is gone: the next answer is the last.
    pub(crate) ending: AtomicBool,
    /// It closes behind an answer to a request of which not everything was read.
    pub(crate) unread: AtomicBool,
}

/// What the requests of one connection share.
pub(crate) struct Gate {
    /// Where the snapshot is.
    pub(crate) live: Arc<Live>,
    /// What the admin routes ask.
    pub(crate) admin: Arc<dyn Admin>,
    /// The listener as it was when the connection was accepted.
    pub(crate) listener: Arc<Listener>,
    /// The other end.
    pub(crate) peer: Peer,
    /// The subject of the certificate that the client has shown.
    pub(crate) certificate: Option<Arc<str>>,
    /// How this connection stands.
    pub(crate) standing: Arc<Standing>,
}
