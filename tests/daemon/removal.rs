//! What is removed really stops, and not before its last request.

use std::time::Duration;

use serde_json::json;

use crate::scene::two_tokens;
use crate::support::smg::LISTENERS;
use crate::support::{FakeEngine, Gate, Smg, Step, eventually, get, post, stream};

const PATIENCE: Duration = Duration::from_secs(20);

const PROBES: &str = r#"
[reliability.health]
interval = "50ms"
"#;

fn pools(pools: &[(&str, &FakeEngine)]) -> String {
    let tables = pools.iter().map(|(name, engine)| {
        format!(
            "\n[[pools]]\nname = \"{name}\"\nworkers = [\"{}\"]\n",
            engine.url()
        )
    });
    format!("{LISTENERS}{PROBES}{}", tables.collect::<String>())
}

/// Streams where the prompt is `stream`; otherwise answers at once and keeps the connection.
async fn engine(model: &str, gate: &Gate) -> FakeEngine {
    let gate = gate.clone();
    FakeEngine::serving(model, move |asked| {
        if asked.json()["prompt"] != "stream" {
            return vec![Step::json(200, &json!({ "choices": [] }))];
        }
        two_tokens(&gate)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_its_pool_and_nothing_else_of_it_does() {
    let gate = Gate::closed();
    let (old, new) = (engine("old", &gate).await, engine("new", &gate).await);
    let smg = Smg::start(&pools(&[("old", &old), ("new", &new)])).await;
    let main = smg.main();
    eventually(PATIENCE, async || {
        get(main, "/readiness").await.json()["healthy_workers"] == 2
    })
    .await;
    let ask = |model: &str| json!({ "model": model, "prompt": "hi" });
    // Leaves an idle connection to each.
    for model in ["old", "new"] {
        assert_eq!(post(main, "/v1/completions", &ask(model)).await.status, 200);
    }
    let url = old.url();
    let series = async |smg: &Smg| {
        let text = get(smg.address("metrics"), "/metrics").await.text();
        text.lines()
            .filter(|line| line.contains(&url))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(!series(&smg).await.is_empty());
    let long = json!({ "model": "old", "prompt": "stream", "stream": true });
    let mut long = stream(main, "/v1/completions", &long).await;
    assert!(long.event().await.unwrap().unwrap().contains("one"));

    smg.apply(&pools(&[("new", &new)])).await;

    // For new requests it is gone at once.
    let refused = post(main, "/v1/completions", &ask("old")).await;
    assert_eq!(refused.status, 404, "{}", refused.text());
    assert_eq!(series(&smg).await, Vec::<String>::new());
    let workers = get(main, "/workers").await.text();
    assert!(!workers.contains(&url), "{workers}");
    assert_eq!(post(main, "/v1/completions", &ask("new")).await.status, 200);

    // Its probes have ended: the other worker is asked many times more, this one is not. A probe
    // that was under way at the reload may still come in.
    let probes = |engine: &FakeEngine| {
        let asked = engine.asked();
        asked.iter().filter(|asked| asked.method == "GET").count()
    };
    let (late, base) = (probes(&old) + 1, probes(&new));
    eventually(PATIENCE, async || probes(&new) >= base + 10).await;
    assert!(
        probes(&old) <= late,
        "{} probes after the removal",
        probes(&old) + 1 - late
    );

    // The stream ends as if nothing had happened, and the connections with it.
    gate.open();
    let rest = long.events().await;
    assert!(rest[0].contains("two"), "{rest:?}");
    assert_eq!(rest[1..], ["data: [DONE]"]);
    eventually(PATIENCE, async || old.connections() == 0).await;
    assert!(new.connections() > 0);
    eventually(PATIENCE, async || {
        smg.metrics().await.sum("smg_config_snapshots_alive", &[]) == 1.0
    })
    .await;
    assert_eq!(series(&smg).await, Vec::<String>::new());
    assert_eq!(
        smg.metrics().await.sum("smg_worker_requests_active", &[]),
        0.0
    );
    let removed = [("source", "static"), ("reason", "config_removed")];
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_discovery_deregistrations_total", &removed),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_loses_its_connections_when_it_is_removed() {
    let gate = Gate::closed();
    let (old, new) = (engine("old", &gate).await, engine("new", &gate).await);
    let smg = Smg::start(&pools(&[("old", &old), ("new", &new)])).await;
    let main = smg.main();
    eventually(PATIENCE, async || {
        get(main, "/readiness").await.json()["healthy_workers"] == 2
    })
    .await;
    let ask = json!({ "model": "old", "prompt": "hi" });
    assert_eq!(post(main, "/v1/completions", &ask).await.status, 200);
    assert!(old.connections() > 0);
    smg.apply(&pools(&[("new", &new)])).await;
    eventually(PATIENCE, async || old.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_back_begins_anew() {
    let gate = Gate::closed();
    let (old, new) = (engine("old", &gate).await, engine("new", &gate).await);
    let both = pools(&[("old", &old), ("new", &new)]);
    let smg = Smg::start(&both).await;
    let main = smg.main();
    let served = async || {
        let ask = json!({ "model": "old", "prompt": "hi" });
        post(main, "/v1/completions", &ask).await.status == 200
    };
    for _ in 0..3 {
        eventually(PATIENCE, served).await;
        smg.apply(&pools(&[("new", &new)])).await;
        assert!(!served().await);
        smg.apply(&both).await;
    }
    eventually(PATIENCE, served).await;
    assert_eq!(
        smg.metrics().await.sum("smg_worker_requests_active", &[]),
        0.0
    );
}
