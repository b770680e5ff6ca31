//! What is logged and counted about configurations and workers.

use std::time::Instant;

use crate::base::clock;
use crate::config::diag::Place;
use crate::config::{Diagnostic, Loaded, Origins, Severity, Spec, reload};
use crate::live::{BindError, Trigger};
use crate::plan::{Change, Source, Worker};
use crate::telemetry::event;
use crate::telemetry::metrics::{self, Metric};

/// Where a worker comes from, as in the label `source`.
pub(super) const fn source(worker: &Worker) -> &'static str {
    match worker.source {
        Source::File => "static",
        Source::Api => "manual",
    }
}

/// Changes that are named in one line; further ones are counted.
const NAMED: usize = 50;

/// Logs every diagnostic.
pub(super) fn log_all(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        let Diagnostic {
            slug,
            message,
            key,
            primary,
            help,
            ..
        } = diagnostic;
        let at = primary.as_ref().map(place).unwrap_or_default();
        let key = key.as_deref().unwrap_or_default();
        let help = help.as_deref().unwrap_or_default();
        match diagnostic.severity {
            Severity::Error => tracing::error!(
                target: "smg::config", slug, at, key, problem = message, help,
                "configuration error"
            ),
            Severity::Warning => tracing::warn!(
                target: "smg::config", slug, at, key, problem = message, help,
                "configuration warning"
            ),
            Severity::Note => tracing::info!(
                target: "smg::config", slug, at, key, problem = message, help,
                "configuration note"
            ),
        }
    }
}

/// One diagnostic in one line.
pub(super) fn line(diagnostic: &Diagnostic) -> String {
    match &diagnostic.primary {
        Some(at) => format!("{}: {}", place(at), diagnostic.message),
        None => diagnostic.message.clone(),
    }
}

/// The difference between two plans in one line.
pub(super) fn changes(changes: &[Change]) -> String {
    let mut named: Vec<String> = changes.iter().take(NAMED).map(Change::to_string).collect();
    if changes.len() > NAMED {
        named.push(format!("{} more", changes.len() - NAMED));
    }
    named.join(", ")
}

/// A change of what is known about workers was published.
pub(super) fn facts_changed(source: &'static str) {
    metrics::counter(Metric::FactsUpdates, &[("source", source)]).increment(1);
}

/// What `source` says has been in effect since now; it had been read at `began`.
pub(super) fn synchronized(source: &'static str, began: Instant) {
    let took = clock::now().saturating_duration_since(began);
    metrics::histogram(Metric::DiscoverySyncDuration, &[("source", source)])
        .record(took.as_secs_f64());
}

/// A worker joined a pool.
pub(super) fn registered(worker: &Worker, pool: &str) {
    let source = source(worker);
    named(worker, pool, |worker| {
        event::WorkerRegistered { worker, source }.emit()
    });
    if let Some(word) = worker.unknown_policy() {
        tracing::warn!(
            target: "smg::worker",
            worker = worker.key.as_str(), pool, label = word,
            "the worker's label `policy` names no policy and is ignored"
        );
    }
}

/// A worker left.
pub(super) fn deregistered(worker: &Worker, pool: &str, reason: &str) {
    let source = source(worker);
    named(worker, pool, |worker| {
        event::WorkerDeregistered {
            worker,
            source,
            reason,
        }
        .emit();
    });
}

/// Calls `tell` with the name of a worker as events carry it.
pub(super) fn named(worker: &Worker, pool: &str, tell: impl FnOnce(event::Worker<'_>)) {
    let id = worker.id.to_string();
    tell(event::Worker {
        url: worker.key.as_str(),
        id: &id,
        pool,
    });
}

/// A mistake for each key that only a restart can change and that differs.
pub(super) fn restart_keys(old: &Spec, new: &Spec, origins: &Origins) -> Vec<Diagnostic> {
    let keys = reload::restart_changes(old, new);
    keys.into_iter()
        .map(|key| {
            Diagnostic::error(
                "restart",
                format!("`{key}` cannot change while the gateway runs"),
            )
            .at(origins.place(&key))
            .help("restart the gateway, or put the old value back")
            .about(key)
        })
        .collect()
}

/// A mistake for a listener that could not be bound or has no usable certificate.
pub(super) fn unbound(error: &BindError, loaded: &Loaded) -> Diagnostic {
    let (slug, key) = match error {
        BindError::Address { .. } | BindError::Passed { .. } => ("bind", "address".to_owned()),
        BindError::Certificate { key, .. } => ("certificate", format!("tls.{key}")),
    };
    let listeners = loaded
        .spec
        .as_ref()
        .map(|spec| &spec.listeners[..])
        .unwrap_or_default();
    let index = listeners
        .iter()
        .position(|listener| listener.name == error.listener());
    let diagnostic = Diagnostic::error(slug, error.to_string()).help(error.help());
    match index.map(|index| format!("listeners[{index}].{key}")) {
        Some(key) => diagnostic.at(loaded.origins.place(&key)).about(key),
        None => diagnostic,
    }
}

fn place(place: &Place) -> String {
    match place {
        Place::File(spot) => format!("{}:{}:{}", spot.file, spot.line, spot.column),
        Place::Flag(flag) => format!("flag {flag}"),
        Place::Environment(name) => format!("environment {name}"),
    }
}

/// What asked for a reload, as events name it.
pub(super) fn trigger_of(trigger: Trigger) -> event::Trigger {
    match trigger {
        Trigger::File => event::Trigger::File,
        Trigger::Signal => event::Trigger::Signal,
        Trigger::Admin => event::Trigger::Admin,
    }
}
