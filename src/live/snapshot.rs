//! The plan joined to the living state.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use ahash::{AHashMap, AHashSet};
use http::uri::Authority;
use http::{HeaderValue, Uri};
use uuid::fmt::Hyphenated;

use super::degraded;
use super::quota::Accounts;
use crate::api::Endpoint;
use crate::plan::{
    DestinationIx, Jwt, Leg, Mirror, Plan, PoolIx, Role, Route, RouteIx, Source, Worker, WorkerIx,
    WorkerKey,
};
use crate::policy::{Lane, Memory};
use crate::state::{
    AdmissionCell, Allowance, BudgetCell, Cells, ConnKey, ConnPool, EntryCell, HealthCell,
    HealthKey, HealthState, IssuerCell, IssuerKey, Limits, MirrorCell, ModelCell, ModelKey,
    NameCell, RouteKey, VouchedCell, WorkerCell,
};

/// What one request sees from its first byte to its last: an immutable plan and, by index, the
/// cells that belong to it.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with every publish, facts included.
    pub id: u64,
    /// Number of the accepted configuration.
    pub generation: u64,
    /// Hash of the configuration, in hex.
    pub sha256: Arc<str>,
    /// When it was bound.
    pub born: Instant,
    /// What the configuration means.
    pub plan: Plan,
    /// Memory for what is buffered.
    pub memory: Allowance,
    workers: Box<[WorkerParts]>,
    routes: Box<[RouteParts]>,
    mirrors: Box<[Option<Arc<MirrorCell>>]>,
    budgets: Box<[Arc<BudgetCell>]>,
    admission: Arc<AdmissionCell>,
    entries: Box<[Arc<EntryCell>]>,
    issuer: Option<IssuerParts>,
    accounts: Accounts,
}

/// Cells and prebuilt values of one worker membership.
#[derive(Debug, Clone)]
pub struct WorkerParts {
    /// Load and counters.
    pub cell: Arc<WorkerCell>,
    /// Health under the probe of this pool.
    pub health: Arc<HealthCell>,
    /// Connections.
    pub conns: Arc<ConnPool>,
    /// Request targets by [`Endpoint::index`]: the base path, then the endpoint's.
    pub targets: [Uri; Endpoint::ALL.len()],
    /// The `host` header.
    pub host: HeaderValue,
    /// The same as the authority of an HTTP/2 request.
    pub authority: Authority,
    /// The `authorization` header, where the worker has a key.
    pub authorization: Option<HeaderValue>,
    /// The opaque id as a header value and as text for logs.
    pub id: HeaderValue,
}

impl WorkerParts {
    /// The opaque id as text.
    pub fn id_str(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }
}

/// Cells of one route.
#[derive(Debug)]
pub struct RouteParts {
    /// Metric series.
    pub model: Arc<ModelCell>,
    legs: Box<[LegParts]>,
}

impl RouteParts {
    /// The cells of the leg of `role`.
    pub fn leg(&self, role: Role) -> Option<&LegParts> {
        self.legs.iter().find(|leg| leg.role == role)
    }
}

/// Cells of one leg of a route.
#[derive(Debug)]
pub struct LegParts {
    role: Role,
    /// What the policy remembers.
    pub memory: Arc<Memory>,
    /// Places in that memory, in the order of the leg's candidates.
    pub lanes: Box<[Lane]>,
    /// Attempts per candidate, in the order of the leg's candidates.
    pub attempts: Box<[Arc<AtomicU64>]>,
}

/// Cells of the issuer whose tokens are accepted.
#[derive(Debug)]
pub struct IssuerParts {
    /// Its keys.
    pub cell: Arc<IssuerCell>,
    /// Tokens that have been verified, as the plan reads them.
    pub vouched: Arc<VouchedCell>,
}

/// A worker by index: its plan and its cells.
#[derive(Debug, Clone, Copy)]
pub struct WorkerRef<'a> {
    /// Index in the snapshot.
    pub ix: WorkerIx,
    /// What the configuration says.
    pub plan: &'a Worker,
    /// What lives.
    pub parts: &'a WorkerParts,
}

/// What a snapshot is called.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// Number of the snapshot.
    pub id: u64,
    /// Number of the configuration.
    pub generation: u64,
    /// Hash of the configuration.
    pub sha256: Arc<str>,
}

impl Snapshot {
    /// Joins `plan` to its cells, reusing every cell whose identity is unchanged. `previous` gives
    /// a worker whose probe has changed its old health until the first new probe.
    pub fn bind(
        plan: Plan,
        cells: &Cells,
        previous: Option<&Self>,
        stamp: Stamp,
        now: Instant,
    ) -> Self {
        let workers: Box<[WorkerParts]> = plan
            .workers
            .iter()
            .map(|worker| WorkerParts::bind(worker, &plan, cells, previous))
            .collect();
        let routes = plan
            .routes
            .all
            .iter()
            .map(|route| RouteParts::bind(route, &plan, &workers, cells))
            .collect();
        let mirrors = plan
            .routes
            .destinations
            .iter()
            .map(|destination| {
                let label = &destination.label;
                let cell = || MirrorCell::new(label);
                let mirror = destination.mirror.as_ref();
                mirror.map(|_| cells.mirrors.get_or_insert(label, cell))
            })
            .collect();
        let budgets = plan
            .pools
            .iter()
            .map(|pool| cells.budgets.get_or_insert(&pool.name, BudgetCell::default))
            .collect();
        let destinations = &plan.routes.destinations;
        let entries = destinations
            .iter()
            .map(|destination| {
                let entry = &destination.entry;
                let cell = || EntryCell::new(entry, &cells.admission);
                cells.entries.get_or_insert(entry, cell)
            })
            .collect();
        let issuer = plan.auth.jwt.as_ref();
        let issuer = issuer.map(|jwt| IssuerParts::bind(jwt, cells));
        Self {
            id: stamp.id,
            generation: stamp.generation,
            sha256: stamp.sha256,
            born: now,
            memory: Allowance::new(&cells.memory, plan.server.memory_budget),
            accounts: Accounts::bind(&plan, cells),
            plan,
            workers,
            routes,
            mirrors,
            budgets,
            admission: Arc::clone(&cells.admission),
            entries,
            issuer,
        }
    }

    /// The worker at `ix`, which must come from this snapshot's plan.
    pub fn worker(&self, ix: WorkerIx) -> Option<WorkerRef<'_>> {
        let index = ix.0 as usize;
        Some(WorkerRef {
            ix,
            plan: self.plan.workers.get(index)?,
            parts: self.workers.get(index)?,
        })
    }

    /// Every worker membership, in plan order.
    pub fn workers(&self) -> impl Iterator<Item = WorkerRef<'_>> {
        (0u32..)
            .zip(self.plan.workers.iter().zip(&self.workers))
            .map(|(ix, (plan, parts))| WorkerRef {
                ix: WorkerIx(ix),
                plan,
                parts,
            })
    }

    /// The route at `ix` and its cells.
    pub fn route(&self, ix: RouteIx) -> Option<(&Route, &RouteParts)> {
        let index = ix.0 as usize;
        Some((self.plan.routes.all.get(index)?, self.routes.get(index)?))
    }

    /// The mirror of the destination at `ix` and its cell, where it has one.
    pub fn mirror(&self, ix: DestinationIx) -> Option<(&Mirror, &Arc<MirrorCell>)> {
        let mirror = self.plan.routes.destination(ix)?.mirror.as_ref()?;
        Some((mirror, self.mirrors.get(ix.0 as usize)?.as_ref()?))
    }

    /// Retries of the pool at `ix`, which must come from this snapshot's plan.
    pub fn budget(&self, ix: PoolIx) -> Option<&BudgetCell> {
        self.budgets.get(ix.0 as usize).map(|cell| &**cell)
    }

    /// The issuer whose tokens are accepted.
    pub fn issuer(&self) -> Option<&IssuerParts> {
        self.issuer.as_ref()
    }

    /// What callers have used.
    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Inference requests that were let in and have not ended, and those that wait to be let in.
    pub fn under_way(&self) -> (usize, usize) {
        let waiting = self.admission.waiting_by_class();
        let waiting = waiting.iter().map(|(_, waiting)| waiting).sum();
        (self.admission.under_way(), waiting)
    }

    /// The gates of the process.
    pub(super) fn admission(&self) -> &AdmissionCell {
        &self.admission
    }

    /// The model entry of the destination at `ix`, and the class in which its requests wait.
    pub fn entry(&self, ix: DestinationIx) -> Option<(&Arc<EntryCell>, &Arc<str>)> {
        let class = &self.plan.routes.destination(ix)?.class;
        Some((self.entries.get(ix.0 as usize)?, class))
    }

    /// Lets in requests by the limits of this snapshot from `now` on, those too that wait already.
    /// For the snapshot that has just been published.
    pub fn hold_limits(&self, now: Instant) {
        let limits = Limits::of(&self.plan);
        self.admission.hold(limits, &*self.entries, now);
    }

    /// Whether `route` is served: each of its legs has a usable worker.
    pub fn can_serve(&self, route: &Route) -> bool {
        route.legs.iter().all(|leg| {
            let mut workers = leg.candidates.iter().filter_map(|ix| self.worker(*ix));
            workers.any(|worker| self.is_usable(worker))
        })
    }

    /// Whether somebody would take a request on `route` at `now`: each of its legs has a usable worker
    /// whose breaker lets it in.
    pub fn can_take(&self, route: &Route, now: Instant) -> bool {
        route.legs.iter().all(|leg| self.has_room(leg, now))
    }

    /// Whether some worker of `leg` would take a request at `now`.
    pub fn has_room(&self, leg: &Leg, now: Instant) -> bool {
        let mut workers = leg.candidates.iter().filter_map(|ix| self.worker(*ix));
        workers.any(|worker| self.is_open_to(worker, now))
    }

    /// Has the policies forget workers that this snapshot does not name. For the snapshot that has
    /// just been published.
    pub fn forget_others(&self) {
        let mut members: AHashMap<*const Memory, (&Memory, AHashSet<&WorkerKey>)> = AHashMap::new();
        for (route, parts) in self.plan.routes.all.iter().zip(&self.routes) {
            for (leg, parts) in route.legs.iter().zip(&parts.legs) {
                let (_, known) = members
                    .entry(Arc::as_ptr(&parts.memory))
                    .or_insert_with(|| (&parts.memory, AHashSet::new()));
                let workers = leg.candidates.iter().filter_map(|ix| self.worker(*ix));
                known.extend(workers.map(|worker| &worker.plan.key));
            }
        }
        for (memory, known) in members.values() {
            memory.retain(|worker| known.contains(worker));
        }
    }

    /// Has the policies forget what was in the cache of `worker`, which is empty now. The ranks of an
    /// engine are emptied together.
    pub fn flushed(&self, worker: &WorkerKey) {
        let keys: AHashSet<&WorkerKey> = self
            .plan
            .workers
            .iter()
            .map(|member| &member.key)
            .filter(|key| key.is_rank_beside(worker))
            .collect();
        for leg in self.routes.iter().flat_map(|parts| &parts.legs) {
            for key in &keys {
                leg.memory.flush(key);
            }
        }
    }

    /// The workers whose engines somebody wants to hear of, each membership.
    pub fn heard(&self) -> impl Iterator<Item = WorkerRef<'_>> {
        let wanted: AHashSet<WorkerIx> = self
            .plan
            .routes
            .all
            .iter()
            .flat_map(|route| route.legs.iter().map(move |leg| (route, leg)))
            .filter(|(route, leg)| degraded::wants(self, route, leg))
            .flat_map(|(_, leg)| leg.candidates.iter().copied())
            .collect();
        self.workers()
            .filter(move |worker| wanted.contains(&worker.ix))
    }

    /// Whether `worker` is one that requests go to, whatever its breaker says.
    pub fn is_usable(&self, worker: WorkerRef<'_>) -> bool {
        worker.plan.is_admitted() && !worker.plan.draining && worker.parts.health.is_ready()
    }

    /// Whether a request may go to `worker` at `now`.
    pub fn is_open_to(&self, worker: WorkerRef<'_>, now: Instant) -> bool {
        self.is_usable(worker) && worker.parts.cell.breaker.admits(&worker.plan.breaker, now)
    }
}

impl IssuerParts {
    fn bind(jwt: &Arc<Jwt>, cells: &Cells) -> Self {
        let key = IssuerKey::from(&**jwt);
        let issuer = || IssuerCell::new(key.clone());
        Self {
            cell: cells.issuers.get_or_insert(&key, issuer),
            vouched: cells.vouched.get_or_insert(jwt, VouchedCell::default),
        }
    }
}

impl RouteParts {
    fn bind(route: &Route, plan: &Plan, workers: &[WorkerParts], cells: &Cells) -> Self {
        let legs = route
            .legs
            .iter()
            .map(|leg| {
                let key = RouteKey {
                    pool: Arc::clone(&plan.pool(route.pool).name),
                    role: leg.role,
                    entry: Arc::clone(&route.entry),
                };
                let memory = cells.routes.get_or_insert(&key, Memory::default);
                let parts = || {
                    let known = leg.candidates.iter();
                    known.filter_map(|ix| workers.get(ix.0 as usize))
                };
                LegParts {
                    role: leg.role,
                    lanes: parts()
                        .map(|worker| memory.enrol(worker.cell.key()))
                        .collect(),
                    attempts: parts()
                        .map(|worker| worker.cell.attempts_of(&route.label))
                        .collect(),
                    memory,
                }
            })
            .collect();
        let series = ModelKey {
            model: Arc::clone(&route.label),
            policy: route.legs.answering().policy.as_str(),
            backend: if route.legs.is_pair() {
                "pd"
            } else {
                "regular"
            },
        };
        Self {
            model: cells
                .models
                .get_or_insert(&series.clone(), || ModelCell::new(series)),
            legs,
        }
    }
}

impl WorkerParts {
    fn bind(worker: &Worker, plan: &Plan, cells: &Cells, previous: Option<&Snapshot>) -> Self {
        let health = &worker.health;
        let key = HealthKey {
            // The ranks of an engine live and die together.
            worker: worker.key.base(),
            endpoint: Arc::clone(&health.endpoint),
            enabled: health.enabled,
        };
        let guarded = worker.source != Source::File;
        let conn_key = ConnKey {
            host: Arc::clone(&worker.host),
            port: worker.port,
            http2: plan.pool(worker.pool).connections.http2,
            guarded,
            // Part of the identity: connections that were made under another list are not used.
            networks: if guarded {
                Arc::clone(&plan.auth.worker_cidrs)
            } else {
                Arc::default()
            },
            tls: worker.tls.clone(),
        };
        let conns = || {
            let names = || NameCell::new(&worker.host);
            let names = cells.names.get_or_insert(&worker.host, names);
            ConnPool::new(&conn_key, names, &cells.tls)
        };
        let initial = || {
            let known = previous
                .and_then(|old| {
                    old.workers()
                        .find(|other| other.plan.key.base() == key.worker)
                })
                .map(|other| other.parts.health.state());
            if !health.enabled || worker.is_admitted() && known.is_none() {
                HealthState::Ready
            } else {
                known.unwrap_or(HealthState::Pending)
            }
        };
        Self {
            cell: cells
                .workers
                .get_or_insert(&worker.key, || WorkerCell::new(worker.key.clone())),
            health: cells
                .health
                .get_or_insert(&key, || HealthCell::new(initial())),
            conns: cells.conns.get_or_insert(&conn_key, conns),
            targets: Endpoint::ALL.map(|endpoint| {
                let target = format!("{}{}", worker.base_path, endpoint.path());
                target
                    .parse()
                    .unwrap_or_else(|_| Uri::from_static(endpoint.path()))
            }),
            host: HeaderValue::try_from(&*worker.authority)
                .unwrap_or_else(|_| HeaderValue::from_static("worker")),
            authority: worker
                .authority
                .parse()
                .unwrap_or_else(|_| Authority::from_static("worker")),
            authorization: worker.api_key.as_ref().and_then(|key| {
                let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()?)).ok()?;
                value.set_sensitive(true);
                Some(value)
            }),
            id: HeaderValue::try_from(
                worker
                    .id
                    .as_hyphenated()
                    .encode_lower(&mut [0; Hyphenated::LENGTH]) as &str,
            )
            .unwrap_or_else(|_| HeaderValue::from_static("worker")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock;
    use crate::config::Spec;
    use crate::plan::{Facts, compile};

    /// This many models, each served by all of this many workers.
    fn many(models: usize, workers: usize, policy: &str) -> Spec {
        let urls: Vec<String> = (0..workers).map(|n| format!("http://w{n}:1")).collect();
        let models = (0..models).map(|n| format!("[[models]]\nname = 'm{n}'\npool = 'p'\n"));
        let text = format!(
            "version = 1\nrouting.policy = '{policy}'\n[[pools]]\nname = 'p'\n\
             runtime = 'vllm'\nworkers = {urls:?}\n{}",
            models.collect::<String>()
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn many_models_at_many_workers_are_bound_in_a_moment() {
        // Unoptimised and on a busy machine; a ring for each model would take longer than that.
        const BOUND: Duration = Duration::from_secs(5);
        let cells = Cells::default();
        let mut before: Option<Snapshot> = None;
        for (id, policy) in (1..).zip(["consistent_hashing", "cache_aware", "consistent_hashing"]) {
            let spec = many(100, 100, policy);
            let started = clock::now();
            let plan = compile(&spec, &Facts::default());
            let compiled = clock::now();
            let stamp = Stamp {
                id,
                generation: id,
                sha256: "".into(),
            };
            let snapshot = Snapshot::bind(plan, &cells, before.as_ref(), stamp, compiled);
            snapshot.forget_others();
            let (plan, bind) = (compiled - started, compiled.elapsed());
            println!("{policy}: compiled in {plan:?}, bound in {bind:?}");
            assert!(plan + bind < BOUND, "{policy}: {plan:?} and {bind:?}");
            assert!(
                snapshot
                    .plan
                    .routes
                    .all
                    .iter()
                    .all(|route| snapshot.can_serve(route))
            );
            before = Some(snapshot);
        }
    }

    /// The memory of the leg of `role` of what `model` leads to.
    fn memory(snapshot: &Snapshot, model: &str, role: Role) -> Arc<Memory> {
        let routes = &snapshot.plan.routes;
        let found = routes.resolve(Some(model)).unwrap();
        let target = routes.target(&found, || 0, |_| true).unwrap();
        let (_, parts) = snapshot.route(target.route).unwrap();
        Arc::clone(&parts.leg(role).unwrap().memory)
    }

    /// A cursor that two legs or two models moved would leave out workers.
    #[test]
    fn each_leg_of_each_model_entry_has_a_memory_of_its_own_that_outlives_snapshots() {
        let text = "version = 1\n[[pools]]\nname = 'p'\nworkers = ['http://w:1']\n\
            [[pools]]\nname = 'pd'\nprefill.workers = ['http://a:1']\n\
            decode.workers = ['http://b:1']\n\
            [[models]]\nname = 'm'\naliases = ['also-m']\npool = 'p'\n\
            [[models]]\nname = 'n'\npool = 'p'\n\
            [[models]]\nname = 'g-*'\npool = 'p'\n\
            [[models]]\nname = 'legs'\npool = 'pd'\n";
        let cells = Cells::default();
        let bind = |id, policy: &str| {
            let spec: Spec =
                toml::from_str(&format!("{text}[routing]\npolicy = '{policy}'\n")).unwrap();
            let stamp = Stamp {
                id,
                generation: id,
                sha256: "".into(),
            };
            let plan = compile(&spec, &Facts::default());
            Snapshot::bind(plan, &cells, None, stamp, clock::now())
        };
        let before = bind(1, "round_robin");
        let of = |model| memory(&before, model, Role::Regular);
        let apart = [
            of("m"),
            of("n"),
            of("g-1"),
            memory(&before, "legs", Role::Prefill),
            memory(&before, "legs", Role::Decode),
        ];
        for (at, one) in apart.iter().enumerate() {
            assert!(!apart[..at].iter().any(|other| Arc::ptr_eq(one, other)));
        }
        assert!(Arc::ptr_eq(&of("m"), &of("also-m")));
        // A name under a glob is the client's invention.
        assert!(Arc::ptr_eq(&of("g-1"), &of("g-2")));
        let after = bind(2, "cache_aware");
        assert!(Arc::ptr_eq(&of("m"), &memory(&after, "m", Role::Regular)));
    }
}
