//! `round_robin`: a cursor shared by all calls of the route, modulo the number of candidates.

use super::Candidate;
use crate::state::RouteCell;

pub(super) fn pick(candidates: &[Candidate<'_>], cell: &RouteCell) -> usize {
    cell.advance() % candidates.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::candidate;

    #[test]
    fn every_candidate_gets_its_turn() {
        let candidates = [candidate(9, 0); 3];
        let cell = RouteCell::default();
        let picks: Vec<usize> = (0..6).map(|_| pick(&candidates, &cell)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }
}
