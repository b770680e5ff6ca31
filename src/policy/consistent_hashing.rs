//! `consistent_hashing`: the worker that the request names, else the first candidate clockwise of
//! the request's key.

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::seat::Seats;
use super::{Ask, Pick, Refused};
use crate::plan::WorkerKey;

static X_SMG_TARGET_WORKER: HeaderName = HeaderName::from_static("x-smg-target-worker");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

pub(super) fn pick(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> Result<Pick, Refused> {
    if let Some(target) = ask.hint.headers.get(&X_SMG_TARGET_WORKER) {
        let index = find(ask, target).ok_or(Refused::Target)?;
        return Ok(Pick::of(index, "target_worker_hit"));
    }
    let keyed = match (ask.hint.routing_key, implicit_key(ask.hint.headers)) {
        (Some(key), _) => Some((key.as_bytes(), "routing_key_hit")),
        (None, implicit) => implicit.map(|key| (key, "implicit_key_hit")),
    };
    if let Some((key, reason)) = keyed
        && let Some((index, step)) = clockwise(ask, key)
    {
        ask.note(index, "ring_step", step as f64);
        return Ok(Pick::of(index, reason));
    }
    let index = rng.usize(..ask.candidates.len());
    Ok(Pick::of(index, "random_fallback"))
}

/// Whether the request names its worker.
pub(super) fn is_targeted(headers: &HeaderMap) -> bool {
    headers.contains_key(&X_SMG_TARGET_WORKER)
}

/// The first candidate at or after the place of `key`, and how many places lie before its own.
fn clockwise(ask: &Ask<'_>, key: &[u8]) -> Option<(usize, usize)> {
    let seats = Seats::of(ask);
    let ring = ask.leg.ring.as_ref()?;
    ring.walk(key)
        .enumerate()
        .find_map(|(step, ix)| Some((seats.find(ix)?, step)))
}

/// What stands for a client that gives no routing key. It is hashed, never kept.
fn implicit_key(headers: &HeaderMap) -> Option<&[u8]> {
    [&AUTHORIZATION, &X_FORWARDED_FOR, &COOKIE]
        .into_iter()
        .filter_map(|name| headers.get(name))
        .map(HeaderValue::as_bytes)
        .find(|value| !value.is_empty())
}

/// The candidate that `target` means: its position, its opaque id, or its URL.
fn find(ask: &Ask<'_>, target: &HeaderValue) -> Option<usize> {
    let target = target.to_str().ok()?.trim();
    if !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_digit()) {
        let index: usize = target.parse().ok()?;
        return (index < ask.candidates.len()).then_some(index);
    }
    let id = Uuid::try_parse(target).or_else(|error| {
        // A URL is looked up by the id that follows from it: the ring knows everybody by id.
        if target.contains("://") {
            Ok(WorkerKey::named(target).id())
        } else {
            Err(error)
        }
    });
    let ring = ask.leg.ring.as_ref()?;
    let seats = Seats::of(ask);
    ring.of_id(id.ok()?).find_map(|ix| seats.find(ix))
}

#[cfg(test)]
mod tests {
    use crate::config::spec::Policy;
    use crate::policy::scene::Scene;
    use crate::policy::{Mode, Refused};

    fn scene(count: usize) -> Scene {
        Scene::of(Policy::ConsistentHashing, &vec![0; count])
    }

    fn with(scene: &mut Scene, name: &'static str, value: &str) {
        scene.headers.insert(name, value.parse().unwrap());
    }

    fn target(scene: &mut Scene, value: &str) -> Result<usize, Refused> {
        with(scene, "x-smg-target-worker", value);
        scene.try_pick().map(|pick| pick.index)
    }

    #[test]
    fn the_target_is_a_position_an_id_or_a_url() {
        let mut scene = scene(3);
        let id = scene.workers[1].key.id();
        for named in [
            "1",
            "01",
            &id.to_string(),
            &id.to_string().to_uppercase(),
            &id.simple().to_string(),
            "http://w01:1",
            "http://w01:1/",
            "HTTP://W01:1",
        ] {
            assert_eq!(target(&mut scene, named), Ok(1), "{named}");
        }
        assert_eq!(scene.pick().reason, "target_worker_hit");
    }

    #[test]
    fn a_target_that_is_no_candidate_is_refused() {
        let mut scene = scene(3);
        scene.workers[1].here = false;
        let gone = scene.workers[1].key.clone();
        for named in [
            "2",
            "99999999999999999999999",
            "-1",
            "",
            &gone.id().to_string(),
            gone.as_str(),
            "http://other:1",
            "w01",
        ] {
            assert_eq!(target(&mut scene, named), Err(Refused::Target), "{named}");
        }
        // Positions are those among the candidates.
        assert_eq!(target(&mut scene, "1"), Ok(2));
    }

    #[test]
    fn keys_are_looked_at_in_order() {
        let mut scene = scene(16);
        assert_eq!(scene.pick().reason, "random_fallback");
        let mut places = Vec::new();
        for (name, value) in [
            ("cookie", "a=b"),
            ("x-forwarded-for", "192.0.2.1"),
            ("authorization", "Bearer k"),
        ] {
            with(&mut scene, name, value);
            let pick = scene.pick();
            assert_eq!(pick.reason, "implicit_key_hit");
            places.push(pick.index);
            assert_eq!(scene.pick(), pick, "{name}");
        }
        scene.routing_key = Some("session".to_owned());
        assert_eq!(scene.pick().reason, "routing_key_hit");
        let with_key = scene.pick();
        scene.headers.clear();
        assert_eq!(scene.pick(), with_key, "the routing key alone decides");
        // The value of a header is a key like any other.
        scene.routing_key = Some("Bearer k".to_owned());
        assert_eq!(scene.pick().index, places[2]);
        scene.routing_key = None;
        with(&mut scene, "authorization", "");
        assert_eq!(scene.pick().reason, "random_fallback");
    }

    #[test]
    fn workers_that_are_not_there_hand_on_their_keys_only() {
        let mut scene = scene(8);
        let mut before = Vec::new();
        for key in 0..200 {
            scene.routing_key = Some(key.to_string());
            before.push(scene.pick().index);
        }
        scene.workers[3].here = false;
        for (key, before) in before.iter().enumerate() {
            scene.routing_key = Some(key.to_string());
            let after = scene.pick().index;
            if *before == 3 {
                assert_ne!(after, 3);
            } else {
                assert_eq!(after, *before);
            }
        }
    }

    #[test]
    fn looking_is_the_same_as_taking() {
        let mut scene = scene(8);
        scene.routing_key = Some("k".to_owned());
        let taken = scene.pick();
        scene.mode = Mode::Peek;
        assert_eq!(scene.pick(), taken);
    }
}
