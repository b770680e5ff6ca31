//! How far a worker is with the prompts that it was sent, and how fast it is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// Weight of the past at each new figure of the speed.
const MEMORY: f64 = 0.95;

/// Never more than this share of what is pending counts as done while no answer has begun, so that
/// a worker that hangs does not look idle.
const DONE_AT_MOST: f64 = 0.9;

/// Prompt tokens that were sent to a worker and are not computed yet, as policies estimated them,
/// and the speed at which they are, as answers that begin show.
#[derive(Debug, Default)]
pub struct Pace {
    epoch: OnceLock<Instant>,
    pending: AtomicU64,
    /// Since when the first of them are being computed, in microseconds from the epoch.
    since: AtomicU64,
    /// Tokens per second in bits of `f64`; 0 while unknown.
    rate: AtomicU64,
    /// Tokens, and seconds that they took.
    seen: Mutex<(f64, f64)>,
}

impl Pace {
    /// A prompt of `tokens` is sent.
    pub(super) fn begin(&self, tokens: u64, now: Instant) {
        if self.pending.fetch_add(tokens, Ordering::Relaxed) == 0 {
            self.since.store(self.micros(now), Ordering::Relaxed);
        }
    }

    /// It has been computed: its answer has begun.
    pub(super) fn computed(&self, tokens: u64, now: Instant) {
        let now = self.micros(now);
        let since = self.since.swap(now, Ordering::Relaxed);
        self.pending.fetch_sub(tokens, Ordering::Relaxed);
        let mut seen = self.seen.lock();
        seen.0 = seen.0 * MEMORY + tokens as f64;
        seen.1 = seen.1 * MEMORY + now.saturating_sub(since) as f64 / 1e6;
        if seen.1 > 0.0 {
            let rate = seen.0 / seen.1;
            self.rate.store(rate.to_bits(), Ordering::Relaxed);
        }
    }

    /// Its request has ended, and nobody knows when it was computed.
    pub(super) fn ended(&self, tokens: u64) {
        self.pending.fetch_sub(tokens, Ordering::Relaxed);
        if let Some(rate) = self.rate() {
            // It took its part of the time that has gone by.
            let micros = whole(tokens as f64 / rate * 1e6);
            self.since.fetch_add(micros, Ordering::Relaxed);
        }
    }

    /// Tokens sent and not known to be computed.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Tokens that will still have to be computed at `now`, going by the speed so far.
    pub fn left(&self, now: Instant) -> u64 {
        let pending = self.pending();
        let (1.., Some(rate)) = (pending, self.rate()) else {
            return pending;
        };
        let since = self.since.load(Ordering::Relaxed);
        let seconds = self.micros(now).saturating_sub(since) as f64 / 1e6;
        let done = (rate * seconds).min(pending as f64 * DONE_AT_MOST);
        pending.saturating_sub(whole(done))
    }

    /// Tokens per second while there are any to compute; `None` before the first answer.
    pub fn rate(&self) -> Option<f64> {
        match self.rate.load(Ordering::Relaxed) {
            0 => None,
            bits => Some(f64::from_bits(bits)),
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        let epoch = self.epoch.get_or_init(|| now);
        let micros = now.saturating_duration_since(*epoch).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX)
    }
}

fn whole(number: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast saturates, and neither tokens nor times are negative"
    )]
    let whole = number as u64;
    whole
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock;

    #[test]
    fn work_is_done_at_the_speed_so_far() {
        let pace = Pace::default();
        let start = clock::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        pace.begin(1000, at(0.0));
        assert_eq!((pace.rate(), pace.left(at(5.0))), (None, 1000));
        pace.computed(1000, at(0.5));
        assert!((pace.rate().unwrap() - 2000.0).abs() < 1.0);
        pace.begin(3000, at(7.0));
        assert_eq!(pace.left(at(8.0)), 1000);
        // A worker that hangs is not idle.
        assert_eq!(pace.left(at(100.0)), 300);
        pace.ended(3000);
        assert_eq!((pace.pending(), pace.left(at(100.0))), (0, 0));
    }

    #[test]
    fn time_counts_from_the_first_prompt_on() {
        let pace = Pace::default();
        let start = clock::now();
        pace.begin(100, start);
        pace.computed(100, start + Duration::from_secs(1));
        pace.begin(100, start + Duration::from_secs(50));
        pace.begin(100, start + Duration::from_secs(50));
        pace.computed(100, start + Duration::from_secs(51));
        assert_eq!(pace.left(start + Duration::from_secs(51)), 100);
        assert!((pace.rate().unwrap() - 100.0).abs() < 1.0);
    }
}
