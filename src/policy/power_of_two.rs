//! `power_of_two`: two distinct candidates at random, the one with the smaller load wins.

use super::{Ask, Pick};

pub(super) fn pick(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> Pick {
    let n = ask.candidates.len();
    if n < 2 {
        return Pick::of(0, "only");
    }
    let first = rng.usize(..n);
    let second = (first + 1 + rng.usize(..n - 1)) % n;
    match (ask.candidates.get(first), ask.candidates.get(second)) {
        (Some(a), Some(b)) if b.weight() < a.weight() => Pick::of(second, "lighter"),
        _ => Pick::of(first, "lighter"),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::spec::Policy;
    use crate::policy::scene::Scene;

    #[test]
    fn the_most_loaded_of_three_is_never_picked() {
        let seen = Scene::of(Policy::PowerOfTwo, &[3, 1, 2]).spread(3000);
        assert_eq!(seen[0], 0);
        assert!(seen[1] > seen[2] && seen[2] > 500, "{seen:?}");
    }

    #[test]
    fn ties_spread_over_all() {
        let seen = Scene::of(Policy::PowerOfTwo, &[0; 4]).spread(4000);
        assert!(seen.iter().all(|n| *n > 800), "{seen:?}");
    }
}
