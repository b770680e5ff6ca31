//! Faults: each does what it says, and leaves nothing behind.

use std::time::Duration;

use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use smg::base::clock;
use smg::cmd::sample_worker::Args;
use tokio::net::TcpStream;

use super::client::{
    CHAT, chat, content_deltas, eventually, exchange, faulty, get, post, request, send, start,
};

#[tokio::test]
async fn faults_instead_of_an_answer() {
    let worker = start(Args::default()).await;
    let status = post(&worker, CHAT, faulty("status:503", true)).await;
    assert_eq!(
        (status.status.as_u16(), &status.json()["code"]),
        (503, &json!(503))
    );
    let limited = post(&worker, CHAT, faulty("status:429;retry-after=1", false)).await;
    assert_eq!(
        (limited.status.as_u16(), limited.header("retry-after")),
        (429, "1")
    );
    let html = post(&worker, CHAT, faulty("html", false)).await;
    assert_eq!(html.status, 200);
    assert_eq!(html.header("content-type"), "text/html; charset=utf-8");
    let refused = request(Method::POST, CHAT, faulty("refuse", false).to_string());
    assert!(send(&worker, refused).await.is_err());
    assert_eq!(
        post(&worker, CHAT, faulty("nonsense", false)).await.status,
        400
    );
    let begun = clock::now();
    let slow = post(&worker, CHAT, faulty("slow-head:80ms", false)).await;
    assert!(slow.status == 200 && begun.elapsed() >= Duration::from_millis(80));
    eventually("all is answered", || worker.stats()["in_flight"] == 0).await;
    assert_eq!(worker.stats()["faults"], 5);

    let stalled = request(Method::POST, CHAT, faulty("stall-head", false).to_string());
    let stalled = tokio::time::timeout(Duration::from_millis(100), send(&worker, stalled));
    assert!(stalled.await.is_err());
    assert_eq!(worker.stats()["faults"], 6);
    eventually("the stalled one is gone", || {
        worker.stats()["in_flight"] == 0
    })
    .await;
}

/// What comes of a stream until it ends, breaks or says nothing for a while.
async fn until_silent(response: Response<Incoming>) -> (String, &'static str) {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let end = loop {
        match tokio::time::timeout(Duration::from_millis(150), body.frame()).await {
            Err(_) => break "silent",
            Ok(None) => break "ended",
            Ok(Some(Err(_))) => break "broken",
            Ok(Some(Ok(frame))) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
        }
    };
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

#[tokio::test]
async fn faults_in_a_stream() {
    let worker = start(Args::default()).await;
    for (fault, tokens, end) in [
        ("stall-first-token", 0, "silent"),
        ("stall-after:3", 3, "silent"),
        ("reset-after:0", 0, "broken"),
        ("reset-after:3", 3, "broken"),
        ("truncate-after:3", 3, "ended"),
        ("truncate-after:99", 16, "ended"),
        ("garbage-after:3", 3, "ended"),
        ("error-frame-after:3", 3, "ended"),
    ] {
        let request = request(Method::POST, CHAT, faulty(fault, true).to_string());
        let response = send(&worker, request).await.unwrap();
        assert_eq!(response.status(), 200, "{fault}");
        let (text, ended) = until_silent(response).await;
        assert_eq!(ended, end, "{fault}");
        assert_eq!(content_deltas(&text), tokens, "{fault}: {text}");
        let error = fault.starts_with("error");
        assert_eq!(text.contains("[DONE]"), error, "{fault}");
        assert_eq!(text.contains(r#"data: {"error":{"#), error, "{fault}");
        assert_eq!(
            text.contains("this is not an event"),
            fault.starts_with("garbage"),
            "{fault}"
        );
    }
    eventually("nothing is left", || worker.stats()["in_flight"] == 0).await;
    assert_eq!(worker.stats()["running"], 0);
    let body = json!({ "input": "x", "stream": true, "sample_fault": "error-frame-after:2" });
    let failed = post(&worker, "/v1/responses", body).await.events();
    assert_eq!(failed.last().unwrap()["type"], "response.failed");
    assert_eq!(
        failed.last().unwrap()["response"]["error"]["code"],
        "server_error"
    );
}

#[tokio::test]
async fn a_reset_is_one_on_the_wire() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let worker = start(Args::default()).await;
    let body = faulty("reset-after:2", true).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(worker.addr).await.unwrap();
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(content_deltas(&String::from_utf8(received).unwrap()), 2);
}

#[tokio::test]
async fn faults_in_a_whole_answer() {
    let worker = start(Args::default()).await;
    for (fault, whole) in [("truncate-after:20", true), ("reset-after:20", false)] {
        let answer = post(&worker, CHAT, faulty(fault, false)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.len(), answer.whole),
            (200, 20, whole)
        );
    }
    let garbage = post(&worker, CHAT, faulty("garbage-after:1", false)).await;
    assert!(garbage.whole && garbage.body.starts_with(b"{\x00\xff"));
    let error = post(&worker, CHAT, faulty("error-frame-after:0", false)).await;
    assert_eq!(
        (error.status.as_u16(), &error.json()["error"]["code"]),
        (200, &json!(500))
    );
}

#[tokio::test]
async fn faults_by_header_by_order_and_by_chance() {
    let worker = start(Args::default()).await;
    let mut by_header = request(Method::GET, "/health", "");
    by_header
        .headers_mut()
        .insert("x-sample-fault", "status:500".parse().unwrap());
    assert_eq!(exchange(&worker, by_header).await.status, 500);

    let order = json!({ "fault": "status:502", "times": 2 });
    assert_eq!(post(&worker, "/sample/fault", order).await.status, 200);
    assert_eq!(get(&worker, "/health").await.status, 200);
    let ask = || post(&worker, CHAT, chat("hello"));
    for status in [502, 502, 200] {
        assert_eq!(ask().await.status, status);
    }
    worker.fault(Some("status:504"), None).unwrap();
    assert_eq!(ask().await.status, 504);
    worker.fault(None, None).unwrap();
    assert_eq!(ask().await.status, 200);
    assert!(worker.fault(Some("nonsense"), None).is_err());
    let on_path = json!({ "fault": "status:503", "path": "/health" });
    assert_eq!(post(&worker, "/sample/fault", on_path).await.status, 200);
    assert_eq!(get(&worker, "/health").await.status, 503);
    assert_eq!(ask().await.status, 200);
    post(&worker, "/sample/reset", json!({})).await;
    assert_eq!(get(&worker, "/health").await.status, 200);
    assert_eq!(
        post(&worker, "/sample/fault", json!({ "falut": "refuse" }))
            .await
            .status,
        400
    );

    let failing = start(Args {
        fail_rate: 1.0,
        fail_status: 529,
        ..Args::default()
    })
    .await;
    assert_eq!(post(&failing, CHAT, chat("hello")).await.status, 529);
    assert_eq!(get(&failing, "/v1/models").await.status, 200);
}
