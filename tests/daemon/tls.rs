//! Listeners that speak TLS: handshakes, protocols, client certificates, deadlines.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scene::{
    LISTENERS, PATIENCE, ask, ask_stream, delta, plain_engine, settled, short_stream,
};
use crate::support::client::{json_request, request, stream_over};
use crate::support::venv::{python, run_script_with};
use crate::support::{
    Authority, FakeEngine, Pair, Smg, Step, TlsClient, Worker, eventually, get, process,
};

/// What the certificates of these tests are for, and what the clients ask for.
pub(crate) const NAME: &str = "127.0.0.1";

/// Descriptors that come and go with what else the gateway does: a scrape, a kept connection to a
/// worker.
const FEW: usize = 3;

pub(crate) const BOTH: &[&str] = &["h2", "http/1.1"];

/// The listener `secure` with this pair, and authorities for client certificates where it asks for
/// them. `more` are further tables of it.
pub(crate) fn secure(cert: &Path, key: &Path, ca: Option<&Path>, more: &str) -> String {
    let ca = ca.map_or_else(String::new, |ca| format!("client_ca_path = {ca:?}\n"));
    format!(
        "[[listeners]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n\
         serve = [\"inference\", \"probes\"]\n\
         [listeners.tls]\ncert_path = {cert:?}\nkey_path = {key:?}\n{ca}{more}\n"
    )
}

/// That listener beside the usual ones, and the worker at this URL for the model `m`.
pub(crate) fn config(listener: &str, url: &str, more: &str) -> String {
    format!(
        "{LISTENERS}\n{listener}\n[[pools]]\nname = \"p\"\nruntime = \"vllm\"\n\
         workers = [{url:?}]\nhealth.enabled = false\n\n[[models]]\nname = \"m\"\n{more}\n"
    )
}

/// A gateway with a certificate of `authority` in front of the engine.
async fn gateway(authority: &Authority, engine: &FakeEngine, limits: &str, more: &str) -> Smg {
    let Pair { cert, key } = authority.issue(NAME);
    let listener = secure(&cert, &key, None, limits);
    Smg::start(&config(&listener, &engine.url(), more)).await
}

pub(crate) fn liveness() -> Request<Full<Bytes>> {
    request(Method::GET, "/liveness", Bytes::new())
}

/// Whether the client is let in: over TLS 1.3 it may learn only from its first answer that it is not.
pub(crate) async fn is_let_in(client: &TlsClient, to: SocketAddr) -> bool {
    match client.open(to, NAME).await {
        Ok(mut connection) => connection.try_send(liveness()).await.is_ok(),
        Err(_) => false,
    }
}

/// Waits for a failed handshake that was logged for this reason.
async fn told(smg: &mut Smg, reason: &str) {
    let reason = format!("reason={reason}");
    let is_it = |line: &str| {
        (line.contains("TLS handshake failed") && line.contains(&reason)).then_some(())
    };
    smg.process().line(PATIENCE, is_it).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_by_alpn_whole_and_streamed() {
    let engine = FakeEngine::serving("m", |asked| {
        if asked.json()["stream"] == true {
            short_stream("hello")
        } else {
            vec![crate::scene::ok()]
        }
    })
    .await;
    let authority = Authority::new();
    let smg = gateway(&authority, &engine, "", "").await;
    let to = smg.address("secure");
    for (alpn, agreed) in [
        (BOTH, Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["h2"], Some(b"h2")),
        (&[], None),
    ] {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let client = TlsClient::with(&authority, None, alpn, versions);
            let stream = client.connect(to, NAME).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
            drop(stream);
            let mut connection = client.open(to, NAME).await.unwrap();
            for _ in 0..2 {
                let answer = connection
                    .send(json_request("/v1/completions", &ask()))
                    .await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
            let mut stream = stream_over(connection, "/v1/chat/completions", &ask_stream()).await;
            assert_eq!(stream.status(), 200);
            let events = stream.events().await;
            assert_eq!(
                events,
                [
                    format!("data: {}", delta("hello")),
                    "data: [DONE]".to_owned()
                ]
            );
        }
    }
    // A session that is resumed is as good as a new one.
    let client = TlsClient::new(&authority, &["http/1.1"]);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut stream = client.connect(to, NAME).await.unwrap();
        let ask = b"GET /liveness HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(
        kinds,
        [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]
    );
    settled(&smg).await;
}

/// A hello of a client that knows nothing later than TLS 1.1.
fn hello_of_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x14, 1, 0]);
    // Signature algorithms, without which the version is not looked at.
    body.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let length = u8::try_from(body.len()).unwrap();
    let mut hello = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    hello.extend(body);
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tls_of_today_is_refused_and_told_once() {
    let engine = plain_engine().await;
    let authority = Authority::new();
    let mut smg = gateway(&authority, &engine, "", "").await;
    let to = smg.address("secure");
    let client = TlsClient::new(&authority, BOTH);
    assert!(is_let_in(&client, to).await);
    let before = smg.process().fd_count();
    for _ in 0..5 {
        for (sent, alert) in [
            // Alerts: unexpected or unreadable record; version.
            (b"GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), None),
            (hello_of_1_1(), Some(70)),
            (b"\x16\x03\x01\x00\x04\x63\x00\x00\x00".to_vec(), None),
        ] {
            let mut stream = TcpStream::connect(to).await.unwrap();
            stream.write_all(&sent).await.unwrap();
            let mut answer = Vec::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
            read.expect("a close in time").ok();
            assert!(
                !String::from_utf8_lossy(&answer).contains("alive"),
                "{answer:?}"
            );
            assert_eq!(answer.first(), Some(&0x15), "an alert: {answer:?}");
            if alert.is_some() {
                assert_eq!(answer.last().copied(), alert, "{answer:?}");
            }
        }
        // Nobody offers what we speak; and somebody only looks.
        let foreign = TlsClient::new(&authority, &["smtp"]);
        assert!(foreign.connect(to, NAME).await.is_err());
        drop(TcpStream::connect(to).await.unwrap());
    }
    // One who does not trust us.
    let stranger = TlsClient::new(&Authority::new(), BOTH);
    assert!(stranger.connect(to, NAME).await.is_err());
    assert!(client.connect(to, "elsewhere.test").await.is_err());

    for reason in ["no_tls", "incompatible", "protocol", "refused_by_client"] {
        told(&mut smg, reason).await;
    }
    assert!(is_let_in(&client, to).await);
    eventually(PATIENCE, async || smg.process().fd_count() <= before + FEW).await;
    let output = smg.process().output();
    let lines = output
        .iter()
        .filter(|line| line.contains("TLS handshake failed"));
    assert!(lines.count() <= 4, "each reason once: {output:?}");
    assert_eq!(get(smg.main(), "/liveness").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stalls_is_ended_and_holds_up_nobody() {
    const STALLED: usize = 40;
    let engine = plain_engine().await;
    let authority = Authority::new();
    let limits = "[listeners.limits]\ntls_handshake_timeout = \"1500ms\"\n";
    let mut smg = gateway(&authority, &engine, limits, "").await;
    let to = smg.address("secure");
    let began = Instant::now();
    let mut stalled = Vec::new();
    for n in 0..STALLED {
        let mut stream = TcpStream::connect(to).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        }
        stalled.push(stream);
    }
    let client = TlsClient::new(&authority, BOTH);
    assert!(is_let_in(&client, to).await);
    // Those before it are there; what the gateway opens for itself comes when it comes.
    let meanwhile = smg.process().fd_count();
    assert!(
        began.elapsed() < Duration::from_millis(1400),
        "it had to wait for the others: {:?}",
        began.elapsed()
    );
    for stream in &mut stalled {
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let read = tokio::time::timeout(PATIENCE, read).await;
        assert!(read.is_ok(), "still open");
    }
    assert!(began.elapsed() >= Duration::from_millis(1500));
    told(&mut smg, "timeout").await;
    eventually(PATIENCE, async || {
        let active = [("listener", "secure")];
        smg.process().fd_count() <= meanwhile - STALLED / 2
            && smg
                .metrics()
                .await
                .sum("smg_http_connections_active", &active)
                == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_authorities_only_who_shows_a_certificate_of_theirs_gets_in() {
    let engine = plain_engine().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let Pair { cert, key } = authority.issue(NAME);
    let listener = secure(&cert, &key, Some(clients.path()), "");
    let mut smg = Smg::start(&config(&listener, &engine.url(), "")).await;
    let to = smg.address("secure");
    let (good, bad) = (clients.issue("client.test"), authority.issue("client.test"));
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        for alpn in ["h2", "http/1.1"] {
            let client = |pair| TlsClient::with(&authority, pair, &[alpn], versions);
            assert!(is_let_in(&client(Some(&good)), to).await);
            assert!(!is_let_in(&client(None), to).await);
            assert!(!is_let_in(&client(Some(&bad)), to).await);
        }
    }
    told(&mut smg, "client_certificate").await;
    assert!(engine.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_hold_over_tls() {
    let engine = FakeEngine::serving("m", |_| {
        let event = format!("data: {}\n\n", "x".repeat(64 * 1024));
        let mut steps = vec![Step::sse_head()];
        steps.extend((0..2_000).map(|_| Step::write(&event)));
        steps
    })
    .await;
    let authority = Authority::new();
    let limits = "[listeners.limits]\nheader_timeout = \"400ms\"\nidle_timeout = \"500ms\"\n\
                  write_timeout = \"500ms\"\n";
    let smg = gateway(&authority, &engine, limits, "").await;
    let to = smg.address("secure");
    let h1 = TlsClient::new(&authority, &["http/1.1"]);
    // A head that does not end, and a connection that nobody uses, before and after a request.
    for (sent, least) in [
        ("GET /liveness HT", 400),
        ("", 500),
        ("GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n", 500),
    ] {
        let began = Instant::now();
        let mut stream = h1.connect(to, NAME).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await;
        closed.expect("a close in time").ok();
        assert!(began.elapsed() >= Duration::from_millis(least), "{sent:?}");
    }
    // Answers that nobody takes.
    let body = ask_stream().to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut lazy = h1.connect(to, NAME).await.unwrap();
    lazy.write_all(head.as_bytes()).await.unwrap();
    let mut multiplexed = TlsClient::new(&authority, &["h2"])
        .open(to, NAME)
        .await
        .unwrap();
    let ignored = multiplexed
        .open(json_request("/v1/completions", &ask_stream()))
        .await;
    eventually(PATIENCE, async || engine.calls().len() == 2).await;
    settled(&smg).await;
    eventually(PATIENCE, async || {
        let active = [("listener", "secure")];
        smg.metrics()
            .await
            .sum("smg_http_connections_active", &active)
            <= 1.0
    })
    .await;
    drop((lazy, ignored));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_still_sending_gets_to_read_the_refusal() {
    let engine = plain_engine().await;
    let authority = Authority::new();
    let more = "[server]\nmax_payload_size = \"1KiB\"\n";
    let smg = gateway(&authority, &engine, "", more).await;
    let h1 = TlsClient::new(&authority, &["http/1.1"]);
    let mut stream = h1.connect(smg.address("secure"), NAME).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 8000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // It does not look at what comes before it is done.
    stream.write_all(&vec![b' '; 8_000_000]).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("an orderly close");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("request_body_too_large"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_at_rest_is_small() {
    const MANY: u64 = 300;
    let engine = plain_engine().await;
    let authority = Authority::new();
    let mut smg = gateway(&authority, &engine, "", "").await;
    let to = smg.address("secure");
    let client = TlsClient::new(&authority, &["http/1.1"]);
    let open = async |many: u64| {
        let mut all = Vec::new();
        for _ in 0..many {
            let mut connection = client.open(to, NAME).await.unwrap();
            assert_eq!(connection.send(liveness()).await.status, 200);
            all.push(connection);
        }
        all
    };
    let _first = open(50).await;
    let before = smg.process().rss_kb();
    let _rest = open(MANY).await;
    let each = smg.process().rss_kb().saturating_sub(before) / MANY;
    assert!(each < 64, "{each} KiB for each connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_does_not_match_is_no_start() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(NAME), authority.issue(NAME));
    let listener = secure(&one.cert, &other.key, None, "");
    let text = config(&listener, "http://127.0.0.1:9", "");
    let output = Smg::expect_failure(&text);
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(
        told.contains("the private key is not that of the certificate"),
        "{told}"
    );
}

/// Runs curl against the listener and returns what it wrote, or how it failed.
fn curl(ca: &Path, to: SocketAddr, path: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--no-buffer",
            "--noproxy",
            "*",
            "--max-time",
            "20",
        ])
        .arg("--cacert")
        .arg(ca)
        .args(args)
        .arg(format!("https://{to}{path}"));
    let output = process::run(&mut command, Duration::from_secs(30));
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_served() {
    let engine = FakeEngine::serving("m", |_| short_stream("hello")).await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let Pair { cert, key } = authority.issue(NAME);
    let listener = secure(&cert, &key, Some(clients.path()), "");
    let smg = Smg::start(&config(&listener, &engine.url(), "")).await;
    let to = smg.address("secure");
    let shown = clients.issue("curl.test");
    let (cert, key) = (shown.cert.to_str().unwrap(), shown.key.to_str().unwrap());
    let show = ["--cert", cert, "--key", key];
    tokio::task::block_in_place(|| {
        for (args, version) in [
            (&["--http2"][..], "2"),
            (&["--http1.1"], "1.1"),
            (&["--http1.1", "--tls-max", "1.2"], "1.1"),
        ] {
            let told = [
                "--write-out",
                "|%{http_version} %{http_code}",
                "--output",
                "/dev/null",
            ];
            let args = [args, &told, &show].concat();
            let answer = curl(authority.path(), to, "/liveness", &args);
            assert_eq!(
                answer.as_deref(),
                Ok(&*format!("|{version} 200")),
                "{args:?}"
            );
            let body = ask_stream().to_string();
            let ask = [
                "--header",
                "content-type: application/json",
                "--data",
                &body,
            ];
            let args = [&args[..1], &ask, &show].concat();
            let answer = curl(authority.path(), to, "/v1/chat/completions", &args).unwrap();
            assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
        }
        assert!(curl(authority.path(), to, "/liveness", &[]).is_err());
        assert!(curl(clients.path(), to, "/liveness", &show).is_err());
        let old = [&["--tls-max", "1.1"][..], &show].concat();
        assert!(curl(authority.path(), to, "/liveness", &old).is_err());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_is_served() {
    let Some(python) = python("sdk") else { return };
    let worker = Worker::start(&[]).await;
    let authority = Authority::new();
    let Pair { cert, key } = authority.issue(NAME);
    let text = format!(
        "{LISTENERS}\n{}\n[[pools]]\nname = \"sample\"\nworkers = [{:?}]\n\n\
         [[models]]\nname = \"sample\"\naliases = [\"gpt-sample\"]\npool = \"sample\"\n",
        secure(&cert, &key, None, ""),
        worker.url(),
    );
    let smg = Smg::start(&text).await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.json()["healthy_workers"] == 1
    })
    .await;
    let url = format!("https://{}/v1", smg.address("secure"));
    tokio::task::block_in_place(|| {
        run_script_with(&python, "chat.py", &[&url], |command| {
            command.env("SSL_CERT_FILE", authority.path());
        });
    });
}

/// A folder with `cert.pem` and `key.pem` that hold what this pair holds.
pub(crate) fn served(pair: &Pair) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&pair.cert, folder.path().join("cert.pem")).unwrap();
    std::fs::copy(&pair.key, folder.path().join("key.pem")).unwrap();
    folder
}

/// The commands for a running gateway ask over TLS, and show the key to nobody whom they cannot verify.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_ask_over_tls() {
    let (ours, other) = (Authority::new(), Authority::new());
    let Pair { cert, key } = ours.issue(NAME);
    let listener = secure(&cert, &key, None, "").replace("\"probes\"]", "\"admin\"]");
    let engine = plain_engine().await;
    let more =
        "[[auth.control_plane.api_keys]]\nid = \"ops\"\nrole = \"admin\"\nkey = \"canary\"\n";
    let smg = Smg::start(&config(&listener, &engine.url(), more)).await;
    let url = format!("https://{}", smg.address("secure"));
    let run = |ca: &Authority, key: &str| {
        let mut command = crate::support::smg::command();
        let ca = ca.path().to_str().unwrap();
        command.args(["reload", "--url", &url, "--ca", ca]);
        command.env("SMG_KEY", key);
        tokio::task::block_in_place(|| process::run(&mut command, PATIENCE))
    };
    let applied = run(&ours, "canary");
    let said = String::from_utf8_lossy(&applied.stdout).into_owned();
    assert_eq!(applied.status.code(), Some(0), "{said}");
    assert!(said.starts_with("unchanged: generation 1"), "{said}");
    let refused = run(&ours, "wrong");
    assert_eq!(refused.status.code(), Some(1));
    let distrusted = run(&other, "canary");
    assert_eq!(distrusted.status.code(), Some(1));
    let said = String::from_utf8_lossy(&distrusted.stderr).into_owned();
    assert!(
        said.contains("invalid peer certificate: unknownissuer"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
}
