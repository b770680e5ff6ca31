//! The clock. The one place that asks the system for the time; pure modules take it as a parameter.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time now.
#[inline]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock that the ban points to"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall-clock time now.
#[inline]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock that the ban points to"
)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Time since the Unix epoch; zero if the wall clock stands before it.
pub fn unix() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}
