//! Heads and bodies that two readers could read in two ways. Whatever the gateway makes of them, a
//! worker gets one framing, the client at most one answer, and the connection ends where in doubt.

use std::net::SocketAddr;

use crate::recorder::Recorder;
use crate::scene::{Wire, ask, config};
use crate::support::{Smg, get};

/// What a request that hides in another one would ask for.
const HIDDEN: &str = "POST /v1/completions HTTP/1.1\r\nhost: x\r\n\
    content-type: application/json\r\ncontent-length: 27\r\n\r\n{\"model\":\"m\",\"prompt\":\"no\"}";

const START: &str =
    "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";

/// A gateway without probes before a worker that keeps what it is sent.
async fn recorded() -> (Smg, Recorder) {
    let worker = Recorder::start().await;
    let smg = Smg::start(&config(&[worker.url()], "")).await;
    (smg, worker)
}

fn body() -> String {
    ask().to_string()
}

/// The body in one chunk of this size line, and the end of the chunks.
fn chunk(size: &str) -> String {
    format!("{size}\r\n{}\r\n0\r\n\r\n", body())
}

fn right_size() -> String {
    format!("{:x}", body().len())
}

fn length() -> String {
    format!("content-length: {}", body().len())
}

/// Everything that is answered to these bytes until the connection ends.
async fn said(to: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut wire = Wire::connect(to).await;
    wire.try_write(bytes).await;
    wire.until_close().await
}

/// The statuses of the answers.
fn statuses(said: &str) -> Vec<u16> {
    let answers = said.split("HTTP/1.1 ").skip(1);
    // A message may speak of the protocol, too.
    answers
        .filter_map(|answer| answer.get(..3)?.parse().ok())
        .collect()
}

/// Writes each head with the body behind it and a hidden request behind that. Each is refused, and
/// the connection closed. Nothing of it reaches the worker.
async fn refused(heads: &[(&str, &str)]) {
    let (smg, worker) = recorded().await;
    for (lines, body) in heads {
        let said = said(smg.main(), format!("{START}{lines}\r\n\r\n{body}{HIDDEN}")).await;
        let statuses = statuses(&said);
        assert!(
            matches!(statuses[..], [] | [400 | 413 | 431 | 501]),
            "{lines:?}: {said}"
        );
    }
    assert_eq!(worker.bodies(), Vec::<Vec<u8>>::new());
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_ends_the_connection_and_is_one_framing_behind_it() {
    let (smg, worker) = recorded().await;
    let length = length();
    for lines in [
        format!("{length}\r\ntransfer-encoding: chunked"),
        format!("transfer-encoding: chunked\r\n{length}"),
        "content-length: 0\r\ntransfer-encoding: chunked".to_owned(),
        format!("Content-Length: 6\r\nTRANSFER-ENCODING: CHUNKED\r\n{length}"),
    ] {
        let before = worker.bodies().len();
        let sent = format!("{START}{lines}\r\n\r\n{}{HIDDEN}", chunk(&right_size()));
        let said = said(smg.main(), sent).await;
        assert!(
            matches!(statuses(&said)[..], [] | [200 | 400]),
            "{lines:?}: {said}"
        );
        // If it was taken, then by its chunks.
        let all = worker.bodies();
        assert!(all.len() <= before + 1, "{lines:?}");
        assert!(
            all.iter().all(|taken| *taken == body().as_bytes()),
            "{lines:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_differ_or_are_none() {
    let length = length();
    let differing = format!("{length}\r\ncontent-length: 3");
    let reversed = format!("content-length: 3\r\n{length}");
    let listed = format!("{length}, 3");
    let padded = length.replace(": ", ": 0x");
    let plus = length.replace(": ", ": +");
    let exponent = format!("{length}e0");
    let spaced = length.replace(": ", ": 1 ");
    let body = body();
    refused(&[
        (&differing, &body),
        (&reversed, &body),
        (&listed, &body),
        (&padded, &body),
        (&plus, &body),
        (&exponent, &body),
        (&spaced, &body),
        ("content-length: -1", &body),
        ("content-length:", &body),
        ("content-length: 18446744073709551616", &body),
        ("content-length: 99999999999999999999999999", &body),
        ("content-length: \u{ff11}", &body),
    ])
    .await;
}

/// Equal ones may be taken for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_given_twice_is_refused_or_one_behind_the_gateway() {
    let (smg, worker) = recorded().await;
    let length = length();
    let count = body().len();
    for lines in [
        format!("{length}\r\n{length}"),
        format!("{length}, {count}"),
    ] {
        let sent = format!("{START}connection: close\r\n{lines}\r\n\r\n{}", body());
        let said = said(smg.main(), sent).await;
        assert!(
            matches!(statuses(&said)[..], [200 | 400]),
            "{lines:?}: {said}"
        );
    }
    assert!(
        worker
            .bodies()
            .iter()
            .all(|taken| *taken == body().as_bytes())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_codings_other_than_chunked_once() {
    let chunked = chunk(&right_size());
    let body = chunked.as_str();
    refused(&[
        ("transfer-encoding: identity, chunked", body),
        ("transfer-encoding: chunked, identity", body),
        ("transfer-encoding: chunked, chunked", body),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            body,
        ),
        (
            "transfer-encoding: identity\r\ntransfer-encoding: chunked",
            body,
        ),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: identity",
            body,
        ),
        ("transfer-encoding: gzip, chunked", body),
        ("transfer-encoding: identity", body),
        ("transfer-encoding: xchunked", body),
        ("transfer-encoding: chunkedx", body),
        ("transfer-encoding: \"chunked\"", body),
        ("transfer-encoding: chunked;q=1", body),
        ("transfer-encoding:", body),
        ("transfer-encoding: \x0bchunked", body),
        ("transfer-encoding : chunked", body),
        ("transfer-encoding\t: chunked", body),
        (" transfer-encoding: chunked", body),
        ("x: y\r\n transfer-encoding: chunked", body),
        ("transfer-encoding:\r\n chunked", body),
        ("transfer-encoding: chunked\0", body),
    ])
    .await;
    // HTTP/1.0 has no chunks.
    let (smg, worker) = recorded().await;
    let start = START.replace("HTTP/1.1", "HTTP/1.0");
    let said = said(
        smg.main(),
        format!("{start}transfer-encoding: chunked\r\n\r\n{body}"),
    )
    .await;
    assert!(!said.contains(" 200 "), "{said}");
    assert!(worker.bodies().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_malformed() {
    let length = length();
    let body = body();
    let heads = [
        format!("x: y\r\n folded\r\n{length}"),
        format!("x: y\r\n\tfolded\r\n{length}"),
        format!(" x: y\r\n{length}"),
        length.replace(':', " :"),
        length.replace(':', "\t:"),
        format!("x: a\0b\r\n{length}"),
        format!("x: a\x01b\r\n{length}"),
        format!("x: a\x7fb\r\n{length}"),
        format!("x: a\rb\r\n{length}"),
        format!("x\0: a\r\n{length}"),
        format!("x y: a\r\n{length}"),
        format!("x(y): a\r\n{length}"),
        format!("x\u{e9}: a\r\n{length}"),
        format!(": a\r\n{length}"),
        format!("no colon\r\n{length}"),
        format!("{length}\r\nhost: x"),
        format!("{length}\r\nhost: other"),
    ];
    let heads: Vec<_> = heads
        .iter()
        .map(|head| (head.as_str(), body.as_str()))
        .collect();
    refused(&heads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_lines_that_are_none() {
    let (smg, worker) = recorded().await;
    let rest = "host: x\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n";
    for line in [
        "POST /v1/completions HTTP/2.0",
        "POST /v1/completions HTTP/1.2",
        "POST /v1/completions HTTP/3",
        "POST /v1/completions http/1.1",
        "POST /v1/completions HTTP/01.1",
        "POST /v1/completions HTTP/1.1 x",
        "POST /v1/completions",
        "POST  /v1/completions HTTP/1.1",
        "POST\t/v1/completions\tHTTP/1.1",
        "P\0ST /v1/completions HTTP/1.1",
        "POST /v1/\0completions HTTP/1.1",
        "POST /v1/ completions HTTP/1.1",
        "POST v1/completions HTTP/1.1",
        "POST  HTTP/1.1",
        "/v1/completions",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}",
    ] {
        let said = said(smg.main(), format!("{line}\r\n{rest}")).await;
        let statuses = statuses(&said);
        assert!(
            matches!(statuses[..], [] | [400 | 404 | 405 | 505]),
            "{line:?}: {said}"
        );
    }
    assert!(worker.bodies().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_malformed() {
    let size = right_size();
    let sized = |size: &str| chunk(size);
    let bodies = [
        sized(&format!("0x{size}")),
        sized(&format!("+{size}")),
        sized(&format!("-{size}")),
        sized("g"),
        sized(""),
        sized(";"),
        sized("fffffffffffffffff"),
        sized("10000000000000000"),
        sized(&format!("{size}\0")),
        sized(&format!("{size}_")),
        format!("{size}\r\n{}XX0\r\n\r\n", body()),
        format!("{size}\r{}\r\n0\r\n\r\n", body()),
        format!("{size};a=\0\r\n{}\r\n0\r\nx y\r\n\r\n", body()),
    ];
    let (smg, worker) = recorded().await;
    for body in &bodies {
        let sent = format!("{START}transfer-encoding: chunked\r\n\r\n{body}{HIDDEN}");
        let said = said(smg.main(), sent).await;
        let statuses = statuses(&said);
        assert!(matches!(statuses[..], [] | [400]), "{body:?}: {said}");
    }
    assert_eq!(worker.bodies(), Vec::<Vec<u8>>::new());
}

/// What may be taken reaches the worker as a length, whatever the chunks looked like.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_with_extensions_and_trailers_arrive_without_them() {
    let (smg, worker) = recorded().await;
    let size = right_size();
    for body in [
        chunk(&size),
        chunk(&size.to_uppercase()),
        chunk(&format!("000{size}")),
        chunk(&format!("{size};name=value;other")),
        format!(
            "{size}\r\n{}\r\n0\r\nx-trailer: 1\r\nauthorization: Bearer trailer\r\n\
             content-length: 3\r\ntransfer-encoding: gzip\r\n\r\n",
            body()
        ),
    ] {
        let sent = format!("{START}connection: close\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let said = said(smg.main(), sent).await;
        assert_eq!(statuses(&said), [200], "{body:?}: {said}");
    }
    let bodies = worker.bodies();
    assert_eq!(bodies.len(), 5);
    assert!(bodies.iter().all(|taken| *taken == body().as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_and_trailers_without_end_are_not_read_to_it() {
    let (smg, worker) = recorded().await;
    let size = right_size();
    let long = "x".repeat(1024 * 1024);
    for body in [
        format!("{size};{long}\r\n{}\r\n0\r\n\r\n", body()),
        format!("{size}\r\n{}\r\n0\r\nx: {long}\r\n\r\n", body()),
        // Each of its own small chunk.
        format!("1;{}\r\n \r\n", "e".repeat(1000)).repeat(2000),
    ] {
        let sent = format!("{START}transfer-encoding: chunked\r\n\r\n{body}");
        let said = said(smg.main(), sent).await;
        assert!(!said.contains(" 200 "), "{said}");
    }
    assert!(worker.bodies().is_empty());
}

/// Taken or refused, but never read in two ways: what stands behind the head is either its body or
/// nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn lines_that_end_in_bare_line_feeds_mean_one_thing() {
    let (smg, worker) = recorded().await;
    let length = length();
    let plain = format!("{START}connection: close\r\n{length}\r\n\r\n");
    let mut heads = vec![
        plain.replace("\r\n", "\n"),
        plain.replacen("\r\n", "\n", 1),
        plain.replace("\r\n\r\n", "\r\n\n"),
        plain.replace("\r\n\r\n", "\n\r\n"),
        format!("{START}connection: close\r\nx: y\n{length}\r\n\r\n"),
        format!("\r\n\r\n{plain}"),
        format!("\n{plain}"),
    ];
    // Here the line feed may hide a length from one reader and show it to another.
    heads.push(format!(
        "{START}connection: close\r\nx: y\ncontent-length: 3\r\n{length}\r\n\r\n"
    ));
    for head in heads {
        let before = worker.bodies().len();
        let said = said(smg.main(), format!("{head}{}", body())).await;
        let statuses = statuses(&said);
        assert!(matches!(statuses[..], [] | [200 | 400]), "{head:?}: {said}");
        let taken = worker.bodies().len() - before;
        assert_eq!(taken, usize::from(statuses == [200]), "{head:?}: {said}");
    }
    assert!(
        worker
            .bodies()
            .iter()
            .all(|taken| *taken == body().as_bytes())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_host() {
    let (smg, worker) = recorded().await;
    let length = length();
    let with = |target: &str, version: &str, hosts: &[&str]| {
        let hosts: String = hosts
            .iter()
            .map(|host| format!("host: {host}\r\n"))
            .collect();
        format!(
            "POST {target} HTTP/{version}\r\n{hosts}connection: close\r\n\
             content-type: application/json\r\n{length}\r\n\r\n{}",
            body()
        )
    };
    let path = "/v1/completions";
    for (sent, status) in [
        (with(path, "1.1", &[]), 400),
        (with(path, "1.1", &["a", "a"]), 400),
        (with(path, "1.1", &["a", "b"]), 400),
        (with("http://a/v1/completions", "1.1", &["b"]), 400),
        (with("http://a/v1/completions", "1.1", &[]), 400),
        (with("http://a:1/v1/completions", "1.1", &["a"]), 400),
        (with("http://a/v1/completions", "1.1", &["A"]), 200),
        (with(path, "1.0", &[]), 200),
        (with(path, "1.1", &["a"]), 200),
    ] {
        let said = said(smg.main(), &sent)
            .await
            .replace("HTTP/1.0", "HTTP/1.1");
        assert_eq!(statuses(&said), [status], "{sent}: {said}");
        if status == 400 {
            assert!(said.contains("x-smg-error-code: invalid_framing"), "{said}");
            assert!(said.contains("x-request-id: "), "{said}");
        }
    }
    assert_eq!(worker.bodies().len(), 3);
}

/// The gateway is no tunnel and changes no protocol.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_upgraded_or_tunnelled() {
    let (smg, worker) = recorded().await;
    let length = length();
    let upgrade = format!(
        "{START}connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n{length}\r\n\r\n{}",
        body()
    );
    let answer = said(smg.main(), upgrade).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    let worker_address = worker.address();
    let connect = format!(
        "CONNECT {worker_address} HTTP/1.1\r\nhost: {worker_address}\r\nconnection: close\r\n\r\n{HIDDEN}"
    );
    let answer = said(smg.main(), connect).await;
    assert!(matches!(statuses(&answer)[..], [400..=405]), "{answer}");
    assert_eq!(worker.bodies().len(), 1);
}
