//! Says when a pool or a worker begins to drain, and when its last request is done.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::live::Snapshot;
use crate::plan::WorkerKey;

/// What drains: a pool, or one worker of it.
type Draining = (Arc<str>, Option<WorkerKey>);

/// What was said of what drains.
#[derive(Debug, Default)]
pub(super) struct Drains {
    /// Whether it is known to have nothing left.
    known: BTreeMap<Draining, bool>,
}

impl Drains {
    /// Looks at all that drains. Returns whether some of it still has requests.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) -> bool {
        let mut now: BTreeMap<Draining, (usize, HashSet<*const _>)> = BTreeMap::new();
        for worker in snapshot.workers().filter(|worker| worker.plan.draining) {
            let pool = snapshot.plan.pool(worker.plan.pool);
            let one = (!pool.draining).then(|| worker.plan.key.clone());
            let (load, counted) = now.entry((Arc::clone(&pool.name), one)).or_default();
            if counted.insert(Arc::as_ptr(&worker.parts.cell)) {
                *load += worker.parts.cell.load();
            }
        }
        self.known.retain(|draining, _| now.contains_key(draining));
        let mut waits = false;
        for ((pool, worker), (load, _)) in now {
            waits |= load > 0;
            let name = worker.as_ref().map(WorkerKey::as_str);
            let begins = !self
                .known
                .contains_key(&(Arc::clone(&pool), worker.clone()));
            if begins {
                tracing::info!(target: "smg::worker", pool = &*pool, worker = name, load, "draining");
            }
            let done = self
                .known
                .entry((Arc::clone(&pool), worker.clone()))
                .or_default();
            if load == 0 && !*done {
                *done = true;
                tracing::info!(
                    target: "smg::worker", pool = &*pool, worker = name,
                    "drained: no request is left"
                );
            }
        }
        waits
    }
}
