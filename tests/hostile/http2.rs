//! Requests of HTTP/2 that break its rules: a stream or the connection ends, and nothing reaches a
//! worker.

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, Raw, alive, block, completion, frame,
};
use crate::recorder::Recorder;
use crate::scene::{ask, config};
use crate::support::{Smg, get};

const PROTOCOL_ERROR: u32 = 1;

async fn recorded() -> (Smg, Recorder) {
    let worker = Recorder::start().await;
    let smg = Smg::start(&config(&[worker.url()], "")).await;
    (smg, worker)
}

/// A `POST` of the usual body with these headers in place of the usual ones.
fn post(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(headers));
    bytes.extend(frame(DATA, END_STREAM, 1, ask().to_string().as_bytes()));
    bytes
}

const METHOD: (&str, &str) = (":method", "POST");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/v1/completions");
const HOST: (&str, &str) = (":authority", "x");
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_order_is_served() {
    let (smg, worker) = recorded().await;
    let mut raw = Raw::connect(smg.main()).await;
    raw.write(post(&[
        METHOD,
        SCHEME,
        PATH,
        HOST,
        JSON,
        ("te", "trailers"),
        ("host", "X"),
    ]))
    .await;
    assert_eq!(raw.outcome(1).await, Outcome::Answered);
    assert_eq!(worker.bodies(), [ask().to_string().into_bytes()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_heads_reach_no_worker() {
    let (smg, worker) = recorded().await;
    let usual = [METHOD, SCHEME, PATH, HOST, JSON];
    let with = |name, value| [METHOD, SCHEME, PATH, HOST, JSON, (name, value)].to_vec();
    let path = |path| vec![METHOD, SCHEME, (":path", path), HOST, JSON];
    let cases: Vec<Vec<(&str, &str)>> = vec![
        // Names in upper case, and names that are none.
        with("X-Upper", "1"),
        with("Content-Length", "3"),
        with("x y", "1"),
        with("x\0y", "1"),
        with("x:y", "1"),
        with("", "1"),
        with("transfer-encoding: chunked\r\nx", "1"),
        // Values that would be more than one line of HTTP/1.
        with("x", "a\r\nauthorization: Bearer x"),
        with("x-request-id", "a\nb"),
        with("traceparent", "a\0b"),
        // What belongs to a connection of HTTP/1.
        with("connection", "close"),
        with("keep-alive", "timeout=5"),
        with("proxy-connection", "keep-alive"),
        with("transfer-encoding", "chunked"),
        with("upgrade", "h2c"),
        with("te", "gzip"),
        // Pseudo headers: twice, unknown, of an answer, behind the others, missing.
        with(":path", "/v1/chat/completions"),
        with(":unknown", "1"),
        with(":status", "200"),
        vec![METHOD, SCHEME, HOST, JSON, PATH],
        vec![SCHEME, PATH, HOST, JSON],
        vec![METHOD, PATH, HOST, JSON],
        vec![METHOD, SCHEME, HOST, JSON],
        [usual.as_slice(), &[METHOD]].concat(),
        // Targets.
        path(""),
        path("v1/completions"),
        path("@127.0.0.1/v1/completions"),
        path("/v1/completions HTTP/1.1\r\nx: y"),
        path("/v1/comp\0letions"),
        path("http://x/v1/completions"),
        path("*"),
        vec![("!:method", "POST"), SCHEME, PATH, HOST, JSON],
        vec![(":method", "PO ST"), SCHEME, PATH, HOST, JSON],
        vec![METHOD, SCHEME, PATH, (":authority", "a b"), JSON],
        vec![METHOD, SCHEME, PATH, (":authority", "u:p@x/y"), JSON],
        // Two hosts, and a length that is not that of the body.
        with("host", "other"),
        with("content-length", "3"),
        with("content-length", "100000"),
        with("content-length", "-1"),
    ];
    for case in cases {
        let mut raw = Raw::connect(smg.main()).await;
        raw.write(post(&case)).await;
        // Refused in words, by a reset, or by the end of the connection.
        let outcome = raw.outcome(1).await;
        assert!(
            matches!(
                outcome,
                Outcome::Answered | Outcome::Reset(PROTOCOL_ERROR) | Outcome::Ended(_)
            ),
            "{case:?}: {outcome:?}"
        );
        assert_eq!(worker.bodies(), Vec::<Vec<u8>>::new(), "{case:?}");
    }
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_and_the_others_stand() {
    let (smg, _worker) = recorded().await;
    let mut raw = Raw::connect(smg.main()).await;
    // A hundred may be open; these wait for their bodies.
    let mut bytes = Vec::new();
    for n in 0..100 {
        bytes.extend(completion(2 * n + 1));
    }
    bytes.extend(alive(201));
    raw.write(bytes).await;
    const REFUSED_STREAM: u32 = 7;
    let outcome = raw.outcome(201).await;
    assert!(
        matches!(outcome, Outcome::Reset(REFUSED_STREAM) | Outcome::Ended(_)),
        "{outcome:?}"
    );
    if outcome == Outcome::Reset(REFUSED_STREAM) {
        let body = ask().to_string();
        raw.write(frame(DATA, END_STREAM, 1, body.as_bytes())).await;
        assert_eq!(raw.outcome(1).await, Outcome::Answered);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_make_no_sense_end_the_connection() {
    let (smg, worker) = recorded().await;
    for bytes in [
        frame(DATA, 0, 1, b"before its head"),
        frame(HEADERS, END_HEADERS, 0, &block(&[METHOD])),
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2,
            &block(&[METHOD, SCHEME, PATH, HOST]),
        ),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 200]),
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &[0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ),
        frame(HEADERS | 0x8, END_HEADERS | 0x8, 1, &[255, 0]),
        frame(4, 0, 0, &[0; 5]),
        frame(4, 0, 1, &[]),
        frame(8, 0, 0, &[0; 4]),
        frame(5, 4, 1, &[0; 8]),
        [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 1000]].concat(),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
    ] {
        let mut raw = Raw::connect(smg.main()).await;
        raw.write(&bytes).await;
        // A connection that still stands answers this; one that has ended does not.
        raw.write(alive(101)).await;
        let outcome = raw.outcome(101).await;
        assert!(
            matches!(outcome, Outcome::Ended(_)),
            "{bytes:?}: {outcome:?}"
        );
    }
    assert_eq!(worker.bodies(), Vec::<Vec<u8>>::new());
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
}
