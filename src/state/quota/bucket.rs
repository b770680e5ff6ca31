//! What has been used of an allowance that comes back evenly over each minute.

use std::time::{Duration, Instant};

/// One of what is counted, in the unit of [`Bucket`]: an allowance of `n` per minute brings back `n` of
/// these units in each nanosecond, so nothing is ever rounded.
const ONE: u128 = 60_000_000_000;

/// What was used and has not come back. How much may be used is told at each step: it is the
/// configuration's.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    used: u128,
    /// When it was last looked at.
    at: Option<Instant>,
}

impl Bucket {
    /// How long after `now` there is room for `amount`; zero: there is. What is more than the whole
    /// allowance has room once nothing of it is used.
    pub(super) fn wait(&mut self, per_minute: u64, amount: u64, now: Instant) -> Duration {
        let rate = u128::from(per_minute.max(1));
        self.come_back(rate, now);
        let (most, wanted) = (rate * ONE, u128::from(amount) * ONE);
        let over = if wanted > most {
            self.used
        } else {
            self.used.saturating_add(wanted).saturating_sub(most)
        };
        let nanoseconds = u64::try_from(over.div_ceil(rate)).unwrap_or(u64::MAX);
        Duration::from_nanos(nanoseconds)
    }

    /// Uses `amount`, whether there is room or not.
    pub(super) fn take(&mut self, per_minute: u64, amount: u64, now: Instant) {
        self.come_back(u128::from(per_minute.max(1)), now);
        self.used = self.used.saturating_add(u128::from(amount) * ONE);
    }

    /// `amount` was not used after all.
    pub(super) fn give_back(&mut self, amount: u64) {
        self.used = self.used.saturating_sub(u128::from(amount) * ONE);
    }

    fn come_back(&mut self, rate: u128, now: Instant) {
        if let Some(at) = self.at {
            let passed = now.saturating_duration_since(at).as_nanos();
            self.used = self.used.saturating_sub(passed.saturating_mul(rate));
        }
        // Threads read the clock before they wait for the lock.
        self.at = self.at.max(Some(now));
    }
}

#[cfg(test)]
impl Bucket {
    /// What is in use, rounded up.
    pub(super) fn used(&self) -> u128 {
        self.used.div_ceil(ONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    fn seconds(bucket: &mut Bucket, per_minute: u64, amount: u64, now: Instant) -> f64 {
        bucket.wait(per_minute, amount, now).as_secs_f64()
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_comes_back_evenly() {
        let (mut bucket, now) = (Bucket::default(), clock::now());
        for _ in 0..60 {
            assert_eq!(bucket.wait(60, 1, now), Duration::ZERO);
            bucket.take(60, 1, now);
        }
        assert_eq!(seconds(&mut bucket, 60, 1, now), 1.0);
        assert_eq!(seconds(&mut bucket, 60, 30, now), 30.0);
        let later = now + Duration::from_millis(2500);
        assert_eq!(seconds(&mut bucket, 60, 2, later), 0.0);
        assert_eq!(seconds(&mut bucket, 60, 3, later), 0.5);
        // No more than a minute's worth is saved.
        let much_later = now + Duration::from_secs(9999);
        bucket.take(60, 60, much_later);
        assert_eq!(seconds(&mut bucket, 60, 1, much_later), 1.0);
    }

    #[test]
    fn what_is_larger_than_all_waits_for_all_of_it_and_leaves_a_debt() {
        let (mut bucket, now) = (Bucket::default(), clock::now());
        assert_eq!(bucket.wait(100, 250, now), Duration::ZERO);
        bucket.take(100, 250, now);
        assert_eq!(seconds(&mut bucket, 100, 250, now), 150.0);
        assert_eq!(seconds(&mut bucket, 100, 1, now), 90.6);
        bucket.give_back(240);
        assert_eq!(seconds(&mut bucket, 100, 90, now), 0.0);
        assert_eq!(seconds(&mut bucket, 100, 101, now), 6.0);
    }

    #[test]
    fn another_limit_judges_what_was_used() {
        let (mut bucket, now) = (Bucket::default(), clock::now());
        bucket.take(100, 80, now);
        assert_eq!(seconds(&mut bucket, 60, 10, now), 30.0);
        assert_eq!(seconds(&mut bucket, 600, 10, now), 0.0);
    }

    #[test]
    fn nothing_drifts() {
        let (mut bucket, start) = (Bucket::default(), clock::now());
        bucket.take(7, 7, start);
        // In steps that no second divides, a whole minute passes.
        for step in 1..=60_000_u32 {
            let now =
                start + Duration::from_nanos(u64::from(step) * 1_000_000 - u64::from(step % 7));
            bucket.take(7, 0, now);
        }
        assert_eq!(bucket.used(), 1, "three nanoseconds are missing");
        bucket.take(7, 0, start + Duration::from_secs(60));
        assert_eq!(bucket.used(), 0);
        assert_eq!(bucket.wait(u64::MAX, u64::MAX, start), Duration::ZERO);
    }
}
