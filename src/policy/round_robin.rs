//! `round_robin`: a cursor shared by all calls of the route, modulo the number of candidates.

use super::Candidate;
use crate::state::RouteCell;

pub(super) fn pick(candidates: &[Candidate], cell: &RouteCell) -> usize {
    cell.advance() % candidates.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_gets_its_turn() {
        let candidates = [Candidate {
            load: 9,
            processed: 0,
        }; 3];
        let cell = RouteCell::default();
        let picks: Vec<usize> = (0..6).map(|_| pick(&candidates, &cell)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }
}
