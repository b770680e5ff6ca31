//! Copies of requests that are under way, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Counter;

use crate::telemetry::metrics::{self as names, Metric};

/// The copies of one model's requests.
pub struct MirrorCell {
    under_way: AtomicUsize,
    ok: Counter,
    error: Counter,
    dropped: Counter,
}

impl std::fmt::Debug for MirrorCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MirrorCell")
            .field("under_way", &self.under_way)
            .finish_non_exhaustive()
    }
}

impl MirrorCell {
    /// A cell without any copy. `model` is the label of the model's other series, too.
    pub fn new(model: &str) -> Self {
        let counter = |result: &'static str| {
            names::counter(
                Metric::MirrorRequests,
                &[("model", model), ("result", result)],
            )
        };
        Self {
            under_way: AtomicUsize::new(0),
            ok: counter("ok"),
            error: counter("error"),
            dropped: counter("dropped"),
        }
    }

    /// Begins a copy, unless `most` are under way: then it is counted as dropped.
    pub fn start(self: &Arc<Self>, most: usize) -> Option<Copying> {
        let one_more = |now| (now < most).then_some(now + 1);
        let added = self
            .under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if added.is_err() {
            self.dropped.increment(1);
            return None;
        }
        Some(Copying {
            cell: Arc::clone(self),
            end: End::Dropped,
        })
    }

    /// Copies under way.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// A copy under way. Counted when it is dropped, as what it has come to by then.
#[derive(Debug)]
pub struct Copying {
    cell: Arc<MirrorCell>,
    end: End,
}

#[derive(Debug)]
enum End {
    Dropped,
    Failed,
    Answered,
}

impl Copying {
    /// A worker is being asked.
    pub fn sent(&mut self) {
        self.end = End::Failed;
    }

    /// Its whole answer has come, and it is no error.
    pub fn answered(&mut self) {
        self.end = End::Answered;
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.cell.under_way.fetch_sub(1, Ordering::Relaxed);
        match self.end {
            End::Dropped => self.cell.dropped.increment(1),
            End::Failed => self.cell.error.increment(1),
            End::Answered => self.cell.ok.increment(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_bounded_and_make_room_when_they_end() {
        let cell = Arc::new(MirrorCell::new("m"));
        let first = cell.start(2);
        let second = cell.start(2);
        assert!(first.is_some() && second.is_some() && cell.start(2).is_none());
        assert_eq!(cell.under_way(), 2);
        drop(first);
        assert!(cell.start(2).is_some());
        drop(second);
        assert_eq!(cell.under_way(), 0);
    }
}
