//! Who is let in: the gate over all models, those of models, and the queue before them.
//!
//! There is one cell for the process. It counts, and judges by the limits that were published last:
//! it holds them by reference, since whoever waits came under other snapshots and is to feel a
//! change at once. Where no gate asks, a request is counted and nothing else happens: no lock, no
//! allocation.
//!
//! Invariant: every request that was let in is counted until its [`Permit`] is dropped, and whoever
//! waits is forgotten when its [`Waiting`] is, whatever has happened to it by then.

mod bucket;
mod drain;
mod entry;
mod limits;
mod lobby;
mod queue;
mod share;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use metrics::Counter;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant as TokioInstant, sleep_until};

use self::lobby::{Arrived, Counts, Lobby, Standing};
use self::queue::Ticket;
use crate::base::{clock, task};
use crate::plan::Identity;
use crate::telemetry::metrics::{self as names, Metric};

pub use self::entry::EntryCell;
pub use self::limits::Limits;
pub use self::lobby::Shut;

/// Timers are no finer than this.
const FINEST: Duration = Duration::from_millis(1);

/// The gates of the process and those who wait at them.
pub struct AdmissionCell {
    counts: Arc<Counts>,
    /// Whether the limits that hold have a gate over all models.
    gated: AtomicBool,
    inner: Mutex<Inner>,
    /// Tells the timer that it sleeps for the wrong time.
    rearm: Notify,
    allowed: Counter,
    rejected: Counter,
}

struct Inner {
    lobby: Lobby,
    timer: Timer,
}

/// The one timer for all gates that look at the time. It is a task that lives while somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    Off,
    /// Sleeps until then, or until it is told.
    Until(Option<Instant>),
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Entering {
    /// It is let in.
    In(Permit),
    /// It waits.
    Waits(Waiting),
    /// It may not wait.
    Shut(Shut),
}

/// A request that was let in. Its place is free again when this is dropped.
#[derive(Debug)]
pub struct Permit(Arc<EntryCell>);

/// A place in the queue, which is given up when this is dropped.
#[derive(Debug)]
pub struct Waiting {
    entry: Arc<EntryCell>,
    class: Arc<str>,
    since: Instant,
    /// Until it is let in and knows.
    ticket: Option<Ticket>,
}

/// Why a request does not wait any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// That which a request may wait.
    Queue,
    /// That of the whole request.
    Total,
    /// None did: somebody with fewer requests waits in its place. When to come back.
    Displaced(Duration),
}

impl std::fmt::Debug for AdmissionCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdmissionCell")
            .field("counts", &self.counts)
            .field("gated", &self.gated)
            .finish_non_exhaustive()
    }
}

impl Default for AdmissionCell {
    /// Without any gate.
    fn default() -> Self {
        let counts = Arc::new(Counts::default());
        let counter = |result| names::counter(Metric::HttpRateLimit, &[("result", result)]);
        Self {
            inner: Mutex::new(Inner {
                lobby: Lobby::new(Arc::clone(&counts)),
                timer: Timer::Off,
            }),
            counts,
            gated: AtomicBool::new(false),
            rearm: Notify::new(),
            allowed: counter("allowed"),
            rejected: counter("rejected"),
        }
    }
}

impl EntryCell {
    /// A request of `class` asks to be let in; it comes from `who`.
    pub fn enter(self: &Arc<Self>, class: &Arc<str>, who: &Identity) -> Entering {
        let cell = &self.admission;
        let gated = cell.gated.load(Ordering::Acquire) || self.gated.load(Ordering::Acquire);
        if !gated {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            cell.counts.under_way.fetch_add(1, Ordering::SeqCst);
            return Entering::In(self.permit());
        }
        let now = clock::now();
        match cell.step(|lobby| lobby.arrive(class, self, who, now), now) {
            Arrived::In => Entering::In(self.permit()),
            Arrived::Waits(ticket) => Entering::Waits(Waiting {
                entry: Arc::clone(self),
                class: Arc::clone(class),
                since: now,
                ticket: Some(ticket),
            }),
            Arrived::Shut(shut) => {
                cell.rejected.increment(1);
                Entering::Shut(shut)
            }
        }
    }

    /// For a request that is counted already.
    fn permit(self: &Arc<Self>) -> Permit {
        self.admission.allowed.increment(1);
        Permit(Arc::clone(self))
    }
}

impl AdmissionCell {
    /// Makes `limits` those that hold, for everybody and at once. `entries` are the model entries of
    /// the same plan.
    pub fn hold<'a>(
        self: &Arc<Self>,
        limits: Limits,
        entries: impl IntoIterator<Item = &'a Arc<EntryCell>>,
        now: Instant,
    ) {
        let raise = |lobby: &mut Lobby| {
            lobby.hold(limits, now);
            // Those of other plans go by the lock and find no gate of their own.
            for entry in entries {
                let gated = lobby.is_entry_gated(entry);
                entry.gated.store(gated, Ordering::Release);
            }
            self.gated.store(lobby.is_gated(), Ordering::Release);
        };
        self.step(raise, now);
    }

    /// Requests that were let in and have not ended.
    pub fn under_way(&self) -> usize {
        self.counts.under_way.load(Ordering::Relaxed)
    }

    /// The classes of which requests have waited, and how many do.
    pub fn waiting_by_class(&self) -> Vec<(Arc<str>, usize)> {
        let inner = self.inner.lock();
        let waiting = inner.lobby.waiting();
        waiting.map(|(name, n)| (Arc::clone(name), n)).collect()
    }

    /// Changes the lobby, sees to the timer, and wakes those for whom something has changed.
    fn step<T>(self: &Arc<Self>, change: impl FnOnce(&mut Lobby) -> T, now: Instant) -> T {
        let (result, woken) = {
            let mut inner = self.inner.lock();
            let result = change(&mut inner.lobby);
            self.set_timer(&mut inner, now);
            (result, inner.lobby.woken())
        };
        woken.into_iter().for_each(Waker::wake);
        result
    }

    fn set_timer(self: &Arc<Self>, inner: &mut Inner, now: Instant) {
        match inner.timer {
            // Whoever waits or changes limits has a runtime; whoever only leaves may have none, and
            // then the timer runs already.
            Timer::Off if inner.lobby.is_timed() && !inner.lobby.is_empty() => {
                inner.timer = Timer::Until(None);
                task::spawn("admission", Arc::clone(self).keep_time());
            }
            Timer::Until(at) => {
                // Where it sleeps for too short a time, it finds out by itself.
                let sooner = inner
                    .lobby
                    .due(now)
                    .is_some_and(|due| at.is_none_or(|at| due + FINEST < at));
                if sooner || inner.lobby.is_empty() {
                    self.rearm.notify_one();
                }
            }
            Timer::Off => {}
        }
    }

    /// Lets in whoever only waits for time to pass, until nobody waits.
    async fn keep_time(self: Arc<Self>) {
        loop {
            let now = clock::now();
            let (until, woken) = {
                let mut inner = self.inner.lock();
                inner.lobby.pass(now);
                let due = inner.lobby.due(now);
                let on = inner.lobby.is_timed() && !inner.lobby.is_empty();
                inner.timer = if on { Timer::Until(due) } else { Timer::Off };
                (on.then_some(due), inner.lobby.woken())
            };
            woken.into_iter().for_each(Waker::wake);
            match until {
                None => return,
                Some(None) => self.rearm.notified().await,
                Some(Some(due)) => tokio::select! {
                    () = sleep_until(TokioInstant::from_std(due)) => {}
                    () = self.rearm.notified() => {}
                },
            }
        }
    }

    fn release(self: &Arc<Self>, entry: &EntryCell) {
        lobby::release(&self.counts, entry);
        if self.counts.waiting.load(Ordering::SeqCst) > 0 {
            let now = clock::now();
            self.step(|lobby| lobby.pass(now), now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.admission.release(&self.0);
    }
}

impl Waiting {
    /// Waits to be let in, until `by` at the latest.
    ///
    /// Cancel safety: dropping the future gives up the place.
    ///
    /// # Errors
    /// [`Late`] when it may wait no more.
    pub async fn admitted(mut self, by: Instant) -> Result<Permit, Late> {
        let mut sleep = pin!(sleep_until(TokioInstant::from_std(by)));
        let outcome = poll_fn(|cx| {
            let until = match self.look(cx.waker()) {
                Standing::In => return Poll::Ready(Ok(())),
                Standing::Displaced(wait) => return Poll::Ready(Err(Late::Displaced(wait))),
                Standing::Until(until) => until,
            };
            let wake = TokioInstant::from_std(until.min(by));
            if sleep.deadline() != wake {
                sleep.as_mut().reset(wake);
            }
            let late = if by <= until {
                Late::Total
            } else {
                Late::Queue
            };
            sleep.as_mut().poll(cx).map(|()| Err(late))
        })
        .await;
        match outcome {
            Ok(()) => Ok(self.entry.permit()),
            Err(late) => {
                self.entry.admission.rejected.increment(1);
                Err(late)
            }
        }
    }

    /// How it stands; it has no ticket any more once it does not wait.
    fn look(&mut self, waker: &Waker) -> Standing {
        let Some(ticket) = self.ticket else {
            return Standing::In;
        };
        let mut inner = self.entry.admission.inner.lock();
        let standing = inner.lobby.look(ticket, waker).unwrap_or(Standing::In);
        if !matches!(standing, Standing::Until(_)) {
            self.ticket = None;
        }
        standing
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = clock::now();
        if let Some(ticket) = self.ticket {
            let admission = &self.entry.admission;
            admission.step(|lobby| lobby.leave(ticket, now), now);
        }
        let waited = now.saturating_duration_since(self.since);
        names::histogram(Metric::AdmissionQueueWait, &[("class", &*self.class)])
            .record(waited.as_secs_f64());
    }
}
