//! Keeping the tree within its bounds, a little at each pick.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::radix::Tree;
use super::sequence::Item;
use super::shard::Step;

/// Bytes that a step counts for even if it frees none.
const STEP_BYTES: u64 = 256;
/// Bytes that one pick evicts while there is too much; more where it has added more.
const PICK_BYTES: u64 = 32 * STEP_BYTES;
/// Leaves that are evicted before others may have the shard.
const BATCH: usize = 32;

/// How large a tree may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Size of all nodes. A quarter more is let be until the interval is over.
    pub(super) size: u64,
    /// Bytes of all nodes.
    pub(super) bytes: u64,
    /// How often the tree is cut back to `size`.
    pub(super) interval: Duration,
}

/// When the tree is cut.
#[derive(Debug, Default)]
pub(super) struct Shears {
    start: OnceLock<Instant>,
    /// When it was last due, in milliseconds since the start.
    last: AtomicU64,
    /// Cutting has begun and goes on until the tree is within its bounds.
    cutting: AtomicBool,
}

impl Shears {
    /// Whether an interval is over; the next one begins then.
    fn is_due(&self, now: Instant, interval: Duration) -> bool {
        let start = *self.start.get_or_init(|| now);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now.saturating_duration_since(start));
        let last = self.last.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= millis(interval);
        if due {
            self.last.store(now, Ordering::Relaxed);
        }
        due
    }
}

impl<T: Item> Tree<T> {
    /// Cuts the tree back if it is time to, after a pick that `added` so many bytes. The work is
    /// bounded; picks that follow do the rest. Since it exceeds what the pick has added, what is
    /// beyond the bounds becomes less with each of them.
    pub(super) fn tend(&self, now: Instant, bounds: &Bounds, added: u64) {
        let due = self.shears.is_due(now, bounds.interval);
        let (size, bytes) = (self.books.size(), self.books.bytes());
        if size <= bounds.size && bytes <= bounds.bytes {
            if self.shears.cutting.load(Ordering::Relaxed) {
                self.shears.cutting.store(false, Ordering::Relaxed);
            }
            return;
        }
        let at_once = bytes > bounds.bytes || size > bounds.size.saturating_add(bounds.size / 4);
        if due || at_once {
            self.shears.cutting.store(true, Ordering::Relaxed);
        }
        if self.shears.cutting.load(Ordering::Relaxed) {
            self.cut(bounds, PICK_BYTES.max(added.saturating_mul(2)));
        }
    }

    fn exceeds(&self, bounds: &Bounds) -> bool {
        self.books.size() > bounds.size || self.books.bytes() > bounds.bytes
    }

    /// Evicts the oldest leaves until the tree is within `bounds` or `goal` bytes are done.
    fn cut(&self, bounds: &Bounds, goal: u64) {
        let mut done = 0;
        while done < goal && self.exceeds(bounds) {
            let oldest = |at: usize| self.shelves[at].oldest.load(Ordering::Relaxed);
            let mut order: [(u64, usize); 2] = [(u64::MAX, 0); 2];
            for at in 0..self.shelves.len() {
                order[1] = order[1].min((oldest(at), at));
                order.sort_unstable();
            }
            let [(first, at), (next, _)] = order;
            if first == u64::MAX {
                return;
            }
            let shelf = &self.shelves[at];
            let mut shard = shelf.shard.write();
            done += STEP_BYTES;
            for _ in 0..BATCH {
                if done >= goal || shard.oldest() > next || !self.exceeds(bounds) {
                    break;
                }
                match shard.evict(&self.books) {
                    Step::Empty => break,
                    Step::Moved => done += STEP_BYTES,
                    Step::Freed(bytes) => done += bytes,
                }
            }
            shelf.oldest.store(shard.oldest(), Ordering::Relaxed);
        }
    }
}
