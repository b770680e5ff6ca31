//! `prefix_hash`: the first acceptable candidate clockwise of the prompt's prefix.

use super::{Ask, Pick};
use crate::config::spec::PrefixHash;

pub(super) fn pick(_ask: &Ask<'_>, _options: &PrefixHash) -> Pick {
    Pick::of(0, "hash")
}
