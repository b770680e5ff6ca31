//! `smg config from-flags` and `smg config import`, through the real binary: launch commands and
//! config files of other programs, what is printed for each, and what the gateway says to that.
//!
//! `fixtures/migrate` has command lines (`.sh`) and LiteLLM files (`.yaml`), each with the file that
//! is printed beside it (`.toml`) or why there is none (`.err`). `UPDATE_GOLDEN=1 cargo test --test
//! migrate` writes those anew.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; tests read files as they are"
)]

#[cfg(test)]
mod golden;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod run;
#[cfg(test)]
mod same;
