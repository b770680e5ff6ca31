//! `[[models]]`: the names that clients ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::admission::ModelAdmission;
use super::is_default;
use super::policy::Policy;
use super::reliability::{RetryOverride, TimeoutsOverride};

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
    /// Required where there are several pools and no `split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// Several pools that share the requests by weight.
    ///
    /// Unit: list of tables. Default: none. Range: weights sum to more than 0; not beside `pool`.
    /// Reload: live.
    /// Drawn for each request; requests with the same routing key are drawn alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<Share>,

    /// Models that are asked instead while no worker can serve this one, in order.
    ///
    /// Unit: list of names. Default: []. Range: declared names without wildcards, no circle.
    /// Reload: live.
    /// The worker is asked for the other name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,

    /// A pool that gets copies of some requests.
    ///
    /// Unit: table. Default: none. Range: any. Reload: live.
    /// The answers are thrown away. A copy never delays a request and is never tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,

    /// How its workers are chosen.
    ///
    /// Unit: word, or a table with one word as its key. Default: that of the pool's leg, else
    /// `routing.policy`. Range: as `routing.policy`. Reload: live.
    /// In a pool with legs it chooses for both, so `bucket` is refused there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,

    /// What differs from the pool's `reliability` for this model.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reliability: ModelReliability,

    /// A gate of its own, inside that of `reliability.admission`.
    ///
    /// Unit: table. Default: none. Range: any. Reload: live.
    /// One busy model then leaves room for the others. It inherits nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<ModelAdmission>,

    /// The class in which its requests wait to be let in.
    ///
    /// Unit: name of a class. Default: `default`, which has weight 1 unless it is defined.
    /// Range: a class of `reliability.admission.classes`. Reload: live.
    /// It matters only while requests wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
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

/// One entry of `models[].split`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The pool.
    ///
    /// Unit: name of a pool. Default: none, required. Range: a defined pool. Reload: live.
    /// One pool may stand twice, with different models.
    pub pool: String,

    /// Its share, in relation to the others.
    ///
    /// Unit: number. Default: none, required. Range: >= 0. Reload: live.
    /// 0 sends nothing there.
    pub weight: f64,

    /// The model that its workers are asked for.
    ///
    /// Unit: string. Default: the name of the entry. Range: not empty. Reload: live.
    /// It need not be declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// `models[].mirror`: a pool that gets copies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The pool.
    ///
    /// Unit: name of a pool. Default: none, required. Range: a defined pool without legs.
    /// Reload: live.
    /// Its workers are asked for the same model.
    pub pool: String,

    /// The share of requests that are copied.
    ///
    /// Unit: ratio. Default: none, required. Range: 0 to 1. Reload: live.
    /// Copies that pile up are dropped and counted.
    pub fraction: f64,
}
