//! Shapes: what the routes answer, and what is told of requests.

use http::Method;
use serde_json::{Value, json};
use smg::cmd::sample_worker::{Args, Runtime};

use super::client::{CHAT, chat, exchange, get, post, request, start, stream, with};

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
