//! `manual`: the worker that the routing key was assigned to.

use super::{Ask, Lane, Pick, Refused};
use crate::config::spec::Manual;

/// Which key is where.
#[derive(Debug, Default)]
pub(super) struct Memory {}

impl Memory {
    pub(super) fn leave(&self, _lane: Lane) {}
}

pub(super) fn pick(ask: &Ask<'_>, _options: &Manual, rng: &mut fastrand::Rng) -> Pick {
    Pick::of(rng.usize(..ask.candidates.len()), "random")
}

/// The worker that the key was assigned to, else the one that `choose` names, which is remembered.
pub(super) fn stick(
    ask: &Ask<'_>,
    rng: &mut fastrand::Rng,
    choose: impl FnOnce(&Ask<'_>, &mut fastrand::Rng) -> Result<Pick, Refused>,
) -> Result<Pick, Refused> {
    choose(ask, rng)
}
