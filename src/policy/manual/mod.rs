//! `manual`: the worker that the routing key was assigned to. Sticky sessions are the same in front
//! of another policy.

mod keys;
mod shard;

#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use self::keys::{Keys, Known};
use self::shard::Name;
use super::seat::least;
use super::{Ask, Lane, Pick, Refused};
use crate::config::spec::{AssignmentMode, Manual};
use crate::plan::Role;

/// Reason of a pick that the routing key decided in front of another policy.
pub(super) const STICKY: &str = "sticky";

/// Which key is where. Keys are kept as hashes. Takes no memory until the first key comes.
#[derive(Debug, Default)]
pub(super) struct Memory(OnceLock<Box<Keys>>);

impl Memory {
    pub(super) fn leave(&self, lane: Lane) {
        if let Some(keys) = self.0.get() {
            keys.leave(lane);
        }
    }

    /// Keys that are remembered.
    pub(super) fn len(&self) -> usize {
        self.0.get().map_or(0, |keys| keys.len())
    }

    /// Keys that are assigned to the worker at `lane`.
    pub(super) fn group(&self, lane: Lane) -> u32 {
        self.0.get().map_or(0, |keys| keys.group(lane))
    }

    fn keys(&self, ask: &Ask<'_>) -> &Keys {
        self.0.get_or_init(|| Box::new(Keys::new(ask.now)))
    }
}

pub(super) fn pick(ask: &Ask<'_>, options: &Manual, rng: &mut fastrand::Rng) -> Pick {
    let memory = &ask.memory.manual;
    let by_mode = |rng: &mut fastrand::Rng| by_mode(ask, memory, options.assignment_mode, rng);
    let Some(key) = ask.hint.routing_key else {
        return Pick::of(by_mode(rng), "no_routing_key");
    };
    let name = name(ask.leg.role, key);
    match find(ask, memory, options, name) {
        Known::Hit(index) => Pick::of(index, "occupied_hit"),
        Known::Vacant => {
            let index = by_mode(rng);
            Pick::of(assign(ask, memory, options, name, index), "vacant")
        }
        Known::Missed => {
            let index = by_mode(rng);
            Pick::of(assign(ask, memory, options, name, index), "occupied_miss")
        }
    }
}

/// The worker that the key was assigned to, else the one that `choose` names, which is remembered.
pub(super) fn stick(
    ask: &Ask<'_>,
    rng: &mut fastrand::Rng,
    choose: impl FnOnce(&Ask<'_>, &mut fastrand::Rng) -> Result<Pick, Refused>,
) -> Result<Pick, Refused> {
    let Some(key) = ask.hint.routing_key else {
        return choose(ask, rng);
    };
    let memory = &ask.memory.sticky;
    let options = Manual::default();
    let name = name(ask.leg.role, key);
    if let Known::Hit(index) = find(ask, memory, &options, name) {
        return Ok(Pick::of(index, STICKY));
    }
    let pick = choose(ask, rng)?;
    let index = assign(ask, memory, &options, name, pick.index);
    Ok(if index == pick.index {
        pick
    } else {
        Pick::of(index, STICKY)
    })
}

/// Who has the key. What is to be forgotten goes when the pick is made, not before: it shall be the
/// pick that was foretold.
fn find(ask: &Ask<'_>, memory: &Memory, options: &Manual, name: Name) -> Known {
    if !ask.takes() {
        return memory.0.get().map_or(Known::Vacant, |keys| {
            keys.find(name, options, ask.now, false, |lane| seat(ask, lane))
        });
    }
    let keys = memory.keys(ask);
    let known = keys.find(name, options, ask.now, true, |lane| seat(ask, lane));
    if matches!(known, Known::Hit(_)) {
        keys.tidy(options, ask.now);
    }
    known
}

/// Gives the key to the candidate at `index` and returns who has it, which is somebody else where
/// another request with the same key was faster. Who has left meanwhile, which a request that began
/// earlier may not see, serves it without getting the key: nobody would take it away again.
fn assign(ask: &Ask<'_>, memory: &Memory, options: &Manual, name: Name, index: usize) -> usize {
    let Some(worker) = ask.candidates.get(index).filter(|_| ask.takes()) else {
        return index;
    };
    if ask.memory.lanes.find(worker.key) != Some(worker.lane) {
        return index;
    }
    let keys = memory.keys(ask);
    let other = keys.assign(name, worker.lane, options, ask.now, |lane| seat(ask, lane));
    keys.tidy(options, ask.now);
    other.unwrap_or(index)
}

fn seat(ask: &Ask<'_>, lane: Lane) -> Option<usize> {
    ask.candidates.iter().position(|worker| worker.lane == lane)
}

/// A worker for a key that has none. Ties are broken at random.
fn by_mode(ask: &Ask<'_>, memory: &Memory, mode: AssignmentMode, rng: &mut fastrand::Rng) -> usize {
    match mode {
        AssignmentMode::Random => rng.usize(..ask.candidates.len()),
        AssignmentMode::MinLoad => least(ask.candidates, rng, |index, worker| {
            ask.note(index, "load", worker.weight());
            (worker.weight(), worker.cost)
        }),
        AssignmentMode::MinGroup => {
            let mut fewest = |group: &dyn Fn(Lane) -> u32| {
                least(ask.candidates, rng, |index, worker| {
                    let keys = group(worker.lane);
                    ask.note(index, "keys", f64::from(keys));
                    (keys, worker.cost)
                })
            };
            match memory.0.get() {
                Some(keys) => keys.with_groups(fewest),
                None => fewest(&|_| 0),
            }
        }
    }
}

/// What a key is remembered by. The legs of a pair never mean the same.
fn name(role: Role, key: &str) -> Name {
    let mut hash = blake3::Hasher::new();
    match role {
        Role::Regular => {}
        Role::Prefill => {
            hash.update(b"prefill:");
        }
        Role::Decode => {
            hash.update(b"decode:");
        }
    }
    hash.update(key.as_bytes());
    let hash = hash.finalize();
    hash.as_bytes()
        .first_chunk()
        .map_or(0, |first| Name::from_le_bytes(*first))
}
