//! Changes of workers and the end of the process: what outlives it, and what it says meanwhile.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use http::Method;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, ask, ok, plain_engine, ready};
use crate::support::client::request;
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, get, post, stream};
use crate::workers_api::{add, becomes, config, list, send};

/// The same configuration with a folder that outlives the gateway.
fn kept(workers: &[String], folder: &Path) -> String {
    config(workers, "") + &format!("\n[server]\nstate_dir = {:?}\n", folder.join("state"))
}

async fn urls(smg: &Smg, query: &str) -> Vec<Value> {
    let workers = list(smg, query).await;
    workers.iter().map(|worker| worker["url"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (out, stays, api) = (
        plain_engine().await,
        plain_engine().await,
        plain_engine().await,
    );
    let text = kept(&[out.url(), stays.url()], folder.path());
    let mut smg = Smg::start(&text).await;
    ready(&smg).await;
    let shown = list(&smg, "").await;
    let path = |url: String| {
        let worker = shown.iter().find(|worker| worker["url"] == url).unwrap();
        format!("/workers/{}", worker["id"].as_str().unwrap())
    };
    let body = json!({ "url": api.url(), "pool": "p", "api_key": "canary-5e1d" });
    let added = add(&smg, &body).await;
    let gone = send(&smg, Method::DELETE, &path(out.url()), &Value::Null).await;
    let changed = send(
        &smg,
        Method::PATCH,
        &path(stays.url()),
        &json!({ "drain": true, "priority": 9 }),
    )
    .await;
    assert_eq!((gone.status, changed.status), (202, 202));
    // Whatever the jobs were doing.
    smg.kill9();

    let smg = Smg::start(&text).await;
    let shown = becomes(&smg, &added, "ready").await;
    assert_eq!(shown["source"], "api");
    let asked = api.asked();
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("authorization") == Some("Bearer canary-5e1d")),
        "{asked:?}"
    );
    let drained = get(smg.main(), &path(stays.url())).await.json();
    assert_eq!(
        (&drained["status"], &drained["priority"]),
        (&json!("draining"), &json!(9))
    );
    assert_eq!(urls(&smg, "").await.len(), 2);
    assert_eq!(urls(&smg, "?all=true").await.len(), 3);
    let status = smg.status().await;
    assert_eq!(
        status["fleet"]["tombstones"][0]["url"],
        json!(out.url()),
        "{status}"
    );
    assert_eq!(status["fleet"]["overrides"][0]["drain"], true, "{status}");
    assert!(!status.to_string().contains("canary"), "{status}");

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = folder.path().join("state");
    let file = state.join("workers.json");
    assert_eq!((mode(&state), mode(&file)), (0o700, 0o600));

    // A file that somebody has touched is set aside, and the gateway starts without it.
    drop(smg);
    let text_of_state = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text_of_state.replace("canary", "kanary")).unwrap();
    let smg = Smg::start(&text).await;
    ready(&smg).await;
    let mut expected = vec![json!(out.url()), json!(stays.url())];
    expected.sort_by_key(Value::to_string);
    let mut shown = urls(&smg, "?all=true").await;
    shown.sort_by_key(Value::to_string);
    assert_eq!(shown, expected);
    let names: Vec<String> = std::fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.len() == 1 && names[0].starts_with("workers.json.corrupt-"),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_it_ends_with_the_process_and_with_one_that_cannot_be_written_is_refused()
{
    let engine = plain_engine().await;
    let mut smg = Smg::start(&config(&[], "")).await;
    let path = add(&smg, &json!({ "url": engine.url(), "pool": "p" })).await;
    becomes(&smg, &path, "ready").await;
    smg.kill9();
    let smg = Smg::start(&config(&[], "")).await;
    assert!(list(&smg, "").await.is_empty());

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state"), "").unwrap();
    let smg = Smg::start(&kept(&[], folder.path())).await;
    let body = json!({ "url": engine.url(), "pool": "p" });
    let refused = post(smg.main(), "/workers", &body).await;
    assert_eq!(refused.status, 500, "{}", refused.text());
    assert!(list(&smg, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_drained_pool_go_to_the_fallback() {
    let other = FakeEngine::serving("n", |_| vec![ok()]);
    let (first, second) = (plain_engine().await, other.await);
    let text = config(&[first.url()], "fallback = [\"n\"]\n")
        + &format!(
            "[[pools]]\nname = \"q\"\nworkers = [\"{}\"]\n[[models]]\nname = \"n\"\npool = \"q\"\n",
            second.url()
        );
    let smg = Smg::start(&text).await;
    eventually(PATIENCE, async || {
        let workers = list(&smg, "").await;
        workers.iter().all(|worker| worker["status"] == "ready")
    })
    .await;
    let drain = async |drain: bool| {
        let body = json!({ "drain": drain });
        let answer = post(smg.main(), "/admin/pools/p/drain", &body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    drain(true).await;
    eventually(PATIENCE, async || {
        let shown = list(&smg, "?pool=p").await;
        shown[0]["status"] == "draining"
    })
    .await;
    let readiness = get(smg.main(), "/readiness").await;
    assert_eq!(readiness.status, 200);
    let unready = readiness.json()["unready_pools"].to_string();
    assert!(unready.contains("\"p\""), "{unready}");
    let before = first.calls().len();
    for _ in 0..3 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
    }
    assert_eq!(first.calls().len(), before);
    drain(false).await;
    eventually(PATIENCE, async || {
        post(smg.main(), "/v1/completions", &ask()).await;
        first.calls().len() > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gateway_says_at_each_step_what_is_left() {
    let gate = Gate::closed();
    let held = gate.clone();
    let engine = FakeEngine::serving("m", move |_| {
        let token = json!({ "choices": [{ "index": 0, "text": "one" }] }).to_string();
        vec![
            Step::sse_head(),
            Step::event(&token),
            Step::Hold(held.clone()),
            Step::event("[DONE]"),
            Step::Close,
        ]
    })
    .await;
    let mut smg = Smg::start(&config(&[engine.url()], "")).await;
    ready(&smg).await;
    let main = smg.main();
    let body = json!({ "model": "m", "prompt": "hi", "stream": true });
    let mut running = stream(main, "/v1/completions", &body).await;
    assert!(running.event().await.unwrap().unwrap().contains("one"));
    let mut kept = Connection::h1(main).await;
    let status = || request(Method::GET, "/admin/config/status", bytes::Bytes::new());
    let shown = kept.send(status()).await.json();
    assert_eq!(shown["process"]["phase"], "running", "{shown}");

    smg.process().signal("TERM");
    eventually(PATIENCE, async || {
        get(main, "/readiness").await.json()["reason"] == "draining"
    })
    .await;
    let shown = kept.send(status()).await.json();
    assert_eq!(shown["process"]["phase"], "settling", "{shown}");
    assert!(
        shown["process"]["calls_in_flight"].as_u64().unwrap() >= 1,
        "{shown}"
    );
    let said = |words: &'static str| {
        move |line: &str| (line.contains(words) && line.contains("in_flight=1")).then_some(())
    };
    smg.process().line(PATIENCE, said("listeners closed")).await;
    smg.process().line(PATIENCE, said("waiting")).await;
    gate.open();
    assert_eq!(running.events().await, ["data: [DONE]"]);
    smg.process()
        .line(PATIENCE, |line| {
            line.contains("no request is left").then_some(())
        })
        .await;
    assert_eq!(smg.process().ended(PATIENCE).await.code(), Some(0));
}
