//! What can be seen from outside: metrics, logs, the access log, and the events that are both.
//!
//! Nothing here reads the configuration or the environment; every parameter is passed in.

pub mod access;
pub mod event;
pub mod log;
pub mod metrics;
pub mod process;
