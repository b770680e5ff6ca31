//! What is learned about a worker from traffic: load and counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use ahash::AHashMap;
use parking_lot::Mutex;

use super::breaker::{BreakerCell, Entry, Outcome, Turn};
use super::pace::Pace;
use super::report::ReportCell;
use crate::api::Endpoint;
use crate::plan::{Breaker, WorkerKey};

/// Load and counters of one worker, shared by all snapshots and by all pools it stands in.
#[derive(Debug)]
pub struct WorkerCell {
    key: WorkerKey,
    in_flight: AtomicUsize,
    /// How far it is with its prompts.
    pub pace: Pace,
    /// Whether it answers.
    pub breaker: BreakerCell,
    /// What its engine said of its load.
    pub report: ReportCell,
    /// Picks so far.
    pub processed: AtomicU64,
    by_model: Mutex<AHashMap<Arc<str>, Arc<AtomicU64>>>,
    /// Attempts on this worker that failed and were followed by another, by [`Endpoint::index`].
    pub retries: [AtomicU64; Endpoint::ALL.len()],
    /// Good probes.
    pub probes_ok: AtomicU64,
    /// Failed probes.
    pub probes_failed: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    unregistered: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
}

/// Why a worker could not be registered when that was last tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What went wrong.
    pub message: String,
    /// When.
    pub at: SystemTime,
}

impl WorkerCell {
    /// A cell with all counters at zero.
    pub fn new(key: WorkerKey) -> Self {
        Self {
            key,
            in_flight: AtomicUsize::new(0),
            pace: Pace::default(),
            breaker: BreakerCell::default(),
            report: ReportCell::default(),
            processed: AtomicU64::new(0),
            by_model: Mutex::default(),
            retries: [const { AtomicU64::new(0) }; Endpoint::ALL.len()],
            probes_ok: AtomicU64::new(0),
            probes_failed: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            unregistered: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }

    /// Notes how the latest attempt to register the worker went.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        let failed = u64::from(trouble.is_some());
        *self.trouble.lock() = trouble;
        // Who counts one more finds its reason.
        self.unregistered.fetch_add(failed, Ordering::Release);
    }

    /// Attempts to register the worker that have failed, ever.
    pub fn unregistered(&self) -> u64 {
        self.unregistered.load(Ordering::Acquire)
    }

    /// What keeps the worker from being registered.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().clone()
    }

    /// Counts the attempts that `model` sends here. Resolved when a snapshot is bound; `model` is a
    /// declared or advertised name, so there are few.
    pub fn attempts_of(&self, model: &Arc<str>) -> Arc<AtomicU64> {
        Arc::clone(self.by_model.lock().entry(Arc::clone(model)).or_default())
    }

    /// Attempts per model.
    pub fn attempts(&self) -> Vec<(Arc<str>, u64)> {
        let counts = self.by_model.lock();
        counts
            .iter()
            .map(|(model, count)| (Arc::clone(model), count.load(Ordering::Relaxed)))
            .collect()
    }

    /// Counts a prompt of so many tokens, of which the worker found `cached` in its cache.
    pub fn found(&self, cached: u64, prompt: u64) {
        self.prompt_tokens.fetch_add(prompt, Ordering::Relaxed);
        let cached = cached.min(prompt);
        self.cached_tokens.fetch_add(cached, Ordering::Relaxed);
    }

    /// The share of all prompt tokens that the worker found in its cache, from 0 to 1; `None` while it
    /// has told of none.
    pub fn cache_hit_ratio(&self) -> Option<f64> {
        let prompt = self.prompt_tokens.load(Ordering::Relaxed);
        let cached = self.cached_tokens.load(Ordering::Relaxed);
        (prompt > 0).then(|| (cached as f64 / prompt as f64).min(1.0))
    }

    /// Identity of the worker.
    pub fn key(&self) -> &WorkerKey {
        &self.key
    }

    /// Requests in flight at this worker.
    pub fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Prompt tokens that were sent there and are not computed yet, as policies estimated them.
    pub fn pending_prefill(&self) -> u64 {
        self.pace.pending()
    }
}

/// One request in flight. Taken when a worker is picked, dropped when the response body ends,
/// fails, or the client goes away: the only way the count changes, so it returns to 0. Where the
/// worker's breaker has let the request in, it is told one outcome, which is nothing unless
/// [`judge`](Self::judge) said otherwise.
#[derive(Debug)]
pub struct InFlight {
    cell: Arc<WorkerCell>,
    prefill: u64,
    trial: Option<Trial>,
}

/// What the breaker still waits for.
#[derive(Debug)]
struct Trial {
    entry: Entry,
    thresholds: Breaker,
    /// The same client request has failed there before.
    charged: bool,
}

impl InFlight {
    /// Counts a request at `cell`, whose prompt is expected to cost `prefill` tokens there. The breaker
    /// does not hear of it.
    pub fn start(cell: &Arc<WorkerCell>, prefill: u32, now: Instant) -> Self {
        let prefill_tokens = u64::from(prefill);
        cell.in_flight.fetch_add(1, Ordering::Relaxed);
        cell.processed.fetch_add(1, Ordering::Relaxed);
        if prefill > 0 {
            cell.pace.begin(prefill_tokens, now);
            cell.report.sent(prefill);
        }
        Self {
            cell: Arc::clone(cell),
            prefill: prefill_tokens,
            trial: None,
        }
    }

    /// The same where the worker's breaker lets the request in. `charged`: the client's request has
    /// failed there before, and a worker answers for one failure per request.
    pub fn enter(
        cell: &Arc<WorkerCell>,
        thresholds: &Breaker,
        charged: bool,
        prefill: u32,
        now: Instant,
    ) -> Option<Self> {
        let entry = cell.breaker.enter(thresholds, now)?;
        let mut guard = Self::start(cell, prefill, now);
        guard.trial = Some(Trial {
            entry,
            thresholds: *thresholds,
            charged,
        });
        Some(guard)
    }

    /// Tells the breaker what the request says about the worker; what comes after the first time is
    /// ignored. Returns the change that this makes.
    pub fn judge(&mut self, outcome: Outcome, now: Instant) -> Option<Turn> {
        let trial = self.trial.take()?;
        let failed = matches!(outcome, Outcome::Failure | Outcome::Overloaded);
        let outcome = if failed && trial.charged {
            Outcome::Neutral
        } else {
            outcome
        };
        let breaker = &self.cell.breaker;
        breaker.leave(trial.entry, outcome, &trial.thresholds, now)
    }

    /// The prompt has been computed: the answer has begun.
    pub fn prefilled(&mut self, now: Instant) {
        let prefill = std::mem::take(&mut self.prefill);
        if prefill > 0 {
            self.cell.pace.computed(prefill, now);
        }
    }

    /// The worker's cell.
    pub fn cell(&self) -> &Arc<WorkerCell> {
        &self.cell
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.prefill > 0 {
            self.cell.pace.ended(self.prefill);
        }
        if let Some(trial) = self.trial.take() {
            self.cell.breaker.step_back(trial.entry);
        }
        let before = self.cell.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "an in-flight guard is dropped once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_returns_the_count_to_zero() {
        let cell = Arc::new(WorkerCell::new(WorkerKey::new("http://a:1")));
        let now = crate::base::clock::now();
        let mut one = InFlight::start(&cell, 100, now);
        let two = InFlight::start(&cell, 20, now);
        assert_eq!((cell.load(), cell.pending_prefill()), (2, 120));
        one.prefilled(now);
        assert_eq!((cell.load(), cell.pending_prefill()), (2, 20));
        drop(one);
        drop(two);
        assert_eq!((cell.load(), cell.pending_prefill()), (0, 0));
        assert_eq!(cell.processed.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_share_that_was_cached_is_that_of_all_prompts() {
        let cell = WorkerCell::new(WorkerKey::new("http://a:1"));
        assert_eq!(cell.cache_hit_ratio(), None);
        cell.found(30, 100);
        cell.found(500, 100);
        assert_eq!(cell.cache_hit_ratio(), Some(0.65));
    }

    #[test]
    fn a_guard_tells_the_breaker_one_outcome() {
        let cell = Arc::new(WorkerCell::new(WorkerKey::new("http://a:1")));
        let now = crate::base::clock::now();
        let thresholds = Breaker {
            enabled: true,
            failure_threshold: 2,
            success_threshold: 1,
            timeout: std::time::Duration::from_secs(60),
            window: std::time::Duration::from_secs(60),
        };
        let enter = |charged| InFlight::enter(&cell, &thresholds, charged, 0, now);
        drop(enter(false));
        let mut one = enter(false).unwrap();
        assert_eq!(one.judge(Outcome::Failure, now), None);
        assert_eq!(one.judge(Outcome::Failure, now), None);
        drop(one);
        enter(true).unwrap().judge(Outcome::Failure, now);
        let tally = cell.breaker.tally();
        assert_eq!((tally.failures, tally.neutral), (1, 2));
        assert!(enter(false).unwrap().judge(Outcome::Failure, now).is_some());
        assert!(enter(false).is_none());
        assert_eq!(cell.load(), 0);
        let mut copy = InFlight::start(&cell, 0, now);
        assert_eq!(copy.judge(Outcome::Failure, now), None);
        drop(copy);
        assert_eq!(cell.breaker.tally().failures, 2);
    }
}
