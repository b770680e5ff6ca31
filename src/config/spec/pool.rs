//! `[[pools]]`: sets of workers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::is_default;
use super::policy::Policy;
use super::reliability::{HealthOverride, RetryOverride, TimeoutsOverride};
use super::word::{NOT_AVAILABLE, words};
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

    /// Whether a client's `Authorization` header goes on to the workers.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// For workers that know the clients themselves.
    #[serde(default)]
    pub forward_authorization: bool,

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
            forward_authorization: false,
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
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max_idle_per_host: 500,
            idle_timeout: Millis::secs(50),
        }
    }
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

/// One entry of `pools[].workers`: a URL, or a table with more about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Where the worker is.
    pub url: WorkerUrl,
    /// The model it serves; absent: what it advertises.
    pub model: Option<String>,
    /// Its own key; absent: the pool's.
    pub api_key: Option<Secret>,
    /// Free labels, shown by `GET /workers`.
    pub labels: BTreeMap<String, String>,
    /// Only candidates of the highest priority present are used.
    pub priority: u8,
    /// Its load counts this many times.
    pub cost: f64,
    /// Where decode workers meet this prefill worker.
    pub bootstrap_port: Option<u16>,
}

/// Priority of a worker that has none of its own.
pub const DEFAULT_PRIORITY: u8 = 50;

const MAX_PRIORITY: u8 = 100;

/// Cost of a worker that has none of its own.
pub const DEFAULT_COST: f64 = 1.0;

/// A worker as a table.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WorkerTable {
    /// Where the worker is.
    ///
    /// Unit: URL. Default: none, required. Range: scheme http, with a host, without user, query
    /// and fragment. Reload: live.
    /// Request paths are appended to it.
    url: WorkerUrl,

    /// The model that the worker serves.
    ///
    /// Unit: string. Default: what the worker advertises. Range: not empty. Reload: live.
    /// For workers that advertise nothing, or something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,

    /// Key sent to this worker.
    ///
    /// Unit: secret. Default: the pool's `api_key`. Range: any. Reload: live.
    /// It goes out as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<Secret>,

    /// Labels of the worker.
    ///
    /// Unit: table of strings. Default: {}. Range: any keys. Reload: live.
    /// `GET /workers` shows them; they come before what the worker says of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,

    /// Which workers are used first.
    ///
    /// Unit: number. Default: 50. Range: 0 to 100. Reload: live.
    /// Only the candidates of the highest priority are used; others when none of those is left.
    #[serde(
        default = "default_priority",
        deserialize_with = "priority",
        skip_serializing_if = "is_default_priority"
    )]
    #[schemars(range(max = 100))]
    priority: u8,

    /// How much more than others a request at this worker counts.
    ///
    /// Unit: ratio. Default: 1. Range: > 0. Reload: live.
    /// Policies compare load times cost.
    #[serde(default = "default_cost", skip_serializing_if = "is_default_cost")]
    cost: f64,

    /// The port where decode workers fetch what this prefill worker has computed.
    ///
    /// Unit: number. Default: none. Range: 1 to 65535; only in `prefill`. Reload: live.
    /// SGLang's `--disaggregation-bootstrap-port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bootstrap_port: Option<u16>,
}

fn priority<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let number = i64::deserialize(from)?;
    let priority = u8::try_from(number).ok().filter(|p| *p <= MAX_PRIORITY);
    priority.ok_or_else(|| {
        let found = de::Unexpected::Signed(number);
        de::Error::invalid_value(found, &"a whole number from 0 to 100")
    })
}

const fn default_priority() -> u8 {
    DEFAULT_PRIORITY
}

const fn default_cost() -> f64 {
    DEFAULT_COST
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
const fn is_default_priority(priority: &u8) -> bool {
    *priority == DEFAULT_PRIORITY
}

fn is_default_cost(cost: &f64) -> bool {
    (*cost - DEFAULT_COST).abs() < f64::EPSILON
}

impl From<Worker> for WorkerTable {
    fn from(worker: Worker) -> Self {
        let Worker {
            url,
            model,
            api_key,
            labels,
            priority,
            cost,
            bootstrap_port,
        } = worker;
        Self {
            url,
            model,
            api_key,
            labels,
            priority,
            cost,
            bootstrap_port,
        }
    }
}

impl From<WorkerTable> for Worker {
    fn from(table: WorkerTable) -> Self {
        let WorkerTable {
            url,
            model,
            api_key,
            labels,
            priority,
            cost,
            bootstrap_port,
        } = table;
        Self {
            url,
            model,
            api_key,
            labels,
            priority,
            cost,
            bootstrap_port,
        }
    }
}

const WORKER_FIELDS: &[&str] = &[
    "url",
    "model",
    "api_key",
    "labels",
    "priority",
    "cost",
    "bootstrap_port",
];

impl From<WorkerUrl> for Worker {
    fn from(url: WorkerUrl) -> Self {
        Self {
            url,
            model: None,
            api_key: None,
            labels: BTreeMap::new(),
            priority: DEFAULT_PRIORITY,
            cost: DEFAULT_COST,
            bootstrap_port: None,
        }
    }
}

impl Serialize for Worker {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if *self == Self::from(self.url.clone()) {
            return self.url.serialize(to);
        }
        WorkerTable::from(self.clone()).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Worker {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Worker;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a worker: a URL, or a table with `url`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Worker, E> {
                text.parse::<WorkerUrl>()
                    .map(Worker::from)
                    .map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Worker, A::Error> {
                WorkerTable::deserialize(MapAccessDeserializer::new(map)).map(Worker::from)
            }
        }

        from.deserialize_struct("Worker", WORKER_FIELDS, Visitor)
    }
}

impl JsonSchema for Worker {
    fn schema_name() -> Cow<'static, str> {
        "Worker".into()
    }

    fn json_schema(schemas: &mut SchemaGenerator) -> Schema {
        let (url, table) = (
            schemas.subschema_for::<WorkerUrl>(),
            schemas.subschema_for::<WorkerTable>(),
        );
        json_schema!({ "anyOf": [url, table] })
    }
}

/// The base URL of a worker, in normal form: no slash at its end, no default port, host in lower
/// case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerUrl(String);

/// Why a text is no [`WorkerUrl`]. No variant carries the user or the query of the URL, which may
/// hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerUrlError {
    /// There is no scheme in front.
    #[error("a worker URL begins with `http://`")]
    NoScheme,
    /// The scheme is not one for workers.
    #[error("unknown scheme `{0}` of a worker URL: expected `http`")]
    Scheme(String),
    /// The scheme is in upper case.
    #[error("the scheme of a worker URL is in lower case: expected `{0}`")]
    SchemeCase(String),
    /// The scheme belongs to a later version.
    #[error("a worker URL with scheme `{0}` is {NOT_AVAILABLE}")]
    SchemeLater(String),
    /// The host is missing or malformed.
    #[error("a worker URL needs a host")]
    Host,
    /// The port is 0 or no port.
    #[error("the port of a worker URL is from 1 to 65535")]
    Port,
    /// There is a user or a password.
    #[error("a worker URL has no user and no password")]
    UserInfo,
    /// There is a query.
    #[error("a worker URL has no query")]
    Query,
    /// There is a fragment.
    #[error("a worker URL has no fragment")]
    Fragment,
}

impl WorkerUrl {
    /// The URL in normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkerUrl {
    type Err = WorkerUrlError;

    fn from_str(text: &str) -> Result<Self, WorkerUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(WorkerUrlError::NoScheme)?;
        let lower = scheme.to_ascii_lowercase();
        if !matches!(lower.as_str(), "http" | "https" | "grpc" | "grpcs") {
            let known = scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
            return Err(if known {
                WorkerUrlError::Scheme(scheme.to_owned())
            } else {
                WorkerUrlError::NoScheme
            });
        }
        if lower != scheme {
            return Err(WorkerUrlError::SchemeCase(lower));
        }
        if scheme != "http" {
            return Err(WorkerUrlError::SchemeLater(lower));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(WorkerUrlError::UserInfo);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(WorkerUrlError::Host);
        }
        let url = url::Url::parse(text).map_err(|error| match error {
            url::ParseError::InvalidPort => WorkerUrlError::Port,
            _ => WorkerUrlError::Host,
        })?;
        if url.query().is_some() {
            return Err(WorkerUrlError::Query);
        }
        if url.fragment().is_some() {
            return Err(WorkerUrlError::Fragment);
        }
        if url.port() == Some(0) {
            return Err(WorkerUrlError::Port);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for WorkerUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for WorkerUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Serialize for WorkerUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WorkerUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = WorkerUrl;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("the URL of a worker, such as \"http://10.0.0.1:8000\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WorkerUrl, E> {
                text.parse().map_err(E::custom)
            }
        }

        from.deserialize_str(Visitor)
    }
}

impl JsonSchema for WorkerUrl {
    fn schema_name() -> Cow<'static, str> {
        "WorkerUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "uri",
            "pattern": "^http://",
            "description": "The base URL of a worker.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, shown) in [
            ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
            ("http://Host.Example:80/", "http://host.example"),
            ("http://[::1]:8000/v2/", "http://[::1]:8000/v2"),
        ] {
            assert_eq!(text.parse::<WorkerUrl>().unwrap().as_str(), shown);
        }
        use WorkerUrlError as E;
        for (text, error) in [
            ("10.0.0.1:8000", E::NoScheme),
            ("", E::NoScheme),
            ("ftp://h", E::Scheme("ftp".into())),
            ("HTTP://h", E::SchemeCase("http".into())),
            ("https://h", E::SchemeLater("https".into())),
            ("grpcs://h:1", E::SchemeLater("grpcs".into())),
            ("http://", E::Host),
            ("http://:80", E::Host),
            ("http://a b", E::Host),
            ("http://h:0", E::Port),
            ("http://h:70000", E::Port),
            ("http://u:p@h", E::UserInfo),
            ("http://h/?q", E::Query),
            ("http://h/#f", E::Fragment),
        ] {
            assert_eq!(text.parse::<WorkerUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn the_list_of_fields_is_that_of_the_table() {
        let schema = schemars::schema_for!(WorkerTable);
        let properties = schema.get("properties").unwrap().as_object().unwrap();
        assert_eq!(properties.keys().collect::<Vec<_>>(), WORKER_FIELDS);
    }
}
