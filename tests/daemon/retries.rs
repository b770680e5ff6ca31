//! What is tried again, where, how often and how soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::json;

use crate::scene::{
    Door, ask, ask_stream, assert_error, config, gateway, ok, plain_engine, settle, settled,
    short_stream,
};
use crate::support::client::json_request;
use crate::support::{Connection, FakeEngine, Smg, Step, eventually, get, post};

/// An answer with this status, a body and headers of its own.
fn refusal(status: u16) -> Step {
    refusal_with(status, "")
}

fn refusal_with(status: u16, headers: &str) -> Step {
    Step::write(&format!(
        "HTTP/1.1 {status} No\r\ncontent-type: text/x-own; a=b\r\nx-own: 1\r\n{headers}\
         content-length: 7\r\n\r\nno: {status}"
    ))
}

/// Engines that note in one list who was asked. The `n`th request of all, from 0, gets the `n`th
/// script, each further one the last.
async fn scripted(
    count: usize,
    scripts: Vec<Vec<Step>>,
) -> (Vec<FakeEngine>, Arc<Mutex<Vec<usize>>>) {
    let asked: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut engines = Vec::new();
    for engine in 0..count {
        let (asked, scripts) = (Arc::clone(&asked), scripts.clone());
        let script = move |_: &_| {
            let mut asked = asked.lock();
            let turn = asked.len();
            asked.push(engine);
            scripts
                .get(turn)
                .or_else(|| scripts.last())
                .unwrap()
                .clone()
        };
        engines.push(FakeEngine::serving("m", script).await);
    }
    (engines, asked)
}

fn all(engines: &[FakeEngine]) -> Vec<&FakeEngine> {
    engines.iter().collect()
}

const QUICK: &str = "[reliability.retry]\ninitial_backoff = \"1ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_statuses_of_the_list_are_tried_at_another_worker() {
    for status in [408, 429, 500, 502, 503, 504] {
        let (engines, asked) = scripted(2, vec![vec![refusal(status)], vec![ok()]]).await;
        let smg = gateway(&all(&engines), QUICK).await;
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 200, "{status}: {}", answer.text());
        let asked = asked.lock().clone();
        assert_eq!(asked.len(), 2, "{status}");
        assert_ne!(asked[0], asked[1], "{status}: the same worker twice");
        let bodies: Vec<_> = engines
            .iter()
            .map(|engine| engine.calls()[0].body.clone())
            .collect();
        assert_eq!(bodies[0], bodies[1]);

        let metrics = smg.metrics().await;
        let failed = engines[asked[0]].url();
        let labels = [("worker", failed.as_str()), ("endpoint", "completions")];
        assert_eq!(
            metrics.sum("smg_worker_retries_total", &labels),
            1.0,
            "{status}"
        );
        assert_eq!(
            metrics.sum("smg_worker_retries_total", &[]),
            1.0,
            "{status}"
        );
        let labels = [("attempt", "1")];
        assert_eq!(
            metrics.sum("smg_worker_retry_backoff_seconds_count", &labels),
            1.0
        );
        settled(&smg).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_status_is_final_and_passes_verbatim() {
    let status = Arc::new(AtomicUsize::new(0));
    let engine = {
        let status = Arc::clone(&status);
        FakeEngine::serving("m", move |_| {
            vec![refusal(status.load(Ordering::SeqCst).try_into().unwrap())]
        })
        .await
    };
    let smg = gateway(&[&engine], QUICK).await;
    for wanted in [
        201, 202, 304, 400, 401, 403, 404, 405, 409, 413, 422, 451, 499, 501, 505, 599,
    ] {
        if wanted == 304 {
            continue; // has no body
        }
        status.store(wanted.into(), Ordering::SeqCst);
        let before = engine.calls().len();
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, wanted);
        assert_eq!(answer.text(), format!("no: {wanted}"));
        assert_eq!(answer.header("content-type"), "text/x-own; a=b");
        assert_eq!(answer.header("x-own"), "1");
        assert_eq!(answer.header("x-smg-error-code"), "");
        assert!(!answer.header("x-request-id").is_empty());
        assert_eq!(engine.calls().len(), before + 1, "{wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_statuses_is_the_operators() {
    let (engines, asked) =
        scripted(2, vec![vec![refusal(418)], vec![refusal(500)], vec![ok()]]).await;
    let more = "[reliability.retry]\ninitial_backoff = \"1ms\"\nstatus_codes = [418]\n";
    let smg = gateway(&all(&engines), more).await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (500, "no: 500"));
    assert_eq!(asked.lock().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_answer_is_given_verbatim_when_attempts_are_used_up() {
    let (engines, asked) = scripted(
        1,
        vec![
            vec![refusal(500)],
            vec![refusal(503)],
            vec![refusal_with(429, "retry-after: 0\r\n")],
        ],
    )
    .await;
    let more = "[reliability.retry]\nmax_retries = 3\ninitial_backoff = \"1ms\"\n";
    let smg = gateway(&all(&engines), more).await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (429, "no: 429"));
    assert_eq!(answer.header("x-own"), "1");
    assert_eq!(answer.header("retry-after"), "0");
    assert_eq!(answer.header("x-smg-error-code"), "");
    assert_eq!(asked.lock().len(), 3);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_retries_total", &[]), 2.0);
    let labels = [("reason", "attempts"), ("endpoint", "completions")];
    assert_eq!(
        metrics.sum("smg_worker_retries_exhausted_total", &labels),
        1.0
    );
    assert_eq!(
        metrics.sum("smg_worker_retry_backoff_seconds_count", &[]),
        2.0
    );
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_can_be_off() {
    for off in ["enabled = false", "max_retries = 0", "max_retries = 1"] {
        let (engines, asked) = scripted(2, vec![vec![refusal(503)], vec![ok()]]).await;
        let smg = gateway(&all(&engines), &format!("[reliability.retry]\n{off}\n")).await;
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (503, "no: 503"),
            "{off}"
        );
        assert_eq!(asked.lock().len(), 1, "{off}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_has_its_own_number_of_attempts() {
    let engine = crate::scene::silent_engine(|_| vec![refusal(500)]).await;
    let more = "[models.reliability.retry]\nmax_retries = 2\n[[models]]\nname = \"n\"\n\
                [reliability.retry]\nmax_retries = 4\ninitial_backoff = \"1ms\"\n";
    let smg = gateway(&[&engine], more).await;
    for (model, attempts) in [("m", 2), ("n", 4)] {
        let before = engine.calls().len();
        let ask = json!({ "model": model, "prompt": "hi" });
        assert_eq!(post(smg.main(), "/v1/completions", &ask).await.status, 500);
        assert_eq!(engine.calls().len() - before, attempts, "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_back_off_grows() {
    let (engines, asked) = scripted(1, vec![vec![refusal(500)]]).await;
    let more = "[reliability.retry]\nmax_retries = 4\ninitial_backoff = \"100ms\"\n\
                backoff_multiplier = 2.0\njitter_factor = 0.0\nmax_backoff = \"250ms\"\n";
    let smg = gateway(&all(&engines), more).await;
    let started = Instant::now();
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        500
    );
    assert_eq!(asked.lock().len(), 4);
    // 100 ms, 200 ms, and 400 ms cut to 250 ms.
    assert!(
        started.elapsed() >= Duration::from_millis(550),
        "{:?}",
        started.elapsed()
    );
    let waited = smg
        .metrics()
        .await
        .sum("smg_worker_retry_backoff_seconds_sum", &[]);
    assert!((waited - 0.55).abs() < 1e-6, "{waited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for_at_a_lone_worker() {
    for as_date in [false, true] {
        let asked_for = if as_date {
            httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2))
        } else {
            "1".to_owned()
        };
        let headers = format!("retry-after: {asked_for}\r\n");
        let (engines, asked) =
            scripted(1, vec![vec![refusal_with(503, &headers)], vec![ok()]]).await;
        let smg = gateway(&all(&engines), QUICK).await;
        let started = Instant::now();
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
        assert_eq!(asked.lock().len(), 2);
        // The date is whole seconds and has been running since before the start.
        if !as_date {
            assert!(
                started.elapsed() >= Duration::from_secs(1),
                "{:?}",
                started.elapsed()
            );
        }
        let waited = smg
            .metrics()
            .await
            .sum("smg_worker_retry_backoff_seconds_sum", &[]);
        assert!(waited > 0.002, "{asked_for}: {waited}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wants_to_be_left_alone_for_long_is_passed_over() {
    let headers = "retry-after: 3600\r\n";
    // Another worker takes over without that wait.
    let (engines, asked) = scripted(2, vec![vec![refusal_with(503, headers)], vec![ok()]]).await;
    let smg = gateway(&all(&engines), QUICK).await;
    let started = Instant::now();
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(asked.lock().len(), 2);

    // Without another one its answer is final.
    let (engines, asked) = scripted(1, vec![vec![refusal_with(503, headers)], vec![ok()]]).await;
    let smg = gateway(&all(&engines), QUICK).await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "no: 503"));
    assert_eq!(answer.header("retry-after"), "3600");
    assert_eq!(asked.lock().len(), 1);
    let labels = [("reason", "no_worker")];
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_worker_retries_exhausted_total", &labels),
        1.0
    );

    // Two of which one wants to be left alone: only the other is asked again.
    let script = vec![
        vec![refusal_with(503, headers)],
        vec![refusal(500)],
        vec![refusal(500)],
        vec![ok()],
    ];
    let (engines, asked) = scripted(2, script).await;
    let smg = gateway(&all(&engines), QUICK).await;
    assert_eq!(
        post(smg.main(), "/v1/completions", &ask()).await.status,
        200
    );
    let asked = asked.lock().clone();
    assert_eq!(asked.len(), 4);
    assert!(
        asked[1..].iter().all(|engine| *engine != asked[0]),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_longer_than_the_time_left_is_not_begun() {
    let (engines, asked) = scripted(1, vec![vec![refusal(503)]]).await;
    let more =
        "[reliability.retry]\ninitial_backoff = \"20s\"\n[server]\nrequest_timeout = \"2s\"\n";
    let smg = gateway(&all(&engines), more).await;
    let started = Instant::now();
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "no: 503"));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(asked.lock().len(), 1);
    let labels = [("reason", "deadline")];
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_worker_retries_exhausted_total", &labels),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_moves_on_without_a_wait() {
    let (engine, door) = (plain_engine().await, Door::closed());
    let more = "policy = \"round_robin\"\n\
                [reliability.retry]\ninitial_backoff = \"10s\"\nmax_backoff = \"10s\"\n";
    let smg = Smg::start(&config(&[engine.url(), door.url()], more)).await;
    let started = Instant::now();
    for _ in 0..4 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(engine.calls().len(), 4);
    let metrics = smg.metrics().await;
    let url = door.url();
    assert!(metrics.sum("smg_worker_retries_total", &[("worker", url.as_str())]) >= 1.0);
    assert_eq!(
        metrics.sum("smg_worker_retry_backoff_seconds_count", &[]),
        0.0
    );
    let labels = [("error_type", "connection_error")];
    assert!(metrics.sum("smg_worker_errors_total", &labels) >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_worker_is_tried_again_after_a_back_off() {
    for end in [Step::Reset, Step::Close] {
        let (engines, asked) = scripted(1, vec![vec![end], vec![ok()]]).await;
        let more = "[reliability.retry]\ninitial_backoff = \"100ms\"\n\
                    [pools.connections]\nmax_idle_per_host = 0\n";
        let smg = gateway(&all(&engines), more).await;
        let started = Instant::now();
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
        assert!(started.elapsed() >= Duration::from_millis(100));
        assert_eq!(asked.lock().len(), 2);
        let metrics = smg.metrics().await;
        assert_eq!(
            metrics.sum("smg_worker_retry_backoff_seconds_count", &[]),
            1.0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_answer_the_client_gets_502() {
    let doors = [Door::closed(), Door::closed()];
    let more = "[reliability.retry]\nmax_retries = 3\ninitial_backoff = \"1ms\"\n";
    let smg = Smg::start(&config(&[doors[0].url(), doors[1].url()], more)).await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_error(&answer, 502, "call_upstream_connection_failed");
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_retries_total", &[]), 2.0);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_are_asked_for_once_a_head_has_come() {
    for status in [408, 429, 500, 503] {
        let (engines, asked) = scripted(2, vec![vec![refusal(status)], vec![ok()]]).await;
        let smg = gateway(&all(&engines), QUICK).await;
        let answer = post(
            smg.main(),
            "/v1/responses",
            &json!({ "model": "m", "input": "x" }),
        )
        .await;
        assert_eq!(
            (answer.status, answer.text()),
            (status, format!("no: {status}"))
        );
        assert_eq!(asked.lock().len(), 1);
    }
    // A stream that breaks off before its first event had a head.
    let (engines, asked) = scripted(2, vec![vec![Step::sse_head(), Step::Close], vec![ok()]]).await;
    let smg = gateway(&all(&engines), QUICK).await;
    let ask = json!({ "model": "m", "input": "x", "stream": true });
    let answer = post(smg.main(), "/v1/responses", &ask).await;
    assert_error(&answer, 502, "read_response_body_failed");
    assert_eq!(asked.lock().len(), 1);

    // Without a head they are like all others.
    let more = "[reliability.retry]\ninitial_backoff = \"1ms\"\n\
                [pools.connections]\nmax_idle_per_host = 0\n";
    let (engines, asked) = scripted(2, vec![vec![Step::Reset], vec![ok()]]).await;
    let smg = gateway(&all(&engines), more).await;
    let answer = post(
        smg.main(),
        "/v1/responses",
        &json!({ "model": "m", "input": "x" }),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(asked.lock().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_which_the_client_has_seen_nothing_is_tried_elsewhere() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n";
    let begun = format!("{head}{{\"a\":");
    for (said, end) in [
        (head, Step::Reset),
        (head, Step::Close),
        (&begun, Step::Reset),
        (&begun, Step::Close),
    ] {
        let first = vec![Step::write(said), settle(), end];
        let (engines, asked) = scripted(2, vec![first, vec![ok()]]).await;
        let smg = gateway(&all(&engines), QUICK).await;
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(asked.lock().len(), 2);
    }
    // And a stream before its first event.
    let first = vec![Step::sse_head(), Step::write(": soon\n\n"), Step::Close];
    let (engines, asked) = scripted(2, vec![first, short_stream("x")]).await;
    let smg = gateway(&all(&engines), QUICK).await;
    let answer = post(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.text().contains("soon"), "{}", answer.text());
    assert_eq!(asked.lock().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_again_after_the_first_byte() {
    // Without its length an answer is passed on as it comes.
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n1\r\n{\r\n";
    let first = vec![Step::write(head), settle(), Step::Reset];
    let (engines, asked) = scripted(2, vec![first, vec![ok()]]).await;
    let smg = gateway(&all(&engines), QUICK).await;
    let mut connection = Connection::h1(smg.main()).await;
    let asking = connection
        .try_send(json_request("/v1/completions", &ask()))
        .await;
    assert!(asking.is_err(), "{asking:?}");
    settled(&smg).await;
    assert_eq!(asked.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_worker_has_closed_is_replaced_in_silence() {
    let engine = FakeEngine::serving("m", |_| vec![ok(), Step::Close]).await;
    let smg = gateway(&[&engine], "[reliability.retry]\nenabled = false\n").await;
    for n in 1..=30 {
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 200, "request {n}: {}", answer.text());
    }
    assert_eq!(engine.calls().len(), 30);
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_retries_total", &[]), 0.0);
    assert_eq!(metrics.sum("smg_worker_errors_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_worker_are_used_again_and_not_kept_for_ever() {
    let engine = plain_engine().await;
    let more = "[pools.connections]\nidle_timeout = \"200ms\"\n";
    let smg = gateway(&[&engine], more).await;
    eventually(crate::scene::PATIENCE, async || {
        get(smg.main(), "/workers").await.json()["workers"][0]["model_id"] == "m"
    })
    .await;
    for _ in 0..20 {
        assert_eq!(
            post(smg.main(), "/v1/completions", &ask()).await.status,
            200
        );
    }
    // Those of the registration among them.
    assert!(
        engine.connections() <= 4,
        "{} connections",
        engine.connections()
    );
    eventually(crate::scene::PATIENCE, async || engine.connections() == 0).await;
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_connections_active", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_have_a_budget() {
    let (engines, asked) = scripted(3, vec![vec![refusal(500)]]).await;
    let more = "[reliability.retry]\ninitial_backoff = \"1ms\"\n\
                budget = { ratio = 0.2, min_per_second = 0 }\n\
                [reliability.circuit_breaker]\nenabled = false\n";
    let smg = gateway(&all(&engines), more).await;
    for _ in 0..50 {
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!((answer.status, answer.text().as_str()), (500, "no: 500"));
    }
    let metrics = smg.metrics().await;
    let retries = metrics.sum("smg_worker_retries_total", &[]);
    // All of it is used, and no more; on a machine so slow that ten seconds pass, a little less.
    assert!(retries <= 10.0 && retries > 2.0, "{retries}");
    assert_eq!(asked.lock().len(), 50 + retries as usize);
    let labels = [("reason", "budget"), ("endpoint", "completions")];
    let spent = metrics.sum("smg_worker_retries_exhausted_total", &labels);
    assert!(spent >= 40.0, "{spent}");

    // Another pool has a budget of its own, and some retries come with the time.
    let more = "[reliability.retry]\ninitial_backoff = \"1ms\"\n\
                budget = { ratio = 0, min_per_second = 1000 }\n\
                [reliability.circuit_breaker]\nenabled = false\n";
    let urls: Vec<String> = engines.iter().map(FakeEngine::url).collect();
    smg.apply(&config(&urls, more)).await;
    let before = asked.lock().len();
    post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!(asked.lock().len() - before, 5);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_of_pairs_come_out_of_the_budget_too() {
    let engine = FakeEngine::serving("m", |_| vec![refusal(500)]).await;
    let other =
        FakeEngine::serving("m", |_| vec![Step::Hold(crate::support::Gate::closed())]).await;
    let more = "[reliability.retry]\ninitial_backoff = \"1ms\"\n\
                budget = { ratio = 0.5, min_per_second = 0 }\n\
                [reliability.circuit_breaker]\nenabled = false\n";
    let smg = crate::pd::pd_gateway(&[&other], &[&engine], more).await;
    for _ in 0..10 {
        let answer = post(smg.main(), "/v1/chat/completions", &ask_stream()).await;
        assert_eq!(answer.status, 500);
    }
    assert!(engine.calls().len() <= 15, "{}", engine.calls().len());
    let labels = [("reason", "budget"), ("worker_type", "decode")];
    let metrics = smg.metrics().await;
    assert!(metrics.sum("smg_worker_retries_exhausted_total", &labels) >= 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_has_its_own_number_of_attempts_and_a_flag_turns_them_off() {
    let engine = crate::scene::silent_engine(|_| vec![refusal(500)]).await;
    let urls = [engine.url()];
    let more = "[reliability.retry]\nmax_retries = 4\ninitial_backoff = \"1ms\"\n";
    let pool = config(&urls, more).replace(
        "[[models]]",
        "[pools.reliability.retry]\nmax_retries = 3\n[[models]]",
    );
    let smg = Smg::start(&pool).await;
    let off = Smg::start_with(&config(&urls, more), |command| {
        command.arg("--disable-retries");
    })
    .await;
    for (smg, attempts) in [(smg, 3), (off, 1)] {
        let before = engine.calls().len();
        let answer = post(smg.main(), "/v1/completions", &ask()).await;
        assert_eq!(answer.status, 500);
        assert_eq!(engine.calls().len() - before, attempts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_the_back_off_is_not_waited_for() {
    let (engines, asked) = scripted(1, vec![vec![refusal(500)], vec![ok()]]).await;
    let more = "[reliability.retry]\ninitial_backoff = \"15s\"\nmax_backoff = \"15s\"\n";
    let smg = gateway(&all(&engines), more).await;
    let main = smg.main();
    let waiting = tokio::spawn(async move { post(main, "/v1/completions", &ask()).await });
    eventually(crate::scene::PATIENCE, async || asked.lock().len() == 1).await;
    let left = Instant::now();
    waiting.abort();
    settled(&smg).await;
    assert!(left.elapsed() < Duration::from_secs(10));
    assert_eq!(asked.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_whose_head_came_is_not_asked_for_again_when_no_event_does() {
    let silent = vec![Step::sse_head(), Step::Hold(crate::support::Gate::closed())];
    let (engines, asked) = scripted(2, vec![silent, vec![ok()]]).await;
    let more = "[reliability.timeouts]\nfirst_token = \"200ms\"\n";
    let smg = gateway(&all(&engines), more).await;
    let ask = json!({ "model": "m", "input": "x", "stream": true });
    let answer = post(smg.main(), "/v1/responses", &ask).await;
    assert_error(&answer, 504, "call_upstream_timeout");
    assert_eq!(asked.lock().len(), 1);
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wants_more_time_than_is_left_is_passed_over() {
    let headers = "retry-after: 20\r\n";
    let more = format!("{QUICK}[server]\nrequest_timeout = \"10s\"\n");
    let script = vec![
        vec![refusal_with(503, headers)],
        vec![refusal(500)],
        vec![ok()],
    ];
    let (engines, asked) = scripted(2, script).await;
    let smg = gateway(&all(&engines), &more).await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!(answer.status, 200);
    let asked = asked.lock().clone();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[1], asked[2], "{asked:?}");
    assert_ne!(asked[0], asked[1]);

    let (engines, asked) = scripted(1, vec![vec![refusal_with(503, headers)], vec![ok()]]).await;
    let smg = gateway(&all(&engines), &more).await;
    let answer = post(smg.main(), "/v1/completions", &ask()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "20"));
    assert_eq!(asked.lock().len(), 1);
}
