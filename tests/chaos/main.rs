//! The gateway in trouble: workers that refuse, reset, stall, lie, flood and die, clients that
//! vanish, dawdle and stuff, files that are torn and disks that are full, all while requests go on
//! and configurations change. Whatever happens, every request gets an end that its protocol knows,
//! and afterwards nothing is left behind.
//!
//! ```text
//! cargo test --test chaos -- --nocapture     two or three minutes, with a table at the end
//! make soak                                  half an hour of the same; SOAK=8h for longer
//! ```
//!
//! Variables: `SMG_SOAK=30m` is how long the storms go on, `SMG_CHAOS_SEED=7` repeats the choices of
//! an earlier run (its seed is in the first line it prints), `SMG_CHAOS_ONLY=stalls,garbage` keeps
//! to these storms.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock, files and tasks as they are"
)]

#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use the rest")]
mod support;

// What the workers and the clients say to each other, and what is true of it.
#[cfg(test)]
mod dialect;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod ledger;

// Who takes part.
#[cfg(test)]
mod client;
#[cfg(test)]
mod mortal;
#[cfg(test)]
mod rude;
#[cfg(test)]
mod town;
#[cfg(test)]
mod worker;

// What happens to them.
#[cfg(test)]
mod calm;
#[cfg(test)]
mod edits;
#[cfg(test)]
mod storm;

#[cfg(test)]
mod promises;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod starved;
