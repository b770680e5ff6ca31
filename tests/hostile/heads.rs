//! Heads beyond the limits of a listener: refused in words at the limits, closed far beyond them.

use bytes::Bytes;
use http::Method;

use crate::scene::{Wire, assert_error, gateway, plain_engine, with};
use crate::support::client::request;
use crate::support::{Connection, get};

fn alive(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limits_the_answer_is_ours() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let fits = "y".repeat(31 * 1024);
    let large = "y".repeat(33 * 1024);
    let many = |count: usize| {
        (0..count)
            .map(|n| format!("x-{n}: y\r\n"))
            .collect::<String>()
    };
    let path = |length: usize| format!("/liveness?{}", "x".repeat(length - 10));
    for (sent, status, code) in [
        (alive("/liveness", &format!("x: {fits}\r\n")), 200, ""),
        (alive("/liveness", &many(99)), 200, ""),
        (alive(&path(8 * 1024), ""), 200, ""),
        (
            alive("/liveness", &format!("x: {large}\r\n")),
            431,
            "request_headers_too_large",
        ),
        (
            alive("/liveness", &many(100)),
            431,
            "request_headers_too_large",
        ),
        (alive(&path(8 * 1024 + 1), ""), 414, "uri_too_long"),
        (
            format!("GET http://{large}/liveness HTTP/1.1\r\nhost: {large}\r\n\r\n"),
            431,
            "request_headers_too_large",
        ),
    ] {
        let mut wire = Wire::connect(smg.main()).await;
        wire.write(&sent).await;
        let answer = wire.answer().await;
        if status == 200 {
            assert_eq!(answer.status, 200);
            continue;
        }
        assert_error(&answer, status, code);
        assert_eq!(answer.header("connection"), "close");
        assert_eq!(wire.until_close().await, "");
    }
    let mut h2 = Connection::h2(smg.main()).await;
    let plain = || request(Method::GET, "/liveness", Bytes::new());
    assert_error(
        &h2.send(with(plain(), "x-large", &large)).await,
        431,
        "request_headers_too_large",
    );
    let mut many = plain();
    for _ in 0..101 {
        many = with(many, "x-many", "y");
    }
    assert_error(&h2.send(many).await, 431, "request_headers_too_large");
    let long = request(Method::GET, &path(8 * 1024 + 1), Bytes::new());
    assert_error(&h2.send(long).await, 414, "uri_too_long");
    // The connection has survived.
    assert_eq!(h2.send(plain()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn far_beyond_them_the_connection_ends() {
    let engine = plain_engine().await;
    let mut smg = gateway(&[&engine], "").await;
    let before = smg.process().rss_kb();
    let huge = "y".repeat(8 * 1024 * 1024);
    let many = "x: y\r\n".repeat(200_000);
    for sent in [
        alive(&format!("/{huge}"), ""),
        alive("/liveness", &format!("x: {huge}\r\n")),
        alive("/liveness", &format!("{huge}: x\r\n")),
        alive("/liveness", &many),
        huge,
    ] {
        let mut wire = Wire::connect(smg.main()).await;
        wire.try_write(&sent).await;
        let said = wire.until_close().await;
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 4"),
            "{}",
            said.get(..200).unwrap_or(&said)
        );
    }
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
    let grown = smg.process().rss_kb().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more");
}
