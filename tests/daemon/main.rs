//! Tests that run the built binary: the gateway between real clients and real, sample or scripted
//! workers. One module per subject.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock, files and tasks as they are"
)]

#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod config_files;
#[cfg(test)]
mod engine_mlx;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod sdk;
