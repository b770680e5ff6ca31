//! The gateway starts, takes a new file, and ends.

use std::time::Duration;

use serde_json::json;

use crate::support::smg::LISTENERS;
use crate::support::{Connection, Smg, Worker, eventually, get, post, smg};

const PATIENCE: Duration = Duration::from_secs(20);

/// A file with one pool named `sample` in front of these workers.
fn config(workers: &[&str]) -> String {
    format!("{LISTENERS}\n[[pools]]\nname = \"sample\"\nworkers = {workers:?}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_serves_and_ends_with_status_0() {
    let worker = Worker::start(&["--model", "tiny"]).await;
    let mut smg = Smg::start(&config(&[worker.url()])).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.status == 200
    })
    .await;
    assert_eq!(
        get(smg.main(), "/v1/models").await.json()["data"][0]["id"],
        "tiny"
    );

    let ask = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "hi" }] });
    let answer = post(smg.main(), "/v1/chat/completions", &ask).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.header("x-request-id").is_empty());
    let metrics = smg.metrics().await;
    let labels = [("method", "POST"), ("path", "/v1/chat/completions")];
    assert_eq!(metrics.sum("smg_http_requests_total", &labels), 1.0);
    assert_eq!(metrics.count("smg_http_requests_total", &labels), 1);

    assert!(smg.process().rss_kb() > 0);
    assert_eq!(smg.term_and_wait().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn speaks_http_2_with_prior_knowledge() {
    let smg = Smg::start(LISTENERS).await;
    let mut connection = Connection::h2(smg.main()).await;
    let request =
        crate::support::client::request(http::Method::GET, "/liveness", bytes::Bytes::new());
    assert_eq!(connection.send(request).await.text(), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_a_new_file_by_request_by_signal_and_by_itself() {
    let mut smg = Smg::start(LISTENERS).await;
    let pools = async |smg: &Smg| get(smg.main(), "/workers").await.json()["total"].clone();
    assert_eq!(smg.reload().await.result(), "unchanged");

    smg.rewrite(&config(&["http://127.0.0.1:9"]));
    let reload = smg.reload().await;
    assert!(
        matches!(reload.result(), "applied" | "unchanged"),
        "{reload:?}"
    );
    let generation = reload.generation().unwrap();
    assert!(generation >= 2, "{reload:?}");
    assert_eq!(pools(&smg).await, 1);

    std::fs::write(
        smg.config_path(),
        config(&["http://127.0.0.1:9", "http://127.0.0.1:10"]),
    )
    .unwrap();
    smg.sighup();
    eventually(PATIENCE, async || pools(&smg).await == 2).await;

    smg.rewrite(LISTENERS);
    eventually(PATIENCE, async || pools(&smg).await == 0).await;

    smg.rewrite("version = 1\nnonsense = 2\n");
    let reload = smg.reload().await;
    assert_eq!(
        (reload.status, reload.result()),
        (422, "rejected"),
        "{reload:?}"
    );
    assert_eq!(pools(&smg).await, 0);
    smg.kill9();
}

#[tokio::test(flavor = "multi_thread")]
async fn listens_where_flags_say() {
    let smg = Smg::start_with(LISTENERS, |command| {
        command.args(["--host", "127.0.0.2"]);
    })
    .await;
    assert_eq!(smg.main().ip().to_string(), "127.0.0.2");
    assert!(smg.folder().join("smg.toml").exists());
}

#[test]
fn ends_with_78_on_a_broken_file() {
    let output = Smg::expect_failure("version = 1\nnonsense = 2\n");
    assert_eq!(output.status.code(), Some(78));
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("smg.toml:2:1"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_no_available_worker() {
    let mut worker = Worker::start(&[]).await;
    let smg = Smg::start(&config(&[worker.url()])).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.status == 200
    })
    .await;
    worker.kill9();
    let ask = json!({ "model": "sample", "prompt": "hi" });
    let answer = post(smg.main(), "/v1/completions", &ask).await;
    assert!(
        matches!(answer.status, 502 | 503),
        "{}: {}",
        answer.status,
        answer.text()
    );
    assert!(!answer.header("x-smg-error-code").is_empty());
}

#[test]
fn says_its_version() {
    let output = crate::support::process::run(smg::command().arg("--version"), PATIENCE);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")));
}
