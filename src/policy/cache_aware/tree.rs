//! `tree`: a radix tree of prompts, and thresholds that switch between locality and load.

use crate::config::spec::CacheAware;
use crate::policy::{Ask, Lane, Pick, least_load};

/// The tree.
#[derive(Debug, Default)]
pub(crate) struct Memory {}

impl Memory {
    pub(super) fn leave(&self, _lane: Lane) {}
}

pub(super) fn pick(ask: &Ask<'_>, _options: &CacheAware, rng: &mut fastrand::Rng) -> Pick {
    Pick::of(least_load::lightest(ask, rng), "min_load")
}

pub(super) fn wants_engine_load(_options: &CacheAware) -> bool {
    false
}
