//! Pairs of which a leg fails, in every order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::pd::{pd_config, pd_gateway};
use crate::scene::{
    Door, LISTENERS, PATIENCE, ask_stream, assert_error, delta, ok, post_bytes, ready, settled,
    short_stream, terminal_error,
};
use crate::support::client::{Answer, json_request};
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, eventually, post, stream};

const ONCE: &str = "[reliability.retry]\nmax_retries = 1\n";
const QUICK: &str = "[reliability.retry]\ninitial_backoff = \"1ms\"\n";

/// Longest that a leg may run on after the other has failed.
const CANCEL: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Leg {
    Prefill,
    Decode,
}

use Leg::{Decode, Prefill};

impl Leg {
    fn code(self, word: &str) -> String {
        let leg = if self == Prefill { "prefill" } else { "decode" };
        format!("{leg}_{word}")
    }

    fn label(self) -> &'static str {
        if self == Prefill { "prefill" } else { "decode" }
    }
}

/// An engine that does this once it is asked, and when it was.
async fn engine(steps: Vec<Step>) -> FakeEngine {
    FakeEngine::serving("m", move |_| steps.clone()).await
}

fn never() -> Step {
    Step::Hold(Gate::closed())
}

fn refusal(status: u16) -> Step {
    Step::json(
        status,
        &json!({ "error": { "message": format!("no {status}") } }),
    )
}

/// One leg fails so while the other does that.
struct Scene {
    smg: Smg,
    failing: FakeEngine,
    other: FakeEngine,
    leg: Leg,
}

impl Scene {
    async fn new(leg: Leg, failing: Vec<Step>, other: Vec<Step>, more: &str) -> Self {
        // It fails once the other has been asked, which otherwise might never come to it.
        let asked = Gate::closed();
        let mut steps = vec![Step::Hold(asked.clone())];
        steps.extend(failing);
        let failing = engine(steps).await;
        let other = FakeEngine::serving("m", move |_| {
            asked.open();
            other.clone()
        })
        .await;
        let (prefill, decode) = match leg {
            Prefill => (&failing, &other),
            Decode => (&other, &failing),
        };
        let smg = pd_gateway(&[prefill], &[decode], more).await;
        Self {
            smg,
            failing,
            other,
            leg,
        }
    }

    async fn post(&self, body: &Value) -> Answer {
        post(self.smg.main(), "/v1/chat/completions", body).await
    }

    /// The other leg was told to stop, once, and nobody is busy any more.
    async fn is_cancelled(&self) {
        eventually(PATIENCE, async || !self.other.cut().is_empty()).await;
        assert_eq!(self.other.cut().len(), 1);
        settled(&self.smg).await;
        let metrics = self.smg.metrics().await;
        let labels = [("worker_type", self.leg.label())];
        assert_eq!(metrics.sum("smg_worker_errors_total", &labels), 1.0);
        assert_eq!(metrics.sum("smg_worker_errors_total", &[]), 1.0);
        assert_eq!(metrics.sum("smg_pd_bootstrap_failures_total", &[]), 1.0);
    }
}

fn whole() -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] })
}

/// How a leg can fail before it has said anything, and what the client is told.
fn ways() -> Vec<(Vec<Step>, u16, &'static str)> {
    vec![
        (vec![Step::Close], 502, "bad_gateway"),
        (vec![Step::Reset], 502, "bad_gateway"),
        (
            vec![Step::write("HELLO\r\n\r\n"), Step::Close],
            502,
            "bad_gateway",
        ),
        (vec![refusal(400)], 400, "bad_request"),
        (vec![refusal(404)], 404, "not_found"),
        (vec![refusal(422)], 422, "error"),
        (vec![refusal(429)], 429, "error"),
        (vec![refusal(500)], 500, "internal_error"),
        (vec![refusal(501)], 501, "error"),
        (vec![refusal(502)], 502, "bad_gateway"),
        (vec![refusal(503)], 503, "unavailable"),
        (vec![refusal(504)], 504, "error"),
        (
            vec![Step::write(
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n",
            )],
            502,
            "bad_gateway",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_fails_names_the_error_and_ends_the_other() {
    for leg in [Prefill, Decode] {
        for (steps, status, word) in ways() {
            let scene = Scene::new(leg, steps, vec![never()], ONCE).await;
            let got = scene.post(&whole()).await;
            assert_error(&got, status, &leg.code(word));
            let message = got.json()["error"]["message"].to_string();
            assert!(message.contains(leg.label()), "{message}");
            if !matches!(status, 502) {
                let said = format!("no {status}");
                assert!(message.contains(&said), "{message}");
            }
            scene.is_cancelled().await;
            assert_eq!(scene.failing.calls().len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_fails_while_the_other_has_sent_its_head() {
    let head = vec![Step::sse_head(), never()];
    let begun = vec![
        Step::write(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n",
        ),
        never(),
    ];
    for leg in [Prefill, Decode] {
        for (body, other) in [(ask_stream(), &head), (whole(), &begun)] {
            for (steps, status, word) in ways() {
                let mut late = vec![Step::Pause(Duration::from_millis(20))];
                late.extend(steps);
                let scene = Scene::new(leg, late, other.clone(), ONCE).await;
                assert_error(&scene.post(&body).await, status, &leg.code(word));
                scene.is_cancelled().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_dies_behind_its_head() {
    let half = Step::write(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{\"a\"",
    );
    let frame = json!({ "error": { "message": "out of memory", "code": 503 } }).to_string();
    // Prefill in its body, and with streams of both kinds of end.
    for (steps, status, word) in [
        (vec![half, Step::Close], 502, "bad_gateway"),
        (vec![Step::sse_head(), Step::Close], 502, "bad_gateway"),
        (
            vec![Step::sse_head(), Step::event(&delta("x")), Step::Close],
            502,
            "bad_gateway",
        ),
        (
            vec![Step::sse_head(), Step::event(&frame), Step::Close],
            503,
            "unavailable",
        ),
    ] {
        let scene = Scene::new(Prefill, steps, vec![never()], ONCE).await;
        assert_error(
            &scene.post(&ask_stream()).await,
            status,
            &Prefill.code(word),
        );
        scene.is_cancelled().await;
    }
    // Decode before its first event.
    for (steps, status, word) in [
        (vec![Step::sse_head(), Step::Close], 502, "bad_gateway"),
        (
            vec![Step::sse_head(), Step::event(&frame), Step::Close],
            500,
            "internal_error",
        ),
    ] {
        let scene = Scene::new(Decode, steps, vec![never()], ONCE).await;
        let got = scene.post(&ask_stream()).await;
        assert_error(&got, status, &Decode.code(word));
        if status == 500 {
            assert!(got.text().contains("out of memory"), "{}", got.text());
        }
        scene.is_cancelled().await;
    }
}

/// A stream of which the client has the first event when `leg` fails so.
async fn fails_behind_the_first_event(leg: Leg, steps: Vec<Step>) -> Vec<String> {
    let gate = Gate::closed();
    let first = vec![Step::sse_head(), Step::event(&delta("one"))];
    let mut failing = if leg == Decode { first.clone() } else { vec![] };
    failing.push(Step::Hold(gate.clone()));
    failing.extend(steps);
    let mut other = if leg == Decode { vec![] } else { first };
    other.push(never());
    let scene = Scene::new(leg, failing, other, QUICK).await;
    let mut stream = stream(scene.smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert_eq!(stream.status(), 200);
    let event = stream.event().await.unwrap().unwrap();
    assert!(event.contains("one"), "{event}");
    gate.open();
    let rest = stream.events().await;
    eventually(PATIENCE, async || !scene.other.cut().is_empty()).await;
    settled(&scene.smg).await;
    assert_eq!(
        scene.failing.calls().len(),
        1,
        "a byte was out, and it was tried again"
    );
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_behind_the_first_event_ends_the_stream_with_a_frame() {
    for (steps, word) in [
        (vec![Step::Close], "bad_gateway"),
        (vec![Step::Reset], "bad_gateway"),
        (vec![refusal(500)], "internal_error"),
        (vec![refusal(503)], "unavailable"),
        (vec![refusal(429)], "error"),
    ] {
        let rest = fails_behind_the_first_event(Prefill, steps).await;
        assert_eq!(terminal_error(&rest)["code"], Prefill.code(word));
    }
    for steps in [
        vec![Step::Close],
        vec![Step::Reset],
        vec![Step::event(&delta("two")), Step::Close],
    ] {
        let rest = fails_behind_the_first_event(Decode, steps).await;
        assert_eq!(terminal_error(&rest)["code"], "decode_bad_gateway");
    }
    // Decode's own words stay as they are.
    let frame = json!({ "error": { "message": "out of memory", "code": 500 } }).to_string();
    let steps = vec![Step::event(&frame), Step::event("[DONE]"), Step::Close];
    let rest = fails_behind_the_first_event(Decode, steps).await;
    assert_eq!(rest, [format!("data: {frame}"), "data: [DONE]".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_to_fail_names_the_error() {
    let late = |steps: Vec<Step>| {
        let mut all = vec![Step::Pause(Duration::from_millis(300))];
        all.extend(steps);
        all
    };
    for (leg, first, second) in [
        (Prefill, vec![refusal(503)], late(vec![refusal(500)])),
        (Decode, vec![refusal(503)], late(vec![refusal(500)])),
        (Prefill, vec![Step::Close], late(vec![Step::Close])),
        (Decode, vec![Step::Close], late(vec![Step::Close])),
    ] {
        let scene = Scene::new(leg, first, second, ONCE).await;
        let got = scene.post(&whole()).await;
        let code = got.header("x-smg-error-code").to_owned();
        assert!(code.starts_with(leg.label()), "{code}");
        settled(&scene.smg).await;
    }
    // At the same time: whichever it was, it is one of them and the client is told once.
    for _ in 0..10 {
        let scene = Scene::new(Prefill, vec![refusal(400)], vec![refusal(400)], ONCE).await;
        let got = scene.post(&whole()).await;
        let code = got.header("x-smg-error-code").to_owned();
        assert!(
            code.ends_with("_bad_request") && got.status == 400,
            "{code}"
        );
        settled(&scene.smg).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_hangs_is_given_up() {
    let more =
        format!("{ONCE}[reliability.timeouts]\nheaders = \"150ms\"\nfirst_token = \"400ms\"\n");
    let head = vec![Step::sse_head(), never()];
    for (prefill, decode, code) in [
        // Both are late at once.
        (vec![never()], vec![never()], "decode_error"),
        (vec![never()], head.clone(), "prefill_error"),
        (head.clone(), vec![never()], "decode_error"),
        (head.clone(), head.clone(), "decode_error"),
        (short_stream("x"), head, "decode_error"),
    ] {
        let scene = Scene::new(Prefill, prefill, decode, &more).await;
        assert_error(&scene.post(&ask_stream()).await, 504, code);
        settled(&scene.smg).await;
    }
    let more = format!("{ONCE}[server]\nrequest_timeout = \"200ms\"\n");
    let scene = Scene::new(Prefill, vec![never()], vec![never()], &more).await;
    assert_error(&scene.post(&whole()).await, 504, "call_upstream_timeout");
    scene.smg.metrics().await;
    eventually(PATIENCE, async || {
        scene.failing.cut().len() + scene.other.cut().len() == 2
    })
    .await;
    settled(&scene.smg).await;
}

/// The time between the failure of a leg and the end of the other's connection.
async fn cancel_time(leg: Leg, other: Vec<Step>) -> Duration {
    let failed: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (noted, waiting) = (Arc::clone(&failed), Gate::closed());
    let open = waiting.clone();
    // A leg that has not been asked yet has nothing to end.
    let failing = FakeEngine::serving("m", move |_| {
        vec![Step::Hold(waiting.clone()), refusal(500)]
    })
    .await;
    let other = FakeEngine::serving("m", move |_| {
        *noted.lock() = Some(Instant::now());
        open.open();
        other.clone()
    })
    .await;
    let (prefill, decode) = match leg {
        Prefill => (&failing, &other),
        Decode => (&other, &failing),
    };
    let smg = pd_gateway(&[prefill], &[decode], ONCE).await;
    assert_eq!(
        post(smg.main(), "/v1/chat/completions", &ask_stream())
            .await
            .status,
        500
    );
    eventually(PATIENCE, async || !other.cut().is_empty()).await;
    other.cut()[0].saturating_duration_since(failed.lock().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_leg_ends_within_a_tenth_of_a_second() {
    for leg in [Prefill, Decode] {
        for other in [vec![never()], vec![Step::sse_head(), never()]] {
            // A loaded machine may be late; it is not late every time.
            let mut times = Vec::new();
            for _ in 0..5 {
                times.push(cancel_time(leg, other.clone()).await);
                if times.last().is_some_and(|time| *time < CANCEL) {
                    break;
                }
            }
            assert!(times.iter().any(|time| *time < CANCEL), "{leg:?} {times:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_both() {
    let prefill = engine(vec![never()]).await;
    let decode = engine(vec![Step::sse_head(), Step::event(&delta("one")), never()]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let mut got = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    got.event().await.unwrap().unwrap();
    drop(got);
    eventually(PATIENCE, async || {
        (prefill.cut().len(), decode.cut().len()) == (1, 1)
    })
    .await;
    settled(&smg).await;

    let connection = Connection::h1(smg.main()).await;
    let (prefill, decode) = (engine(vec![never()]).await, engine(vec![never()]).await);
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    drop(connection);
    let mut connection = Connection::h1(smg.main()).await;
    let asking = tokio::spawn(async move {
        let request = json_request("/v1/chat/completions", &whole());
        connection.try_send(request).await.is_ok()
    });
    eventually(PATIENCE, async || {
        (prefill.calls().len(), decode.calls().len()) == (1, 1)
    })
    .await;
    asking.abort();
    eventually(PATIENCE, async || {
        (prefill.cut().len(), decode.cut().len()) == (1, 1)
    })
    .await;
    settled(&smg).await;
}

/// An engine whose first answer is this one and whose others are good.
async fn first_bad(steps: Vec<Step>, good: Vec<Step>) -> FakeEngine {
    let asked = Arc::new(Mutex::new(0));
    FakeEngine::serving("m", move |_| {
        let mut asked = asked.lock();
        *asked += 1;
        if *asked == 1 {
            steps.clone()
        } else {
            good.clone()
        }
    })
    .await
}

fn rooms(engines: &[&FakeEngine]) -> Vec<u64> {
    let calls = engines.iter().flat_map(|engine| engine.calls());
    calls
        .map(|asked| asked.json()["bootstrap_room"].as_u64().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_pair_is_tried_again_in_another_room() {
    for leg in [Prefill, Decode] {
        for steps in [
            vec![refusal(503)],
            vec![Step::Close],
            vec![Step::sse_head(), Step::Close],
        ] {
            let asked = Gate::closed();
            let broken = || {
                let mut all = vec![Step::Hold(asked.clone())];
                all.extend(steps.clone());
                engine(all)
            };
            let good = || engine(short_stream("good"));
            let waiting = || {
                let asked = asked.clone();
                FakeEngine::serving("m", move |_| {
                    asked.open();
                    vec![never()]
                })
            };
            let (prefills, decodes) = match leg {
                Prefill => (
                    [broken().await, good().await],
                    [waiting().await, good().await],
                ),
                Decode => (
                    [waiting().await, good().await],
                    [broken().await, good().await],
                ),
            };
            // The first pair is the bad one for certain.
            let toml = pd_config(
                "sglang",
                &[&prefills[0], &prefills[1]],
                &[&decodes[0], &decodes[1]],
                QUICK,
            )
            .replace(
                "bootstrap_port = 8998 }, {",
                "bootstrap_port = 8998, priority = 60 }, {",
            )
            .replace(
                &format!("workers = [\"{}\"", decodes[0].url()),
                &format!(
                    "workers = [{{ url = \"{}\", priority = 60 }}",
                    decodes[0].url()
                ),
            );
            let smg = Smg::start(&toml).await;
            let got = post(smg.main(), "/v1/chat/completions", &ask_stream()).await;
            assert_eq!(got.status, 200, "{leg:?} {}", got.text());
            assert!(got.text().contains("good"));
            let count = |engines: &[FakeEngine; 2]| engines.each_ref().map(|e| e.calls().len());
            assert_eq!(
                (count(&prefills), count(&decodes)),
                ([1, 1], [1, 1]),
                "{leg:?}"
            );
            let first = rooms(&[&prefills[0], &decodes[0]]);
            let second = rooms(&[&prefills[1], &decodes[1]]);
            assert_eq!(first[0], first[1]);
            assert_eq!(second[0], second[1]);
            assert_ne!(first[0], second[0]);
            settled(&smg).await;
            let metrics = smg.metrics().await;
            let labels = [("worker_type", leg.label()), ("endpoint", "chat")];
            assert_eq!(metrics.sum("smg_worker_retries_total", &labels), 1.0);
            assert_eq!(metrics.sum("smg_worker_retries_total", &[]), 1.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_pair_is_tried_again_after_a_pause() {
    let gate = Gate::closed();
    let bad = vec![Step::Hold(gate.clone()), refusal(500)];
    let prefill = first_bad(bad, vec![ok()]).await;
    let decode = first_bad(vec![never()], vec![ok()]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], QUICK).await;
    let both = async {
        eventually(PATIENCE, async || decode.calls().len() == 1).await;
        gate.open();
    };
    let whole = whole();
    let (answer, ()) = tokio::join!(post(smg.main(), "/v1/chat/completions", &whole), both);
    assert_eq!(answer.status, 200);
    let seen = rooms(&[&prefill, &decode]);
    assert_eq!((seen.len(), seen[0], seen[1]), (4, seen[2], seen[3]));
    assert_ne!(seen[0], seen[1]);
    let metrics = smg.metrics().await;
    assert_eq!(
        metrics.sum("smg_worker_retry_backoff_seconds_count", &[]),
        1.0
    );
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_one_attempt_of_those_allowed() {
    let bad = vec![Step::Pause(Duration::from_millis(100)), refusal(503)];
    let prefill = engine(bad).await;
    let decode = engine(vec![never()]).await;
    let more = "[reliability.retry]\nmax_retries = 3\ninitial_backoff = \"1ms\"\n";
    let smg = pd_gateway(&[&prefill], &[&decode], more).await;
    let got = post(smg.main(), "/v1/chat/completions", &whole()).await;
    assert_error(&got, 503, "prefill_unavailable");
    assert_eq!((prefill.calls().len(), decode.calls().len()), (3, 3));
    let metrics = smg.metrics().await;
    let labels = [("reason", "attempts"), ("worker_type", "prefill")];
    assert_eq!(
        metrics.sum("smg_worker_retries_exhausted_total", &labels),
        1.0
    );
    // What is no fault of the worker is not tried again.
    let prefill = engine(vec![refusal(400)]).await;
    let smg = pd_gateway(&[&prefill], &[&decode], more).await;
    let got = post(smg.main(), "/v1/chat/completions", &whole()).await;
    assert_error(&got, 400, "prefill_bad_request");
    assert_eq!(prefill.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_when_to_come_back() {
    let busy = Step::write("HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy");
    let scene = Scene::new(Prefill, vec![busy], vec![never()], ONCE).await;
    let got = scene.post(&whole()).await;
    assert_error(&got, 503, "prefill_unavailable");
    assert_eq!(got.header("retry-after"), "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_head_is_out_is_still_tried_again() {
    let fail = Gate::closed();
    let prefill = first_bad(
        vec![Step::Hold(fail.clone()), refusal(503)],
        short_stream("prefilled"),
    )
    .await;
    let decode = first_bad(vec![Step::sse_head(), never()], short_stream("good")).await;
    let more = format!("{QUICK}[server]\nsse_keepalive = \"50ms\"\n");
    let smg = pd_gateway(&[&prefill], &[&decode], &more).await;
    let mut got = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert_eq!(got.event().await.unwrap().unwrap(), ": keep-alive");
    fail.open();
    let events = got.events().await;
    assert!(
        events.iter().any(|event| event.contains("good")),
        "{events:?}"
    );
    settled(&smg).await;

    let fail = Gate::closed();
    let prefill = engine(vec![Step::Hold(fail.clone()), refusal(503)]).await;
    let decode = engine(vec![Step::sse_head(), never()]).await;
    let more = format!("{ONCE}[server]\nsse_keepalive = \"50ms\"\n");
    let smg = pd_gateway(&[&prefill], &[&decode], &more).await;
    let mut got = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert_eq!(got.event().await.unwrap().unwrap(), ": keep-alive");
    fail.open();
    let events = got.events().await;
    assert_eq!(terminal_error(&events)["code"], "prefill_unavailable");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_without_workers_is_named() {
    for leg in [Prefill, Decode] {
        let engine = engine(vec![ok()]).await;
        let (prefill, decode): (&[_], &[_]) = match leg {
            Prefill => (&[], &[&engine]),
            Decode => (&[&engine], &[]),
        };
        let smg = pd_gateway(prefill, decode, "").await;
        let got = post(smg.main(), "/v1/chat/completions", &whole()).await;
        assert_error(&got, 503, "server_selection_failed");
        assert!(got.text().contains(leg.label()), "{}", got.text());
        let explain = json!({ "path": "/v1/chat/completions", "body": whole() });
        let explained = post(smg.main(), "/admin/explain", &explain).await.json();
        assert_eq!(explained["code"], "server_selection_failed", "{explained}");
        assert!(engine.calls().is_empty());
        assert_eq!(
            smg.metrics().await.sum("smg_worker_selection_total", &[]),
            0.0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_answer_that_is_no_stream_is_cut_off() {
    // One that says how long it is would be held back until it is whole.
    let half = Step::write(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n",
    );
    let prefill = engine(vec![never()]).await;
    let decode = engine(vec![
        half,
        Step::Pause(Duration::from_millis(50)),
        Step::Close,
    ])
    .await;
    let smg = pd_gateway(&[&prefill], &[&decode], QUICK).await;
    let mut connection = Connection::h1(smg.main()).await;
    let body = whole().to_string();
    let got = connection
        .try_send(post_bytes("/v1/chat/completions", body))
        .await;
    assert!(got.is_err(), "{got:?}");
    eventually(PATIENCE, async || prefill.cut().len() == 1).await;
    assert_eq!(decode.calls().len(), 1);
    settled(&smg).await;
}

/// Nothing tells the gateway that the machine of a worker is gone, but that probes do not connect.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_of_which_a_worker_is_gone_is_given_up() {
    for leg in [Prefill, Decode] {
        let engines = [engine(vec![never()]).await, engine(vec![never()]).await];
        let doors = [Door::closed(), Door::closed()];
        let urls = [doors[0].url(), doors[1].url()];
        let mut open = Vec::new();
        for (door, engine) in doors.into_iter().zip(&engines) {
            open.push(door.open(engine.address()));
        }
        let toml = format!(
            r#"{LISTENERS}
[[pools]]
name = "p"
connections.max_idle_per_host = 0
[pools.prefill]
workers = ["{}"]
[pools.decode]
workers = ["{}"]
[reliability.health]
interval = "100ms"
timeout = "500ms"
failure_threshold = 2
startup_check_interval = "100ms"
{ONCE}
"#,
            urls[0], urls[1]
        );
        let smg = Smg::start(&toml).await;
        ready(&smg).await;
        let to = smg.main();
        let asking = tokio::spawn(async move { post(to, "/v1/chat/completions", &whole()).await });
        eventually(PATIENCE, async || {
            engines.iter().all(|engine| !engine.calls().is_empty())
        })
        .await;
        open.remove(if leg == Prefill { 0 } else { 1 });
        let got = asking.await.unwrap();
        assert_error(&got, 502, &leg.code("bad_gateway"));
        settled(&smg).await;
    }
}

/// Decode has what it needs once it answers, also where prefill has not said so much as a head.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_worker_that_is_gone_once_decode_answers_is_not_missed() {
    let gate = Gate::closed();
    let prefill = engine(vec![never()]).await;
    let decode = engine(vec![
        Step::sse_head(),
        Step::event(&delta("one")),
        Step::Hold(gate.clone()),
        Step::event(&delta("two")),
        Step::event("[DONE]"),
        Step::Close,
    ])
    .await;
    let door = Door::closed();
    let url = door.url();
    let open = door.open(prefill.address());
    let toml = format!(
        r#"{LISTENERS}
[[pools]]
name = "p"
connections.max_idle_per_host = 0
[pools.prefill]
workers = ["{url}"]
[pools.decode]
workers = ["{}"]
[reliability.health]
interval = "100ms"
timeout = "500ms"
failure_threshold = 2
startup_check_interval = "100ms"
"#,
        decode.url()
    );
    let smg = Smg::start(&toml).await;
    ready(&smg).await;
    let mut got = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    let first = got.event().await.unwrap().unwrap();
    assert!(first.contains("one"), "{first}");
    eventually(PATIENCE, async || prefill.calls().len() == 1).await;
    drop(open);
    let busy = |metrics: &crate::support::metrics::Samples, url: &str| {
        metrics.sum("smg_worker_requests_active", &[("worker", url)])
    };
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        (busy(&metrics, &url), busy(&metrics, &decode.url())) == (0.0, 1.0)
    })
    .await;
    gate.open();
    let rest = got.events().await;
    assert_eq!(rest.len(), 2, "{rest:?}");
    assert!(rest[0].contains("two") && rest[1] == "data: [DONE]");
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefill_that_fails_behind_the_last_frame_adds_no_frame() {
    let gate = Gate::closed();
    let prefill = engine(vec![Step::Hold(gate.clone()), refusal(500)]).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let text = format!("data: {}\n\ndata: [DONE]\n\n", delta("one"));
    let decode = engine(vec![
        Step::write(&format!("{head}{:x}\r\n{text}\r\n", text.len())),
        never(),
    ])
    .await;
    let smg = pd_gateway(&[&prefill], &[&decode], "").await;
    let mut events = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert_eq!(
        events.event().await.unwrap().unwrap(),
        format!("data: {}", delta("one"))
    );
    assert_eq!(events.event().await.unwrap().unwrap(), "data: [DONE]");
    gate.open();
    assert_eq!(events.events().await, [""; 0]);
    settled(&smg).await;
}
