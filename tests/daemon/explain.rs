//! The running gateway explains: over HTTP, through `smg explain --live`, in headers and in the log.

use serde_json::{Value, json};

use crate::scene::{ask, config, gateway, plain_engine};
use crate::support::smg::command;
use crate::support::{Connection, FakeEngine, Smg, Step, client::json_request, post, process};

async fn explain(smg: &Smg) -> Value {
    let request = json!({ "path": "/v1/completions", "body": ask() });
    let answer = post(smg.main(), "/admin/explain", &request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_sends_nothing_and_moves_nothing() {
    let (one, two) = (plain_engine().await, plain_engine().await);
    let smg = gateway(&[&one, &two], "policy = \"round_robin\"\n").await;
    let first = explain(&smg).await;
    let chosen = first["legs"][0]["worker"].as_str().unwrap().to_owned();
    for _ in 0..5 {
        assert_eq!(explain(&smg).await["legs"][0]["worker"], *chosen);
    }
    assert_eq!(one.calls().len() + two.calls().len(), 0);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_selection_total", &[]), 0.0);
    assert_eq!(metrics.sum("smg_worker_requests_total", &[]), 0.0);

    // What was foretold comes true, and then it is the other's turn.
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    let expected = if one.url() == chosen { &one } else { &two };
    assert_eq!(expected.calls().len(), 1);
    assert_ne!(explain(&smg).await["legs"][0]["worker"], *chosen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_none_is_refused() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    for body in [json!({}), json!([1]), json!({ "path": 1 })] {
        let answer = post(smg.main(), "/admin/explain", &body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "invalid_json");
    }
    let mut strange = json_request("/admin/explain", &json!({ "path": "/x" }));
    let forwarded = "10.0.0.1".parse().unwrap();
    strange.headers_mut().insert("x-forwarded-for", forwarded);
    let answer = Connection::h1(smg.main()).await.send(strange).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_asks_the_running_gateway() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], "").await;
    let request = smg.folder().join("request.json");
    std::fs::write(&request, ask().to_string()).unwrap();
    let url = format!("http://{}", smg.main());
    let mut asked = command();
    asked
        .args(["explain", "--live", &url, "--request"])
        .arg(&request);
    let output = process::run(&mut asked, crate::scene::PATIENCE);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.contains(&engine.url()), "{out}");

    std::fs::write(
        &request,
        json!({ "model": "nobody", "prompt": "x" }).to_string(),
    )
    .unwrap();
    let output = process::run(&mut asked, crate::scene::PATIENCE);
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_shown_only_where_the_listener_says_so() {
    let engine = plain_engine().await;
    let shy = gateway(&[&engine], "policy = \"random\"\n").await;
    let answer = post(shy.main(), "/v1/completions", &ask()).await;
    assert_eq!(answer.header("x-smg-decision"), "");

    let toml = std::fs::read_to_string(shy.config_path()).unwrap();
    let open = toml.replace(
        "name = \"main\"\n",
        "name = \"main\"\nexpose_decision = true\n",
    );
    let open = Smg::start(&open).await;
    let answer = post(open.main(), "/v1/completions", &ask()).await;
    let decision = answer.header("x-smg-decision");
    let shown = decision
        .strip_prefix("model=\"m\", pool=\"p\", policy=random, reason=random, worker=\"")
        .unwrap_or_else(|| panic!("{decision}"));
    assert!(shown.ends_with("\", attempts=1"), "{decision}");
    assert!(!decision.contains(&engine.address().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ranking_shows_its_worker_like_any_other_answer() {
    let ranking = json!([{ "score": 0.5, "index": 0 }]);
    let engine = FakeEngine::serving("m", move |_| vec![Step::json(200, &ranking)]).await;
    let toml = config(&[engine.url()], "policy = \"random\"\n");
    let open = toml.replace(
        "name = \"main\"\n",
        "name = \"main\"\nexpose_decision = true\nexpose_worker_id = true\n",
    );
    let smg = Smg::start(&open).await;
    let request = json!({ "model": "m", "query": "q", "documents": ["d"] });
    let answer = post(smg.main(), "/v1/rerank", &request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["object"], "rerank");
    let worker = answer.header("x-smg-routed-worker-id").to_owned();
    assert!(!worker.is_empty());
    assert!(answer.header("x-smg-decision").contains(&worker));
    assert!(!answer.header("x-request-id").is_empty());
}
