//! What the policy does with the tree.

use std::time::Duration;

use super::{Limits, Memory, wants_engine_load};
use crate::base::units::{ByteSize, Millis};
use crate::config::spec::{Algorithm, CacheAware, Policy};
use crate::policy::scene::Scene;
use crate::policy::{Engine, Mode, Notes, Refused};

fn options() -> CacheAware {
    CacheAware {
        algorithm: Some(Algorithm::Tree),
        ..CacheAware::default()
    }
}

fn scene(loads: &[usize]) -> Scene {
    with(options(), loads)
}

fn with(options: CacheAware, loads: &[usize]) -> Scene {
    Scene::of(Policy::CacheAware(options), loads)
}

fn tree(scene: &Scene) -> &Memory {
    &scene.memory.cache_aware.tree
}

/// Asks for `text` and returns who and why.
fn ask(scene: &mut Scene, text: &str) -> (usize, &'static str) {
    scene.say(text);
    let pick = scene.pick();
    (pick.index, pick.reason)
}

/// Has `text` go to the worker at `at`, by taking all others off the stage.
fn teach(scene: &mut Scene, at: usize, text: &str) {
    let here: Vec<bool> = scene.workers.iter().map(|worker| worker.here).collect();
    for (other, worker) in scene.workers.iter_mut().enumerate() {
        worker.here = other == at;
    }
    assert_eq!(ask(scene, text).0, at);
    for (worker, here) in scene.workers.iter_mut().zip(here) {
        worker.here = here;
    }
}

#[test]
fn the_first_of_a_text_goes_to_the_least_loaded_and_the_others_follow() {
    let mut scene = scene(&[3, 1, 2]);
    assert_eq!(ask(&mut scene, "a text"), (1, "tree_miss_min_load"));
    scene.workers[1].load = 40;
    for _ in 0..20 {
        assert_eq!(ask(&mut scene, "a text"), (1, "tree_match"));
    }
}

#[test]
fn distinct_texts_spread_evenly() {
    let mut scene = scene(&[0; 4]);
    let mut counts = [0; 4];
    for at in 0..400_u32 {
        let text = format!("{:08x} is quite another", at.wrapping_mul(0x9e37_79b9));
        counts[ask(&mut scene, &text).0] += 1;
    }
    assert!(
        counts.iter().all(|count| (90..=110).contains(count)),
        "{counts:?}"
    );
}

/// The peer gives them all to worker 0.
#[test]
fn full_ties_go_to_anybody() {
    let mut counts = [0; 4];
    for seed in 0..400 {
        let mut scene = scene(&[0; 4]);
        scene.rng = fastrand::Rng::with_seed(seed);
        counts[scene.pick().index] += 1;
    }
    assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
}

#[test]
fn among_equals_the_cheapest_then_the_emptiest_then_the_least_used() {
    let mut scene = scene(&[0, 0, 0]);
    teach(&mut scene, 0, "some text here");
    teach(&mut scene, 1, "a much longer text than that");
    scene.workers[2].processed = 1;
    assert_eq!(ask(&mut scene, "x").0, 2);
    teach(
        &mut scene,
        2,
        "the longest text of all of them by far, so far",
    );
    assert_eq!(ask(&mut scene, "y").0, 0);
    scene.workers[0].cost = 2.0;
    assert_eq!(ask(&mut scene, "z").0, 1);
    let mut even = self::scene(&[0, 0, 0]);
    for (worker, processed) in even.workers.iter_mut().zip([5, 4, 6]) {
        worker.processed = processed;
    }
    assert_eq!(even.pick().index, 1);
}

#[test]
fn imbalance_takes_both_thresholds() {
    for (loads, reason) in [
        ([0, 64], "tree_match"),
        ([0, 65], "imbalance_min_load"),
        ([130, 195], "tree_match"),
        ([129, 195], "imbalance_min_load"),
    ] {
        let mut scene = scene(&loads);
        teach(&mut scene, 1, "hello");
        assert_eq!(ask(&mut scene, "hello").1, reason, "{loads:?}");
    }
    // What costs twice counts twice.
    let mut scene = scene(&[0, 40]);
    teach(&mut scene, 1, "hello");
    scene.workers[1].cost = 2.0;
    assert_eq!(ask(&mut scene, "hello"), (0, "imbalance_min_load"));
}

#[test]
fn the_tree_learns_where_imbalance_sent_a_text() {
    let mut scene = scene(&[0, 100]);
    teach(&mut scene, 1, "hello");
    assert_eq!(ask(&mut scene, "hello"), (0, "imbalance_min_load"));
    scene.workers[1].load = 0;
    assert_eq!(
        ask(&mut scene, "hello"),
        (0, "tree_match"),
        "it used the text last"
    );
}

#[test]
fn token_usage_counts_below_one_only() {
    let usage = |share| {
        Some(Engine {
            token_usage: Some(share),
            ..Engine::default()
        })
    };
    let reason = |options: CacheAware, shares: [f64; 2]| {
        let mut scene = with(options, &[0, 1]);
        teach(&mut scene, 1, "hello");
        for (worker, share) in scene.workers.iter_mut().zip(shares) {
            worker.engine = usage(share);
        }
        ask(&mut scene, "hello")
    };
    let off = CacheAware {
        balance_token_usage_threshold: Some(1.0),
        overload_token_usage_threshold: Some(1.5),
        ..options()
    };
    assert!(!wants_engine_load(&off) && !wants_engine_load(&options()));
    assert_eq!(reason(off, [0.0, 1.0]), (1, "tree_match"));
    let overload = CacheAware {
        overload_token_usage_threshold: Some(0.9),
        ..options()
    };
    assert!(wants_engine_load(&overload));
    assert_eq!(reason(overload.clone(), [0.9, 0.9]), (1, "tree_match"));
    assert_eq!(reason(overload, [0.9, 0.95]), (0, "token_usage_min_load"));
    let spread = CacheAware {
        balance_token_usage_threshold: Some(0.25),
        ..options()
    };
    assert_eq!(reason(spread.clone(), [0.5, 0.75]), (1, "tree_match"));
    assert_eq!(reason(spread, [0.5, 0.875]), (0, "token_usage_min_load"));
}

#[test]
fn the_threshold_decides_whether_a_match_is_one() {
    let share = |threshold, text: &str| {
        let options = CacheAware {
            cache_threshold: Some(threshold),
            ..options()
        };
        let mut scene = with(options, &[0, 9]);
        teach(&mut scene, 1, "0123456789");
        ask(&mut scene, text)
    };
    assert_eq!(share(0.5, "01234xxxxx"), (1, "tree_match"));
    assert_eq!(share(0.5, "01234xxxxxx"), (0, "tree_miss_min_load"));
    assert_eq!(share(0.0, "0xxxxxxxxxxxxx"), (1, "tree_match"));
    assert_eq!(
        share(0.0, "xxxxx"),
        (0, "tree_miss_min_load"),
        "nothing is no match"
    );
    assert_eq!(share(0.0, ""), (0, "tree_miss_min_load"));
}

#[test]
fn characters_count_not_bytes() {
    let mut scene = scene(&[0, 9]);
    teach(&mut scene, 1, "日本語");
    // 3 of 11 characters, but 9 of 17 bytes.
    assert_eq!(ask(&mut scene, "日本語abcdefgh"), (0, "tree_miss_min_load"));
    assert_eq!(
        ask(&mut scene, "日本語abcdefg"),
        (0, "tree_match"),
        "which has become known"
    );
}

#[test]
fn the_last_to_use_the_deepest_node_is_taken() {
    let mut scene = scene(&[0, 0, 0]);
    teach(&mut scene, 0, "hello world");
    teach(&mut scene, 1, "hello world");
    teach(&mut scene, 2, "hello");
    assert_eq!(ask(&mut scene, "hello world").0, 1);
    scene.workers[1].here = false;
    assert_eq!(ask(&mut scene, "hello world").0, 0);
    scene.workers[0].here = false;
    assert_eq!(
        ask(&mut scene, "hello world"),
        (2, "tree_match"),
        "it has 5 of 11"
    );
}

/// The peer takes the first healthy worker here and does not learn that.
#[test]
fn a_dead_match_goes_to_the_least_loaded_and_is_learnt() {
    let mut scene = scene(&[0, 7, 3]);
    teach(&mut scene, 0, "hello world");
    scene.workers[0].here = false;
    assert_eq!(ask(&mut scene, "hello world"), (2, "dead_match_min_load"));
    assert_eq!(ask(&mut scene, "hello world"), (2, "tree_match"));
}

#[test]
fn a_worker_that_is_back_has_kept_what_it_had() {
    let mut scene = scene(&[5, 0]);
    teach(&mut scene, 0, "hello world");
    scene.workers[0].here = false;
    assert_eq!(ask(&mut scene, "bye").0, 1);
    scene.workers[0].here = true;
    assert_eq!(ask(&mut scene, "hello world"), (0, "tree_match"));
}

#[test]
fn who_leaves_or_is_flushed_is_forgotten_at_once() {
    let mut scene = scene(&[5, 0]);
    scene.tokens = Some((0..64).collect());
    teach(&mut scene, 0, "");
    scene.tokens = None;
    teach(&mut scene, 0, "hello world");
    teach(&mut scene, 1, "hello there");
    assert_eq!(scene.memory.tree_size().unwrap().workers, 2);
    let gone = scene.workers[0].key.clone();
    scene.memory.retain(|worker| *worker != gone);
    let size = scene.memory.tree_size().unwrap();
    assert_eq!((size.chars, size.tokens, size.workers), (11, 0, 1));
    assert_eq!(ask(&mut scene, "hello there"), (1, "tree_match"));
    let flushed = scene.workers[1].key.clone();
    scene.memory.flush(&flushed);
    assert_eq!(scene.memory.tree_size().unwrap().chars, 0);
    assert_eq!(ask(&mut scene, "hello there"), (1, "tree_miss_min_load"));
}

#[test]
fn to_look_changes_nothing() {
    let mut scene = scene(&[0, 9]);
    teach(&mut scene, 1, "hello world");
    let size = scene.memory.tree_size();
    let clock = tree(&scene).text().now();
    scene.mode = Mode::Peek;
    for text in ["hello world", "hello", "another", "hello wonder"] {
        for _ in 0..50 {
            ask(&mut scene, text);
        }
    }
    scene.tokens = Some((0..64).collect());
    assert_eq!(ask(&mut scene, "").1, "tree_miss_min_load");
    assert_eq!(
        (scene.memory.tree_size(), tree(&scene).text().now()),
        (size, clock)
    );
}

#[test]
fn a_text_that_is_known_is_seldom_touched() {
    let mut scene = scene(&[0]);
    scene.pick();
    let before = tree(&scene).text().now();
    for _ in 0..800 {
        scene.pick();
    }
    let touched = tree(&scene).text().now() - before;
    assert!((60..=150).contains(&touched), "{touched}");
}

#[test]
fn tokens_match_in_whole_pages() {
    let mut scene = with(
        CacheAware {
            cache_threshold: Some(0.5),
            ..options()
        },
        &[0, 9],
    );
    let ask_ids = |scene: &mut Scene, ids: Vec<u32>| {
        scene.tokens = Some(ids);
        ask(scene, "the text does not count")
    };
    scene.workers[0].here = false;
    ask_ids(&mut scene, (0..40).collect());
    scene.workers[0].here = true;
    assert_eq!(scene.memory.tree_size().unwrap().tokens, 32);
    let mut ids: Vec<u32> = (0..40).collect();
    assert_eq!(ask_ids(&mut scene, ids.clone()), (1, "tree_match"));
    ids[20] = 99;
    assert_eq!(
        ask_ids(&mut scene, ids),
        (0, "tree_miss_min_load"),
        "16 of 40"
    );
    assert_eq!(
        ask_ids(&mut scene, (0..15).collect()),
        (0, "tree_miss_min_load")
    );
    assert_eq!(scene.memory.tree_size().unwrap().chars, 0);
    // Another length of the pages has nothing in common with this one.
    scene.leg.policy = Policy::CacheAware(CacheAware {
        block_size: 8,
        ..options()
    });
    assert_eq!(
        ask_ids(&mut scene, (0..40).collect()),
        (0, "tree_miss_min_load")
    );
    assert_eq!(scene.memory.tree_size().unwrap().tokens, 40);
}

#[test]
fn what_is_expected_follows_from_what_the_choice_holds() {
    let mut scene = scene(&[0, 9]);
    teach(&mut scene, 1, &"a".repeat(400));
    scene.say(&("a".repeat(400) + &"b".repeat(100)));
    let pick = scene.pick();
    assert_eq!((pick.index, pick.matched), (1, Some(0.8)));
    assert_eq!(pick.expected.cached_tokens, Some(100));
    assert_eq!(pick.expected.prefill_tokens, 25);
    assert_eq!(pick.expected.prompt_bytes, 500);
    // Sent elsewhere, the match is of no use.
    scene.workers[1].here = false;
    scene.say(&("a".repeat(400) + "c"));
    let pick = scene.pick();
    assert_eq!(pick.reason, "dead_match_min_load");
    assert_eq!(pick.expected.cached_tokens, Some(0));
    assert_eq!(pick.expected.prefill_tokens, 100);
}

#[test]
fn the_figures_of_every_candidate_are_noted() {
    let mut scene = scene(&[2, 1]);
    teach(&mut scene, 0, "hello");
    scene.notes = Some(Notes::default());
    scene.mode = Mode::Peek;
    ask(&mut scene, "hello you!");
    let notes = scene.notes.take().unwrap().into_inner();
    let expected = [
        (0, "matched_chars", 5.0),
        (0, "match_rate", 0.5),
        (0, "tree_share", 5.0),
        (0, "load", 2.0),
        (1, "matched_chars", 0.0),
        (1, "match_rate", 0.0),
        (1, "tree_share", 0.0),
        (1, "load", 1.0),
    ];
    assert_eq!(notes, expected);
}

/// The peer bounds each worker's part, so that all of them may be many times as large.
#[test]
fn the_size_is_that_of_all_workers_together() {
    let options = CacheAware {
        max_tree_size: Some(10_000),
        eviction_interval: Some(Millis::secs(10)),
        memory: ByteSize::kib(64),
        ..options()
    };
    let mut scene = with(options, &[0; 8]);
    for at in 0..2000_u32 {
        let word = format!("{:08x}", at.wrapping_mul(0x9e37_79b9));
        ask(&mut scene, &word.repeat(12));
        scene.now += Duration::from_millis(1);
        assert!(scene.memory.tree_size().unwrap().chars <= 12_500 + 96);
    }
    let memory = tree(&scene);
    assert!(memory.text().books.bytes() <= 64 * 1024);
    scene.now += Duration::from_secs(10);
    ask(&mut scene, "once more");
    assert!(scene.memory.tree_size().unwrap().chars <= 10_000);
}

#[test]
fn text_and_tokens_share_the_memory() {
    let options = CacheAware {
        memory: ByteSize::kib(64),
        ..options()
    };
    let mut scene = with(options, &[0; 2]);
    let mut word = 0_u32;
    for _ in 0..400 {
        word = word.wrapping_add(0x9e37_79b9);
        ask(&mut scene, &format!("{word:08x}").repeat(20));
    }
    assert!(tree(&scene).text().books.bytes() > 32 * 1024);
    for _ in 0..1000 {
        word = word.wrapping_add(0x9e37_79b9);
        scene.tokens = Some((word..).take(64).collect());
        scene.pick();
        let memory = tree(&scene);
        let pages = memory.pages(16, false);
        let bytes = memory.text().books.bytes() + pages.tree.books.bytes();
        assert!(bytes <= 64 * 1024, "{bytes}");
    }
    assert!(
        tree(&scene).text().books.bytes() < 2048,
        "the tree in use has all of it"
    );
}

#[test]
fn one_candidate_is_it_and_none_is_none() {
    let mut scene = scene(&[1000]);
    assert_eq!(scene.pick().index, 0);
    scene.workers[0].here = false;
    assert_eq!(scene.try_pick(), Err(Refused::Nobody));
}

#[test]
fn defaults() {
    let limits = Limits::of(&options());
    assert_eq!(
        (
            limits.cache_threshold,
            limits.balance_abs,
            limits.balance_rel
        ),
        (0.3, 64.0, 1.5)
    );
    assert_eq!(limits.max_tree_size, 64 * 1024 * 1024);
    assert_eq!(limits.eviction_interval, Duration::from_secs(120));
}
