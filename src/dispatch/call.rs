//! One client request, from its head to the last byte of its answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use metrics::Histogram;

use super::trace::Trace;
use crate::api::{Endpoint, Usage};
use crate::base::clock;
use crate::live::{CallGuard, Caller, Live, Phase, Snapshot};
use crate::plan::{Identity, Role, RouteIx, WorkerIx};
use crate::policy::{self, Expected, Feedback, Lane};
use crate::state::{ModelCell, Permit, Series, Spent, Stay};
use crate::telemetry::access::{self, Access};
use crate::telemetry::failures;

/// What is known of one client request. It travels with the request into the response body and
/// is dropped with it: whichever way the request ends, its end is counted and logged once, there.
pub struct Call {
    /// The snapshot that this request sees from its first byte to its last.
    pub snapshot: Arc<Snapshot>,
    /// The request id, the client's or ours.
    pub id: HeaderValue,
    /// When the head had been read.
    pub started: Instant,
    /// Method, as logged.
    pub method: http::Method,
    /// Route template of the path, `other` when unknown.
    pub template: &'static str,
    /// Path as the client sent it, without the query.
    pub path: Cow<'static, str>,
    /// Status of the answer; 0 until one has been sent.
    pub status: u16,
    /// Stable code of a gateway error, or empty.
    pub error_code: &'static str,
    /// Who asks.
    pub caller: Caller,
    /// Set for inference requests once they have a route.
    pub routed: Option<Routed>,
    /// Its place among the requests that are let in, held to the end of the answer.
    pub permit: Option<Permit>,
    /// Bytes of the body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were handed over.
    pub bytes_out: u64,
    /// Set for requests to the control plane.
    pub audit: Option<Box<Audited>>,
    /// Whether it is one of those that who watches the gateway sends again and again.
    pub watches: bool,
    /// Its trace, where requests are traced.
    pub trace: Option<Box<Trace>>,
    /// What it takes of its caller's allowance, to the end of the answer.
    pub stay: Option<Stay>,
    /// Counts the answer in the HTTP metrics when the call ends.
    pub observe: Option<fn(&Self, Duration)>,
    guard: CallGuard,
}

/// What the audit log says of a request beyond what is known of any.
#[derive(Debug)]
pub struct Audited {
    /// Where it comes from, unless the caller's address says more.
    pub client: Arc<str>,
    /// The worker or pool that its path names.
    pub resource: Option<Box<str>>,
    /// The subject of the client's certificate.
    pub details: Option<Arc<str>>,
}

/// The part of a call that inference requests have.
#[derive(Debug)]
pub struct Routed {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The route taken.
    pub route: RouteIx,
    /// Series of the model.
    pub model: Arc<ModelCell>,
    /// Label of the model.
    pub label: Arc<str>,
    /// Whether the client asked for a stream.
    pub streaming: bool,
    /// The worker of the latest attempt.
    pub worker: Option<WorkerIx>,
    /// How it was chosen.
    pub placed: Option<Placed>,
    /// The worker that reads the prompt for it, where the latest attempt is one of a pair.
    pub prefill: Option<Box<Prefilling>>,
    /// What the worker of a leg said with its refusal.
    pub said: Option<Box<Said>>,
    /// Attempts so far.
    pub attempts: u32,
    /// Whether a worker may have seen it.
    pub reached: AtomicBool,
    /// When the whole request body had been read.
    pub body_read: Instant,
    /// How long it waited to be let in.
    pub queued: Duration,
    /// When the latest attempt was sent.
    pub sent: Option<Instant>,
    /// When the worker's head of the latest attempt came.
    pub head: Option<Instant>,
    /// When the first event came, on the worker's side.
    pub first_event: Option<Instant>,
    /// When the answer was handed to the client's connection.
    pub answered: Option<Instant>,
    /// When the latest event came.
    pub last_event: Option<Instant>,
    /// Token counts where the worker told them.
    pub usage: Option<Usage>,
    /// Whether the answer reached its end.
    pub complete: bool,
}

/// How the worker of an attempt was chosen.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// The leg.
    pub role: Role,
    /// Name of the policy.
    pub policy: &'static str,
    /// The policy's reason.
    pub reason: &'static str,
    /// The worker's place in the memory of the leg.
    pub lane: Lane,
    /// What the policy expected.
    pub expected: Expected,
}

/// The leg of a pair that reads the prompt.
#[derive(Debug)]
pub struct Prefilling {
    /// The worker.
    pub worker: WorkerIx,
    /// How it was chosen.
    pub placed: Placed,
    /// The `runtime` label of the pair.
    pub runtime: &'static str,
    /// Whether its answer has come to its end.
    pub complete: bool,
    /// Token counts where it told them.
    pub usage: Option<Usage>,
    /// When it had handed its work over, where that is known.
    pub handed_over: Option<Instant>,
    /// When its own answer had come to its end.
    pub done: Option<Instant>,
}

/// What a worker said with its refusal, for the client.
#[derive(Debug)]
pub struct Said {
    /// Its words, shortened.
    pub text: String,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Call {
    /// Starts a call on `snapshot`. `template` is the route template of `path`.
    pub fn start(
        live: &Arc<Live>,
        snapshot: Arc<Snapshot>,
        method: http::Method,
        template: &'static str,
        path: &str,
        id: HeaderValue,
    ) -> Self {
        let path = if path == template {
            Cow::Borrowed(template)
        } else {
            path.to_owned().into()
        };
        let started = clock::now();
        Self {
            snapshot,
            id,
            started,
            method,
            template,
            path,
            status: 0,
            error_code: "",
            caller: Caller::default(),
            routed: None,
            permit: None,
            bytes_in: 0,
            bytes_out: 0,
            audit: None,
            watches: false,
            trace: None,
            stay: None,
            observe: None,
            guard: live.start_call(started),
        }
    }

    /// Tells the phase of the process.
    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(self.guard.live())
    }

    /// Where the process stands.
    pub(super) fn phase(&self) -> Phase {
        self.guard.live().phase()
    }

    /// The request id as text.
    pub fn id_str(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// Who asked, for the log: the configured name of a tenant, else against whom limits are counted.
    /// Nothing where that is no more than an address.
    fn tenant(&self) -> Cow<'_, str> {
        let auth = &self.snapshot.plan.auth;
        let tenant = self.caller.tenant.and_then(|ix| auth.tenant(ix));
        match (tenant, &self.caller.identity) {
            (Some(tenant), _) => Cow::Borrowed(&tenant.name),
            (None, Identity::Address(_) | Identity::Anonymous) => Cow::Borrowed(""),
            (None, identity) => Cow::Owned(identity.to_string()),
        }
    }

    /// What it has cost its caller. Who was refused has got nothing, but for those on whom a worker was
    /// busy until somebody's time or patience ran out.
    fn spent(&self) -> Spent {
        let Some(routed) = &self.routed else {
            return Spent::Nothing;
        };
        let refused = self.status >= 400 && !matches!(self.status, 408 | 499 | 504);
        match routed.usage {
            Some(usage) => Spent::Told(usage),
            None if refused || !routed.reached.load(Ordering::Relaxed) => Spent::Nothing,
            None => Spent::Unknown,
        }
    }

    fn finish_routed(&self, routed: &Routed, series: &Series, now: Instant) {
        if routed.streaming {
            series.requests_streamed.increment(1);
        } else {
            series.requests.increment(1);
        }
        if let Some(sent) = routed.sent {
            series.stages.upstream(sent, now);
        }
        let whole = now.saturating_duration_since(self.started);
        series.duration.record(whole.as_secs_f64());
        if let (1, Some(sent), Some(head), Some(answered)) =
            (routed.attempts, routed.sent, routed.head, routed.answered)
        {
            // From the last byte of the request to the worker, and from the worker's first word to
            // the client; with more attempts than one, others' time lies between.
            let inward = sent.saturating_duration_since(routed.body_read + routed.queued);
            let came = routed.first_event.unwrap_or(head);
            let outward = answered.saturating_duration_since(came);
            let histogram = if routed.streaming {
                &series.overhead_streamed
            } else {
                &series.overhead
            };
            histogram.record((inward + outward).as_secs_f64());
        }
        if routed.streaming
            && let (Some(sent), Some(first)) = (routed.sent, routed.first_event)
        {
            series
                .ttft
                .record(first.saturating_duration_since(sent).as_secs_f64());
            let last = routed.last_event.unwrap_or(first);
            let generation = last.saturating_duration_since(first).as_secs_f64();
            series.generation.record(generation);
            if let Some(Usage {
                output: output @ 2..,
                ..
            }) = routed.usage
            {
                let following = u32::try_from(output - 1).unwrap_or(u32::MAX);
                series.tpot.record(generation / f64::from(following));
            }
        }
        if let Some(usage) = routed.usage {
            series.tokens_in.increment(usage.input);
            series.tokens_out.increment(usage.output);
            let reader = routed.prefill.as_ref().map(|prefill| prefill.worker);
            let reader = reader
                .or(routed.worker)
                .and_then(|ix| self.snapshot.worker(ix));
            if let (Some(reader), Some(cached)) = (reader, usage.cached) {
                reader.parts.cell.found(cached, usage.input);
            }
        }
        let success = routed.complete && self.status < 400 && self.error_code.is_empty();
        if let Some(placed) = &routed.placed {
            self.learn(routed.route, placed, success, routed.usage);
        }
        if let Some(prefill) = &routed.prefill {
            let usage = prefill.usage.or(routed.usage);
            let success = success || prefill.complete;
            self.learn(routed.route, &prefill.placed, success, usage);
            prefill.record(routed);
        }
        if let Some(error_type) = error_type(self.status, self.error_code) {
            series.error(error_type);
        }
    }

    /// Tells the policy that `placed` the request how it ended.
    fn learn(&self, route: RouteIx, placed: &Placed, success: bool, usage: Option<Usage>) {
        if let Some((route, cells)) = self.snapshot.route(route)
            && let (Some(leg), Some(parts)) = (route.legs.get(placed.role), cells.leg(placed.role))
        {
            let model = &cells.model;
            let feedback = Feedback {
                lane: placed.lane,
                expected: placed.expected,
                success,
                prompt_tokens: usage.map(|usage| usage.input),
                cached_tokens: usage.and_then(|usage| usage.cached),
            };
            policy::learn(&leg.policy, &parts.memory, feedback);
            if let (true, Some(expected), Some(cached)) = (
                success,
                placed.expected.cached_tokens,
                feedback.cached_tokens,
            ) {
                model.predicted(expected, cached);
            }
        }
    }
}

impl Prefilling {
    fn record(&self, routed: &Routed) {
        let series = routed.model.pair(self.runtime);
        let record = |histogram: &Histogram, from: Option<Instant>| {
            if let (Some(from), Some(first)) = (from, routed.first_event) {
                let wait = first.saturating_duration_since(from);
                histogram.record(wait.as_secs_f64());
            }
        };
        record(&series.ttft, routed.sent);
        record(&series.kv_transfer, self.handed_over);
    }
}

/// The `error_type` label of a call that ended with `status` and the gateway's `code`, if any; `None`
/// for a success.
pub fn error_type(status: u16, code: &str) -> Option<&'static str> {
    match (status, code) {
        (_, "client_closed_request") => None,
        // Turned away at the gate: that is no failure, and has a metric of its own.
        (429, _) => None,
        (404, _)
        | (503, "no_available_workers" | "target_worker_unavailable" | "server_selection_failed") => {
            Some("no_workers")
        }
        (408 | 504, _) | (_, "call_upstream_timeout") => Some("timeout"),
        (
            _,
            "internal_error"
            | "memory_budget_exhausted"
            | "call_upstream_request_error"
            | "call_upstream_builder_error",
        ) => Some("internal_error"),
        (500.., _) => Some("backend_error"),
        (400, _) => Some("validation_error"),
        (_, "") => None,
        // What the gateway itself refuses is the client's mistake.
        (401..=499, _) => Some("validation_error"),
        // A stream that had begun well.
        _ => Some("backend_error"),
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = clock::now();
        let latency = now.saturating_duration_since(self.started);
        if std::thread::panicking() {
            self.status = 500;
            self.error_code = "internal_error";
        } else if self.status == 0 {
            // Nobody was there any more to take an answer.
            self.status = 499;
            self.error_code = "client_closed_request";
        } else if let Some(routed) = &self.routed
            && !routed.complete
            && self.error_code.is_empty()
        {
            self.error_code = "client_closed_request";
        }
        if let Some(stay) = self.stay.take() {
            stay.settle(self.spent(), now);
        }
        // Only a line that will be written is worth its making.
        let tenant = match access::enabled(access::level(self.status, self.watches)) {
            true => self.tenant(),
            false => Cow::Borrowed(""),
        };
        let mut access = Access {
            tenant: &tenant,
            client: match self.caller.identity {
                Identity::Address(address) => Some(address),
                _ => None,
            },
            request_id: self.id_str(),
            method: self.method.as_str(),
            path: &self.path,
            status: self.status,
            latency,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            generation: self.snapshot.generation,
            error_code: self.error_code,
            watches: self.watches,
            ..Access::default()
        };
        if let Some(routed) = &self.routed {
            self.finish_routed(routed, routed.model.series(routed.endpoint), now);
            access.model = &routed.label;
            access.attempts = routed.attempts;
            access.queue = routed.queued;
            let first = routed.first_event.filter(|_| routed.streaming);
            access.ttft = first.map(|at| at.saturating_duration_since(self.started));
            access.tokens_in = routed.usage.map(|usage| usage.input);
            access.tokens_cached = routed.usage.and_then(|usage| usage.cached);
            access.tokens_out = routed.usage.map(|usage| usage.output);
            if let Some((route, _)) = self.snapshot.route(routed.route) {
                access.pool = &self.snapshot.plan.pool(route.pool).name;
            }
            if let Some(placed) = &routed.placed {
                access.policy = placed.policy;
                access.reason = placed.reason;
                access.tokens_expected = placed.expected.cached_tokens.map(u64::from);
            }
            if let Some(worker) = routed.worker.and_then(|ix| self.snapshot.worker(ix)) {
                access.worker_id = worker.parts.id_str();
            }
        }
        access::emit(&access);
        if access.status >= 400 || !access.error_code.is_empty() {
            let mut endpoints = Endpoint::ALL.iter();
            if endpoints.any(|endpoint| endpoint.path() == self.template) {
                failures::note(self.template, &access);
            }
        }
        if let Some(trace) = self.trace.take() {
            trace.finish(self, now);
        }
        if let Some(observe) = self.observe {
            observe(self, latency);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::label;

    #[test]
    fn every_end_has_its_kind_of_error() {
        for (status, code, expected) in [
            (200, "", None),
            (304, "", None),
            (200, "client_closed_request", None),
            (499, "client_closed_request", None),
            (429, "", None),
            (429, "admission_queue_full", None),
            (400, "", Some("validation_error")),
            (400, "invalid_json", Some("validation_error")),
            (403, "model_not_allowed", Some("validation_error")),
            (413, "request_body_too_large", Some("validation_error")),
            (415, "unsupported_encoding", Some("validation_error")),
            (422, "", None),
            (404, "model_not_found", Some("no_workers")),
            (503, "no_available_workers", Some("no_workers")),
            (503, "server_selection_failed", Some("no_workers")),
            (408, "admission_queue_timeout", Some("timeout")),
            (504, "call_upstream_timeout", Some("timeout")),
            (200, "call_upstream_timeout", Some("timeout")),
            (500, "", Some("backend_error")),
            (503, "", Some("backend_error")),
            (502, "prefill_bad_gateway", Some("backend_error")),
            (200, "stream_error", Some("backend_error")),
            (500, "internal_error", Some("internal_error")),
            // The gateway ends.
            (503, "internal_error", Some("internal_error")),
            (200, "internal_error", Some("internal_error")),
            (503, "memory_budget_exhausted", Some("internal_error")),
        ] {
            let found = error_type(status, code);
            assert_eq!(found, expected, "{status} {code}");
            assert!(found.is_none_or(|kind| label::ROUTER_ERRORS.contains(&kind)));
        }
    }
}
