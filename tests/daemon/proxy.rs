//! What a client sends is what the worker gets, and what the worker answers is what the client gets;
//! and the model's name decides which worker that is.

use http::Method;
use serde_json::{Value, json};

use crate::scene::{
    LISTENERS, PATIENCE, Wire, ask, assert_error, config, gateway, in_chunks, plain_engine,
    post_bytes, ready, silent_engine,
};
use crate::support::client::{json_request, request};
use crate::support::{Connection, FakeEngine, Smg, Step, eventually, get, post};

/// Every inference path, and what the worker is asked for.
const PATHS: [(&str, &str); 8] = [
    ("/v1/chat/completions", "/v1/chat/completions"),
    ("/v1/completions", "/v1/completions"),
    ("/generate", "/generate"),
    ("/v1/embeddings", "/v1/embeddings"),
    ("/v1/rerank", "/v1/rerank"),
    ("/rerank", "/v1/rerank"),
    ("/v1/classify", "/v1/classify"),
    ("/v1/responses", "/v1/responses"),
];

/// Valid JSON that no serialiser writes like this.
const ODD: &str = "{ \"zeta\" : 1.50e+2 ,\n\t\"query\":\"q\",\"documents\":[\"a\",\"b\"],\
     \"model\":\"m\",\"huge\":123456789012345678901234567890,\"neg\":-0.0,\
     \"escaped\":\"\\u00e9\u{e9}\\/\",\"twice\":1,\"twice\":2,\"deep\":{\"b\":[1 ,2],\"a\":null} }\n";

/// An answer that no serialiser writes either.
const ODD_ANSWER: &str = "{ \"z\":1e0 ,\"a\" : \"\\u00e9\"}\n\n";

const RANKING: &str = "[{\"score\":0.1,\"index\":0,\"document\":\"a\",\"meta_info\":{\"id\":1}},\
     {\"score\":0.9,\"index\":1,\"document\":\"b\"}]";

async fn odd_engine() -> FakeEngine {
    FakeEngine::serving("m", |asked| {
        let body = if asked.path.ends_with("/rerank") {
            RANKING
        } else {
            ODD_ANSWER
        };
        vec![Step::answer(200, "application/json", body)]
    })
    .await
}

async fn bytes_pass_untouched(engine: &FakeEngine, connection: &mut Connection) {
    for (path, asked_for) in PATHS {
        let answer = connection.send(post_bytes(path, ODD)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let asked = engine.calls().pop().unwrap();
        assert_eq!(asked.path, asked_for);
        assert_eq!(String::from_utf8(asked.body).unwrap(), ODD, "{path}");
        if !path.ends_with("/rerank") {
            assert_eq!(answer.text(), ODD_ANSWER, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_passes_bytes_untouched_over_http_1() {
    let engine = odd_engine().await;
    let smg = gateway(&[&engine], "").await;
    bytes_pass_untouched(&engine, &mut Connection::h1(smg.main()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_passes_bytes_untouched_over_http_2() {
    let engine = odd_engine().await;
    let smg = gateway(&[&engine], "").await;
    bytes_pass_untouched(&engine, &mut Connection::h2(smg.main()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_model_changes_where_an_alias_is_used() {
    let engine = odd_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connection = Connection::h1(smg.main()).await;
    for alias in ["\"also-m\"", "\"\\u0061lso-m\""] {
        let sent = ODD.replace("\"m\"", alias);
        for (path, _) in PATHS {
            let answer = connection.send(post_bytes(path, sent.clone())).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let asked = engine.calls().pop().unwrap();
            assert_eq!(
                String::from_utf8(asked.body).unwrap(),
                ODD,
                "{path} {alias}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_pieces_is_the_same_body() {
    let engine = odd_engine().await;
    let smg = gateway(&[&engine], "").await;
    let long = "\\\" say [\u{e9}] {to} \\\\".repeat(40);
    let odd = ODD.replace("\"q\"", &format!("\"{long}\""));
    let mut wire = Wire::connect(smg.main()).await;
    for model in ["\"m\"", "\"also-m\"", "\"\\u0061lso-m\""] {
        let sent = odd.replace("\"m\"", model);
        for size in [1, 2, 7, 63, 64, 65, 300, 10_000] {
            for (path, _) in PATHS {
                wire.write(in_chunks(path, sent.as_bytes(), size)).await;
                let answer = wire.answer().await;
                assert_eq!(answer.status, 200, "{model} {size} {path}: {answer:?}");
                let asked = engine.calls().pop().unwrap();
                let body = String::from_utf8(asked.body).unwrap();
                assert_eq!(body, odd, "{model} {size} {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_and_a_large_answer_arrive_whole() {
    let text = "x\u{e9}".repeat(1_000_000);
    let engine = {
        let answer = format!("{{\"text\":\"{text}\"}}");
        FakeEngine::serving("m", move |_| {
            vec![Step::answer(200, "application/json", &answer)]
        })
        .await
    };
    let smg = gateway(&[&engine], "").await;
    let sent = json!({ "model": "m", "prompt": text }).to_string();
    let mut connections = [
        Connection::h1(smg.main()).await,
        Connection::h2(smg.main()).await,
    ];
    for connection in &mut connections {
        let request = post_bytes("/v1/completions", sent.clone());
        let answer = connection.send(request).await;
        assert_eq!(answer.status, 200);
        assert!(answer.json()["text"] == *text);
        assert!(engine.calls().pop().unwrap().body == sent.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_of_a_workers_url_comes_before_that_of_the_request() {
    let engine = plain_engine().await;
    let worker = format!("{}/engines/1/", engine.url());
    let smg = Smg::start(&config(&[worker], "")).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    assert_eq!(engine.calls()[0].path, "/engines/1/v1/completions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ranking_is_sorted_cut_and_put_into_the_answer_of_the_api() {
    let engine = odd_engine().await;
    let smg = gateway(&[&engine], "").await;
    for path in ["/v1/rerank", "/rerank"] {
        let ask = json!({ "model": "also-m", "query": "q", "documents": ["a", "b"], "rid": "r" });
        let answer = post(smg.main(), path, &ask).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.header("x-request-id").is_empty());
        let body = answer.json();
        assert_eq!(body["object"], "rerank");
        assert_eq!(body["id"], "r");
        assert_eq!(body["usage"], Value::Null);
        assert!(body["created"].as_u64().unwrap() > 1_600_000_000);
        let results = body["results"].as_array().unwrap();
        let indices: Vec<_> = results
            .iter()
            .map(|r| r["index"].as_u64().unwrap())
            .collect();
        assert_eq!(indices, [1, 0]);
        assert_eq!(results[0]["document"], "b");

        let mut ask = ask;
        ask["top_k"] = json!(1);
        ask["return_documents"] = json!(false);
        let body = post(smg.main(), path, &ask).await.json();
        assert_eq!(body["results"].as_array().unwrap().len(), 1);
        assert!(body["results"][0].get("document").is_none(), "{body}");
    }
    for (ask, code, param) in [
        (
            json!({ "model": "m", "documents": ["a"] }),
            "missing_required_parameter",
            "query",
        ),
        (
            json!({ "model": "m", "query": " ", "documents": ["a"] }),
            "missing_required_parameter",
            "query",
        ),
        (
            json!({ "model": "m", "query": "q" }),
            "missing_required_parameter",
            "documents",
        ),
        (
            json!({ "model": "m", "query": "q", "documents": [] }),
            "empty_array",
            "documents",
        ),
        (
            json!({ "model": "m", "query": "q", "documents": ["a"], "top_k": 0 }),
            "decimal_below_min_value",
            "top_k",
        ),
        (
            json!({ "model": "m", "query": 1, "documents": ["a"] }),
            "invalid_type",
            "query",
        ),
    ] {
        let answer = post(smg.main(), "/v1/rerank", &ask).await;
        assert_error(&answer, 400, code);
        assert_eq!(answer.json()["error"]["param"], param);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ranking_that_is_none_is_the_workers_fault() {
    let engine = FakeEngine::serving("m", |_| {
        vec![Step::answer(
            200,
            "application/json",
            "{\"no\":\"ranking\"}",
        )]
    })
    .await;
    let smg = gateway(&[&engine], "").await;
    let ask = json!({ "model": "m", "query": "q", "documents": ["a"] });
    let answer = post(smg.main(), "/v1/rerank", &ask).await;
    assert_error(&answer, 502, "rerank_response_build_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exact_name_comes_before_globs_and_a_longer_glob_before_a_shorter() {
    let script = |name: &'static str| move |_: &_| vec![Step::answer(200, "text/plain", name)];
    let engines = [
        silent_engine(script("wide")).await,
        silent_engine(script("narrow")).await,
        silent_engine(script("exact")).await,
    ];
    let mut toml = LISTENERS.to_owned();
    for (engine, (pool, model)) in engines.iter().zip([
        ("wide", "llama-*"),
        ("narrow", "llama-3-*"),
        ("exact", "llama-3-x"),
    ]) {
        let url = engine.url();
        toml += &format!(
            "[[pools]]\nname = \"{pool}\"\nruntime = \"vllm\"\nworkers = [\"{url}\"]\n\
             [[models]]\nname = \"{model}\"\npool = \"{pool}\"\n"
        );
    }
    toml += "[routing]\nundeclared_models = \"reject\"\n";
    let smg = Smg::start(&toml).await;
    for (model, pool) in [
        ("llama-2", "wide"),
        ("llama-", "wide"),
        ("llama-3-y", "narrow"),
        ("llama-3-x", "exact"),
        ("llama-3-xy", "narrow"),
    ] {
        let ask = json!({ "model": model, "prompt": "hi" });
        let answer = post(smg.main(), "/v1/completions", &ask).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, pool),
            "{model}"
        );
        let engine = engines.iter().find(|engine| {
            let calls = engine.calls();
            calls.last().is_some_and(|call| call.json() == ask)
        });
        assert!(engine.is_some(), "{model} did not arrive as it was sent");
    }
    for model in ["lama-3", "my-llama-3", "LLAMA-3"] {
        let ask = json!({ "model": model, "prompt": "hi" });
        let answer = post(smg.main(), "/v1/completions", &ask).await;
        assert_error(&answer, 404, "model_not_found");
        assert_eq!(answer.json()["error"]["param"], "model");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_may_be_left_out_where_one_is_served() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    for (path, _) in PATHS.iter().filter(|(path, _)| !path.ends_with("/rerank")) {
        for sent in [
            "{}",
            "{\"prompt\":\"hi\"}",
            "{\"model\":\"\"}",
            "{\"model\":\"unknown\"}",
            "{\"model\":null}",
        ] {
            let mut connection = Connection::h1(smg.main()).await;
            let answer = connection.send(post_bytes(path, sent)).await;
            assert_eq!(answer.status, 200, "{path} {sent}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_may_not_be_left_out_where_two_are_served() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "[[models]]\nname = \"n\"\n").await;
    let mut connection = Connection::h1(smg.main()).await;
    for sent in [
        "{}",
        "{\"model\":\"\"}",
        "{\"model\":\"unknown\"}",
        "{\"model\":null}",
    ] {
        let answer = connection.send(post_bytes("/v1/completions", sent)).await;
        assert_error(&answer, 400, "missing_model");
        assert_eq!(answer.json()["error"]["param"], "model");
    }
    assert!(engine.calls().is_empty());
}

/// A pool about which nothing is written but its workers.
fn bare(engine: &FakeEngine, more: &str) -> String {
    format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nworkers = [\"{}\"]\n{more}",
        engine.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_advertises_is_served() {
    let engine = FakeEngine::serving("org/found", |_| vec![crate::scene::ok()]).await;
    let smg = Smg::start(&bare(&engine, "")).await;
    ready(&smg).await;
    let ask = json!({ "model": "org/found", "prompt": "hi" });
    assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
    let ask = json!({ "prompt": "hi" });
    assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
    let ask = json!({ "model": "other", "prompt": "hi" });
    let answer = post(smg.main(), "/v1/completions", &ask).await;
    assert_error(&answer, 404, "model_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_advertises_may_be_refused() {
    let engine = plain_engine().await;
    let more = "[routing]\nundeclared_models = \"reject\"\n";
    let smg = Smg::start(&bare(&engine, more)).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/workers").await.json()["workers"][0]["model_id"] == "m"
    })
    .await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&answer, 404, "model_not_found");
    let answer = get(smg.main(), "/v1/models").await;
    assert_error(&answer, 503, "no_models_available");
    assert!(engine.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_advertises_nothing_takes_any_name() {
    let engine = silent_engine(|_| vec![crate::scene::ok()]).await;
    let smg = Smg::start(&bare(&engine, "")).await;
    ready(&smg).await;
    for model in ["one", "another/with-slash"] {
        let ask = json!({ "model": model, "prompt": "hi" });
        assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
        assert_eq!(engine.calls().pop().unwrap().json(), ask);
    }
    // Such workers count as one model.
    let answer = post(smg.main(), "/v1/completions", &json!({ "prompt": "hi" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_only_what_it_says_it_serves() {
    let (one, two) = (
        FakeEngine::serving("one", |_| vec![crate::scene::ok()]).await,
        FakeEngine::serving("two", |_| vec![crate::scene::ok()]).await,
    );
    let toml = format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nworkers = [\"{}\", \"{}\"]\n",
        one.url(),
        two.url()
    );
    let smg = Smg::start(&toml).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.json()["healthy_workers"] == 2
    })
    .await;
    for _ in 0..5 {
        for model in ["one", "two"] {
            let ask = json!({ "model": model, "prompt": "hi" });
            assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
        }
    }
    for (engine, model) in [(&one, "one"), (&two, "two")] {
        let calls = engine.calls();
        assert_eq!(calls.len(), 5);
        assert!(calls.iter().all(|call| call.json()["model"] == model));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_requests_of_all_kinds() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connections = [
        Connection::h1(smg.main()).await,
        Connection::h2(smg.main()).await,
    ];
    for connection in &mut connections {
        for _ in 0..20 {
            let answer = connection
                .send(json_request("/v1/completions", &ask()))
                .await;
            assert_eq!(answer.status, 200);
            let missing = request(Method::GET, "/nowhere", bytes::Bytes::new());
            assert_eq!(connection.send(missing).await.status, 404);
            let alive = request(Method::HEAD, "/health", bytes::Bytes::new());
            let answer = connection.send(alive).await;
            assert_eq!((answer.status, answer.body.len()), (200, 0));
        }
    }
    assert_eq!(engine.calls().len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_an_http_2_connection_run_side_by_side() {
    let gate = crate::support::Gate::closed();
    let engine = {
        let gate = gate.clone();
        FakeEngine::serving("m", move |_| {
            vec![Step::Hold(gate.clone()), crate::scene::ok()]
        })
        .await
    };
    let smg = gateway(&[&engine], "").await;
    let mut requests = tokio::task::JoinSet::new();
    let connection = Connection::h2(smg.main()).await;
    for _ in 0..20 {
        let mut sender = connection.again();
        requests.spawn(async move {
            let answer = sender.send(json_request("/v1/completions", &ask())).await;
            answer.status
        });
    }
    eventually(PATIENCE, async || engine.calls().len() == 20).await;
    gate.open();
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
}
