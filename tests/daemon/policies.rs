//! Which worker a policy chooses.

use serde_json::json;
use tokio::task::JoinSet;

use crate::scene::{LISTENERS, PATIENCE, ask, gateway, ok, plain_engine, silent_engine};
use crate::support::{FakeEngine, Gate, Smg, Step, eventually, post};

/// Engines in the order in which the gateway sorts them.
async fn sorted(count: usize) -> Vec<FakeEngine> {
    let mut engines = Vec::new();
    for _ in 0..count {
        engines.push(plain_engine().await);
    }
    engines.sort_by_key(FakeEngine::url);
    engines
}

fn counts(engines: &[FakeEngine]) -> Vec<usize> {
    engines.iter().map(|engine| engine.calls().len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_goes_through_all_in_order() {
    let engines = sorted(3).await;
    let all: Vec<_> = engines.iter().collect();
    let smg = gateway(&all, "policy = \"round_robin\"\n").await;
    let mut order = Vec::new();
    let mut before = counts(&engines);
    for _ in 0..9 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
        let now = counts(&engines);
        order.push(
            now.iter()
                .zip(&before)
                .position(|(now, before)| now > before)
                .unwrap(),
        );
        before = now;
    }
    assert_eq!(before, [3, 3, 3]);
    for pair in order.windows(2) {
        assert_eq!(pair[1], (pair[0] + 1) % 3, "{order:?}");
    }
    let labels = [
        ("model", "m"),
        ("policy", "round_robin"),
        ("worker_type", "regular"),
    ];
    assert_eq!(
        smg.metrics()
            .await
            .sum("smg_worker_selection_total", &labels),
        9.0
    );
}

/// Engines that hold a request whose prompt says so.
async fn holding(count: usize, gate: &Gate) -> Vec<FakeEngine> {
    let mut engines = Vec::new();
    for _ in 0..count {
        let gate = gate.clone();
        let script = move |asked: &crate::support::engine::Asked| {
            if asked.json()["prompt"] == "hold" {
                vec![Step::Hold(gate.clone()), ok()]
            } else {
                vec![ok()]
            }
        };
        engines.push(FakeEngine::serving("m", script).await);
    }
    engines
}

/// Sends a request that is held, and returns who holds it.
async fn hold(smg: &Smg, engines: &[FakeEngine], held: &mut JoinSet<u16>) -> usize {
    let before = counts(engines);
    let to = smg.main();
    held.spawn(async move {
        let ask = json!({ "model": "m", "prompt": "hold" });
        post(to, "/v1/completions", &ask).await.status
    });
    let mut busy = None;
    eventually(PATIENCE, async || {
        busy = counts(engines)
            .iter()
            .zip(&before)
            .position(|(now, before)| now > before);
        busy.is_some()
    })
    .await;
    busy.unwrap()
}

async fn avoids_the_busy_worker(policy: &str, count: usize) {
    let gate = Gate::closed();
    let engines = holding(count, &gate).await;
    let all: Vec<_> = engines.iter().collect();
    let smg = gateway(&all, &format!("policy = \"{policy}\"\n")).await;
    let mut held = JoinSet::new();
    let busy = hold(&smg, &engines, &mut held).await;
    for _ in 0..20 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
    }
    let counts = counts(&engines);
    assert_eq!(counts[busy], 1, "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 21);
    gate.open();
    assert_eq!(held.join_next().await.unwrap().unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn least_load_avoids_the_busy_worker() {
    avoids_the_busy_worker("least_load", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_of_two_avoids_the_busier_of_two() {
    avoids_the_busy_worker("power_of_two", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn least_load_spreads_requests_that_are_held() {
    let gate = Gate::closed();
    let engines = holding(3, &gate).await;
    let all: Vec<_> = engines.iter().collect();
    let smg = gateway(&all, "policy = \"least_load\"\n").await;
    let mut held = JoinSet::new();
    for _ in 0..9 {
        hold(&smg, &engines, &mut held).await;
    }
    assert_eq!(counts(&engines), [3, 3, 3]);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_requests_active", &[]), 9.0);
    gate.open();
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    crate::scene::settled(&smg).await;
}

/// With 20 requests on average per worker, fewer than 4 at one is less likely than once in a
/// million runs.
async fn spreads(policy: &str) {
    let engines = sorted(3).await;
    let all: Vec<_> = engines.iter().collect();
    let smg = gateway(&all, &format!("policy = \"{policy}\"\n")).await;
    let mut connection = crate::support::Connection::h1(smg.main()).await;
    for _ in 0..60 {
        let request = crate::support::client::json_request("/v1/completions", &ask());
        assert_eq!(connection.send(request).await.status, 200);
    }
    let counts = counts(&engines);
    assert_eq!(counts.iter().sum::<usize>(), 60);
    assert!(
        counts.iter().all(|count| *count >= 4),
        "{policy}: {counts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn random_spreads() {
    spreads("random").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_of_two_spreads() {
    spreads("power_of_two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_has_its_own_policy() {
    let engine = silent_engine(|_| vec![ok()]).await;
    let url = engine.url();
    let toml = format!(
        "{LISTENERS}\n[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = [\"{url}\"]\n\
         [[models]]\nname = \"a\"\npolicy = \"random\"\n\
         [[models]]\nname = \"b\"\npolicy = \"round-robin\"\n\
         [[models]]\nname = \"c\"\n\
         [routing]\npolicy = \"power_of_two\"\n"
    );
    let smg = Smg::start(&toml).await;
    for (model, policy) in [("a", "random"), ("b", "round_robin"), ("c", "power_of_two")] {
        let ask = json!({ "model": model, "prompt": "hi" });
        assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
        let labels = [("model", model), ("policy", policy)];
        let metrics = smg.metrics().await;
        assert_eq!(
            metrics.sum("smg_worker_selection_total", &labels),
            1.0,
            "{model}"
        );
        assert_eq!(
            metrics.count("smg_worker_selection_total", &[("model", model)]),
            1
        );
    }
}
