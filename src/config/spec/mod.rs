//! `Spec`: what the operator wrote, as types. The tables of `smg.toml`, field by field.
//!
//! Invariants: every table refuses keys it does not know; a table that stands for all has a value
//! for each key, one that overrides has an `Option`; the doc comment of a field is its reference
//! page (what, then unit, default, range and reload class, then the effects).

pub mod admission;
pub mod auth;
pub mod key;
pub mod listener;
pub mod model;
pub mod policy;
mod policy_form;
pub mod pool;
pub mod reliability;
pub mod routing;
pub mod server;
pub mod telemetry;
pub mod test;
pub mod tls;
pub(crate) mod word;
pub mod worker;
pub mod worker_url;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use admission::{Admission, Class, ModelAdmission};
pub use auth::{
    Auth, ControlKey, ControlPlane, DefaultRole, Jwt, ModelLimits, Role, Tenant, TenantHeader,
    TenantLimits,
};
pub use key::{Material, TenantKey};
pub use listener::{Cors, EngineMetrics, Limits, ListenAddress, Listener, Serve, UnixMode};
pub use model::{Mirror, Model, ModelReliability, Share};
pub use policy::{
    Algorithm, AssignmentMode, Bucket, CacheAware, LeastLoad, Manual, Policy, PolicyName,
    PrefixHash,
};
pub use pool::{Connections, Leg, Pool, PoolReliability, Runtime};
pub use reliability::{
    Budget, CircuitBreaker, CircuitBreakerOverride, Health, HealthOverride, Reliability, Retry,
    RetryOverride, Timeouts, TimeoutsOverride,
};
pub use routing::{Routing, Undeclared};
pub use server::{Jobs, MemoryBudget, Server, WorkerThreads};
pub use telemetry::{Audit, LogFormat, LogLevel, Logging, Metrics, Rotate, Tracing};
pub use test::{Expect, Request, Test};
pub use tls::{ClientTls, ServerTls};
pub use word::WordError;
pub use worker::{MAX_PRIORITY, Worker};
pub use worker_url::{WorkerUrl, WorkerUrlError};

/// The configuration of a gateway: the content of `smg.toml` and the files it includes, with the
/// flags and variables laid over it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The version of the file's grammar.
    ///
    /// Unit: number. Default: none, a file must say it. Range: 1. Reload: live.
    /// An included file may repeat it.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,

    /// Further files, read as if their tables stood here.
    ///
    /// Unit: list of paths or globs. Default: []. Range: at most 8 deep, no cycles. Reload: live.
    /// Tables merge key by key and array tables append; one key in two files is an error. A glob
    /// may match nothing, a plain path must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,

    /// What holds for every request and for the process.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: by key.
    /// See the keys of the table.
    #[serde(default)]
    pub server: Server,

    /// The sockets where clients connect, and what each answers.
    ///
    /// Unit: list of tables. Default: `main` on `0.0.0.0:30000`, `metrics` on `0.0.0.0:29000`.
    /// Range: one at least serves `inference`. Reload: drain.
    /// A listener that stays in the file keeps its socket over a reload.
    #[serde(default)]
    pub listeners: Vec<Listener>,

    /// The sets of workers that do the work.
    ///
    /// Unit: list of tables. Default: one pool `default` without workers. Range: distinct names.
    /// Reload: live.
    /// See the keys of the table.
    #[serde(default)]
    pub pools: Vec<Pool>,

    /// The names that clients ask for.
    ///
    /// Unit: list of tables. Default: []. Range: distinct names and aliases. Reload: live.
    /// Names that are not listed are served as `routing.undeclared_models` says.
    #[serde(default)]
    pub models: Vec<Model>,

    /// How a worker is chosen.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default)]
    pub routing: Routing,

    /// What happens under trouble.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// `retry` and `timeouts` can also stand under a pool or a model, `health` and
    /// `circuit_breaker` under a pool, `admission` under a model.
    #[serde(default)]
    pub reliability: Reliability,

    /// Who may come in, and how much each may use.
    ///
    /// Unit: table. Default: nobody is asked. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default)]
    pub auth: Auth,

    /// The record of who asked and changed the gateway itself.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default)]
    pub audit: Audit,

    /// What `/metrics` shows.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: restart.
    /// See the keys of the table.
    #[serde(default)]
    pub metrics: Metrics,

    /// Spans of requests, sent to a collector.
    ///
    /// Unit: table. Default: off. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default)]
    pub tracing: Tracing,

    /// What is logged, and where to.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default)]
    pub logging: Logging,

    /// What must stay true of routing.
    ///
    /// Unit: list of tables. Default: []. Range: distinct names. Reload: live.
    /// Run by `smg check-config --test`; a running gateway does not look at them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<Test>,
}

/// What a gateway without file, flags and variables does.
impl Default for Spec {
    fn default() -> Self {
        Self {
            version: 1,
            include: Vec::new(),
            server: Server::default(),
            listeners: vec![Listener::main(), Listener::metrics()],
            pools: vec![Pool::named("default")],
            models: Vec::new(),
            routing: Routing::default(),
            reliability: Reliability::default(),
            auth: Auth::default(),
            audit: Audit::default(),
            metrics: Metrics::default(),
            tracing: Tracing::default(),
            logging: Logging::default(),
            tests: Vec::new(),
        }
    }
}

/// Whether a table says nothing, so that a dump leaves it out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
