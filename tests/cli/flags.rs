//! Every flag, by each of its names and by its variable, to the key that it sets. It is one file because
//! it is one table.

use smg::config::cli::table::{FLAGS, find};

use crate::binary::{smg, status, stderr, stdout};
use crate::dump::dump;

/// A flag, what is typed after it, what its variable holds, the key and the value that it gets.
const FLAG_TO_KEY: &[(&str, &str, &str, &str, &str)] = &[
    (
        "host",
        "127.0.0.1",
        "::1",
        "listeners[main].address",
        "\"127.0.0.1:30000\"",
    ),
    (
        "port",
        "1234",
        "1234",
        "listeners[main].address",
        "\"0.0.0.0:1234\"",
    ),
    (
        "health-check-port",
        "9090",
        "9090",
        "listeners[probes].address",
        "\"0.0.0.0:9090\"",
    ),
    (
        "request-timeout-secs",
        "90",
        "90s",
        "server.request_timeout",
        "\"90s\"",
    ),
    (
        "shutdown-grace-period-secs",
        "0",
        "0",
        "server.shutdown_grace_period",
        "\"0s\"",
    ),
    (
        "max-payload-size",
        "1024",
        "1KiB",
        "server.max_payload_size",
        "\"1KiB\"",
    ),
    (
        "cors-allowed-origins",
        "https://a.example",
        "https://a.example",
        "listeners[main].cors.allowed_origins[0]",
        "\"https://a.example\"",
    ),
    (
        "request-id-headers",
        "x-id",
        "x-id",
        "server.request_id_headers",
        "[\"x-id\"]",
    ),
    (
        "header-read-timeout-secs",
        "5",
        "5",
        "listeners[main].limits.header_timeout",
        "\"5s\"",
    ),
    (
        "idle-connection-timeout-secs",
        "2m",
        "120",
        "listeners[main].limits.idle_timeout",
        "\"2m\"",
    ),
    (
        "sse-keepalive-secs",
        "500ms",
        "500ms",
        "server.sse_keepalive",
        "\"500ms\"",
    ),
    (
        "runtime-worker-threads",
        "2",
        "2",
        "server.worker_threads",
        "2",
    ),
    (
        "worker-urls",
        "http://a:1",
        "http://a:1",
        "pools[default].workers[0]",
        "\"http://a:1\"",
    ),
    (
        "backend",
        "vllm",
        "vllm",
        "pools[default].runtime",
        "\"vllm\"",
    ),
    (
        "worker-api-key",
        "k",
        "k",
        "pools[default].api_key",
        "\"***\"",
    ),
    ("model-alias", "a=m", "a=m", "models[m].aliases", "[\"a\"]"),
    (
        "worker-startup-timeout-secs",
        "60",
        "1m",
        "reliability.health.startup_timeout",
        "\"1m\"",
    ),
    (
        "worker-startup-check-interval",
        "3",
        "3s",
        "reliability.health.startup_check_interval",
        "\"3s\"",
    ),
    (
        "worker-startup-delay",
        "4",
        "4",
        "reliability.health.startup_delay",
        "\"4s\"",
    ),
    (
        "policy",
        "round-robin",
        "roundrobin",
        "routing.policy",
        "\"round_robin\"",
    ),
    (
        "retry-max-retries",
        "2",
        "2",
        "reliability.retry.max_retries",
        "2",
    ),
    (
        "retry-initial-backoff-ms",
        "20",
        "20ms",
        "reliability.retry.initial_backoff",
        "\"20ms\"",
    ),
    (
        "retry-max-backoff-ms",
        "5000",
        "5s",
        "reliability.retry.max_backoff",
        "\"5s\"",
    ),
    (
        "retry-backoff-multiplier",
        "2.5",
        "2.5",
        "reliability.retry.backoff_multiplier",
        "2.5",
    ),
    (
        "retry-jitter-factor",
        "0.5",
        "0.5",
        "reliability.retry.jitter_factor",
        "0.5",
    ),
    (
        "disable-retries",
        "",
        "yes",
        "reliability.retry.enabled",
        "false",
    ),
    (
        "health-failure-threshold",
        "4",
        "4",
        "reliability.health.failure_threshold",
        "4",
    ),
    (
        "health-success-threshold",
        "5",
        "5",
        "reliability.health.success_threshold",
        "5",
    ),
    (
        "health-check-timeout-secs",
        "7",
        "7s",
        "reliability.health.timeout",
        "\"7s\"",
    ),
    (
        "health-check-interval-secs",
        "10s",
        "10",
        "reliability.health.interval",
        "\"10s\"",
    ),
    (
        "health-check-endpoint",
        "/up",
        "/up",
        "reliability.health.endpoint",
        "\"/up\"",
    ),
    (
        "drain-settle-secs",
        "3",
        "3",
        "reliability.health.drain_settle",
        "\"3s\"",
    ),
    (
        "remove-unhealthy-workers",
        "",
        "yes",
        "reliability.health.remove_unhealthy",
        "true",
    ),
    (
        "max-concurrent-requests",
        "64",
        "64",
        "reliability.admission.max_concurrent_requests",
        "64",
    ),
    (
        "rate-limit-tokens-per-second",
        "12.5",
        "12.5",
        "reliability.admission.tokens_per_second",
        "12.5",
    ),
    (
        "queue-size",
        "7",
        "7",
        "reliability.admission.queue_size",
        "7",
    ),
    (
        "queue-timeout-secs",
        "9",
        "9s",
        "reliability.admission.queue_timeout",
        "\"9s\"",
    ),
    (
        "cb-failure-threshold",
        "4",
        "4",
        "reliability.circuit_breaker.failure_threshold",
        "4",
    ),
    (
        "cb-success-threshold",
        "2",
        "2",
        "reliability.circuit_breaker.success_threshold",
        "2",
    ),
    (
        "cb-timeout-duration-secs",
        "20",
        "20s",
        "reliability.circuit_breaker.timeout",
        "\"20s\"",
    ),
    (
        "cb-window-duration-secs",
        "90",
        "90s",
        "reliability.circuit_breaker.window",
        "\"90s\"",
    ),
    (
        "disable-circuit-breaker",
        "",
        "on",
        "reliability.circuit_breaker.enabled",
        "false",
    ),
    (
        "disable-health-check",
        "",
        "ON",
        "reliability.health.enabled",
        "false",
    ),
    (
        "prometheus-host",
        "localhost",
        "::1",
        "listeners[metrics].address",
        "\"localhost:29000\"",
    ),
    (
        "prometheus-port",
        "0",
        "0",
        "listeners[metrics].address",
        "\"0.0.0.0:0\"",
    ),
    (
        "prometheus-duration-buckets",
        "0.5",
        "0.5",
        "metrics.duration_buckets",
        "[0.5]",
    ),
    (
        "prefill",
        "http://p:1",
        "http://p:1 none",
        "pools[default].prefill.workers[0]",
        "\"http://p:1\"",
    ),
    (
        "decode",
        "http://d:1",
        "http://d:1",
        "pools[default].decode.workers[0]",
        "\"http://d:1\"",
    ),
    (
        "pd-disaggregation",
        "",
        "yes",
        "pools[default].decode.workers",
        "[]",
    ),
    ("enable-igw", "", "1", "routing.multi_model", "true"),
    ("dp-aware", "", "true", "pools[default].dp_aware", "true"),
    (
        "dp-minimum-tokens-scheduler",
        "",
        "on",
        "pools[default].dp_minimum_tokens",
        "true",
    ),
    (
        "load-monitor-interval",
        "5",
        "5s",
        "routing.load_monitor_interval",
        "\"5s\"",
    ),
    (
        "prefill-policy",
        "least-load",
        "leastload",
        "pools[default].prefill.policy",
        "\"least_load\"",
    ),
    (
        "decode-policy",
        "least-load",
        "leastload",
        "pools[default].decode.policy",
        "\"least_load\"",
    ),
    (
        "routing-key-override",
        "",
        "yes",
        "routing.sticky_sessions",
        "true",
    ),
    (
        "cache-threshold",
        "0.5",
        "0.5",
        "routing.policy.cache_aware.cache_threshold",
        "0.5",
    ),
    (
        "balance-abs-threshold",
        "7",
        "7",
        "routing.policy.cache_aware.balance_abs_threshold",
        "7",
    ),
    (
        "balance-rel-threshold",
        "2.5",
        "2.5",
        "routing.policy.cache_aware.balance_rel_threshold",
        "2.5",
    ),
    (
        "balance-token-usage-threshold",
        "0.5",
        "0.5",
        "routing.policy.cache_aware.balance_token_usage_threshold",
        "0.5",
    ),
    (
        "overload-token-usage-threshold",
        "0.5",
        "0.5",
        "routing.policy.cache_aware.overload_token_usage_threshold",
        "0.5",
    ),
    (
        "eviction-interval",
        "60",
        "1m",
        "routing.policy.cache_aware.eviction_interval",
        "\"1m\"",
    ),
    (
        "max-tree-size",
        "5000000000",
        "5000000000",
        "routing.policy.cache_aware.max_tree_size",
        "5000000000",
    ),
    (
        "block-size",
        "32",
        "32",
        "routing.policy.cache_aware.block_size",
        "32",
    ),
    (
        "prefix-token-count",
        "64",
        "64",
        "routing.policy.prefix_hash.prefix_token_count",
        "64",
    ),
    (
        "prefix-hash-load-factor",
        "2.5",
        "2.5",
        "routing.policy.prefix_hash.load_factor",
        "2.5",
    ),
    (
        "assignment-mode",
        "min-group",
        "mingroup",
        "routing.policy.manual.assignment_mode",
        "\"min_group\"",
    ),
    (
        "max-idle-secs",
        "3600",
        "1h",
        "routing.policy.manual.max_idle",
        "\"1h\"",
    ),
    (
        "bucket-adjust-interval-secs",
        "9",
        "9s",
        "routing.policy.bucket.adjust_interval",
        "\"9s\"",
    ),
    (
        "least-load-kv-pressure-weight",
        "0.5",
        "0.5",
        "routing.policy.least_load.kv_pressure_weight",
        "0.5",
    ),
    (
        "least-load-default-throughput",
        "100.5",
        "100.5",
        "routing.policy.least_load.default_throughput",
        "100.5",
    ),
    (
        "least-load-mean-prefill-tokens",
        "512",
        "512",
        "routing.policy.least_load.mean_prefill_tokens",
        "512",
    ),
    ("log-level", "debug", "DEBUG", "logging.level", "\"debug\""),
    ("log-json", "", "1", "logging.format", "\"json\""),
    ("log-dir", "/tmp", "/tmp", "logging.dir", "\"/tmp\""),
    ("api-key", "k", "k", "auth.api_key", r#""***""#),
    (
        "tenant-api-key",
        "team-a:k:1",
        "team-a:k:1",
        "auth.tenants.keys",
        r#"["***"]"#,
    ),
    (
        "trust-tenant-header",
        "",
        "true",
        "auth.tenant_header.trusted",
        "true",
    ),
    (
        "tenant-header-name",
        "x-team",
        "x-team",
        "auth.tenant_header.name",
        r#""x-team""#,
    ),
    (
        "control-plane-api-keys",
        "k1:Ann:ADMIN:a:b",
        "k1:Ann:ADMIN:a:b",
        "auth.control_plane.api_keys.id",
        r#""k1""#,
    ),
    (
        "jwt-issuer",
        "https://id.example",
        "https://id.example",
        "auth.jwt.issuer",
        r#""https://id.example""#,
    ),
    (
        "jwt-audience",
        "api://gateway",
        "api://gateway",
        "auth.jwt.audience",
        r#""api://gateway""#,
    ),
    (
        "jwt-jwks-uri",
        "https://id.example/keys",
        "https://id.example/keys",
        "auth.jwt.jwks_uri",
        r#""https://id.example/keys""#,
    ),
    (
        "jwt-role-claim",
        "realm_access.roles",
        "realm_access.roles",
        "auth.jwt.role_claim",
        r#""realm_access.roles""#,
    ),
    (
        "jwt-role-mapping",
        "ops=admin",
        "ops=admin",
        "auth.jwt.role_mapping.ops",
        r#""admin""#,
    ),
    ("disable-audit-logging", "", "1", "audit.enabled", "false"),
    (
        "tls-cert-path",
        "fixtures/config/ok/gateway.crt",
        "fixtures/config/ok/gateway.crt",
        "listeners[main].tls.cert_path",
        r#""fixtures/config/ok/gateway.crt""#,
    ),
    (
        "tls-key-path",
        "fixtures/config/ok/gateway.key",
        "fixtures/config/ok/gateway.key",
        "listeners[main].tls.key_path",
        r#""fixtures/config/ok/gateway.key""#,
    ),
    (
        "client-cert-path",
        "fixtures/config/ok/client.crt",
        "fixtures/config/ok/client.crt",
        "pools[default].tls.cert_path",
        r#""fixtures/config/ok/client.crt""#,
    ),
    (
        "client-key-path",
        "fixtures/config/ok/client.key",
        "fixtures/config/ok/client.key",
        "pools[default].tls.key_path",
        r#""fixtures/config/ok/client.key""#,
    ),
    (
        "ca-cert-paths",
        "fixtures/config/ok/ca.crt",
        "fixtures/config/ok/ca.crt",
        "pools[default].tls.ca_paths",
        r#"["fixtures/config/ok/ca.crt"]"#,
    ),
    ("enable-trace", "", "1", "tracing.enabled", "true"),
    (
        "otlp-traces-endpoint",
        "collector:4317",
        "collector:4317",
        "tracing.otlp_endpoint",
        r#""collector:4317""#,
    ),
    (
        "otlp-service-name",
        "sgl-router",
        "sgl-router",
        "tracing.service_name",
        r#""sgl-router""#,
    ),
];

/// What must stand beside a flag for it to have an effect, or for the whole to be valid.
const BESIDE: &[(&str, &[&str])] = &[
    ("prefill", &["--decode", "http://d:2"]),
    ("decode", &["--prefill", "http://p:2"]),
    ("jwt-issuer", &["--jwt-audience", "a"]),
    ("jwt-audience", &["--jwt-issuer", "https://id.example"]),
    ("jwt-jwks-uri", JWT),
    ("jwt-role-claim", JWT),
    ("jwt-role-mapping", JWT),
    (
        "tls-cert-path",
        &["--tls-key-path", "fixtures/config/ok/gateway.key"],
    ),
    (
        "tls-key-path",
        &["--tls-cert-path", "fixtures/config/ok/gateway.crt"],
    ),
    (
        "client-cert-path",
        &["--client-key-path", "fixtures/config/ok/client.key"],
    ),
    (
        "client-key-path",
        &["--client-cert-path", "fixtures/config/ok/client.crt"],
    ),
    ("prefill-policy", &["--pd-disaggregation"]),
    ("decode-policy", &["--pd-disaggregation"]),
    ("prefix-token-count", &["--policy", "prefix_hash"]),
    ("prefix-hash-load-factor", &["--policy", "prefix_hash"]),
    ("assignment-mode", &["--policy", "manual"]),
    ("max-idle-secs", &["--policy", "manual"]),
    ("bucket-adjust-interval-secs", &["--policy", "bucket"]),
    ("least-load-kv-pressure-weight", &["--policy", "least_load"]),
    ("least-load-default-throughput", &["--policy", "least_load"]),
    (
        "least-load-mean-prefill-tokens",
        &["--policy", "least_load"],
    ),
];

const JWT: &[&str] = &["--jwt-audience=a", "--jwt-issuer=https://id.example"];

fn beside(name: &str) -> &'static [&'static str] {
    let found = BESIDE.iter().find(|(flag, _)| *flag == name);
    found.map_or(&[], |(_, args)| args)
}

#[test]
fn every_flag_sets_its_key_by_each_of_its_names() {
    let known: Vec<&str> = FLAG_TO_KEY.iter().map(|row| row.0).collect();
    for flag in FLAGS.iter().filter(|flag| flag.name != "config") {
        assert!(
            known.contains(&flag.name),
            "`{}` is not in the table",
            flag.name
        );
    }
    for (name, typed, _, key, value) in FLAG_TO_KEY {
        let flag = find(name).unwrap();
        for spelling in std::iter::once(name).chain(flag.aliases) {
            let dashed = format!("--{spelling}");
            let args = if typed.is_empty() {
                vec![&*dashed]
            } else {
                vec![&*dashed, typed]
            };
            let args = [&args, beside(name)].concat();
            let dump = dump(&args, &[]);
            let origin = format!("flag --{name}");
            assert_eq!(
                dump.get(*key),
                Some(&((*value).to_owned(), origin)),
                "{args:?}"
            );
        }
    }
}

#[test]
fn every_variable_sets_its_key() {
    for (name, typed, held, key, value) in FLAG_TO_KEY {
        let variable = find(name).unwrap().variable();
        let dump = dump(beside(name), &[(&*variable, held)]);
        let (found, origin) = dump
            .get(*key)
            .unwrap_or_else(|| panic!("{variable}: no {key}"));
        assert_eq!(*origin, format!("environment {variable}"));
        // Where typed and held mean the same, so do their values.
        if *held != "::1" {
            assert_eq!(found, value, "{variable}={held} {typed}");
        }
    }
    let dump = dump(&[], &[("SMG_HOST", "::1")]);
    assert_eq!(dump["listeners[main].address"].0, "\"[::1]:30000\"");
}

#[test]
fn lists_add_up_on_the_command_line_and_stand_between_commas_in_a_variable() {
    let many = [
        "--worker-urls",
        "http://a:1",
        "http://b:1",
        "--worker-urls=http://c:1",
    ];
    for (args, variables) in [
        (&many[..], &[][..]),
        (
            &[],
            &[("SMG_WORKER_URLS", "http://a:1,http://b:1, http://c:1")],
        ),
    ] {
        let dump = dump(args, variables);
        let urls = dump
            .iter()
            .filter(|(key, _)| key.starts_with("pools[default].workers["));
        let urls: Vec<&str> = urls.map(|(_, (value, _))| value.as_str()).collect();
        assert_eq!(urls, ["\"http://a:1\"", "\"http://b:1\"", "\"http://c:1\""]);
    }
    let dump = dump(
        &["--model-alias", "a=m", "b=n", "--model-alias", "c=m"],
        &[],
    );
    assert_eq!(dump["models[m].aliases"].0, "[\"a\", \"c\"]");
    assert_eq!(dump["models[n].aliases"].0, "[\"b\"]");
}

#[test]
fn keys_on_the_command_line_are_for_whom_they_name_and_shown_nowhere() {
    let args = [
        "--tenant-api-key",
        "a:canary-1",
        "--tenant-api-key=b:canary-2",
        "--tenant-api-key=a:canary-3",
        "--control-plane-api-keys",
        "k1:Ann:admin:canary:4",
        "k2:Bob:user:canary-5",
    ];
    let output = smg(&[&["config", "dump"][..], &args].concat(), &[]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let shown = stdout(&output) + &stderr(&output);
    assert!(!shown.contains("canary"), "{shown}");
    for part in [
        "[\"***\", \"***\"]",
        "name = \"b\"",
        "id = \"k2\"",
        "role = \"user\"",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for (flag, value) in [
        ("--tenant-api-key", "canary"),
        ("--control-plane-api-keys", "k1:Ann:root:canary"),
        ("--control-plane-api-keys", "canary"),
    ] {
        let output = smg(&["config", "dump", flag, value], &[]);
        assert_eq!(status(&output), 2);
        assert!(!stderr(&output).contains("canary"), "{}", stderr(&output));
        let variable = format!("SMG_{}", flag.trim_start_matches('-').replace('-', "_"));
        let output = smg(&["config", "dump"], &[(&variable.to_uppercase(), value)]);
        assert_eq!(status(&output), 2);
        assert!(!stderr(&output).contains("canary"), "{}", stderr(&output));
    }
    // Half of what makes tokens good is refused, as it is in a file.
    let output = smg(&["config", "dump", "--jwt-audience", "a"], &[]);
    assert_eq!(status(&output), 78);
}

#[test]
fn a_prefill_worker_may_be_followed_by_its_port() {
    let read = |args: &[&str], variables: &[(&str, &str)]| {
        let decode = ["--decode", "http://d:1"];
        dump(&[args, &decode].concat(), variables)
    };
    let typed: &[&[&str]] = &[
        &["--prefill", "http://p:1", "9001", "--prefill", "http://q:1"],
        &[
            "--prefill=http://p:1",
            "9001",
            "--prefill=http://q:1",
            "none",
        ],
        &[
            "--prefill",
            "http://p:1",
            "9001",
            "--prefill",
            "http://q:1",
            "NONE",
        ],
    ];
    let variable = [("SMG_PREFILL", "http://p:1 9001,http://q:1")];
    let all = typed.iter().map(|args| read(args, &[]));
    for dump in all.chain([read(&[], &variable)]) {
        let worker = |at: usize| &dump[&format!("pools[default].prefill.workers[{at}]")].0;
        assert!(worker(0).contains("bootstrap_port = 9001"), "{}", worker(0));
        assert_eq!(worker(1), "\"http://q:1\"");
    }
    // A command is no port.
    let args = [
        "--decode",
        "http://d:1",
        "--prefill",
        "http://p:1",
        "config",
        "dump",
    ];
    let output = smg(&args, &[]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
}

#[test]
fn a_flag_comes_before_a_variable_before_the_file_before_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    let text = "version = 1\nserver.request_timeout = '1m'\n[[pools]]\nname = 'default'\n\
                workers = ['http://file:1', 'http://file:2']\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let key = "server.request_timeout";
    let variable = ("SMG_REQUEST_TIMEOUT_SECS", "2m");
    assert_eq!(dump(&[], &[])[key].1, "default");
    let found = dump(&["-c", file], &[]);
    assert_eq!(found[key], ("\"1m\"".into(), format!("{file}:2:26")));
    assert!(found.contains_key("pools[default].workers[1]"));
    let found = dump(&[], &[variable, ("SMG_CONFIG", file)]);
    let origin = "environment SMG_REQUEST_TIMEOUT_SECS";
    assert_eq!(found[key], ("\"2m\"".into(), origin.into()));
    // The last of two counts, and a list replaces that of the file.
    let timeout = "--request-timeout-secs";
    let args = [
        timeout,
        "7",
        timeout,
        "3m",
        "--worker-urls",
        "http://flag:1",
    ];
    let found = dump(&args, &[variable, ("SMG_CONFIG", file)]);
    assert_eq!(
        found[key],
        ("\"3m\"".into(), "flag --request-timeout-secs".into())
    );
    assert_eq!(found["pools[default].workers[0]"].0, "\"http://flag:1\"");
    assert!(!found.contains_key("pools[default].workers[1]"));
    // `--config` comes before `SMG_CONFIG`, also in front of the command.
    let output = smg(
        &["--config", file, "config", "dump"],
        &[("SMG_CONFIG", "/nowhere/smg.toml")],
    );
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("http://file:2"));
}

#[test]
fn the_level_of_the_log_has_one_more_variable() {
    let key = "logging.level";
    let level = |args: &[&str], variables: &[(&str, &str)]| dump(args, variables)[key].clone();
    let of = |value: &str, origin: &str| (format!("\"{value}\""), origin.to_owned());
    let rust_log = ("RUST_LOG", "warn");
    assert_eq!(level(&[], &[rust_log]), of("warn", "environment RUST_LOG"));
    let variables = [rust_log, ("SMG_LOG_LEVEL", "error")];
    assert_eq!(
        level(&[], &variables),
        of("error", "environment SMG_LOG_LEVEL")
    );
    assert_eq!(
        level(&["--log-level", "debug"], &variables),
        of("debug", "flag --log-level")
    );
    // An expression is no level.
    let variables = [("RUST_LOG", "smg=debug,hyper=warn")];
    assert_eq!(level(&[], &variables), of("info", "default"));
}

#[test]
fn a_switch_can_turn_back_what_the_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("smg.toml");
    let text = "version = 1\n[logging]\nformat = 'json'\n[reliability.retry]\nenabled = false\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let found = dump(
        &["-c", file, "--log-json=false", "--disable-retries=no"],
        &[],
    );
    assert_eq!(found["logging.format"].0, "\"text\"");
    assert_eq!(found["reliability.retry.enabled"].0, "true");
}

#[test]
fn variables_that_are_no_settings() {
    let empty = dump(&[], &[("SMG_PORT", ""), ("SMG_UNHEARD_OF", "x")]);
    assert_eq!(empty["listeners[main].address"].1, "default");
    for (variable, value, slug) in [
        ("SMG_PORT", "tcp://10.0.0.1:30000", "variable-service-link"),
        (
            "SMG_PROMETHEUS_PORT",
            "tcp://10.0.0.1:29000",
            "variable-service-link",
        ),
        ("SMG_ENABLE_WASM", "x", "variable-unavailable"),
        ("POSTGRES_DB_URL", "x", "variable-unavailable"),
    ] {
        let output = smg(&["config", "dump"], &[(variable, value)]);
        assert_eq!(status(&output), 0);
        let said = stderr(&output);
        assert!(
            said.contains(&format!("warning[{slug}]: variable `{variable}`")),
            "{said}"
        );
    }
    let output = smg(&["config", "dump"], &[("SMG_PORT", "many")]);
    assert_eq!(status(&output), 2);
    assert_eq!(
        stderr(&output),
        "error: invalid value `many` for variable `SMG_PORT`: expected a port from 0 to 65535\n"
    );
}
