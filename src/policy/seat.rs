//! Finding one candidate among many without building anything.

use std::cmp::Ordering;

use super::{Ask, Candidate};
use crate::plan::WorkerIx;

/// The candidate of the least rank; ties at random. A rank that compares to nothing (NaN) loses.
pub(super) fn least<R: PartialOrd>(
    candidates: &[Candidate<'_>],
    rng: &mut fastrand::Rng,
    mut rank: impl FnMut(usize, &Candidate<'_>) -> R,
) -> usize {
    let mut best: Option<R> = None;
    let mut chosen = 0;
    let mut ties = 1;
    for (index, candidate) in candidates.iter().enumerate() {
        let rank = rank(index, candidate);
        let order = match &best {
            Some(best) => rank.partial_cmp(best),
            // Whoever compares to nothing shall not stand at the head of the comparisons.
            None => rank.partial_cmp(&rank).map(|_| Ordering::Less),
        };
        match order {
            Some(Ordering::Less) => (best, chosen, ties) = (Some(rank), index, 1),
            Some(Ordering::Equal) => {
                ties += 1;
                if rng.usize(..ties) == 0 {
                    chosen = index;
                }
            }
            Some(Ordering::Greater) | None => {}
        }
    }
    chosen
}

/// Where each worker sits among the candidates of a pick.
pub(super) enum Seats<'a> {
    /// By ascending worker index, as within one pool.
    Ascending(&'a [Candidate<'a>]),
    /// In another order, as where one model is served by several pools: worker and seat, ascending.
    Sorted(Vec<(WorkerIx, usize)>),
}

impl<'a> Seats<'a> {
    pub(super) fn of(ask: &Ask<'a>) -> Self {
        // The candidates stand in the order of the leg, whose list is shorter to read.
        if ask.leg.candidates.is_sorted() {
            return Self::Ascending(ask.candidates);
        }
        let seats = ask.candidates.iter().enumerate();
        let mut seats: Vec<_> = seats.map(|(at, worker)| (worker.ix, at)).collect();
        seats.sort_unstable();
        Self::Sorted(seats)
    }

    /// The seat of the worker at `ix`, if it is a candidate.
    pub(super) fn find(&self, ix: WorkerIx) -> Option<usize> {
        match self {
            Self::Ascending(candidates) => find(candidates, ix),
            Self::Sorted(seats) => {
                let at = seats.binary_search_by_key(&ix, |(ix, _)| *ix).ok()?;
                seats.get(at).map(|(_, seat)| *seat)
            }
        }
    }
}

/// Looks only where the worker can be: while nobody is missing between two candidates, that is one
/// place.
fn find(candidates: &[Candidate<'_>], ix: WorkerIx) -> Option<usize> {
    let (first, last) = (candidates.first()?, candidates.last()?);
    let above = ix.0.checked_sub(first.ix.0)? as usize;
    let below = last.ix.0.checked_sub(ix.0)? as usize;
    let from = (candidates.len() - 1).saturating_sub(below);
    let to = above.min(candidates.len() - 1);
    let window = candidates.get(from..=to)?;
    let at = window.binary_search_by_key(&ix, |worker| worker.ix).ok()?;
    Some(from + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::WorkerKey;
    use crate::policy::Lane;

    fn at(ix: u32, key: &WorkerKey) -> Candidate<'_> {
        Candidate {
            ix: WorkerIx(ix),
            key,
            lane: Lane::default(),
            load: 0,
            processed: 0,
            pending_prefill: 0,
            prefill_rate: None,
            cost: 1.0,
            engine: None,
        }
    }

    #[test]
    fn everybody_is_found_and_nobody_else() {
        let key = WorkerKey::new("http://a");
        for present in [
            vec![5],
            vec![0, 1, 2, 3],
            vec![3, 4, 9, 10, 11, 30],
            vec![0, 7],
            vec![],
        ] {
            let candidates: Vec<_> = present.iter().map(|ix| at(*ix, &key)).collect();
            for ix in 0..40 {
                let expected = present.iter().position(|other| *other == ix);
                assert_eq!(
                    find(&candidates, WorkerIx(ix)),
                    expected,
                    "{ix} in {present:?}"
                );
            }
        }
    }

    #[test]
    fn candidates_in_another_order_are_found_too() {
        let key = WorkerKey::new("http://a");
        let candidates: Vec<_> = [7, 2, 9, 4].iter().map(|ix| at(*ix, &key)).collect();
        let mut seats: Vec<_> = candidates.iter().map(|w| w.ix).zip(0..).collect();
        seats.sort_unstable();
        let seats = Seats::Sorted(seats);
        for ix in 0..12 {
            let expected = candidates.iter().position(|w| w.ix == WorkerIx(ix));
            assert_eq!(seats.find(WorkerIx(ix)), expected, "{ix}");
        }
    }

    #[test]
    fn the_least_rank_wins_ties_spread_and_nan_loses() {
        let key = WorkerKey::new("http://a");
        let candidates: Vec<_> = (0..4).map(|ix| at(ix, &key)).collect();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut seen = [0; 4];
        for _ in 0..300 {
            let ranks = [f64::INFINITY, 1.0, f64::NAN, 1.0];
            seen[least(&candidates, &mut rng, |at, _| ranks[at])] += 1;
        }
        assert!(seen[1] > 100 && seen[3] > 100, "{seen:?}");
        assert_eq!(seen[0] + seen[2], 0);
    }
}
