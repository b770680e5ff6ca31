//! Pairs of workers that meet in a room, as SGLang has them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::scene::{
    LISTENERS, PATIENCE, assert_error, delta, in_chunks, ok, post_bytes, ready, settled,
};
use crate::support::engine::Asked;
use crate::support::{
    Connection, FakeEngine, Gate, Smg, Step, Worker, eventually, get, post, stream,
};

/// A pool of pairs that serves `m`, also called `also-m`. `more` may begin with further keys of that
/// model.
pub(crate) fn pd_config(
    runtime: &str,
    prefill: &[&FakeEngine],
    decode: &[&FakeEngine],
    more: &str,
) -> String {
    let first: Vec<String> = prefill
        .iter()
        .map(|engine| format!("{{ url = \"{}\", bootstrap_port = 8998 }}", engine.url()))
        .collect();
    let second: Vec<String> = decode.iter().map(|engine| engine.url()).collect();
    format!(
        r#"{LISTENERS}
[[pools]]
name = "p"
runtime = "{runtime}"
health.enabled = false
[pools.prefill]
workers = [{}]
policy = "round_robin"
[pools.decode]
workers = {second:?}
policy = "random"

[[models]]
name = "m"
aliases = ["also-m"]
{more}
"#,
        first.join(", ")
    )
}

/// The gateway in front of these engines.
pub(crate) async fn pd_gateway(prefill: &[&FakeEngine], decode: &[&FakeEngine], more: &str) -> Smg {
    Smg::start(&pd_config("sglang", prefill, decode, more)).await
}

/// Rooms in which a decode engine waits for a prefill engine.
#[derive(Clone, Default)]
struct Rooms(Arc<Mutex<HashMap<String, Gate>>>);

impl Rooms {
    fn gate(&self, asked: &Asked) -> Gate {
        let room = asked.json()["bootstrap_room"].to_string();
        let mut rooms = self.0.lock();
        rooms.entry(room).or_insert_with(Gate::closed).clone()
    }

    /// An engine that answers so once its part is done.
    async fn prefill(&self, answer: Vec<Step>) -> FakeEngine {
        let rooms = self.clone();
        FakeEngine::serving("m", move |asked| {
            rooms.gate(asked).open();
            answer.clone()
        })
        .await
    }

    /// An engine that waits for the other in the room, then answers so.
    async fn decode(&self, answer: Vec<Step>) -> FakeEngine {
        let rooms = self.clone();
        FakeEngine::serving("m", move |asked| {
            let mut steps = vec![Step::Hold(rooms.gate(asked))];
            steps.extend(answer.clone());
            steps
        })
        .await
    }
}

fn chat() -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] })
}

async fn ask(smg: &Smg, path: &str, body: &Value) -> crate::support::client::Answer {
    post(smg.main(), path, body).await
}

fn room(asked: &Asked) -> u64 {
    asked.json()["bootstrap_room"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_legs_get_the_request_with_the_same_room() {
    let rooms = Rooms::default();
    let prefill = rooms.prefill(vec![ok()]).await;
    let answer = json!({ "object": "chat.completion", "choices": [], "from": "decode" });
    let decode = rooms.decode(vec![Step::json(200, &answer)]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let body = br#"{ "model" : "also-m", "x": 1.50, "messages":[{"role":"user","content":"hi"}]}"#;
    let mut connection = Connection::h1(smg.main()).await;
    let got = connection
        .send(post_bytes("/v1/chat/completions", body.to_vec()))
        .await;
    assert_eq!((got.status, got.json()), (200, answer));
    let (first, second) = (prefill.calls().remove(0), decode.calls().remove(0));
    assert_eq!(first.body, second.body);
    assert_eq!(first.path, "/v1/chat/completions");
    assert_eq!(first.header("x-request-id"), second.header("x-request-id"));
    let text = String::from_utf8(first.body.clone()).unwrap();
    let room = room(&first);
    assert!(room < (1 << 63) - 1);
    assert_eq!(
        text,
        format!(
            r#"{{ "model" : "m", "x": 1.50, "messages":[{{"role":"user","content":"hi"}}],"bootstrap_host":"127.0.0.1","bootstrap_port":8998,"bootstrap_room":{room}}}"#
        )
    );
    settled(&smg).await;
    let metrics = smg.metrics().await;
    for (role, policy) in [("prefill", "round_robin"), ("decode", "random")] {
        let labels = [("worker_type", role), ("policy", policy), ("model", "m")];
        assert_eq!(
            metrics.sum("smg_worker_selection_total", &labels),
            1.0,
            "{role}"
        );
        let labels = [("worker_type", role), ("model", "m")];
        assert_eq!(metrics.sum("smg_worker_pool_size", &labels), 1.0, "{role}");
    }
    assert_eq!(metrics.sum("smg_worker_selection_total", &[]), 2.0);
    let labels = [("backend_type", "pd"), ("model", "m")];
    assert_eq!(metrics.sum("smg_router_requests_total", &labels), 1.0);
    assert_eq!(metrics.sum("smg_worker_requests_total", &[]), 2.0);
    let labels = [
        ("runtime", "sglang"),
        ("model", "m"),
        ("backend_type", "pd"),
    ];
    assert_eq!(
        metrics.sum("smg_pd_prefill_duration_seconds_count", &labels),
        1.0
    );
    let labels = [("mode", "bootstrap")];
    assert_eq!(metrics.sum("smg_pd_kv_connector_mode_total", &labels), 1.0);
    assert_eq!(metrics.sum("smg_pd_bootstrap_failures_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_unique_and_never_the_clients() {
    let rooms = Rooms::default();
    let prefill = rooms.prefill(vec![ok()]).await;
    let decode = rooms.decode(vec![ok()]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let to = smg.main();
        tasks.spawn(async move {
            let mut connection = Connection::h1(to).await;
            let body = r#"{"bootstrap_room":7,"model":"m","bootstrap_host":"evil","prompt":"hi",
                "bootstrap_room":[7],"bootstrap_port":1}"#;
            for _ in 0..125 {
                let got = connection.send(post_bytes("/v1/completions", body)).await;
                assert_eq!(got.status, 200);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let of = |engine: &FakeEngine| -> HashSet<u64> { engine.calls().iter().map(room).collect() };
    let seen = of(&prefill);
    assert_eq!((prefill.calls().len(), seen.len()), (1000, 1000));
    assert_eq!(seen, of(&decode));
    for asked in prefill.calls() {
        let text = String::from_utf8(asked.body.clone()).unwrap();
        assert!(!text.contains("evil") && !text.contains("[7]"), "{text}");
        assert_eq!(text.matches("bootstrap_room").count(), 2);
        assert_eq!(asked.json()["bootstrap_host"], "127.0.0.1");
        assert_eq!(asked.json()["bootstrap_port"], 8998);
    }
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_have_a_room_for_each() {
    let rooms = Rooms::default();
    let prefill = rooms.prefill(vec![ok()]).await;
    let decode = rooms.decode(vec![ok()]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let messages = json!([{ "role": "user", "content": "hi" }]);
    for (path, body, size) in [
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "n": 3 }),
            Some(3),
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "n": 1 }),
            None,
        ),
        ("/v1/completions", json!({ "prompt": ["a", "b"] }), Some(2)),
        ("/v1/completions", json!({ "prompt": [1, 2, 3] }), None),
        ("/v1/completions", json!({ "prompt": "a" }), None),
        (
            "/generate",
            json!({ "input_ids": [[1], [2], [3], [4]] }),
            Some(4),
        ),
        ("/generate", json!({ "input_ids": [1, 2] }), None),
        ("/generate", json!({ "text": ["a"] }), Some(1)),
        ("/generate", json!({ "text": "a" }), None),
    ] {
        let before = prefill.calls().len();
        assert_eq!(ask(&smg, path, &body).await.status, 200, "{body}");
        let sent = prefill.calls().remove(before).json();
        for name in ["bootstrap_host", "bootstrap_port", "bootstrap_room"] {
            let found = sent[name].as_array().map(Vec::len);
            assert_eq!(found, size, "{name} of {body}");
        }
        if let Some(size) = size {
            let rooms: HashSet<String> = sent["bootstrap_room"]
                .as_array()
                .unwrap()
                .iter()
                .map(Value::to_string)
                .collect();
            assert_eq!(rooms.len(), size);
        }
        assert_eq!(decode.calls().remove(before).json(), sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_in_pieces_is_changed_in_place() {
    let rooms = Rooms::default();
    let prefill = rooms.prefill(vec![ok()]).await;
    let decode = rooms.decode(vec![ok()]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let long = "long \"prompt\" [{".repeat(40_000);
    let body = json!({ "bootstrap_room": 5, "prompt": long, "model": "also-m", "seed": 3 });
    let mut wire = crate::scene::Wire::connect(smg.main()).await;
    let request = in_chunks("/v1/completions", body.to_string().as_bytes(), 30_000);
    wire.write(&request).await;
    assert_eq!(wire.answer().await.status, 200);
    let sent = decode.calls().remove(0);
    assert_eq!(sent.body, prefill.calls().remove(0).body);
    let sent = sent.json();
    assert_eq!(
        (&sent["prompt"], &sent["model"]),
        (&json!(long), &json!("m"))
    );
    assert_eq!(
        (&sent["seed"], &sent["bootstrap_port"]),
        (&json!(3), &json!(8998))
    );
    assert_ne!(sent["bootstrap_room"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_worker_without_a_port_says_null() {
    let rooms = Rooms::default();
    let prefill = rooms.prefill(vec![ok()]).await;
    let decode = rooms.decode(vec![ok()]).await;
    let toml =
        pd_config("sglang", &[&prefill], &[&decode], "").replace(", bootstrap_port = 8998", "");
    let smg = Smg::start(&toml).await;
    assert_eq!(ask(&smg, "/v1/chat/completions", &chat()).await.status, 200);
    assert_eq!(
        decode.calls().remove(0).json()["bootstrap_port"],
        Value::Null
    );
    let text = String::from_utf8(decode.calls().remove(0).body).unwrap();
    assert!(text.contains(r#""bootstrap_port":null"#), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn decodes_stream_comes_event_by_event_while_prefill_is_drained() {
    let rooms = Rooms::default();
    let gate = Gate::closed();
    let prefill = rooms
        .prefill(vec![
            Step::sse_head(),
            Step::event(&delta("from prefill")),
            Step::event("[DONE]"),
            Step::Close,
        ])
        .await;
    let decode = rooms
        .decode(vec![
            Step::sse_head(),
            Step::event(&delta("one")),
            Step::Hold(gate.clone()),
            Step::event(&delta("two")),
            Step::event("[DONE]"),
            Step::Close,
        ])
        .await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let mut body = chat();
    body["stream"] = json!(true);
    let mut stream = stream(smg.main(), "/v1/chat/completions", &body).await;
    assert_eq!(stream.status(), 200);
    let first = stream.event().await.unwrap().unwrap();
    assert!(first.contains("one"), "{first}");
    // Prefill is done and free; decode is busy.
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        let of = |engine: &FakeEngine| {
            metrics.sum("smg_worker_requests_active", &[("worker", &engine.url())])
        };
        (of(&prefill), of(&decode)) == (0.0, 1.0)
    })
    .await;
    gate.open();
    let rest = stream.events().await;
    assert!(
        rest[0].contains("two") && rest[1] == "data: [DONE]",
        "{rest:?}"
    );
    settled(&smg).await;
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_pd_ttft_seconds_count", &[("runtime", "sglang")]),
        1.0
    );
    assert_eq!(
        metrics.sum("smg_pd_prefill_duration_seconds_count", &[]),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_wait_for_the_end_of_prefills() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let prefill = FakeEngine::serving("m", move |_| {
        vec![
            Step::write(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{",
            ),
            Step::Hold(hold.clone()),
            Step::write("}"),
        ]
    })
    .await;
    let decode = FakeEngine::serving("m", |_| vec![ok()]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    assert_eq!(ask(&smg, "/v1/chat/completions", &chat()).await.status, 200);
    let busy = async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_worker_requests_active", &[("worker", &prefill.url())])
    };
    assert_eq!(busy().await, 1.0);
    gate.open();
    settled(&smg).await;
    assert!(prefill.cut().is_empty(), "prefill's connection was closed");
}

fn generated(logprobs: &Value, text: &str) -> Value {
    json!({ "text": text, "meta_info": { "id": "x", "input_token_logprobs": logprobs, "e": 1 } })
}

#[tokio::test(flavor = "multi_thread")]
async fn logprobs_of_both_are_merged() {
    let rooms = Rooms::default();
    let prefill = rooms
        .prefill(vec![Step::json(200, &generated(&json!([[-0.5, 1]]), ""))])
        .await;
    let decode = rooms
        .decode(vec![Step::json(
            200,
            &generated(&json!([[-1.5, 2]]), "out"),
        )])
        .await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let wanted = json!({ "text": "hi", "return_logprob": true });
    let got = ask(&smg, "/generate", &wanted).await;
    assert_eq!(got.status, 200);
    assert_eq!(got.json(), generated(&json!([[-0.5, 1], [-1.5, 2]]), "out"));
    let plain = json!({ "text": "hi", "return_logprob": false });
    let got = ask(&smg, "/generate", &plain).await;
    assert_eq!(got.json(), generated(&json!([[-1.5, 2]]), "out"));
    let chat = json!({ "messages": [{ "role": "user", "content": "hi" }], "logprobs": true });
    let got = ask(&smg, "/v1/chat/completions", &chat).await;
    assert_eq!(got.json(), generated(&json!([[-1.5, 2]]), "out"));
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logprobs_are_merged_in_every_event() {
    let rooms = Rooms::default();
    let event = |logprobs: &Value, text: &str| Step::event(&generated(logprobs, text).to_string());
    let end = [Step::event("[DONE]"), Step::Close];
    let mut first = vec![Step::sse_head(), event(&json!([[-0.5, 1]]), "")];
    first.extend(end.clone());
    let mut second = vec![
        Step::sse_head(),
        event(&json!([]), "a"),
        event(&json!([[-2, 3]]), "ab"),
    ];
    second.extend(end);
    let prefill = rooms.prefill(first).await;
    let decode = rooms.decode(second).await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let body = json!({ "text": "hi", "return_logprob": true, "stream": true });
    let mut stream = stream(smg.main(), "/generate", &body).await;
    let events = stream.events().await;
    let parsed: Vec<Value> = events[..2]
        .iter()
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    assert_eq!(parsed[0], generated(&json!([[-0.5, 1]]), "a"));
    assert_eq!(parsed[1], generated(&json!([[-0.5, 1], [-2, 3]]), "ab"));
    assert_eq!(events[2], "data: [DONE]");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_leg_has_its_own_key_and_policy() {
    let rooms = Rooms::default();
    let mut prefills = [
        rooms.prefill(vec![ok()]).await,
        rooms.prefill(vec![ok()]).await,
    ];
    prefills.sort_by_key(FakeEngine::url);
    let decodes = [
        rooms.decode(vec![ok()]).await,
        rooms.decode(vec![ok()]).await,
    ];
    let toml = format!(
        r#"{LISTENERS}
[[pools]]
name = "p"
runtime = "sglang"
health.enabled = false
[pools.prefill]
policy = "round_robin"
workers = [{{ url = "{}", api_key = "one" }}, {{ url = "{}", api_key = "one" }}]
[pools.decode]
policy = "passthrough"
workers = [{{ url = "{}", api_key = "two" }}, {{ url = "{}", api_key = "two" }}]
[[models]]
name = "m"
"#,
        prefills[0].url(),
        prefills[1].url(),
        decodes[0].url(),
        decodes[1].url(),
    );
    let smg = Smg::start(&toml).await;
    for _ in 0..6 {
        assert_eq!(ask(&smg, "/v1/chat/completions", &chat()).await.status, 200);
    }
    assert_eq!(
        [prefills[0].calls().len(), prefills[1].calls().len()],
        [3, 3]
    );
    let mut counts = [decodes[0].calls().len(), decodes[1].calls().len()];
    counts.sort_unstable();
    assert_eq!(counts, [0, 6]);
    for (engines, key) in [(&prefills, "Bearer one"), (&decodes, "Bearer two")] {
        for asked in engines.iter().flat_map(FakeEngine::calls) {
            assert_eq!(asked.header("authorization"), Some(key));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pairs_cannot_do_is_not_implemented() {
    let rooms = Rooms::default();
    let prefill = rooms.prefill(vec![ok()]).await;
    let decode = rooms.decode(vec![ok()]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    for (path, body) in [
        ("/v1/embeddings", json!({ "model": "m", "input": "hi" })),
        ("/v1/classify", json!({ "model": "m", "input": "hi" })),
        (
            "/v1/rerank",
            json!({ "model": "m", "query": "q", "documents": ["d"] }),
        ),
        (
            "/rerank",
            json!({ "model": "m", "query": "q", "documents": ["d"] }),
        ),
    ] {
        assert_error(&ask(&smg, path, &body).await, 501, "not_implemented");
        let explain = json!({ "path": path, "body": body });
        let explained = post(smg.main(), "/admin/explain", &explain).await.json();
        assert_eq!(
            (&explained["status"], &explained["code"]),
            (&json!(501), &json!("not_implemented")),
            "{explained}"
        );
    }
    assert!(prefill.calls().is_empty() && decode.calls().is_empty());
    let body = json!({ "model": "m", "input": "hi" });
    assert_eq!(ask(&smg, "/v1/responses", &body).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_shown_with_their_role() {
    let prefill = FakeEngine::start(|asked| match asked.path.as_str() {
        "/get_model_info" => vec![Step::json(200, &json!({ "model_path": "prefill" }))],
        _ => vec![ok()],
    })
    .await;
    let decodes = [
        FakeEngine::serving("m", |_| vec![ok()]).await,
        FakeEngine::serving("m", |_| vec![ok()]).await,
    ];
    let smg = pd_gateway(&[&prefill], &[&decodes[0], &decodes[1]], "").await;
    let shown = get(smg.main(), "/workers").await.json();
    assert_eq!(
        shown["stats"],
        json!({ "prefill_count": 1, "decode_count": 2, "regular_count": 0 })
    );
    for worker in shown["workers"].as_array().unwrap() {
        let expected = if worker["url"] == prefill.url() {
            "prefill"
        } else {
            "decode"
        };
        assert_eq!(worker["worker_type"], expected);
    }
    assert_eq!(get(smg.main(), "/readiness").await.status, 200);
    let models = get(smg.main(), "/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "also-m");
    let said = get(smg.main(), "/get_model_info").await.json();
    assert_eq!(said["model_path"], "prefill");
}

/// Sample workers that really meet, behind a gateway.
async fn sample_pair(runtime: &str) -> (Worker, Worker, Smg) {
    let start = async |leg| {
        Worker::start(&[
            "--runtime",
            runtime,
            "--model",
            "m",
            "--disaggregation",
            leg,
        ])
        .await
    };
    let (prefill, decode) = (start("prefill").await, start("decode").await);
    let port = prefill.url().rsplit_once(':').unwrap().1;
    let toml = format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\n[pools.prefill]\n\
         workers = [{{ url = \"{}\", bootstrap_port = {port} }}]\n\
         [pools.decode]\nworkers = [\"{}\"]\n",
        prefill.url(),
        decode.url(),
    );
    let smg = Smg::start(&toml).await;
    ready(&smg).await;
    (prefill, decode, smg)
}

/// Nothing is declared: the engine and its model are found by asking.
#[tokio::test(flavor = "multi_thread")]
async fn sample_workers_meet() {
    for runtime in ["sglang", "vllm"] {
        let (_prefill, _decode, smg) = sample_pair(runtime).await;
        let mut tasks = tokio::task::JoinSet::new();
        for turn in 0..20 {
            let to = smg.main();
            tasks.spawn(async move {
                let text = format!("say something, number {turn}");
                let body = json!({
                    "model": "m", "messages": [{ "role": "user", "content": text }],
                    "max_tokens": 12,
                });
                let got = post(to, "/v1/chat/completions", &body).await;
                assert_eq!(got.status, 200, "{}", got.text());
                assert_eq!(got.json()["usage"]["completion_tokens"], 12);
                let mut body = body;
                body["stream"] = json!(true);
                let mut got = stream(to, "/v1/chat/completions", &body).await;
                let events = got.events().await;
                assert_eq!(events.last().unwrap(), "data: [DONE]");
                assert!(events.len() > 3, "{events:?}");
                let body = json!({ "model": "m", "prompt": [text, "other"], "max_tokens": 3 });
                let got = post(to, "/v1/completions", &body).await;
                assert_eq!(got.status, 200, "{}", got.text());
                assert_eq!(got.json()["choices"].as_array().unwrap().len(), 2);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        settled(&smg).await;
        let metrics = smg.metrics().await;
        let labels = [("runtime", runtime), ("model", "m")];
        let count = metrics.sum("smg_pd_prefill_duration_seconds_count", &labels);
        assert_eq!(count, 60.0);
        assert_eq!(metrics.sum("smg_worker_errors_total", &[]), 0.0);
    }
}
