//! Workers that are spoken to over TLS: who is trusted, what they are shown, and what happens where
//! there is no trust.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::scene::{
    LISTENERS, PATIENCE, ask, ask_stream, assert_error, ok, plain_engine, ready, settled,
    short_stream, silent_engine, two_tokens,
};
use crate::support::client::json_request;
use crate::support::process;
use crate::support::smg::command;
use crate::support::tls::{Authority, Pair};
use crate::support::tls_front::{TlsFront, showing};
use crate::support::{
    Act, Connection, FakeEngine, Gate, Http2Engine, Smg, Step, Worker, eventually, get, post,
    stream,
};
use crate::workers_api::{add, becomes};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const ONCE: &str = "[reliability.retry]\nenabled = false\n";
const HTTP1: &[&str] = &["http/1.1"];
const LOST: &str = "call_upstream_connection_failed";
const NO_TLS: &str = "no TLS with a worker";

/// A pool of this name with these keys, and the model `m` after it.
fn pool(name: &str, model: &str, workers: &[String], keys: &str) -> String {
    format!(
        "[[pools]]\nname = {name:?}\nruntime = \"vllm\"\nhealth.enabled = false\n\
         workers = {workers:?}\n{keys}\n[[models]]\nname = {model:?}\npool = {name:?}\n"
    )
}

/// One pool for `m` that trusts `authority`.
fn config(workers: &[String], authority: &Authority, keys: &str, more: &str) -> String {
    let keys = format!("tls.ca_paths = [{:?}]\n{keys}", authority.path());
    format!("{LISTENERS}{}{more}", pool("p", "m", workers, &keys))
}

fn pair_keys(pair: &Pair) -> String {
    format!(
        "tls.cert_path = {:?}\ntls.key_path = {:?}\n",
        pair.cert, pair.key
    )
}

/// An engine behind TLS that takes whatever it is asked for.
async fn front(config: ServerConfig) -> (FakeEngine, TlsFront) {
    let engine = silent_engine(|_| vec![ok()]).await;
    let front = TlsFront::start(engine.address(), config).await;
    (engine, front)
}

/// The lines of the log that say why there is no TLS.
fn told(smg: &mut Smg) -> Vec<String> {
    let output = smg.process().output();
    let told = output.iter().filter(|line| line.contains(NO_TLS));
    told.cloned().collect()
}

fn install(from: &Path, to: &Path) {
    let fresh = to.with_extension("new");
    std::fs::copy(from, &fresh).unwrap();
    std::fs::rename(fresh, to).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pool_and_worker_trusts_its_own_authority() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let address = "127.0.0.1";
    let (a_engine, a) = front(showing(&ours.issue(address), None, HTTP1)).await;
    let (b_engine, b) = front(showing(&theirs.issue(address), None, &[])).await;
    let (_c_engine, c) = front(showing(&theirs.issue(address), None, HTTP1)).await;
    let trust = |authority: &Authority| format!("tls.ca_paths = [{:?}]", authority.path());
    let own = format!(
        "[[pools]]\nname = \"own\"\nruntime = \"vllm\"\nhealth.enabled = false\n{}\n\
         workers = [{{ url = {:?}, {} }}]\n[[models]]\nname = \"own\"\npool = \"own\"\n",
        trust(&ours),
        c.url(),
        trust(&theirs),
    );
    let config = format!(
        "{LISTENERS}{}{}{}{own}",
        pool("a", "a", &[a.url()], &trust(&ours)),
        pool("b", "b", &[b.url()], &trust(&theirs)),
        pool("none", "none", &[b.url()], &trust(&ours)),
    );
    let smg = Smg::start(&config).await;
    for model in ["a", "b", "own"] {
        for _ in 0..3 {
            let body = json!({ "model": model, "prompt": "hi" });
            let answer = post(smg.main(), COMPLETIONS, &body).await;
            assert_eq!(answer.status, 200, "{model}: {answer:?}");
        }
    }
    // One address in two pools has two kinds of connections.
    let body = json!({ "model": "none", "prompt": "hi" });
    let answer = post(smg.main(), COMPLETIONS, &body).await;
    assert_error(&answer, 502, LOST);
    assert_eq!((a_engine.calls().len(), b_engine.calls().len()), (3, 3));
    let shaken = a.shaken().remove(0);
    assert_eq!(shaken.protocol.as_deref(), Some("http/1.1"));
    // An address is no name to ask for.
    assert_eq!((shaken.name, shaken.shown), (None, None));
    let host = a_engine.calls()[0].header("host").unwrap().to_owned();
    assert_eq!(format!("https://{host}"), a.url());
    settled(&smg).await;
    let metrics = smg.metrics().await;
    let labels = [("worker", &*a.url()), ("model", "a")];
    assert_eq!(metrics.sum("smg_worker_requests_total", &labels), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_trusted_gets_no_request_and_the_log_says_why() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let address = "127.0.0.1";
    for (pair, host, keys, reason) in [
        (theirs.issue(address), address, "", "UnknownIssuer"),
        (ours.issue_until(address, 2020), address, "", "expired"),
        (ours.issue("other.test"), address, "", "not valid for name"),
        (
            ours.issue("other.test"),
            "localhost",
            "",
            "not valid for name",
        ),
        (
            ours.issue(address),
            address,
            "tls.server_name = \"other.test\"",
            "not valid for name",
        ),
    ] {
        let (engine, front) = front(showing(&pair, None, HTTP1)).await;
        let text = config(&[front.url_of(host)], &ours, keys, ONCE);
        let mut smg = Smg::start(&text).await;
        for _ in 0..3 {
            let answer = post(smg.main(), COMPLETIONS, &ask()).await;
            assert_error(&answer, 502, LOST);
            assert!(!answer.text().contains(reason), "{}", answer.text());
            assert!(!answer.text().contains("other.test"), "{}", answer.text());
        }
        assert_eq!(engine.asked().len(), 0, "{reason}");
        // Those of the registration are among them.
        eventually(PATIENCE, async || front.failed() >= 3).await;
        eventually(PATIENCE, async || !told(&mut smg).is_empty()).await;
        settled(&smg).await;
        let told = told(&mut smg);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(reason), "{reason}: {told:?}");
        assert!(told[0].contains(host), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_to_expect_may_be_another_than_the_host() {
    let ours = Authority::new();
    let (engine, front) = front(showing(&ours.issue("engine.test"), None, HTTP1)).await;
    let named = "tls.server_name = \"engine.test\"";
    let smg = Smg::start(&config(&[front.url()], &ours, named, "")).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    assert_eq!(engine.calls().len(), 1);
    assert_eq!(front.shaken()[0].name.as_deref(), Some("engine.test"));
    // By name, of which the first address may not listen.
    front.show(showing(&ours.issue("localhost"), None, HTTP1));
    let by_name = config(&[front.url_of("localhost")], &ours, "", "");
    smg.apply(&by_name).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    let last = front.shaken().pop().unwrap();
    assert_eq!(last.name.as_deref(), Some("localhost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_asks_for_a_certificate_is_shown_one_and_sees_when_it_changes() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let gate = Gate::closed();
    let engine = FakeEngine::serving("m", {
        let gate = gate.clone();
        move |asked| match asked.json()["stream"] == true {
            true => two_tokens(&gate),
            false => vec![ok()],
        }
    })
    .await;
    let settings = showing(&ours.issue("127.0.0.1"), Some(&clients), HTTP1);
    let front = TlsFront::start(engine.address(), settings).await;
    // Without one.
    let mut smg = Smg::start(&config(&[front.url()], &ours, "", ONCE)).await;
    let answer = post(smg.main(), COMPLETIONS, &ask()).await;
    assert_error(&answer, 502, LOST);
    eventually(PATIENCE, async || {
        let told = told(&mut smg);
        told.iter().any(|line| line.contains("CertificateRequired"))
    })
    .await;
    assert_eq!(engine.asked().len(), 0);

    // With one.
    let (first, second) = (clients.issue("first.test"), clients.issue("second.test"));
    let shown = Pair {
        cert: smg.folder().join("gateway.cert.pem"),
        key: smg.folder().join("gateway.key.pem"),
    };
    install(&first.cert, &shown.cert);
    install(&first.key, &shown.key);
    let text = config(&[front.url()], &ours, &pair_keys(&shown), ONCE);
    let before = smg.apply(&text).await;
    let mut slow = stream(smg.main(), COMPLETIONS, &ask_stream()).await;
    assert!(slow.event().await.unwrap().unwrap().contains("one"));
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    let certificate = |pair: &Pair| Some(pair.chain()[0].to_vec());
    let shaken = front.shaken();
    assert!(shaken.iter().all(|one| one.shown == certificate(&first)));

    // It changes: half of a pair is refused, then both files are there.
    install(&second.cert, &shown.cert);
    let main = smg.main();
    eventually(PATIENCE, async || {
        let status = get(main, "/admin/config/status").await.text();
        status.contains("the private key is not that of the certificate")
            && status.contains("pools[0].tls.key_path")
    })
    .await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    install(&second.key, &shown.key);
    smg.serves(before + 1).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    let shaken = front.shaken();
    assert_eq!(shaken.last().unwrap().shown, certificate(&second));
    // Sessions of the old one are not gone on with.
    let mut newer = shaken
        .iter()
        .filter(|one| one.shown == certificate(&second));
    assert!(!newer.next().unwrap().resumed);
    // What runs goes on over the connection that it has.
    gate.open();
    assert_eq!(slow.events().await.last().unwrap(), "data: [DONE]");
    // Nothing but what the new one was shown for is kept.
    settled(&smg).await;
    let metrics = smg.metrics().await;
    let kept = metrics.sum("smg_worker_connections_active", &[]);
    eventually(PATIENCE, async || front.open() as f64 <= kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_as_they_are_and_sessions_are_resumed() {
    let ours = Authority::new();
    let engine = FakeEngine::serving("m", |_| short_stream("a")).await;
    let settings = showing(&ours.issue("127.0.0.1"), None, HTTP1);
    let front = TlsFront::start(engine.address(), settings).await;
    let smg = Smg::start(&config(&[front.url()], &ours, "", "")).await;
    // Each ends with its connection.
    for _ in 0..3 {
        let mut stream = stream(smg.main(), CHAT, &ask_stream()).await;
        assert_eq!(stream.status(), 200);
        assert_eq!(stream.events().await.len(), 2);
    }
    let large = json!({ "model": "m", "prompt": "x".repeat(3_000_000) });
    let mut answer = stream(smg.main(), COMPLETIONS, &large).await;
    assert_eq!(answer.events().await.len(), 2);
    assert_eq!(engine.calls().pop().unwrap().json(), large);
    let resumed = front.shaken().iter().filter(|one| one.resumed).count();
    assert!(resumed >= 3, "{:?}", front.shaken());
    settled(&smg).await;
}

/// Answers every request over TLS with these bytes and hangs up, `orderly` with the end that TLS
/// demands. It stops when the set is dropped.
async fn hangs_up(config: ServerConfig, answer: String, orderly: bool) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                if stream.read_buf(&mut asked).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            stream.write_all(answer.as_bytes()).await.ok();
            stream.flush().await.ok();
            if orderly {
                stream.shutdown().await.ok();
            }
        }
    });
    (url, serving)
}

/// Without the end that TLS demands, an answer that ends with its connection may have been cut short
/// by anybody.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_its_connection_must_end_over_tls() {
    let ours = Authority::new();
    let pair = ours.issue("127.0.0.1");
    let json = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
                  data: {\"choices\": []}\n\n";
    for (answer, orderly, whole) in [
        (format!("{json}\r\n{{}}"), true, true),
        (format!("{json}\r\n{{}}"), false, false),
        (format!("{json}content-length: 2\r\n\r\n{{}}"), false, true),
        (
            format!("{json}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"),
            false,
            true,
        ),
        (events.to_owned(), false, false),
    ] {
        let (url, _serving) = hangs_up(showing(&pair, None, HTTP1), answer.clone(), orderly).await;
        let smg = Smg::start(&config(&[url], &ours, "", ONCE)).await;
        let is_stream = answer == events;
        let body = if is_stream { ask_stream() } else { ask() };
        let mut connection = Connection::h1(smg.main()).await;
        let got = connection.try_send(json_request(COMPLETIONS, &body)).await;
        // Either the client sees that it breaks off, or it is told.
        let is_whole = got.is_ok_and(|got| got.status == 200 && !got.text().contains("error"));
        assert_eq!(is_whole, whole, "{answer:?}, orderly: {orderly}");
        settled(&smg).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noticed_by_the_worker() {
    let ours = Authority::new();
    let gate = Gate::closed();
    let engine = FakeEngine::serving("m", {
        let gate = gate.clone();
        move |_| two_tokens(&gate)
    })
    .await;
    let settings = showing(&ours.issue("127.0.0.1"), None, HTTP1);
    let front = TlsFront::start(engine.address(), settings).await;
    let smg = Smg::start(&config(&[front.url()], &ours, "", "")).await;
    let mut leaves = stream(smg.main(), COMPLETIONS, &ask_stream()).await;
    leaves.event().await.unwrap().unwrap();
    drop(leaves);
    eventually(PATIENCE, async || engine.cut().len() == 1).await;
    settled(&smg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_agreed_on_or_there_is_no_connection() {
    let ours = Authority::new();
    let engine = Http2Engine::start(100, |_| {
        vec![
            Act::SseHead,
            Act::event("x"),
            Act::event("[DONE]"),
            Act::End,
        ]
    })
    .await;
    let pair = ours.issue("127.0.0.1");
    let both = showing(&pair, None, &["h2", "http/1.1"]);
    let front = TlsFront::start(engine.address(), both).await;
    let http2 = "connections.http2 = true";
    let mut smg = Smg::start(&config(&[front.url()], &ours, http2, ONCE)).await;
    for _ in 0..5 {
        let mut stream = stream(smg.main(), CHAT, &ask_stream()).await;
        assert_eq!(stream.events().await.len(), 2);
    }
    assert_eq!(engine.calls().len(), 5);
    assert_eq!(engine.counts().connections.load(Ordering::SeqCst), 1);
    assert_eq!(front.shaken().len(), 1);
    assert_eq!(front.shaken()[0].protocol.as_deref(), Some("h2"));

    // Neither does one that offers something else do, nor one that agrees on nothing.
    for (alpn, known) in [(HTTP1, 0), (&[][..], 1)] {
        let (_, other) = self::front(showing(&pair, None, alpn)).await;
        smg.apply(&config(&[other.url()], &ours, http2, ONCE)).await;
        let answer = post(smg.main(), CHAT, &ask_stream()).await;
        assert_error(&answer, 502, LOST);
        eventually(PATIENCE, async || told(&mut smg).len() == known + 1).await;
        let told = told(&mut smg).pop().unwrap();
        assert!(told.contains("does not speak HTTP/2 over TLS"), "{told}");
    }
    // And the other way round.
    let (_, other) = self::front(showing(&pair, None, &["h2"])).await;
    smg.apply(&config(&[other.url()], &ours, "", ONCE)).await;
    let answer = post(smg.main(), CHAT, &ask_stream()).await;
    assert_error(&answer, 502, LOST);
    eventually(PATIENCE, async || {
        let told = told(&mut smg).pop().unwrap();
        told.contains("does not speak HTTP/1.1 over TLS")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_too_a_certificate_is_shown_and_its_refusal_told() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let engine = Http2Engine::start(100, |_| vec![Act::json(&json!({ "choices": [] }))]).await;
    let settings = showing(&ours.issue("127.0.0.1"), Some(&clients), &["h2"]);
    let front = TlsFront::start(engine.address(), settings).await;
    let http2 = "connections.http2 = true\n";
    let mut smg = Smg::start(&config(&[front.url()], &ours, http2, ONCE)).await;
    let answer = post(smg.main(), COMPLETIONS, &ask()).await;
    assert_error(&answer, 502, LOST);
    eventually(PATIENCE, async || {
        let told = told(&mut smg);
        told.iter().any(|line| line.contains("CertificateRequired"))
    })
    .await;
    let keys = http2.to_owned() + &pair_keys(&clients.issue("gateway.test"));
    smg.apply(&config(&[front.url()], &ours, &keys, ONCE)).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_and_probes_go_the_same_way() {
    let ours = Authority::new();
    let engine = plain_engine().await;
    let settings = showing(&ours.issue("127.0.0.1"), None, HTTP1);
    let front = TlsFront::start(engine.address(), settings).await;
    let config = format!(
        "{LISTENERS}[reliability.health]\ninterval = \"100ms\"\nstartup_check_interval = \"100ms\"\n\
         [[pools]]\nname = \"p\"\nworkers = [{:?}]\ntls.ca_paths = [{:?}]\n",
        front.url(),
        ours.path()
    );
    let smg = Smg::start(&config).await;
    ready(&smg).await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    let models = get(smg.main(), "/v1/models").await;
    assert!(models.text().contains("\"m\""), "{}", models.text());
    let probes = || {
        let asked = engine.asked();
        asked.iter().filter(|one| one.path == "/health").count()
    };
    let before = probes();
    eventually(PATIENCE, async || probes() > before + 2).await;
    let url = front.url();
    let healthy = async |value: f64| {
        let metrics = smg.metrics().await;
        metrics.sum("smg_worker_health", &[("worker", &url)]) == value
    };
    eventually(PATIENCE, async || healthy(1.0).await).await;
    // One who is not who it should be any more fails its probes, once its connections are gone.
    front.show(showing(&Authority::new().issue("127.0.0.1"), None, HTTP1));
    let closing = config.replace("[[pools]]", "[[pools]]\nconnections.max_idle_per_host = 0");
    smg.apply(&closing).await;
    eventually(PATIENCE, async || healthy(0.0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_added_use_the_pools_settings() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let engine = plain_engine().await;
    let settings = showing(&ours.issue("127.0.0.1"), None, HTTP1);
    let front = TlsFront::start(engine.address(), settings).await;
    let (_, wrong) = self::front(showing(&theirs.issue("127.0.0.1"), None, HTTP1)).await;
    let config = format!(
        "{LISTENERS}[reliability.health]\ninterval = \"100ms\"\nstartup_check_interval = \"100ms\"\n\
         [[pools]]\nname = \"p\"\nworkers = []\ntls.ca_paths = [{:?}]\n",
        ours.path()
    );
    let mut smg = Smg::start(&config).await;
    for url in ["grpc://127.0.0.1:1", "grpcs://127.0.0.1:1"] {
        let answer = post(smg.main(), "/workers", &json!({ "url": url })).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    for host in [
        "169.254.169.254",
        "[fe80::1]",
        "0.0.0.0",
        "metadata.google.internal",
    ] {
        let body = json!({ "url": format!("https://{host}") });
        let answer = post(smg.main(), "/workers", &body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let path = add(&smg, &json!({ "url": front.url() })).await;
    let shown = becomes(&smg, &path, "ready").await;
    assert_eq!(shown["url"], front.url(), "{shown}");
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    assert_eq!(engine.calls().len(), 1);
    // One that is not trusted never takes part.
    let body = json!({ "url": wrong.url(), "max_connection_attempts": 2 });
    let path = add(&smg, &body).await;
    becomes(&smg, &path, "failed").await;
    assert!(told(&mut smg)[0].contains("UnknownIssuer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_another_worker_where_there_is_no_trust() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (_, wrong) = front(showing(&theirs.issue("127.0.0.1"), None, HTTP1)).await;
    let (engine, right) = front(showing(&ours.issue("127.0.0.1"), None, HTTP1)).await;
    let workers = [wrong.url(), right.url()];
    let more = "policy = \"round_robin\"\n[reliability.circuit_breaker]\nfailure_threshold = 3\n";
    let smg = Smg::start(&config(&workers, &ours, "", more)).await;
    for _ in 0..20 {
        assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    }
    assert_eq!(engine.calls().len(), 20);
    settled(&smg).await;
    // It counts as a worker that cannot be reached, so that its breaker opens.
    let metrics = smg.metrics().await;
    assert_eq!(metrics.sum("smg_worker_retries_total", &[]), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_hangs_or_is_none_costs_the_deadline_at_most() {
    let ours = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let more = format!("{ONCE}[reliability.timeouts]\nconnect = \"200ms\"\n");
    let text = config(&[format!("https://127.0.0.1:{port}")], &ours, "", &more);
    let mut smg = Smg::start(&text).await;
    let answer = post(smg.main(), COMPLETIONS, &ask()).await;
    assert_error(&answer, 504, "call_upstream_timeout");
    eventually(PATIENCE, async || {
        told(&mut smg)
            .iter()
            .any(|line| line.contains("no handshake in time"))
    })
    .await;
    // An engine in the clear where TLS is expected.
    let plain = Worker::start(&["--runtime", "vllm", "--model", "m"]).await;
    let url = plain.url().replace("http://", "https://");
    smg.apply(&config(&[url], &ours, "", ONCE)).await;
    let answer = post(smg.main(), COMPLETIONS, &ask()).await;
    assert_error(&answer, 502, LOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_tls_is_refused_and_the_old_serves_on() {
    let ours = Authority::new();
    let (_engine, front) = front(showing(&ours.issue("127.0.0.1"), None, HTTP1)).await;
    let smg = Smg::start(&config(&[front.url()], &ours, "", "")).await;
    let (a, b) = (ours.issue("a.test"), ours.issue("b.test"));
    let mixed = Pair {
        cert: a.cert.clone(),
        key: b.key,
    };
    let swapped = Pair {
        cert: a.key.clone(),
        key: a.cert,
    };
    let rubbish = smg.folder().join("rubbish.pem");
    std::fs::write(&rubbish, "nothing").unwrap();
    let wrong = format!(
        "{LISTENERS}{}",
        pool(
            "p",
            "m",
            &[front.url()],
            &format!("tls.ca_paths = [{rubbish:?}]")
        )
    );
    for (text, key) in [
        (
            config(&[front.url()], &ours, &pair_keys(&mixed), ""),
            "pools[0].tls.key_path",
        ),
        (
            config(&[front.url()], &ours, &pair_keys(&swapped), ""),
            "pools[0].tls.key_path",
        ),
        (wrong.clone(), "pools[0].tls.ca_paths[0]"),
    ] {
        smg.rewrite(&text);
        let reload = smg.reload().await;
        assert_eq!((reload.status, reload.result()), (422, "rejected"), "{key}");
        assert!(reload.body.to_string().contains(key), "{:?}", reload.body);
        assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    }
    let output = Smg::expect_failure(&wrong);
    assert_eq!(output.status.code(), Some(78));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_authorities_of_its_own_a_pool_trusts_those_of_the_system() {
    let ours = Authority::new();
    let (_engine, front) = front(showing(&ours.issue("127.0.0.1"), None, HTTP1)).await;
    let text = format!("{LISTENERS}{}", pool("p", "m", &[front.url()], ""));
    let smg = Smg::start_with(&text, |command| {
        command.env("SSL_CERT_FILE", ours.path());
    })
    .await;
    assert_eq!(post(smg.main(), COMPLETIONS, &ask()).await.status, 200);
    // Where the system trusts nobody, nobody is spoken to.
    let folder = tempfile::tempdir().unwrap();
    let (file, nobody) = (
        folder.path().join("smg.toml"),
        folder.path().join("none.pem"),
    );
    std::fs::write(&file, text).unwrap();
    std::fs::write(&nobody, "").unwrap();
    let mut command = command();
    command
        .arg("--config")
        .arg(file)
        .env("SSL_CERT_FILE", nobody);
    let output = process::run(&mut command, PATIENCE);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_pairs_go_the_same_way() {
    let ours = Authority::new();
    let settings = || showing(&ours.issue("127.0.0.1"), None, HTTP1);
    let (shadow_engine, shadow) = front(settings()).await;
    let (prefill_engine, prefill) = front(settings()).await;
    let answer = json!({ "object": "chat.completion", "choices": [], "from": "decode" });
    let decode_engine = silent_engine({
        let answer = answer.clone();
        move |_| vec![Step::json(200, &answer)]
    })
    .await;
    let decode = TlsFront::start(decode_engine.address(), settings()).await;
    let trust = format!("tls.ca_paths = [{:?}]", ours.path());
    let config = format!(
        "{LISTENERS}{}[[pools]]\nname = \"pd\"\nruntime = \"sglang\"\nhealth.enabled = false\n{trust}\n\
         [pools.prefill]\nworkers = [{{ url = {:?}, bootstrap_port = 8998 }}]\n\
         [pools.decode]\nworkers = [{:?}]\n\
         [[models]]\nname = \"pd\"\npool = \"pd\"\nmirror = {{ pool = \"s\", fraction = 1.0 }}\n",
        pool("s", "s", &[shadow.url()], &trust),
        prefill.url(),
        decode.url(),
    );
    let smg = Smg::start(&config).await;
    let body = json!({ "model": "pd", "messages": [{ "role": "user", "content": "hi" }] });
    let got = post(smg.main(), CHAT, &body).await;
    assert_eq!((got.status, got.json()), (200, answer));
    eventually(PATIENCE, async || shadow_engine.calls().len() == 1).await;
    let (first, second) = (prefill_engine.calls(), decode_engine.calls());
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(first[0].json()["bootstrap_host"], "127.0.0.1");
    assert_eq!(
        first[0].json()["bootstrap_room"],
        second[0].json()["bootstrap_room"]
    );
    settled(&smg).await;
}
