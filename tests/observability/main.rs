//! What the gateway tells about itself, as those see it who watch it: a scrape of the running binary
//! beside the catalogue and the reference, and a real Prometheus that evaluates the queries of the
//! dashboard, of the manual and of the alerts while there is load, and trouble.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock, files and tasks as they are"
)]

#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use the rest")]
mod support;

#[cfg(test)]
mod bustle;
#[cfg(test)]
mod exposition;
#[cfg(test)]
mod prometheus;

#[cfg(test)]
mod alerts;
#[cfg(test)]
mod catalogue;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod troubles;
