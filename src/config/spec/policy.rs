//! `policy = "…"`, or `policy.NAME = { … }`: how a worker is chosen, with the options of each way.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::word::{fold, words};
use crate::base::units::{ByteSize, Millis};

words! {
    /// The name of a policy.
    pub enum PolicyName ("policy", compare fold) {
        /// The worker that has most of the prompt in its cache and least to do.
        CacheAware = "cache_aware",
        /// Any, with equal chance.
        Random = "random",
        /// One after the other.
        RoundRobin = "round_robin",
        /// The less loaded of two drawn at random.
        PowerOfTwo = "power_of_two",
        /// The one that will be free first, as its engine reports.
        LeastLoad = "least_load",
        /// The place on a ring that a prefix of the prompt hashes to.
        PrefixHash = "prefix_hash",
        /// The place on a ring that a key of the request hashes to.
        ConsistentHashing = "consistent_hashing",
        /// By length of the prompt.
        Bucket = "bucket",
        /// The worker that the routing key was assigned to.
        Manual = "manual",
        /// The first.
        Passthrough = "passthrough",
    }
    later []
}

/// How a worker is chosen among those that can serve, with the options of that way.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// Any, with equal chance.
    Random,
    /// One after the other.
    RoundRobin,
    /// The first.
    Passthrough,
    /// The less loaded of two drawn at random.
    PowerOfTwo,
    /// The one that will be free first, as its engine reports.
    LeastLoad(LeastLoad),
    /// The place on a ring that a key of the request hashes to.
    ConsistentHashing,
    /// The place on a ring that a prefix of the prompt hashes to.
    PrefixHash(PrefixHash),
    /// The worker that the routing key was assigned to.
    Manual(Manual),
    /// By length of the prompt.
    Bucket(Bucket),
    /// The worker that has most of the prompt in its cache and least to do.
    CacheAware(CacheAware),
}

impl Policy {
    /// The policy with the default options.
    pub fn named(name: PolicyName) -> Self {
        match name {
            PolicyName::Random => Self::Random,
            PolicyName::RoundRobin => Self::RoundRobin,
            PolicyName::Passthrough => Self::Passthrough,
            PolicyName::PowerOfTwo => Self::PowerOfTwo,
            PolicyName::LeastLoad => Self::LeastLoad(LeastLoad::default()),
            PolicyName::ConsistentHashing => Self::ConsistentHashing,
            PolicyName::PrefixHash => Self::PrefixHash(PrefixHash::default()),
            PolicyName::Manual => Self::Manual(Manual::default()),
            PolicyName::Bucket => Self::Bucket(Bucket::default()),
            PolicyName::CacheAware => Self::CacheAware(CacheAware::default()),
        }
    }

    /// Its name.
    pub const fn name(&self) -> PolicyName {
        match self {
            Self::Random => PolicyName::Random,
            Self::RoundRobin => PolicyName::RoundRobin,
            Self::Passthrough => PolicyName::Passthrough,
            Self::PowerOfTwo => PolicyName::PowerOfTwo,
            Self::LeastLoad(_) => PolicyName::LeastLoad,
            Self::ConsistentHashing => PolicyName::ConsistentHashing,
            Self::PrefixHash(_) => PolicyName::PrefixHash,
            Self::Manual(_) => PolicyName::Manual,
            Self::Bucket(_) => PolicyName::Bucket,
            Self::CacheAware(_) => PolicyName::CacheAware,
        }
    }

    /// Its options in the form of the file, defaults included; an empty table where it has none.
    pub fn options(&self) -> serde_json::Value {
        let options = match self {
            Self::Random
            | Self::RoundRobin
            | Self::Passthrough
            | Self::PowerOfTwo
            | Self::ConsistentHashing => Ok(serde_json::Value::Object(serde_json::Map::new())),
            Self::LeastLoad(options) => serde_json::to_value(options),
            Self::PrefixHash(options) => serde_json::to_value(options),
            Self::Manual(options) => serde_json::to_value(options),
            Self::Bucket(options) => serde_json::to_value(options),
            Self::CacheAware(options) => serde_json::to_value(options),
        };
        options.unwrap_or_default()
    }

    /// Its name as it stands in a file.
    pub const fn as_str(&self) -> &'static str {
        self.name().as_str()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::CacheAware(CacheAware::default())
    }
}

/// `policy.least_load`: the one that will be free first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LeastLoad {
    /// How much a full cache counts.
    ///
    /// Unit: number, seconds. Default: 0.15. Range: >= 0. Reload: live.
    /// Added as this times k/(1-k), where k is the share of the cache in use.
    pub kv_pressure_weight: f64,

    /// Tokens per second of a worker that does not report them.
    ///
    /// Unit: number. Default: 2000. Range: > 0. Reload: live.
    /// Turns waiting tokens into time.
    pub default_throughput: f64,

    /// Prompt tokens of a request whose length is not known.
    ///
    /// Unit: number. Default: 1024. Range: > 0. Reload: live.
    /// Stands for requests that were sent since the last report.
    pub mean_prefill_tokens: u32,
}

impl Default for LeastLoad {
    fn default() -> Self {
        Self {
            kv_pressure_weight: 0.15,
            default_throughput: 2000.0,
            mean_prefill_tokens: 1024,
        }
    }
}

/// `policy.prefix_hash`: the place on a ring that a prefix of the prompt hashes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixHash {
    /// Tokens at the start of the prompt that are hashed.
    ///
    /// Unit: number. Default: 256. Range: > 0. Reload: live.
    /// Where token ids are not known, four times as many characters.
    pub prefix_token_count: u32,

    /// How far above the mean load of the candidates a worker may be.
    ///
    /// Unit: ratio. Default: 1.25. Range: >= 1. Reload: live.
    /// Beyond it the next worker on the ring is taken.
    pub load_factor: f64,
}

impl Default for PrefixHash {
    fn default() -> Self {
        Self {
            prefix_token_count: 256,
            load_factor: 1.25,
        }
    }
}

words! {
    /// How `manual` places a key that it has not seen.
    pub enum AssignmentMode ("assignment mode", compare fold) {
        /// Anywhere.
        Random = "random",
        /// Where the fewest requests are in flight.
        MinLoad = "min_load",
        /// Where the fewest keys are assigned.
        MinGroup = "min_group",
    }
    later []
}

/// `policy.manual`: the worker that the routing key was assigned to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Manual {
    /// Where a key goes that has no worker yet.
    ///
    /// Unit: word. Default: random. Range: random, min_load, min_group. Reload: live.
    /// `min_load` counts requests in flight, `min_group` keys assigned.
    pub assignment_mode: AssignmentMode,

    /// How long a key is remembered without a request.
    ///
    /// Unit: duration ("4h"). Default: 4h. Range: > 0. Reload: live.
    /// A key that comes again later is assigned anew.
    pub max_idle: Millis,

    /// How often idle keys are looked for.
    ///
    /// Unit: duration ("2m"). Default: 2m. Range: > 0. Reload: live.
    /// See `max_idle`.
    pub eviction_interval: Millis,

    /// Keys that are remembered at most.
    ///
    /// Unit: number. Default: 1000000. Range: >= 1. Reload: live.
    /// Above it the keys that have been idle longest go first.
    pub max_keys: u32,
}

impl Default for Manual {
    fn default() -> Self {
        Self {
            assignment_mode: AssignmentMode::Random,
            max_idle: Millis::secs(4 * 3600),
            eviction_interval: Millis::secs(120),
            max_keys: 1_000_000,
        }
    }
}

/// `policy.bucket`: by length of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bucket {
    /// Difference in routed characters from which the workers count as unbalanced.
    ///
    /// Unit: number of characters. Default: 64. Range: >= 0. Reload: live.
    /// Both this and `balance_rel_threshold` must be exceeded.
    pub balance_abs_threshold: u64,

    /// Ratio of routed characters from which the workers count as unbalanced.
    ///
    /// Unit: ratio. Default: 1.5. Range: >= 1. Reload: live.
    /// Unbalanced, the worker with the fewest characters is taken, whatever the length.
    pub balance_rel_threshold: f64,

    /// How often the lengths at which buckets meet are set anew.
    ///
    /// Unit: duration ("5s"). Default: 5s. Range: >= 1s. Reload: live.
    /// They follow the prompts of the last interval.
    pub adjust_interval: Millis,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            balance_abs_threshold: 64,
            balance_rel_threshold: 1.5,
            adjust_interval: Millis::secs(5),
        }
    }
}

words! {
    /// How `cache_aware` weighs cached prompts against load.
    pub enum Algorithm ("algorithm", compare fold) {
        /// One figure of both: the prefill work that a request would wait for.
        Score = "score",
        /// A radix tree, and thresholds that switch between locality and load.
        Tree = "tree",
    }
    later []
}

/// `policy.cache_aware`: the worker that has most of the prompt in its cache and least to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheAware {
    /// How cached prompts are weighed against load.
    ///
    /// Unit: word. Default: score; tree where `cache_threshold` or a `balance_` key is set.
    /// Range: score, tree. Reload: live.
    /// `smg explain` says which one runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,

    /// Share of the prompt that must be known at a worker to send it there.
    ///
    /// Unit: ratio. Default: 0.3. Range: 0 to 1. Reload: live.
    /// Only for `tree`. Where less is known the least loaded worker is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_threshold: Option<f64>,

    /// Difference in requests in flight from which the workers count as unbalanced.
    ///
    /// Unit: number. Default: 64. Range: >= 0. Reload: live.
    /// Only for `tree`. Both this and `balance_rel_threshold` must be exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance_abs_threshold: Option<u64>,

    /// Ratio of requests in flight from which the workers count as unbalanced.
    ///
    /// Unit: ratio. Default: 1.5. Range: >= 1. Reload: live.
    /// Only for `tree`. Unbalanced, the least loaded worker is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance_rel_threshold: Option<f64>,

    /// Spread of cache use, as engines report it, from which the workers count as unbalanced.
    ///
    /// Unit: ratio. Default: 1. Range: > 0; from 1 on it is off. Reload: live.
    /// Only for `tree`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance_token_usage_threshold: Option<f64>,

    /// Cache use of one worker, as its engine reports it, from which the workers count as
    /// unbalanced.
    ///
    /// Unit: ratio. Default: 1. Range: > 0; from 1 on it is off. Reload: live.
    /// Only for `tree`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload_token_usage_threshold: Option<f64>,

    /// How often the tree is cut back to its size.
    ///
    /// Unit: duration ("2m"). Default: 2m. Range: > 0. Reload: live.
    /// Only for `tree`. It is cut back at once when it is a quarter too large.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction_interval: Option<Millis>,

    /// Size of the tree.
    ///
    /// Unit: characters, or tokens where they are known. Default: 67108864. Range: > 0.
    /// Reload: live.
    /// Only for `tree`. The size of all that is remembered, not of each worker's share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tree_size: Option<u64>,

    /// Tokens of one block, by which prompts are told apart.
    ///
    /// Unit: number of tokens. Default: 16. Range: > 0. Reload: live.
    /// The page size of the engines. Another one starts with an empty memory.
    pub block_size: u32,

    /// Memory that may be spent on knowing what is where.
    ///
    /// Unit: size ("256MiB"). Default: 256MiB. Range: > 0. Reload: live.
    /// A bound for each model entry; what was used longest ago is forgotten first.
    pub memory: ByteSize,
}

impl Default for CacheAware {
    fn default() -> Self {
        Self {
            algorithm: None,
            cache_threshold: None,
            balance_abs_threshold: None,
            balance_rel_threshold: None,
            balance_token_usage_threshold: None,
            overload_token_usage_threshold: None,
            eviction_interval: None,
            max_tree_size: None,
            block_size: 16,
            memory: ByteSize::mib(256),
        }
    }
}

impl CacheAware {
    /// The options with a value for each key: what `tree` takes where one is not written.
    pub fn in_full(&self) -> Self {
        Self {
            algorithm: Some(self.runs()),
            cache_threshold: self.cache_threshold.or(Some(0.3)),
            balance_abs_threshold: self.balance_abs_threshold.or(Some(64)),
            balance_rel_threshold: self.balance_rel_threshold.or(Some(1.5)),
            balance_token_usage_threshold: self.balance_token_usage_threshold.or(Some(1.0)),
            overload_token_usage_threshold: self.overload_token_usage_threshold.or(Some(1.0)),
            eviction_interval: self.eviction_interval.or(Some(Millis::secs(120))),
            max_tree_size: self.max_tree_size.or(Some(1 << 26)),
            block_size: self.block_size,
            memory: self.memory,
        }
    }

    /// The algorithm that runs: the one written, else the one that the other keys imply.
    pub fn runs(&self) -> Algorithm {
        self.algorithm.unwrap_or_else(|| {
            let implied = self.cache_threshold.is_some()
                || self.balance_abs_threshold.is_some()
                || self.balance_rel_threshold.is_some()
                || self.balance_token_usage_threshold.is_some();
            if implied {
                Algorithm::Tree
            } else {
                Algorithm::Score
            }
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}
