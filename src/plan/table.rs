//! Pools, workers and routes from the declarations and the facts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::facts::Facts;
use super::pool::{Connections, Health, Pool, PoolIx, Retry, Timeouts};
use super::ring::Ring;
use super::route::{Glob, Leg, Legs, Listed, Named, Route, RouteIx, Routes, is_glob, matches};
use super::worker::{Admission, Role, Worker, WorkerIx, WorkerKey};
use crate::config::spec::{self, Policy, RetryOverride, Spec, TimeoutsOverride, Undeclared};

/// Index of `position`. Counts beyond `u32` cannot come out of a file that fits in memory.
fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

pub(super) fn pools(spec: &Spec, facts: &Facts) -> (Vec<Pool>, Vec<Worker>) {
    let mut pools = Vec::with_capacity(spec.pools.len());
    let mut workers = Vec::new();
    for (position, declared) in spec.pools.iter().enumerate() {
        let ix = PoolIx(index(position));
        let has_model = spec
            .models
            .iter()
            .any(|model| pool_of(spec, model) == Some(ix));
        let mut members: Vec<Worker> = in_roles(declared)
            .map(|(role, worker)| Worker {
                role,
                ..member(ix, declared, worker, has_model, facts)
            })
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
        let short = declared.health.as_ref();
        let health = short
            .unwrap_or(&declared.reliability.health)
            .over(&spec.reliability.health);
        pools.push(Pool {
            name: declared.name.as_str().into(),
            runtime: declared.runtime,
            forward_authorization: declared.forward_authorization,
            connections: Connections {
                max_idle: declared.connections.max_idle_per_host as usize,
                idle_timeout: declared.connections.idle_timeout.get(),
            },
            health: health_plan(&health),
            retry: retry(spec, declared, None),
            timeouts: timeouts(spec, declared, None),
            workers: (first..workers.len()).map(|w| WorkerIx(index(w))).collect(),
            pair,
        });
    }
    (pools, workers)
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

/// The pool that a model entry leads to: the one it names, or the only one there is.
fn pool_of(spec: &Spec, model: &spec::Model) -> Option<PoolIx> {
    let position = match &model.pool {
        Some(name) => spec.pools.iter().position(|pool| pool.name == *name)?,
        None if spec.pools.len() == 1 => 0,
        None => return None,
    };
    Some(PoolIx(index(position)))
}

fn member(
    pool: PoolIx,
    declared: &spec::Pool,
    worker: &spec::Worker,
    has_model: bool,
    facts: &Facts,
) -> Worker {
    let key = WorkerKey::new(worker.url.as_str());
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
    let models: Vec<Arc<str>> = match (&worker.model, learned) {
        (Some(model), _) => vec![model.as_str().into()],
        (None, Some(learned)) => learned.models.iter().map(|m| m.as_str().into()).collect(),
        (None, None) => Vec::new(),
    };
    let mut labels = learned
        .map(|learned| learned.labels.clone())
        .unwrap_or_default();
    labels.extend(worker.labels.clone());
    Worker {
        id: key.id(),
        pool,
        role: Role::Regular,
        priority: worker.priority,
        cost: worker.cost,
        bootstrap_port: worker.bootstrap_port,
        host: host.into(),
        port,
        authority: format!("{written}:{port}").into(),
        base_path: base_path.into(),
        runtime: declared
            .runtime
            .or_else(|| learned.and_then(|learned| learned.runtime)),
        models,
        max_model_len: learned.and_then(|learned| learned.max_model_len),
        api_key: worker.api_key.clone().or_else(|| declared.api_key.clone()),
        labels,
        admission: if learned.is_some() {
            Admission::Registered
        } else if declared.runtime.is_some() && has_model {
            Admission::AtOnce
        } else {
            Admission::Pending
        },
        key,
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
    }
}

fn retry(spec: &Spec, pool: &spec::Pool, model: Option<&RetryOverride>) -> Retry {
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
    }
}

fn timeouts(spec: &Spec, pool: &spec::Pool, model: Option<&TimeoutsOverride>) -> Timeouts {
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

/// Collects routes while names are claimed in the order of authority: declared names, aliases,
/// advertised names under a glob, advertised names that nobody declared, workers that take any.
struct Builder<'a> {
    spec: &'a Spec,
    pools: &'a [Pool],
    workers: &'a [Worker],
    routes: Routes,
    rings: RefCell<BTreeMap<(Role, BTreeSet<PoolIx>), Arc<Ring>>>,
}

pub(super) fn routes(spec: &Spec, facts: &Facts, pools: &[Pool], workers: &[Worker]) -> Routes {
    let mut builder = Builder {
        spec,
        pools,
        workers,
        routes: Routes::default(),
        rings: RefCell::default(),
    };
    builder.declared();
    if spec.routing.undeclared_models == Undeclared::Discover {
        builder.discovered(facts);
    }
    builder.sole();
    builder.routes.listed.sort();
    builder.routes
}

impl Builder<'_> {
    fn declared(&mut self) {
        for model in self
            .spec
            .models
            .iter()
            .filter(|model| !is_glob(&model.name))
        {
            let name: Arc<str> = model.name.as_str().into();
            if let Some(route) = self.declare(model, &name, &name) {
                self.claim(&name, &name, route);
            }
        }
        for model in &self.spec.models {
            let canonical: Arc<str> = model.name.as_str().into();
            let Some(named) = self.routes.names.get(&canonical).cloned() else {
                continue;
            };
            for alias in &model.aliases {
                self.claim(&alias.as_str().into(), &canonical, named.route);
            }
        }
        let mut globs: Vec<&spec::Model> = self
            .spec
            .models
            .iter()
            .filter(|model| is_glob(&model.name))
            .collect();
        globs.sort_by_key(|model| std::cmp::Reverse(model.name.chars().count()));
        for model in globs {
            let pattern: Arc<str> = model.name.as_str().into();
            for name in self.advertised(|pool| pool_of(self.spec, model) == Some(pool)) {
                if matches(&pattern, &name) && !self.routes.names.contains_key(&name) {
                    let route = self.declare(model, &name, &pattern);
                    if let Some(route) = route {
                        self.claim(&name, &name, route);
                    }
                }
            }
            if let Some(route) = self.declare(model, &"unknown".into(), &pattern) {
                let ix = route.0 as usize;
                let workers = self.workers;
                if let Some(open) = self.routes.all.get_mut(ix) {
                    open.legs.retain(|w| {
                        workers
                            .get(w.0 as usize)
                            .is_some_and(|w| w.models.is_empty())
                    });
                }
                self.routes.globs.push(Glob { pattern, route });
            }
        }
    }

    /// Names that registered workers of the pools that `wanted` picks say they serve.
    fn advertised(&self, wanted: impl Fn(PoolIx) -> bool) -> BTreeSet<Arc<str>> {
        self.workers
            .iter()
            .filter(|worker| wanted(worker.pool))
            .flat_map(|worker| worker.models.iter().cloned())
            .collect()
    }

    fn declare(
        &mut self,
        model: &spec::Model,
        label: &Arc<str>,
        entry: &Arc<str>,
    ) -> Option<RouteIx> {
        let pool = pool_of(self.spec, model)?;
        let declared = self.spec.pools.get(pool.0 as usize)?;
        let candidates = self
            .pools
            .get(pool.0 as usize)?
            .workers
            .iter()
            .copied()
            .filter(|ix| self.serves(*ix, label, entry))
            .collect();
        Some(self.push(Route {
            label: Arc::clone(label),
            entry: Arc::clone(entry),
            pool,
            legs: self.legs(pool, candidates, model.policy.as_ref()),
            retry: retry(self.spec, declared, Some(&model.reliability.retry)),
            timeouts: timeouts(self.spec, declared, Some(&model.reliability.timeouts)),
        }))
    }

    /// A worker that names no model serves every model declared for its pool.
    fn serves(&self, ix: WorkerIx, model: &str, entry: &str) -> bool {
        self.workers.get(ix.0 as usize).is_some_and(|worker| {
            worker.models.is_empty()
                || is_glob(entry) && model == "unknown"
                || worker.models.iter().any(|name| **name == *model)
        })
    }

    fn discovered(&mut self, facts: &Facts) {
        let mut found: BTreeMap<Arc<str>, Vec<WorkerIx>> = BTreeMap::new();
        let mut any = Vec::new();
        for (position, worker) in self.workers.iter().enumerate() {
            let ix = WorkerIx(index(position));
            for name in &worker.models {
                found.entry(Arc::clone(name)).or_default().push(ix);
            }
            let declared = self
                .spec
                .models
                .iter()
                .any(|model| pool_of(self.spec, model) == Some(worker.pool));
            if worker.models.is_empty() && !declared && facts.workers.contains_key(&worker.key) {
                any.push(ix);
            }
        }
        for (name, candidates) in found {
            if self.routes.names.contains_key(&name) {
                continue;
            }
            if let Some(route) = self.open(&name, &name, candidates) {
                self.claim(&name, &name, route);
            }
        }
        if !any.is_empty() {
            self.routes.any = self.open(&"unknown".into(), &"*".into(), any);
        }
    }

    /// A route for what workers advertise. A URL that stands in two pools is taken once; the
    /// settings are those of the first pool.
    fn open(
        &mut self,
        label: &Arc<str>,
        entry: &Arc<str>,
        mut candidates: Vec<WorkerIx>,
    ) -> Option<RouteIx> {
        let workers = self.workers;
        let key = |ix: &WorkerIx| workers.get(ix.0 as usize).map(|worker| worker.key.clone());
        let pool = candidates
            .first()
            .and_then(|ix| workers.get(ix.0 as usize))?
            .pool;
        candidates.sort_by_key(key);
        candidates.dedup_by_key(|ix| key(ix));
        let declared = self.pools.get(pool.0 as usize)?;
        Some(self.push(Route {
            label: Arc::clone(label),
            entry: Arc::clone(entry),
            pool,
            legs: self.legs(pool, candidates, None),
            retry: declared.retry.clone(),
            timeouts: declared.timeouts,
        }))
    }

    /// The legs of a route to `pool`, whose workers that serve the model are `candidates`.
    fn legs(&self, pool: PoolIx, candidates: Vec<WorkerIx>, own: Option<&Policy>) -> Legs {
        let declared = self.spec.pools.get(pool.0 as usize);
        let pair = declared.and_then(|pool| pool.prefill.as_ref().zip(pool.decode.as_ref()));
        let leg = |role, candidates: Vec<WorkerIx>, declared: Option<&spec::Leg>| {
            let policy = own
                .or_else(|| declared.and_then(|leg| leg.policy.as_ref()))
                .unwrap_or(&self.spec.routing.policy)
                .clone();
            Leg {
                role,
                ring: self.ring(pool, role, &candidates, &policy),
                candidates,
                sticky: self.spec.routing.sticky_sessions,
                policy,
            }
        };
        let Some((prefill, decode)) = pair else {
            return Legs::One(leg(Role::Regular, candidates, None));
        };
        let is_prefill = |ix: &WorkerIx| {
            self.workers
                .get(ix.0 as usize)
                .is_some_and(|worker| worker.role == Role::Prefill)
        };
        let (first, second) = candidates.iter().partition(|ix| is_prefill(ix));
        Legs::Pair {
            prefill: leg(Role::Prefill, first, Some(prefill)),
            decode: leg(Role::Decode, second, Some(decode)),
        }
    }

    /// The ring of a leg, where `policy` looks at one: of all workers in this role of the pools that
    /// candidates come from. Routes with the same workers share it.
    fn ring(
        &self,
        pool: PoolIx,
        role: Role,
        candidates: &[WorkerIx],
        policy: &Policy,
    ) -> Option<Arc<Ring>> {
        if !matches!(policy, Policy::ConsistentHashing | Policy::PrefixHash(_)) {
            return None;
        }
        let worker = |ix: &WorkerIx| self.workers.get(ix.0 as usize);
        let mut pools = BTreeSet::from([pool]);
        pools.extend(candidates.iter().filter_map(|ix| Some(worker(ix)?.pool)));
        let mut rings = self.rings.borrow_mut();
        let ring = rings.entry((role, pools)).or_insert_with_key(|(_, pools)| {
            let members = pools
                .iter()
                .filter_map(|pool| self.pools.get(pool.0 as usize))
                .flat_map(|pool| &pool.workers)
                .filter_map(|ix| Some((*ix, worker(ix)?)))
                .filter(|(_, worker)| worker.role == role)
                .map(|(ix, worker)| (ix, &worker.key));
            Arc::new(Ring::new(members))
        });
        Some(Arc::clone(ring))
    }

    fn push(&mut self, route: Route) -> RouteIx {
        let ix = RouteIx(index(self.routes.all.len()));
        self.routes.all.push(route);
        ix
    }

    fn claim(&mut self, name: &Arc<str>, canonical: &Arc<str>, route: RouteIx) {
        let max_model_len = self.routes.all.get(route.0 as usize).and_then(|route| {
            route
                .legs
                .candidates()
                .find_map(|ix| self.workers.get(ix.0 as usize)?.max_model_len)
        });
        self.routes.names.insert(
            Arc::clone(name),
            Named {
                canonical: Arc::clone(canonical),
                route,
            },
        );
        self.routes.listed.push(Listed {
            id: Arc::clone(name),
            root: Arc::clone(canonical),
            max_model_len,
        });
    }

    /// A request without a model is served while there is exactly one it can mean. Workers that
    /// take any name count as one model; so does a glob that no advertised name has filled.
    fn sole(&mut self) {
        let mut served: BTreeSet<RouteIx> = self
            .routes
            .names
            .values()
            .map(|named| named.route)
            .collect();
        served.extend(self.routes.any);
        served.extend(
            self.routes
                .globs
                .iter()
                .map(|glob| glob.route)
                .filter(|ix| {
                    self.routes
                        .all
                        .get(ix.0 as usize)
                        .is_some_and(|route| route.legs.candidates().next().is_some())
                }),
        );
        if served.len() == 1 {
            self.routes.sole = served.pop_first();
        }
    }
}
