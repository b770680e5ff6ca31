//! The engine: cache, pace, queue, load, connections, start and end.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use smg::base::{clock, task};
use smg::cmd::sample_worker::{self, Args};
use tokio::net::TcpStream;

use super::client::{
    CHAT, chat, collect, connect_h2, content_deltas, eventually, faulty, get, post, send, start,
    stream, with,
};

#[tokio::test]
async fn the_prefix_cache_hits_grows_and_evicts() {
    let worker = start(Args {
        cache_tokens: 64,
        ..Args::default()
    })
    .await;
    let cached = async |text: &str| {
        let answer = post(&worker, "/v1/completions", json!({ "prompt": text }))
            .await
            .json();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    // A block is 16 tokens of 4 bytes; the cache holds 4 blocks.
    let (a, b, tail) = ("a".repeat(128), "b".repeat(128), "the end");
    assert_eq!(cached(&a).await, 0);
    // The last token is never taken from the cache, so the block with it is not.
    assert_eq!(cached(&a).await, 16);
    assert_eq!(cached(&format!("{a}{tail}")).await, 32);
    assert_eq!(cached(&b).await, 0);
    assert_eq!(worker.stats()["cached_blocks"], 4);
    assert_eq!(cached(&format!("{a}{tail}")).await, 32);
    // One more block pushes out the end of `b`, which was used least recently.
    assert_eq!(cached(&"c".repeat(65)).await, 0);
    assert_eq!(cached(&format!("{b}{tail}")).await, 16);
    assert_eq!(worker.stats()["cached_blocks"], 4);
    assert_eq!(post(&worker, "/flush_cache", json!({})).await.status, 200);
    assert_eq!(worker.stats()["cached_blocks"], 0);
    assert_eq!(cached(&format!("{a}{tail}")).await, 0);
    // Another model shares nothing.
    let other = json!({ "model": "other", "prompt": format!("{a}{tail}") });
    let other = post(&worker, "/v1/completions", other).await.json();
    assert_eq!(other["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn uncached_tokens_cost_time() {
    let worker = start(Args {
        prefill_rate: 1000,
        ..Args::default()
    })
    .await;
    let prompt = json!({ "prompt": "x".repeat(1601), "max_tokens": 1 });
    let timed = async || {
        let begun = clock::now();
        assert_eq!(
            post(&worker, "/v1/completions", prompt.clone())
                .await
                .status,
            200
        );
        begun.elapsed()
    };
    // 401 tokens at 1000 a second, then 1 token.
    let (cold, warm) = (timed().await, timed().await);
    assert!(cold >= Duration::from_millis(400), "{cold:?}");
    assert!(warm < cold / 2, "{warm:?} against {cold:?}");
}

#[tokio::test]
async fn a_stream_keeps_its_pace() {
    let (ttft, itl) = (Duration::from_millis(60), Duration::from_millis(20));
    let worker = start(Args {
        ttft,
        itl,
        output_tokens: 4,
        ..Args::default()
    })
    .await;
    let begun = clock::now();
    let mut body = send(&worker, stream()).await.unwrap().into_body();
    let mut times = Vec::new();
    while let Some(frame) = body.frame().await {
        assert!(frame.unwrap().is_data());
        times.push(begun.elapsed());
    }
    assert!(times[0] >= ttft, "{times:?}");
    assert!(
        times.len() > 1 && *times.last().unwrap() >= ttft + itl * 3,
        "{times:?}"
    );
}

#[tokio::test]
async fn load_is_reported_and_returns_to_zero_when_clients_go() {
    let args = Args {
        itl: Duration::from_secs(60),
        max_running: 2,
        ..Args::default()
    };
    let worker = start(args).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(send(&worker, stream()).await.unwrap());
    }
    eventually("two run, one waits", || {
        worker.stats()["running"] == 2 && worker.stats()["waiting"] == 1
    })
    .await;
    let loads = get(&worker, "/v1/loads").await.json();
    let load = &loads["loads"][0];
    assert_eq!(
        (&load["num_running_reqs"], &load["num_waiting_reqs"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(load["num_used_tokens"], 2 * 19);
    assert_eq!(get(&worker, "/get_load").await.json()[0]["num_reqs"], 3);
    let metrics = get(&worker, "/metrics").await.text();
    assert!(
        metrics.contains("sglang:num_running_reqs{model_name=\"sample\"} 2\n"),
        "{metrics}"
    );

    drop(clients.remove(0));
    eventually("the third runs", || worker.stats()["waiting"] == 0).await;
    eventually("two run", || worker.stats()["running"] == 2).await;
    drop(clients);
    eventually("nothing runs", || {
        let stats = worker.stats();
        stats["in_flight"] == 0 && stats["running"] == 0 && stats["used_tokens"] == 0
    })
    .await;
    assert_eq!(worker.stats()["cancelled"], 3);
}

#[tokio::test]
async fn requests_wait_for_their_turn() {
    let args = Args {
        ttft: Duration::from_millis(50),
        max_running: 1,
        ..Args::default()
    };
    let worker = start(args).await;
    let begun = clock::now();
    let ask = || post(&worker, CHAT, chat("hello"));
    let answers = tokio::join!(ask(), ask(), ask());
    assert!(
        [answers.0, answers.1, answers.2]
            .iter()
            .all(|answer| answer.status == 200)
    );
    assert!(begun.elapsed() >= Duration::from_millis(150));
    assert_eq!(worker.stats()["running"], 0);
}

#[tokio::test]
async fn http2_without_tls() {
    let worker = start(Args {
        itl: Duration::from_millis(1),
        ..Args::default()
    })
    .await;
    let sender = connect_h2(&worker).await;
    let uri = format!("{}{CHAT}", worker.url());
    let ask = |fault: &str| {
        let body = faulty(fault, true).to_string();
        let request = Request::post(&uri)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        sender.clone().send_request(request)
    };
    // A reset breaks one stream only, not the connection that the others share.
    let (slow, reset) = tokio::join!(ask("slow-head:0"), ask("reset-after:3"));
    let (slow, reset) = tokio::join!(collect(slow.unwrap()), collect(reset.unwrap()));
    assert!(slow.whole && slow.ends_with_done());
    assert!(!reset.whole);
    assert_eq!(content_deltas(&reset.text()), 3);
    assert!(ask("refuse").await.is_err());
    assert!(
        collect(ask("slow-head:0").await.unwrap())
            .await
            .ends_with_done()
    );
    assert_eq!(
        worker.stats()["connections"],
        json!({ "open": 1, "accepted": 1 })
    );
}

#[tokio::test]
async fn a_thousand_streams_share_a_connection_each_with_its_own_answer() {
    let worker = start(Args {
        itl: Duration::from_millis(5),
        ..Args::default()
    })
    .await;
    let sender = connect_h2(&worker).await;
    let uri = format!("{}{CHAT}", worker.url());
    let mut calls = Vec::new();
    for index in 0..1000 {
        let body = with(chat(&index.to_string()), json!({ "stream": true })).to_string();
        let request = Request::post(&uri)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let mut sender = sender.clone();
        calls.push(task::spawn("test call", async move {
            collect(sender.send_request(request).await.unwrap()).await
        }));
    }
    let mut ids = std::collections::BTreeSet::new();
    for call in calls {
        let answer = call.await.unwrap();
        assert!(answer.ends_with_done());
        assert_eq!(content_deltas(&answer.text()), 16);
        let events = answer.events();
        assert!(events.iter().all(|event| event["id"] == events[0]["id"]));
        ids.insert(events[0]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1000);
    assert_eq!(worker.stats()["running"], 0);
}

#[tokio::test]
async fn a_shutdown_ends_all_and_frees_the_port() {
    let worker = start(Args {
        itl: Duration::from_secs(60),
        ..Args::default()
    })
    .await;
    let response = send(&worker, stream()).await.unwrap();
    let port = worker.addr.port();
    worker.shutdown().await;
    assert!(!collect(response).await.whole);
    let again = start(Args {
        port,
        ..Args::default()
    })
    .await;
    assert_eq!(get(&again, "/health").await.status, 200);
    let taken = sample_worker::start(Args {
        port,
        ..Args::default()
    })
    .await;
    assert!(taken.unwrap_err().to_string().contains(&port.to_string()));
}

#[tokio::test]
async fn connections_are_refused_until_the_startup_delay_is_over() {
    let startup_delay = Duration::from_millis(200);
    let mut worker = start(Args {
        startup_delay,
        ..Args::default()
    })
    .await;
    assert!(TcpStream::connect(worker.addr).await.is_err());
    worker.ready().await.unwrap();
    assert_eq!(get(&worker, "/health").await.status, 200);
}
