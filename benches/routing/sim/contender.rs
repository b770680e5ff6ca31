//! Who is compared.

use smg::config::spec::{Algorithm, CacheAware, Policy, PolicyName};

/// A way to choose a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contender {
    /// As the tables call it.
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours(PolicyName),
    Algorithm(Algorithm),
    Reference,
}

/// The default policy of smg.
pub(crate) const DEFAULT: &str = "cache_aware";
/// The model of the policy that existing routers use.
pub(crate) const REFERENCE: &str = "reference";

/// All of them.
pub(crate) const ALL: [Contender; 12] = [
    of(DEFAULT, Kind::Algorithm(Algorithm::Score)),
    of("cache_aware/tree", Kind::Algorithm(Algorithm::Tree)),
    of(REFERENCE, Kind::Reference),
    of("prefix_hash", Kind::Ours(PolicyName::PrefixHash)),
    of(
        "consistent_hashing",
        Kind::Ours(PolicyName::ConsistentHashing),
    ),
    of("manual", Kind::Ours(PolicyName::Manual)),
    of("least_load", Kind::Ours(PolicyName::LeastLoad)),
    of("power_of_two", Kind::Ours(PolicyName::PowerOfTwo)),
    of("bucket", Kind::Ours(PolicyName::Bucket)),
    of("round_robin", Kind::Ours(PolicyName::RoundRobin)),
    of("random", Kind::Ours(PolicyName::Random)),
    of("passthrough", Kind::Ours(PolicyName::Passthrough)),
];

const fn of(name: &'static str, kind: Kind) -> Contender {
    Contender { name, kind }
}

impl Contender {
    /// The policy, where it is one of smg.
    pub(crate) fn policy(self) -> Option<Policy> {
        match self.kind {
            Kind::Ours(name) => Some(Policy::named(name)),
            Kind::Algorithm(algorithm) => Some(Policy::CacheAware(CacheAware {
                algorithm: Some(algorithm),
                ..CacheAware::default()
            })),
            Kind::Reference => None,
        }
    }
}
