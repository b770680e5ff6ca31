//! How fast requests may begin: a bucket that fills with time and gives one token to each.

use std::time::{Duration, Instant};

/// What is missing of a token by rounding alone, of times to whole nanoseconds, too.
const ROUNDING: f64 = 1e-6;

/// The tokens at hand. The rate is told at each step: it is the configuration's.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    tokens: f64,
    /// When they were counted; `None`: it has not been used and is full.
    at: Option<Instant>,
}

/// A second's worth, and never less than the one token that a request needs.
fn capacity(rate: f64) -> f64 {
    rate.max(1.0)
}

impl Bucket {
    /// Whether a request may begin at `now`. At rate 0 any may.
    pub(super) fn has(&mut self, rate: f64, now: Instant) -> bool {
        rate <= 0.0 || self.refill(rate, now) >= 1.0 - ROUNDING
    }

    /// A request begins.
    pub(super) fn take(&mut self, rate: f64, now: Instant) {
        if rate > 0.0 {
            self.tokens = (self.refill(rate, now) - 1.0).max(0.0);
        }
    }

    /// How long after `now` the next request may begin.
    pub(super) fn wait(&mut self, rate: f64, now: Instant) -> Duration {
        if self.has(rate, now) {
            return Duration::ZERO;
        }
        let seconds = (1.0 - self.tokens) / rate;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// From `now` on the rate is another one. What has been saved stays, as far as it fits.
    pub(super) fn change(&mut self, from: f64, to: f64, now: Instant) {
        if from <= 0.0 || to <= 0.0 {
            *self = Self::default();
            return;
        }
        self.tokens = self.refill(from, now).min(capacity(to));
    }

    fn refill(&mut self, rate: f64, now: Instant) -> f64 {
        let full = capacity(rate);
        self.tokens = match self.at {
            None => full,
            Some(at) => {
                let seconds = now.saturating_duration_since(at).as_secs_f64();
                full.min(self.tokens + seconds * rate)
            }
        };
        // Threads read the clock before they wait for the lock.
        self.at = self.at.max(Some(now));
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    /// How many of these requests may begin, asked at each of these times in seconds.
    fn begun(bucket: &mut Bucket, rate: f64, start: Instant, times: &[f64]) -> usize {
        let mut begun = 0;
        for time in times {
            let now = start + Duration::from_secs_f64(*time);
            if bucket.has(rate, now) {
                bucket.take(rate, now);
                begun += 1;
            }
        }
        begun
    }

    #[test]
    fn a_pause_saves_a_seconds_worth_and_no_more() {
        let (mut bucket, start) = (Bucket::default(), clock::now());
        assert_eq!(begun(&mut bucket, 5.0, start, &[0.0; 9]), 5);
        assert_eq!(begun(&mut bucket, 5.0, start, &[0.3, 0.3, 0.5]), 2);
        assert_eq!(begun(&mut bucket, 5.0, start, &[60.0; 9]), 5);
    }

    #[test]
    fn slow_rates_save_one() {
        let (mut bucket, start) = (Bucket::default(), clock::now());
        assert_eq!(
            begun(&mut bucket, 0.1, start, &[0.0, 0.0, 9.0, 10.0, 10.0]),
            2
        );
        let wait = bucket.wait(0.1, start + Duration::from_secs(10));
        assert!((wait.as_secs_f64() - 10.0).abs() < 1e-6, "{wait:?}");
        assert_eq!(
            bucket.wait(1e-300, start + Duration::from_secs(10)),
            Duration::MAX
        );
    }

    #[test]
    fn without_a_rate_all_begin() {
        let (mut bucket, start) = (Bucket::default(), clock::now());
        assert_eq!(begun(&mut bucket, 0.0, start, &[0.0; 100]), 100);
    }

    #[test]
    fn another_rate_counts_from_when_it_came() {
        let (mut bucket, start) = (Bucket::default(), clock::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(begun(&mut bucket, 2.0, start, &[0.0, 0.0]), 2);
        // One second at 2 saves 2, of which 1 fits.
        bucket.change(2.0, 0.5, at(1));
        assert_eq!(begun(&mut bucket, 0.5, start, &[1.0, 1.0, 2.0, 3.0]), 2);
        bucket.change(0.5, 0.0, at(3));
        bucket.change(0.0, 3.0, at(3));
        assert_eq!(begun(&mut bucket, 3.0, start, &[3.0; 9]), 3);
    }

    #[test]
    fn what_is_waited_for_is_enough() {
        let mut bucket = Bucket::default();
        let mut now = clock::now();
        for _ in 0..1000 {
            now += bucket.wait(7.3, now);
            assert!(bucket.has(7.3, now));
            bucket.take(7.3, now);
        }
    }
}
