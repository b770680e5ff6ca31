//! Metric series of one model, resolved once so that a request increments instead of looking up.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use metrics::{Counter, Histogram};

use crate::api::Endpoint;
use crate::telemetry::metrics::{self as names, Metric};

/// Identity of the series of a model: its label and the policy that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelKey {
    /// Canonical name of a declared or advertised model, or `unknown`.
    pub model: Arc<str>,
    /// Name of the policy.
    pub policy: &'static str,
    /// What serves it: `regular` or `pd`.
    pub backend: &'static str,
}

/// The series of one model, per endpoint, made when first used.
#[derive(Debug)]
pub struct ModelCell {
    key: ModelKey,
    match_ratio: OnceLock<Histogram>,
    prediction_error: OnceLock<Histogram>,
    series: [OnceLock<Box<Series>>; Endpoint::ALL.len()],
    pairs: [OnceLock<PairSeries>; RUNTIMES.len()],
}

/// How the workers of a pair find each other, as in the label `runtime`.
const RUNTIMES: [&str; 2] = ["sglang", "vllm"];

impl ModelCell {
    /// A cell without any series yet.
    pub fn new(key: ModelKey) -> Self {
        Self {
            key,
            match_ratio: OnceLock::new(),
            prediction_error: OnceLock::new(),
            series: [const { OnceLock::new() }; Endpoint::ALL.len()],
            pairs: [const { OnceLock::new() }; RUNTIMES.len()],
        }
    }

    /// The series of `endpoint`.
    pub fn series(&self, endpoint: Endpoint) -> &Series {
        // The index is that of a closed enum, so the fallback is the first slot and never taken.
        let slot = self.series.get(endpoint.index()).unwrap_or(&self.series[0]);
        slot.get_or_init(|| Box::new(Series::new(&self.key, endpoint)))
    }

    /// The series of pairs of workers that find each other as `runtime` has it: `sglang` or `vllm`.
    pub fn pair(&self, runtime: &'static str) -> &PairSeries {
        let at = RUNTIMES.iter().position(|known| *known == runtime);
        // There is no third one.
        let slot = at.and_then(|at| self.pairs.get(at));
        slot.unwrap_or(&self.pairs[0])
            .get_or_init(|| PairSeries::new(&self.key.model, runtime))
    }

    /// Counts a prompt of which a worker found `cached` tokens in its cache, where `expected` were
    /// expected.
    pub fn predicted(&self, expected: u32, cached: u64) {
        let labels = [("model", &*self.key.model)];
        self.prediction_error
            .get_or_init(|| names::histogram(Metric::RoutePredictionError, &labels))
            .record(cached as f64 - f64::from(expected));
    }

    /// Counts a prompt of which this share is known to be in some worker's cache.
    pub fn matched(&self, share: f32) {
        let labels = [("model", &*self.key.model)];
        self.match_ratio
            .get_or_init(|| names::histogram(Metric::CacheAwareMatchRatio, &labels))
            .record(share);
    }
}

/// Metric handles of pairs of workers of one model.
pub struct PairSeries {
    /// Request sent to end of the answer of the worker that reads the prompt.
    pub prefill: Histogram,
    /// From there to the first event of the other one.
    pub kv_transfer: Histogram,
    /// Request sent to first event.
    pub ttft: Histogram,
}

impl std::fmt::Debug for PairSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairSeries").finish_non_exhaustive()
    }
}

impl PairSeries {
    fn new(model: &str, runtime: &str) -> Self {
        let labels = [
            ("backend_type", "pd"),
            ("model", model),
            ("runtime", runtime),
        ];
        Self {
            prefill: names::histogram(Metric::PdPrefillDuration, &labels),
            kv_transfer: names::histogram(Metric::PdKvTransferDuration, &labels),
            ttft: names::histogram(Metric::PdTtft, &labels),
        }
    }
}

/// Metric handles of one model at one endpoint.
pub struct Series {
    /// Calls, whole answers.
    pub requests: Counter,
    /// Calls, streamed answers.
    pub requests_streamed: Counter,
    /// Arrival to last byte.
    pub duration: Histogram,
    /// Request sent to first event; streams.
    pub ttft: Histogram,
    /// Time per output token after the first; streams with usage.
    pub tpot: Histogram,
    /// First event to last; streams.
    pub generation: Histogram,
    /// Time between two events; streams.
    pub inter_token: Histogram,
    /// Prompt tokens.
    pub tokens_in: Counter,
    /// Generated tokens.
    pub tokens_out: Counter,
    /// Picks by the policy; of a pair, of the worker that answers.
    pub selections: Counter,
    /// Where the time goes.
    pub stages: Stages,
    /// Time spent in the gateway itself, whole answers.
    pub overhead: Histogram,
    /// Time spent in the gateway itself, streamed answers.
    pub overhead_streamed: Histogram,
    labels: [(&'static str, Arc<str>); 5],
}

/// The stages of a call, shared by all models.
pub struct Stages {
    route: Histogram,
    pick: Histogram,
    upstream: Histogram,
}

impl Stages {
    fn new() -> Self {
        let stage = |stage: &'static str| {
            let labels = [("router_type", "http"), ("stage", stage)];
            names::histogram(Metric::RouterStageDuration, &labels)
        };
        Self {
            route: stage("route"),
            pick: stage("pick"),
            upstream: stage("upstream"),
        }
    }

    /// A call was ready to be routed at `ready` and began to look for a worker at `picking`.
    pub fn route(&self, ready: Instant, picking: Instant) {
        record(&self.route, ready, picking);
    }

    /// It found one at `sent`.
    pub fn pick(&self, picking: Instant, sent: Instant) {
        record(&self.pick, picking, sent);
    }

    /// It was over at `ended`.
    pub fn upstream(&self, sent: Instant, ended: Instant) {
        record(&self.upstream, sent, ended);
    }
}

fn record(histogram: &Histogram, from: Instant, to: Instant) {
    histogram.record(to.saturating_duration_since(from).as_secs_f64());
}

impl std::fmt::Debug for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Series")
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

impl Series {
    fn new(key: &ModelKey, endpoint: Endpoint) -> Self {
        let model: &str = &key.model;
        let endpoint = endpoint.label();
        let base = [
            ("router_type", "http"),
            ("backend_type", key.backend),
            ("connection_mode", "http"),
            ("model", model),
            ("endpoint", endpoint),
        ];
        let stream = [
            ("router_type", "http"),
            ("backend_type", key.backend),
            ("model", model),
            ("endpoint", endpoint),
        ];
        let requests = |streaming: &'static str| {
            let mut labels = base.to_vec();
            labels.push(("streaming", streaming));
            names::counter(Metric::RouterRequests, &labels)
        };
        let tokens = |direction: &'static str| {
            let mut labels = stream.to_vec();
            labels.push(("token_type", direction));
            names::counter(Metric::RouterTokens, &labels)
        };
        let overhead = |streaming: &'static str| {
            names::histogram(
                Metric::GatewayOverhead,
                &[("endpoint", endpoint), ("streaming", streaming)],
            )
        };
        Self {
            requests: requests("false"),
            requests_streamed: requests("true"),
            duration: names::histogram(Metric::RouterRequestDuration, &base),
            ttft: names::histogram(Metric::RouterTtft, &stream),
            tpot: names::histogram(Metric::RouterTpot, &stream),
            generation: names::histogram(Metric::RouterGenerationDuration, &stream),
            inter_token: names::histogram(Metric::RouterInterToken, &stream),
            tokens_in: tokens("input"),
            tokens_out: tokens("output"),
            selections: names::counter(
                Metric::WorkerSelection,
                &[
                    (
                        "worker_type",
                        if key.backend == "pd" {
                            "decode"
                        } else {
                            "regular"
                        },
                    ),
                    ("connection_mode", "http"),
                    ("model", model),
                    ("policy", key.policy),
                ],
            ),
            stages: Stages::new(),
            overhead: overhead("false"),
            overhead_streamed: overhead("true"),
            labels: base.map(|(name, value)| (name, Arc::from(value))),
        }
    }

    /// Counts a call that ended in an error of `error_type`.
    pub fn error(&self, error_type: &'static str) {
        let mut labels: Vec<(&'static str, &str)> = self
            .labels
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        labels.push(("error_type", error_type));
        names::counter(Metric::RouterRequestErrors, &labels).increment(1);
    }
}
