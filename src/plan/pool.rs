//! Pools and the reliability settings in force for them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::worker::WorkerIx;
use crate::config::spec::Runtime;

/// Index of a pool in the plan it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PoolIx(pub u32);

/// A set of workers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pool {
    /// Name as declared.
    pub name: Arc<str>,
    /// Engine of all its workers where declared.
    pub runtime: Option<Runtime>,
    /// Whether a client's credential goes on to these workers.
    pub forward_authorization: bool,
    /// Whether each rank of its workers is a worker.
    pub dp_aware: bool,
    /// Whether, of the ranks of the worker that the policy chose, the one with the fewest tokens serves.
    pub dp_minimum_tokens: bool,
    /// Connections towards its workers.
    pub connections: Connections,
    /// Whether the admin API may add workers to it.
    pub dynamic: bool,
    /// Whether it gets no new requests.
    pub draining: bool,
    /// How its workers are probed.
    pub health: Health,
    /// When the breakers of its workers open and close.
    pub breaker: Breaker,
    /// Attempts of requests that a model entry sends here without settings of its own.
    pub retry: Retry,
    /// Deadlines of such requests.
    pub timeouts: Timeouts,
    /// Its workers, sorted by key.
    pub workers: Vec<WorkerIx>,
    /// Those of them that read prompts and those that generate, where it is split in legs.
    pub pair: Option<[Vec<WorkerIx>; 2]>,
}

impl Pool {
    /// The sets of workers of each of which a request needs one.
    pub fn legs(&self) -> impl Iterator<Item = &[WorkerIx]> {
        let whole = self.pair.is_none().then_some(&self.workers);
        let pair = self.pair.iter().flatten();
        whole.into_iter().chain(pair).map(Vec::as_slice)
    }
}

/// Limits of the connection pool of each worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Idle connections kept.
    pub max_idle: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// HTTP/2 from the first byte.
    pub http2: bool,
}

/// How workers are probed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Health {
    /// Off: every worker is ready for good.
    pub enabled: bool,
    /// Failures in a row after which a ready worker is not ready.
    pub failure_threshold: u32,
    /// Good probes in a row after which it is ready again.
    pub success_threshold: u32,
    /// Longest that one probe may take.
    pub timeout: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Path that is asked.
    pub endpoint: Arc<str>,
    /// After this long a worker that never answered is shown as failed; it goes on being tried.
    pub startup_timeout: Duration,
    /// Time between registration attempts, after the first quick ones.
    pub startup_check_interval: Duration,
    /// Wait before the first registration attempt.
    pub startup_delay: Duration,
    /// How long a worker that is being removed is kept at least.
    pub drain_settle: Duration,
    /// Whether a worker that was added is removed once it has failed.
    pub remove_unhealthy: bool,
}

/// When the breaker of a worker opens and closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Breaker {
    /// Off: it counts and never opens.
    pub enabled: bool,
    /// Failures in a row that open it.
    pub failure_threshold: u32,
    /// Successes in a row that close it, and requests that try it at once.
    pub success_threshold: u32,
    /// How long it stays open.
    pub timeout: Duration,
    /// Longest time between two failures of one row.
    pub window: Duration,
}

/// How many retries a pool may have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Budget {
    /// Retries per request of the last 10 seconds.
    pub ratio: f64,
    /// Retries per second in any case.
    pub min_per_second: f64,
}

/// How often and when an attempt is replaced by another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retry {
    /// Total attempts, at least 1.
    pub attempts: u32,
    /// Wait before the second attempt.
    pub initial_backoff: Duration,
    /// Bound of the wait, before jitter.
    pub max_backoff: Duration,
    /// Growth of the wait per attempt.
    pub multiplier: f64,
    /// Jitter: the wait is multiplied by 1 + rand(0, this).
    pub jitter: f64,
    /// Statuses of a worker that are retried, sorted.
    pub status_codes: Vec<u16>,
    /// How many of them there may be.
    pub budget: Budget,
}

impl Retry {
    /// The wait before attempt `k + 1` (k from 0), with `random` from 0..1.
    pub fn backoff(&self, k: u32, random: f64) -> Duration {
        let grown = self.initial_backoff.as_secs_f64()
            * self.multiplier.powi(i32::try_from(k).unwrap_or(i32::MAX));
        let bounded = grown.min(self.max_backoff.as_secs_f64());
        Duration::from_secs_f64(bounded * (1.0 + random * self.jitter))
    }

    /// Whether a worker's `status` is retried.
    pub fn covers(&self, status: u16) -> bool {
        self.status_codes.binary_search(&status).is_ok()
    }
}

/// Deadlines of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From pick to a usable connection.
    pub connect: Duration,
    /// From request sent to response head; streaming requests.
    pub headers: Duration,
    /// From request sent to the first event; streaming requests.
    pub first_token: Duration,
    /// Silence between events of a stream.
    pub idle: Duration,
    /// From arrival to the last byte.
    pub total: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_is_bounded_and_jitters_upwards() {
        let retry = Retry {
            attempts: 5,
            initial_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_millis(100),
            multiplier: 1.5,
            jitter: 0.2,
            status_codes: vec![429, 503],
            budget: Budget {
                ratio: 0.2,
                min_per_second: 10.0,
            },
        };
        assert_eq!(retry.backoff(0, 0.0), Duration::from_millis(50));
        assert_eq!(retry.backoff(1, 0.0), Duration::from_millis(75));
        assert_eq!(retry.backoff(7, 0.0), Duration::from_millis(100));
        assert_eq!(retry.backoff(7, 1.0), Duration::from_millis(120));
        assert!(retry.covers(503) && !retry.covers(500));
    }
}
