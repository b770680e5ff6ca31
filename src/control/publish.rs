//! The one writer of snapshots: read, check, compile, prepare, publish.
//!
//! Invariant: every step but the last may fail, and then nothing has changed; the last is one swap
//! and cannot fail. Facts about workers take the same road from `compile` on; they make a new
//! snapshot, never a generation.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::Outside;
use super::certificates::{self, Ending};
use super::compiled::{Compiled, broken, check, compile, is_same};
use super::desk::{Desk, Request};
use super::fleet::{Asked, Board, Ended, Ledger};
use super::logging;
use super::report;
use super::status::{Candidate, Status};
use super::watch::Watched;
use crate::base::{clock, memory};
use crate::config::{self, Diagnostic, Loaded};
use crate::live::{
    ChangeError, Live, Outcome, Prepared, PreparedSockets, Snapshot, Sockets, Stamp, Trigger,
};
use crate::plan::{self, Change, Facts, Fleet, Plan, WorkerKey};
use crate::state::{Cells, MemoryCell};
use crate::telemetry::{audit, event, log};

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

/// Those who asked for changes of workers, and what they are told.
type Answers = Vec<(
    oneshot::Sender<Result<(), ChangeError>>,
    Result<(), ChangeError>,
)>;

/// Reads the files. They may lie on a disk that hangs, and nothing else waits for that.
type Reading = JoinHandle<Loaded>;

/// A configuration for which everything that may fail has been done.
struct Ready {
    loaded: Arc<Loaded>,
    fleet: Fleet,
    ended: Vec<Ended>,
    bound: Bound,
    sockets: Box<dyn PreparedSockets>,
    log: Option<log::Prepared>,
}

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

    async fn reload(
        &mut self,
        trigger: Trigger,
        loaded: Result<Loaded, JoinError>,
        sockets: &dyn Sockets,
    ) -> Outcome {
        let Ok(loaded) = loaded.map(Arc::new) else {
            let diagnostic = broken("reading the configuration");
            return self.refuse(trigger, "", vec![diagnostic]);
        };
        self.watch(&loaded);
        if trigger == Trigger::File && self.is_seen(&loaded) {
            return self.serving();
        }
        (self.outside.observer)(Step::Reloading);
        if is_same(&loaded, &self.loaded) {
            return self.keep(trigger);
        }
        let began = clock::now();
        let ready = match self.check(&loaded).await {
            Ok(compiled) => self.prepare(compiled, sockets).await,
            Err(diagnostics) => Err(diagnostics),
        };
        match ready {
            Ok(ready) => self.publish(trigger, ready, began).await,
            Err(diagnostics) => {
                certificates::count(&self.loaded, &loaded, Ending::Rejected);
                let sha256 = loaded.sha256.clone();
                self.refused = Some(loaded);
                self.refuse(trigger, &sha256, diagnostics)
            }
        }
    }

    fn read(&self) -> Reading {
        let input = Arc::clone(&self.outside.input);
        spawn_blocking(move || config::load(&input))
    }

    /// Whether this is what was judged last: a file that is looked at again and again is reported
    /// once.
    fn is_seen(&self, loaded: &Loaded) -> bool {
        is_same(loaded, self.refused.as_ref().unwrap_or(&self.loaded))
    }

    /// Whether a file could not be read: there may be nothing wrong with it but that descriptors had
    /// run out, and then no event tells when it can be read.
    fn is_unread(&self) -> bool {
        let refused = self.refused.as_ref();
        refused.is_some_and(|refused| refused.diagnostics.iter().any(|d| d.slug == "unreadable"))
    }

    async fn check(&self, loaded: &Arc<Loaded>) -> Result<Compiled, Vec<Diagnostic>> {
        let (before, facts) = (Arc::clone(&self.loaded), self.facts.clone());
        let loaded = Arc::clone(loaded);
        // With many workers it takes a while.
        let checked = spawn_blocking(move || check(&before, loaded, facts)).await;
        checked.unwrap_or_else(|_| Err(vec![broken("compiling the configuration")]))
    }

    async fn prepare(
        &self,
        compiled: Compiled,
        sockets: &dyn Sockets,
    ) -> Result<Ready, Vec<Diagnostic>> {
        let Compiled {
            loaded,
            plan,
            fleet,
            ended,
        } = compiled;
        let log = self.log_settings(&loaded).map_err(|error| {
            let key = match error {
                log::LogError::Audit { .. } => "audit.path",
                _ => "logging",
            };
            vec![Diagnostic::error("logging", error.to_string()).about(key)]
        })?;
        let sockets = sockets.prepare(&plan.listeners).await.map_err(|errors| {
            errors
                .iter()
                .map(|error| report::unbound(error, &loaded))
                .collect::<Vec<_>>()
        })?;
        let sha256 = loaded.sha256.as_str().into();
        let bound = self.bind(plan, self.generation + 1, sha256).await;
        let bound = bound.ok_or_else(|| vec![broken("binding the configuration")])?;
        Ok(Ready {
            loaded,
            fleet,
            ended,
            bound,
            sockets,
            log,
        })
    }

    fn log_settings(&self, loaded: &Loaded) -> Result<Option<log::Prepared>, log::LogError> {
        match (&self.outside.logging, &loaded.spec) {
            (Some(logging), Some(spec)) => logging.prepare(spec).map(Some),
            _ => Ok(None),
        }
    }

    async fn publish(
        &mut self,
        trigger: Trigger,
        ready: Ready,
        began: std::time::Instant,
    ) -> Outcome {
        let Ready {
            loaded,
            fleet,
            ended,
            bound: Bound { old, next, changes },
            sockets,
            log,
        } = ready;
        let changes = report::changes(&changes);
        let sha256 = Arc::clone(&next.sha256);
        self.generation = next.generation;
        self.swap(&old, next);
        sockets.commit();
        report::synchronized("static", began);
        logging::trace(&self.live.load().plan);
        // The reload that puts an end to the audit log is the last thing in it.
        let audited = audit::enabled();
        if audited {
            self.audit(trigger, "applied", &sha256);
        }
        self.apply_log(log);
        if !audited {
            self.audit(trigger, "applied", &sha256);
        }
        event::ConfigApplied {
            trigger: report::trigger_of(trigger),
            generation: self.generation,
            sha256: &sha256,
            changes: &changes,
        }
        .emit();
        report::log_all(&loaded.diagnostics);
        certificates::count(&self.loaded, &loaded, Ending::Applied);
        if let Some(logging) = &self.outside.logging {
            logging.warn_of_mask(&loaded.origins);
        }
        self.loaded = loaded;
        self.refused = None;
        *self.status.lock() = Status {
            live: Candidate::new(self.generation, trigger, &sha256, &self.loaded.diagnostics),
            rejected: None,
            loaded: Arc::clone(&self.loaded),
        };
        self.changed = false;
        self.forget_removed(&old, "config_removed");
        self.tidy(old).await;
        (self.outside.observer)(Step::Serving(self.generation));
        let before = std::mem::replace(&mut self.facts.fleet, fleet);
        if let Some(spec) = &self.loaded.spec {
            let fleet = &self.facts.fleet;
            self.ledger.reloaded(spec, &before, fleet, &ended).await;
        }
        Outcome::Applied {
            generation: self.generation,
            sha256,
        }
    }

    fn audit(&self, trigger: Trigger, result: &str, sha256: &str) {
        let reload = audit::Reload {
            trigger: report::trigger_of(trigger).as_str(),
            result,
            generation: self.generation,
            sha256,
        };
        audit::reloaded(&reload);
    }

    fn apply_log(&self, prepared: Option<log::Prepared>) {
        if let (Some(logging), Some(prepared)) = (&self.outside.logging, prepared) {
            logging.apply(prepared);
        }
    }

    /// The files say what is served. The log file is opened anew all the same: this is how one
    /// that was moved away is let go.
    fn keep(&mut self, trigger: Trigger) -> Outcome {
        match self.log_settings(&self.loaded) {
            Ok(prepared) => self.apply_log(prepared),
            Err(error) => {
                tracing::warn!(target: "smg::config", %error, "log file not opened anew");
            }
        }
        self.audit(trigger, "unchanged", &self.loaded.sha256);
        event::ConfigUnchanged {
            trigger: report::trigger_of(trigger),
        }
        .emit();
        self.refused = None;
        self.status.lock().rejected = None;
        (self.outside.observer)(Step::Serving(self.generation));
        self.serving()
    }

    fn refuse(&self, trigger: Trigger, sha256: &str, diagnostics: Vec<Diagnostic>) -> Outcome {
        let refused = Candidate::new(self.generation + 1, trigger, sha256, &diagnostics);
        let before = self.status.lock().rejected.replace(refused);
        let told =
            before.is_some_and(|old| *old.sha256 == *sha256 && old.diagnostics == diagnostics);
        let errors: Vec<&Diagnostic> = diagnostics.iter().filter(|d| d.is_error()).collect();
        let first = errors
            .first()
            .map(|error| report::line(error))
            .unwrap_or_default();
        self.audit(trigger, "rejected", sha256);
        event::ConfigRejected {
            trigger: report::trigger_of(trigger),
            errors: errors.len(),
            first: &first,
        }
        .emit();
        if !told {
            report::log_all(&diagnostics);
        }
        (self.outside.observer)(Step::Refused(&first));
        Outcome::Rejected { diagnostics }
    }

    /// Takes changes of workers that operators or jobs want. They are in force with the next snapshot.
    async fn accept(&mut self, orders: Vec<Asked>) -> Answers {
        let Some(spec) = self.loaded.spec.as_ref().filter(|_| !orders.is_empty()) else {
            return Vec::new();
        };
        let taken = self.ledger.take(orders, spec, &self.facts.fleet).await;
        if let Some(fleet) = taken.fleet {
            self.facts.fleet = fleet;
            self.changed = true;
        }
        taken.answers
    }

    /// Publishes what workers have told about themselves, and what operators have changed.
    async fn learn(&mut self) {
        let old = self.live.load();
        let known: BTreeSet<WorkerKey> = old.plan.workers.iter().map(|w| w.key.base()).collect();
        // A worker that has left meanwhile is forgotten.
        let mut news = self.desk.take_facts();
        news.retain(|key, learned| {
            known.contains(key) && self.facts.workers.get(key) != Some(learned)
        });
        if news.is_empty() && !self.changed {
            return;
        }
        let began = clock::now();
        let manual = self.changed;
        let sources = [("probe", !news.is_empty()), ("manual", manual)];
        let mut facts = self.facts.clone();
        let joined: BTreeSet<WorkerKey> = news
            .keys()
            .filter(|key| !facts.workers.contains_key(key))
            .cloned()
            .collect();
        facts.workers.extend(news);
        let Some(plan) = compile(Arc::clone(&self.loaded), facts.clone()).await else {
            return;
        };
        let sha256 = Arc::clone(&old.sha256);
        let Some(Bound { next, .. }) = self.bind(plan, self.generation, sha256).await else {
            return;
        };
        self.facts = facts;
        self.swap(&old, next);
        if manual {
            report::synchronized("manual", began);
        }
        self.changed = false;
        for (source, _) in sources.into_iter().filter(|(_, changed)| *changed) {
            report::facts_changed(source);
        }
        self.forget_removed(&old, "removed");
        let new = self.live.load();
        for worker in new
            .plan
            .workers
            .iter()
            .filter(|worker| joined.contains(&worker.key.base()))
        {
            report::registered(worker, &new.plan.pool(worker.pool).name);
        }
        self.tidy(old).await;
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

    /// Watches what was read now and what the configuration in effect was read from, so that a
    /// refused include does not hide the files that would mend it.
    fn watch(&self, loaded: &Loaded) {
        let mut watched = Watched::of(loaded);
        let served = Watched::of(&self.loaded);
        watched.files.extend(served.files);
        watched.directories.extend(served.directories);
        self.watched.send_if_modified(|known| {
            let differs = *known != watched;
            *known = watched;
            differs
        });
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
