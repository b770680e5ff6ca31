//! Workers whose answers break the rules: what they say does not become a second answer, a header of
//! the gateway's, or the answer to somebody else, and it ends.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::scene::{PATIENCE, Wire, ask, ask_stream, gateway, ok, settled, silent_engine};
use crate::support::client::json_request;
use crate::support::{Connection, FakeEngine, Smg, Step, eventually, post};

/// One attempt, and a second for the head.
const ONCE: &str = "[reliability.retry]\nenabled = false\n[reliability.timeouts]\nheaders = \"1s\"\n\
    first_token = \"1s\"\nidle = \"1s\"\n";

async fn answering(bytes: Vec<u8>) -> (Smg, FakeEngine) {
    let engine = silent_engine(move |_| vec![Step::Write(bytes.clone()), Step::Close]).await;
    let smg = gateway(&[&engine], ONCE).await;
    (smg, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_malformed_are_502() {
    let rest = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    for head in [
        "HTTP/1.1 200 OK\r\nx: a\rb\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\n",
        "HTTP/1.1 200 OK\r\nx: a\x01b\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n folded: b\r\n",
        "HTTP/1.1 200 OK\r\n x: a\r\n",
        "HTTP/1.1 200 OK\r\nx\0y: a\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n",
        "HTTP/1.1 200 OK\r\n: a\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2x\r\n",
        "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "HTTP/1.1 abc OK\r\n",
        "HTTP/1.1 000 OK\r\n",
        "HTTP/3.0 200 OK\r\n",
        "ICY 200 OK\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\x15\x03\x01\0\x02\x02\x46\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
    ] {
        let (smg, _engine) = answering(format!("{head}{rest}").into_bytes()).await;
        for path in ["/v1/completions", "/v1/chat/completions"] {
            let answer = post(smg.main(), path, &ask_stream()).await;
            assert_eq!(answer.status, 502, "{head:?}: {answer:?}");
            assert!(!answer.headers.contains_key("x"), "{head:?}");
            assert!(!answer.headers.contains_key("folded"), "{head:?}");
        }
    }
}

/// Values that are no ASCII pass as they are, in one line; what would be a line of its own does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_headers_of_one_answer() {
    let (smg, _engine) = answering(
        "HTTP/1.1 200 OK\r\nx-a: \u{e9}\u{85}\u{2028}set-cookie: a=b\r\n\
         x-b: %0d%0aset-cookie: a=b\r\ncontent-length: 2\r\n\r\n{}"
            .as_bytes()
            .to_vec(),
    )
    .await;
    let mut wire = Wire::connect(smg.main()).await;
    let body = ask().to_string();
    wire.write(format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    let said = wire.until_close().await;
    let lines: Vec<&str> = said.split("\r\n").collect();
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert!(
        !lines.iter().any(|line| line.starts_with("set-cookie")),
        "{said}"
    );
    assert_eq!(said.matches("HTTP/1.1").count(), 1);
}

/// Both are there on the worker's side; the client gets one framing.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_two_framings_reaches_a_client_with_one() {
    let (smg, _engine) = answering(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\
          transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nx-hidden: 1\r\n\r\n"
            .to_vec(),
    )
    .await;
    let mut wire = Wire::connect(smg.main()).await;
    let body = ask().to_string();
    wire.write(format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    let said = wire.until_close().await;
    assert!(!said.contains("x-hidden"), "{said}");
    let head = said.split("\r\n\r\n").next().unwrap();
    let framings = ["content-length:", "transfer-encoding:"]
        .iter()
        .filter(|name| head.contains(**name))
        .count();
    assert!(framings <= 1, "{said}");
}

/// What follows an answer on a kept connection is nobody's answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_is_not_given_to_the_next_request() {
    let engine = silent_engine(|asked| {
        let poison = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
             content-length: 17\r\n\r\n{\"poison\": true }";
        let Step::Write(mut bytes) = Step::json(200, &asked.json()) else {
            unreachable!("an answer is written")
        };
        bytes.extend_from_slice(poison.repeat(3).as_bytes());
        vec![Step::Write(bytes)]
    })
    .await;
    let smg = gateway(&[&engine], "").await;
    for n in 0..50 {
        let body = json!({ "model": "m", "prompt": n.to_string() });
        let answer = post(smg.main(), "/v1/completions", &body).await;
        assert_eq!((answer.status, answer.json()), (200, body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_answers_without_end_run_into_the_deadline() {
    for head in [
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        format!(
            "HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n",
            "x".repeat(8_000)
        ),
    ] {
        let (engine, url) = endless(head.clone().into_bytes(), head.into_bytes()).await;
        let mut smg = Smg::start(&crate::scene::config(&[url], ONCE)).await;
        let before = smg.process().rss_kb();
        let answer = post(smg.main(), "/v1/completions", &ask_stream()).await;
        assert!(matches!(answer.status, 502 | 504), "{}", answer.text());
        let grown = smg.process().rss_kb().saturating_sub(before);
        assert!(grown < 32 * 1024, "{grown} KiB more");
        settled(&smg).await;
        engine.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_end_are_502_and_cost_little() {
    for line in [
        "x: y\r\n".to_owned(),
        format!("x: {}\r\n", "y".repeat(8_000)),
        "y".repeat(8_000),
    ] {
        let start = b"HTTP/1.1 200 OK\r\n".to_vec();
        let (engine, url) = endless(start, line.into_bytes()).await;
        let mut smg = Smg::start(&crate::scene::config(&[url], ONCE)).await;
        let before = smg.process().rss_kb();
        for _ in 0..5 {
            let answer = post(smg.main(), "/v1/completions", &ask()).await;
            assert!(matches!(answer.status, 502 | 504), "{}", answer.text());
        }
        let grown = smg.process().rss_kb().saturating_sub(before);
        assert!(grown < 32 * 1024, "{grown} KiB more");
        engine.abort();
    }
}

/// A worker that answers every request with `start`, and then with `more` until nobody listens.
async fn endless(start: Vec<u8>, more: Vec<u8>) -> (tokio::task::AbortHandle, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new(); // aborted with this task
        while let Ok((mut stream, _)) = listener.accept().await {
            let (start, more) = (start.clone(), more.clone());
            open.spawn(async move {
                if stream.write_all(&start).await.is_ok() {
                    while stream.write_all(&more).await.is_ok() {}
                }
            });
        }
    });
    (serving.abort_handle(), url)
}

/// An answer that is cut short is never a whole one to the client.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_break_off_end_unclean() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n";
    for tail in [
        "content-length: 100\r\n\r\nshort",
        "transfer-encoding: chunked\r\n\r\n64\r\nshort",
        "transfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nshortXX\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nshort\r\ng\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nshort\r\n-1\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nshort\r\nfffffffffffffffff\r\n",
    ] {
        let (smg, _engine) = answering(format!("{head}{tail}").into_bytes()).await;
        for mut connection in [
            Connection::h1(smg.main()).await,
            Connection::h2(smg.main()).await,
        ] {
            let request = json_request("/v1/completions", &ask());
            if let Ok(answer) = connection.try_send(request).await {
                assert_eq!(answer.status, 502, "{tail:?}: {answer:?}");
            }
        }
        settled(&smg).await;
    }
}

/// A length that is shorter than what is sent hides nothing behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_longer_than_it_says_is_cut() {
    let (smg, _engine) = answering(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n".to_vec(),
    )
    .await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
}

/// Lists of models that try to be something else.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_worker_makes_up_stay_names() {
    let long = "l".repeat(100_000);
    let names = json!({ "object": "list", "data": [
        { "id": "a\r\nx-injected: 1", "object": "model" },
        { "id": "b\"} 1\nsmg_injected 1\n", "object": "model" },
        { "id": "\u{1b}[31mred", "object": "model" },
        { "id": long, "object": "model" },
        { "id": "m", "object": "model" },
    ] });
    let engine = FakeEngine::start(move |asked| match asked.path.as_str() {
        "/v1/models" => vec![Step::json(200, &names)],
        "/health" => vec![Step::answer(200, "text/plain", "OK")],
        _ => vec![ok()],
    })
    .await;
    let smg = Smg::start(&format!(
        "{}[[pools]]\nname = \"p\"\nworkers = [\"{}\"]\n[reliability.health]\nstartup_check_interval = \"50ms\"\n",
        crate::scene::LISTENERS.replace("\"probes\"]", "\"probes\"]\nexpose_decision = true"),
        engine.url()
    ))
    .await;
    eventually(PATIENCE, async || {
        post(smg.main(), "/v1/completions", &ask()).await.status == 200
    })
    .await;
    for model in [
        "a\r\nx-injected: 1",
        "b\"} 1\nsmg_injected 1\n",
        "\u{1b}[31mred",
    ] {
        let body = json!({ "model": model, "prompt": "hi" });
        let answer = post(smg.main(), "/v1/completions", &body).await;
        assert!(!answer.headers.contains_key("x-injected"), "{answer:?}");
        for (_, value) in &answer.headers {
            assert!(
                value
                    .as_bytes()
                    .iter()
                    .all(|byte| (b' '..=b'~').contains(byte))
            );
        }
    }
    let metrics = crate::support::get(smg.address("metrics"), "/metrics")
        .await
        .text();
    assert!(
        !metrics.lines().any(|line| line.starts_with("smg_injected")),
        "a name has become a line"
    );
    tokio::time::timeout(Duration::from_secs(10), settled(&smg))
        .await
        .unwrap();
}
