//! Listening sockets that come, stay, move and go while requests are served.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::net::{TcpStream, UnixStream};

use crate::load::{Load, MODEL, QUIET};
use crate::support::client::{json_request, request};
use crate::support::smg::LISTENERS;
use crate::support::{Connection, FakeEngine, Gate, Smg, Step, Worker, eventually, get, stream};

const PATIENCE: Duration = Duration::from_secs(20);

fn listener(name: &str, address: &str, rest: &str) -> String {
    format!(
        "\n[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\nserve = [\"inference\", \"probes\"]\n{rest}\n"
    )
}

fn pool(url: &str) -> String {
    format!(
        "\n[[pools]]\nname = \"sample\"\nruntime = \"sglang\"\nworkers = [\"{url}\"]\n\n[[models]]\nname = \"{MODEL}\"\npool = \"sample\"\n"
    )
}

fn liveness() -> http::Request<http_body_util::Full<Bytes>> {
    request(Method::GET, "/liveness", Bytes::new())
}

/// The address of the `count`th socket that the listener `front` has had.
async fn front(smg: &Smg, count: usize) -> SocketAddr {
    // The log is written in batches.
    eventually(PATIENCE, async || smg.addresses("front").len() == count).await;
    smg.address("front")
}

async fn is_refused(to: SocketAddr) -> bool {
    TcpStream::connect(to).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn added_moved_and_removed_under_load() {
    let worker = Worker::start(&["--itl", "1ms"]).await;
    let base = format!("{LISTENERS}{}", pool(worker.url()));
    let smg = Smg::start_with(&base, |command| {
        command.env(QUIET.0, QUIET.1);
    })
    .await;
    let main = smg.main();
    let steady = Load::start(main);
    steady.answers(30).await;
    let connections = steady.connections();

    // Added.
    smg.apply(&(base.clone() + &listener("front", "127.0.0.2:0", "")))
        .await;
    let moving = Load::start(front(&smg, 1).await);
    moving.answers(30).await;

    // Moved, again and again.
    for n in 2..12 {
        let left = smg.address("front");
        let host = format!("127.0.0.{}", 2 + n % 2 * 7 + n);
        smg.apply(&(base.clone() + &listener("front", &format!("{host}:0"), "")))
            .await;
        let now = front(&smg, n).await;
        assert_eq!(now.ip().to_string(), host);
        moving.redirect(now);
        eventually(PATIENCE, async || is_refused(left).await).await;
        moving.connects(n as u64).await;
    }

    // Removed.
    let left = smg.address("front");
    moving.redirect(main);
    smg.apply(&base).await;
    moving.answers(30).await;
    eventually(PATIENCE, async || is_refused(left).await).await;
    moving.connects(12).await;
    moving.finish().await;

    steady.answers(30).await;
    assert_eq!(
        steady.connections(),
        connections,
        "connections of a kept listener are kept"
    );
    steady.finish().await;
    eventually(PATIENCE, async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_http_connections_active", &[("listener", "front")]) == 0.0
    })
    .await;
}

/// The new address covers the old one, so the two sockets are in each other's way.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_taken_over_from_a_listener_that_goes() {
    let worker = Worker::start(&[]).await;
    let base = format!("{LISTENERS}{}", pool(worker.url()));
    let smg = Smg::start_with(
        &(base.clone() + &listener("front", "127.0.0.1:0", "")),
        |command| {
            command.env(QUIET.0, QUIET.1);
        },
    )
    .await;
    let first = smg.address("front");
    let load = Load::start(first);
    load.answers(30).await;
    for (sockets, host) in [(2, "0.0.0.0"), (3, "127.0.0.1"), (4, "0.0.0.0")] {
        let address = format!("{host}:{}", first.port());
        smg.apply(&(base.clone() + &listener("front", &address, "")))
            .await;
        assert_eq!(front(&smg, sockets).await.to_string(), address);
        load.connects(sockets as u64).await;
    }
    load.finish().await;

    // Nobody else has got in by that, and what is taken by others stays so.
    let taken = std::net::TcpListener::bind(first).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    let other = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let other = other.local_addr().map(|at| (other, at)).unwrap();
    smg.rewrite(&(base + &listener("front", &other.1.to_string(), "")));
    assert_eq!(smg.reload().await.result(), "rejected");
    assert_eq!(get(first, "/liveness").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_port_is_kept_and_so_are_its_connections() {
    let smg = Smg::start(LISTENERS).await;
    let main = smg.main();
    let mut kept = Connection::h1(main).await;
    assert_eq!(kept.send(liveness()).await.status, 200);
    // Other limits, another order, another key: all but the address.
    let (head, tables) = LISTENERS.split_once("[[listeners]]").unwrap();
    let (first, second) = tables.split_once("[[listeners]]").unwrap();
    let changed = format!(
        "{head}[[listeners]]{second}\n[[listeners]]{first}\n[listeners.limits]\nmax_uri_bytes = \"256B\"\n\n[server]\nrequest_timeout = \"77s\"\n"
    );
    smg.apply(&changed).await;
    assert_eq!(smg.main(), main);
    assert_eq!(kept.send(liveness()).await.status, 200);

    // The new limit is for new connections, the old ones end under theirs.
    let long = format!("/liveness?{}", "x".repeat(400));
    let ask = || request(Method::GET, &long, Bytes::new());
    assert_eq!(kept.send(ask()).await.status, 200);
    assert_eq!(Connection::h1(main).await.send(ask()).await.status, 414);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_finishes_its_requests_and_closes() {
    let gate = Gate::closed();
    let held = gate.clone();
    let engine = FakeEngine::serving(MODEL, move |_| {
        let token = |text: &str| {
            Step::event(&json!({ "choices": [{ "index": 0, "text": text }] }).to_string())
        };
        vec![
            Step::sse_head(),
            token("one"),
            Step::Hold(held.clone()),
            token("two"),
            Step::event("[DONE]"),
            Step::Close,
        ]
    })
    .await;
    let base = format!("{LISTENERS}{}", pool(&engine.url()));
    let smg = Smg::start(&(base.clone() + &listener("front", "127.0.0.1:0", ""))).await;
    let front = front(&smg, 1).await;
    let ask = json!({ "model": MODEL, "prompt": "hi", "stream": true });
    let mut streams = [
        stream(front, "/v1/completions", &ask).await,
        stream(front, "/v1/completions", &ask).await,
    ];
    for stream in &mut streams {
        assert!(stream.event().await.unwrap().unwrap().contains("one"));
    }
    let mut kept = Connection::h1(front).await;
    assert_eq!(kept.send(liveness()).await.status, 200);
    let mut multiplexed = Connection::h2(front).await;
    let open = multiplexed
        .open(json_request("/v1/completions", &ask))
        .await;
    assert_eq!(open.status(), 200);

    smg.apply(&base).await;
    eventually(PATIENCE, async || is_refused(front).await).await;
    let active = async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_http_connections_active", &[("listener", "front")])
    };
    // A request that was on its way when the listener went is answered, and is the last.
    let last = kept.send(liveness()).await;
    assert_eq!((last.status, last.header("connection")), (200, "close"));
    eventually(PATIENCE, async || active().await == 3.0).await;
    gate.open();
    for stream in &mut streams {
        let rest = stream.events().await;
        assert_eq!(rest.last().map(String::as_str), Some("data: [DONE]"));
    }
    let body = http_body_util::BodyExt::collect(open.into_body())
        .await
        .unwrap()
        .to_bytes();
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    eventually(PATIENCE, async || active().await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_of_a_removed_listener_is_closed() {
    let smg = Smg::start(&(LISTENERS.to_owned() + &listener("front", "127.0.0.1:0", ""))).await;
    let front = smg.address("front");
    let mut used = Connection::h1(front).await;
    assert_eq!(used.send(liveness()).await.status, 200);
    let fresh = TcpStream::connect(front).await.unwrap();
    let active = async || {
        let metrics = smg.metrics().await;
        metrics.sum("smg_http_connections_active", &[("listener", "front")])
    };
    eventually(PATIENCE, async || active().await == 2.0).await;
    smg.apply(LISTENERS).await;
    eventually(PATIENCE, async || active().await == 0.0).await;
    fresh.readable().await.unwrap();
    assert_eq!(fresh.try_read(&mut [0; 1]).unwrap(), 0);
}

async fn over_unix(path: &Path) -> Connection {
    Connection::h1_over(UnixStream::connect(path).await.unwrap(), "unix").await
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_has_its_mode_and_goes_with_its_listener() {
    let smg = Smg::start(LISTENERS).await;
    let path = smg.folder().join("front.sock");
    let address = format!("unix:{}", path.display());
    smg.apply(&(LISTENERS.to_owned() + &listener("front", &address, "")))
        .await;
    assert_eq!(mode(&path), 0o600);
    let mut first = over_unix(&path).await;
    assert_eq!(first.send(liveness()).await.text(), "OK");

    let open = listener("front", &address, "mode = \"0660\"");
    smg.apply(&(LISTENERS.to_owned() + &open)).await;
    assert_eq!(mode(&path), 0o660);
    assert_eq!(over_unix(&path).await.send(liveness()).await.text(), "OK");

    smg.apply(LISTENERS).await;
    eventually(PATIENCE, async || !path.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_listener_serves_its_own_groups() {
    let smg = Smg::start(LISTENERS).await;
    let (main, metrics) = (smg.main(), smg.address("metrics"));
    assert_ne!(main, metrics);
    for (at, path, status) in [
        (main, "/liveness", 200),
        (main, "/metrics", 404),
        (main, "/admin/config/status", 200),
        (metrics, "/metrics", 200),
        (metrics, "/admin/config/status", 404),
        (metrics, "/v1/models", 404),
    ] {
        assert_eq!(get(at, path).await.status, status, "{path} at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_cannot_be_had_refuses_the_reload() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken
        .local_addr()
        .map(|at| (taken, at.to_string()))
        .unwrap();
    let smg = Smg::start(LISTENERS).await;
    // The other new listener is not opened either.
    let path = smg.folder().join("front.sock");
    let unix = listener("other", &format!("unix:{}", path.display()), "");
    smg.rewrite(&(LISTENERS.to_owned() + &unix + &listener("front", &taken.1, "")));
    let reload = smg.reload().await;
    assert_eq!(
        (reload.status, reload.result()),
        (422, "rejected"),
        "{reload:?}"
    );
    let diagnostic = &reload.body["diagnostics"][0];
    let message = diagnostic["message"].as_str().unwrap();
    assert!(
        message.contains("`front`") && message.contains(&taken.1),
        "{message}"
    );
    assert_eq!(diagnostic["key"], "listeners[3].address");
    assert!(
        diagnostic["primary"]["file"]["line"].as_u64().unwrap() > 10,
        "{diagnostic}"
    );
    assert!(!path.exists());
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);

    // With the address free again, the same file is taken.
    drop(taken.0);
    let reload = smg.reload().await;
    assert_eq!(reload.result(), "applied", "{reload:?}");
    assert_eq!(get(front(&smg, 1).await, "/liveness").await.status, 200);
    assert_eq!(over_unix(&path).await.send(liveness()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_cors_change_on_kept_connections_too() {
    let cors = |origin: &str| {
        let rest = format!("[listeners.cors]\nallowed_origins = [\"{origin}\"]");
        LISTENERS.to_owned() + &listener("front", "127.0.0.1:0", &rest)
    };
    let smg = Smg::start(&cors("https://a.example")).await;
    let mut kept = Connection::h1(smg.address("front")).await;
    let ask = |origin: &str| {
        let mut ask = liveness();
        ask.headers_mut().insert("origin", origin.parse().unwrap());
        ask
    };
    let allowed = "access-control-allow-origin";
    let answer = kept.send(ask("https://a.example")).await;
    assert_eq!(answer.header(allowed), "https://a.example");
    smg.apply(&cors("https://b.example")).await;
    let answer = kept.send(ask("https://b.example")).await;
    assert_eq!(answer.header(allowed), "https://b.example");
    assert_eq!(
        kept.send(ask("https://a.example")).await.header(allowed),
        ""
    );
}
