//! How much each caller uses: requests, tokens, calls under way.
//!
//! A cell counts, and each call judges by the limits of its own snapshot, so that changed limits hold
//! at once for what was counted before. Nobody waits here: what does not fit is refused.
//!
//! Invariant: whatever a call has taken is settled or given back when its [`Stay`] is dropped.

mod account;
mod bucket;
mod strangers;
#[cfg(test)]
mod tests;

pub use account::{AccountCell, Over, Spent, Stay, Sums, Wanted};
pub use strangers::Strangers;
