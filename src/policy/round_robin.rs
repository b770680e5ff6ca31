//! `round_robin`: a cursor shared by all calls of the route, modulo the number of candidates.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Ask, Pick};

/// The cursor.
#[derive(Debug, Default)]
pub(super) struct Memory(AtomicUsize);

pub(super) fn pick(ask: &Ask<'_>) -> Pick {
    let cursor = &ask.memory.round_robin.0;
    let at = if ask.takes() {
        cursor.fetch_add(1, Ordering::Relaxed)
    } else {
        cursor.load(Ordering::Relaxed)
    };
    Pick::of(at % ask.candidates.len(), "turn")
}

#[cfg(test)]
mod tests {
    use crate::config::spec::Policy;
    use crate::policy::Mode;
    use crate::policy::scene::Scene;

    #[test]
    fn every_candidate_gets_its_turn_and_looking_moves_nothing() {
        let mut scene = Scene::of(Policy::RoundRobin, &[9, 0, 0]);
        let picks: Vec<usize> = (0..6)
            .map(|_| {
                scene.mode = Mode::Peek;
                let seen = scene.pick().index;
                scene.mode = Mode::Take;
                let taken = scene.pick().index;
                assert_eq!(seen, taken);
                taken
            })
            .collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }
}
