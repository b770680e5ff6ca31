//! Listening sockets: bound before a configuration is published, kept while their address is,
//! drained when it is gone, handed to the process that takes over.

mod bind;
mod connection;
mod control_socket;
mod handed;
mod scarcity;
mod tls;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use metrics::Gauge;
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use self::bind::{Bound, SocketFile};
use self::connection::Speaks;
pub use self::control_socket::ControlSocket;
pub use self::handed::{Handed, Purpose, Socket};
use self::scarcity::Scarcity;
use super::gate::{Gate, Peer};
use crate::base::{descriptors, task};
use crate::live::{Admin, BindError, BoxFuture, Live, Phase, PreparedSockets, Sockets};
use crate::plan::{Address, Listener};
use crate::telemetry::metrics::{self as names, Metric};

/// Wait before accepting again when the system refuses. Where it has no descriptors, the next one that a
/// client gives back ends it.
const BREATHER: Duration = Duration::from_millis(100);

/// What a socket is known by: its address as written. Of port 0 there may be several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SocketKey {
    address: Address,
    name: Option<Arc<str>>,
}

impl SocketKey {
    fn of(listener: &Listener) -> Self {
        let any_port = matches!(listener.address, Address::Tcp { port: 0, .. });
        let mut address = listener.address.clone();
        if let Address::Unix { mode, .. } = &mut address {
            // The bits of a socket can change without binding it anew.
            *mode = 0;
        }
        Self {
            address,
            name: any_port.then(|| Arc::clone(&listener.name)),
        }
    }
}

/// What a connection is accepted under.
#[derive(Clone)]
struct Terms {
    listener: Arc<Listener>,
    /// `None`: plain HTTP.
    tls: Option<Arc<ServerConfig>>,
    /// Ends when the connections that were accepted under these terms shall.
    closing: watch::Receiver<()>,
}

/// A socket that accepts. Dropping it ends that and drains its connections.
struct Open {
    sockets: Vec<Arc<Bound>>,
    terms: watch::Sender<Terms>,
    counts: Arc<Counts>,
    /// Dropping it drains the connections.
    connections: watch::Sender<()>,
    _alive: watch::Sender<()>,
    file: Option<SocketFile>,
}

impl Open {
    /// What is accepted from now on is under these terms. Who came under others stays, unless they
    /// might not be let in any more.
    fn renew(&mut self, Wanted { listener, tls }: Wanted) {
        let asks_the_same = {
            let before = self.terms.borrow();
            tls::asks_the_same(before.listener.tls.as_deref(), listener.tls.as_deref())
        };
        let _drained = (!asks_the_same)
            .then(|| std::mem::replace(&mut self.connections, watch::Sender::new(())));
        self.terms.send_replace(Terms {
            listener,
            tls,
            closing: self.connections.subscribe(),
        });
        // A raised limit lets in who waits for room.
        self.counts.room.notify_waiters();
    }
}

type Table = Arc<Mutex<AHashMap<SocketKey, Open>>>;

/// What every socket hands to its connections.
#[derive(Clone)]
struct House {
    live: Arc<Live>,
    admin: Arc<dyn Admin>,
    /// Open connections of all sockets.
    connections: Arc<AtomicUsize>,
    /// A connection has been closed: its descriptor is there again.
    freed: Arc<Notify>,
    /// Sockets that others have bound.
    handed: Arc<Handed>,
    /// Another process accepts what waits.
    is_left: Arc<AtomicBool>,
}

/// The sockets that are open.
pub struct Listeners {
    house: House,
    open: Table,
}

impl Listeners {
    /// No open sockets yet; `handed` are there to be taken.
    pub fn new(live: Arc<Live>, admin: Arc<dyn Admin>, handed: Handed) -> Self {
        let house = House {
            live,
            admin,
            connections: Arc::default(),
            freed: Arc::default(),
            handed: Arc::new(handed),
            is_left: Arc::default(),
        };
        Self {
            house,
            open: Table::default(),
        }
    }

    /// Stops accepting everywhere and asks every connection to end after the request in progress.
    pub fn close(&self) {
        self.open.lock().clear();
    }

    /// Duplicates of every socket that a process which takes over needs.
    ///
    /// # Errors
    /// What the system says.
    pub fn duplicates(&self) -> io::Result<Vec<(Purpose, OwnedFd)>> {
        let mut all = self.house.handed.passed_on()?;
        let open = self.open.lock();
        let bound = open
            .iter()
            .filter(|(key, _)| !matches!(key.address, Address::Systemd { .. }));
        for (key, open) in bound {
            for socket in &open.sockets {
                let purpose = Purpose::Listener {
                    address: bind::shown(&key.address),
                    name: key.name.as_deref().map(str::to_owned),
                    inode: open.file.as_ref().map(SocketFile::inode),
                };
                all.push((purpose, socket.fd()?));
            }
        }
        Ok(all)
    }

    /// Stops accepting: another process has the same sockets and does so. Connections are asked to end
    /// after the request in progress, and files stay.
    pub fn leave(&self) {
        self.house.is_left.store(true, Ordering::Relaxed);
        let mut open = self.open.lock();
        for file in open.values().filter_map(|open| open.file.as_ref()) {
            file.leave();
        }
        open.clear();
    }

    /// The process before has let go of its sockets: what nobody wants of them is closed.
    pub fn take_over(&self) {
        self.house.handed.settle();
    }

    /// The sockets of the service manager that no listener uses. Connections to them wait.
    pub fn unused(&self) -> Vec<String> {
        let open = self.open.lock();
        let is_used = |name: &str| {
            open.keys().any(
                |key| matches!(&key.address, Address::Systemd { name: used } if &**used == name),
            )
        };
        let names = self.house.handed.names();
        let unused = names.into_iter().filter(|name| !is_used(name));
        unused.map(str::to_owned).collect()
    }

    /// The addresses behind a name of the service manager; `None` stands for a unix socket.
    pub(in crate::serve) fn passed_addresses(&self, name: &str) -> Vec<Option<IpAddr>> {
        self.house.handed.addresses(name)
    }

    /// Open client connections, over all sockets.
    pub fn connections(&self) -> usize {
        self.house.connections.load(Ordering::Relaxed)
    }

    /// Serves the admin routes on a socket at `path` to root and to our own user, until the
    /// returned guard is dropped.
    ///
    /// # Errors
    /// What the system says when the socket cannot be made.
    pub fn control_socket(&self, path: &Path) -> io::Result<ControlSocket> {
        ControlSocket::open(path, self.house.clone())
    }
}

/// The sockets of a listener, which are bound and do not accept yet, with their file where they have
/// one. Only the service manager passes several.
type Fresh = (Vec<Bound>, Option<SocketFile>);

/// The sockets of `listener`: those that others have bound for it, else fresh ones.
async fn sockets_of(
    listener: &Listener,
    key: &SocketKey,
    leaving: &[Arc<Bound>],
    handed: &Handed,
) -> Result<Fresh, BindError> {
    if let Address::Systemd { name } = &listener.address {
        let sockets = handed.passed(&listener.name, name)?;
        return Ok((sockets, None));
    }
    if let Some(fresh) = handed.take(key) {
        return Ok(fresh);
    }
    match bind::bind(&listener.address, leaving).await {
        Ok((socket, file)) => Ok((vec![socket], file)),
        Err(source) => Err(BindError::Address {
            name: listener.name.to_string(),
            address: bind::shown(&listener.address),
            source,
        }),
    }
}

impl Sockets for Listeners {
    fn prepare(
        &self,
        listeners: &[Arc<Listener>],
    ) -> BoxFuture<Result<Box<dyn PreparedSockets>, Vec<BindError>>> {
        let listeners: Vec<Arc<Listener>> = listeners.to_vec();
        let open = Arc::clone(&self.open);
        let house = self.house.clone();
        Box::pin(async move {
            let mut wanted = Vec::new();
            let mut bound = AHashMap::new();
            let mut errors = Vec::new();
            let leaving = leaving(&open, &listeners);
            for listener in listeners {
                let key = SocketKey::of(&listener);
                let before = open
                    .lock()
                    .get(&key)
                    .map(|open| open.terms.borrow().clone());
                let is_new = before.is_none();
                match settings(&listener, before) {
                    Ok(tls) => wanted.push(Wanted {
                        listener: Arc::clone(&listener),
                        tls,
                    }),
                    Err(error) => errors.push(error),
                }
                if !is_new {
                    continue;
                }
                match sockets_of(&listener, &key, &leaving, &house.handed).await {
                    Ok(fresh) => {
                        bound.insert(key, fresh);
                    }
                    Err(error) => errors.push(error),
                }
            }
            if !errors.is_empty() {
                return Err(errors);
            }
            let prepared: Box<dyn PreparedSockets> = Box::new(Prepared {
                wanted,
                bound,
                open,
                house,
            });
            Ok(prepared)
        })
    }
}

/// The TLS settings of a listener. Those that say the same stay, and with them the sessions that
/// clients may resume.
fn settings(
    listener: &Listener,
    before: Option<Terms>,
) -> Result<Option<Arc<ServerConfig>>, BindError> {
    match before {
        Some(before) if before.listener.tls == listener.tls => Ok(before.tls),
        Some(_) | None => tls::settings(listener),
    }
}

/// The open sockets that no listener of `wanted` keeps.
fn leaving(open: &Table, wanted: &[Arc<Listener>]) -> Vec<Arc<Bound>> {
    let kept: Vec<SocketKey> = wanted
        .iter()
        .map(|listener| SocketKey::of(listener))
        .collect();
    let open = open.lock();
    let left = open.iter().filter(|(key, _)| !kept.contains(key));
    left.flat_map(|(_, open)| open.sockets.iter().cloned())
        .collect()
}

/// A listener and what could be made for it beforehand.
struct Wanted {
    listener: Arc<Listener>,
    tls: Option<Arc<ServerConfig>>,
}

struct Prepared {
    wanted: Vec<Wanted>,
    bound: AHashMap<SocketKey, Fresh>,
    open: Table,
    house: House,
}

impl PreparedSockets for Prepared {
    fn commit(self: Box<Self>) {
        let Self {
            wanted,
            mut bound,
            open,
            house,
        } = *self;
        let mut open = open.lock();
        if house.live.phase() >= Phase::Draining {
            // Closed for good; what has been bound since is dropped again.
            return;
        }
        let mut kept = AHashMap::new();
        for wanted in wanted {
            let key = SocketKey::of(&wanted.listener);
            if let Some(mut socket) = open.remove(&key) {
                if let Address::Unix { path, mode } = &wanted.listener.address {
                    bind::set_mode(path, *mode);
                }
                socket.renew(wanted);
                kept.insert(key, socket);
            } else if let Some(fresh) = bound.remove(&key) {
                kept.insert(key, start(fresh, wanted, &house));
            }
        }
        for gone in open.keys() {
            tracing::info!(address = %bind::shown(&gone.address), "listener closed, draining");
        }
        // What is left in the old table is dropped here, after the new sockets accept.
        *open = kept;
    }
}

fn start((sockets, file): Fresh, wanted: Wanted, house: &House) -> Open {
    let Wanted { listener, tls } = wanted;
    if let Address::Unix { path, mode } = &listener.address {
        // One of the process before may have other bits.
        bind::set_mode(path, *mode);
    }
    let name = Arc::clone(&listener.name);
    let written = bind::shown(&listener.address);
    let is_tls = tls.is_some();
    let connections = watch::Sender::new(());
    let (terms, current) = watch::channel(Terms {
        listener,
        tls,
        closing: connections.subscribe(),
    });
    let (alive, closing) = watch::channel(());
    let counts = Arc::<Counts>::default();
    let sockets: Vec<Arc<Bound>> = sockets.into_iter().map(Arc::new).collect();
    for socket in &sockets {
        let address = socket.local().unwrap_or_else(|| written.clone());
        tracing::info!(listener = %name, %address, tls = is_tls, "listening");
        let acceptor = Acceptor {
            socket: Arc::clone(socket),
            current: current.clone(),
            closing: closing.clone(),
            house: house.clone(),
            counts: Arc::clone(&counts),
        };
        task::spawn("accept", acceptor.run());
    }
    Open {
        counts,
        sockets,
        terms,
        connections,
        _alive: alive,
        file,
    }
}

/// Connections of one listener.
#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    room: Notify,
    per_address: Mutex<AHashMap<IpAddr, usize>>,
}

/// Accepts until its socket is dropped from the table.
struct Acceptor {
    socket: Arc<Bound>,
    current: watch::Receiver<Terms>,
    closing: watch::Receiver<()>,
    house: House,
    counts: Arc<Counts>,
}

impl Acceptor {
    async fn run(self) {
        let mut closing = self.closing.clone();
        let mut scarcity = Scarcity::none(Arc::clone(&self.current.borrow().listener.name));
        loop {
            // What is freed from here on counts, also while the system is being asked.
            let mut freed = pin!(self.house.freed.notified());
            freed.as_mut().enable();
            let accepted = tokio::select! {
                biased;
                _ = closing.changed() => break,
                accepted = self.accept() => accepted,
                () = scarcity.over() => continue,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if descriptors::are_short(&error) => {
                    scarcity.met(&error);
                    tokio::select! {
                        () = freed => {}
                        () = sleep(BREATHER) => {}
                    }
                }
                // This one has gone before it was ours; the next one waits already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(BREATHER).await;
                }
            }
        }
        if self.house.is_left.load(Ordering::Relaxed) {
            return;
        }
        // Clients whose connection the system has already made are still served, once.
        while let Some((stream, peer)) = self.socket.accept_waiting() {
            self.admit(stream, peer);
        }
    }

    fn admit(&self, stream: bind::Stream, peer: Peer) {
        let Terms {
            listener,
            tls,
            closing,
        } = self.current.borrow().clone();
        let Some(slot) = Slot::take(&self.counts, &self.house, &listener, peer) else {
            return;
        };
        let gate = Gate {
            live: Arc::clone(&self.house.live),
            admin: Arc::clone(&self.house.admin),
            listener,
            peer,
            certificate: None,
            standing: Arc::default(),
        };
        // Two tasks, so that a plain connection has no room for the state of an encrypted one.
        match tls {
            None => task::spawn("connection", async move {
                connection::serve(stream, Speaks::Either, gate, closing).await;
                drop(slot);
            }),
            Some(tls) => task::spawn("connection", async move {
                tls::serve(stream, tls, gate, closing).await;
                drop(slot);
            }),
        };
    }

    /// The next connection, once there is room for one: what is over the limit waits in the
    /// backlog of the socket.
    async fn accept(&self) -> io::Result<(bind::Stream, Peer)> {
        loop {
            let mut room = pin!(self.counts.room.notified());
            // Several sockets may wait for the same room, and only one of them has somebody for it.
            room.as_mut().enable();
            let limit = self.current.borrow().listener.limits.max_connections;
            if self.counts.open.load(Ordering::Relaxed) < limit {
                break;
            }
            room.await;
        }
        self.socket.accept().await
    }
}

/// The place of one connection in the counts.
struct Slot {
    counts: Arc<Counts>,
    all: Arc<AtomicUsize>,
    freed: Arc<Notify>,
    address: Option<IpAddr>,
    gauge: Gauge,
}

impl Slot {
    /// `None` when the client has as many connections as it may.
    fn take(counts: &Arc<Counts>, house: &House, listener: &Listener, peer: Peer) -> Option<Self> {
        let limit = listener.limits.max_connections_per_ip;
        let address = match peer {
            Peer::Tcp(address) if limit > 0 => Some(address.to_canonical()),
            Peer::Tcp(_) | Peer::Unix | Peer::Control(_) => None,
        };
        if let Some(address) = address {
            let mut per_address = counts.per_address.lock();
            let held = per_address.entry(address).or_insert(0);
            if *held >= limit {
                return None;
            }
            *held += 1;
        }
        counts.open.fetch_add(1, Ordering::Relaxed);
        house.connections.fetch_add(1, Ordering::Relaxed);
        let gauge = names::gauge(
            Metric::HttpConnectionsActive,
            &[("listener", &listener.name)],
        );
        gauge.increment(1.0);
        Some(Self {
            counts: Arc::clone(counts),
            all: Arc::clone(&house.connections),
            freed: Arc::clone(&house.freed),
            address,
            gauge,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
        self.counts.room.notify_waiters();
        self.freed.notify_waiters();
        if let Some(address) = self.address {
            let mut per_address = self.counts.per_address.lock();
            if let Some(held) = per_address.get_mut(&address) {
                *held -= 1;
                if *held == 0 {
                    per_address.remove(&address);
                }
            }
        }
    }
}
