//! How far a text is known, and by whom.

use std::sync::atomic::Ordering;

use super::node::{NONE, Node, Slot};
use super::sequence::Item;
use super::shard::Shard;
use crate::policy::Lane;

/// The nodes that a text leads through.
#[derive(Debug)]
pub(super) struct Trail<'a, T> {
    shard: &'a Shard<T>,
    /// The last node that shares anything with the text.
    deepest: Slot,
    /// Size of what it shares.
    last: u64,
    /// Size of what all nodes share with the text.
    reach: u64,
    matched: u64,
    complete: bool,
    total: u64,
}

impl<'a, T: Item> Trail<'a, T> {
    pub(super) const fn new(shard: &'a Shard<T>, total: u64) -> Self {
        Self {
            shard,
            deepest: NONE,
            last: 0,
            reach: 0,
            matched: 0,
            complete: false,
            total,
        }
    }

    /// The text goes on through the node at `slot`, with which it shares `size`.
    pub(super) fn push(&mut self, slot: Slot, size: u64) {
        self.deepest = slot;
        self.last = size;
        self.reach += size;
    }

    /// The way ends; `next` is what the text would go on with.
    pub(super) fn end(&mut self, next: Option<T>) {
        self.complete = next.is_none();
        // A character of which only the first bytes are the same is another one.
        let torn = u64::from(next.is_some_and(Item::continues));
        self.matched = self.reach.saturating_sub(torn);
    }

    /// Size of what is known.
    pub(super) fn matched(&self) -> u64 {
        self.matched
    }

    /// Whom `rank` prefers at the deepest node at which it ranks anybody, the one that used it last,
    /// and the size of the text up to there. Nodes are looked at while `enough` says that their size
    /// is.
    pub(super) fn newest<R>(
        &self,
        enough: impl Fn(u64) -> bool,
        rank: impl Fn(Lane) -> Option<R>,
    ) -> Option<(R, u64)> {
        self.upwards()
            .take_while(|(_, size)| enough(*size))
            .find_map(|(node, size)| {
                let known = node.holders.iter();
                let (found, _) = known
                    .filter_map(|holder| Some((rank(holder.lane)?, holder.epoch())))
                    .max_by_key(|(_, epoch)| *epoch)?;
                Some((found, size))
            })
    }

    /// Size of what `lane` has in its cache.
    pub(super) fn held_by(&self, lane: Lane) -> u64 {
        self.upwards()
            .find(|(node, _)| node.holder(lane).is_some())
            .map_or(0, |(_, size)| size)
    }

    /// Whether `lane` has all of the text, so that there is nothing to insert.
    pub(super) fn is_held_by(&self, lane: Lane) -> bool {
        self.complete && (self.total == 0 || self.used_by(lane).is_some())
    }

    /// When `lane` last used the deepest node.
    pub(super) fn used_by(&self, lane: Lane) -> Option<u64> {
        let (node, _) = self.upwards().next()?;
        Some(node.holder(lane)?.epoch())
    }

    /// Notes that `lane` uses all nodes at `epoch`. The ones above count as well: no leaf may look
    /// younger than what it hangs on.
    pub(super) fn touch(&self, lane: Lane, epoch: u64) {
        for (node, _) in self.upwards() {
            if let Some(holder) = node.holder(lane) {
                holder.epoch.fetch_max(epoch, Ordering::Relaxed);
            }
        }
    }

    /// The nodes from the deepest to the top, each with the size of the text up to its end.
    fn upwards(&self) -> impl Iterator<Item = (&'a Node<T>, u64)> {
        let nodes = &self.shard.nodes;
        let mut slot = self.deepest;
        let mut size = self.matched;
        let mut above = self.reach - self.last;
        std::iter::from_fn(move || {
            let node = (slot != NONE).then(|| &nodes[slot])?;
            let here = (node, size);
            slot = node.parent;
            size = above;
            above -= nodes.get(slot).map_or(0, |parent| parent.size);
            Some(here)
        })
    }
}
