//! `least_load`: the fewest requests in flight. Ties go to the worker picked least often, and at
//! random among those, so that an idle pool is used evenly.

use super::Candidate;

pub(super) fn pick(candidates: &[Candidate<'_>], rng: &mut fastrand::Rng) -> usize {
    let mut best = (usize::MAX, u64::MAX);
    let mut chosen = 0;
    let mut ties = 0;
    for (index, candidate) in candidates.iter().enumerate() {
        let rank = (candidate.load, candidate.processed);
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
    use super::*;
    use crate::policy::tests::candidate;

    #[test]
    fn the_least_loaded_wins_and_ties_go_to_the_least_used() {
        let mut rng = fastrand::Rng::with_seed(1);
        let of = |pairs: &[(usize, u64)]| -> Vec<Candidate<'static>> {
            pairs
                .iter()
                .map(|&(load, processed)| candidate(load, processed))
                .collect()
        };
        assert_eq!(pick(&of(&[(2, 0), (1, 9), (3, 0)]), &mut rng), 1);
        assert_eq!(pick(&of(&[(1, 5), (1, 4), (1, 6)]), &mut rng), 1);
    }

    #[test]
    fn full_ties_spread_over_all() {
        let mut rng = fastrand::Rng::with_seed(1);
        let candidates = [candidate(0, 0); 3];
        let mut seen = [0; 3];
        for _ in 0..3000 {
            seen[pick(&candidates, &mut rng)] += 1;
        }
        assert!(seen.iter().all(|n| *n > 800), "{seen:?}");
    }
}
