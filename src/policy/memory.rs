//! What the policies of one leg and model entry remember.

use super::lane::{Lane, Lanes};
use super::{IndexSize, TreeSize, bucket, cache_aware, manual, round_robin};
use crate::plan::WorkerKey;

/// What is remembered for one leg of one model entry of one pool. Each policy has a part of its own,
/// which stays empty while the policy is not used; it outlives snapshots, so a policy that is switched
/// back to finds what it left.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) lanes: Lanes,
    /// Routing keys that stay with their worker in front of another policy.
    pub(super) sticky: manual::Memory,
    pub(super) round_robin: round_robin::Memory,
    pub(super) manual: manual::Memory,
    pub(super) bucket: bucket::Memory,
    pub(super) cache_aware: cache_aware::Memory,
}

impl Memory {
    /// The place of `worker`, given to it now if it has none.
    pub fn enrol(&self, worker: &WorkerKey) -> Lane {
        self.lanes.enrol(worker)
    }

    /// Forgets all workers but those that `stays` picks, and everything about them.
    pub fn retain(&self, stays: impl Fn(&WorkerKey) -> bool) {
        for lane in self.lanes.retain(stays) {
            self.sticky.leave(lane);
            self.manual.leave(lane);
            self.bucket.leave(lane);
            self.cache_aware.leave(lane);
        }
    }

    /// Forgets what was in the cache of `worker`, which is empty now.
    pub fn flush(&self, worker: &WorkerKey) {
        if let Some(lane) = self.lanes.find(worker) {
            self.cache_aware.flush(lane);
        }
    }

    /// Size of the trees of prompts; `None` where no policy has used any.
    pub fn tree_size(&self) -> Option<TreeSize> {
        self.cache_aware.tree.size()
    }

    /// Size of the index of prompts; `None` where no policy has used any.
    pub fn index_size(&self) -> Option<IndexSize> {
        self.cache_aware.score.size()
    }

    /// Tokens that the cache of the worker at `lane` is believed to hold; `None` where nothing was
    /// sent.
    pub fn cache_tokens(&self, lane: Lane) -> Option<f64> {
        self.cache_aware.score.capacity(lane)
    }

    /// Routing keys that are remembered here.
    pub fn routing_keys(&self) -> usize {
        self.manual.len() + self.sticky.len()
    }

    /// Routing keys that are assigned to the worker at `lane`.
    pub fn routing_keys_of(&self, lane: Lane) -> u32 {
        self.manual.group(lane) + self.sticky.group(lane)
    }
}
