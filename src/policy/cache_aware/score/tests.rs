//! The policy as a whole, on the stage.

use super::*;
use crate::config::spec::Policy;
use crate::policy::scene::Scene;
use crate::policy::{Mode, Notes, learn};

fn scene(loads: &[usize]) -> Scene {
    Scene::of(Policy::CacheAware(CacheAware::default()), loads)
}

fn words(seed: u64, len: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.lowercase()).collect()
}

fn score(scene: &Scene) -> &Memory {
    &scene.memory.cache_aware.score
}

#[test]
fn a_conversation_stays_where_it_began() {
    let mut scene = scene(&[0; 8]);
    for session in 0..40 {
        let mut text = words(session, 3000);
        scene.say(&text);
        let first = scene.pick();
        assert_eq!(first.reason, "cold");
        for turn in 0..4 {
            text.push_str(&words(1000 * session + turn, 2000));
            scene.say(&text);
            let next = scene.pick();
            assert_eq!((next.index, next.reason), (first.index, "cache_hit"));
            let cached = next.expected.cached_tokens.unwrap();
            assert!(cached > 600, "{cached}");
        }
    }
}

#[test]
fn a_worker_with_much_to_do_gives_a_prompt_away() {
    let mut scene = scene(&[0; 2]);
    scene.say(&words(1, 8000));
    let home = scene.pick().index;
    scene.workers[home].pending_prefill = 1000;
    assert_eq!(scene.pick().index, home, "what is cached is worth the wait");
    scene.workers[home].pending_prefill = 200_000;
    let away = scene.pick();
    assert_ne!(away.index, home);
    assert_eq!(away.reason, "spill");
    // The prefix is at both now.
    assert_eq!(scene.pick().reason, "cache_hit");
}

#[test]
fn cold_prompts_are_spread() {
    let mut scene = scene(&[0; 8]);
    let mut counts = [0_u32; 8];
    for n in 0..4000 {
        scene.say(&words(n, 400));
        counts[scene.pick().index] += 1;
    }
    let most = *counts.iter().max().unwrap();
    let least = *counts.iter().min().unwrap();
    assert!(most < 600 && least > 400, "{counts:?}");
}

#[test]
fn a_shared_beginning_does_not_gather_everything() {
    let mut scene = scene(&[0; 8]);
    let system = words(0, 1000);
    let mut counts = [0_u32; 8];
    for n in 1..1600 {
        scene.say(&format!("{system}{}", words(n, 3000)));
        let pick = scene.pick();
        counts[pick.index] += 1;
    }
    let most = *counts.iter().max().unwrap();
    assert!(most < 400, "{counts:?}");
}

#[test]
fn gateways_that_share_nothing_agree_on_cold_prefixes() {
    let (mut one, mut other) = (scene(&[0; 8]), scene(&[0; 8]));
    for n in 0..2000 {
        one.say(&words(n, 2000));
        one.pick();
        other.say(&words(100_000 + n, 2000));
        other.pick();
    }
    let mut rng = fastrand::Rng::with_seed(9);
    let mut agreed = 0;
    for n in 0..1000 {
        let text = words(200_000 + n, 3000);
        for scene in [&mut one, &mut other] {
            scene.say(&text);
            scene.mode = Mode::Peek;
            for worker in &mut scene.workers {
                worker.load = 4;
                worker.pending_prefill = rng.u64(0..40);
            }
        }
        agreed += u32::from(one.pick().index == other.pick().index);
    }
    assert!(agreed >= 900, "{agreed} of 1000");
}

#[test]
fn peeking_changes_nothing() {
    let mut scene = scene(&[0; 4]);
    scene.mode = Mode::Peek;
    scene.notes = Some(Notes::default());
    scene.say(&words(1, 4000));
    let first = scene.pick();
    assert_eq!(scene.pick(), first);
    assert_eq!(score(&scene).index.size(), (0, 0));
    let notes = scene.notes.take().unwrap().into_inner();
    for name in [
        "cached_tokens",
        "uncached_tokens",
        "pending_prefill",
        "batch",
        "score",
    ] {
        let of_one = |index| notes.iter().any(|note| note.0 == index && note.1 == name);
        assert!((0..4).all(of_one), "{name}");
    }
}

#[test]
fn a_worker_that_left_is_forgotten_and_the_others_are_not() {
    let mut scene = scene(&[0; 4]);
    let texts: Vec<String> = (0..60).map(|n| words(n, 30_000)).collect();
    let mut homes = Vec::new();
    for text in &texts {
        scene.say(text);
        homes.push(scene.pick().index);
    }
    let before = score(&scene).size().unwrap().blocks;
    let gone = scene.workers[1].key.clone();
    // As a reload does that keeps the memory and drops a worker.
    scene.memory.retain(|worker| *worker != gone);
    let after = score(&scene).size().unwrap().blocks;
    let theirs = homes.iter().filter(|home| **home == 1).count();
    assert!(theirs > 0 && after < before, "{before} {after}");
    for (text, home) in texts.iter().zip(&homes) {
        scene.mode = Mode::Peek;
        scene.say(text);
        let pick = scene.pick();
        if *home == 1 {
            assert_eq!(pick.reason, "cold");
        } else {
            assert_eq!((pick.index, pick.reason), (*home, "cache_hit"));
        }
    }
    // The lane is given on; nothing of the old worker is taken for the new one's.
    scene.workers[1].key = crate::plan::WorkerKey::new("http://new:1");
    for (text, home) in texts.iter().zip(&homes) {
        scene.say(text);
        assert_eq!(scene.pick().reason == "cold", *home == 1);
    }
}

#[test]
fn the_size_of_a_cache_is_learned_from_answers() {
    // One worker with room for 100 prompts, asked for 400 in turn and more often for some.
    let mut scene = scene(&[0]);
    let policy = scene.leg.policy.clone();
    let mut cache: Vec<u64> = Vec::new();
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..12_000 {
        let n = (rng.f64().powi(2) * 400.0) as u64;
        scene.say(&words(n, 4000));
        let pick = scene.pick();
        let there = cache.iter().position(|other| *other == n);
        if let Some(there) = there {
            cache.remove(there);
        }
        cache.push(n);
        if cache.len() > 100 {
            cache.remove(0);
        }
        let feedback = Feedback {
            lane: scene.lane(0),
            expected: pick.expected,
            success: true,
            prompt_tokens: Some(1000),
            cached_tokens: Some(if there.is_some() { 984 } else { 0 }),
        };
        learn(&policy, &scene.memory, feedback);
    }
    let capacity = score(&scene).capacity(scene.lane(0)).unwrap();
    assert!((80_000.0..125_000.0).contains(&capacity), "{capacity}");
}

#[test]
fn an_engine_that_never_finds_anything_teaches_nothing() {
    let mut scene = scene(&[0]);
    let policy = scene.leg.policy.clone();
    let mut capacities = Vec::new();
    for cached in [None, Some(0)] {
        for n in 0..200 {
            scene.say(&words(n % 3, 4000));
            let pick = scene.pick();
            let feedback = Feedback {
                lane: scene.lane(0),
                expected: pick.expected,
                success: true,
                prompt_tokens: Some(1000),
                cached_tokens: cached,
            };
            learn(&policy, &scene.memory, feedback);
        }
        capacities.push(score(&scene).workers.of(scene.lane(0)).unwrap().capacity());
        assert_eq!(scene.pick().reason, "cache_hit");
    }
    assert_eq!(capacities, [Some(workers::ASSUMED); 2]);
}

#[test]
fn a_worker_that_started_again_is_noticed() {
    let mut scene = scene(&[0]);
    let policy = scene.leg.policy.clone();
    let mut rng = fastrand::Rng::with_seed(2);
    let mut cache = std::collections::BTreeSet::new();
    let mut wrong = 0;
    for round in 0..1200 {
        if round == 600 {
            cache.clear();
        }
        let n = rng.u64(0..60);
        scene.say(&words(n, 16_000));
        let pick = scene.pick();
        let there = !cache.insert(n);
        wrong += u32::from(there != (pick.reason == "cache_hit"));
        let feedback = Feedback {
            lane: scene.lane(0),
            expected: pick.expected,
            success: true,
            prompt_tokens: Some(4000),
            cached_tokens: Some(if there { 3984 } else { 0 }),
        };
        learn(&policy, &scene.memory, feedback);
    }
    assert!((3..20).contains(&wrong), "{wrong}");
}

#[test]
fn memory_is_bounded_whatever_comes() {
    let mut scene = scene(&[0; 4]);
    let bound = 4 << 20;
    scene.leg.policy = Policy::CacheAware(CacheAware {
        memory: crate::base::units::ByteSize::mib(4),
        ..CacheAware::default()
    });
    for n in 0..20_000 {
        scene.say(&words(n, 2000));
        scene.pick();
    }
    let IndexSize { bytes, blocks } = score(&scene).size().unwrap();
    assert!(bytes <= bound && blocks > 50_000, "{bytes} {blocks}");
    // What came last is still known.
    scene.mode = Mode::Peek;
    assert_eq!(scene.pick().reason, "cache_hit");
}

#[test]
fn what_the_engine_tells_of_its_size_counts() {
    let mut scene = scene(&[0]);
    scene.workers[0].engine = Some(crate::policy::Engine {
        capacity_tokens: Some(50_000),
        ..Default::default()
    });
    for n in 0..100 {
        scene.say(&words(n, 4000));
        scene.pick();
    }
    assert_eq!(score(&scene).capacity(scene.lane(0)), Some(50_000.0));
    scene.mode = Mode::Peek;
    scene.say(&words(99, 4000));
    assert_eq!(scene.pick().reason, "cache_hit");
    scene.say(&words(1, 4000));
    assert_eq!(scene.pick().reason, "cold");
}

#[test]
fn tokens_are_blocks_of_their_own() {
    let mut scene = scene(&[0; 4]);
    scene.tokens = Some((0..4000).collect());
    let first = scene.pick();
    scene.tokens = Some((0..5000).collect());
    let next = scene.pick();
    assert_eq!((next.index, next.reason), (first.index, "cache_hit"));
    let cached = next.expected.cached_tokens.unwrap();
    assert!((3500..=4000).contains(&cached), "{cached}");
    assert_eq!(cached + next.expected.prefill_tokens, 5000);
}

/// Nobody tells an empty memory that a worker has left, and a request that began before asks first.
#[test]
fn who_has_a_lane_now_is_known_whoever_asked_before() {
    let mut scene = scene(&[0; 2]);
    let old = scene.lane(0);
    let gone = scene.workers[0].key.clone();
    scene.memory.retain(|worker| *worker != gone);
    scene.workers[0].key = crate::plan::WorkerKey::new("http://a-new-one:1");
    let new = scene.lane(0);
    assert_eq!((new.index, new.turn), (old.index, old.turn + 1));
    let workers = &score(&scene).workers;
    let name = |lane| workers.of(lane).map(|worker| worker.name(&gone));
    let stale = name(old);
    assert!(stale.is_some());
    assert!(workers.of(new).is_some() && workers.of(old).is_none());
    let key = scene.workers[0].key.clone();
    assert_ne!(workers.of(new).map(|worker| worker.name(&key)), stale);
    scene.workers[1].here = false;
    scene.say(&words(1, 4000));
    assert_eq!(scene.pick().reason, "cold");
    assert_eq!(scene.pick().reason, "cache_hit");
}
