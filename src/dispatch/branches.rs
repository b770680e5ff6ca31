//! Counts how picks were made, for policies that have a metric of their branches.

use std::sync::OnceLock;

use metrics::Counter;

use crate::config::spec::Policy;
use crate::policy::{Pick, Refused};
use crate::telemetry::metrics::{Metric, counter, label};

/// Counters of one metric by branch; each is looked up once.
struct Branches<const N: usize> {
    metric: Metric,
    names: &'static [&'static str],
    counters: [OnceLock<Counter>; N],
}

impl<const N: usize> Branches<N> {
    const fn new(metric: Metric, names: &'static [&'static str]) -> Self {
        assert!(names.len() == N, "a counter for each branch");
        Self {
            metric,
            names,
            counters: [const { OnceLock::new() }; N],
        }
    }

    /// Counts `branch`. What is no branch of the policy was decided in front of it.
    fn count(&self, branch: &str) {
        let mut all = self.names.iter().zip(&self.counters);
        if let Some((name, slot)) = all.find(|(name, _)| **name == branch) {
            slot.get_or_init(|| counter(self.metric, &[("branch", name)]))
                .increment(1);
        }
    }
}

static MANUAL: Branches<{ label::MANUAL_BRANCHES.len() }> =
    Branches::new(Metric::ManualPolicyBranch, label::MANUAL_BRANCHES);
static CONSISTENT_HASHING: Branches<{ label::CONSISTENT_HASHING_BRANCHES.len() }> = Branches::new(
    Metric::ConsistentHashingPolicyBranch,
    label::CONSISTENT_HASHING_BRANCHES,
);
static PREFIX_HASH: Branches<{ label::PREFIX_HASH_BRANCHES.len() }> =
    Branches::new(Metric::PrefixHashPolicyBranch, label::PREFIX_HASH_BRANCHES);

static CACHE_AWARE: Branches<{ label::CACHE_AWARE_BRANCHES.len() }> =
    Branches::new(Metric::CacheAwarePolicyBranch, label::CACHE_AWARE_BRANCHES);

/// Counts a pick of `policy`, or that there was none.
pub(super) fn count(policy: &Policy, picked: &Result<Pick, Refused>) {
    let branch = match picked {
        Ok(pick) => pick.reason,
        Err(Refused::Nobody) => "no_healthy_workers",
        Err(Refused::Target) => "target_worker_miss",
    };
    match policy {
        Policy::Manual(_) => MANUAL.count(branch),
        Policy::ConsistentHashing => CONSISTENT_HASHING.count(branch),
        Policy::PrefixHash(_) => PREFIX_HASH.count(branch),
        Policy::CacheAware(_) => CACHE_AWARE.count(branch),
        Policy::Random
        | Policy::RoundRobin
        | Policy::Passthrough
        | Policy::PowerOfTwo
        | Policy::LeastLoad(_)
        | Policy::Bucket(_) => {}
    }
}
