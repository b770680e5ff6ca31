//! Follows the workers of the current snapshot: each is registered, probed and looked after by a
//! task of its own for as long as the snapshot names it, and not longer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::desk::Desk;
use super::health::{self, Changed};
use super::loads::Loads;
use super::places::Places;
use super::register;
use super::report;
use super::target::Target;
use crate::base::clock;
use crate::base::task::AbortOnDrop;
use crate::live::{Live, Snapshot, WorkerRef};
use crate::plan::WorkerKey;
use crate::state::{HealthKey, HealthState};
use crate::telemetry::event;
use crate::upstream;

/// Workers that are registered at once.
const REGISTERING: usize = 200;

/// Changes of health that come within this long are reported together.
const TOGETHER: Duration = Duration::from_millis(100);

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// The tasks of all workers.
pub(super) struct Workers {
    live: Arc<Live>,
    probes: HashMap<HealthKey, Task, RandomState>,
    registrations: HashMap<WorkerKey, Registration, RandomState>,
    office: register::Office,
    places: Arc<Places>,
    changes: (mpsc::Sender<Changed>, mpsc::Receiver<Changed>),
    loads: Loads,
}

struct Task {
    target: watch::Sender<Arc<Target>>,
    _task: AbortOnDrop,
}

struct Registration {
    task: Task,
    again: Arc<Notify>,
}

impl Workers {
    pub(super) fn new(live: Arc<Live>, desk: Arc<Desk>) -> Self {
        let limit = live.load().plan.max_in_flight_probes;
        Self {
            loads: Loads::new(Arc::clone(&live)),
            live,
            probes: HashMap::default(),
            registrations: HashMap::default(),
            office: register::Office {
                desk,
                places: Arc::new(Semaphore::new(REGISTERING)),
            },
            places: Arc::new(Places::new(limit)),
            changes: mpsc::channel(64),
        }
    }

    /// Follows every publish for ever.
    pub(super) async fn run(mut self) {
        let mut published = self.live.subscribe();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow();
        loop {
            tokio::select! {
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow();
                }
                Some(first) = self.changes.1.recv() => self.report(first).await,
                _ = sweep.tick() => sweep_idle(&self.live.load()),
            }
        }
    }

    /// Starts, changes and ends tasks until they are those of the current snapshot.
    fn follow(&mut self) {
        let snapshot = self.live.load();
        let limit = snapshot.plan.max_in_flight_probes;
        if self.places.limit() != limit {
            self.places = Arc::new(Places::new(limit));
        }
        let mut probed: HashMap<HealthKey, WorkerRef<'_>, RandomState> = HashMap::default();
        // The ranks of an engine are asked once.
        let mut named: HashMap<WorkerKey, WorkerRef<'_>, RandomState> = HashMap::default();
        for worker in snapshot.workers() {
            let base = worker.plan.key.base();
            named.entry(base.clone()).or_insert(worker);
            let health = &worker.plan.health;
            // Until it is registered a worker is asked by its registration.
            if health.enabled && worker.plan.is_admitted() {
                let key = HealthKey {
                    worker: base,
                    endpoint: Arc::clone(&health.endpoint),
                    enabled: true,
                };
                probed.entry(key).or_insert(worker);
            }
        }
        self.loads.follow(&snapshot, &self.places);
        self.registrations.retain(|key, _| named.contains_key(key));
        self.probes.retain(|key, _| probed.contains_key(key));

        let places = &self.places;
        for (key, worker) in named {
            let target = Target::new(&snapshot, worker, places);
            if let Some(registration) = self.registrations.get(&key) {
                registration.task.set(target);
            } else {
                let again = Arc::new(Notify::new());
                let (office, asked) = (self.office.clone(), Arc::clone(&again));
                let task = Task::start("registration", target, |target| {
                    register::run(target, asked, office)
                });
                self.registrations.insert(key, Registration { task, again });
            }
        }
        for (key, worker) in probed {
            let target = Target::new(&snapshot, worker, places);
            if let Some(probe) = self.probes.get(&key) {
                probe.set(target);
            } else {
                let changes = self.changes.0.clone();
                let task = Task::start("probe", target, |target| health::run(target, changes));
                self.probes.insert(key, task);
            }
        }
    }

    /// Reports `first` and what comes right after it. A pool that has lost all its workers is
    /// reported as such, in one line.
    async fn report(&mut self, first: Changed) {
        let until = Instant::now() + TOGETHER;
        let turned = |loads: &Loads, change: &Changed| {
            let worker = change.target.worker.key.base();
            loads.turned(&worker, change.transition.to == HealthState::Ready);
        };
        turned(&self.loads, &first);
        let mut changes = vec![first];
        while let Ok(Some(next)) = timeout_at(until, self.changes.1.recv()).await {
            turned(&self.loads, &next);
            changes.push(next);
        }
        let snapshot = self.live.load();
        let mut lost: Vec<&str> = Vec::new();
        for change in &changes {
            let (target, to) = (&change.target, change.transition.to);
            match to {
                HealthState::Ready => {
                    retry_at_once(&snapshot, &target.worker.key);
                    report::named(&target.worker, &target.pool, |worker| {
                        event::WorkerReady { worker }.emit();
                    });
                    let base = target.worker.key.base();
                    if let Some(registration) = self.registrations.get(&base) {
                        registration.again.notify_one();
                    }
                }
                HealthState::NotReady => {
                    if lost.contains(&&*target.pool) {
                        continue;
                    }
                    if let Some(count) = size_if_lost(&snapshot, &target.pool) {
                        lost.push(&target.pool);
                        tracing::error!(
                            target: "smg::worker",
                            pool = &*target.pool, workers = count, reason = change.reason,
                            "no worker of the pool is ready"
                        );
                        continue;
                    }
                    report::named(&target.worker, &target.pool, |worker| {
                        event::WorkerNotReady {
                            worker,
                            reason: &change.reason,
                        }
                        .emit();
                    });
                }
                HealthState::Pending | HealthState::Failed => {
                    tracing::debug!(
                        target: "smg::worker",
                        worker = target.worker.key.as_str(), state = to.as_str(),
                        "worker changed its state"
                    );
                }
            }
        }
    }
}

impl Task {
    fn start<F>(
        name: &'static str,
        target: Target,
        run: impl FnOnce(watch::Receiver<Arc<Target>>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (target, asked) = watch::channel(Arc::new(target));
        Self {
            target,
            _task: AbortOnDrop::spawn(name, run(asked)),
        }
    }

    fn set(&self, target: Target) {
        self.target.send_if_modified(|known| {
            let differs = !known.is_same(&target);
            if differs {
                *known = Arc::new(target);
            }
            differs
        });
    }
}

/// Lets requests try `worker` and its ranks, which their probes have found well again.
fn retry_at_once(snapshot: &Snapshot, worker: &WorkerKey) {
    let beside = |other: &WorkerRef<'_>| other.plan.key.is_rank_beside(worker);
    for other in snapshot.workers().filter(beside) {
        other.parts.cell.breaker.worker_is_back();
    }
}

/// The number of workers of `pool` if none of them is usable.
fn size_if_lost(snapshot: &Snapshot, pool: &str) -> Option<usize> {
    let pool = snapshot
        .plan
        .pools
        .iter()
        .find(|known| *known.name == *pool)?;
    let mut workers = pool.workers.iter().filter_map(|ix| snapshot.worker(*ix));
    workers
        .all(|worker| !snapshot.is_usable(worker))
        .then_some(pool.workers.len())
}

fn sweep_idle(snapshot: &Snapshot) {
    let now = clock::now();
    for worker in snapshot.workers() {
        let timeout = snapshot
            .plan
            .pool(worker.plan.pool)
            .connections
            .idle_timeout;
        upstream::refresh(worker.parts.conns.names());
        worker.parts.conns.sweep(now, timeout);
    }
}
