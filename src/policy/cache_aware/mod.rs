//! `cache_aware`: the worker that has most of the prompt in its cache and least to do.

mod score;
mod tree;

pub use self::score::{IndexSize, Measure, Trail};
pub use self::tree::TreeSize;
use super::{Ask, Feedback, Lane, Pick};
use crate::config::spec::{Algorithm, CacheAware};

/// What is known of the workers' caches, by each algorithm.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) tree: tree::Memory,
    pub(super) score: score::Memory,
}

impl Memory {
    pub(super) fn leave(&self, lane: Lane) {
        self.tree.leave(lane);
        self.score.leave(lane);
    }

    /// The worker at `lane` has emptied its cache.
    pub(super) fn flush(&self, lane: Lane) {
        self.tree.leave(lane);
        self.score.flush(lane);
    }
}

pub(super) fn pick(ask: &Ask<'_>, options: &CacheAware, rng: &mut fastrand::Rng) -> Pick {
    match options.runs() {
        Algorithm::Score => score::pick(ask, options),
        Algorithm::Tree => tree::pick(ask, options, rng),
    }
}

pub(super) fn learn(options: &CacheAware, memory: &super::Memory, feedback: Feedback) {
    if options.runs() == Algorithm::Score {
        score::learn(memory, feedback);
    }
}

pub(super) fn wants_engine_load(options: &CacheAware) -> bool {
    match options.runs() {
        Algorithm::Score => true,
        Algorithm::Tree => tree::wants_engine_load(options),
    }
}
