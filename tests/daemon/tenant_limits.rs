//! How much one caller may use, what those hear who want more, and how the usage is learned.

use std::time::Duration;

use serde_json::{Value, json};

use crate::scene::{
    Door, PATIENCE, Wire, assert_error, config, delta, gateway, ready, settled, silent_engine,
};
use crate::support::client::{Answer, json_request};
use crate::support::engine::Asked;
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, post, stream};

const PATH: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const OVER: &str = "tenant_rate_limit_exceeded";

/// Bytes of a request that [`asking`] makes, by four.
const INPUT: u64 = 15;

/// An engine that says that an answer has cost what the request's `seed` says, where it has one.
/// Prompts that begin with `hold` are answered when the gate is opened.
async fn engine(gate: &Gate) -> FakeEngine {
    let gate = gate.clone();
    silent_engine(move |asked| {
        let mut steps = Vec::new();
        let body = asked.json();
        if body["prompt"]
            .as_str()
            .is_some_and(|prompt| prompt.starts_with("hold"))
        {
            steps.push(Step::Hold(gate.clone()));
        }
        steps.extend(answer(asked));
        steps
    })
    .await
}

fn usage(tokens: u64) -> Value {
    json!({ "prompt_tokens": 1, "completion_tokens": tokens - 1, "total_tokens": tokens })
}

fn answer(asked: &Asked) -> Vec<Step> {
    let body = asked.json();
    let told = body["seed"].as_u64();
    if body["stream"] != json!(true) {
        let mut answer = json!({ "object": "text_completion", "choices": [] });
        if let Some(tokens) = told {
            answer["usage"] = usage(tokens);
        }
        return vec![Step::json(200, &answer)];
    }
    let mut steps = vec![Step::sse_head(), Step::event(&delta("one"))];
    steps.push(Step::event(
        &delta("two").replace("\"id\"", "\"usage\":null,\"id\""),
    ));
    if let (Some(tokens), Some(true)) = (told, body["stream_options"]["include_usage"].as_bool()) {
        let last = json!({ "id": "c", "choices": [], "usage": usage(tokens) });
        steps.push(Step::event(&last.to_string()));
    }
    steps.extend([Step::event("[DONE]"), Step::Close]);
    steps
}

/// A request that is expected to cost `tokens`; `x` makes up its length.
fn asking(prompt: &str, tokens: u64) -> Value {
    let mut ask = json!({ "max_tokens": tokens - INPUT, "model": "m", "prompt": prompt, "x": "" });
    let length = usize::try_from(INPUT * 4).unwrap();
    ask["x"] = "x".repeat(length - ask.to_string().len()).into();
    assert_eq!(ask.to_string().len(), length);
    ask
}

/// The same, and what the engine says of it.
fn costing(prompt: &str, expected: u64, told: u64) -> Value {
    let mut ask = asking(prompt, expected);
    ask["x"] = "".into();
    ask["seed"] = told.into();
    ask
}

/// The tables of limits for everybody.
fn limits(keys: &str) -> String {
    format!("[auth.default_limits]\n{keys}\n")
}

#[track_caller]
fn assert_over(answer: &Answer) -> u64 {
    assert_error(answer, 429, OVER);
    answer.header("retry-after").parse().unwrap()
}

async fn sum(smg: &Smg, name: &str, labels: &[(&str, &str)]) -> f64 {
    smg.metrics().await.sum(name, labels)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_per_minute_are_judged_on_the_head() {
    let engine = engine(&Gate::closed()).await;
    let smg = gateway(&[&engine], &limits("requests_per_minute = 3")).await;
    for _ in 0..3 {
        assert_eq!(post(smg.main(), PATH, &asking("hi", 99)).await.status, 200);
    }
    let wait = assert_over(&post(smg.main(), PATH, &asking("hi", 99)).await);
    assert!((1..=20).contains(&wait), "{wait}");
    // The client waits for a 100 before it sends a body, and hears at once.
    let mut wire = Wire::connect(smg.main()).await;
    let head =
        "host: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\nexpect: 100-continue";
    wire.write(format!("POST {PATH} HTTP/1.1\r\n{head}\r\n\r\n"))
        .await;
    assert_over(&wire.answer().await);
    assert_eq!(engine.calls().len(), 3);
    settled(&smg).await;
    let requests = "smg_tenant_requests_total";
    for (result, expected) in [("allowed", 3.0), ("rejected", 2.0)] {
        let labels = [("tenant", "other"), ("result", result)];
        assert_eq!(sum(&smg, requests, &labels).await, expected);
    }
    // No other path of the gateway is limited.
    ready(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_reserved_and_settled_with_what_the_answer_says() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &limits("tokens_per_minute = 1000")).await;
    let held = tokio::spawn({
        let (to, ask) = (smg.main(), costing("hold", 900, 20));
        async move { post(to, PATH, &ask).await }
    });
    eventually(PATIENCE, async || engine.calls().len() == 1).await;
    let wait = assert_over(&post(smg.main(), PATH, &asking("hi", 700)).await);
    assert!((10..=36).contains(&wait), "{wait}");
    gate.open();
    assert_eq!(held.await.unwrap().status, 200);
    settled(&smg).await;
    assert_eq!(post(smg.main(), PATH, &asking("hi", 700)).await.status, 200);
    // That one told nothing: its estimate stands.
    let wait = assert_over(&post(smg.main(), PATH, &asking("hi", 700)).await);
    assert!((1..=26).contains(&wait), "{wait}");
    settled(&smg).await;
    let tokens = "smg_tenant_tokens_total";
    for (direction, expected) in [("input", 1.0), ("output", 19.0)] {
        let labels = [("tenant", "other"), ("direction", direction)];
        assert_eq!(sum(&smg, tokens, &labels).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_expected_is_a_debt_and_more_than_all_passes_when_nothing_is_used() {
    let engine = engine(&Gate::closed()).await;
    let smg = gateway(&[&engine], &limits("tokens_per_minute = 600")).await;
    // Larger than all there is, and it costs even more.
    assert_eq!(
        post(smg.main(), PATH, &costing("hi", 5000, 6000))
            .await
            .status,
        200
    );
    settled(&smg).await;
    let wait = assert_over(&post(smg.main(), PATH, &asking("hi", 60)).await);
    assert!((480..=546).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_let_in_as_far_as_it_fits() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &limits("tokens_per_minute = 600")).await;
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let (to, ask) = (smg.main(), asking("hold", 200));
            tokio::spawn(async move { post(to, PATH, &ask).await })
        })
        .collect();
    eventually(PATIENCE, async || {
        let labels = [("result", "rejected")];
        sum(&smg, "smg_tenant_requests_total", &labels).await >= 60.0
    })
    .await;
    gate.open();
    let mut served = 0;
    for client in clients {
        let answer = client.await.unwrap();
        if answer.status == 200 {
            served += 1;
        } else {
            assert_over(&answer);
        }
    }
    // A fourth one comes for each 20 seconds that the burst takes.
    assert!((3..=4).contains(&served), "{served}");
    assert_eq!(engine.calls().len(), served);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_has_worked_on_costs_nothing() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let one = "[reliability.admission]\nmax_concurrent_requests = 1\n";
    let smg = gateway(&[&engine], &(limits("tokens_per_minute = 1000") + one)).await;
    let ask = costing("hold", 100, 50);
    let held = tokio::spawn({
        let (to, ask) = (smg.main(), ask.clone());
        async move { post(to, PATH, &ask).await }
    });
    eventually(PATIENCE, async || engine.calls().len() == 1).await;
    // It waits for its turn, and goes away.
    let mut waiting = Connection::h1(smg.main()).await;
    let waiting =
        tokio::spawn(async move { waiting.send(json_request(PATH, &asking("hi", 850))).await });
    eventually(PATIENCE, async || {
        sum(&smg, "smg_admission_queue_depth", &[]).await == 1.0
    })
    .await;
    assert_over(&post(smg.main(), PATH, &asking("hi", 850)).await);
    waiting.abort();
    eventually(PATIENCE, async || {
        sum(&smg, "smg_admission_queue_depth", &[]).await == 0.0
    })
    .await;
    gate.open();
    assert_eq!(held.await.unwrap().status, 200);
    settled(&smg).await;
    assert_eq!(post(smg.main(), PATH, &asking("hi", 850)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_worker_costs_nothing() {
    let door = Door::closed();
    let refusing = silent_engine(|_| vec![Step::json(400, &json!({ "error": "no" }))]).await;
    for (worker, status) in [(door.url(), 502), (refusing.url(), 400)] {
        let smg = Smg::start(&config(&[worker], &limits("tokens_per_minute = 1000"))).await;
        for _ in 0..3 {
            let answer = post(smg.main(), PATH, &asking("hi", 900)).await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_held_to_the_end_of_the_answer() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &limits("max_concurrent = 1")).await;
    let held = tokio::spawn({
        let (to, ask) = (smg.main(), asking("hold", 99));
        async move { post(to, PATH, &ask).await }
    });
    eventually(PATIENCE, async || engine.calls().len() == 1).await;
    assert_eq!(
        assert_over(&post(smg.main(), PATH, &asking("hi", 99)).await),
        1
    );
    gate.open();
    assert_eq!(held.await.unwrap().status, 200);
    settled(&smg).await;
    assert_eq!(post(smg.main(), PATH, &asking("hi", 99)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_limits_and_keeps_the_counts() {
    let engine = engine(&Gate::closed()).await;
    let of = |number: u64| {
        let limits = limits(&format!("requests_per_minute = {number}"));
        config(&[engine.url()], &limits)
    };
    let smg = Smg::start(&of(2)).await;
    let served = async |number| {
        for _ in 0..number {
            assert_eq!(post(smg.main(), PATH, &asking("hi", 99)).await.status, 200);
        }
        assert_over(&post(smg.main(), PATH, &asking("hi", 99)).await)
    };
    assert!((10..=30).contains(&served(2).await));
    smg.apply(&of(4)).await;
    assert!((3..=15).contains(&served(2).await));
    // Three are too many now; a minute for each that is too much.
    smg.apply(&of(1)).await;
    assert!((100..=240).contains(&served(0).await));
    smg.apply(&config(&[engine.url()], "")).await;
    for _ in 0..5 {
        assert_eq!(post(smg.main(), PATH, &asking("hi", 99)).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_have_limits_besides_whatever_they_are_called() {
    let engine = engine(&Gate::closed()).await;
    let keys = "requests_per_minute = 5\n\
                models = [{ match = \"*\", requests_per_minute = 9 }, { match = \"m\", requests_per_minute = 2 }]";
    let smg = gateway(&[&engine], &limits(keys)).await;
    let named = |name: &str| json!({ "model": name, "prompt": "hi" });
    assert_eq!(post(smg.main(), PATH, &named("m")).await.status, 200);
    assert_eq!(post(smg.main(), PATH, &named("also-m")).await.status, 200);
    for name in ["m", "also-m", "m", "m", "m"] {
        let wait = assert_over(&post(smg.main(), PATH, &named(name)).await);
        assert!((1..=30).contains(&wait), "a refusal counts nowhere: {wait}");
    }
    assert_eq!(engine.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_of_a_stream_is_asked_for_and_taken_out_again() {
    let engine = engine(&Gate::closed()).await;
    let smg = gateway(&[&engine], &limits("tokens_per_minute = 1000")).await;
    let message = json!([{ "role": "user", "content": "hi" }]);
    let ask = |options: Value| {
        let mut ask = json!({
            "model": "also-m", "stream": true, "messages": message, "max_tokens": 700, "seed": 30,
        });
        if !options.is_null() {
            ask["stream_options"] = options;
        }
        ask
    };
    let plain = ["one", "null", "[DONE]"];
    for (options, sent) in [
        (json!(null), json!({ "include_usage": true })),
        (
            json!({ "include_usage": false, "x": 1 }),
            json!({ "include_usage": true, "x": 1 }),
        ),
    ] {
        let mut stream = stream(smg.main(), CHAT, &ask(options)).await;
        let events = stream.events().await;
        assert_eq!(events.len(), 3, "{events:?}");
        for (event, text) in events.iter().zip(plain) {
            assert!(
                event.contains(text) && !event.contains("_tokens"),
                "{events:?}"
            );
        }
        let calls = engine.calls();
        let asked = calls.last().unwrap().json();
        assert_eq!(
            (&asked["stream_options"], &asked["model"]),
            (&sent, &json!("m"))
        );
        settled(&smg).await;
    }
    // Without the figures a second one of 700 would not have fitted, nor a third.
    let own = json!({ "include_usage": true });
    let mut asked_for = stream(smg.main(), CHAT, &ask(own)).await;
    let events = asked_for.events().await;
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(events[2].contains("\"total_tokens\":30"), "{events:?}");
    settled(&smg).await;
    let labels = [("direction", "output")];
    assert_eq!(
        sum(&smg, "smg_tenant_tokens_total", &labels).await,
        3.0 * 29.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_limits_of_tokens_the_body_goes_on_as_it_came() {
    let engine = engine(&Gate::closed()).await;
    let smg = gateway(&[&engine], &limits("requests_per_minute = 1000")).await;
    let ask = r#"{"model":"m","stream" : true,"messages":[], "seed":30}"#;
    let mut connection = Connection::h1(smg.main()).await;
    let answer = connection.send(crate::scene::post_bytes(CHAT, ask)).await;
    assert_eq!(answer.text().matches("data: ").count(), 3);
    assert_eq!(engine.calls()[0].body, ask.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_figures_hold_up_nothing() {
    let gate = Gate::closed();
    let shut = gate.clone();
    let engine = silent_engine(move |_| {
        let last = json!({ "choices": [], "usage": usage(7) }).to_string();
        let (half, rest) = last.split_at(20);
        vec![
            Step::sse_head(),
            Step::event(&delta("one")),
            Step::write(&format!("data: {half}")),
            Step::Hold(shut.clone()),
            Step::write(&format!("{rest}\n\ndata: [DONE]\n\n")),
            Step::Close,
        ]
    })
    .await;
    let smg = gateway(&[&engine], &limits("tokens_per_minute = 1000")).await;
    let ask = json!({ "model": "m", "prompt": "hi", "stream": true });
    let mut stream = stream(smg.main(), PATH, &ask).await;
    let first = tokio::time::timeout(Duration::from_secs(20), stream.event()).await;
    assert!(first.unwrap().unwrap().unwrap().contains("one"));
    gate.open();
    assert_eq!(stream.events().await, ["data: [DONE]"]);
}
