//! Workers that are known by name.
