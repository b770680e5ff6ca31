//! Workers that fail are left alone for a while, and tried again with care.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::pd::pd_config;
use crate::scene::{
    LISTENERS, PATIENCE, ask, ask_stream, assert_error, config, delta, gateway, ok, plain_engine,
    ready, settled, short_stream, silent_engine,
};
use crate::support::client::{Answer, json_request};
use crate::support::engine::Asked;
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, get, post};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// One attempt per request, so that each request is one outcome.
const ONCE: &str = "[reliability.retry]\nenabled = false\n";

/// An engine that does what it was told last.
struct Moody {
    engine: FakeEngine,
    mood: Arc<Mutex<Vec<Step>>>,
}

impl Moody {
    async fn new(mood: Vec<Step>) -> Self {
        let mood = Arc::new(Mutex::new(mood));
        let now = Arc::clone(&mood);
        let engine = silent_engine(move |_| now.lock().clone()).await;
        Self { engine, mood }
    }

    fn set(&self, mood: Vec<Step>) {
        *self.mood.lock() = mood;
    }

    fn asked(&self) -> usize {
        self.engine.calls().len()
    }
}

fn refusal(status: u16) -> Vec<Step> {
    vec![Step::json(status, &json!({ "error": "no" }))]
}

/// The keys of the breaker, with one attempt per request.
fn breaker(keys: &str) -> String {
    format!("{ONCE}[reliability.circuit_breaker]\n{keys}\n")
}

async fn complete(smg: &Smg) -> Answer {
    post(smg.main(), COMPLETIONS, &ask()).await
}

/// The breakers by URL and pool, as `GET /workers` lists them.
async fn breakers(smg: &Smg) -> Vec<String> {
    let body = get(smg.main(), "/workers").await.json();
    let workers = body["workers"].as_array().unwrap();
    let words = workers
        .iter()
        .map(|worker| worker["breaker"].as_str().unwrap());
    words.map(str::to_owned).collect()
}

/// Waits until the only worker's breaker is in this state.
async fn becomes(smg: &Smg, state: &str) {
    eventually(PATIENCE, async || breakers(smg).await == [state]).await;
}

/// The attempts so far that were a success, a failure and neither.
async fn outcomes(smg: &Smg, more: &[(&str, &str)]) -> [f64; 3] {
    let metrics = smg.metrics().await;
    ["success", "failure", "neutral"].map(|outcome| {
        let labels = [&[("outcome", outcome)], more].concat();
        metrics.sum("smg_worker_cb_outcomes_total", &labels)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_row_open_it_and_nobody_is_sent_there() {
    let worker = Moody::new(refusal(500)).await;
    let mut smg = gateway(&[&worker.engine], &breaker("failure_threshold = 3")).await;
    for _ in 0..2 {
        assert_eq!(complete(&smg).await.status, 500);
    }
    worker.set(vec![ok()]);
    assert_eq!(complete(&smg).await.status, 200);
    worker.set(refusal(502));
    for _ in 0..2 {
        assert_eq!(complete(&smg).await.status, 502);
    }
    assert_eq!(breakers(&smg).await, ["closed"]);
    assert_eq!(complete(&smg).await.status, 502);
    assert_eq!(breakers(&smg).await, ["open"]);

    let asked = worker.asked();
    for _ in 0..3 {
        let answer = complete(&smg).await;
        assert_error(&answer, 503, "no_available_workers");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(worker.asked(), asked);

    let metrics = smg.metrics().await;
    let url = worker.engine.url();
    let of = |name: &str| metrics.sum(name, &[("worker", &url)]);
    assert_eq!(of("smg_worker_cb_state"), 1.0);
    assert_eq!(of("smg_worker_cb_consecutive_failures"), 3.0);
    assert_eq!(of("smg_worker_cb_consecutive_successes"), 0.0);
    let labels = [
        ("from", "closed"),
        ("to", "open"),
        ("from_state", "closed"),
        ("to_state", "open"),
    ];
    let turns = "smg_worker_cb_transitions_total";
    assert_eq!(metrics.sum(turns, &labels), 1.0);
    assert_eq!(metrics.sum(turns, &[]), 1.0);
    assert_eq!(outcomes(&smg, &[]).await, [1.0, 5.0, 0.0]);
    // Its health is another matter: a probe would get its answer.
    assert_eq!(of("smg_worker_health"), 1.0);
    assert_eq!(get(smg.main(), "/readiness").await.status, 200);
    smg.process()
        .line(PATIENCE, |line| {
            line.contains("breaker opened").then_some(())
        })
        .await;
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_clients_fault_opens_nothing() {
    let worker = Moody::new(vec![ok()]).await;
    let more = breaker("failure_threshold = 1");
    let smg = gateway(&[&worker.engine], &more).await;
    let statuses = [400, 401, 403, 404, 408, 409, 413, 422, 429, 499];
    for status in statuses {
        worker.set(refusal(status));
        assert_eq!(complete(&smg).await.status, status);
    }
    assert_eq!(breakers(&smg).await, ["closed"]);
    // Nor what the engine says in a stream about the request, nor what it cannot do.
    let complaint = r#"{"error":{"message":"too long","code":400}}"#;
    worker.set(vec![
        Step::sse_head(),
        Step::event(&delta("x")),
        Step::event(complaint),
        Step::Close,
    ]);
    post(smg.main(), CHAT, &ask_stream()).await;
    worker.set(vec![Step::sse_head(), Step::event(complaint), Step::Close]);
    post(smg.main(), CHAT, &ask_stream()).await;
    worker.set(refusal(501));
    assert_eq!(complete(&smg).await.status, 501);
    assert_eq!(breakers(&smg).await, ["closed"]);
    let neutral = statuses.len() as f64 + 2.0;
    assert_eq!(outcomes(&smg, &[]).await, [1.0, 0.0, neutral]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_an_answer_before_its_end_counts() {
    let begun = || vec![Step::sse_head(), Step::event(&delta("x"))];
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\nhalf";
    let then = |steps: &[Step]| [&begun(), steps].concat();
    let scenes: Vec<(&str, Vec<Step>)> = vec![
        ("a stream without its end", then(&[Step::Close])),
        ("a stream that is reset", then(&[Step::Reset])),
        (
            "an error in a stream",
            then(&[
                Step::event(r#"{"error":{"message":"out of memory"}}"#),
                Step::event("[DONE]"),
                Step::Close,
            ]),
        ),
        (
            "an error and nothing else",
            vec![
                Step::sse_head(),
                Step::event(r#"{"error":{"message":"no","code":500}}"#),
                Step::Close,
            ],
        ),
        ("a silent stream", then(&[Step::Hold(Gate::closed())])),
        ("no event", vec![Step::sse_head(), Step::Close]),
        ("no head", vec![Step::Hold(Gate::closed())]),
        ("no answer", vec![Step::Close]),
        ("no HTTP", vec![Step::write("HELLO\r\n\r\n"), Step::Close]),
        ("half an answer", vec![Step::write(half), Step::Reset]),
        ("504", refusal(504)),
    ];
    for (name, scene) in scenes {
        let worker = Moody::new(scene).await;
        let more = breaker("failure_threshold = 2")
            + "[reliability.timeouts]\nheaders = \"200ms\"\nidle = \"200ms\"\n";
        let smg = gateway(&[&worker.engine], &more).await;
        for before in ["closed", "closed"] {
            assert_eq!(breakers(&smg).await, [before], "{name}");
            let mut connection = Connection::h1(smg.main()).await;
            connection
                .try_send(json_request(CHAT, &ask_stream()))
                .await
                .ok();
            settled(&smg).await;
        }
        assert_eq!(breakers(&smg).await, ["open"], "{name}");
        assert_eq!(outcomes(&smg, &[]).await, [0.0, 2.0, 0.0], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_is_one_at_the_end_and_who_leaves_says_nothing() {
    let gate = Gate::closed();
    let worker = Moody::new(vec![
        Step::sse_head(),
        Step::event(&delta("x")),
        Step::Hold(gate.clone()),
        Step::event("[DONE]"),
        Step::Close,
    ])
    .await;
    let smg = gateway(&[&worker.engine], &breaker("failure_threshold = 1")).await;
    let mut stream = crate::support::stream(smg.main(), CHAT, &ask_stream()).await;
    assert!(stream.event().await.unwrap().is_some());
    assert_eq!(outcomes(&smg, &[]).await, [0.0, 0.0, 0.0]);
    gate.open();
    stream.events().await;
    eventually(PATIENCE, async || {
        outcomes(&smg, &[]).await == [1.0, 0.0, 0.0]
    })
    .await;

    // A client that goes in the middle, one that goes before the head, and one whose time is over.
    worker.set(vec![
        Step::sse_head(),
        Step::event(&delta("x")),
        Step::Hold(Gate::closed()),
    ]);
    let mut stream = crate::support::stream(smg.main(), CHAT, &ask_stream()).await;
    assert!(stream.event().await.unwrap().is_some());
    drop(stream);
    eventually(PATIENCE, async || outcomes(&smg, &[]).await[2] == 1.0).await;
    worker.set(vec![Step::Hold(Gate::closed())]);
    let before = worker.asked();
    let main = smg.main();
    let waiting = tokio::spawn(async move { post(main, COMPLETIONS, &ask()).await });
    eventually(PATIENCE, async || worker.asked() > before).await;
    waiting.abort();
    eventually(PATIENCE, async || outcomes(&smg, &[]).await[2] == 2.0).await;
    let total = format!(
        "{}[server]\nrequest_timeout = \"200ms\"\n",
        breaker("failure_threshold = 1")
    );
    smg.apply(&config(&[worker.engine.url()], &total)).await;
    assert_eq!(complete(&smg).await.status, 504);
    assert_eq!(outcomes(&smg, &[]).await, [1.0, 0.0, 3.0]);
    assert_eq!(breakers(&smg).await, ["closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_it_lets_few_try_and_closes_when_they_succeed() {
    let worker = Moody::new(refusal(500)).await;
    let keys = "failure_threshold = 1\nsuccess_threshold = 2\ntimeout = \"100ms\"";
    let mut smg = gateway(&[&worker.engine], &breaker(keys)).await;
    complete(&smg).await;
    becomes(&smg, "half_open").await;

    let gate = Gate::closed();
    worker.set(vec![Step::Hold(gate.clone()), ok()]);
    let before = worker.asked();
    let main = smg.main();
    let crowd: Vec<_> = (0..12)
        .map(|_| tokio::spawn(async move { post(main, COMPLETIONS, &ask()).await }))
        .collect();
    eventually(PATIENCE, async || {
        crowd.iter().filter(|task| task.is_finished()).count() == 10
    })
    .await;
    assert_eq!(worker.asked() - before, 2, "as many as are to succeed");
    gate.open();
    let mut served = 0;
    for task in crowd {
        let answer = task.await.unwrap();
        if answer.status == 200 {
            served += 1;
        } else {
            assert_error(&answer, 503, "no_available_workers");
            assert_eq!(answer.header("retry-after"), "1");
        }
    }
    assert_eq!(served, 2);
    assert_eq!(breakers(&smg).await, ["closed"]);
    let metrics = smg.metrics().await;
    for (from, to) in [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ] {
        let labels = [("from", from), ("to", to)];
        let turns = metrics.sum("smg_worker_cb_transitions_total", &labels);
        assert_eq!(turns, 1.0, "{from} to {to}");
    }
    smg.process()
        .line(PATIENCE, |line| {
            line.contains("breaker closed").then_some(())
        })
        .await;
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_try_opens_it_anew_and_one_that_is_given_up_makes_room() {
    let worker = Moody::new(refusal(500)).await;
    let keys = "failure_threshold = 1\nsuccess_threshold = 1\ntimeout = \"100ms\"";
    let smg = gateway(&[&worker.engine], &breaker(keys)).await;
    complete(&smg).await;
    for _ in 0..2 {
        becomes(&smg, "half_open").await;
        assert_eq!(complete(&smg).await.status, 500);
    }
    let labels = [("from", "half_open"), ("to", "open")];
    let turns = "smg_worker_cb_transitions_total";
    assert_eq!(smg.metrics().await.sum(turns, &labels), 2.0);

    becomes(&smg, "half_open").await;
    worker.set(vec![Step::Hold(Gate::closed())]);
    let before = worker.asked();
    let main = smg.main();
    let trying = tokio::spawn(async move { post(main, COMPLETIONS, &ask()).await });
    eventually(PATIENCE, async || worker.asked() > before).await;
    assert_error(&complete(&smg).await, 503, "no_available_workers");
    trying.abort();
    worker.set(vec![ok()]);
    eventually(PATIENCE, async || complete(&smg).await.status == 200).await;
    assert_eq!(breakers(&smg).await, ["closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn thresholds_of_a_reload_judge_what_was_counted_before() {
    // Slower than the window of the first file.
    let slow = [vec![Step::Pause(Duration::from_millis(60))], refusal(500)].concat();
    let worker = Moody::new(slow).await;
    let file = |keys| config(&[worker.engine.url()], &breaker(keys));
    let smg = Smg::start(&file("failure_threshold = 2\nwindow = \"20ms\"")).await;
    for _ in 0..4 {
        assert_eq!(complete(&smg).await.status, 500);
    }
    assert_eq!(
        breakers(&smg).await,
        ["closed"],
        "none follows within the window"
    );
    smg.apply(&file("failure_threshold = 10")).await;
    for _ in 0..2 {
        assert_eq!(complete(&smg).await.status, 500);
    }
    smg.apply(&file("failure_threshold = 4")).await;
    assert_eq!(breakers(&smg).await, ["closed"]);
    assert_eq!(complete(&smg).await.status, 500);
    assert_eq!(breakers(&smg).await, ["open"], "the fourth of a row");

    smg.apply(&file("failure_threshold = 4\ntimeout = \"500s\""))
        .await;
    assert_eq!(breakers(&smg).await, ["open"]);
    smg.apply(&file(
        "failure_threshold = 4\ntimeout = \"1ms\"\nsuccess_threshold = 1",
    ))
    .await;
    assert_eq!(breakers(&smg).await, ["half_open"]);
    worker.set(vec![ok()]);
    assert_eq!(complete(&smg).await.status, 200);
    assert_eq!(breakers(&smg).await, ["closed"]);
    worker.set(refusal(500));
    smg.apply(&file("failure_threshold = 1\nenabled = false"))
        .await;
    for _ in 0..3 {
        assert_eq!(complete(&smg).await.status, 500);
    }
    assert_eq!(breakers(&smg).await, ["closed"]);
    let metrics = smg.metrics().await;
    let run = metrics.sum("smg_worker_cb_consecutive_failures", &[]);
    assert_eq!(run, 3.0, "it counts all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_its_probes_find_well_again_is_tried_at_once() {
    let well = Arc::new(Mutex::new(true));
    let (says, works) = (Arc::clone(&well), Arc::clone(&well));
    let engine = FakeEngine::start(move |asked| match asked.path.as_str() {
        "/health" if *says.lock() => vec![Step::answer(200, "text/plain", "")],
        "/health" => refusal(500),
        _ if asked.method == "GET" => refusal(404),
        _ if *works.lock() => vec![ok()],
        _ => refusal(500),
    })
    .await;
    let more = breaker("failure_threshold = 1\nsuccess_threshold = 1\ntimeout = \"1h\"");
    let file = format!(
        "{LISTENERS}[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nworkers = [\"{}\"]\n\
         [pools.health]\ninterval = \"50ms\"\nfailure_threshold = 2\n\
         [[models]]\nname = \"m\"\n{more}",
        engine.url()
    );
    let smg = Smg::start(&file).await;
    ready(&smg).await;
    *well.lock() = false;
    let status = async || get(smg.main(), "/workers").await.json()["workers"][0]["status"].clone();
    assert_eq!(complete(&smg).await.status, 500);
    assert_eq!(breakers(&smg).await, ["open"]);
    eventually(PATIENCE, async || status().await == "not_ready").await;
    assert_eq!(breakers(&smg).await, ["open"]);
    *well.lock() = true;
    becomes(&smg, "half_open").await;
    assert_eq!(complete(&smg).await.status, 200);
    assert_eq!(breakers(&smg).await, ["closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_worker_answers_once_for_all_attempts_of_a_request() {
    let worker = Moody::new(refusal(500)).await;
    let more = "[reliability.retry]\nmax_retries = 4\ninitial_backoff = \"1ms\"\n\
                [reliability.circuit_breaker]\nfailure_threshold = 2\n";
    let smg = gateway(&[&worker.engine], more).await;
    assert_eq!(complete(&smg).await.status, 500);
    assert_eq!(worker.asked(), 4);
    assert_eq!(outcomes(&smg, &[]).await, [0.0, 1.0, 3.0]);
    assert_eq!(breakers(&smg).await, ["closed"]);
    // Once it is open nobody else is left, and what it said is the answer.
    assert_eq!(complete(&smg).await.status, 500);
    assert_eq!(worker.asked(), 5);
    assert_eq!(breakers(&smg).await, ["open"]);
    let labels = [("reason", "no_worker")];
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_worker_retries_exhausted_total", &labels),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_asks_for_patience_is_not_given_up_for_a_burst() {
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
    let worker = Moody::new(vec![Step::write(busy)]).await;
    let smg = gateway(&[&worker.engine], &breaker("failure_threshold = 30")).await;
    for _ in 0..40 {
        assert_eq!(complete(&smg).await.status, 503);
    }
    assert_eq!(breakers(&smg).await, ["closed"]);
    let [_, failures, neutral] = outcomes(&smg, &[]).await;
    assert_eq!(failures + neutral, 40.0);
    // As many as seconds have gone by, on the slowest of machines.
    assert!((1.0..30.0).contains(&failures), "{failures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_take_over_and_the_priority_below_is_let_in() {
    let (first, second) = (Moody::new(refusal(500)).await, plain_engine().await);
    let more = "[reliability.retry]\ninitial_backoff = \"1ms\"\n\
                [reliability.circuit_breaker]\nfailure_threshold = 2\n";
    let urls = format!(
        "{LISTENERS}[[pools]]\nname = \"p\"\nruntime = \"vllm\"\nhealth.enabled = false\n\
         workers = [{{ url = \"{}\", priority = 90 }}, \"{}\"]\n[[models]]\nname = \"m\"\n{more}",
        first.engine.url(),
        second.url()
    );
    let smg = Smg::start(&urls).await;
    for _ in 0..6 {
        assert_eq!(complete(&smg).await.status, 200);
    }
    assert_eq!(first.asked(), 2);
    assert_eq!(second.calls().len(), 6);

    // What is explained says why, and leaves all as it is.
    let request = json!({ "path": COMPLETIONS, "body": ask() });
    let explained = post(smg.main(), "/admin/explain", &request).await.json();
    let candidates = explained["legs"][0]["candidates"].as_array().unwrap();
    let of = |url: &str| {
        let mut found = candidates.iter().filter(|found| found["worker"] == url);
        let found = found.next().unwrap();
        (found["state"].clone(), found["breaker"].clone())
    };
    assert_eq!(
        of(&first.engine.url()),
        (json!("breaker open"), json!("open"))
    );
    assert_eq!(of(&second.url()), (json!("candidate"), json!("closed")));
    assert_eq!(explained["legs"][0]["worker"], second.url());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_workers_are_all_open_falls_back() {
    let own = Moody::new(refusal(500)).await;
    let other = silent_engine(|_| vec![ok()]).await;
    let more = format!(
        "pool = \"p\"\nfallback = [\"n\"]\n[[models]]\nname = \"n\"\npool = \"q\"\n\
         [[pools]]\nname = \"q\"\nruntime = \"vllm\"\nhealth.enabled = false\nworkers = [\"{}\"]\n{}",
        other.url(),
        breaker("failure_threshold = 1")
    );
    let smg = gateway(&[&own.engine], &more).await;
    assert_eq!(complete(&smg).await.status, 500);
    assert_eq!(complete(&smg).await.status, 200);
    assert_eq!((own.asked(), other.calls().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_in_two_pools_has_one_breaker() {
    let worker = Moody::new(refusal(500)).await;
    let more = format!(
        "pool = \"p\"\n[[models]]\nname = \"n\"\npool = \"q\"\n\
         [[pools]]\nname = \"q\"\nruntime = \"vllm\"\nhealth.enabled = false\nworkers = [\"{}\"]\n\
         [pools.reliability.circuit_breaker]\nenabled = false\n{}",
        worker.engine.url(),
        breaker("failure_threshold = 2")
    );
    let on = more.replace("[pools.reliability.circuit_breaker]\nenabled = false\n", "");
    let urls = [worker.engine.url()];
    let smg = Smg::start(&config(&urls, &on)).await;
    let other = json!({ "model": "n", "prompt": "hi" });
    assert_eq!(complete(&smg).await.status, 500);
    assert_eq!(post(smg.main(), COMPLETIONS, &other).await.status, 500);
    assert_eq!(breakers(&smg).await, ["open", "open"]);
    assert_eq!(complete(&smg).await.status, 503);
    assert_eq!(post(smg.main(), COMPLETIONS, &other).await.status, 503);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.count("smg_worker_cb_state", &[]), 1);

    // A pool that has switched its breakers off goes there all the same.
    smg.apply(&config(&urls, &more)).await;
    assert_eq!(breakers(&smg).await, ["open", "closed"]);
    assert_eq!(complete(&smg).await.status, 503);
    assert_eq!(post(smg.main(), COMPLETIONS, &other).await.status, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rank_has_a_breaker_of_its_own() {
    let engine = FakeEngine::start(|asked: &Asked| match asked.path.as_str() {
        "/health" => vec![Step::answer(200, "text/plain", "")],
        "/v1/models" => {
            let models = json!({ "data": [{ "id": "m", "owned_by": "sglang" }] });
            vec![Step::json(200, &models)]
        }
        "/get_server_info" => vec![Step::json(200, &json!({ "dp_size": 3 }))],
        _ if asked.method == "GET" => refusal(404),
        _ if asked.json()["data_parallel_rank"] == 1 => refusal(500),
        _ => vec![ok()],
    })
    .await;
    let file = format!(
        "{LISTENERS}[routing]\npolicy = \"round_robin\"\n[[pools]]\nname = \"p\"\n\
         dp_aware = true\nworkers = [\"{}\"]\n[reliability.retry]\ninitial_backoff = \"1ms\"\n\
         [reliability.circuit_breaker]\nfailure_threshold = 2\n",
        engine.url()
    );
    let smg = Smg::start(&file).await;
    ready(&smg).await;
    for _ in 0..12 {
        assert_eq!(complete(&smg).await.status, 200);
    }
    assert_eq!(breakers(&smg).await, ["closed", "open", "closed"]);
    let ranks: Vec<Value> = engine
        .calls()
        .iter()
        .map(|call| call.json()["data_parallel_rank"].clone())
        .collect();
    assert_eq!(ranks.iter().filter(|rank| **rank == 1).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_pair_only_the_leg_that_failed_is_charged() {
    for runtime in ["sglang", "vllm"] {
        for prefill_fails in [true, false] {
            let failing = FakeEngine::serving("m", |_| refusal(500)).await;
            // Over vLLM prefill has done its part before decode is asked.
            let done = runtime == "vllm" && !prefill_fails;
            let other = FakeEngine::serving("m", move |_| {
                let hold = Step::Hold(Gate::closed());
                if done { vec![ok()] } else { vec![hold] }
            })
            .await;
            let (prefill, decode) = if prefill_fails {
                (&failing, &other)
            } else {
                (&other, &failing)
            };
            let more = breaker("failure_threshold = 1");
            let smg = Smg::start(&pd_config(runtime, &[prefill], &[decode], &more)).await;
            let answer = post(smg.main(), CHAT, &ask_stream()).await;
            let name = format!("{runtime}, prefill fails: {prefill_fails}");
            assert_eq!(answer.status, 500, "{name}");
            settled(&smg).await;
            let (bad, good) = (failing.url(), other.url());
            let of_bad = outcomes(&smg, &[("worker", &bad)]).await;
            assert_eq!(of_bad, [0.0, 1.0, 0.0], "{name}");
            let of_good = outcomes(&smg, &[("worker", &good)]).await;
            let expected = match (runtime, prefill_fails) {
                ("vllm", true) => [0.0, 0.0, 1.0],
                ("vllm", false) => [1.0, 0.0, 0.0],
                _ => [0.0, 0.0, 1.0],
            };
            assert_eq!(of_good, expected, "{name}");
            let answer = post(smg.main(), CHAT, &ask_stream()).await;
            assert_error(&answer, 503, "server_selection_failed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_answers_is_a_success_of_both() {
    for runtime in ["sglang", "vllm"] {
        let prefill = FakeEngine::serving("m", move |_| {
            if runtime == "vllm" {
                vec![ok()]
            } else {
                short_stream("p")
            }
        })
        .await;
        let decode = FakeEngine::serving("m", |_| short_stream("d")).await;
        let smg = Smg::start(&pd_config(runtime, &[&prefill], &[&decode], "")).await;
        assert_eq!(post(smg.main(), CHAT, &ask_stream()).await.status, 200);
        for engine in [&prefill, &decode] {
            let url = engine.url();
            eventually(PATIENCE, async || {
                outcomes(&smg, &[("worker", &url)]).await == [1.0, 0.0, 0.0]
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_move_no_breaker() {
    let (main, shadow) = (plain_engine().await, Moody::new(refusal(500)).await);
    let more = format!(
        "pool = \"p\"\nmirror = {{ pool = \"shadow\", fraction = 1.0 }}\n\
         [[pools]]\nname = \"shadow\"\nruntime = \"vllm\"\nhealth.enabled = false\n\
         workers = [\"{}\"]\n{}",
        shadow.engine.url(),
        breaker("failure_threshold = 1")
    );
    let smg = gateway(&[&main], &more).await;
    for n in 1..=5 {
        assert_eq!(complete(&smg).await.status, 200);
        eventually(PATIENCE, async || shadow.asked() == n).await;
    }
    settled(&smg).await;
    assert_eq!(breakers(&smg).await, ["closed", "closed"]);
    let url = shadow.engine.url();
    assert_eq!(outcomes(&smg, &[("worker", &url)]).await, [0.0, 0.0, 0.0]);
}
