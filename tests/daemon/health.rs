//! Workers that come, go and come back, and what the gateway finds out about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::scene::{
    Door, LISTENERS, PATIENCE, ask, assert_error, gateway, ok, plain_engine, ready, settled,
    silent_engine,
};
use crate::support::{FakeEngine, Gate, Smg, Step, eventually, get, post};

/// A pool `p` of these workers, about which nothing else is known, probed ten times a second.
fn probed(workers: &[String], more: &str) -> String {
    format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nworkers = {workers:?}\n{more}\n\
         [reliability.health]\ninterval = \"100ms\"\ntimeout = \"500ms\"\nfailure_threshold = 2\n\
         startup_check_interval = \"100ms\"\n"
    )
}

/// An engine that serves `m` and says of itself whether it is well.
async fn moody_engine() -> (FakeEngine, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&well);
    let models = json!({ "data": [{ "id": "m" }] });
    let engine =
        FakeEngine::start(
            move |asked| match (asked.method.as_str(), asked.path.as_str()) {
                ("GET", "/health") if told.load(Ordering::SeqCst) => {
                    vec![Step::answer(200, "text/plain", "")]
                }
                ("GET", "/health") => vec![Step::answer(503, "text/plain", "")],
                ("GET", "/v1/models") => vec![Step::json(200, &models)],
                ("GET", _) => vec![Step::json(404, &json!({}))],
                _ => vec![ok()],
            },
        )
        .await;
    (engine, well)
}

/// What `GET /workers` says of the worker at this URL.
async fn worker(smg: &Smg, url: &str) -> Value {
    let workers = get(smg.main(), "/workers").await.json();
    let workers = workers["workers"].as_array().unwrap();
    let found = workers.iter().find(|worker| worker["url"] == url);
    found
        .unwrap_or_else(|| panic!("no {url} in {workers:?}"))
        .clone()
}

async fn unready(smg: &Smg) {
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.status == 503
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_fails_its_probes_leaves_and_comes_back() {
    let (engine, well) = moody_engine().await;
    let smg = Smg::start(&probed(&[engine.url()], "")).await;
    ready(&smg).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );

    well.store(false, Ordering::SeqCst);
    unready(&smg).await;
    let calls = engine.calls().len();
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&answer, 503, "no_available_workers");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(engine.calls().len(), calls);
    let url = engine.url();
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_health", &[("worker", &url)]), 0.0);
    let failed = [("worker", url.as_str()), ("result", "failure")];
    assert!(metrics.sum("smg_worker_health_checks_total", &failed) >= 2.0);
    assert_eq!(metrics.sum("smg_worker_pool_size", &[("model", "m")]), 0.0);
    assert_eq!(
        metrics.sum("smg_worker_pool_registered", &[("model", "m")]),
        1.0
    );
    // Its models are known all the same.
    assert_eq!(
        get(smg.main(), "/v1/models").await.json()["data"][0]["id"],
        "m"
    );

    well.store(true, Ordering::SeqCst);
    ready(&smg).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_health", &[("worker", &url)]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_go_on_while_one_is_away() {
    let ((sick, well), fit) = (moody_engine().await, plain_engine().await);
    let smg = Smg::start(&probed(&[sick.url(), fit.url()], "")).await;
    let healthy = async || get(smg.main(), "/readiness").await.json()["healthy_workers"].clone();
    eventually(PATIENCE, async || healthy().await == 2).await;
    well.store(false, Ordering::SeqCst);
    eventually(PATIENCE, async || healthy().await == 1).await;
    assert_eq!(worker(&smg, &sick.url()).await["is_healthy"], false);
    for _ in 0..10 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
    }
    assert_eq!((sick.calls().len(), fit.calls().len()), (0, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_failures_than_the_threshold_change_nothing() {
    let probes = Arc::new(AtomicUsize::new(0));
    let engine = {
        let probes = Arc::clone(&probes);
        FakeEngine::start(move |asked| match asked.path.as_str() {
            "/health" => {
                // The first is that of the registration; then each third one succeeds.
                let good = probes.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
                vec![Step::answer(if good { 200 } else { 500 }, "text/plain", "")]
            }
            "/v1/models" => vec![Step::json(200, &json!({ "data": [{ "id": "m" }] }))],
            _ => vec![Step::json(404, &json!({}))],
        })
        .await
    };
    let toml =
        probed(&[engine.url()], "").replace("failure_threshold = 2", "failure_threshold = 3");
    let smg = Smg::start(&toml).await;
    ready(&smg).await;
    let url = engine.url();
    eventually(PATIENCE, async || {
        assert_eq!(worker(&smg, &url).await["status"], "ready");
        probes.load(Ordering::SeqCst) > 15
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_not_answered_has_failed() {
    let gate = Gate::closed();
    let silent = Arc::new(AtomicBool::new(false));
    let engine = {
        let (gate, silent) = (gate.clone(), Arc::clone(&silent));
        FakeEngine::start(move |asked| match asked.path.as_str() {
            "/v1/models" => vec![Step::json(200, &json!({ "data": [{ "id": "m" }] }))],
            "/health" if silent.load(Ordering::SeqCst) => vec![Step::Hold(gate.clone())],
            "/health" => vec![Step::answer(204, "text/plain", "")],
            _ => vec![Step::json(404, &json!({}))],
        })
        .await
    };
    let toml = probed(&[engine.url()], "").replace("timeout = \"500ms\"", "timeout = \"100ms\"");
    let smg = Smg::start(&toml).await;
    ready(&smg).await;
    silent.store(true, Ordering::SeqCst);
    unready(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_has_failed_for_long_comes_back_too() {
    let (engine, well) = moody_engine().await;
    let toml = probed(&[engine.url()], "")
        .replace("failure_threshold = 2", "failure_threshold = 1")
        .replace("interval = \"100ms\"", "interval = \"30ms\"");
    let smg = Smg::start(&toml).await;
    ready(&smg).await;
    well.store(false, Ordering::SeqCst);
    let url = engine.url();
    for status in ["not_ready", "failed"] {
        let mut seen = String::new();
        eventually(PATIENCE, async || {
            seen = worker(&smg, &url).await["status"]
                .as_str()
                .unwrap()
                .to_owned();
            // Passed through quickly, it may have been missed.
            seen == status || seen == "failed"
        })
        .await;
    }
    well.store(true, Ordering::SeqCst);
    eventually(PATIENCE, async || {
        worker(&smg, &url).await["status"] == "ready"
    })
    .await;
    ready(&smg).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_down_at_the_start_joins_later() {
    let engine = plain_engine().await;
    let door = Door::closed();
    let more = "[[models]]\nname = \"declared\"\n";
    let smg = Smg::start(&probed(&[door.url()], more)).await;
    // A declared model waits for its workers; another one is not known yet.
    let declared = json!({ "model": "declared", "prompt": "hi" });
    let answer = post(smg.main(), "/v1/completions", &declared).await;
    assert_error(&answer, 503, "no_available_workers");
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&answer, 404, "model_not_found");
    let url = door.url();
    assert_eq!(worker(&smg, &url).await["status"], "pending");
    assert_eq!(get(smg.main(), "/readiness").await.status, 503);

    let _open = door.open(engine.address());
    ready(&smg).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    assert_eq!(worker(&smg, &url).await["status"], "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_worker_of_a_declared_model_is_used_at_once() {
    // It tells nothing about itself, not even that it lives.
    let engine = FakeEngine::start(|asked| {
        if asked.method == "GET" {
            vec![Step::Hold(Gate::closed())]
        } else {
            vec![ok()]
        }
    })
    .await;
    let toml = format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nruntime = \"sglang\"\nworkers = [\"{}\"]\n\
         [[models]]\nname = \"m\"\n",
        engine.url()
    );
    let smg = Smg::start(&toml).await;
    assert_eq!(get(smg.main(), "/readiness").await.status, 200);
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_probes_a_worker_is_ready_for_good() {
    let engine = plain_engine().await;
    let smg = Smg::start(&probed(&[engine.url()], "health.enabled = false")).await;
    ready(&smg).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    let url = engine.url();
    drop(engine);
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&answer, 502, "call_upstream_connection_failed");
    assert_eq!(worker(&smg, &url).await["status"], "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_has_its_own_probe() {
    let engine = FakeEngine::start(|asked| match asked.path.as_str() {
        "/ping" => vec![Step::answer(200, "text/plain", "")],
        "/v1/models" => vec![Step::json(200, &json!({ "data": [{ "id": "m" }] }))],
        _ => vec![Step::json(500, &json!({}))],
    })
    .await;
    let smg = Smg::start(&probed(&[engine.url()], "health.endpoint = \"/ping\"")).await;
    ready(&smg).await;
    let url = engine.url();
    let good = [("worker", url.as_str()), ("result", "success")];
    eventually(PATIENCE, async || {
        smg.metrics()
            .await
            .sum("smg_worker_health_checks_total", &good)
            >= 3.0
    })
    .await;
    assert!(engine.asked().iter().all(|asked| asked.path != "/health"));
    assert_eq!(worker(&smg, &url).await["status"], "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_and_its_models_are_found_out() {
    for (owned_by, version, runtime) in [
        ("sglang", false, "sglang"),
        ("nvidia", false, "sglang"),
        ("vllm", false, "vllm"),
        ("org", true, "vllm"),
        ("org", false, "sglang"),
    ] {
        let models = json!({ "object": "list", "data": [
            { "id": "b", "owned_by": owned_by, "root": "/models/b", "max_model_len": 4096 },
            { "id": "a", "owned_by": owned_by },
        ]});
        let engine = FakeEngine::start(move |asked| match asked.path.as_str() {
            "/health" => vec![Step::answer(200, "text/plain", "")],
            "/v1/models" => vec![Step::json(200, &models)],
            "/version" if version => vec![Step::json(200, &json!({ "version": "0.9.1" }))],
            "/get_server_info" => vec![Step::json(
                200,
                &json!({ "tp_size": 2, "api_key": "hidden", "version": "1" }),
            )],
            _ => vec![Step::json(404, &json!({}))],
        })
        .await;
        let smg = Smg::start(&probed(&[engine.url()], "")).await;
        ready(&smg).await;
        let url = engine.url();
        eventually(PATIENCE, async || {
            let shown = worker(&smg, &url).await;
            shown["runtime"] == runtime && shown["labels"]["tp_size"] == "2"
        })
        .await;
        let shown = worker(&smg, &url).await;
        assert_eq!(shown["models"], json!(["b", "a"]), "{shown}");
        assert!(!shown.to_string().contains("hidden"), "{shown}");
        let listed = get(smg.main(), "/v1/models").await.json();
        let ids: Vec<_> = listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["id"])
            .collect();
        assert_eq!(ids, ["a", "b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_back_may_serve_something_else() {
    let well = Arc::new(AtomicBool::new(true));
    let model = Arc::new(Mutex::new("old".to_owned()));
    let engine = {
        let (well, model) = (Arc::clone(&well), Arc::clone(&model));
        FakeEngine::start(move |asked| match asked.path.as_str() {
            "/health" => {
                let status = if well.load(Ordering::SeqCst) {
                    200
                } else {
                    500
                };
                vec![Step::answer(status, "text/plain", "")]
            }
            "/v1/models" => {
                vec![Step::json(
                    200,
                    &json!({ "data": [{ "id": *model.lock() }] }),
                )]
            }
            path if path.starts_with("/v1/") => vec![ok()],
            _ => vec![Step::json(404, &json!({}))],
        })
        .await
    };
    let smg = Smg::start(&probed(&[engine.url()], "")).await;
    ready(&smg).await;
    well.store(false, Ordering::SeqCst);
    unready(&smg).await;
    "new".clone_into(&mut model.lock());
    well.store(true, Ordering::SeqCst);
    eventually(PATIENCE, async || {
        get(smg.main(), "/v1/models").await.json()["data"][0]["id"] == "new"
    })
    .await;
    let ask = json!({ "model": "new", "prompt": "hi" });
    assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
    let ask = json!({ "model": "old", "prompt": "hi" });
    let answer = post(smg.main(), "/v1/completions", &ask).await;
    assert_error(&answer, 404, "model_not_found");
}

/// The connection of the request stands, but nothing reaches the worker's address any more: the
/// machine behind it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_a_worker_that_is_gone_moves_on() {
    let asked = Arc::new(AtomicUsize::new(0));
    let script = {
        let asked = Arc::clone(&asked);
        move |_: &_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => vec![Step::Hold(Gate::closed())],
            _ => vec![ok()],
        }
    };
    let engines = [
        FakeEngine::serving("m", script.clone()).await,
        FakeEngine::serving("m", script).await,
    ];
    let doors = [Door::closed(), Door::closed()];
    let urls = [doors[0].url(), doors[1].url()];
    let mut open = Vec::new();
    for (door, engine) in doors.into_iter().zip(&engines) {
        open.push(door.open(engine.address()));
    }
    // Each probe connects anew: one over a kept connection would still be answered.
    let more = "connections.max_idle_per_host = 0\n";
    let smg = Smg::start(&probed(&urls, more)).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.json()["healthy_workers"] == 2
    })
    .await;
    let to = smg.main();
    let asking = tokio::spawn(async move { post(to, "/v1/completions", &ask()).await });
    eventually(PATIENCE, async || asked.load(Ordering::SeqCst) == 1).await;
    let at = engines
        .iter()
        .position(|engine| !engine.calls().is_empty())
        .unwrap();
    drop(open.remove(at));
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    let answer = answer
        .expect("the request waits for a worker that is gone")
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    settled(&smg).await;
}

/// With a healthy worker the gateway serves within a second of its start.
#[tokio::test(flavor = "multi_thread")]
async fn registration_does_not_delay_the_start() {
    let slow = FakeEngine::start(|asked| match asked.path.as_str() {
        "/health" => vec![Step::answer(200, "text/plain", "")],
        "/v1/models" => vec![Step::json(200, &json!({ "data": [{ "id": "m" }] }))],
        // What else it could tell takes long.
        _ if asked.method == "GET" => vec![Step::Hold(Gate::closed())],
        _ => vec![ok()],
    })
    .await;
    let started = std::time::Instant::now();
    let smg = Smg::start(&probed(&[slow.url()], "")).await;
    ready(&smg).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    // The second in which the rest may be told, and a loaded machine.
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );

    let engine = silent_engine(|_| vec![ok()]).await;
    let started = std::time::Instant::now();
    let smg = gateway(&[&engine], "").await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}
