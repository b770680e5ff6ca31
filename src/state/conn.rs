//! Idle connections to a worker.
//!
//! A connection is driven by whoever uses it: the request's own task polls the HTTP/1 state
//! machine, so there is no task and no channel hop per connection. An idle connection is polled by
//! nobody; [`ConnPool::take`] and [`ConnPool::sweep`] notice when the worker has closed it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::api::payload::Sending;

/// Identity of a connection pool: what must be equal for a connection to be reusable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// Host name or address.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
}

type Driver = http1::Connection<TokioIo<TcpStream>, Sending>;

/// One HTTP/1.1 connection to a worker, together with the state machine that moves its bytes.
#[derive(Debug)]
pub struct Conn {
    sender: http1::SendRequest<Sending>,
    driver: Option<Box<Driver>>,
    inline: Arc<Inline>,
    waker: Waker,
    _open: Open,
}

/// Rounds of driving in one poll before the task is woken again instead: the runtime's
/// cooperative budget answers "pending" and wakes at once when it is spent, so an unbounded loop
/// would spin.
const ROUNDS: usize = 8;

impl Conn {
    /// Sends half of the connection.
    pub fn sender(&mut self) -> &mut http1::SendRequest<Sending> {
        &mut self.sender
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

/// Counts an open connection for as long as it lives.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The idle connections of one worker, newest last, and the number of open ones.
#[derive(Debug, Default)]
pub struct ConnPool {
    idle: Mutex<Vec<(Instant, Conn)>>,
    open: Arc<AtomicUsize>,
}

impl ConnPool {
    /// Wraps a freshly shaken connection, counting it as open until it is dropped.
    pub fn adopt(&self, sender: http1::SendRequest<Sending>, driver: Driver) -> Conn {
        self.open.fetch_add(1, Ordering::Relaxed);
        let inline = Arc::new(Inline::default());
        let waker = Waker::from(Arc::clone(&inline));
        let open = Open(Arc::clone(&self.open));
        Conn {
            sender,
            driver: Some(Box::new(driver)),
            inline,
            waker,
            _open: open,
        }
    }

    /// The most recently used connection that is still usable. Those found dead are dropped.
    pub fn take(&self) -> Option<Conn> {
        loop {
            let (_, mut conn) = self.idle.lock().pop()?;
            if conn.is_reusable() {
                return Some(conn);
            }
        }
    }

    /// Keeps `conn` for another request if it can carry one and fewer than `max_idle` wait.
    pub fn give_back(&self, mut conn: Conn, now: Instant, max_idle: usize) {
        if !conn.is_reusable() {
            return;
        }
        conn.inline.outer.take();
        let mut idle = self.idle.lock();
        if idle.len() < max_idle {
            idle.push((now, conn));
        }
    }

    /// Drops connections that have been idle for `idle_timeout` or that the worker has closed.
    pub fn sweep(&self, now: Instant, idle_timeout: Duration) {
        let waiting = std::mem::take(&mut *self.idle.lock());
        let mut kept: Vec<(Instant, Conn)> = waiting
            .into_iter()
            .filter_map(|(since, mut conn)| {
                let fresh = now.saturating_duration_since(since) < idle_timeout;
                (fresh && conn.is_reusable()).then_some((since, conn))
            })
            .collect();
        let mut idle = self.idle.lock();
        kept.append(&mut idle);
        *idle = kept;
    }

    /// Open connections, idle ones included.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Idle connections.
    pub fn idle(&self) -> usize {
        self.idle.lock().len()
    }
}
