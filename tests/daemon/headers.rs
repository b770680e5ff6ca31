//! Which headers cross the gateway, and with which credential a worker is asked.

use serde_json::json;

use crate::scene::{
    LISTENERS, PATIENCE, ask, ask_stream, gateway, ok, plain_engine, silent_engine, with,
};
use crate::support::client::json_request;
use crate::support::{Connection, FakeEngine, Smg, Step, eventually, get, post};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_headers_of_the_allow_list_go_to_a_worker() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connections = [
        Connection::h1(smg.main()).await,
        Connection::h2(smg.main()).await,
    ];
    for connection in &mut connections {
        let mut request = json_request("/v1/completions", &ask());
        for (name, value) in [
            ("accept", "application/json"),
            ("x-request-id", "id-1"),
            ("x-request-id-parent", "p"),
            ("x-correlation-id", "c"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("tracestate", "a=1"),
            ("x-smg-routing-key", "k"),
            // What follows stays here.
            ("authorization", "Bearer client"),
            ("x-api-key", "client"),
            ("proxy-authorization", "Basic eA=="),
            ("cookie", "a=b"),
            ("user-agent", "client/1"),
            ("referer", "http://x/"),
            ("origin", "http://x"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("x-smg-target-worker", "0"),
            ("x-smg-api-key", "client"),
            ("accept-encoding", "gzip"),
            ("accept-language", "de"),
            ("x-custom", "1"),
        ] {
            request = with(request, name, value);
        }
        assert_eq!(connection.send(request).await.status, 200);
        let call = engine.calls().pop().unwrap();
        let mut headers = call.headers.clone();
        headers.sort();
        let host = engine.address().to_string();
        let agent = concat!("smg/", env!("CARGO_PKG_VERSION"));
        let length = ask().to_string().len().to_string();
        let expected = [
            ("accept", "application/json"),
            ("content-length", &length),
            ("content-type", "application/json"),
            ("host", &host),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("tracestate", "a=1"),
            ("user-agent", agent),
            ("x-correlation-id", "c"),
            ("x-request-id", "id-1"),
            ("x-request-id-parent", "p"),
            ("x-smg-routing-key", "k"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(headers, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_connection_names_ends_here() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connection = Connection::h1(smg.main()).await;
    let mut request = json_request("/v1/completions", &ask());
    for (name, value) in [
        ("connection", "keep-alive, X-Request-Id-Hop"),
        ("connection", "tracestate, te"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("x-request-id-hop", "1"),
        ("x-request-id-end", "1"),
        ("tracestate", "a=1"),
    ] {
        request = with(request, name, value);
    }
    assert_eq!(connection.send(request).await.status, 200);
    let call = engine.calls().pop().unwrap();
    assert_eq!(call.header("x-request-id-end"), Some("1"));
    for name in [
        "connection",
        "keep-alive",
        "te",
        "x-request-id-hop",
        "tracestate",
    ] {
        assert_eq!(call.header(name), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_repeated_stays_so_towards_a_worker() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut connection = Connection::h1(smg.main()).await;
    let mut request = json_request("/v1/completions", &ask());
    for (name, value) in [
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("accept", "text/event-stream"),
        ("accept", "application/json"),
    ] {
        request = with(request, name, value);
    }
    assert_eq!(connection.send(request).await.status, 200);
    let call = engine.calls().pop().unwrap();
    for (name, values) in [
        ("tracestate", ["a=1", "b=2"]),
        ("accept", ["text/event-stream", "application/json"]),
    ] {
        let sent: Vec<_> = call
            .headers
            .iter()
            .filter(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(sent, values);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_loses_what_is_between_worker_and_gateway() {
    let engine = FakeEngine::serving("m", |_| {
        vec![Step::write(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\n\
             X-Hop: 1\r\nTE: trailers\r\nTrailer: x-sum\r\nUpgrade: h2c\r\n\
             Proxy-Authenticate: Basic\r\nServer: uvicorn\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\
             X-Smg-Error-Code: forged\r\nX-Smg-Routed-Worker-Id: forged\r\nX-Request-Id: theirs\r\n\
             Content-Type: application/json; charset=utf-8\r\nETag: \"e\"\r\n\
             X-Ratelimit: 1\r\nX-Ratelimit: 2\r\nContent-Encoding: identity\r\n\
             Content-Length: 2\r\n\r\n{}",
        )]
    })
    .await;
    let smg = gateway(&[&engine], "").await;
    for h2 in [false, true] {
        let mut connection = if h2 {
            Connection::h2(smg.main()).await
        } else {
            Connection::h1(smg.main()).await
        };
        let request = with(
            json_request("/v1/completions", &ask()),
            "x-request-id",
            "mine",
        );
        let answer = connection.send(request).await;
        let mut headers: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| *name != "date")
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        headers.sort_unstable();
        assert_eq!(
            headers,
            [
                ("content-encoding", "identity"),
                ("content-length", "2"),
                ("content-type", "application/json; charset=utf-8"),
                ("etag", "\"e\""),
                ("x-ratelimit", "1"),
                ("x-ratelimit", "2"),
                ("x-request-id", "mine"),
            ],
            "HTTP/2: {h2}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_cannot_name_the_framing_of_an_answer_away() {
    let engine = FakeEngine::serving("m", |_| {
        vec![Step::write(
            "HTTP/1.1 200 OK\r\nconnection: content-type, content-length\r\n\
             content-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        )]
    })
    .await;
    let smg = gateway(&[&engine], "").await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
    assert_eq!(answer.header("content-type"), "application/json");
}

/// Three pools, one model each: a key of the worker, a key of the pool, none.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_asked_with_its_own_key_and_never_with_the_clients() {
    let mut engines = Vec::new();
    for _ in 0..6 {
        engines.push(silent_engine(|_| vec![ok()]).await);
    }
    let pools = [
        (
            "own",
            "api_key = \"pool-key\"\n",
            ", api_key = \"own-key\"",
            Some("Bearer own-key"),
        ),
        (
            "pool",
            "api_key = \"pool-key\"\n",
            "",
            Some("Bearer pool-key"),
        ),
        ("none", "", "", None),
        (
            "forward",
            "forward_authorization = true\n",
            "",
            Some("Bearer client"),
        ),
        (
            "forward-own",
            "forward_authorization = true\n",
            ", api_key = \"own-key\"",
            Some("Bearer own-key"),
        ),
        (
            "forward-pool",
            "forward_authorization = true\napi_key = \"pool-key\"\n",
            "",
            Some("Bearer pool-key"),
        ),
    ];
    let mut toml = LISTENERS.to_owned();
    for ((name, pool, worker, _), engine) in pools.iter().zip(&engines) {
        let url = engine.url();
        toml += &format!(
            "[[pools]]\nname = \"{name}\"\nruntime = \"vllm\"\n{pool}\
             workers = [{{ url = \"{url}\"{worker} }}]\n\
             [[models]]\nname = \"{name}\"\npool = \"{name}\"\n"
        );
    }
    let smg = Smg::start(&toml).await;
    let mut connection = Connection::h1(smg.main()).await;
    for ((name, _, _, expected), engine) in pools.iter().zip(&engines) {
        let ask = json!({ "model": name, "prompt": "hi" });
        let request = json_request("/v1/completions", &ask);
        let request = with(request, "authorization", "Bearer client");
        assert_eq!(connection.send(request).await.status, 200);
        let call = engine.calls().pop().unwrap();
        assert_eq!(call.header("authorization"), *expected, "{name}");
        let count = call
            .headers
            .iter()
            .filter(|(name, _)| name == "authorization")
            .count();
        assert!(count <= 1, "{name}");

        // Without a credential there is none to pass on.
        let request = json_request("/v1/completions", &ask);
        assert_eq!(connection.send(request).await.status, 200);
        let call = engine.calls().pop().unwrap();
        let expected = expected.filter(|expected| *expected != "Bearer client");
        assert_eq!(call.header("authorization"), expected, "{name}");

        // Probes use the worker's key too.
        eventually(PATIENCE, async || {
            engine.asked().iter().any(|asked| asked.path == "/health")
        })
        .await;
        for probe in engine.asked().iter().filter(|asked| asked.method == "GET") {
            assert_eq!(
                probe.header("authorization"),
                expected,
                "{name} {}",
                probe.path
            );
        }
    }
    for path in [
        "/workers",
        "/admin/config",
        "/v1/models",
        "/admin/config/status",
    ] {
        let answer = get(smg.main(), path).await;
        assert_eq!(answer.status, 200, "{path}");
        for key in ["own-key", "pool-key"] {
            assert!(!answer.text().contains(key), "{path} tells a key");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_is_named_only_where_the_listener_says_so() {
    let engine = plain_engine().await;
    let open = gateway(
        &[&engine],
        "[[listeners]]\nname = \"open\"\naddress = \"127.0.0.1:0\"\n\
         serve = [\"inference\"]\nexpose_worker_id = true\n",
    )
    .await;
    let shut = post(open.main(), "/v1/completions", &ask()).await;
    assert_eq!(shut.status, 200);
    assert_eq!(shut.header("x-smg-routed-worker-id"), "");

    let told = post(open.address("open"), "/v1/completions", &ask()).await;
    let workers = get(open.main(), "/workers").await.json();
    let id = workers["workers"][0]["id"].as_str().unwrap();
    assert_eq!(told.header("x-smg-routed-worker-id"), id);

    let stream = post(open.address("open"), "/v1/chat/completions", &ask_stream()).await;
    assert_eq!(stream.header("x-smg-routed-worker-id"), id);
}
