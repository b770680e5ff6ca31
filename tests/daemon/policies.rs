//! Which worker a policy chooses.

use serde_json::json;
use smg::plan::WorkerKey;
use tokio::task::JoinSet;

use crate::scene::{
    LISTENERS, PATIENCE, ask, assert_error, config, gateway, ok, plain_engine, silent_engine, with,
};
use crate::support::client::{Answer, json_request};
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, post};

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

/// A prompt that nobody has yet must not draw all who ask for it to the worker that got it first.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_prompt_asked_by_many_at_once_piles_up_nowhere() {
    const ASKED: usize = 64;
    let gate = Gate::closed();
    let engines = holding(8, &gate).await;
    let all: Vec<_> = engines.iter().collect();
    let smg = gateway(&all, "policy = \"cache_aware\"\n").await;
    let mut held = JoinSet::new();
    for _ in 0..ASKED {
        let to = smg.main();
        held.spawn(async move {
            let ask = json!({ "model": "m", "prompt": "hold" });
            post(to, "/v1/completions", &ask).await.status
        });
    }
    eventually(PATIENCE, async || {
        counts(&engines).iter().sum::<usize>() == ASKED
    })
    .await;
    let counts = counts(&engines);
    let fair = ASKED / engines.len();
    assert!(
        counts.iter().all(|count| (1..=2 * fair).contains(count)),
        "{counts:?}"
    );
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
    let mut connection = Connection::h1(smg.main()).await;
    for _ in 0..60 {
        let request = json_request("/v1/completions", &ask());
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

/// A request with these headers, and which of the engines answered it.
async fn ask_with(
    smg: &Smg,
    engines: &[FakeEngine],
    headers: &[(&'static str, &str)],
) -> (Answer, Option<usize>) {
    let before = counts(engines);
    let mut request = json_request("/v1/completions", &ask());
    for (name, value) in headers {
        request = with(request, name, value);
    }
    let answer = Connection::h1(smg.main()).await.send(request).await;
    let after = counts(engines);
    let at = before.iter().zip(&after).position(|(was, is)| is > was);
    (answer, at)
}

/// Who answers a request with this routing key.
async fn home(smg: &Smg, engines: &[FakeEngine], key: &str) -> usize {
    let (answer, at) = ask_with(smg, engines, &[("x-smg-routing-key", key)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    at.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_its_worker() {
    let engines = sorted(3).await;
    let all: Vec<_> = engines.iter().collect();
    let smg = gateway(&all, "policy = \"consistent_hashing\"\n").await;
    let url = engines[1].url();
    let id = WorkerKey::new(&url).id().to_string();
    for target in ["1", &id, &id.to_uppercase(), &url, &format!("{url}/")] {
        let (answer, at) = ask_with(&smg, &engines, &[("x-smg-target-worker", target)]).await;
        assert_eq!((answer.status, at), (200, Some(1)), "{target}: {answer:?}");
    }
    for target in [
        "3",
        "http://127.0.0.1:1",
        "0b7e6d6e-0000-5000-8000-000000000000",
        "me",
    ] {
        let (answer, at) = ask_with(&smg, &engines, &[("x-smg-target-worker", target)]).await;
        assert_error(&answer, 503, "target_worker_unavailable");
        assert_eq!(at, None, "{target}");
    }
    let metrics = smg.metrics().await;
    let branch = |name| {
        let labels = [("branch", name)];
        metrics.sum("smg_consistent_hashing_policy_branch_total", &labels)
    };
    assert_eq!(
        (branch("target_worker_hit"), branch("target_worker_miss")),
        (5.0, 4.0)
    );
}

/// The second attempt of a request for the worker at position 0 goes there again, not to the one
/// that is first among the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_worker_is_tried_again() {
    let refuses = std::sync::atomic::AtomicBool::new(true);
    let script = move |_: &_| {
        if refuses.swap(false, std::sync::atomic::Ordering::Relaxed) {
            vec![Step::json(503, &json!({ "error": "once" }))]
        } else {
            vec![ok()]
        }
    };
    let engines = vec![FakeEngine::serving("m", script).await, plain_engine().await];
    let all: Vec<_> = engines.iter().collect();
    let smg = gateway(
        &all,
        "policy = \"consistent_hashing\"\n[reliability.retry]\ninitial_backoff = \"1ms\"\n",
    )
    .await;
    let position = usize::from(engines[0].url() > engines[1].url()).to_string();
    let (answer, _) = ask_with(&smg, &engines, &[("x-smg-target-worker", &position)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(counts(&engines), [2, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_worker_that_is_gone_is_tried_again_after_a_pause() {
    let (gone, stays) = (plain_engine().await, plain_engine().await);
    let more = "policy = \"consistent_hashing\"\n\
                [reliability.retry]\nmax_retries = 3\ninitial_backoff = \"1ms\"\n";
    let smg = gateway(&[&gone, &stays], more).await;
    let url = gone.url();
    drop(gone);
    let engines = [stays];
    let (answer, _) = ask_with(&smg, &engines, &[("x-smg-target-worker", &url)]).await;
    assert_error(&answer, 502, "call_upstream_connection_failed");
    assert_eq!(counts(&engines), [0]);
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_worker_retry_backoff_seconds_count", &[]),
        2.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_keys_too() {
    let engines = sorted(3).await;
    let all: Vec<_> = engines.iter().collect();
    let smg = gateway(&all, "policy = \"consistent_hashing\"\n").await;
    for (name, value) in [
        ("authorization", "Bearer one"),
        ("x-forwarded-for", "192.0.2.7"),
        ("cookie", "session=1"),
    ] {
        let (_, first) = ask_with(&smg, &engines, &[(name, value)]).await;
        for _ in 0..5 {
            let (_, at) = ask_with(&smg, &engines, &[(name, value)]).await;
            assert_eq!(at, first, "{name}");
        }
    }
    let labels = [("branch", "implicit_key_hit")];
    let metrics = smg.metrics().await;
    let hits = metrics.sum("smg_consistent_hashing_policy_branch_total", &labels);
    assert_eq!(hits, 18.0);
}

/// Keys keep their engine when another one leaves, comes back, and a third joins.
async fn keys_stay_put(more: &str, joining_takes_keys: bool) {
    const KEYS: usize = 24;
    let engines = sorted(4).await;
    let toml = |present: &[usize]| {
        let urls: Vec<String> = present.iter().map(|at| engines[*at].url()).collect();
        config(&urls, more)
    };
    let smg = Smg::start(&toml(&[0, 1, 2])).await;
    let mut homes = Vec::new();
    for key in 0..KEYS {
        homes.push(home(&smg, &engines, &key.to_string()).await);
    }
    for present in [&[0, 2][..], &[0, 2, 3]] {
        smg.apply(&toml(present)).await;
        for (key, home_was) in homes.iter_mut().enumerate() {
            let at = home(&smg, &engines, &key.to_string()).await;
            let moved_to_new = joining_takes_keys && at == 3;
            if present.contains(home_was) && !moved_to_new {
                assert_eq!(at, *home_was, "key {key} with {present:?}");
            }
            assert!(present.contains(&at));
            *home_was = at;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consistent_hashing_stays_put_over_reloads() {
    keys_stay_put("policy = \"consistent_hashing\"\n", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_stays_put_over_reloads() {
    keys_stay_put("policy = \"manual\"\n", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sticky_sessions_stay_put_over_reloads() {
    keys_stay_put(
        "policy = \"round_robin\"\n[routing]\nsticky_sessions = true\n",
        false,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sticky_sessions_leave_requests_without_a_key_to_the_policy() {
    let engines = sorted(3).await;
    let all: Vec<_> = engines.iter().collect();
    let more = "policy = \"round_robin\"\n[routing]\nsticky_sessions = true\n";
    let smg = gateway(&all, more).await;
    let first = home(&smg, &engines, "k").await;
    for _ in 0..6 {
        ask_with(&smg, &engines, &[]).await;
    }
    for _ in 0..4 {
        assert_eq!(home(&smg, &engines, "k").await, first);
    }
    let mut expected = [2, 2, 2];
    expected[first] += 5;
    assert_eq!(counts(&engines), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn assigned_keys_are_counted() {
    let engines = sorted(2).await;
    let all: Vec<_> = engines.iter().collect();
    let more = "policy.manual = { assignment_mode = \"min_group\" }\n";
    let smg = gateway(&all, more).await;
    for key in ["a", "b", "c", "d", "a"] {
        home(&smg, &engines, key).await;
    }
    ask_with(&smg, &engines, &[]).await;
    let metrics = smg.metrics().await;
    let branch = |name| metrics.sum("smg_manual_policy_branch_total", &[("branch", name)]);
    assert_eq!(
        ["vacant", "occupied_hit", "no_routing_key", "occupied_miss"].map(branch),
        [4.0, 1.0, 1.0, 0.0]
    );
    let entries = metrics.sum("smg_manual_policy_cache_entries", &[("model", "m")]);
    assert_eq!(entries, 4.0);
    for engine in &engines {
        let labels = [("worker", &*engine.url())];
        assert_eq!(metrics.sum("smg_worker_routing_keys_active", &labels), 2.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_has_a_home_by_its_beginning() {
    let engines = sorted(3).await;
    let all: Vec<_> = engines.iter().collect();
    let more = "policy.prefix_hash = { prefix_token_count = 16 }\n";
    let smg = gateway(&all, more).await;
    let mut seen = [0; 3];
    for document in 0..12 {
        let mut before = counts(&engines);
        for tail in ["", " and more", " and quite another end"] {
            let prompt = format!("document {document:-<60}{tail}");
            let ask = json!({ "model": "m", "prompt": prompt });
            assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
        }
        for (at, now) in counts(&engines).into_iter().enumerate() {
            let new = now - std::mem::replace(&mut before[at], now);
            assert!(new == 0 || new == 3, "document {document}: {new} at {at}");
            seen[at] += new;
        }
    }
    assert!(seen.iter().filter(|n| **n > 0).count() > 1, "{seen:?}");
    let labels = [("branch", "ring_hit")];
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_prefix_hash_policy_branch_total", &labels),
        36.0
    );
}

/// A gateway with one pool whose workers are written as these tables.
fn with_workers(workers: &[String], more: &str) -> String {
    let strings: [String; 0] = [];
    let list = format!("workers = [{}]", workers.join(", "));
    config(&strings, more).replace("workers = []", &list)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_priority_is_used_when_the_higher_one_is_gone() {
    let high = plain_engine().await;
    let low = sorted(2).await;
    let mut workers: Vec<String> = low
        .iter()
        .map(|engine| format!("{{ url = {:?}, priority = 10 }}", engine.url()))
        .collect();
    // The default, 50, is higher.
    workers.push(format!("{:?}", high.url()));
    let more = "policy = \"round_robin\"\n[reliability.retry]\ninitial_backoff = \"1ms\"\n";
    let smg = Smg::start(&with_workers(&workers, more)).await;
    for _ in 0..6 {
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!((high.calls().len(), counts(&low)), (6, vec![0, 0]));
    // Gone for one request: nothing connects to it, and the attempt goes on in the lower tier.
    drop(high);
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(counts(&low).iter().sum::<usize>(), 1);
    // Gone from the file: the lower tier takes turns.
    workers.pop();
    smg.apply(&with_workers(&workers, more)).await;
    for _ in 0..6 {
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 200);
    }
    let counts = counts(&low);
    assert!(
        counts.iter().sum::<usize>() == 7 && counts.iter().all(|n| *n >= 3),
        "{counts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_costs_more_carries_less() {
    let gate = Gate::closed();
    let engines = holding(2, &gate).await;
    let workers = [(0, 1.0), (1, 4.0)].map(|(at, cost): (usize, f64)| {
        format!("{{ url = {:?}, cost = {cost:?} }}", engines[at].url())
    });
    let smg = Smg::start(&with_workers(&workers, "policy = \"least_load\"\n")).await;
    let mut held = JoinSet::new();
    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(hold(&smg, &engines, &mut held).await);
    }
    // The cheaper one first on ties: 0:0, then 4 for the other until it has 4 as well.
    assert_eq!(order, [0, 1, 0, 0, 0, 0]);
    gate.open();
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_and_short_prompts_have_their_own_workers() {
    let engines = sorted(2).await;
    let all: Vec<_> = engines.iter().collect();
    let more = "policy.bucket = { balance_abs_threshold = 1000000, adjust_interval = \"1h\" }\n";
    let smg = gateway(&all, more).await;
    for length in [10, 3000, 20, 9000, 30] {
        let ask = json!({ "model": "m", "prompt": "x".repeat(length) });
        assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 200);
    }
    assert_eq!(counts(&engines), [3, 2]);
}
