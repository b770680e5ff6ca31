//! A worker as operators see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::limits::{show_breaker, show_health};
use crate::base::clock;
use crate::config::spec::Runtime;
use crate::live::{Admin, Job, JobKind, JobState, Snapshot, WorkerRef};
use crate::plan::{Added, Fleet, Member, Override, Registration, Source, WorkerKey};
use crate::serve::endpoint::rfc3339;
use crate::state::{HealthState, Trouble};

/// What the shape of a worker is made from.
pub(super) struct View {
    /// Who serves now.
    pub(super) snapshot: Arc<Snapshot>,
    /// What was changed beside the file.
    pub(super) fleet: Arc<Fleet>,
    jobs: Vec<Job>,
}

/// A worker of a snapshot. The key that is sent to it is in no field.
#[derive(Serialize)]
struct Shown<'a> {
    id: Uuid,
    url: &'a str,
    model_id: &'a str,
    models: &'a [Arc<str>],
    pool: &'a str,
    worker_type: &'static str,
    connection_mode: &'static str,
    runtime: Option<&'static str>,
    labels: &'a BTreeMap<String, String>,
    priority: u8,
    cost: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_port: Option<u16>,
    health: Value,
    resilience: Value,
    is_healthy: bool,
    status: &'static str,
    load: usize,
    breaker: &'static str,
    source: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    overrides: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dp_rank: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dp_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dp_base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_status: Option<Value>,
}

impl View {
    /// Things as they stand.
    pub(super) fn new(snapshot: Arc<Snapshot>, admin: &dyn Admin) -> Self {
        Self {
            snapshot,
            fleet: admin.fleet(),
            jobs: admin.jobs(),
        }
    }

    /// A worker of the snapshot.
    pub(super) fn worker(&self, worker: WorkerRef<'_>) -> Value {
        let plan = worker.plan;
        let pool = &self.snapshot.plan.pool(plan.pool).name;
        let base = plan.key.base();
        let trouble = worker.parts.cell.trouble();
        let breaker = &worker.parts.cell.breaker;
        let job = self.job(&base, pool);
        let member = Member {
            pool: Arc::clone(pool),
            worker: base,
        };
        let shown = Shown {
            id: plan.id,
            url: plan.key.as_str(),
            model_id: plan.models.first().map_or(UNKNOWN, |model| model),
            models: &plan.models,
            pool,
            worker_type: plan.role.as_str(),
            connection_mode: HTTP,
            runtime: plan.runtime.map(Runtime::as_str),
            labels: &plan.labels,
            priority: plan.priority,
            cost: plan.cost,
            bootstrap_port: plan.bootstrap_port,
            health: show_health(&plan.health),
            resilience: show_breaker(&plan.breaker),
            is_healthy: plan.is_admitted() && worker.parts.health.is_ready(),
            status: status(worker, job),
            load: worker.parts.cell.load(),
            breaker: breaker.look(&plan.breaker, clock::now()).as_str(),
            source: plan.source.as_str(),
            overrides: self
                .fleet
                .overrides
                .get(&member)
                .map(overridden)
                .unwrap_or_default(),
            dp_rank: plan.key.rank(),
            dp_size: plan.dp_size,
            dp_base_url: plan.key.rank().map(|_| member.worker.to_string()),
            job_status: job_status(&plan.key, job, registering(worker, trouble)),
        };
        serde_json::to_value(&shown).unwrap_or_default()
    }

    /// A worker all of whose ranks are `ranks`, as one.
    pub(super) fn whole(&self, ranks: &[WorkerRef<'_>]) -> Option<Value> {
        let first = *ranks.first()?;
        let mut shown = self.worker(first);
        let base = first.plan.key.base();
        let load: usize = ranks.iter().map(|rank| rank.parts.cell.load()).sum();
        shown["id"] = json!(base.id());
        shown["url"] = base.as_str().into();
        shown["load"] = load.into();
        if let Some(fields) = shown.as_object_mut() {
            fields.shift_remove("dp_rank");
            fields.shift_remove("dp_base_url");
        }
        Some(shown)
    }

    /// Workers that have been added and are in no plan: not yet, or because their pool is gone or
    /// has other legs.
    pub(super) fn absent(&self) -> impl Iterator<Item = (&Member, Value)> {
        let plan = &self.snapshot.plan;
        let present = |member: &Member| {
            plan.workers.iter().any(|worker| {
                worker.key.base() == member.worker && plan.pool(worker.pool).name == member.pool
            })
        };
        let added = self.fleet.added.iter();
        added
            .filter(move |(member, _)| !present(member) && !self.fleet.tombstones.contains(*member))
            .map(|(member, added)| (member, self.added(member, added)))
    }

    fn added(&self, member: &Member, added: &Added) -> Value {
        let job = self.job(&member.worker, &member.pool);
        let failed = job.is_some_and(|job| matches!(job.state, JobState::Failed(_)));
        let worker = &added.worker;
        let mut shown = json!({
            "id": member.worker.id(),
            "url": member.worker.as_str(),
            "model_id": added.models.first().map_or(UNKNOWN, |model| model),
            "models": added.models,
            "pool": member.pool,
            "worker_type": added.role.as_str(),
            "connection_mode": HTTP,
            "runtime": added.runtime.map(Runtime::as_str),
            "labels": worker.labels,
            "priority": worker.priority,
            "cost": worker.cost,
            "bootstrap_port": worker.bootstrap_port,
            "is_healthy": false,
            "status": if failed { "failed" } else { "pending" },
            "load": 0,
            "breaker": CLOSED,
            "source": added.source.as_str(),
        });
        if let Some(job) = job_status(&member.worker, job, None) {
            shown["job_status"] = job;
        }
        shown
    }

    /// The worker of this id of which only a job knows that somebody wanted it.
    pub(super) fn wanted(&self, id: Uuid) -> Option<Value> {
        let adds = self
            .jobs
            .iter()
            .filter(|job| job.kind == JobKind::AddWorker && job.worker.id() == id);
        let job = adds.max_by_key(|job| job.at)?;
        let failed = matches!(job.state, JobState::Failed(_));
        Some(json!({
            "id": id,
            "url": job.worker.as_str(),
            "model_id": UNKNOWN,
            "models": [],
            "pool": job.pool,
            "connection_mode": HTTP,
            "is_healthy": false,
            "status": if failed { "failed" } else { "pending" },
            "load": 0,
            "breaker": CLOSED,
            "source": "api",
            "job_status": job_status(&job.worker, Some(job), None),
        }))
    }

    /// The latest job about the worker in this pool.
    fn job(&self, worker: &WorkerKey, pool: &str) -> Option<&Job> {
        let about = |job: &&Job| {
            job.worker == *worker && job.pool.as_deref().is_none_or(|name| *name == *pool)
        };
        self.jobs.iter().filter(about).max_by_key(|job| job.at)
    }
}

/// A worker of the file that was taken out.
pub(super) fn tombstone(member: &Member) -> Value {
    json!({
        "id": member.worker.id(),
        "url": member.worker.as_str(),
        "pool": member.pool,
        "connection_mode": HTTP,
        "is_healthy": false,
        "load": 0,
        "source": "file",
        "tombstone": true,
    })
}

/// What a worker is called that names no model.
pub(super) const UNKNOWN: &str = "unknown";

/// The status of a worker that gets nothing new to do.
pub(super) const DRAINING: &str = "draining";

/// The breaker of a worker that has had nothing to do yet.
const CLOSED: &str = "closed";

/// How all workers are spoken to.
const HTTP: &str = "http";

/// How a worker of a snapshot stands, `job` being the latest about it.
pub(super) fn status(worker: WorkerRef<'_>, job: Option<&Job>) -> &'static str {
    let state = worker.parts.health.state();
    let pending = worker.plan.registration == Registration::Pending;
    let given_up = job.is_some_and(|job| {
        job.kind == JobKind::AddWorker && matches!(job.state, JobState::Failed(_))
    });
    match state {
        _ if worker.plan.draining => DRAINING,
        _ if pending && given_up => HealthState::Failed.as_str(),
        HealthState::Failed => state.as_str(),
        _ if pending => HealthState::Pending.as_str(),
        _ => state.as_str(),
    }
}

/// A registration that does not succeed, and the word for how it stands. Of a worker that was added
/// the word is that of the job that added it, which may be over and forgotten while the attempts go on.
fn registering(worker: WorkerRef<'_>, trouble: Option<Trouble>) -> Option<(Trouble, &'static str)> {
    let added = worker.plan.source == Source::Api;
    let hopes = added && worker.parts.health.state() != HealthState::Failed;
    let word = if hopes { "processing" } else { "failed" };
    trouble.map(|trouble| (trouble, word))
}

/// The job, else the registration that does not succeed, which nobody asked for by a job.
fn job_status(
    worker: &WorkerKey,
    job: Option<&Job>,
    registering: Option<(Trouble, &'static str)>,
) -> Option<Value> {
    let (kind, status, since) = match (job, &registering) {
        (Some(job), _) => (job.kind, job.state.as_str(), job.at),
        (None, Some((trouble, word))) => (JobKind::AddWorker, *word, trouble.at),
        (None, None) => return None,
    };
    let message = match job.map(|job| &job.state) {
        Some(JobState::Failed(message)) => Some(message.clone()),
        _ => registering.map(|(trouble, _)| trouble.message),
    };
    Some(json!({
        "job_type": kind.as_str(),
        "worker_url": worker.as_str(),
        "status": status,
        "message": message,
        "timestamp": rfc3339(since),
    }))
}

/// What is not as it was declared or added.
fn overridden(with: &Override) -> Vec<&'static str> {
    [
        ("priority", with.priority.is_some()),
        ("cost", with.cost.is_some()),
        ("labels", !with.labels.is_empty()),
        ("api_key", with.api_key.is_some()),
        ("health", with.health != Default::default()),
        ("resilience", with.circuit_breaker != Default::default()),
        ("drain", with.drain.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is)| is.then_some(name))
    .collect()
}
