//! Pairs of which prefill answers first and tells decode where to fetch, as vLLM has them.

use serde_json::{Value, json};

use crate::pd::pd_config;
use crate::scene::{LISTENERS, assert_error, ok, settled, short_stream};
use crate::support::{FakeEngine, Smg, Step, post, stream};

async fn gateway(prefill: &[&FakeEngine], decode: &[&FakeEngine], more: &str) -> Smg {
    Smg::start(&pd_config("vllm", prefill, decode, more)).await
}

fn handed() -> Value {
    json!({
        "do_remote_prefill": true, "do_remote_decode": false, "remote_engine_id": "e-1",
        "remote_block_ids": [1, 2, 3], "remote_host": "10.0.0.1", "remote_port": 5600,
    })
}

async fn prefill() -> FakeEngine {
    FakeEngine::serving("m", |_| {
        let answer = json!({
            "object": "chat.completion", "choices": [], "kv_transfer_params": handed(),
            "usage": { "prompt_tokens": 9, "completion_tokens": 1 },
        });
        vec![Step::json(200, &answer)]
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_prefill_hands_over_goes_to_decode() {
    let prefill = prefill().await;
    let decode = FakeEngine::serving("m", |_| short_stream("hi")).await;
    let smg = gateway(&[&prefill], &[&decode], "").await;
    let body = json!({
        "model": "also-m", "messages": [], "stream": true, "max_tokens": 50,
        "max_completion_tokens": 60, "min_tokens": 3, "stream_options": { "include_usage": true },
        "kv_transfer_params": { "mine": 1 }, "seed": 4,
    });
    let mut got = stream(smg.main(), "/v1/chat/completions", &body).await;
    assert_eq!(got.status(), 200);
    assert_eq!(got.events().await.len(), 2);

    let (first, second) = (prefill.calls().remove(0), decode.calls().remove(0));
    assert_eq!(first.header("x-request-id"), second.header("x-request-id"));
    let mut wanted = body.clone();
    wanted["model"] = json!("m");
    wanted["max_tokens"] = json!(1);
    wanted["max_completion_tokens"] = json!(1);
    wanted["min_tokens"] = json!(1);
    wanted["stream"] = json!(false);
    wanted.as_object_mut().unwrap().remove("stream_options");
    wanted["kv_transfer_params"] = json!({
        "do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": null,
        "remote_block_ids": null, "remote_host": null, "remote_port": null,
    });
    assert_eq!(first.json(), wanted);
    let mut wanted = body;
    wanted["model"] = json!("m");
    wanted["kv_transfer_params"] = handed();
    assert_eq!(second.json(), wanted);

    settled(&smg).await;
    let metrics = smg.metrics().await;
    let labels = [("mode", "kv_transfer_params")];
    assert_eq!(metrics.sum("smg_pd_kv_connector_mode_total", &labels), 1.0);
    for family in ["prefill_duration", "kv_transfer_duration", "ttft"] {
        let labels = [("runtime", "vllm"), ("model", "m"), ("backend_type", "pd")];
        let name = format!("smg_pd_{family}_seconds_count");
        assert_eq!(metrics.sum(&name, &labels), 1.0, "{name}");
    }
    assert_eq!(metrics.sum("smg_pd_kv_transfer_failures_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_request_gets_what_it_needs_and_no_more() {
    let prefill = prefill().await;
    let decode = FakeEngine::serving("m", |_| vec![ok()]).await;
    let smg = gateway(&[&prefill], &[&decode], "").await;
    let body = json!({ "model": "m", "prompt": "hi" });
    assert_eq!(post(smg.main(), "/v1/completions", &body).await.status, 200);
    let sent = prefill.calls().remove(0).json();
    assert_eq!(
        (&sent["max_tokens"], &sent["stream"]),
        (&json!(1), &json!(false))
    );
    assert!(sent.get("max_completion_tokens").is_none() && sent.get("min_tokens").is_none());
    let body = json!({ "model": "m", "input": "hi", "max_output_tokens": 7 });
    assert_eq!(post(smg.main(), "/v1/responses", &body).await.status, 200);
    let sent = prefill.calls().remove(1).json();
    assert_eq!(sent["max_output_tokens"], 1);
    assert!(sent.get("max_tokens").is_none());
    assert_eq!(decode.calls().remove(1).json()["max_output_tokens"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn decode_does_without_when_prefill_hands_nothing_over() {
    let prefill = FakeEngine::serving("m", |_| vec![ok()]).await;
    let decode = FakeEngine::serving("m", |_| vec![ok()]).await;
    let smg = gateway(&[&prefill], &[&decode], "").await;
    let body = json!({ "model": "m", "kv_transfer_params": { "x": 1 }, "prompt": "hi" });
    assert_eq!(post(smg.main(), "/v1/completions", &body).await.status, 200);
    assert_eq!(
        decode.calls().remove(0).json(),
        json!({ "model": "m", "prompt": "hi" })
    );
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_pd_kv_connector_mode_total", &[("mode", "none")]),
        1.0
    );
    assert_eq!(metrics.sum("smg_pd_kv_transfer_failures_total", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn decode_is_never_asked_when_prefill_fails() {
    let refusal = json!({ "error": { "message": "the prompt is too long", "code": 400 } });
    let prefill = FakeEngine::serving("m", move |_| vec![Step::json(400, &refusal)]).await;
    let decode = FakeEngine::serving("m", |_| vec![ok()]).await;
    let smg = gateway(&[&prefill], &[&decode], "").await;
    let body = json!({ "model": "m", "prompt": "hi" });
    let got = post(smg.main(), "/v1/completions", &body).await;
    assert_error(&got, 400, "prefill_bad_request");
    assert!(
        got.text().contains("the prompt is too long"),
        "{}",
        got.text()
    );
    assert!(decode.calls().is_empty());
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_decode_costs_another_pair() {
    let prefills = [prefill().await, prefill().await];
    let broken = FakeEngine::serving("m", |_| vec![Step::json(500, &json!({}))]).await;
    let good = FakeEngine::serving("m", |_| vec![ok()]).await;
    let toml = format!(
        r#"{LISTENERS}
[[pools]]
name = "p"
runtime = "vllm"
health.enabled = false
[pools.prefill]
policy = "round_robin"
workers = ["{}", "{}"]
[pools.decode]
policy = "passthrough"
workers = [{{ url = "{}", priority = 60 }}, "{}"]
[[models]]
name = "m"
[reliability.retry]
initial_backoff = "1ms"
"#,
        prefills[0].url(),
        prefills[1].url(),
        broken.url(),
        good.url(),
    );
    let smg = Smg::start(&toml).await;
    let body = json!({ "model": "m", "prompt": "hi" });
    assert_eq!(post(smg.main(), "/v1/completions", &body).await.status, 200);
    assert_eq!((broken.calls().len(), good.calls().len()), (1, 1));
    assert_eq!(
        [prefills[0].calls().len(), prefills[1].calls().len()],
        [1, 1]
    );
    let metrics = smg.metrics().await;
    let labels = [("worker_type", "decode"), ("endpoint", "completions")];
    assert_eq!(metrics.sum("smg_worker_retries_total", &labels), 1.0);
    assert_eq!(metrics.sum("smg_pd_kv_transfer_failures_total", &[]), 1.0);
    settled(&smg).await;
}
