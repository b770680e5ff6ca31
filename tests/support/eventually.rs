//! Waiting for a condition. Tests wait for what they need, never for a length of time.

use std::time::{Duration, Instant};

/// Asks until `condition` holds. Panics at the caller's line when it still doesn't after `within`.
#[track_caller]
pub(crate) fn eventually<C: AsyncFnMut() -> bool>(
    within: Duration,
    mut condition: C,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + within;
        while !condition().await {
            assert!(
                Instant::now() < deadline,
                "not so within {within:?}: the condition at {caller}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
