//! The commands of the binary.

pub mod sample_worker;
