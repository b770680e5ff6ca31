//! HTTP metrics, with handles that are looked up once.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use ahash::AHashMap;
use http::Method;
use metrics::{Counter, Histogram};
use parking_lot::RwLock;

use super::audit;
use super::routes::TEMPLATES;
use crate::dispatch::Call;
use crate::telemetry::metrics::{self as names, Metric};

const METHODS: [&str; 8] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other",
];

/// Requests and durations by template and method.
struct Series {
    requests: Counter,
    duration: Histogram,
}

static SERIES: LazyLock<Vec<[OnceLock<Series>; METHODS.len()]>> = LazyLock::new(|| {
    TEMPLATES
        .iter()
        .map(|_| [const { OnceLock::new() }; METHODS.len()])
        .collect()
});

type ResponseKey = (&'static str, u16, &'static str);

static RESPONSES: LazyLock<RwLock<AHashMap<ResponseKey, Counter>>> = LazyLock::new(RwLock::default);

fn series(template: &'static str, method: &Method) -> Option<&'static Series> {
    let row = TEMPLATES
        .iter()
        .position(|known| std::ptr::eq(*known, template))
        .or_else(|| {
            // The same text may have two addresses.
            TEMPLATES.iter().position(|known| *known == template)
        })?;
    let column = METHODS
        .iter()
        .position(|known| *known == method.as_str())
        .unwrap_or(METHODS.len() - 1);
    let slot = SERIES.get(row)?.get(column)?;
    let label = METHODS.get(column)?;
    Some(slot.get_or_init(|| {
        let labels = [("method", *label), ("path", template)];
        Series {
            requests: names::counter(Metric::HttpRequests, &labels),
            duration: names::histogram(Metric::HttpRequestDuration, &labels),
        }
    }))
}

/// Counts a request whose head has been read.
pub(crate) fn arrived(method: &Method, template: &'static str) {
    if let Some(series) = series(template, method) {
        series.requests.increment(1);
    }
}

/// Audits, and counts the answer of, a call that has ended after `latency`.
pub(crate) fn finished(call: &Call, latency: Duration) {
    audit::finished(call);
    if let Some(series) = series(call.template, &call.method) {
        series.duration.record(latency.as_secs_f64());
    }
    let key = (call.template, call.status, call.error_code);
    if let Some(counter) = RESPONSES.read().get(&key) {
        counter.increment(1);
        return;
    }
    let status = call.status.to_string();
    let labels = [
        ("path", call.template),
        ("status_code", &*status),
        ("error_code", call.error_code),
    ];
    let counter = names::counter(Metric::HttpResponses, &labels);
    counter.increment(1);
    RESPONSES.write().insert(key, counter);
}
