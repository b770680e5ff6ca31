//! `compile(&Spec, &Facts) -> Plan`: what the configuration means, as pure data.
//!
//! Invariant: nothing here reads a file, asks the time or holds a lock; the same input gives the
//! same plan in every gateway.

mod admission;
mod auth;
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
mod tls;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use admission::{Admission, Class, DEFAULT_CLASS, Gate, Queue};
pub use auth::{
    Auth, Digest, Identity, Jwt, Key, ModelLimits, Operator, OperatorRole, Tenant, TenantIx,
    TenantLimits,
};
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
pub use tls::{ClientTls, ServerTls};
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
    /// Who may come in.
    pub auth: Auth,
    /// The record of control-plane requests.
    pub audit: Audit,
    /// Spans of requests.
    pub tracing: Tracing,
    /// How many requests are let in.
    pub admission: Admission,
    /// From model names to workers.
    pub routes: Routes,
    /// Probes in flight at once.
    pub max_in_flight_probes: usize,
    /// How engines are asked for their load.
    pub load_monitor: LoadMonitor,
}

/// The record of control-plane requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Whether it is kept.
    pub enabled: bool,
    /// A file of its own, beside the log.
    pub path: Option<std::path::PathBuf>,
}

/// Spans of requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tracing {
    /// Whether they are made and sent.
    pub enabled: bool,
    /// The collector as a URL.
    pub endpoint: Arc<str>,
    /// The resource attribute `service.name`.
    pub service_name: Arc<str>,
    /// The share of requests that are traced where the client does not decide.
    pub sample_ratio: f64,
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
        auth: auth::compile(spec),
        audit: Audit {
            enabled: spec.audit.enabled,
            path: spec.audit.path.as_deref().map(std::path::Path::to_owned),
        },
        tracing: Tracing {
            enabled: spec.tracing.enabled,
            endpoint: endpoint(&spec.tracing.otlp_endpoint),
            service_name: spec.tracing.service_name.as_str().into(),
            sample_ratio: spec.tracing.sample_ratio,
        },
        admission: admission::compile(spec),
        routes,
        max_in_flight_probes: spec.reliability.health.max_in_flight_probes as usize,
        load_monitor: LoadMonitor {
            interval: spec.routing.load_monitor_interval.get(),
        },
    }
}

/// A collector without a scheme is spoken to in the clear.
fn endpoint(declared: &str) -> Arc<str> {
    if declared.contains("://") {
        declared.into()
    } else {
        format!("http://{declared}").into()
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
