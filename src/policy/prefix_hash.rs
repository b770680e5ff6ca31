//! `prefix_hash`: the first acceptable candidate clockwise of the prompt's prefix. Acceptable is
//! whose load is not far above the mean, so that a hot prefix spreads along the ring.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::Xxh3;

use super::seat::Seats;
use super::{Ask, Candidate, Hint, Pick, least_load};
use crate::config::spec::PrefixHash;

/// Characters that stand for one token where tokens are not known.
const CHARS_PER_TOKEN: usize = 4;

pub(super) fn pick(ask: &Ask<'_>, options: &PrefixHash, rng: &mut fastrand::Rng) -> Pick {
    let total: f64 = ask.candidates.iter().map(Candidate::weight).sum();
    let limit = if total > 0.0 {
        options.load_factor * (total + 1.0) / ask.candidates.len() as f64
    } else {
        f64::INFINITY
    };
    let key = hex(prefix(&ask.hint, options.prefix_token_count as usize));
    let seats = Seats::of(ask);
    let ring = ask.leg.ring.as_ref();
    let mut first = None;
    // A worker met again is refused again: the walk needs no list of those it has met.
    for (step, ix) in ring
        .into_iter()
        .flat_map(|ring| ring.walk(&key))
        .enumerate()
    {
        let Some(seat) = seats.find(ix) else {
            continue;
        };
        let weight = ask.candidates.get(seat).map_or(0.0, Candidate::weight);
        let first = *first.get_or_insert(seat);
        if weight <= limit {
            ask.note(seat, "ring_step", step as f64);
            ask.note(seat, "load", weight);
            ask.note(seat, "load_limit", limit);
            let reason = if seat == first {
                "ring_hit"
            } else {
                "ring_spill"
            };
            return Pick::of(seat, reason);
        }
        if ask.notes.is_some() && seat == first {
            ask.note(seat, "load", weight);
        }
    }
    Pick::of(least_load::lightest(ask, rng), "least_loaded")
}

/// The hash of the first `count` tokens, or of the characters that stand for them.
fn prefix(hint: &Hint<'_>, count: usize) -> u64 {
    let mut hash = Xxh3::new();
    if let Some(tokens) = hint.tokens {
        for token in tokens.iter().take(count) {
            hash.update(&token.to_le_bytes());
        }
        return hash.digest();
    }
    let mut left = count.saturating_mul(CHARS_PER_TOKEN);
    hint.prompt.visit(|piece| {
        let taken = chars(piece, &mut left);
        hash.update(piece.get(..taken).unwrap_or(piece));
        if taken < piece.len() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    hash.digest()
}

/// How many bytes of `piece` the next `left` characters take; `left` is what is wanted still.
/// Bytes that continue a character belong to it, even at the start of a piece.
fn chars(piece: &[u8], left: &mut usize) -> usize {
    for (at, byte) in piece.iter().enumerate() {
        if byte & 0xC0 != 0x80 {
            if *left == 0 {
                return at;
            }
            *left -= 1;
        }
    }
    piece.len()
}

/// The 16 digits under which a hash stands on the ring.
fn hex(hash: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| {
        let digit = (hash >> (60 - 4 * at)) & 0xF;
        DIGITS.get(digit as usize).copied().unwrap_or(b'0')
    })
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::config::spec::Policy;
    use crate::policy::scene::Scene;

    fn scene(loads: &[usize]) -> Scene {
        Scene::of(Policy::PrefixHash(PrefixHash::default()), loads)
    }

    /// The first worker clockwise of the key, as the ring itself says.
    fn home(scene: &Scene, key: &str) -> usize {
        let ring = scene.leg.ring.as_ref().unwrap();
        ring.walk(key.as_bytes()).next().unwrap().0 as usize
    }

    #[test]
    fn the_key_is_the_hash_of_little_endian_tokens_in_hex() {
        let mut scene = scene(&[0; 5]);
        let tokens: Vec<u32> = (0..300).collect();
        let bytes: Vec<u8> = tokens[..256].iter().flat_map(|t| t.to_le_bytes()).collect();
        let expected = home(&scene, &format!("{:016x}", xxh3_64(&bytes)));
        scene.tokens = Some(tokens.clone());
        let pick = scene.pick();
        assert_eq!((pick.index, pick.reason), (expected, "ring_hit"));
        // What comes behind the prefix changes nothing.
        scene.tokens = Some([&tokens[..256], &[1, 2, 3]].concat());
        assert_eq!(scene.pick().index, expected);
    }

    #[test]
    fn without_tokens_characters_are_hashed_and_nobody_is_refused() {
        let mut seen = std::collections::BTreeSet::new();
        let mut scene = scene(&[0; 5]);
        for name in 0..50 {
            scene.say(&format!("document {name}"));
            let pick = scene.pick();
            assert_eq!(scene.pick(), pick);
            seen.insert(pick.index);
        }
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        let text = "äöü€x𝄞".as_bytes();
        for (count, bytes) in [(0, 0), (1, 2), (3, 6), (4, 9), (5, 10), (6, 14), (9, 14)] {
            let mut left = count;
            assert_eq!(chars(text, &mut left), bytes, "{count}");
            // Wherever a character is cut by the pieces, the same bytes are taken.
            for cut in 0..text.len() {
                let mut left = count;
                let (head, tail) = text.split_at(cut);
                let mut taken = chars(head, &mut left);
                if taken == head.len() {
                    taken += chars(tail, &mut left);
                }
                assert_eq!(taken, bytes, "{count} characters, cut at {cut}");
            }
        }
    }

    #[test]
    fn hex_has_all_digits() {
        assert_eq!(&hex(0x0123_4567_89ab_cdef), b"0123456789abcdef");
        assert_eq!(&hex(0xF), b"000000000000000f");
    }

    #[test]
    fn a_worker_above_the_bound_is_passed_over() {
        let mut scene = scene(&[0; 4]);
        let first = scene.pick().index;
        // 1.25 × (8 + 1) / 4 = 2.8 is the bound.
        scene.workers[first].load = 2;
        let others: Vec<usize> = (0..4).filter(|at| *at != first).collect();
        for at in &others {
            scene.workers[*at].load = 2;
        }
        assert_eq!(scene.pick().index, first);
        scene.workers[first].load = 5;
        for at in &others {
            scene.workers[*at].load = 1;
        }
        let next = scene.pick();
        assert_eq!(next.reason, "ring_spill");
        assert_ne!(next.index, first);
        // Where the spill goes is where the prefix would live without its worker.
        scene.workers[first].here = false;
        assert_eq!(scene.pick().index, next.index);
    }

    #[test]
    fn cost_counts() {
        let mut scene = scene(&[0; 2]);
        let first = scene.pick().index;
        scene.workers[first].load = 2;
        scene.workers[1 - first].load = 2;
        assert_eq!(scene.pick().index, first);
        scene.workers[first].cost = 4.0;
        assert_eq!(scene.pick().index, 1 - first);
    }

    #[test]
    fn a_pool_that_is_no_longer_on_the_ring_is_used_by_load() {
        let mut scene = scene(&[3, 1]);
        scene.leg.ring = None;
        let pick = scene.pick();
        assert_eq!((pick.index, pick.reason), (1, "least_loaded"));
    }
}
