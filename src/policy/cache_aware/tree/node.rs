//! Nodes, and the slots in which they stand.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::Lane;

/// Number of a slot.
pub(super) type Slot = u32;

/// No slot.
pub(super) const NONE: Slot = Slot::MAX;

/// A node. Its parent and children are slots, so that no depth makes anything recur.
#[derive(Debug)]
pub(super) struct Node<T> {
    /// What leads here from the parent; empty only in a slot that is free.
    pub(super) edge: Box<[T]>,
    /// Size of the edge.
    pub(super) size: u64,
    /// The model under which the topmost nodes stand.
    pub(super) model: u64,
    /// The parent, [`NONE`] for a topmost node.
    pub(super) parent: Slot,
    /// By the first item of their edges.
    pub(super) children: BTreeMap<T, Slot>,
    /// Who has all of this in its cache, by lane.
    pub(super) holders: Vec<Holder>,
    /// The epoch under which a leaf stands in the order of leaves.
    pub(super) queued: u64,
}

/// A worker that has a node in its cache.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) lane: Lane,
    /// When it was last used.
    pub(super) epoch: AtomicU64,
}

impl Holder {
    pub(super) fn new(lane: Lane, epoch: u64) -> Self {
        Self {
            lane,
            epoch: AtomicU64::new(epoch),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }
}

impl<T> Node<T> {
    /// Nothing, as it stands in a free slot.
    fn free() -> Self {
        Self {
            edge: Box::default(),
            size: 0,
            model: 0,
            parent: NONE,
            children: BTreeMap::new(),
            holders: Vec::new(),
            queued: 0,
        }
    }

    /// What `lane` holds here.
    pub(super) fn holder(&self, lane: Lane) -> Option<&Holder> {
        self.holders.get(self.position(lane).ok()?)
    }

    /// Where `lane` stands among the holders, or would.
    pub(super) fn position(&self, lane: Lane) -> Result<usize, usize> {
        self.holders
            .binary_search_by_key(&lane, |holder| holder.lane)
    }

    /// When anybody last used it; 0 without holders.
    pub(super) fn newest(&self) -> u64 {
        self.holders.iter().map(Holder::epoch).max().unwrap_or(0)
    }

    /// Whether the slot is in use.
    pub(super) fn is_live(&self) -> bool {
        !self.edge.is_empty()
    }
}

/// Slots in chunks: growing never moves what is there, so it never takes long.
#[derive(Debug)]
pub(super) struct Slots<T> {
    chunks: Vec<Vec<Node<T>>>,
    free: Vec<Slot>,
    live: usize,
}

const CHUNK: usize = 256;

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            live: 0,
        }
    }

    /// Puts `node` into a slot; `None` when there are no more of them.
    pub(super) fn put(&mut self, node: Node<T>) -> Option<Slot> {
        let slot = match self.free.pop() {
            Some(slot) => {
                self[slot] = node;
                slot
            }
            None => {
                let slot = Slot::try_from(self.end())
                    .ok()
                    .filter(|slot| *slot < NONE)?;
                match self.chunks.last_mut() {
                    Some(chunk) if chunk.len() < CHUNK => chunk.push(node),
                    _ => {
                        let mut chunk = Vec::with_capacity(CHUNK);
                        chunk.push(node);
                        self.chunks.push(chunk);
                    }
                }
                slot
            }
        };
        self.live += 1;
        Some(slot)
    }

    /// Takes the node at `slot` out. When the last one goes, so does all memory.
    pub(super) fn take(&mut self, slot: Slot) -> Node<T> {
        let node = std::mem::replace(&mut self[slot], Node::free());
        self.live -= 1;
        if self.live == 0 {
            *self = Self::new();
        } else {
            self.free.push(slot);
        }
        node
    }

    /// Behind the last slot that was ever used.
    pub(super) fn end(&self) -> usize {
        let before = self.chunks.len().saturating_sub(1) * CHUNK;
        before + self.chunks.last().map_or(0, Vec::len)
    }

    /// The node at `slot`, if there is one.
    pub(super) fn get(&self, slot: Slot) -> Option<&Node<T>> {
        let chunk = self.chunks.get(slot as usize / CHUNK)?;
        chunk
            .get(slot as usize % CHUNK)
            .filter(|node| node.is_live())
    }
}

/// Slots that nodes name are there: one is freed only after every link to it is gone.
impl<T> Index<Slot> for Slots<T> {
    type Output = Node<T>;

    fn index(&self, slot: Slot) -> &Node<T> {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}

impl<T> IndexMut<Slot> for Slots<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut Node<T> {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}
