//! What the gateway tells about itself and its workers.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::scene::{
    Door, LISTENERS, PATIENCE, assert_error, config, gateway, ok, plain_engine, ready,
    silent_engine, with,
};
use crate::support::client::request;
use crate::support::engine::Asked;
use crate::support::{Connection, FakeEngine, Smg, Step, eventually, get, post};

/// An engine that answers these `GET`s with this JSON and every `POST` with 200.
async fn telling(answers: &[(&'static str, Value)]) -> FakeEngine {
    let answers = answers.to_vec();
    FakeEngine::start(move |asked: &Asked| {
        let path = asked.path.as_str();
        let known = answers.iter().find(|(known, _)| *known == path);
        match (asked.method.as_str(), known) {
            ("GET", Some((_, Value::String(text)))) => vec![Step::answer(200, "text/plain", text)],
            ("GET", Some((_, answer))) => vec![Step::json(200, answer)],
            ("GET", None) if path == "/health" => vec![Step::answer(200, "text/plain", "")],
            ("GET", None) => vec![Step::json(404, &json!({}))],
            _ => vec![ok()],
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn alive_whatever_the_workers_do() {
    let smg = Smg::start(LISTENERS).await;
    for path in ["/liveness", "/health"] {
        let answer = get(smg.main(), path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "OK"));
        assert!(answer.header("content-type").starts_with("text/plain"));
        let mut connection = Connection::h1(smg.main()).await;
        let head = connection
            .send(request(Method::HEAD, path, Bytes::new()))
            .await;
        assert_eq!((head.status, head.header("content-length")), (200, "2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_missing() {
    let smg = Smg::start(LISTENERS).await;
    let answer = get(smg.main(), "/readiness").await;
    assert_eq!(answer.status, 503);
    let body = answer.json();
    assert_eq!(body["status"], "not ready");
    assert_eq!(body["reason"], "insufficient healthy workers");
    // Without a pool in the file there is one for workers that flags name.
    assert_eq!(body["unready_pools"], json!(["default"]));

    let (engine, door) = (plain_engine().await, Door::closed());
    let more = format!(
        "pool = \"p\"\n[[pools]]\nname = \"down\"\nworkers = [\"{}\"]\n",
        door.url()
    );
    let smg = gateway(&[&engine], &more).await;
    let answer = get(smg.main(), "/readiness").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut body = answer.json();
    // The engine does not report its load, which is noticed after a moment.
    body.as_object_mut().unwrap().remove("degraded");
    assert_eq!(
        body,
        json!({
            "status": "ready", "healthy_workers": 1, "total_workers": 2, "unready_pools": ["down"],
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_listed_and_shown_one_by_one() {
    let engines = [telling(&[]).await, telling(&[]).await];
    let toml = format!(
        r#"{LISTENERS}
[[pools]]
name = "two"
runtime = "sglang"
workers = [{{ url = "{}", model = "x", api_key = "hidden-key", labels = {{ region = "eu" }} }}]
[[pools]]
name = "one"
runtime = "vllm"
workers = [{{ url = "{}", model = "y" }}]
[[models]]
name = "x"
pool = "two"
[[models]]
name = "y"
pool = "one"
"#,
        engines[0].url(),
        engines[1].url()
    );
    let smg = Smg::start(&toml).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.json()["healthy_workers"] == 2
    })
    .await;
    let answer = get(smg.main(), "/workers").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.text().contains("hidden-key"));
    let body = answer.json();
    assert_eq!(body["total"], 2);
    assert_eq!(
        body["stats"],
        json!({ "prefill_count": 0, "decode_count": 0, "regular_count": 2 })
    );
    let workers = body["workers"].as_array().unwrap();
    let urls: Vec<_> = workers
        .iter()
        .map(|worker| worker["url"].as_str().unwrap())
        .collect();
    assert!(urls.is_sorted());
    let x = workers
        .iter()
        .find(|worker| worker["model_id"] == "x")
        .unwrap();
    assert_eq!(x["pool"], "two");
    assert_eq!(x["labels"]["region"], "eu");
    for (key, value) in [
        ("is_healthy", json!(true)),
        ("status", json!("ready")),
        ("load", json!(0)),
        ("source", json!("file")),
        ("connection_mode", json!("http")),
        ("worker_type", json!("regular")),
        ("url", json!(engines[0].url())),
    ] {
        assert_eq!(x[key], value, "{key}");
    }

    for (query, expected) in [
        ("?model=x", vec!["x"]),
        ("?pool=one", vec!["y"]),
        ("?pool=one&model=x", vec![]),
        ("?model=none", vec![]),
    ] {
        let body = get(smg.main(), &format!("/workers{query}")).await.json();
        let models: Vec<_> = body["workers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w["model_id"].clone())
            .collect();
        assert_eq!(models, expected, "{query}");
        assert_eq!(body["total"], expected.len());
    }

    let id = x["id"].as_str().unwrap();
    for id in [id.to_owned(), id.to_uppercase()] {
        let answer = get(smg.main(), &format!("/workers/{id}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(&answer.json(), x);
    }
    for (id, status, code) in [
        (
            "00000000-0000-5000-8000-000000000000",
            404,
            "WORKER_NOT_FOUND",
        ),
        ("no-uuid", 400, "BAD_REQUEST"),
    ] {
        let answer = get(smg.main(), &format!("/workers/{id}")).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["code"], code);
        assert!(answer.json()["error"].is_string());
        assert_eq!(answer.header("x-smg-error-code"), code.to_ascii_lowercase());
        assert!(!answer.header("x-request-id").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_worker_survives_a_restart() {
    let engine = plain_engine().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let smg = gateway(&[&engine], "").await;
        let workers = get(smg.main(), "/workers").await.json();
        ids.push(workers["workers"][0]["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_with_their_aliases() {
    let smg = Smg::start(LISTENERS).await;
    assert_error(
        &get(smg.main(), "/v1/models").await,
        503,
        "no_models_available",
    );

    let advertised = json!({ "data": [
        { "id": "org/found", "max_model_len": 4096 }, { "id": "under-glob" }, { "id": "m" },
    ]});
    let engine = telling(&[("/v1/models", advertised)]).await;
    let more = "[[models]]\nname = \"under-*\"\n";
    let smg = gateway(&[&engine], more).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/v1/models/org/found").await.status == 200
    })
    .await;
    let answer = get(smg.main(), "/v1/models").await;
    let body = answer.json();
    assert_eq!(body["object"], "list");
    let models = body["data"].as_array().unwrap();
    let ids: Vec<_> = models
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["also-m", "m", "org/found", "under-glob"]);
    for model in models {
        assert_eq!(
            (&model["object"], &model["owned_by"]),
            (&json!("model"), &json!("self_hosted"))
        );
        assert!(model["created"].is_u64(), "{model}");
        let root = model["root"].as_str().unwrap();
        let id = model["id"].as_str().unwrap();
        assert_eq!(root, if id == "also-m" { "m" } else { id });
        let one = get(smg.main(), &format!("/v1/models/{id}")).await;
        assert_eq!((one.status, &one.json()), (200, model));
    }
    let coded = get(smg.main(), "/v1/models/org%2Ffound").await;
    assert_eq!(
        (coded.status, &coded.json()["id"]),
        (200, &json!("org/found"))
    );
    assert_error(
        &get(smg.main(), "/v1/models/none").await,
        404,
        "model_not_found",
    );
    assert_error(
        &get(smg.main(), "/v1/models/under-other").await,
        404,
        "model_not_found",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_asked_about_itself() {
    let info = json!({
        "model_path": "/models/m", "tp_size": 2, "version": "0.5", "api_key": "hidden",
        "admin_api_key": "hidden", "internal_states": [{ "api_key": "hidden" }],
    });
    let engine = telling(&[
        ("/get_server_info", info),
        (
            "/get_model_info",
            json!({ "model_path": "/models/m", "is_generation": true }),
        ),
        ("/health_generate", json!({ "fine": true })),
    ])
    .await;
    let smg = gateway(&[&engine], "").await;
    for path in ["/get_server_info", "/server_info"] {
        let answer = get(smg.main(), path).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains("hidden"), "{}", answer.text());
        assert!(!answer.text().contains("api_key"), "{}", answer.text());
        assert_eq!(answer.json()["model_path"], "/models/m");
        assert_eq!(answer.json()["tp_size"].to_string().trim_matches('"'), "2");
    }
    for path in ["/get_model_info", "/model_info"] {
        let answer = get(smg.main(), path).await;
        assert_eq!(
            answer.json(),
            json!({ "model_path": "/models/m", "is_generation": true })
        );
    }
    let answer = get(smg.main(), "/health_generate").await;
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({ "fine": true }))
    );

    let smg = Smg::start(LISTENERS).await;
    for path in [
        "/get_server_info",
        "/server_info",
        "/get_model_info",
        "/model_info",
        "/health_generate",
        "/engine_metrics",
    ] {
        assert_error(&get(smg.main(), path).await, 503, "no_workers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_healthy_worker_is_the_one_that_is_asked() {
    let mut engines = [
        telling(&[("/get_model_info", json!({ "n": 0 }))]).await,
        telling(&[("/get_model_info", json!({ "n": 1 }))]).await,
    ];
    engines.sort_by_key(FakeEngine::url);
    let workers = engines.each_ref().map(FakeEngine::url);
    let toml = format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nworkers = {workers:?}\n\
         [reliability.health]\ninterval = \"50ms\"\nfailure_threshold = 1\n"
    );
    let smg = Smg::start(&toml).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.json()["healthy_workers"] == 2
    })
    .await;
    let first = get(smg.main(), "/get_model_info").await.json()["n"].clone();
    for _ in 0..5 {
        assert_eq!(get(smg.main(), "/get_model_info").await.json()["n"], first);
    }
    let [gone, _other] = engines;
    drop(gone);
    eventually(PATIENCE, async || {
        let answer = get(smg.main(), "/get_model_info").await;
        answer.status == 200 && answer.json()["n"] != first
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_are_flushed_everywhere() {
    let smg = Smg::start(LISTENERS).await;
    let flush = async |smg: &Smg| post(smg.main(), "/flush_cache", &json!({})).await;
    let answer = flush(&smg).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["total_workers"], 0);
    assert!(answer.json()["message"].is_string());

    let good = [
        silent_engine(|_| vec![ok()]).await,
        silent_engine(|_| vec![ok()]).await,
    ];
    let smg = gateway(&[&good[0], &good[1]], "").await;
    let answer = flush(&smg).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["status"], "success");
    assert_eq!(body["workers_flushed"], 2);
    assert_eq!(body["total_http_workers"], 2);
    assert_eq!(body["total_grpc_workers"], 0);
    assert!(
        body.get("successful").is_none() && body.get("failed").is_none(),
        "{body}"
    );
    for engine in &good {
        let calls = engine.calls();
        assert_eq!((calls.len(), calls[0].path.as_str()), (1, "/flush_cache"));
    }

    let bad = silent_engine(|_| vec![Step::json(500, &json!({}))]).await;
    let door = Door::closed();
    let workers = [good[0].url(), bad.url(), door.url()];
    let smg = Smg::start(&config(&workers, "")).await;
    let answer = flush(&smg).await;
    assert_eq!(answer.status, 206, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["status"], "partial_success");
    assert_eq!(body["successful"], json!([good[0].url()]));
    assert_eq!(body["workers_flushed"], 1);
    let failed = body["failed"].as_array().unwrap();
    let mut urls: Vec<_> = failed
        .iter()
        .map(|f| f["worker"].as_str().unwrap())
        .collect();
    urls.sort_unstable();
    let mut expected = [bad.url(), door.url()];
    expected.sort();
    assert_eq!(urls, expected);
    assert!(failed.iter().all(|f| f["error"].is_string()), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_are_gathered() {
    let sglang = telling(&[(
        "/get_load",
        json!([{
            "dp_rank": 0, "num_reqs": 5, "num_waiting_reqs": 2, "num_tokens": 100,
        }]),
    )])
    .await;
    let vllm = telling(&[("/load", json!({ "server_load": 3 }))]).await;
    let mute = telling(&[]).await;
    let workers = [sglang.url(), vllm.url(), mute.url()];
    // What an engine is asked depends on its kind, which is unknown here.
    let toml = config(&workers, "").replace("\"vllm\"", "\"external\"");
    let smg = Smg::start(&toml).await;
    for path in ["/get_loads", "/v1/loads"] {
        let answer = get(smg.main(), path).await;
        assert_eq!(answer.status, 200);
        let body = answer.json();
        assert!(body["timestamp"].as_str().unwrap().contains('T'));
        assert_eq!(body["version"], concat!("smg-", env!("CARGO_PKG_VERSION")));
        let loads = body["loads"].as_array().unwrap();
        assert_eq!(loads.len(), 3);
        let of = |engine: &FakeEngine| {
            let url = engine.url();
            loads.iter().find(|load| load["worker"] == *url).unwrap()
        };
        assert_eq!(of(&sglang)["stale"], false, "{body}");
        assert_eq!(of(&sglang)["num_waiting_reqs"], 2, "{body}");
        assert_eq!(of(&vllm)["num_running_reqs"], 3, "{body}");
        assert_eq!(of(&mute)["stale"], true, "{body}");
        assert!(of(&mute)["worker_id"].is_string());
        let aggregate = &body["aggregate"];
        let sum = |key: &str| -> f64 {
            [&sglang, &vllm]
                .iter()
                .map(|engine| of(engine)[key].as_f64().unwrap())
                .sum()
        };
        assert_eq!(
            aggregate["total_waiting_reqs"].as_f64(),
            Some(sum("num_waiting_reqs"))
        );
        assert_eq!(
            aggregate["total_running_reqs"].as_f64(),
            Some(sum("num_running_reqs"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_engines_are_merged() {
    let text = |n: u32| {
        json!(format!(
            "# HELP engine_requests_total Requests.\n# TYPE engine_requests_total counter\n\
             engine_requests_total{{model=\"m\"}} {n}\nengine_up 1\n"
        ))
    };
    let engines = [
        telling(&[("/metrics", text(3))]).await,
        telling(&[("/metrics", text(4))]).await,
    ];
    let mute = telling(&[]).await;
    let smg = gateway(&[&engines[0], &engines[1], &mute], "").await;
    let answer = get(smg.main(), "/engine_metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/plain"));
    let text = answer.text();
    assert_eq!(
        text.matches("# TYPE engine_requests_total counter").count(),
        1,
        "{text}"
    );
    assert_eq!(
        text.matches("# HELP engine_requests_total").count(),
        1,
        "{text}"
    );
    let samples = crate::support::metrics::Samples::parse(&text);
    for (engine, value) in engines.iter().zip([3.0, 4.0]) {
        let url = engine.url();
        let labels = [("worker_addr", url.as_str()), ("model", "m")];
        assert_eq!(
            samples.sum("engine_requests_total", &labels),
            value,
            "{text}"
        );
        assert_eq!(
            samples.sum("engine_up", &[("worker_addr", url.as_str())]),
            1.0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_for_this_machine_alone() {
    let smg = Smg::start(LISTENERS).await;
    for (method, path) in [
        (Method::GET, "/workers"),
        (Method::GET, "/admin/config"),
        (Method::GET, "/get_loads"),
        (Method::POST, "/flush_cache"),
        (Method::POST, "/admin/reload"),
    ] {
        for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
            let mut connection = Connection::h1(smg.main()).await;
            let asked = with(
                request(method.clone(), path, Bytes::new()),
                header,
                "1.2.3.4",
            );
            let answer = connection.send(asked).await;
            assert_error(&answer, 401, "invalid_api_key");
            assert_eq!(
                answer.header("www-authenticate"),
                "Bearer realm=\"control-plane\""
            );
        }
    }
    // What is public stays so.
    let mut connection = Connection::h1(smg.main()).await;
    let asked = with(
        request(Method::GET, "/health", Bytes::new()),
        "x-forwarded-for",
        "1.2.3.4",
    );
    assert_eq!(connection.send(asked).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_in_effect_is_shown() {
    let engine = plain_engine().await;
    let more = "[server]\nrequest_timeout = \"77s\"\n";
    let smg = gateway(&[&engine], more).await;
    ready(&smg).await;
    let config = get(smg.main(), "/admin/config").await;
    assert_eq!(config.status, 200);
    assert!(config.text().contains("77s"), "{}", config.text());
    let status = get(smg.main(), "/admin/config/status").await;
    assert_eq!(status.status, 200);
    assert!(
        status.text().contains("\"generation\":1"),
        "{}",
        status.text()
    );
    let snapshots = get(smg.main(), "/admin/snapshots").await.json();
    let snapshots = snapshots.as_array().unwrap();
    assert!(!snapshots.is_empty());
    for snapshot in snapshots {
        for key in ["snapshot_id", "generation", "age_seconds", "calls"] {
            assert!(snapshot[key].is_u64(), "{key}: {snapshot}");
        }
    }
}
