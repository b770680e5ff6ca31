//! Restraint for what fails again and again.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use ahash::RandomState;
use parking_lot::Mutex;

/// Keys remembered; beyond that, old ones are forgotten.
const CAPACITY: usize = 4096;

/// Decides which occurrence of a repeated failure is logged: the first one, then at most one in
/// each period, with the number of those kept silent since.
#[derive(Debug)]
pub struct Repeat<K> {
    every: Duration,
    seen: Mutex<HashMap<K, Seen, RandomState>>,
}

#[derive(Debug)]
struct Seen {
    logged: Instant,
    silent: u64,
}

impl<K: Hash + Eq> Repeat<K> {
    /// At most one line a minute for each key.
    pub fn every_minute() -> Self {
        Self {
            every: Duration::from_secs(60),
            seen: Mutex::default(),
        }
    }

    /// Whether the occurrence of `key` at `now` is to be logged: `Some(n)` if so, `n` being the
    /// occurrences kept silent since the last one that was.
    pub fn allow(&self, key: K, now: Instant) -> Option<u64> {
        let mut seen = self.seen.lock();
        if let Some(entry) = seen.get_mut(&key) {
            if now.saturating_duration_since(entry.logged) < self.every {
                entry.silent += 1;
                return None;
            }
            entry.logged = now;
            return Some(std::mem::take(&mut entry.silent));
        }
        if seen.len() >= CAPACITY {
            seen.retain(|_, entry| now.saturating_duration_since(entry.logged) < self.every);
        }
        if seen.len() >= CAPACITY {
            seen.clear();
        }
        seen.insert(
            key,
            Seen {
                logged: now,
                silent: 0,
            },
        );
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    #[test]
    fn once_then_once_a_minute_with_a_count() {
        let repeat = Repeat::every_minute();
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(repeat.allow("a", at(0)), Some(0));
        assert_eq!(repeat.allow("a", at(1)), None);
        assert_eq!(repeat.allow("b", at(1)), Some(0));
        assert_eq!(repeat.allow("a", at(59)), None);
        assert_eq!(repeat.allow("a", at(60)), Some(2));
        assert_eq!(repeat.allow("a", at(61)), None);
        assert_eq!(repeat.allow("a", at(200)), Some(1));
    }

    #[test]
    fn memory_is_bounded() {
        let repeat = Repeat::every_minute();
        let now = clock::now();
        for key in 0..3 * CAPACITY {
            repeat.allow(key, now);
        }
        assert!(repeat.seen.lock().len() <= CAPACITY);
    }
}
