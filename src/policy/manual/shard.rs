//! A part of the keys: which worker each has, in the order of last use.

use ahash::AHashMap;

use crate::policy::Lane;

/// Name of a key.
pub(super) type Name = u128;

/// Workers of one key, newest first: one, or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lanes {
    pub(super) first: Lane,
    pub(super) second: Option<Lane>,
}

/// No entry.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    name: Name,
    lanes: Lanes,
    used: u64,
    /// Used after this one.
    newer: u32,
    /// Used before this one; for a free place, the next free one.
    older: u32,
}

/// Keys in a list by last use, found by name. Everything but [`leave`](Self::leave) takes constant
/// time.
#[derive(Debug)]
pub(super) struct Shard {
    by_name: AHashMap<Name, u32>,
    entries: Vec<Entry>,
    free: u32,
    newest: u32,
    oldest: u32,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            by_name: AHashMap::new(),
            entries: Vec::new(),
            free: NONE,
            newest: NONE,
            oldest: NONE,
        }
    }
}

impl Shard {
    /// The workers of `name` and when it was last used.
    pub(super) fn get(&self, name: Name) -> Option<(Lanes, u64)> {
        let entry = self.entry(*self.by_name.get(&name)?)?;
        Some((entry.lanes, entry.used))
    }

    /// Notes that `name` is used at `now`.
    pub(super) fn touch(&mut self, name: Name, now: u64) {
        if let Some(&at) = self.by_name.get(&name) {
            self.unlink(at);
            self.link(at, now);
        }
    }

    /// Gives `name`, used at `now`, to these workers, and returns those that it had before.
    pub(super) fn put(&mut self, name: Name, lanes: Lanes, now: u64) -> Option<Lanes> {
        if let Some(&at) = self.by_name.get(&name) {
            let before = self.entry(at).map(|entry| entry.lanes);
            if let Some(entry) = self.entries.get_mut(at as usize) {
                entry.lanes = lanes;
            }
            self.unlink(at);
            self.link(at, now);
            return before;
        }
        let entry = Entry {
            name,
            lanes,
            used: now,
            newer: NONE,
            older: NONE,
        };
        let at = match self.entries.get_mut(self.free as usize) {
            Some(place) => {
                let at = self.free;
                self.free = place.older;
                *place = entry;
                at
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
            }
        };
        self.by_name.insert(name, at);
        self.link(at, now);
        None
    }

    /// When the key that has been idle longest was used.
    pub(super) fn oldest(&self) -> Option<u64> {
        Some(self.entry(self.oldest)?.used)
    }

    /// Forgets the key that has been idle longest, and returns its workers.
    pub(super) fn pop(&mut self) -> Option<Lanes> {
        let entry = *self.entry(self.oldest)?;
        self.remove(self.oldest, entry.name);
        Some(entry.lanes)
    }

    /// Takes `lane` from all keys. Returns how many are forgotten with it, and the worker that each
    /// key goes on with that had it first.
    pub(super) fn leave(&mut self, lane: Lane, mut passed_on: impl FnMut(Option<Lane>)) -> usize {
        let mut gone = Vec::new();
        for (name, at) in &self.by_name {
            let Some(entry) = self.entries.get_mut(*at as usize) else {
                continue;
            };
            if entry.lanes.second == Some(lane) {
                entry.lanes.second = None;
            }
            if entry.lanes.first == lane {
                passed_on(entry.lanes.second);
                match entry.lanes.second.take() {
                    Some(second) => entry.lanes.first = second,
                    None => gone.push((*at, *name)),
                }
            }
        }
        for (at, name) in &gone {
            self.remove(*at, *name);
        }
        gone.len()
    }

    fn entry(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at as usize)
    }

    fn remove(&mut self, at: u32, name: Name) {
        self.unlink(at);
        self.by_name.remove(&name);
        if let Some(entry) = self.entries.get_mut(at as usize) {
            entry.older = self.free;
            self.free = at;
        }
    }

    /// Puts the entry at `at`, which is not in the list, at its newest end.
    fn link(&mut self, at: u32, now: u64) {
        let newest = std::mem::replace(&mut self.newest, at);
        if let Some(entry) = self.entries.get_mut(at as usize) {
            entry.used = now;
            entry.newer = NONE;
            entry.older = newest;
        }
        match self.entries.get_mut(newest as usize) {
            Some(entry) => entry.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(&Entry { newer, older, .. }) = self.entry(at) else {
            return;
        };
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(index: u16) -> Lane {
        Lane { index, turn: 0 }
    }

    fn lanes(first: u16, second: Option<u16>) -> Lanes {
        Lanes {
            first: lane(first),
            second: second.map(lane),
        }
    }

    #[test]
    fn a_worker_that_leaves_hands_on_or_takes_its_keys_along() {
        let mut shard = Shard::default();
        shard.put(1, lanes(0, None), 1);
        shard.put(2, lanes(0, Some(1)), 2);
        shard.put(3, lanes(1, Some(0)), 3);
        let mut passed = Vec::new();
        assert_eq!(shard.leave(lane(0), |to| passed.push(to)), 1);
        passed.sort();
        assert_eq!(passed, [None, Some(lane(1))]);
        assert_eq!(shard.get(1), None);
        assert_eq!(shard.get(2), Some((lanes(1, None), 2)));
        assert_eq!(shard.get(3), Some((lanes(1, None), 3)));
        assert_eq!(shard.pop(), Some(lanes(1, None)));
        assert_eq!(shard.oldest(), Some(3));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Against a list that is searched from its beginning.
        #[test]
        fn it_is_a_list_by_last_use(steps in prop::collection::vec((0..4, 0..12_u128), 0..200)) {
            let mut shard = Shard::default();
            let mut model: Vec<(Name, u64)> = Vec::new();
            for (now, (what, name)) in (0..).zip(steps) {
                let known = model.iter().position(|(other, _)| *other == name);
                match what {
                    0 => {
                        shard.touch(name, now);
                        if let Some(at) = known {
                            model.remove(at);
                            model.push((name, now));
                        }
                    }
                    1 | 2 => {
                        let before = shard.put(name, lanes(1, None), now);
                        prop_assert_eq!(before.is_some(), known.is_some());
                        if let Some(at) = known {
                            model.remove(at);
                        }
                        model.push((name, now));
                    }
                    _ => {
                        prop_assert_eq!(shard.pop().is_some(), !model.is_empty());
                        if !model.is_empty() {
                            model.remove(0);
                        }
                    }
                }
                prop_assert_eq!(shard.oldest(), model.first().map(|(_, used)| *used));
                for (name, used) in &model {
                    prop_assert_eq!(shard.get(*name).map(|(_, used)| used), Some(*used));
                }
                prop_assert_eq!(shard.by_name.len(), model.len());
                prop_assert!(shard.entries.len() <= 12);
            }
        }
    }
}
