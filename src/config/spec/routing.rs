//! `[routing]`: how a worker is chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::Policy;
use super::word::words;
use crate::base::units::Millis;

/// `[routing]`: how a worker is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// The policy of every model that names none of its own.
    ///
    /// Unit: word, or a table with one word as its key. Default: cache_aware. Range: cache_aware,
    /// random, round_robin, power_of_two, least_load, prefix_hash, consistent_hashing, bucket,
    /// manual, passthrough. Reload: live.
    /// Spellings without `_`, or with `-` in its place, mean the same. `policy.NAME = { … }` sets
    /// the options of the policy, too.
    pub policy: Policy,

    /// What becomes of a model name that no `[[models]]` entry covers.
    ///
    /// Unit: word. Default: discover. Range: discover, reject. Reload: live.
    /// `discover` serves what the workers advertise, `reject` answers 404.
    pub undeclared_models: Undeclared,

    /// Whether the gateway expects workers of several models, some of which may come later.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// Many models are always served. On, a gateway without any worker yet is no cause for a warning.
    pub multi_model: bool,

    /// How often engines are asked for their load.
    ///
    /// Unit: duration ("10s"). Default: 10s. Range: > 0. Reload: live.
    /// Only workers are asked whose policy uses the answer.
    pub load_monitor_interval: Millis,

    /// Whether requests with a routing key stay with one worker under every policy.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// The key is the header `x-smg-routing-key`. `manual` and `consistent_hashing` do so by
    /// themselves.
    pub sticky_sessions: bool,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            undeclared_models: Undeclared::Discover,
            multi_model: false,
            load_monitor_interval: Millis::secs(10),
            sticky_sessions: false,
        }
    }
}

words! {
    /// What becomes of a model name that is not declared.
    pub enum Undeclared ("word", compare str::to_owned) {
        /// It is served if a worker advertises it.
        Discover = "discover",
        /// It is refused.
        Reject = "reject",
    }
    later []
}
