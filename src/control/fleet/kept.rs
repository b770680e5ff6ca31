//! What is kept of the fleet over a restart, as it is written down.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::apply::Ground;
use super::reconcile::{Ended, drain_of, fingerprint, hold};
use crate::base::secret::Secret;
use crate::config::spec::{self, CircuitBreakerOverride, HealthOverride, Runtime, Spec, WorkerUrl};
use crate::plan::{Added, Fleet, Member, Override, Role, Source, WorkerKey};

/// Everything that is kept. A worker on its way out counts as gone: a restart ends its requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    added: Vec<KeptWorker>,
    tombstones: Vec<Mark>,
    overrides: Vec<KeptOverride>,
    drains: Vec<KeptDrain>,
}

/// A worker in a pool, and the configuration's entry for it at that time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    pool: Arc<str>,
    url: String,
    entry: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptWorker {
    pool: Arc<str>,
    role: Role,
    source: Source,
    url: WorkerUrl,
    model: Option<String>,
    models: Vec<String>,
    api_key: Option<String>,
    labels: BTreeMap<String, String>,
    priority: u8,
    cost: f64,
    bootstrap_port: Option<u16>,
    drain: bool,
    runtime: Option<Runtime>,
    health: HealthOverride,
    circuit_breaker: CircuitBreakerOverride,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptOverride {
    of: Mark,
    priority: Option<u8>,
    cost: Option<f64>,
    labels: BTreeMap<String, Option<String>>,
    api_key: Option<String>,
    health: HealthOverride,
    circuit_breaker: CircuitBreakerOverride,
    drain: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptDrain {
    pool: Arc<str>,
    drain: bool,
    /// What the configuration said.
    declared: Option<bool>,
}

impl Kept {
    /// What is kept of the fleet of `ground`.
    pub(super) fn of(ground: Ground<'_>) -> Self {
        let fleet = ground.without(&ground.fleet.leaving);
        let mark = |member: &Member| Mark {
            pool: Arc::clone(&member.pool),
            url: member.worker.to_string(),
            entry: fingerprint(ground.spec, member),
        };
        Self {
            added: fleet
                .added
                .iter()
                .map(|(member, added)| KeptWorker::of(member, added))
                .collect(),
            tombstones: fleet.tombstones.iter().map(mark).collect(),
            overrides: fleet
                .overrides
                .iter()
                .map(|(member, changed)| KeptOverride::of(mark(member), changed))
                .collect(),
            drains: fleet
                .drains
                .iter()
                .map(|(pool, drain)| KeptDrain {
                    pool: Arc::clone(pool),
                    drain: *drain,
                    declared: drain_of(ground.spec, pool),
                })
                .collect(),
        }
    }

    /// What of it holds under `spec`, and what does not.
    pub(super) fn under(self, spec: &Spec) -> (Fleet, Vec<Ended>) {
        let mut fleet = Fleet::default();
        let mut entries: BTreeMap<Member, Option<String>> = BTreeMap::new();
        for kept in self.added {
            let (member, added) = kept.open();
            entries.insert(member.clone(), None);
            fleet.added.insert(member, added);
        }
        for mark in self.tombstones {
            let (member, entry) = mark.open();
            entries.insert(member.clone(), entry);
            fleet.tombstones.insert(member);
        }
        for kept in self.overrides {
            let (member, entry, changed) = kept.open();
            entries.insert(member.clone(), entry);
            fleet.overrides.insert(member, changed);
        }
        let mut drains: BTreeMap<Arc<str>, Option<bool>> = BTreeMap::new();
        for kept in self.drains {
            drains.insert(Arc::clone(&kept.pool), kept.declared);
            fleet.drains.insert(kept.pool, kept.drain);
        }
        let same = |member: &Member| {
            let then = entries.get(member);
            then.is_some_and(|then| *then == fingerprint(spec, member))
        };
        let same_drain = |pool: &str| {
            let then = drains.get(pool).copied().flatten();
            then.is_some() && then == drain_of(spec, pool)
        };
        hold(&fleet, spec, same, same_drain)
    }
}

impl Mark {
    fn open(self) -> (Member, Option<String>) {
        let member = Member {
            pool: self.pool,
            worker: WorkerKey::new(&self.url),
        };
        (member, self.entry)
    }
}

impl KeptWorker {
    fn of(member: &Member, added: &Added) -> Self {
        let spec::Worker {
            url,
            model,
            api_key,
            // One that was added has the pool's.
            tls: _,
            labels,
            priority,
            cost,
            bootstrap_port,
            drain,
        } = added.worker.clone();
        Self {
            pool: Arc::clone(&member.pool),
            role: added.role,
            source: added.source,
            url,
            model,
            models: added.models.clone(),
            api_key: in_clear(api_key.as_ref()),
            labels,
            priority,
            cost,
            bootstrap_port,
            drain,
            runtime: added.runtime,
            health: added.health.clone(),
            circuit_breaker: added.circuit_breaker.clone(),
        }
    }

    fn open(self) -> (Member, Added) {
        let member = Member {
            pool: self.pool,
            worker: WorkerKey::new(self.url.as_str()),
        };
        let added = Added {
            source: self.source,
            role: self.role,
            worker: spec::Worker {
                url: self.url,
                model: self.model,
                api_key: self.api_key.as_deref().map(Secret::literal),
                tls: spec::ClientTls::default(),
                labels: self.labels,
                priority: self.priority,
                cost: self.cost,
                bootstrap_port: self.bootstrap_port,
                drain: self.drain,
            },
            models: self.models,
            runtime: self.runtime,
            health: self.health,
            circuit_breaker: self.circuit_breaker,
        };
        (member, added)
    }
}

impl KeptOverride {
    fn of(mark: Mark, changed: &Override) -> Self {
        Self {
            of: mark,
            priority: changed.priority,
            cost: changed.cost,
            labels: changed.labels.clone(),
            api_key: in_clear(changed.api_key.as_ref()),
            health: changed.health.clone(),
            circuit_breaker: changed.circuit_breaker.clone(),
            drain: changed.drain,
        }
    }

    fn open(self) -> (Member, Option<String>, Override) {
        let (member, entry) = self.of.open();
        let changed = Override {
            priority: self.priority,
            cost: self.cost,
            labels: self.labels,
            api_key: self.api_key.as_deref().map(Secret::literal),
            health: self.health,
            circuit_breaker: self.circuit_breaker,
            drain: self.drain,
        };
        (member, entry, changed)
    }
}

fn in_clear(key: Option<&Secret>) -> Option<String> {
    key.and_then(Secret::expose).map(str::to_owned)
}
