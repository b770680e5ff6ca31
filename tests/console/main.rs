//! The console and `GET /admin/overview` of the running binary: that they say what is so, to whom they
//! say it, and how the page behaves in a real browser.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock, files and tasks as they are"
)]

#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use the rest")]
mod support;

#[cfg(test)]
mod browser;
#[cfg(test)]
mod doors;
#[cfg(test)]
mod figures;
#[cfg(test)]
mod scene;
