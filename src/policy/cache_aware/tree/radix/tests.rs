//! The tree against a simple model, under its bounds, and under many threads.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::super::books::bytes_of;
use super::super::evict::Bounds;
use super::super::sequence::{Item, Sequence};
use super::Tree;
use crate::base::clock;
use crate::policy::Lane;

const UNBOUND: Bounds = Bounds {
    size: u64::MAX,
    bytes: u64::MAX,
    interval: Duration::ZERO,
};

fn lane(index: u16) -> Lane {
    Lane { index, turn: 0 }
}

fn text(text: &str) -> Sequence<'_, u8> {
    Sequence::new(vec![text.as_bytes()])
}

/// The text in pieces of this many bytes.
fn pieces(text: &str, size: usize) -> Sequence<'_, u8> {
    Sequence::new(text.as_bytes().chunks(size.max(1)).collect())
}

/// Checks every shard and that the books are the sum of the nodes.
fn check<T: Item>(tree: &Tree<T>) {
    let (mut size, mut bytes) = (0, 0);
    let mut shares: BTreeMap<Lane, u64> = BTreeMap::new();
    for shelf in &tree.shelves {
        let shard = shelf.shard.read();
        assert_eq!(shelf.oldest.load(Ordering::Relaxed), shard.oldest());
        for node in shard.check() {
            size += node.size;
            bytes += bytes_of(node);
            for holder in &node.holders {
                *shares.entry(holder.lane).or_default() += node.size;
            }
        }
    }
    assert_eq!((tree.books.size(), tree.books.bytes()), (size, bytes));
    for (lane, share) in &shares {
        assert_eq!(tree.books.share(*lane), *share);
    }
    assert_eq!(
        tree.books.holders(),
        shares.values().filter(|share| **share > 0).count()
    );
}

fn matched(tree: &Tree<u8>, what: &str) -> u64 {
    tree.look(0, &text(what), |trail| trail.matched())
}

fn held(tree: &Tree<u8>, what: &str, by: u16) -> u64 {
    tree.look(0, &text(what), |trail| trail.held_by(lane(by)))
}

/// Characters that `a` and `b` begin with alike.
fn common(a: &str, b: &str) -> u64 {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Lengths of matches, per worker and for all, are those of a list of all texts.
    #[test]
    fn matches_are_those_of_a_list(
        known in prop::collection::vec(("[abé日]{0,9}", 0..3_u16), 0..24),
        asked in prop::collection::vec("[abéè日]{0,11}", 1..12),
        cut in 1..5_usize,
    ) {
        let tree = Tree::default();
        for (known, by) in &known {
            tree.insert(0, &pieces(known, cut), lane(*by));
            check(&tree);
        }
        for asked in &asked {
            let best = |by: Option<u16>| {
                let of = known.iter().filter(|(_, who)| by.is_none_or(|by| by == *who));
                of.map(|(known, _)| common(known, asked)).max().unwrap_or(0)
            };
            prop_assert_eq!(matched(&tree, asked), best(None), "{:?}", asked);
            let sequence = pieces(asked, cut);
            for by in 0..3 {
                let (held, whole) = tree.look(0, &sequence, |trail| {
                    (trail.held_by(lane(by)), trail.is_held_by(lane(by)))
                });
                // One more where nodes meet within a character.
                let best = best(Some(by));
                prop_assert!((best..=best + 1).contains(&held), "{:?}", asked);
                let mut own = known.iter().filter(|(_, who)| *who == by);
                let has = own.any(|(known, _)| known.starts_with(&**asked));
                prop_assert_eq!(whole, has || asked.is_empty(), "{:?}", asked);
            }
        }
    }

    /// Whatever comes, goes, is used and is evicted: the tree stays sound and ends empty.
    #[test]
    fn the_tree_stays_sound(steps in prop::collection::vec((0..6_u8, "[ab]{0,12}", 0..4_u16), 0..80)) {
        let tree = Tree::default();
        let now = clock::now();
        for (step, what, by) in &steps {
            match step {
                0..=2 => { tree.insert(0, &text(what), lane(*by)); }
                3 => tree.look(0, &text(what), |trail| trail.touch(lane(*by), tree.tick())),
                4 => {
                    tree.purge(lane(*by));
                    prop_assert_eq!(tree.books.share(lane(*by)), 0);
                }
                _ => {
                    let size = tree.books.size() / 2;
                    tree.tend(now, &Bounds { size, ..UNBOUND }, 0);
                }
            }
            check(&tree);
        }
        for by in 0..4 {
            tree.purge(lane(by));
        }
        check(&tree);
        tree.tend(now, &Bounds { size: 0, bytes: 0, ..UNBOUND }, 1 << 20);
        prop_assert_eq!((tree.books.size(), tree.books.bytes()), (0, 0));
    }
}

#[test]
fn a_part_of_an_edge_counts_and_ends_the_match() {
    let tree = Tree::default();
    tree.insert(0, &text("the quick brown fox"), lane(0));
    assert_eq!(matched(&tree, "the quick red fox"), 10);
    assert_eq!(matched(&tree, "the"), 3);
    assert_eq!(matched(&tree, "a quick brown fox"), 0);
    // Another text of the same beginning divides the edge and keeps what was known.
    tree.insert(0, &text("the quick red fox"), lane(1));
    assert_eq!(matched(&tree, "the quick brown fox"), 19);
    assert_eq!(
        (
            held(&tree, "the quick red fox", 0),
            held(&tree, "the quick red fox", 1)
        ),
        (10, 17)
    );
    assert_eq!(tree.books.size(), 19 + 7);
    assert_eq!(
        (tree.books.share(lane(0)), tree.books.share(lane(1))),
        (19, 17)
    );
    check(&tree);
}

#[test]
fn models_share_nothing() {
    let tree = Tree::default();
    tree.insert(1, &text("hello"), lane(0));
    assert_eq!(tree.look(2, &text("hello"), |trail| trail.matched()), 0);
    assert_eq!(tree.look(1, &text("hello"), |trail| trail.matched()), 5);
}

#[test]
fn the_oldest_leaf_goes_first_and_a_look_keeps_one() {
    let tree = Tree::default();
    for what in ["one", "two", "three"] {
        tree.insert(0, &text(what), lane(0));
    }
    tree.look(0, &text("one"), |trail| trail.touch(lane(0), tree.tick()));
    let bounds = Bounds { size: 8, ..UNBOUND };
    tree.tend(clock::now(), &bounds, 0);
    assert_eq!(matched(&tree, "two"), 1, "only what `three` begins with");
    assert_eq!((matched(&tree, "one"), matched(&tree, "three")), (3, 5));
    check(&tree);
}

#[test]
fn who_used_a_shared_node_long_ago_is_forgotten_with_its_leaf() {
    let tree = Tree::default();
    tree.insert(0, &text("system: a"), lane(0));
    for what in ["system: b", "system: c"] {
        tree.insert(0, &text(what), lane(1));
    }
    assert_eq!(held(&tree, "system: ", 0), 8);
    tree.tend(
        clock::now(),
        &Bounds {
            size: 10,
            ..UNBOUND
        },
        0,
    );
    assert_eq!(held(&tree, "system: ", 0), 0);
    assert_eq!(tree.books.share(lane(0)), 0);
    assert_eq!(held(&tree, "system: c", 1), 9);
    check(&tree);
}

#[test]
fn the_interval_and_the_margin_decide_when_to_cut() {
    let tree = Tree::default();
    let start = clock::now();
    let bounds = Bounds {
        size: 100,
        interval: Duration::from_secs(120),
        ..UNBOUND
    };
    let add = |letters: std::ops::RangeInclusive<char>| {
        for letter in letters {
            tree.insert(0, &text(&format!("{letter}23456")), lane(0));
        }
    };
    tree.tend(start, &bounds, 0);
    add('a'..='t');
    tree.tend(start + Duration::from_secs(119), &bounds, 0);
    assert_eq!(
        tree.books.size(),
        120,
        "less than a quarter too much can wait"
    );
    tree.tend(start + Duration::from_secs(120), &bounds, 0);
    assert_eq!(tree.books.size(), 96);
    add('A'..='Z');
    tree.tend(start + Duration::from_secs(121), &bounds, 1 << 20);
    assert_eq!(tree.books.size(), 96, "more than that cannot");
    check(&tree);
}

/// Many more distinct prompts than there is room for: both bounds hold after each of them, but for
/// what one pick may leave to the next, and the bound is on all workers together.
#[test]
fn the_bounds_hold_for_millions_of_characters() {
    let now = clock::now();
    for bounds in [
        Bounds {
            size: 50_000,
            ..UNBOUND
        },
        Bounds {
            bytes: 100_000,
            ..UNBOUND
        },
    ] {
        let tree = Tree::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut seen = 0;
        let mut all = String::new();
        while seen < 4_000_000 {
            all.clear();
            let common = ["", "You are helpful. ", "You are a pirate. ", "日本"];
            all.push_str(common[rng.usize(..4)]);
            let len = if rng.u8(..50) == 0 {
                9000
            } else {
                rng.usize(10..400)
            };
            all.extend(std::iter::repeat_with(|| rng.alphanumeric()).take(len));
            seen += len;
            let added = tree.insert(0, &text(&all), lane(rng.u16(..16)));
            tree.tend(now, &bounds, added);
            let margin = bounds.size.saturating_add(bounds.size / 4 + 9000);
            assert!(tree.books.size() <= margin);
            assert!(tree.books.bytes() <= bounds.bytes);
        }
        check(&tree);
        assert!(tree.books.size() > 10_000, "nor is everything forgotten");
    }
}

/// A long chain of nodes neither takes long nor runs out of stack.
#[test]
fn depth_is_harmless() {
    let tree = Tree::default();
    let long = "x".repeat(1 << 20);
    tree.insert(0, &text(&long), lane(0));
    let parts: Vec<&[u8]> = long.as_bytes().chunks(20).take(2000).collect();
    for depth in 1..=parts.len() {
        tree.insert(0, &Sequence::new(parts[..depth].to_vec()), lane(1));
    }
    assert_eq!(
        (held(&tree, &long, 0), held(&tree, &long, 1)),
        (1 << 20, 40_000)
    );
    tree.purge(lane(0));
    assert_eq!(matched(&tree, &long), 40_000);
    let bounds = Bounds {
        size: 100,
        ..UNBOUND
    };
    tree.tend(clock::now(), &bounds, 1 << 30);
    assert_eq!(matched(&tree, &long), 100);
    check(&tree);
}

/// One worker leaves while another one's cache is flushed.
#[test]
fn purges_at_the_same_time_do_not_hide_each_other() {
    let tree = Tree::default();
    let (short, long) = ("x".repeat(40), "x".repeat(100));
    tree.insert(0, &text(&long), lane(0));
    let shelf = tree.shelf(0, &text(&long));
    let end = shelf.shard.write().begin_purge(lane(0));
    // Elsewhere another purge comes and goes, and then the node is split.
    tree.purge(lane(1));
    tree.insert(0, &text(&short), lane(2));
    assert_eq!(held(&tree, &short, 0), 0);
    {
        let mut shard = shelf.shard.write();
        let slots = (0..end).filter_map(|slot| u32::try_from(slot).ok());
        shard.sweep(slots, lane(0), &tree.books);
        shelf.oldest.store(shard.oldest(), Ordering::Relaxed);
        shard.end_purge(lane(0));
    }
    assert_eq!(tree.books.share(lane(0)), 0);
    check(&tree);
}

#[test]
fn many_threads_leave_a_sound_tree() {
    let tree = Tree::default();
    let bounds = Bounds {
        size: 20_000,
        bytes: 200_000,
        ..UNBOUND
    };
    let now = clock::now();
    std::thread::scope(|threads| {
        for thread in 0..6_u16 {
            let tree = &tree;
            threads.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread.into());
                for round in 0..3000_u32 {
                    let common = "abcdefgh".split_at(rng.usize(..8)).0;
                    let what = format!("{common}{:x}", rng.u32(..4096).wrapping_mul(0x9e37_79b9));
                    let what = what.repeat(rng.usize(1..6));
                    let by = lane(rng.u16(..5));
                    tree.look(0, &text(&what), |trail| {
                        assert!(trail.matched() <= what.len() as u64);
                        assert!(trail.held_by(by) <= trail.matched());
                        if rng.bool() {
                            trail.touch(by, tree.tick());
                        }
                    });
                    let added = tree.insert(0, &text(&what), by);
                    tree.tend(now, &bounds, added);
                    if thread == 0 && round % 100 == 0 {
                        tree.purge(lane(rng.u16(..5)));
                    }
                }
            });
        }
    });
    check(&tree);
    // Each thread may have been about to cut what it had added.
    tree.tend(now, &bounds, 1 << 20);
    assert!(tree.books.bytes() <= bounds.bytes && tree.books.size() <= bounds.size);
    for by in 0..5 {
        tree.purge(lane(by));
    }
    assert_eq!(
        (tree.books.size(), tree.books.bytes(), tree.books.holders()),
        (0, 0, 0)
    );
}
