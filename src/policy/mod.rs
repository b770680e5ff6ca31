//! Chooses a worker among candidates. Pure: a policy sees candidates, loads and a hint, never the
//! network; randomness comes in as a parameter.

mod least_load;
mod power_of_two;
mod random;
mod round_robin;

use bytes::Bytes;
use http::HeaderMap;

use crate::api::scan::Fields;
use crate::config::spec::Policy;
use crate::plan::WorkerKey;
use crate::state::RouteCell;

/// One candidate of a pick: ready, serving the model, and not yet tried for this call.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Identity of the worker, for policies that remember where something went.
    pub key: &'a WorkerKey,
    /// Requests in flight at the worker.
    pub load: usize,
    /// Picks of the worker so far; spreads ties.
    pub processed: u64,
}

/// What a policy may know about the request. Nothing in it costs anything until a policy looks.
#[derive(Debug, Clone, Copy)]
pub struct Hint<'a> {
    /// The request body as the client sent it, in the pieces in which it came.
    pub body: &'a [Bytes],
    /// Where the prompt stands in it, as if it were one.
    pub fields: &'a Fields,
    /// The client's headers; to be hashed or compared, never kept or logged.
    pub headers: &'a HeaderMap,
    /// The routing key that the client gave.
    pub routing_key: Option<&'a str>,
    /// Token ids of the prompt where they are known.
    pub tokens: Option<&'a [u32]>,
}

/// What a finished request tells the policy that placed it.
#[derive(Debug, Clone, Copy)]
pub struct Feedback<'a> {
    /// The worker that answered last.
    pub worker: Option<&'a WorkerKey>,
    /// Whether the worker answered with success.
    pub success: bool,
    /// Prompt tokens as the worker counted them.
    pub prompt_tokens: Option<u64>,
    /// Those of them that the worker found in its cache.
    pub cached_tokens: Option<u64>,
}

/// Chooses one of `candidates`, by index. `None` only when there is none.
///
/// The order of `candidates` is the plan's (by URL), so indexes and tie-breaks are the same in
/// every gateway with the same file.
pub fn pick(
    policy: Policy,
    candidates: &[Candidate<'_>],
    _hint: Hint<'_>,
    cell: &RouteCell,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    match candidates.len() {
        0 => None,
        1 => Some(0),
        _ => Some(match policy {
            Policy::Random => random::pick(candidates, rng),
            Policy::RoundRobin => round_robin::pick(candidates, cell),
            Policy::PowerOfTwo => power_of_two::pick(candidates, rng),
            Policy::LeastLoad => least_load::pick(candidates, rng),
        }),
    }
}

/// Tells the policy how a request that it placed ended.
pub fn learn(policy: Policy, _cell: &RouteCell, _feedback: Feedback<'_>) {
    match policy {
        Policy::Random | Policy::RoundRobin | Policy::PowerOfTwo | Policy::LeastLoad => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static KEY: LazyLock<WorkerKey> = LazyLock::new(|| WorkerKey::new("http://worker:1"));

    pub(super) fn candidate(load: usize, processed: u64) -> Candidate<'static> {
        Candidate {
            key: &KEY,
            load,
            processed,
        }
    }
}
