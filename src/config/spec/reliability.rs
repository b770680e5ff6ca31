//! `[reliability]`: what happens under trouble, for all; and the same tables as overrides under a
//! pool or a model, where each key may be absent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::admission::Admission;
use crate::base::units::Millis;

/// `[reliability]`: what happens under trouble.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reliability {
    /// How workers are probed.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// A pool can override it.
    pub health: Health,

    /// Deadlines towards a worker.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// A pool or a model can override it. The total is `server.request_timeout`.
    pub timeouts: Timeouts,

    /// What is tried again, how often and how soon.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// A pool or a model can override it.
    pub retry: Retry,

    /// When a worker that fails gets no requests for a while.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// A pool can override it.
    pub circuit_breaker: CircuitBreaker,

    /// How many requests are let in, and how further ones wait.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// A model can have a gate of its own inside this one.
    pub admission: Admission,
}

/// Defines a table that stands for all and its override, whose keys may be absent: those of `both`
/// are in the two, those of `global` only in the first, those of `scoped` only in the override.
macro_rules! overridable {
    (
        $(#[$meta:meta])*
        $name:ident;
        $(#[$over_meta:meta])*
        $over:ident;
        both { $($(#[$doc:meta])* $field:ident: $type:ty = $default:expr,)+ }
        global { $($(#[$gdoc:meta])* $gfield:ident: $gtype:ty = $gdefault:expr,)* }
        scoped { $($(#[$sdoc:meta])* $sfield:ident: $stype:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
            $($(#[$gdoc])* pub $gfield: $gtype,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ $($gfield: $gdefault,)* }
            }
        }

        $(#[$over_meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $over {
            $(
                $(#[$doc])*
                /// Where it is absent here, the next wider level decides.
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )+
            $($(#[$sdoc])* #[serde(skip_serializing_if = "Option::is_none")] pub $sfield: Option<$stype>,)*
        }

        /// Every key that an override can have, as it stands in the wider table.
        impl From<&$name> for $over {
            fn from(wider: &$name) -> Self {
                Self {
                    $($field: Some(wider.$field.clone()),)+
                    $($sfield: None,)*
                }
            }
        }

        impl $over {
            /// The values in force where this override stands inside a level with the values of
            /// `wider`.
            pub fn over(&self, wider: &$name) -> $name {
                $name {
                    $($field: self.$field.clone().unwrap_or_else(|| wider.$field.clone()),)+
                    $($gfield: wider.$gfield.clone(),)*
                }
            }

            /// This override where it says something, and `earlier` elsewhere.
            #[must_use]
            pub fn or(&self, earlier: &Self) -> Self {
                Self {
                    $($field: self.$field.clone().or_else(|| earlier.$field.clone()),)+
                    $($sfield: self.$sfield.clone().or_else(|| earlier.$sfield.clone()),)*
                }
            }
        }
    };
}

overridable! {
    /// `[reliability.health]`: how workers are probed.
    Health;
    /// `[pools.reliability.health]`, or shorter `[pools.health]`: how the workers of one pool are
    /// probed.
    HealthOverride;
    both {
        /// Whether workers are probed at all.
        ///
        /// Unit: boolean. Default: true. Range: any. Reload: live.
        /// When off, every worker counts as ready at once and for good.
        enabled: bool = true,

        /// Failed probes in a row after which a ready worker is not ready.
        ///
        /// Unit: number. Default: 3. Range: >= 1. Reload: live.
        /// A worker that is not ready gets no new requests.
        failure_threshold: u32 = 3,

        /// Good probes in a row after which a worker is ready again.
        ///
        /// Unit: number. Default: 2. Range: >= 1. Reload: live.
        /// A worker that has just been registered is ready at once.
        success_threshold: u32 = 2,

        /// How long a probe may take.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 5s. Range: > 0. Reload: live.
        /// A longer one is a failure.
        timeout: Millis = Millis::secs(5),

        /// Time between two probes of a worker.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 60s. Range: > 0. Reload: live.
        /// After a first failed probe the next one comes after 5s at the latest.
        interval: Millis = Millis::secs(60),

        /// What a probe asks for.
        ///
        /// Unit: path of a URL. Default: /health. Range: begins with `/`. Reload: live.
        /// It is appended to the worker's URL; any 2xx is good.
        endpoint: String = "/health".to_owned(),

        /// How long a new worker may take until it answers its first probe.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 30m. Range: > 0. Reload: live.
        /// After that it counts as failed; probing goes on.
        startup_timeout: Millis = Millis::secs(1800),

        /// Time between two attempts to reach a new worker.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 30s. Range: > 0. Reload: live.
        /// The first attempts follow each other sooner.
        startup_check_interval: Millis = Millis::secs(30),

        /// Time before the first attempt to reach a new worker.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 0s. Range: >= 0. Reload: live.
        /// For engines that must not be disturbed while they load.
        startup_delay: Millis = Millis::ZERO,

        /// How long a worker that is being removed is kept at least.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 5s. Range: >= 0. Reload: live.
        /// It gets no new requests; after that it goes once those that it has are done.
        drain_settle: Millis = Millis::secs(5),

        /// Whether a worker that was added while the gateway ran is removed when it has failed.
        ///
        /// Unit: boolean. Default: false. Range: any. Reload: live.
        /// Workers of the file stay and go on being probed.
        remove_unhealthy: bool = false,
    }
    global {
        /// Probes under way at once, over all workers.
        ///
        /// Unit: number. Default: 128. Range: >= 1. Reload: live.
        /// Further ones wait for their turn.
        max_in_flight_probes: u32 = 128,
    }
    scoped {}
}

overridable! {
    /// `[reliability.timeouts]`: deadlines towards a worker.
    Timeouts;
    /// `[pools.reliability.timeouts]` or `[models.reliability.timeouts]`: deadlines towards the
    /// workers of one pool, or for one model.
    TimeoutsOverride;
    both {
        /// From the choice of a worker to an open connection.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 10s. Range: > 0. Reload: live.
        /// When it runs out the next worker is tried; the last outcome is 504.
        connect: Millis = Millis::secs(10),

        /// From a sent request to the head of its answer, for streaming requests.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 5m. Range: > 0. Reload: live.
        /// When it runs out the next worker is tried; the last outcome is 504.
        headers: Millis = Millis::secs(300),

        /// From a sent request to the first event of its answer, for streaming requests.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 10m. Range: > 0. Reload: live.
        /// Comments do not count. When it runs out the next worker is tried; the last outcome is
        /// 504.
        first_token: Millis = Millis::secs(600),

        /// Longest silence between two events of a stream.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 5m. Range: > 0. Reload: live.
        /// Comments do not count. When it runs out the stream ends with a terminal frame.
        idle: Millis = Millis::secs(300),
    }
    global {}
    scoped {
        /// Total time of one request, from its arrival to the last byte of the answer.
        ///
        /// Unit: duration ("250ms", "60s"). Default: the next wider level, in the end
        /// `server.request_timeout`. Range: > 0. Reload: live.
        /// When it runs out the client gets 504, or a terminal frame once the answer has begun.
        total: Millis,
    }
}

overridable! {
    /// `[reliability.retry]`: what is tried again, how often and how soon.
    Retry;
    /// `[pools.reliability.retry]` or `[models.reliability.retry]`: retries for one pool or model.
    RetryOverride;
    both {
        /// Whether anything is tried again.
        ///
        /// Unit: boolean. Default: true. Range: any. Reload: live.
        /// When off, there is one attempt.
        enabled: bool = true,

        /// Attempts of one request, the first included.
        ///
        /// Unit: number. Default: 5. Range: >= 0, 0 means the same as 1. Reload: live.
        /// Each attempt takes a worker that has not been tried, as long as there is one.
        max_retries: u32 = 5,

        /// Wait before the second attempt.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 50ms. Range: > 0. Reload: live.
        /// A move to another worker after a transport error does not wait.
        initial_backoff: Millis = Millis::new(50),

        /// Longest wait between two attempts.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 30s. Range: >= `initial_backoff`.
        /// Reload: live.
        /// It also bounds the `Retry-After` of a worker that is waited for.
        max_backoff: Millis = Millis::secs(30),

        /// Factor by which the wait grows from attempt to attempt.
        ///
        /// Unit: number. Default: 1.5. Range: >= 1, finite. Reload: live.
        /// See `max_backoff`.
        backoff_multiplier: f64 = 1.5,

        /// Largest random part that is added to a wait, as a share of it.
        ///
        /// Unit: ratio. Default: 0.2. Range: 0 to 1. Reload: live.
        /// It keeps clients that failed together from coming back together.
        jitter_factor: f64 = 0.2,

        /// Statuses of a worker that are tried again.
        ///
        /// Unit: list of HTTP statuses. Default: 408, 429, 500, 502, 503, 504.
        /// Range: 400 to 599. Reload: live.
        /// Any other answer of a worker is final.
        status_codes: Vec<u16> = vec![408, 429, 500, 502, 503, 504],

        /// How many retries there may be in relation to requests.
        ///
        /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
        /// Counted per pool. When it is spent the last outcome is final.
        budget: Budget = Budget::default(),
    }
    global {}
    scoped {}
}

/// `retry.budget`: how many retries there may be in relation to requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Retries per request of the last 10 seconds.
    ///
    /// Unit: ratio. Default: 0.2. Range: 0 to 1. Reload: live.
    /// 1 lets each request be tried twice.
    pub ratio: f64,

    /// Retries per second that are allowed in any case.
    ///
    /// Unit: number per second. Default: 10. Range: >= 0. Reload: live.
    /// Counted over 10 seconds, so that the requests of a dying worker can move at once. With 0 here and for `ratio` nothing is tried again.
    pub min_per_second: f64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            min_per_second: 10.0,
        }
    }
}

overridable! {
    /// `[reliability.circuit_breaker]`: when a worker that fails gets no requests for a while.
    CircuitBreaker;
    /// `[pools.reliability.circuit_breaker]`: the same for the workers of one pool.
    CircuitBreakerOverride;
    both {
        /// Whether a breaker ever opens.
        ///
        /// Unit: boolean. Default: true. Range: any. Reload: live.
        /// When off, outcomes are counted all the same.
        enabled: bool = true,

        /// Failures in a row that open a worker's breaker.
        ///
        /// Unit: number. Default: 10. Range: >= 1. Reload: live.
        /// A worker whose breaker is open gets no requests. Answers with 4xx are no failures.
        failure_threshold: u32 = 10,

        /// Successes in a row that close it again, and the requests that try it at once.
        ///
        /// Unit: number. Default: 3. Range: >= 1. Reload: live.
        /// Any failure among them opens it anew.
        success_threshold: u32 = 3,

        /// How long it stays open before requests try the worker again.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 60s. Range: > 0. Reload: live.
        /// Probes that find the worker well again end it sooner.
        timeout: Millis = Millis::secs(60),

        /// Longest time between two failures of one row.
        ///
        /// Unit: duration ("250ms", "60s"). Default: 120s. Range: > 0. Reload: live.
        /// A failure that comes later begins a new row.
        window: Millis = Millis::secs(120),
    }
    global {}
    scoped {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_wins_key_by_key() {
        let pool: RetryOverride = toml::from_str("max_retries = 2\njitter_factor = 0").unwrap();
        let retry = pool.over(&Retry::default());
        assert_eq!((retry.max_retries, retry.jitter_factor), (2, 0.0));
        assert_eq!(retry.max_backoff, Millis::secs(30));
        let model: RetryOverride = toml::from_str("max_retries = 7").unwrap();
        assert_eq!(model.over(&retry).max_retries, 7);
        assert_eq!(model.over(&retry).jitter_factor, 0.0);
    }
}
