//! What is generated from the types and the table of flags is what is committed, and it is whole.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test reads files as they are"
)]

#[cfg(test)]
mod fresh;
