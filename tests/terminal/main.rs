//! What a person at a terminal has before them: `smg top` in a real one, the help, the manual pages,
//! and completions in real shells.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock, files and tasks as they are"
)]

#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use the rest")]
mod support;

#[cfg(test)]
mod completions;
#[cfg(test)]
mod help;
#[cfg(test)]
mod once;
#[cfg(test)]
mod overviews;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod screen;
#[cfg(test)]
mod tools;
