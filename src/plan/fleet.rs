//! What operators have changed about workers while the gateway ran, beside the file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::worker::{Role, WorkerKey};
use crate::base::secret::Secret;
use crate::config::spec::{self, CircuitBreakerOverride, HealthOverride, Runtime};

/// Where a worker comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The configuration.
    File,
    /// The admin API.
    Api,
}

impl Source {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Api => "api",
        }
    }
}

/// One membership of a worker: a URL in a pool. Of a worker's ranks all are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Member {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// The worker, without a rank.
    pub worker: WorkerKey,
}

/// Everything that was changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fleet {
    /// Workers beside those of the file. One that the file declares, too, is the file's.
    pub added: BTreeMap<Member, Added>,
    /// Workers on their way out: they get no requests, and are still there.
    pub leaving: BTreeSet<Member>,
    /// Workers of the file that are out.
    pub tombstones: BTreeSet<Member>,
    /// What differs from what a worker was declared or added with.
    pub overrides: BTreeMap<Member, Override>,
    /// Pools whose `drain` differs from the file.
    pub drains: BTreeMap<Arc<str>, bool>,
}

/// A worker that was added.
#[derive(Debug, Clone, PartialEq)]
pub struct Added {
    /// By whom.
    pub source: Source,
    /// What it does in its pool.
    pub role: Role,
    /// What was said of it, as in the file.
    pub worker: spec::Worker,
    /// The models that it serves, where they were said; they stand in place of `worker.model`.
    pub models: Vec<String>,
    /// The engine, where it was said.
    pub runtime: Option<Runtime>,
    /// What differs from the pool's probes.
    pub health: HealthOverride,
    /// What differs from the pool's breaker.
    pub circuit_breaker: CircuitBreakerOverride,
}

/// What differs for one worker; what is absent stays as it was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Override {
    /// Which workers are used first.
    pub priority: Option<u8>,
    /// How much its load counts.
    pub cost: Option<f64>,
    /// Labels; `None` removes one.
    pub labels: BTreeMap<String, Option<String>>,
    /// Its key.
    pub api_key: Option<Secret>,
    /// How it is probed.
    pub health: HealthOverride,
    /// Its breaker.
    pub circuit_breaker: CircuitBreakerOverride,
    /// Whether it gets no new requests.
    pub drain: Option<bool>,
}
