//! `least_load`: the fewest requests in flight. Ties go to the worker picked least often, and at
//! random among those, so that an idle pool is used evenly.

use super::{Ask, Pick};
use crate::config::spec::LeastLoad;

pub(super) fn pick(ask: &Ask<'_>, _options: &LeastLoad, rng: &mut fastrand::Rng) -> Pick {
    Pick::of(lightest(ask, rng), "lightest")
}

/// The candidate with the least load times cost; ties by picks so far, then at random.
pub(super) fn lightest(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> usize {
    let mut best = (f64::INFINITY, f64::INFINITY, u64::MAX);
    let mut chosen = 0;
    let mut ties = 0;
    for (index, candidate) in ask.candidates.iter().enumerate() {
        let rank = (candidate.weight(), candidate.cost, candidate.processed);
        if rank < best {
            (best, chosen, ties) = (rank, index, 1);
        } else if rank == best {
            ties += 1;
            if rng.usize(..ties) == 0 {
                chosen = index;
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use crate::config::spec::{LeastLoad, Policy};
    use crate::policy::scene::Scene;

    fn scene(loads: &[usize]) -> Scene {
        Scene::of(Policy::LeastLoad(LeastLoad::default()), loads)
    }

    #[test]
    fn the_least_loaded_wins_and_ties_go_to_the_least_used() {
        assert_eq!(scene(&[2, 1, 3]).pick().index, 1);
        let mut tied = scene(&[1, 1, 1]);
        for (worker, processed) in tied.workers.iter_mut().zip([5, 4, 6]) {
            worker.processed = processed;
        }
        assert_eq!(tied.pick().index, 1);
    }

    #[test]
    fn full_ties_spread_over_all() {
        let seen = scene(&[0; 3]).spread(3000);
        assert!(seen.iter().all(|n| *n > 800), "{seen:?}");
    }
}
