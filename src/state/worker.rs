//! What is learned about a worker from traffic: load and counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::api::Endpoint;
use crate::plan::WorkerKey;

/// Load and counters of one worker, shared by all snapshots and by all pools it stands in.
#[derive(Debug)]
pub struct WorkerCell {
    key: WorkerKey,
    in_flight: AtomicUsize,
    /// Picks so far.
    pub processed: AtomicU64,
    /// Attempts on this worker that failed and were followed by another, by [`Endpoint::index`].
    pub retries: [AtomicU64; Endpoint::ALL.len()],
    /// Good probes.
    pub probes_ok: AtomicU64,
    /// Failed probes.
    pub probes_failed: AtomicU64,
}

impl WorkerCell {
    /// A cell with all counters at zero.
    pub fn new(key: WorkerKey) -> Self {
        Self {
            key,
            in_flight: AtomicUsize::new(0),
            processed: AtomicU64::new(0),
            retries: [const { AtomicU64::new(0) }; Endpoint::ALL.len()],
            probes_ok: AtomicU64::new(0),
            probes_failed: AtomicU64::new(0),
        }
    }

    /// Identity of the worker.
    pub fn key(&self) -> &WorkerKey {
        &self.key
    }

    /// Requests in flight at this worker.
    pub fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// One request in flight. Taken when a worker is picked, dropped when the response body ends,
/// fails, or the client goes away: the only way the count changes, so it returns to 0.
#[derive(Debug)]
pub struct InFlight(Arc<WorkerCell>);

impl InFlight {
    /// Counts a request at `cell`.
    pub fn start(cell: &Arc<WorkerCell>) -> Self {
        cell.in_flight.fetch_add(1, Ordering::Relaxed);
        cell.processed.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(cell))
    }

    /// The worker's cell.
    pub fn cell(&self) -> &Arc<WorkerCell> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "an in-flight guard is dropped once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_returns_the_count_to_zero() {
        let cell = Arc::new(WorkerCell::new(WorkerKey::new("http://a:1")));
        let one = InFlight::start(&cell);
        let two = InFlight::start(&cell);
        assert_eq!(cell.load(), 2);
        drop(one);
        drop(two);
        assert_eq!(cell.load(), 0);
        assert_eq!(cell.processed.load(Ordering::Relaxed), 2);
    }
}
