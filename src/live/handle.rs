//! The one place that swaps snapshots, and the phase of the process.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::ages::{Ages, Slot};
use super::snapshot::Snapshot;
use crate::telemetry::metrics::label;

#[expect(clippy::disallowed_types, reason = "the one owner of the swap")]
type Swap = arc_swap::ArcSwap<Snapshot>;

/// Where the process stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Serving.
    Running = 0,
    /// Told to stop; readiness says so while load balancers take notice.
    Settling = 1,
    /// Listeners are closed; requests in flight end.
    Draining = 2,
    /// None is left; connections are closed.
    Closing = 3,
    /// The grace period is over: what is left ends now.
    Ending = 4,
}

impl Phase {
    /// The word in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Settling => "settling",
            Self::Draining => "draining",
            Self::Closing => "closing",
            Self::Ending => "ending",
        }
    }
}

/// The current snapshot. Readers load it once per request; only [`Live::publish`] replaces it.
#[derive(Debug)]
pub struct Live {
    current: Swap,
    alive: Mutex<Vec<Weak<Snapshot>>>,
    published: watch::Sender<u64>,
    phase: AtomicU8,
    phase_changed: watch::Sender<Phase>,
    calls: AtomicUsize,
    ages: Ages,
    readiness_probe: Mutex<Option<Instant>>,
}

/// A snapshot that is ready to be published: everything that can fail has been done.
#[derive(Debug)]
pub struct Prepared(Arc<Snapshot>);

impl Prepared {
    /// Wraps a bound snapshot. Called by the publisher only.
    pub fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(snapshot))
    }

    /// The snapshot that will be published.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.0
    }
}

impl Live {
    /// Starts with `first`.
    pub fn new(first: Prepared) -> Self {
        let id = first.0.id;
        let ages = Ages::new(first.0.born);
        Self {
            alive: Mutex::new(vec![Arc::downgrade(&first.0)]),
            current: Swap::new(first.0),
            published: watch::Sender::new(id),
            phase: AtomicU8::new(Phase::Running as u8),
            phase_changed: watch::Sender::new(Phase::Running),
            calls: AtomicUsize::new(0),
            ages,
            readiness_probe: Mutex::new(None),
        }
    }

    /// The snapshot now. A request calls this once, at the front door.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes `next` the snapshot of every request that arrives from now on. Cannot fail.
    pub fn publish(&self, next: Prepared) {
        let id = next.0.id;
        {
            let mut alive = self.alive.lock();
            alive.retain(|snapshot| snapshot.strong_count() > 0);
            alive.push(Arc::downgrade(&next.0));
        }
        self.current.store(next.0);
        self.published.send_replace(id);
    }

    /// Tells of every publish by the new snapshot's id.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// The snapshots that something still holds, oldest first, the current one included.
    pub fn alive(&self) -> Vec<Arc<Snapshot>> {
        self.alive.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Where the process stands.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Running,
            1 => Phase::Settling,
            2 => Phase::Draining,
            3 => Phase::Closing,
            _ => Phase::Ending,
        }
    }

    /// Moves to `phase`; never back.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
        self.phase_changed.send_replace(self.phase());
    }

    /// Tells of every change of phase.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase_changed.subscribe()
    }

    /// Ready once the grace period is over and what is left must end. Whoever polls requests polls
    /// this too, and the requests look at the phase: one waiter per connection, not per request.
    pub fn ending(self: Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let mut phases = self.phases();
        async move {
            // An error means that the process is past caring.
            let _ended = phases.wait_for(|phase| *phase == Phase::Ending).await;
        }
    }

    /// Notes that somebody asked for readiness at `now`.
    pub fn note_readiness_probe(&self, now: Instant) {
        *self.readiness_probe.lock() = Some(now);
    }

    /// Whether somebody asked for readiness within `window` before `now`: then a load balancer
    /// watches, and is given time to notice that we stop.
    pub fn readiness_probed(&self, now: Instant, window: Duration) -> bool {
        self.readiness_probe
            .lock()
            .is_some_and(|last| now.saturating_duration_since(last) <= window)
    }

    /// Calls in flight.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// The same at `now` by age: up to each of [`label::AGES`], and older than all of them.
    pub(super) fn calls_by_age(&self, now: Instant) -> [usize; label::AGES.len() + 1] {
        self.ages.count(now)
    }

    /// Counts a call that begins at `now` for as long as the guard lives.
    pub fn start_call(self: &Arc<Self>, now: Instant) -> CallGuard {
        self.calls.fetch_add(1, Ordering::Relaxed);
        CallGuard {
            slot: self.ages.begin(now),
            live: Arc::clone(self),
        }
    }
}

/// One call in flight.
#[derive(Debug)]
pub struct CallGuard {
    live: Arc<Live>,
    slot: Slot,
}

impl CallGuard {
    /// The handle that counts it.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.live.calls.fetch_sub(1, Ordering::Relaxed);
        self.live.ages.end(self.slot);
    }
}
