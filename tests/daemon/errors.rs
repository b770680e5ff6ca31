//! What the gateway answers itself: JSON with a stable code and a request id, whatever was wrong.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::scene::{
    LISTENERS, Wire, ask, assert_error, config, gateway, in_chunks, plain_engine, post_bytes, with,
};
use crate::support::client::{json_request, request};
use crate::support::{Connection, FakeEngine, Smg, Step, get, post};

const INFERENCE: [&str; 8] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/generate",
    "/v1/embeddings",
    "/v1/rerank",
    "/rerank",
    "/v1/classify",
    "/v1/responses",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_404() {
    let smg = Smg::start(LISTENERS).await;
    let mut h1 = Connection::h1(smg.main()).await;
    let mut h2 = Connection::h2(smg.main()).await;
    for path in [
        "/",
        "/nowhere",
        "/v1",
        "/v1/chat/completions/",
        "/v1/chat/completions/x",
        "/V1/models",
        "/v1/models/",
        "/workers/",
        "/v1//models",
        "/metrics",
        "/v1/messages",
        "/%2e%2e/workers",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::OPTIONS] {
            for connection in [&mut h1, &mut h2] {
                let request = request(method.clone(), path, Bytes::new());
                let answer = connection.send(request).await;
                assert_error(&answer, 404, "unknown_url");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_405_and_says_which_would_do() {
    let smg = Smg::start(LISTENERS).await;
    let mut connection = Connection::h1(smg.main()).await;
    let reading = [
        "/v1/models",
        "/v1/models/m",
        "/get_model_info",
        "/get_server_info",
        "/health_generate",
        "/engine_metrics",
        "/liveness",
        "/readiness",
        "/health",
        "/get_loads",
        "/admin/config",
    ];
    for (paths, allowed) in [
        (&INFERENCE[..], "POST"),
        (
            &["/flush_cache", "/admin/reload", "/admin/pools/p/drain"][..],
            "POST",
        ),
        (&reading[..], "GET, HEAD"),
        (&["/workers"][..], "GET, HEAD, POST"),
        (&["/workers/x"][..], "GET, HEAD, PUT, PATCH, DELETE"),
    ] {
        for path in paths {
            for method in [
                "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW",
            ] {
                if allowed.split(", ").any(|allowed| allowed == method) {
                    continue;
                }
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                let asked = request(method.clone(), path, Bytes::new());
                let answer = connection.send(asked).await;
                if method == Method::HEAD {
                    assert_eq!(answer.status, 405, "{path}");
                } else {
                    assert_error(&answer, 405, "method_not_allowed");
                }
                assert_eq!(answer.header("allow"), allowed, "{method} {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_type_other_than_json_is_refused() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connection = Connection::h1(smg.main()).await;
    let text = ask().to_string();
    for path in INFERENCE {
        let answer = connection
            .send(request(Method::POST, path, text.clone().into()))
            .await;
        assert_error(&answer, 400, "json_parse_error");
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "json",
            "",
        ] {
            let asked = request(Method::POST, path, text.clone().into());
            let answer = connection.send(with(asked, "content-type", kind)).await;
            assert_error(&answer, 400, "json_parse_error");
        }
    }
    assert!(engine.calls().is_empty());
    for kind in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/x+json",
    ] {
        let asked = request(Method::POST, "/v1/completions", text.clone().into());
        let answer = connection.send(with(asked, "content-type", kind)).await;
        assert_eq!(answer.status, 200, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_object_is_refused() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connection = Connection::h1(smg.main()).await;
    let deep = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!("{{\"model\":\"m\",\"x\":{open}{close}}}").into_bytes()
    };
    let mut bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "null",
        "[]",
        "\"m\"",
        "{",
        "{\"model\":\"m\"",
        "{\"model\":\"m\"}}",
        "{\"model\":\"m\"} x",
        "{\"model\":\"m\",}",
        "{\"model\" \"m\"}",
        "{'model':'m'}",
        "{\"model\":\"m\" \"prompt\":\"x\"}",
        "{\"model\":\"m\",\"prompt\":\"x}",
        "{\"model\":\"m\\x\"}",
        "{\"model\":\"\\ud800\"}",
        "{\"model\":\"a\nb\"}",
        "{\"model\":\"m\",\"x\":[1}",
        "\u{feff}{\"model\":\"m\"}",
    ]
    .iter()
    .map(|body| body.as_bytes().to_vec())
    .collect();
    bodies.push(b"{\"model\":\"\xff\"}".to_vec());
    bodies.push(deep(129));
    bodies.push(vec![b'['; 100_000]);
    for path in INFERENCE {
        for body in &bodies {
            let answer = connection.send(post_bytes(path, body.clone())).await;
            assert_error(&answer, 400, "invalid_json");
        }
    }
    // It doesn't matter in how many pieces it comes.
    for body in &bodies {
        for size in [3, 64, 5_000] {
            let mut wire = Wire::connect(smg.main()).await;
            wire.write(in_chunks("/generate", body, size)).await;
            assert_error(&wire.answer().await, 400, "invalid_json");
        }
    }
    assert!(engine.calls().is_empty());
    let answer = connection.send(post_bytes("/generate", deep(128))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_given_twice_is_refused_however_it_is_spelled() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connection = Connection::h1(smg.main()).await;
    for body in [
        "{\"model\":\"m\",\"model\":\"m\"}",
        "{\"model\":\"m\",\"prompt\":\"x\",\"model\":\"other\"}",
        "{\"model\":\"m\",\"\\u006dodel\":\"other\"}",
        "{\"mod\\u0065l\":\"other\",\"model\":\"m\"}",
        "{\"model\":null,\"model\":\"m\"}",
    ] {
        for path in INFERENCE {
            let answer = connection.send(post_bytes(path, body)).await;
            assert_error(&answer, 400, "duplicate_model");
            assert_eq!(answer.json()["error"]["param"], "model");
        }
        let mut wire = Wire::connect(smg.main()).await;
        wire.write(in_chunks("/generate", body.as_bytes(), 3)).await;
        assert_error(&wire.answer().await, 400, "duplicate_model");
    }
    assert!(engine.calls().is_empty());
    // Only the top level is the gateway's affair.
    let nested = "{\"model\":\"m\",\"x\":{\"model\":1,\"model\":2}}";
    let answer = connection.send(post_bytes("/generate", nested)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_the_wrong_type_is_named() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    for (body, param) in [
        (json!({ "model": 1 }), "model"),
        (json!({ "model": ["m"] }), "model"),
        (json!({ "model": "m", "stream": "yes" }), "stream"),
        (json!({ "model": "m", "n": "2" }), "n"),
    ] {
        let answer = post(smg.main(), "/v1/completions", &body).await;
        assert_error(&answer, 400, "invalid_type");
        assert_eq!(answer.json()["error"]["param"], param);
    }
    assert!(engine.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_serves_is_404_and_one_without_workers_503() {
    let engine = plain_engine().await;
    let more = "pool = \"p\"\n[[pools]]\nname = \"empty\"\n\
                [[models]]\nname = \"idle\"\npool = \"empty\"\n";
    let smg = gateway(&[&engine], more).await;
    for path in INFERENCE {
        let body = json!({ "model": "no\"where\n", "query": "q", "documents": ["d"] });
        let answer = post(smg.main(), path, &body).await;
        assert_error(&answer, 404, "model_not_found");
        assert_eq!(answer.json()["error"]["param"], "model");

        let body = json!({ "model": "idle", "query": "q", "documents": ["d"] });
        let answer = post(smg.main(), path, &body).await;
        assert_error(&answer, 503, "no_available_workers");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert!(engine.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_model_name_is_a_name_and_not_given_back_whole() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    for length in [255, 256, 257, 300, 5_000, 100_000] {
        let body = json!({ "model": "x".repeat(length), "prompt": "hi" });
        let answer = post(smg.main(), "/v1/completions", &body).await;
        assert_error(&answer, 404, "model_not_found");
        assert!(answer.body.len() < 1000, "{}", answer.body.len());
        let mut wire = Wire::connect(smg.main()).await;
        wire.write(in_chunks("/generate", body.to_string().as_bytes(), 100))
            .await;
        assert_error(&wire.answer().await, 404, "model_not_found");
    }
    let body = format!("{{\"model\":\"{}\\x\"}}", "x".repeat(1000));
    let mut wire = Wire::connect(smg.main()).await;
    wire.write(in_chunks("/generate", body.as_bytes(), 100))
        .await;
    assert_error(&wire.answer().await, 400, "invalid_json");
    assert!(engine.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_be_reached_is_502_and_not_named() {
    let worker = crate::scene::Door::closed();
    let more = "[reliability.retry]\nmax_retries = 2\ninitial_backoff = \"1ms\"\n";
    let smg = Smg::start(&config(&[worker.url()], more)).await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&answer, 502, "call_upstream_connection_failed");
    let port = worker.address.port().to_string();
    assert!(!answer.text().contains(&port), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_talks_no_http_or_redirects_is_502() {
    for (script, code) in [
        (
            vec![Step::write("what?\r\n\r\n"), Step::Close],
            "no_worker_response",
        ),
        (
            vec![Step::write("SSH-2.0-OpenSSH_9.2\r\n"), Step::Close],
            "no_worker_response",
        ),
        (
            vec![
                Step::write("HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n"),
                Step::Close,
            ],
            "no_worker_response",
        ),
        (
            vec![Step::write(
                "HTTP/1.1 307 Away\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            )],
            "call_upstream_redirect_error",
        ),
        (vec![Step::Close], "call_upstream_connection_failed"),
        (vec![Step::Reset], "call_upstream_connection_failed"),
    ] {
        let engine = FakeEngine::serving("m", move |_| script.clone()).await;
        let more = "[reliability.retry]\nenabled = false\n";
        let smg = gateway(&[&engine], more).await;
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_error(&answer, 502, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_a_listener_does_not_serve_is_not_there() {
    let smg = Smg::start(
        r#"
version = 1
[[listeners]]
name = "main"
address = "127.0.0.1:0"
serve = ["inference"]
[[listeners]]
name = "admin"
address = "127.0.0.1:0"
serve = ["admin"]
[[listeners]]
name = "probes"
address = "127.0.0.1:0"
serve = ["probes"]
[[listeners]]
name = "metrics"
address = "127.0.0.1:0"
serve = ["metrics"]
"#,
    )
    .await;
    let paths = [
        ("main", "/v1/models"),
        ("admin", "/workers"),
        ("probes", "/liveness"),
        ("metrics", "/metrics"),
    ];
    for (listener, _) in paths {
        for (owner, path) in paths {
            let answer = get(smg.address(listener), path).await;
            if listener == owner {
                assert_ne!(answer.status, 404, "{listener} {path}");
            } else {
                assert_error(&answer, 404, "unknown_url");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_close_the_connection_and_nothing_else() {
    let smg = Smg::start(LISTENERS).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GARBAGE\r\n\r\n",
        b"GET /liveness HTTP/9.9\r\n\r\n",
        b"GET /live ness HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nx\0y: 1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense that is no frame at all",
    ] {
        let mut wire = Wire::connect(smg.main()).await;
        wire.write(bytes).await;
        let answer = wire.until_close().await;
        assert!(!answer.contains(" 200 "), "{bytes:?}: {answer}");
    }
    assert_eq!(get(smg.main(), "/liveness").await.text(), "OK");
}

// ---- request ids ----

#[tokio::test(flavor = "multi_thread")]
async fn the_first_configured_header_is_the_request_id() {
    let engine = plain_engine().await;
    let more = "[server]\nrequest_id_headers = [\"x-first\", \"x-request-id\"]\n";
    let smg = gateway(&[&engine], more).await;
    let mut connection = Connection::h1(smg.main()).await;
    let plain = || json_request("/v1/completions", &ask());
    let long = "x".repeat(128);
    for (request, id) in [
        (with(plain(), "x-request-id", "second"), "second"),
        (
            with(with(plain(), "x-request-id", "second"), "x-first", "first"),
            "first",
        ),
        (
            with(
                with(plain(), "x-request-id", "second"),
                "x-first",
                "has space",
            ),
            "second",
        ),
        (
            with(with(plain(), "x-request-id", "second"), "x-first", ""),
            "second",
        ),
        (with(plain(), "x-first", &long), &*long),
    ] {
        let answer = connection.send(request).await;
        assert_eq!(answer.header("x-request-id"), id);
        let call = engine.calls().pop().unwrap();
        assert_eq!(call.header("x-request-id"), Some(id));
        assert_eq!(call.header("x-first"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_usable_id_the_gateway_makes_one() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connection = Connection::h1(smg.main()).await;
    let mut seen = std::collections::HashSet::new();
    for (path, prefix) in [
        ("/v1/chat/completions", "chatcmpl-"),
        ("/v1/completions", "cmpl-"),
        ("/generate", "gnt-"),
        ("/v1/responses", "resp-"),
        ("/v1/embeddings", "req-"),
        ("/v1/classify", "req-"),
    ] {
        for unusable in ["", "has space", "\u{e9}", &*"x".repeat(129)] {
            let request = with(json_request(path, &ask()), "x-request-id", unusable);
            let answer = connection.send(request).await;
            let id = answer.header("x-request-id").to_owned();
            let random = id
                .strip_prefix(prefix)
                .unwrap_or_else(|| panic!("{path}: {id}"));
            assert_eq!(random.len(), 24, "{id}");
            assert!(random.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
            assert_eq!(
                engine.calls().pop().unwrap().header("x-request-id"),
                Some(&*id)
            );
            assert!(seen.insert(id));
        }
    }
    for path in [
        "/v1/models",
        "/nowhere",
        "/liveness",
        "/readiness",
        "/workers",
    ] {
        let answer = get(smg.main(), path).await;
        assert!(
            answer.header("x-request-id").starts_with("req-"),
            "{path}: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_id_is_on_errors_too() {
    let smg = Smg::start(LISTENERS).await;
    let mut connection = Connection::h2(smg.main()).await;
    for request in [
        request(Method::GET, "/nowhere", Bytes::new()),
        request(Method::PUT, "/health", Bytes::new()),
        json_request("/v1/completions", &json!({ "model": "none" })),
        post_bytes("/v1/completions", "{"),
    ] {
        let answer = connection.send(with(request, "x-trace-id", "mine")).await;
        assert!(answer.status >= 400);
        assert_eq!(answer.header("x-request-id"), "mine");
    }
}

/// A refusal that overtook the body would reset the stream, and clients lose the answer to that.
#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_short_body_is_taken_before_it_is_refused() {
    let smg = Smg::start(&format!("{LISTENERS}[auth]\napi_key = \"k\"\n")).await;
    let stream = tokio::net::TcpStream::connect(smg.main()).await.unwrap();
    let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let driver = tokio::spawn(connection);
    for (path, code) in [("/v1/chat/completions", 401), ("/nowhere", 404)] {
        let mut client = client.clone().ready().await.unwrap();
        let request = http::Request::post(format!("http://gateway{path}"))
            .header("content-type", "application/json")
            .header("content-length", "2");
        let (answer, mut body) = client
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        // By the answer to the second one the gateway has had the time to judge the head.
        for _ in 0..2 {
            pings.ping(h2::Ping::opaque()).await.unwrap();
        }
        body.send_data(Bytes::from_static(b"{}"), true)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let answer = answer
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(answer.status(), code);
        let mut rest = answer.into_body();
        while let Some(data) = rest.data().await {
            data.unwrap();
        }
        assert!(
            rest.trailers().await.is_ok(),
            "{path}: the stream was reset"
        );
    }
    drop(client);
    driver.abort();
}
