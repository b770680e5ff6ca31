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

    /// Memory for all request bodies that are held at once.
    ///
    /// Unit: share of the memory that the process may use ("25%"), or size ("2GiB").
    /// Default: 25%. Range: > 0, at most 100%. Reload: live.
    /// A body that has no room is refused with 503 `memory_budget_exhausted` before it is read.
    /// The share is of the control group's `memory.max`, else of all memory.
    pub memory_budget: MemoryBudget,

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

    /// Where workers that were added or changed over the API are kept over restarts.
    ///
    /// Unit: directory. Default: `$STATE_DIRECTORY` where that is set, else none.
    /// Range: made with mode 0700 where it is absent. Reload: restart.
    /// Without it such changes survive reloads only. One process at a time keeps changes there. The
    /// keys of those workers stand in it in clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<FilePath>,

    /// Additions, changes and removals of workers that the API was asked for.
    ///
    /// Unit: table. Default: its keys' defaults. Range: any. Reload: live.
    /// See the keys of the table.
    pub jobs: Jobs,
}

/// `server.jobs`: changes of workers that the API was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// Jobs that may wait or run.
    ///
    /// Unit: number. Default: 1000. Range: >= 1. Reload: live.
    /// Further ones are refused with 503.
    pub capacity: u32,

    /// Jobs that run at once.
    ///
    /// Unit: number. Default: 200. Range: >= 1. Reload: live.
    /// Jobs of one worker run one after the other.
    pub concurrency: u32,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            capacity: 1000,
            concurrency: 200,
        }
    }
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
            memory_budget: MemoryBudget::Percent(25),
            request_id_headers: ids.map(str::to_owned).to_vec(),
            sse_keepalive: Millis::secs(15),
            worker_threads: WorkerThreads::Auto,
            control_socket: None,
            state_dir: None,
            jobs: Jobs::default(),
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

/// Value of `server.memory_budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryBudget {
    /// So many hundredths of the memory that the process may use, 1 to 100.
    Percent(u8),
    /// So many bytes.
    Size(ByteSize),
}

impl Serialize for MemoryBudget {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Percent(share) => to.collect_str(&format_args!("{share}%")),
            Self::Size(size) => size.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for MemoryBudget {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = MemoryBudget;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a share from \"1%\" to \"100%\", or a size such as \"2GiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MemoryBudget, E> {
                let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
                let Some(share) = text.strip_suffix('%') else {
                    let size: ByteSize = text.parse().map_err(|_| wrong())?;
                    return Ok(MemoryBudget::Size(size));
                };
                let share = share.parse().ok().filter(|share| (1..=100).contains(share));
                share.map(MemoryBudget::Percent).ok_or_else(wrong)
            }
        }

        from.deserialize_str(Visitor)
    }
}

impl JsonSchema for MemoryBudget {
    fn schema_name() -> Cow<'static, str> {
        "MemoryBudget".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(([1-9][0-9]?|100)%|[0-9]+([KMGT]i?B|kB|B))$",
        })
    }
}
