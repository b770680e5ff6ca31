//! Connections that carry one request at a time.
//!
//! A connection is driven by whoever uses it: the request's own task polls the HTTP/1 state
//! machine, so there is no task and no channel hop per connection. An idle connection is polled by
//! nobody; [`Idle::take`] and [`Idle::sweep`] notice when the worker has closed it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::{Open, Peer, Stream};
use crate::api::payload::Sending;
use crate::state::NameCell;

pub(super) type Driver = http1::Connection<TokioIo<Stream>, Sending>;

/// One HTTP/1.1 connection to a worker, together with the state machine that moves its bytes.
#[derive(Debug)]
pub struct Conn {
    sender: http1::SendRequest<Sending>,
    driver: Option<Box<Driver>>,
    inline: Arc<Inline>,
    waker: Waker,
    peer: Peer,
    _open: Open,
}

/// Rounds of driving in one poll before the task is woken again instead: the runtime's
/// cooperative budget answers "pending" and wakes at once when it is spent, so an unbounded loop
/// would spin.
const ROUNDS: usize = 8;

impl Conn {
    pub(super) fn new(
        sender: http1::SendRequest<Sending>,
        driver: Driver,
        peer: Peer,
        open: Open,
    ) -> Self {
        let inline = Arc::new(Inline::default());
        let waker = Waker::from(Arc::clone(&inline));
        Self {
            sender,
            driver: Some(Box::new(driver)),
            inline,
            waker,
            peer,
            _open: open,
        }
    }

    /// Sends half of the connection.
    pub fn sender(&mut self) -> &mut http1::SendRequest<Sending> {
        &mut self.sender
    }

    /// Where it leads.
    pub fn address(&self) -> IpAddr {
        self.peer.address
    }

    /// Moves bytes in both directions, then polls `step`, which waits for what the bytes bring
    /// (a response head, a body frame). Repeats while one of them has woken the other, so that
    /// talk between the two never costs a trip through the scheduler.
    pub fn poll_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        mut step: impl FnMut(&mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        self.inline.outer.register(cx.waker());
        for _ in 0..ROUNDS {
            self.inline.begin();
            let mut inner = Context::from_waker(&self.waker);
            drive(&mut self.driver, &mut inner);
            let outcome = step(&mut inner);
            let woken = self.inline.end();
            if outcome.is_ready() {
                return outcome;
            }
            if !woken {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the connection can carry another request right now.
    fn is_reusable(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        drive(&mut self.driver, &mut cx);
        self.driver.is_some() && self.sender.is_ready()
    }
}

fn drive(driver: &mut Option<Box<Driver>>, cx: &mut Context<'_>) {
    if let Some(running) = driver.as_mut()
        && Pin::new(running.as_mut()).poll(cx).is_ready()
    {
        // Its end, good or bad, reaches whoever waits for the head or the body.
        *driver = None;
    }
}

/// The waker given to the state machine and to whoever waits for it. A wake during our own poll
/// only asks for another round; any other wakes the task.
#[derive(Debug, Default)]
struct Inline {
    outer: AtomicWaker,
    polling: AtomicBool,
    woken: AtomicBool,
}

impl Inline {
    fn begin(&self) {
        self.polling.store(true, Ordering::SeqCst);
        self.woken.store(false, Ordering::SeqCst);
    }

    fn end(&self) -> bool {
        // First stop claiming wakes, then look: a wake in between reaches the task instead.
        self.polling.store(false, Ordering::SeqCst);
        self.woken.load(Ordering::SeqCst)
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst) {
            self.outer.wake();
        }
    }
}

/// The idle connections of one worker, newest last.
#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Vec<(Instant, Conn)>>);

impl Idle {
    /// The most recently used connection that is still usable. Those found dead, and those to an
    /// address that `names` no longer lists, are dropped.
    pub(super) fn take(&self, names: &NameCell) -> Option<Conn> {
        loop {
            let (_, mut conn) = self.0.lock().pop()?;
            if conn.peer.is_current(names) && conn.is_reusable() {
                return Some(conn);
            }
        }
    }

    pub(super) fn give_back(&self, mut conn: Conn, now: Instant, max_idle: usize) {
        if !conn.is_reusable() {
            return;
        }
        conn.inline.outer.take();
        let mut idle = self.0.lock();
        if idle.len() < max_idle {
            idle.push((now, conn));
        }
    }

    pub(super) fn sweep(&self, now: Instant, idle_timeout: Duration, names: &NameCell) {
        let waiting = std::mem::take(&mut *self.0.lock());
        let mut kept: Vec<(Instant, Conn)> = waiting
            .into_iter()
            .filter_map(|(since, mut conn)| {
                let fresh = now.saturating_duration_since(since) < idle_timeout;
                let usable = fresh && conn.peer.is_current(names) && conn.is_reusable();
                usable.then_some((since, conn))
            })
            .collect();
        let mut idle = self.0.lock();
        kept.append(&mut idle);
        *idle = kept;
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
