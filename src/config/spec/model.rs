//! `[[models]]`: the names that clients ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use super::reliability::{RetryOverride, TimeoutsOverride};
use super::routing::Policy;

/// `[[models]]`: a name that clients ask for, or a glob of names, and who serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The name, or a glob: `*` stands for any characters, `?` for any one.
    ///
    /// Unit: string. Default: none, required. Range: not empty, distinct. Reload: live.
    /// An exact name comes before a glob, and a longer glob before a shorter one. All names under
    /// one glob share its state.
    pub name: String,

    /// Other names for the same model.
    ///
    /// Unit: list of strings. Default: []. Range: exact names, distinct; not with a glob.
    /// Reload: live.
    /// The worker is asked for `name`, whichever alias the client used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,

    /// The pool that serves it.
    ///
    /// Unit: name of a pool. Default: the only pool, where there is just one. Range: a defined
    /// pool. Reload: live.
    /// Required where there are several pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// How its workers are chosen.
    ///
    /// Unit: word. Default: `routing.policy`. Range: random, round_robin, power_of_two,
    /// least_load. Reload: live.
    /// Spellings without `_`, or with `-` in its place, mean the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,

    /// What differs from the pool's `reliability` for this model.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reliability: ModelReliability,
}

/// `[models.reliability]`: what differs for one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelReliability {
    /// Deadlines for this model.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: TimeoutsOverride,

    /// Retries of requests for this model.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: RetryOverride,
}
