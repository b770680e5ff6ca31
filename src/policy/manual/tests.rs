use std::fmt::Display;
use std::sync::Barrier;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::*;
use crate::api::Endpoint;
use crate::api::prompt::Prompt;
use crate::api::scan::Fields;
use crate::base::clock;
use crate::base::units::Millis;
use crate::config::spec::{LeastLoad, Policy};
use crate::plan::{Leg, WorkerIx, WorkerKey};
use crate::policy::scene::Scene;
use crate::policy::{self, Candidate, Hint, Mode};

fn scene(options: Manual, loads: &[usize]) -> Scene {
    Scene::of(Policy::Manual(options), loads)
}

fn by(mode: AssignmentMode) -> Manual {
    Manual {
        assignment_mode: mode,
        ..Manual::default()
    }
}

fn ask(scene: &mut Scene, key: impl Display) -> (usize, &'static str) {
    scene.routing_key = Some(key.to_string());
    let pick = scene.pick();
    (pick.index, pick.reason)
}

#[test]
fn a_key_stays_with_its_worker() {
    let mut scene = scene(Manual::default(), &[0; 5]);
    for key in 0..50 {
        let (index, reason) = ask(&mut scene, key);
        assert_eq!(reason, "vacant");
        for other in 0..5 {
            scene.workers[other].load = other;
        }
        assert_eq!(ask(&mut scene, key), (index, "occupied_hit"));
    }
    assert_eq!(scene.memory.manual.len(), 50);
}

#[test]
fn without_a_key_nothing_is_stored() {
    for mode in [
        AssignmentMode::Random,
        AssignmentMode::MinLoad,
        AssignmentMode::MinGroup,
    ] {
        let mut scene = scene(by(mode), &[0; 3]);
        assert_eq!(scene.pick().reason, "no_routing_key");
        assert_eq!(scene.memory.manual.len(), 0);
        let seen = scene.spread(600);
        assert!(seen.iter().all(|n| *n > 100), "{mode:?}: {seen:?}");
    }
}

#[test]
fn two_workers_are_remembered_newest_first() {
    let mut scene = scene(Manual::default(), &[0; 4]);
    let (first, _) = ask(&mut scene, "k");
    scene.workers[first].here = false;
    let (second, reason) = ask(&mut scene, "k");
    assert_eq!(reason, "occupied_miss");
    scene.workers[first].here = true;
    assert_eq!(ask(&mut scene, "k"), (second, "occupied_hit"), "the newest");
    scene.workers[second].here = false;
    assert_eq!(
        ask(&mut scene, "k"),
        (first, "occupied_hit"),
        "then the older"
    );
    scene.workers[first].here = false;
    let (third, reason) = ask(&mut scene, "k");
    assert_eq!(reason, "occupied_miss");
    // The oldest has been dropped.
    scene.workers[first].here = true;
    scene.workers[third].here = false;
    assert_eq!(ask(&mut scene, "k").1, "occupied_miss");
}

#[test]
fn min_load_goes_where_the_least_is_in_flight_times_cost() {
    let mut scene = scene(by(AssignmentMode::MinLoad), &[2, 1, 1, 1]);
    scene.workers[1].cost = 3.0;
    scene.workers[2].cost = 0.5;
    assert_eq!(ask(&mut scene, "a").0, 2);
    scene.workers[2].load = 9;
    assert_eq!(ask(&mut scene, "b").0, 3);
    assert_eq!(ask(&mut scene, "a").0, 2, "where it was");
}

/// Keys are counted by where they are assigned, so that keys whose requests are over count too.
#[test]
fn min_group_counts_assigned_keys() {
    let mut scene = scene(by(AssignmentMode::MinGroup), &[0, 0, 0]);
    for key in 0..99 {
        ask(&mut scene, key);
        // Requests that run say nothing about groups.
        scene.workers[0].load += 1;
    }
    let groups: Vec<u32> = (0..3)
        .map(|at| scene.memory.manual.group(scene.lane(at)))
        .collect();
    assert_eq!(groups, [33, 33, 33]);
}

#[test]
fn a_worker_that_leaves_takes_its_entries_along_at_once() {
    let mut scene = scene(by(AssignmentMode::MinGroup), &[0, 0, 0]);
    let places: Vec<usize> = (0..90).map(|key| ask(&mut scene, key).0).collect();
    let gone = scene.workers[1].key.clone();
    scene.memory.retain(|worker| *worker != gone);
    assert_eq!(scene.memory.manual.len(), 60);
    scene.workers[1].here = false;
    for (key, place) in places.iter().enumerate() {
        if *place != 1 {
            assert_eq!(ask(&mut scene, key), (*place, "occupied_hit"));
        }
    }
    // Another worker on the same place begins with no keys.
    scene.workers[1].key = WorkerKey::new("http://new:1");
    scene.workers[1].here = true;
    assert_eq!(scene.memory.manual.group(scene.lane(1)), 0);
    let orphan = places.iter().position(|place| *place == 1).unwrap();
    assert_eq!(ask(&mut scene, orphan), (1, "vacant"));
}

#[test]
fn a_key_that_was_idle_too_long_is_forgotten() {
    let options = Manual {
        max_idle: Millis::secs(60),
        eviction_interval: Millis::secs(10),
        ..by(AssignmentMode::MinGroup)
    };
    let mut scene = scene(options, &[0, 0]);
    for key in 0..40 {
        ask(&mut scene, key);
    }
    scene.now += Duration::from_secs(50);
    ask(&mut scene, 0);
    // The time of all but one is over; the next pick finds out.
    scene.now += Duration::from_secs(11);
    assert_eq!(ask(&mut scene, 1).1, "vacant");
    assert_eq!(scene.memory.manual.len(), 2);
    assert_eq!(ask(&mut scene, 0).1, "occupied_hit");
}

#[test]
fn an_expired_key_is_vacant_before_any_sweep() {
    let options = Manual {
        max_idle: Millis::secs(1),
        eviction_interval: Millis::secs(3600),
        ..Manual::default()
    };
    let mut scene = scene(options, &[0, 0]);
    ask(&mut scene, "k");
    scene.now += Duration::from_secs(2);
    scene.mode = Mode::Peek;
    assert_eq!(ask(&mut scene, "k").1, "vacant");
    assert_eq!(scene.memory.manual.len(), 1);
}

#[test]
fn sweeping_is_spread_over_picks() {
    let options = Manual {
        max_idle: Millis::secs(60),
        eviction_interval: Millis::secs(10),
        ..Manual::default()
    };
    let mut scene = scene(options, &[0, 0]);
    for key in 0..1000 {
        ask(&mut scene, key);
    }
    scene.now += Duration::from_secs(100);
    ask(&mut scene, "new");
    let left = scene.memory.manual.len();
    assert!((800..1000).contains(&left), "{left}");
    for _ in 0..20 {
        ask(&mut scene, "new");
    }
    assert_eq!(scene.memory.manual.len(), 1);
}

#[test]
fn above_max_keys_the_longest_idle_go_at_once() {
    let options = Manual {
        max_keys: 3,
        ..Manual::default()
    };
    let mut scene = scene(options, &[0, 0]);
    for key in ["a", "b", "c", "a", "d"] {
        scene.now += Duration::from_millis(1);
        ask(&mut scene, key);
    }
    assert_eq!(scene.memory.manual.len(), 3);
    scene.mode = Mode::Peek;
    let reasons = ["a", "b", "c", "d"].map(|key| ask(&mut scene, key).1);
    assert_eq!(
        reasons,
        ["occupied_hit", "vacant", "occupied_hit", "occupied_hit"]
    );
}

#[test]
fn fewer_max_keys_take_effect() {
    let mut scene = scene(Manual::default(), &[0, 0]);
    for key in 0..500 {
        ask(&mut scene, key);
    }
    scene.leg.policy = Policy::Manual(Manual {
        max_keys: 10,
        ..Manual::default()
    });
    for _ in 0..10 {
        ask(&mut scene, 0);
    }
    assert_eq!(scene.memory.manual.len(), 10);
}

#[test]
fn looking_stores_nothing_and_sees_what_is_stored() {
    let mut scene = scene(Manual::default(), &[0; 4]);
    scene.mode = Mode::Peek;
    assert_eq!(ask(&mut scene, "k").1, "vacant");
    assert_eq!(scene.memory.manual.len(), 0);
    scene.mode = Mode::Take;
    let (index, _) = ask(&mut scene, "k");
    scene.mode = Mode::Peek;
    assert_eq!(ask(&mut scene, "k"), (index, "occupied_hit"));
    scene.workers[index].here = false;
    assert_eq!(ask(&mut scene, "k").1, "occupied_miss");
    scene.workers[index].here = true;
    assert_eq!(ask(&mut scene, "k"), (index, "occupied_hit"));
}

#[test]
fn the_legs_of_a_pair_have_their_own_names() {
    let names = [Role::Regular, Role::Prefill, Role::Decode].map(|role| name(role, "k"));
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
    assert_eq!(name(Role::Prefill, "k"), name(Role::Regular, "prefill:k"));
}

#[test]
fn a_sticky_key_is_placed_by_the_policy_and_stays() {
    let mut scene = Scene::of(Policy::LeastLoad(LeastLoad::default()), &[5, 1, 5]);
    scene.leg.sticky = true;
    assert_eq!(ask(&mut scene, "k"), (1, "lightest"));
    scene.workers[1].load = 50;
    assert_eq!(ask(&mut scene, "k"), (1, STICKY));
    // Without a key, and with another, the policy decides.
    scene.routing_key = None;
    assert_ne!(scene.pick().index, 1);
    assert_ne!(ask(&mut scene, "other").0, 1);
    scene.workers[1].here = false;
    let (next, reason) = ask(&mut scene, "k");
    assert_eq!(reason, "lightest");
    scene.workers[1].here = true;
    assert_eq!(ask(&mut scene, "k"), (next, STICKY));
    assert_eq!(
        (scene.memory.sticky.len(), scene.memory.manual.len()),
        (2, 0)
    );
    scene.leg.sticky = false;
    scene.workers[next].load = 99;
    assert_ne!(ask(&mut scene, "k").0, next);
}

#[test]
fn stickiness_does_not_touch_policies_that_have_keys_of_their_own() {
    for policy in [Policy::Manual(Manual::default()), Policy::ConsistentHashing] {
        let mut scene = Scene::of(policy, &[0; 3]);
        scene.leg.sticky = true;
        ask(&mut scene, "k");
        assert_eq!(scene.memory.sticky.len(), 0);
    }
}

/// Eight threads ask for the same new keys at the same time.
#[test]
fn first_requests_of_a_key_agree_however_many_come_at_once() {
    const THREADS: usize = 8;
    const KEYS: usize = 400;
    for sticky in [false, true] {
        let keys: Vec<WorkerKey> = (0..16)
            .map(|at| WorkerKey::new(&format!("http://w{at:02}:1")))
            .collect();
        let leg = Leg {
            role: Role::Regular,
            candidates: Vec::new(),
            policy: if sticky {
                Policy::Random
            } else {
                Policy::Manual(by(AssignmentMode::Random))
            },
            ring: None,
            sticky,
        };
        let memory = policy::Memory::default();
        let candidates: Vec<Candidate<'_>> = keys
            .iter()
            .zip(0..)
            .map(|(key, ix)| Candidate {
                ix: WorkerIx(ix),
                key,
                lane: memory.enrol(key),
                load: 0,
                processed: 0,
                pending_prefill: 0,
                prefill_rate: None,
                cost: 1.0,
                engine: None,
            })
            .collect();
        let (headers, fields, body) = (HeaderMap::new(), Fields::default(), [Bytes::new()]);
        let now = clock::now();
        let barrier = Barrier::new(THREADS);
        let pick = |key: &str, rng: &mut fastrand::Rng| {
            let ask = Ask {
                leg: &leg,
                memory: &memory,
                candidates: &candidates,
                hint: Hint {
                    prompt: Prompt::new(Endpoint::Chat, &body, &fields),
                    model: "m",
                    headers: &headers,
                    routing_key: Some(key),
                    tokens: None,
                },
                mode: Mode::Take,
                now,
                notes: None,
            };
            policy::pick(&ask, rng).unwrap().index
        };
        let run = |seed: usize| {
            let mut rng = fastrand::Rng::with_seed(seed as u64);
            let one = |key: usize| {
                barrier.wait();
                pick(&key.to_string(), &mut rng)
            };
            (0..KEYS).map(one).collect::<Vec<usize>>()
        };
        let seen: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = (0..THREADS)
                .map(|seed| scope.spawn(move || run(seed)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|thread| *thread == seen[0]), "{sticky}");
        let stored = if sticky {
            &memory.sticky
        } else {
            &memory.manual
        };
        assert_eq!(stored.len(), KEYS);
        let grouped: u32 = candidates.iter().map(|w| stored.group(w.lane)).sum();
        assert_eq!(grouped, u32::try_from(KEYS).unwrap());

        // A request that still sees who has left chooses among them and leaves nothing behind, least
        // of all with those who have their places now.
        memory.retain(|_| false);
        let next = memory.enrol(&WorkerKey::new("http://next:1"));
        let mut rng = fastrand::Rng::with_seed(1);
        (0..100).for_each(|key| assert!(pick(&format!("late-{key}"), &mut rng) < 16));
        assert_eq!((stored.len(), stored.group(next)), (0, 0), "{sticky}");
    }
}
