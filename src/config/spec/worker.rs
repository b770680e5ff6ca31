//! One worker of a pool: a URL, or a table with more about it.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;

use super::tls::ClientTls;
use super::worker_url::WorkerUrl;
use crate::base::secret::Secret;

/// One entry of `pools[].workers`: a URL, or a table with more about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_url)]
pub struct Worker {
    /// Where the worker is.
    ///
    /// Unit: URL. Default: none, required. Range: scheme http or https, with a host, without user, query
    /// and fragment. Reload: live.
    /// Request paths are appended to it.
    pub url: WorkerUrl,

    /// The model that the worker serves.
    ///
    /// Unit: string. Default: what the worker advertises. Range: not empty. Reload: live.
    /// For workers that advertise nothing, or something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,

    /// Key sent to this worker.
    ///
    /// Unit: secret. Default: the pool's `api_key`. Range: any. Reload: live.
    /// It goes out as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,

    /// HTTPS towards this worker.
    ///
    /// Unit: table. Default: the pool's `tls`, key by key. Range: only with an `https://` URL.
    /// Reload: drain.
    /// See `[pools.tls]`.
    #[serde(default, skip_serializing_if = "ClientTls::is_empty")]
    pub tls: ClientTls,

    /// Labels of the worker.
    ///
    /// Unit: table of strings. Default: {}. Range: any keys. Reload: live.
    /// `GET /workers` shows them; they come before what the worker says of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

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
    pub priority: u8,

    /// How much more than others a request at this worker counts.
    ///
    /// Unit: ratio. Default: 1. Range: > 0. Reload: live.
    /// Policies compare load times cost.
    #[serde(default = "default_cost", skip_serializing_if = "is_default_cost")]
    pub cost: f64,

    /// The port where decode workers fetch what this prefill worker has computed.
    ///
    /// Unit: number. Default: none. Range: 1 to 65535; only in `prefill`. Reload: live.
    /// SGLang's `--disaggregation-bootstrap-port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_port: Option<u16>,

    /// Whether the worker gets no new requests.
    ///
    /// Unit: boolean. Default: false. Range: any. Reload: live.
    /// Those that it has come to their end, and it goes on being probed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

/// Priority of a worker that has none of its own.
pub const DEFAULT_PRIORITY: u8 = 50;

/// Highest priority of a worker.
pub const MAX_PRIORITY: u8 = 100;

/// Cost of a worker that has none of its own.
pub const DEFAULT_COST: f64 = 1.0;

const FIELDS: &[&str] = &[
    "url",
    "model",
    "api_key",
    "tls",
    "labels",
    "priority",
    "cost",
    "bootstrap_port",
    "drain",
];

impl From<WorkerUrl> for Worker {
    fn from(url: WorkerUrl) -> Self {
        Self {
            url,
            model: None,
            api_key: None,
            tls: ClientTls::default(),
            labels: BTreeMap::new(),
            priority: DEFAULT_PRIORITY,
            cost: DEFAULT_COST,
            bootstrap_port: None,
            drain: false,
        }
    }
}

impl Serialize for Worker {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if *self == Self::from(self.url.clone()) {
            return self.url.serialize(to);
        }
        Self::serialize(self, to)
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
                Worker::deserialize(MapAccessDeserializer::new(map))
            }
        }

        from.deserialize_struct("Worker", FIELDS, Visitor)
    }
}

/// Makes of the schema of the table one that takes a URL as well.
fn or_url(schema: &mut Schema) {
    let table = std::mem::take(schema);
    *schema = Schema::from(
        [(
            "anyOf".to_owned(),
            json!([{ "$ref": "#/$defs/WorkerUrl" }, table]),
        )]
        .into_iter()
        .collect::<serde_json::Map<_, _>>(),
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_fields_is_that_of_the_table() {
        let schema = schemars::schema_for!(Worker);
        let table = schema.pointer("/anyOf/1/properties").unwrap();
        let properties = table.as_object().unwrap();
        assert_eq!(properties.keys().collect::<Vec<_>>(), FIELDS);
    }

    #[test]
    fn a_worker_that_says_nothing_more_is_written_as_its_url() {
        let worker: Worker = "http://w:1".parse::<WorkerUrl>().unwrap().into();
        assert_eq!(serde_json::to_value(&worker).unwrap(), "http://w:1");
        let worker = Worker {
            drain: true,
            ..worker
        };
        let written = serde_json::to_value(&worker).unwrap();
        assert_eq!(serde_json::from_value::<Worker>(written).unwrap(), worker);
    }
}
