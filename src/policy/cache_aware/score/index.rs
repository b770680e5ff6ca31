//! Which blocks were sent to which workers, and when last.
//!
//! An open table per shard. What is known already is noted with an atomic store under a shared lock;
//! only a block or a holder that is new takes the shard for itself. A shard keeps to its part of the
//! memory by forgetting what nobody has asked for since the hand came by last.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::clock::Generation;
use super::holders::{Holders, Pair, Spilled};

/// Parts that are locked on their own.
const SHARDS: usize = 128;

/// Places of a shard that has just begun.
const FIRST: usize = 16;

/// Blocks by hash.
#[derive(Debug)]
pub(crate) struct Index {
    shards: Box<[RwLock<Shard>]>,
}

/// What was known of a holder before it used the block now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It was not known to have the block.
    Nothing,
    /// It had used it in this generation.
    Used(Generation),
}

impl Default for Index {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }
}

impl Index {
    /// How many workers are known to have been sent `block`, long ago or not; `None` for a block
    /// that nobody knows.
    pub(super) fn holders(&self, block: u64) -> Option<usize> {
        let shard = self.shard(block).read();
        let slot = shard.find(block)?;
        Some(slot.holders.count(&shard.spilled))
    }

    /// Calls `each` with every holder of `block`.
    pub(super) fn each_holder(&self, block: u64, each: impl FnMut(u16, Generation)) {
        let shard = self.shard(block).read();
        if let Some(slot) = shard.find(block) {
            slot.holders.each(&shard.spilled, each);
        }
    }

    /// When the worker at `lane` last used `block`.
    pub(super) fn last_use(&self, block: u64, lane: u16) -> Option<Generation> {
        let shard = self.shard(block).read();
        let slot = shard.find(block)?;
        slot.holders.get(&shard.spilled, lane)
    }

    /// The worker at `lane` uses `block` now. A shard takes no more than `limit` bytes; where there
    /// is no room at all, nothing is noted.
    pub(super) fn touch(&self, block: u64, lane: u16, now: Generation, limit: usize) -> Before {
        let shard = self.shard(block);
        {
            let shard = shard.read();
            if let Some(slot) = shard.find(block)
                && let Some(before) = slot.holders.swap(&shard.spilled, lane, now)
            {
                slot.wanted.store(true, Ordering::Relaxed);
                return Before::Used(before);
            }
        }
        self.insert(block, lane, now, limit)
    }

    /// The same for a block that was unknown a moment ago.
    pub(super) fn insert(&self, block: u64, lane: u16, now: Generation, limit: usize) -> Before {
        let pair = Pair { lane, at: now };
        self.shard(block).write().insert(block, pair, limit)
    }

    /// Forgets the worker at `lane`.
    pub(super) fn forget(&self, lane: u16) {
        for shard in &self.shards {
            shard.write().forget(lane);
        }
    }

    /// Bytes taken, and blocks.
    pub(super) fn size(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(bytes, blocks), shard| {
            let shard = shard.read();
            (bytes + shard.bytes(), blocks + shard.len)
        })
    }

    /// The part of `memory` bytes that each shard may take.
    pub(super) const fn share(memory: usize) -> usize {
        memory / SHARDS
    }

    fn shard(&self, block: u64) -> &RwLock<Shard> {
        // The table inside uses the low bits.
        let at = (block >> 57) as usize % SHARDS;
        self.shards.get(at).unwrap_or(&self.shards[0])
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// 0 where there is none.
    block: u64,
    holders: Holders,
    /// Asked for since the hand came by.
    wanted: AtomicBool,
}

#[derive(Debug, Default)]
struct Shard {
    /// None, or a power of two.
    slots: Vec<Slot>,
    len: usize,
    /// Sets of holders that are too many for a slot.
    spilled: Spilled,
    hand: usize,
}

impl Shard {
    fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.spilled.bytes()
    }

    fn home(&self, block: u64) -> usize {
        block as usize & self.slots.len().wrapping_sub(1)
    }

    fn position(&self, block: u64) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = self.home(block);
        loop {
            let slot = self.slots.get(at)?;
            if slot.block == block {
                return Some(at);
            }
            if slot.block == 0 {
                return None;
            }
            at = (at + 1) & mask;
        }
    }

    fn find(&self, block: u64) -> Option<&Slot> {
        self.position(block).and_then(|at| self.slots.get(at))
    }

    fn insert(&mut self, block: u64, pair: Pair, limit: usize) -> Before {
        let found = self.position(block);
        let at = match found {
            Some(at) => at,
            None => match self.make_room(block, limit) {
                Some(at) => at,
                None => return Before::Nothing,
            },
        };
        let mut before = Before::Nothing;
        if let Some(slot) = self.slots.get_mut(at) {
            if let Some(last) = slot.holders.swap(&self.spilled, pair.lane, pair.at) {
                // Somebody else was faster.
                before = Before::Used(last);
            } else {
                slot.holders.add(&mut self.spilled, pair);
            }
            *slot.wanted.get_mut() = true;
        }
        let mut laps = self.len * 2;
        while self.bytes() > limit && self.len > 0 && laps > 0 {
            self.sweep(limit);
            laps -= 1;
        }
        before
    }

    /// An empty place for `block`, which is counted; `None` where there is no room for any.
    fn make_room(&mut self, block: u64, limit: usize) -> Option<usize> {
        let places = self.slots.len();
        let rest = limit.saturating_sub(self.spilled.bytes());
        if self.len >= places - places / 4 {
            let larger = (places * 2).max(FIRST);
            if larger * size_of::<Slot>() <= rest {
                self.rebuild(larger);
            } else if places == 0 {
                return None;
            } else {
                self.evict();
            }
        }
        let mask = self.slots.len() - 1;
        let mut at = self.home(block);
        while self.slots.get(at)?.block != 0 {
            at = (at + 1) & mask;
        }
        self.slots.get_mut(at)?.block = block;
        self.len += 1;
        Some(at)
    }

    /// Comes back under `limit`: by a smaller table where the table alone is too large.
    fn sweep(&mut self, limit: usize) {
        let places = self.slots.len();
        if places * size_of::<Slot>() <= limit {
            self.evict();
            return;
        }
        let smaller = places / 2;
        if smaller < FIRST {
            *self = Self::default();
            return;
        }
        while self.len > smaller - smaller / 4 {
            self.evict();
        }
        self.rebuild(smaller);
    }

    fn rebuild(&mut self, places: usize) {
        let mut slots = Vec::with_capacity(places);
        slots.resize_with(places, Slot::default);
        let old = std::mem::replace(&mut self.slots, slots);
        self.hand = 0;
        let mask = places - 1;
        for slot in old.into_iter().filter(|slot| slot.block != 0) {
            let mut at = self.home(slot.block);
            while self.slots.get(at).is_some_and(|other| other.block != 0) {
                at = (at + 1) & mask;
            }
            if let Some(place) = self.slots.get_mut(at) {
                *place = slot;
            }
        }
    }

    /// Forgets one block: the next that was not asked for since the hand came by last.
    fn evict(&mut self) {
        if self.len == 0 {
            return;
        }
        let mask = self.slots.len() - 1;
        loop {
            let at = self.hand & mask;
            let Some(slot) = self.slots.get_mut(at) else {
                return;
            };
            if slot.block != 0 && !std::mem::take(slot.wanted.get_mut()) {
                // What moves up into the place is looked at next.
                self.remove(at);
                return;
            }
            self.hand = (at + 1) & mask;
        }
    }

    fn remove(&mut self, at: usize) {
        let mask = self.slots.len() - 1;
        let mut hole = at;
        if let Some(slot) = self.slots.get_mut(hole) {
            std::mem::take(slot).holders.free(&mut self.spilled);
        }
        self.len -= 1;
        let mut next = (hole + 1) & mask;
        while let Some(block) = self.slots.get(next).map(|slot| slot.block)
            && block != 0
        {
            let home = self.home(block);
            // It may move up unless its home lies behind the hole.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.slots.swap(hole, next);
                hole = next;
            }
            next = (next + 1) & mask;
        }
    }

    fn forget(&mut self, lane: u16) {
        let mut at = 0;
        while let Some(slot) = self.slots.get_mut(at) {
            if slot.block != 0 && slot.holders.remove(&mut self.spilled, lane) {
                // What moves up comes from behind; what wraps around was looked at already.
                self.remove(at);
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn hash(n: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes())
    }

    fn holders(index: &Index, block: u64) -> Vec<(u16, Generation)> {
        let mut found = Vec::new();
        index.each_holder(block, |lane, at| found.push((lane, at)));
        found.sort_unstable();
        found
    }

    #[test]
    fn memory_stays_under_its_bound_and_what_is_used_stays() {
        let index = Index::default();
        let bound = 1 << 20;
        let limit = Index::share(bound);
        for n in 0..1_000_000u64 {
            index.touch(hash(n), (n % 8) as u16, 1, limit);
            for hot in 0..4 {
                if n % 16 == hot {
                    index.touch(hash(u64::MAX - hot), (n % 40) as u16, 2, limit);
                }
            }
            if n % 50_000 == 0 {
                assert!(index.size().0 <= bound, "{:?}", index.size());
            }
        }
        let (bytes, blocks) = index.size();
        assert!(bytes <= bound, "{bytes}");
        assert!(blocks > 10_000, "{blocks}");
        for hot in 0..4 {
            assert!(index.holders(hash(u64::MAX - hot)).is_some());
        }
        for n in 1_000_000 - 1000..1_000_000 {
            assert!(index.holders(hash(n)).is_some(), "{n}");
        }
    }

    #[test]
    fn a_smaller_bound_is_kept_at_once() {
        let index = Index::default();
        for n in 0..100_000 {
            index.touch(hash(n), 1, 1, Index::share(64 << 20));
        }
        let bound = 512 << 10;
        for n in 0..20_000 {
            index.touch(hash(n), 2, 1, Index::share(bound));
        }
        assert!(index.size().0 <= bound, "{:?}", index.size());
        let none = Index::default();
        none.touch(hash(1), 1, 1, 8);
        assert_eq!(none.size(), (0, 0));
    }

    #[test]
    fn every_lane_there_is_may_hold_a_block() {
        let index = Index::default();
        for lane in 0..=u16::MAX {
            index.touch(hash(1), lane, 1, Index::share(64 << 20));
        }
        let held = holders(&index, hash(1));
        assert!(held.iter().map(|(lane, _)| *lane).eq(0..=u16::MAX));
    }

    #[test]
    fn threads_agree() {
        let index = Index::default();
        let limit = Index::share(1 << 20);
        std::thread::scope(|scope| {
            for lane in 0..4u16 {
                let index = &index;
                scope.spawn(move || {
                    for round in 1..=20u16 {
                        for n in 0..500 {
                            let before = index.touch(hash(n), lane, round, limit);
                            let expected = match round {
                                1 => Before::Nothing,
                                _ => Before::Used(round - 1),
                            };
                            assert_eq!(before, expected);
                        }
                    }
                });
            }
        });
        for n in 0..500 {
            assert_eq!(
                holders(&index, hash(n)),
                [(0, 20), (1, 20), (2, 20), (3, 20)]
            );
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Touch(u64, u16, Generation),
        Forget(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            50 => (0u64..60, 0u16..70, 1u16..9).prop_map(|(b, l, g)| Step::Touch(b, l, g)),
            1 => (0u16..70).prop_map(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn it_knows_what_a_plain_map_knows(steps in prop::collection::vec(step(), 1..1200)) {
            let index = Index::default();
            let limit = Index::share(64 << 20);
            let mut model: BTreeMap<u64, BTreeMap<u16, Generation>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Touch(block, lane, at) => {
                        let before = model.entry(block).or_default().insert(lane, at);
                        let expected = before.map_or(Before::Nothing, Before::Used);
                        // Few values of the upper bits: the tables inside fill up.
                        let block = hash(block) & (u64::MAX >> 7) | (block % 2) << 57;
                        prop_assert_eq!(index.touch(block, lane, at, limit), expected);
                    }
                    Step::Forget(lane) => {
                        index.forget(lane);
                        model.retain(|_, holders| {
                            holders.remove(&lane);
                            !holders.is_empty()
                        });
                    }
                }
            }
            for (block, expected) in &model {
                let block = hash(*block) & (u64::MAX >> 7) | (block % 2) << 57;
                let expected: Vec<_> = expected.iter().map(|(lane, at)| (*lane, *at)).collect();
                prop_assert_eq!(index.holders(block), Some(expected.len()));
                prop_assert_eq!(holders(&index, block), expected.clone());
                for (lane, at) in expected {
                    prop_assert_eq!(index.last_use(block, lane), Some(at));
                }
            }
            prop_assert_eq!(index.size().1, model.len());
        }
    }
}
