//! The load monitor: asks the engines of those workers whose policy wants to know how busy they are,
//! and nobody else's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::places::{Pace, Places};
use super::target::Target;
use crate::api::load::Load;
use crate::base::clock;
use crate::base::task::AbortOnDrop;
use crate::live::{Live, Snapshot, signals};
use crate::plan::WorkerKey;
use crate::state::{ReportCell, WorkerCell};
use crate::upstream::loads::NoLoad;

/// How long an engine may think about its load.
const ANSWER: Duration = Duration::from_secs(5);

/// The first questions to many workers spread over this long at most.
const SPREAD: Duration = Duration::from_millis(500);

/// An engine that tells nothing is asked that many times less often.
const MUTE: u32 = 6;

/// Changes that come within this long are told together.
const TOGETHER: Duration = Duration::from_millis(100);

/// The tasks that ask.
pub(super) struct Loads {
    tasks: HashMap<WorkerKey, Task, RandomState>,
    changed: Arc<Notify>,
    _teller: AbortOnDrop,
}

struct Task {
    asked: watch::Sender<Arc<Asked>>,
    wake: Arc<Notify>,
    _task: AbortOnDrop,
}

/// An engine, and who wants to hear of it.
#[derive(Debug)]
struct Asked {
    target: Target,
    /// The worker, or its ranks.
    cells: Vec<Arc<WorkerCell>>,
    interval: Duration,
}

impl Loads {
    pub(super) fn new(live: Arc<Live>) -> Self {
        let changed = Arc::new(Notify::new());
        let teller = tell(live, Arc::clone(&changed));
        Self {
            tasks: HashMap::default(),
            changed,
            _teller: AbortOnDrop::spawn("policy signals", teller),
        }
    }

    /// Starts, changes and ends tasks until they are those that `snapshot` wants.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, places: &Arc<Places>) {
        let mut wanted: HashMap<WorkerKey, Asked, RandomState> = HashMap::default();
        for worker in snapshot.heard().filter(|worker| worker.plan.is_admitted()) {
            let asked = wanted
                .entry(worker.plan.key.base())
                .or_insert_with(|| Asked {
                    target: Target::new(snapshot, worker, places),
                    cells: Vec::new(),
                    interval: snapshot.plan.load_monitor.interval,
                });
            let cell = &worker.parts.cell;
            if !asked.cells.iter().any(|known| Arc::ptr_eq(known, cell)) {
                asked.cells.push(Arc::clone(cell));
            }
        }
        self.tasks.retain(|key, _| wanted.contains_key(key));
        for (key, asked) in wanted {
            match self.tasks.get(&key) {
                Some(task) => task.set(asked),
                None => {
                    let task = Task::start(asked, &self.changed);
                    self.tasks.insert(key, task);
                }
            }
        }
        self.changed.notify_one();
    }

    /// The worker has become ready, or is ready no longer.
    pub(super) fn turned(&self, worker: &WorkerKey, is_ready: bool) {
        if let Some(task) = self.tasks.get(worker) {
            if !is_ready {
                task.asked.borrow().clear();
            }
            task.wake.notify_one();
        }
        self.changed.notify_one();
    }
}

impl Task {
    fn start(asked: Asked, changed: &Arc<Notify>) -> Self {
        let wake = Arc::new(Notify::new());
        let (sender, receiver) = watch::channel(Arc::new(asked));
        let task = run(receiver, Arc::clone(&wake), Arc::clone(changed));
        Self {
            asked: sender,
            wake,
            _task: AbortOnDrop::spawn("load monitor", task),
        }
    }

    fn set(&self, asked: Asked) {
        self.asked.send_if_modified(|known| {
            let differs = !known.is_same(&asked);
            if differs {
                known.leave(&asked);
                *known = Arc::new(asked);
            }
            differs
        });
    }
}

/// Nobody wants to hear of the engine any more.
impl Drop for Task {
    fn drop(&mut self) {
        for report in self.asked.borrow().reports() {
            report.forget();
        }
    }
}

impl Asked {
    fn is_same(&self, other: &Self) -> bool {
        self.interval == other.interval
            && self.target.is_same(&other.target)
            && self.cells.len() == other.cells.len()
            && self
                .cells
                .iter()
                .zip(&other.cells)
                .all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn reports(&self) -> impl Iterator<Item = &ReportCell> {
        self.cells.iter().map(|cell| &cell.report)
    }

    /// Forgets what those were told that `next` has no more.
    fn leave(&self, next: &Self) {
        let stays = |cell| next.cells.iter().any(|other| Arc::ptr_eq(cell, other));
        for cell in self.cells.iter().filter(|cell| !stays(*cell)) {
            cell.report.forget();
        }
    }

    /// Gives each rank its part and the worker everything. Returns whether somebody now hears who did
    /// not before, or the reverse.
    fn hear(&self, told: &Result<Vec<Load>, NoLoad>) -> bool {
        let Ok(ranks) = told else {
            return self.clear();
        };
        let now = clock::now();
        let mut news = false;
        for cell in &self.cells {
            let own: Vec<Load> = match cell.key().rank() {
                None => ranks.clone(),
                Some(rank) => {
                    let mine = |load: &&Load| load.dp_rank == Some(rank);
                    ranks.iter().filter(mine).copied().collect()
                }
            };
            news |= match own.is_empty() {
                false => cell.report.put(own, now),
                true if ranks.is_empty() && cell.report.put_idle(now) => false,
                true => cell.report.clear(),
            };
        }
        news
    }

    fn clear(&self) -> bool {
        let mut news = false;
        for report in self.reports() {
            news |= report.clear();
        }
        news
    }
}

/// Asks for ever: the first time soon, the second time somewhere within the interval, so that the
/// questions to many workers spread out; and at once when the worker becomes ready.
async fn run(mut asked: watch::Receiver<Arc<Asked>>, wake: Arc<Notify>, changed: Arc<Notify>) {
    let first = asked.borrow().interval.min(SPREAD).mul_f64(fastrand::f64());
    let mut due = Instant::now() + first;
    let mut spread = true;
    let mut pace = Pace::default();
    loop {
        if !wait_until(due, &mut asked, &wake).await {
            return;
        }
        let now = Arc::clone(&asked.borrow_and_update());
        let mut pause = now.interval;
        if now.target.parts.health.is_ready() {
            let ask = || now.target.loads(ANSWER);
            let Ok(told) = now.target.places.hold(&mut pace, ask).await else {
                return;
            };
            if let Err(error) = &told {
                tracing::debug!(
                    target: "smg::worker", worker = now.target.worker.key.as_str(), %error,
                    "no load report"
                );
            }
            // What came in for workers that have left meanwhile is lost, as it should be.
            let hearing = Arc::clone(&asked.borrow());
            if hearing.target.parts.health.is_ready() && hearing.hear(&told) {
                changed.notify_one();
            }
            if matches!(told, Err(NoLoad::Nothing)) {
                pause = pause.saturating_mul(MUTE);
            } else if std::mem::take(&mut spread) {
                pause = pause.mul_f64(fastrand::f64());
            }
        } else if now.clear() {
            changed.notify_one();
        }
        due = Instant::now() + pause;
    }
}

/// Waits until `due`, or until the worker has become ready. A shorter interval counts from now on, and
/// who asks in another way asks at once. `false` once there is nobody to ask for.
async fn wait_until(
    mut due: Instant,
    asked: &mut watch::Receiver<Arc<Asked>>,
    wake: &Notify,
) -> bool {
    loop {
        let before = Arc::clone(&asked.borrow_and_update());
        tokio::select! {
            () = sleep_until(due) => return true,
            () = wake.notified() => return true,
            changed = asked.changed() => {
                if changed.is_err() {
                    return false;
                }
                let now = Arc::clone(&asked.borrow());
                if !now.target.is_same(&before.target) {
                    return true;
                }
                due = due.min(Instant::now() + now.interval);
            }
        }
    }
}

/// Says once when a policy begins to run without what it wants to look at, and once when that ends.
async fn tell(live: Arc<Live>, changed: Arc<Notify>) {
    let mut told: BTreeSet<(String, &'static str)> = BTreeSet::new();
    loop {
        changed.notified().await;
        sleep(TOGETHER).await;
        let snapshot = live.load();
        let mut now = BTreeSet::new();
        for signal in signals(&snapshot, clock::now()) {
            let (model, policy) = (signal.model, signal.policy);
            let key = (model.to_owned(), policy);
            if !signal.is_degraded() {
                // Before the first answer nothing has ended.
                if signal.asked > 0 && told.remove(&key) {
                    tracing::info!(
                        target: "smg::policy", model, policy,
                        "policy knows the load of all engines"
                    );
                }
                continue;
            }
            if !told.contains(&key) {
                tracing::warn!(
                    target: "smg::policy", model, policy, reason = signal.reason(),
                    "policy runs without the load of engines"
                );
            }
            now.insert(key);
        }
        told.extend(now);
        // A model that is gone, or has another policy, is not spoken of again.
        let wanting: BTreeSet<_> = signals(&snapshot, clock::now())
            .iter()
            .map(|signal| (signal.model.to_owned(), signal.policy))
            .collect();
        told.retain(|key| wanting.contains(key));
    }
}
