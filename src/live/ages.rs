//! How old the calls in flight are, without a list of them: each is counted in the slot of the ten
//! seconds in which it began.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::telemetry::metrics::label;

/// What one slot stands for, and so how exact an age is.
const SLOT: Duration = Duration::from_secs(10);

/// Slots, used in turn: two days minus some. What is older than that looks young again.
const SLOTS: usize = 1 << 14;

/// Slots between one and the next, the long way round.
const LAST: usize = SLOTS - 1;

/// The calls in flight by the time they began.
pub(super) struct Ages {
    origin: Instant,
    slots: Box<[AtomicU32]>,
}

/// The slot of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot(usize);

impl std::fmt::Debug for Ages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ages").finish_non_exhaustive()
    }
}

impl Ages {
    /// No calls yet; none begins before `origin`.
    pub(super) fn new(origin: Instant) -> Self {
        Self {
            origin,
            slots: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Counts a call that began at `now`.
    pub(super) fn begin(&self, now: Instant) -> Slot {
        let slot = Slot(self.at(now));
        if let Some(count) = self.slots.get(slot.0) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        slot
    }

    /// Forgets a call.
    pub(super) fn end(&self, slot: Slot) {
        if let Some(count) = self.slots.get(slot.0) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Calls at `now` by age: up to each of [`label::AGES`], and older than all of them.
    pub(super) fn count(&self, now: Instant) -> [usize; label::AGES.len() + 1] {
        let newest = self.at(now);
        let mut counts = [0; label::AGES.len() + 1];
        for (at, calls) in self.slots.iter().enumerate() {
            let calls = calls.load(Ordering::Relaxed);
            if calls == 0 {
                continue;
            }
            let slots = match (newest + SLOTS - at) % SLOTS {
                // It began while the others were counted.
                LAST => 0,
                slots => slots,
            };
            let age = slots as u64 * SLOT.as_secs();
            let group = label::AGES.partition_point(|bound| *bound < age);
            if let Some(count) = counts.get_mut(group) {
                *count += calls as usize;
            }
        }
        counts
    }

    fn at(&self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.origin).as_secs() / SLOT.as_secs();
        usize::try_from(since).unwrap_or(0) % SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    #[test]
    fn calls_grow_old_and_end() {
        let origin = clock::now();
        let ages = Ages::new(origin);
        let after = |seconds| origin + Duration::from_secs(seconds);
        let first = ages.begin(after(3));
        let second = ages.begin(after(4));
        let late = ages.begin(after(100_000));
        let groups = |now| {
            let counts = ages.count(after(now));
            let filled = counts.into_iter().enumerate();
            filled.filter(|(_, calls)| *calls > 0).collect::<Vec<_>>()
        };
        ages.end(late);
        assert_eq!(groups(5), [(0, 2)]);
        assert_eq!(groups(31), [(0, 2)]);
        assert_eq!(groups(45), [(1, 2)]);
        assert_eq!(groups(90_000), [(11, 2)]);
        ages.end(first);
        let young = ages.begin(after(89_999));
        assert_eq!(groups(90_000), [(0, 1), (11, 1)]);
        ages.end(second);
        ages.end(young);
        // The clock was read before it began.
        let next = ages.begin(after(90_001));
        assert_eq!(groups(89_995), [(0, 1)]);
        ages.end(next);
        assert_eq!(groups(90_000), []);
    }

    #[test]
    fn the_clock_goes_round() {
        let origin = clock::now();
        let ages = Ages::new(origin);
        let round = SLOT * u32::try_from(SLOTS).unwrap();
        let began = origin + round * 3 - SLOT;
        let _slot = ages.begin(began);
        assert_eq!(ages.count(began + Duration::from_secs(40))[1], 1);
    }
}
