//! `score`: one figure of locality and load, the prefill work that a request would wait for.

use crate::config::spec::CacheAware;
use crate::policy::{Ask, Feedback, Lane, Pick, least_load};

/// Which blocks of prompts are where.
#[derive(Debug, Default)]
pub(crate) struct Memory {}

impl Memory {
    pub(super) fn leave(&self, _lane: Lane) {}
}

pub(super) fn pick(ask: &Ask<'_>, _options: &CacheAware, rng: &mut fastrand::Rng) -> Pick {
    Pick::of(least_load::lightest(ask, rng), "cold")
}

pub(super) fn learn(_memory: &crate::policy::Memory, _feedback: Feedback) {}
