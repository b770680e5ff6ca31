//! What the gateway shows of itself: the answer of `GET /admin/overview`, of which the console and
//! `smg top` are two views.
//!
//! Times are Unix milliseconds, durations and latencies seconds, rates per second.

use serde::{Deserialize, Serialize};

/// The gateway at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overview {
    /// When this was looked at.
    pub time: u64,
    /// Version of the program.
    pub version: String,
    /// When the process became what it is.
    pub started: u64,
    /// `running`, `settling`, `draining`, …
    pub phase: String,
    /// Which configuration serves, and which was refused.
    pub config: Config,
    /// What is under way.
    pub now: Now,
    /// Rates and latencies, of the shortest span first.
    pub spans: Vec<Span>,
    /// The last minutes, oldest first.
    pub points: Vec<Point>,
    /// Who does the work, in the order of the file.
    pub pools: Vec<Pool>,
    /// What clients may ask for.
    pub models: Vec<Model>,
    /// The requests that went wrong most recently, newest first.
    pub failures: Vec<Failure>,
}

/// Where configurations stand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The file, as the process was told; empty: none.
    pub file: String,
    /// Number of the accepted configuration.
    pub generation: u64,
    /// Its hash.
    pub sha256: String,
    /// When it took effect.
    pub applied: u64,
    /// What asked for it.
    pub trigger: String,
    /// Snapshots published so far.
    pub snapshot: u64,
    /// Whether the file says what serves.
    pub synchronized: bool,
    /// The candidate that was refused since.
    pub rejected: Option<Rejected>,
}

/// A candidate that was refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejected {
    /// Its hash.
    pub sha256: String,
    /// When it was judged.
    pub time: u64,
    /// What asked for it.
    pub trigger: String,
    /// Every mistake, as `smg check-config` prints it, without colours.
    pub diagnostics: Vec<String>,
}

/// What is under way at this moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Now {
    /// Requests that are served.
    pub in_flight: u64,
    /// Requests that wait for a permit.
    pub waiting: u64,
    /// Connections of clients.
    pub connections: u64,
    /// Bytes of bodies that are held.
    pub body_bytes: u64,
    /// Bytes of bodies that may be held; 0: no such limit.
    pub body_budget: u64,
}

/// What the inference requests of a span that ends now were like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Span {
    /// Its length.
    pub seconds: f64,
    /// How much of it there are figures of, in seconds: the process may be younger.
    pub covered: f64,
    /// Requests that ended in it.
    pub requests: u64,
    /// Of these, how many ended in which way; see [`OUTCOMES`].
    pub outcomes: Vec<Outcome>,
    /// Requests per second.
    pub request_rate: f64,
    /// Tokens that workers read, per second.
    pub input_token_rate: f64,
    /// Tokens that workers wrote, per second.
    pub output_token_rate: f64,
    /// From the head of a request to the last byte of its answer.
    pub duration: Option<Quantiles>,
    /// From sending a request to its worker to the first token of the answer, of streams.
    pub first_token: Option<Quantiles>,
}

/// The outcomes of [`Span::outcomes`], in their order.
pub const OUTCOMES: &[&str] = &["ok", "client_error", "limited", "cancelled", "server_error"];

/// How many requests ended in one way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// One of [`OUTCOMES`].
    pub outcome: String,
    /// Requests.
    pub requests: u64,
}

/// Estimates out of a histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    /// Half of all are faster.
    pub p50: f64,
    /// 95 of 100 are faster.
    pub p95: f64,
    /// 99 of 100 are faster.
    pub p99: f64,
}

/// A piece of the last minutes, for a curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Point {
    /// When it ended.
    pub time: u64,
    /// Requests per second.
    pub request_rate: f64,
    /// Requests per second that ended as `server_error`.
    pub failure_rate: f64,
    /// Tokens that workers wrote, per second.
    pub output_token_rate: f64,
    /// Requests under way at its end.
    pub in_flight: u64,
}

/// Workers with common settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Whether it gets no new requests.
    pub drain: bool,
    /// Its workers, rank by rank.
    pub workers: Vec<Worker>,
}

/// One endpoint that answers requests, or one rank of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Its id.
    pub id: String,
    /// Where it is, with `@rank` where it has several; never with credentials.
    pub url: String,
    /// `regular`, `prefill` or `decode`.
    pub role: String,
    /// Its engine; empty: not known yet.
    pub runtime: String,
    /// `static` or `manual`.
    pub source: String,
    /// `healthy`, `unhealthy`, or `unknown` before the first probe.
    pub health: String,
    /// Whether it gets requests now.
    pub ready: bool,
    /// Why not; empty if it does.
    pub reason: String,
    /// `closed`, `open` or `half_open`.
    pub breaker: String,
    /// Requests that it serves for this gateway.
    pub in_flight: u64,
    /// Attempts at it that have ended.
    pub answered: u64,
    /// Of these, failures of the worker.
    pub failed: u64,
    /// What the engine says of itself; `None` where it says nothing.
    pub engine: Option<Engine>,
    /// Of the prompt tokens it was sent, the share that it had in its cache, by its own word, from 0 to
    /// 1; `None`: it has said nothing.
    pub cache_hit_ratio: Option<f64>,
    /// Models that it serves.
    pub models: Vec<String>,
}

/// The load that an engine reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Engine {
    /// Requests that run.
    pub running: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// Share of its token memory in use, from 0 to 1.
    pub usage: Option<f64>,
}

/// What a model name leads to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    /// Name, or glob.
    pub name: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// Whether anybody could serve it now.
    pub ready: bool,
    /// Where its requests go.
    pub routes: Vec<Route>,
    /// Models that stand in for it, in their order.
    pub fallback: Vec<String>,
    /// The pool that gets copies; empty: none.
    pub mirror: String,
    /// What its policies would look at and are not told; empty: nothing.
    pub degraded: String,
}

/// A share of a model's requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// The pool.
    pub pool: String,
    /// Its weight among the routes of the model.
    pub weight: f64,
    /// The name under which it asks; empty: the model's own.
    pub model: String,
    /// How a worker is chosen; of a pair, `prefill/decode`.
    pub policy: String,
    /// Workers that get requests now.
    pub ready: u64,
    /// Workers that could.
    pub workers: u64,
}

/// A request that did not end well.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// When it ended.
    pub time: u64,
    /// Its id.
    pub request_id: String,
    /// The route template that it came on.
    pub path: String,
    /// A model that is known here, else empty.
    pub model: String,
    /// The pool that served it, if any did.
    pub pool: String,
    /// The worker that was asked last, by id, if any was.
    pub worker: String,
    /// Status of the answer.
    pub status: u16,
    /// One of [`OUTCOMES`].
    pub outcome: String,
    /// The code of the error, if it has one.
    pub code: String,
    /// Attempts made.
    pub attempts: u32,
    /// How long it took.
    pub seconds: f64,
}
