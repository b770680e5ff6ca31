//! Pools and workers from the declarations and the facts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::facts::Facts;
use super::fleet::{Member, Override, Source};
use super::pool::{Breaker, Budget, Connections, Health, Pool, PoolIx, Retry, Timeouts};
use super::tls;
use super::worker::{Registration, Role, Worker, WorkerIx, WorkerKey};
use crate::config::spec::{self, RetryOverride, Spec, TimeoutsOverride};

/// Index of `position`. Counts beyond `u32` cannot come out of a file that fits in memory.
pub(super) fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

pub(super) fn pools(spec: &Spec, facts: &Facts) -> (Vec<Pool>, Vec<Worker>) {
    let mut pools = Vec::with_capacity(spec.pools.len());
    let mut workers = Vec::new();
    let led = led(spec);
    for (position, declared) in spec.pools.iter().enumerate() {
        let ix = PoolIx(index(position));
        let short = declared.health.as_ref();
        let health = short
            .unwrap_or(&declared.reliability.health)
            .over(&spec.reliability.health);
        let breaker = declared
            .reliability
            .circuit_breaker
            .over(&spec.reliability.circuit_breaker);
        let name: Arc<str> = declared.name.as_str().into();
        let drains = facts.fleet.drains.get(&name).copied();
        let around = Around {
            ix,
            declared,
            draining: drains.unwrap_or(declared.drain),
            health: &health,
            breaker: &breaker,
            has_model: led.contains(&ix),
            facts,
        };
        let mut members: Vec<Worker> = present(&name, declared, facts)
            .into_iter()
            .flat_map(|(member, worker)| ranks(around.worker(&member, &worker), declared, facts))
            .collect();
        members.sort_by(|a, b| a.key.cmp(&b.key));
        let first = workers.len();
        let of = |role: Role| -> Vec<WorkerIx> {
            let members = members.iter().enumerate();
            members
                .filter(|(_, worker)| worker.role == role)
                .map(|(at, _)| WorkerIx(index(first + at)))
                .collect()
        };
        let pair = (declared.prefill.is_some() && declared.decode.is_some())
            .then(|| [of(Role::Prefill), of(Role::Decode)]);
        workers.extend(members);
        pools.push(Pool {
            name,
            runtime: declared.runtime,
            forward_authorization: declared.forward_authorization,
            dp_aware: declared.dp_aware,
            dynamic: declared.dynamic,
            draining: around.draining,
            dp_minimum_tokens: declared.dp_aware && declared.dp_minimum_tokens,
            connections: Connections {
                max_idle: declared.connections.max_idle_per_host as usize,
                idle_timeout: declared.connections.idle_timeout.get(),
                http2: declared.connections.http2,
            },
            health: health_plan(&health),
            breaker: breaker_plan(&breaker),
            retry: retry(spec, declared, None),
            timeouts: timeouts(spec, declared, None),
            workers: (first..workers.len()).map(|w| WorkerIx(index(w))).collect(),
            pair,
        });
    }
    (pools, workers)
}

/// A worker of a pool as it was declared or added.
struct Given {
    source: Source,
    role: Role,
    worker: spec::Worker,
    models: Vec<String>,
    runtime: Option<spec::Runtime>,
    health: spec::HealthOverride,
    breaker: spec::CircuitBreakerOverride,
}

/// Every worker that is in the pool `name` now, each with its key: those of the file that are not
/// out, and those that were added beside them.
fn present(name: &Arc<str>, pool: &spec::Pool, facts: &Facts) -> Vec<(Member, Given)> {
    let fleet = &facts.fleet;
    let member = |worker: &spec::Worker| Member {
        pool: Arc::clone(name),
        worker: WorkerKey::new(worker.url.as_str()),
    };
    let declared = in_roles(pool).map(|(role, worker)| {
        let given = Given {
            source: Source::File,
            role,
            worker: worker.clone(),
            models: worker.model.iter().cloned().collect(),
            runtime: None,
            health: spec::HealthOverride::default(),
            breaker: spec::CircuitBreakerOverride::default(),
        };
        (member(worker), given)
    });
    let mut present: Vec<(Member, Given)> = declared
        .filter(|(member, _)| !fleet.tombstones.contains(member))
        .collect();
    let urls: BTreeSet<WorkerKey> = in_roles(pool)
        .map(|(_, worker)| WorkerKey::new(worker.url.as_str()))
        .collect();
    let added = fleet
        .added
        .iter()
        .filter(|(member, added)| {
            // A worker whose role its pool does not have any more waits for better times.
            let fits = (added.role == Role::Regular) != pool.has_legs();
            member.pool == *name && fits && !urls.contains(&member.worker)
        })
        .map(|(member, added)| {
            let given = Given {
                source: added.source,
                role: added.role,
                worker: added.worker.clone(),
                models: added.models.clone(),
                runtime: added.runtime,
                health: added.health.clone(),
                breaker: added.circuit_breaker.clone(),
            };
            (member.clone(), given)
        });
    present.extend(added);
    present
}

/// Every declared worker of `pool` and what it does there.
fn in_roles(pool: &spec::Pool) -> impl Iterator<Item = (Role, &spec::Worker)> {
    [
        (Role::Regular, pool.workers.as_slice()),
        (Role::Prefill, leg_workers(pool.prefill.as_ref())),
        (Role::Decode, leg_workers(pool.decode.as_ref())),
    ]
    .into_iter()
    .flat_map(|(role, workers)| workers.iter().map(move |worker| (role, worker)))
}

fn leg_workers(leg: Option<&spec::Leg>) -> &[spec::Worker] {
    leg.map_or(&[], |leg| &leg.workers)
}

/// One of the pools among which a model entry divides its requests.
pub(super) struct Aim<'a> {
    pub(super) pool: PoolIx,
    pub(super) weight: f64,
    /// The model that is asked for there, where it is another one.
    pub(super) model: Option<&'a str>,
}

/// The pools that a model entry leads to: those among which it is split, the one that it names, or
/// the only one there is. Shares without weight are left out.
pub(super) fn aims<'a>(spec: &'a Spec, model: &'a spec::Model) -> Vec<Aim<'a>> {
    let whole = |pool| Aim {
        pool,
        weight: 1.0,
        model: None,
    };
    match (&*model.split, &model.pool) {
        ([], Some(name)) => pool_named(spec, name).map(whole).into_iter().collect(),
        ([], None) if spec.pools.len() == 1 => vec![whole(PoolIx(0))],
        ([], None) => Vec::new(),
        (split, _) => split
            .iter()
            .filter(|share| share.weight > 0.0)
            .filter_map(|share| {
                Some(Aim {
                    pool: pool_named(spec, &share.pool)?,
                    weight: share.weight,
                    model: share.model.as_deref(),
                })
            })
            .collect(),
    }
}

/// The pool of this name.
pub(super) fn pool_named(spec: &Spec, name: &str) -> Option<PoolIx> {
    let position = spec.pools.iter().position(|pool| pool.name == *name)?;
    Some(PoolIx(index(position)))
}

/// The pools that some model entry leads to, mirrors included.
pub(super) fn led(spec: &Spec) -> BTreeSet<PoolIx> {
    let mirrors = spec.models.iter().filter_map(|model| {
        let mirror = model.mirror.as_ref()?;
        pool_named(spec, &mirror.pool)
    });
    let served = spec.models.iter().flat_map(|model| aims(spec, model));
    served.map(|aim| aim.pool).chain(mirrors).collect()
}

/// What the workers of a pool have in common.
struct Around<'a> {
    ix: PoolIx,
    declared: &'a spec::Pool,
    draining: bool,
    health: &'a spec::Health,
    breaker: &'a spec::CircuitBreaker,
    has_model: bool,
    facts: &'a Facts,
}

impl Around<'_> {
    fn worker(&self, member: &Member, given: &Given) -> Worker {
        let Self {
            declared, facts, ..
        } = *self;
        let nothing = Override::default();
        let changed = facts.fleet.overrides.get(member).unwrap_or(&nothing);
        let worker = &given.worker;
        let key = member.worker.clone();
        let learned = facts.workers.get(&key);
        let parsed = url::Url::parse(key.as_str()).ok();
        let written = parsed
            .as_ref()
            .and_then(url::Url::host_str)
            .unwrap_or_default();
        let host = written.trim_start_matches('[').trim_end_matches(']');
        let port = parsed
            .as_ref()
            .and_then(url::Url::port_or_known_default)
            .unwrap_or(80);
        let base_path = parsed
            .as_ref()
            .map(|url| url.path().trim_end_matches('/'))
            .unwrap_or_default();
        let models: &[String] = match (&*given.models, learned) {
            ([], Some(learned)) => &learned.models,
            (said, _) => said,
        };
        let models = models.iter().map(|model| model.as_str().into()).collect();
        let mut labels = learned
            .map(|learned| learned.labels.clone())
            .unwrap_or_default();
        labels.extend(worker.labels.clone());
        for (name, value) in &changed.labels {
            match value {
                Some(value) => labels.insert(name.clone(), value.clone()),
                None => labels.remove(name),
            };
        }
        let runtime = given.runtime.or(declared.runtime);
        let leaving = facts.fleet.leaving.contains(member);
        let drain = changed.drain.unwrap_or(worker.drain);
        let health = changed.health.over(&given.health.over(self.health));
        let breaker = changed
            .circuit_breaker
            .over(&given.breaker.over(self.breaker));
        let own_key = changed.api_key.as_ref().or(worker.api_key.as_ref());
        Worker {
            id: key.id(),
            dp_size: None,
            pool: self.ix,
            source: given.source,
            draining: self.draining || drain || leaving,
            health: health_plan(&health),
            breaker: breaker_plan(&breaker),
            role: given.role,
            priority: changed.priority.unwrap_or(worker.priority),
            cost: changed.cost.unwrap_or(worker.cost),
            bootstrap_port: worker.bootstrap_port,
            tls: worker
                .url
                .is_tls()
                .then(|| Arc::new(tls::client(&worker.tls.over(&declared.tls), host))),
            host: host.into(),
            port,
            authority: format!("{written}:{port}").into(),
            base_path: base_path.into(),
            runtime: runtime.or_else(|| learned.and_then(|learned| learned.runtime)),
            models,
            max_model_len: learned.and_then(|learned| learned.max_model_len),
            api_key: own_key.or(declared.api_key.as_ref()).cloned(),
            labels,
            registration: if learned.is_some() {
                Registration::Registered
            } else if runtime.is_some() && self.has_model {
                Registration::AtOnce
            } else {
                Registration::Pending
            },
            key,
        }
    }
}

/// The ranks of `whole`, where its pool wants them; until their number is known, a worker that takes
/// nothing.
fn ranks(whole: Worker, declared: &spec::Pool, facts: &Facts) -> Vec<Worker> {
    if !declared.dp_aware {
        return vec![whole];
    }
    let learned = facts.workers.get(&whole.key);
    match learned.and_then(|learned| learned.ranks(whole.runtime).ok()) {
        Some(size) => (0..size)
            .map(|rank| {
                let key = whole.key.ranked(rank);
                Worker {
                    id: key.id(),
                    key,
                    dp_size: Some(size),
                    ..whole.clone()
                }
            })
            .collect(),
        None => vec![Worker {
            registration: Registration::Pending,
            ..whole
        }],
    }
}

fn health_plan(health: &spec::Health) -> Health {
    Health {
        enabled: health.enabled,
        failure_threshold: health.failure_threshold,
        success_threshold: health.success_threshold,
        timeout: health.timeout.get(),
        interval: health.interval.get(),
        endpoint: health.endpoint.as_str().into(),
        startup_timeout: health.startup_timeout.get(),
        startup_check_interval: health.startup_check_interval.get(),
        startup_delay: health.startup_delay.get(),
        drain_settle: health.drain_settle.get(),
        remove_unhealthy: health.remove_unhealthy,
    }
}

fn breaker_plan(breaker: &spec::CircuitBreaker) -> Breaker {
    Breaker {
        enabled: breaker.enabled,
        failure_threshold: breaker.failure_threshold,
        success_threshold: breaker.success_threshold,
        timeout: breaker.timeout.get(),
        window: breaker.window.get(),
    }
}

pub(super) fn retry(spec: &Spec, pool: &spec::Pool, model: Option<&RetryOverride>) -> Retry {
    let wider = pool.reliability.retry.over(&spec.reliability.retry);
    let retry = model.map_or_else(|| wider.clone(), |own| own.over(&wider));
    let mut status_codes = retry.status_codes.clone();
    status_codes.sort_unstable();
    Retry {
        attempts: if retry.enabled {
            retry.max_retries.max(1)
        } else {
            1
        },
        initial_backoff: retry.initial_backoff.get(),
        max_backoff: retry.max_backoff.get(),
        multiplier: retry.backoff_multiplier,
        jitter: retry.jitter_factor,
        status_codes,
        budget: Budget {
            ratio: retry.budget.ratio,
            min_per_second: retry.budget.min_per_second,
        },
    }
}

pub(super) fn timeouts(
    spec: &Spec,
    pool: &spec::Pool,
    model: Option<&TimeoutsOverride>,
) -> Timeouts {
    let wider = pool.reliability.timeouts.over(&spec.reliability.timeouts);
    let timeouts = model.map_or_else(|| wider.clone(), |own| own.over(&wider));
    let total: Duration = model
        .and_then(|own| own.total)
        .or(pool.reliability.timeouts.total)
        .unwrap_or(spec.server.request_timeout)
        .get();
    Timeouts {
        connect: timeouts.connect.get(),
        headers: timeouts.headers.get(),
        first_token: timeouts.first_token.get(),
        idle: timeouts.idle.get(),
        total,
    }
}
