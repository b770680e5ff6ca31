//! `random`: uniform over the candidates.

use super::{Ask, Pick};

pub(super) fn pick(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> Pick {
    Pick::of(rng.usize(..ask.candidates.len()), "random")
}
