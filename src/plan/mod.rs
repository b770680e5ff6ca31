//! `compile(&Spec, &Facts) -> Plan`: what the configuration means, as pure data.
//!
//! Invariant: nothing here reads a file, asks the time or holds a lock; the same input gives the
//! same plan in every gateway.

mod admission;
mod destination;
mod diff;
mod facts;
mod fleet;
mod listener;
mod pool;
mod ring;
mod route;
mod routes;
mod table;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use admission::{Admission, Class, DEFAULT_CLASS, Gate, Queue};
pub use destination::{Destination, DestinationIx, Fallback, Mirror, Share};
pub use diff::{Change, diff};
pub use facts::{Facts, Learned, NoRanks};
pub use fleet::{Added, Fleet, Member, Override, Source};
pub use listener::{Address, Cors, Groups, Limits, Listener};
pub use pool::{Breaker, Budget, Connections, Health, Pool, PoolIx, Retry, Timeouts};
pub use ring::Ring;
pub use route::{
    Found, Glob, Leg, Legs, Listed, Named, Route, RouteIx, Routes, Sole, Target, Unroutable,
    is_glob, matches,
};
pub use worker::{Registration, Role, Worker, WorkerIx, WorkerKey};

use crate::config::spec::{Jobs, MemoryBudget, Spec};

/// What the configuration and the facts mean together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// What holds for every request.
    pub server: Server,
    /// Sockets.
    pub listeners: Vec<Arc<Listener>>,
    /// Pools, in the order of the file.
    pub pools: Vec<Pool>,
    /// Worker memberships, by pool and then by key.
    pub workers: Vec<Worker>,
    /// How many requests are let in.
    pub admission: Admission,
    /// From model names to workers.
    pub routes: Routes,
    /// Probes in flight at once.
    pub max_in_flight_probes: usize,
    /// How engines are asked for their load.
    pub load_monitor: LoadMonitor,
}

/// How engines are asked for their load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LoadMonitor {
    /// Time between two questions. A report is forgotten after three of them.
    pub interval: Duration,
}

impl LoadMonitor {
    /// How old a report may be.
    pub fn age(&self) -> Duration {
        self.interval.saturating_mul(3)
    }
}

/// What holds for every request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Server {
    /// From the head of a request to the last byte of its body.
    pub request_timeout: Duration,
    /// Time that requests in flight have at shutdown.
    pub shutdown_grace_period: Duration,
    /// Largest request body in bytes.
    pub max_payload: usize,
    /// Memory for all request bodies that are held.
    pub memory_budget: MemoryBudget,
    /// How many changes of workers may wait and run.
    pub jobs: Jobs,
    /// Headers that may carry a request id, in order; lower case.
    pub request_id_headers: Vec<Arc<str>>,
    /// Silence after which a comment is sent on an event stream; zero: never.
    pub sse_keepalive: Duration,
}

/// Compiles `spec`, which the checks have accepted, with what is known about workers.
pub fn compile(spec: &Spec, facts: &Facts) -> Plan {
    let (pools, workers) = table::pools(spec, facts);
    let routes = routes::routes(spec, facts, &pools, &workers);
    Plan {
        server: Server {
            request_timeout: spec.server.request_timeout.get(),
            shutdown_grace_period: spec.server.shutdown_grace_period.get(),
            max_payload: usize::try_from(spec.server.max_payload_size.get()).unwrap_or(usize::MAX),
            memory_budget: spec.server.memory_budget,
            jobs: spec.server.jobs,
            request_id_headers: spec
                .server
                .request_id_headers
                .iter()
                .map(|name| name.to_ascii_lowercase().into())
                .collect(),
            sse_keepalive: spec.server.sse_keepalive.get(),
        },
        listeners: spec
            .listeners
            .iter()
            .map(|l| Arc::new(listener::compile(l)))
            .collect(),
        pools,
        workers,
        admission: admission::compile(spec),
        routes,
        max_in_flight_probes: spec.reliability.health.max_in_flight_probes as usize,
        load_monitor: LoadMonitor {
            interval: spec.routing.load_monitor_interval.get(),
        },
    }
}

impl Plan {
    /// The pool at `ix`, which must come from this plan.
    ///
    /// # Panics
    /// When `ix` comes from another plan and is out of range.
    #[expect(
        clippy::indexing_slicing,
        reason = "an index is only ever used with its own plan"
    )]
    pub fn pool(&self, ix: PoolIx) -> &Pool {
        &self.pools[ix.0 as usize]
    }
}
