//! New configurations under load, and what a reload answers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::load::{Load, MODEL, QUIET};
use crate::support::client::{json_request, request};
use crate::support::smg::LISTENERS;
use crate::support::{
    Connection, FakeEngine, Gate, Smg, Step, Worker, eventually, get, post, stream,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two pools, of which `n` decides everything that a reload may change: a worker comes and goes, a
/// pool is another one, and so are policy, probe, alias and deadlines.
fn generation(n: u64, workers: &[&str]) -> String {
    let (first, both) = (&workers[..1], workers);
    let serving = if n.is_multiple_of(2) { both } else { first };
    let probe = ["/health", "/v1/models", "/health"][n as usize % 3];
    let policy = ["least_load", "round_robin", "random", "power_of_two"][n as usize % 4];
    format!(
        r#"
{LISTENERS}
[server]
request_timeout = "{}s"

[routing]
policy = "{policy}"

[reliability.health]
endpoint = "{probe}"
interval = "100ms"

[[pools]]
name = "sample"
runtime = "sglang"
workers = {serving:?}

[[pools]]
name = "other-{}"
workers = ["http://127.0.0.1:9"]

[[models]]
name = "{MODEL}"
aliases = ["alias-{n}"]
pool = "sample"
"#,
        600 + n,
        n % 3,
    )
}

async fn reload(admin: &mut Connection) -> Value {
    let answer = admin.send(json_request("/admin/reload", &json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_generations_by_request_fail_no_request_and_keep_no_memory() {
    const GENERATIONS: u64 = 1000;
    const SETTLED: u64 = 200;
    let workers = [
        Worker::start(&["--itl", "1ms"]).await,
        Worker::start(&[]).await,
    ];
    let urls = [workers[0].url(), workers[1].url()];
    let mut smg = Smg::start_with(&generation(1, &urls), |command| {
        command.env(QUIET.0, QUIET.1);
    })
    .await;
    let main = smg.main();
    let mut admin = Connection::h1(main).await;
    let load = Load::start(main);
    load.answers(50).await;

    let (mut settled, mut most) = ((0, 0), (0, 0));
    for n in 2..=GENERATIONS + 1 {
        smg.rewrite(&generation(n, &urls));
        let outcome = reload(&mut admin).await;
        assert_eq!(outcome["generation"], n, "{outcome}");
        let now = (smg.process().rss_kb(), smg.process().fd_count());
        let peak = if n <= SETTLED {
            &mut settled
        } else {
            &mut most
        };
        *peak = (peak.0.max(now.0), peak.1.max(now.1));
    }
    let under_change = load.answered();
    load.answers(50).await;
    let answered = load.finish().await;
    assert!(
        under_change > GENERATIONS / 2,
        "hardly any load: {answered}"
    );

    println!(
        "peak RSS {} KiB, {} descriptors; before the {SETTLED}th: {settled:?}",
        most.0, most.1
    );
    assert!(
        most.0 <= settled.0 + settled.0 / 10 + 4096,
        "memory grew from {} to {} KiB",
        settled.0,
        most.0
    );
    assert!(
        most.1 <= settled.1 + 8,
        "descriptors grew from {} to {}",
        settled.1,
        most.1
    );
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_config_snapshots_alive", &[]) == 1.0
            && metrics.sum("smg_worker_requests_active", &[]) == 0.0
    })
    .await;
    let metrics = smg.metrics().await;
    let applied = metrics.sum("smg_config_reloads_total", &[("result", "applied")]);
    assert_eq!(applied, GENERATIONS as f64);
    assert_eq!(
        metrics.sum("smg_config_generation", &[]),
        GENERATIONS as f64 + 1.0
    );
    assert_eq!(
        metrics.sum("smg_http_responses_total", &[("status", "502")]),
        0.0
    );
    assert_eq!(smg.term_and_wait().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_generations_by_file_fail_no_request_and_leave_a_stream_alone() {
    const GENERATIONS: u64 = 50;
    let worker = Worker::start(&["--itl", "1ms"]).await;
    let gate = Gate::closed();
    let engine = FakeEngine::serving("slow", held_stream(&gate)).await;
    let url = engine.url();
    let config = |n| {
        generation(n, &[worker.url(), worker.url()]).replace(
            &format!("{:?}, {0:?}", worker.url()),
            &format!("{:?}", worker.url()),
        ) + &format!("\n[[pools]]\nname = \"slow\"\nworkers = [\"{url}\"]\n")
            + "\n[[models]]\nname = \"slow\"\npool = \"slow\"\n"
    };
    let smg = Smg::start_with(&config(1), |command| {
        command.env(QUIET.0, QUIET.1);
    })
    .await;
    let main = smg.main();
    ready(&smg, 2).await;
    let ask = json!({ "model": "slow", "prompt": "hi", "stream": true });
    let mut long = stream(main, "/v1/completions", &ask).await;
    assert!(long.event().await.unwrap().unwrap().contains("one"));

    let load = Load::start(main);
    load.answers(20).await;
    for n in 2..=GENERATIONS + 1 {
        smg.rewrite(&config(n));
        smg.serves(n).await;
    }
    let status = smg.status().await;
    assert_eq!(status["live"]["trigger"], "file", "{status}");
    load.finish().await;

    // The stream holds the snapshot it began under, and only that one is still there.
    let alive = async || get(main, "/admin/snapshots").await.json();
    eventually(PATIENCE, async || {
        alive().await.as_array().unwrap().len() == 2
    })
    .await;
    assert_eq!(alive().await[0]["generation"], 1);
    gate.open();
    let rest = long.events().await;
    assert!(rest[0].contains("two"), "{rest:?}");
    assert_eq!(rest[1..], ["data: [DONE]"]);
    eventually(PATIENCE, async || {
        alive().await.as_array().unwrap().len() == 1
    })
    .await;
}

/// Waits until that many workers are healthy.
async fn ready(smg: &Smg, workers: u64) {
    let main = smg.main();
    eventually(PATIENCE, async || {
        get(main, "/readiness").await.json()["healthy_workers"] == workers
    })
    .await;
}

/// Streams a token, waits for the gate, and streams the rest.
fn held_stream(gate: &Gate) -> impl Fn(&crate::support::engine::Asked) -> Vec<Step> + use<> {
    let gate = gate.clone();
    let token = |text: &str| {
        let choice = json!({ "index": 0, "text": text, "finish_reason": null });
        Step::event(&json!({ "object": "text_completion", "choices": [choice] }).to_string())
    };
    move |_| {
        vec![
            Step::sse_head(),
            token("one"),
            Step::Hold(gate.clone()),
            token("two"),
            Step::event("[DONE]"),
            Step::Close,
        ]
    }
}

fn pool(workers: &[String]) -> String {
    format!("{LISTENERS}\n[[pools]]\nname = \"sample\"\nworkers = {workers:?}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_together_share_reloads() {
    const ASKERS: usize = 64;
    let smg = Smg::start(&pool(&[])).await;
    let main = smg.main();
    let mut connections = Vec::new();
    for _ in 0..ASKERS {
        connections.push(Connection::h1(main).await);
    }
    smg.rewrite(&pool(&["http://127.0.0.1:9".to_owned()]));
    let outcomes = futures_util::future::join_all(connections.iter_mut().map(reload)).await;
    assert!(
        outcomes.iter().all(|outcome| outcome["generation"] == 2),
        "{outcomes:?}"
    );
    let metrics = smg.metrics().await;
    let applied = metrics.sum("smg_config_reloads_total", &[("result", "applied")]);
    let all = metrics.sum("smg_config_reloads_total", &[]);
    assert_eq!(applied, 1.0);
    assert!(all < ASKERS as f64 / 2.0, "{all} reloads");
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_content_is_unchanged() {
    let smg = Smg::start(&pool(&["http://127.0.0.1:9".to_owned()])).await;
    let before = smg.status().await;
    smg.rewrite(&pool(&["http://127.0.0.1:9".to_owned()]));
    let reload = smg.reload().await;
    assert_eq!(
        (reload.result(), reload.generation()),
        ("unchanged", Some(1))
    );
    let after = smg.status().await;
    assert_eq!(before["live"], after["live"]);
    assert_eq!(reload.body["sha256"], after["live"]["sha256"]);
    let metrics = smg.metrics().await;
    let unchanged = [("trigger", "admin"), ("result", "unchanged")];
    assert_eq!(metrics.sum("smg_config_reloads_total", &unchanged), 1.0);
    assert_eq!(metrics.sum("smg_config_generation", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_reload_says_every_mistake_and_changes_nothing() {
    let smg = Smg::start(&pool(&["http://127.0.0.1:9".to_owned()])).await;
    let before = smg.status().await;
    smg.rewrite(&format!(
        "{LISTENERS}\n[routing]\npolicy = \"least_lod\"\n\n[[models]]\nname = \"m\"\npool = \"nowhere\"\n"
    ));
    let reload = smg.reload().await;
    assert_eq!((reload.status, reload.result()), (422, "rejected"));
    assert_eq!(reload.generation(), None);
    let diagnostics = reload.body["diagnostics"].to_string();
    assert!(diagnostics.contains("least_lod"), "{diagnostics}");
    assert!(diagnostics.contains("nowhere"), "{diagnostics}");

    let status = smg.status().await;
    assert_eq!(status["live"], before["live"]);
    assert_eq!(status["synchronized"], false);
    assert_eq!(status["rejected"]["trigger"], "admin");
    assert_eq!(
        status["rejected"]["diagnostics"],
        reload.body["diagnostics"]
    );
    assert_ne!(status["rejected"]["sha256"], status["live"]["sha256"]);
    assert_eq!(get(smg.main(), "/workers").await.json()["total"], 1);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_config_last_reload_successful", &[]), 0.0);
    assert_eq!(metrics.sum("smg_config_synchronized", &[]), 0.0);
    assert_eq!(metrics.sum("smg_config_generation", &[]), 1.0);

    smg.rewrite(&pool(&[]));
    assert_eq!(smg.reload().await.generation(), Some(2));
    let status = smg.status().await;
    assert_eq!(
        (&status["synchronized"], &status["rejected"]),
        (&json!(true), &Value::Null)
    );
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_config_last_reload_successful", &[]), 1.0);
    assert_eq!(metrics.sum("smg_config_synchronized", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_class_restart_are_refused_with_the_list_and_nothing_else_is_taken() {
    let before = format!("{}\n[server]\nworker_threads = 2\n", pool(&[]));
    let smg = Smg::start(&before).await;
    let socket = smg.folder().join("control.sock");
    smg.rewrite(&format!(
        "{}\n[server]\nworker_threads = 1\ncontrol_socket = {socket:?}\n\n[metrics]\nduration_buckets = [1.0, 2.0]\n",
        pool(&["http://127.0.0.1:9".to_owned()])
    ));
    let reload = smg.reload().await;
    assert_eq!(
        (reload.status, reload.result()),
        (422, "rejected"),
        "{reload:?}"
    );
    let mut keys: Vec<&str> = reload.body["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|diagnostic| diagnostic["severity"] == "error")
        .filter_map(|diagnostic| diagnostic["key"].as_str())
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "metrics.duration_buckets",
            "server.control_socket",
            "server.worker_threads"
        ]
    );
    assert_eq!(get(smg.main(), "/workers").await.json()["total"], 0);
    assert!(!socket.exists());

    smg.rewrite(&before);
    assert_eq!(smg.reload().await.result(), "unchanged");
    assert_eq!(smg.status().await["synchronized"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_in_one_line_what_a_reload_means() {
    let mut smg = Smg::start(&pool(&["http://127.0.0.1:9".to_owned()])).await;
    smg.apply(&format!(
        "{}\n[[models]]\nname = \"m\"\npool = \"sample\"\n\n[[listeners]]\nname = \"third\"\naddress = \"127.0.0.1:0\"\nserve = [\"probes\"]\n",
        pool(&["http://127.0.0.1:10".to_owned()])
    )).await;
    let line = smg
        .process()
        .line(PATIENCE, |line| {
            let found = line.contains("configuration applied") && line.contains("generation=2");
            found.then(|| line.to_owned())
        })
        .await;
    for part in [
        "trigger=",
        "sha256=",
        "listener third added",
        "worker sample/http://127.0.0.1:9 removed",
        "worker sample/http://127.0.0.1:10 added",
        "route m added",
    ] {
        assert!(line.contains(part), "no `{part}` in {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_is_counted_through_reloads_and_weighs_in_every_choice() {
    let pool = |workers: &[String]| {
        let toml = pool(workers);
        format!("{toml}\n[routing]\npolicy = \"least_load\"\n")
    };
    let gate = Gate::closed();
    let answer = Step::json(200, &json!({ "object": "text_completion", "choices": [] }));
    let held = [Step::Hold(gate.clone()), answer.clone()];
    let busy = FakeEngine::serving("m", move |_| held.to_vec()).await;
    let idle = FakeEngine::serving("m", move |_| vec![answer.clone()]).await;
    let smg = Smg::start(&pool(&[busy.url()])).await;
    ready(&smg, 1).await;
    let main = smg.main();
    let ask = json!({ "model": "m", "prompt": "hi" });
    let waiting = tokio::spawn(async move {
        post(
            main,
            "/v1/completions",
            &json!({ "model": "m", "prompt": "hi" }),
        )
        .await
    });
    eventually(PATIENCE, async || busy.calls().len() == 1).await;
    let url = busy.url();
    let active = async |smg: &Smg| {
        smg.metrics()
            .await
            .sum("smg_worker_requests_active", &[("worker", &url)])
    };
    assert_eq!(active(&smg).await, 1.0);

    smg.apply(&pool(&[busy.url(), idle.url()])).await;
    ready(&smg, 2).await;
    assert_eq!(active(&smg).await, 1.0);
    for _ in 0..4 {
        assert_eq!(post(main, "/v1/completions", &ask).await.status, 200);
    }
    assert_eq!((busy.calls().len(), idle.calls().len()), (1, 4));

    // Its identity is its URL: the pool may have another name.
    smg.apply(&pool(&[busy.url(), idle.url()]).replace("\"sample\"", "\"renamed\""))
        .await;
    assert_eq!(active(&smg).await, 1.0);
    ready(&smg, 2).await;
    assert_eq!(post(main, "/v1/completions", &ask).await.status, 200);
    assert_eq!((busy.calls().len(), idle.calls().len()), (1, 5));

    gate.open();
    assert_eq!(waiting.await.unwrap().status, 200);
    eventually(PATIENCE, async || active(&smg).await == 0.0).await;
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_requests_active", &[]), 0.0);
    assert_eq!(
        metrics.sum("smg_worker_requests_total", &[("worker", &url)]),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_goes_on_where_it_was() {
    let answer = || |_: &crate::support::engine::Asked| vec![Step::json(200, &json!({}))];
    let engines = [
        FakeEngine::serving("m", answer()).await,
        FakeEngine::serving("m", answer()).await,
        FakeEngine::serving("m", answer()).await,
    ];
    let urls: Vec<String> = engines.iter().map(FakeEngine::url).collect();
    let config = |seconds: u32| {
        format!(
            "{}\n[routing]\npolicy = \"round_robin\"\n\n[server]\nrequest_timeout = \"{seconds}s\"\n",
            pool(&urls)
        )
    };
    let smg = Smg::start(&config(60)).await;
    ready(&smg, 3).await;
    let ask = json!({ "model": "m", "prompt": "hi" });
    for n in 0..9 {
        assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
        smg.apply(&config(61 + n)).await;
    }
    let calls: Vec<usize> = engines.iter().map(|engine| engine.calls().len()).collect();
    assert_eq!(calls, [3, 3, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_drain_ends_with_the_last_old_stream() {
    let gate = Gate::closed();
    let engine = FakeEngine::serving("slow", held_stream(&gate)).await;
    let smg = Smg::start(&pool(&[engine.url()])).await;
    ready(&smg, 1).await;
    let main = smg.main();
    let ask = json!({ "model": "slow", "prompt": "hi", "stream": true });
    let mut long = stream(main, "/v1/completions", &ask).await;
    assert!(long.event().await.unwrap().unwrap().contains("one"));

    smg.rewrite(&(pool(&[engine.url()]) + "\n[server]\nrequest_timeout = \"99s\"\n"));
    let waiting =
        tokio::spawn(async move { post(main, "/admin/reload?wait=true", &json!({})).await });
    smg.serves(2).await;
    // Many looks later it still waits, while a plain reload does not.
    for _ in 0..20 {
        let mut connection = Connection::h1(main).await;
        let asked = connection
            .send(request(
                http::Method::GET,
                "/admin/snapshots",
                bytes::Bytes::new(),
            ))
            .await;
        assert_eq!(asked.json()[0]["generation"], 1);
        assert_eq!(smg.reload().await.generation(), Some(2));
    }
    assert!(!waiting.is_finished());
    gate.open();
    assert_eq!(long.events().await.len(), 2);
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["generation"], 2);
}
