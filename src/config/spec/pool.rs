//! `[[pools]]`: sets of workers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use super::policy::Policy;
use super::reliability::{CircuitBreakerOverride, HealthOverride, RetryOverride, TimeoutsOverride};
use super::tls::ClientTls;
use super::word::words;
use super::worker::Worker;
use crate::base::secret::Secret;
use crate::base::units::Millis;

/// `[[pools]]`: a set of workers that are treated alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// What the pool is called in `[[models]]`, logs and metrics.
    ///
    /// Unit: string. Default: none, required. Range: not empty, distinct. Reload: live.
    /// `--worker-urls` acts on the one called `default`.
    pub name: String,

    /// The engine that the workers run.
    ///
    /// Unit: word. Default: found by asking each worker. Range: sglang, vllm, trtllm, mlx,
    /// external. Reload: live.
    /// Where it is written and a declared model is served by the pool, its workers get requests
    /// from the start and are probed afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,

    /// The workers.
    ///
    /// Unit: list of URLs or tables. Default: []. Range: no URL twice; none beside legs.
    /// Reload: live.
    /// A worker that leaves the list finishes its requests; one URL may stand in two pools.
    #[serde(default)]
    pub workers: Vec<Worker>,

    /// The workers that read prompts, where the pool is split in two legs.
    ///
    /// Unit: table. Default: none. Range: together with `decode`, not beside `workers`.
    /// Reload: live.
    /// See the keys of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill: Option<Leg>,

    /// The workers that generate, where the pool is split in two legs.
    ///
    /// Unit: table. Default: none. Range: together with `prefill`, not beside `workers`.
    /// Reload: live.
    /// See the keys of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode: Option<Leg>,

    /// Whether each rank of a worker with data parallelism counts as a worker.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// The gateway then chooses the rank and tells the engine, which must be SGLang.
    #[serde(default)]
    pub dp_aware: bool,

    /// Whether the rank with the fewest tokens is chosen within the worker that the policy chose.
    ///
    /// Unit: boolean. Default: false. Range: any, needs `dp_aware`. Reload: live.
    /// Tokens are those of the latest load report and of the requests sent since.
    #[serde(default)]
    pub dp_minimum_tokens: bool,

    /// Key sent to workers that have none of their own.
    ///
    /// Unit: secret. Default: none. Range: any. Reload: live.
    /// It goes out as `Authorization: Bearer`. It does not protect the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,

    /// HTTPS towards the workers.
    ///
    /// Unit: table. Default: the roots of the system, no certificate of our own. Range: any.
    /// Reload: drain.
    /// For workers whose URL begins with `https://`. A worker's own `tls` comes before it, key by
    /// key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: ClientTls,

    /// Whether a client's `Authorization` header goes on to the workers.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// For workers that know the clients themselves.
    #[serde(default)]
    pub forward_authorization: bool,

    /// Whether the admin API may add workers to this pool.
    ///
    /// Unit: boolean. Default: true. Range: any. Reload: live.
    /// Where it is false, `POST /workers` for this pool is refused with 403.
    #[serde(default = "yes")]
    pub dynamic: bool,

    /// Whether the pool gets no new requests.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// Those that its workers have come to their end, and they go on being probed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,

    /// Connections towards the workers.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: drain.
    /// See the keys of the table.
    #[serde(default)]
    pub connections: Connections,

    /// Short for `reliability.health`.
    ///
    /// Unit: table. Default: none. Range: not beside `reliability.health`. Reload: live.
    // The loader moves it there: a loaded `Spec` has `None` here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthOverride>,

    /// What differs from `[reliability]` for this pool.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// A model's own `reliability` comes before it, key by key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reliability: PoolReliability,
}

impl Pool {
    /// A pool without workers.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            runtime: None,
            workers: Vec::new(),
            prefill: None,
            decode: None,
            dp_aware: false,
            dp_minimum_tokens: false,
            api_key: None,
            tls: ClientTls::default(),
            forward_authorization: false,
            dynamic: true,
            drain: false,
            connections: Connections::default(),
            health: None,
            reliability: PoolReliability::default(),
        }
    }

    /// Every worker of the pool, those of its legs included.
    pub fn members(&self) -> impl Iterator<Item = &Worker> {
        let legs = self.prefill.iter().chain(&self.decode);
        self.workers.iter().chain(legs.flat_map(|leg| &leg.workers))
    }

    /// Whether the pool is split in legs.
    pub const fn has_legs(&self) -> bool {
        self.prefill.is_some() || self.decode.is_some()
    }
}

/// `[pools.prefill]` or `[pools.decode]`: one leg of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Leg {
    /// The workers of this leg.
    ///
    /// Unit: list of URLs or tables. Default: []. Range: no URL twice in one leg. Reload: live.
    /// As `pools[].workers`.
    pub workers: Vec<Worker>,

    /// How a worker of this leg is chosen.
    ///
    /// Unit: word, or a table with one word as its key. Default: `routing.policy`. Range: as
    /// `routing.policy`; for decode not bucket. Reload: live.
    /// A model's own `policy` comes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// `[pools.reliability]`: what differs from `[reliability]` for one pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolReliability {
    /// How the workers of this pool are probed.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// `[pools.health]` is short for it.
    #[serde(skip_serializing_if = "is_default")]
    pub health: HealthOverride,

    /// When a worker of this pool that fails gets no requests for a while.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "is_default")]
    pub circuit_breaker: CircuitBreakerOverride,

    /// Deadlines towards the workers of this pool.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: TimeoutsOverride,

    /// Retries of requests to this pool.
    ///
    /// Unit: table. Default: nothing differs. Range: any. Reload: live.
    /// See the keys of the table.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: RetryOverride,
}

/// `[pools.connections]`: connections towards the workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Connections {
    /// Connections to one worker that are kept without a request.
    ///
    /// Unit: number. Default: 500. Range: >= 0, 0 keeps none. Reload: drain.
    /// It does not bound the connections in use.
    pub max_idle_per_host: u32,

    /// How long a connection is kept without a request.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 50s. Range: > 0. Reload: drain.
    /// It should be shorter than the workers' own.
    pub idle_timeout: Millis,

    /// Whether workers are spoken to in HTTP/2 from the first byte.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: drain.
    /// Many requests then share a connection. The workers must understand it without TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http2: bool,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max_idle_per_host: 500,
            idle_timeout: Millis::secs(50),
            http2: false,
        }
    }
}

const fn yes() -> bool {
    true
}

words! {
    /// The engine of a worker.
    pub enum Runtime ("runtime", compare str::to_owned) {
        /// SGLang.
        Sglang = "sglang",
        /// vLLM.
        Vllm = "vllm",
        /// TensorRT-LLM.
        Trtllm = "trtllm",
        /// MLX.
        Mlx = "mlx",
        /// Something else that speaks the OpenAI API.
        External = "external",
    }
    later ["openai", "anthropic", "gemini", "xai", "bedrock", "tokenspeed"]
}
