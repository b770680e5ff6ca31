//! `power_of_two`: two distinct candidates at random, the one with the smaller load wins.

use super::{Ask, Candidate, Pick};

pub(super) fn pick(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> Pick {
    let n = ask.candidates.len();
    if n < 2 {
        return Pick::of(0, "only");
    }
    let first = rng.usize(..n);
    let second = (first + 1 + rng.usize(..n - 1)) % n;
    let (Some(a), Some(b)) = (ask.candidates.get(first), ask.candidates.get(second)) else {
        return Pick::of(first, "lighter");
    };
    let (reason, name, [of_a, of_b]) = match (token_usage(a), token_usage(b)) {
        (Some(of_a), Some(of_b)) => ("lighter_cache", "token_usage", [of_a, of_b]),
        _ => ("lighter", "load", [a.weight(), b.weight()]),
    };
    ask.note(first, name, of_a);
    ask.note(second, name, of_b);
    if (of_b, b.cost) < (of_a, a.cost) {
        Pick::of(second, reason)
    } else {
        Pick::of(first, reason)
    }
}

/// The share of its cache in use, times cost, where its engine says so.
fn token_usage(worker: &Candidate<'_>) -> Option<f64> {
    Some(worker.engine?.token_usage? * worker.cost)
}

#[cfg(test)]
mod tests {
    use crate::config::spec::Policy;
    use crate::policy::Engine;
    use crate::policy::scene::Scene;

    fn usage(share: f64) -> Option<Engine> {
        Some(Engine {
            token_usage: Some(share),
            ..Engine::default()
        })
    }

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

    #[test]
    fn reports_decide_where_both_have_one() {
        let mut scene = Scene::of(Policy::PowerOfTwo, &[9, 1]);
        scene.workers[0].engine = usage(0.1);
        assert_eq!(scene.spread(50), [0, 50]);
        scene.workers[1].engine = usage(0.2);
        assert_eq!(scene.spread(50), [50, 0]);
        assert_eq!(scene.pick().reason, "lighter_cache");
        // An engine that reports, but not this, is compared by what the gateway counts.
        scene.workers[1].engine = Some(Engine::default());
        assert_eq!(scene.spread(50), [0, 50]);
    }

    #[test]
    fn cost_multiplies_and_breaks_ties() {
        let mut scene = Scene::of(Policy::PowerOfTwo, &[2, 3]);
        scene.workers[0].cost = 2.0;
        assert_eq!(scene.spread(50), [0, 50]);
        scene.workers[1].load = 4;
        assert_eq!(scene.spread(50), [0, 50]);
        scene.workers[1].load = 5;
        assert_eq!(scene.spread(50), [50, 0]);
    }
}
