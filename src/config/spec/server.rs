//! `[server]`: what holds for every request and for the process.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base::file::FilePath;
use crate::base::units::{ByteSize, Millis};

/// `[server]`: what holds for every request and for the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Total time of one request, from its arrival to the last byte of the answer.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 30m. Range: > 0. Reload: live.
    /// When it runs out the client gets 504, or a terminal frame once the answer has begun. A pool
    /// or a model can be stricter with `reliability.timeouts.total`.
    pub request_timeout: Millis,

    /// How long a shutdown waits for requests in flight.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 3m. Range: >= 0. Reload: live.
    /// What is left at its end gets a terminal frame, and the process ends with 1.
    pub shutdown_grace_period: Millis,

    /// Largest request body.
    ///
    /// Unit: size ("512MiB"). Default: 512MiB. Range: > 0. Reload: live.
    /// A larger body, declared or streamed, is refused with 413 `request_body_too_large`.
    pub max_payload_size: ByteSize,

    /// Request headers in which a client may bring the id of its request.
    ///
    /// Unit: list of header names. Default: x-request-id, x-correlation-id, x-trace-id,
    /// request-id. Range: valid header names. Reload: live.
    /// The first one present is taken; without any the gateway makes an id.
    pub request_id_headers: Vec<String>,

    /// Silence on an event stream after which a keep-alive comment is sent.
    ///
    /// Unit: duration ("250ms", "60s"). Default: 15s. Range: >= 0, "0s" sends none. Reload: live.
    /// It is also the longest time that the head of a stream is held back for a retry.
    pub sse_keepalive: Millis,

    /// Threads that run requests.
    ///
    /// Unit: number, or "auto" for one per core. Default: auto. Range: >= 1. Reload: restart.
    /// More threads than cores bring nothing.
    pub worker_threads: WorkerThreads,

    /// Unix socket for `smg reload` and its like.
    ///
    /// Unit: path. Default: `$RUNTIME_DIRECTORY/control.sock` where that is set, else none.
    /// Range: in an existing directory. Reload: restart.
    /// It has mode 0600 and serves `/admin/*`; root and the gateway's own user are admin there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_socket: Option<FilePath>,
}

impl Default for Server {
    fn default() -> Self {
        let ids = [
            "x-request-id",
            "x-correlation-id",
            "x-trace-id",
            "request-id",
        ];
        Self {
            request_timeout: Millis::secs(1800),
            shutdown_grace_period: Millis::secs(180),
            max_payload_size: ByteSize::mib(512),
            request_id_headers: ids.map(str::to_owned).to_vec(),
            sse_keepalive: Millis::secs(15),
            worker_threads: WorkerThreads::Auto,
            control_socket: None,
        }
    }
}

/// Value of `server.worker_threads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerThreads {
    /// One per core.
    Auto,
    /// So many.
    Count(NonZeroUsize),
}

impl Serialize for WorkerThreads {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => to.serialize_str("auto"),
            Self::Count(n) => n.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for WorkerThreads {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = WorkerThreads;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a number of at least 1, or \"auto\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WorkerThreads, E> {
                match text {
                    "auto" => Ok(WorkerThreads::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<WorkerThreads, E> {
                usize::try_from(number)
                    .ok()
                    .and_then(NonZeroUsize::new)
                    .map(WorkerThreads::Count)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }

        from.deserialize_any(Visitor)
    }
}

impl JsonSchema for WorkerThreads {
    fn schema_name() -> Cow<'static, str> {
        "WorkerThreads".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "string", "const": "auto" }, { "type": "integer", "minimum": 1 }],
        })
    }
}
