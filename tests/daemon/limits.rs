//! Bounds on clients: sizes, framing, and the time that they may take.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use crate::scene::{
    PATIENCE, Wire, ask, ask_stream, assert_error, gateway, ok, plain_engine, post_bytes, settled,
    with,
};
use crate::support::client::{json_request, request};
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, get, post};

/// The gateway in front of one engine, with these limits of the listener `main`.
async fn limited(engine: &FakeEngine, limits: &str) -> Smg {
    gateway(&[engine], &format!("[listeners.limits]\n{limits}\n")).await
}

/// A `POST` of `body` as a client would write it.
fn written(body: &str) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const CHUNKED: &str = "POST /v1/completions HTTP/1.1\r\nhost: x\r\n\
     content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_body_above_the_limit_is_413_whole_or_in_chunks() {
    let engine = plain_engine().await;
    let more = "[server]\nmax_payload_size = \"1KiB\"\n";
    let smg = gateway(&[&engine], more).await;

    // Declared: before a byte of it has been sent.
    let mut wire = Wire::connect(smg.main()).await;
    wire.write("POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
        .await;
    wire.write("expect: 100-continue\r\ncontent-length: 1025\r\n\r\n")
        .await;
    let answer = wire.answer().await;
    assert_error(&answer, 413, "request_body_too_large");
    assert!(answer.text().contains("1024"), "{}", answer.text());
    wire.until_close().await;

    // In chunks: as soon as the limit is passed.
    let mut wire = Wire::connect(smg.main()).await;
    wire.write(CHUNKED).await;
    wire.write(format!("401\r\n{}\r\n", " ".repeat(0x401)))
        .await;
    assert_error(&wire.answer().await, 413, "request_body_too_large");
    wire.until_close().await;

    let body = |length: usize| {
        let head = "{\"model\":\"m\",\"prompt\":\"";
        format!("{head}{}\"}}", "x".repeat(length - head.len() - 2))
    };
    let mut connections = [
        Connection::h1(smg.main()).await,
        Connection::h2(smg.main()).await,
    ];
    for connection in &mut connections {
        let exact = connection.send(post_bytes("/generate", body(1024))).await;
        assert_eq!(exact.status, 200, "{}", exact.text());
        let above = connection.send(post_bytes("/generate", body(1025))).await;
        assert_error(&above, 413, "request_body_too_large");
    }
    assert_eq!(engine.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_gets_it() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let mut wire = Wire::connect(smg.main()).await;
    let sent = written(&ask().to_string());
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    wire.write(format!("{head}\r\nexpect: 100-continue\r\n\r\n"))
        .await;
    assert!(wire.until("\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
    wire.write(body).await;
    assert_eq!(wire.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_415() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    for coding in ["gzip", "br", "deflate, gzip"] {
        let mut connection = Connection::h1(smg.main()).await;
        let request = with(
            json_request("/v1/completions", &ask()),
            "content-encoding",
            coding,
        );
        let answer = connection.send(request).await;
        assert_error(&answer, 415, "unsupported_encoding");
    }
    assert!(engine.calls().is_empty());
    let mut connection = Connection::h1(smg.main()).await;
    let request = with(
        json_request("/v1/completions", &ask()),
        "content-encoding",
        "identity",
    );
    assert_eq!(connection.send(request).await.status, 200);
}

/// A request with two framings, followed by what one of them would take for another request.
async fn smuggle(smg: &Smg, lines: [&str; 2]) -> String {
    let body = ask().to_string();
    let mut wire = Wire::connect(smg.main()).await;
    wire.write(format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         {}\r\n{}\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n\
         GET /liveness HTTP/1.1\r\nhost: smuggled\r\n\r\n",
        lines[0],
        lines[1],
        body.len(),
    ))
    .await;
    let answer = wire.until_close().await;
    let answers = answer.matches("HTTP/1.1 ").count();
    assert_eq!(answers, 1, "{lines:?}: {answer}");
    answer
}

/// The HTTP library takes the chunks for the body and closes afterwards, as RFC 9112 §6.3 allows.
#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_never_reach_a_worker() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let length = format!("content-length: {}", ask().to_string().len());
    for lines in [
        [length.as_str(), "transfer-encoding: chunked"],
        ["transfer-encoding: chunked", length.as_str()],
        ["transfer-encoding: chunked", "content-length: 0"],
        ["content-length: 3", "transfer-encoding: chunked"],
    ] {
        smuggle(&smg, lines).await;
        for call in engine.calls() {
            assert_eq!(call.header("transfer-encoding"), None);
            assert_eq!(call.body, ask().to_string().as_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framing_that_means_nothing_is_refused() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let length = format!("content-length: {}", ask().to_string().len());
    for lines in [
        ["content-length: 3", length.as_str()],
        ["content-length: 3, 5", "x-x: y"],
        ["content-length: +5", "x-x: y"],
        ["content-length: -1", "x-x: y"],
        ["transfer-encoding: gzip", "x-x: y"],
        ["transfer-encoding: gzip, chunked", "x-x: y"],
        ["transfer-encoding: chunked, identity", "x-x: y"],
        ["transfer-encoding: \x0bchunked", "x-x: y"],
        ["transfer-encoding : chunked", "x-x: y"],
    ] {
        let answer = smuggle(&smg, lines).await;
        assert!(
            answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 501 "),
            "{lines:?}: {answer}"
        );
    }
    assert!(engine.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_target_is_414() {
    let engine = plain_engine().await;
    let smg = limited(&engine, "max_uri_bytes = \"256B\"").await;
    let path = |length: usize| format!("/liveness?{}", "x".repeat(length - 10));
    let mut wire = Wire::connect(smg.main()).await;
    wire.write(format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", path(256)))
        .await;
    assert_eq!(wire.answer().await.status, 200);
    wire.write(format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", path(257)))
        .await;
    assert_error(&wire.answer().await, 414, "uri_too_long");
    wire.until_close().await;
    let mut h2 = Connection::h2(smg.main()).await;
    let answer = h2
        .send(request(Method::GET, &path(257), Bytes::new()))
        .await;
    assert_error(&answer, 414, "uri_too_long");

    // Longer than any buffer: whoever refuses it, the connection ends.
    let mut wire = Wire::connect(smg.main()).await;
    wire.try_write(format!(
        "GET /{} HTTP/1.1\r\nhost: x\r\n\r\n",
        "x".repeat(4_000_000)
    ))
    .await;
    let answer = wire.until_close().await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_or_many_headers_are_431() {
    let engine = plain_engine().await;
    let smg = limited(&engine, "max_header_bytes = \"4KiB\"\nmax_headers = 20").await;
    let get = |headers: &str| format!("GET /liveness HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let many = |count: usize| {
        (0..count)
            .map(|n| format!("x-{n}: y\r\n"))
            .collect::<String>()
    };

    let mut wire = Wire::connect(smg.main()).await;
    wire.write(get(&many(19))).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.write(get(&format!("x: {}\r\n", "y".repeat(3_900))))
        .await;
    assert_eq!(wire.answer().await.status, 200);

    wire.write(get(&many(20))).await;
    assert_error(&wire.answer().await, 431, "request_headers_too_large");
    wire.until_close().await;
    let mut wire = Wire::connect(smg.main()).await;
    wire.write(get(&format!("x: {}\r\n", "y".repeat(4_200))))
        .await;
    assert_error(&wire.answer().await, 431, "request_headers_too_large");
    wire.until_close().await;

    for headers in [many(500), format!("x: {}\r\n", "y".repeat(4_000_000))] {
        let mut wire = Wire::connect(smg.main()).await;
        wire.try_write(get(&headers)).await;
        let answer = wire.until_close().await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    }
    let mut h2 = Connection::h2(smg.main()).await;
    let large = with(
        request(Method::GET, "/liveness", Bytes::new()),
        "x-large",
        &"y".repeat(4_200),
    );
    assert_error(&h2.send(large).await, 431, "request_headers_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_a_head_can_be_wide() {
    let engine = plain_engine().await;
    let limits = "max_header_bytes = \"1MiB\"\nmax_uri_bytes = \"64KiB\"\nmax_headers = 1000";
    let smg = limited(&engine, limits).await;
    for h2 in [false, true] {
        let mut connection = if h2 {
            Connection::h2(smg.main()).await
        } else {
            Connection::h1(smg.main()).await
        };
        let path = format!("/liveness?{}", "x".repeat(60_000));
        let mut asked = request(Method::GET, &path, Bytes::new());
        for n in 0..900 {
            let value = format!("{n}{}", "y".repeat(1_000));
            asked = with(asked, "x-repeated", &value);
        }
        assert_eq!(connection.send(asked).await.status, 200, "HTTP/2: {h2}");
        // Above the limit, but not above what is read: the answer is the gateway's own.
        let large = "y".repeat(1_060_000);
        let asked = with(
            request(Method::GET, "/liveness", Bytes::new()),
            "x-large",
            &large,
        );
        let answer = connection.send(asked).await;
        assert_error(&answer, 431, "request_headers_too_large");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_408() {
    let engine = plain_engine().await;
    let smg = limited(&engine, "body_timeout = \"300ms\"").await;
    for start in [
        "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{\"model\":",
        "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n9\r\n{\"model\":\r\n",
    ] {
        let started = Instant::now();
        let mut wire = Wire::connect(smg.main()).await;
        wire.write(start).await;
        let answer = wire.answer().await;
        assert_error(&answer, 408, "request_body_timeout");
        assert_eq!(answer.header("connection"), "close");
        assert!(started.elapsed() >= Duration::from_millis(300));
        wire.until_close().await;
    }
    // One that is slow but never silent for so long is served.
    let mut wire = Wire::connect(smg.main()).await;
    let sent = written(&ask().to_string());
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    wire.write(format!("{head}\r\n\r\n")).await;
    for part in body.as_bytes().chunks(6) {
        tokio::time::sleep(Duration::from_millis(100)).await; // the pace of the client
        wire.write(part).await;
    }
    assert_eq!(wire.answer().await.status, 200);
}

/// The rate is judged after ten seconds, which this test takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_creeps_is_408() {
    let engine = plain_engine().await;
    let smg = limited(&engine, "min_body_rate = \"1KiB\"").await;
    let mut wire = Wire::connect(smg.main()).await;
    wire.write(CHUNKED).await;
    let creeping = async {
        while wire.try_write("1\r\n \r\n").await {
            tokio::time::sleep(Duration::from_millis(200)).await; // the pace of the client
        }
    };
    // The answer comes while the client is still writing.
    assert!(
        tokio::time::timeout(PATIENCE, creeping).await.is_ok(),
        "it may creep on"
    );
    let answer = wire.until_close().await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
    assert!(engine.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_closes_the_connection() {
    let engine = plain_engine().await;
    let smg = limited(&engine, "header_timeout = \"300ms\"").await;
    let started = Instant::now();
    let mut first = Wire::connect(smg.main()).await;
    first.write("GET /liveness HTTP/1.1\r\nhost: x\r\n").await;
    first.until_close().await;
    assert!(started.elapsed() >= Duration::from_millis(300));

    // Byte by byte, and after a request that was served.
    let mut wire = Wire::connect(smg.main()).await;
    wire.write("GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(wire.answer().await.status, 200);
    let drip = async {
        wire.write("GET /liveness HTTP/1.1\r\nx: ").await;
        while wire.try_write("y").await {
            tokio::time::sleep(Duration::from_millis(20)).await; // the pace of the client
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, drip).await.is_ok(),
        "it may drip on"
    );
    assert!(!wire.until_close().await.contains(" 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed_after_a_while() {
    let gate = Gate::closed();
    let engine = {
        let gate = gate.clone();
        FakeEngine::serving("m", move |_| vec![Step::Hold(gate.clone()), ok()]).await
    };
    let smg = limited(
        &engine,
        "idle_timeout = \"400ms\"\nheader_timeout = \"100ms\"",
    )
    .await;
    let started = Instant::now();
    let mut unused = Wire::connect(smg.main()).await;
    let mut used = Wire::connect(smg.main()).await;
    let mut busy = Wire::connect(smg.main()).await;
    busy.write(written(&ask().to_string())).await;
    used.write("GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_eq!(used.answer().await.status, 200);

    assert_eq!(unused.until_close().await, "");
    assert!(started.elapsed() >= Duration::from_millis(400));
    assert_eq!(used.until_close().await, "");
    // One whose request is under way stands as long as that takes, and is idle only afterwards.
    gate.open();
    assert_eq!(busy.answer().await.status, 200);
    assert_eq!(busy.until_close().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_http_2_connection_is_closed_too() {
    let engine = plain_engine().await;
    let smg = limited(&engine, "idle_timeout = \"300ms\"").await;
    let mut connection = Connection::h2(smg.main()).await;
    let alive = || request(Method::GET, "/liveness", Bytes::new());
    assert_eq!(connection.send(alive()).await.status, 200);
    eventually(PATIENCE, async || {
        smg.metrics()
            .await
            .sum("smg_http_connections_active", &[("listener", "main")])
            == 0.0
    })
    .await;
    assert!(connection.try_send(alive()).await.is_err());
}

/// An endless answer that a client asks for and does not read.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_off_and_the_worker_released() {
    let engine = FakeEngine::serving("m", |_| {
        let event = format!("data: {}\n\n", "x".repeat(64 * 1024));
        let mut steps = vec![Step::sse_head()];
        steps.extend((0..2_000).map(|_| Step::write(&event)));
        steps
    })
    .await;
    let more = "[listeners.limits]\nwrite_timeout = \"500ms\"\n\
                [pools.connections]\nmax_idle_per_host = 0\n";
    let smg = gateway(&[&engine], more).await;
    let mut wire = Wire::connect(smg.main()).await;
    let asked = ask_stream().to_string();
    wire.write(written(&asked)).await;
    wire.until("\r\n\r\n").await;
    eventually(PATIENCE, async || engine.connections() == 0).await;
    settled(&smg).await;
    let read = wire.until_close().await;
    assert!(!read.ends_with("0\r\n\r\n"), "it looks like a clean end");
}

/// The same over HTTP/2, where the connection itself is never stalled: its frames still pass.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_is_reset_and_the_worker_released() {
    let engine = FakeEngine::serving("m", |_| {
        let event = format!("data: {}\n\n", "x".repeat(64 * 1024));
        let mut steps = vec![Step::sse_head()];
        steps.extend((0..2_000).map(|_| Step::write(&event)));
        steps
    })
    .await;
    let more = "[listeners.limits]\nwrite_timeout = \"500ms\"\n\
                [pools.connections]\nmax_idle_per_host = 0\n";
    let smg = gateway(&[&engine], more).await;
    let mut connection = Connection::h2(smg.main()).await;
    let stream = connection
        .open(json_request("/v1/completions", &ask_stream()))
        .await;
    eventually(PATIENCE, async || engine.connections() == 0).await;
    settled(&smg).await;
    drop(stream);
    let alive = request(Method::GET, "/liveness", Bytes::new());
    assert_eq!(connection.send(alive).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_wait_for_room() {
    let engine = plain_engine().await;
    let smg = limited(&engine, "max_connections = 2").await;
    let alive = "GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut open = [
        Wire::connect(smg.main()).await,
        Wire::connect(smg.main()).await,
    ];
    for wire in &mut open {
        wire.write(alive).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    let mut waiting = Wire::connect(smg.main()).await;
    waiting.write(alive).await;
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.answer()).await;
    assert!(early.is_err(), "there was no room yet");
    let [first, _second] = open;
    drop(first);
    assert_eq!(waiting.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_may_be_given_only_so_many_connections() {
    let engine = plain_engine().await;
    let smg = limited(&engine, "max_connections_per_ip = 2").await;
    let alive = "GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut open = [
        Wire::connect(smg.main()).await,
        Wire::connect(smg.main()).await,
    ];
    for wire in &mut open {
        wire.write(alive).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    let mut third = Wire::connect(smg.main()).await;
    third.try_write(alive).await;
    assert_eq!(third.until_close().await, "");
    drop(open);
    eventually(PATIENCE, async || {
        let mut wire = Wire::connect(smg.main()).await;
        wire.try_write(alive).await && wire.until_or_close("OK").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_written_ahead_are_answered_in_order() {
    let engine = FakeEngine::serving("m", |asked| vec![Step::json(200, &asked.json())]).await;
    let smg = gateway(&[&engine], "").await;
    let mut wire = Wire::connect(smg.main()).await;
    let requests: String = (0..5)
        .map(|n| written(&format!("{{\"model\":\"m\",\"prompt\":\"{n}\"}}")))
        .collect();
    wire.write(requests).await;
    for n in 0..5 {
        assert_eq!(wire.answer().await.json()["prompt"], n.to_string());
    }
    assert_eq!(post(smg.main(), "/generate", &ask()).await.status, 200);
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
}
