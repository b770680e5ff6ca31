//! `bucket`: by length of the prompt. Each worker has a range of lengths, which follow what comes in,
//! so that long prompts do not wait in front of short ones.

mod bounds;
mod sums;

use std::ops::ControlFlow;
use std::time::Instant;

use parking_lot::Mutex;

use self::bounds::Bounds;
use self::sums::Sums;
use super::seat::least;
use super::{Ask, Candidate, Lane, Pick};
use crate::api::prompt::Prompt;
use crate::config::spec::Bucket;

/// Where the buckets meet, and what was routed.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<State>);

#[derive(Debug, Clone, Default)]
struct State {
    bounds: Bounds,
    sums: Sums,
    adjusted: Option<Instant>,
    /// Whose each bucket is.
    owners: Vec<Lane>,
    /// Bucket of each worker, by the index of its lane.
    buckets: Vec<Option<(Lane, usize)>>,
    /// What the members of the leg were counted as when the buckets were given out.
    members: Option<u64>,
}

impl Memory {
    pub(super) fn leave(&self, lane: Lane) {
        self.0.lock().sums.leave(lane.index);
    }
}

pub(super) fn pick(ask: &Ask<'_>, options: &Bucket, rng: &mut fastrand::Rng) -> Pick {
    let length = characters(&ask.hint.prompt);
    let mut kept = ask.memory.bucket.0.lock();
    if ask.takes() {
        kept.pick(ask, options, length, rng)
    } else {
        kept.clone().pick(ask, options, length, rng)
    }
}

impl State {
    fn pick(
        &mut self,
        ask: &Ask<'_>,
        options: &Bucket,
        length: u64,
        rng: &mut fastrand::Rng,
    ) -> Pick {
        self.enrol(ask);
        self.sums.pass(ask.now, options.adjust_interval.get());
        let adjusted = *self.adjusted.get_or_insert(ask.now);
        if ask.now.saturating_duration_since(adjusted) >= options.adjust_interval.get() {
            self.bounds.adjust();
            self.adjusted = Some(ask.now);
        }
        let pick = self.choose(ask, options, length, rng);
        self.bounds.saw(length);
        if let Some(worker) = ask.candidates.get(pick.index) {
            self.sums.add(worker.lane.index, length);
        }
        pick
    }

    /// Gives every worker of the leg, ready or not, its bucket, in the order of their URLs.
    fn enrol(&mut self, ask: &Ask<'_>) {
        let lanes = &ask.memory.lanes;
        let members = lanes.changes();
        if self.members == Some(members) {
            return;
        }
        self.members = Some(members);
        let lanes = lanes.by_key();
        self.buckets.clear();
        for (bucket, lane) in lanes.iter().enumerate() {
            let at = usize::from(lane.index);
            if self.buckets.len() <= at {
                self.buckets.resize(at + 1, None);
            }
            if let Some(place) = self.buckets.get_mut(at) {
                *place = Some((*lane, bucket));
            }
        }
        self.bounds.rebuild(lanes.len());
        self.owners = lanes;
    }

    fn choose(
        &self,
        ask: &Ask<'_>,
        options: &Bucket,
        length: u64,
        rng: &mut fastrand::Rng,
    ) -> Pick {
        let sum = |worker: &Candidate<'_>| self.sums.of(worker.lane.index) as f64 * worker.cost;
        let (mut least_sum, mut greatest) = (f64::INFINITY, 0.0_f64);
        for (index, worker) in ask.candidates.iter().enumerate() {
            let sum = sum(worker);
            least_sum = least_sum.min(sum);
            greatest = greatest.max(sum);
            ask.note(index, "characters", sum);
        }
        let fewest = |worker: &Candidate<'_>| (sum(worker), worker.cost, worker.processed);
        let unbalanced = greatest - least_sum > options.balance_abs_threshold as f64
            && greatest > options.balance_rel_threshold * least_sum;
        if unbalanced {
            let index = least(ask.candidates, rng, |_, worker| fewest(worker));
            return Pick::of(index, "unbalanced");
        }
        let bucket = self.bounds.find(length);
        self.note_bounds(ask);
        let owner = self.owners.get(bucket);
        let is_owner = |worker: &Candidate<'_>| Some(&worker.lane) == owner;
        if let Some(index) = ask.candidates.iter().position(is_owner) {
            return Pick::of(index, "bucket");
        }
        let index = least(ask.candidates, rng, |_, worker| {
            let own = self.bucket_of(worker.lane);
            let distance = own.map_or(usize::MAX, |own| own.abs_diff(bucket));
            (distance, fewest(worker))
        });
        let chosen = ask.candidates.get(index);
        match chosen.and_then(|worker| self.bucket_of(worker.lane)) {
            Some(_) => Pick::of(index, "nearest_bucket"),
            None => Pick::of(index, "fewest_characters"),
        }
    }

    fn note_bounds(&self, ask: &Ask<'_>) {
        if ask.notes.is_none() {
            return;
        }
        for (index, worker) in ask.candidates.iter().enumerate() {
            if let Some(own) = self.bucket_of(worker.lane) {
                let (from, to) = self.bounds.range(own);
                ask.note(index, "bucket_from", from as f64);
                if let Some(to) = to {
                    ask.note(index, "bucket_to", to as f64);
                }
            }
        }
    }

    fn bucket_of(&self, lane: Lane) -> Option<usize> {
        let (owner, bucket) = (*self.buckets.get(usize::from(lane.index))?)?;
        (owner == lane).then_some(bucket)
    }
}

/// Length of the prompt: each character has one byte that does not continue another.
fn characters(prompt: &Prompt<'_>) -> u64 {
    let mut count = 0;
    prompt.visit(|piece| {
        let begin = piece.iter().map(|byte| u64::from(byte & 0xC0 != 0x80));
        count += begin.sum::<u64>();
        ControlFlow::Continue(())
    });
    count
}

#[cfg(test)]
mod tests;
