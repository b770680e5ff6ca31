//! `[routing]`: how a worker is chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::word::{fold, words};

/// `[routing]`: how a worker is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// The policy of every model that names none of its own.
    ///
    /// Unit: word. Default: least_load. Range: random, round_robin, power_of_two, least_load.
    /// Reload: live.
    /// Spellings without `_`, or with `-` in its place, mean the same.
    pub policy: Policy,

    /// What becomes of a model name that no `[[models]]` entry covers.
    ///
    /// Unit: word. Default: discover. Range: discover, reject. Reload: live.
    /// `discover` serves what the workers advertise, `reject` answers 404.
    pub undeclared_models: Undeclared,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            policy: Policy::LeastLoad,
            undeclared_models: Undeclared::Discover,
        }
    }
}

words! {
    /// How a worker is chosen among those that can serve.
    pub enum Policy ("policy", through deserialize_any, compare fold) {
        /// Any, with equal chance.
        Random = "random",
        /// One after the other.
        RoundRobin = "round_robin",
        /// The less loaded of two drawn at random.
        PowerOfTwo = "power_of_two",
        /// The least loaded.
        LeastLoad = "least_load",
    }
    later ["cache_aware", "prefix_hash", "consistent_hashing", "bucket", "manual", "passthrough"]
}

words! {
    /// What becomes of a model name that is not declared.
    pub enum Undeclared ("word", through deserialize_str, compare str::to_owned) {
        /// It is served if a worker advertises it.
        Discover = "discover",
        /// It is refused.
        Reject = "reject",
    }
    later []
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::WordError;

    #[test]
    fn policy_spellings() {
        for text in ["power_of_two", "power-of-two", "poweroftwo"] {
            assert_eq!(text.parse(), Ok(Policy::PowerOfTwo));
        }
        for text in ["cache_aware", "cache-aware", "prefixhash", "manual"] {
            assert!(
                matches!(text.parse::<Policy>(), Err(WordError::Later { .. })),
                "{text}"
            );
        }
        for text in ["", "Random", "best"] {
            assert!(
                matches!(text.parse::<Policy>(), Err(WordError::Unknown { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn policy_as_a_table() {
        let read = |text: &str| toml::from_str::<Routing>(text);
        assert_eq!(read("policy.random = {}").unwrap().policy, Policy::Random);
        for (text, part) in [
            (
                "policy.cache_aware = { cache_threshold = 0.5 }",
                "not available in this version",
            ),
            ("policy.random = { x = 1 }", "unknown field `x`"),
            ("policy = { random = {}, least_load = {} }", "one word"),
            ("policy = {}", "one of the words"),
            ("policy.best = {}", "unknown variant `best`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
