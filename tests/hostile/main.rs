//! Clients and workers that mean harm, before the built binary: what they send is refused, bounded or
//! harmless, and everybody else is served meanwhile. One module per subject.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock, files and tasks as they are"
)]

#[cfg(test)]
#[path = "../daemon/scene.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod scene;
#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use the rest")]
mod support;

// What they are made of.
#[cfg(test)]
mod frames;
#[cfg(test)]
mod recorder;

// Clients.
#[cfg(test)]
mod addresses;
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod heads;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod slow;

// Workers.
#[cfg(test)]
mod answers;
#[cfg(test)]
mod bombs;

// What gets out.
#[cfg(test)]
mod canary;
#[cfg(test)]
mod lines;
#[cfg(test)]
mod malformed;

// What is in it.
#[cfg(test)]
mod parts;
