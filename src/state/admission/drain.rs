//! How fast a gate lets in those who wait at it.

use std::time::Instant;

/// Weight of the past at each one that is let in.
const MEMORY: f64 = 0.95;

/// Requests that were let in, and the time that it took. Time counts only while somebody is kept
/// waiting or is turned away; what a gate does while it stands open tells nothing.
#[derive(Debug, Default)]
pub(super) struct Drain {
    passed: f64,
    seconds: f64,
    /// Since when the next one is waited for.
    since: Option<Instant>,
}

impl Drain {
    /// Somebody finds the gate shut.
    pub(super) fn shut(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// One is let in. `more` wait.
    pub(super) fn passed(&mut self, more: bool, now: Instant) {
        if let Some(since) = self.since {
            let seconds = now.saturating_duration_since(since).as_secs_f64();
            self.passed = self.passed * MEMORY + 1.0;
            self.seconds = self.seconds * MEMORY + seconds;
        }
        self.since = more.then_some(now);
    }

    /// Seconds until `places` more are let in. Where none was yet, the next one takes at least as
    /// long again as it has been waited for.
    pub(super) fn expected(&self, places: usize, now: Instant) -> f64 {
        let open = self.since.map_or(0.0, |since| {
            now.saturating_duration_since(since).as_secs_f64()
        });
        places as f64 * (self.seconds + open) / self.passed.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock;

    #[test]
    fn the_wait_follows_the_pace_so_far() {
        let start = clock::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut drain = Drain::default();
        assert_eq!(drain.expected(10, at(0.0)), 0.0);
        drain.shut(at(0.0));
        drain.shut(at(1.0));
        // Nobody was let in for 2 seconds.
        assert!((drain.expected(3, at(2.0)) - 6.0).abs() < 1e-9);
        for second in 1..100 {
            drain.passed(true, at(f64::from(second) / 2.0));
        }
        assert!((drain.expected(10, at(49.5)) - 5.0).abs() < 0.1);
        // A pace of long ago is forgotten.
        for second in 0..100 {
            drain.passed(true, at(50.0 + f64::from(second) * 4.0));
        }
        assert!((drain.expected(10, at(446.0)) - 40.0).abs() < 1.0);
    }

    #[test]
    fn time_without_a_queue_does_not_count() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut drain = Drain::default();
        drain.shut(at(0));
        drain.passed(false, at(1));
        drain.passed(false, at(1000));
        drain.shut(at(2000));
        assert!((drain.expected(1, at(2000)) - 1.0).abs() < 1e-9);
    }
}
