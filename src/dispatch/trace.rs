//! The trace of one call: what its spans are made of when it has ended.
//!
//! While the call is under way only ids and points of time are noted. Nothing of a prompt or an
//! answer, no header's value and no query ends up in a span.

use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::call::{Call, Routed};
use super::error::{CallError, Fault};
use super::retry::Failed;
use crate::base::clock;
use crate::plan::{Identity, Role, WorkerIx};
use crate::telemetry::trace::{self as spans, Context, Kind, Link, Span, SpanId, Times};

/// Longest model name that is kept, in bytes.
const LONGEST: usize = 256;

/// The trace of one call.
#[derive(Debug)]
pub struct Trace {
    context: Context,
    /// What the client calls the model.
    model: Option<Box<str>>,
    attempts: Vec<Attempt>,
    retries: Vec<Instant>,
}

/// A request to one worker.
#[derive(Debug)]
struct Attempt {
    id: SpanId,
    role: Role,
    worker: WorkerIx,
    policy: &'static str,
    /// Counted from 1; the legs of a pair have the same.
    number: u32,
    from: Instant,
    to: Option<Instant>,
    status: Option<u16>,
    error: &'static str,
}

impl Trace {
    /// Begins the trace of a call with this head; `ratio` of those that nobody decided on before
    /// are recorded.
    pub fn begin(headers: &HeaderMap, ratio: f64) -> Self {
        Self {
            context: Context::begin(headers, ratio),
            model: None,
            attempts: Vec::new(),
            retries: Vec::new(),
        }
    }

    /// The `traceparent` that the client gets.
    pub fn header(&self) -> HeaderValue {
        self.context.header(self.context.own())
    }

    /// For requests on behalf of the call that are no attempts.
    pub fn link(&self) -> Link {
        self.context.link(self.context.own())
    }

    /// Notes what the client calls the model.
    pub fn name(&mut self, model: &str) {
        if self.context.is_sampled() {
            let end = model.floor_char_boundary(LONGEST);
            self.model = model.get(..end).map(Into::into);
        }
    }

    /// An attempt at `worker` begins at `from`.
    pub(super) fn attempt(
        &mut self,
        (role, worker): (Role, WorkerIx),
        policy: &'static str,
        number: u32,
        from: Instant,
    ) {
        self.attempts.push(Attempt {
            id: Span::id(),
            role,
            worker,
            policy,
            number,
            from,
            to: None,
            status: None,
            error: "",
        });
    }

    /// What the worker of the latest attempt in `role` gets to know.
    pub(super) fn link_of(&self, role: Role) -> Option<Link> {
        let attempt = self.attempts.iter().rfind(|attempt| attempt.role == role)?;
        Some(self.context.link(attempt.id))
    }

    /// The latest attempt in `role` was sent only now.
    pub(super) fn sent(&mut self, role: Role, now: Instant) {
        if let Some(attempt) = self.open().find(|attempt| attempt.role == role) {
            attempt.from = now;
        }
    }

    /// A head with `status` came for the attempt that answers.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(attempt) = self.open().find(|attempt| attempt.role != Role::Prefill) {
            attempt.status = Some(status.as_u16());
        }
    }

    /// The attempt under way has failed.
    pub(super) fn failed(&mut self, routed: Option<&Routed>, failed: &Failed) {
        let now = clock::now();
        self.prefilled(routed);
        let (worker, status, error) = match failed {
            Failed::Refused(held) if held.said_error => (held.worker, None, "stream_error"),
            Failed::Refused(held) => (held.worker, Some(held.parts.status.as_u16()), ""),
            Failed::Error(worker, error) => (*worker, status_of(*error), error.code().as_str()),
            Failed::Leg(lost) => {
                let error = lost.error();
                (lost.worker, status_of(error), error.code().as_str())
            }
        };
        for attempt in self.open() {
            attempt.to = Some(now);
            if attempt.worker == worker {
                attempt.status = status.or(attempt.status);
                attempt.error = error;
            } else {
                attempt.error = "cancelled";
            }
        }
    }

    /// Another attempt follows.
    pub(super) fn retry(&mut self) {
        self.retries.push(clock::now());
    }

    /// The attempts that have not ended.
    fn open(&mut self) -> impl Iterator<Item = &mut Attempt> {
        self.attempts
            .iter_mut()
            .filter(|attempt| attempt.to.is_none())
    }

    /// A prefill ends before the answer does, where that was seen.
    fn prefilled(&mut self, routed: Option<&Routed>) {
        let done = routed.and_then(|routed| routed.prefill.as_ref()?.done);
        let mut open = self.open();
        if let (Some(done), Some(attempt)) = (
            done,
            open.find(|attempt: &&mut Attempt| attempt.role == Role::Prefill),
        ) {
            attempt.to = Some(done);
            attempt.status = Some(StatusCode::OK.as_u16());
        }
    }

    /// Hands over the spans of `call`, which ends `now`.
    pub(super) fn finish(mut self, call: &Call, now: Instant) {
        if !self.context.is_sampled() {
            return;
        }
        self.prefilled(call.routed.as_ref());
        for attempt in self.open() {
            attempt.to = Some(now);
            if attempt.role != Role::Prefill {
                attempt.error = call.error_code;
            }
        }
        let times = Times::at(now);
        let mut all = Vec::with_capacity(2 + self.attempts.len());
        all.push(self.server(call, times, now));
        if let Some(routed) = call.routed.as_ref().filter(|r| !r.queued.is_zero()) {
            let waited = (routed.body_read, routed.body_read + routed.queued);
            let kind = Kind::Internal;
            let name = "admission_queue";
            all.push(Span::new(
                &self.context,
                Span::id(),
                name,
                kind,
                times,
                waited,
            ));
        }
        for attempt in &self.attempts {
            all.push(self.client(call, attempt, times, now));
        }
        spans::send(all);
    }

    fn server(&self, call: &Call, times: Times, now: Instant) -> Span {
        let lasted = (call.started, now);
        let own = self.context.own();
        let mut span = Span::new(
            &self.context,
            own,
            "http_request",
            Kind::Server,
            times,
            lasted,
        );
        span.put("http.request.method", method(&call.method));
        if call.template != "other" {
            span.put("http.route", call.template);
        }
        span.text("url.path", &call.path);
        span.put("http.response.status_code", i64::from(call.status));
        span.text("smg.request_id", call.id_str());
        let tenants = &call.snapshot.plan.auth.tenants;
        let tenant = call.caller.tenant.and_then(|ix| tenants.get(ix.0 as usize));
        match (tenant, &call.caller.identity) {
            (Some(tenant), _) => span.put("smg.tenant", tenant.name.clone()),
            (None, Identity::Tenant(name) | Identity::Header(name)) => {
                span.put("smg.tenant", name.clone());
            }
            (None, Identity::Address(_) | Identity::Anonymous) => {}
        }
        if let Some(model) = &self.model {
            span.text("gen_ai.request.model", model);
        }
        if let Some(routed) = &call.routed {
            span.put("smg.model", routed.label.clone());
            if let Some((route, _)) = call.snapshot.route(routed.route) {
                let pool = &call.snapshot.plan.pool(route.pool).name;
                span.put("smg.pool", pool.to_string());
            }
            if let Some(usage) = routed.usage {
                span.number("gen_ai.usage.input_tokens", usage.input);
                span.number("gen_ai.usage.output_tokens", usage.output);
            }
            if let Some(first) = routed.first_event.filter(|_| routed.streaming) {
                span.event("first_token", times, first);
            }
        }
        for at in &self.retries {
            span.event("retry", times, *at);
        }
        match (call.error_code, call.status) {
            ("", 500..) => span.put("error.type", i64::from(call.status).to_string()),
            ("", _) => {}
            (code, _) => span.put("error.type", code),
        }
        let broke = call.status < 400 && !matches!(call.error_code, "" | CLOSED);
        if call.status >= 500 || broke {
            span.fail(call.error_code);
        }
        span
    }

    fn client(&self, call: &Call, attempt: &Attempt, times: Times, now: Instant) -> Span {
        let name = match attempt.role {
            Role::Regular => "attempt",
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        };
        let lasted = (attempt.from, attempt.to.unwrap_or(now));
        let mut span = Span::new(&self.context, attempt.id, name, Kind::Client, times, lasted);
        span.put("http.request.method", "POST");
        if let Some(worker) = call.snapshot.worker(attempt.worker) {
            span.put("server.address", worker.plan.host.clone());
            span.put("server.port", i64::from(worker.plan.port));
            span.text("smg.worker_id", worker.parts.id_str());
        }
        span.number("smg.attempt", u64::from(attempt.number));
        span.put("smg.policy", attempt.policy);
        if let Some(status) = attempt.status {
            span.put("http.response.status_code", i64::from(status));
        }
        let status = attempt.status.unwrap_or_default();
        match (attempt.error, status) {
            ("", 500..) => {
                span.put("error.type", i64::from(status).to_string());
                span.fail("");
            }
            ("", _) => {}
            (error @ ("cancelled" | CLOSED), _) => span.put("error.type", error),
            (error, _) => {
                span.put("error.type", error);
                span.fail(error);
            }
        }
        span
    }
}

/// The client went away: nothing failed.
const CLOSED: &str = "client_closed_request";

/// The method, one of those that the conventions name.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

/// The status that a worker failed with, if it did so with one.
fn status_of(error: CallError) -> Option<u16> {
    match error {
        CallError::Status(status) | CallError::Leg(_, Fault::Status(status)) => Some(status),
        _ => None,
    }
}
