//! The units as systemd sees them: read by its own tools, followed line by line by a small service
//! manager of the test, and run by a real systemd that boots in a container.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock, files and tasks as they are"
)]

#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use the rest")]
mod support;

#[cfg(test)]
mod unit;

// Without a systemd that runs.
#[cfg(test)]
mod contract;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod stand_in;

// With one.
#[cfg(test)]
mod booted;
#[cfg(test)]
mod machine;
