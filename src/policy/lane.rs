//! Places of workers in a memory: small numbers instead of URLs.

use std::sync::atomic::{AtomicU64, Ordering};

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::plan::WorkerKey;

/// The place of one worker in one [`Memory`](super::Memory). The index is small and taken again
/// after the worker has left; the turn tells its holders apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// Below the number of workers that were ever there at once.
    pub index: u16,
    /// How often the index had been given away before.
    pub turn: u16,
}

/// Who has which lane.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    table: Mutex<Table>,
    changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    taken: AHashMap<WorkerKey, Lane>,
    free: Vec<Lane>,
    next: u16,
}

impl Lanes {
    /// The lane of `worker`, given to it now if it has none.
    pub(super) fn enrol(&self, worker: &WorkerKey) -> Lane {
        let mut table = self.table.lock();
        if let Some(lane) = table.taken.get(worker) {
            return *lane;
        }
        let lane = table.free.pop().unwrap_or_else(|| {
            let index = table.next;
            // More workers than lanes share the last one: an index of 65,536 workers is off by
            // one worker, not out of bounds.
            table.next = table.next.saturating_add(1);
            Lane { index, turn: 0 }
        });
        table.taken.insert(worker.clone(), lane);
        self.changes.fetch_add(1, Ordering::Release);
        lane
    }

    /// The lane of `worker`, if it has one.
    pub(super) fn find(&self, worker: &WorkerKey) -> Option<Lane> {
        self.table.lock().taken.get(worker).copied()
    }

    /// Grows whenever somebody comes or goes.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Everybody's lane, in the order of the workers' keys.
    pub(super) fn by_key(&self) -> Vec<Lane> {
        let table = self.table.lock();
        let mut all: Vec<(&WorkerKey, Lane)> =
            table.taken.iter().map(|(key, lane)| (key, *lane)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, lane)| lane).collect()
    }

    /// Takes the lanes of all workers that `stays` does not pick, and returns them.
    pub(super) fn retain(&self, stays: impl Fn(&WorkerKey) -> bool) -> Vec<Lane> {
        let mut table = self.table.lock();
        let mut left = Vec::new();
        table.taken.retain(|worker, lane| {
            let stay = stays(worker);
            if !stay {
                left.push(*lane);
            }
            stay
        });
        if !left.is_empty() {
            self.changes.fetch_add(1, Ordering::Release);
        }
        table.free.extend(left.iter().map(|lane| Lane {
            index: lane.index,
            turn: lane.turn.wrapping_add(1),
        }));
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_kept_while_its_worker_stays_and_given_on_afterwards() {
        let lanes = Lanes::default();
        let (a, b, c) = (
            WorkerKey::new("http://a:1"),
            WorkerKey::new("http://b:1"),
            WorkerKey::new("http://c:1"),
        );
        let first = lanes.enrol(&a);
        assert_eq!(lanes.enrol(&b).index, 1);
        assert_eq!(lanes.retain(|worker| *worker == b), [first]);
        assert_eq!(lanes.enrol(&c), Lane { index: 0, turn: 1 });
        assert_eq!(lanes.enrol(&b), Lane { index: 1, turn: 0 });
    }

    #[test]
    fn comings_and_goings_are_counted_and_the_rest_is_not() {
        let lanes = Lanes::default();
        let (a, b) = (WorkerKey::new("http://a:1"), WorkerKey::new("http://b:1"));
        let second = lanes.enrol(&b);
        let first = lanes.enrol(&a);
        assert_eq!(lanes.by_key(), [first, second]);
        let before = lanes.changes();
        lanes.enrol(&a);
        lanes.retain(|_| true);
        assert_eq!(lanes.changes(), before);
        lanes.retain(|worker| *worker == a);
        assert_eq!(lanes.by_key(), [first]);
        assert!(lanes.changes() > before);
    }
}
