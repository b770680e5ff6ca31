//! What engines say of their load: who is asked, how, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::scene::{LISTENERS, PATIENCE, ok};
use crate::support::engine::Asked;
use crate::support::{FakeEngine, Gate, Smg, Step, Worker, eventually, get, post};

/// Whether a `GET` is about load.
fn is_load(asked: &Asked) -> bool {
    ["/v1/loads", "/get_load", "/load", "/metrics", "/prometheus"]
        .iter()
        .any(|path| asked.path.starts_with(path))
}

fn load_paths(engine: &FakeEngine) -> Vec<String> {
    let asked = engine.asked();
    let asked = asked.into_iter().filter(is_load);
    asked.map(|asked| asked.path).collect()
}

/// An engine of the model `m` that answers questions about its load with what `told` returns for the
/// path: a text, JSON, or null for 404.
async fn engine(told: impl Fn(&str) -> Value + Send + Sync + 'static) -> FakeEngine {
    FakeEngine::start(
        move |asked| match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/health") => vec![Step::answer(200, "text/plain", "OK")],
            ("GET", _) if is_load(asked) => match told(&asked.path) {
                Value::Null => vec![Step::json(404, &json!({}))],
                Value::String(text) => vec![Step::answer(200, "text/plain", &text)],
                json => vec![Step::json(200, &json)],
            },
            ("GET", _) => vec![Step::json(404, &json!({}))],
            _ => vec![ok()],
        },
    )
    .await
}

/// A pool of these engines for the model `m`, which are asked every 50 ms.
fn config(engines: &[&FakeEngine], runtime: &str, policy: &str) -> String {
    let workers: Vec<String> = engines.iter().map(|engine| engine.url()).collect();
    format!(
        r#"{LISTENERS}
[routing]
load_monitor_interval = "50ms"
[[pools]]
name = "p"
runtime = "{runtime}"
workers = {workers:?}
api_key = "key-of-the-worker"
health.enabled = false
[[models]]
name = "m"
policy = "{policy}"
"#
    )
}

fn ranks(usages: &[f64]) -> Value {
    let loads: Vec<Value> = usages
        .iter()
        .enumerate()
        .map(|(rank, usage)| {
            json!({
                "dp_rank": rank, "num_running_reqs": 3, "num_waiting_reqs": 1,
                "num_used_tokens": 100, "max_total_num_tokens": 1000, "token_usage": usage,
                "gen_throughput": 25.5, "cache_hit_rate": 0.5, "utilization": 0.75,
                "max_running_requests": 64, "num_waiting_uncached_tokens": 9,
            })
        })
        .collect();
    json!({ "timestamp": "t", "version": "v", "dp_rank_count": loads.len(), "loads": loads })
}

async fn degraded(smg: &Smg) -> Value {
    let answer = get(smg.main(), "/readiness").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["degraded"].clone()
}

fn lines(smg: &mut Smg, text: &str) -> usize {
    let output = smg.process().output();
    output.iter().filter(|line| line.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_each_rank_is_shown() {
    let engine = engine(|path| match path {
        "/v1/loads?include=core,disagg,queues,memory" => ranks(&[0.25, 0.75]),
        _ => Value::Null,
    })
    .await;
    let smg = Smg::start(&config(&[&engine], "sglang", "power_of_two")).await;
    eventually(PATIENCE, async || load_paths(&engine).len() >= 5).await;
    for asked in engine.asked().iter().filter(|asked| is_load(asked)) {
        assert_eq!(asked.path, "/v1/loads?include=core,disagg,queues,memory");
        assert_eq!(
            asked.header("authorization"),
            Some("Bearer key-of-the-worker")
        );
    }
    let body = get(smg.main(), "/get_loads").await.json();
    let loads = body["loads"].as_array().unwrap();
    assert_eq!((loads.len(), &body["dp_rank_count"]), (2, &json!(2)));
    for (rank, load) in loads.iter().enumerate() {
        assert_eq!(load["dp_rank"], rank);
        assert_eq!(load["worker"], engine.url());
        assert_eq!(load["worker_type"], "regular");
        assert_eq!(load["stale"], false);
        assert!(load["age_seconds"].as_f64().unwrap() < 20.0, "{load}");
        assert_eq!(load["num_total_reqs"], 4);
        assert_eq!(load["num_waiting_uncached_tokens"], 9);
        assert_eq!(load["max_total_num_tokens"], 1000);
        assert_eq!(load["max_running_requests"], 64);
    }
    assert_eq!(
        body["aggregate"],
        json!({
            "total_running_reqs": 6, "total_waiting_reqs": 2, "total_reqs": 8,
            "avg_token_usage": 0.5, "avg_throughput": 25.5, "avg_utilization": 0.75,
        })
    );
    let metrics = smg.metrics().await;
    let url = engine.url();
    for (rank, usage) in [("0", 0.25), ("1", 0.75)] {
        let labels = [("worker", &*url), ("model", "unknown"), ("dp_rank", rank)];
        for (name, value) in [
            ("smg_engine_running_requests", 3.0),
            ("smg_engine_waiting_requests", 1.0),
            ("smg_engine_token_usage", usage),
            ("smg_engine_gen_throughput", 25.5),
            ("smg_engine_cache_hit_rate", 0.5),
        ] {
            assert_eq!(metrics.count(name, &labels), 1, "{name}");
            assert_eq!(metrics.sum(name, &labels), value, "{name}");
        }
    }
    let labels = [("model", "m"), ("policy", "power_of_two")];
    assert_eq!(metrics.count("smg_policy_degraded", &labels), 1);
    assert_eq!(metrics.sum("smg_policy_degraded", &labels), 0.0);
    assert_eq!(degraded(&smg).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_are_asked_whose_policy_wants_to_know() {
    let (wanted, other) = (
        engine(|_| ranks(&[0.5])).await,
        engine(|_| ranks(&[0.5])).await,
    );
    let pool = |name: &str, engine: &FakeEngine, policy: &str| {
        format!(
            "[[pools]]\nname = \"{name}\"\nruntime = \"sglang\"\nworkers = [\"{}\"]\n\
             health.enabled = false\n\
             [[models]]\nname = \"{name}\"\npool = \"{name}\"\npolicy = \"{policy}\"\n",
            engine.url()
        )
    };
    let toml = |policy: &str| {
        format!(
            "{LISTENERS}[routing]\nload_monitor_interval = \"20ms\"\n{}{}",
            pool("a", &wanted, policy),
            pool("b", &other, "round_robin")
        )
    };
    let smg = Smg::start(&toml("least_load")).await;
    eventually(PATIENCE, async || load_paths(&wanted).len() >= 20).await;
    assert_eq!(load_paths(&other), Vec::<String>::new());
    assert_eq!(
        smg.metrics()
            .await
            .count("smg_engine_running_requests", &[]),
        1
    );

    smg.apply(&toml("random")).await;
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.count("smg_engine_running_requests", &[]) == 0
            && metrics.count("smg_policy_degraded", &[]) == 0
    })
    .await;
    smg.apply(&toml("power_of_two")).await;
    let before = load_paths(&wanted).len();
    eventually(PATIENCE, async || load_paths(&wanted).len() > before + 2).await;
    assert_eq!(load_paths(&other), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_worked_once_is_asked_from_then_on() {
    let text = "sglang_num_running_reqs{model_name=\"m\"} 4\nsglang_num_queue_reqs 2\n\
                sglang_token_usage 0.5\n";
    let engine = engine(move |path| match path {
        "/metrics" => json!(text),
        _ => Value::Null,
    })
    .await;
    let smg = Smg::start(&config(&[&engine], "sglang", "least_load")).await;
    eventually(PATIENCE, async || load_paths(&engine).len() >= 6).await;
    let paths = load_paths(&engine);
    assert_eq!(
        paths[..3],
        [
            "/v1/loads?include=core,disagg,queues,memory",
            "/get_load",
            "/metrics"
        ]
    );
    assert!(
        paths[3..].iter().all(|path| path == "/metrics"),
        "{paths:?}"
    );
    assert_eq!(degraded(&smg).await, Value::Null);
    let body = get(smg.main(), "/get_loads").await.json();
    assert_eq!(body["loads"][0]["num_running_reqs"], 4);
    assert_eq!(body["loads"][0]["num_waiting_reqs"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tensorrt_llm_tells_of_its_iterations() {
    let worked = Arc::new(AtomicBool::new(true));
    let tells = Arc::clone(&worked);
    let engine = engine(move |path| match path {
        "/metrics" if tells.swap(false, Ordering::SeqCst) => json!([
            { "iter": 1, "numActiveRequests": 9 },
            { "iter": 2, "numActiveRequests": 5, "numQueuedRequests": 3,
              "kvCacheStats": { "maxNumBlocks": 100, "usedNumBlocks": 25, "tokensPerBlock": 32,
                                "cacheHitRate": 0.5 } },
        ]),
        "/metrics" => json!([]),
        _ => Value::Null,
    })
    .await;
    let smg = Smg::start(&config(&[&engine], "trtllm", "least_load")).await;
    eventually(PATIENCE, async || load_paths(&engine).len() >= 4).await;
    let load = get(smg.main(), "/get_loads").await.json()["loads"][0].clone();
    assert_eq!(load["max_total_num_tokens"], 3200);
    assert_eq!(load["cache_hit_rate"], 0.5);
    assert_eq!(
        load["num_running_reqs"], 0,
        "it has not worked since: {load}"
    );
    assert_eq!(load["stale"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_its_signal_says_so_until_it_has_it() {
    let counts = Arc::new(AtomicBool::new(false));
    let tells = Arc::clone(&counts);
    // Requests alone are not what `power_of_two` compares.
    let engine = engine(move |path| match path {
        "/load" => json!({ "server_load": 2 }),
        "/metrics" if tells.load(Ordering::SeqCst) => json!(
            "vllm:num_requests_running{engine=\"0\"} 2\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n"
        ),
        _ => Value::Null,
    })
    .await;
    let mut smg = Smg::start(&config(&[&engine], "vllm", "power_of_two")).await;
    eventually(PATIENCE, async || degraded(&smg).await.is_array()).await;
    assert_eq!(
        degraded(&smg).await,
        json!([{ "model": "m", "policy": "power_of_two", "reason": "no worker reports its load" }])
    );
    let labels = [("model", "m"), ("policy", "power_of_two")];
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_policy_degraded", &labels), 1.0);
    assert_eq!(metrics.sum("smg_engine_running_requests", &[]), 2.0);
    let (begins, ends) = ("policy runs without", "policy knows the load");
    eventually(PATIENCE, async || lines(&mut smg, begins) == 1).await;

    counts.store(true, Ordering::SeqCst);
    eventually(PATIENCE, async || degraded(&smg).await.is_null()).await;
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_policy_degraded", &labels), 0.0);
    assert_eq!(metrics.count("smg_policy_degraded", &labels), 1);
    eventually(PATIENCE, async || lines(&mut smg, ends) == 1).await;
    assert_eq!(lines(&mut smg, begins), 1, "one line, however many polls");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_do_not_report_are_counted() {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let sometimes = engine(move |_| {
        if failing.load(Ordering::SeqCst) {
            Value::Null
        } else {
            ranks(&[0.5])
        }
    })
    .await;
    let always = engine(|_| ranks(&[0.5])).await;
    let smg = Smg::start(&config(&[&sometimes, &always], "sglang", "least_load")).await;
    eventually(PATIENCE, async || {
        smg.metrics().await.count("smg_engine_token_usage", &[]) == 2
    })
    .await;
    assert_eq!(degraded(&smg).await, Value::Null);
    fails.store(true, Ordering::SeqCst);
    eventually(PATIENCE, async || degraded(&smg).await.is_array()).await;
    assert_eq!(
        degraded(&smg).await[0]["reason"],
        "1 of 2 workers do not report their load"
    );
    let url = sometimes.url();
    let labels = [("worker", &*url)];
    let metrics = smg.metrics().await;
    assert_eq!(metrics.count("smg_engine_token_usage", &labels), 0);
    assert_eq!(metrics.count("smg_engine_token_usage", &[]), 1);
    let body = get(smg.main(), "/get_loads").await.json();
    for load in body["loads"].as_array().unwrap() {
        assert_eq!(load["stale"], load["worker"] == *url, "{body}");
    }
    assert_eq!(body["aggregate"]["total_running_reqs"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_delays_nobody() {
    let gate = Gate::closed();
    let holds = gate.clone();
    let hanging = FakeEngine::start(move |asked| {
        if is_load(asked) {
            vec![Step::Hold(holds.clone())]
        } else if asked.method == "GET" {
            vec![Step::json(404, &json!({}))]
        } else {
            vec![ok()]
        }
    })
    .await;
    let quick = engine(|_| ranks(&[0.5])).await;
    let smg = Smg::start(&config(&[&hanging, &quick], "sglang", "least_load")).await;
    eventually(PATIENCE, async || {
        !load_paths(&hanging).is_empty() && load_paths(&quick).len() >= 10
    })
    .await;
    assert!(
        load_paths(&hanging).len() <= 2,
        "each question is waited for"
    );
    let asked = post(
        smg.main(),
        "/v1/completions",
        &json!({ "model": "m", "prompt": "x" }),
    )
    .await;
    assert_eq!(asked.status, 200);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_ends_when_its_worker_leaves_ready() {
    let well = Arc::new(AtomicBool::new(true));
    let health = Arc::clone(&well);
    let engine = FakeEngine::start(move |asked| {
        let well = health.load(Ordering::SeqCst);
        match asked.path.as_str() {
            "/health" if !well => vec![Step::answer(503, "text/plain", "")],
            "/health" => vec![Step::answer(200, "text/plain", "")],
            "/v1/models" => vec![Step::json(200, &json!({ "data": [{ "id": "m" }] }))],
            _ if is_load(asked) => vec![Step::json(200, &ranks(&[0.5]))],
            _ => vec![Step::json(404, &json!({}))],
        }
    })
    .await;
    let toml = format!(
        "{LISTENERS}[routing]\npolicy = \"least_load\"\nload_monitor_interval = \"1h\"\n\
         [reliability.health]\ninterval = \"20ms\"\nfailure_threshold = 1\nsuccess_threshold = 1\n\
         [[pools]]\nname = \"p\"\nworkers = [\"{}\"]\n",
        engine.url()
    );
    let smg = Smg::start(&toml).await;
    let told = async || smg.metrics().await.count("smg_engine_token_usage", &[]);
    eventually(PATIENCE, async || told().await == 1).await;
    well.store(false, Ordering::SeqCst);
    eventually(PATIENCE, async || told().await == 0).await;
    let load = get(smg.main(), "/get_loads").await.json()["loads"][0].clone();
    assert_eq!(load["stale"], true, "{load}");
    // It is asked again as soon as it is back, not when an hour has passed.
    let before = load_paths(&engine).len();
    well.store(true, Ordering::SeqCst);
    eventually(PATIENCE, async || told().await == 1).await;
    assert!(load_paths(&engine).len() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_worker_reports_as_engines_do() {
    for runtime in ["sglang", "vllm"] {
        let worker = Worker::start(&["--runtime", runtime, "--cache-tokens", "4096"]).await;
        let toml = format!(
            "{LISTENERS}[routing]\npolicy = \"least_load\"\nload_monitor_interval = \"50ms\"\n\
             [[pools]]\nname = \"p\"\nworkers = [\"{}\"]\n",
            worker.url()
        );
        let smg = Smg::start(&toml).await;
        eventually(PATIENCE, async || {
            smg.metrics().await.count(
                "smg_engine_token_usage",
                &[("worker", worker.url()), ("model", "sample")],
            ) == 1
        })
        .await;
        assert_eq!(degraded(&smg).await, Value::Null);
    }
}
