//! Every key that a leg remembers, in parts, so that no request waits for long.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::shard::{Lanes, Name, Shard};
use crate::config::spec::Manual;
use crate::policy::Lane;

/// Parts. What grows, grows by one part at a time.
const SHARDS: usize = 64;

/// Keys that one request forgets at most.
const FORGOTTEN_AT_ONCE: usize = 64;

/// When the oldest key of an empty part was used.
const NEVER: u64 = u64::MAX;

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing, or nothing any more.
    Vacant,
    /// It has workers, none of which can be used.
    Missed,
    /// It has a worker: this candidate.
    Hit(usize),
}

/// Keys and their workers.
///
/// Invariant: `count` and `groups` say what the parts hold; each changes while the lock of the part
/// is held.
#[derive(Debug)]
pub(super) struct Keys {
    shards: [Mutex<Shard>; SHARDS],
    /// When the oldest key of each part was used: a copy that is read without its lock.
    oldest: [AtomicU64; SHARDS],
    count: AtomicUsize,
    /// Keys whose first worker has this lane, by its index.
    groups: RwLock<Vec<AtomicU32>>,
    sweep: Mutex<Sweep>,
    /// When the latest sweep ended.
    swept: AtomicU64,
    origin: Instant,
}

/// A look at every part for keys that are idle.
#[derive(Debug, Default)]
struct Sweep {
    next: usize,
}

impl Keys {
    /// No keys. Time is counted from `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            oldest: [const { AtomicU64::new(NEVER) }; SHARDS],
            count: AtomicUsize::new(0),
            groups: RwLock::default(),
            sweep: Mutex::default(),
            swept: AtomicU64::new(0),
            origin: now,
        }
    }

    /// Keys that are remembered.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Keys whose first worker is at `lane`.
    pub(super) fn group(&self, lane: Lane) -> u32 {
        let groups = self.groups.read();
        groups
            .get(usize::from(lane.index))
            .map_or(0, |group| group.load(Ordering::Relaxed))
    }

    /// Calls `look` with a way to ask for [`group`](Self::group) many times.
    pub(super) fn with_groups<R>(&self, look: impl FnOnce(&dyn Fn(Lane) -> u32) -> R) -> R {
        let groups = self.groups.read();
        look(&|lane| {
            groups
                .get(usize::from(lane.index))
                .map_or(0, |group| group.load(Ordering::Relaxed))
        })
    }

    /// The worker of `name`: the first that `seat` finds among the candidates. Where the request
    /// `takes` it, the key has been used.
    pub(super) fn find(
        &self,
        name: Name,
        options: &Manual,
        now: Instant,
        takes: bool,
        seat: impl Fn(Lane) -> Option<usize>,
    ) -> Known {
        let (at, lock) = self.shard(name);
        let now = self.stamp(now);
        let mut shard = lock.lock();
        let known = known(&shard, name, options, now, seat);
        if takes && matches!(known, Known::Hit(_)) {
            shard.touch(name, now);
            self.seen(at, &shard);
        }
        known
    }

    /// Gives `name` to the worker at `lane`, unless somebody was faster: then to the worker that is
    /// returned.
    pub(super) fn assign(
        &self,
        name: Name,
        lane: Lane,
        options: &Manual,
        now: Instant,
        seat: impl Fn(Lane) -> Option<usize>,
    ) -> Option<usize> {
        let (at, lock) = self.shard(name);
        let now = self.stamp(now);
        let mut shard = lock.lock();
        let second = match known(&shard, name, options, now, seat) {
            Known::Hit(seat) => {
                shard.touch(name, now);
                self.seen(at, &shard);
                return Some(seat);
            }
            Known::Missed => shard.get(name).map(|(lanes, _)| lanes.first),
            Known::Vacant => None,
        };
        let lanes = Lanes {
            first: lane,
            second: second.filter(|second| *second != lane),
        };
        match shard.put(name, lanes, now) {
            Some(before) => self.ungroup(before.first),
            None => {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.regroup(lane);
        self.seen(at, &shard);
        None
    }

    /// Forgets what `options` do not allow, a little at a time.
    pub(super) fn tidy(&self, options: &Manual, now: Instant) {
        let mut left = FORGOTTEN_AT_ONCE;
        while self.len() > options.max_keys as usize && left > 0 {
            left -= 1;
            if !self.forget_oldest() {
                break;
            }
        }
        let now = self.stamp(now);
        let swept = self.swept.load(Ordering::Relaxed);
        if now.saturating_sub(swept) < nanos(options.eviction_interval.get()) {
            return;
        }
        // Whoever sweeps already does it for all.
        let Some(mut sweep) = self.sweep.try_lock() else {
            return;
        };
        let idle = nanos(options.max_idle.get());
        while left > 0 {
            let Some(lock) = self.shards.get(sweep.next) else {
                sweep.next = 0;
                self.swept.store(now, Ordering::Relaxed);
                return;
            };
            let is_idle = |used| now.saturating_sub(used) > idle;
            if self.oldest_of(sweep.next).is_some_and(is_idle) {
                let mut shard = lock.lock();
                while left > 0 && shard.oldest().is_some_and(is_idle) {
                    left -= 1;
                    self.pop(&mut shard);
                }
                self.seen(sweep.next, &shard);
            }
            if left > 0 {
                sweep.next += 1;
            }
        }
    }

    /// Takes `lane` from every key.
    pub(super) fn leave(&self, lane: Lane) {
        for (at, lock) in self.shards.iter().enumerate() {
            let mut shard = lock.lock();
            let gone = shard.leave(lane, |next| {
                self.ungroup(lane);
                if let Some(next) = next {
                    self.regroup(next);
                }
            });
            self.count.fetch_sub(gone, Ordering::Relaxed);
            self.seen(at, &shard);
        }
    }

    /// Forgets the key that has been idle longest of all.
    fn forget_oldest(&self) -> bool {
        let used = |at: &usize| self.oldest_of(*at).unwrap_or(NEVER);
        let Some(at) = (0..SHARDS).min_by_key(used) else {
            return false;
        };
        let Some(lock) = self.shards.get(at) else {
            return false;
        };
        let mut shard = lock.lock();
        let popped = self.pop(&mut shard);
        self.seen(at, &shard);
        popped
    }

    fn pop(&self, shard: &mut Shard) -> bool {
        let Some(lanes) = shard.pop() else {
            return false;
        };
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.ungroup(lanes.first);
        true
    }

    /// The part that `name`, a hash, belongs to.
    #[expect(
        clippy::indexing_slicing,
        reason = "the index is taken modulo the number of parts"
    )]
    fn shard(&self, name: Name) -> (usize, &Mutex<Shard>) {
        let at = (name >> 64) as usize % SHARDS;
        (at, &self.shards[at])
    }

    fn oldest_of(&self, at: usize) -> Option<u64> {
        let oldest = self.oldest.get(at)?.load(Ordering::Relaxed);
        (oldest != NEVER).then_some(oldest)
    }

    /// Brings the copy up to date.
    fn seen(&self, at: usize, shard: &Shard) {
        let now = shard.oldest().unwrap_or(NEVER);
        if let Some(copy) = self.oldest.get(at)
            && copy.load(Ordering::Relaxed) != now
        {
            copy.store(now, Ordering::Relaxed);
        }
    }

    fn ungroup(&self, lane: Lane) {
        if let Some(group) = self.groups.read().get(usize::from(lane.index)) {
            group.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn regroup(&self, lane: Lane) {
        let index = usize::from(lane.index);
        if let Some(group) = self.groups.read().get(index) {
            group.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut groups = self.groups.write();
        if groups.len() <= index {
            groups.resize_with(index + 1, AtomicU32::default);
        }
        if let Some(group) = groups.get(index) {
            group.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nanoseconds since the beginning.
    fn stamp(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.origin))
    }
}

fn known(
    shard: &Shard,
    name: Name,
    options: &Manual,
    now: u64,
    seat: impl Fn(Lane) -> Option<usize>,
) -> Known {
    let Some((lanes, used)) = shard.get(name) else {
        return Known::Vacant;
    };
    // A key whose time is over is gone, whether a sweep has come by or not.
    if now.saturating_sub(used) > nanos(options.max_idle.get()) {
        return Known::Vacant;
    }
    let found = seat(lanes.first).or_else(|| seat(lanes.second?));
    found.map_or(Known::Missed, Known::Hit)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
