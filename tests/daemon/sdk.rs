//! The openai Python SDK through the gateway, in front of sample workers. What is asserted stands in
//! `tests/python/`; here the scene is set.

use std::time::Duration;

use crate::support::smg::LISTENERS;
use crate::support::venv::{python, run_script};
use crate::support::{Smg, Worker, eventually, get};

/// Two sample workers with one model, and a declared model without a living worker.
async fn run(script: &str) {
    run_with(script, "").await;
}

/// The same with `more` at the end of the file.
async fn run_with(script: &str, more: &str) {
    let Some(python) = python("sdk") else { return };
    let workers = [Worker::start(&[]).await, Worker::start(&[]).await];
    let smg = Smg::start(&format!(
        r#"
{LISTENERS}
[[pools]]
name = "sample"
workers = ["{}", "{}"]

[[pools]]
name = "gone"
workers = ["http://127.0.0.1:9"]

[[models]]
name = "sample"
aliases = ["gpt-sample"]
pool = "sample"

[[models]]
name = "absent"
pool = "gone"

[reliability.retry]
max_retries = 1
{more}
"#,
        workers[0].url(),
        workers[1].url(),
    ))
    .await;
    eventually(Duration::from_secs(20), async || {
        get(smg.main(), "/readiness").await.json()["healthy_workers"] == 2
    })
    .await;
    let url = format!("http://{}/v1", smg.main());
    tokio::task::block_in_place(|| run_script(&python, script, &[&url]));
}

#[tokio::test(flavor = "multi_thread")]
async fn chat() {
    run("chat.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn completions() {
    run("completions.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings() {
    run("embeddings.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models() {
    run("models.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys() {
    let auth = "[[auth.tenants]]\nname = \"team\"\nkeys = [\"unused\"]\nmodels = [\"sample\"]\n";
    run_with("keys.py", auth).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors() {
    run("errors.py").await;
}
