//! Event streams: relayed as they come, kept alive, ended in the words of their API, and released
//! when nobody reads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::scene::{
    PATIENCE, Wire, ask, ask_stream, config, delta, gateway, ok, ready, role, settle, settled,
    short_stream, terminal_error,
};
use crate::support::client::json_request;
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, Worker, eventually, stream};

const CHAT: &str = "/v1/chat/completions";

/// No connection to a worker is kept, so that the engine's open ones are those in use.
const UNPOOLED: &str = "[pools.connections]\nmax_idle_per_host = 0\n";

/// One attempt, and comments after 100 ms of silence.
const EAGER: &str = "[reliability.retry]\nenabled = false\n[server]\nsse_keepalive = \"100ms\"\n";

fn event(data: &str) -> String {
    format!("data: {data}")
}

/// What came but comments.
fn without_comments(events: Vec<String>) -> Vec<String> {
    events
        .into_iter()
        .filter(|event| !event.starts_with(':'))
        .collect()
}

/// An engine that does this for every request.
async fn playing(script: Vec<Step>) -> FakeEngine {
    FakeEngine::serving("m", move |_| script.clone()).await
}

/// Two engines that share a script: the first request plays one part, all others the second.
async fn in_turn(first: Vec<Step>, later: Vec<Step>) -> ([FakeEngine; 2], Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let script = {
        let asked = Arc::clone(&asked);
        move |_: &_| {
            if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                first.clone()
            } else {
                later.clone()
            }
        }
    };
    let engines = [
        FakeEngine::serving("m", script.clone()).await,
        FakeEngine::serving("m", script).await,
    ];
    (engines, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_arrives_before_the_worker_has_sent_the_next() {
    let gates = [Gate::closed(), Gate::closed()];
    let engine = playing(vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        Step::Hold(gates[0].clone()),
        Step::event(&delta("two")),
        Step::Hold(gates[1].clone()),
        Step::event("[DONE]"),
        Step::Close,
    ])
    .await;
    let smg = gateway(&[&engine], "").await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    assert_eq!(events.status(), 200);
    assert_eq!(events.event().await.unwrap().unwrap(), event(&delta("one")));
    gates[0].open();
    assert_eq!(events.event().await.unwrap().unwrap(), event(&delta("two")));
    gates[1].open();
    assert_eq!(events.events().await, [event("[DONE]")]);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_byte_for_byte_wherever_it_is_cut() {
    let whole = format!(
        ": hello\r\n\r\nid: 1\nevent: x\ndata: {}\ndata: more\n\nretry: 5\n\ndata:{}\r\n\r\n\
         data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":2}}}}\n\n\
         data: [DONE]\n\n",
        delta("\u{e9}\u{1f600}"),
        delta("x")
    );
    for size in [1, 7, 100_000] {
        let mut script = vec![Step::sse_head()];
        script.extend(
            whole
                .as_bytes()
                .chunks(size)
                .map(|part| Step::Write(part.to_vec())),
        );
        script.push(Step::Close);
        let engine = playing(script).await;
        let smg = gateway(&[&engine], "").await;
        for mut connection in [
            Connection::h1(smg.main()).await,
            Connection::h2(smg.main()).await,
        ] {
            let answer = connection.send(json_request(CHAT, &ask_stream())).await;
            assert_eq!(answer.header("content-type"), "text/event-stream");
            assert_eq!(answer.text(), whole, "cut every {size} bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_with_only_a_role_waits_for_the_content() {
    let first = vec![Step::sse_head(), Step::event(&role()), Step::Reset];
    let later = vec![
        Step::sse_head(),
        Step::event(&role()),
        Step::event(&delta("x")),
        Step::event("[DONE]"),
        Step::Close,
    ];
    let (engines, asked) = in_turn(first, later).await;
    let smg = gateway(&[&engines[0], &engines[1]], "").await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    assert_eq!(events.status(), 200);
    // One role: the one of the worker that broke off never went out.
    let expected = [role(), delta("x"), "[DONE]".to_owned()].map(|data| event(&data));
    assert_eq!(events.events().await, expected);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_filled_with_comments() {
    let gate = Gate::closed();
    let engine = playing(vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        Step::Hold(gate.clone()),
        Step::event(&delta("two")),
        Step::event("[DONE]"),
        Step::Close,
    ])
    .await;
    let smg = gateway(&[&engine], EAGER).await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    assert_eq!(events.event().await.unwrap().unwrap(), event(&delta("one")));
    for _ in 0..3 {
        assert_eq!(events.event().await.unwrap().unwrap(), ": keep-alive");
    }
    gate.open();
    let rest = without_comments(events.events().await);
    assert_eq!(rest, [event(&delta("two")), event("[DONE]")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_comment_comes_inside_of_an_event_or_where_they_are_off() {
    let text = delta("a long text");
    let (start, end) = text.split_at(text.len() / 2);
    let script = vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        Step::write(&format!("data: {start}")),
        Step::Pause(Duration::from_millis(400)),
        Step::write(&format!("{end}\n\n")),
        Step::event("[DONE]"),
        Step::Close,
    ];
    let engine = playing(script).await;
    let smg = gateway(&[&engine], EAGER).await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    let whole = [delta("one"), text.clone(), "[DONE]".to_owned()].map(|data| event(&data));
    assert_eq!(events.events().await, whole);

    let script = vec![
        Step::sse_head(),
        Step::Pause(Duration::from_millis(200)),
        Step::event(&delta("one")),
        Step::Pause(Duration::from_millis(200)),
        Step::event("[DONE]"),
        Step::Close,
    ];
    let engine = playing(script).await;
    let smg = gateway(&[&engine], "[server]\nsse_keepalive = \"0s\"\n").await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    assert_eq!(
        events.events().await,
        [event(&delta("one")), event("[DONE]")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keep_alive_releases_the_head_and_failover_is_still_possible() {
    let gate = Gate::closed();
    let first = vec![
        Step::sse_head(),
        Step::write(": working\n\n"),
        Step::Hold(gate.clone()),
        Step::Reset,
    ];
    let (engines, asked) = in_turn(first, short_stream("from the other")).await;
    let smg = gateway(
        &[&engines[0], &engines[1]],
        "[server]\nsse_keepalive = \"100ms\"\n",
    )
    .await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    assert_eq!(events.status(), 200);
    assert!(events.event().await.unwrap().unwrap().starts_with(':'));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    gate.open();
    let rest = without_comments(events.events().await);
    assert_eq!(rest, [event(&delta("from the other")), event("[DONE]")]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_head_a_final_failure_is_a_frame() {
    let script = vec![
        Step::sse_head(),
        Step::Pause(Duration::from_millis(400)),
        Step::Reset,
    ];
    let engine = playing(script).await;
    let smg = gateway(&[&engine], EAGER).await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    assert_eq!(events.status(), 200);
    let all = events.events().await;
    assert_eq!(all[0], ": keep-alive");
    let error = terminal_error(&without_comments(all));
    assert_eq!(error["code"], "read_response_body_failed");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_head_an_answer_of_another_kind_is_a_frame() {
    let refused = Step::json(400, &json!({ "error": "too long" }));
    let whole = Step::json(200, &json!({ "choices": [] }));
    for other in [refused, whole] {
        let gate = Gate::closed();
        let first = vec![Step::sse_head(), Step::Hold(gate.clone()), Step::Reset];
        let (engines, asked) = in_turn(first, vec![other]).await;
        let more = "[server]\nsse_keepalive = \"100ms\"\n";
        let smg = gateway(&[&engines[0], &engines[1]], more).await;
        let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
        assert_eq!(events.status(), 200);
        assert!(events.event().await.unwrap().unwrap().starts_with(':'));
        gate.open();
        let rest = without_comments(events.events().await);
        assert_eq!(terminal_error(&rest)["code"], "no_worker_response");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        settled(&smg).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_a_stream_does_no_harm() {
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let one = format!("data: {}\n\n", delta("one"));
    let chunk = Step::write(&format!("{:x}\r\n{one}\r\n", one.len()));
    // What is no chunk at all, a chunk size beyond all bounds, and bytes that are no event.
    let broken = vec![
        Step::write(head),
        chunk.clone(),
        settle(),
        Step::write("zz\r\nnonsense\r\n"),
    ];
    let huge = vec![
        Step::write(head),
        chunk,
        settle(),
        Step::write("ffffffffffffffffff\r\n"),
    ];
    let noisy = vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        settle(),
        Step::Write(noise),
        Step::Close,
    ];
    for script in [broken, huge, noisy] {
        let engine = playing(script).await;
        let smg = gateway(&[&engine], "").await;
        let mut wire = Wire::connect(smg.main()).await;
        let body = ask_stream().to_string();
        wire.write(format!(
            "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        let answer = wire.until_close().await;
        assert!(
            answer.contains("\"type\":\"stream_error\""),
            "no error frame"
        );
        assert!(answer.ends_with("0\r\n\r\n"), "no clean end");
        settled(&smg).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_ends_with_an_error_frame() {
    for end in [Step::Reset, Step::Close] {
        for (path, ask) in [
            (CHAT, ask_stream()),
            (
                "/v1/completions",
                json!({ "model": "m", "prompt": "x", "stream": true }),
            ),
            (
                "/generate",
                json!({ "model": "m", "text": "x", "stream": true }),
            ),
        ] {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                        transfer-encoding: chunked\r\n\r\n";
            let one = format!("data: {}\n\n", delta("one"));
            let chunk = format!("{:x}\r\n{one}\r\n", one.len());
            let script = vec![
                Step::write(head),
                Step::write(&chunk),
                settle(),
                end.clone(),
            ];
            let engine = playing(script).await;
            let smg = gateway(&[&engine], "").await;
            let mut events = stream(smg.main(), path, &ask).await;
            let all = events.events().await;
            assert_eq!(all.len(), 3, "{path}: {all:?}");
            assert_eq!(all[0], event(&delta("one")));
            assert_eq!(terminal_error(&all)["code"], "read_response_body_failed");
            assert_eq!(engine.calls().len(), 1, "nothing is asked twice");
            settled(&smg).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_event_is_cut_off_before_the_error_frame() {
    let engine = playing(vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        Step::write("data: {\"choices\":[{\"del"),
        settle(),
        Step::Reset,
    ])
    .await;
    let smg = gateway(&[&engine], "").await;
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(terminal_error(&all)["code"], "read_response_body_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_its_terminator_has_failed() {
    // Ends in order, but not with `[DONE]`.
    let one = format!("data: {}\n\n", delta("one"));
    let body = format!("{:x}\r\n{one}\r\n0\r\n\r\n", one.len());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let engine = playing(vec![Step::write(head), Step::write(&body)]).await;
    let smg = gateway(&[&engine], "").await;
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(all[0], event(&delta("one")));
    assert_eq!(terminal_error(&all)["code"], "read_response_body_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_own_error_frame_is_not_followed_by_another() {
    let own = json!({ "error": { "message": "out of memory", "code": 500 } }).to_string();
    let engine = playing(vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        settle(),
        Step::event(&own),
        Step::event("[DONE]"),
        Step::Close,
    ])
    .await;
    let smg = gateway(&[&engine], "").await;
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(all, [event(&delta("one")), event(&own), event("[DONE]")]);
    assert_eq!(engine.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_behind_the_last_frame_adds_no_frame() {
    let own = json!({ "error": { "message": "out of memory", "code": 500 } }).to_string();
    for last in ["[DONE]", &own] {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        let chunk = |data: &str| {
            let text = format!("{}\n\n", event(data));
            Step::write(&format!("{:x}\r\n{text}\r\n", text.len()))
        };
        let engine = playing(vec![
            Step::write(head),
            chunk(&delta("one")),
            settle(),
            chunk(last),
            settle(),
            Step::Reset,
        ])
        .await;
        let smg = gateway(&[&engine], "").await;
        let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
        assert_eq!(all, [event(&delta("one")), event(last)]);
        settled(&smg).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_frame_before_anything_else_is_tried_elsewhere() {
    let own = json!({ "error": { "message": "out of memory", "code": 500 } }).to_string();
    let first = vec![
        Step::sse_head(),
        Step::event(&own),
        Step::event("[DONE]"),
        Step::Close,
    ];
    let (engines, asked) = in_turn(first, short_stream("fine")).await;
    let smg = gateway(&[&engines[0], &engines[1]], "").await;
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(all, [event(&delta("fine")), event("[DONE]")]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_comment_comes_behind_the_terminator() {
    let gate = Gate::closed();
    let engine = playing(vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        Step::event("[DONE]"),
        Step::Hold(gate.clone()),
        Step::Close,
    ])
    .await;
    let smg = gateway(&[&engine], EAGER).await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    for expected in [delta("one"), "[DONE]".to_owned()] {
        assert_eq!(events.event().await.unwrap().unwrap(), event(&expected));
    }
    let more = tokio::time::timeout(Duration::from_millis(500), events.event()).await;
    assert!(more.is_err(), "{more:?}");
    gate.open();
    assert!(events.events().await.is_empty());
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_began_with_an_error_is_no_success_where_nothing_follows() {
    let own = json!({ "error": { "message": "out of memory", "code": 500 } }).to_string();
    let engine = playing(vec![
        Step::sse_head(),
        Step::event(&own),
        Step::event("[DONE]"),
        Step::Close,
    ])
    .await;
    let more =
        "[reliability.retry]\ninitial_backoff = \"20s\"\n[server]\nrequest_timeout = \"5s\"\n";
    let smg = gateway(&[&engine], more).await;
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(all, [event(&own), event("[DONE]")]);
    settled(&smg).await;
    let metrics = smg.metrics().await;
    let failed = [("error_type", "backend_error")];
    assert_eq!(metrics.sum("smg_router_request_errors_total", &failed), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_responses_stream_that_begins_with_an_error_passes_as_it_comes() {
    let failed = json!({
        "type": "response.failed", "sequence_number": 0,
        "response": { "id": "resp_7", "status": "failed", "error": { "code": "server_error" } },
    });
    let first = vec![
        Step::sse_head(),
        Step::write(&format!("event: response.failed\ndata: {failed}\n\n")),
        Step::Pause(Duration::from_millis(400)),
        Step::Close,
    ];
    let (engines, asked) = in_turn(first, vec![ok()]).await;
    let smg = gateway(&[&engines[0], &engines[1]], "").await;
    let ask = json!({ "model": "m", "input": "hi", "stream": true });
    let mut answer = stream(smg.main(), "/v1/responses", &ask).await;
    assert_eq!(answer.status(), 200);
    let all = answer.events().await;
    assert_eq!(all, [format!("event: response.failed\ndata: {failed}")]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_responses_stream_fails_in_its_own_words() {
    let created = json!({
        "type": "response.created", "sequence_number": 0,
        "response": { "id": "resp_7", "status": "in_progress" },
    });
    let text = json!({ "type": "response.output_text.delta", "sequence_number": 4, "delta": "x" });
    let engine = playing(vec![
        Step::sse_head(),
        Step::write(&format!("event: response.created\ndata: {created}\n\n")),
        Step::write(&format!(
            "event: response.output_text.delta\ndata: {text}\n\n"
        )),
        settle(),
        Step::Reset,
    ])
    .await;
    let smg = gateway(&[&engine], "").await;
    let ask = json!({ "model": "m", "input": "hi", "stream": true });
    let all = stream(smg.main(), "/v1/responses", &ask)
        .await
        .events()
        .await;
    assert_eq!(all.len(), 3, "{all:?}");
    let payload = all[2]
        .strip_prefix("event: response.failed\ndata: ")
        .unwrap();
    let frame: Value = serde_json::from_str(payload).unwrap();
    assert_eq!(frame["type"], "response.failed");
    assert_eq!(frame["sequence_number"], 5);
    assert_eq!(frame["response"]["id"], "resp_7");
    assert_eq!(frame["response"]["status"], "failed");
    assert_eq!(
        frame["response"]["error"]["code"],
        "read_response_body_failed"
    );

    // One that ends as it should is left as it is.
    let done = json!({ "type": "response.completed", "sequence_number": 1, "response": {} });
    let engine = playing(vec![
        Step::sse_head(),
        Step::write(&format!("event: response.created\ndata: {created}\n\n")),
        Step::write(&format!("event: response.completed\ndata: {done}\n\n")),
        Step::Close,
    ])
    .await;
    let smg = gateway(&[&engine], "").await;
    let all = stream(smg.main(), "/v1/responses", &ask)
        .await
        .events()
        .await;
    assert_eq!(all.len(), 2, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_stream_is_aborted_when_it_breaks_off() {
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                   transfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n";
    // A short one that says its length is held back until it is whole.
    let sized = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                 content-length: 1000000\r\n\r\n{\"a\":";
    for head in [chunked, sized] {
        for end in [Step::Close, Step::Reset] {
            let engine = playing(vec![Step::write(head), settle(), end.clone()]).await;
            let smg = gateway(&[&engine], "").await;
            for h2 in [false, true] {
                let mut connection = if h2 {
                    Connection::h2(smg.main()).await
                } else {
                    Connection::h1(smg.main()).await
                };
                let asked = connection
                    .try_send(json_request("/v1/completions", &ask()))
                    .await;
                assert!(asked.is_err(), "HTTP/2: {h2}: {asked:?}");
            }
            assert_eq!(engine.calls().len(), 2, "nothing is asked twice");
            settled(&smg).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_releases_the_worker_at_once() {
    let gate = Gate::closed();
    let streamed = vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        Step::Hold(gate.clone()),
    ];
    let silent = vec![Step::Hold(gate.clone())];
    let headed = vec![Step::sse_head(), Step::Hold(gate)];
    for (script, begun) in [(streamed, true), (silent, false), (headed, false)] {
        for h2 in [false, true] {
            let engine = playing(script.clone()).await;
            let smg = gateway(&[&engine], UNPOOLED).await;
            let mut connection = if h2 {
                Connection::h2(smg.main()).await
            } else {
                Connection::h1(smg.main()).await
            };
            let kept = h2.then(|| connection.again());
            let asking = tokio::spawn(async move {
                let response = connection.open(json_request(CHAT, &ask_stream())).await;
                if begun {
                    // Held until the task is aborted.
                    std::future::pending::<()>().await;
                }
                drop(response);
            });
            eventually(PATIENCE, async || engine.calls().len() == 1).await;
            eventually(PATIENCE, async || {
                smg.metrics().await.sum("smg_worker_requests_active", &[]) == 1.0
            })
            .await;
            asking.abort();
            eventually(PATIENCE, async || engine.connections() == 0).await;
            settled(&smg).await;
            // An HTTP/2 connection lives on.
            if let Some(mut kept) = kept {
                let alive = crate::support::client::request(
                    http::Method::GET,
                    "/health",
                    Default::default(),
                );
                assert_eq!(kept.send(alive).await.status, 200);
            }
            assert_eq!(engine.calls().len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_stops_the_retries_too() {
    let engine = playing(vec![Step::json(503, &json!({}))]).await;
    let more = "[reliability.retry]\ninitial_backoff = \"2s\"\nmax_backoff = \"2s\"\n";
    let smg = gateway(&[&engine], more).await;
    let mut wire = Wire::connect(smg.main()).await;
    let body = ask().to_string();
    wire.write(format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    eventually(PATIENCE, async || engine.calls().len() == 1).await;
    drop(wire);
    let gone = std::time::Instant::now();
    settled(&smg).await;
    assert!(
        gone.elapsed() < Duration::from_millis(1500),
        "it waited for the back-off"
    );
    assert_eq!(engine.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_a_stream_is_an_error_frame() {
    let mut worker = Worker::start(&["--model", "m", "--itl", "20ms"]).await;
    let smg = Smg::start(&config(&[worker.url().to_owned()], "")).await;
    ready(&smg).await;
    let mut ask = ask_stream();
    ask["max_tokens"] = json!(10_000);
    let mut events = stream(smg.main(), CHAT, &ask).await;
    assert_eq!(events.status(), 200);
    for _ in 0..5 {
        events.event().await.unwrap().unwrap();
    }
    worker.kill9();
    let rest = events.events().await; // to a clean end
    assert_eq!(terminal_error(&rest)["code"], "read_response_body_failed");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_sample_worker_arrives_whole() {
    let worker = Worker::start(&["--model", "m", "--itl", "1ms"]).await;
    let smg = Smg::start(&config(&[worker.url().to_owned()], "")).await;
    ready(&smg).await;
    let mut ask = ask_stream();
    ask["max_tokens"] = json!(50);
    for _ in 0..5 {
        let mut events = stream(smg.main(), CHAT, &ask).await;
        let all = events.events().await;
        assert_eq!(all.last().unwrap(), "data: [DONE]");
        let text: String = all
            .iter()
            .filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok())
            .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
            .collect();
        assert_eq!(text.split_whitespace().count(), 50, "{text}");
    }
    settled(&smg).await;
}

/// A worker that writes without end, and counts what it could write.
pub(crate) async fn endless() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut request = vec![0; 16 * 1024];
                let read = stream.read(&mut request).await.unwrap();
                if !request[..read].starts_with(b"POST") {
                    return;
                }
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                let event = format!("data: {}\n\n", "x".repeat(64 * 1024));
                while stream.write_all(event.as_bytes()).await.is_ok() {
                    count.fetch_add(event.len(), Ordering::SeqCst);
                }
            });
        }
    });
    (address, written)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_slows_the_worker_down() {
    let (worker, written) = endless().await;
    let mut smg = Smg::start(&config(&[format!("http://{worker}")], "")).await;
    let before = smg.process().rss_kb();
    let mut wire = Wire::connect(smg.main()).await;
    let body = ask_stream().to_string();
    wire.write(format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    wire.until("\r\n\r\n").await;

    // The worker comes to a stop: two looks, some time apart, see the same.
    let mut last = 0;
    let mut same = 0;
    eventually(PATIENCE, async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = written.load(Ordering::SeqCst);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        same >= 10
    })
    .await;
    // What is on its way lies in the buffers of four sockets.
    assert!(last < 64 * 1024 * 1024, "the worker wrote {last} bytes");
    let grown = smg.process().rss_kb().saturating_sub(before);
    assert!(grown < 8 * 1024, "the gateway grew by {grown} KiB");

    // It goes on when the client reads.
    let mut read = 0;
    while written.load(Ordering::SeqCst) < last + 4 * 1024 * 1024 {
        read += wire.until("\n\n").await.len();
        assert!(read < 256 * 1024 * 1024, "the worker stands still");
    }
    drop(wire);
    settled(&smg).await;
}
