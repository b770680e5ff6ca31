//! How many of the attempts in a pool are repetitions. The cell counts; the plan's budget judges.
//!
//! What a budget gives is counted over ten seconds, the part that does not depend on requests as well:
//! when a worker dies with many requests in hand, all of them may move at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::plan::Budget;

/// Seconds that count.
const SECONDS: usize = 10;

/// Requests and retries of one pool in the last seconds.
#[derive(Debug, Default)]
pub struct BudgetCell {
    epoch: OnceLock<Instant>,
    /// Requests by second: the upper half of each word says which second, the lower how many.
    requests: [AtomicU64; SECONDS],
    /// Retries by second.
    retries: Mutex<[(u64, u64); SECONDS]>,
}

impl BudgetCell {
    /// Counts a request.
    pub fn request(&self, now: Instant) {
        let second = self.second(now);
        if let Some(slot) = self.requests.get(place(second)) {
            let fresh = |word: u64| {
                if word >> 32 == second {
                    word.saturating_add(1)
                } else {
                    second << 32 | 1
                }
            };
            // Never refuses: there is always a next word.
            slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                Some(fresh(word))
            })
            .ok();
        }
    }

    /// Takes one retry out of `budget`; `false` where it is spent.
    pub fn retry(&self, budget: &Budget, now: Instant) -> bool {
        let second = self.second(now);
        let requests: u64 = self
            .requests
            .iter()
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|word| is_recent(word >> 32, second))
            .map(|word| word & u64::from(u32::MAX))
            .sum();
        let mut retries = self.retries.lock();
        let recent = retries.iter().filter(|(at, _)| is_recent(*at, second));
        let spent: u64 = recent.map(|(_, count)| count).sum();
        let most = budget.ratio * requests as f64 + budget.min_per_second * SECONDS as f64;
        if (spent + 1) as f64 > most {
            return false;
        }
        if let Some(slot) = retries.get_mut(place(second)) {
            let before = if slot.0 == second { slot.1 } else { 0 };
            *slot = (second, before + 1);
        }
        true
    }

    /// Whole seconds since the first use, from 1.
    fn second(&self, now: Instant) -> u64 {
        let epoch = *self.epoch.get_or_init(|| now);
        now.saturating_duration_since(epoch).as_secs() + 1
    }
}

fn place(second: u64) -> usize {
    usize::try_from(second % SECONDS as u64).unwrap_or_default()
}

fn is_recent(at: u64, second: u64) -> bool {
    at > 0 && at <= second && second - at < SECONDS as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::base::clock;

    const fn budget(ratio: f64, min_per_second: f64) -> Budget {
        Budget {
            ratio,
            min_per_second,
        }
    }

    fn taken(cell: &BudgetCell, budget: &Budget, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| cell.retry(budget, now)).count()
    }

    #[test]
    fn a_share_of_the_requests_of_the_last_ten_seconds() {
        let cell = BudgetCell::default();
        let start = clock::now();
        let share = budget(0.2, 0.0);
        assert!(!cell.retry(&share, start));
        for _ in 0..50 {
            cell.request(start);
        }
        assert_eq!(taken(&cell, &share, 30, start), 10);
        // The retries are forgotten with the requests.
        let later = start + Duration::from_secs(9);
        assert_eq!(taken(&cell, &share, 30, later), 0);
        for _ in 0..50 {
            cell.request(later);
        }
        assert_eq!(taken(&cell, &share, 30, later), 10);
        let later = start + Duration::from_secs(10);
        assert_eq!(taken(&cell, &share, 30, later), 0);
        let later = start + Duration::from_secs(30);
        assert_eq!(taken(&cell, &share, 30, later), 0);
    }

    #[test]
    fn a_few_whatever_the_requests() {
        let cell = BudgetCell::default();
        let start = clock::now();
        let steady = budget(0.0, 3.0);
        assert_eq!(taken(&cell, &steady, 50, start), 30);
        let later = start + Duration::from_secs(9);
        assert_eq!(taken(&cell, &steady, 50, later), 0);
        let later = start + Duration::from_secs(10);
        assert_eq!(taken(&cell, &steady, 10, later), 10);
        let later = start + Duration::from_secs(60);
        assert_eq!(taken(&cell, &steady, 50, later), 30, "nothing is saved up");
        let rare = budget(0.0, 0.15);
        assert_eq!(taken(&BudgetCell::default(), &rare, 5, start), 1);
        assert_eq!(
            taken(&BudgetCell::default(), &budget(0.0, 0.0), 5, start),
            0
        );
    }

    #[test]
    fn another_budget_is_in_force_at_once() {
        let cell = BudgetCell::default();
        let now = clock::now();
        for _ in 0..10 {
            cell.request(now);
        }
        assert_eq!(taken(&cell, &budget(0.1, 0.0), 10, now), 1);
        assert_eq!(taken(&cell, &budget(0.5, 0.0), 10, now), 4);
    }

    proptest! {
        /// There are never more retries than the budget has.
        #[test]
        fn the_budget_is_never_overdrawn(
            steps in proptest::collection::vec((0..1500_u64, 0..8_usize, 0..8_usize), 1..60),
            tenths in 0..10_u32,
            per_second in 0..5_u32,
        ) {
            let cell = BudgetCell::default();
            let start = clock::now();
            let budget = budget(f64::from(tenths) / 10.0, f64::from(per_second));
            let mut at = 0;
            let mut requests: Vec<u64> = Vec::new();
            let mut retries: Vec<u64> = Vec::new();
            for (pause, asked, again) in steps {
                at += pause;
                let now = start + Duration::from_millis(at);
                for _ in 0..asked {
                    cell.request(now);
                    requests.push(at);
                }
                for _ in 0..taken(&cell, &budget, again, now) {
                    retries.push(at);
                }
                let within = |all: &[u64], length: u64| {
                    all.iter().filter(|then| at - **then < length).count() as f64
                };
                // Buckets of a second forget up to a second early; and a retry may have been paid for by
                // requests that were ten seconds old then.
                let most = budget.ratio * within(&requests, 19_000)
                    + budget.min_per_second * 10.0;
                prop_assert!(
                    within(&retries, 9_000) <= most + 1e-9,
                    "{} of {most}",
                    within(&retries, 9_000)
                );
            }
        }
    }
}
