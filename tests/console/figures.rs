//! What is shown is so.

use http::Method;
use serde_json::{Value, json};

use crate::scene::{NOBODY, PATIENCE, ask, chat, config, console, gateway, overview, page, served};
use crate::support::{Smg, Worker, eventually, get, post};

#[tokio::test]
async fn the_page_says_how_things_are() {
    let workers = [Worker::start(&[]).await, Worker::start(&[]).await];
    let urls = [workers[0].url(), workers[1].url(), NOBODY];
    let file = config(&urls, "");
    let smg = Smg::start(&file).await;
    served(&smg).await;
    for _ in 0..7 {
        assert_eq!(chat(&smg, "sample").await, 200);
    }
    assert_eq!(chat(&smg, "no-such-model").await, 404);
    smg.rewrite(&file.replace("\"1s\"", "\"one second\""));
    assert_eq!(smg.reload().await.result(), "rejected");
    eventually(PATIENCE, async || {
        let html = page(&smg).await;
        html.contains("1 of 3 workers down") && html.contains("<b>7</b> answered")
    })
    .await;
    let html = page(&smg).await;
    for part in [
        "<title>smg · reload rejected · 1 of 3 workers down</title>",
        "The last reload was rejected",
        "one second",
        "<b>1</b> client error",
        "model_not_found",
        "2 of 3 ready",
        workers[0].url().strip_prefix("http://").unwrap(),
        "also also &lt;b&gt;sample&lt;",
        "<noscript><meta http-equiv=\"refresh\"",
    ] {
        assert!(html.contains(part), "no `{part}` in\n{html}");
    }
    assert!(!html.contains("<b>sample"), "{html}");
    let status = smg.status().await;
    let sha256 = status["live"]["sha256"].as_str().unwrap();
    assert!(html.contains(sha256));
    // The part that a script fetches is the same without the frame.
    let live = get(console(&smg), "/console/live").await;
    assert_eq!(live.status, 200);
    assert!(live.text().contains("1 of 3 workers down") && !live.text().contains("<html"));
}

#[tokio::test]
async fn the_overview_agrees_with_the_metrics_and_the_workers() {
    let (smg, worker) = gateway("").await;
    for _ in 0..5 {
        chat(&smg, "sample").await;
    }
    chat(&smg, "nobody").await;
    let counted = |overview: &Value| overview["spans"][2]["requests"].as_u64();
    eventually(PATIENCE, async || counted(&overview(&smg).await) == Some(6)).await;
    let said = overview(&smg).await;
    let metrics = smg.metrics().await;
    let path = ("path", "/v1/chat/completions");
    assert_eq!(metrics.sum("smg_http_responses_total", &[path]), 6.0);
    let outcomes = said["spans"][2]["outcomes"].as_array().unwrap();
    let ended: Vec<u64> = outcomes
        .iter()
        .map(|one| one["requests"].as_u64().unwrap())
        .collect();
    assert_eq!(ended, [5, 1, 0, 0, 0]);
    let seen = &said["pools"][0]["workers"][0];
    let listed = get(smg.main(), "/workers").await.json();
    let listed = &listed["workers"][0];
    assert_eq!(seen["id"], listed["id"]);
    assert_eq!(
        (&seen["url"], &seen["in_flight"]),
        (&listed["url"], &json!(0))
    );
    assert_eq!(
        (&seen["answered"], &seen["breaker"]),
        (&json!(5), &listed["breaker"])
    );
    assert_eq!(
        (&seen["ready"], &seen["reason"]),
        (&json!(true), &json!(""))
    );
    assert!(worker.url().starts_with(seen["url"].as_str().unwrap()));
    // The same prompt again and again is in the cache of the only worker.
    assert!(seen["cache_hit_ratio"].as_f64().unwrap() > 0.5, "{seen}");
    let model = &said["models"][0];
    assert_eq!(
        (&model["name"], &model["ready"]),
        (&json!("sample"), &json!(true))
    );
    assert_eq!(model["routes"][0]["pool"], "chat");
    let status = smg.status().await;
    assert_eq!(said["config"]["sha256"], status["live"]["sha256"]);
    assert_eq!(said["config"]["generation"], 1);
    assert_eq!(
        said["config"]["file"],
        smg.config_path().display().to_string()
    );
    let tokens = metrics.sum("smg_router_tokens_total", &[("token_type", "output")]);
    let rate = said["spans"][2]["output_token_rate"].as_f64().unwrap();
    let covered = said["spans"][2]["covered"].as_f64().unwrap();
    assert!(
        (rate * covered - tokens).abs() < 1.0,
        "{rate} {covered} {tokens}"
    );
    let failure = &said["failures"][0];
    assert_eq!(
        (&failure["code"], &failure["model"]),
        (&json!("model_not_found"), &json!(""))
    );
}

#[tokio::test]
async fn what_clients_say_is_short_escaped_and_soon_forgotten() {
    let (smg, _worker) = gateway("").await;
    let hostile = "\"><script>alert(1)</script>";
    let body = json!({ "model": hostile, "messages": [] });
    for n in 0..120 {
        let id = format!("{n}{hostile}{}", "x".repeat(90));
        let headers = [("x-request-id", &*id), ("content-type", "application/json")];
        let answer = ask(smg.main(), Method::POST, "/v1/chat/completions", &headers).await;
        assert_eq!(answer.status, 400);
    }
    post(smg.main(), "/v1/chat/completions", &body).await;
    let failures = overview(&smg).await["failures"].as_array().unwrap().len();
    assert_eq!(failures, 50);
    let html = page(&smg).await;
    assert!(html.contains("&lt;script&gt;alert(1)"), "{html}");
    assert!(!html.contains("<script>alert"), "{html}");
    assert!(html.len() < 200_000, "{}", html.len());
}
