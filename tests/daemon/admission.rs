//! Who is let in, who waits and in which order, and what those hear who cannot.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::scene::{
    PATIENCE, assert_error, config, delta, gateway, ok, ready, settled, silent_engine,
};
use crate::support::client::{Answer, Stream, json_request};
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, get, post, stream};

const PATH: &str = "/v1/completions";

/// An engine that answers at once, but for prompts that begin with `hold`: those get a token, and
/// the rest when the test opens the gate.
async fn engine(gate: &Gate) -> FakeEngine {
    let gate = gate.clone();
    silent_engine(move |asked| {
        if !asked.json()["prompt"].as_str().unwrap().starts_with("hold") {
            return vec![ok()];
        }
        vec![
            Step::sse_head(),
            Step::event(&delta("one")),
            Step::Hold(gate.clone()),
            Step::event("[DONE]"),
            Step::Close,
        ]
    })
    .await
}

fn one_at_once(queue: &str) -> String {
    format!("[reliability.admission]\nmax_concurrent_requests = 1\n{queue}\n")
}

fn asking(model: &str, prompt: &str) -> Value {
    json!({ "model": model, "prompt": prompt })
}

/// A stream that has begun and stays.
async fn holding(smg: &Smg, model: &str) -> Stream {
    let ask = json!({ "model": model, "prompt": "hold", "stream": true });
    let mut stream = stream(smg.main(), PATH, &ask).await;
    assert_eq!(stream.status(), 200);
    stream.event().await.unwrap().unwrap();
    stream
}

/// A client that waits for its answer.
fn asked(to: SocketAddr, model: &str, prompt: &str) -> JoinHandle<Answer> {
    let ask = asking(model, prompt);
    tokio::spawn(async move { post(to, PATH, &ask).await })
}

/// Waits until this many wait.
async fn queued(smg: &Smg, number: usize) {
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_admission_queue_depth", &[]) == number as f64
    })
    .await;
}

/// Clients with these models, who have come in this order and wait, and the names of their prompts.
async fn line(smg: &Smg, models: &[&str]) -> Vec<JoinHandle<Answer>> {
    let mut clients = Vec::new();
    for (n, model) in models.iter().enumerate() {
        clients.push(asked(smg.main(), model, &format!("{model}{n}")));
        queued(smg, n + 1).await;
    }
    clients
}

/// The prompts that the engine was sent after the first `skipped`.
fn order(engine: &FakeEngine, skipped: usize) -> Vec<String> {
    let calls = engine.calls();
    let prompts = calls.iter().skip(skipped).map(|asked| asked.json());
    prompts
        .map(|body| body["prompt"].as_str().unwrap().to_owned())
        .collect()
}

async fn all_served(clients: Vec<JoinHandle<Answer>>) {
    for client in clients {
        let answer = client.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

async fn nobody_is_left(smg: &Smg) {
    settled(smg).await;
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_admission_inflight", &[]) == 0.0
            && metrics.sum("smg_admission_queue_depth", &[]) == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_is_held_to_the_end_of_a_stream_and_who_waits_goes_in_order() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &one_at_once("")).await;
    let mut held = holding(&smg, "m").await;
    let clients = line(&smg, &["m"; 5]).await;
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_admission_inflight", &[]), 1.0);
    let depth = metrics.sum("smg_admission_queue_depth", &[("class", "default")]);
    assert_eq!((depth, engine.calls().len()), (5.0, 1));

    gate.open();
    assert_eq!(held.events().await, ["data: [DONE]"]);
    all_served(clients).await;
    assert_eq!(order(&engine, 1), ["m0", "m1", "m2", "m3", "m4"]);
    nobody_is_left(&smg).await;
    let metrics = smg.metrics().await;
    let waits = "smg_admission_queue_wait_seconds_count";
    assert_eq!(metrics.sum(waits, &[("class", "default")]), 5.0);
    let allowed = [("result", "allowed"), ("decision", "allowed")];
    assert_eq!(metrics.sum("smg_http_rate_limit_total", &allowed), 6.0);
    // What it waited is not the gateway's own work.
    let overhead = metrics.sum("smg_gateway_overhead_seconds_sum", &[]);
    let waited = metrics.sum("smg_admission_queue_wait_seconds_sum", &[]);
    assert!(overhead < waited, "{overhead} and {waited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_fit_is_told_when_to_come_back() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &one_at_once("queue_size = 2")).await;
    let _held = holding(&smg, "m").await;
    let clients = line(&smg, &["m", "m"]).await;
    let refused = post(smg.main(), PATH, &asking("m", "late")).await;
    assert_error(&refused, 429, "admission_queue_full");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let rejected = [("result", "rejected"), ("decision", "rejected")];
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_http_rate_limit_total", &rejected), 1.0);
    gate.open();
    all_served(clients).await;
    nobody_is_left(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_queue_nobody_waits() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &one_at_once("queue_size = 0")).await;
    let mut held = holding(&smg, "m").await;
    let refused = post(smg.main(), PATH, &asking("m", "late")).await;
    assert_error(&refused, 429, "rate_limit_exceeded");
    assert_eq!(refused.header("retry-after"), "1");
    gate.open();
    held.events().await;
    nobody_is_left(&smg).await;
    assert_eq!(
        post(smg.main(), PATH, &asking("m", "now")).await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_its_own_time_or_with_that_of_the_request() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &one_at_once("queue_timeout = \"150ms\"")).await;
    let _held = holding(&smg, "m").await;
    let started = Instant::now();
    let late = post(smg.main(), PATH, &asking("m", "late")).await;
    assert_error(&late, 408, "admission_queue_timeout");
    assert!(started.elapsed() >= Duration::from_millis(150));
    queued(&smg, 0).await;

    let total = "reliability.timeouts.total = \"150ms\"\n".to_owned();
    let workers = [engine.url()];
    smg.apply(&config(&workers, &(total + &one_at_once(""))))
        .await;
    let late = post(smg.main(), PATH, &asking("m", "late")).await;
    assert_error(&late, 504, "call_upstream_timeout");
    assert_eq!(engine.calls().len(), 1);
    queued(&smg, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_leaves_the_place_to_others() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &one_at_once("queue_size = 2")).await;
    let held = holding(&smg, "m").await;
    let gone = asked(smg.main(), "m", "gone");
    queued(&smg, 1).await;
    let mut shared = Connection::h2(smg.main()).await;
    let mut kept = shared.again();
    let reset =
        tokio::spawn(async move { shared.send(json_request(PATH, &asking("m", "gone"))).await });
    queued(&smg, 2).await;
    // One closes its connection, the other its stream.
    gone.abort();
    queued(&smg, 1).await;
    reset.abort();
    queued(&smg, 0).await;
    let patient =
        tokio::spawn(async move { kept.send(json_request(PATH, &asking("m", "patient"))).await });
    queued(&smg, 1).await;
    // So does one whose answer has begun.
    drop(held);
    assert_eq!(patient.await.unwrap().status, 200);
    assert_eq!(order(&engine, 1), ["patient"]);
    nobody_is_left(&smg).await;
}

/// Two more models: `gold`, of a class that weighs 3, and `slow`, one at a time.
fn three_models(engine: &FakeEngine, admission: &str) -> String {
    let more = format!(
        "pool = 'p'\n[[models]]\nname = 'gold'\npool = 'p'\nclass = 'gold'\n\
         [[models]]\nname = 'slow'\npool = 'p'\nadmission = {{ max_concurrent_requests = 1 }}\n\
         [reliability.admission]\n{admission}\n\
         [reliability.admission.classes.gold]\nweight = 3\n"
    );
    config(&[engine.url()], &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_share_by_weight() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = Smg::start(&three_models(&engine, "max_concurrent_requests = 1")).await;
    let _held = holding(&smg, "m").await;
    let mut models = ["m"; 12];
    models[4..].fill("gold");
    let clients = line(&smg, &models).await;
    gate.open();
    all_served(clients).await;
    let order = order(&engine, 1);
    for (round, four) in order.chunks(4).enumerate().take(2) {
        let gold = four.iter().filter(|prompt| prompt.starts_with("gold"));
        assert_eq!(gold.count(), 3, "round {round} of {order:?}");
    }
    for class in ["m", "gold"] {
        let own: Vec<_> = order
            .iter()
            .filter(|prompt| prompt.starts_with(class))
            .collect();
        let number = |prompt: &str| prompt.trim_start_matches(class).parse::<usize>().unwrap();
        assert!(own.is_sorted_by_key(|prompt| number(prompt)), "{order:?}");
    }
    nobody_is_left(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_at_its_limit_stands_in_nobodys_way() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = Smg::start(&three_models(&engine, "max_concurrent_requests = 2")).await;
    let _held = holding(&smg, "slow").await;
    let waiting = line(&smg, &["slow", "slow"]).await;
    for _ in 0..5 {
        assert_eq!(
            post(smg.main(), PATH, &asking("m", "quick")).await.status,
            200
        );
    }
    queued(&smg, 2).await;
    gate.open();
    all_served(waiting).await;
    assert_eq!(order(&engine, 6), ["slow0", "slow1"]);
    nobody_is_left(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_spreads_requests_over_time() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(
        &[&engine],
        "[reliability.admission]\ntokens_per_second = 10\n",
    )
    .await;
    let started = Instant::now();
    let clients: Vec<_> = (0..20).map(|_| asked(smg.main(), "m", "quick")).collect();
    all_served(clients).await;
    // Ten at once, and ten more in a second.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(990), "{took:?}");
    nobody_is_left(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_but_inference_passes_by() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = gateway(&[&engine], &one_at_once("queue_size = 0")).await;
    let _held = holding(&smg, "m").await;
    let refused = post(smg.main(), PATH, &asking("m", "late")).await;
    assert_error(&refused, 429, "rate_limit_exceeded");
    for path in [
        "/liveness",
        "/readiness",
        "/health",
        "/v1/models",
        "/workers",
        "/admin/config/status",
    ] {
        assert_eq!(get(smg.main(), path).await.status, 200, "{path}");
    }
    assert_eq!(get(smg.address("metrics"), "/metrics").await.status, 200);
    assert_eq!(smg.reload().await.result(), "unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_the_queue_and_a_raised_limit_lets_in_at_once() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let workers = [engine.url()];
    let smg = gateway(&[&engine], &one_at_once("")).await;
    let held = [holding(&smg, "m").await];
    let mut clients = line(&smg, &["m"; 3]).await;
    clients.push(asked(smg.main(), "m", "hold"));
    queued(&smg, 4).await;
    // A smaller queue keeps those in it.
    smg.apply(&config(&workers, &one_at_once("queue_size = 1")))
        .await;
    queued(&smg, 4).await;
    let refused = post(smg.main(), PATH, &asking("m", "late")).await;
    assert_error(&refused, 429, "admission_queue_full");

    // Nobody ends, and yet there is room.
    let two = "[reliability.admission]\nmax_concurrent_requests = 2\n";
    smg.apply(&config(&workers, two)).await;
    let last = clients.pop().unwrap();
    all_served(clients).await;
    assert_eq!(order(&engine, 1)[..3], ["m0", "m1", "m2"]);
    let waiting = asked(smg.main(), "m", "last");
    queued(&smg, 1).await;
    // Without a gate nobody waits.
    smg.apply(&config(&workers, "")).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    // Those who came in before are counted when there is a gate again.
    eventually(PATIENCE, async || {
        smg.metrics().await.sum("smg_admission_inflight", &[]) == 2.0
    })
    .await;
    smg.apply(&config(&workers, &one_at_once("queue_size = 0")))
        .await;
    let refused = post(smg.main(), PATH, &asking("m", "late")).await;
    assert_error(&refused, 429, "rate_limit_exceeded");
    drop(held);
    gate.open();
    assert_eq!(last.await.unwrap().status, 200);
    nobody_is_left(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_gone_waits_for_the_gate_over_all() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let smg = Smg::start(&three_models(&engine, "max_concurrent_requests = 2")).await;
    let _held = holding(&smg, "slow").await;
    let waiting = asked(smg.main(), "slow", "quick");
    queued(&smg, 1).await;
    // `slow` is gone, and with it its limit.
    let without = "[reliability.admission]\nmax_concurrent_requests = 2\n";
    smg.apply(&config(&[engine.url()], without)).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    gate.open();
    nobody_is_left(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_grace_period_ends_the_wait() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let more = one_at_once("") + "[server]\nshutdown_grace_period = \"1s\"\n";
    let mut smg = gateway(&[&engine], &more).await;
    ready(&smg).await;
    let _held = holding(&smg, "m").await;
    let waiting = asked(smg.main(), "m", "late");
    queued(&smg, 1).await;
    smg.process().signal("TERM");
    let answer = waiting.await.unwrap();
    assert_error(&answer, 503, "internal_error");
    assert_eq!(smg.process().ended(PATIENCE).await.code(), Some(1));
    assert_eq!(engine.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_made_of_what_is_let_in_and_ask_nobody() {
    let (gate, never) = (Gate::closed(), Gate::closed());
    let engine = engine(&gate).await;
    let script = vec![Step::Hold(never), ok()];
    let shadow = silent_engine(move |_| script.clone()).await;
    let more = format!(
        "pool = 'p'\nmirror = {{ pool = 'shadow', fraction = 1.0 }}\n{}\
         [[pools]]\nname = 'shadow'\nruntime = 'vllm'\nworkers = ['{}']\nhealth.enabled = false\n",
        one_at_once("queue_size = 0"),
        shadow.url()
    );
    let smg = Smg::start(&config(&[engine.url()], &more)).await;
    let mut held = holding(&smg, "m").await;
    let refused = post(smg.main(), PATH, &asking("m", "refused")).await;
    assert_error(&refused, 429, "rate_limit_exceeded");
    gate.open();
    held.events().await;
    eventually(PATIENCE, async || {
        smg.metrics().await.sum("smg_admission_inflight", &[]) == 0.0
    })
    .await;
    // The copy of the first is still under way.
    let answer = post(smg.main(), PATH, &asking("m", "second")).await;
    assert_eq!(answer.status, 200);
    eventually(PATIENCE, async || shadow.calls().len() == 2).await;
    let mut copied = order(&shadow, 0);
    copied.sort();
    assert_eq!(copied, ["hold", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_goes_where_somebody_answers_by_then() {
    let gate = Gate::closed();
    let served = gate.clone();
    let own = silent_engine(move |asked| {
        if asked.json()["prompt"] != "hold" {
            return vec![Step::json(500, &json!({ "error": "broken" }))];
        }
        vec![
            Step::sse_head(),
            Step::event(&delta("one")),
            Step::Hold(served.clone()),
            Step::event("[DONE]"),
            Step::Close,
        ]
    })
    .await;
    let other = silent_engine(|_| vec![ok()]).await;
    let more = format!(
        "pool = 'p'\nfallback = ['n']\n{}\
         [reliability.retry]\nenabled = false\n\
         [reliability.circuit_breaker]\nfailure_threshold = 1\n\
         [[models]]\nname = 'n'\npool = 'q'\n\
         [[pools]]\nname = 'q'\nruntime = 'vllm'\nworkers = ['{}']\nhealth.enabled = false\n",
        one_at_once(""),
        other.url()
    );
    let smg = gateway(&[&own], &more).await;
    let mut held = holding(&smg, "m").await;
    let mut clients = line(&smg, &["m", "m"]).await;
    gate.open();
    assert_eq!(held.events().await, ["data: [DONE]"]);
    // The first finds out that nobody answers any more; the second came when somebody did.
    let second = clients.pop().unwrap().await.unwrap();
    let first = clients.pop().unwrap().await.unwrap();
    assert_eq!((first.status, second.status), (500, 200), "{second:?}");
    assert_eq!((own.calls().len(), other.calls().len()), (2, 1));
    assert_eq!(other.calls()[0].json()["model"], "n");
    let metrics = smg.metrics().await;
    let answered = |model| metrics.sum("smg_router_requests_total", &[("model", model)]);
    assert_eq!((answered("m"), answered("n")), (2.0, 1.0));
    nobody_is_left(&smg).await;
}
