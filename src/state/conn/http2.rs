//! Connections that carry many requests at a time.
//!
//! Each is driven by a task of its own, which lives as long as anybody holds a [`h2`] handle: the
//! pool while it may give out more streams, and every stream.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{ConnPool, Peer};
use crate::base::clock;
use crate::state::NameCell;

/// Streams that the first connection is expected to carry, until a worker has said how many.
const EXPECTED: usize = 100;

/// Why no connection came about; told to all who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoConnection {
    /// Refused, unreachable, or the name has no address.
    #[error("{0}")]
    Refused(Arc<io::Error>),
    /// Not within the deadline.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// What answers does not speak HTTP/2.
    #[error("what answers there does not speak HTTP/2: {0}")]
    Malformed(Arc<h2::Error>),
}

/// What has crossed a connection lately.
#[derive(Debug, Default)]
pub struct Pulse {
    heard: AtomicBool,
    written: AtomicU64,
}

impl Pulse {
    /// Bytes have come.
    pub fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Whether bytes have come since this was asked last.
    pub fn was_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// `bytes` have been handed to the socket.
    pub fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes handed to the socket so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// The open connections of one worker and those being opened.
#[derive(Debug, Default)]
pub(super) struct Links {
    inner: Mutex<Inner>,
    /// Moves whenever an attempt to connect has ended.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    links: Vec<Link>,
    /// Number of the connection opened last.
    newest: u64,
    opening: usize,
    waiting: usize,
    /// Streams that the next connection is expected to carry.
    expected: usize,
    failures: u64,
    failure: Option<NoConnection>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            links: Vec::new(),
            newest: 0,
            opening: 0,
            waiting: 0,
            expected: EXPECTED,
            failures: 0,
            failure: None,
        }
    }
}

#[derive(Debug)]
struct Link {
    number: u64,
    sender: SendRequest<Bytes>,
    load: Arc<Load>,
    peer: Peer,
}

impl Link {
    /// Whether it takes new streams at all. A worker that is about to leave has said so.
    fn is_open(&mut self, names: &NameCell) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.peer.is_current(names)
            && !matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    fn has_room(&self) -> bool {
        self.load.active.load(Ordering::Relaxed) < self.sender.current_max_send_streams()
    }
}

/// The streams of one connection.
#[derive(Debug)]
struct Load {
    active: AtomicUsize,
    idle_since: Mutex<Instant>,
    pulse: Arc<Pulse>,
}

/// A place on a connection, held for as long as the stream is not over.
#[derive(Debug)]
pub struct Lease {
    load: Arc<Load>,
    number: u64,
}

impl Lease {
    /// Number of the connection.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes that the connection has handed to its socket so far.
    pub fn written(&self) -> u64 {
        self.load.pulse.written()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.load.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.load.idle_since.lock() = clock::now();
        }
    }
}

/// The right to one stream.
#[derive(Debug)]
pub struct Granted {
    /// Opens it.
    pub sender: SendRequest<Bytes>,
    /// To be held until the stream is over.
    pub lease: Lease,
}

impl Links {
    pub(super) fn claim(&self, after: Option<u64>, names: &NameCell) -> Option<Granted> {
        self.inner.lock().claim(after, names)
    }

    pub(super) fn newest(&self) -> u64 {
        self.inner.lock().newest
    }

    pub(super) fn sweep(&self, now: Instant, idle_timeout: Duration, names: &NameCell) {
        self.inner.lock().links.retain_mut(|link| {
            let idle = link.load.active.load(Ordering::Acquire) == 0;
            let since = || now.saturating_duration_since(*link.load.idle_since.lock());
            !(idle && since() >= idle_timeout) && link.is_open(names)
        });
    }

    pub(super) fn idle(&self) -> usize {
        let inner = self.inner.lock();
        let active = |link: &&Link| link.load.active.load(Ordering::Relaxed) == 0;
        inner.links.iter().filter(active).count()
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }
}

impl Inner {
    /// The oldest connection with room goes first, so that those no longer needed fall idle.
    fn claim(&mut self, after: Option<u64>, names: &NameCell) -> Option<Granted> {
        self.links.retain_mut(|link| link.is_open(names));
        let newer = |link: &&Link| after.is_none_or(|after| link.number > after);
        let mut links = self.links.iter().filter(newer);
        let link = links.find(|link| link.has_room())?;
        link.load.active.fetch_add(1, Ordering::AcqRel);
        Some(Granted {
            sender: link.sender.clone(),
            lease: Lease {
                load: Arc::clone(&link.load),
                number: link.number,
            },
        })
    }
}

/// What somebody who waits for a connection is to do next.
#[derive(Debug)]
pub enum Step {
    /// Go on with this.
    Granted(Granted),
    /// Open a connection on a task of its own, and then wait.
    Open(Opening),
    /// Wait for [`Awaiting::news`].
    Wait,
    /// Give up.
    Failed(NoConnection),
}

/// A place among those who wait for a connection; dropped when that is over.
#[derive(Debug)]
pub struct Awaiting {
    pool: Arc<ConnPool>,
    after: Option<u64>,
    failures: u64,
    news: watch::Receiver<u64>,
}

impl Awaiting {
    pub(super) fn new(pool: Arc<ConnPool>, after: Option<u64>) -> Self {
        let (failures, news) = match pool.links() {
            Some(links) => {
                let mut inner = links.inner.lock();
                inner.waiting += 1;
                (inner.failures, links.news.subscribe())
            }
            None => (0, watch::Sender::default().subscribe()),
        };
        Self {
            pool,
            after,
            failures,
            news,
        }
    }

    /// What to do now. As many connections are opened at once as all who wait need.
    pub fn step(&mut self) -> Step {
        let Some(links) = self.pool.links() else {
            return Step::Wait;
        };
        self.news.mark_unchanged();
        let mut inner = links.inner.lock();
        if let Some(granted) = inner.claim(self.after, &self.pool.names) {
            return Step::Granted(granted);
        }
        if inner.opening == 0
            && inner.failures > self.failures
            && let Some(failure) = &inner.failure
        {
            return Step::Failed(failure.clone());
        }
        if inner.opening.saturating_mul(inner.expected) < inner.waiting {
            inner.opening += 1;
            drop(inner);
            return Step::Open(Opening {
                pool: Arc::clone(&self.pool),
                over: false,
            });
        }
        Step::Wait
    }

    /// Waits until an attempt to connect has ended.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn news(&mut self) {
        // The sender lives in the pool that is held here.
        if self.news.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        if let Some(links) = self.pool.links() {
            links.inner.lock().waiting -= 1;
        }
    }
}

/// An attempt to connect; dropped without an outcome, it leaves the task to others.
#[derive(Debug)]
pub struct Opening {
    pool: Arc<ConnPool>,
    over: bool,
}

/// A freshly shaken connection.
#[derive(Debug)]
pub struct Landed {
    /// Opens streams.
    pub sender: SendRequest<Bytes>,
    /// Where it leads.
    pub address: IpAddr,
    /// What crosses it.
    pub pulse: Arc<Pulse>,
}

impl Opening {
    /// The pool.
    pub fn pool(&self) -> &ConnPool {
        &self.pool
    }

    /// Adds the connection. From now on it lives as long as the pool and its streams, and until it
    /// has been idle for too long.
    pub fn land(mut self, landed: Landed, now: Instant) {
        self.end(|inner| {
            inner.newest += 1;
            inner.expected = landed.sender.current_max_send_streams().max(1);
            inner.links.push(Link {
                number: inner.newest,
                sender: landed.sender,
                load: Arc::new(Load {
                    active: AtomicUsize::new(0),
                    idle_since: Mutex::new(now),
                    pulse: landed.pulse,
                }),
                peer: Peer::new(landed.address),
            });
        });
    }

    /// Tells those who wait that there is none.
    pub fn fail(mut self, why: NoConnection) {
        self.end(|inner| {
            inner.failures += 1;
            inner.failure = Some(why);
        });
    }

    fn end(&mut self, outcome: impl FnOnce(&mut Inner)) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        if let Some(links) = self.pool.links() {
            {
                let mut inner = links.inner.lock();
                inner.opening -= 1;
                outcome(&mut inner);
            }
            links.tell();
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.end(|_| {});
    }
}
