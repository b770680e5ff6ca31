//! What traffic leaves behind: metric series with the labels that dashboards ask for, and lines in
//! the access log.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::scene::{
    Door, LISTENERS, PATIENCE, ask, ask_stream, config, delta, gateway, plain_engine, ready,
    settle, settled, with,
};
use crate::support::client::{json_request, request};
use crate::support::metrics::Samples;
use crate::support::{
    Connection, FakeEngine, Gate, Smg, Step, Worker, eventually, get, post, stream,
};

/// The line of the access log for this request, waiting for it.
async fn access_line(smg: &mut Smg, id: &str) -> String {
    let id = id.to_owned();
    smg.process()
        .line(PATIENCE, |line| {
            let is_it = line.contains("finished processing request") && line.contains(&id);
            is_it.then(|| line.to_owned())
        })
        .await
}

/// A whole answer and a stream that tell how many tokens they took.
async fn counting_engine() -> FakeEngine {
    let usage = json!({ "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18 });
    FakeEngine::serving("m", move |asked| {
        if asked.json()["stream"] == true {
            let last = json!({ "choices": [], "usage": usage });
            vec![
                Step::sse_head(),
                Step::event(&delta("one")),
                Step::event(&delta("two")),
                Step::event(&last.to_string()),
                Step::event("[DONE]"),
                Step::Close,
            ]
        } else {
            vec![Step::json(200, &json!({ "choices": [], "usage": usage }))]
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whole_answer_and_one_stream() {
    let engine = counting_engine().await;
    let smg = gateway(&[&engine], "").await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!(answer.status, 200);
    let mut events = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    events.events().await;
    settled(&smg).await;

    let metrics = smg.metrics().await;
    for path in ["/v1/completions", "/v1/chat/completions"] {
        let labels = [("method", "POST"), ("path", path)];
        assert_eq!(
            metrics.sum("smg_http_requests_total", &labels),
            1.0,
            "{path}"
        );
        assert_eq!(
            metrics.sum("smg_http_request_duration_seconds_count", &labels),
            1.0
        );
        let labels = [
            ("path", path),
            ("status_code", "200"),
            ("status", "200"),
            ("error_code", ""),
        ];
        assert_eq!(
            metrics.sum("smg_http_responses_total", &labels),
            1.0,
            "{path}"
        );
    }
    let url = engine.url();
    let workers = get(smg.main(), "/workers").await.json();
    let id = workers["workers"][0]["id"].as_str().unwrap();
    let worker = [("worker", url.as_str()), ("worker_id", id)];
    for (endpoint, streaming) in [("completions", "false"), ("chat", "true")] {
        let labels = [
            ("router_type", "http"),
            ("backend_type", "regular"),
            ("connection_mode", "http"),
            ("model", "m"),
            ("endpoint", endpoint),
        ];
        let mut counted = labels.to_vec();
        counted.push(("streaming", streaming));
        assert_eq!(
            metrics.sum("smg_router_requests_total", &counted),
            1.0,
            "{endpoint}"
        );
        let duration = "smg_router_request_duration_seconds_count";
        assert_eq!(metrics.sum(duration, &labels), 1.0, "{endpoint}");
        let labels = [
            ("router_type", "http"),
            ("backend_type", "regular"),
            ("model", "m"),
            ("endpoint", endpoint),
        ];
        for (token_type, tokens) in [("input", 11.0), ("output", 7.0)] {
            let mut labels = labels.to_vec();
            labels.extend([("token_type", token_type), ("direction", token_type)]);
            assert_eq!(
                metrics.sum("smg_router_tokens_total", &labels),
                tokens,
                "{labels:?}"
            );
        }
        let streams = if streaming == "true" { 1.0 } else { 0.0 };
        for family in [
            "smg_router_ttft_seconds_count",
            "smg_router_tpot_seconds_count",
            "smg_router_generation_duration_seconds_count",
        ] {
            assert_eq!(metrics.sum(family, &labels), streams, "{family} {endpoint}");
        }
        let labels = [("endpoint", endpoint), ("streaming", streaming)];
        assert_eq!(
            metrics.sum("smg_gateway_overhead_seconds_count", &labels),
            1.0
        );
    }
    let labels = [
        ("router_type", "http"),
        ("status_code", "200"),
        ("status", "200"),
        ("error_code", ""),
    ];
    assert_eq!(
        metrics.sum("smg_router_upstream_responses_total", &labels),
        2.0
    );
    let labels = [
        ("worker_type", "regular"),
        ("connection_mode", "http"),
        ("model", "m"),
        ("policy", "cache_aware"),
    ];
    assert_eq!(metrics.sum("smg_worker_selection_total", &labels), 2.0);
    let mut labels = worker.to_vec();
    labels.push(("model", "m"));
    assert_eq!(metrics.sum("smg_worker_requests_total", &labels), 2.0);
    assert_eq!(metrics.count("smg_worker_requests_active", &worker), 1);
    assert_eq!(metrics.count("smg_worker_health_checks_total", &worker), 2);
    assert_eq!(metrics.sum("smg_worker_health", &worker), 1.0);
    let mut labels = worker.to_vec();
    labels.extend([("worker_type", "regular"), ("connection_mode", "http")]);
    assert_eq!(metrics.count("smg_worker_connections_active", &labels), 1);
    let labels = [
        ("worker_type", "regular"),
        ("connection_mode", "http"),
        ("model", "m"),
    ];
    for family in ["smg_worker_pool_size", "smg_worker_pool_registered"] {
        assert_eq!(metrics.sum(family, &labels), 1.0, "{family}");
    }
    assert_eq!(
        metrics.count("smg_http_connections_active", &[("listener", "main")]),
        1
    );
    for family in [
        "smg_build_info",
        "smg_process_start_time_seconds",
        "smg_config_generation",
        "smg_config_info",
        "smg_config_last_reload_successful",
        "smg_config_last_reload_success_timestamp_seconds",
        "smg_config_snapshots_alive",
        "smg_snapshot_id",
        "smg_tokio_alive_tasks",
    ] {
        assert_eq!(metrics.count(family, &[]), 1, "{family}");
    }
    for (source, workers) in [("static", 1.0), ("manual", 0.0)] {
        let named = metrics.sum("smg_discovery_workers_discovered", &[("source", source)]);
        assert_eq!(named, workers, "{source}");
    }
    assert_eq!(metrics.sum("smg_router_request_errors_total", &[]), 0.0);
    assert_eq!(metrics.sum("smg_worker_errors_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exposition_is_well_formed() {
    let engine = counting_engine().await;
    let smg = gateway(&[&engine], "").await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    let answer = get(smg.address("metrics"), "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let text = answer.text();
    let mut typed = std::collections::HashSet::new();
    let mut series = std::collections::HashSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(typed.insert(name.to_owned()), "twice: {line}");
        } else if !line.starts_with("# HELP ") {
            let (named, _) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(named), "twice: {line}");
            let name = named.split('{').next().unwrap();
            assert!(name.starts_with("smg_"), "{line}");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                name.strip_suffix(suffix)
                    .filter(|name| typed.contains(*name))
            });
            assert!(family.is_some() || typed.contains(name), "no TYPE: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_follow_what_is_in_flight() {
    let gate = Gate::closed();
    let engine = {
        let gate = gate.clone();
        FakeEngine::serving("m", move |_| {
            vec![Step::Hold(gate.clone()), crate::scene::ok()]
        })
        .await
    };
    let smg = gateway(&[&engine], "").await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let to = smg.main();
        asking.spawn(async move { post(to, "/v1/completions", &ask()).await.status });
    }
    eventually(PATIENCE, async || engine.calls().len() == 5).await;
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_requests_active", &[]), 5.0);
    assert_eq!(
        metrics.sum("smg_http_requests_in_flight", &[]),
        6.0,
        "five and the scrape"
    );
    assert_eq!(
        metrics.sum("smg_http_connections_active", &[("listener", "main")]),
        5.0
    );
    assert!(metrics.sum("smg_worker_connections_active", &[]) >= 5.0);
    let workers = get(smg.main(), "/workers").await.json();
    assert_eq!(workers["workers"][0]["load"], 5);
    gate.open();
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    settled(&smg).await;
    eventually(PATIENCE, async || {
        smg.metrics()
            .await
            .sum("smg_http_connections_active", &[("listener", "main")])
            == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_by_kind() {
    let engine = FakeEngine::serving("m", |asked| {
        match asked.json()["prompt"].as_str().unwrap() {
            "400" => vec![Step::json(400, &json!({}))],
            "500" => vec![Step::json(500, &json!({}))],
            "slow" => vec![Step::Hold(Gate::closed())],
            _ => vec![Step::Reset],
        }
    })
    .await;
    let door = Door::closed();
    let more = format!(
        "pool = \"p\"\n[models.reliability.timeouts]\ntotal = \"300ms\"\n\
         [[models]]\nname = \"nobody\"\npool = \"none\"\n[[pools]]\nname = \"none\"\n\
         [[models]]\nname = \"refused\"\npool = \"door\"\n\
         [[pools]]\nname = \"door\"\nruntime = \"vllm\"\nhealth.enabled = false\nworkers = [\"{}\"]\n\
         [reliability.retry]\nenabled = false\n",
        door.url()
    );
    let smg = gateway(&[&engine], &more).await;
    for (model, prompt, status, error_type, code) in [
        ("m", "400", 400, "validation_error", ""),
        ("m", "500", 500, "backend_error", ""),
        ("m", "slow", 504, "timeout", "call_upstream_timeout"),
        (
            "m",
            "reset",
            502,
            "backend_error",
            "call_upstream_connection_failed",
        ),
        (
            "refused",
            "x",
            502,
            "backend_error",
            "call_upstream_connection_failed",
        ),
        ("nobody", "x", 503, "no_workers", "no_available_workers"),
    ] {
        let labels = [
            ("model", model),
            ("endpoint", "completions"),
            ("error_type", error_type),
        ];
        let family = "smg_router_request_errors_total";
        let before = smg.metrics().await.sum(family, &labels);
        let ask = json!({ "model": model, "prompt": prompt });
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask).await.status,
            status,
            "{prompt}"
        );
        settled(&smg).await;
        let metrics = smg.metrics().await;
        assert_eq!(metrics.sum(family, &labels), before + 1.0, "{prompt}");
        let status = status.to_string();
        let labels = [
            ("path", "/v1/completions"),
            ("status", &*status),
            ("error_code", code),
        ];
        assert!(
            metrics.sum("smg_http_responses_total", &labels) >= 1.0,
            "{prompt}"
        );
    }
    let metrics = smg.metrics().await;
    for (error_type, at_least) in [
        ("connection_error", 2.0),
        ("timeout", 1.0),
        ("backend_error", 1.0),
    ] {
        let labels = [
            ("worker_type", "regular"),
            ("connection_mode", "http"),
            ("error_type", error_type),
        ];
        assert!(
            metrics.sum("smg_worker_errors_total", &labels) >= at_least,
            "{error_type}"
        );
    }
    // Refused before it had a model.
    let answer = post(
        smg.main(),
        "/v1/completions",
        &json!({ "model": "invented" }),
    )
    .await;
    assert_eq!(answer.status, 404);
    let labels = [
        ("model", "unknown"),
        ("endpoint", "completions"),
        ("error_type", "no_workers"),
    ];
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_router_request_errors_total", &labels), 1.0);
    let answer = post(smg.main(), "/v1/completions", &json!({ "model": 1 })).await;
    assert_eq!(answer.status, 400);
    let labels = [("model", "unknown"), ("error_type", "validation_error")];
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_router_request_errors_total", &labels), 1.0);
    let ask = json_request("/v1/completions", &json!({ "model": "m" }));
    let coded = with(ask, "content-encoding", "gzip");
    assert_eq!(
        Connection::h1(smg.main()).await.send(coded).await.status,
        415
    );
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_router_request_errors_total", &labels), 2.0);
}

/// The number of series of a scrape.
async fn size(smg: &Smg) -> usize {
    let text = get(smg.address("metrics"), "/metrics").await.text();
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_invent_makes_no_series() {
    let engine = crate::scene::silent_engine(|_| vec![crate::scene::ok()]).await;
    let toml = format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nworkers = [\"{}\"]\n\
         [[models]]\nname = \"glob-*\"\n",
        engine.url()
    );
    let smg = Smg::start(&toml).await;
    ready(&smg).await;
    let mut connection = Connection::h1(smg.main()).await;
    let mut warm = 0;
    for n in 0..120 {
        let requests = [
            json_request(
                "/v1/completions",
                &json!({ "model": format!("invented-{n}") }),
            ),
            json_request("/v1/completions", &json!({ "model": format!("glob-{n}") })),
            request(Method::GET, &format!("/invented/{n}"), Bytes::new()),
            request(
                Method::GET,
                &format!("/v1/models/invented-{n}"),
                Bytes::new(),
            ),
            request(Method::GET, &format!("/workers/{n}"), Bytes::new()),
            request(Method::GET, &format!("/health?n={n}"), Bytes::new()),
            request(
                Method::from_bytes(format!("M{n}").as_bytes()).unwrap(),
                "/v1/completions",
                Bytes::new(),
            ),
            with(
                json_request("/generate", &json!({ "model": "glob-x" })),
                "x-request-id",
                &format!("id-{n}"),
            ),
        ];
        for request in requests {
            connection.send(request).await;
        }
        if n == 0 {
            settled(&smg).await;
            warm = size(&smg).await;
        }
    }
    settled(&smg).await;
    let text = get(smg.address("metrics"), "/metrics").await.text();
    assert!(!text.contains("invented"), "a client's word is a label");
    assert!(!text.contains("glob-1"), "a client's word is a label");
    let now = size(&smg).await;
    assert_eq!(now, warm, "120 rounds instead of one");
    let metrics = Samples::parse(&text);
    assert_eq!(
        metrics.sum("smg_http_requests_total", &[("path", "other")]),
        120.0
    );
    let labels = [("path", "/v1/completions"), ("method", "other")];
    assert_eq!(metrics.sum("smg_http_requests_total", &labels), 120.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mandatory_series_are_there_from_the_start() {
    let smg = Smg::start(LISTENERS).await;
    let metrics = smg.metrics().await;
    for (family, label, values) in [
        (
            "smg_worker_errors_total",
            "error_type",
            &["connection_error", "timeout", "backend_error"][..],
        ),
        (
            "smg_worker_retries_exhausted_total",
            "reason",
            &["attempts", "deadline", "no_worker"],
        ),
    ] {
        for value in values {
            assert!(
                metrics.count(family, &[(label, value)]) >= 1,
                "{family} {value}"
            );
        }
    }
    assert!(
        metrics.count("smg_worker_pool_size", &[]) >= 1,
        "nothing to alert on"
    );
    assert_eq!(metrics.sum("smg_worker_pool_size", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_as_text() {
    let engine = counting_engine().await;
    let mut smg = gateway(&[&engine], "").await;
    let mut connection = Connection::h1(smg.main()).await;
    let asked = with(
        json_request("/v1/completions?secret=1", &ask()),
        "x-request-id",
        "text-1",
    );
    assert_eq!(connection.send(asked).await.status, 200);
    let line = access_line(&mut smg, "text-1").await;
    for part in [
        " INFO smg::response: finished processing request ",
        "request_id=text-1 ",
        "method=POST ",
        "path=/v1/completions ",
        "status=200 ",
        "latency_us=",
        "model=m ",
        "worker_id=",
        "attempts=1 ",
        "tokens_in=11 ",
        "tokens_out=7 ",
        "generation=1",
    ] {
        assert!(line.contains(part), "no `{part}` in {line}");
    }
    assert!(!line.contains("secret"), "{line}");
    assert!(!line.contains('\x1b'), "{line:?}");

    let asked = with(
        request(Method::GET, "/nowhere", Bytes::new()),
        "x-request-id",
        "text-2",
    );
    connection.send(asked).await;
    let line = access_line(&mut smg, "text-2").await;
    for part in [
        " WARN smg::response:",
        "path=/nowhere ",
        "status=404 ",
        "error_code=unknown_url",
    ] {
        assert!(line.contains(part), "no `{part}` in {line}");
    }

    // A path with control characters or quotes stays one line.
    let asked = with(
        request(Method::GET, "/a%0ab%22c%1b", Bytes::new()),
        "x-request-id",
        "text-3",
    );
    connection.send(asked).await;
    let line = access_line(&mut smg, "text-3").await;
    assert!(!line.contains('\x1b'), "{line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_as_json() {
    let engine = FakeEngine::serving("m", |asked| {
        if asked.json()["stream"] == true {
            vec![
                Step::sse_head(),
                Step::event(&delta("x")),
                settle(),
                Step::Reset,
            ]
        } else {
            vec![Step::json(500, &json!({}))]
        }
    })
    .await;
    let more = "[logging]\nformat = \"json\"\n[reliability.retry]\nmax_retries = 2\ninitial_backoff = \"1ms\"\n";
    let mut smg = gateway(&[&engine], more).await;
    let mut connection = Connection::h1(smg.main()).await;
    let asked = with(
        json_request("/v1/completions", &ask()),
        "x-request-id",
        "json-1",
    );
    assert_eq!(connection.send(asked).await.status, 500);
    let line: Value = serde_json::from_str(&access_line(&mut smg, "json-1").await).unwrap();
    for (key, value) in [
        ("level", json!("ERROR")),
        ("target", json!("smg::response")),
        ("message", json!("finished processing request")),
        ("request_id", json!("json-1")),
        ("method", json!("POST")),
        ("path", json!("/v1/completions")),
        ("status", json!(500)),
        ("model", json!("m")),
        ("attempts", json!(2)),
        ("generation", json!(1)),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert!(line["latency_us"].as_u64().unwrap() > 0);
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    // A stage counts each time that a call goes through it.
    let metrics = smg.metrics().await;
    for stage in ["pick", "upstream"] {
        let family = "smg_router_stage_duration_seconds_count";
        assert_eq!(metrics.sum(family, &[("stage", stage)]), 2.0, "{stage}");
    }

    // A stream that failed after its head says so although its status is 200.
    let asked = with(
        json_request("/v1/chat/completions", &ask_stream()),
        "x-request-id",
        "json-2",
    );
    assert_eq!(connection.send(asked).await.status, 200);
    let line: Value = serde_json::from_str(&access_line(&mut smg, "json-2").await).unwrap();
    assert_eq!(line["status"], 200);
    assert_eq!(line["error_code"], "read_response_body_failed");
    for line in smg.process().output() {
        let _: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_went_away_is_in_the_log() {
    let engine = FakeEngine::serving("m", |_| vec![Step::Hold(Gate::closed())]).await;
    let mut smg = gateway(&[&engine], "").await;
    let to = smg.main();
    let asking = tokio::spawn(async move {
        let asked = with(
            json_request("/v1/completions", &ask()),
            "x-request-id",
            "gone-1",
        );
        Connection::h1(to).await.try_send(asked).await
    });
    eventually(PATIENCE, async || engine.calls().len() == 1).await;
    asking.abort();
    let line = access_line(&mut smg, "gone-1").await;
    assert!(line.contains("error_code=client_closed_request"), "{line}");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_logged() {
    let engine = plain_engine().await;
    let worker = format!(
        "{{ url = \"{}\", api_key = \"worker-secret\" }}",
        engine.url()
    );
    let toml = config(&[], "[logging]\nlevel = \"trace\"\n")
        .replace("workers = []", &format!("workers = [{worker}]"));
    let mut smg = Smg::start(&toml).await;
    let mut connection = Connection::h1(smg.main()).await;
    let body = json!({ "model": "m", "prompt": "prompt-secret" });
    let mut asked = json_request("/v1/completions?query=query-secret", &body);
    for (name, value) in [
        ("authorization", "Bearer client-secret"),
        ("cookie", "cookie-secret"),
        ("x-request-id", "quiet-1"),
    ] {
        asked = with(asked, name, value);
    }
    assert_eq!(connection.send(asked).await.status, 200);
    access_line(&mut smg, "quiet-1").await;
    let lines = smg.process().output();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("started processing request"))
    );
    for line in lines {
        for secret in ["prompt", "query", "client", "cookie", "worker"] {
            assert!(!line.contains(&format!("{secret}-secret")), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_sample_worker_are_counted() {
    let worker = Worker::start(&["--model", "m", "--ttft", "20ms", "--itl", "2ms"]).await;
    let smg = Smg::start(&config(&[worker.url().to_owned()], "")).await;
    ready(&smg).await;
    let mut ask = ask_stream();
    ask["max_tokens"] = json!(20);
    ask["stream_options"] = json!({ "include_usage": true });
    let all = stream(smg.main(), "/v1/chat/completions", &ask)
        .await
        .events()
        .await;
    assert!(all.len() > 20, "{all:?}");
    settled(&smg).await;
    let metrics = smg.metrics().await;
    let labels = [
        ("model", "m"),
        ("endpoint", "chat"),
        ("direction", "output"),
    ];
    assert_eq!(metrics.sum("smg_router_tokens_total", &labels), 20.0);
    let labels = [("model", "m"), ("endpoint", "chat")];
    let ttft = metrics.sum("smg_router_ttft_seconds_sum", &labels);
    assert!(ttft >= 0.02, "{ttft}");
    let generation = metrics.sum("smg_router_generation_duration_seconds_sum", &labels);
    // A worker that is late catches up, so the events may come closer than it was told.
    assert!(generation > 0.0, "{generation}");
    let whole =
        Duration::from_secs_f64(metrics.sum("smg_router_request_duration_seconds_sum", &labels));
    assert!(whole.as_secs_f64() >= ttft + generation - 0.01, "{whole:?}");
}
