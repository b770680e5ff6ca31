//! The catalogue of metric families. One entry per family; `docs/METRICS.md` is written from it. It is
//! one file because it is one table, with the words that its labels may be.

/// What a family measures with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution over fixed buckets.
    Histogram,
}

impl Kind {
    /// The word of the exposition format's `TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Where the samples of a family live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// In the recorder, reached through a handle; a series stays until the process ends.
    Recorder,
    /// In the state that owns them, written at each scrape with [`Families`](super::Families), so
    /// that a series ends with its owner.
    Scrape,
}

/// Which bucket bounds a histogram uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Buckets {
    /// The bounds given to [`install`](super::install).
    Duration,
    /// [`OVERHEAD_BUCKETS`], for times of microseconds.
    Overhead,
    /// [`RATIO_BUCKETS`], for shares of a whole.
    Ratio,
    /// [`TOKEN_BUCKETS`], for differences of tokens.
    Tokens,
}

/// Bounds of `smg_gateway_overhead_seconds`, in seconds.
pub const OVERHEAD_BUCKETS: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25,
];

/// Bounds of `smg_cache_aware_match_ratio`.
pub const RATIO_BUCKETS: [f64; 11] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// Bounds of `smg_route_prediction_error_tokens`.
pub const TOKEN_BUCKETS: [f64; 15] = [
    -65536.0, -16384.0, -4096.0, -1024.0, -256.0, -64.0, -16.0, 0.0, 16.0, 64.0, 256.0, 1024.0,
    4096.0, 16384.0, 65536.0,
];

/// Default bounds of every other histogram, in seconds.
pub fn default_buckets() -> &'static [f64] {
    &[
        0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 45.0,
        60.0, 90.0, 120.0, 180.0, 240.0, 300.0, 480.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
        5400.0, 7200.0,
    ]
}

macro_rules! catalogue {
    ($($variant:ident $name:literal $kind:ident $source:ident [$($label:literal)*] $help:literal;)*) => {
        /// A metric family.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Metric {
            $(#[doc = concat!("`", $name, "`: ", $help)] $variant,)*
        }

        impl Metric {
            /// Every family, in the order of the catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the exposition.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence on what is measured.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }

            /// What it measures with.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// Where its samples live.
            pub fn source(self) -> Source {
                match self { $(Self::$variant => Source::$source,)* }
            }

            /// The labels that a caller gives, in this order; [`Metric::twin`] adds one more.
            pub fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($label,)*],)* }
            }
        }
    };
}

catalogue! {
    HttpRequests "smg_http_requests_total" Counter Recorder ["method" "path"]
        "Requests received, by method and route template.";
    HttpRequestDuration "smg_http_request_duration_seconds" Histogram Recorder ["method" "path"]
        "Time from the head of a request to the end of its response, in seconds.";
    HttpResponses "smg_http_responses_total" Counter Recorder ["path" "status_code" "error_code"]
        "Responses sent, by route template, status and error code.";
    HttpConnectionsActive "smg_http_connections_active" Gauge Recorder ["listener"]
        "Open client connections.";
    HttpRequestsInFlight "smg_http_requests_in_flight" Gauge Recorder []
        "Requests being served.";
    HttpInflightRequestAge "smg_http_inflight_request_age" Gauge Scrape ["gt" "le"]
        "Requests being served by their age in seconds: those older than gt and not older than le.";
    HttpRateLimit "smg_http_rate_limit_total" Counter Recorder ["result"]
        "Inference requests that were let in or turned away at the gates of admission.";

    AuthDecisions "smg_auth_decisions_total" Counter Recorder ["plane" "method" "outcome"]
        "Requests let in or turned away for who makes them, by half of the gateway, kind of credential and outcome.";

    RouterRequests "smg_router_requests_total" Counter Recorder
        ["router_type" "backend_type" "connection_mode" "model" "endpoint" "streaming"]
        "Inference calls taken for routing.";
    RouterRequestDuration "smg_router_request_duration_seconds" Histogram Recorder
        ["router_type" "backend_type" "connection_mode" "model" "endpoint"]
        "Time of an inference call, all attempts included, in seconds.";
    RouterRequestErrors "smg_router_request_errors_total" Counter Recorder
        ["router_type" "backend_type" "connection_mode" "model" "endpoint" "error_type"]
        "Inference calls that failed, by kind of failure.";
    RouterStageDuration "smg_router_stage_duration_seconds" Histogram Recorder
        ["router_type" "stage"]
        "Time of the stages of an inference call, one value for each time it goes through one, in seconds.";
    RouterUpstreamResponses "smg_router_upstream_responses_total" Counter Recorder
        ["router_type" "status_code" "error_code"]
        "Responses received from workers, one for each attempt.";
    RouterTtft "smg_router_ttft_seconds" Histogram Recorder
        ["router_type" "backend_type" "model" "endpoint"]
        "Time to the first token of a stream, in seconds.";
    RouterTpot "smg_router_tpot_seconds" Histogram Recorder
        ["router_type" "backend_type" "model" "endpoint"]
        "Mean time per output token after the first, in seconds.";
    RouterGenerationDuration "smg_router_generation_duration_seconds" Histogram Recorder
        ["router_type" "backend_type" "model" "endpoint"]
        "Time from the first event of a stream to its last, in seconds.";
    RouterInterToken "smg_router_inter_token_seconds" Histogram Recorder
        ["router_type" "backend_type" "model" "endpoint"]
        "Time between two events of a stream, in seconds.";
    RouterTokens "smg_router_tokens_total" Counter Recorder
        ["router_type" "backend_type" "model" "endpoint" "token_type"]
        "Tokens that workers reported in their usage figures.";
    GatewayOverhead "smg_gateway_overhead_seconds" Histogram Recorder ["endpoint" "streaming"]
        "Time spent in the gateway itself, without queue and worker, in seconds.";

    AdmissionInflight "smg_admission_inflight" Gauge Scrape []
        "Inference requests that were let in and have not ended.";
    AdmissionQueueDepth "smg_admission_queue_depth" Gauge Scrape ["class"]
        "Inference requests that wait to be let in.";
    AdmissionQueueWait "smg_admission_queue_wait_seconds" Histogram Recorder ["class"]
        "Time that requests had to wait until they were let in or gave up, in seconds.";

    TenantRequests "smg_tenant_requests_total" Counter Scrape ["tenant" "result"]
        "Inference requests by tenant, `other` for those who are none of the file: allowed, or rejected for its limits.";
    TenantTokens "smg_tenant_tokens_total" Counter Scrape ["tenant" "direction"]
        "Tokens that workers told of, by tenant: input of prompts, output of answers.";

    MirrorRequests "smg_mirror_requests_total" Counter Recorder ["model" "result"]
        "Copies that were due, by what became of them: ok, error, or dropped before they were sent.";

    WorkerPoolSize "smg_worker_pool_size" Gauge Scrape ["worker_type" "connection_mode" "model"]
        "Healthy workers.";
    WorkerPoolRegistered "smg_worker_pool_registered" Gauge Scrape
        ["worker_type" "connection_mode" "model"]
        "Workers known, whatever their health.";
    WorkerConnectionsActive "smg_worker_connections_active" Gauge Scrape
        ["worker" "worker_id" "worker_type" "connection_mode"]
        "Open connections to a worker.";
    WorkerRequestsActive "smg_worker_requests_active" Gauge Scrape ["worker" "worker_id"]
        "Requests in flight at a worker.";
    WorkerRequests "smg_worker_requests_total" Counter Scrape ["worker" "worker_id" "model"]
        "Attempts sent to a worker.";
    WorkerHealthChecks "smg_worker_health_checks_total" Counter Scrape
        ["worker" "worker_id" "worker_type" "result"]
        "Health checks of a worker, by result.";
    WorkerSelection "smg_worker_selection_total" Counter Recorder
        ["worker_type" "connection_mode" "model" "policy"]
        "Workers picked, by policy.";
    WorkerErrors "smg_worker_errors_total" Counter Recorder
        ["worker_type" "connection_mode" "error_type"]
        "Attempts that failed at a worker, by kind of failure.";
    WorkerHealth "smg_worker_health" Gauge Scrape ["worker" "worker_id"]
        "1 while a worker is healthy, else 0.";
    WorkerCbState "smg_worker_cb_state" Gauge Scrape ["worker" "worker_id"]
        "State of a worker's breaker: 0 closed, 1 open, 2 half open.";
    WorkerCbTransitions "smg_worker_cb_transitions_total" Counter Scrape
        ["worker" "worker_id" "from" "to" "from_state" "to_state"]
        "Changes of the state of a worker's breaker; both pairs of labels say the same.";
    WorkerCbOutcomes "smg_worker_cb_outcomes_total" Counter Scrape
        ["worker" "worker_id" "outcome"]
        "Attempts at a worker by what they say about it: success, failure, or neutral.";
    WorkerCbConsecutiveFailures "smg_worker_cb_consecutive_failures" Gauge Scrape
        ["worker" "worker_id"]
        "Failures of a worker since its last success.";
    WorkerCbConsecutiveSuccesses "smg_worker_cb_consecutive_successes" Gauge Scrape
        ["worker" "worker_id"]
        "Successes of a worker since its last failure, or since its breaker opened half.";
    WorkerRetries "smg_worker_retries_total" Counter Scrape
        ["worker" "worker_id" "worker_type" "endpoint"]
        "Retries, counted at the worker whose attempt failed.";
    WorkerRetriesExhausted "smg_worker_retries_exhausted_total" Counter Recorder
        ["worker_type" "endpoint" "reason"]
        "Calls given up although their failure could have been retried.";
    WorkerRetryBackoff "smg_worker_retry_backoff_seconds" Histogram Recorder ["attempt"]
        "Pause before a retry, in seconds.";

    WorkerRoutingKeysActive "smg_worker_routing_keys_active" Gauge Scrape ["worker" "worker_id"]
        "Routing keys that are assigned to a worker.";

    ManualPolicyBranch "smg_manual_policy_branch_total" Counter Recorder ["branch"]
        "Picks of the policy `manual`, by how they were made.";
    ConsistentHashingPolicyBranch "smg_consistent_hashing_policy_branch_total" Counter Recorder
        ["branch"]
        "Picks of the policy `consistent_hashing`, by how they were made.";
    PrefixHashPolicyBranch "smg_prefix_hash_policy_branch_total" Counter Recorder ["branch"]
        "Picks of the policy `prefix_hash`, by how they were made.";
    ManualPolicyCacheEntries "smg_manual_policy_cache_entries" Gauge Scrape ["model"]
        "Routing keys whose worker is remembered, sticky sessions included.";
    CacheAwarePolicyBranch "smg_cache_aware_policy_branch_total" Counter Recorder ["branch"]
        "Picks of the policy `cache_aware`, by how they were made.";
    CacheAwareMatchRatio "smg_cache_aware_match_ratio" Histogram Recorder ["model"]
        "Share of a prompt that was known to be in some worker's cache.";
    RoutePredictionError "smg_route_prediction_error_tokens" Histogram Recorder ["model"]
        "Prompt tokens that a worker found in its cache, less those that were expected there.";
    RouteIndexBytes "smg_route_index_bytes" Gauge Scrape ["model" "leg"]
        "Memory spent on knowing which prompts are in which caches, in bytes.";
    RouteIndexBlocks "smg_route_index_blocks" Gauge Scrape ["model" "leg"]
        "Blocks of prompts that are known to have been sent somewhere.";
    RouteCacheTokens "smg_route_cache_tokens" Gauge Scrape ["worker" "worker_id" "model"]
        "Tokens that a worker's cache is believed to hold, as its answers show.";
    CacheTreeChars "smg_cache_tree_chars" Gauge Scrape ["model" "tree"]
        "Characters of prompts in the trees of the policy `cache_aware`, by leg.";
    CacheTreeTokens "smg_cache_tree_tokens" Gauge Scrape ["model" "tree"]
        "Tokens of prompts in the trees of the policy `cache_aware`, by leg.";
    CacheTreeTenants "smg_cache_tree_tenants" Gauge Scrape ["model" "tree"]
        "Workers of which the trees of the policy `cache_aware` know something, by leg.";
    PdPrefillDuration "smg_pd_prefill_duration_seconds" Histogram Recorder
        ["backend_type" "model" "runtime"]
        "Time from sending a call to a prefill worker to the end of its answer, in seconds.";
    PdKvTransferDuration "smg_pd_kv_transfer_duration_seconds" Histogram Recorder
        ["backend_type" "model" "runtime"]
        "Time from the end of a prefill worker's answer to the first event of decode, in seconds.";
    PdTtft "smg_pd_ttft_seconds" Histogram Recorder ["backend_type" "model" "runtime"]
        "Time from sending a call to a pair of workers to its first event, in seconds.";
    PdKvConnectorMode "smg_pd_kv_connector_mode_total" Counter Recorder ["mode"]
        "Calls sent to a pair of workers, by how decode finds what prefill has computed.";
    PdBootstrapFailures "smg_pd_bootstrap_failures_total" Counter Recorder []
        "Calls sent to a pair over a bootstrap room of which a leg failed before the first event.";
    PdKvTransferFailures "smg_pd_kv_transfer_failures_total" Counter Recorder []
        "Hand-overs from prefill to decode that failed, or for which prefill gave no parameters.";
    PolicyDegraded "smg_policy_degraded" Gauge Scrape ["model" "policy"]
        "1 while a policy that looks at the load of engines is not told it by all workers, else 0.";

    EngineRunningRequests "smg_engine_running_requests" Gauge Scrape ["worker" "model" "dp_rank"]
        "Requests that an engine says it computes.";
    EngineWaitingRequests "smg_engine_waiting_requests" Gauge Scrape ["worker" "model" "dp_rank"]
        "Requests that an engine says wait in it.";
    EngineTokenUsage "smg_engine_token_usage" Gauge Scrape ["worker" "model" "dp_rank"]
        "Share of an engine's cache that is in use, 0 to 1.";
    EngineGenThroughput "smg_engine_gen_throughput" Gauge Scrape ["worker" "model" "dp_rank"]
        "Tokens that an engine says it generates per second.";
    EngineCacheHitRate "smg_engine_cache_hit_rate" Gauge Scrape ["worker" "model" "dp_rank"]
        "Share of prompt tokens that an engine says it finds in its cache, 0 to 1.";

    DiscoveryRegistrations "smg_discovery_registrations_total" Counter Recorder ["source" "result"]
        "Workers that joined, by where they came from.";
    DiscoveryDeregistrations "smg_discovery_deregistrations_total" Counter Recorder
        ["source" "reason"]
        "Workers that left, by where they came from.";
    DiscoverySyncDuration "smg_discovery_sync_duration_seconds" Histogram Recorder ["source"]
        "Time from reading what a source says of workers until it is in effect, in seconds.";
    DiscoverySynchronized "smg_discovery_synchronized" Gauge Scrape ["source"]
        "1 while no worker that a source names waits to be registered, else 0.";
    DiscoveryWorkersDiscovered "smg_discovery_workers_discovered" Gauge Scrape ["source"]
        "Workers that a source names now.";

    ConfigLastReloadSuccessful "smg_config_last_reload_successful" Gauge Recorder []
        "1 if the last load of the configuration was accepted, else 0.";
    ConfigLastReloadSuccessTimestamp "smg_config_last_reload_success_timestamp_seconds" Gauge
        Recorder []
        "Unix time of the last accepted configuration, in seconds.";
    ConfigGeneration "smg_config_generation" Gauge Recorder []
        "Generation of the configuration that is in effect.";
    ConfigSynchronized "smg_config_synchronized" Gauge Recorder []
        "1 while the configuration in effect is the one of the file, else 0.";
    ConfigReloads "smg_config_reloads_total" Counter Recorder ["trigger" "result"]
        "Reloads, by what asked for them and how they ended.";
    AuthJwksUp "smg_auth_jwks_up" Gauge Scrape ["issuer"]
        "Whether the last fetch of the issuer's keys brought them.";
    TlsCertificateNotAfter "smg_tls_certificate_not_after_seconds" Gauge Scrape ["path"]
        "When a certificate that the gateway shows ends to be valid, in seconds since the epoch.";
    TlsReloads "smg_tls_reloads_total" Counter Recorder ["result"]
        "Reloads in which certificates, keys or authorities were others, by how they ended.";

    MemoryBudget "smg_memory_budget_bytes" Gauge Scrape ["state"]
        "Memory for what is buffered: bytes in use, and bytes that may be.";

    ConfigInfo "smg_config_info" Gauge Scrape ["sha256"]
        "Always 1; the label names the configuration that is in effect.";
    ConfigSnapshotsAlive "smg_config_snapshots_alive" Gauge Scrape []
        "Snapshots that some request still holds, the current one included.";
    ConfigOldestSnapshotAge "smg_config_oldest_snapshot_age_seconds" Gauge Scrape []
        "Age of the oldest snapshot that is alive, in seconds.";
    SnapshotId "smg_snapshot_id" Gauge Scrape []
        "Number of the current snapshot; grows with every publish.";
    FactsUpdates "smg_facts_updates_total" Counter Recorder ["source"]
        "Changes of what is known about workers, by where they came from.";

    LogDropped "smg_log_dropped_total" Counter Recorder ["sink"]
        "Log lines dropped because a sink was full or failed.";
    TraceSpans "smg_trace_spans_total" Counter Recorder ["result"]
        "Spans of traced requests by what became of them: exported, failed, or dropped for want of room.";
    BuildInfo "smg_build_info" Gauge Recorder ["version" "revision"]
        "Always 1; the labels name the build.";
    ProcessStartTime "smg_process_start_time_seconds" Gauge Recorder []
        "Unix time of the start of the process, in seconds.";
    TokioAliveTasks "smg_tokio_alive_tasks" Gauge Recorder []
        "Tasks of the runtime that have not ended.";
    TokioWorkers "smg_tokio_workers" Gauge Recorder []
        "Worker threads of the runtime.";
    TokioGlobalQueueDepth "smg_tokio_global_queue_depth" Gauge Recorder []
        "Tasks that wait in the runtime's global queue.";
    TokioWorkerBusyRatio "smg_tokio_worker_busy_ratio" Gauge Recorder ["worker"]
        "Share of the last second in which a thread of the runtime was busy, 0 to 1.";
    TokioWorkerParks "smg_tokio_worker_parks_total" Counter Recorder ["worker"]
        "Times that a thread of the runtime has gone to sleep for want of work.";
    TokioEventLoopDelay "smg_tokio_event_loop_delay_seconds" Histogram Recorder []
        "Time by which a timer of the runtime was late, measured ten times a second, in seconds.";
    TokioEventLoopStalls "smg_tokio_event_loop_stalls_total" Counter Recorder []
        "Times that such a timer was late by 100 ms or more.";
}

impl Metric {
    /// A second label with the value of a first one, as `(label, first)`: dashboards know the
    /// same thing under two names. It is added to every series by whoever renders it.
    pub fn twin(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::HttpResponses | Self::RouterUpstreamResponses => Some(("status", "status_code")),
            Self::HttpRateLimit => Some(("decision", "result")),
            Self::RouterTokens => Some(("direction", "token_type")),
            _ => None,
        }
    }

    /// Which bounds it uses; `None` unless it is a histogram.
    pub fn buckets(self) -> Option<Buckets> {
        match (self.kind(), self) {
            (Kind::Histogram, Self::GatewayOverhead) => Some(Buckets::Overhead),
            (Kind::Histogram, Self::CacheAwareMatchRatio) => Some(Buckets::Ratio),
            (Kind::Histogram, Self::RoutePredictionError) => Some(Buckets::Tokens),
            (Kind::Histogram, _) => Some(Buckets::Duration),
            (Kind::Counter | Kind::Gauge, _) => None,
        }
    }
}

/// Label values of closed sets.
pub mod label {
    /// `endpoint`: what inference calls can ask for.
    pub const ENDPOINTS: &[&str] = &[
        "chat",
        "completions",
        "generate",
        "embeddings",
        "rerank",
        "classify",
        "responses",
    ];
    /// `worker_type`: what a worker does of a request.
    pub const WORKER_TYPES: &[&str] = &["regular", "prefill", "decode"];
    /// `source` of workers: those of the file, and those that operators have added.
    pub const SOURCES: &[&str] = &["static", "manual"];
    /// `stage` of [`RouterStageDuration`](super::Metric::RouterStageDuration): from the body read to
    /// the choice of a worker, without the queue; the choice; a connection where none was kept; from
    /// sending to the end of the answer, with that connection.
    pub const STAGES: &[&str] = &["route", "pick", "connect", "upstream"];
    /// `reason` of [`WorkerRetriesExhausted`](super::Metric::WorkerRetriesExhausted).
    pub const GIVE_UP_REASONS: &[&str] = &["attempts", "budget", "deadline", "no_worker"];
    /// `error_type` of [`WorkerErrors`](super::Metric::WorkerErrors): the connection could not be
    /// made or broke, a deadline ran out, the worker answered with a failure status.
    pub const WORKER_ERRORS: &[&str] = &["connection_error", "timeout", "backend_error"];
    /// `error_type` of [`RouterRequestErrors`](super::Metric::RouterRequestErrors).
    pub const ROUTER_ERRORS: &[&str] = &[
        "validation_error",
        "no_workers",
        "timeout",
        "backend_error",
        "internal_error",
    ];
    /// `branch` of [`ManualPolicyBranch`](super::Metric::ManualPolicyBranch).
    pub const MANUAL_BRANCHES: &[&str] = &[
        "occupied_hit",
        "occupied_miss",
        "vacant",
        "no_routing_key",
        "no_healthy_workers",
    ];
    /// `branch` of
    /// [`ConsistentHashingPolicyBranch`](super::Metric::ConsistentHashingPolicyBranch).
    pub const CONSISTENT_HASHING_BRANCHES: &[&str] = &[
        "target_worker_hit",
        "target_worker_miss",
        "routing_key_hit",
        "implicit_key_hit",
        "random_fallback",
        "no_healthy_workers",
    ];
    /// `branch` of [`PrefixHashPolicyBranch`](super::Metric::PrefixHashPolicyBranch).
    pub const PREFIX_HASH_BRANCHES: &[&str] = &[
        "ring_hit",
        "ring_spill",
        "least_loaded",
        "no_healthy_workers",
    ];
    /// `branch` of [`CacheAwarePolicyBranch`](super::Metric::CacheAwarePolicyBranch): those of
    /// `score`, then those of `tree`.
    pub const CACHE_AWARE_BRANCHES: &[&str] = &[
        "cache_hit",
        "spill",
        "cold",
        "tree_match",
        "tree_miss_min_load",
        "dead_match_min_load",
        "imbalance_min_load",
        "token_usage_min_load",
        "no_healthy_workers",
    ];
    /// `mode` of [`PdKvConnectorMode`](super::Metric::PdKvConnectorMode): they meet in a room, the
    /// parameters of prefill's answer are passed on, or there were none.
    pub const KV_MODES: &[&str] = &["bootstrap", "kv_transfer_params", "none"];
    /// `plane` of [`AuthDecisions`](super::Metric::AuthDecisions).
    pub const PLANES: &[&str] = &["data", "control"];
    /// `method` and `outcome` of [`AuthDecisions`](super::Metric::AuthDecisions), as far as they go
    /// together.
    pub const AUTH_DECISIONS: &[(&str, &str)] = &[
        ("none", "allowed"),
        ("none", "missing"),
        ("none", "forbidden"),
        ("api_key", "allowed"),
        ("api_key", "invalid"),
        ("api_key", "forbidden"),
        ("api_key", "throttled"),
        ("jwt", "allowed"),
        ("jwt", "invalid"),
        ("jwt", "forbidden"),
        ("jwt", "throttled"),
        ("jwt", "unavailable"),
        ("peer", "allowed"),
    ];
    /// `sink` of [`LogDropped`](super::Metric::LogDropped).
    pub const LOG_SINKS: &[&str] = &["stdout", "file", "audit"];
    /// `result` of [`TraceSpans`](super::Metric::TraceSpans): taken by the collector, refused or not
    /// reached, or not even tried because too many waited.
    pub const SPAN_RESULTS: &[&str] = &["exported", "failed", "dropped"];

    /// Bounds of the ages in [`HttpInflightRequestAge`](super::Metric::HttpInflightRequestAge), in
    /// seconds: `le` of one series and `gt` of the next.
    pub const AGES: &[u64] = &[
        30, 60, 180, 300, 600, 1200, 3600, 7200, 14_400, 28_800, 86_400,
    ];

    const ATTEMPTS: [&str; 10] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10+"];

    /// `attempt` of [`WorkerRetryBackoff`](super::Metric::WorkerRetryBackoff) for the `n`th
    /// retry, counted from 1.
    pub fn attempt(n: u32) -> &'static str {
        let index = usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
        ATTEMPTS.get(index).copied().unwrap_or("10+")
    }

    /// Every value that [`attempt`] returns.
    pub fn attempts() -> &'static [&'static str] {
        &ATTEMPTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut names: Vec<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Metric::ALL.len());
        for &metric in Metric::ALL {
            let name = metric.name();
            assert!(name.starts_with("smg_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind() == Kind::Counter,
                "{name}"
            );
            assert_eq!(
                metric.buckets().is_some(),
                metric.kind() == Kind::Histogram,
                "{name}"
            );
            assert!(metric.help().ends_with('.'), "{name}");
            if let Some((twin, first)) = metric.twin() {
                assert!(metric.labels().contains(&first) && !metric.labels().contains(&twin));
            }
            // There the label means a thread, and those stay.
            let threads = name.starts_with("smg_tokio_");
            if metric.labels().contains(&"worker") && !threads {
                assert_eq!(
                    metric.source(),
                    Source::Scrape,
                    "{name} must vanish with its worker"
                );
            }
        }
    }

    #[test]
    fn buckets_ascend() {
        for bounds in [default_buckets(), &OVERHEAD_BUCKETS, &RATIO_BUCKETS] {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
        }
        assert_eq!(default_buckets().len(), 29);
    }

    #[test]
    fn attempts_beyond_nine_share_a_series() {
        let values: Vec<_> = [0, 1, 9, 10, 11, 4000].map(label::attempt).to_vec();
        assert_eq!(values, ["1", "1", "9", "10+", "10+", "10+"]);
    }

    /// The reference is compared with the catalogue; `UPDATE_GOLDEN=1` writes it anew.
    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a golden test reads its switch and its file"
    )]
    fn the_reference_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
        let wanted = reference();
        if std::env::var("UPDATE_GOLDEN").is_ok() {
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            found, wanted,
            "run `UPDATE_GOLDEN=1 cargo test` and commit docs/METRICS.md"
        );
    }

    fn reference() -> String {
        use std::fmt::Write;
        let mut out = String::from(
            "# Metrics\n\n\
             Written from `telemetry::metrics::Metric`; change that, then run \
             `UPDATE_GOLDEN=1 cargo test`.\n\n\
             `GET /metrics` answers on listeners that serve `metrics`. Series of the \
             families marked † end with what they describe; every other series stays until the \
             process ends.\n\n\
             | family | type | labels | meaning |\n|---|---|---|---|\n",
        );
        for &metric in Metric::ALL {
            let mut labels: Vec<String> = metric
                .labels()
                .iter()
                .map(|label| format!("`{label}`"))
                .collect();
            if let Some((twin, first)) = metric.twin() {
                labels.push(format!("`{twin}` (= `{first}`)"));
            }
            let labels = if labels.is_empty() {
                "–".to_owned()
            } else {
                labels.join(", ")
            };
            let (name, kind, help) = (metric.name(), metric.kind().as_str(), metric.help());
            let mark = if metric.source() == Source::Scrape {
                " †"
            } else {
                ""
            };
            writeln!(out, "| `{name}`{mark} | {kind} | {labels} | {help} |").unwrap();
        }
        out.push_str("\n## Buckets\n\n");
        let list = |bounds: &[f64]| {
            bounds
                .iter()
                .map(f64::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        writeln!(
            out,
            "`smg_gateway_overhead_seconds`, in seconds: {}.\n\n\
             `smg_cache_aware_match_ratio`: {}.\n\n\
             `smg_route_prediction_error_tokens`: {}.\n\n\
             Every other histogram, unless `metrics.duration_buckets` replaces the list: {}.",
            list(&OVERHEAD_BUCKETS),
            list(&RATIO_BUCKETS),
            list(&TOKEN_BUCKETS),
            list(default_buckets()),
        )
        .unwrap();
        out.push_str("\n## Closed label sets\n\n");
        for (name, values) in [
            ("endpoint", label::ENDPOINTS),
            (
                "error_type of `smg_router_request_errors_total`",
                label::ROUTER_ERRORS,
            ),
            (
                "error_type of `smg_worker_errors_total`",
                label::WORKER_ERRORS,
            ),
            (
                "reason of `smg_worker_retries_exhausted_total`",
                label::GIVE_UP_REASONS,
            ),
            ("attempt", label::attempts()),
            (
                "branch of `smg_manual_policy_branch_total`",
                label::MANUAL_BRANCHES,
            ),
            (
                "branch of `smg_consistent_hashing_policy_branch_total`",
                label::CONSISTENT_HASHING_BRANCHES,
            ),
            (
                "branch of `smg_prefix_hash_policy_branch_total`",
                label::PREFIX_HASH_BRANCHES,
            ),
            ("worker_type", label::WORKER_TYPES),
            ("source of `smg_discovery_*`", label::SOURCES),
            ("stage", label::STAGES),
            (
                "branch of `smg_cache_aware_policy_branch_total`",
                label::CACHE_AWARE_BRANCHES,
            ),
            ("mode", label::KV_MODES),
            ("plane", label::PLANES),
            ("method", &["none", "api_key", "jwt", "peer"]),
            (
                "outcome",
                &[
                    "allowed",
                    "missing",
                    "invalid",
                    "forbidden",
                    "throttled",
                    "unavailable",
                ],
            ),
            ("sink", label::LOG_SINKS),
            ("result of `smg_trace_spans_total`", label::SPAN_RESULTS),
        ] {
            writeln!(out, "- {name}: {}", values.join(" ")).unwrap();
        }
        let ages: Vec<String> = label::AGES.iter().map(u64::to_string).collect();
        writeln!(
            out,
            "- le of `smg_http_inflight_request_age`: {} +Inf; gt is the one before, at first 0",
            ages.join(" ")
        )
        .unwrap();
        out
    }
}
