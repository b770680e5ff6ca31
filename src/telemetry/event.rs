//! Notable events: each is one log line and what it counts, so that the two cannot disagree.

use super::metrics::{self, Metric};
use crate::base::clock;

/// What asked for the configuration to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// The start of the process; not a reload, so not counted as one.
    Start,
    /// A changed file.
    File,
    /// SIGHUP.
    Signal,
    /// The control plane.
    Admin,
}

impl Trigger {
    /// The word in logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "file",
            Self::Signal => "signal",
            Self::Admin => "admin",
        }
    }
}

/// A configuration took effect.
#[derive(Clone, Copy, Debug)]
pub struct ConfigApplied<'a> {
    /// What asked for it.
    pub trigger: Trigger,
    /// Its generation.
    pub generation: u64,
    /// Hash of its files.
    pub sha256: &'a str,
    /// The difference from the one before, in one line.
    pub changes: &'a str,
}

impl ConfigApplied<'_> {
    /// Logs and counts it.
    pub fn emit(&self) {
        let Self {
            trigger,
            generation,
            sha256,
            changes,
        } = *self;
        tracing::info!(
            target: "smg::config",
            trigger = trigger.as_str(), generation, sha256, changes,
            "configuration applied"
        );
        metrics::gauge(Metric::ConfigGeneration, &[]).set(generation as f64);
        loaded(trigger, "applied");
    }
}

/// A configuration was read that is the same as the one in effect.
#[derive(Clone, Copy, Debug)]
pub struct ConfigUnchanged {
    /// What asked for it.
    pub trigger: Trigger,
}

impl ConfigUnchanged {
    /// Logs and counts it.
    pub fn emit(&self) {
        tracing::info!(
            target: "smg::config",
            trigger = self.trigger.as_str(),
            "configuration unchanged"
        );
        loaded(self.trigger, "unchanged");
    }
}

/// A configuration was refused; the one before stays in effect. The diagnostics are logged by
/// whoever has them.
#[derive(Clone, Copy, Debug)]
pub struct ConfigRejected<'a> {
    /// What asked for it.
    pub trigger: Trigger,
    /// Number of diagnostics that are errors.
    pub errors: usize,
    /// The first of them, in one line.
    pub first: &'a str,
}

impl ConfigRejected<'_> {
    /// Logs and counts it.
    pub fn emit(&self) {
        let Self {
            trigger,
            errors,
            first,
        } = *self;
        tracing::error!(
            target: "smg::config",
            trigger = trigger.as_str(), errors, first,
            "configuration rejected"
        );
        metrics::gauge(Metric::ConfigLastReloadSuccessful, &[]).set(0.0);
        metrics::gauge(Metric::ConfigSynchronized, &[]).set(0.0);
        count_reload(trigger, "rejected");
    }
}

fn loaded(trigger: Trigger, result: &str) {
    metrics::gauge(Metric::ConfigLastReloadSuccessful, &[]).set(1.0);
    metrics::gauge(Metric::ConfigLastReloadSuccessTimestamp, &[]).set(clock::unix().as_secs_f64());
    metrics::gauge(Metric::ConfigSynchronized, &[]).set(1.0);
    count_reload(trigger, result);
}

fn count_reload(trigger: Trigger, result: &str) {
    if trigger != Trigger::Start {
        let labels = [("trigger", trigger.as_str()), ("result", result)];
        metrics::counter(Metric::ConfigReloads, &labels).increment(1);
    }
}

/// Which worker an event is about.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    /// Its URL, without user information.
    pub url: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Its pool.
    pub pool: &'a str,
}

/// A worker joined.
#[derive(Clone, Copy, Debug)]
pub struct WorkerRegistered<'a> {
    /// Which one.
    pub worker: Worker<'a>,
    /// Where it came from, as in the label `source`.
    pub source: &'a str,
}

impl WorkerRegistered<'_> {
    /// Logs and counts it.
    pub fn emit(&self) {
        let Self { worker, source } = *self;
        tracing::info!(
            target: "smg::worker",
            worker = worker.url, worker_id = worker.id, pool = worker.pool, source,
            "worker registered"
        );
        let labels = [("source", source), ("result", "success")];
        metrics::counter(Metric::DiscoveryRegistrations, &labels).increment(1);
    }
}

/// A worker left.
#[derive(Clone, Copy, Debug)]
pub struct WorkerDeregistered<'a> {
    /// Which one.
    pub worker: Worker<'a>,
    /// Where it came from, as in the label `source`.
    pub source: &'a str,
    /// Why, as in the label `reason`.
    pub reason: &'a str,
}

impl WorkerDeregistered<'_> {
    /// Logs and counts it.
    pub fn emit(&self) {
        let Self {
            worker,
            source,
            reason,
        } = *self;
        tracing::info!(
            target: "smg::worker",
            worker = worker.url, worker_id = worker.id, pool = worker.pool, source, reason,
            "worker removed"
        );
        let labels = [("source", source), ("reason", reason)];
        metrics::counter(Metric::DiscoveryDeregistrations, &labels).increment(1);
    }
}

/// A worker takes requests from now on.
#[derive(Clone, Copy, Debug)]
pub struct WorkerReady<'a> {
    /// Which one.
    pub worker: Worker<'a>,
}

impl WorkerReady<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let worker = self.worker;
        tracing::info!(
            target: "smg::worker",
            worker = worker.url, worker_id = worker.id, pool = worker.pool,
            "worker ready"
        );
    }
}

/// A worker takes no requests until it is healthy again.
#[derive(Clone, Copy, Debug)]
pub struct WorkerNotReady<'a> {
    /// Which one.
    pub worker: Worker<'a>,
    /// What was seen.
    pub reason: &'a str,
}

impl WorkerNotReady<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let Self { worker, reason } = *self;
        tracing::warn!(
            target: "smg::worker",
            worker = worker.url, worker_id = worker.id, pool = worker.pool, reason,
            "worker not ready"
        );
    }
}

/// A worker did not become ready in the time it has for its start; it goes on being tried.
#[derive(Clone, Copy, Debug)]
pub struct WorkerFailed<'a> {
    /// Which one.
    pub worker: Worker<'a>,
    /// Where it came from, as in the label `source`.
    pub source: &'a str,
    /// The last failure.
    pub error: &'a str,
}

impl WorkerFailed<'_> {
    /// Logs and counts it.
    pub fn emit(&self) {
        let Self {
            worker,
            source,
            error,
        } = *self;
        tracing::error!(
            target: "smg::worker",
            worker = worker.url, worker_id = worker.id, pool = worker.pool, source, error,
            "worker failed"
        );
        let labels = [("source", source), ("result", "failure")];
        metrics::counter(Metric::DiscoveryRegistrations, &labels).increment(1);
    }
}

/// A worker has failed so often that requests go elsewhere for a while.
#[derive(Clone, Copy, Debug)]
pub struct BreakerOpened<'a> {
    /// Which one.
    pub worker: Worker<'a>,
    /// The last failure.
    pub error: &'a str,
}

impl BreakerOpened<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let Self { worker, error } = *self;
        tracing::warn!(
            target: "smg::worker",
            worker = worker.url, worker_id = worker.id, pool = worker.pool, error,
            "breaker opened"
        );
    }
}

/// A worker that was left alone has answered again.
#[derive(Clone, Copy, Debug)]
pub struct BreakerClosed<'a> {
    /// Which one.
    pub worker: Worker<'a>,
}

impl BreakerClosed<'_> {
    /// Logs it.
    pub fn emit(&self) {
        let worker = self.worker;
        tracing::info!(
            target: "smg::worker",
            worker = worker.url, worker_id = worker.id, pool = worker.pool,
            "breaker closed"
        );
    }
}
