//! What can be seen from outside: metrics, logs, the access log, the audit log, traces, and the
//! events that are several of these.
//!
//! Nothing here reads the configuration or the environment; every parameter is passed in.

pub mod access;
pub mod audit;
pub mod event;
pub mod failures;
pub mod log;
pub mod metrics;
pub mod outcome;
pub mod process;
pub mod pulse;
pub mod trace;
