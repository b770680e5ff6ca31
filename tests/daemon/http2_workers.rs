//! Workers that are spoken to in HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use h2::Reason;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{Load, QUIET};
use crate::scene::{
    LISTENERS, PATIENCE, ask, ask_stream, assert_error, delta, settled, terminal_error,
};
use crate::support::client::json_request;
use crate::support::{
    Act, Connection, Gate, Http2Engine, Smg, Worker, eventually, get, post, stream,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const ONCE: &str = "[reliability.retry]\nenabled = false\n";

/// A pool of workers that speak HTTP/2 and serve `m`.
fn config(workers: &[String], more: &str) -> String {
    format!(
        r#"{LISTENERS}
[[pools]]
name = "p"
runtime = "vllm"
workers = {workers:?}
health.enabled = false
connections.http2 = true

[[models]]
name = "m"
policy = "round_robin"
{more}
"#
    )
}

async fn gateway(engine: &Http2Engine, more: &str) -> Smg {
    Smg::start(&config(&[engine.url()], more)).await
}

fn done() -> Vec<Act> {
    vec![Act::event("[DONE]"), Act::End]
}

/// A stream that begins, waits for the gate and ends in order.
fn held(gate: &Gate) -> Vec<Act> {
    let mut acts = vec![
        Act::SseHead,
        Act::event(&delta("a")),
        Act::Hold(gate.clone()),
    ];
    acts.push(Act::event(&delta("b")));
    acts.extend(done());
    acts
}

fn seen(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

async fn connections(smg: &Smg) -> f64 {
    let metrics = smg.metrics().await;
    metrics.sum("smg_worker_connections_active", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_streams_share_a_connection() {
    let gate = Gate::closed();
    let script = {
        let gate = gate.clone();
        move |asked: &crate::support::engine::Asked| {
            if asked.json()["stream"] == true {
                held(&gate)
            } else {
                vec![Act::json(&json!({ "object": "x", "choices": [] }))]
            }
        }
    };
    let engine = Http2Engine::start(100, script).await;
    let smg = gateway(&engine, "").await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(stream(smg.main(), CHAT, &ask_stream()).await);
    }
    for stream in &mut streams {
        assert_eq!(stream.status(), 200);
        assert!(stream.event().await.unwrap().unwrap().contains("\"a\""));
    }
    for body in [20, 200_000] {
        let body = json!({ "model": "m", "prompt": "x".repeat(body) });
        let answer = post(smg.main(), COMPLETIONS, &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["object"], "x");
        assert_eq!(answer.header("content-length"), "27");
        let last = engine.calls().pop().unwrap();
        assert_eq!(last.json(), body);
        assert_eq!(
            last.header(":authority"),
            Some(&*engine.address().to_string())
        );
        assert_eq!(last.header("host"), None);
        let length = body.to_string().len().to_string();
        assert_eq!(last.header("content-length"), Some(&*length));
    }
    assert_eq!(seen(&engine.counts().connections), 1);
    assert_eq!(connections(&smg).await, 1.0);
    gate.open();
    for stream in &mut streams {
        let events = stream.events().await;
        assert_eq!(events.last().unwrap(), "data: [DONE]");
    }
    settled(&smg).await;
    assert_eq!(seen(&engine.counts().resets), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_are_ignored() {
    let engine = Http2Engine::start(100, |_| {
        vec![
            Act::SseHead,
            Act::event(&delta("a")),
            Act::event("[DONE]"),
            Act::Trailers,
        ]
    })
    .await;
    let smg = gateway(&engine, "").await;
    let mut stream = stream(smg.main(), CHAT, &ask_stream()).await;
    assert_eq!(stream.events().await.len(), 2);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_registration_go_the_same_way() {
    let engine = Http2Engine::start(100, |_| {
        vec![Act::json(&json!({ "object": "x", "choices": [] }))]
    })
    .await;
    let config = format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nworkers = [{:?}]\nconnections.http2 = true\n",
        engine.url()
    );
    let smg = Smg::start(&config).await;
    crate::scene::ready(&smg).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    let models = get(smg.main(), "/v1/models").await;
    assert!(models.text().contains("\"m\""), "{}", models.text());
    assert!(engine.asked() >= 3);
    // A probe in flight may find the first connection not yet open.
    assert!(seen(&engine.counts().connections) <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_resets_its_own_stream() {
    let gate = Gate::closed();
    let engine = Http2Engine::start(100, {
        let gate = gate.clone();
        move |_| held(&gate)
    })
    .await;
    let smg = gateway(&engine, "").await;
    let mut stays = stream(smg.main(), CHAT, &ask_stream()).await;
    stays.event().await.unwrap().unwrap();
    let mut leaving = Vec::new();
    for _ in 0..30 {
        let mut leaves = stream(smg.main(), CHAT, &ask_stream()).await;
        leaves.event().await.unwrap().unwrap();
        leaving.push(leaves);
    }
    drop(leaving);
    eventually(PATIENCE, async || seen(&engine.counts().resets) == 30).await;
    gate.open();
    assert_eq!(stays.events().await.last().unwrap(), "data: [DONE]");
    assert_eq!(seen(&engine.counts().connections), 1);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_gets_more_streams_than_it_takes() {
    const MOST: usize = 4;
    const STREAMS: usize = 18;
    let gate = Gate::closed();
    let engine = Http2Engine::start(MOST as u32, {
        let gate = gate.clone();
        move |_| held(&gate)
    })
    .await;
    let smg = gateway(&engine, "").await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        // None waits for another one to end.
        let mut stream = stream(smg.main(), CHAT, &ask_stream()).await;
        stream.event().await.unwrap().unwrap();
        streams.push(stream);
    }
    assert_eq!(seen(&engine.counts().connections), STREAMS.div_ceil(MOST));
    assert_eq!(seen(&engine.counts().most), MOST);
    gate.open();
    for stream in &mut streams {
        stream.events().await;
    }
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_at_a_cold_worker_opens_few_connections() {
    const MOST: usize = 50;
    const REQUESTS: usize = 300;
    let gate = Gate::closed();
    let engine = Http2Engine::start(MOST as u32, {
        let gate = gate.clone();
        move |_| {
            vec![
                Act::Hold(gate.clone()),
                Act::json(&json!({ "object": "x", "choices": [] })),
            ]
        }
    })
    .await;
    let smg = gateway(&engine, "").await;
    let client = async || post(smg.main(), COMPLETIONS, &ask()).await.status;
    let all = join_all((0..REQUESTS).map(|_| client()));
    let open = async {
        eventually(PATIENCE, async || {
            let metrics = smg.metrics().await;
            metrics.sum("smg_worker_requests_active", &[]) == REQUESTS as f64
        })
        .await;
        let held = async || seen(&engine.counts().most) <= MOST;
        eventually(PATIENCE, held).await;
        gate.open();
    };
    let (statuses, ()) = tokio::join!(all, open);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let connections = seen(&engine.counts().connections);
    assert!(
        (REQUESTS / MOST..=2 * REQUESTS / MOST).contains(&connections),
        "{connections}"
    );
    assert!(seen(&engine.counts().most) <= MOST);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_finishes_what_runs() {
    let gate = Gate::closed();
    let calls = Arc::new(AtomicUsize::new(0));
    let engine = Http2Engine::start(100, {
        let (gate, calls) = (gate.clone(), Arc::clone(&calls));
        move |_| {
            // The second call has the connection closed behind it.
            if calls.fetch_add(1, Ordering::SeqCst) == 1 {
                vec![Act::Leave, Act::json(&json!({ "choices": [] }))]
            } else {
                held(&gate)
            }
        }
    })
    .await;
    let smg = gateway(&engine, ONCE).await;
    let mut running = stream(smg.main(), CHAT, &ask_stream()).await;
    running.event().await.unwrap().unwrap();
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    let mut later = Vec::new();
    for _ in 0..5 {
        let mut stream = stream(smg.main(), CHAT, &ask_stream()).await;
        assert_eq!(stream.status(), 200);
        stream.event().await.unwrap().unwrap();
        later.push(stream);
    }
    assert_eq!(seen(&engine.counts().connections), 2);
    gate.open();
    assert_eq!(running.events().await.last().unwrap(), "data: [DONE]");
    for stream in &mut later {
        assert_eq!(stream.events().await.last().unwrap(), "data: [DONE]");
    }
    // The old connection is given up once nothing runs on it.
    eventually(PATIENCE, async || seen(&engine.counts().open) == 1).await;
    eventually(PATIENCE, async || connections(&smg).await == 1.0).await;
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_is_sent_once_more_without_an_attempt() {
    let calls = Arc::new(AtomicUsize::new(0));
    let engine = Http2Engine::start(100, {
        let calls = Arc::clone(&calls);
        move |_| match calls.fetch_add(1, Ordering::SeqCst) {
            0 | 2 | 3 => vec![Act::Reset(Reason::REFUSED_STREAM)],
            4 => vec![Act::Reset(Reason::INTERNAL_ERROR)],
            _ => vec![Act::json(&json!({ "choices": [] }))],
        }
    })
    .await;
    let smg = gateway(&engine, ONCE).await;
    // Refused, then answered.
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    assert_eq!(seen(&calls), 2);
    assert_eq!(seen(&engine.counts().connections), 2);
    // Refused twice: an attempt has failed.
    let answer = post(smg.main(), COMPLETIONS, &ask()).await;
    assert_error(&answer, 502, "call_upstream_connection_failed");
    assert_eq!(seen(&calls), 4);
    // The worker may have done something of it.
    let answer = post(smg.main(), COMPLETIONS, &ask()).await;
    assert_error(&answer, 502, "call_upstream_connection_failed");
    assert_eq!(seen(&calls), 5);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_requests_total", &[]), 3.0);
    settled(&smg).await;
}

/// Takes one connection, reads the first request and leaves without having looked at it; later
/// connections lead to `inner`.
async fn leaving_first(inner: std::net::SocketAddr) -> (String, tokio::task::AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        const ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
        // Last stream processed: 0, error: none.
        const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(SETTINGS).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            match (head[3], head[4]) {
                (4, 0) => stream.write_all(ACK).await.unwrap(),
                (1, _) => break,
                _ => {}
            }
        }
        stream.write_all(GOAWAY).await.unwrap();
        loop {
            let (mut outside, _) = listener.accept().await.unwrap();
            let mut inside = TcpStream::connect(inner).await.unwrap();
            tokio::spawn(async move {
                // An error is the end of one of the two.
                tokio::io::copy_bidirectional(&mut outside, &mut inside)
                    .await
                    .ok();
            });
        }
    });
    (url, task.abort_handle())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_leaving_worker_has_not_seen_is_sent_once_more() {
    let engine = Http2Engine::start(100, |_| vec![Act::json(&json!({ "choices": [] }))]).await;
    let (url, task) = leaving_first(engine.address()).await;
    let smg = Smg::start(&config(&[url], ONCE)).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    assert_eq!(engine.calls().len(), 1);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_requests_total", &[]), 1.0);
    task.abort();
}

/// Whatever reason it is given, what comes before the end of an answer is no end.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_reset_has_not_ended() {
    let gate = Gate::closed();
    let engine = Http2Engine::start(100, {
        let gate = gate.clone();
        move |_| {
            vec![
                Act::Begin("{}"),
                Act::Hold(gate.clone()),
                Act::Reset(Reason::NO_ERROR),
            ]
        }
    })
    .await;
    let smg = gateway(&engine, ONCE).await;
    let main = smg.main();
    let asking = async {
        let mut connection = Connection::h1(main).await;
        let got = connection.try_send(json_request(COMPLETIONS, &ask())).await;
        got.is_ok_and(|got| got.status == 200)
    };
    let resetting = async {
        eventually(PATIENCE, async || engine.calls().len() == 1).await;
        // What has been written is on its way when another request has been answered.
        get(main, "/liveness").await;
        gate.open();
    };
    let (is_whole, ()) = tokio::join!(asking, resetting);
    assert!(!is_whole, "cut short, and taken for whole");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_takes_only_its_streams_and_each_gets_its_frame() {
    const STREAMS: usize = 200;
    let args = ["--model", "m", "--itl", "20ms"];
    let mut dies = Worker::start(&args).await;
    let lives = Worker::start(&args).await;
    let workers = [dies.url().to_owned(), lives.url().to_owned()];
    let smg = Smg::start(&config(&workers, "")).await;
    let ask = json!({
        "model": "m", "stream": true, "max_tokens": 60,
        "messages": [{ "role": "user", "content": "hi" }],
    });
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = stream(smg.main(), CHAT, &ask).await;
        assert_eq!(stream.status(), 200);
        stream.event().await.unwrap().unwrap();
        streams.push(stream);
    }
    assert_eq!(connections(&smg).await, 2.0);
    dies.kill9();
    let ended = join_all(streams.iter_mut().map(|stream| stream.events())).await;
    let mut broken = 0;
    for events in &ended {
        assert_eq!(events.last().unwrap(), "data: [DONE]", "{events:?}");
        if events.iter().any(|event| event.contains("stream_error")) {
            terminal_error(events);
            broken += 1;
        }
    }
    assert!((1..STREAMS).contains(&broken), "{broken}");
    settled(&smg).await;
    // Nothing connects to it; what is new goes to the other one.
    for _ in 0..10 {
        let mut stream = stream(smg.main(), CHAT, &ask).await;
        assert_eq!(stream.status(), 200);
        assert!(!stream.events().await.concat().contains("stream_error"));
    }
    eventually(PATIENCE, async || connections(&smg).await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_before_the_head_is_a_failed_attempt() {
    let calls = Arc::new(AtomicUsize::new(0));
    let engine = Http2Engine::start(100, {
        let calls = Arc::clone(&calls);
        move |_| match calls.fetch_add(1, Ordering::SeqCst) {
            0 => vec![Act::Die],
            _ => vec![Act::json(&json!({ "choices": [] }))],
        }
    })
    .await;
    let smg = gateway(&engine, "").await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_requests_total", &[]), 2.0);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_stalls_its_own_stream_only() {
    const PIECE: usize = 16 * 1024;
    let engine = Http2Engine::start(100, |asked| {
        let mut acts = vec![Act::SseHead];
        let pieces = if asked.json()["max_tokens"] == 1 {
            3
        } else {
            400
        };
        for _ in 0..pieces {
            acts.push(Act::event(&delta(&"x".repeat(PIECE))));
        }
        acts.extend(done());
        acts
    })
    .await;
    let smg = gateway(&engine, "").await;
    let mut slow = Vec::new();
    for _ in 0..80 {
        // Read no further than the head.
        slow.push(stream(smg.main(), CHAT, &ask_stream()).await);
    }
    let mut short = ask_stream();
    short["max_tokens"] = json!(1);
    for _ in 0..10 {
        let mut stream = stream(smg.main(), CHAT, &short).await;
        assert_eq!(stream.events().await.len(), 4);
    }
    assert_eq!(seen(&engine.counts().connections), 1);
    // They find everything when they read after all.
    for stream in slow.iter_mut().take(5) {
        assert_eq!(stream.events().await.len(), 401);
    }
    drop(slow);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_speaks_only_http1_is_an_error_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let garbage = tokio::spawn(async move {
        // Closed at once, a connection could break before its answer is seen.
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            assert!(read > 0);
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
            open.push(stream);
        }
    });
    let smg = Smg::start(&config(&[url], ONCE)).await;
    let started = Instant::now();
    assert_error(
        &post(smg.main(), COMPLETIONS, &ask()).await,
        502,
        "call_upstream_connection_failed",
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    // Whoever looks for the reason finds it.
    eventually(Duration::from_secs(20), async || {
        let workers = get(smg.main(), "/workers").await.json();
        let message = workers["workers"][0]["job_status"]["message"].to_string();
        message.contains("does not speak HTTP/2")
    })
    .await;
    garbage.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_address_costs_one_deadline_for_all_who_wait() {
    let full = crate::deadlines::full_backlog().await;
    let engine = Http2Engine::start(100, |_| vec![Act::json(&json!({ "choices": [] }))]).await;
    let workers = [format!("http://{}", full.address), engine.url()];
    let more = "[reliability.timeouts]\nconnect = \"1s\"\n";
    let smg = Smg::start(&config(&workers, more)).await;
    let started = Instant::now();
    let asking = async || post(smg.main(), COMPLETIONS, &ask()).await.status;
    let statuses = join_all((0..40).map(|_| asking())).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let took = started.elapsed();
    assert!(
        (Duration::from_millis(950)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    // One who goes away while the connection is opened takes nothing from the others.
    let mut leaving = Connection::h1(smg.main()).await;
    let left = leaving.try_send(json_request(COMPLETIONS, &ask()));
    tokio::time::timeout(Duration::from_millis(50), left)
        .await
        .ok();
    drop(leaving);
    settled(&smg).await;
    assert_eq!(connections(&smg).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed() {
    let engine = Http2Engine::start(100, |_| vec![Act::json(&json!({ "choices": [] }))]).await;
    let config = config(&[engine.url()], "").replace(
        "connections.http2 = true",
        "connections.http2 = true\nconnections.idle_timeout = \"100ms\"",
    );
    let smg = Smg::start(&config).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    assert_eq!(connections(&smg).await, 1.0);
    eventually(PATIENCE, async || connections(&smg).await == 0.0).await;
    eventually(PATIENCE, async || seen(&engine.counts().open) == 0).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_removed_closes_its_connections() {
    let gate = Gate::closed();
    let engine = Http2Engine::start(100, {
        let gate = gate.clone();
        move |_| held(&gate)
    })
    .await;
    let smg = gateway(&engine, "").await;
    let mut running = stream(smg.main(), CHAT, &ask_stream()).await;
    running.event().await.unwrap().unwrap();
    smg.apply(&format!("{LISTENERS}\n")).await;
    gate.open();
    assert_eq!(running.events().await.last().unwrap(), "data: [DONE]");
    eventually(PATIENCE, async || seen(&engine.counts().open) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_the_protocol_under_load_loses_nothing() {
    let worker = Worker::start(&["--itl", "2ms"]).await;
    let config = |http2: bool| {
        format!(
            "{LISTENERS}\n[[pools]]\nname = \"p\"\nworkers = [{:?}]\nconnections.http2 = {http2}\n",
            worker.url()
        )
    };
    let smg = Smg::start_with(&config(false), |command| {
        command.env(QUIET.0, QUIET.1);
    })
    .await;
    crate::scene::ready(&smg).await;
    let load = Load::start(smg.main());
    for turn in 0..8 {
        smg.apply(&config(turn % 2 == 0)).await;
        load.answers(40).await;
    }
    load.finish().await;
    settled(&smg).await;
    // All that is left belongs to the protocol in force.
    eventually(PATIENCE, async || connections(&smg).await <= 10.0).await;
}
