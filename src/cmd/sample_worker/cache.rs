//! The prefix cache: block hashes in order of use, bounded.
//!
//! Invariant: the blocks of a prompt are touched from its end to its start, so the order of
//! eviction takes ends before the prefixes that they hang on.

use std::collections::HashMap;

const NONE: u32 = u32::MAX;

/// An LRU set of block hashes.
#[derive(Debug)]
pub(super) struct Cache {
    capacity: usize,
    places: HashMap<u64, u32, ahash::RandomState>,
    slots: Vec<Slot>,
    newest: u32,
    oldest: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    block: u64,
    newer: u32,
    older: u32,
}

impl Cache {
    /// A cache of at most `capacity` blocks.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.min(NONE as usize - 1),
            places: HashMap::default(),
            slots: Vec::new(),
            newest: NONE,
            oldest: NONE,
        }
    }

    /// Number of leading `blocks` that the cache holds; afterwards it holds all that fit.
    pub(super) fn serve(&mut self, blocks: &[u64]) -> usize {
        let held = blocks
            .iter()
            .take_while(|block| self.places.contains_key(block))
            .count();
        for &block in blocks.iter().take(self.capacity).rev() {
            self.touch(block);
        }
        held
    }

    /// Blocks held.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    fn touch(&mut self, block: u64) {
        if let Some(&place) = self.places.get(&block) {
            self.unlink(place);
            self.link(place);
            return;
        }
        let place = if self.slots.len() < self.capacity {
            self.slots.push(Slot {
                block,
                newer: NONE,
                older: NONE,
            });
            (self.slots.len() - 1) as u32
        } else {
            let place = self.oldest;
            self.unlink(place);
            self.places.remove(&self.slots[place as usize].block);
            self.slots[place as usize].block = block;
            place
        };
        self.places.insert(block, place);
        self.link(place);
    }

    fn link(&mut self, place: u32) {
        let older = self.newest;
        let slot = &mut self.slots[place as usize];
        slot.newer = NONE;
        slot.older = older;
        match older {
            NONE => self.oldest = place,
            older => self.slots[older as usize].newer = place,
        }
        self.newest = place;
    }

    fn unlink(&mut self, place: u32) {
        let Slot { newer, older, .. } = self.slots[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_the_leading_blocks_only() {
        let mut cache = Cache::new(8);
        assert_eq!(cache.serve(&[1, 2, 3]), 0);
        assert_eq!(cache.serve(&[1, 2, 9]), 2);
        assert_eq!(cache.serve(&[7, 2, 3]), 0);
        assert_eq!(cache.len(), 5);
    }

    #[test]
    fn the_end_of_the_least_recently_used_goes_first() {
        let mut cache = Cache::new(4);
        cache.serve(&[1, 2]);
        cache.serve(&[11, 12]);
        cache.serve(&[21]);
        assert_eq!(cache.len(), 4);
        assert_eq!(cache.serve(&[1, 2]), 1);
        assert_eq!(cache.serve(&[11, 12]), 1);
    }

    #[test]
    fn a_prompt_longer_than_the_cache_keeps_its_start() {
        let mut cache = Cache::new(2);
        assert_eq!(cache.serve(&[1, 2, 3]), 0);
        assert_eq!(cache.serve(&[1, 2, 3]), 2);
        cache.clear();
        assert_eq!((cache.len(), cache.serve(&[1])), (0, 0));
    }
}
