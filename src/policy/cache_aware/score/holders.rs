//! The workers that were sent one block: two in place, more in a list, many in a table by lane.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::clock::Generation;

/// Pairs that stand in place.
const FEW: usize = 2;

/// A list of more than this many turns into a table once it is an eighth of its length.
const LIST: usize = 16;

/// A worker and the generation in which it last used the block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    /// The worker's lane.
    pub(super) lane: u16,
    /// When.
    pub(super) at: Generation,
}

impl Pair {
    /// 0 is no pair, since no generation is 0.
    const fn pack(self) -> u32 {
        (self.lane as u32) << 16 | self.at as u32
    }

    const fn unpack(word: u32) -> Option<Self> {
        match (word & 0xffff) as Generation {
            0 => None,
            at => Some(Self {
                lane: (word >> 16) as u16,
                at,
            }),
        }
    }
}

/// The holders of one block.
#[derive(Debug, Default)]
pub(super) struct Holders {
    few: [AtomicU32; FEW],
    /// Place in [`Spilled`] plus one.
    more: u32,
}

/// The sets of one shard that do not stand in place.
#[derive(Debug, Default)]
pub(super) struct Spilled {
    sets: Vec<Set>,
    free: Vec<u32>,
    /// Bytes of the sets' contents.
    bytes: usize,
}

#[derive(Debug)]
enum Set {
    List(Vec<AtomicU32>),
    Table { at: Vec<AtomicU16>, count: usize },
}

impl Spilled {
    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
            + self.sets.capacity() * size_of::<Set>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn get(&self, more: u32) -> Option<&Set> {
        self.sets.get((more as usize).checked_sub(1)?)
    }

    fn get_mut(&mut self, more: u32) -> Option<&mut Set> {
        self.sets.get_mut((more as usize).checked_sub(1)?)
    }

    /// A new, empty set; `None` when there are more than can be numbered.
    fn open(&mut self) -> Option<u32> {
        if let Some(place) = self.free.pop() {
            return Some(place + 1);
        }
        let more = u32::try_from(self.sets.len() + 1).ok()?;
        self.sets.push(Set::List(Vec::new()));
        Some(more)
    }

    fn close(&mut self, more: u32) {
        if let Some(set) = self.get_mut(more) {
            let gone = std::mem::replace(set, Set::List(Vec::new()));
            self.bytes -= gone.bytes();
            self.free.push(more - 1);
        }
    }

    fn add(&mut self, more: u32, pair: Pair) {
        let Some(set) = self.get_mut(more) else {
            return;
        };
        let before = set.bytes();
        set.add(pair);
        let after = set.bytes();
        self.bytes = self.bytes + after - before;
    }
}

impl Set {
    fn bytes(&self) -> usize {
        match self {
            Self::List(list) => list.capacity() * size_of::<AtomicU32>(),
            Self::Table { at, .. } => at.capacity() * size_of::<AtomicU16>(),
        }
    }

    fn add(&mut self, pair: Pair) {
        if let Self::List(list) = self {
            let highest = list
                .iter()
                .filter_map(|word| Pair::unpack(word.load(Ordering::Relaxed)))
                .map(|pair| usize::from(pair.lane))
                .fold(usize::from(pair.lane), usize::max);
            if list.len() < LIST || list.len() * 8 <= highest {
                if list.len() == list.capacity() {
                    list.reserve_exact((list.len() / 2).max(6));
                }
                list.push(AtomicU32::new(pair.pack()));
                return;
            }
            let mut at: Vec<AtomicU16> = Vec::new();
            at.resize_with((highest + 1).next_multiple_of(32), AtomicU16::default);
            for pair in list
                .iter()
                .filter_map(|word| Pair::unpack(word.load(Ordering::Relaxed)))
            {
                if let Some(place) = at.get_mut(usize::from(pair.lane)) {
                    *place.get_mut() = pair.at;
                }
            }
            *self = Self::Table {
                at,
                count: list.len(),
            };
        }
        if let Self::Table { at, count } = self {
            let lane = usize::from(pair.lane);
            if lane >= at.len() {
                at.reserve_exact((lane + 1).next_multiple_of(32) - at.len());
                at.resize_with((lane + 1).next_multiple_of(32), AtomicU16::default);
            }
            if let Some(place) = at.get_mut(lane) {
                *place.get_mut() = pair.at;
                *count += 1;
            }
        }
    }
}

impl Holders {
    /// How many there are.
    pub(super) fn count(&self, spilled: &Spilled) -> usize {
        match spilled.get(self.more) {
            None => self
                .few
                .iter()
                .filter(|word| word.load(Ordering::Relaxed) != 0)
                .count(),
            Some(Set::List(list)) => list.len(),
            Some(Set::Table { count, .. }) => *count,
        }
    }

    /// Calls `each` with every one.
    pub(super) fn each(&self, spilled: &Spilled, mut each: impl FnMut(u16, Generation)) {
        let words = match spilled.get(self.more) {
            None => &self.few[..],
            Some(Set::List(list)) => list,
            Some(Set::Table { at, .. }) => {
                for (lane, at) in (0..=u16::MAX).zip(at) {
                    match at.load(Ordering::Relaxed) {
                        0 => {}
                        at => each(lane, at),
                    }
                }
                return;
            }
        };
        for pair in words
            .iter()
            .filter_map(|word| Pair::unpack(word.load(Ordering::Relaxed)))
        {
            each(pair.lane, pair.at);
        }
    }

    /// When `lane` used the block last.
    pub(super) fn get(&self, spilled: &Spilled, lane: u16) -> Option<Generation> {
        match spilled.get(self.more) {
            None => get(&self.few, lane).map(|(_, at)| at),
            Some(Set::List(list)) => get(list, lane).map(|(_, at)| at),
            Some(Set::Table { at, .. }) => {
                let at = at.get(usize::from(lane))?.load(Ordering::Relaxed);
                (at != 0).then_some(at)
            }
        }
    }

    /// `lane` uses the block in generation `now`; returns when it did last. A lane that is no
    /// holder stays none.
    pub(super) fn swap(&self, spilled: &Spilled, lane: u16, now: Generation) -> Option<Generation> {
        let pairs = match spilled.get(self.more) {
            None => &self.few[..],
            Some(Set::List(list)) => list,
            Some(Set::Table { at, .. }) => {
                let place = at.get(usize::from(lane))?;
                if place.load(Ordering::Relaxed) == 0 {
                    return None;
                }
                return Some(place.swap(now, Ordering::Relaxed));
            }
        };
        let (word, _) = get(pairs, lane)?;
        let before = word.swap(Pair { lane, at: now }.pack(), Ordering::Relaxed);
        Pair::unpack(before).map(|pair| pair.at)
    }

    /// Adds a holder that is none yet.
    pub(super) fn add(&mut self, spilled: &mut Spilled, pair: Pair) {
        if self.more == 0 {
            for place in &mut self.few {
                if *place.get_mut() == 0 {
                    *place.get_mut() = pair.pack();
                    return;
                }
            }
            let Some(more) = spilled.open() else { return };
            for word in &self.few {
                if let Some(pair) = Pair::unpack(word.load(Ordering::Relaxed)) {
                    spilled.add(more, pair);
                }
            }
            self.more = more;
        }
        spilled.add(self.more, pair);
    }

    /// Removes `lane`; returns whether nobody is left.
    pub(super) fn remove(&mut self, spilled: &mut Spilled, lane: u16) -> bool {
        match spilled.get_mut(self.more) {
            None => {
                for word in &mut self.few {
                    if Pair::unpack(*word.get_mut()).is_some_and(|pair| pair.lane == lane) {
                        *word.get_mut() = 0;
                    }
                }
            }
            Some(Set::List(list)) => list.retain_mut(|word| {
                Pair::unpack(*word.get_mut()).is_some_and(|pair| pair.lane != lane)
            }),
            Some(Set::Table { at, count }) => {
                if let Some(place) = at.get_mut(usize::from(lane))
                    && std::mem::take(place.get_mut()) != 0
                {
                    *count -= 1;
                }
            }
        }
        let none = self.count(spilled) == 0;
        if none && self.more != 0 {
            spilled.close(std::mem::take(&mut self.more));
            self.few = Default::default();
        }
        none
    }

    /// Gives back what does not stand in place.
    pub(super) fn free(self, spilled: &mut Spilled) {
        if self.more != 0 {
            spilled.close(self.more);
        }
    }
}

fn get(pairs: &[AtomicU32], lane: u16) -> Option<(&AtomicU32, Generation)> {
    pairs.iter().find_map(|word| {
        let pair = Pair::unpack(word.load(Ordering::Relaxed))?;
        (pair.lane == lane).then_some((word, pair.at))
    })
}
