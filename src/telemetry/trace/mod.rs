//! Traces: what a request passes on of the trace that it is part of, and the spans that are sent to
//! a collector.
//!
//! Spans are made when a request has ended, from what is known of it by then, and are handed to a
//! bounded queue. A thread of its own sends them, so that a collector that is down or hangs costs
//! spans, which are counted, and never a request's time.

mod context;
mod exporter;
mod span;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

pub use context::{Context, Link, TRACEPARENT, TRACESTATE};
pub use opentelemetry::trace::SpanId;
pub use span::{Kind, Span, Times};

use self::exporter::Exporter;
use super::metrics::{self, Metric};
use crate::base::clock;

/// Where spans go, and under which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The collector, as a URL with the scheme `http` or `https`.
    pub endpoint: Arc<str>,
    /// The resource attribute `service.name`.
    pub service_name: Arc<str>,
}

static CURRENT: RwLock<Option<Exporter>> = RwLock::new(None);

/// Exporters that were replaced and still send what they were given.
static LEAVING: Mutex<Vec<Receiver<()>>> = Mutex::new(Vec::new());

/// Sends spans as `settings` say from now on; `None`: not at all. What an exporter that is replaced
/// was given before is still sent, for a few seconds.
pub fn follow(settings: Option<Settings>) {
    let mut current = CURRENT.write();
    if current.as_ref().map(Exporter::settings) == settings.as_ref() {
        return;
    }
    let begun = settings.and_then(|settings| match Exporter::start(settings) {
        Ok(exporter) => Some(exporter),
        Err(error) => {
            tracing::error!(target: "smg::tracing", %error, "no thread to send spans; they are dropped");
            None
        }
    });
    let before = std::mem::replace(&mut *current, begun);
    drop(current);
    let mut leaving = LEAVING.lock();
    leaving.retain(|done| matches!(done.try_recv(), Err(TryRecvError::Empty)));
    leaving.extend(before.map(Exporter::leave));
}

/// Hands the spans of one request to the exporter, all or none; those that it has no room for are
/// dropped and counted.
pub fn send(spans: Vec<Span>) {
    match &*CURRENT.read() {
        Some(exporter) => exporter.send(spans),
        None => count("dropped", spans.len()),
    }
}

/// Sends what is left, and nothing more afterwards. `false` if that takes longer than `timeout`.
pub fn flush(timeout: Duration) -> bool {
    let by = clock::now() + timeout;
    follow(None);
    let leaving = std::mem::take(&mut *LEAVING.lock());
    leaving.iter().all(|done| ended(done, by))
}

fn ended(done: &Receiver<()>, by: Instant) -> bool {
    let left = by.saturating_duration_since(clock::now());
    // Nothing is ever said; the thread lets go of the other end.
    matches!(
        done.recv_timeout(left),
        Err(RecvTimeoutError::Disconnected) | Ok(())
    )
}

/// Counts spans that came to this end, one of
/// [`label::SPAN_RESULTS`](super::metrics::label::SPAN_RESULTS).
fn count(result: &'static str, spans: usize) {
    metrics::counter(Metric::TraceSpans, &[("result", result)]).increment(spans as u64);
}
