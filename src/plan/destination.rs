//! What a model name leads to: the routes that share its requests, other models that stand in for
//! it, and a pool that gets copies.

use std::sync::Arc;

use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::admission::Gate;
use super::route::RouteIx;

/// Index of a destination in the plan it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DestinationIx(pub u32);

/// Where the requests for one model, or for every name under one glob, go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Destination {
    /// Name that metrics carry: the model, or `unknown` where the name is the client's own.
    pub label: Arc<str>,
    /// The routes among which requests are divided, never none; for most models it is one.
    pub shares: Vec<Share>,
    /// Who is asked instead while none of these routes can serve, in order: the model's fallbacks,
    /// each followed by its own. Nobody stands there twice, nor the model itself.
    pub fallback: Vec<Fallback>,
    /// Who gets copies.
    pub mirror: Option<Mirror>,
    /// The model entry: a declared name or glob, an advertised name, or `*`. Its names share a gate.
    pub entry: Arc<str>,
    /// The class in which its requests wait.
    pub class: Arc<str>,
    /// How many of its requests are let in, where the model says so.
    pub gate: Option<Gate>,
}

/// One of the routes that share the requests for a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// The route.
    pub route: RouteIx,
    /// The model that its workers are asked for, where the declaration says so.
    pub model: Option<Arc<str>>,
    /// Its part, in relation to the others; above 0.
    pub weight: f64,
    #[serde(skip)]
    seed: u64,
}

/// A model that is asked instead of another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fallback {
    /// Its canonical name.
    pub model: Arc<str>,
    /// Who serves it.
    pub destination: DestinationIx,
}

/// A pool that gets copies of some requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mirror {
    /// The route that the copies take.
    pub route: RouteIx,
    /// The share of requests that are copied, above 0 and up to 1.
    pub fraction: f64,
}

impl Share {
    /// A share of `entry`'s requests. `place` tells it from the entry's other shares in every
    /// gateway, whatever the weights and the order.
    pub(super) fn new(
        entry: &str,
        place: &str,
        route: RouteIx,
        model: Option<Arc<str>>,
        weight: f64,
    ) -> Self {
        let mut seed = Xxh3::new();
        for part in [entry, place, model.as_deref().unwrap_or_default()] {
            seed.update(part.as_bytes());
            seed.update(&[0]);
        }
        Self {
            route,
            model,
            weight,
            seed: seed.digest(),
        }
    }

    /// How late this share comes in the race that `draw` starts: exponentially distributed with
    /// the weight as its rate, so that each share is first as often as its weight says, and a
    /// share whose weight changes takes draws from the others or gives them up, while no draw
    /// moves between two others.
    fn lateness(&self, draw: u64) -> f64 {
        let hash = xxh3_64_with_seed(&draw.to_le_bytes(), self.seed);
        // 53 bits are what a float holds; the half keeps it off 0 and 1.
        let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -unit.ln() / self.weight
    }
}

impl Destination {
    /// The share that `draw` falls on among those that `wanted` picks.
    pub(super) fn drawn(&self, draw: u64, wanted: impl Fn(&Share) -> bool) -> Option<&Share> {
        let racing = self.shares.iter().filter(|share| wanted(share));
        racing
            .map(|share| (share.lateness(draw), share))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, share)| share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn destination(weights: &[f64]) -> Destination {
        let share =
            |(n, weight): (u32, &f64)| Share::new("m", &format!("p{n}"), RouteIx(n), None, *weight);
        Destination {
            label: "m".into(),
            shares: (0..).zip(weights).map(share).collect(),
            fallback: Vec::new(),
            mirror: None,
            entry: "m".into(),
            class: "default".into(),
            gate: None,
        }
    }

    /// Which shares `draws` consecutive draws from `start` fall on.
    fn drawn(weights: &[f64], start: u64, draws: u64) -> Vec<u32> {
        let destination = destination(weights);
        let one = |n: u64| destination.drawn(start.wrapping_add(n), |_| true).unwrap();
        (0..draws).map(|n| one(n).route.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn shares_are_drawn_as_often_as_their_weights_say(
            weights in prop::collection::vec(0.05_f64..10.0, 2..6),
            start: u64,
        ) {
            const DRAWS: u64 = 20_000;
            let drawn = drawn(&weights, start, DRAWS);
            let total: f64 = weights.iter().sum();
            for (n, weight) in (0..).zip(&weights) {
                let expected = weight / total;
                let found = drawn.iter().filter(|share| **share == n).count() as f64;
                let found = found / DRAWS as f64;
                // Six standard deviations.
                let bound = 6.0 * (expected * (1.0 - expected) / DRAWS as f64).sqrt();
                prop_assert!((found - expected).abs() <= bound, "{n}: {found}, not {expected}");
            }
        }

        #[test]
        fn a_changed_weight_moves_draws_only_to_or_from_its_share(
            weights in prop::collection::vec(0.05_f64..10.0, 2..6),
            changed in any::<prop::sample::Index>(),
            factor in 0.1_f64..10.0,
            start: u64,
        ) {
            let changed = changed.index(weights.len());
            let mut other = weights.clone();
            other[changed] *= factor;
            let pairs = drawn(&weights, start, 2_000).into_iter().zip(drawn(&other, start, 2_000));
            for (before, after) in pairs {
                let (given, taken) = (before as usize == changed, after as usize == changed);
                prop_assert!(before == after || (given && factor < 1.0) || (taken && factor > 1.0));
            }
        }

        #[test]
        fn a_share_that_cannot_serve_gives_up_its_own_draws_and_no_others(
            weights in prop::collection::vec(0.05_f64..10.0, 2..6),
            away in any::<prop::sample::Index>(),
            draws in prop::collection::vec(any::<u64>(), 200),
        ) {
            let away = away.index(weights.len());
            let destination = destination(&weights);
            for draw in draws {
                let all = destination.drawn(draw, |_| true).unwrap().route.0 as usize;
                let left = destination.drawn(draw, |share| share.route.0 as usize != away);
                let left = left.unwrap().route.0 as usize;
                prop_assert!(left != away && (all == left || all == away));
            }
        }
    }

    #[test]
    fn two_entries_do_not_draw_alike() {
        let of = |entry: &str| {
            let share = |n| Share::new(entry, &format!("p{n}"), RouteIx(n), None, 1.0);
            Destination {
                shares: vec![share(0), share(1)],
                ..destination(&[])
            }
        };
        let (one, other) = (of("one"), of("other"));
        let alike = (0..1000_u64)
            .filter(|draw| {
                one.drawn(*draw, |_| true).unwrap().route
                    == other.drawn(*draw, |_| true).unwrap().route
            })
            .count();
        assert!((400..600).contains(&alike), "{alike}");
    }

    #[test]
    fn nobody_is_drawn_from_none() {
        assert_eq!(destination(&[1.0]).drawn(7, |_| false), None);
    }
}
