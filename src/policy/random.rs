//! `random`: uniform over the candidates.

use super::Candidate;

pub(super) fn pick(candidates: &[Candidate<'_>], rng: &mut fastrand::Rng) -> usize {
    rng.usize(..candidates.len())
}
