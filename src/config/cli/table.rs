//! The flags of this version: one entry each, in the order of the help. Everything that is said
//! about a flag (parsing, variables, help, man page, reference) comes from its entry here. It is
//! one file because it is one table.

use super::flag::{Flag, Group, Kind, Target};
use crate::config::spec::PolicyName::{Bucket, CacheAware, LeastLoad, Manual, PrefixHash};

const BLANK: Flag = Flag {
    name: "",
    aliases: &[],
    short: None,
    kind: Kind::Switch,
    target: Target::File,
    legacy: None,
    group: Group::Server,
    common: false,
    help: "",
};

/// The name of the listener that `--host` and `--port` act on.
pub const MAIN: &str = "main";

/// The name of the listener that `--prometheus-host` and `--prometheus-port` act on.
pub const METRICS: &str = "metrics";

/// The name of the listener that `--health-check-port` adds.
pub const PROBES: &str = "probes";

/// The name of the pool that `--worker-urls` and its like act on.
pub const DEFAULT_POOL: &str = "default";

/// Every flag whose key this version has.
pub static FLAGS: &[Flag] = &[
    Flag {
        name: "config",
        short: Some('c'),
        kind: Kind::Path,
        target: Target::File,
        common: true,
        help: "Config file to serve from; reloaded when it changes",
        ..BLANK
    },
    Flag {
        name: "host",
        kind: Kind::Host,
        target: Target::Host(MAIN),
        common: true,
        help: "Address that clients connect to",
        ..BLANK
    },
    Flag {
        name: "port",
        kind: Kind::Port,
        target: Target::Port(MAIN),
        common: true,
        help: "Port that clients connect to; 0 takes any free one",
        ..BLANK
    },
    Flag {
        name: "health-check-port",
        kind: Kind::FixedPort,
        target: Target::Probes,
        help: "Answer liveness and readiness on a port of their own, too",
        ..BLANK
    },
    Flag {
        name: "request-timeout-secs",
        kind: Kind::Seconds,
        target: Target::Key("server.request_timeout"),
        help: "Total time of one request, to the last byte of its answer",
        ..BLANK
    },
    Flag {
        name: "shutdown-grace-period-secs",
        kind: Kind::Seconds,
        target: Target::Key("server.shutdown_grace_period"),
        help: "How long a shutdown waits for requests in flight",
        ..BLANK
    },
    Flag {
        name: "max-payload-size",
        kind: Kind::Size,
        target: Target::Key("server.max_payload_size"),
        help: "Largest request body; a larger one is refused with 413",
        ..BLANK
    },
    Flag {
        name: "cors-allowed-origins",
        kind: Kind::Origins,
        target: Target::Listener("cors.allowed_origins"),
        help: "Origins whose pages may call the gateway, or `*`",
        ..BLANK
    },
    Flag {
        name: "request-id-headers",
        kind: Kind::Headers,
        target: Target::Key("server.request_id_headers"),
        help: "Headers in which a client may bring its own request id",
        ..BLANK
    },
    Flag {
        name: "header-read-timeout-secs",
        kind: Kind::Seconds,
        target: Target::Listener("limits.header_timeout"),
        help: "Time in which a request's headers must be complete; 0: any",
        ..BLANK
    },
    Flag {
        name: "idle-connection-timeout-secs",
        kind: Kind::Seconds,
        target: Target::Listener("limits.idle_timeout"),
        help: "How long a connection is kept without a request; 0: for ever",
        ..BLANK
    },
    Flag {
        name: "sse-keepalive-secs",
        kind: Kind::Seconds,
        target: Target::Key("server.sse_keepalive"),
        help: "Silence on a stream after which a comment is sent; 0: never",
        ..BLANK
    },
    Flag {
        name: "runtime-worker-threads",
        kind: Kind::Threads,
        target: Target::Key("server.worker_threads"),
        help: "Threads that run requests; `auto` is one per core",
        ..BLANK
    },
    Flag {
        name: "worker-urls",
        kind: Kind::Urls,
        target: Target::Pool("workers"),
        group: Group::Workers,
        common: true,
        help: "Workers to ask, such as http://10.0.0.1:8000",
        ..BLANK
    },
    Flag {
        name: "backend",
        aliases: &["runtime"],
        kind: Kind::Runtime,
        target: Target::Pool("runtime"),
        group: Group::Workers,
        help: "Engine that the workers run; without it each is asked",
        ..BLANK
    },
    Flag {
        name: "worker-api-key",
        kind: Kind::Secret,
        target: Target::Pool("api_key"),
        group: Group::Workers,
        help: "Key to send to the workers; it does not protect the gateway",
        ..BLANK
    },
    Flag {
        name: "prefill",
        kind: Kind::Prefill,
        target: Target::Pool("prefill.workers"),
        group: Group::Workers,
        help: "Worker that reads prompts, and its bootstrap port if it has one",
        ..BLANK
    },
    Flag {
        name: "decode",
        kind: Kind::Urls,
        target: Target::Pool("decode.workers"),
        group: Group::Workers,
        help: "Workers that generate what prefill workers have read",
        ..BLANK
    },
    Flag {
        name: "pd-disaggregation",
        kind: Kind::Switch,
        target: Target::Legs,
        group: Group::Workers,
        help: "Split the pool in legs; --prefill and --decode do so, too",
        ..BLANK
    },
    Flag {
        name: "enable-igw",
        kind: Kind::Switch,
        target: Target::Key("routing.multi_model"),
        group: Group::Workers,
        help: "Expect workers of several models, some of which come later",
        ..BLANK
    },
    Flag {
        name: "dp-aware",
        kind: Kind::Switch,
        target: Target::Pool("dp_aware"),
        group: Group::Workers,
        help: "Take each data-parallel rank of a worker as a worker",
        ..BLANK
    },
    Flag {
        name: "dp-minimum-tokens-scheduler",
        kind: Kind::Switch,
        target: Target::Pool("dp_minimum_tokens"),
        group: Group::Workers,
        help: "Choose the rank with the fewest tokens",
        ..BLANK
    },
    Flag {
        name: "load-monitor-interval",
        aliases: &["load-monitor-interval-secs"],
        kind: Kind::Seconds,
        target: Target::Key("routing.load_monitor_interval"),
        group: Group::Workers,
        help: "Time between two questions to an engine for its load",
        ..BLANK
    },
    Flag {
        name: "model-alias",
        kind: Kind::Aliases,
        target: Target::Aliases,
        group: Group::Workers,
        help: "Further name under which clients may ask for a model",
        ..BLANK
    },
    Flag {
        name: "worker-startup-timeout-secs",
        kind: Kind::Seconds,
        target: Target::Key("reliability.health.startup_timeout"),
        group: Group::Workers,
        help: "How long a new worker may take until it counts as failed",
        ..BLANK
    },
    Flag {
        name: "worker-startup-check-interval",
        aliases: &["worker-startup-check-interval-secs"],
        kind: Kind::Seconds,
        target: Target::Key("reliability.health.startup_check_interval"),
        group: Group::Workers,
        help: "Time between two attempts to reach a new worker",
        ..BLANK
    },
    Flag {
        name: "worker-startup-delay",
        aliases: &["worker-startup-delay-secs"],
        kind: Kind::Seconds,
        target: Target::Key("reliability.health.startup_delay"),
        group: Group::Workers,
        help: "Time before the first attempt to reach a new worker",
        ..BLANK
    },
    Flag {
        name: "drain-settle-secs",
        kind: Kind::Seconds,
        target: Target::Key("reliability.health.drain_settle"),
        group: Group::Workers,
        help: "How long a worker that is removed is kept at least",
        ..BLANK
    },
    Flag {
        name: "policy",
        kind: Kind::Policy,
        target: Target::Policy,
        group: Group::Routing,
        help: "How a worker is chosen",
        ..BLANK
    },
    Flag {
        name: "prefill-policy",
        kind: Kind::Policy,
        target: Target::LegPolicy("prefill"),
        group: Group::Routing,
        help: "How a prefill worker is chosen; without it as --policy says",
        ..BLANK
    },
    Flag {
        name: "decode-policy",
        kind: Kind::DecodePolicy,
        target: Target::LegPolicy("decode"),
        group: Group::Routing,
        help: "How a decode worker is chosen; without it as --policy says",
        ..BLANK
    },
    Flag {
        name: "routing-key-override",
        aliases: &["sticky-sessions"],
        kind: Kind::Switch,
        target: Target::Key("routing.sticky_sessions"),
        group: Group::Routing,
        help: "Keep requests with one routing key at one worker",
        ..BLANK
    },
    Flag {
        name: "cache-threshold",
        kind: Kind::Float,
        target: Target::Option(&[CacheAware], "cache_threshold"),
        group: Group::Routing,
        help: "Share of a prompt that a worker must know to be sent it, 0 to 1",
        ..BLANK
    },
    Flag {
        name: "balance-abs-threshold",
        kind: Kind::Long,
        target: Target::Option(&[CacheAware, Bucket], "balance_abs_threshold"),
        group: Group::Routing,
        help: "Difference of loads from which workers count as unbalanced",
        ..BLANK
    },
    Flag {
        name: "balance-rel-threshold",
        kind: Kind::Float,
        target: Target::Option(&[CacheAware, Bucket], "balance_rel_threshold"),
        group: Group::Routing,
        help: "Ratio of loads from which workers count as unbalanced",
        ..BLANK
    },
    Flag {
        name: "balance-token-usage-threshold",
        kind: Kind::Float,
        target: Target::Option(&[CacheAware], "balance_token_usage_threshold"),
        group: Group::Routing,
        help: "Spread of cache use from which workers count as unbalanced",
        ..BLANK
    },
    Flag {
        name: "overload-token-usage-threshold",
        kind: Kind::Float,
        target: Target::Option(&[CacheAware], "overload_token_usage_threshold"),
        group: Group::Routing,
        help: "Cache use of a worker from which workers count as unbalanced",
        ..BLANK
    },
    Flag {
        name: "eviction-interval",
        aliases: &["eviction-interval-secs"],
        kind: Kind::Seconds,
        target: Target::Option(&[CacheAware, Manual], "eviction_interval"),
        group: Group::Routing,
        help: "Time between two clearances of what is remembered",
        ..BLANK
    },
    Flag {
        name: "max-tree-size",
        kind: Kind::Long,
        target: Target::Option(&[CacheAware], "max_tree_size"),
        group: Group::Routing,
        help: "Characters or tokens that a tree of prompts may hold",
        ..BLANK
    },
    Flag {
        name: "block-size",
        kind: Kind::Number,
        target: Target::Option(&[CacheAware], "block_size"),
        group: Group::Routing,
        help: "Tokens of one block, by which prompts are told apart",
        ..BLANK
    },
    Flag {
        name: "prefix-token-count",
        kind: Kind::Number,
        target: Target::Option(&[PrefixHash], "prefix_token_count"),
        group: Group::Routing,
        help: "Tokens at the start of a prompt that are hashed",
        ..BLANK
    },
    Flag {
        name: "prefix-hash-load-factor",
        kind: Kind::Float,
        target: Target::Option(&[PrefixHash], "load_factor"),
        group: Group::Routing,
        help: "How far above the mean load a worker may be",
        ..BLANK
    },
    Flag {
        name: "assignment-mode",
        kind: Kind::AssignmentMode,
        target: Target::Option(&[Manual], "assignment_mode"),
        group: Group::Routing,
        help: "Where a routing key goes that has no worker yet",
        ..BLANK
    },
    Flag {
        name: "max-idle-secs",
        kind: Kind::Seconds,
        target: Target::Option(&[Manual], "max_idle"),
        group: Group::Routing,
        help: "How long a routing key is remembered without a request",
        ..BLANK
    },
    Flag {
        name: "bucket-adjust-interval-secs",
        kind: Kind::Seconds,
        target: Target::Option(&[Bucket], "adjust_interval"),
        group: Group::Routing,
        help: "Time between two adjustments of the bounds of buckets",
        ..BLANK
    },
    Flag {
        name: "least-load-kv-pressure-weight",
        kind: Kind::Float,
        target: Target::Option(&[LeastLoad], "kv_pressure_weight"),
        group: Group::Routing,
        help: "How much a full cache counts",
        ..BLANK
    },
    Flag {
        name: "least-load-default-throughput",
        kind: Kind::Float,
        target: Target::Option(&[LeastLoad], "default_throughput"),
        group: Group::Routing,
        help: "Tokens per second of a worker that reports none",
        ..BLANK
    },
    Flag {
        name: "least-load-mean-prefill-tokens",
        kind: Kind::Number,
        target: Target::Option(&[LeastLoad], "mean_prefill_tokens"),
        group: Group::Routing,
        help: "Tokens of a prompt whose length is not known",
        ..BLANK
    },
    Flag {
        name: "max-concurrent-requests",
        kind: Kind::Limit,
        target: Target::Key("reliability.admission.max_concurrent_requests"),
        group: Group::Reliability,
        help: "Requests under way at once; -1: any number",
        ..BLANK
    },
    Flag {
        name: "rate-limit-tokens-per-second",
        kind: Kind::Float,
        target: Target::Key("reliability.admission.tokens_per_second"),
        group: Group::Reliability,
        help: "Requests that may begin per second; 0: any number",
        ..BLANK
    },
    Flag {
        name: "queue-size",
        kind: Kind::Number,
        target: Target::Key("reliability.admission.queue_size"),
        group: Group::Reliability,
        help: "Requests that may wait to be let in; 0: none",
        ..BLANK
    },
    Flag {
        name: "queue-timeout-secs",
        kind: Kind::Seconds,
        target: Target::Key("reliability.admission.queue_timeout"),
        group: Group::Reliability,
        help: "Longest time that a request waits to be let in",
        ..BLANK
    },
    Flag {
        name: "retry-max-retries",
        kind: Kind::Number,
        target: Target::Key("reliability.retry.max_retries"),
        group: Group::Reliability,
        help: "Attempts of one request, the first included",
        ..BLANK
    },
    Flag {
        name: "retry-initial-backoff-ms",
        kind: Kind::Millis,
        target: Target::Key("reliability.retry.initial_backoff"),
        group: Group::Reliability,
        help: "Wait before the second attempt",
        ..BLANK
    },
    Flag {
        name: "retry-max-backoff-ms",
        kind: Kind::Millis,
        target: Target::Key("reliability.retry.max_backoff"),
        group: Group::Reliability,
        help: "Longest wait between two attempts",
        ..BLANK
    },
    Flag {
        name: "retry-backoff-multiplier",
        kind: Kind::Float,
        target: Target::Key("reliability.retry.backoff_multiplier"),
        group: Group::Reliability,
        help: "Factor by which the wait grows from attempt to attempt",
        ..BLANK
    },
    Flag {
        name: "retry-jitter-factor",
        kind: Kind::Float,
        target: Target::Key("reliability.retry.jitter_factor"),
        group: Group::Reliability,
        help: "Largest random share that is added to a wait, 0 to 1",
        ..BLANK
    },
    Flag {
        name: "disable-retries",
        kind: Kind::Switch,
        target: Target::Off("reliability.retry.enabled"),
        group: Group::Reliability,
        help: "Make one attempt only",
        ..BLANK
    },
    Flag {
        name: "cb-failure-threshold",
        aliases: &["circuit-breaker-threshold"],
        kind: Kind::Number,
        target: Target::Key("reliability.circuit_breaker.failure_threshold"),
        group: Group::Reliability,
        help: "Failures in a row that open the breaker of a worker",
        ..BLANK
    },
    Flag {
        name: "cb-success-threshold",
        kind: Kind::Number,
        target: Target::Key("reliability.circuit_breaker.success_threshold"),
        group: Group::Reliability,
        help: "Successes in a row that close it again",
        ..BLANK
    },
    Flag {
        name: "cb-timeout-duration-secs",
        aliases: &["circuit-breaker-timeout"],
        kind: Kind::Seconds,
        target: Target::Key("reliability.circuit_breaker.timeout"),
        group: Group::Reliability,
        help: "How long a breaker stays open before it is tried",
        ..BLANK
    },
    Flag {
        name: "cb-window-duration-secs",
        kind: Kind::Seconds,
        target: Target::Key("reliability.circuit_breaker.window"),
        group: Group::Reliability,
        help: "Longest time between two failures of one row",
        ..BLANK
    },
    Flag {
        name: "disable-circuit-breaker",
        kind: Kind::Switch,
        target: Target::Off("reliability.circuit_breaker.enabled"),
        group: Group::Reliability,
        help: "Never open a breaker",
        ..BLANK
    },
    Flag {
        name: "health-failure-threshold",
        kind: Kind::Number,
        target: Target::Key("reliability.health.failure_threshold"),
        group: Group::Reliability,
        help: "Failed probes in a row that take a worker out",
        ..BLANK
    },
    Flag {
        name: "health-success-threshold",
        kind: Kind::Number,
        target: Target::Key("reliability.health.success_threshold"),
        group: Group::Reliability,
        help: "Good probes in a row that bring a worker back",
        ..BLANK
    },
    Flag {
        name: "health-check-timeout-secs",
        aliases: &["health-check-timeout"],
        kind: Kind::Seconds,
        target: Target::Key("reliability.health.timeout"),
        group: Group::Reliability,
        help: "How long a probe may take",
        ..BLANK
    },
    Flag {
        name: "health-check-interval-secs",
        aliases: &["health-check-interval"],
        kind: Kind::Seconds,
        target: Target::Key("reliability.health.interval"),
        group: Group::Reliability,
        help: "Time between two probes of a worker",
        ..BLANK
    },
    Flag {
        name: "health-check-endpoint",
        aliases: &["health-check-path"],
        kind: Kind::UrlPath,
        target: Target::Key("reliability.health.endpoint"),
        group: Group::Reliability,
        help: "What a probe asks a worker for",
        ..BLANK
    },
    Flag {
        name: "disable-health-check",
        kind: Kind::Switch,
        target: Target::Off("reliability.health.enabled"),
        group: Group::Reliability,
        help: "Take every worker as ready, without probes",
        ..BLANK
    },
    Flag {
        name: "remove-unhealthy-workers",
        kind: Kind::Switch,
        target: Target::Key("reliability.health.remove_unhealthy"),
        group: Group::Reliability,
        help: "Remove workers added over the API once they have failed",
        ..BLANK
    },
    Flag {
        name: "api-key",
        kind: Kind::Secret,
        target: Target::Key("auth.api_key"),
        group: Group::Security,
        common: true,
        help: "Key that clients must show; better given by its variable",
        ..BLANK
    },
    Flag {
        name: "tenant-api-key",
        kind: Kind::TenantKeys,
        target: Target::Tenants,
        group: Group::Security,
        help: "Key of a tenant; repeats",
        ..BLANK
    },
    Flag {
        name: "trust-tenant-header",
        kind: Kind::Switch,
        target: Target::Key("auth.tenant_header.trusted"),
        group: Group::Security,
        help: "Let trusted proxies say who the tenant is",
        ..BLANK
    },
    Flag {
        name: "tenant-header-name",
        kind: Kind::Text,
        target: Target::Key("auth.tenant_header.name"),
        group: Group::Security,
        help: "Header in which they do",
        ..BLANK
    },
    Flag {
        name: "control-plane-api-keys",
        kind: Kind::OperatorKeys,
        target: Target::Operators,
        legacy: Some("CONTROL_PLANE_API_KEYS"),
        group: Group::Security,
        help: "Keys of operators, with the role `admin` or `user`",
        ..BLANK
    },
    Flag {
        name: "jwt-issuer",
        kind: Kind::Url,
        target: Target::Key("auth.jwt.issuer"),
        legacy: Some("JWT_ISSUER"),
        group: Group::Security,
        help: "Who makes tokens; together with `--jwt-audience`",
        ..BLANK
    },
    Flag {
        name: "jwt-audience",
        kind: Kind::Text,
        target: Target::Key("auth.jwt.audience"),
        legacy: Some("JWT_AUDIENCE"),
        group: Group::Security,
        help: "For whom tokens are made; together with `--jwt-issuer`",
        ..BLANK
    },
    Flag {
        name: "jwt-jwks-uri",
        kind: Kind::Url,
        target: Target::Key("auth.jwt.jwks_uri"),
        legacy: Some("JWT_JWKS_URI"),
        group: Group::Security,
        help: "Where the issuer's keys are; else the issuer is asked",
        ..BLANK
    },
    Flag {
        name: "jwt-role-claim",
        kind: Kind::Text,
        target: Target::Key("auth.jwt.role_claim"),
        group: Group::Security,
        help: "Claim of a token that says the role",
        ..BLANK
    },
    Flag {
        name: "jwt-role-mapping",
        kind: Kind::Roles,
        target: Target::Key("auth.jwt.role_mapping"),
        group: Group::Security,
        help: "What the words of that claim mean: `admin` or `user`",
        ..BLANK
    },
    Flag {
        name: "tls-cert-path",
        kind: Kind::Path,
        target: Target::Listener("tls.cert_path"),
        group: Group::Security,
        help: "Certificate for HTTPS, with `--tls-key-path`",
        ..BLANK
    },
    Flag {
        name: "tls-key-path",
        kind: Kind::Path,
        target: Target::Listener("tls.key_path"),
        group: Group::Security,
        help: "Private key of that certificate",
        ..BLANK
    },
    Flag {
        name: "client-cert-path",
        kind: Kind::Path,
        target: Target::Pool("tls.cert_path"),
        group: Group::Security,
        help: "Certificate shown to workers, with `--client-key-path`",
        ..BLANK
    },
    Flag {
        name: "client-key-path",
        kind: Kind::Path,
        target: Target::Pool("tls.key_path"),
        group: Group::Security,
        help: "Private key of that certificate",
        ..BLANK
    },
    Flag {
        name: "ca-cert-paths",
        aliases: &["ca-cert-path"],
        kind: Kind::Paths,
        target: Target::Pool("tls.ca_paths"),
        group: Group::Security,
        help: "Authorities that vouch for workers, in place of the system's",
        ..BLANK
    },
    Flag {
        name: "disable-audit-logging",
        kind: Kind::Switch,
        target: Target::Off("audit.enabled"),
        group: Group::Security,
        help: "Keep no record of requests to the control plane",
        ..BLANK
    },
    Flag {
        name: "prometheus-host",
        kind: Kind::Host,
        target: Target::Host(METRICS),
        group: Group::Observability,
        help: "Address of the metrics listener",
        ..BLANK
    },
    Flag {
        name: "prometheus-port",
        kind: Kind::Port,
        target: Target::Port(METRICS),
        group: Group::Observability,
        help: "Port of the metrics listener; 0 takes any free one",
        ..BLANK
    },
    Flag {
        name: "prometheus-duration-buckets",
        kind: Kind::Floats,
        target: Target::Key("metrics.duration_buckets"),
        group: Group::Observability,
        help: "Upper bounds of the duration histograms, ascending",
        ..BLANK
    },
    Flag {
        name: "enable-trace",
        kind: Kind::Switch,
        target: Target::Key("tracing.enabled"),
        group: Group::Observability,
        help: "Send spans of requests to a collector",
        ..BLANK
    },
    Flag {
        name: "otlp-traces-endpoint",
        kind: Kind::Text,
        target: Target::Key("tracing.otlp_endpoint"),
        group: Group::Observability,
        help: "The collector (OTLP over gRPC): `host:port` or a URL",
        ..BLANK
    },
    Flag {
        name: "otlp-service-name",
        kind: Kind::Text,
        target: Target::Key("tracing.service_name"),
        legacy: Some("OTEL_SERVICE_NAME"),
        group: Group::Observability,
        help: "Name under which the spans stand",
        ..BLANK
    },
    Flag {
        name: "log-level",
        kind: Kind::LogLevel,
        target: Target::Key("logging.level"),
        legacy: Some(RUST_LOG),
        group: Group::Observability,
        help: "Least important messages that are logged",
        ..BLANK
    },
    Flag {
        name: "log-json",
        kind: Kind::Switch,
        target: Target::Word("logging.format", ["json", "text"]),
        group: Group::Observability,
        help: "Log one JSON object per line",
        ..BLANK
    },
    Flag {
        name: "log-dir",
        kind: Kind::Path,
        target: Target::Key("logging.dir"),
        group: Group::Observability,
        help: "Directory for log files, in place of the console",
        ..BLANK
    },
];

/// The variable with a filter expression for the log.
pub const RUST_LOG: &str = "RUST_LOG";

/// The flag called `name`, by any of its names.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS
        .iter()
        .find(|flag| flag.name == name || flag.aliases.contains(&name))
}
