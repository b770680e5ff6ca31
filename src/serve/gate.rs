//! What every request of one connection has in common.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::live::{Admin, Live};
use crate::plan::Listener;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A TCP client.
    Tcp(IpAddr),
    /// A client of a unix socket.
    Unix,
    /// A client of the control socket whose user is root or our own.
    Control,
}

impl Peer {
    /// Whether it sits on this machine.
    pub(crate) fn is_local(self) -> bool {
        match self {
            Self::Tcp(address) => address.to_canonical().is_loopback(),
            Self::Unix | Self::Control => true,
        }
    }
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
    /// Requests under way on this connection.
    pub(crate) busy: Arc<AtomicUsize>,
}
