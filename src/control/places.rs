//! How many probes are under way at once, and why one that hangs delays only those that hang, too.
//!
//! Half of the places are for probes that are answered soon. One that is not moves on to the other
//! half, or, where that is full, is broken off and waits there for its turn: until then it counts
//! neither as good nor as failed. The next probes of such a worker begin there, until it is quick
//! again.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::{AcquireError, Semaphore};
use tokio::time::timeout;

use crate::base::clock;

/// How soon most workers answer.
const SOON: Duration = Duration::from_millis(250);

/// The places of all probes.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    quick: Semaphore,
    slow: Semaphore,
    /// With one place there is nothing to divide.
    divided: bool,
}

/// What is known of a worker's earlier probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pace {
    is_slow: bool,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        let slow = limit / 2;
        Self {
            limit,
            quick: Semaphore::new((limit - slow).max(1)),
            slow: Semaphore::new(slow),
            divided: slow > 0,
        }
    }

    /// Probes under way at once.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Has `probe` made in a place, perhaps a second time from its beginning. It must end by itself.
    ///
    /// # Errors
    /// Does not happen: the places are never closed.
    pub(super) async fn hold<F: Future>(
        &self,
        pace: &mut Pace,
        probe: impl Fn() -> F,
    ) -> Result<F::Output, AcquireError> {
        if !self.divided {
            let _place = self.quick.acquire().await?;
            return Ok(probe().await);
        }
        if !pace.is_slow {
            let place = self.quick.acquire().await?;
            let mut probe = pin!(probe());
            if let Ok(answer) = timeout(SOON, &mut probe).await {
                return Ok(answer);
            }
            pace.is_slow = true;
            if let Ok(_place) = self.slow.try_acquire() {
                drop(place);
                return Ok(probe.await);
            }
        }
        let _place = self.slow.acquire().await?;
        let begun = clock::now();
        let answer = probe().await;
        pace.is_slow = begun.elapsed() >= SOON;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn those_that_hang_delay_no_others_and_all_are_made_within_the_limit() {
        const LIMIT: usize = 16;
        const HANGS: Duration = Duration::from_secs(5);
        let places = Places::new(LIMIT);
        let (under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let begun = clock::now();
        let one = async |takes: Duration| {
            let mut pace = Pace::default();
            let probe = async || {
                let now = under_way.fetch_add(1, Ordering::Relaxed) + 1;
                let _counted = Counted(&under_way);
                most.fetch_max(now, Ordering::Relaxed);
                sleep(takes).await;
            };
            places.hold(&mut pace, probe).await.unwrap();
            pace
        };
        let mut hanging = pin!(join_all((0..LIMIT * 2).map(|_| one(HANGS))));
        let healthy = join_all((0..LIMIT * 4).map(|_| one(Duration::from_millis(1))));
        let paces = tokio::select! {
            biased;
            _ = &mut hanging => panic!("those that hang take places in turn"),
            paces = healthy => paces,
        };
        let taken = begun.elapsed();
        assert!(taken < HANGS / 2, "{taken:?}");
        assert!(paces.iter().all(|pace| !pace.is_slow));
        let most = most.load(Ordering::Relaxed);
        assert!((LIMIT / 2..=LIMIT).contains(&most), "{most}");
    }

    #[tokio::test]
    async fn a_worker_that_is_quick_again_is_no_longer_set_apart() {
        let places = Places::new(2);
        let mut pace = Pace::default();
        for (takes, is_slow) in [(SOON * 2, true), (SOON * 2, true), (SOON / 20, false)] {
            places.hold(&mut pace, || sleep(takes)).await.unwrap();
            assert_eq!(pace.is_slow, is_slow);
        }
        Places::new(1).hold(&mut pace, async || ()).await.unwrap();
    }

    struct Counted<'a>(&'a AtomicUsize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
