//! `cache_aware` by its tree, in front of workers that have caches.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::scene::{LISTENERS, PATIENCE};
use crate::support::{Smg, Worker, eventually, post};

async fn workers(count: usize) -> Vec<Worker> {
    let mut workers = Vec::new();
    for _ in 0..count {
        workers.push(Worker::start(&["--model", "m"]).await);
    }
    workers
}

fn config(workers: &[Worker], threshold: f64) -> String {
    let urls: Vec<&str> = workers.iter().map(Worker::url).collect();
    format!(
        r#"{LISTENERS}
[[pools]]
name = "p"
runtime = "sglang"
workers = {urls:?}
health.enabled = false

[[models]]
name = "m"
policy.cache_aware = {{ cache_threshold = {threshold:?} }}
"#
    )
}

fn chat(text: &str) -> Value {
    json!({ "model": "m", "max_tokens": 1, "messages": [{ "role": "user", "content": text }] })
}

/// A prompt of some length that begins like no other.
fn prompt(number: u32) -> String {
    format!("{:08x} ", number.wrapping_mul(0x9e37_79b9)).repeat(40)
}

async fn requests(smg: &Smg, workers: &[Worker]) -> Vec<f64> {
    let metrics = smg.metrics().await;
    let of =
        |worker: &Worker| metrics.sum("smg_worker_requests_total", &[("worker", worker.url())]);
    workers.iter().map(of).collect()
}

/// Asks, and returns whose turn it was and how much of the prompt that worker had in its cache.
async fn ask(smg: &Smg, workers: &[Worker], text: &str) -> (String, u64) {
    let before = requests(smg, workers).await;
    let answer = post(smg.main(), "/v1/chat/completions", &chat(text)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let after = requests(smg, workers).await;
    let grown = before
        .iter()
        .zip(&after)
        .position(|(before, after)| after > before);
    let cached = &answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"];
    (
        workers[grown.unwrap()].url().to_owned(),
        cached.as_u64().unwrap_or(0),
    )
}

async fn tree(smg: &Smg, name: &str) -> f64 {
    let labels = [("model", "m"), ("tree", "regular")];
    smg.metrics()
        .await
        .sum(&format!("smg_cache_tree_{name}"), &labels)
}

async fn branch(smg: &Smg, branch: &str) -> f64 {
    let name = "smg_cache_aware_policy_branch_total";
    smg.metrics().await.sum(name, &[("branch", branch)])
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_spread_and_each_stays_with_its_worker_across_a_reload() {
    let workers = workers(3).await;
    let smg = Smg::start(&config(&workers, 0.5)).await;
    let mut homes = BTreeMap::new();
    for number in 1..=15 {
        let (home, cached) = ask(&smg, &workers, &prompt(number)).await;
        assert_eq!(cached, 0);
        homes.insert(number, home);
    }
    for worker in &workers {
        let own = homes.values().filter(|home| *home == worker.url()).count();
        assert!((4..=6).contains(&own), "{homes:?}");
    }
    assert_eq!(branch(&smg, "tree_miss_min_load").await, 15.0);
    let (chars, tenants) = (tree(&smg, "chars").await, tree(&smg, "tenants").await);
    assert!((15.0 * 350.0..=15.0 * 360.0).contains(&chars), "{chars}");
    assert_eq!((tenants, tree(&smg, "tokens").await), (3.0, 0.0));

    smg.apply(&config(&workers, 0.6)).await;
    for (number, home) in &homes {
        let (again, cached) = ask(&smg, &workers, &prompt(*number)).await;
        assert_eq!(again, *home);
        assert!(cached > 0);
    }
    assert_eq!(branch(&smg, "tree_match").await, 15.0);
    assert_eq!(tree(&smg, "chars").await, chars);
    let metrics = smg.metrics().await;
    let ratio = |le| {
        let labels = [("model", "m"), ("le", le)];
        metrics.sum("smg_cache_aware_match_ratio_bucket", &labels)
    };
    assert_eq!([ratio("0.1"), ratio("0.9"), ratio("1")], [15.0, 15.0, 30.0]);

    // Longer prompts follow the part of them that is known.
    let longer = prompt(1) + "and what else?";
    assert_eq!(ask(&smg, &workers, &longer).await.0, homes[&1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_worker_had_is_forgotten() {
    let mut workers = workers(3).await;
    let smg = Smg::start(&config(&workers, 0.5)).await;
    let mut homes = BTreeMap::new();
    for number in 1..=9 {
        homes.insert(number, ask(&smg, &workers, &prompt(number)).await.0);
    }
    let chars = tree(&smg, "chars").await;
    let gone = workers.pop().unwrap();
    smg.apply(&config(&workers, 0.5)).await;
    eventually(PATIENCE, async || tree(&smg, "tenants").await == 2.0).await;
    assert!(tree(&smg, "chars").await < chars * 0.8);

    // It is back, but what it had is not known any more; what the others had is.
    workers.push(gone);
    smg.apply(&config(&workers, 0.5)).await;
    let (matches, misses) = (
        branch(&smg, "tree_match").await,
        branch(&smg, "tree_miss_min_load").await,
    );
    let mut lost = 0.0;
    for (number, home) in &homes {
        let (again, _) = ask(&smg, &workers, &prompt(*number)).await;
        if home == workers[2].url() {
            lost += 1.0;
        } else {
            assert_eq!(again, *home);
        }
    }
    assert!(lost > 0.0);
    assert_eq!(branch(&smg, "tree_match").await - matches, 9.0 - lost);
    assert_eq!(branch(&smg, "tree_miss_min_load").await - misses, lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_empties_the_tree_and_an_explanation_changes_nothing() {
    let workers = workers(2).await;
    let smg = Smg::start(&config(&workers, 0.5)).await;
    let (home, _) = ask(&smg, &workers, &prompt(1)).await;
    let explain = json!({ "path": "/v1/chat/completions", "body": chat(&prompt(1)) });
    let look = async || {
        let answer = post(smg.main(), "/admin/explain", &explain).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["legs"][0].clone()
    };
    let chars = tree(&smg, "chars").await;
    let leg = look().await;
    assert_eq!(
        (&leg["worker"], &leg["reason"]),
        (&json!(home), &json!("tree_match")),
        "{leg}"
    );
    assert!(leg.to_string().contains("match_rate"), "{leg}");
    assert_eq!(tree(&smg, "chars").await, chars);

    let answer = post(smg.main(), "/flush_cache", &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        (tree(&smg, "chars").await, tree(&smg, "tenants").await),
        (0.0, 0.0)
    );
    assert_eq!(look().await["reason"], "tree_miss_min_load");
    assert_eq!(ask(&smg, &workers, &prompt(1)).await.1, 0);
}
