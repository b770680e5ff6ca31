//! `power_of_two`: two distinct candidates at random, the one with the smaller load wins.

use super::Candidate;

pub(super) fn pick(candidates: &[Candidate<'_>], rng: &mut fastrand::Rng) -> usize {
    let n = candidates.len();
    let first = rng.usize(..n);
    let second = (first + 1 + rng.usize(..n - 1)) % n;
    match (candidates.get(first), candidates.get(second)) {
        (Some(a), Some(b)) if b.load < a.load => second,
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::candidate;

    #[test]
    fn the_most_loaded_of_three_is_never_picked() {
        let candidates = [3, 1, 2].map(|load| candidate(load, 0));
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [0; 3];
        for _ in 0..3000 {
            seen[pick(&candidates, &mut rng)] += 1;
        }
        assert_eq!(seen[0], 0);
        assert!(seen[1] > seen[2] && seen[2] > 500, "{seen:?}");
    }

    #[test]
    fn ties_spread_over_all() {
        let candidates = [candidate(0, 0); 4];
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [0; 4];
        for _ in 0..4000 {
            seen[pick(&candidates, &mut rng)] += 1;
        }
        assert!(seen.iter().all(|n| *n > 800), "{seen:?}");
    }
}
