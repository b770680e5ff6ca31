//! Traces, as a collector and a worker see them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::pd::pd_config;
use crate::scene::{PATIENCE, ask, ask_stream, config, delta, ok, plain_engine, with};
use crate::support::client::{Answer, json_request};
use crate::support::venv::python;
use crate::support::{Connection, FakeEngine, Process, Smg, Step, eventually, get, post, stream};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector, and what it was sent.
struct Collector {
    process: Process,
    port: u16,
}

impl Collector {
    /// `None`, with the reason printed, where the collector cannot be run.
    async fn start(args: &[&str]) -> Option<Self> {
        let python = python("otlp")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/otlp.py");
        let mut command = Command::new(python);
        command.arg("-B").arg(script).arg("0").args(args);
        let mut process = Process::spawn("the collector", &mut command);
        let port = process
            .line(PATIENCE, |line| {
                let line: Value = serde_json::from_str(line).ok()?;
                u16::try_from(line["listening"].as_u64()?).ok()
            })
            .await;
        Some(Self { process, port })
    }

    fn keys(&self, more: &str) -> String {
        keys(self.port, more)
    }

    fn spans(&self) -> Vec<Value> {
        let output = self.process.output();
        let lines = output
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["name"].is_string()).collect()
    }

    /// Waits for the request with this id, and returns its span and those below it, in the order in
    /// which they began.
    async fn trace(&self, request_id: &str) -> (Value, Vec<Value>) {
        let mut found = None;
        eventually(PATIENCE, async || {
            let mut server = self
                .spans()
                .into_iter()
                .filter(|span| span["attributes"]["smg.request_id"] == request_id);
            found = server.next();
            found.is_some()
        })
        .await;
        let server = found.unwrap();
        let mut below = self.spans();
        below.retain(|span| span["parent"] == server["id"]);
        below.sort_by_key(|span| span["start"].as_u64());
        (server, below)
    }
}

fn keys(port: u16, more: &str) -> String {
    format!("[tracing]\nenabled = true\notlp_endpoint = \"127.0.0.1:{port}\"\n{more}\n")
}

const QUICK: &str = "[reliability.retry]\ninitial_backoff = \"1ms\"\n";

/// Asks for a completion with these headers.
async fn asked(smg: &Smg, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = json_request("/v1/completions", &ask());
    for (name, value) in headers {
        request = with(request, name, value);
    }
    Connection::h1(smg.main()).await.send(request).await
}

/// The span that a `traceparent` names, and its flags.
fn named(header: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = header.split('-').collect();
    let [_, trace, span, flags] = parts[..] else {
        panic!("no traceparent: {header}")
    };
    (trace, span, flags)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_below_the_clients_and_its_attempt_one_below_that() {
    let Some(collector) = Collector::start(&[]).await else {
        return;
    };
    let answer = json!({
        "object": "text_completion", "choices": [],
        "usage": { "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10 },
    });
    let engine = FakeEngine::serving("m", move |_| vec![Step::json(200, &answer)]).await;
    let more = collector.keys("service_name = \"edge\"");
    let smg = Smg::start(&config(&[engine.url()], &more)).await;
    let body = json!({ "model": "also-m", "prompt": "canary-prompt" });
    let mut request = json_request("/v1/completions?q=canary-query", &body);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    for (name, value) in [
        ("traceparent", &*parent),
        ("tracestate", "vendor=1,other=2"),
        ("x-request-id", "of-the-client"),
        ("authorization", "Bearer canary-header"),
    ] {
        request = with(request, name, value);
    }
    let answer = Connection::h1(smg.main()).await.send(request).await;
    assert_eq!(answer.status, 200);

    let (server, below) = collector.trace("of-the-client").await;
    assert_eq!(server["name"], "http_request");
    assert_eq!(server["kind"], 2);
    assert_eq!(
        (&server["trace"], &server["parent"]),
        (&json!(TRACE), &json!(PARENT))
    );
    assert_eq!(server["state"], "vendor=1,other=2");
    assert_eq!(server["status"], 0);
    assert_eq!(server["resource"]["service.name"], "edge");
    assert_eq!(
        server["resource"]["service.version"],
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(
        server["resource"]["service.instance.id"]
            .as_str()
            .unwrap()
            .len(),
        36
    );
    let expected = json!({
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "url.path": "/v1/completions",
        "http.response.status_code": 200,
        "smg.request_id": "of-the-client",
        "gen_ai.request.model": "also-m",
        "smg.model": "m",
        "smg.pool": "p",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
    });
    assert_eq!(server["attributes"], expected);

    let [attempt] = &below[..] else {
        panic!("one attempt: {below:?}")
    };
    assert_eq!(
        (&attempt["kind"], &attempt["trace"]),
        (&json!(3), &json!(TRACE))
    );
    let attributes = &attempt["attributes"];
    assert_eq!(attributes["server.address"], "127.0.0.1");
    assert_eq!(attributes["server.port"], engine.address().port());
    assert_eq!(attributes["smg.attempt"], 1);
    assert_eq!(attributes["http.response.status_code"], 200);
    assert!(attributes["smg.worker_id"].is_string() && attributes["smg.policy"].is_string());
    assert!(server["start"].as_u64() <= attempt["start"].as_u64());
    assert!(attempt["end"].as_u64() <= server["end"].as_u64());

    let sent = engine.calls().remove(0);
    let id = attempt["id"].as_str().unwrap();
    let seen = named(sent.header("traceparent").unwrap());
    assert_eq!(seen, (TRACE, id, "01"));
    assert_eq!(sent.header("tracestate"), Some("vendor=1,other=2"));
    let told = named(answer.header("traceparent"));
    assert_eq!(told, (TRACE, server["id"].as_str().unwrap(), "01"));
    for span in collector.spans() {
        assert!(!span.to_string().contains("canary"), "{span}");
    }
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_trace_spans_total", &[("result", "exported")]) == 2.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_has_its_span_and_refusals_have_one_too() {
    let Some(collector) = Collector::start(&[]).await else {
        return;
    };
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let engine = FakeEngine::serving("m", move |_| {
        match turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => vec![Step::json(503, &json!({ "error": "busy" }))],
            1 => vec![Step::Reset],
            _ => vec![ok()],
        }
    })
    .await;
    let more = format!("{}{QUICK}", collector.keys(""));
    let smg = Smg::start(&config(&[engine.url()], &more)).await;
    let answer = asked(&smg, &[("x-request-id", "r-1")]).await;
    assert_eq!(answer.status, 200);
    let (server, below) = collector.trace("r-1").await;
    assert_eq!(server["parent"], "");
    assert_eq!(server["events"], json!(["retry", "retry"]));
    let of = |key: &str| -> Vec<Value> {
        let values = below.iter().map(|span| span["attributes"][key].clone());
        values.collect()
    };
    assert_eq!(of("smg.attempt"), [1, 2, 3]);
    let statuses = of("http.response.status_code");
    assert_eq!(statuses, [json!(503), Value::Null, json!(200)]);
    let failed: Vec<_> = below.iter().map(|span| &span["status"]).collect();
    assert_eq!(failed, [2, 2, 0]);
    assert_eq!(of("error.type")[1], "call_upstream_connection_failed");
    let seen: Vec<_> = engine
        .calls()
        .iter()
        .map(|call| named(call.header("traceparent").unwrap()).1.to_owned())
        .collect();
    // A worker may be sent the same attempt twice where a kept connection had died.
    let ids: Vec<_> = below
        .iter()
        .map(|span| span["id"].as_str().unwrap())
        .collect();
    assert!(
        ids.iter().all(|id| seen.iter().any(|seen| seen == id)),
        "{seen:?} {ids:?}"
    );

    let body = json!({ "model": "nobody", "prompt": "x" });
    let request = json_request("/v1/completions", &body);
    let request = with(request, "x-request-id", "r-2");
    let refused = Connection::h1(smg.main()).await.send(request).await;
    assert_eq!(refused.status, 404);
    assert!(!refused.header("traceparent").is_empty());
    let (server, below) = collector.trace("r-2").await;
    assert!(below.is_empty());
    assert_eq!(server["attributes"]["error.type"], "model_not_found");
    assert_eq!(server["attributes"]["gen_ai.request.model"], "nobody");
    assert_eq!(
        server["status"], 0,
        "a client's mistake is no error of ours"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_an_error() {
    let Some(collector) = Collector::start(&[]).await else {
        return;
    };
    let engine = FakeEngine::serving("m", |_| vec![Step::Reset]).await;
    let more = format!(
        "{}[reliability.retry]\nenabled = false\n",
        collector.keys("")
    );
    let smg = Smg::start(&config(&[engine.url()], &more)).await;
    let answer = asked(&smg, &[("x-request-id", "r-1")]).await;
    assert_eq!(answer.status, 502);
    let (server, below) = collector.trace("r-1").await;
    assert_eq!(
        (&server["status"], &below[0]["status"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(
        server["attributes"]["error.type"],
        "call_upstream_connection_failed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_two_spans_and_a_stream_tells_its_first_token() {
    let Some(collector) = Collector::start(&[]).await else {
        return;
    };
    let prefill = FakeEngine::serving("m", |_| {
        vec![Step::sse_head(), Step::event("[DONE]"), Step::Close]
    })
    .await;
    let decode = FakeEngine::serving("m", |_| {
        vec![
            Step::sse_head(),
            Step::Pause(Duration::from_millis(50)),
            Step::event(&delta("one")),
            Step::event("[DONE]"),
            Step::Close,
        ]
    })
    .await;
    let file = pd_config("sglang", &[&prefill], &[&decode], &collector.keys(""));
    let smg = Smg::start(&file).await;
    let mut answer = stream(smg.main(), "/v1/chat/completions", &ask_stream()).await;
    assert_eq!(answer.status(), 200);
    answer.events().await;
    let id = decode.calls()[0].header("x-request-id").unwrap().to_owned();
    let (server, below) = collector.trace(&id).await;
    assert_eq!(server["events"], json!(["first_token"]));
    let span = |name: &str| {
        let found = below.iter().find(|span| span["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {below:?}"))
    };
    assert_eq!(below.len(), 2);
    for (name, engine) in [("prefill", &prefill), ("decode", &decode)] {
        let (span, call) = (span(name), engine.calls().remove(0));
        assert_eq!(span["attributes"]["server.port"], engine.address().port());
        assert_eq!(span["attributes"]["http.response.status_code"], 200);
        let seen = named(call.header("traceparent").unwrap()).1.to_owned();
        assert_eq!(span["id"], seen);
    }
    assert!(span("prefill")["end"].as_u64() <= span("decode")["end"].as_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_decided_before_is_followed_and_nonsense_is_not() {
    let Some(collector) = Collector::start(&[]).await else {
        return;
    };
    let engine = plain_engine().await;
    let smg = Smg::start(&config(
        &[engine.url()],
        &collector.keys("sample_ratio = 0.0"),
    ))
    .await;
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let answer = asked(
        &smg,
        &[("traceparent", &*unsampled), ("x-request-id", "no")],
    )
    .await;
    let (trace, span, flags) = named(answer.header("traceparent"));
    assert_eq!((trace, flags), (TRACE, "00"));
    assert_ne!(span, PARENT);
    let calls = engine.calls();
    let (trace, _, flags) = named(calls[0].header("traceparent").unwrap());
    assert_eq!((trace, flags), (TRACE, "00"));

    // Of those that begin here none is recorded; what is no traceparent begins here.
    let broken = format!("00-{}-{PARENT}-01", TRACE.to_uppercase());
    let answer = asked(
        &smg,
        &[
            ("traceparent", &*broken),
            ("tracestate", "a=1"),
            ("x-request-id", "no"),
        ],
    )
    .await;
    let (trace, _, flags) = named(answer.header("traceparent"));
    assert_ne!(trace, TRACE);
    assert_eq!(flags, "00");
    let calls = engine.calls();
    assert_eq!(named(calls[1].header("traceparent").unwrap()).0, trace);
    assert_eq!(calls[1].header("tracestate"), None);

    let sampled = format!("00-{TRACE}-{PARENT}-01");
    asked(&smg, &[("traceparent", &*sampled), ("x-request-id", "yes")]).await;
    collector.trace("yes").await;
    let ids: Vec<Value> = collector
        .spans()
        .iter()
        .map(|span| span["attributes"]["smg.request_id"].clone())
        .collect();
    assert!(!ids.contains(&json!("no")), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tracing_the_clients_headers_pass_as_they_are() {
    let engine = plain_engine().await;
    let smg = Smg::start(&config(&[engine.url()], "")).await;
    let headers = [("traceparent", "not even one"), ("tracestate", "a=1")];
    let answer = asked(&smg, &headers).await;
    assert_eq!(answer.header("traceparent"), "");
    let call = engine.calls().remove(0);
    for (name, value) in headers {
        assert_eq!(call.header(name), Some(value));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_sent_before_the_end() {
    let Some(collector) = Collector::start(&[]).await else {
        return;
    };
    let engine = plain_engine().await;
    let mut smg = Smg::start(&config(&[engine.url()], &collector.keys(""))).await;
    asked(&smg, &[("x-request-id", "last")]).await;
    // The batch would wait for half a second.
    assert!(smg.term_and_wait().await.success());
    let ended = Instant::now();
    collector.trace("last").await;
    assert!(ended.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_turns_it_on_and_off_and_elsewhere() {
    let (Some(first), Some(second)) = (Collector::start(&[]).await, Collector::start(&[]).await)
    else {
        return;
    };
    let engine = plain_engine().await;
    let workers = [engine.url()];
    let smg = Smg::start(&config(&workers, "")).await;
    assert_eq!(asked(&smg, &[]).await.header("traceparent"), "");
    smg.apply(&config(&workers, &first.keys(""))).await;
    asked(&smg, &[("x-request-id", "one")]).await;
    // What the first collector is owed, it gets.
    smg.apply(&config(&workers, &second.keys(""))).await;
    asked(&smg, &[("x-request-id", "two")]).await;
    smg.apply(&config(&workers, "")).await;
    assert_eq!(asked(&smg, &[]).await.header("traceparent"), "");
    first.trace("one").await;
    second.trace("two").await;
    let all = [first.spans(), second.spans()].map(|spans| spans.len());
    let metrics = smg.metrics().await;
    let dropped = metrics.sum("smg_trace_spans_total", &[("result", "dropped")]);
    let failed = metrics.sum("smg_trace_spans_total", &[("result", "failed")]);
    // The reloads themselves are requests, too; those that ended when tracing did have no collector.
    assert!(all[0] >= 2 && all[1] >= 2 && failed == 0.0 && dropped <= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_is_gone_costs_spans_and_no_time() {
    let Some(collector) = Collector::start(&["hang"]).await else {
        return;
    };
    let engine = plain_engine().await;
    let workers = [engine.url()];
    let mut smg = Smg::start(&config(&workers, &collector.keys(""))).await;
    let mut connection = Connection::h1(smg.main()).await;
    let mut slowest = Duration::ZERO;
    let mut before = 0;
    for n in 0..4000 {
        if n == 2500 {
            before = smg.process().rss_kb();
        }
        let began = Instant::now();
        let request = json_request("/v1/completions", &ask());
        assert_eq!(connection.send(request).await.status, 200);
        slowest = slowest.max(began.elapsed());
    }
    // It would be five seconds if anybody waited.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    let grown = smg.process().rss_kb().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more with a full queue");
    let spans = async |result: &str| {
        let metrics = smg.metrics().await;
        metrics.sum("smg_trace_spans_total", &[("result", result)])
    };
    assert!(spans("dropped").await > 1000.0);

    drop(collector);
    eventually(PATIENCE, async || spans("failed").await > 0.0).await;
    let process = smg.process();
    let told = || {
        let output = process.output();
        let lines = output.iter();
        lines
            .filter(|line| line.contains("spans were not taken"))
            .count()
    };
    // What is logged is written by a thread of its own.
    eventually(PATIENCE, async || told() > 0).await;
    assert_eq!(told(), 1, "once a minute");
    assert_eq!(asked(&smg, &[]).await.status, 200);
    let began = Instant::now();
    assert!(smg.term_and_wait().await.success());
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_may_speak_tls() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = own.signed_by(&key, &issuer).unwrap();
    let paths = ["cert.pem", "key.pem", "ca.pem"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], certificate.pem()).unwrap();
    std::fs::write(&paths[1], key.serialize_pem()).unwrap();
    std::fs::write(&paths[2], authority.pem()).unwrap();
    let args = [&paths[0], &paths[1]].map(|path| path.to_str().unwrap());
    let Some(collector) = Collector::start(&args).await else {
        return;
    };
    let engine = plain_engine().await;
    let endpoint = format!("https://localhost:{}", collector.port);
    let more = format!("[tracing]\nenabled = true\notlp_endpoint = \"{endpoint}\"\n");
    let file = config(&[engine.url()], &more);
    let trusting = Smg::start_with(&file, |command| {
        command.env("SSL_CERT_FILE", &paths[2]);
    })
    .await;
    asked(&trusting, &[("x-request-id", "trusted")]).await;
    collector.trace("trusted").await;

    let strict = Smg::start(&file).await;
    asked(&strict, &[("x-request-id", "strange")]).await;
    eventually(PATIENCE, async || {
        let metrics = strict.metrics().await;
        metrics.sum("smg_trace_spans_total", &[("result", "failed")]) > 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_admission_is_a_span() {
    let Some(collector) = Collector::start(&[]).await else {
        return;
    };
    let gate = crate::support::Gate::closed();
    let held = gate.clone();
    let engine = FakeEngine::serving("m", move |_| vec![Step::Hold(held.clone()), ok()]).await;
    let more = format!(
        "{}[reliability.admission]\nmax_concurrent_requests = 1\nqueue_size = 10\n",
        collector.keys("")
    );
    let smg = Smg::start(&config(&[engine.url()], &more)).await;
    let main = smg.main();
    let first = tokio::spawn(async move { post(main, "/v1/completions", &ask()).await });
    eventually(PATIENCE, async || engine.calls().len() == 1).await;
    let request = with(
        json_request("/v1/completions", &ask()),
        "x-request-id",
        "waits",
    );
    let second = tokio::spawn(async move { Connection::h1(main).await.send(request).await });
    eventually(PATIENCE, async || {
        smg.metrics().await.sum("smg_admission_queue_depth", &[]) == 1.0
    })
    .await;
    gate.open();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().status, 200);
    let (_, below) = collector.trace("waits").await;
    let names: Vec<_> = below
        .iter()
        .map(|span| span["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["admission_queue", "attempt"]);
    assert!(get(smg.main(), "/readiness").await.status == 200);
}
