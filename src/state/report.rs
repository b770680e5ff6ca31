//! The latest load report of an engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::Engine;

/// The latest load report of one worker. Written by the load monitor, read by picks of policies that
/// want it.
#[derive(Debug, Default)]
pub struct ReportCell {
    latest: Mutex<Option<(Instant, Engine)>>,
    since: AtomicU64,
}

impl ReportCell {
    /// Takes a report made at `now`.
    pub fn put(&self, report: Engine, now: Instant) {
        self.since.store(0, Ordering::Relaxed);
        *self.latest.lock() = Some((now, report));
    }

    /// Forgets the report: its worker has left, or does not answer.
    pub fn clear(&self) {
        *self.latest.lock() = None;
    }

    /// Counts tokens of a request that the latest report does not know of.
    pub fn sent(&self, tokens: u32) {
        self.since.fetch_add(u64::from(tokens), Ordering::Relaxed);
    }

    /// The report, if it is not older than `age`.
    pub fn fresh(&self, now: Instant, age: Duration) -> Option<Engine> {
        let (at, report) = (*self.latest.lock())?;
        (now.saturating_duration_since(at) <= age).then(|| Engine {
            in_flight_tokens: self.since.load(Ordering::Relaxed),
            ..report
        })
    }
}
