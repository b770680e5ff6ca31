//! The jobs that wait, run, or have failed, and the fleet as it was last accepted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ahash::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::apply::Work;
use super::ledger::Order;
use crate::base::clock;
use crate::live::{Job, JobKind, JobState, Snapshot, WorkerRef};
use crate::plan::{Fleet, Member, Source, WorkerKey};

/// How long a failed job is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Failed jobs that are remembered; the oldest go first.
const FAILED: usize = 1000;

/// What every job may take beyond what it waits for.
const MARGIN: Duration = Duration::from_secs(30);

/// How long the requests of a worker that leaves have at least.
const LAST_REQUESTS: Duration = Duration::from_secs(600);

/// Shared by the publisher, which writes jobs down, the foreman, who follows them, and whoever asks.
#[derive(Debug, Default)]
pub(in crate::control) struct Board {
    inner: Mutex<Inner>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    fleet: Arc<Fleet>,
    /// In the order in which they came.
    open: Vec<Entry>,
    failed: VecDeque<(Instant, Job)>,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    work: Work,
    at: SystemTime,
    /// The fleet from which on it is in force.
    version: u64,
    /// When that fleet was published, and in which snapshot.
    published: Option<(Instant, u64)>,
    /// When it began to be followed.
    began: Option<Instant>,
    /// Whether its last step has been asked for.
    asked: bool,
    /// Failed attempts to reach the worker before it.
    failures: u64,
}

/// How far a job has come, as a look at the snapshot tells.
enum Verdict {
    Waits,
    Done,
    Failed(String),
    Asks(Order),
}

impl Board {
    /// Jobs that wait, run, or have failed within the last hour.
    pub(in crate::control) fn jobs(&self) -> Vec<Job> {
        let mut inner = self.inner.lock();
        inner.forget(clock::now());
        let open = inner.open.iter().map(Entry::shown);
        let failed = inner.failed.iter().map(|(_, job)| job.clone());
        open.chain(failed).collect()
    }

    /// The fleet as it was last accepted.
    pub(in crate::control) fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.inner.lock().fleet)
    }

    /// `next`, whose fleet is of this version, is about to be published.
    pub(in crate::control) fn publishing(&self, next: &Snapshot, version: u64, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.open.is_empty() {
            return;
        }
        let seen = Seen::of(next);
        let fresh = inner
            .open
            .iter_mut()
            .filter(|entry| entry.published.is_none() && entry.version <= version);
        for entry in fresh {
            entry.published = Some((now, next.id));
            entry.failures = seen.failures(&entry.work.members);
        }
        drop(inner);
        self.bell.notify_one();
    }

    pub(super) fn set_fleet(&self, fleet: &Fleet) {
        self.inner.lock().fleet = Arc::new(fleet.clone());
    }

    /// Jobs that wait or run.
    pub(super) fn unfinished(&self) -> usize {
        self.inner.lock().open.len()
    }

    /// Writes a job down, which is in force from this version of the fleet on.
    pub(super) fn open(&self, work: Work, version: u64) {
        let mut inner = self.inner.lock();
        if work.kind != JobKind::UpdateWorker {
            inner.overtake(&work.members);
        }
        inner.failed.retain(|(_, job)| job.worker != work.worker);
        inner.last += 1;
        let entry = Entry {
            id: inner.last,
            work,
            at: clock::wall(),
            version,
            published: None,
            began: None,
            asked: false,
            failures: 0,
        };
        inner.open.push(entry);
        drop(inner);
        self.bell.notify_one();
    }

    /// Takes from all jobs that add or remove workers their say in these.
    pub(super) fn overtake(&self, members: &[Member]) {
        self.inner.lock().overtake(members);
    }

    /// The members that the job still has a say in; none once it is over.
    pub(super) fn members(&self, job: u64) -> Vec<Member> {
        let inner = self.inner.lock();
        let entry = inner.open.iter().find(|entry| entry.id == job);
        entry
            .map(|entry| entry.work.members.clone())
            .unwrap_or_default()
    }

    /// The job has done what it should.
    pub(super) fn finish(&self, job: u64) {
        self.inner.lock().open.retain(|entry| entry.id != job);
        self.bell.notify_one();
    }

    /// The job cannot be done.
    pub(super) fn fail(&self, job: u64, message: &str) {
        let mut inner = self.inner.lock();
        let Some(position) = inner.open.iter().position(|entry| entry.id == job) else {
            return;
        };
        let entry = inner.open.remove(position);
        let shown = Job {
            state: JobState::Failed(message.to_owned()),
            at: clock::wall(),
            ..entry.shown()
        };
        tracing::warn!(
            target: "smg::worker",
            worker = shown.worker.as_str(), pool = shown.pool.as_deref().unwrap_or_default(),
            job = shown.kind.as_str(), error = message, "change of a worker failed"
        );
        let now = clock::now();
        inner.failed.push_back((now, shown));
        inner.forget(now);
        drop(inner);
        self.bell.notify_one();
    }

    /// Whether a job is still adding this worker.
    pub(super) fn is_joining(&self, member: &Member) -> bool {
        let inner = self.inner.lock();
        inner.open.iter().any(|entry| {
            entry.work.kind == JobKind::AddWorker && entry.work.members.contains(member)
        })
    }

    /// Waits until something has been written since the last call returned.
    pub(super) async fn wait(&self) {
        self.bell.notified().await;
    }

    /// Begins what may begin and looks at what runs. Returns the steps that are due.
    pub(super) fn step(&self, snapshot: &Snapshot, concurrency: usize, now: Instant) -> Vec<Order> {
        let mut inner = self.inner.lock();
        if inner.open.is_empty() {
            return Vec::new();
        }
        inner.begin(concurrency, now);
        let seen = Seen::of(snapshot);
        let mut orders = Vec::new();
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for entry in &mut inner.open {
            match entry.look(&seen, now) {
                Verdict::Waits => {}
                Verdict::Done => done.push(entry.id),
                Verdict::Failed(message) => failed.push((entry.id, message)),
                Verdict::Asks(order) => {
                    entry.asked = true;
                    orders.push(order);
                }
            }
        }
        inner.open.retain(|entry| !done.contains(&entry.id));
        let places_free = !done.is_empty();
        drop(inner);
        for (job, message) in failed {
            self.fail(job, &message);
        }
        if places_free {
            self.bell.notify_one();
        }
        orders
    }
}

impl Inner {
    fn overtake(&mut self, members: &[Member]) {
        self.open.retain_mut(|entry| {
            if entry.work.kind == JobKind::UpdateWorker {
                return true;
            }
            entry
                .work
                .members
                .retain(|member| !members.contains(member));
            !entry.work.members.is_empty()
        });
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, _)) = self.failed.front()
            && (self.failed.len() > FAILED || now.duration_since(*since) >= REMEMBERED)
        {
            self.failed.pop_front();
        }
    }

    /// One job per worker at a time, in the order in which they came. Workers that cannot be reached
    /// hold their places for long: one is left for those who change or remove workers.
    fn begin(&mut self, concurrency: usize, now: Instant) {
        let joining = |entry: &Entry| entry.work.kind == JobKind::AddWorker;
        let begun = |of: &dyn Fn(&Entry) -> bool| {
            let running = self.open.iter().filter(|entry| entry.began.is_some());
            running.filter(|entry| of(entry)).count()
        };
        let (mut running, mut adding) = (begun(&|_| true), begun(&joining));
        let mut busy: HashSet<WorkerKey, RandomState> = HashSet::default();
        let mut next = Vec::new();
        for entry in &mut self.open {
            if busy.insert(entry.work.worker.clone()) && entry.began.is_none() {
                next.push(entry);
            }
        }
        next.sort_by_key(|entry| joining(entry));
        for entry in next {
            let adds = joining(entry);
            let bound = (concurrency - usize::from(concurrency > 1)).max(1);
            if running >= concurrency || adds && adding >= bound {
                continue;
            }
            entry.began = Some(now);
            running += 1;
            adding += usize::from(adds);
        }
    }
}

impl Entry {
    fn shown(&self) -> Job {
        Job {
            kind: self.work.kind,
            worker: self.work.worker.clone(),
            pool: self.work.pool.clone(),
            state: if self.began.is_some() {
                JobState::Processing
            } else {
                JobState::Pending
            },
            at: self.at,
        }
    }

    fn look(&self, seen: &Seen<'_>, now: Instant) -> Verdict {
        let (Some(began), false) = (self.began, self.asked) else {
            return Verdict::Waits;
        };
        // Who looks may hold the snapshot before it still, in which a worker that joins is missing.
        let visible = self.published.filter(|(_, from)| seen.snapshot.id >= *from);
        let Some((published, _)) = visible else {
            let late = now.duration_since(began) >= MARGIN;
            let nothing = self.work.kind == JobKind::UpdateWorker && late;
            return if nothing {
                Verdict::Failed("the change was not published in time".to_owned())
            } else {
                Verdict::Waits
            };
        };
        let since = now.duration_since(published);
        match self.work.kind {
            JobKind::UpdateWorker => Verdict::Done,
            JobKind::AddWorker => self.joining(seen, since),
            JobKind::RemoveWorker => self.leaving(seen, since),
        }
    }

    fn joining(&self, seen: &Seen<'_>, since: Duration) -> Verdict {
        let workers: Vec<WorkerRef<'_>> = seen.all(&self.work.members).collect();
        let Some(first) = workers.first() else {
            return Verdict::Failed("its pool has no place for it any more".to_owned());
        };
        if workers.iter().all(|worker| worker.plan.is_admitted()) {
            return Verdict::Done;
        }
        let failures = seen.failures(&self.work.members);
        let failures = failures.saturating_sub(self.failures);
        let spent = self
            .work
            .attempts
            .is_some_and(|attempts| failures >= u64::from(attempts.max(1)));
        let health = &first.plan.health;
        let limit = health.startup_delay + health.startup_timeout;
        let trouble = (failures > 0).then(|| first.parts.cell.trouble()).flatten();
        let late = since >= limit && (trouble.is_some() || since >= limit + MARGIN);
        if !spent && !late {
            return Verdict::Waits;
        }
        let message = trouble.map_or_else(
            || "it did not answer in time".to_owned(),
            |trouble| trouble.message,
        );
        match first.plan.source {
            Source::Api => Verdict::Asks(Order::GiveUp {
                job: self.id,
                message,
            }),
            // The configuration has it: it stays and goes on being tried.
            Source::File => Verdict::Failed(message),
        }
    }

    fn leaving(&self, seen: &Seen<'_>, since: Duration) -> Verdict {
        let gone = Verdict::Asks(Order::Leave { job: self.id });
        let mut load = 0;
        let mut settle = Duration::ZERO;
        let mut admitted = false;
        let mut counted = HashSet::new();
        for worker in seen.all(&self.work.members) {
            settle = settle.max(worker.plan.health.drain_settle);
            admitted |= worker.plan.is_admitted();
            // One URL in two pools has one load.
            if counted.insert(Arc::as_ptr(&worker.parts.cell)) {
                load += worker.parts.cell.load();
            }
        }
        if since >= MARGIN + LAST_REQUESTS.max(settle) {
            tracing::warn!(
                target: "smg::worker", worker = self.work.worker.as_str(), load,
                "worker goes with requests in flight, which come to their end"
            );
            return gone;
        }
        let settled = !admitted || self.work.hasty || since >= settle;
        if load == 0 && settled {
            gone
        } else {
            Verdict::Waits
        }
    }
}

/// The workers of a snapshot by what they are ranks of.
struct Seen<'a> {
    snapshot: &'a Snapshot,
    workers: HashMap<WorkerKey, Vec<WorkerRef<'a>>, RandomState>,
}

impl<'a> Seen<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let mut workers: HashMap<_, Vec<_>, RandomState> = HashMap::default();
        for worker in snapshot.workers() {
            workers
                .entry(worker.plan.key.base())
                .or_default()
                .push(worker);
        }
        Self { snapshot, workers }
    }

    /// Every worker, or rank of one, that these members are now.
    fn all(&self, members: &[Member]) -> impl Iterator<Item = WorkerRef<'a>> {
        members.iter().flat_map(|member| {
            let known = self.workers.get(&member.worker);
            let known = known.map_or(&[][..], Vec::as_slice);
            known
                .iter()
                .copied()
                .filter(|worker| self.snapshot.plan.pool(worker.plan.pool).name == member.pool)
        })
    }

    fn failures(&self, members: &[Member]) -> u64 {
        self.all(members)
            .map(|worker| worker.parts.cell.unregistered())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Spec;
    use crate::live::Stamp;
    use crate::plan::{Facts, compile};
    use crate::state::Cells;

    fn snapshot(id: u64, workers: &str, cells: &Cells) -> Snapshot {
        let text = format!("version = 1\n[[pools]]\nname = 'p'\nworkers = [{workers}]");
        let spec: Spec = toml::from_str(&text).unwrap();
        let stamp = Stamp {
            id,
            generation: 1,
            sha256: "".into(),
        };
        let plan = compile(&spec, &Facts::default());
        Snapshot::bind(plan, cells, None, stamp, clock::now())
    }

    #[test]
    fn a_job_is_not_judged_by_a_snapshot_from_before_it() {
        let (board, cells, now) = (Board::default(), Cells::default(), clock::now());
        let worker = WorkerKey::new("http://a:1");
        let member = Member {
            pool: "p".into(),
            worker: worker.clone(),
        };
        let work = Work {
            kind: JobKind::AddWorker,
            worker,
            pool: None,
            members: vec![member],
            attempts: None,
            hasty: false,
        };
        board.open(work, 1);
        let (before, after, gone) = (
            snapshot(1, "", &cells),
            snapshot(2, "'http://a:1'", &cells),
            snapshot(3, "", &cells),
        );
        board.publishing(&after, 1, now);
        assert!(board.step(&before, 1, now).is_empty());
        assert_eq!(board.jobs()[0].state, JobState::Processing);
        assert!(board.step(&after, 1, now).is_empty());
        assert_eq!(board.jobs()[0].state, JobState::Processing);
        board.step(&gone, 1, now);
        assert!(matches!(board.jobs()[0].state, JobState::Failed(_)));
    }
}
