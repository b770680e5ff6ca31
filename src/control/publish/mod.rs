//! The one writer of snapshots: read, check, compile, prepare, publish.
//!
//! Invariant: every step but the last may fail, and then nothing has changed; the last is one swap
//! and cannot fail. Facts about workers take the same road from `compile` on; they make a new
//! snapshot, never a generation.

mod facts;
mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::Outside;
use super::desk::{Desk, Request};
use super::fleet::{Board, Ledger};
use super::status::{Candidate, Status};
use super::watch::Watched;
use super::{logging, report};
use crate::base::{clock, memory};
use crate::config::{self, Loaded};
use crate::live::{Live, Outcome, Prepared, Snapshot, Sockets, Stamp, Trigger};
use crate::plan::{self, Change, Facts, Plan, WorkerKey};
use crate::state::{Cells, MemoryCell};
use crate::telemetry::event;

/// After a change of the facts has been published, further ones are gathered for this long.
const GATHER: Duration = Duration::from_millis(250);

/// After so long a file that could not be read or written is tried again.
const AGAIN: Duration = Duration::from_secs(3);

/// How a reload goes, for the service manager.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// It has begun.
    Reloading,
    /// This generation serves, old or new.
    Serving(u64),
    /// It was refused for this reason; the old generation serves on.
    Refused(&'a str),
}

/// Is told how reloads go.
pub type Observer = Box<dyn Fn(Step<'_>) + Send + Sync>;

/// Owns the configuration in effect, what is known of workers, and the cells.
pub(super) struct Publisher {
    outside: Outside,
    desk: Arc<Desk>,
    live: Arc<Live>,
    cells: Arc<Cells>,
    status: Arc<Mutex<Status>>,
    watched: watch::Sender<Watched>,
    loaded: Arc<Loaded>,
    /// What the files say, where that was refused.
    refused: Option<Arc<Loaded>>,
    facts: Facts,
    ledger: Ledger,
    /// Whether the fleet has changed since it was published.
    changed: bool,
    generation: u64,
}

/// Reads the files. They may lie on a disk that hangs, and nothing else waits for that.
type Reading = JoinHandle<Loaded>;

/// The next snapshot, which nobody sees yet, and the one that it takes the place of.
struct Bound {
    old: Arc<Snapshot>,
    next: Snapshot,
    /// How they differ.
    changes: Vec<Change>,
}

impl Publisher {
    /// `None` if `first` has no spec.
    pub(super) fn new(
        first: Loaded,
        outside: Outside,
        desk: Arc<Desk>,
        board: &Arc<Board>,
    ) -> Option<Self> {
        let spec = first.spec.as_ref()?;
        let (ledger, fleet) = Ledger::open(spec, board);
        let facts = Facts {
            fleet,
            ..Facts::default()
        };
        let cells = Cells {
            memory: Arc::new(MemoryCell::new(memory::available())),
            ..Cells::default()
        };
        let generation = 1;
        let began = clock::now();
        let plan = plan::compile(spec, &facts);
        let sha256: Arc<str> = first.sha256.as_str().into();
        let stamp = Stamp {
            id: 1,
            generation,
            sha256: Arc::clone(&sha256),
        };
        let snapshot = Snapshot::bind(plan, &cells, None, stamp, clock::now());
        snapshot.hold_limits(clock::now());
        logging::trace(&snapshot.plan);
        let applied = event::ConfigApplied {
            trigger: event::Trigger::Start,
            generation,
            sha256: &sha256,
            changes: "",
        };
        // Warnings were printed by whoever loaded the configuration.
        applied.emit();
        report::synchronized("static", began);
        let watched = watch::Sender::new(Watched::of(&first));
        let loaded = Arc::new(first);
        let status = Status {
            live: Candidate {
                generation,
                sha256,
                time: clock::wall(),
                trigger: event::Trigger::Start.as_str(),
                diagnostics: loaded.diagnostics.clone(),
            },
            rejected: None,
            loaded: Arc::clone(&loaded),
        };
        Some(Self {
            outside,
            desk,
            live: Arc::new(Live::new(prepared(snapshot))),
            cells: Arc::new(cells),
            status: Arc::new(Mutex::new(status)),
            watched,
            loaded,
            refused: None,
            facts,
            ledger,
            changed: false,
            generation,
        })
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The file that the process was told, as it was told; empty: none.
    pub(super) fn file(&self) -> String {
        let file = self.outside.input.file.as_deref();
        file.map_or_else(String::new, |file| file.display().to_string())
    }

    pub(super) fn status(&self) -> Arc<Mutex<Status>> {
        Arc::clone(&self.status)
    }

    pub(super) fn watched(&self) -> watch::Receiver<Watched> {
        self.watched.subscribe()
    }

    /// Works off the desk for ever.
    pub(super) async fn run(mut self, sockets: Arc<dyn Sockets>) {
        self.keep_fleet().await;
        let mut facts_from = Instant::now();
        let mut again = Instant::now();
        let mut keep_from = Instant::now() + AGAIN;
        let mut reading: Option<(Request, Reading)> = None;
        loop {
            if reading.is_none()
                && let Some(request) = self.desk.take_reload()
            {
                reading = Some((request, self.read()));
            }
            let held = Instant::now() < facts_from;
            let answers = self.accept(self.desk.take_orders()).await;
            let news = self.changed || self.desk.has_facts();
            if !held && news {
                self.learn().await;
                facts_from = Instant::now() + GATHER;
            }
            let idle = answers.is_empty();
            for (asker, outcome) in answers {
                // Who has gone away does not need to know.
                asker.send(outcome).ok();
            }
            if !idle || !held && news {
                continue;
            }
            tokio::select! {
                (request, loaded) = read(&mut reading) => {
                    let outcome = self.reload(request.trigger, loaded, &*sockets).await;
                    request.answer(&outcome);
                    again = Instant::now() + AGAIN;
                }
                () = self.desk.wait() => {}
                () = sleep_until(keep_from), if self.ledger.is_behind() => {
                    self.keep_fleet().await;
                    keep_from = Instant::now() + AGAIN;
                }
                () = sleep_until(facts_from), if held && news => {}
                () = sleep_until(again), if self.is_unread() && reading.is_none() => self.desk.post(Trigger::File),
            }
        }
    }

    /// Writes what operators have changed, unless that is on disk already.
    async fn keep_fleet(&mut self) {
        if let Some(spec) = &self.loaded.spec {
            self.ledger.begin(spec, &self.facts.fleet).await;
        }
    }

    fn read(&self) -> Reading {
        let input = Arc::clone(&self.outside.input);
        spawn_blocking(move || config::load(&input))
    }

    /// Joins `plan` to its cells where blocking is allowed. `None` if that broke off; nothing that
    /// anybody sees has changed then.
    async fn bind(&self, plan: Plan, generation: u64, sha256: Arc<str>) -> Option<Bound> {
        let (old, cells) = (self.live.load(), Arc::clone(&self.cells));
        let bind = move || {
            let stamp = Stamp {
                id: old.id + 1,
                generation,
                sha256,
            };
            // Facts make no generation, and nobody is told how they differ.
            let changes = if generation == old.generation {
                Vec::new()
            } else {
                plan::diff(&old.plan, &plan)
            };
            let next = Snapshot::bind(plan, &cells, Some(&old), stamp, clock::now());
            Bound { old, next, changes }
        };
        spawn_blocking(bind).await.ok()
    }

    /// The one place where the snapshot is replaced.
    #[expect(clippy::disallowed_methods, reason = "the sole writer")]
    fn swap(&self, old: &Snapshot, next: Snapshot) {
        admit(old, &next);
        let (board, now) = (self.ledger.board(), clock::now());
        board.publishing(&next, self.ledger.version(), now);
        self.live.publish(prepared(next));
        self.live.load().hold_limits(now);
    }

    /// Has the cells forget what only `old` named. A full tree of prompts takes a while to be gone
    /// through, so that happens where blocking is allowed, as does the end of `old` if nobody else
    /// holds it. The next snapshot is not bound before.
    async fn tidy(&self, old: Arc<Snapshot>) {
        let (live, cells) = (Arc::clone(&self.live), Arc::clone(&self.cells));
        let tidy = move || {
            live.load().forget_others();
            drop(old);
            cells.sweep();
        };
        if spawn_blocking(tidy).await.is_err() {
            tracing::error!(target: "smg::config", "forgetting workers that have left broke off");
        }
    }

    /// Drops what is known of workers that the configuration no longer names.
    fn forget_removed(&mut self, old: &Snapshot, reason: &str) {
        let new = self.live.load();
        let kept: BTreeSet<&WorkerKey> =
            new.plan.workers.iter().map(|worker| &worker.key).collect();
        let named: BTreeSet<WorkerKey> = kept.iter().map(|key| key.base()).collect();
        self.facts.workers.retain(|key, _| named.contains(key));
        let removed: BTreeMap<&WorkerKey, _> = old
            .plan
            .workers
            .iter()
            .filter(|worker| !kept.contains(&worker.key))
            .map(|worker| (&worker.key, worker))
            .collect();
        for worker in removed.into_values() {
            report::deregistered(worker, &old.plan.pool(worker.pool).name, reason);
        }
    }

    fn serving(&self) -> Outcome {
        let sha256 = Arc::clone(&self.live.load().sha256);
        Outcome::Unchanged {
            generation: self.generation,
            sha256,
        }
    }
}

/// What was read, and for whom; pending while nobody reads.
///
/// Cancel safety: the reading goes on when the future is dropped.
async fn read(reading: &mut Option<(Request, Reading)>) -> (Request, Result<Loaded, JoinError>) {
    let Some((_, handle)) = reading else {
        return pending().await;
    };
    let loaded = handle.await;
    match reading.take() {
        Some((request, _)) => (request, loaded),
        None => pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the sole writer")]
fn prepared(snapshot: Snapshot) -> Prepared {
    Prepared::new(snapshot)
}

/// A worker that may be used from now on is ready at once, whatever was counted before.
fn admit(old: &Snapshot, new: &Snapshot) {
    // Ranks of one engine share their health.
    let before: BTreeSet<WorkerKey> = old
        .workers()
        .filter(|worker| worker.plan.is_admitted())
        .map(|worker| worker.plan.key.base())
        .collect();
    for worker in new.workers() {
        if worker.plan.is_admitted() && !before.contains(&worker.plan.key.base()) {
            worker.parts.health.make_ready();
        }
    }
}
