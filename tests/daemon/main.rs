//! Tests that run the built binary: the gateway between real clients and real, sample or scripted
//! workers. One module per subject.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test uses the clock, files and tasks as they are"
)]

#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod config_files;
#[cfg(test)]
mod engine_mlx;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod sdk;

// What is changed while it runs, and how it begins and ends.
#[cfg(test)]
mod activation;
#[cfg(test)]
mod control_plane;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod idle;
#[cfg(test)]
mod jwt;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod load;
#[cfg(test)]
mod loads;
#[cfg(test)]
mod many_models;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod probe;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod removal;
#[cfg(test)]
mod startup;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod workers_api;
#[cfg(test)]
mod workers_leave;

// What is seen from outside.
#[cfg(test)]
mod audit;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod request_ids;
#[cfg(test)]
mod tracing;

// The request path.
#[cfg(test)]
mod admission;
#[cfg(test)]
mod breaker;
#[cfg(test)]
mod cache_tree;
#[cfg(test)]
mod cors;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod dp;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod health;
#[cfg(test)]
mod http2_workers;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod information;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod models;
#[cfg(test)]
mod pd;
#[cfg(test)]
mod pd_failures;
#[cfg(test)]
mod pd_vllm;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod resolve;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod stale;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod tenant_limits;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tls_reload;
#[cfg(test)]
mod tls_workers;
