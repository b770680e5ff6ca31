//! The deadlines towards a worker, and what a client hears of them.

use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};

use crate::scene::{
    ask, ask_stream, assert_error, config, delta, gateway, ok, settled, short_stream,
    terminal_error,
};
use crate::support::{FakeEngine, Gate, Smg, Step, post, stream};

const CHAT: &str = "/v1/chat/completions";
const ONCE: &str = "[reliability.retry]\nenabled = false\n";

async fn playing(script: Vec<Step>) -> FakeEngine {
    FakeEngine::serving("m", move |_| script.clone()).await
}

/// Two engines; the first request of all gets one script, each further one the other.
async fn in_turn(first: Vec<Step>, later: Vec<Step>) -> [FakeEngine; 2] {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let script = move |_: &_| {
        if asked.swap(true, std::sync::atomic::Ordering::SeqCst) {
            later.clone()
        } else {
            first.clone()
        }
    };
    [
        FakeEngine::serving("m", script.clone()).await,
        FakeEngine::serving("m", script).await,
    ]
}

/// A gateway with one attempt and these deadlines.
async fn with_timeouts(engine: &FakeEngine, timeouts: &str) -> Smg {
    gateway(
        &[engine],
        &format!("{ONCE}[reliability.timeouts]\n{timeouts}\n"),
    )
    .await
}

/// A listener that accepts nothing and whose backlog is full, so that a connection attempt neither
/// succeeds nor fails.
pub(crate) struct Full {
    pub(crate) address: std::net::SocketAddr,
    _listener: tokio::net::TcpListener,
    _queued: Vec<TcpStream>,
}

pub(crate) async fn full_backlog() -> Full {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = socket.listen(0).unwrap();
    let mut queued = Vec::new();
    let short = Duration::from_millis(200);
    while let Ok(connected) = tokio::time::timeout(short, TcpStream::connect(address)).await {
        queued.push(connected.unwrap());
    }
    Full {
        address,
        _listener: listener,
        _queued: queued,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connect() {
    let full = full_backlog().await;
    let more = format!("{ONCE}[reliability.timeouts]\nconnect = \"300ms\"\n");
    let smg = Smg::start(&config(&[format!("http://{}", full.address)], &more)).await;
    let started = Instant::now();
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&answer, 504, "call_upstream_timeout");
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(5),
        "{took:?}"
    );
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_come_is_replaced_by_another_worker() {
    let full = full_backlog().await;
    let engine = playing(vec![ok()]).await;
    let more = "policy = \"round_robin\"\n[reliability.timeouts]\nconnect = \"200ms\"\n";
    let workers = [format!("http://{}", full.address), engine.url()];
    let smg = Smg::start(&config(&workers, more)).await;
    for _ in 0..2 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
    }
    assert_eq!(engine.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_only_for_streams() {
    let engine = FakeEngine::serving("m", |asked| {
        if asked.json()["stream"] == true {
            vec![Step::Hold(Gate::closed())]
        } else {
            vec![Step::Pause(Duration::from_millis(600)), ok()]
        }
    })
    .await;
    let smg = with_timeouts(&engine, "headers = \"300ms\"\nfirst_token = \"300ms\"").await;
    let answer = post(smg.main(), CHAT, &ask_stream()).await;
    assert_error(&answer, 504, "call_upstream_timeout");
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_moves_on_to_another_worker() {
    let engines = in_turn(vec![Step::Hold(Gate::closed())], short_stream("x")).await;
    let more = "[reliability.timeouts]\nheaders = \"200ms\"\n";
    let smg = gateway(&[&engines[0], &engines[1]], more).await;
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(engines[0].calls().len(), 1);
    assert_eq!(engines[1].calls().len(), 1);
}

/// Comments, one every 50 ms.
fn comments(count: usize) -> Vec<Step> {
    let comment = [
        Step::write(": ping\n\n"),
        Step::Pause(Duration::from_millis(50)),
    ];
    comment.iter().cycle().take(count * 2).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn first_token_is_not_a_comment() {
    let mut script = vec![Step::sse_head()];
    script.extend(comments(200));
    let engine = playing(script).await;
    let smg = gateway(
        &[&engine],
        &format!(
            "{ONCE}[server]\nsse_keepalive = \"0s\"\n[reliability.timeouts]\nfirst_token = \"300ms\"\n"
        ),
    )
    .await;
    let started = Instant::now();
    let answer = post(smg.main(), CHAT, &ask_stream()).await;
    assert_error(&answer, 504, "call_upstream_timeout");
    assert!(started.elapsed() < Duration::from_secs(5));
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_token_after_the_head_is_a_terminal_frame() {
    let engine = playing(vec![Step::sse_head(), Step::Hold(Gate::closed())]).await;
    let smg = gateway(
        &[&engine],
        &format!(
            "{ONCE}[server]\nsse_keepalive = \"100ms\"\n[reliability.timeouts]\nfirst_token = \"400ms\"\n"
        ),
    )
    .await;
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    assert_eq!(events.status(), 200);
    let all = events.events().await;
    assert_eq!(all[0], ": keep-alive");
    assert_eq!(terminal_error(&all)["code"], "call_upstream_timeout");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_token_moves_on_to_another_worker() {
    let silent = vec![Step::sse_head(), Step::Hold(Gate::closed())];
    let engines = in_turn(silent, short_stream("x")).await;
    let more = "[reliability.timeouts]\nfirst_token = \"200ms\"\n";
    let smg = gateway(&[&engines[0], &engines[1]], more).await;
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(all.len(), 2, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_is_not_ended_by_a_comment() {
    let mut script = vec![Step::sse_head(), Step::event(&delta("one"))];
    script.extend(comments(200));
    let engine = playing(script).await;
    let smg = with_timeouts(&engine, "idle = \"300ms\"").await;
    let started = Instant::now();
    let mut events = stream(smg.main(), CHAT, &ask_stream()).await;
    let all = events.events().await;
    assert_eq!(terminal_error(&all)["code"], "call_upstream_timeout");
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(5),
        "{took:?}"
    );
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_ends_where_a_worker_falls_silent_and_counts_from_event_to_event() {
    let mut script = vec![Step::sse_head()];
    for word in ["one", "two", "three", "four"] {
        script.push(Step::event(&delta(word)));
        script.push(Step::Pause(Duration::from_millis(200)));
    }
    script.push(Step::Hold(Gate::closed()));
    let engine = playing(script).await;
    let smg = with_timeouts(&engine, "idle = \"500ms\"").await;
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(all.len(), 6, "{all:?}");
    assert_eq!(terminal_error(&all)["code"], "call_upstream_timeout");
    settled(&smg).await;
}

/// What a client does not take the worker cannot be blamed for.
#[tokio::test(flavor = "multi_thread")]
async fn idle_does_not_run_while_the_client_does_not_read() {
    // More than all the buffers between the two hold: the worker has to wait. It falls silent in the
    // middle of the event, for less than it may.
    let large = delta(&"x".repeat(40 * 1024 * 1024));
    let (start, rest) = large.split_at(large.len() - 1024);
    let engine = playing(vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        Step::write(&format!("data: {start}")),
        Step::Pause(Duration::from_millis(100)),
        Step::write(&format!("{rest}\n\n")),
        Step::event("[DONE]"),
        Step::Close,
    ])
    .await;
    let smg = with_timeouts(&engine, "idle = \"700ms\"").await;
    let mut connection = crate::support::Connection::h1(smg.main()).await;
    let request = crate::support::client::json_request(CHAT, &ask_stream());
    let body = connection.open(request).await.into_body();
    // The client reads nothing for so long; there is no condition to wait for.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let body = body.collect().await.unwrap().to_bytes();
    let end = body.len().saturating_sub(200);
    let end = String::from_utf8_lossy(&body[end..]);
    assert!(body.len() > large.len(), "{end}");
    assert!(end.ends_with("\n\ndata: [DONE]\n\n"), "{end}");
    assert!(!end.contains("error"), "{end}");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn total_ends_an_answer_before_and_after_its_head() {
    let engine = FakeEngine::serving("m", |asked| {
        if asked.json()["stream"] == true {
            // Events without end: the total deadline runs all the same.
            let mut script = vec![Step::sse_head()];
            for _ in 0..200 {
                script.push(Step::event(&delta("x")));
                script.push(Step::Pause(Duration::from_millis(50)));
            }
            script
        } else {
            vec![Step::Hold(Gate::closed())]
        }
    })
    .await;
    let smg = gateway(&[&engine], "[server]\nrequest_timeout = \"500ms\"\n").await;
    let started = Instant::now();
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&answer, 504, "call_upstream_timeout");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(
        engine.calls().len(),
        1,
        "there is no time left for another attempt"
    );

    let started = Instant::now();
    let all = stream(smg.main(), CHAT, &ask_stream()).await.events().await;
    assert_eq!(terminal_error(&all)["code"], "call_upstream_timeout");
    assert!(started.elapsed() < Duration::from_secs(5));
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn total_aborts_an_answer_that_is_no_stream() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let engine = playing(vec![Step::write(head), Step::Hold(Gate::closed())]).await;
    let smg = gateway(&[&engine], "[server]\nrequest_timeout = \"400ms\"\n").await;
    let mut connection = crate::support::Connection::h1(smg.main()).await;
    let request = crate::support::client::json_request("/v1/completions", &ask());
    assert!(connection.try_send(request).await.is_err());
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_stricter_than_its_pool_and_the_pool_than_all() {
    let engine =
        crate::scene::silent_engine(|_| vec![Step::Pause(Duration::from_millis(700)), ok()]).await;
    let more = format!(
        "pool = \"p\"\n[models.reliability.timeouts]\ntotal = \"200ms\"\n\
         [[models]]\nname = \"other\"\npool = \"q\"\n\
         [[models]]\nname = \"n\"\npool = \"q\"\n[models.reliability.timeouts]\ntotal = \"10s\"\n\
         [[pools]]\nname = \"q\"\nruntime = \"vllm\"\nhealth.enabled = false\n\
         workers = [\"{}\"]\n[pools.reliability.timeouts]\ntotal = \"300ms\"\n",
        engine.url(),
    );
    let smg = gateway(&[&engine], &more).await;
    for (model, status) in [("m", 504), ("other", 504), ("n", 200)] {
        let ask = json!({ "model": model, "prompt": "hi" });
        let answer = post(smg.main(), "/v1/completions", &ask).await;
        assert_eq!(answer.status, status, "{model}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn total_ends_the_reading_of_a_refusal_too() {
    let engine = playing(vec![
        Step::write("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 10\r\n\r\nhalf"),
        Step::Hold(Gate::closed()),
    ])
    .await;
    let smg = gateway(&[&engine], "[server]\nrequest_timeout = \"300ms\"\n").await;
    let started = Instant::now();
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert!(answer.status >= 500, "{answer:?}");
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1900), "{took:?}");
    settled(&smg).await;
}

/// A client that takes less than comes never waits for the worker.
#[tokio::test(flavor = "multi_thread")]
async fn total_ends_a_stream_that_is_read_slowly() {
    const EVENTS: usize = 64;
    let large = delta(&"x".repeat(1024 * 1024));
    let mut script = vec![Step::sse_head()];
    script.extend(std::iter::repeat_n(Step::event(&large), EVENTS));
    script.extend([Step::event("[DONE]"), Step::Close]);
    let engine = playing(script).await;
    let smg = gateway(&[&engine], "[server]\nrequest_timeout = \"1s\"\n").await;
    let mut connection = crate::support::Connection::h1(smg.main()).await;
    let request = crate::support::client::json_request(CHAT, &ask_stream());
    let mut body = connection.open(request).await.into_body();
    let (mut read, mut last) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        read += data.len();
        last.extend_from_slice(&data);
        last.drain(..last.len().saturating_sub(300));
        // So slowly does it read.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let end = String::from_utf8_lossy(&last);
    assert!(end.contains("call_upstream_timeout"), "{end}");
    assert!(read < EVENTS * large.len(), "{read}");
    settled(&smg).await;
}

/// Nothing of a ranking has gone out before all of it has come.
#[tokio::test(flavor = "multi_thread")]
async fn total_of_a_ranking_is_an_answer_like_any_other() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\nhalf";
    let begun = vec![Step::write(head), Step::Hold(Gate::closed())];
    let silent = vec![Step::sse_head(), Step::Hold(Gate::closed())];
    for (script, stream) in [(begun, false), (silent, true)] {
        let engine = playing(script).await;
        let more = "[server]\nrequest_timeout = \"400ms\"\nsse_keepalive = \"100ms\"\n";
        let smg = gateway(&[&engine], more).await;
        let ask = json!({ "model": "m", "query": "q", "documents": ["d"], "stream": stream });
        let answer = post(smg.main(), "/v1/rerank", &ask).await;
        assert_error(&answer, 504, "call_upstream_timeout");
        settled(&smg).await;
    }
}
