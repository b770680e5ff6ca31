//! The sample worker over its socket.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it does not find what it expects"
)]

mod answers;
mod client;
mod engine;
mod faults;
