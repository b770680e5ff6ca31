//! The sample worker over its socket: shapes, streams, the cache, load, faults.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use smg::base::{clock, task};
use smg::cmd::sample_worker::{self, Args, Running, Runtime};
use tokio::net::TcpStream;

/// Longer than anything here takes; what runs into it hangs.
const PATIENCE: Duration = Duration::from_secs(10);
const CHAT: &str = "/v1/chat/completions";

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// Whether the body ended as HTTP wants it.
    whole: bool,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The `data:` of the events that are JSON.
    fn events(&self) -> Vec<Value> {
        let data = |line: &str| serde_json::from_str(line.strip_prefix("data: ")?).ok();
        self.text().lines().filter_map(data).collect()
    }

    fn ends_with_done(&self) -> bool {
        self.text().ends_with("data: [DONE]\n\n")
    }
}

async fn start(args: Args) -> Running {
    sample_worker::start(args).await.expect("start")
}

fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "worker");
    request.body(Full::new(body.into())).unwrap()
}

async fn send(
    worker: &Running,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let stream = TcpStream::connect(worker.addr).await.expect("connect");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .expect("handshake");
    task::spawn("test connection", connection);
    sender.send_request(request).await
}

async fn connect_h2(worker: &Running) -> http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(worker.addr).await.expect("connect"));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .expect("handshake");
    task::spawn("test connection", connection);
    sender
}

async fn collect(response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Answer {
        status: head.status,
        headers: head.headers,
        body: bytes.into(),
        whole,
    }
}

async fn exchange(worker: &Running, request: Request<Full<Bytes>>) -> Answer {
    let exchange = async { collect(send(worker, request).await.expect("an answer")).await };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("an answer in time")
}

async fn get(worker: &Running, path: &str) -> Answer {
    exchange(worker, request(Method::GET, path, "")).await
}

async fn post(worker: &Running, path: &str, body: Value) -> Answer {
    exchange(worker, request(Method::POST, path, body.to_string())).await
}

fn chat(text: &str) -> Value {
    json!({ "model": "sample", "messages": [{ "role": "user", "content": text }] })
}

fn with(mut body: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn stream() -> Request<Full<Bytes>> {
    request(
        Method::POST,
        CHAT,
        with(chat("hello"), json!({ "stream": true })).to_string(),
    )
}

fn faulty(fault: &str, stream: bool) -> Value {
    with(
        chat("hello"),
        json!({ "sample_fault": fault, "stream": stream }),
    )
}

fn content_deltas(text: &str) -> usize {
    text.matches(r#""delta":{"content":""#).count()
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn chat_has_the_openai_shape() {
    let worker = start(Args::default()).await;
    let answer = post(&worker, CHAT, chat("hello")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-sample-worker"), worker.addr.to_string());
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "sample");
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(
        choice["message"]["content"]
            .as_str()
            .unwrap()
            .split(' ')
            .count(),
        16
    );
    assert_eq!(choice["finish_reason"], "stop");
    // "user\nhello\n" is 11 bytes, so 3 tokens.
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 16, "total_tokens": 19,
        "prompt_tokens_details": { "cached_tokens": 0 } });
    assert_eq!(body["usage"], usage);

    let again = post(&worker, CHAT, chat("hello")).await.json();
    assert_eq!(again["choices"], body["choices"]);
    assert_ne!(again["id"], body["id"]);
}

#[tokio::test]
async fn limits_and_stops_are_kept() {
    let worker = start(Args::default()).await;
    let ask = |more| post(&worker, CHAT, with(chat("hello"), more));
    let long = ask(json!({ "max_tokens": 24 })).await.json();
    assert_eq!(long["choices"][0]["finish_reason"], "length");
    assert_eq!(long["usage"]["completion_tokens"], 24);
    let text = long["choices"][0]["message"]["content"].as_str().unwrap();
    let words: Vec<&str> = text.split(' ').collect();
    let stop = json!({ "max_completion_tokens": 24, "max_tokens": 1, "stop": [words[7], "x y"] });
    let cut = ask(stop).await.json();
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    let cut_text = cut["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.starts_with(cut_text) && cut_text.len() < text.len());
    assert!(!cut_text.contains(words[7]));
    let many = ask(json!({ "n": 3 })).await.json();
    let indexes: Vec<_> = many["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["index"])
        .collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert_eq!(many["usage"]["completion_tokens"], 48);
    assert_eq!(ask(json!({ "n": 0 })).await.status, 400);
}

#[tokio::test]
async fn a_chat_stream_has_role_content_finish_usage_and_done() {
    let worker = start(Args::default()).await;
    let more = json!({ "stream": true, "stream_options": { "include_usage": true }, "n": 2 });
    let answer = post(&worker, CHAT, with(chat("hello"), more)).await;
    assert_eq!(
        answer.header("content-type"),
        "text/event-stream; charset=utf-8"
    );
    assert!(answer.ends_with_done());
    let events = answer.events();
    assert!(
        events
            .iter()
            .all(|e| e["object"] == "chat.completion.chunk")
    );
    assert!(events.iter().all(|e| e["id"] == events[0]["id"]));
    let whole = post(&worker, CHAT, with(chat("hello"), json!({ "n": 2 })))
        .await
        .json();
    for index in 0..2 {
        let own: Vec<&Value> = events
            .iter()
            .map(|e| &e["choices"][0])
            .filter(|c| c["index"] == index)
            .collect();
        assert_eq!(
            own[0]["delta"],
            json!({ "role": "assistant", "content": "" })
        );
        assert_eq!(own.len(), 18);
        let text: String = own[1..17]
            .iter()
            .map(|c| c["delta"]["content"].as_str().unwrap())
            .collect();
        assert_eq!(whole["choices"][index]["message"]["content"], text);
        assert!(own[..17].iter().all(|c| c["finish_reason"].is_null()));
        assert_eq!(
            (&own[17]["delta"], &own[17]["finish_reason"]),
            (&json!({}), &json!("stop"))
        );
    }
    let usage = events.last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], 35);
    let plain = exchange(&worker, stream()).await;
    assert!(plain.events().iter().all(|e| e.get("usage").is_none()));
}

#[tokio::test]
async fn completions_take_prompts_in_all_forms() {
    let worker = start(Args::default()).await;
    let ask = |prompt: Value| post(&worker, "/v1/completions", json!({ "prompt": prompt }));
    let one = ask(json!("hello")).await.json();
    assert_eq!(one["object"], "text_completion");
    assert_eq!(one["usage"]["prompt_tokens"], 2);
    let two = ask(json!(["hello", "there"])).await.json();
    assert_eq!(two["choices"].as_array().unwrap().len(), 2);
    assert_eq!(two["choices"][0]["text"], one["choices"][0]["text"]);
    assert_eq!(
        ask(json!([1, 2, 3])).await.json()["usage"]["prompt_tokens"],
        3
    );
    assert_eq!(
        ask(json!([[1, 2], [3]])).await.json()["usage"]["prompt_tokens"],
        3
    );
    assert_eq!(ask(json!([])).await.status, 400);
    let body = json!({ "prompt": "hello", "stream": true });
    let stream = post(&worker, "/v1/completions", body).await;
    let text: String = stream
        .events()
        .iter()
        .map(|e| e["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(one["choices"][0]["text"], text);
    assert!(stream.ends_with_done());
}

#[tokio::test]
async fn generate_has_the_sglang_shape() {
    let worker = start(Args::default()).await;
    let body = json!({ "text": "hello", "sampling_params": { "max_new_tokens": 4 } });
    let one = post(&worker, "/generate", body.clone()).await.json();
    assert_eq!(one["meta_info"]["prompt_tokens"], 2);
    assert_eq!(one["meta_info"]["completion_tokens"], 4);
    assert_eq!(one["meta_info"]["cached_tokens"], 0);
    assert_eq!(
        one["meta_info"]["finish_reason"],
        json!({ "type": "length", "length": 4 })
    );
    let stream = post(&worker, "/generate", with(body, json!({ "stream": true }))).await;
    let events = stream.events();
    assert_eq!(events.len(), 4);
    assert_eq!(events[3]["text"], one["text"]);
    assert!(
        one["text"]
            .as_str()
            .unwrap()
            .starts_with(events[1]["text"].as_str().unwrap())
    );
    assert!(events[2]["meta_info"]["finish_reason"].is_null());
    assert!(stream.ends_with_done());
    let batch = post(&worker, "/generate", json!({ "input_ids": [[1, 2], [3]] }))
        .await
        .json();
    let tokens: Vec<_> = batch
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["meta_info"]["prompt_tokens"])
        .collect();
    assert_eq!(tokens, [2, 1]);
    let nothing = json!({ "text": "hello", "sampling_params": { "max_new_tokens": 0 } });
    assert_eq!(post(&worker, "/generate", nothing).await.json()["text"], "");
    assert_eq!(post(&worker, "/generate", json!({})).await.status, 400);
}

#[tokio::test]
async fn responses_whole_and_streamed() {
    let worker = start(Args::default()).await;
    let path = "/v1/responses";
    let one = post(
        &worker,
        path,
        json!({ "model": "sample", "input": "hello" }),
    )
    .await
    .json();
    assert_eq!(
        (&one["object"], &one["status"]),
        (&json!("response"), &json!("completed"))
    );
    let part = &one["output"][0]["content"][0];
    assert_eq!(part["type"], "output_text");
    assert_eq!(one["usage"]["output_tokens"], 16);
    let input = json!([{ "role": "user", "content": [{ "type": "input_text", "text": "hello" }] }]);
    let answer = post(&worker, path, json!({ "input": input, "stream": true })).await;
    let events = answer.events();
    let numbers: Vec<u64> = events
        .iter()
        .map(|e| e["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    assert_eq!(events[0]["type"], "response.created");
    let deltas = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta");
    let text: String = deltas.map(|e| e["delta"].as_str().unwrap()).collect();
    assert_eq!(part["text"], text);
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], text);
    for event in &events {
        assert!(
            answer
                .text()
                .contains(&format!("event: {}\n", event["type"].as_str().unwrap()))
        );
    }
    let limited = post(
        &worker,
        path,
        json!({ "input": "hello", "max_output_tokens": 2 }),
    )
    .await;
    assert_eq!(
        limited.json()["incomplete_details"]["reason"],
        "max_output_tokens"
    );
}

#[tokio::test]
async fn embeddings_rerank_and_classify() {
    let worker = start(Args::default()).await;
    let body = json!({ "model": "sample", "input": ["a", "b", "a"], "dimensions": 8 });
    let embeddings = post(&worker, "/v1/embeddings", body).await.json();
    let data = &embeddings["data"];
    assert_eq!(data[0]["embedding"].as_array().unwrap().len(), 8);
    assert_eq!(data[0]["embedding"], data[2]["embedding"]);
    assert_ne!(data[0]["embedding"], data[1]["embedding"]);
    assert_eq!(
        embeddings["usage"],
        json!({ "prompt_tokens": 3, "total_tokens": 3 })
    );

    let documents = json!(["blue whale", "the red fox"]);
    let body = json!({ "query": "red fox", "documents": documents, "top_n": 1 });
    let ranked = post(&worker, "/v1/rerank", body).await.json();
    assert_eq!(ranked.as_array().unwrap().len(), 1);
    assert_eq!(
        (&ranked[0]["index"], &ranked[0]["document"]),
        (&json!(1), &documents[1])
    );
    assert!(ranked[0]["score"].as_f64().unwrap() > 0.9);

    let body = json!({ "model": "sample", "input": ["good", "bad"] });
    let classes = post(&worker, "/v1/classify", body).await.json();
    assert_eq!(
        (&classes["object"], &classes["model"]),
        (&json!("list"), &json!("sample"))
    );
    assert_eq!(classes["data"].as_array().unwrap().len(), 2);
    for class in classes["data"].as_array().unwrap() {
        let probs: Vec<f64> = class["probs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p.as_f64().unwrap())
            .collect();
        assert!((probs[0] + probs[1] - 1.0).abs() < 1e-9);
        let best = if probs[0] >= 0.5 {
            "LABEL_0"
        } else {
            "LABEL_1"
        };
        assert_eq!(
            (&class["label"], &class["num_classes"]),
            (&json!(best), &json!(2))
        );
    }
}

#[tokio::test]
async fn runtimes_differ_where_engines_do() {
    let models = vec!["m/a".to_owned(), "b".to_owned()];
    let args = Args {
        models,
        health_status: 503,
        ..Args::default()
    };
    let sglang = start(args.clone()).await;
    let vllm = start(Args {
        runtime: Runtime::Vllm,
        ..args
    })
    .await;
    for (worker, name) in [(&sglang, "sglang"), (&vllm, "vllm")] {
        let list = get(worker, "/v1/models").await.json();
        assert_eq!(list["data"][0]["id"], "m/a");
        assert_eq!(list["data"][1]["owned_by"], name);
        assert_eq!(get(worker, "/v1/models/m/a").await.json()["id"], "m/a");
        assert_eq!(get(worker, "/v1/models/c").await.status, 404);
        assert_eq!(get(worker, "/health").await.status, 503);
        assert!(
            get(worker, "/metrics")
                .await
                .text()
                .contains(&format!("\n{name}:"))
        );
        assert_eq!(get(worker, "/nothing").await.status, 404);
        assert_eq!(get(worker, CHAT).await.status, 405);
    }
    for path in [
        "/server_info",
        "/get_server_info",
        "/model_info",
        "/get_model_info",
    ] {
        assert_eq!(get(&sglang, path).await.json()["model_path"], "m/a");
        assert_eq!(get(&vllm, path).await.status, 404);
    }
    for path in ["/get_load", "/v1/loads"] {
        assert_eq!(get(&sglang, path).await.status, 200);
        assert_eq!(get(&vllm, path).await.status, 404);
    }
    for path in ["/version", "/load"] {
        assert_eq!(get(&sglang, path).await.status, 404);
        assert_eq!(get(&vllm, path).await.status, 200);
    }
    let other = with(chat("hello"), json!({ "model": "quo\"te" }));
    let known = post(&sglang, CHAT, other.clone()).await.json();
    assert_eq!(known["model"], "quo\"te");
    let unknown = post(&vllm, CHAT, other).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["type"], "NotFoundError");
}

#[tokio::test]
async fn mistakes_and_missing_keys_are_refused() {
    let worker = start(Args {
        api_key: Some("secret".to_owned()),
        ..Args::default()
    })
    .await;
    assert_eq!(get(&worker, "/health").await.status, 200);
    assert_eq!(get(&worker, "/v1/models").await.status, 401);
    let ask = async |key: &str, body: &str| {
        let mut request = request(Method::POST, CHAT, body.to_owned());
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {key}").parse().unwrap());
        exchange(&worker, request).await
    };
    let good = chat("hello").to_string();
    assert_eq!(ask("wrong", &good).await.status, 401);
    assert_eq!(ask("secret", &good).await.status, 200);
    for bad in ["{", "{}", r#"{"messages":[]}"#, r#"{"messages":"x"}"#] {
        let answer = ask("secret", bad).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["code"]),
            (400, &json!(400))
        );
    }
}

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
async fn faults_instead_of_an_answer() {
    let worker = start(Args::default()).await;
    let status = post(&worker, CHAT, faulty("status:503", true)).await;
    assert_eq!(
        (status.status.as_u16(), &status.json()["code"]),
        (503, &json!(503))
    );
    let limited = post(&worker, CHAT, faulty("status:429;retry-after=1", false)).await;
    assert_eq!(
        (limited.status.as_u16(), limited.header("retry-after")),
        (429, "1")
    );
    let html = post(&worker, CHAT, faulty("html", false)).await;
    assert_eq!(html.status, 200);
    assert_eq!(html.header("content-type"), "text/html; charset=utf-8");
    let refused = request(Method::POST, CHAT, faulty("refuse", false).to_string());
    assert!(send(&worker, refused).await.is_err());
    assert_eq!(
        post(&worker, CHAT, faulty("nonsense", false)).await.status,
        400
    );
    let begun = clock::now();
    let slow = post(&worker, CHAT, faulty("slow-head:80ms", false)).await;
    assert!(slow.status == 200 && begun.elapsed() >= Duration::from_millis(80));
    eventually("all is answered", || worker.stats()["in_flight"] == 0).await;
    assert_eq!(worker.stats()["faults"], 5);

    let stalled = request(Method::POST, CHAT, faulty("stall-head", false).to_string());
    let stalled = tokio::time::timeout(Duration::from_millis(100), send(&worker, stalled));
    assert!(stalled.await.is_err());
    assert_eq!(worker.stats()["faults"], 6);
    eventually("the stalled one is gone", || {
        worker.stats()["in_flight"] == 0
    })
    .await;
}

/// What comes of a stream until it ends, breaks or says nothing for a while.
async fn until_silent(response: Response<Incoming>) -> (String, &'static str) {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let end = loop {
        match tokio::time::timeout(Duration::from_millis(150), body.frame()).await {
            Err(_) => break "silent",
            Ok(None) => break "ended",
            Ok(Some(Err(_))) => break "broken",
            Ok(Some(Ok(frame))) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
        }
    };
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

#[tokio::test]
async fn faults_in_a_stream() {
    let worker = start(Args::default()).await;
    for (fault, tokens, end) in [
        ("stall-first-token", 0, "silent"),
        ("stall-after:3", 3, "silent"),
        ("reset-after:0", 0, "broken"),
        ("reset-after:3", 3, "broken"),
        ("truncate-after:3", 3, "ended"),
        ("truncate-after:99", 16, "ended"),
        ("garbage-after:3", 3, "ended"),
        ("error-frame-after:3", 3, "ended"),
    ] {
        let request = request(Method::POST, CHAT, faulty(fault, true).to_string());
        let response = send(&worker, request).await.unwrap();
        assert_eq!(response.status(), 200, "{fault}");
        let (text, ended) = until_silent(response).await;
        assert_eq!(ended, end, "{fault}");
        assert_eq!(content_deltas(&text), tokens, "{fault}: {text}");
        let error = fault.starts_with("error");
        assert_eq!(text.contains("[DONE]"), error, "{fault}");
        assert_eq!(text.contains(r#"data: {"error":{"#), error, "{fault}");
        assert_eq!(
            text.contains("this is not an event"),
            fault.starts_with("garbage"),
            "{fault}"
        );
    }
    eventually("nothing is left", || worker.stats()["in_flight"] == 0).await;
    assert_eq!(worker.stats()["running"], 0);
    let body = json!({ "input": "x", "stream": true, "sample_fault": "error-frame-after:2" });
    let failed = post(&worker, "/v1/responses", body).await.events();
    assert_eq!(failed.last().unwrap()["type"], "response.failed");
    assert_eq!(
        failed.last().unwrap()["response"]["error"]["code"],
        "server_error"
    );
}

#[tokio::test]
async fn a_reset_is_one_on_the_wire() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let worker = start(Args::default()).await;
    let body = faulty("reset-after:2", true).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(worker.addr).await.unwrap();
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(content_deltas(&String::from_utf8(received).unwrap()), 2);
}

#[tokio::test]
async fn faults_in_a_whole_answer() {
    let worker = start(Args::default()).await;
    for (fault, whole) in [("truncate-after:20", true), ("reset-after:20", false)] {
        let answer = post(&worker, CHAT, faulty(fault, false)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.len(), answer.whole),
            (200, 20, whole)
        );
    }
    let garbage = post(&worker, CHAT, faulty("garbage-after:1", false)).await;
    assert!(garbage.whole && garbage.body.starts_with(b"{\x00\xff"));
    let error = post(&worker, CHAT, faulty("error-frame-after:0", false)).await;
    assert_eq!(
        (error.status.as_u16(), &error.json()["error"]["code"]),
        (200, &json!(500))
    );
}

#[tokio::test]
async fn faults_by_header_by_order_and_by_chance() {
    let worker = start(Args::default()).await;
    let mut by_header = request(Method::GET, "/health", "");
    by_header
        .headers_mut()
        .insert("x-sample-fault", "status:500".parse().unwrap());
    assert_eq!(exchange(&worker, by_header).await.status, 500);

    let order = json!({ "fault": "status:502", "times": 2 });
    assert_eq!(post(&worker, "/sample/fault", order).await.status, 200);
    assert_eq!(get(&worker, "/health").await.status, 200);
    let ask = || post(&worker, CHAT, chat("hello"));
    for status in [502, 502, 200] {
        assert_eq!(ask().await.status, status);
    }
    worker.fault(Some("status:504"), None).unwrap();
    assert_eq!(ask().await.status, 504);
    worker.fault(None, None).unwrap();
    assert_eq!(ask().await.status, 200);
    assert!(worker.fault(Some("nonsense"), None).is_err());
    let on_path = json!({ "fault": "status:503", "path": "/health" });
    assert_eq!(post(&worker, "/sample/fault", on_path).await.status, 200);
    assert_eq!(get(&worker, "/health").await.status, 503);
    assert_eq!(ask().await.status, 200);
    post(&worker, "/sample/reset", json!({})).await;
    assert_eq!(get(&worker, "/health").await.status, 200);
    assert_eq!(
        post(&worker, "/sample/fault", json!({ "falut": "refuse" }))
            .await
            .status,
        400
    );

    let failing = start(Args {
        fail_rate: 1.0,
        fail_status: 529,
        ..Args::default()
    })
    .await;
    assert_eq!(post(&failing, CHAT, chat("hello")).await.status, 529);
    assert_eq!(get(&failing, "/v1/models").await.status, 200);
}

#[tokio::test]
async fn stats_tell_what_arrived() {
    let worker = start(Args {
        record: 2,
        ..Args::default()
    })
    .await;
    let mut sent = 0;
    for text in ["one", "two", "three"] {
        let body = chat(text).to_string();
        sent += body.len();
        let mut request = request(Method::POST, &format!("{CHAT}?a=b"), body);
        request
            .headers_mut()
            .insert("x-request-id", text.parse().unwrap());
        assert_eq!(exchange(&worker, request).await.status, 200);
    }
    get(&worker, "/unknown").await;
    let stats = get(&worker, "/sample/stats").await.json();
    assert_eq!(
        stats["received"],
        json!({ "/unknown": 1, "/v1/chat/completions": 3 })
    );
    assert_eq!(stats["bytes_in"], sent);
    let latest = stats["requests"].as_array().unwrap();
    assert_eq!(latest.len(), 2);
    assert_eq!(latest[0]["headers"]["x-request-id"], json!(["three"]));
    assert_eq!(latest[0]["body"], chat("three").to_string());
    assert_eq!(
        (&latest[0]["query"], &latest[1]["path"]),
        (&json!("a=b"), &json!("/unknown"))
    );
    let reset = post(&worker, "/sample/reset", json!({})).await.json();
    assert_eq!(
        (&reset["received"], &reset["bytes_in"]),
        (&json!({}), &json!(0))
    );
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
