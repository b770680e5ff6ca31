//! Workers whose ranks are workers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::scene::{LISTENERS, PATIENCE, ok, ready};
use crate::support::engine::Asked;
use crate::support::{FakeEngine, Smg, Step, Worker, eventually, get, post};

fn config(urls: &[&str], pool: &str, policy: &str) -> String {
    format!(
        r#"{LISTENERS}
[routing]
policy = "{policy}"
[[pools]]
name = "p"
dp_aware = true
workers = {urls:?}
{pool}
"#
    )
}

/// An engine of the model `m` with four ranks that says how many tokens each of them holds.
async fn engine(used: [u64; 4]) -> FakeEngine {
    let loads: Vec<Value> = used
        .iter()
        .enumerate()
        .map(|(rank, used)| {
            json!({ "dp_rank": rank, "num_running_reqs": 0, "num_used_tokens": used,
                    "max_total_num_tokens": 100_000 })
        })
        .collect();
    FakeEngine::start(move |asked: &Asked| match asked.path.as_str() {
        "/health" => vec![Step::answer(200, "text/plain", "")],
        "/v1/models" => {
            vec![Step::json(
                200,
                &json!({ "data": [{ "id": "m", "owned_by": "sglang" }] }),
            )]
        }
        "/get_server_info" => vec![Step::json(200, &json!({ "dp_size": 4 }))],
        path if path.starts_with("/v1/loads") => {
            vec![Step::json(200, &json!({ "loads": loads }))]
        }
        _ if asked.method == "GET" => vec![Step::json(404, &json!({}))],
        _ => vec![ok()],
    })
    .await
}

async fn workers(smg: &Smg) -> Vec<Value> {
    let body = get(smg.main(), "/workers").await.json();
    body["workers"].as_array().unwrap().clone()
}

/// Sends a prompt and returns the rank that the engine was told.
async fn rank(smg: &Smg, engine: &FakeEngine, prompt: &str) -> Value {
    let asked = json!({ "model": "m", "prompt": prompt });
    let answer = post(smg.main(), "/v1/completions", &asked).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let calls = engine.calls();
    calls.last().unwrap().json()["data_parallel_rank"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_the_rank_that_was_chosen() {
    let worker = Worker::start(&["--dp-size", "3", "--record", "10"]).await;
    let smg = Smg::start(&config(&[worker.url()], "", "round_robin")).await;
    ready(&smg).await;
    let shown = workers(&smg).await;
    assert_eq!(shown.len(), 3);
    for (rank, shown) in shown.iter().enumerate() {
        assert_eq!(shown["url"], format!("{}@{rank}", worker.url()));
        assert_eq!(
            (&shown["dp_rank"], &shown["dp_size"]),
            (&json!(rank), &json!(3))
        );
        assert_eq!(shown["dp_base_url"], worker.url());
        assert_eq!(shown["status"], "ready");
        let id = shown["id"].as_str().unwrap();
        assert_eq!(
            &get(smg.main(), &format!("/workers/{id}")).await.json(),
            shown
        );
    }
    // Whatever a client says about ranks is not for it to say.
    for body in [
        json!({ "model": "sample", "prompt": "one" }),
        json!({ "model": "sample", "prompt": "two", "data_parallel_rank": 77 }),
        json!({ "routed_dp_rank": 77, "model": "sample", "prompt": "three" }),
    ] {
        let answer = post(smg.main(), "/v1/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let to = worker
        .url()
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    let stats = get(to, "/sample/stats").await.json();
    let mut ranks = Vec::new();
    for request in stats["requests"].as_array().unwrap() {
        if request["path"] == "/v1/completions" {
            let body: Value = serde_json::from_str(request["body"].as_str().unwrap()).unwrap();
            if !body["routed_dp_rank"].is_null() {
                assert_eq!(body["routed_dp_rank"], body["data_parallel_rank"]);
            }
            ranks.push(body["data_parallel_rank"].as_u64().unwrap());
        }
    }
    assert_eq!(ranks, [0, 1, 2]);
    let metrics = smg.metrics().await;
    for rank in 0..3 {
        let url = format!("{}@{rank}", worker.url());
        let labels = [("worker", &*url), ("model", "sample")];
        assert_eq!(metrics.sum("smg_worker_requests_total", &labels), 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_gets_its_rank_too() {
    let engine = engine([0; 4]).await;
    let smg = Smg::start(&config(&[&engine.url()], "", "round_robin")).await;
    ready(&smg).await;
    let prompt = "word ".repeat(100_000);
    for expected in 0..4 {
        assert_eq!(rank(&smg, &engine, &prompt).await, expected);
        assert_eq!(engine.calls().last().unwrap().json()["prompt"], prompt);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_asked_once_for_all_its_ranks() {
    let engine = engine([0; 4]).await;
    let pool = "[reliability.health]\ninterval = \"20ms\"\nfailure_threshold = 1\n";
    let smg = Smg::start(&config(&[&engine.url()], pool, "least_load")).await;
    ready(&smg).await;
    let count = |path: &str| {
        let asked = engine.asked();
        asked.iter().filter(|asked| asked.path == path).count()
    };
    eventually(PATIENCE, async || count("/health") >= 5).await;
    assert_eq!(count("/get_server_info"), 1);
    let metrics = smg.metrics().await;
    let probes = metrics.sum("smg_worker_health_checks_total", &[("result", "success")]);
    // One is the registration's, and one may have come since.
    assert!(probes <= count("/health") as f64);
    assert_eq!(metrics.sum("smg_worker_health", &[]), 4.0);
    // What is asked of each engine is asked of none of its ranks twice.
    let flushed = post(smg.main(), "/flush_cache", &json!({})).await.json();
    assert_eq!(flushed["total_workers"], 1, "{flushed}");
    let body = get(smg.main(), "/get_loads").await.json();
    assert_eq!(body["dp_rank_count"], 4);
    drop(engine);
    eventually(PATIENCE, async || {
        smg.metrics().await.sum("smg_worker_health", &[]) == 0.0
    })
    .await;
    assert_eq!(workers(&smg).await.len(), 4, "they are still known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_ranks_is_refused_and_says_why() {
    let worker = Worker::start(&["--runtime", "vllm"]).await;
    let mut smg = Smg::start(&config(&[worker.url()], "", "round_robin")).await;
    eventually(PATIENCE, async || {
        workers(&smg).await[0]["job_status"].is_object()
    })
    .await;
    let shown = workers(&smg).await;
    assert_eq!(shown.len(), 1);
    let job = &shown[0]["job_status"];
    assert_eq!(
        (&job["job_type"], &job["status"]),
        (&json!("AddWorker"), &json!("failed"))
    );
    let message = job["message"].as_str().unwrap();
    assert!(
        message.contains("`vllm`") && message.contains("SGLang"),
        "{message}"
    );
    assert_eq!(shown[0]["is_healthy"], false);
    assert_eq!(get(smg.main(), "/readiness").await.status, 503);
    let said = |line: &str| line.contains("needs SGLang").then_some(());
    smg.process().line(PATIENCE, said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ranks_leave_with_their_engine() {
    let (stays, leaves) = (engine([0; 4]).await, engine([0; 4]).await);
    let toml = |urls: &[&str]| config(urls, "", "round_robin");
    let smg = Smg::start(&toml(&[&stays.url(), &leaves.url()])).await;
    eventually(PATIENCE, async || workers(&smg).await.len() == 8).await;
    smg.apply(&toml(&[&stays.url()])).await;
    let left = workers(&smg).await;
    assert_eq!(left.len(), 4);
    assert!(
        left.iter()
            .all(|worker| worker["dp_base_url"] == stays.url())
    );
    let metrics = smg.metrics().await;
    assert_eq!(metrics.count("smg_worker_health", &[]), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rank_with_the_fewest_tokens_serves() {
    let engine = engine([5000, 20, 600, 4000]).await;
    let pool = "dp_minimum_tokens = true\n";
    let toml = config(&[&engine.url()], pool, "passthrough")
        .replace("[routing]", "[routing]\nload_monitor_interval = \"1h\"");
    let smg = Smg::start(&toml).await;
    ready(&smg).await;
    eventually(PATIENCE, async || {
        smg.metrics().await.count("smg_engine_token_usage", &[]) == 4
    })
    .await;
    assert_eq!(rank(&smg, &engine, "hi").await, 1);
    // What has been sent since the report counts: a thousand words are 1300 tokens.
    assert_eq!(rank(&smg, &engine, &"word ".repeat(1000)).await, 1);
    assert_eq!(rank(&smg, &engine, &"word ".repeat(1000)).await, 2);
    assert_eq!(rank(&smg, &engine, "hi").await, 1);
    let labels = [("model", "m"), ("policy", "passthrough")];
    let metrics = smg.metrics().await;
    assert_eq!(metrics.count("smg_policy_degraded", &labels), 1);
    assert_eq!(metrics.sum("smg_policy_degraded", &labels), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_comes_back_as_another_is_known_anew() {
    let (is_up, is_other) = (Arc::new(AtomicBool::new(true)), AtomicBool::new(false));
    let is_other = Arc::new(is_other);
    let (up, other) = (Arc::clone(&is_up), Arc::clone(&is_other));
    let engine = FakeEngine::start(move |asked: &Asked| {
        let other = other.load(Ordering::SeqCst);
        match asked.path.as_str() {
            "/health" if !up.load(Ordering::SeqCst) => vec![Step::json(503, &json!({}))],
            "/health" => vec![Step::answer(200, "text/plain", "")],
            "/v1/models" => {
                let id = if other { "n" } else { "m" };
                let models = json!({ "data": [{ "id": id, "owned_by": "sglang" }] });
                vec![Step::json(200, &models)]
            }
            "/get_server_info" => {
                let size = if other { 3 } else { 2 };
                vec![Step::json(200, &json!({ "dp_size": size }))]
            }
            _ if asked.method == "GET" => vec![Step::json(404, &json!({}))],
            _ => vec![ok()],
        }
    })
    .await;
    let pool =
        "[pools.health]\ninterval = \"20ms\"\nfailure_threshold = 1\nsuccess_threshold = 1\n";
    let smg = Smg::start(&config(&[&engine.url()], pool, "round_robin")).await;
    ready(&smg).await;
    assert_eq!(workers(&smg).await.len(), 2);
    is_up.store(false, Ordering::SeqCst);
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.status == 503
    })
    .await;
    is_other.store(true, Ordering::SeqCst);
    is_up.store(true, Ordering::SeqCst);
    eventually(PATIENCE, async || {
        let shown = workers(&smg).await;
        shown.len() == 3 && shown.iter().all(|worker| worker["model_id"] == "n")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_one_of_all_ranks() {
    let engine = engine([0; 4]).await;
    let tree = "{ cache_aware = { cache_threshold = 0.5 } }";
    let toml = config(&[&engine.url()], "", "-").replace("\"-\"", tree);
    let smg = Smg::start(&toml).await;
    ready(&smg).await;
    let mut ranks = BTreeSet::new();
    for word in ["one ", "two ", "three ", "four "] {
        ranks.insert(
            rank(&smg, &engine, &word.repeat(100))
                .await
                .as_u64()
                .unwrap(),
        );
    }
    assert!(ranks.len() > 1, "{ranks:?}");
    let metrics = smg.metrics().await;
    assert!(metrics.sum("smg_cache_tree_chars", &[]) > 0.0);
    post(smg.main(), "/flush_cache", &json!({})).await;
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_cache_tree_chars", &[]), 0.0);
    assert_eq!(metrics.sum("smg_cache_tree_tenants", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_of_an_engine_that_is_gone_are_not_tried_one_by_one() {
    let stays = engine([0; 4]).await;
    let gone = engine([0; 4]).await;
    let retry = "[reliability.retry]\nmax_retries = 2\n[pools.health]\ninterval = \"1h\"\n";
    let smg = Smg::start(&config(&[&stays.url(), &gone.url()], retry, "round_robin")).await;
    eventually(PATIENCE, async || {
        let shown = workers(&smg).await;
        shown.len() == 8 && shown.iter().all(|worker| worker["is_healthy"] == true)
    })
    .await;
    drop(gone);
    for _ in 0..16 {
        let asked = json!({ "model": "m", "prompt": "hi" });
        let answer = post(smg.main(), "/v1/completions", &asked).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(stays.calls().len(), 16);
}
