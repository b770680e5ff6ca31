//! From a model name to its pool: shares, fallbacks, mirrors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::scene::{
    LISTENERS, PATIENCE, ask, ask_stream, assert_error, ok, plain_engine, ready, settled, with,
};
use crate::support::client::{Answer, json_request};
use crate::support::{
    Connection, FakeEngine, Gate, Smg, Step, Worker, eventually, get, post, stream,
};

/// A pool of these workers, used from the start and without probes.
fn pool(name: &str, workers: &[String]) -> String {
    format!(
        "[[pools]]\nname = {name:?}\nruntime = \"vllm\"\nworkers = {workers:?}\n\
         health.enabled = false\n"
    )
}

/// Probes ten times a second; two decide.
const PROBED: &str = "[reliability.health]\ninterval = \"100ms\"\nfailure_threshold = 2\n\
    success_threshold = 1\nstartup_check_interval = \"100ms\"\n";

/// The model `m` divided between the pools `a` and `b`; `b` knows it as `m-small`.
fn split(pools: &[String; 2], weights: (f64, f64)) -> String {
    format!(
        "{LISTENERS}{}[[models]]\nname = \"m\"\naliases = [\"also-m\"]\nsplit = [\n\
         {{ pool = \"a\", weight = {} }},\n\
         {{ pool = \"b\", weight = {}, model = \"m-small\" }},\n]\n\
         [routing]\nundeclared_models = \"reject\"\n",
        pools.concat(),
        weights.0,
        weights.1
    )
}

/// The same with these engines, used from the start.
fn halves(a: &[FakeEngine], b: &[FakeEngine], weights: (f64, f64)) -> String {
    let urls = |engines: &[FakeEngine]| engines.iter().map(FakeEngine::url).collect::<Vec<_>>();
    split(&[pool("a", &urls(a)), pool("b", &urls(b))], weights)
}

async fn small_engine() -> FakeEngine {
    FakeEngine::serving("m-small", |_| vec![ok()]).await
}

/// Names that the engine was asked for.
fn models(engine: &FakeEngine) -> Vec<String> {
    let calls = engine.calls();
    let names = calls.iter().map(|asked| asked.json()["model"].clone());
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

async fn ask_with_key(connection: &mut Connection, key: &str) -> Answer {
    let request = json_request("/v1/completions", &ask());
    connection
        .send(with(request, "x-smg-routing-key", key))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_divides_requests_and_asks_each_pool_for_its_own_name() {
    let (a, b) = ([plain_engine().await], [small_engine().await]);
    let smg = Smg::start(&halves(&a, &b, (1.0, 1.0))).await;
    let ([a], [b]) = (&a, &b);
    let mut connection = Connection::h1(smg.main()).await;
    for name in ["m", "also-m"] {
        let body = json!({ "model": name, "prompt": "hi" });
        for _ in 0..60 {
            let request = json_request("/v1/completions", &body);
            assert_eq!(connection.send(request).await.status, 200);
        }
    }
    let (at_a, at_b) = (models(a), models(b));
    assert_eq!(at_a.len() + at_b.len(), 120);
    assert!((20..100).contains(&at_a.len()), "{}", at_a.len());
    assert!(at_a.iter().all(|name| name == "m"), "{at_a:?}");
    assert!(at_b.iter().all(|name| name == "m-small"), "{at_b:?}");

    let metrics = smg.metrics().await;
    for (model, calls) in [("m", &at_a), ("m-small", &at_b)] {
        let counted = metrics.sum("smg_router_requests_total", &[("model", model)]);
        assert_eq!(counted, calls.len() as f64, "{model}");
        let healthy = metrics.sum("smg_worker_pool_size", &[("model", model)]);
        assert_eq!(healthy, 1.0, "{model}");
    }
    let listed = get(smg.main(), "/v1/models").await.json();
    let ids: Vec<&Value> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(ids, ["also-m", "m"]);
    assert_eq!(get(smg.main(), "/readiness").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routing_key_keeps_its_share_while_the_weights_change() {
    let (a, b) = ([plain_engine().await], [small_engine().await]);
    let smg = Smg::start(&halves(&a, &b, (1.0, 1.0))).await;
    let mut connection = Connection::h1(smg.main()).await;
    let mut placed = Vec::new();
    for n in 0..40 {
        let mut places = Vec::new();
        for _ in 0..3 {
            let before = a[0].calls().len();
            assert_eq!(
                ask_with_key(&mut connection, &format!("key-{n}"))
                    .await
                    .status,
                200
            );
            places.push(a[0].calls().len() > before);
        }
        assert!(
            places.iter().all(|place| *place == places[0]),
            "{n}: {places:?}"
        );
        placed.push(places[0]);
    }
    assert!(placed.contains(&true) && placed.contains(&false));
    // `a` gets more: what it had it keeps.
    smg.apply(&halves(&a, &b, (3.0, 1.0))).await;
    let mut moved = 0;
    for (n, was) in placed.iter().enumerate() {
        let before = a[0].calls().len();
        ask_with_key(&mut connection, &format!("key-{n}")).await;
        let is = a[0].calls().len() > before;
        assert!(is || !was, "key-{n} has left the share that grew");
        moved += usize::from(is != *was);
    }
    assert!(moved > 0, "three quarters are no more than a half");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_tried_again_in_its_own_share() {
    let fails = |_: &crate::support::engine::Asked| vec![Step::json(503, &json!({ "no": 1 }))];
    let a = [
        FakeEngine::serving("m", fails).await,
        FakeEngine::serving("m", fails).await,
    ];
    let b = [small_engine().await, small_engine().await];
    let text = halves(&a, &b, (1.0, 1.0))
        + "[reliability.retry]\nmax_retries = 4\ninitial_backoff = \"1ms\"\n\
           [reliability.circuit_breaker]\nenabled = false\n";
    let smg = Smg::start(&text).await;
    let mut connection = Connection::h1(smg.main()).await;
    let (mut refused, mut answered) = (0, 0);
    for _ in 0..24 {
        let request = json_request("/v1/completions", &ask());
        match connection.send(request).await.status {
            200 => answered += 1,
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    let attempts: usize = a.iter().map(|engine| engine.calls().len()).sum();
    assert_eq!(attempts, refused * 4);
    let answers: usize = b.iter().map(|engine| engine.calls().len()).sum();
    assert_eq!(answers, answered);
    assert!(refused > 0 && answered > 0);
}

/// An engine that serves `m` and says of itself whether it is well.
async fn moody(model: &str) -> (FakeEngine, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&well);
    let models = json!({ "data": [{ "id": model }] });
    let engine =
        FakeEngine::start(
            move |asked| match (asked.method.as_str(), asked.path.as_str()) {
                ("GET", "/health") if told.load(Ordering::SeqCst) => {
                    vec![Step::answer(200, "text/plain", "")]
                }
                ("GET", "/health") => vec![Step::answer(503, "text/plain", "")],
                ("GET", "/v1/models") => vec![Step::json(200, &models)],
                ("GET", _) => vec![Step::json(404, &json!({}))],
                _ => vec![ok()],
            },
        )
        .await;
    (engine, well)
}

/// Waits until the gateway thinks this of the workers at these URLs.
async fn healthy(smg: &Smg, well: &[(&FakeEngine, bool)]) {
    eventually(PATIENCE, async || {
        let told = get(smg.main(), "/workers").await.json();
        let workers = told["workers"].as_array().unwrap();
        well.iter().all(|(engine, well)| {
            let mut found = workers
                .iter()
                .filter(|worker| worker["url"] == engine.url());
            found.all(|worker| worker["is_healthy"] == *well)
        })
    })
    .await;
}

/// A pool of this worker that is found out about and probed.
fn probed(name: &str, worker: &FakeEngine) -> String {
    format!(
        "[[pools]]\nname = {name:?}\nworkers = [{:?}]\n",
        worker.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_serves_a_model_its_fallbacks_do_one_after_the_other() {
    let (first, first_well) = moody("first").await;
    let (second, second_well) = moody("second").await;
    let (third, third_well) = moody("third").await;
    let smg = Smg::start(&format!(
        "{LISTENERS}{PROBED}{}{}{}\
         [[models]]\nname = \"first\"\naliases = [\"f\"]\npool = \"a\"\nfallback = [\"second\"]\n\
         [[models]]\nname = \"second\"\npool = \"b\"\nfallback = [\"third\"]\n\
         [[models]]\nname = \"third\"\npool = \"c\"\n",
        probed("a", &first),
        probed("b", &second),
        probed("c", &third),
    ))
    .await;
    let all = [&first, &second, &third];
    healthy(&smg, &all.map(|engine| (engine, true))).await;
    let counts = || all.map(|engine| engine.calls().len());
    let ask_first = json!({ "prompt": "hi", "model": "f" });
    let asked = async || {
        let before = counts();
        let answer = post(smg.main(), "/v1/completions", &ask_first).await;
        let now = counts();
        let place = (0..3).find(|n| now[*n] > before[*n]);
        (answer, place)
    };
    assert_eq!(asked().await.1, Some(0));
    first_well.store(false, Ordering::SeqCst);
    healthy(&smg, &[(&first, false)]).await;
    assert_eq!(asked().await.1, Some(1));
    second_well.store(false, Ordering::SeqCst);
    healthy(&smg, &[(&second, false)]).await;
    assert_eq!(asked().await.1, Some(2));
    assert_eq!(models(&second), ["second"]);
    assert_eq!(models(&third), ["third"]);
    let request = json!({ "path": "/v1/completions", "body": ask_first });
    let told = post(smg.main(), "/admin/explain", &request).await.json();
    assert_eq!(
        (&told["model"], &told["pool"]),
        (&json!("third"), &json!("c")),
        "{told}"
    );
    assert_eq!(
        told["steps"],
        json!([
            "`f` stands for `first`",
            "no worker serves `f` now: `second` cannot either",
            "no worker serves `f` now: `third` is asked instead",
        ])
    );
    let metrics = smg.metrics().await;
    for model in ["first", "second", "third"] {
        let labels = [("model", model)];
        assert_eq!(
            metrics.sum("smg_router_requests_total", &labels),
            1.0,
            "{model}"
        );
    }
    // Still to be asked for, although only another one serves it.
    let listed = get(smg.main(), "/v1/models").await.text();
    assert!(
        listed.contains("\"first\"") && listed.contains("\"f\""),
        "{listed}"
    );

    third_well.store(false, Ordering::SeqCst);
    healthy(&smg, &[(&third, false)]).await;
    let (answer, place) = asked().await;
    assert_error(&answer, 503, "no_available_workers");
    assert_eq!((place, answer.header("retry-after")), (None, "1"));

    first_well.store(true, Ordering::SeqCst);
    healthy(&smg, &[(&first, true)]).await;
    assert_eq!(asked().await.1, Some(0));
    assert_eq!(models(&first), ["first", "first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_without_workers_leaves_its_requests_to_the_other() {
    let (a, a_well) = moody("m").await;
    let b = small_engine().await;
    let pools = [probed("a", &a), pool("b", &[b.url()])];
    let smg = Smg::start(&(split(&pools, (1.0, 1.0)) + PROBED)).await;
    healthy(&smg, &[(&a, true)]).await;
    a_well.store(false, Ordering::SeqCst);
    healthy(&smg, &[(&a, false)]).await;
    for _ in 0..20 {
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(
        (a.calls().len(), models(&b)),
        (0, vec!["m-small".to_owned(); 20])
    );
}

/// The model `m` at `main`, of whose requests this fraction is copied to `shadow`.
fn mirrored(main: &str, shadow: &str, fraction: f64) -> String {
    format!(
        "{LISTENERS}{}{}[[models]]\nname = \"m\"\naliases = [\"also-m\"]\npool = \"main\"\n\
         mirror = {{ pool = \"shadow\", fraction = {fraction} }}\n\
         [routing]\nundeclared_models = \"reject\"\n",
        pool("main", &[main.to_owned()]),
        pool("shadow", &[shadow.to_owned()]),
    )
}

async fn copies(smg: &Smg, result: &str) -> f64 {
    let labels = [("model", "m"), ("result", result)];
    smg.metrics()
        .await
        .sum("smg_mirror_requests_total", &labels)
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_arrive_under_the_canonical_name_and_are_counted_apart() {
    let main = plain_engine().await;
    let shadow = Worker::start(&["--runtime", "vllm", "--model", "m", "--record", "64"]).await;
    let smg = Smg::start(&mirrored(&main.url(), shadow.url(), 1.0)).await;
    let body = json!({ "model": "also-m", "prompt": "hi", "max_tokens": 4 });
    for _ in 0..10 {
        assert_eq!(post(smg.main(), "/v1/completions", &body).await.status, 200);
    }
    eventually(PATIENCE, async || copies(&smg, "ok").await == 10.0).await;
    // What is refused before it has a worker is copied nowhere.
    let wrong = post(smg.main(), "/v1/completions", &json!({ "model": "x" })).await;
    assert_error(&wrong, 404, "model_not_found");
    settled(&smg).await;
    let metrics = smg.metrics().await;
    assert_eq!(main.calls().len(), 10);
    assert_eq!(metrics.sum("smg_mirror_requests_total", &[]), 10.0);
    assert_eq!(metrics.sum("smg_worker_selection_total", &[]), 10.0);
    assert_eq!(metrics.sum("smg_router_requests_total", &[]), 10.0);
    assert_eq!(metrics.sum("smg_worker_pool_size", &[("model", "m")]), 1.0);
    let sent = metrics.sum("smg_worker_requests_total", &[("worker", shadow.url())]);
    assert_eq!(sent, 10.0);
    // What is told of the policy is about requests, not about copies of them.
    assert_eq!(
        metrics.sum("smg_cache_aware_policy_branch_total", &[]),
        10.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fraction_is_a_fraction() {
    let (main, shadow) = (plain_engine().await, plain_engine().await);
    let smg = Smg::start(&mirrored(&main.url(), &shadow.url(), 0.3)).await;
    let mut connection = Connection::h1(smg.main()).await;
    for _ in 0..300 {
        connection
            .send(json_request("/v1/completions", &ask()))
            .await;
    }
    settled(&smg).await;
    let copied = shadow.calls().len();
    assert!((45..=140).contains(&copied), "{copied}");
    assert_eq!(copies(&smg, "ok").await, copied as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_hangs_holds_up_nobody_and_holds_a_bounded_number_of_copies() {
    let main = plain_engine().await;
    let gate = Gate::closed();
    let held = gate.clone();
    let hangs = move |_: &crate::support::engine::Asked| vec![Step::Hold(held.clone()), ok()];
    let shadow = FakeEngine::serving("m", hangs).await;
    let mut smg = Smg::start(&mirrored(&main.url(), &shadow.url(), 1.0)).await;
    let mut connection = Connection::h1(smg.main()).await;
    for _ in 0..100 {
        let answer = connection
            .send(json_request("/v1/completions", &ask()))
            .await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(main.calls().len(), 100);
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_worker_requests_active", &[("worker", &shadow.url())]) == 64.0
    })
    .await;
    assert_eq!(copies(&smg, "dropped").await, 36.0);
    gate.open();
    settled(&smg).await;
    eventually(PATIENCE, async || copies(&smg, "ok").await == 64.0).await;
    assert_eq!(shadow.calls().len(), 64);

    // A new one hangs while the gateway ends, which waits for requests and not for copies.
    let again = Gate::closed();
    let held = again.clone();
    let hangs = move |_: &crate::support::engine::Asked| vec![Step::Hold(held.clone()), ok()];
    let shadow = FakeEngine::serving("m", hangs).await;
    smg.apply(&mirrored(&main.url(), &shadow.url(), 1.0)).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    eventually(PATIENCE, async || shadow.calls().len() == 1).await;
    assert_eq!(smg.term_and_wait().await.code(), Some(0));
    again.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_down_or_fails_costs_its_copies_and_nothing_else() {
    let main = plain_engine().await;
    let fails = |_: &crate::support::engine::Asked| vec![Step::json(500, &json!({ "no": 1 }))];
    let shadow = FakeEngine::serving("m", fails).await;
    let smg = Smg::start(&mirrored(&main.url(), &shadow.url(), 1.0)).await;
    for _ in 0..5 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
    }
    eventually(PATIENCE, async || copies(&smg, "error").await == 5.0).await;
    // Each was tried once.
    assert_eq!(shadow.calls().len(), 5);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_errors_total", &[]), 0.0);
    assert_eq!(metrics.sum("smg_worker_retries_total", &[]), 0.0);

    drop(shadow);
    for _ in 0..5 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
    }
    eventually(PATIENCE, async || {
        copies(&smg, "error").await + copies(&smg, "dropped").await == 10.0
    })
    .await;
    settled(&smg).await;
    assert_eq!(main.calls().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_when_the_client_has_left() {
    let gates = (Gate::closed(), Gate::closed());
    let scripted = |gate: &Gate| {
        let gate = gate.clone();
        move |_: &crate::support::engine::Asked| {
            vec![
                Step::sse_head(),
                Step::event("{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}"),
                Step::Hold(gate.clone()),
                Step::event("[DONE]"),
                Step::Close,
            ]
        }
    };
    let main = FakeEngine::serving("m", scripted(&gates.0)).await;
    let shadow = FakeEngine::serving("m", scripted(&gates.1)).await;
    let smg = Smg::start(&mirrored(&main.url(), &shadow.url(), 1.0)).await;
    let mut asked = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert!(asked.event().await.unwrap().is_some());
    eventually(PATIENCE, async || shadow.calls().len() == 1).await;
    drop(asked);
    let load = async |engine: &FakeEngine| {
        let metrics = smg.metrics().await;
        metrics.sum("smg_worker_requests_active", &[("worker", &engine.url())])
    };
    eventually(PATIENCE, async || load(&main).await == 0.0).await;
    assert_eq!(load(&shadow).await, 1.0);
    gates.1.open();
    eventually(PATIENCE, async || copies(&smg, "ok").await == 1.0).await;
    settled(&smg).await;
    assert_eq!(shadow.calls()[0].json()["stream"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn undeclared_models_may_be_refused() {
    let declared = FakeEngine::serving("m", |_| vec![ok()]).await;
    let other = FakeEngine::serving("other", |_| vec![ok()]).await;
    let text = |undeclared: &str| {
        format!(
            "{LISTENERS}{PROBED}{}{}[[models]]\nname = \"m\"\npool = \"a\"\n\
             [routing]\nundeclared_models = {undeclared:?}\n",
            probed("a", &declared),
            probed("b", &other),
        )
    };
    let smg = Smg::start(&text("discover")).await;
    ready(&smg).await;
    healthy(&smg, &[(&declared, true), (&other, true)]).await;
    let ask_other = json!({ "model": "other", "prompt": "hi" });
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask_other).await.status,
        200
    );
    smg.apply(&text("reject")).await;
    let answer = post(smg.main(), "/v1/completions", &ask_other).await;
    assert_error(&answer, 404, "model_not_found");
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
}
