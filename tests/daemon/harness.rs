//! The harness itself, without the gateway: what the scripted engine does is what the client sees.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::support::client::{json_request, request};
use crate::support::process::{self, Process};
use crate::support::{Connection, FakeEngine, Gate, Step, eventually, get, post, stream};

#[tokio::test]
async fn the_engine_answers_by_its_script_and_records() {
    let engine = FakeEngine::serving("m", |asked| vec![Step::json(200, &asked.json())]).await;
    let answer = post(
        engine.address(),
        "/v1/completions",
        &json!({ "model": "m" }),
    )
    .await;
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({ "model": "m" }))
    );
    assert_eq!(answer.header("content-type"), "application/json");

    let models = get(engine.address(), "/v1/models").await;
    assert_eq!(models.json()["data"][0]["id"], "m");
    assert_eq!(get(engine.address(), "/health").await.text(), "OK");
    assert_eq!(get(engine.address(), "/other").await.status, 404);

    let [call] = &engine.calls()[..] else {
        panic!("calls: {:?}", engine.calls())
    };
    assert_eq!(
        (call.method.as_str(), call.path.as_str()),
        ("POST", "/v1/completions")
    );
    assert_eq!(
        call.header("host"),
        Some(engine.address().to_string().as_str())
    );
    assert_eq!(engine.asked().len(), 4);
    assert!(engine.url().ends_with(&engine.address().port().to_string()));
}

#[tokio::test]
async fn a_kept_connection_carries_one_request_after_the_other() {
    let engine = FakeEngine::start(|asked| vec![Step::answer(200, "a/b", &asked.path)]).await;
    let mut connection = Connection::h1(engine.address()).await;
    for path in ["/1", "/2"] {
        let answer = connection
            .send(request(Method::GET, path, Bytes::new()))
            .await;
        assert_eq!(answer.text(), path);
    }
    assert_eq!(engine.connections(), 1);
    drop(connection);
    eventually(Duration::from_secs(5), async || engine.connections() == 0).await;
}

#[tokio::test]
async fn a_stream_comes_event_by_event_as_the_gate_allows() {
    let gate = Gate::closed();
    let script = vec![
        Step::sse_head(),
        Step::event("one"),
        Step::Hold(gate.clone()),
        Step::Pause(Duration::from_millis(1)),
        Step::event("two"),
        Step::Close,
    ];
    let engine = FakeEngine::start(move |_| script.clone()).await;
    let mut events = stream(engine.address(), "/", &json!({})).await;
    assert_eq!(events.status(), 200);
    assert_eq!(events.event().await.unwrap().unwrap(), "data: one");
    gate.open();
    assert_eq!(events.events().await, ["data: two"]);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_a_hold() {
    let engine =
        FakeEngine::start(|_| vec![Step::sse_head(), Step::Hold(Gate::closed()), Step::Close])
            .await;
    let events = stream(engine.address(), "/", &json!({})).await;
    assert_eq!(engine.connections(), 1);
    drop(events);
    eventually(Duration::from_secs(5), async || engine.connections() == 0).await;
}

#[tokio::test]
async fn a_reset_and_an_early_close_are_errors_for_the_client() {
    for end in [Step::Reset, Step::Close] {
        let script = vec![
            Step::write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"),
            end,
        ];
        let engine = FakeEngine::start(move |_| script.clone()).await;
        let mut connection = Connection::h1(engine.address()).await;
        assert!(
            connection
                .try_send(json_request("/", &json!({})))
                .await
                .is_err()
        );
    }
}

#[tokio::test]
async fn a_chunked_body_is_read_whole() {
    let engine = FakeEngine::start(|asked| {
        vec![
            Step::answer(200, "text/plain", &String::from_utf8_lossy(&asked.body)),
            Step::Close,
        ]
    })
    .await;
    let raw = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n";
    let mut socket = tokio::net::TcpStream::connect(engine.address())
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut socket, raw.as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut socket, &mut answer)
        .await
        .unwrap();
    assert!(answer.ends_with("\r\n\r\nabc0123456789"), "{answer}");
}

#[tokio::test]
async fn a_child_is_read_signalled_and_reaped() {
    let script = "trap 'echo told; exit 7' TERM; echo up; while :; do sleep 0.01; done";
    let mut child = Process::spawn("a shell", Command::new("sh").args(["-c", script]));
    let patience = Duration::from_secs(10);
    child
        .line(patience, |line| (line == "up").then_some(()))
        .await;
    assert!(child.rss_kb() > 0);
    assert!(child.fd_count() >= 3);
    child.signal("TERM");
    child
        .line(patience, |line| (line == "told").then_some(()))
        .await;
    assert_eq!(child.ended(patience).await.code(), Some(7));
    assert_eq!(child.output(), ["up", "told"]);
}

#[test]
fn a_command_is_run_to_its_end() {
    let output = process::run(
        Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
        Duration::from_secs(10),
    );
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
}

#[tokio::test]
#[should_panic(expected = "not so within")]
async fn a_condition_that_never_holds_fails_the_test() {
    eventually(Duration::from_millis(10), async || false).await;
}
