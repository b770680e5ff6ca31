//! How much was routed to each worker of late.

use std::time::{Duration, Instant};

/// Parts of the interval. What is older than the interval is forgotten a part at a time.
const PARTS: usize = 8;

/// Characters by worker over the last interval, by the index of its lane.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    totals: Vec<u64>,
    parts: [Vec<u64>; PARTS],
    /// The part that counts now, and when it began.
    current: Option<(usize, Instant)>,
}

impl Sums {
    /// What the worker got.
    pub(super) fn of(&self, lane: u16) -> u64 {
        self.totals.get(usize::from(lane)).copied().unwrap_or(0)
    }

    /// Forgets what is older than `interval`.
    pub(super) fn pass(&mut self, now: Instant, interval: Duration) {
        let width = (interval / PARTS as u32).max(Duration::from_nanos(1));
        let (mut part, mut since) = self.current.unwrap_or((0, now));
        if now.saturating_duration_since(since) > interval + width {
            self.totals.fill(0);
            self.parts.iter_mut().for_each(|part| part.fill(0));
            since = now;
        }
        while now.saturating_duration_since(since) >= width {
            since += width;
            part = (part + 1) % PARTS;
            self.forget(part);
        }
        self.current = Some((part, since));
    }

    /// Counts what the worker gets now.
    pub(super) fn add(&mut self, lane: u16, length: u64) {
        let at = usize::from(lane);
        let part = self.current.map_or(0, |(part, _)| part);
        let part = self.parts.get_mut(part);
        for sums in part.into_iter().chain([&mut self.totals]) {
            if sums.len() <= at {
                sums.resize(at + 1, 0);
            }
            if let Some(sum) = sums.get_mut(at) {
                *sum = sum.saturating_add(length);
            }
        }
    }

    /// The worker has left; its lane may soon be another's.
    pub(super) fn leave(&mut self, lane: u16) {
        for sums in self.parts.iter_mut().chain([&mut self.totals]) {
            if let Some(sum) = sums.get_mut(usize::from(lane)) {
                *sum = 0;
            }
        }
    }

    fn forget(&mut self, part: usize) {
        let Some(part) = self.parts.get_mut(part) else {
            return;
        };
        for (total, old) in self.totals.iter_mut().zip(part.iter_mut()) {
            *total = total.saturating_sub(std::mem::take(old));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    const INTERVAL: Duration = Duration::from_secs(8);

    #[test]
    fn what_is_older_than_the_interval_is_forgotten() {
        let start = clock::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut sums = Sums::default();
        for second in 0..20 {
            sums.pass(at(second), INTERVAL);
            sums.add(2, 10);
            assert_eq!(sums.of(2), 10 * (second + 1).min(8), "{second}");
        }
        assert_eq!((sums.of(0), sums.of(9)), (0, 0));
        sums.pass(at(26), INTERVAL);
        assert_eq!(sums.of(2), 10);
        sums.pass(at(27), INTERVAL);
        assert_eq!(sums.of(2), 0);
        sums.add(1, 5);
        sums.pass(at(1000), INTERVAL);
        assert_eq!(sums.of(1), 0);
    }

    #[test]
    fn a_lane_starts_again_at_nothing() {
        let mut sums = Sums::default();
        let now = clock::now();
        sums.pass(now, INTERVAL);
        sums.add(0, 5);
        sums.leave(0);
        assert_eq!(sums.of(0), 0);
        sums.add(0, 1);
        sums.pass(now + INTERVAL + INTERVAL, INTERVAL);
        assert_eq!(sums.of(0), 0);
    }
}
