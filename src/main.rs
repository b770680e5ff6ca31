//! The `smg` binary.
fn main() {}
