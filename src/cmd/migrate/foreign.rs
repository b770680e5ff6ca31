//! Flags without a counterpart: why, and what to do instead.

use crate::config::cli::absent;

/// The reason for the flag called `name`; `None` if the flag is not known.
pub(super) fn reason(name: &str) -> Option<String> {
    let listed = |list: &'static [(&str, &str)]| {
        let of = |(pattern, _): &&(&str, &str)| matches(pattern, name);
        list.iter().find(of).map(|(_, text)| *text)
    };
    match (absent::reason(name), listed(ADVICE), listed(FLAGS)) {
        (Some(reason), Some(advice), _) => Some(format!("{reason}; {advice}")),
        (Some(reason), None, _) => Some(reason.to_owned()),
        (None, _, reason) => reason.map(str::to_owned),
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// What to do where a feature is missing.
static ADVICE: &[(&str, &str)] = &[
    ("service-discovery*", LIST_WORKERS),
    ("selector", LIST_WORKERS),
    ("prefill-selector", LIST_WORKERS),
    ("decode-selector", LIST_WORKERS),
    ("router-selector", ALONE),
    ("bootstrap-port-annotation", LIST_WORKERS),
    ("model-id-from", LIST_WORKERS),
    ("worker-ports-annotation", LIST_WORKERS),
    ("mesh-port-annotation", ALONE),
    ("model-path", BY_ENGINE),
    ("model", BY_ENGINE),
    ("tokenizer-*", BY_ENGINE),
    ("chat-template", BY_ENGINE),
    ("disable-tokenizer-autoload", BY_ENGINE),
    ("enable-l0-cache", BY_ENGINE),
    ("enable-l1-cache", BY_ENGINE),
    ("l0-max-entries", BY_ENGINE),
    ("l1-max-memory", BY_ENGINE),
    ("reasoning-parser", BY_ENGINE),
    ("tool-call-parser", BY_ENGINE),
    ("history-*", NOTHING_STORED),
    ("oracle-*", NOTHING_STORED),
    ("postgres-*", NOTHING_STORED),
    ("redis-*", NOTHING_STORED),
    ("storage-*", NOTHING_STORED),
    ("schema-config", NOTHING_STORED),
    ("max-background-responses", NOTHING_STORED),
    ("mcp-config-path", "no tools are called by the gateway"),
    ("enable-wasm", "no modules are run"),
    ("enable-mesh", ALONE),
    ("mesh-*", ALONE),
];

const LIST_WORKERS: &str = "list the workers in `pools[].workers` (the file is reloaded when it changes), or add them \
     with `POST /workers`";
const BY_ENGINE: &str = "the workers do this by themselves behind their HTTP API";
const NOTHING_STORED: &str = "no responses are stored";
const ALONE: &str = "each gateway stands alone; put a load balancer before several";

/// Flags of other programs that no table of ours knows.
static FLAGS: &[(&str, &str)] = &[
    (
        "api-key-validation-urls",
        "nobody else is asked about keys; see `auth.api_key`, `[[auth.tenants]]` and `[auth.jwt]`",
    ),
    ("mini-lb", "is a test mode of the other program"),
    (
        "overlap-decay",
        "tunes a policy of the other program; see `policy.cache_aware` for ours",
    ),
    (
        "selection-*",
        "tunes a policy of the other program; see `policy.cache_aware` for ours",
    ),
    ("router-temperature", "tunes a policy of the other program"),
    ("kv-penalty-*", "tunes a policy of the other program"),
    ("kv-aware-*", "tunes a policy of the other program"),
    (
        "kv-event*",
        "events of the engines' caches are not followed",
    ),
    (
        "pd-kv-events",
        "events of the engines' caches are not followed",
    ),
    ("kv-index", "events of the engines' caches are not followed"),
    (
        "kv-connector",
        "how workers of two legs exchange caches is found out from their engine",
    ),
    ("kv-connector-annotation", LIST_WORKERS_NOW),
    ("kv-engine-id-annotation", LIST_WORKERS_NOW),
    ("vllm-discovery-address", LIST_WORKERS_NOW),
    ("discovery-check-interval-secs", LIST_WORKERS_NOW),
    ("encode-selector", LIST_WORKERS_NOW),
    (
        "intra-node-data-parallel-size",
        "the ranks of a vLLM worker are not told apart; give each rank a port and list it as a \
         worker (with SGLang, `dp_aware`)",
    ),
    (
        "enable-program-scheduling",
        "requests are not scheduled by program",
    ),
    (
        "program-scheduling-*",
        "requests are not scheduled by program",
    ),
    ("wasm-middleware*", "no modules are run"),
    (
        "prefix-hash-balance-abs-threshold",
        "`policy.prefix_hash.load_factor` alone bounds the load",
    ),
    (
        "least-load-max-waiting-requests",
        "a worker is left out by its breaker and its probes, not by its queue; see \
         `reliability.admission`",
    ),
    (
        "power-of-two-load-metric",
        "`power_of_two` compares requests under way times cost",
    ),
    (
        "worker-overload-*",
        "overload of a worker is not watched; see `reliability.admission`",
    ),
    (
        "disable-worker-overload-protection",
        "overload of a worker is not watched; see `reliability.admission`",
    ),
    (
        "worker-stall-secs",
        "deadlines find a worker that hangs; see `reliability.timeouts`",
    ),
    (
        "worker-wedge-secs",
        "deadlines find a worker that hangs; see `reliability.timeouts`",
    ),
    (
        "worker-stale-secs",
        "deadlines find a worker that hangs; see `reliability.timeouts`",
    ),
    (
        "worker-warmup-*",
        "a worker gets requests as soon as it answers its probe",
    ),
    (
        "cache-boundaries",
        "tunes a policy of the other program; see `policy.cache_aware` for ours",
    ),
    ("cache-index", "see `policy.cache_aware.algorithm`"),
    (
        "cache-ttl-secs",
        "see `policy.cache_aware.eviction_interval` and `memory`",
    ),
    (
        "max-buffered-request-bytes",
        "all bodies together are bounded by `server.memory_budget`",
    ),
    (
        "pd-admission-wait-secs",
        "see `reliability.admission.queue_timeout`",
    ),
    (
        "prefill-max-inflight-*",
        "see `reliability.admission`, or `models[].admission`",
    ),
    (
        "prefill-queue-*",
        "see `reliability.admission`, or `models[].admission`",
    ),
    (
        "routing-key-headers",
        "the routing key is the header `x-smg-routing-key`",
    ),
    ("rl-*", "this gateway steers no training"),
    (
        "disable-load-monitoring",
        "workers are only asked for their load where the policy uses it",
    ),
    (
        "jemalloc-prof-dir",
        "profile the process with tools of the system",
    ),
    (
        "log-mm-timing",
        "images and sound go to the workers as they came",
    ),
    ("parser", "the workers parse what their models write"),
    ("zmq-engine-count", "engines are spoken to over HTTP only"),
    ("tokenizer-cache-l0-max-memory", "the workers tokenize"),
    ("log-format", "`logging.format` is \"text\" or \"json\""),
];

const LIST_WORKERS_NOW: &str =
    "list the workers in `pools[].workers`: the file is reloaded when it changes";
