//! A part of the tree: all texts of which the first item leads here.

use std::collections::{BTreeMap, BTreeSet};

use super::books::Books;
use super::node::{Holder, NONE, Node, Slot, Slots};
use super::sequence::{Item, Sequence};
use super::trail::Trail;
use crate::policy::Lane;

/// A radix tree whose nodes know who holds them.
#[derive(Debug)]
pub(super) struct Shard<T> {
    pub(super) nodes: Slots<T>,
    tops: BTreeMap<(u64, T), Slot>,
    /// Every leaf once, under an epoch that is never newer than its own: looking a text up moves
    /// nothing here.
    order: BTreeSet<(u64, Slot)>,
    /// Who is being purged, slot after slot; a split must not put it where the purge has been.
    leaving: Vec<Lane>,
}

impl<T> Default for Shard<T> {
    fn default() -> Self {
        Self {
            nodes: Slots::new(),
            tops: BTreeMap::new(),
            order: BTreeSet::new(),
            leaving: Vec::new(),
        }
    }
}

/// What one step of eviction did.
pub(super) enum Step {
    /// There is nothing left.
    Empty,
    /// The leaf had been used since, and has moved to where it belongs.
    Moved,
    /// A leaf of so many bytes is gone.
    Freed(u64),
}

impl<T: Item> Shard<T> {
    /// The way of `sequence` for as long as it is known.
    pub(super) fn walk(&self, model: u64, sequence: &Sequence<'_, T>) -> Trail<'_, T> {
        let mut trail = Trail::new(self, sequence.size());
        let mut reader = sequence.reader();
        let mut at = NONE;
        while let Some(first) = reader.peek() {
            let Some(next) = self.child(at, model, first) else {
                break;
            };
            let node = &self.nodes[next];
            let shared = reader.follow(&node.edge);
            if shared < node.edge.len() {
                let part = node.edge.get(..shared).unwrap_or_default();
                trail.push(next, T::size(part));
                break;
            }
            trail.push(next, node.size);
            at = next;
        }
        trail.end(reader.peek());
        trail
    }

    /// Adds `sequence` for `lane` and returns the bytes that came with it.
    pub(super) fn insert(
        &mut self,
        model: u64,
        sequence: &Sequence<'_, T>,
        by: (Lane, u64),
        books: &Books,
    ) -> u64 {
        let mut reader = sequence.reader();
        let mut at = NONE;
        let mut added = 0;
        while let Some(first) = reader.peek() {
            let Some(next) = self.child(at, model, first) else {
                let edge = reader.copy_rest();
                return added + self.grow(at, model, edge, by, books);
            };
            let shared = reader.follow(&self.nodes[next].edge);
            at = next;
            if shared < self.nodes[next].edge.len() {
                let Some((upper, bytes)) = self.split(next, shared, books) else {
                    return added;
                };
                at = upper;
                added += bytes;
            }
            self.mark(at, by, books);
        }
        added
    }

    /// Evicts the leaf that nobody has used for longest, or finds out that it is another.
    pub(super) fn evict(&mut self, books: &Books) -> Step {
        let Some((queued, slot)) = self.order.pop_first() else {
            return Step::Empty;
        };
        let newest = self.nodes[slot].newest();
        if newest > queued {
            self.enqueue(slot, newest);
            return Step::Moved;
        }
        let (parent, freed) = self.cut(slot, books);
        self.forget_older(parent, newest, books);
        Step::Freed(freed)
    }

    /// The epoch of the first leaf in order; `u64::MAX` without any.
    pub(super) fn oldest(&self) -> u64 {
        self.order.first().map_or(u64::MAX, |(epoch, _)| *epoch)
    }

    /// Begins to purge `lane`, which then takes a [`sweep`](Self::sweep) of every slot below the
    /// number returned.
    pub(super) fn begin_purge(&mut self, lane: Lane) -> usize {
        self.leaving.push(lane);
        self.nodes.end()
    }

    /// Ends a purge of `lane`; others may be under way.
    pub(super) fn end_purge(&mut self, lane: Lane) {
        if let Some(at) = self.leaving.iter().position(|leaving| *leaving == lane) {
            self.leaving.swap_remove(at);
        }
    }

    /// Takes `lane` from the nodes in `slots`, and what nobody holds then from the tree.
    pub(super) fn sweep(&mut self, slots: impl Iterator<Item = Slot>, lane: Lane, books: &Books) {
        for slot in slots {
            let Some(Ok(position)) = self.nodes.get(slot).map(|node| node.position(lane)) else {
                continue;
            };
            let node = &mut self.nodes[slot];
            node.holders.remove(position);
            books.part(lane, node.size);
            let newest = node.newest();
            if node.children.is_empty() && newest < node.queued {
                self.order.remove(&(self.nodes[slot].queued, slot));
                self.enqueue(slot, newest);
            }
            let mut bare = slot;
            while self
                .nodes
                .get(bare)
                .is_some_and(|node| node.holders.is_empty() && node.children.is_empty())
            {
                self.order.remove(&(self.nodes[bare].queued, bare));
                (bare, _) = self.cut(bare, books);
            }
        }
    }

    /// The child of `parent` whose edge begins with `first`.
    fn child(&self, parent: Slot, model: u64, first: T) -> Option<Slot> {
        let found = if parent == NONE {
            self.tops.get(&(model, first))
        } else {
            self.nodes[parent].children.get(&first)
        };
        found.copied()
    }

    /// A new leaf under `parent`. Returns its bytes.
    fn grow(
        &mut self,
        parent: Slot,
        model: u64,
        edge: Box<[T]>,
        (lane, epoch): (Lane, u64),
        books: &Books,
    ) -> u64 {
        let Some(first) = edge.first().copied() else {
            return 0;
        };
        let node = Node {
            size: T::size(&edge),
            edge,
            model,
            parent,
            children: BTreeMap::new(),
            holders: vec![Holder::new(lane, epoch)],
            queued: epoch,
        };
        let Some(slot) = self.nodes.put(node) else {
            return 0;
        };
        let bytes = books.add(&self.nodes[slot]);
        if parent != NONE && self.nodes[parent].children.is_empty() {
            self.order.remove(&(self.nodes[parent].queued, parent));
        }
        self.link(parent, model, first, slot);
        self.order.insert((epoch, slot));
        bytes
    }

    /// Cuts the edge of the node at `slot` after `at` items. The node keeps the end, with its
    /// children; the slot of the new node above it and its bytes are returned.
    fn split(&mut self, slot: Slot, at: usize, books: &Books) -> Option<(Slot, u64)> {
        let node = &self.nodes[slot];
        let (head, tail) = node.edge.split_at_checked(at)?;
        let (first, next) = (*head.first()?, *tail.first()?);
        let holders = node
            .holders
            .iter()
            .filter(|holder| !self.leaving.contains(&holder.lane))
            .map(|holder| Holder::new(holder.lane, holder.epoch()));
        let upper = Node {
            size: T::size(head),
            edge: head.into(),
            model: node.model,
            parent: node.parent,
            children: BTreeMap::from([(next, slot)]),
            holders: holders.collect(),
            queued: 0,
        };
        let tail: Box<[T]> = tail.into();
        let (parent, model) = (node.parent, node.model);
        let above = self.nodes.put(upper)?;
        let node = &mut self.nodes[slot];
        books.remove(node);
        node.size -= T::size(node.edge.get(..at).unwrap_or_default());
        node.edge = tail;
        node.parent = above;
        books.add(node);
        let bytes = books.add(&self.nodes[above]);
        self.link(parent, model, first, above);
        Some((above, bytes))
    }

    /// Marks the node at `slot` as held and used.
    fn mark(&mut self, slot: Slot, (lane, epoch): (Lane, u64), books: &Books) {
        let node = &mut self.nodes[slot];
        match node.position(lane) {
            Ok(at) => {
                if let Some(holder) = node.holders.get_mut(at) {
                    let known = holder.epoch.get_mut();
                    *known = epoch.max(*known);
                }
            }
            Err(at) => {
                if node.holders.len() < 4 {
                    node.holders.reserve_exact(1);
                }
                node.holders.insert(at, Holder::new(lane, epoch));
                books.join(lane, node.size);
            }
        }
    }

    fn link(&mut self, parent: Slot, model: u64, first: T, slot: Slot) {
        if parent == NONE {
            self.tops.insert((model, first), slot);
        } else {
            self.nodes[parent].children.insert(first, slot);
        }
    }

    /// Removes the leaf at `slot`, which is no longer in the order. Returns its parent and bytes.
    fn cut(&mut self, slot: Slot, books: &Books) -> (Slot, u64) {
        let parent = self.nodes[slot].parent;
        let first = self.nodes[slot].edge.first().copied().unwrap_or_default();
        if parent == NONE {
            let model = self.nodes[slot].model;
            self.tops.remove(&(model, first));
        } else {
            self.nodes[parent].children.remove(&first);
            if self.nodes[parent].children.is_empty() {
                let newest = self.nodes[parent].newest();
                self.enqueue(parent, newest);
            }
        }
        let node = self.nodes.take(slot);
        (parent, books.remove(&node))
    }

    fn enqueue(&mut self, slot: Slot, epoch: u64) {
        self.nodes[slot].queued = epoch;
        self.order.insert((epoch, slot));
    }

    /// Takes from the node at `slot`, and from those above it, the holders that used it no later
    /// than at `epoch`: what they had below it has just been evicted, and other workers keep the
    /// node.
    fn forget_older(&mut self, mut slot: Slot, epoch: u64, books: &Books) {
        while slot != NONE && !self.nodes[slot].children.is_empty() {
            let node = &mut self.nodes[slot];
            let before = node.holders.len();
            let size = node.size;
            node.holders.retain(|holder| {
                let stays = holder.epoch() > epoch;
                if !stays {
                    books.part(holder.lane, size);
                }
                stays
            });
            if node.holders.len() == before {
                return;
            }
            slot = node.parent;
        }
    }
}

#[cfg(test)]
impl<T: Item> Shard<T> {
    /// Checks every invariant, and returns the nodes for a sum over all shards.
    pub(super) fn check(&self) -> Vec<&Node<T>> {
        let end = Slot::try_from(self.nodes.end()).unwrap();
        let live: Vec<(Slot, &Node<T>)> = (0..end)
            .filter_map(|slot| Some((slot, self.nodes.get(slot)?)))
            .collect();
        for (slot, node) in &live {
            let first = node.edge[0];
            assert_eq!(self.child(node.parent, node.model, first), Some(*slot));
            assert_eq!(node.size, T::size(&node.edge));
            let sorted = node
                .holders
                .windows(2)
                .all(|pair| pair[0].lane < pair[1].lane);
            assert!(sorted, "{node:?}");
            for (first, child) in &node.children {
                let child = self.nodes.get(*child).unwrap();
                assert_eq!((child.parent, child.edge[0]), (*slot, *first));
            }
            let queued = self.order.contains(&(node.queued, *slot));
            assert_eq!(queued, node.children.is_empty(), "{node:?}");
            assert!(!queued || node.queued <= node.newest(), "{node:?}");
        }
        let leaves = live.iter().filter(|(_, node)| node.children.is_empty());
        assert_eq!(leaves.count(), self.order.len());
        let tops = live.iter().filter(|(_, node)| node.parent == NONE);
        assert_eq!(tops.count(), self.tops.len());
        live.into_iter().map(|(_, node)| node).collect()
    }
}
