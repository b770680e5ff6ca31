//! The tree: shards under locks of their own, one clock and one account.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::books::Books;
use super::evict::Shears;
use super::node::Slot;
use super::sequence::{Item, Sequence};
use super::shard::Shard;
use super::trail::Trail;
use crate::policy::Lane;

const SHARDS: usize = 16;

/// Nodes that a purge looks at before it lets others have the shard.
const SWEEP: usize = 1024;

/// A radix tree of sequences, each with the workers that hold it. Looking up takes read locks only.
#[derive(Debug)]
pub(super) struct Tree<T> {
    pub(super) shelves: [Shelf<T>; SHARDS],
    /// The last epoch that was given out.
    clock: AtomicU64,
    pub(super) books: Books,
    pub(super) shears: Shears,
}

/// A shard.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    pub(super) shard: RwLock<Shard<T>>,
    /// Its [`Shard::oldest`], as it was when the lock was last let go.
    pub(super) oldest: AtomicU64,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self {
            shelves: std::array::from_fn(|_| Shelf {
                shard: RwLock::default(),
                oldest: AtomicU64::new(u64::MAX),
            }),
            clock: AtomicU64::new(0),
            books: Books::default(),
            shears: Shears::default(),
        }
    }
}

impl<T: Item> Tree<T> {
    /// Shows how far `sequence` is known. The shard cannot change meanwhile.
    pub(super) fn look<R>(
        &self,
        model: u64,
        sequence: &Sequence<'_, T>,
        see: impl FnOnce(&Trail<'_, T>) -> R,
    ) -> R {
        let shard = self.shelf(model, sequence).shard.read();
        see(&shard.walk(model, sequence))
    }

    /// `lane` will have all of `sequence` in its cache. Returns the bytes that came with it.
    pub(super) fn insert(&self, model: u64, sequence: &Sequence<'_, T>, lane: Lane) -> u64 {
        if sequence.len() == 0 {
            return 0;
        }
        let epoch = self.tick();
        let shelf = self.shelf(model, sequence);
        let mut shard = shelf.shard.write();
        let added = shard.insert(model, sequence, (lane, epoch), &self.books);
        shelf.oldest.store(shard.oldest(), Ordering::Relaxed);
        added
    }

    /// The next epoch.
    pub(super) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last epoch.
    pub(super) fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Forgets `lane`. Others get in between: no pick waits for more than a few nodes.
    pub(super) fn purge(&self, lane: Lane) {
        for shelf in &self.shelves {
            let end = shelf.shard.write().begin_purge(lane);
            for from in (0..end).step_by(SWEEP) {
                let slots = from..end.min(from + SWEEP);
                let mut shard = shelf.shard.write();
                let slots = slots.filter_map(|slot| Slot::try_from(slot).ok());
                shard.sweep(slots, lane, &self.books);
                shelf.oldest.store(shard.oldest(), Ordering::Relaxed);
            }
            shelf.shard.write().end_purge(lane);
        }
    }

    fn shelf(&self, model: u64, sequence: &Sequence<'_, T>) -> &Shelf<T> {
        let first = sequence.first().unwrap_or_default().spread();
        let mixed = (model ^ first).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        // The index is below 16, so the fallback is never taken.
        let index = usize::try_from(mixed).unwrap_or(0);
        self.shelves.get(index).unwrap_or(&self.shelves[0])
    }
}

#[cfg(test)]
mod tests;
