//! Memory for what is buffered: reserved before a body is read, given back when it need not be sent
//! again; and what a client that does not read costs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::pd::pd_config;
use crate::scene::{
    PATIENCE, Wire, ask_stream, assert_error, config, delta, gateway, ok, plain_engine, post_bytes,
    settled,
};
use crate::streams::endless;
use crate::support::client::json_request;
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, post, stream};

const MIB: usize = 1024 * 1024;

const EXHAUSTED: &str = "memory_budget_exhausted";

fn budget(size: &str) -> String {
    format!("[server]\nmemory_budget = \"{size}\"\n")
}

/// A completion's body of this length.
fn body(length: usize) -> String {
    let head = "{\"model\":\"m\",\"prompt\":\"";
    format!("{head}{}\"}}", "x".repeat(length - head.len() - 2))
}

fn head(lines: &str) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{lines}\r\n\r\n"
    )
}

async fn figure(smg: &Smg, state: &str) -> f64 {
    let metrics = smg.metrics().await;
    metrics.sum("smg_memory_budget_bytes", &[("state", state)])
}

/// Waits until so many bytes are in use.
async fn uses(smg: &Smg, bytes: usize) {
    eventually(PATIENCE, async || figure(smg, "used").await == bytes as f64).await;
}

/// An engine that answers long bodies when the gate is opened, and short ones at once.
async fn patient_engine(gate: &Gate) -> FakeEngine {
    let gate = gate.clone();
    FakeEngine::serving("m", move |asked| {
        if asked.body.len() > 10_000 {
            vec![Step::Hold(gate.clone()), ok()]
        } else {
            vec![ok()]
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_room_is_refused_before_it_is_read_and_let_in_later() {
    let large = body(700_000);
    for h2 in [false, true] {
        let gate = Gate::closed();
        let engine = patient_engine(&gate).await;
        let mut smg = gateway(&[&engine], &budget("1MiB")).await;
        assert_eq!(figure(&smg, "limit").await, MIB as f64);
        let mut first = Wire::connect(smg.main()).await;
        first
            .write(head(&format!("content-length: {}", large.len())))
            .await;
        first.write(&large).await;
        eventually(PATIENCE, async || engine.calls().len() == 1).await;
        uses(&smg, large.len()).await;

        // A client that waits for leave to send does not get it.
        let mut second = Wire::connect(smg.main()).await;
        let waiting = format!("expect: 100-continue\r\ncontent-length: {}", large.len());
        second.write(head(&waiting)).await;
        let refused = second.answer().await;
        assert_error(&refused, 503, EXHAUSTED);
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.header("connection"), "close");
        assert_eq!(second.until_close().await, "");

        // What is small still has room.
        let mut connection = if h2 {
            Connection::h2(smg.main()).await
        } else {
            Connection::h1(smg.main()).await
        };
        let small = connection
            .send(post_bytes("/v1/completions", body(1_000)))
            .await;
        assert_eq!(small.status, 200, "{}", small.text());
        uses(&smg, large.len()).await;

        gate.open();
        assert_eq!(first.answer().await.status, 200);
        uses(&smg, 0).await;
        let again = connection
            .send(post_bytes("/v1/completions", large.clone()))
            .await;
        assert_eq!(again.status, 200, "{}", again.text());
        uses(&smg, 0).await;
        let metrics = smg.metrics().await;
        let labels = [("status_code", "503"), ("error_code", EXHAUSTED)];
        assert_eq!(metrics.sum("smg_http_responses_total", &labels), 1.0);
        let told = |line: &&String| line.contains("`server.memory_budget` is spent");
        assert_eq!(smg.process().output().iter().filter(told).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_chunks_is_refused_when_it_outgrows_the_room() {
    let gate = Gate::closed();
    let engine = patient_engine(&gate).await;
    let smg = gateway(&[&engine], &budget("1MiB")).await;
    let large = body(700_000);
    let mut first = Wire::connect(smg.main()).await;
    first
        .write(head(&format!("content-length: {}", large.len())))
        .await;
    first.write(&large).await;
    uses(&smg, large.len()).await;

    let mut second = Wire::connect(smg.main()).await;
    second.write(head("transfer-encoding: chunked")).await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    second.write(&chunk).await;
    // What has come is held.
    uses(&smg, large.len() + 0x10000).await;
    for _ in 0..5 {
        second.try_write(&chunk).await;
    }
    assert_error(&second.answer().await, 503, EXHAUSTED);
    second.until_close().await;
    uses(&smg, large.len()).await;

    // A client that breaks off gives back what it held.
    let mut third = Wire::connect(smg.main()).await;
    third.write(head("content-length: 300000")).await;
    uses(&smg, large.len() + 300_000).await;
    drop(third);
    uses(&smg, large.len()).await;
    drop(first);
    uses(&smg, 0).await;
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_follows_a_reload() {
    let engine = plain_engine().await;
    let with = |size| config(&[engine.url()], &budget(size));
    let smg = Smg::start(&with("1MiB")).await;
    crate::scene::ready(&smg).await;
    let ask = async |length| {
        let mut connection = Connection::h1(smg.main()).await;
        connection
            .send(post_bytes("/v1/completions", body(length)))
            .await
    };
    // More than there will ever be.
    assert_error(&ask(2 * MIB).await, 503, EXHAUSTED);
    smg.apply(&with("4MiB")).await;
    assert_eq!(figure(&smg, "limit").await, 4.0 * MIB as f64);
    assert_eq!(ask(2 * MIB).await.status, 200);
    smg.apply(&with("64KiB")).await;
    assert_error(&ask(100_000).await, 503, EXHAUSTED);
    assert_eq!(ask(10_000).await.status, 200);
    smg.apply(&with("1%")).await;
    let limit = figure(&smg, "limit").await;
    assert!(limit > 1e6 && limit < 1e12, "{limit} of this machine");
    uses(&smg, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_let_go_once_its_answer_has_begun() {
    let gates = [Gate::closed(), Gate::closed()];
    let script = vec![
        Step::sse_head(),
        Step::Hold(gates[0].clone()),
        Step::event(&delta("one")),
        Step::Hold(gates[1].clone()),
        Step::event("[DONE]"),
        Step::Close,
    ];
    let engine = FakeEngine::serving("m", move |_| script.clone()).await;
    let more = format!("{}sse_keepalive = \"100ms\"\n", budget("1MiB"));
    let smg = gateway(&[&engine], &more).await;
    let mut ask = ask_stream();
    ask["messages"][0]["content"] = json!("x".repeat(100_000));
    let length = ask.to_string().len();
    let mut events = stream(smg.main(), "/v1/chat/completions", &ask).await;
    // The head is out and a comment with it; another worker may still have to be asked.
    assert_eq!(events.event().await.unwrap().unwrap(), ": keep-alive");
    uses(&smg, length).await;
    gates[0].open();
    while events.event().await.unwrap().unwrap().starts_with(':') {}
    uses(&smg, 0).await;
    gates[1].open();
    assert_eq!(events.events().await.last().unwrap(), "data: [DONE]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ranking_that_has_no_room_is_refused_and_leaves_nothing_behind() {
    let engine = FakeEngine::serving("m", |asked| {
        let text = "x".repeat(asked.json()["documents"][0].as_str().unwrap().len() * 1_000);
        let ranking: Value = json!([{ "score": 0.5, "index": 0, "document": text }]);
        vec![Step::json(200, &ranking)]
    })
    .await;
    let smg = gateway(&[&engine], &budget("1MiB")).await;
    let mut connection = Connection::h1(smg.main()).await;
    for (document, status) in [("x".repeat(10), 200), ("x".repeat(1_000), 503)] {
        let ask = json!({ "model": "m", "query": "q", "documents": [document] });
        let answer = connection.send(json_request("/v1/rerank", &ask)).await;
        if status == 503 {
            assert_error(&answer, 503, EXHAUSTED);
        } else {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        uses(&smg, 0).await;
    }
    settled(&smg).await;
}

/// What both legs say is put together before it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_answers_of_a_pair_that_have_no_room_are_refused() {
    let large = || {
        let answer = json!({
            "text": "x".repeat(200_000), "meta_info": { "input_token_logprobs": [] },
            "kv_transfer_params": { "remote_host": "h" },
        });
        FakeEngine::serving("m", move |_| vec![Step::json(200, &answer)])
    };
    let ask = json!({ "model": "m", "text": "hi", "return_logprob": true });
    for runtime in ["sglang", "vllm"] {
        let (prefill, decode) = (large().await, large().await);
        for (size, status) in [("64KiB", 503), ("4MiB", 200)] {
            let text = pd_config(runtime, &[&prefill], &[&decode], &budget(size));
            let smg = Smg::start(&text).await;
            let answer = post(smg.main(), "/generate", &ask).await;
            if status == 503 {
                assert_error(&answer, 503, EXHAUSTED);
                // Where both are asked at once, the answer of one may end the other before it is heard.
                let asked = prefill.calls().len().max(decode.calls().len());
                assert_eq!(asked, 1, "{runtime}: nobody is asked again");
            } else {
                assert_eq!(answer.status, 200, "{runtime}: {}", answer.text());
                assert_eq!(answer.json()["text"].as_str().unwrap().len(), 200_000);
            }
            uses(&smg, 0).await;
            settled(&smg).await;
        }
    }
}

/// A copy holds what it copies until it has been answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_holds_its_share() {
    let gate = Gate::closed();
    let (engine, shadow) = (plain_engine().await, patient_engine(&gate).await);
    let more = format!(
        "mirror = {{ pool = \"shadow\", fraction = 1.0 }}\n[[pools]]\nname = \"shadow\"\n\
         runtime = \"vllm\"\nworkers = [\"{}\"]\nhealth.enabled = false\n{}",
        shadow.url(),
        budget("1MiB")
    );
    let text = config(&[engine.url()], &more).replace("aliases", "pool = \"p\"\naliases");
    let smg = Smg::start(&text).await;
    crate::scene::ready(&smg).await;
    let large = body(300_000);
    let mut connection = Connection::h1(smg.main()).await;
    let answer = connection
        .send(post_bytes("/v1/completions", large.clone()))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually(PATIENCE, async || shadow.calls().len() == 1).await;
    uses(&smg, large.len()).await;
    gate.open();
    uses(&smg, 0).await;
}

/// Streams that nobody reads stand still; what is on its way is little of each.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_cost_little_each() {
    const STREAMS: usize = 32;
    const MOST_KIB: u64 = 1024;
    for h2 in [false, true] {
        let (worker, written) = endless().await;
        let mut smg = Smg::start(&config(&[format!("http://{worker}")], "")).await;
        let first = Connection::h2(smg.main()).await;
        let before = smg.process().rss_kb();
        let mut held = Vec::new();
        for _ in 0..STREAMS {
            let mut connection = if h2 {
                first.again()
            } else {
                Connection::h1(smg.main()).await
            };
            let response = connection
                .open(json_request("/v1/chat/completions", &ask_stream()))
                .await;
            assert_eq!(response.status(), 200);
            held.push((connection, response));
        }
        let (mut last, mut same) = (0, 0);
        eventually(PATIENCE, async || {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = written.load(Ordering::SeqCst);
            same = if now == last { same + 1 } else { 0 };
            last = now;
            same >= 10
        })
        .await;
        let grown = smg.process().rss_kb().saturating_sub(before);
        println!("HTTP/2: {h2}: {} KiB of {STREAMS} streams", grown);
        assert!(
            grown < MOST_KIB * STREAMS as u64,
            "HTTP/2: {h2}: {grown} KiB for {STREAMS} streams"
        );
        drop((held, first));
        settled(&smg).await;
    }
}
