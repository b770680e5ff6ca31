use std::time::Duration;

use super::*;
use crate::config::spec::Policy;
use crate::plan::WorkerKey;
use crate::policy::scene::Scene;
use crate::policy::{Mode, Notes};

/// Never unbalanced, unless a test says so.
fn scene(workers: usize) -> Scene {
    let options = Bucket {
        balance_abs_threshold: u64::MAX,
        ..Bucket::default()
    };
    Scene::of(Policy::Bucket(options), &vec![0; workers])
}

fn options(scene: &mut Scene) -> &mut Bucket {
    match &mut scene.leg.policy {
        Policy::Bucket(options) => options,
        other => panic!("{other:?}"),
    }
}

/// A prompt whose text, as the policy counts it, is this long.
fn long(scene: &mut Scene, length: u64) {
    scene.say("");
    let empty = measure(scene);
    let missing = usize::try_from(length - empty).unwrap();
    scene.say(&"ä".repeat(missing));
    assert_eq!(measure(scene), length);
}

fn measure(scene: &Scene) -> u64 {
    let endpoint = crate::api::Endpoint::Chat;
    characters(&Prompt::new(endpoint, &scene.body, &scene.fields))
}

fn ask(scene: &mut Scene, length: u64) -> (usize, &'static str) {
    long(scene, length);
    let pick = scene.pick();
    (pick.index, pick.reason)
}

#[test]
fn lengths_go_to_their_bucket() {
    let mut scene = scene(4);
    for (length, worker) in [
        (100, 0),
        (1023, 0),
        (1024, 1),
        (3071, 2),
        (3072, 3),
        (90_000, 3),
    ] {
        assert_eq!(ask(&mut scene, length), (worker, "bucket"), "{length}");
    }
}

#[test]
fn buckets_are_those_of_all_workers_whether_ready_or_not() {
    let mut scene = scene(4);
    scene.lane(0);
    for at in 0..4 {
        scene.lane(at);
    }
    scene.workers[0].here = false;
    assert_eq!(ask(&mut scene, 3072), (3, "bucket"));
    assert_eq!(ask(&mut scene, 100), (1, "nearest_bucket"));
}

#[test]
fn of_two_that_are_as_near_the_one_with_fewer_characters_is_taken() {
    let mut scene = scene(3);
    assert_eq!(ask(&mut scene, 100), (0, "bucket"));
    scene.workers[1].here = false;
    assert_eq!(ask(&mut scene, 2000), (2, "nearest_bucket"));
    assert_eq!(ask(&mut scene, 2000), (0, "nearest_bucket"));
}

#[test]
fn without_any_bucket_the_fewest_characters_decide() {
    let mut state = State::default();
    let mut scene = scene(2);
    scene.lane(0);
    state.members = Some(scene.memory.lanes.changes());
    // Nobody was given a bucket, as when a worker of an older snapshot is asked for.
    assert_eq!(state.bucket_of(scene.lane(0)), None);
    let stale = Lane { index: 0, turn: 9 };
    state.buckets = vec![Some((scene.lane(0), 0))];
    assert_eq!(state.bucket_of(stale), None);
    assert_eq!(state.bucket_of(scene.lane(0)), Some(0));
    *scene.memory.bucket.0.lock() = state;
    scene.memory.bucket.0.lock().buckets.clear();
    scene.lane(1);
    scene.memory.bucket.0.lock().members = Some(scene.memory.lanes.changes());
    let (first, reason) = ask(&mut scene, 100);
    assert_eq!(reason, "fewest_characters");
    assert_eq!(ask(&mut scene, 100), (1 - first, "fewest_characters"));
}

#[test]
fn unbalanced_the_fewest_characters_decide() {
    let mut scene = scene(2);
    *options(&mut scene) = Bucket::default();
    assert_eq!(ask(&mut scene, 100), (0, "bucket"));
    assert_eq!(ask(&mut scene, 100), (1, "unbalanced"));
    // Equal again: by bucket, and then 200 against 100 is too much again.
    assert_eq!(ask(&mut scene, 100), (0, "bucket"));
    assert_eq!(ask(&mut scene, 100), (1, "unbalanced"));
    scene.workers[0].cost = 0.1;
    assert_eq!(ask(&mut scene, 3000), (0, "unbalanced"), "times cost");
}

#[test]
fn what_was_routed_before_the_last_interval_does_not_count() {
    let mut scene = scene(2);
    *options(&mut scene) = Bucket::default();
    assert_eq!(ask(&mut scene, 1000), (0, "bucket"));
    scene.now += Duration::from_secs(4);
    assert_eq!(ask(&mut scene, 500), (1, "unbalanced"));
    scene.now += Duration::from_secs(2);
    // 0 against 500.
    assert_eq!(ask(&mut scene, 3000).0, 0);
}

#[test]
fn the_buckets_follow_the_last_interval() {
    let mut scene = scene(2);
    for length in [100, 100, 100, 300] {
        assert_eq!(ask(&mut scene, length), (0, "bucket"));
    }
    scene.now += Duration::from_secs(5);
    // 600 in all, of which the three short ones are half.
    assert_eq!(ask(&mut scene, 101), (1, "bucket"));
    assert_eq!(ask(&mut scene, 100), (0, "bucket"));
}

#[test]
fn members_that_come_and_go_divide_the_lengths_anew() {
    let mut scene = scene(2);
    for length in [8000, 1000] {
        ask(&mut scene, length);
    }
    scene.now += Duration::from_secs(5);
    ask(&mut scene, 100);
    let mut third = scene.workers[1].clone();
    third.key = WorkerKey::new("http://w02:1");
    scene.workers.push(third);
    // 8000 was the greatest: 2666 for each.
    for (length, worker) in [(2600, 0), (2700, 1), (5300, 1), (5400, 2), (400_000, 2)] {
        assert_eq!(ask(&mut scene, length), (worker, "bucket"), "{length}");
    }
    let gone = scene.workers[0].key.clone();
    scene.memory.retain(|worker| *worker != gone);
    scene.workers[0].here = false;
    assert_eq!(ask(&mut scene, 3900), (1, "bucket"));
    assert_eq!(ask(&mut scene, 4000), (2, "bucket"));
}

#[test]
fn looking_changes_nothing() {
    let mut scene = scene(2);
    *options(&mut scene) = Bucket::default();
    scene.mode = Mode::Peek;
    scene.notes = Some(Notes::default());
    for _ in 0..3 {
        assert_eq!(ask(&mut scene, 100), (0, "bucket"));
    }
    let notes = scene.notes.take().unwrap().into_inner();
    assert!(notes.contains(&(0, "bucket_to", 2047.0)), "{notes:?}");
    assert!(notes.contains(&(1, "bucket_from", 2048.0)), "{notes:?}");
    assert!(scene.memory.bucket.0.lock().members.is_none());
    scene.mode = Mode::Take;
    assert_eq!(ask(&mut scene, 100), (0, "bucket"));
    scene.mode = Mode::Peek;
    scene.now += Duration::from_secs(100);
    assert_eq!(ask(&mut scene, 101), (1, "bucket"));
    assert_eq!(ask(&mut scene, 101), (1, "bucket"));
}
