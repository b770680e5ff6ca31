//! The account of a tree: its size, its bytes and each worker's share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::node::Node;
use super::sequence::Item;
use crate::policy::Lane;

/// Bytes of a node besides its edge: itself, its place in the order of leaves and in its parent.
const NODE_BYTES: u64 = 256;
/// Bytes of a holder, room for growth included.
pub(super) const HOLDER_BYTES: u64 = 32;

const ROW: usize = 256;

/// Sums over all nodes. They are exact between two changes of the tree and read without a lock.
#[derive(Debug)]
pub(super) struct Books {
    size: AtomicU64,
    bytes: AtomicU64,
    /// Shares by lane index, in rows that are made when first needed.
    shares: [OnceLock<Box<[AtomicU64; ROW]>>; ROW],
}

impl Default for Books {
    fn default() -> Self {
        Self {
            size: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            shares: [const { OnceLock::new() }; ROW],
        }
    }
}

impl Books {
    /// Size of all nodes.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Bytes of all nodes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Size of all nodes that the worker holds.
    pub(super) fn share(&self, lane: Lane) -> u64 {
        let row = self.shares.get(usize::from(lane.index) / ROW);
        row.and_then(OnceLock::get)
            .and_then(|row| row.get(usize::from(lane.index) % ROW))
            .map_or(0, |share| share.load(Ordering::Relaxed))
    }

    /// Number of workers that hold something.
    pub(super) fn holders(&self) -> usize {
        let rows = self.shares.iter().filter_map(OnceLock::get);
        rows.flat_map(|row| row.iter())
            .filter(|share| share.load(Ordering::Relaxed) > 0)
            .count()
    }

    /// A node with all its holders has come. Returns its bytes.
    pub(super) fn add<T: Item>(&self, node: &Node<T>) -> u64 {
        let bytes = bytes_of(node);
        self.size.fetch_add(node.size, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        for holder in &node.holders {
            self.give(holder.lane, node.size);
        }
        bytes
    }

    /// A node with all its holders has gone. Returns its bytes.
    pub(super) fn remove<T: Item>(&self, node: &Node<T>) -> u64 {
        let bytes = bytes_of(node);
        self.size.fetch_sub(node.size, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        for holder in &node.holders {
            self.take(holder.lane, node.size);
        }
        bytes
    }

    /// A node of `size` has one holder more.
    pub(super) fn join(&self, lane: Lane, size: u64) {
        self.bytes.fetch_add(HOLDER_BYTES, Ordering::Relaxed);
        self.give(lane, size);
    }

    /// A node of `size` has one holder less.
    pub(super) fn part(&self, lane: Lane, size: u64) {
        self.bytes.fetch_sub(HOLDER_BYTES, Ordering::Relaxed);
        self.take(lane, size);
    }

    fn give(&self, lane: Lane, size: u64) {
        if let Some(row) = self.shares.get(usize::from(lane.index) / ROW) {
            let row = row.get_or_init(|| Box::new([const { AtomicU64::new(0) }; ROW]));
            if let Some(share) = row.get(usize::from(lane.index) % ROW) {
                share.fetch_add(size, Ordering::Relaxed);
            }
        }
    }

    fn take(&self, lane: Lane, size: u64) {
        let row = self.shares.get(usize::from(lane.index) / ROW);
        if let Some(share) = row
            .and_then(OnceLock::get)
            .and_then(|row| row.get(usize::from(lane.index) % ROW))
        {
            share.fetch_sub(size, Ordering::Relaxed);
        }
    }
}

pub(super) fn bytes_of<T: Item>(node: &Node<T>) -> u64 {
    NODE_BYTES + size_of_val(&*node.edge) as u64 + HOLDER_BYTES * node.holders.len() as u64
}
