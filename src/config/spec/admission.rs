//! `[reliability.admission]` and `[models.admission]`: how many requests are let in.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::units::Millis;

/// Value of `max_concurrent_requests` that lets in any number.
pub const UNLIMITED: i64 = -1;

/// `[reliability.admission]`: how many requests are let in, and how further ones wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admission {
    /// Inference requests under way at once.
    ///
    /// Unit: number. Default: -1. Range: >= 1, or -1 for any number. Reload: live.
    /// A request counts until the last byte of its answer. Further ones wait in the queue.
    pub max_concurrent_requests: i64,

    /// Inference requests that may begin per second, over time.
    ///
    /// Unit: number per second. Default: 0. Range: >= 0, 0 for any number. Reload: live.
    /// So many may begin at once after a pause. Further ones wait in the queue.
    pub tokens_per_second: f64,

    /// Requests of one class that may wait.
    ///
    /// Unit: number. Default: 100. Range: >= 0. Reload: live.
    /// Further ones are refused with 429. With 0 nobody waits.
    pub queue_size: u32,

    /// Longest time that a request waits to be let in.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 60s. Range: > 0 where `queue_size` is.
    /// Reload: live.
    /// When it runs out the client gets 408.
    pub queue_timeout: Millis,

    /// Classes of requests that share what becomes free by weight.
    ///
    /// Unit: table of tables. Default: {}. Range: any names. Reload: live.
    /// A request is of the class of its model; without one it is of class `default`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, Class>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            max_concurrent_requests: UNLIMITED,
            tokens_per_second: 0.0,
            queue_size: 100,
            queue_timeout: Millis::secs(60),
            classes: BTreeMap::new(),
        }
    }
}

/// `[reliability.admission.classes.NAME]`: one class of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Class {
    /// Its share of what becomes free, in relation to the other classes that wait.
    ///
    /// Unit: number. Default: 1. Range: >= 1. Reload: live.
    /// No class waits for ever: each is served in its turn.
    pub weight: u32,

    /// Requests of this class that may wait.
    ///
    /// Unit: number. Default: `reliability.admission.queue_size`. Range: >= 0. Reload: live.
    /// Further ones are refused with 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_size: Option<u32>,

    /// Longest time that a request of this class waits to be let in.
    ///
    /// Unit: duration ("250ms", "60s"). Default: `reliability.admission.queue_timeout`.
    /// Range: > 0 where `queue_size` is. Reload: live.
    /// When it runs out the client gets 408.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Millis>,
}

impl Default for Class {
    fn default() -> Self {
        Self {
            weight: 1,
            queue_size: None,
            queue_timeout: None,
        }
    }
}

/// `[models.admission]`: how many requests for one model are let in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelAdmission {
    /// Requests for this model under way at once.
    ///
    /// Unit: number. Default: -1. Range: >= 1, or -1 for any number. Reload: live.
    /// They need a place in `reliability.admission`, too. Further ones wait in the queue.
    pub max_concurrent_requests: i64,

    /// Requests for this model that may begin per second, over time.
    ///
    /// Unit: number per second. Default: 0. Range: >= 0, 0 for any number. Reload: live.
    /// So many may begin at once after a pause. Further ones wait in the queue.
    pub tokens_per_second: f64,

    /// Requests for this model that may wait.
    ///
    /// Unit: number. Default: 100. Range: >= 0. Reload: live.
    /// Further ones are refused with 429. With 0 nobody waits.
    pub queue_size: u32,

    /// Longest time that a request for this model waits to be let in.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 60s. Range: > 0 where `queue_size` is.
    /// Reload: live.
    /// When it runs out the client gets 408.
    pub queue_timeout: Millis,
}

impl Default for ModelAdmission {
    fn default() -> Self {
        let Admission {
            max_concurrent_requests,
            tokens_per_second,
            queue_size,
            queue_timeout,
            ..
        } = Admission::default();
        Self {
            max_concurrent_requests,
            tokens_per_second,
            queue_size,
            queue_timeout,
        }
    }
}
