//! Workers as the plan sees them: identity, address, what they serve.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::fleet::Source;
use super::pool::{Breaker, Health, PoolIx};
use super::tls::ClientTls;
use crate::base::secret::Secret;
use crate::config::spec::{PolicyName, Runtime};

/// Identity of a worker: its normalised URL (lower-case scheme and host, explicit port, no
/// trailing slash), and the rank where it is one rank of an engine. A URL that stands in two pools is one
/// worker with one key. Sorted by URL, then rank.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerKey {
    url: Arc<str>,
    rank: Option<u32>,
    text: Arc<str>,
}

impl WorkerKey {
    /// The key of `url`, which the configuration has checked. Text that is no URL is kept as it is.
    pub fn new(url: &str) -> Self {
        let Ok(parsed) = url::Url::parse(url) else {
            return Self::of(url.trim_end_matches('/').into());
        };
        let host = parsed.host_str().unwrap_or_default();
        let port = parsed.port_or_known_default().unwrap_or(80);
        let path = parsed.path().trim_end_matches('/');
        Self::of(format!("{}://{host}:{port}{path}", parsed.scheme()).into())
    }

    /// The key that `text` names: a URL, or a URL with `@` and a rank behind it.
    pub fn named(text: &str) -> Self {
        let ranked = text
            .rsplit_once('@')
            .and_then(|(url, rank)| Some(Self::new(url).ranked(rank.parse().ok()?)));
        ranked.unwrap_or_else(|| Self::new(text))
    }

    fn of(url: Arc<str>) -> Self {
        Self {
            text: Arc::clone(&url),
            rank: None,
            url,
        }
    }

    /// The key of the rank `rank` of this worker: its URL, `@` and the number.
    pub fn ranked(&self, rank: u32) -> Self {
        Self {
            url: Arc::clone(&self.url),
            rank: Some(rank),
            text: format!("{}@{rank}", self.url).into(),
        }
    }

    /// The key of the worker that this is a rank of; itself where it is none.
    pub fn base(&self) -> Self {
        Self::of(Arc::clone(&self.url))
    }

    /// Whether both are the same worker or ranks of one.
    pub fn is_rank_beside(&self, other: &Self) -> bool {
        self.url == other.url
    }

    /// The rank, where it is one.
    pub const fn rank(&self) -> Option<u32> {
        self.rank
    }

    /// The normalised URL, with the rank where it is one.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The opaque id shown to clients and operators: UUID version 5 of the key in the URL
    /// namespace (RFC 9562), stable over restarts.
    pub fn id(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, self.text.as_bytes())
    }
}

impl Serialize for WorkerKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl fmt::Display for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Index of a worker in the plan it came from. Meaningless in any other plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WorkerIx(pub u32);

/// One membership of a worker in a pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worker {
    /// Identity; the key of every cell of this worker.
    pub key: WorkerKey,
    /// The opaque id, derived from the key.
    pub id: Uuid,
    /// Ranks of the engine, where this is one of them.
    pub dp_size: Option<u32>,
    /// The pool of this membership.
    pub pool: PoolIx,
    /// Where it comes from.
    pub source: Source,
    /// Whether it gets no new requests.
    pub draining: bool,
    /// How it is probed.
    pub health: Health,
    /// When its breaker opens and closes.
    pub breaker: Breaker,
    /// What it does there.
    pub role: Role,
    /// Only candidates of the highest priority present are used.
    pub priority: u8,
    /// Its load counts this many times.
    pub cost: f64,
    /// Where decode workers meet it.
    pub bootstrap_port: Option<u16>,
    /// Host name or address, without brackets.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
    /// How it is spoken to over TLS; `None`: in the clear.
    pub tls: Option<Arc<ClientTls>>,
    /// The `host` header sent to this worker: `host:port`.
    pub authority: Arc<str>,
    /// Path put in front of every request path; empty for most workers.
    pub base_path: Arc<str>,
    /// Engine, declared or detected; `None` while neither is known.
    pub runtime: Option<Runtime>,
    /// Models it serves: declared for it, else advertised by it. Empty: it names none.
    pub models: Vec<Arc<str>>,
    /// Context length in tokens that it reports, where it does.
    pub max_model_len: Option<u64>,
    /// Credential sent to this worker: its own, else the pool's.
    pub api_key: Option<Secret>,
    /// Labels: those of the file over those that the worker reports.
    pub labels: BTreeMap<String, String>,
    /// How far it may be used before its registration has finished.
    pub registration: Registration,
}

/// Label by which a worker says how its model's workers are chosen.
const POLICY: &str = "policy";

impl Worker {
    /// Whether requests may go to it as far as the plan knows.
    pub fn is_admitted(&self) -> bool {
        !matches!(self.registration, Registration::Pending)
    }

    /// The policy that its label asks for, where there is one and the word is known.
    pub fn policy(&self) -> Option<PolicyName> {
        self.labels.get(POLICY)?.parse().ok()
    }

    /// What its label asks for where no policy is called so.
    pub fn unknown_policy(&self) -> Option<&str> {
        let word = self.labels.get(POLICY)?;
        self.policy().is_none().then_some(word)
    }
}

/// What a worker does for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Regular,
    /// Reads the prompt.
    Prefill,
    /// Generates.
    Decode,
}

impl Role {
    /// The metric label and the word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// When a worker may first be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Its runtime is declared and a declared model leads to it: usable from the start, probed
    /// afterwards.
    AtOnce,
    /// Usable once its registration has succeeded.
    Registered,
    /// Registration is still under way; not usable.
    Pending,
}
