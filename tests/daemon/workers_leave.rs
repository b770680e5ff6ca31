//! Workers that are changed, drained, replaced and removed over HTTP.

use http::Method;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, ask, assert_error, ok, plain_engine, ready, settled, two_tokens};
use crate::support::client::Stream;
use crate::support::{FakeEngine, Gate, Smg, eventually, get, post, stream};
use crate::workers_api::{add, assert_refused, becomes, config, list, send};

/// An engine that serves `m`; its streams wait for the gate after their first token.
async fn engine(gate: &Gate) -> FakeEngine {
    let gate = gate.clone();
    FakeEngine::serving("m", move |asked| {
        if asked.json()["stream"] != true {
            return vec![ok()];
        }
        two_tokens(&gate)
    })
    .await
}

/// A stream whose first token has come.
async fn begun(smg: &Smg) -> Stream {
    let body = json!({ "model": "m", "prompt": "hi", "stream": true });
    let mut stream = stream(smg.main(), "/v1/completions", &body).await;
    assert_eq!(stream.status(), 200);
    assert!(stream.event().await.unwrap().unwrap().contains("one"));
    stream
}

async fn ends_well(mut stream: Stream) {
    let rest = stream.events().await;
    assert_eq!(
        rest.last().map(String::as_str),
        Some("data: [DONE]"),
        "{rest:?}"
    );
}

/// The path of the worker that `engine` is.
async fn path_of(smg: &Smg, engine: &FakeEngine) -> String {
    let shown = list(smg, "").await;
    let shown = shown.iter().find(|worker| worker["url"] == engine.url());
    format!("/workers/{}", shown.unwrap()["id"].as_str().unwrap())
}

async fn serves(smg: &Smg) {
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Waits until all workers of the pool `p` are ready.
async fn all_ready(smg: &Smg) {
    eventually(PATIENCE, async || {
        list(smg, "?pool=p")
            .await
            .iter()
            .all(|worker| worker["status"] == "ready")
    })
    .await;
}

#[track_caller]
fn assert_accepted(answer: &crate::support::client::Answer) {
    assert_eq!(answer.status, 202, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["status"], "accepted", "{body}");
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .contains("queued for background processing")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_ends_what_it_has_and_gets_nothing_new() {
    let gate = Gate::closed();
    let (one, two) = (engine(&gate).await, engine(&gate).await);
    let smg = Smg::start(&config(&[one.url()], "")).await;
    ready(&smg).await;
    let running = begun(&smg).await;
    let path = path_of(&smg, &one).await;

    let answer = send(
        &smg,
        Method::PATCH,
        &path,
        &json!({ "drain": true, "x": 1 }),
    )
    .await;
    assert_accepted(&answer);
    assert!(answer.text().contains("ignored: `x`"), "{}", answer.text());
    let shown = becomes(&smg, &path, "draining").await;
    assert_eq!(shown["load"], 1, "{shown}");
    assert_eq!(shown["overrides"], json!(["drain"]), "{shown}");
    let refused = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&refused, 503, "no_available_workers");

    // It goes on being drained over a reload that says nothing of it.
    smg.apply(&config(&[one.url(), two.url()], "")).await;
    becomes(&smg, &path_of(&smg, &two).await, "ready").await;
    let before = one.calls().len();
    for _ in 0..8 {
        serves(&smg).await;
    }
    assert_eq!(one.calls().len(), before);
    assert_eq!(get(smg.main(), &path).await.json()["status"], "draining");

    gate.open();
    ends_well(running).await;
    eventually(PATIENCE, async || {
        get(smg.main(), &path).await.json()["load"] == 0
    })
    .await;
    assert_accepted(&send(&smg, Method::PATCH, &path, &json!({ "drain": false })).await);
    becomes(&smg, &path, "ready").await;
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_worker_drains_and_is_gone() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = Smg::start(&config(&[], "")).await;
    let path = add(&smg, &json!({ "url": engine.url(), "pool": "p" })).await;
    becomes(&smg, &path, "ready").await;
    let running = begun(&smg).await;
    assert_accepted(&send(&smg, Method::DELETE, &path, &Value::Null).await);
    let shown = becomes(&smg, &path, "draining").await;
    assert_eq!(shown["load"], 1, "{shown}");
    assert_eq!(shown["job_status"]["job_type"], "RemoveWorker", "{shown}");
    let refused = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&refused, 503, "no_available_workers");
    gate.open();
    ends_well(running).await;
    eventually(PATIENCE, async || {
        get(smg.main(), &path).await.status == 404
    })
    .await;
    assert_refused(&get(smg.main(), &path).await, 404, "WORKER_NOT_FOUND");
    let again = send(&smg, Method::DELETE, &path, &Value::Null).await;
    assert_refused(&again, 404, "WORKER_NOT_FOUND");
    assert!(list(&smg, "?all=true").await.is_empty());
    eventually(PATIENCE, async || engine.connections() == 0).await;
    settled(&smg).await;
    // And it may come back.
    assert_eq!(
        add(&smg, &json!({ "url": engine.url(), "pool": "p" })).await,
        path
    );
    becomes(&smg, &path, "ready").await;
    serves(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_file_stays_out_until_somebody_wants_it_back() {
    let (one, two) = (plain_engine().await, plain_engine().await);
    let both = [one.url(), two.url()];
    let smg = Smg::start(&config(&both, "")).await;
    all_ready(&smg).await;
    let path = path_of(&smg, &one).await;
    let out = async || {
        eventually(PATIENCE, async || {
            get(smg.main(), &path).await.status == 404
        })
        .await;
    };
    let twice = json!({ "url": one.url(), "pool": "p" });
    let declared = post(smg.main(), "/workers", &twice).await;
    assert_refused(&declared, 409, "WORKER_ALREADY_EXISTS");

    assert_accepted(&send(&smg, Method::DELETE, &path, &Value::Null).await);
    out().await;
    let urls = |shown: &[Value]| -> Vec<Value> {
        shown.iter().map(|worker| worker["url"].clone()).collect()
    };
    assert_eq!(urls(&list(&smg, "").await), [two.url()]);
    let all = list(&smg, "?all=true").await;
    assert_eq!(all.len(), 2, "{all:?}");
    let grave = all
        .iter()
        .find(|worker| worker["url"] == one.url())
        .unwrap();
    assert_eq!(grave["tombstone"], true, "{grave}");
    assert_eq!(
        (&grave["pool"], &grave["source"]),
        (&json!("p"), &json!("file"))
    );
    assert_eq!(path, format!("/workers/{}", grave["id"].as_str().unwrap()));
    assert!(smg.status().await.to_string().contains(&one.url()));

    // A reload in which its entry has not changed does not bring it back.
    smg.apply(&config(&both, "aliases = [\"again\"]")).await;
    assert_eq!(get(smg.main(), &path).await.status, 404);

    // Its pool goes without saying.
    let back = post(smg.main(), "/workers", &json!({ "url": one.url() })).await;
    assert_eq!(back.status, 202, "{}", back.text());
    let shown = becomes(&smg, &path, "ready").await;
    assert_eq!(shown["source"], "file", "{shown}");
    eventually(PATIENCE, async || list(&smg, "?all=true").await.len() == 2).await;
    assert!(
        list(&smg, "?all=true")
            .await
            .iter()
            .all(|worker| worker["tombstone"].is_null())
    );

    // Nor does it outlive a change of what the file says of it.
    assert_accepted(&send(&smg, Method::DELETE, &path, &Value::Null).await);
    out().await;
    let text = config(&both, "").replace(
        &format!("{:?}", one.url()),
        &format!("{{ url = {:?}, priority = 51 }}", one.url()),
    );
    smg.apply(&text).await;
    let shown = becomes(&smg, &path, "ready").await;
    assert_eq!(shown["priority"], 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_says_is_overridden_until_it_says_something_else() {
    let engine = plain_engine().await;
    let entry = |more: &str| {
        let table = format!(
            "{{ url = {:?}, labels = {{ a = \"1\", b = \"2\" }}{more} }}",
            engine.url()
        );
        config(&[engine.url()], "").replace(&format!("{:?}", engine.url()), &table)
    };
    let smg = Smg::start(&entry("")).await;
    all_ready(&smg).await;
    let path = path_of(&smg, &engine).await;
    let plain = get(smg.main(), &path).await.json();
    assert!(plain["overrides"].is_null(), "{plain}");
    let labels = |shown: &Value| (shown["labels"]["a"].clone(), shown["labels"]["b"].clone());

    let change = json!({
        "priority": 70, "cost": 3, "labels": { "a": null, "b": "x", "c": "3" },
        "health": { "failure_threshold": 9 }, "resilience": { "cb_timeout_secs": 7 },
    });
    assert_accepted(&send(&smg, Method::PATCH, &path, &change).await);
    let changed = async |priority: u64| {
        eventually(PATIENCE, async || {
            get(smg.main(), &path).await.json()["priority"] == priority
        })
        .await;
        get(smg.main(), &path).await.json()
    };
    let shown = changed(70).await;
    assert_eq!(shown["cost"], 3.0);
    assert_eq!(labels(&shown), (Value::Null, json!("x")));
    assert_eq!(shown["labels"]["c"], "3");
    assert_eq!(shown["health"]["failure_threshold"], 9);
    assert_eq!(shown["resilience"]["cb_timeout_secs"], 7);
    assert_eq!(shown["source"], "file");
    assert_eq!(
        shown["overrides"],
        json!(["priority", "cost", "labels", "health", "resilience"])
    );
    assert!(smg.status().await.to_string().contains(&engine.url()));

    // A later one is laid over it; PUT without a URL is the same. An id is one in any case.
    let (prefix, id) = path.split_at("/workers/".len());
    let upper = format!("{prefix}{}", id.to_uppercase());
    let more = json!({ "priority": 71, "labels": { "b": "y" } });
    assert_accepted(&send(&smg, Method::PUT, &upper, &more).await);
    let shown = changed(71).await;
    assert_eq!(labels(&shown), (Value::Null, json!("y")));
    assert_eq!(
        (&shown["labels"]["c"], &shown["cost"]),
        (&json!("3"), &json!(3.0))
    );

    // It cannot be declared anew from here: the file does that.
    let whole = json!({ "url": engine.url() });
    let answer = send(&smg, Method::PUT, &path, &whole).await;
    assert_refused(&answer, 409, "WORKER_ALREADY_EXISTS");
    for nothing in [
        json!({}),
        json!({ "models": ["z"] }),
        json!({ "priority": 101 }),
    ] {
        let answer = send(&smg, Method::PATCH, &path, &nothing).await;
        assert_refused(&answer, 400, "BAD_REQUEST");
    }

    smg.apply(&(entry("") + "aliases = [\"again\"]\n")).await;
    assert_eq!(get(smg.main(), &path).await.json()["priority"], 71);
    smg.apply(&entry(", cost = 1.5")).await;
    let shown = changed(50).await;
    assert_eq!(shown["cost"], 1.5);
    assert_eq!(labels(&shown), (json!("1"), json!("2")));
    assert!(shown["overrides"].is_null(), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_worker_is_declared_anew_and_keeps_its_load() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = Smg::start(&config(&[], "")).await;
    let body = json!({
        "url": engine.url(), "pool": "p", "labels": { "old": "1" }, "priority": 60, "cost": 2,
    });
    let path = add(&smg, &body).await;
    becomes(&smg, &path, "ready").await;
    let running = begun(&smg).await;

    let body = json!({ "url": engine.url() + "/", "labels": { "new": "1" }, "cost": 4 });
    assert_accepted(&send(&smg, Method::PUT, &path, &body).await);
    eventually(PATIENCE, async || {
        get(smg.main(), &path).await.json()["cost"] == 4.0
    })
    .await;
    let shown = becomes(&smg, &path, "ready").await;
    assert_eq!(
        (&shown["priority"], &shown["load"]),
        (&json!(50), &json!(1)),
        "{shown}"
    );
    let labels = &shown["labels"];
    assert_eq!(
        (&labels["new"], &labels["old"]),
        (&json!("1"), &Value::Null)
    );
    assert_eq!(shown["source"], "api");

    for body in [
        json!({ "url": "http://127.0.0.1:9" }),
        json!({ "url": engine.url(), "pool": "closed" }),
        json!({ "url": engine.url(), "worker_type": "decode" }),
        json!({ "url": "169.254.169.254" }),
    ] {
        let answer = send(&smg, Method::PUT, &path, &body).await;
        assert_refused(&answer, 400, "BAD_REQUEST");
    }
    gate.open();
    ends_well(running).await;
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_in_two_pools_is_changed_in_both_or_in_the_one_that_is_named() {
    let engine = plain_engine().await;
    let smg = Smg::start(&config(&[], "[[pools]]\nname = \"q/r\"\nworkers = []\n")).await;
    let path = add(&smg, &json!({ "url": engine.url(), "pool": "p" })).await;
    assert_eq!(
        add(&smg, &json!({ "url": engine.url(), "pool": "q/r" })).await,
        path
    );
    eventually(PATIENCE, async || {
        let all = list(&smg, "").await;
        all.len() == 2 && all.iter().all(|worker| worker["status"] == "ready")
    })
    .await;
    let statuses = async || -> Vec<(Value, Value)> {
        let all = list(&smg, "").await;
        all.iter()
            .map(|w| (w["pool"].clone(), w["status"].clone()))
            .collect()
    };
    let both = |p: &str, q: &str| vec![(json!("p"), json!(p)), (json!("q/r"), json!(q))];

    let drain = json!({ "drain": true });
    let one = format!("{path}?pool=q%2Fr");
    assert_accepted(&send(&smg, Method::PATCH, &one, &drain).await);
    eventually(PATIENCE, async || {
        statuses().await == both("ready", "draining")
    })
    .await;
    assert_eq!(get(smg.main(), &one).await.json()["status"], "draining");
    assert_eq!(list(&smg, "?pool=q%2Fr").await.len(), 1);
    assert_accepted(&send(&smg, Method::PATCH, &path, &drain).await);
    eventually(PATIENCE, async || {
        statuses().await == both("draining", "draining")
    })
    .await;

    let nowhere = send(&smg, Method::PATCH, &format!("{path}?pool=closed"), &drain).await;
    assert_refused(&nowhere, 404, "WORKER_NOT_FOUND");
    assert_accepted(&send(&smg, Method::DELETE, &one, &Value::Null).await);
    eventually(PATIENCE, async || list(&smg, "").await.len() == 1).await;
    assert_eq!(get(smg.main(), &path).await.json()["pool"], "p");
    assert_accepted(&send(&smg, Method::DELETE, &path, &Value::Null).await);
    eventually(PATIENCE, async || list(&smg, "").await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_drained_and_taken_back() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let file = config(
        &[engine.url()],
        "[[pools]]\nname = \"a b/c\"\nworkers = []\n",
    );
    let smg = Smg::start(&file).await;
    ready(&smg).await;
    let running = begun(&smg).await;
    let drain = async |pool: &str, body: &Value| {
        let path = format!("/admin/pools/{pool}/drain");
        send(&smg, Method::POST, &path, body).await
    };
    let answer = drain("p", &Value::Null).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let body = answer.json();
    assert_eq!((&body["pool"], &body["drain"]), (&json!("p"), &json!(true)));
    assert_eq!(body["workers"][0]["url"], engine.url());
    assert_eq!(body["workers"][0]["load"], 1);
    assert_eq!(body["workers"][0]["status"], "draining");
    let path = path_of(&smg, &engine).await;
    becomes(&smg, &path, "draining").await;
    let refused = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&refused, 503, "no_available_workers");

    let answer = drain("p", &json!({ "drain": false })).await;
    assert_eq!(
        (answer.status, &answer.json()["drain"]),
        (202, &json!(false))
    );
    becomes(&smg, &path, "ready").await;
    serves(&smg).await;

    let answer = drain("a%20b%2Fc", &json!({})).await;
    assert_eq!(
        (answer.status, &answer.json()["pool"]),
        (202, &json!("a b/c"))
    );
    assert_error(&drain("none", &Value::Null).await, 404, "not_found");
    assert_error(
        &drain("p", &json!({ "drain": "yes" })).await,
        400,
        "invalid_type",
    );
    assert_error(&drain("p", &json!([])).await, 400, "invalid_json");
    assert_eq!(get(smg.main(), &path).await.json()["status"], "ready");
    gate.open();
    ends_well(running).await;
    settled(&smg).await;
}
