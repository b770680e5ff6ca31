//! Certificates and authorities that change while the gateway runs, and its end over TLS.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Load, MODEL, QUIET};
use crate::scene::{PATIENCE, ask, ask_stream, plain_engine, two_tokens};
use crate::support::client::{json_request, stream_over};
use crate::support::{
    Authority, Connection, FakeEngine, Gate, Pair, Smg, TlsClient, Worker, eventually, get,
};
use crate::tls::{BOTH, NAME, config, is_let_in, liveness, secure, served};

/// What the listener shows a client that trusts this authority.
async fn shown(authority: &Authority, to: SocketAddr) -> Vec<u8> {
    let client = TlsClient::new(authority, BOTH);
    let stream = client.connect(to, NAME).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].to_vec()
}

fn leaf(pair: &Pair) -> Vec<u8> {
    pair.chain()[0].to_vec()
}

/// Puts a copy in the place of a file, by renaming it.
fn replace(path: &Path, by: &Path) {
    let fresh = path.with_extension("fresh");
    std::fs::copy(by, &fresh).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

async fn reloads(smg: &Smg, result: &str) -> f64 {
    let metrics = smg.metrics().await;
    metrics.sum("smg_tls_reloads_total", &[("result", result)])
}

async fn rejected(smg: &Smg) -> Value {
    eventually(PATIENCE, async || !smg.status().await["rejected"].is_null()).await;
    smg.status().await["rejected"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pair_is_taken_when_both_files_are_there() {
    let engine = plain_engine().await;
    let authority = Authority::new();
    let pairs: Vec<Pair> = (0..3).map(|_| authority.issue(NAME)).collect();
    let files = served(&pairs[0]);
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let listener = secure(&cert, &key, None, "");
    let mut smg = Smg::start(&config(&listener, &engine.url(), "")).await;
    let to = smg.address("secure");
    assert_eq!(shown(&authority, to).await, leaf(&pairs[0]));
    let mut kept = TlsClient::new(&authority, &["http/1.1"])
        .open(to, NAME)
        .await
        .unwrap();
    assert_eq!(kept.send(liveness()).await.status, 200);

    // The key first: that is no pair, and the old one serves on.
    replace(&key, &pairs[1].key);
    let refused = rejected(&smg).await;
    let told = refused["diagnostics"].to_string();
    assert!(
        told.contains("the private key is not that of the certificate"),
        "{told}"
    );
    assert!(told.contains("listeners[2].tls."), "{told}");
    assert_eq!(shown(&authority, to).await, leaf(&pairs[0]));
    assert_eq!(reloads(&smg, "rejected").await, 1.0);
    assert_eq!(reloads(&smg, "applied").await, 0.0);

    // Then the certificate.
    replace(&cert, &pairs[1].cert);
    smg.serves(2).await;
    assert_eq!(shown(&authority, to).await, leaf(&pairs[1]));
    assert!(smg.status().await["rejected"].is_null());
    assert_eq!(reloads(&smg, "rejected").await, 1.0);
    assert_eq!(reloads(&smg, "applied").await, 1.0);

    // Written in place, piece by piece.
    for (path, from) in [(&cert, &pairs[2].cert), (&key, &pairs[2].key)] {
        let text = std::fs::read(from).unwrap();
        let (half, rest) = text.split_at(text.len() / 2);
        std::fs::write(path, half).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, rest).unwrap();
    }
    eventually(PATIENCE, async || {
        shown(&authority, to).await == leaf(&pairs[2])
    })
    .await;

    // Rubbish, and nothing at all.
    std::fs::write(&cert, "rubbish").unwrap();
    rejected(&smg).await;
    std::fs::remove_file(&cert).unwrap();
    eventually(PATIENCE, async || {
        let rejected = smg.status().await["rejected"].to_string();
        rejected.contains("file-absent")
    })
    .await;
    assert_eq!(shown(&authority, to).await, leaf(&pairs[2]));
    replace(&cert, &pairs[2].cert);
    eventually(PATIENCE, async || smg.status().await["rejected"].is_null()).await;

    // All the time this one went on.
    let answer = kept.send(json_request("/v1/completions", &ask())).await;
    assert_eq!((answer.status, answer.header("connection")), (200, ""));
    let told = smg.process().output().join("\n");
    assert!(told.contains("listener secure changed"), "{told}");
    for pair in &pairs {
        let secret = std::fs::read_to_string(&pair.key).unwrap();
        for line in secret.lines().filter(|line| !line.starts_with('-')) {
            assert!(!told.contains(line), "a key was told: {told}");
        }
    }
}

/// The layout of a mounted secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_secret_is_swapped() {
    let engine = plain_engine().await;
    let authority = Authority::new();
    let pairs: Vec<Pair> = (0..3).map(|_| authority.issue(NAME)).collect();
    let mount = tempfile::tempdir().unwrap();
    let at = |name: &str| mount.path().join(name);
    for (n, pair) in pairs.iter().enumerate() {
        let version = at(&format!("..v{n}"));
        std::fs::create_dir(&version).unwrap();
        std::fs::copy(&pair.cert, version.join("tls.crt")).unwrap();
        std::fs::copy(&pair.key, version.join("tls.key")).unwrap();
    }
    symlink("..v0", at("..data")).unwrap();
    symlink("..data/tls.crt", at("tls.crt")).unwrap();
    symlink("..data/tls.key", at("tls.key")).unwrap();
    let listener = secure(&at("tls.crt"), &at("tls.key"), None, "");
    let smg = Smg::start(&config(&listener, &engine.url(), "")).await;
    let to = smg.address("secure");
    for (n, pair) in pairs.iter().enumerate().skip(1) {
        symlink(format!("..v{n}"), at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        std::fs::remove_dir_all(at(&format!("..v{}", n - 1))).unwrap();
        smg.serves(n as u64 + 1).await;
        assert_eq!(shown(&authority, to).await, leaf(pair));
    }
    assert_eq!(reloads(&smg, "applied").await, 2.0);
    assert_eq!(reloads(&smg, "rejected").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_each_certificate_is_a_sample_while_it_is_configured() {
    const NAME_OF: &str = "smg_tls_certificate_not_after_seconds";
    let engine = plain_engine().await;
    let authority = Authority::new();
    let pair = authority.issue(NAME);
    let path = pair.cert.to_str().unwrap();
    let listener = secure(&pair.cert, &pair.key, None, "");
    let smg = Smg::start(&config(&listener, &engine.url(), "")).await;
    let metrics = smg.metrics().await;
    // 2040-01-02
    assert_eq!(metrics.sum(NAME_OF, &[("path", path)]), 2_209_075_200.0);
    assert_eq!(metrics.count(NAME_OF, &[]), 1);
    smg.apply(&config("", &engine.url(), "")).await;
    assert_eq!(smg.metrics().await.count(NAME_OF, &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_authorities_end_connections_behind_the_request_in_progress() {
    let gate = Gate::closed();
    let engine = {
        let gate = gate.clone();
        FakeEngine::serving("m", move |_| two_tokens(&gate)).await
    };
    let (authority, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let pair = authority.issue(NAME);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::copy(old.path(), &ca).unwrap();
    let listener = secure(&pair.cert, &pair.key, Some(&ca), "");
    let smg = Smg::start(&config(&listener, &engine.url(), "")).await;
    let to = smg.address("secure");
    let before = TlsClient::showing(&authority, &old.issue("old.test"), BOTH);
    let after = TlsClient::showing(&authority, &new.issue("new.test"), BOTH);
    let h1 = before.offering(&["http/1.1"]);
    assert!(is_let_in(&before, to).await && !is_let_in(&after, to).await);

    let mut running = Vec::new();
    let mut multiplexed = before.open(to, NAME).await.unwrap();
    assert_eq!(multiplexed.send(liveness()).await.status, 200);
    for connection in [h1.open(to, NAME).await.unwrap(), multiplexed.again()] {
        let mut stream = stream_over(connection, "/v1/completions", &ask_stream()).await;
        assert!(stream.event().await.unwrap().unwrap().contains("one"));
        running.push(stream);
    }
    let mut kept = h1.open(to, NAME).await.unwrap();
    assert_eq!(kept.send(liveness()).await.status, 200);
    let mut idle = h1.connect(to, NAME).await.unwrap();
    let late = TcpStream::connect(to).await.unwrap();
    // Accepted one after the other: the one before this one has been, once this one is served.
    assert!(is_let_in(&before, to).await);

    replace(&ca, new.path());
    smg.serves(2).await;
    // A session of before is not resumed either.
    assert!(!is_let_in(&before, to).await && !is_let_in(&h1, to).await);
    assert!(is_let_in(&after, to).await);
    // Nor does a handshake that took so long count any more.
    if let Ok(mut late) = h1.shake(late, NAME).await {
        late.write_all(b"GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .ok();
        let mut answer = Vec::new();
        late.read_to_end(&mut answer).await.ok();
        assert_eq!(answer, b"", "it was served");
    }
    let last = kept.send(liveness()).await;
    assert_eq!((last.status, last.header("connection")), (200, "close"));
    assert!(kept.try_send(liveness()).await.is_err());
    eventually(PATIENCE, async || {
        multiplexed.again().try_send(liveness()).await.is_err()
    })
    .await;
    let closed = tokio::time::timeout(PATIENCE, idle.read_to_end(&mut Vec::new())).await;
    closed.expect("a close in time").expect("an orderly one");

    gate.open();
    for stream in &mut running {
        let rest = stream.events().await;
        assert!(rest[0].contains("two"), "{rest:?}");
        assert_eq!(rest[1..], ["data: [DONE]"]);
    }
    drop(running);
    drop(multiplexed);
    eventually(PATIENCE, async || {
        let active = [("listener", "secure")];
        smg.metrics()
            .await
            .sum("smg_http_connections_active", &active)
            == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_turned_on_and_off_where_the_listener_stands() {
    let engine = plain_engine().await;
    let authority = Authority::new();
    let pair = authority.issue(NAME);
    let on = config(&secure(&pair.cert, &pair.key, None, ""), &engine.url(), "");
    let tls = format!(
        "[listeners.tls]\ncert_path = {:?}\nkey_path = {:?}\n",
        pair.cert, pair.key
    );
    let off = on.replace(&tls, "");
    assert_ne!(on, off);
    let smg = Smg::start(&off).await;
    let to = smg.address("secure");
    let client = TlsClient::new(&authority, &["http/1.1"]);
    let mut plain = Connection::h1(to).await;
    assert_eq!(plain.send(liveness()).await.status, 200);
    assert!(!is_let_in(&client, to).await);

    smg.apply(&on).await;
    assert_eq!(smg.addresses("secure"), [to], "the socket is the same");
    let last = plain.send(liveness()).await;
    assert_eq!((last.status, last.header("connection")), (200, "close"));
    assert!(Connection::h1(to).await.try_send(liveness()).await.is_err());
    let mut encrypted = client.open(to, NAME).await.unwrap();
    assert_eq!(encrypted.send(liveness()).await.status, 200);

    smg.apply(&off).await;
    let last = encrypted.send(liveness()).await;
    assert_eq!((last.status, last.header("connection")), (200, "close"));
    assert!(!is_let_in(&client, to).await);
    assert_eq!(get(to, "/liveness").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fails_while_certificates_and_authorities_change_under_load() {
    let worker = Worker::start(&["--itl", "1ms"]).await;
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let files = served(&authority.issue(NAME));
    let at = |name: &str| files.path().join(name);
    std::fs::copy(clients.path(), at("ca.pem")).unwrap();
    let listener = secure(&at("cert.pem"), &at("key.pem"), Some(&at("ca.pem")), "");
    let text = config(&listener, worker.url(), "").replace("\"vllm\"", "\"sglang\"");
    let text = text.replace("name = \"m\"", &format!("name = \"{MODEL}\""));
    let smg = Smg::start_with(&text, |command| {
        command.env(QUIET.0, QUIET.1);
    })
    .await;
    eventually(PATIENCE, async || {
        get(smg.main(), "/readiness").await.status == 200
    })
    .await;
    let shown = clients.issue("load.test");
    let client = TlsClient::showing(&authority, &shown, BOTH);
    let load = Load::start_over(smg.address("secure"), Some(&(client, NAME)));
    load.answers(30).await;
    let one = std::fs::read_to_string(clients.path()).unwrap();
    let both = one.clone() + &std::fs::read_to_string(others.path()).unwrap();
    for n in 0..8 {
        let pair = authority.issue(NAME);
        replace(&at("cert.pem"), &pair.cert);
        replace(&at("key.pem"), &pair.key);
        if n % 2 == 1 {
            let fresh = at("ca.fresh");
            std::fs::write(&fresh, if n % 4 == 1 { &both } else { &one }).unwrap();
            std::fs::rename(fresh, at("ca.pem")).unwrap();
        }
        // The watcher may be in between, and see half of a pair.
        eventually(PATIENCE, async || {
            smg.reload().await.result() == "unchanged"
        })
        .await;
        assert_eq!(
            shown_to(&authority, &shown, smg.address("secure")).await,
            leaf(&pair)
        );
        load.answers(20).await;
    }
    load.connects(2).await;
    load.finish().await;
}

async fn shown_to(authority: &Authority, own: &Pair, to: SocketAddr) -> Vec<u8> {
    let client = TlsClient::showing(authority, own, BOTH);
    let stream = client.connect(to, NAME).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_orderly_over_tls() {
    let gate = Gate::closed();
    let engine = {
        let gate = gate.clone();
        FakeEngine::serving("m", move |_| two_tokens(&gate)).await
    };
    let authority = Authority::new();
    let pair = authority.issue(NAME);
    let listener = secure(&pair.cert, &pair.key, None, "");
    let mut smg = Smg::start(&config(&listener, &engine.url(), "")).await;
    let to = smg.address("secure");
    let h1 = TlsClient::new(&authority, &["http/1.1"]);
    let body = json!({ "model": "m", "prompt": "hi", "stream": true }).to_string();
    let ask = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut first = h1.connect(to, NAME).await.unwrap();
    first.write_all(ask.as_bytes()).await.unwrap();
    let mut read = vec![0; 64];
    assert!(first.read(&mut read).await.unwrap() > 0);
    let h2 = TlsClient::new(&authority, &["h2"])
        .open(to, NAME)
        .await
        .unwrap();
    let mut second = stream_over(h2, "/v1/completions", &ask_stream()).await;
    assert!(second.event().await.unwrap().unwrap().contains("one"));
    // Somebody is in the midst of a handshake, and somebody has nothing to ask.
    let mut stalled = TcpStream::connect(to).await.unwrap();
    stalled.write_all(b"\x16\x03\x01").await.unwrap();
    let mut idle = h1.connect(to, NAME).await.unwrap();

    smg.process().signal("TERM");
    eventually(PATIENCE, async || TcpStream::connect(to).await.is_err()).await;
    let opened = Instant::now();
    gate.open();
    let mut rest = String::new();
    first
        .read_to_string(&mut rest)
        .await
        .expect("an orderly close");
    assert!(
        rest.contains("two") && rest.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"),
        "{rest}"
    );
    let events = second.events().await;
    assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"));
    idle.read_to_end(&mut Vec::new())
        .await
        .expect("an orderly close");
    assert_eq!(smg.process().ended(PATIENCE).await.code(), Some(0));
    assert!(
        opened.elapsed() < Duration::from_secs(5),
        "somebody was waited for: {:?}",
        opened.elapsed()
    );
}
