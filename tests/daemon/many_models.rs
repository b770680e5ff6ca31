//! A hundred models, each served by a hundred workers, reloaded under load.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::load::QUIET;
use crate::scene::{LISTENERS, PATIENCE, ready};
use crate::support::client::json_request;
use crate::support::{Connection, Smg, Worker, eventually, get};

const MODELS: usize = 100;
const WORKERS: usize = 100;
const RELOADS: u64 = 40;
const CLIENTS: usize = 6;

/// Between two requests of a client: the load is bounded on purpose.
const PAUSE: Duration = Duration::from_millis(3);

/// Addresses of loopback behind which one process listens.
fn workers(port: &str) -> Vec<String> {
    (1..=WORKERS)
        .map(|n| format!("http://127.0.9.{n}:{port}"))
        .collect()
}

/// The `n`th configuration: a tenth of the workers is absent, and every model is served in another
/// way than before.
fn generation(n: u64, workers: &[String]) -> String {
    let policies = [
        "consistent_hashing",
        "cache_aware",
        "least_load",
        "round_robin",
        "random",
    ];
    let tenth = n as usize % 10;
    let present = workers
        .iter()
        .enumerate()
        .filter(|(at, _)| at % 10 != tenth);
    let present: Vec<_> = present.map(|(_, url)| url).collect();
    let models: String = (0..MODELS)
        .map(|at| {
            let policy = policies[(at + n as usize) % policies.len()];
            let place = match at % 10 {
                7 => format!(
                    "split = [{{ pool = \"p\", weight = {} }}, {{ pool = \"q\", weight = 1 }}]",
                    n % 3
                ),
                8 => format!("pool = \"p\"\nfallback = [\"m{}\"]", at - 1),
                _ => "pool = \"p\"".to_owned(),
            };
            format!("[[models]]\nname = \"m{at}\"\npolicy = \"{policy}\"\n{place}\n")
        })
        .collect();
    format!(
        "{LISTENERS}\
         [[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = {present:?}\nhealth.enabled = false\n\
         [[pools]]\nname = \"q\"\nruntime = \"vllm\"\nworkers = {:?}\nhealth.enabled = false\n\
         {models}",
        &workers[..3]
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_models_at_a_hundred_workers_are_reloaded_without_a_failure() {
    let mut args = vec!["--host".to_owned(), "0.0.0.0".to_owned()];
    args.extend(["--runtime".to_owned(), "vllm".to_owned()]);
    args.extend((0..MODELS).flat_map(|n| ["--model".to_owned(), format!("m{n}")]));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let worker = Worker::start(&args).await;
    let (_, port) = worker.url().rsplit_once(':').unwrap();
    let urls = workers(port);

    let smg = Smg::start_with(&generation(1, &urls), |command| {
        command.env(QUIET.0, QUIET.1);
    })
    .await;
    ready(&smg).await;
    let main = smg.main();
    let stop = watch::Sender::new(false);
    let (answered, failures) = (
        Arc::<AtomicU64>::default(),
        Arc::<Mutex<Vec<String>>>::default(),
    );
    let asked = Arc::<Mutex<BTreeSet<usize>>>::default();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (stop, answered) = (stop.subscribe(), Arc::clone(&answered));
        let (failures, asked) = (Arc::clone(&failures), Arc::clone(&asked));
        clients.spawn(async move {
            let mut connection = Connection::h1(main).await;
            let mut at = client * MODELS / CLIENTS;
            while !*stop.borrow() {
                at = (at + 1) % MODELS;
                let body = json!({ "model": format!("m{at}"), "prompt": "hi", "max_tokens": 2 });
                let answer = connection
                    .send(json_request("/v1/completions", &body))
                    .await;
                if answer.status != 200 || answer.json()["model"] != format!("m{at}") {
                    failures.lock().push(format!("m{at}: {answer:?}"));
                }
                answered.fetch_add(1, Ordering::SeqCst);
                asked.lock().insert(at);
                sleep(PAUSE).await;
            }
        });
    }
    let mut longest = Duration::ZERO;
    for n in 2..=RELOADS + 1 {
        let before = answered.load(Ordering::SeqCst);
        let from = Instant::now();
        smg.apply(&generation(n, &urls)).await;
        longest = longest.max(from.elapsed());
        eventually(PATIENCE, async || {
            answered.load(Ordering::SeqCst) > before + 5
        })
        .await;
    }
    eventually(PATIENCE, async || asked.lock().len() == MODELS).await;
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    println!(
        "{} answers, longest reload {longest:?}",
        answered.load(Ordering::SeqCst)
    );
    let failures = std::mem::take(&mut *failures.lock());
    assert!(
        failures.is_empty(),
        "{} failed, first: {:?}",
        failures.len(),
        failures.first()
    );

    let listed = get(main, "/v1/models").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), MODELS);
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_config_snapshots_alive", &[]) == 1.0
            && metrics.sum("smg_worker_requests_active", &[]) == 0.0
    })
    .await;
    assert_eq!(
        smg.metrics().await.sum("smg_config_generation", &[]),
        RELOADS as f64 + 1.0
    );
}
