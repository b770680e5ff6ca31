//! Workers that are added over HTTP, how they are shown, and what is refused.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::scene::{
    Door, LISTENERS, PATIENCE, ask, ask_stream, assert_error, ok, plain_engine, ready,
};
use crate::support::client::{Answer, request};
use crate::support::{Connection, FakeEngine, Smg, Worker, eventually, get, post};

/// A key that must never be seen again.
const CANARY: &str = "canary-7f3a";

/// The pool `p`, which serves `m` and has no workers in the file but these; and `closed`, which takes
/// none. Everything goes quickly.
pub(crate) fn config(workers: &[String], more: &str) -> String {
    format!(
        r#"{LISTENERS}
[reliability.health]
interval = "100ms"
drain_settle = "100ms"
startup_check_interval = "100ms"
[[pools]]
name = "p"
workers = {workers:?}
[[pools]]
name = "closed"
dynamic = false
workers = []
[[models]]
name = "m"
pool = "p"
{more}"#
    )
}

/// A request with this JSON body, or none.
pub(crate) async fn send(smg: &Smg, method: Method, path: &str, body: &Value) -> Answer {
    let text = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let mut asked = request(method, path, text);
    let json = http::HeaderValue::from_static("application/json");
    asked.headers_mut().insert("content-type", json);
    Connection::h1(smg.main()).await.send(asked).await
}

/// Adds a worker and returns where it is shown.
pub(crate) async fn add(smg: &Smg, body: &Value) -> String {
    let answer = post(smg.main(), "/workers", body).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.header("location").to_owned()
}

/// Waits until the worker shown at `path` has this status, and returns it.
pub(crate) async fn becomes(smg: &Smg, path: &str, status: &str) -> Value {
    let main = smg.main();
    eventually(PATIENCE, async || {
        get(main, path).await.json()["status"] == status
    })
    .await;
    get(main, path).await.json()
}

/// Every worker that the list with this query shows.
pub(crate) async fn list(smg: &Smg, query: &str) -> Vec<Value> {
    let body = get(smg.main(), &format!("/workers{query}")).await.json();
    body["workers"].as_array().unwrap().clone()
}

/// The answer is an error of the family of `/workers`.
#[track_caller]
pub(crate) fn assert_refused(answer: &Answer, status: u16, code: &str) {
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["code"]),
        (status, &json!(code)),
        "{body}"
    );
    let message = body["error"].as_str().unwrap();
    assert!(!message.is_empty() && !message.contains(CANARY), "{body}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(!answer.header("x-smg-error-code").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_worker_serves_and_outlives_a_reload() {
    let engine = plain_engine().await;
    let smg = Smg::start(&config(&[], "")).await;
    let main = smg.main();
    let answer = post(main, "/v1/completions", &ask()).await;
    assert_error(&answer, 503, "no_available_workers");

    let body = json!({
        "url": engine.url() + "/", "pool": "p", "labels": { "zone": "a" }, "priority": 60,
        "cost": 2.5, "http_pool": {}, "health": { "timeout_secs": 2, "retries": 1 },
        "resilience": { "cb_failure_threshold": 4, "disable_circuit_breaker": true },
    });
    let answer = post(main, "/workers", &body).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let accepted = answer.json();
    let location = answer.header("location").to_owned();
    let id = accepted["worker_id"].as_str().unwrap();
    assert_eq!(location, format!("/workers/{id}"));
    assert_eq!(
        accepted,
        json!({
            "status": "accepted", "worker_id": id, "url": engine.url(), "location": location,
            "message": "Worker addition queued for background processing; \
                        ignored: `health.retries`, `http_pool`",
        })
    );

    let shown = becomes(&smg, &location, "ready").await;
    for (key, value) in [
        ("id", json!(id)),
        ("url", json!(engine.url())),
        ("source", json!("api")),
        ("pool", json!("p")),
        ("model_id", json!("m")),
        ("worker_type", json!("regular")),
        ("connection_mode", json!("http")),
        ("is_healthy", json!(true)),
        ("load", json!(0)),
        ("breaker", json!("closed")),
        ("priority", json!(60)),
        ("cost", json!(2.5)),
    ] {
        assert_eq!(shown[key], value, "{key}: {shown}");
    }
    assert_eq!(shown["labels"]["zone"], "a");
    let health = &shown["health"];
    assert_eq!(
        (&health["timeout_secs"], &health["check_interval_secs"]),
        (&json!(2), &json!(0.1)),
        "{shown}"
    );
    let breaker = &shown["resilience"];
    assert_eq!(breaker["cb_failure_threshold"], 4, "{shown}");
    assert_eq!(breaker["cb_success_threshold"], 3, "{shown}");
    assert_eq!(breaker["disable_circuit_breaker"], true, "{shown}");
    ready(&smg).await;
    assert_eq!(post(main, "/v1/completions", &ask()).await.status, 200);

    assert_refused(
        &post(main, "/workers", &body).await,
        409,
        "WORKER_ALREADY_EXISTS",
    );

    smg.apply(&config(&[], "aliases = [\"again\"]")).await;
    let again = json!({ "model": "again", "prompt": "hi" });
    assert_eq!(post(main, "/v1/completions", &again).await.status, 200);
    assert_eq!(get(main, &location).await.json()["source"], "api");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_of_a_worker_are_what_is_said_of_it() {
    let engine = FakeEngine::serving("advertised", |_| vec![ok()]).await;
    let smg = Smg::start(&config(&[], "")).await;
    let body = json!({
        "url": engine.url(), "pool": "p", "models": [{ "id": "one", "aliases": ["uno"] }, { "id": "two" }],
    });
    let location = add(&smg, &body).await;
    let shown = becomes(&smg, &location, "ready").await;
    assert_eq!(shown["models"], json!(["one", "two"]));
    assert_eq!(shown["model_id"], "one");
    for model in ["one", "two"] {
        let asked = json!({ "model": model, "prompt": "hi" });
        let answer = post(smg.main(), "/v1/completions", &asked).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let found = list(&smg, &format!("?model={model}")).await;
        assert_eq!(found.len(), 1, "{model}");
    }
    assert_eq!(list(&smg, "?model=advertised").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_up_yet_is_shown_pending() {
    let engine = plain_engine().await;
    let door = Door::closed();
    let smg = Smg::start(&config(&[], "")).await;
    let location = add(&smg, &json!({ "url": door.url(), "pool": "p" })).await;
    let answer = get(smg.main(), &location).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shown = answer.json();
    assert_eq!(shown["status"], "pending", "{shown}");
    assert_eq!(shown["is_healthy"], false);
    assert_eq!(shown["breaker"], "closed");
    let job = &shown["job_status"];
    assert_eq!(job["job_type"], "AddWorker", "{shown}");
    assert_eq!(job["worker_url"], door.url());
    assert!(
        matches!(job["status"].as_str(), Some("pending" | "processing")),
        "{job}"
    );
    assert!(job["timestamp"].as_str().unwrap().contains('T'), "{job}");
    assert_eq!(list(&smg, "?pool=p").await.len(), 1);

    let _open = door.open(engine.address());
    let shown = becomes(&smg, &location, "ready").await;
    eventually(PATIENCE, async || {
        get(smg.main(), &location).await.json()["job_status"].is_null()
    })
    .await;
    assert_eq!(shown["is_healthy"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_goes_on_being_tried_has_not_failed() {
    let door = Door::closed();
    let smg = Smg::start(&config(&[], "")).await;
    // With a runtime it is published at once, and its job is over before it has answered.
    let body = json!({ "url": door.url(), "pool": "p", "runtime": "sglang" });
    let location = add(&smg, &body).await;
    let job = async || get(smg.main(), &location).await.json()["job_status"].clone();
    eventually(PATIENCE, async || job().await["message"].is_string()).await;
    let shown = job().await;
    assert_eq!(shown["status"], "processing", "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_given_up_says_why() {
    let engine = plain_engine().await;
    let door = Door::closed();
    let smg = Smg::start(&config(&[], "")).await;
    let body = json!({ "url": door.url(), "pool": "p", "max_connection_attempts": 1 });
    let location = add(&smg, &body).await;
    let shown = becomes(&smg, &location, "failed").await;
    let job = &shown["job_status"];
    assert_eq!(
        (&job["job_type"], &job["status"]),
        (&json!("AddWorker"), &json!("failed"))
    );
    let message = job["message"].as_str().unwrap();
    assert!(!message.is_empty(), "{job}");
    // It is no worker any more, and may become one.
    eventually(PATIENCE, async || list(&smg, "").await.is_empty()).await;
    assert_eq!(get(smg.main(), &location).await.json()["status"], "failed");
    let removed = send(&smg, Method::DELETE, &location, &Value::Null).await;
    assert_refused(&removed, 404, "WORKER_NOT_FOUND");
    let _open = door.open(engine.address());
    assert_eq!(add(&smg, &body).await, location);
    let shown = becomes(&smg, &location, "ready").await;
    assert!(shown["job_status"].is_null() || shown["job_status"]["status"] != "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let smg = Smg::start(&config(&[], "")).await;
    let main = smg.main();
    let url = "http://127.0.0.1:9";
    for body in [
        json!({}),
        json!([]),
        json!("http://127.0.0.1:9"),
        json!({ "url": "127.0.0.1:9" }),
        json!({ "url": "https://127.0.0.1:9" }),
        json!({ "url": "grpc://127.0.0.1:9" }),
        json!({ "url": format!("http://user:{CANARY}@127.0.0.1:9") }),
        json!({ "url": format!("http://127.0.0.1:9/?key={CANARY}") }),
        json!({ "url": 9 }),
        json!({ "url": url, "pool": "none" }),
        json!({ "url": url, "pool": "p", "worker_type": "prefill" }),
        json!({ "url": url, "pool": "p", "bootstrap_port": 1 }),
        json!({ "url": url, "pool": "p", "connection_mode": "grpc" }),
        json!({ "url": url, "pool": "p", "priority": 101 }),
        json!({ "url": url, "pool": "p", "cost": -1 }),
        json!({ "url": url, "pool": "p", "labels": { "a": 1 } }),
        json!({ "url": url, "pool": "p", "api_key": { "value": CANARY } }),
        json!({ "url": url, "pool": "p", "api_key": format!("{CANARY}\n") }),
        json!({ "url": url, "pool": "p", "models": [CANARY, 1] }),
        json!({ "url": url, "pool": "p", "health": { "timeout_secs": 0 } }),
        json!({ "url": url, "pool": "p", "resilience": { "cb_window_secs": "1m" } }),
        json!({ "url": url, "pool": "p", "max_connection_attempts": 0 }),
        json!({ "url": url, "pool": "p", "provider": "openai" }),
    ] {
        assert_refused(&post(main, "/workers", &body).await, 400, "BAD_REQUEST");
    }
    // Neither the pool `p` nor the other one is called `default`.
    assert_refused(
        &post(main, "/workers", &json!({ "url": url })).await,
        400,
        "BAD_REQUEST",
    );
    let closed = json!({ "url": url, "pool": "closed" });
    assert_refused(&post(main, "/workers", &closed).await, 403, "BAD_REQUEST");
    let large = json!({ "url": url, "pool": "p", "model_id": "x".repeat(1 << 20) });
    let large = post(main, "/workers", &large).await;
    assert_refused(&large, 413, "BAD_REQUEST");
    assert_eq!(large.header("x-smg-error-code"), "request_body_too_large");
    let mut connection = Connection::h1(main).await;
    let plain = request(
        Method::POST,
        "/workers",
        json!({ "url": url }).to_string().into(),
    );
    assert_refused(&connection.send(plain).await, 400, "BAD_REQUEST");
    assert_eq!(list(&smg, "?all=true").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_only_the_gateway_reaches_are_refused() {
    let smg = Smg::start(&config(&[], "")).await;
    for host in [
        "169.254.169.254",
        "169.254.1.1:8000",
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "[::ffff:169.254.169.254]:80",
        "[fe80::1]:8000",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "0.0.0.0:8000",
        "[::]:8000",
        "224.0.0.1",
    ] {
        let body = json!({ "url": format!("http://{host}/"), "pool": "p" });
        let answer = post(smg.main(), "/workers", &body).await;
        assert_refused(&answer, 400, "BAD_REQUEST");
        assert!(answer.text().contains("link-local"), "{}", answer.text());
    }
    assert!(list(&smg, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_nobody_is_404_and_no_id_is_400() {
    let smg = Smg::start(&config(&[], "")).await;
    let nobody = "/workers/00000000-0000-5000-8000-000000000000";
    for method in [Method::GET, Method::DELETE, Method::PATCH, Method::PUT] {
        let body = match method {
            Method::PATCH | Method::PUT => json!({ "priority": 1 }),
            _ => Value::Null,
        };
        let answer = send(&smg, method.clone(), nobody, &body).await;
        assert_refused(&answer, 404, "WORKER_NOT_FOUND");
        let answer = send(&smg, method, "/workers/nobody", &body).await;
        assert_refused(&answer, 400, "BAD_REQUEST");
    }
    let body = json!({ "url": "http://127.0.0.1:9" });
    let answer = send(&smg, Method::PUT, nobody, &body).await;
    assert_refused(&answer, 404, "WORKER_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_rank_is_shown_and_only_the_whole_worker_changed() {
    let worker = Worker::start(&["--dp-size", "2"]).await;
    let smg = Smg::start(&format!(
        "{LISTENERS}\n[[pools]]\nname = \"default\"\ndp_aware = true\nworkers = []\n"
    ))
    .await;
    let location = add(&smg, &json!({ "url": worker.url() })).await;
    eventually(PATIENCE, async || list(&smg, "").await.len() == 2).await;
    // What was promised stays where it was promised.
    let whole = becomes(&smg, &location, "ready").await;
    assert_eq!(
        (&whole["url"], &whole["dp_size"]),
        (&json!(worker.url()), &json!(2))
    );
    assert!(whole["dp_rank"].is_null(), "{whole}");
    let ranks = list(&smg, "").await;
    assert_eq!(ranks[1]["url"], format!("{}@1", worker.url()));
    let rank = format!("/workers/{}", ranks[1]["id"].as_str().unwrap());
    assert_eq!(get(smg.main(), &rank).await.json(), ranks[1]);
    for (method, body) in [
        (Method::PATCH, json!({ "drain": true })),
        (Method::PUT, json!({ "url": worker.url() })),
        (Method::DELETE, Value::Null),
    ] {
        let answer = send(&smg, method, &rank, &body).await;
        assert_refused(&answer, 400, "BAD_REQUEST");
        assert!(
            answer.text().contains(whole["id"].as_str().unwrap()),
            "{}",
            answer.text()
        );
    }
    let drained = send(&smg, Method::PATCH, &location, &json!({ "drain": true })).await;
    assert_eq!(drained.status, 202, "{}", drained.text());
    becomes(&smg, &location, "draining").await;
    assert!(
        list(&smg, "")
            .await
            .iter()
            .all(|rank| rank["status"] == "draining")
    );
    let removed = send(&smg, Method::DELETE, &location, &Value::Null).await;
    assert_eq!(removed.status, 202, "{}", removed.text());
    eventually(PATIENCE, async || list(&smg, "").await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_to_the_worker_and_nowhere_else() {
    let engine = plain_engine().await;
    let mut smg = Smg::start(&config(&[], "")).await;
    let main = smg.main();
    let first = format!("{CANARY}-first");
    let body = json!({ "url": engine.url(), "pool": "p", "api_key": first });
    let mut seen = vec![post(main, "/workers", &body).await.text()];
    let id = serde_json::from_str::<Value>(&seen[0]).unwrap()["worker_id"].clone();
    let location = format!("/workers/{}", id.as_str().unwrap());
    becomes(&smg, &location, "ready").await;
    let bearer = |key: &str| Some(format!("Bearer {key}"));
    let told = async |engine: &FakeEngine| {
        assert_eq!(post(main, "/v1/completions", &ask()).await.status, 200);
        let last = engine.calls().pop().unwrap();
        last.header("authorization").map(str::to_owned)
    };
    ready(&smg).await;
    assert_eq!(told(&engine).await, bearer(&first));

    let second = format!("{CANARY}-second");
    let answer = send(
        &smg,
        Method::PATCH,
        &location,
        &json!({ "api_key": second }),
    )
    .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    seen.push(answer.text());
    eventually(PATIENCE, async || told(&engine).await == bearer(&second)).await;

    // A second time, and with mistakes beside it.
    seen.push(post(main, "/workers", &body).await.text());
    for (method, path, body) in [
        (
            Method::POST,
            "/workers",
            json!({ "url": "x", "api_key": second }),
        ),
        (
            Method::PATCH,
            &*location,
            json!({ "api_key": second, "priority": -1 }),
        ),
        (
            Method::PUT,
            &*location,
            json!({ "url": "x", "api_key": second }),
        ),
    ] {
        seen.push(send(&smg, method, path, &body).await.text());
    }
    for path in [
        "/workers",
        "/workers?all=true",
        &location,
        "/admin/config",
        "/admin/config/status",
        "/admin/snapshots",
        "/get_loads",
        "/v1/models",
    ] {
        seen.push(get(main, path).await.text());
    }
    seen.push(get(smg.address("metrics"), "/metrics").await.text());
    seen.extend(smg.process().output());
    for text in &seen {
        assert!(!text.contains(CANARY), "{text}");
    }
    let shown = get(main, &location).await.json();
    assert_eq!(shown["overrides"], json!(["api_key"]), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_changes_is_503() {
    let smg = Smg::start(&config(
        &[],
        "[server]\njobs = { capacity = 1, concurrency = 1 }\n",
    ))
    .await;
    // None of them answers, so that each keeps its place.
    let doors: Vec<Door> = (0..8).map(|_| Door::closed()).collect();
    let mut refused = None;
    for door in &doors {
        let answer = post(
            smg.main(),
            "/workers",
            &json!({ "url": door.url(), "pool": "p" }),
        )
        .await;
        if answer.status != 202 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a refusal");
    assert_refused(&refused, 503, "INTERNAL_SERVER_ERROR");
    assert_eq!(refused.header("retry-after"), "1");
    let stream = post(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert_error(&stream, 503, "no_available_workers");
}
