//! How the gateway begins and how it ends.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::net::TcpStream;

use crate::scene::two_tokens;
use crate::support::client::{Stream, request};
use crate::support::smg::LISTENERS;
use crate::support::{Connection, FakeEngine, Gate, Smg, Worker, eventually, get, post, stream};

const PATIENCE: Duration = Duration::from_secs(20);

/// An engine whose streams wait for the gate after their first token.
async fn engine(gate: &Gate) -> FakeEngine {
    let gate = gate.clone();
    FakeEngine::serving("slow", move |_| two_tokens(&gate)).await
}

fn config(engine: &FakeEngine, grace: &str) -> String {
    format!(
        "{LISTENERS}\n[server]\nshutdown_grace_period = \"{grace}\"\n\n[[pools]]\nname = \"slow\"\nruntime = \"sglang\"\nworkers = [\"{}\"]\n\n[[models]]\nname = \"slow\"\npool = \"slow\"\n",
        engine.url()
    )
}

/// A stream whose first token has come.
async fn begun(to: SocketAddr) -> Stream {
    let ask = json!({ "model": "slow", "prompt": "hi", "stream": true });
    let mut stream = stream(to, "/v1/completions", &ask).await;
    assert_eq!(stream.status(), 200);
    assert!(stream.event().await.unwrap().unwrap().contains("one"));
    stream
}

fn liveness() -> http::Request<http_body_util::Full<Bytes>> {
    request(Method::GET, "/liveness", Bytes::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_load_balancers_notice_and_streams_finish() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let mut smg = Smg::start(&config(&engine, "8s")).await;
    let main = smg.main();
    eventually(PATIENCE, async || {
        get(main, "/readiness").await.status == 200
    })
    .await;
    let mut running = begun(main).await;
    let mut kept = Connection::h1(main).await;
    assert_eq!(kept.send(liveness()).await.status, 200);

    smg.process().signal("TERM");
    // Settling: still listening, and telling that it will not be for long.
    eventually(PATIENCE, async || {
        get(main, "/readiness").await.status == 503
    })
    .await;
    let readiness = get(main, "/readiness").await;
    assert_eq!(
        (readiness.status, &readiness.json()["reason"]),
        (503, &json!("draining"))
    );
    assert_eq!(get(main, "/liveness").await.status, 200);
    let mut another = begun(main).await;

    // Draining: nobody new, but who is connected is served.
    eventually(PATIENCE, async || TcpStream::connect(main).await.is_err()).await;
    let last = kept.send(liveness()).await;
    assert_eq!((last.status, last.header("connection")), (200, "close"));
    gate.open();
    for stream in [&mut running, &mut another] {
        let rest = stream.events().await;
        assert!(rest[0].contains("two"), "{rest:?}");
        assert_eq!(rest[1..], ["data: [DONE]"]);
    }
    assert_eq!(smg.process().ended(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_at_once_with_nothing_in_flight_and_nobody_watching() {
    for signal in ["TERM", "INT"] {
        let mut smg = Smg::start(LISTENERS).await;
        // Connected, but with nothing to ask.
        let _idle = TcpStream::connect(smg.main()).await.unwrap();
        assert_eq!(get(smg.main(), "/liveness").await.status, 200);
        let told = Instant::now();
        smg.process().signal(signal);
        assert_eq!(smg.process().ended(PATIENCE).await.code(), Some(0));
        // A settling time would be five seconds.
        assert!(
            told.elapsed() < Duration::from_secs(3),
            "{signal}: {:?}",
            told.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let mut smg = Smg::start(&config(&engine, "180s")).await;
    let main = smg.main();
    let mut running = begun(main).await;
    smg.process().signal("TERM");
    eventually(PATIENCE, async || {
        get(main, "/readiness").await.status == 503
    })
    .await;
    let told = Instant::now();
    smg.process().signal("TERM");
    assert_eq!(smg.process().ended(PATIENCE).await.code(), Some(1));
    assert!(
        told.elapsed() < Duration::from_secs(3),
        "{:?}",
        told.elapsed()
    );
    assert!(running.event().await.is_err(), "the stream was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_outlasts_the_grace_period_gets_a_terminal_frame() {
    let gate = Gate::closed();
    let engine = engine(&gate).await;
    let mut smg = Smg::start(&config(&engine, "500ms")).await;
    let mut running = begun(smg.main()).await;
    smg.process().signal("TERM");
    let rest = running.events().await;
    assert_eq!(rest.len(), 2, "{rest:?}");
    let error = rest[0].strip_prefix("data: ").unwrap();
    let error: serde_json::Value = serde_json::from_str(error).unwrap();
    assert_eq!(error["error"]["type"], "stream_error", "{error}");
    assert_eq!(rest[1], "data: [DONE]");
    assert_eq!(smg.process().ended(PATIENCE).await.code(), Some(1));
    eventually(PATIENCE, async || engine.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_is_served_within_a_second_of_the_start() {
    let workers = [Worker::start(&[]).await, Worker::start(&[]).await];
    let pool = format!("{LISTENERS}\n[[pools]]\nname = \"sample\"\n");
    let urls = format!(
        "workers = [\"{}\", \"{}\"]\n",
        workers[0].url(),
        workers[1].url()
    );
    let declared = format!(
        "{pool}runtime = \"sglang\"\n{urls}\n[[models]]\nname = \"sample\"\npool = \"sample\"\n"
    );
    let ask = json!({ "model": "sample", "prompt": "hi" });
    for toml in [declared, pool + &urls] {
        let started = Instant::now();
        let smg = Smg::start(&toml).await;
        let main = smg.main();
        eventually(PATIENCE, async || {
            post(main, "/v1/completions", &ask).await.status == 200
        })
        .await;
        let taken = started.elapsed();
        println!("first answer after {taken:?}");
        // Unoptimised, and other tests want the processor as well.
        let bound = if cfg!(debug_assertions) { 3 } else { 1 };
        assert!(taken < Duration::from_secs(bound), "{taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_is_there_before_any_worker_is() {
    let smg = Smg::start(&format!(
        "{LISTENERS}\n[[pools]]\nname = \"gone\"\nworkers = [\"http://127.0.0.1:9\"]\n"
    ))
    .await;
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
    let readiness = get(smg.main(), "/readiness").await;
    assert_eq!(readiness.status, 503);
    assert_eq!(readiness.json()["unready_pools"], json!(["gone"]));
}

#[test]
fn an_address_that_is_taken_is_told_and_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Smg::expect_failure(&LISTENERS.replacen("127.0.0.1:0", &address, 1));
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("`main`"), "{printed}");
    assert!(printed.contains(&address), "{printed}");
    assert!(
        printed.to_lowercase().contains("address already in use"),
        "{printed}"
    );
    assert!(!printed.contains(" ready"), "{printed}");
}

#[test]
fn an_invalid_configuration_ends_the_start_with_78_and_every_mistake() {
    let output = Smg::expect_failure(
        "version = 1\nnonsense = 2\n\n[[models]]\nname = \"m\"\npool = \"nowhere\"\n",
    );
    assert_eq!(output.status.code(), Some(78));
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("smg.toml:2:1"), "{printed}");
    assert!(printed.contains("smg.toml:6:8"), "{printed}");
}
