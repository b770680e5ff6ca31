//! Chooses a worker among candidates. Pure: a policy sees candidates, loads and a hint, never the
//! network; time and randomness come in as parameters. One file per policy, each with what it
//! remembers.

mod bucket;
mod cache_aware;
mod consistent_hashing;
mod lane;
mod least_load;
mod manual;
mod memory;
mod passthrough;
mod power_of_two;
mod prefix_hash;
mod random;
mod round_robin;
mod seat;

use std::cell::RefCell;
use std::time::Instant;

use http::HeaderMap;

pub use self::cache_aware::{IndexSize, Measure, Trail, TreeSize};
pub use self::lane::Lane;
pub use self::memory::Memory;
use crate::api::prompt::Prompt;
use crate::config::spec::{Algorithm, Policy};
use crate::plan::{Leg, WorkerIx, WorkerKey};

/// One candidate of a pick: ready, serving the model, of the highest priority present, and not yet
/// tried for this call.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Index of the worker in the plan.
    pub ix: WorkerIx,
    /// Identity of the worker.
    pub key: &'a WorkerKey,
    /// The worker's place in [`Memory`].
    pub lane: Lane,
    /// Requests in flight at the worker.
    pub load: usize,
    /// Picks of the worker so far; spreads ties.
    pub processed: u64,
    /// Prompt tokens sent there that are not computed yet, as far as policies estimated them.
    pub pending_prefill: u64,
    /// Prompt tokens per second while it computes any, as answers show.
    pub prefill_rate: Option<f64>,
    /// The load counts this many times; above 0.
    pub cost: f64,
    /// What the engine said of itself, where it is fresh and the policy wants it.
    pub engine: Option<&'a Engine>,
}

impl Candidate<'_> {
    /// Requests in flight times cost.
    pub(crate) fn weight(&self) -> f64 {
        self.load as f64 * self.cost
    }
}

/// What an engine said of its load. What it does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Engine {
    /// Requests being computed.
    pub running: Option<u64>,
    /// Requests waiting.
    pub waiting: Option<u64>,
    /// Prompt tokens of waiting requests that are in no cache.
    pub waiting_uncached_tokens: Option<u64>,
    /// Share of the cache in use, 0 to 1; the mean over ranks.
    pub token_usage: Option<f64>,
    /// Tokens generated per second.
    pub gen_throughput: Option<f64>,
    /// Tokens in the cache for requests under way.
    pub used_tokens: Option<u64>,
    /// Tokens that the cache can hold.
    pub capacity_tokens: Option<u64>,
    /// Tokens of requests sent since the engine said so.
    pub in_flight_tokens: u64,
}

/// What a policy may know about the request. Nothing in it costs anything until a policy looks.
#[derive(Debug, Clone, Copy)]
pub struct Hint<'a> {
    /// The prompt, as it stands in the request body.
    pub prompt: Prompt<'a>,
    /// The model that the worker is asked for: part of what makes two prompts the same, where one
    /// memory serves several names.
    pub model: &'a str,
    /// The client's headers; to be hashed or compared, never kept or logged.
    pub headers: &'a HeaderMap,
    /// The routing key that the client gave.
    pub routing_key: Option<&'a str>,
    /// Token ids of the prompt where they are known.
    pub tokens: Option<&'a [u32]>,
}

/// Whether a pick counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The request is about to be sent: cursors move, memories learn.
    Take,
    /// Somebody asks what would happen: nothing changes.
    Peek,
}

/// Everything that a policy decides upon.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The policy and its ring.
    pub leg: &'a Leg,
    /// What is remembered for this leg and model entry.
    pub memory: &'a Memory,
    /// Whom it may choose, in the plan's order (by URL), so that indexes and tie-breaks are the
    /// same in every gateway with the same file.
    pub candidates: &'a [Candidate<'a>],
    /// The request.
    pub hint: Hint<'a>,
    /// Whether it counts.
    pub mode: Mode,
    /// Now.
    pub now: Instant,
    /// Where the figures behind the decision are noted, if anybody wants them.
    pub notes: Option<&'a Notes>,
}

impl Ask<'_> {
    /// Whether memories learn from this.
    pub(crate) fn takes(&self) -> bool {
        self.mode == Mode::Take
    }

    /// Notes a figure of the candidate at `index`.
    pub(crate) fn note(&self, index: usize, name: &'static str, value: f64) {
        if let Some(notes) = self.notes {
            notes.0.borrow_mut().push((index, name, value));
        }
    }
}

/// The figures behind a decision: index of the candidate, name, value.
#[derive(Debug, Default)]
pub struct Notes(RefCell<Vec<(usize, &'static str, f64)>>);

impl Notes {
    /// All figures, in the order in which they were noted.
    pub fn into_inner(self) -> Vec<(usize, &'static str, f64)> {
        self.0.into_inner()
    }
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    /// Index of the chosen candidate.
    pub index: usize,
    /// Why it was chosen, as one stable word: a metric label and a field of the access log.
    pub reason: &'static str,
    /// What the policy expects.
    pub expected: Expected,
    /// Share of the prompt that is known to be in somebody's cache; `None` where nobody looked.
    pub matched: Option<f32>,
}

impl Pick {
    /// A pick of `index` for `reason`, without any expectation.
    pub(crate) const fn of(index: usize, reason: &'static str) -> Self {
        Self {
            index,
            reason,
            expected: Expected {
                prefill_tokens: 0,
                cached_tokens: None,
                prompt_bytes: 0,
                of_tokens: false,
                trail: Trail::NONE,
            },
            matched: None,
        }
    }
}

/// What a policy expects of a request that it placed; compared with the answer later.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Expected {
    /// Prompt tokens that the worker will have to compute.
    pub prefill_tokens: u32,
    /// Prompt tokens that it will find in its cache; `None` where the policy has no idea.
    pub cached_tokens: Option<u32>,
    /// Length of the prompt in bytes; 0 where nobody counted.
    pub prompt_bytes: u32,
    /// Whether tokens were counted, [`prompt_bytes`](Self::prompt_bytes) being their size.
    pub of_tokens: bool,
    /// What the answer will be held against.
    pub trail: Trail,
}

/// Why nobody is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no candidate.
    Nobody,
    /// The request names a worker that is none of the candidates.
    Target,
}

/// What a finished request tells the policy that placed it.
#[derive(Debug, Clone, Copy)]
pub struct Feedback {
    /// Place of the worker that answered.
    pub lane: Lane,
    /// What was expected.
    pub expected: Expected,
    /// Whether the worker answered with success.
    pub success: bool,
    /// Prompt tokens as the worker counted them.
    pub prompt_tokens: Option<u64>,
    /// Those of them that the worker found in its cache.
    pub cached_tokens: Option<u64>,
}

/// Chooses one of the candidates.
///
/// # Errors
/// [`Refused`] when none can be.
pub fn pick(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> Result<Pick, Refused> {
    if ask.candidates.is_empty() {
        return Err(Refused::Nobody);
    }
    let policy = &ask.leg.policy;
    let keyed = matches!(policy, Policy::Manual(_) | Policy::ConsistentHashing);
    if ask.leg.sticky && !keyed && ask.hint.routing_key.is_some() {
        return manual::stick(ask, rng, by_policy);
    }
    by_policy(ask, rng)
}

fn by_policy(ask: &Ask<'_>, rng: &mut fastrand::Rng) -> Result<Pick, Refused> {
    let pick = match &ask.leg.policy {
        Policy::ConsistentHashing => return consistent_hashing::pick(ask, rng),
        Policy::Random => random::pick(ask, rng),
        Policy::RoundRobin => round_robin::pick(ask),
        Policy::Passthrough => passthrough::pick(ask),
        Policy::PowerOfTwo => power_of_two::pick(ask, rng),
        Policy::LeastLoad(options) => least_load::pick(ask, options, rng),
        Policy::PrefixHash(options) => prefix_hash::pick(ask, options, rng),
        Policy::Manual(options) => manual::pick(ask, options, rng),
        Policy::Bucket(options) => bucket::pick(ask, options, rng),
        Policy::CacheAware(options) => cache_aware::pick(ask, options, rng),
    };
    Ok(pick)
}

/// Whether the request itself names its worker, so that another attempt can only mean the same one.
pub fn is_targeted(policy: &Policy, headers: &HeaderMap) -> bool {
    matches!(policy, Policy::ConsistentHashing) && consistent_hashing::is_targeted(headers)
}

/// Tells the policy how a request that it placed ended.
pub fn learn(policy: &Policy, memory: &Memory, feedback: Feedback) {
    if let Policy::CacheAware(options) = policy {
        cache_aware::learn(options, memory, feedback);
    }
}

/// Whether `policy` looks at what engines say of their load.
pub fn wants_engine_load(policy: &Policy) -> bool {
    match policy {
        Policy::PowerOfTwo | Policy::LeastLoad(_) => true,
        Policy::CacheAware(options) => cache_aware::wants_engine_load(options),
        Policy::Random
        | Policy::RoundRobin
        | Policy::Passthrough
        | Policy::ConsistentHashing
        | Policy::PrefixHash(_)
        | Policy::Manual(_)
        | Policy::Bucket(_) => false,
    }
}

/// Whether `told` holds what `policy` looks at.
pub fn is_enough(policy: &Policy, told: &Engine) -> bool {
    match policy {
        Policy::PowerOfTwo | Policy::LeastLoad(_) => told.token_usage.is_some(),
        Policy::CacheAware(options) => match options.runs() {
            Algorithm::Score => true,
            Algorithm::Tree => told.token_usage.is_some(),
        },
        Policy::Random
        | Policy::RoundRobin
        | Policy::Passthrough
        | Policy::ConsistentHashing
        | Policy::PrefixHash(_)
        | Policy::Manual(_)
        | Policy::Bucket(_) => true,
    }
}

#[cfg(test)]
mod scene;
