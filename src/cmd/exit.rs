//! Exit statuses.

/// All went well.
pub(super) const OK: u8 = 0;

/// Something went wrong that has no status of its own; `config diff` found a difference.
pub(super) const FAILED: u8 = 1;

/// The command line or the value of a variable is wrong.
pub(super) const USAGE: u8 = 2;

/// There are warnings, and they were denied.
pub(super) const DENIED: u8 = 3;

/// The configuration is invalid or unreadable.
pub(super) const INVALID: u8 = 78;
